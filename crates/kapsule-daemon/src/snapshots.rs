//! Snapshots of containers.

use std::sync::Arc;

use zbus::OwnedObjectPath;

use crate::authority::Verb;
use crate::caller::Caller;
use crate::container::{OWNER, UNFINISHED};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::incus::error;
use crate::lifecycle::named;
use crate::names::{ContainerName, SnapshotName};
use crate::operations::{Kind, Line, Target};

impl Daemon {
    /// Makes a snapshot of a container's disk; it may run.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NameTaken`], [`Error::NotAuthorized`], [`Error::Busy`]
    pub async fn create_snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        snapshot: &str,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        let snapshot = SnapshotName::parse(snapshot)?;
        let container = self.authorised(caller, name, Verb::Snapshot).await?;
        if self.snapshot(&container.name, &snapshot).await.is_ok() {
            return Err(Error::NameTaken(format!(
                "the container '{name}' has a snapshot '{snapshot}' already"
            )));
        }
        let (daemon, name) = (self.clone(), container.name);
        self.operations
            .start(
                caller,
                Kind::Snapshot,
                &[Target::container(&name)],
                format!("Making the snapshot '{snapshot}' of '{name}'"),
                async move |progress| {
                    progress.commit()?;
                    let operation = daemon
                        .incus
                        .client()
                        .create_snapshot(name.as_str(), snapshot.as_str())
                        .await
                        .map_err(error)?;
                    daemon
                        .incus
                        .follow(&progress, "Making the snapshot", operation)
                        .await?;
                    progress
                        .message(Line::Success, format!("'{snapshot}' is made"))
                        .await;
                    Ok(())
                },
            )
            .await
    }

    /// The snapshots of a container, the oldest first: name, seconds since 1970, whether the memory is in it.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotAuthorized`]
    pub async fn list_snapshots(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<Vec<(String, u64, bool)>> {
        let name = self.resolve(caller, name).await?;
        self.incus.get(&name).await?;
        let mut snapshots: Vec<(String, u64, bool)> = self
            .incus
            .client()
            .snapshots(name.as_str())
            .await
            .map_err(error)?
            .into_iter()
            .map(|snapshot| {
                let created = snapshot.created_at.unix_seconds().unwrap_or(0);
                (snapshot.name, created.unsigned_abs(), snapshot.stateful)
            })
            .collect();
        snapshots.sort_by_key(|(_, created, _)| *created);
        Ok(snapshots)
    }

    /// Puts a container back into the state of a snapshot. It runs afterwards if it ran before.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotFound`], [`Error::NotAuthorized`], [`Error::Busy`]
    pub async fn restore_snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        snapshot: &str,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        let snapshot = SnapshotName::parse(snapshot)?;
        let container = self.authorised(caller, name, Verb::Restore).await?;
        self.snapshot(&container.name, &snapshot).await?;
        let (daemon, name) = (self.clone(), container.name.clone());
        self.operations
            .start(
                caller,
                Kind::Restore,
                &[Target::container(&name)],
                format!("Setting '{name}' back to the snapshot '{snapshot}'"),
                async move |progress| {
                    progress.commit()?;
                    let client = daemon.incus.client();
                    let operation = client
                        .restore_snapshot(name.as_str(), snapshot.as_str())
                        .await
                        .map_err(error)?;
                    daemon.shells.container_stopped(name.as_str());
                    daemon
                        .incus
                        .follow(&progress, "Restoring", operation)
                        .await?;
                    daemon.incus.has_changed(name.as_str());
                    // A snapshot has the configuration of its time: whose the container is does not go back.
                    let mut config = incus_client::Config::new();
                    config.insert(UNFINISHED.to_owned(), String::new());
                    if let Some(owner) = container.owner {
                        config.insert(OWNER.to_owned(), owner.to_string());
                    }
                    client
                        .patch_instance(name.as_str(), &config, &incus_client::Devices::new())
                        .await
                        .map_err(error)?;
                    progress
                        .message(
                            Line::Success,
                            format!("'{name}' is as it was at '{snapshot}'"),
                        )
                        .await;
                    Ok(())
                },
            )
            .await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotFound`], [`Error::NotAuthorized`], [`Error::Busy`]
    pub async fn delete_snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        snapshot: &str,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        let snapshot = SnapshotName::parse(snapshot)?;
        let container = self.authorised(caller, name, Verb::DeleteSnapshot).await?;
        self.snapshot(&container.name, &snapshot).await?;
        let (daemon, name) = (self.clone(), container.name);
        self.operations
            .start(
                caller,
                Kind::DeleteSnapshot,
                &[Target::container(&name)],
                format!("Deleting the snapshot '{snapshot}' of '{name}'"),
                async move |progress| {
                    progress.commit()?;
                    let operation = daemon
                        .incus
                        .client()
                        .delete_snapshot(name.as_str(), snapshot.as_str())
                        .await
                        .map_err(error)?;
                    daemon
                        .incus
                        .follow(&progress, "Deleting", operation)
                        .await?;
                    Ok(())
                },
            )
            .await
    }

    /// Whether the snapshot is there.
    async fn snapshot(&self, name: &ContainerName, snapshot: &SnapshotName) -> Result<()> {
        let all = self
            .incus
            .client()
            .snapshots(name.as_str())
            .await
            .map_err(error)?;
        if all.iter().any(|known| known.name == snapshot.as_str()) {
            return Ok(());
        }
        let names: Vec<&str> = all.iter().map(|known| known.name.as_str()).collect();
        Err(Error::NotFound(if names.is_empty() {
            format!("the container '{name}' has no snapshots; 'kapsule snapshot {name}' makes one")
        } else {
            format!(
                "the container '{name}' has no snapshot '{snapshot}'; it has {}",
                names.join(", ")
            )
        }))
    }
}
