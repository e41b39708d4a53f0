//! Instances: containers, and what else Incus runs.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::header::{ETAG, HeaderValue, IF_MATCH};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::client::{Call, Client, decode, read};
use crate::nullable::or_default;
use crate::operation::Operation;
use crate::snapshot::Snapshot;
use crate::state::InstanceState;
use crate::timestamp::Timestamp;

/// Configuration keys and their values.
pub type Config = BTreeMap<String, String>;
/// Devices by name; of each, its keys and their values (`type` among them).
pub type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// An instance as Incus tells of it.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// `Running`, `Stopped`, `Frozen`, `Error`.
    pub status: String,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// `x86_64`, `aarch64`, …
    #[serde(default)]
    pub architecture: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it was last started.
    #[serde(default)]
    pub last_used_at: Timestamp,
    /// What a person wrote of it.
    #[serde(default)]
    pub description: String,
    /// Whether it is deleted when it stops.
    #[serde(default)]
    pub ephemeral: bool,
    /// Its profiles, in the order in which they apply.
    #[serde(default, deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Its own configuration.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    /// Its own devices.
    #[serde(default, deserialize_with = "or_default")]
    pub devices: Devices,
    /// The configuration with that of its profiles.
    #[serde(default, deserialize_with = "or_default")]
    pub expanded_config: Config,
    /// The devices with those of its profiles.
    #[serde(default, deserialize_with = "or_default")]
    pub expanded_devices: Devices,
    /// What it is doing; with [`Client::instances_with_state`] only.
    #[serde(default)]
    pub state: Option<InstanceState>,
    /// Its snapshots; with [`Client::instances_with_state`] only.
    #[serde(default, deserialize_with = "or_default")]
    pub snapshots: Vec<Snapshot>,
}

impl Instance {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.status == "Running"
    }

    /// What can be changed of it, as it is: for [`Client::update_instance`].
    pub fn to_update(&self) -> InstanceUpdate {
        InstanceUpdate {
            architecture: self.architecture.clone(),
            config: self.config.clone(),
            devices: self.devices.clone(),
            ephemeral: self.ephemeral,
            profiles: self.profiles.clone(),
            description: self.description.clone(),
        }
    }
}

/// What is to be made.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceCreate {
    /// Its name.
    pub name: String,
    /// From what.
    pub source: Source,
    /// Its own configuration.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// Its profiles; `None` is `default` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// A person's words.
    pub description: String,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is started in the same operation.
    pub start: bool,
}

impl InstanceCreate {
    /// A container with the profile `default` and nothing of its own, not started.
    pub fn new(name: impl Into<String>, source: Source) -> InstanceCreate {
        InstanceCreate {
            name: name.into(),
            source,
            config: Config::new(),
            devices: Devices::new(),
            profiles: None,
            ephemeral: false,
            description: String::new(),
            kind: "container".to_owned(),
            start: false,
        }
    }
}

/// What an instance is made from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// An image.
    Image {
        /// Its alias.
        #[serde(skip_serializing_if = "Option::is_none")]
        alias: Option<String>,
        /// Its fingerprint, or the beginning of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
        /// `pull` for an image of a server.
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<&'static str>,
        /// The server, for an image that is not here.
        #[serde(skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        /// The server's protocol: `simplestreams` or `incus`.
        #[serde(skip_serializing_if = "Option::is_none")]
        protocol: Option<&'static str>,
    },
    /// Another instance, or a snapshot of it.
    Copy {
        /// `NAME`, or `NAME/SNAPSHOT`.
        source: String,
        /// Without its snapshots.
        instance_only: bool,
    },
    /// Nothing: an empty root.
    None,
}

impl Source {
    /// The image with this alias, that Incus has.
    pub fn alias(alias: impl Into<String>) -> Source {
        Source::Image {
            alias: Some(alias.into()),
            fingerprint: None,
            mode: None,
            server: None,
            protocol: None,
        }
    }

