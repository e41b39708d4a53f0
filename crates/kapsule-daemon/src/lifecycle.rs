//! The life of a container: made, started, stopped, renamed, copied, deleted.
//!
//! A container that is being made carries a mark ([`UNFINISHED`]) with a word that only this operation knows. Whatever
//! ends the making (an error, the person, Incus' death, this daemon's death), what carries a mark whose operation does
//! not run is removed: at once, or when Incus is back, or when the daemon is ([`Daemon::sweep`]); and with it the image
//! that Incus had unpacked to its half, if that is why (`unpacking.rs`).

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use incus_client::{InstanceCreate, Source, Stop};
use zbus::OwnedObjectPath;

use crate::authority::Verb;
use crate::caller::Caller;
use crate::container::{self, Container, DEFINITIONS, OWNER, UNFINISHED};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::features::{Applied, Features};
use crate::incus::error;
use crate::manager::Options;
use crate::names::{ContainerName, ImageName};
use crate::operations::{Kind, Line, Progress, Target};
use crate::options::CreateOptions;
use crate::plan::{self, Plan};
use crate::subid;

/// How long programs inside have to end when the container is stopped.
const STOP: Duration = Duration::from_secs(30);

/// What a container is made of, as the caller wishes it.
struct Wanted {
    caller: Caller,
    name: ContainerName,
    image: ImageName,
    options: CreateOptions,
    features: Features,
    wishes: crate::config::Preferences,
}

