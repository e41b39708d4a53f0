//! The server itself.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::Result;
use crate::client::{Call, Client};
use crate::nullable::or_default;

/// What Incus says of itself.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Server {
    /// What it has beyond the API's first version: `instance_nic_routed_host_address`, …
    #[serde(default, deserialize_with = "or_default")]
    pub api_extensions: Vec<String>,
    /// `trusted`: it will do what it is asked.
    #[serde(default)]
    pub auth: String,
    /// Its configuration.
    #[serde(default, deserialize_with = "or_default")]
    pub config: BTreeMap<String, Value>,
    /// Of the machine, and of Incus.
    #[serde(default)]
    pub environment: Environment,
}

/// Of the machine, and of Incus.
#[derive(Clone, Debug, Default, Deserialize)]
#[non_exhaustive]
pub struct Environment {
    /// Incus' version: `6.0.4`.
    #[serde(default)]
    pub server_version: String,
    /// Architectures that instances may have, the machine's own first.
    #[serde(default, deserialize_with = "or_default")]
    pub architectures: Vec<String>,
    /// `lxc`, or `lxc | qemu`.
    #[serde(default)]
    pub driver: String,
    /// The kernel's version.
    #[serde(default)]
    pub kernel_version: String,
    /// Storage drivers in use.
    #[serde(default)]
    pub storage: String,
    /// What the kernel offers: `idmapped_mounts` → `true`.
    #[serde(default, deserialize_with = "or_default")]
    pub kernel_features: BTreeMap<String, String>,
    /// `xtables` or `nftables`.
    #[serde(default)]
    pub firewall: String,
}

impl Server {
    /// Incus' version as numbers, to be compared; zeros for what is not there.
    pub fn version(&self) -> (u32, u32, u32) {
        let mut numbers = self
            .environment
            .server_version
            .split(|letter: char| !letter.is_ascii_digit())
            .map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        (next(), next(), next())
    }

    /// Whether it has an extension of the API.
    pub fn has(&self, extension: &str) -> bool {
        self.api_extensions.iter().any(|one| one == extension)
    }
}

impl Client {
    /// The server's own description. It is what to ask for to see whether Incus is there.
    ///
    /// `GET /1.0`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn server(&self) -> Result<Server> {
        self.ask(Call::get(&[], "asking Incus for its version"))
            .await
    }

    /// Changes some of the server's settings; an empty value takes one away.
    ///
    /// `PATCH /1.0`
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) if there is no such setting.
    pub async fn configure_server(&self, config: &BTreeMap<String, String>) -> Result<()> {
        let call = Call::patch(&[], "changing Incus' settings");
        let body = serde_json::json!({ "config": config });
        self.tell(call.json(&body)?).await
    }
}