    /// The image with this fingerprint, that Incus has.
    pub fn fingerprint(fingerprint: impl Into<String>) -> Source {
        Source::Image {
            alias: None,
            fingerprint: Some(fingerprint.into()),
            mode: None,
            server: None,
            protocol: None,
        }
    }

    /// An image of a simplestreams server such as `https://images.linuxcontainers.org`, by alias
    /// (`debian/13`). Incus downloads it when it has not got it.
    pub fn simplestreams(server: impl Into<String>, alias: impl Into<String>) -> Source {
        Source::Image {
            alias: Some(alias.into()),
            fingerprint: None,
            mode: Some("pull"),
            server: Some(server.into()),
            protocol: Some("simplestreams"),
        }
    }

    /// An instance without its snapshots, or (`NAME/SNAPSHOT`) a snapshot.
    pub fn copy(source: impl Into<String>) -> Source {
        Source::Copy {
            source: source.into(),
            instance_only: true,
        }
    }
}

/// What can be changed of an instance; all of it is replaced.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceUpdate {
    /// Its architecture; not to be changed in fact.
    pub architecture: String,
    /// Its own configuration.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Its profiles.
    pub profiles: Vec<String>,
    /// A person's words.
    pub description: String,
}

/// Something, and the mark of the state in which it was read.
#[derive(Clone, Debug)]
pub struct Tagged<T> {
    /// The thing.
    pub value: T,
    /// The mark, for [`Client::update_instance`].
    pub etag: Option<String>,
}

/// How an instance is stopped.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Its init is asked to shut down; after this time the operation fails.
    Within(Duration),
    /// Its processes are killed.
    Now,
}

#[derive(Serialize)]
struct StateChange {
    action: &'static str,
    timeout: i64,
    force: bool,
    stateful: bool,
}

