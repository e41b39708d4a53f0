//! The daemon: what all methods of the bus share, and what they do that is no operation.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::authority::{Verb, maps_himself};
use crate::caller::Caller;
use crate::config::{Config, Preferences};
use crate::container::{Container, LEFT_OUT};
use crate::error::{Error, Result};
use crate::features::{self, Features};
use crate::incus::{Incus, no_such};
use crate::manager::{Options, Row};
use crate::names::ContainerName;
use crate::operations::{Kind, Operations, Target};
use crate::options::CreateOptions;
use crate::permission::Permission;
use crate::polkit::Polkit;
use crate::shell::Shells;

/// The daemon.
pub struct Daemon {
    pub(crate) config: Arc<Config>,
    pub(crate) incus: Arc<Incus>,
    pub(crate) polkit: Polkit,
    pub(crate) operations: Arc<Operations>,
    pub(crate) shells: Arc<Shells>,
    /// When it was last looked whether what a container has of the host is still that.
    freshened: Mutex<HashMap<String, Instant>>,
    /// Held by who removes something half-made.
    pub(crate) discarding: tokio::sync::Mutex<()>,
    /// How many reasons there are to think that something half-made is there which nobody is at work on.
    pub(crate) unswept: AtomicU64,
    /// Something half-made could not be removed, because Incus is at work on it.
    pub(crate) sweep_again: tokio::sync::Notify,
}

/// How often that is looked at, at most.
const FRESH: Duration = Duration::from_secs(5);

