//! Containers as files, and back.
//!
//! What comes in is a stranger's: Incus unpacks it, and before anybody can start it, all of its configuration and devices
//! is replaced by those of a container that the caller could have made himself (`Daemon::adopt`). Until that is done
//! there is a file of its name in `loading/`; who finds one whose operation does not run deletes the container.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use incus_client::{BackupOptions, Stop};
use rustix::fs::OFlags;
use zbus::OwnedObjectPath;

use crate::authority::Verb;
use crate::caller::Caller;
use crate::container::Container;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::incus::{container, error, no_such};
use crate::lifecycle::named;
use crate::names::ContainerName;
use crate::operations::{Kind, Line, Progress, Target};

impl Daemon {
    /// Writes a backup of a container into a file.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotAuthorized`], [`Error::Busy`]; [`Error::InvalidArgument`] if the file is
    /// not open for writing.
    pub async fn save(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        file: OwnedFd,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        check(&file, true)?;
        let container = self.authorised(caller, name, Verb::Save).await?;
        let (daemon, name) = (self.clone(), container.name);
        self.operations
            .start(
                caller,
                Kind::Save,
                &[Target::container(&name)],
                format!("Saving the container '{name}'"),
                async move |progress| {
                    let backup = format!("kapsule-{}", crate::lifecycle::token(&progress));
                    let saved = daemon.write_backup(&progress, &name, &backup, file).await;
                    // Incus keeps it otherwise.
                    if let Ok(operation) = daemon
                        .incus
                        .client()
                        .delete_backup(name.as_str(), &backup)
                        .await
                    {
                        let _ = operation.wait().await;
                    }
                    let bytes = saved?;
                    progress
                        .message(
                            Line::Success,
                            format!("'{name}' is saved ({} MiB)", bytes.div_ceil(1 << 20)),
                        )
                        .await;
                    Ok(())
                },
            )
            .await
    }

    async fn write_backup(
        &self,
        progress: &Progress,
        name: &ContainerName,
        backup: &str,
        file: OwnedFd,
    ) -> Result<u64> {
        let client = self.incus.client();
        let options = BackupOptions {
            instance_only: true,
            compression: None,
        };
        let operation = client
            .create_backup(name.as_str(), backup, options)
            .await
            .map_err(error)?;
        self.incus.follow(progress, "Packing", operation).await?;
        let mut file = tokio::fs::File::from_std(File::from(file));
        progress
            .unless_cancelled(async {
                client
                    .export_backup(name.as_str(), backup, &mut file)
                    .await
                    .map_err(error)
            })
            .await
    }

    /// Makes a container of a backup.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::NameTaken`], [`Error::NotAuthorized`], [`Error::Busy`];
    /// [`Error::InvalidArgument`] if the file is not open for reading.
    pub async fn load(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        file: OwnedFd,
    ) -> Result<OwnedObjectPath> {
        let name = ContainerName::parse(name)?;
        check(&file, false)?;
        self.is_free(&name).await?;
        self.polkit.new_container(caller, &name, "", false).await?;
        let (daemon, of) = (self.clone(), caller.clone());
        self.operations
            .start(
                caller,
                Kind::Load,
                &[Target::container(&name)],
                format!("Making the container '{name}' of a backup"),
                async move |progress| {
                    // Somebody else may have been faster.
                    daemon.is_free_but_for_us(&name).await?;
                    daemon.mark_loading(&name)?;
                    let loaded = daemon.read_backup(&progress, &of, &name, file).await;
                    match loaded {
                        Ok(()) => daemon.unmark_loading(&name),
                        Err(_) => daemon.discard_loading(&name).await,
                    }
                    daemon.changed().await;
                    loaded.map_err(|problem| match problem {
                        Error::Cancelled(_) => problem,
                        other => other.doing(format_args!("making '{name}' of a backup")),
                    })?;
                    progress
                        .message(Line::Success, format!("'{name}' is there"))
                        .await;
                    Ok(())
                },
            )
            .await
    }

    async fn is_free_but_for_us(&self, name: &ContainerName) -> Result<()> {
        match self.incus.find(name).await? {
            None => Ok(()),
            Some(_) => Err(crate::lifecycle::taken(name)),
        }
    }