impl Client {
    /// All instances, in the project `default`, without what they are doing.
    ///
    /// `GET /1.0/instances?recursion=1`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn instances(&self) -> Result<Vec<Instance>> {
        let call = Call::get(&["instances"], "listing instances").query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// All instances with what they are doing, and their snapshots. Costs some milliseconds for each that runs.
    ///
    /// `GET /1.0/instances?recursion=2`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn instances_with_state(&self) -> Result<Vec<Instance>> {
        let call = Call::get(&["instances"], "listing instances").query("recursion", "2");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// One instance.
    ///
    /// `GET /1.0/instances/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn instance(&self, name: &str) -> Result<Instance> {
        Ok(self.tagged_instance(name).await?.value)
    }

    /// One instance, with the mark of its present state.
    ///
    /// `GET /1.0/instances/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn tagged_instance(&self, name: &str) -> Result<Tagged<Instance>> {
        let doing = format!("asking for the instance {name}");
        let response = self
            .send(Call::get(&["instances", name], doing.as_str()))
            .await?;
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let text = read(&doing, response.into_body()).await?;
        let value = decode(&doing, &text)?;
        Ok(Tagged { value, etag })
    }

    /// Makes an instance.
    ///
    /// `POST /1.0/instances`
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) if the name is taken, that the operation may
    /// tell, too; that there is no such image, it tells.
    pub async fn create_instance(&self, wanted: &InstanceCreate) -> Result<Operation> {
        let doing = format!("creating the instance {}", wanted.name);
        let call = Call::post(&["instances"], doing);
        self.begin(call.json(wanted)?).await
    }

    /// Replaces an instance's configuration. With the `etag` of [`Client::tagged_instance`], only if nobody
    /// else has changed it since.
    ///
    /// `PUT /1.0/instances/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound), [`Error::Changed`](crate::Error::Changed).
    pub async fn update_instance(
        &self,
        name: &str,
        update: &InstanceUpdate,
        etag: Option<&str>,
    ) -> Result<Operation> {
        let doing = format!("changing the instance {name}");
        let mut call = Call::put(&["instances", name], doing).json(update)?;
        if let Some(etag) = etag
            && let Ok(etag) = HeaderValue::from_str(etag)
        {
            call = call.header(IF_MATCH, etag);
        }
        self.begin(call).await
    }

    /// Sets some of an instance's configuration keys and devices; the others stay. A key is taken away by an
    /// empty value; devices can only be added or replaced.
    ///
    /// `PATCH /1.0/instances/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) for what Incus does not accept.
    pub async fn patch_instance(
        &self,
        name: &str,
        config: &Config,
        devices: &Devices,
    ) -> Result<()> {
        let doing = format!("changing the instance {name}");
        let mut body = serde_json::json!({ "config": config });
        if !devices.is_empty() {
            body["devices"] = serde_json::json!(devices);
        }
        let call = Call::patch(&["instances", name], doing);
        self.tell(call.json(&body)?).await
    }

    /// Renames an instance that does not run.
    ///
    /// `POST /1.0/instances/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound), [`Error::Conflict`](crate::Error::Conflict).
    pub async fn rename_instance(&self, name: &str, to: &str) -> Result<Operation> {
        let doing = format!("renaming the instance {name} to {to}");
        let call = Call::post(&["instances", name], doing);
        self.begin(call.json(&serde_json::json!({ "name": to }))?)
            .await
    }

    /// Deletes an instance that does not run, with its snapshots.
    ///
    /// `DELETE /1.0/instances/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) if it runs.
    pub async fn delete_instance(&self, name: &str) -> Result<Operation> {
        let doing = format!("deleting the instance {name}");
        self.begin(Call::delete(&["instances", name], doing)).await
    }

    /// Starts an instance.
    ///
    /// `PUT /1.0/instances/NAME/state` with `start`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); the operation fails if it runs already.
    pub async fn start_instance(&self, name: &str) -> Result<Operation> {
        let doing = format!("starting the instance {name}");
        self.change_state(name, "start", None, doing).await
    }

    /// Stops an instance.
    ///
    /// `PUT /1.0/instances/NAME/state` with `stop`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); the operation fails if it does not run.
    pub async fn stop_instance(&self, name: &str, stop: Stop) -> Result<Operation> {
        let doing = format!("stopping the instance {name}");
        self.change_state(name, "stop", Some(stop), doing).await
    }

    /// Stops an instance and starts it again.
    ///
    /// `PUT /1.0/instances/NAME/state` with `restart`
    ///
    /// # Errors
    /// As [`Client::stop_instance`].
    pub async fn restart_instance(&self, name: &str, stop: Stop) -> Result<Operation> {
        let doing = format!("restarting the instance {name}");
        self.change_state(name, "restart", Some(stop), doing).await
    }

    /// Halts all processes of an instance.
    ///
    /// `PUT /1.0/instances/NAME/state` with `freeze`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); the operation fails if it does not run.
    pub async fn freeze_instance(&self, name: &str) -> Result<Operation> {
        let doing = format!("freezing the instance {name}");
        self.change_state(name, "freeze", None, doing).await
    }

    /// Lets the processes of a frozen instance go on.
    ///
    /// `PUT /1.0/instances/NAME/state` with `unfreeze`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); the operation fails if it is not frozen.
    pub async fn unfreeze_instance(&self, name: &str) -> Result<Operation> {
        let doing = format!("unfreezing the instance {name}");
        self.change_state(name, "unfreeze", None, doing).await
    }

    async fn change_state(
        &self,
        name: &str,
        action: &'static str,
        stop: Option<Stop>,
        doing: String,
    ) -> Result<Operation> {
        let timeout = match stop {
            Some(Stop::Within(time)) => i64::try_from(time.as_secs().max(1)).unwrap_or(i64::MAX),
            Some(Stop::Now) | None => -1,
        };
        let change = StateChange {
            action,
            timeout,
            force: stop == Some(Stop::Now),
            stateful: false,
        };
        let call = Call::put(&["instances", name, "state"], doing);
        self.begin(call.json(&change)?).await
    }
}
