//! Profiles: configuration that instances share.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::client::{Call, Client};
use crate::instance::{Config, Devices};
use crate::nullable::or_default;

/// A profile.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// A person's words.
    #[serde(default)]
    pub description: String,
    /// Its configuration.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    /// Its devices.
    #[serde(default, deserialize_with = "or_default")]
    pub devices: Devices,
    /// Paths of the instances that have it. Told by Incus, not to be set.
    #[serde(default, deserialize_with = "or_default", skip_serializing)]
    pub used_by: Vec<String>,
}

impl Client {
    /// All profiles.
    ///
    /// `GET /1.0/profiles?recursion=1`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn profiles(&self) -> Result<Vec<Profile>> {
        let call = Call::get(&["profiles"], "listing profiles").query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// One profile.
    ///
    /// `GET /1.0/profiles/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn profile(&self, name: &str) -> Result<Profile> {
        let doing = format!("asking for the profile {name}");
        self.ask(Call::get(&["profiles", name], doing)).await
    }

    /// Makes a profile.
    ///
    /// `POST /1.0/profiles`
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) if the name is taken.
    pub async fn create_profile(&self, profile: &Profile) -> Result<()> {
        let doing = format!("making the profile {}", profile.name);
        self.tell(Call::post(&["profiles"], doing).json(profile)?)
            .await
    }

    /// Replaces a profile's configuration and devices, and so those of the instances that have it.
    ///
    /// `PUT /1.0/profiles/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn update_profile(&self, profile: &Profile) -> Result<()> {
        let doing = format!("changing the profile {}", profile.name);
        let body = serde_json::json!({
            "description": profile.description,
            "config": profile.config,
            "devices": profile.devices,
        });
        let call = Call::put(&["profiles", &profile.name], doing);
        self.tell(call.json(&body)?).await
    }

    /// Deletes a profile that no instance has.
    ///
    /// `DELETE /1.0/profiles/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) if it is in use.
    pub async fn delete_profile(&self, name: &str) -> Result<()> {
        let doing = format!("deleting the profile {name}");
        self.tell(Call::delete(&["profiles", name], doing)).await
    }
}