    async fn read_backup(
        &self,
        progress: &Progress,
        caller: &Caller,
        name: &ContainerName,
        file: OwnedFd,
    ) -> Result<()> {
        let client = self.incus.client();
        let file = tokio::fs::File::from_std(File::from(file));
        let begun = async {
            client
                .import_backup(name.as_str(), file)
                .await
                .map_err(error)
        };
        let operation = progress.unless_cancelled(begun).await?;
        self.incus.follow(progress, "Unpacking", operation).await?;
        progress.commit()?;
        for snapshot in client.snapshots(name.as_str()).await.map_err(error)? {
            // Each has a configuration of its own, which restoring would bring back.
            let operation = client
                .delete_snapshot(name.as_str(), &snapshot.name)
                .await
                .map_err(error)?;
            operation.wait().await.map_err(error)?;
        }
        let instance = client.instance(name.as_str()).await.map_err(error)?;
        let mut like: Container = container(instance).ok_or_else(|| no_such(name))?;
        like.config.remove("security.privileged");
        like.owner = None;
        let plan = self.plan_again(caller, name, &like).await?;
        self.permit_ids(caller)?;
        self.make_directory(caller, name)?;
        self.adopt(caller, name, plan).await?;
        self.incus.has_changed(name.as_str());
        Ok(())
    }

    fn loading(&self, name: &ContainerName) -> PathBuf {
        self.config
            .data_directory
            .join("loading")
            .join(name.as_str())
    }

    /// Whether a container of this name was being made of a backup, and is not the caller's own yet.
    pub(crate) fn is_loading(&self, name: &ContainerName) -> bool {
        self.loading(name).exists()
    }

    fn mark_loading(&self, name: &ContainerName) -> Result<()> {
        let mark = self.loading(name);
        let directory = self.config.data_directory.join("loading");
        std::fs::create_dir_all(&directory)
            .and_then(|()| File::create(&mark))
            .and_then(|file| file.sync_all())
            .map_err(Error::failed(format_args!("writing {}", mark.display())))
    }

    fn unmark_loading(&self, name: &ContainerName) {
        let mark = self.loading(name);
        if let Err(problem) = std::fs::remove_file(&mark)
            && problem.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(mark = %mark.display(), error = %problem, "not removed: the container counts as half-made");
        }
    }

    /// Deletes what was being made of a backup. The mark stays until that is done.
    async fn discard_loading(&self, name: &ContainerName) {
        let client = self.incus.client();
        let deleted = match client.delete_instance(name.as_str()).await {
            Ok(operation) => operation.wait().await.map(drop),
            Err(problem) => Err(problem),
        };
        match deleted {
            Err(problem) if !problem.is_not_found() => {
                // It runs perhaps: Incus starts what ran when it went down.
                if let Ok(operation) = client.stop_instance(name.as_str(), Stop::Now).await {
                    let _ = operation.wait().await;
                }
                tracing::warn!(container = %name, error = %problem, "half-made, and not removed yet");
            }
            _ => {
                self.remove_directory(name);
                self.unmark_loading(name);
                self.incus.has_changed(name.as_str());
            }
        }
    }

    /// Deletes all that was being made of backups by operations that do not run any more.
    pub(crate) async fn sweep_loading(&self) {
        let Ok(entries) = std::fs::read_dir(self.config.data_directory.join("loading")) else {
            return;
        };
        for entry in entries.flatten() {
            if let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|name| ContainerName::parse(name).ok())
                && !self.operations.is_busy(&Target::container(&name))
            {
                self.discard_loading(&name).await;
            }
        }
    }
}

/// Whether a descriptor that came over the bus is what it is for.
fn check(file: &OwnedFd, to_write: bool) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(file).map_err(Error::failed("looking at the file"))?;
    let mode = flags & OFlags::RWMODE;
    let fits = if to_write {
        mode != OFlags::RDONLY
    } else {
        mode != OFlags::WRONLY
    };
    if !fits || flags.contains(OFlags::PATH) {
        let what = if to_write { "writing" } else { "reading" };
        return Err(Error::InvalidArgument(format!(
            "the file is not open for {what}"
        )));
    }
    Ok(())
}