impl Daemon {
    /// Puts it together.
    pub fn new(
        config: Arc<Config>,
        incus: Arc<Incus>,
        polkit: Polkit,
        operations: Arc<Operations>,
        shells: Arc<Shells>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            incus,
            polkit,
            operations,
            shells,
            freshened: Mutex::default(),
            discarding: tokio::sync::Mutex::default(),
            unswept: AtomicU64::new(1),
            sweep_again: tokio::sync::Notify::new(),
        })
    }

    /// The operations.
    pub fn operations(&self) -> &Arc<Operations> {
        &self.operations
    }

    /// Runs what waits for a disk (of a person's, perhaps a network's) beside the rest.
    pub(crate) async fn aside<T: Send + 'static>(
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(Error::Failed(format!("the daemon has a fault: {error}"))))
    }

    /// The features that the caller can name, and his preferences.
    pub(crate) async fn wishes(&self, caller: &Caller) -> Result<(Features, Preferences)> {
        let (config, caller) = (self.config.clone(), caller.clone());
        Self::aside(move || {
            Ok((
                Features::read(&config, &caller)?,
                features::preferences(&caller)?,
            ))
        })
        .await
    }

    /// The container that a name stands for: the empty one is the default.
    pub(crate) async fn resolve(&self, caller: &Caller, name: &str) -> Result<ContainerName> {
        if !name.is_empty() {
            return ContainerName::parse(name);
        }
        let caller = caller.clone();
        let wish = Self::aside(move || features::preferences(&caller))
            .await?
            .default_container;
        ContainerName::parse(wish.as_ref().unwrap_or(&self.config.default_container))
            .map_err(|error| error.doing("the configuration's default_container"))
    }

    /// A container that the caller may do `verb` with. Asks polkit.
    pub(crate) async fn authorised(
        &self,
        caller: &Caller,
        name: &str,
        verb: Verb,
    ) -> Result<Container> {
        let name = self.resolve(caller, name).await?;
        let container = self.finished(&name).await?;
        self.polkit.with_container(caller, &container, verb).await?;
        Ok(container)
    }

    /// Whether it is still being made, or the making was left half-done.
    pub(crate) fn is_half_made(&self, container: &Container) -> bool {
        container.is_unfinished() || self.is_loading(&container.name)
    }

    /// A container that is not one which is still being made.
    async fn finished(&self, name: &ContainerName) -> Result<Container> {
        let container = self.incus.get(name).await?;
        if !self.is_half_made(&container) {
            return Ok(container);
        }
        if self.operations.is_busy(&Target::container(name)) {
            return Err(Error::Busy(format!(
                "the container '{name}' is being made: try again when that has ended"
            )));
        }
        self.sweep().await;
        Err(no_such(name))
    }

    /// The caller's own containers, in the order of their names; root sees those of all.
    ///
    /// # Errors
    /// [`Error::IncusUnavailable`]
    pub async fn list_containers(&self, caller: &Caller) -> Result<Vec<Row>> {
        let containers = self.incus.list().await?;
        Ok(containers
            .iter()
            .filter(|c| c.owner.is_some() && (c.owner == Some(caller.uid) || caller.is_root()))
            .filter(|c| !self.is_half_made(c))
            .map(row)
            .collect())
    }

    /// Everything that Incus has.
    ///
    /// # Errors
    /// [`Error::IncusUnavailable`]
    pub async fn list_all_containers(&self, caller: &Caller) -> Result<Vec<Options>> {
        let containers = self.incus.list().await?;
        containers
            .iter()
            .filter(|c| !self.is_half_made(c))
            .map(|c| describe(c, caller))
            .collect()
    }

    /// A line of [`Daemon::list_containers`].
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]
    pub async fn container_info(&self, caller: &Caller, name: &str) -> Result<Row> {
        let name = self.resolve(caller, name).await?;
        Ok(row(&self.finished(&name).await?))
    }

    /// All that is known of a container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]
    pub async fn container(&self, caller: &Caller, name: &str) -> Result<Options> {
        let name = self.resolve(caller, name).await?;
        let mut container = self.finished(&name).await?;
        let mut addresses: Vec<String> = Vec::new();
        if container.is_running() {
            let state = self
                .incus
                .client()
                .instance_state(name.as_str())
                .await
                .map_err(crate::incus::error)?;
            container.init_pid = state.init();
            addresses.extend(
                state
                    .network
                    .iter()
                    .filter(|(name, _)| *name != "lo")
                    .flat_map(|(_, interface)| &interface.addresses)
                    .filter(|address| address.scope == "global")
                    .map(|address| address.address.clone()),
            );
        }
        let snapshots = self
            .incus
            .client()
            .snapshots(name.as_str())
            .await
            .map_err(crate::incus::error)?
            .len();
        let mut out = describe(&container, caller)?;
        put(&mut out, "addresses", addresses)?;
        put(
            &mut out,
            "snapshots",
            u32::try_from(snapshots).unwrap_or(u32::MAX),
        )?;
        put(
            &mut out,
            "init_pid",
            i64::from(container.init_pid.unwrap_or(0)),
        )?;
        Ok(out)
    }

    /// The schema of the options of `CreateContainer`.
    ///
    /// # Errors
    /// A profile is not right.
    pub async fn create_schema(&self, caller: &Caller) -> Result<String> {
        let (features, _) = self.wishes(caller).await?;
        Ok(CreateOptions::schema(&features))
    }

    /// The configuration that holds for the caller.
    ///
    /// # Errors
    /// His file is not right.
    pub async fn config_of(&self, caller: &Caller) -> Result<HashMap<String, String>> {
        let caller = caller.clone();
        let wishes = Self::aside(move || features::preferences(&caller)).await?;
        let mut config = HashMap::from([
            (
                "default_container".to_owned(),
                wishes
                    .default_container
                    .unwrap_or_else(|| self.config.default_container.clone()),
            ),
            (
                "default_image".to_owned(),
                wishes
                    .default_image
                    .unwrap_or_else(|| self.config.default_image.clone()),
            ),
            ("with".to_owned(), wishes.with.join(",")),
            ("without".to_owned(), wishes.without.join(",")),
            ("storage_pool".to_owned(), self.config.storage_pool.clone()),
        ]);
        for (name, server) in &self.config.servers {
            config.insert(format!("servers.{name}"), server.url.clone());
        }
        Ok(config)
    }

    /// The names of the features.
    ///
    /// # Errors
    /// A profile is not right.
    pub async fn list_features(&self, caller: &Caller) -> Result<Vec<String>> {
        let (features, _) = self.wishes(caller).await?;
        Ok(features
            .profiles()
            .map(|profile| profile.name.clone())
            .collect())
    }

    /// Whether Incus answers.
    pub async fn is_incus_available(&self) -> bool {
        self.incus.client().server().await.is_ok()
    }

    /// Makes an account in a container; the arguments have to be those of the caller's own account, or root says whose.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`], [`Error::InvalidArgument`]
    pub async fn setup_user(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        uid: u32,
        gid: u32,
        user: &str,
        home: &str,
    ) -> Result<OwnedObjectPath> {
        maps_himself(caller, uid)?;
        let account = crate::account::Account::of(uid).await?;
        if gid != account.gid || user != account.name || *home != *account.home {
            return Err(Error::InvalidArgument(format!(
                "the account of the uid {uid} is {} with the gid {} and the home {}, not {} with {gid} and {}",
                account.name,
                account.gid,
                account.home.display(),
                crate::names::quoted(user),
                crate::names::quoted(home),
            )));
        }
        let container = self.authorised(caller, name, Verb::SetUpUser).await?;
        maps(&container, uid)?;
        let person = Caller {
            uid,
            gid,
            name: account.name,
            home: account.home,
            shell: account.shell,
            groups: account.groups,
            ..caller.clone()
        };
        let name = container.name.clone();
        let daemon = self.clone();
        let description = format!("Setting up {user} in '{name}'");
        self.operations
            .start(
                caller,
                Kind::SetupUser,
                &[Target::container(&name)],
                description,
                async move |_| {
                    let container = daemon.running(&name).await?;
                    daemon.shells.set_up_user(&person, &container).await
                },
            )
            .await
    }

    /// Whether the account is there.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotAuthorized`]
    pub async fn is_user_setup(&self, caller: &Caller, name: &str, uid: u32) -> Result<bool> {
        let container = self.authorised(caller, name, Verb::Enter).await?;
        if !container.is_running() {
            return Ok(false);
        }
        let container = self.running(&container.name).await?;
        self.shells.is_user_set_up(&container, uid).await
    }

    /// A container that runs, with its first process.
    pub(crate) async fn running(&self, name: &ContainerName) -> Result<Container> {
        let container = self
            .incus
            .find_with_init(name)
            .await?
            .ok_or_else(|| no_such(name))?;
        if container.init_pid.is_none() {
            return Err(Error::NotRunning(format!(
                "the container '{name}' does not run ({}): start it by 'kapsule start {name}'",
                container.status.to_lowercase()
            )));
        }
        Ok(container)
    }

    /// A container that the caller may enter, and that runs: the default one is made if it is not there, one that is
    /// stopped is started, and what is being done with it is waited for. The permission may be still to come if the
    /// container is the caller's own and runs.
    async fn ready(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
    ) -> Result<(Container, Permission)> {
        let wanted = self.resolve(caller, name).await?;
        let mut permission = None;
        // Each turn does one thing that is missing. It is another's doing if that is not enough.
        for _ in 0..8 {
            let found = self.incus.find_with_init(&wanted).await?;
            let target = Target::container(&wanted);
            let container = match found {
                Some(container) if !self.is_half_made(&container) => container,
                _ if self.operations.is_busy(&target) => {
                    self.operations.wait_until_free(&target).await;
                    continue;
                }
                Some(_) => {
                    self.sweep().await;
                    continue;
                }
                None if name.is_empty() => {
                    let path = self
                        .create(caller, wanted.as_str(), "", &Options::new())
                        .await?;
                    self.operations.wait(&path).await?;
                    continue;
                }
                None => return Err(no_such(&wanted)),
            };
            let runs = container.init_pid.is_some() && container.is_running();
            let permission = match &mut permission {
                Some(permission) => permission,
                none => none.insert(self.ask_to_enter(caller, &container)),
            };
            // Another's container is none of the caller's business until polkit says so, and root inside a privileged
            // one could look at what is prepared there.
            let may_prepare = container.owner == Some(caller.uid) && !container.is_privileged();
            if !(runs && may_prepare) {
                permission.granted().await?;
            }
            if runs {
                let permission = std::mem::replace(permission, Permission::given());
                return Ok((container, permission));
            }
            if self.operations.is_busy(&target) {
                self.operations.wait_until_free(&target).await;
                continue;
            }
            let path = self.start_allowed(caller, &container).await?;
            self.operations.wait(&path).await?;
        }
        Err(Error::Busy(format!(
            "the container '{wanted}' is started and stopped again and again by somebody else"
        )))
    }

    fn ask_to_enter(&self, caller: &Caller, container: &Container) -> Permission {
        let (polkit, caller, container) = (self.polkit.clone(), caller.clone(), container.clone());
        Permission::asked(async move {
            polkit
                .with_container(&caller, &container, Verb::Enter)
                .await
        })
    }

    /// Looks, beside the rest, whether what a running container has of the host is still that.
    fn freshen_aside(self: &Arc<Self>, caller: &Caller, container: &Container) {
        if container.owner != Some(caller.uid) {
            return;
        }
        let now = Instant::now();
        {
            let mut freshened = self
                .freshened
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            freshened.retain(|_, at| now.duration_since(*at) < FRESH);
            if freshened.insert(container.name.to_string(), now).is_some() {
                return;
            }
        }
        let (daemon, caller, container) = (self.clone(), caller.clone(), container.clone());
        tokio::spawn(async move {
            if let Err(problem) = daemon.freshen(&caller, &container).await {
                tracing::warn!(container = %container.name, error = problem.text(), "what it has of the host may be stale");
            }
        });
    }

    /// What to run to be inside.
    ///
    /// # Errors
    /// The container cannot be entered.
    pub async fn prepare_enter(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        command: Vec<String>,
        cwd: &str,
    ) -> Result<Vec<String>> {
        let (container, mut permission) = self.ready(caller, name).await?;
        permission.granted().await?;
        self.freshen_aside(caller, &container);
        let mut argv = vec!["kapsule".to_owned(), "enter".to_owned()];
        if !cwd.is_empty() {
            argv.push("--cwd".to_owned());
            argv.push(cwd.to_owned());
        }
        argv.push(container.name.to_string());
        if !command.is_empty() {
            argv.push("--".to_owned());
            argv.extend(command);
        }
        Ok(argv)
    }

    /// What a terminal runs for a shell.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::NoSuchContainer`]
    pub async fn shell_command(&self, caller: &Caller, name: &str) -> Result<Vec<String>> {
        let wanted = self.resolve(caller, name).await?;
        if !name.is_empty() {
            self.incus.get(&wanted).await?;
        }
        Ok(vec![
            "kapsule".to_owned(),
            "enter".to_owned(),
            wanted.to_string(),
        ])
    }

    /// A shell on a new terminal.
    ///
    /// # Errors
    /// The container cannot be entered, or the shell not be started.
    pub async fn open_shell(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        argv: Vec<String>,
        options: Options,
    ) -> Result<(OwnedFd, OwnedObjectPath)> {
        let (container, permission) = self.ready(caller, name).await?;
        let opened = self
            .shells
            .open_shell(caller, &container, permission, argv, options)
            .await?;
        self.freshen_aside(caller, &container);
        Ok(opened)
    }

    /// A command with the caller's own descriptors.
    ///
    /// # Errors
    /// The container cannot be entered, or the command not be started.
    pub async fn run_command(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        argv: Vec<String>,
        options: Options,
        stdio: [OwnedFd; 3],
    ) -> Result<OwnedObjectPath> {
        let (container, permission) = self.ready(caller, name).await?;
        let session = self
            .shells
            .run_command(caller, &container, permission, argv, options, stdio)
            .await?;
        self.freshen_aside(caller, &container);
        Ok(session)
    }
}

