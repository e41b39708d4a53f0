//! Incus, as this daemon uses it: its answers as containers, its errors as ours, its operations as progress.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use incus_client::{Client, Instance, InstanceUpdate, Operation, OperationState};
use tokio::sync::mpsc;

use crate::container::{Container, IMAGE};
use crate::error::{Error, Result};
use crate::names::ContainerName;
use crate::operations::Progress;

/// The way to Incus.
pub struct Incus {
    client: Client,
    /// Containers that run, as they were seen. Emptied by what Incus tells of them; `None` while it tells nothing.
    seen: Mutex<Option<HashMap<ContainerName, Container>>>,
    /// Counts what was told, so that an answer from before is not remembered after it.
    told: AtomicU64,
}

/// The client's errors as the bus sees them.
pub(crate) fn error(error: incus_client::Error) -> Error {
    use incus_client::Error as Of;
    let text = error.to_string();
    match error {
        Of::Conflict { .. } => Error::NameTaken(text),
        Of::NotFound { .. } => Error::NotFound(text),
        Of::Cancelled { .. } => Error::Cancelled(text),
        _ if error.is_unavailable() || matches!(error, Of::Forbidden { .. }) => {
            Error::IncusUnavailable(text)
        }
        _ => {
            let lower = text.to_lowercase();
            let remedy = if lower.contains("no space left") || lower.contains("disk quota exceeded")
            {
                "; the storage is full: delete containers, snapshots or images that are not needed \
                 (kapsule rm, kapsule images), or make the storage pool larger"
            } else if lower.contains("no root device") || lower.contains("root disk") {
                "; Incus is not set up for containers yet: run 'kapsule init'"
            } else {
                ""
            };
            Error::Failed(text + remedy)
        }
    }
}

impl Incus {
    /// By this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            seen: Mutex::new(None),
            told: AtomicU64::new(0),
        }
    }

    /// The client, for calls that need nothing of what is here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A container, if there is one of that name.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn find(&self, name: &ContainerName) -> Result<Option<Container>> {
        match self.client.instance(name.as_str()).await {
            Ok(instance) => Ok(container(instance)),
            Err(problem) if problem.is_not_found() => Ok(None),
            Err(problem) => Err(error(problem)),
        }
    }

    /// A container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], and those of every call.
    pub async fn get(&self, name: &ContainerName) -> Result<Container> {
        self.find(name).await?.ok_or_else(|| no_such(name))
    }

    /// A container, with its first process if it runs. Remembered while Incus tells us of changes.
    ///
    /// # Errors
    /// As [`Incus::find`].
    pub async fn find_with_init(&self, name: &ContainerName) -> Result<Option<Container>> {
        if let Some(container) = self.seen().as_ref().and_then(|seen| seen.get(name)) {
            return Ok(Some(container.clone()));
        }
        let told = self.told.load(Ordering::Acquire);
        let Some(mut container) = self.find(name).await? else {
            return Ok(None);
        };
        if container.is_running() {
            let state = self
                .client
                .instance_state(name.as_str())
                .await
                .map_err(error)?;
            container.init_pid = state.init();
            container.status = state.status;
            if container.init_pid.is_some()
                && let Some(seen) = self.seen().as_mut()
                && told == self.told.load(Ordering::Acquire)
            {
                seen.insert(name.clone(), container.clone());
            }
        }
        Ok(Some(container))
    }

    /// All containers; virtual machines, and names that we would refuse, are left out.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn list(&self) -> Result<Vec<Container>> {
        let instances = self.client.instances().await.map_err(error)?;
        let mut containers: Vec<Container> = instances.into_iter().filter_map(container).collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<HashMap<ContainerName, Container>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Incus tells of changes from now on (or does not any more): what was seen before does not count.
    pub fn is_telling(&self, telling: bool) {
        self.told.fetch_add(1, Ordering::AcqRel);
        *self.seen() = telling.then(HashMap::new);
    }

    /// Something about a container is another.
    pub fn has_changed(&self, name: &str) {
        self.told.fetch_add(1, Ordering::AcqRel);
        if let Some(seen) = self.seen().as_mut() {
            seen.retain(|known, _| known.as_str() != name);
        }
    }

    /// Gives a container another configuration and other devices, and waits until it has them; only if it is still what
    /// the tag was given for, if there is one.
    ///
    /// # Errors
    /// Incus' own.
    pub async fn update(
        &self,
        name: &str,
        update: &InstanceUpdate,
        etag: Option<&str>,
    ) -> Result<()> {
        let operation = self.client.update_instance(name, update, etag).await;
        let operation = operation.map_err(error)?;
        operation.wait().await.map_err(error)?;
        Ok(())
    }

    /// Waits for what Incus does, and tells the person how far it is. If he cancels, Incus is asked to stop, and its end
    /// is waited for all the same.
    ///
    /// # Errors
    /// Incus' own, or [`Error::Cancelled`].
    pub async fn follow(
        &self,
        progress: &Progress,
        description: &str,
        operation: Operation,
    ) -> Result<OperationState> {
        let mut bar = progress.bar("incus", description, Some(100)).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let end = operation.wait_with(move |state| {
            if let Some(progress) = state.progress() {
                // Nobody looks any more: that ends by itself.
                let _ = tell.send(progress);
            }
        });
        let mut end = std::pin::pin!(end);
        let mut cancelled = false;
        let result = loop {
            tokio::select! {
                biased;
                result = &mut end => break result,
                Some(now) = told.recv() => {
                    bar.update(now.percent.unwrap_or(0).into(), 0.0, &now.text).await;
                }
                () = progress.cancelled(), if !cancelled => {
                    cancelled = true;
                    // What cannot be cancelled runs to its end; the caller cleans up then.
                    if let Err(error) = operation.cancel().await {
                        tracing::debug!(%error, "Incus does not cancel this");
                    }
                }
            }
        };
        let result = match result {
            _ if cancelled => Err(progress.cancellation()),
            Ok(state) => Ok(state),
            Err(problem) => Err(error(problem)),
        };
        bar.complete(result.is_ok(), "").await;
        result
    }
}

pub(crate) fn no_such(name: &ContainerName) -> Error {
    Error::NoSuchContainer(format!(
        "there is no container '{name}'. 'kapsule list' shows those that there are, 'kapsule create {name}' makes it."
    ))
}

/// An instance as we see it; `None` if it is none of what kapsule is for.
pub(crate) fn container(instance: Instance) -> Option<Container> {
    if instance.kind == "virtual-machine" {
        return None;
    }
    let name = ContainerName::parse(&instance.name).ok()?;
    let mut config = instance.expanded_config;
    // Whose it is stands on the instance itself; what a profile says of that is not ours.
    config.retain(|key, _| !key.starts_with("user.kapsule."));
    config.extend(instance.config);
    let owner = config
        .get(crate::container::OWNER)
        .and_then(|owner| owner.parse().ok());
    let image = config
        .get(IMAGE)
        .or_else(|| config.get("image.description"))
        .cloned()
        .unwrap_or_default();
    Some(Container {
        name,
        owner,
        status: instance.status,
        init_pid: None,
        image,
        created: instance.created_at.as_str().to_owned(),
        config,
        ephemeral: instance.ephemeral,
    })
}
