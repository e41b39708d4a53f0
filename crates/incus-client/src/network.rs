//! Networks of instances.

use serde::Deserialize;

use crate::Result;
use crate::client::{Call, Client};
use crate::instance::Config;
use crate::nullable::or_default;

/// A network: one that Incus manages, or an interface of the host.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Network {
    /// Its name.
    pub name: String,
    /// `bridge`, `physical`, `loopback`, …
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Whether it is Incus'.
    #[serde(default)]
    pub managed: bool,
    /// `Created`, or why not; empty for what is not managed.
    #[serde(default)]
    pub status: String,
    /// A person's words.
    #[serde(default)]
    pub description: String,
    /// Its configuration: `ipv4.address`, …
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    /// Paths of what uses it.
    #[serde(default, deserialize_with = "or_default")]
    pub used_by: Vec<String>,
}

impl Client {
    /// All networks, and the host's interfaces.
    ///
    /// `GET /1.0/networks?recursion=1`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn networks(&self) -> Result<Vec<Network>> {
        let call = Call::get(&["networks"], "listing networks").query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// One network.
    ///
    /// `GET /1.0/networks/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn network(&self, name: &str) -> Result<Network> {
        let doing = format!("asking for the network {name}");
        self.ask(Call::get(&["networks", name], doing)).await
    }

    /// Makes a network; `kind` is `bridge` for the usual one.
    ///
    /// `POST /1.0/networks`
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) if the name is taken; [`Error::Refused`](crate::Error::Refused)
    /// if it cannot be set up: no dnsmasq, no free range of addresses.
    pub async fn create_network(&self, name: &str, kind: &str, config: &Config) -> Result<()> {
        let doing = format!("making the network {name}");
        let body = serde_json::json!({ "name": name, "type": kind, "config": config });
        let call = Call::post(&["networks"], doing).unlimited();
        self.tell(call.json(&body)?).await
    }

    /// Deletes a network that nothing uses.
    ///
    /// `DELETE /1.0/networks/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) if it is in use.
    pub async fn delete_network(&self, name: &str) -> Result<()> {
        let doing = format!("deleting the network {name}");
        self.tell(Call::delete(&["networks", name], doing).unlimited())
            .await
    }
}