impl Daemon {
    /// Makes a container, starts it, and sets the caller up in it.
    ///
    /// # Errors
    /// What can be known before: [`Error::InvalidName`], [`Error::NameTaken`], [`Error::InvalidArgument`],
    /// [`Error::NotAuthorized`], [`Error::Busy`].
    pub async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        image: &str,
        options: &Options,
    ) -> Result<OwnedObjectPath> {
        let name = self.resolve(caller, name).await?;
        let (features, wishes) = self.wishes(caller).await?;
        let (of, owned) = (caller.clone(), options.clone());
        let (options, features) = Self::aside(move || {
            CreateOptions::parse(&owned, &of, &features).map(|options| (options, features))
        })
        .await?;
        features.choose(&[(&options.with, &options.without)])?;
        let image = match (image, &wishes.default_image) {
            ("", Some(image)) => ImageName::parse(image)?,
            ("", None) => ImageName::parse(&self.config.default_image)?,
            (image, _) => ImageName::parse(image)?,
        };
        self.check_server(&image)?;
        self.is_free(&name).await?;
        self.polkit
            .new_container(caller, &name, &image.to_string(), options.privileged)
            .await?;
        let wanted = Wanted {
            caller: caller.clone(),
            name: name.clone(),
            image,
            options,
            features,
            wishes,
        };
        let daemon = self.clone();
        let description = format!("Making the container '{name}' from {}", wanted.image);
        self.operations
            .start(
                caller,
                Kind::Create,
                &[Target::container(&name)],
                description,
                async move |progress| daemon.make(&progress, wanted).await,
            )
            .await
    }

    /// Whether a name is free. What was left half-made under it is removed.
    pub(crate) async fn is_free(&self, name: &ContainerName) -> Result<()> {
        let Some(found) = self.incus.find(name).await? else {
            return Ok(());
        };
        if self.is_half_made(&found) && !self.operations.is_busy(&Target::container(name)) {
            self.sweep().await;
            if self.incus.find(name).await?.is_none() {
                return Ok(());
            }
        }
        Err(taken(name))
    }

    async fn make(&self, progress: &Progress, wanted: Wanted) -> Result<()> {
        let Wanted {
            caller,
            name,
            image,
            mut options,
            features,
            wishes,
        } = wanted;
        for note in &options.notes {
            progress.message(Line::Warning, note).await;
        }
        let found = self.obtain_image(progress, &image).await?;
        let image_wishes = found.wishes(&options)?;
        for unknown in &image_wishes.unknown {
            progress
                .message(
                    Line::Warning,
                    format!("the image requires {unknown}, which is not known here"),
                )
                .await;
        }
        let chosen = features.choose(&[
            (&image_wishes.with, &image_wishes.without),
            (&wishes.with, &wishes.without),
            (&options.with, &options.without),
        ])?;
        let (config, of, owned_name) = (self.config.clone(), caller.clone(), name.clone());
        let (ephemeral, shown) = (options.ephemeral, image.to_string());
        let (plan, notes) = Self::aside(move || {
            let notes = options.add_mounts(&of, &image_wishes.custom_mounts);
            let plan = Plan::new(
                &config,
                &of,
                &owned_name,
                &shown,
                &options,
                &features,
                &chosen,
            )?;
            Ok((plan, notes))
        })
        .await?;
        for note in notes {
            progress.message(Line::Information, note).await;
        }
        for left_out in &plan.left_out {
            progress
                .message(Line::Information, format!("left out: {left_out}"))
                .await;
        }
        self.clear_up().await;
        let token = token(progress);
        let mut instance = InstanceCreate::new(name.as_str(), found.source());
        instance.config = plan.config;
        instance.config.insert(UNFINISHED.to_owned(), token.clone());
        instance.devices = plan.devices;
        instance.ephemeral = ephemeral;
        let made = self
            .make_instance(progress, &caller, &name, &instance)
            .await;
        if let Err(problem) = made {
            self.discard(&name, &token).await;
            return Err(problem.doing(format_args!("making the container '{name}'")));
        }
        progress
            .message(Line::Success, format!("'{name}' is there and runs"))
            .await;
        Ok(())
    }

    async fn make_instance(
        &self,
        progress: &Progress,
        caller: &Caller,
        name: &ContainerName,
        instance: &InstanceCreate,
    ) -> Result<()> {
        self.permit_ids(caller)?;
        self.make_directory(caller, name)?;
        let client = self.incus.client();
        // Not given up when the person cancels: Incus goes on with what it was asked for, and what it makes would come after
        // it was looked for.
        let operation = client
            .create_instance(instance)
            .await
            .map_err(error)
            .map_err(|problem| match problem {
                Error::NameTaken(_) => taken(name),
                other => other,
            })?;
        self.incus
            .follow(progress, "Unpacking the image", operation)
            .await
            .map_err(|problem| match problem {
                Error::NameTaken(_) => taken(name),
                other => other,
            })?;
        let operation = client.start_instance(name.as_str()).await.map_err(error)?;
        self.incus.follow(progress, "Starting", operation).await?;
        let container = self.running(name).await?;
        progress
            .message(Line::Detail, format!("setting up {}", caller.name))
            .await;
        progress
            .unless_cancelled(self.shells.set_up_user(caller, &container))
            .await?;
        progress.commit()?;
        self.finish(name).await
    }

    /// Takes the mark away: the container is whole.
    pub(crate) async fn finish(&self, name: &ContainerName) -> Result<()> {
        let unmarked = [(UNFINISHED.to_owned(), String::new())].into();
        self.incus
            .client()
            .patch_instance(name.as_str(), &unmarked, &incus_client::Devices::new())
            .await
            .map_err(error)?;
        self.incus.has_changed(name.as_str());
        self.changed().await;
        Ok(())
    }

    /// Sees to it that the caller's own ids may be mapped.
    pub(crate) fn permit_ids(&self, caller: &Caller) -> Result<()> {
        if caller.is_root() {
            return Ok(());
        }
        if let [subuid, rest @ ..] = &self.config.subid_files[..] {
            subid::permit(subuid, caller.uid)?;
            for subgid in rest {
                subid::permit(subgid, caller.gid)?;
            }
        }
        Ok(())
    }

    /// The directory that is `/.kapsule/run` inside, with one below it for the caller.
    pub(crate) fn make_directory(&self, caller: &Caller, name: &ContainerName) -> Result<()> {
        let run = container::run_directory(&self.config.data_directory, name);
        let make = |path: &Path, mode: u32| -> std::io::Result<()> {
            match std::fs::DirBuilder::new().mode(mode).create(path) {
                Err(problem) if problem.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(problem);
                }
                _ => {}
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        let all = || -> std::io::Result<()> {
            let data = &self.config.data_directory;
            std::fs::create_dir_all(data)?;
            make(&data.join("containers"), 0o711)?;
            make(&container::directory(data, name), 0o711)?;
            make(&run, 0o755)?;
            let own = run.join(caller.uid.to_string());
            make(&own, 0o700)?;
            std::os::unix::fs::lchown(&own, Some(caller.uid), Some(caller.gid))
        };
        all().map_err(Error::failed(format_args!(
            "making the directory {}",
            run.display()
        )))
    }

    /// Removes what the daemon keeps of a container.
    pub(crate) fn remove_directory(&self, name: &ContainerName) {
        let directory = container::directory(&self.config.data_directory, name);
        if let Err(problem) = std::fs::remove_dir_all(&directory)
            && problem.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), error = %problem, "not removed");
        }
    }

    /// Removes a half-made container that carries this mark. What cannot be removed now (Incus may be gone) is removed
    /// by a later [`Daemon::sweep`].
    pub(crate) async fn discard(&self, name: &ContainerName, token: &str) {
        let client = self.incus.client();
        // Incus deletes by name. If another were at it too, the name could be somebody's new container between our look
        // at the mark and the deletion.
        let _alone = self.discarding.lock().await;
        for _ in 0..3 {
            match client.instance(name.as_str()).await {
                Ok(instance)
                    if instance
                        .config
                        .get(UNFINISHED)
                        .is_some_and(|mark| mark == token) =>
                {
                    // The container is what tells that the image is not whole, and so goes last.
                    if let Err(problem) = self.heal_image(&instance).await {
                        tracing::warn!(container = %name, error = %problem, "half-made, and not removed yet");
                        self.is_unswept();
                        return;
                    }
                    if instance.is_running()
                        && let Ok(operation) = client.stop_instance(name.as_str(), Stop::Now).await
                    {
                        // Deleting tells what is wrong.
                        let _ = operation.wait().await;
                    }
                    let deleted = match client.delete_instance(name.as_str()).await {
                        Ok(operation) => operation.wait().await.map(drop),
                        Err(problem) => Err(problem),
                    };
                    match deleted {
                        Ok(()) => {}
                        Err(problem) if problem.is_not_found() => {}
                        Err(problem) => {
                            tracing::debug!(container = %name, error = %problem, "half-made, and not removed yet");
                            tokio::time::sleep(Duration::from_millis(200)).await;
                            continue;
                        }
                    }
                    tracing::info!(container = %name, "what was half-made is removed");
                }
                // Another's, or none at all.
                Ok(_) => return,
                Err(problem) if problem.is_not_found() => {}
                Err(problem) => {
                    tracing::warn!(container = %name, error = %problem, "half-made, and not removed yet");
                    self.is_unswept();
                    return;
                }
            }
            self.remove_directory(name);
            self.incus.has_changed(name.as_str());
            self.changed().await;
            return;
        }
        tracing::warn!(container = %name, "half-made, and not removed yet: Incus is at work on it");
        self.is_unswept();
        self.sweep_again.notify_one();
    }

    /// Something half-made is left: who makes the next container sweeps first.
    pub(crate) fn is_unswept(&self) {
        self.unswept.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes what is half-made before something else is made: its image may be half-made as well.
    async fn clear_up(&self) {
        if self.unswept.load(Ordering::Acquire) > 0 {
            self.sweep().await;
        }
        // Another may be at it just now.
        drop(self.discarding.lock().await);
    }

    /// Removes what operations that do not run any more have left half-made, and directories of containers that are
    /// not there.
    pub async fn sweep(&self) {
        let reasons = self.unswept.load(Ordering::Acquire);
        self.sweep_loading().await;
        let containers = match self.incus.list().await {
            Ok(containers) => containers,
            Err(problem) => {
                tracing::debug!(error = problem.text(), "nothing can be swept now");
                self.is_unswept();
                return;
            }
        };
        for container in &containers {
            if let Some(token) = container.config.get(UNFINISHED)
                && !self.operations.is_busy(&Target::container(&container.name))
            {
                self.discard(&container.name, token).await;
            }
        }
        // Unless there are new ones. Who comes meanwhile sweeps as well, and so waits for what is removed.
        let _ = self
            .unswept
            .compare_exchange(reasons, 0, Ordering::AcqRel, Ordering::Acquire);
        let directory = self.config.data_directory.join("containers");
        let Ok(entries) = std::fs::read_dir(&directory) else {
            return;
        };
        for entry in entries.flatten() {
            let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|name| ContainerName::parse(name).ok())
            else {
                continue;
            };
            let is_there = containers.iter().any(|container| container.name == name);
            if !is_there && !self.operations.is_busy(&Target::container(&name)) {
                self.remove_directory(&name);
            }
        }
    }

    /// Deletes a container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotAuthorized`]; [`Error::Busy`] if it runs, without `force`.
    pub async fn delete(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        force: bool,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        let container = self.authorised(caller, name, Verb::Delete).await?;
        if container.status != "Stopped" && !force {
            return Err(Error::Busy(format!(
                "the container '{name}' is {}: stop it first ('kapsule stop {name}'), or delete it all the same \
                 ('kapsule rm --force {name}')",
                container.status.to_lowercase()
            )));
        }
        let daemon = self.clone();
        let name = container.name.clone();
        self.operations
            .start(
                caller,
                Kind::Delete,
                &[Target::container(&container.name)],
                format!("Deleting the container '{name}'"),
                async move |progress| {
                    progress.commit()?;
                    let client = daemon.incus.client();
                    if container.status != "Stopped" {
                        let operation = client
                            .stop_instance(name.as_str(), Stop::Now)
                            .await
                            .map_err(error)?;
                        // It may have stopped by itself; deleting tells what is wrong.
                        let _ = daemon.incus.follow(&progress, "Stopping", operation).await;
                        daemon.shells.container_stopped(name.as_str());
                    }
                    let deleted = match client.delete_instance(name.as_str()).await {
                        Ok(operation) => {
                            let deleting = daemon.incus.follow(&progress, "Deleting", operation);
                            deleting.await
                        }
                        Err(problem) => Err(error(problem)),
                    };
                    if let Err(problem) = deleted {
                        // It may be gone all the same: an ephemeral one by being stopped, another because a deletion
                        // was under way, which this one has met.
                        let found = client.instance(name.as_str()).await;
                        if !found.is_err_and(|problem| problem.is_not_found()) {
                            return Err(problem);
                        }
                    }
                    daemon.remove_directory(&name);
                    daemon.incus.has_changed(name.as_str());
                    progress
                        .message(Line::Success, format!("'{name}' is deleted"))
                        .await;
                    Ok(())
                },
            )
            .await
    }

    /// Starts a container; one that runs is left as it is.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotAuthorized`], [`Error::Busy`]
    pub async fn start(self: &Arc<Self>, caller: &Caller, name: &str) -> Result<OwnedObjectPath> {
        let container = self.authorised(caller, name, Verb::Start).await?;
        self.start_allowed(caller, &container).await
    }

    /// The same, without asking polkit.
    pub(crate) async fn start_allowed(
        self: &Arc<Self>,
        caller: &Caller,
        container: &Container,
    ) -> Result<OwnedObjectPath> {
        let (daemon, name) = (self.clone(), container.name.clone());
        let (frozen, of) = (container.status == "Frozen", caller.clone());
        let own = container.owner == Some(caller.uid);
        self.operations
            .start(
                caller,
                Kind::Start,
                &[Target::container(&name)],
                format!("Starting the container '{name}'"),
                async move |progress| {
                    progress.commit()?;
                    if own {
                        daemon.permit_ids(&of)?;
                        daemon.make_directory(&of, &name)?;
                    }
                    let client = daemon.incus.client();
                    let now = daemon.incus.get(&name).await?;
                    if now.is_running() {
                        return Ok(());
                    }
                    if own && !frozen {
                        daemon.refresh(&progress, &of, &now).await?;
                    }
                    let operation = if frozen {
                        client.unfreeze_instance(name.as_str()).await
                    } else {
                        client.start_instance(name.as_str()).await
                    };
                    daemon
                        .incus
                        .follow(&progress, "Starting", operation.map_err(error)?)
                        .await?;
                    daemon.incus.has_changed(name.as_str());
                    Ok(())
                },
            )
            .await
    }

    /// Looks up anew what of the host a container's features mean: since it was made or started last, a display may have
    /// another name, or a card may be gone.
    async fn refresh(
        &self,
        progress: &Progress,
        caller: &Caller,
        container: &Container,
    ) -> Result<()> {
        let Some(definitions) = container.config.get(DEFINITIONS).cloned() else {
            return Ok(());
        };
        let of = caller.clone();
        let applied = Self::aside(move || Applied::again(&definitions, &of)).await?;
        let client = self.incus.client();
        let name = container.name.as_str();
        let tagged = client.tagged_instance(name).await.map_err(error)?;
        let mut update = tagged.value.to_update();
        update
            .devices
            .retain(|device, _| !applied.missing.contains(device));
        update
            .config
            .retain(|key, _| !applied.missing_config.contains(key));
        update.devices.extend(applied.devices);
        update.config.extend(applied.config);
        update.config.retain(|_, value| !value.is_empty());
        if update.devices == tagged.value.devices && update.config == tagged.value.config {
            return Ok(());
        }
        progress
            .message(Line::Detail, "what it has of this machine is another now")
            .await;
        self.incus
            .update(name, &update, tagged.etag.as_deref())
            .await
    }

    /// Binds anew what of the host has gone and come again under a container that runs: after a new login the display's
    /// socket has its old name, and is another.
    pub(crate) async fn freshen(&self, caller: &Caller, container: &Container) -> Result<()> {
        let (Some(definitions), Some(init)) = (
            container.config.get(DEFINITIONS).cloned(),
            container.init_pid,
        ) else {
            return Ok(());
        };
        let of = caller.clone();
        let stale = Self::aside(move || {
            let mut applied = Applied::again(&definitions, &of)?;
            applied.devices.retain(|_, device| is_stale(init, device));
            applied
                .config
                .retain(|key, _| key.starts_with("environment."));
            Ok(applied)
        })
        .await?;
        let (stale, environment) = (stale.devices, stale.config);
        if stale.is_empty() || self.operations.is_busy(&Target::container(&container.name)) {
            return Ok(());
        }
        tracing::info!(container = %container.name, devices = ?stale.keys(), "bound anew");
        let client = self.incus.client();
        let name = container.name.as_str();
        let tagged = client.tagged_instance(name).await.map_err(error)?;
        let mut update = tagged.value.to_update();
        update
            .devices
            .retain(|device, _| !stale.contains_key(device));
        // Its properties are the same; so Incus has to see it go first.
        if update.devices != tagged.value.devices {
            self.incus
                .update(name, &update, tagged.etag.as_deref())
                .await?;
        }
        client
            .patch_instance(name, &environment, &stale)
            .await
            .map_err(error)
    }

    /// Stops a container; one that does not run is left as it is.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotAuthorized`], [`Error::Busy`]
    pub async fn stop(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        force: bool,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        let container = self.authorised(caller, name, Verb::Stop).await?;
        let (daemon, name) = (self.clone(), container.name.clone());
        let frozen = container.status == "Frozen";
        self.operations
            .start(
                caller,
                Kind::Stop,
                &[Target::container(&container.name)],
                format!("Stopping the container '{name}'"),
                async move |progress| {
                    progress.commit()?;
                    let now = daemon.incus.get(&name).await?;
                    if now.status == "Stopped" {
                        return Ok(());
                    }
                    let how = if force || frozen {
                        Stop::Now
                    } else {
                        Stop::Within(STOP)
                    };
                    let operation = daemon
                        .incus
                        .client()
                        .stop_instance(name.as_str(), how)
                        .await
                        .map_err(error)?;
                    let stopped = daemon.incus.follow(&progress, "Stopping", operation).await;
                    daemon.incus.has_changed(name.as_str());
                    if let Err(problem) = stopped {
                        let text = if force {
                            problem.text().to_owned()
                        } else {
                            format!(
                                "{}; 'kapsule stop --force {name}' does not wait for the programs inside",
                                problem.text()
                            )
                        };
                        return Err(Error::Failed(text));
                    }
                    daemon.shells.container_stopped(name.as_str());
                    if now.ephemeral {
                        daemon.remove_directory(&name);
                    }
                    Ok(())
                },
            )
            .await
    }

    /// Copies a container; the copy is the caller's, and is not started.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NameTaken`], [`Error::NotAuthorized`], [`Error::Busy`]
    pub async fn copy(
        self: &Arc<Self>,
        caller: &Caller,
        source: &str,
        target: &str,
    ) -> Result<OwnedObjectPath> {
        let target = ContainerName::parse(target)?;
        let source = self.authorised(caller, source, Verb::Copy).await?;
        self.is_free(&target).await?;
        let privileged = source.is_privileged();
        self.polkit
            .new_container(caller, &target, &source.image, privileged)
            .await?;
        let plan = self.plan_again(caller, &target, &source).await?;
        let (daemon, caller_of) = (self.clone(), caller.clone());
        let description = format!("Copying the container '{}' to '{target}'", source.name);
        self.operations
            .start(
                caller,
                Kind::Clone,
                &[Target::container(&target), Target::container(&source.name)],
                description,
                async move |progress| {
                    let token = token(&progress);
                    let copied = daemon
                        .copy_instance(&progress, &caller_of, &source, &target, plan, &token)
                        .await;
                    if let Err(problem) = copied {
                        daemon.discard(&target, &token).await;
                        return Err(
                            problem.doing(format_args!("copying '{}' to '{target}'", source.name))
                        );
                    }
                    progress
                        .message(
                            Line::Success,
                            format!("'{target}' is a copy of '{}'", source.name),
                        )
                        .await;
                    Ok(())
                },
            )
            .await
    }

    async fn copy_instance(
        &self,
        progress: &Progress,
        caller: &Caller,
        source: &Container,
        target: &ContainerName,
        plan: Plan,
        token: &str,
    ) -> Result<()> {
        self.permit_ids(caller)?;
        self.make_directory(caller, target)?;
        let client = self.incus.client();
        let mut instance = InstanceCreate::new(target.as_str(), Source::copy(source.name.as_str()));
        instance
            .config
            .insert(UNFINISHED.to_owned(), token.to_owned());
        let operation = client.create_instance(&instance).await.map_err(error)?;
        self.incus.follow(progress, "Copying", operation).await?;
        progress.commit()?;
        self.adopt(caller, target, plan).await?;
        self.finish(target).await
    }

    /// What a container that was made for another, or under another name, becomes as the caller's own.
    pub(crate) async fn plan_again(
        &self,
        caller: &Caller,
        name: &ContainerName,
        like: &Container,
    ) -> Result<Plan> {
        let (features, _) = self.wishes(caller).await?;
        let known: Vec<String> = features.profiles().map(|p| p.name.clone()).collect();
        // Those that are not defined any more are left out.
        let with: Vec<String> = like
            .features()
            .filter(|name| known.iter().any(|known| known == name))
            .map(str::to_owned)
            .collect();
        let chosen = features.choose(&[(&[], &known), (&with, &[])])?;
        let home = like
            .home()
            .filter(|_| like.owner == Some(caller.uid))
            .map(Path::to_path_buf);
        let options = CreateOptions {
            privileged: like.is_privileged(),
            home,
            ..CreateOptions::default()
        };
        let (config, of, name, image) = (
            self.config.clone(),
            caller.clone(),
            name.clone(),
            like.image.clone(),
        );
        Self::aside(move || Plan::new(&config, &of, &name, &image, &options, &features, &chosen))
            .await
    }

    /// Replaces all of an instance's configuration and devices that is kapsule's, or that gives rights, by the plan's.
    pub(crate) async fn adopt(
        &self,
        caller: &Caller,
        name: &ContainerName,
        plan: Plan,
    ) -> Result<()> {
        let client = self.incus.client();
        let instance = client.instance(name.as_str()).await.map_err(error)?;
        let mut update = instance.to_update();
        let own = update
            .config
            .get(OWNER)
            .is_some_and(|owner| *owner == caller.uid.to_string());
        update.config.retain(|key, _| {
            let kept = [
                "image.",
                "volatile.idmap.",
                "volatile.last_state.idmap",
                "volatile.uuid",
            ];
            key == UNFINISHED || kept.iter().any(|prefix| key.starts_with(prefix))
        });
        // A person's own directories stay his; another's do not become his.
        let mine = own && !self.is_loading(name);
        update
            .devices
            .retain(|device, _| device == "root" || (mine && device.starts_with("kapsule-mount-")));
        if let Some(root) = update.devices.get_mut("root") {
            root.retain(|key, _| ["type", "path", "pool"].contains(&key.as_str()));
        }
        update.profiles = vec!["default".to_owned()];
        let plan_is_privileged = plan.config.contains_key("security.privileged");
        update.config.extend(plan.config);
        update.devices.extend(plan.devices);
        // Two of one address cannot run beside each other.
        for key in instance.config.keys() {
            if key.starts_with("volatile.") && key.ends_with(".hwaddr") {
                update.config.insert(key.clone(), hardware_address()?);
            }
        }
        // Whom its ids are mapped to stands in volatile keys, which nobody but Incus can write or take away, and which came
        // with it. Incus works them out anew when it becomes privileged or is so no more; it does not run meanwhile.
        let other = if plan_is_privileged { "false" } else { "true" };
        let mut detour = update.clone();
        detour
            .config
            .insert("security.privileged".to_owned(), other.to_owned());
        for step in [&detour, &update] {
            self.incus.update(name.as_str(), step, None).await?;
        }
        Ok(())
    }

    /// Gives a stopped container another name.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NameTaken`], [`Error::NotAuthorized`]; [`Error::Busy`] if it runs.
    pub async fn rename(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        new_name: &str,
    ) -> Result<OwnedObjectPath> {
        named(name)?;
        let new = ContainerName::parse(new_name)?;
        let container = self.authorised(caller, name, Verb::Rename).await?;
        if container.status != "Stopped" {
            return Err(Error::Busy(format!(
                "the container '{name}' is {}, and only a stopped one can be renamed: 'kapsule stop {name}'",
                container.status.to_lowercase()
            )));
        }
        self.is_free(&new).await?;
        let (daemon, old, of) = (self.clone(), container.name.clone(), caller.clone());
        self.operations
            .start(
                caller,
                Kind::Rename,
                &[Target::container(&old), Target::container(&new)],
                format!("Renaming the container '{name}' to '{new}'"),
                async move |progress| {
                    progress.commit()?;
                    let client = daemon.incus.client();
                    daemon.make_directory(&of, &new)?;
                    let renamed = match client.rename_instance(old.as_str(), new.as_str()).await {
                        Ok(operation) => {
                            daemon.incus.follow(&progress, "Renaming", operation).await
                        }
                        Err(problem) => Err(error(problem)),
                    };
                    if let Err(problem) = renamed {
                        daemon.remove_directory(&new);
                        return Err(problem);
                    }
                    if container.owner.is_some() {
                        let (device, properties) = plan::run_device(&daemon.config, &new);
                        let devices = [(device, properties)].into();
                        let config = incus_client::Config::new();
                        client
                            .patch_instance(new.as_str(), &config, &devices)
                            .await
                            .map_err(error)?;
                    }
                    daemon.remove_directory(&old);
                    daemon.incus.has_changed(old.as_str());
                    Ok(())
                },
            )
            .await
    }
}