/// Whether a container has a place for this uid.
fn maps(container: &Container, uid: u32) -> Result<()> {
    if container.is_privileged() || container.owner == Some(uid) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "the container '{}' does not map the uid {uid}: {}",
        container.name,
        match container.owner {
            Some(owner) => format!("it was made for the uid {owner}"),
            None => "it was not made by kapsule".to_owned(),
        }
    )))
}

fn row(container: &Container) -> Row {
    (
        container.name.to_string(),
        container.status.clone(),
        container.image.clone(),
        container.created.clone(),
        container.mode().as_str().to_owned(),
    )
}

fn put<'v>(out: &mut Options, key: &str, value: impl Into<Variant<'v>>) -> Result<()> {
    let value: OwnedVariant = value
        .into()
        .try_into()
        .map_err(Error::failed("describing a container"))?;
    out.insert(key.to_owned(), value);
    Ok(())
}

/// The dictionary of `GetContainer`, as far as it costs nothing.
fn describe(container: &Container, caller: &Caller) -> Result<Options> {
    let mut out = Options::new();
    let (name, status, image, created, mode) = row(container);
    put(&mut out, "name", name)?;
    put(&mut out, "status", status)?;
    put(&mut out, "image", image)?;
    put(&mut out, "created", created)?;
    put(&mut out, "mode", mode)?;
    put(&mut out, "managed", container.owner.is_some())?;
    put(&mut out, "owned", container.owner == Some(caller.uid))?;
    if let Some(owner) = container.owner {
        put(&mut out, "owner", owner)?;
    }
    let features: Vec<&str> = container.features().collect();
    put(&mut out, "features", features)?;
    let left_out: Vec<&str> = container
        .config
        .get(LEFT_OUT)
        .map_or("", String::as_str)
        .lines()
        .collect();
    put(&mut out, "left_out", left_out)?;
    put(&mut out, "privileged", container.is_privileged())?;
    put(&mut out, "ephemeral", container.ephemeral)?;
    // Where others have their things is theirs.
    if container.owner == Some(caller.uid) || caller.is_root() {
        let home = container.home().map(|home| home.display().to_string());
        put(&mut out, "home", home.unwrap_or_default())?;
    }
    Ok(out)
}
