//! What an instance is doing now.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Result;
use crate::client::{Call, Client};
use crate::nullable::or_default;

/// What an instance is doing now.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct InstanceState {
    /// `Running`, `Stopped`, `Frozen`, `Error`.
    pub status: String,
    /// The process id of its init, on the host; 0 or -1 when it does not run.
    #[serde(default)]
    pub pid: i64,
    /// How many processes it has; -1 when that is not known.
    #[serde(default)]
    pub processes: i64,
    /// Memory.
    #[serde(default)]
    pub memory: Usage,
    /// Disks by device name.
    #[serde(default, deserialize_with = "or_default")]
    pub disk: BTreeMap<String, Usage>,
    /// Network interfaces by their name inside.
    #[serde(default, deserialize_with = "or_default")]
    pub network: BTreeMap<String, Interface>,
}

/// How much of something is used, in bytes.
#[derive(Clone, Default, Debug, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// In use.
    #[serde(default)]
    pub usage: i64,
    /// The limit; 0 is none.
    #[serde(default)]
    pub total: i64,
}

/// A network interface of an instance.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Interface {
    /// Its addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<Address>,
    /// The name of the other side, on the host.
    #[serde(default)]
    pub host_name: String,
    /// `up` or `down`.
    #[serde(default)]
    pub state: String,
}

/// An address of an interface.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Address {
    /// `inet` or `inet6`.
    #[serde(default)]
    pub family: String,
    /// The address.
    #[serde(default)]
    pub address: String,
    /// The length of the network's part.
    #[serde(default)]
    pub netmask: String,
    /// `global`, `link` or `local`.
    #[serde(default)]
    pub scope: String,
}

impl InstanceState {
    /// The process id of its init, on the host, if it runs.
    pub fn init(&self) -> Option<u32> {
        u32::try_from(self.pid).ok().filter(|pid| *pid > 0)
    }
}

impl Client {
    /// What an instance is doing now. Costs some milliseconds more than [`Client::instance`]: Incus looks into
    /// the instance's namespaces.
    ///
    /// `GET /1.0/instances/NAME/state`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn instance_state(&self, name: &str) -> Result<InstanceState> {
        let doing = format!("asking for the state of the instance {name}");
        self.ask(Call::get(&["instances", name, "state"], doing))
            .await
    }
}