/// Whether a disk of this container is there on the host, and inside it is not, or is something else.
fn is_stale(init: u32, device: &std::collections::BTreeMap<String, String>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Some("disk"), Some(source), Some(path)) = (
        device.get("type").map(String::as_str),
        device.get("source"),
        device.get("path"),
    ) else {
        return false;
    };
    let Ok(host) = std::fs::symlink_metadata(source) else {
        return false;
    };
    // What is found there is only compared.
    match std::fs::symlink_metadata(format!("/proc/{init}/root{path}")) {
        Ok(inside) => (inside.dev(), inside.ino()) != (host.dev(), host.ino()),
        // It came after the start.
        Err(problem) => problem.kind() == std::io::ErrorKind::NotFound,
    }
}

/// What changes or ends a container has to be told which: the default one is not meant by silence.
pub(crate) fn named(name: &str) -> Result<()> {
    ContainerName::parse(name).map(drop)
}

pub(crate) fn taken(name: &ContainerName) -> Error {
    Error::NameTaken(format!(
        "there is a container '{name}' already. Choose another name, or delete it: 'kapsule rm {name}'"
    ))
}

/// An address for a network device, of those that Incus gives out.
fn hardware_address() -> Result<String> {
    let mut random = [0_u8; 3];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(Error::failed("asking for random numbers"))?;
    let [a, b, c] = random;
    Ok(format!("10:66:6a:{a:02x}:{b:02x}:{c:02x}"))
}

/// A word that only this operation knows.
pub(crate) fn token(progress: &Progress) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("{}-{}-{now}", std::process::id(), progress.id())
}
