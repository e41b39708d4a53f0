//! Shells and commands inside containers.
//!
//! The way of a shell: [`Shells::open_shell`] finds the container's [`Init`] (kept from the last time, known by its pidfd),
//! the user's account inside ([`Inmate`]), makes a terminal in the container's own devpts, an environment as a login there would
//! give, and has `enter` start the login shell in the container's namespaces. The other end of the terminal goes back
//! over the bus; from then on the daemon has no part in what is typed.
//!
//! # The login session
//!
//! The user's PAM session inside is that of the container's service manager: setting up a user makes it linger, so
//! `user@UID.service` (PAM service `systemd-user`) runs from the container's start, with `XDG_RUNTIME_DIR`, a session bus and
//! `systemctl --user`, and every shell shares it. A login session for each shell would mean running the container's own
//! `su` or `login` in front of it, which asks logind for a session and a scope: the benchmark has both beside each other
//! (`cargo xtask bench kapsule`), and what that adds is more than the whole way to the prompt may take. So a shell is
//! listed by `loginctl list-users` and not by `list-sessions`; what a login would read of environment and groups is read here.

mod accounts;
mod enter;
mod environment;
mod init;
mod inside;
mod program;
mod session;
mod terminal;
mod user;

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

pub use accounts::Inmate;
pub(crate) use enter::run_as;
pub use environment::PASSED_ON;
pub use init::Init;
pub use inside::Root;
pub(crate) use program::{Running, wait_readable};

use crate::caller::Caller;
use crate::config::Config;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::mux::{HostBus, Muxes};
use crate::permission::Permission;
use environment::Environment;
use program::{Program, check_descriptor};
use session::{Session, State};
use terminal::Terminal;

/// As many sessions as one user may have at a time.
const SESSIONS_PER_USER: usize = 512;
/// As many programs are prepared before they are permitted; others are permitted first.
const HELD: usize = 8;
/// As many arguments as a command may have, and bytes in all of them: less than the kernel takes.
const ARGUMENTS: (usize, usize) = (32_768, 1 << 20);

/// The sessions of all containers.
#[derive(Debug)]
pub struct Shells {
    connection: Connection,
    config: Arc<Config>,
    next: AtomicU64,
    /// The init of each running container that was entered, so that it need not be looked at again.
    inits: Mutex<HashMap<String, Arc<Init>>>,
    /// How many sessions each user has.
    counts: Mutex<HashMap<u32, usize>>,
    muxes: Muxes,
    /// One user is set up at a time.
    setting_up: tokio::sync::Mutex<()>,
    /// Places for programs that wait for their permission: each holds a thread, and a password can take minutes.
    held: tokio::sync::Semaphore,
}

impl Shells {
    /// None yet.
    pub fn new(connection: Connection, config: Arc<Config>) -> Arc<Self> {
        Arc::new(Self {
            connection,
            muxes: Muxes::new(Arc::clone(&config)),
            config,
            next: AtomicU64::new(1),
            inits: Mutex::default(),
            counts: Mutex::default(),
            setting_up: tokio::sync::Mutex::default(),
            held: tokio::sync::Semaphore::new(HELD),
        })
    }

    /// Starts a program on a terminal of the container's: the login shell, if `argv` is empty. Gives the terminal's other
    /// end, and the session's object.
    ///
    /// Nothing that has an effect is done before `permission` is given.
    ///
    /// Options: `cwd` s, `user` s, `term` s, `columns` q, `rows` q, `environment` a{ss}, `login` b.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`], [`Error::NotRunning`], [`Error::InvalidArgument`], or [`Error::Failed`] with the step that
    /// failed.
    pub async fn open_shell(
        self: &Arc<Self>,
        caller: &Caller,
        container: &Container,
        permission: Permission,
        argv: Vec<String>,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<(OwnedFd, OwnedObjectPath)> {
        self.start(caller, container, permission, argv, options, None)
            .await
            .and_then(|(master, path)| {
                let master =
                    master.ok_or_else(|| Error::Failed("no terminal was made".to_owned()))?;
                Ok((master, path))
            })
    }

    /// Starts a program with the caller's own descriptors. Options as for [`Shells::open_shell`]; `columns` and `rows`
    /// have no meaning.
    ///
    /// # Errors
    /// As for [`Shells::open_shell`]; [`Error::InvalidArgument`] if a descriptor is a terminal or a directory.
    pub async fn run_command(
        self: &Arc<Self>,
        caller: &Caller,
        container: &Container,
        permission: Permission,
        argv: Vec<String>,
        options: HashMap<String, OwnedVariant>,
        stdio: [OwnedFd; 3],
    ) -> Result<OwnedObjectPath> {
        for (fd, name) in stdio.iter().zip(["stdin", "stdout", "stderr"]) {
            check_descriptor(fd, name)?;
        }
        if argv.is_empty() {
            return Err(Error::InvalidArgument(
                "there is no command to run; OpenShell gives a shell".to_owned(),
            ));
        }
        let stdio = Some(stdio);
        let started = self.start(caller, container, permission, argv, options, stdio);
        Ok(started.await?.1)
    }

    async fn start(
        self: &Arc<Self>,
        caller: &Caller,
        container: &Container,
        mut permission: Permission,
        argv: Vec<String>,
        options: HashMap<String, OwnedVariant>,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<(Option<OwnedFd>, OwnedObjectPath)> {
        let options = Options::read(options)?;
        if argv.len() > ARGUMENTS.0 || argv.iter().map(|a| a.len() + 1).sum::<usize>() > ARGUMENTS.1
        {
            return Err(Error::InvalidArgument(format!(
                "the command is too long: {} arguments and {} bytes at most",
                ARGUMENTS.0, ARGUMENTS.1
            )));
        }
        let place = Place::take(self, caller.uid)?;
        let init = self.init(container).await?;
        // Who was here before finds everything made, and what follows has no effect until the program runs; else it has
        // to be permitted first.
        let mut root = init.root()?;
        let mut account = Inmate::of(&root, caller.uid);
        let has_everything = account.is_some()
            && (caller.uid == 0 || user::has_manager(&init, &root, caller.uid))
            && self.muxes.has_begun(caller, container, &init);
        let held = match has_everything {
            true => self.held.try_acquire().ok(),
            false => None,
        };
        if held.is_none() {
            permission.granted().await?;
        }
        if account.is_none() {
            self.set_up_user(caller, container).await?;
            root = init.root()?;
            account = Inmate::of(&root, caller.uid);
        }
        let inmate = match options.as_root {
            true => Inmate::root(&root),
            false => account.ok_or_else(|| no_account(caller, container))?,
        };
        if caller.uid != 0 {
            self.start_user_manager(&init, container, caller.uid).await;
        }
        let bus = match options.as_root && caller.uid != 0 {
            true => None,
            false => {
                let said = options.environment.get("DBUS_SESSION_BUS_ADDRESS");
                let host = HostBus::of(caller, said.map(String::as_str));
                self.muxes.ensure(caller, container, &init, host).await
            }
        };
        let environment = self.environment(caller, container, &root, &inmate, &options, bus);
        let directories = directories(&options, container, &inmate);
        let outside = init.uid_outside(inmate.uid).ok_or_else(|| {
            Error::Failed(format!(
                "uid {} has no number outside of '{}'",
                inmate.uid, container.name
            ))
        })?;
        let user = inmate.name.clone();
        let name = container.name.to_string();
        let entered = Arc::clone(&init);
        let size = options.size;
        let login = options.login;
        let (hold, release) = match permission.is_given() {
            true => (None, None),
            false => {
                let (hold, release) =
                    std::io::pipe().map_err(Error::failed("starting a program"))?;
                (Some(hold.into()), Some(release))
            }
        };
        let starting = tokio::task::spawn_blocking(move || {
            let (stdio, terminal) = match stdio {
                Some(stdio) => (stdio, None),
                None => {
                    let terminal = Terminal::open(&entered, outside, size)?;
                    let again = || {
                        terminal
                            .slave
                            .try_clone()
                            .map_err(Error::failed("duplicating the terminal"))
                    };
                    let stdio = [again()?, again()?, again()?];
                    (stdio, Some((terminal.master, terminal.place)))
                }
            };
            let program = Program {
                inmate,
                argv,
                login,
                environment,
                directories,
                stdio,
                terminal: terminal.is_some(),
                hold,
                container: name,
            };
            let running = program.start(&entered)?;
            let (master, place) = terminal.unzip();
            Ok::<_, Error>((running, master, place))
        });
        let permitted = permission.granted().await;
        drop(held);
        if let (Ok(()), Some(mut release)) = (&permitted, release) {
            // If nobody waits for it any more, the start has failed and says why.
            let _ = release.write_all(&[enter::GO]);
        }
        let started = starting.await;
        permitted?;
        let (running, master, terminal) =
            started.map_err(Error::failed("starting a program"))??;
        let state = Arc::new(State {
            container: container.name.to_string(),
            user,
            uid: caller.uid,
            running,
            terminal,
            init,
            status: watch::Sender::new(None),
        });
        let path = self.publish(caller, state, place).await?;
        Ok((master, path))
    }

    /// Puts a session on the bus, and takes it away some time after its end.
    async fn publish(
        self: &Arc<Self>,
        caller: &Caller,
        state: Arc<State>,
        place: Place,
    ) -> Result<OwnedObjectPath> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = format!("/org/kde/kapsule/sessions/{number}");
        let object =
            OwnedObjectPath::try_from(path.clone()).map_err(Error::failed("naming the session"))?;
        let added = self
            .connection
            .object_server()
            .at(path.clone(), Session(Arc::clone(&state)))
            .await;
        let connection = self.connection.clone();
        let sender = caller.sender.clone();
        let remember = Duration::from_secs(self.config.remember_seconds);
        tokio::spawn(async move {
            session::watch_over(state, connection.clone(), path.clone(), sender).await;
            drop(place);
            tokio::time::sleep(remember).await;
            let _ = connection.object_server().remove::<Session, _>(path).await;
        });
        added.map_err(Error::failed("putting the session on the bus"))?;
        Ok(object)
    }

    /// The container's init: from the last time, if that one still runs.
    async fn init(&self, container: &Container) -> Result<Arc<Init>> {
        let name = container.name.to_string();
        let pid = container.init_pid.ok_or_else(|| {
            Error::NotRunning(format!("'{name}' does not run; start it and try again"))
        })?;
        {
            let mut inits = self.inits.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(init) = inits.get(&name) {
                if init.is_alive() && init.pid().as_raw_nonzero().get().unsigned_abs() == pid {
                    return Ok(Arc::clone(init));
                }
                inits.remove(&name);
            }
        }
        let of = name.clone();
        let init = tokio::task::spawn_blocking(move || Init::of_container(pid, &of))
            .await
            .map_err(Error::failed("looking at the container"))??;
        let init = Arc::new(init);
        self.inits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, Arc::clone(&init));
        Ok(init)
    }

    /// To be called when a container has stopped, or has gone: what was kept of it goes.
    pub fn container_stopped(&self, name: &str) {
        self.inits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    fn environment(
        &self,
        caller: &Caller,
        container: &Container,
        root: &Root,
        inmate: &Inmate,
        options: &Options,
        bus: Option<String>,
    ) -> Environment {
        let shell = if root.is_program(inmate.shell.as_ref()) {
            inmate.shell.as_str()
        } else {
            "/bin/sh"
        };
        let mut environment = Environment::of_login(root, inmate, shell);
        let screen = container.has_feature("graphics");
        for (name, value) in &options.environment {
            environment.allow(name, value, screen);
        }
        if let Some(term) = &options.term {
            environment.set("TERM", term);
        }
        // What the features say is how the host is reached from inside; it comes after what the caller has outside.
        for (key, value) in &container.config {
            if let Some(name) = key.strip_prefix("environment.") {
                environment.set(name, value);
            }
        }
        environment.remove("XDG_RUNTIME_DIR");
        environment.remove("DBUS_SESSION_BUS_ADDRESS");
        if inmate.uid != 0 || caller.uid == 0 {
            let directory = format!("/run/user/{}", inmate.uid);
            if root.has(directory.as_ref()) {
                environment.set("XDG_RUNTIME_DIR", &directory);
                if root.has(format!("{directory}/bus").as_ref()) {
                    environment.set(
                        "DBUS_SESSION_BUS_ADDRESS",
                        &format!("unix:path={directory}/bus"),
                    );
                }
            }
        }
        if let Some(address) = bus {
            environment.set("DBUS_SESSION_BUS_ADDRESS", &address);
        }
        let podman = "/var/lib/kapsule/podman";
        // Made with the account if its home is the host's: see set_up_user.sh.
        if inmate.uid != 0 && root.has(format!("{podman}/{}", inmate.uid).as_ref()) {
            environment.set("CONTAINERS_STORAGE_CONF", &format!("{podman}/storage.conf"));
        }
        environment.set("container", "kapsule");
        environment.set("KAPSULE_CONTAINER", container.name.as_str());
        environment
    }
}

fn no_account(caller: &Caller, container: &Container) -> Error {
    Error::Failed(format!(
        "'{}' has no account with the uid {}; `kapsule` makes it when it is asked to set up the user",
        container.name, caller.uid
    ))
}

/// Where a program begins: where the caller is, or at home.
fn directories(options: &Options, container: &Container, inmate: &Inmate) -> Vec<String> {
    let mut directories = Vec::new();
    if let Some(cwd) = &options.cwd {
        // A home of the container's own is elsewhere on the host.
        let below = container
            .home()
            .and_then(|home| std::path::Path::new(cwd).strip_prefix(home).ok());
        match below {
            Some(below) => directories.push(format!("{}/{}", inmate.home, below.display())),
            None => directories.push(cwd.clone()),
        }
    }
    directories.push(inmate.home.clone());
    directories
}

/// A user's claim to one session more.
struct Place {
    shells: Arc<Shells>,
    uid: u32,
}

impl Place {
    fn take(shells: &Arc<Shells>, uid: u32) -> Result<Self> {
        let mut counts = shells.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        if *count >= SESSIONS_PER_USER {
            return Err(Error::Busy(format!(
                "{SESSIONS_PER_USER} programs were started already and have not ended; end some of them"
            )));
        }
        *count += 1;
        Ok(Self {
            shells: Arc::clone(shells),
            uid,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .shells
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// The options of a call.
#[derive(Debug, Default)]
struct Options {
    cwd: Option<String>,
    as_root: bool,
    term: Option<String>,
    size: Option<(u16, u16)>,
    environment: HashMap<String, String>,
    login: bool,
}

impl Options {
    fn read(options: HashMap<String, OwnedVariant>) -> Result<Self> {
        let mut read = Self::default();
        let (mut columns, mut rows) = (None, None);
        for (name, value) in options {
            let wrong = |what: &str| {
                Error::InvalidArgument(format!("the option '{name}' has to be {what}"))
            };
            match name.as_str() {
                "cwd" => {
                    let cwd = String::try_from(value).map_err(|_| wrong("a string"))?;
                    if !cwd.is_empty() {
                        if !cwd.starts_with('/') {
                            return Err(wrong("an absolute path"));
                        }
                        read.cwd = Some(cwd);
                    }
                }
                "user" => match String::try_from(value)
                    .map_err(|_| wrong("a string"))?
                    .as_str()
                {
                    "" => {}
                    "root" => read.as_root = true,
                    _ => return Err(wrong("empty (who calls) or 'root'")),
                },
                "term" => {
                    let term = String::try_from(value).map_err(|_| wrong("a string"))?;
                    // terminfo(5) looks for a file of that name.
                    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
                    if term.len() > 64 || !term.chars().all(is_name) {
                        return Err(wrong("the name of a terminal"));
                    }
                    if !term.is_empty() {
                        read.term = Some(term);
                    }
                }
                "columns" => {
                    columns = Some(u16::try_from(value).map_err(|_| wrong("a number (q)"))?)
                }
                "rows" => rows = Some(u16::try_from(value).map_err(|_| wrong("a number (q)"))?),
                "environment" => {
                    read.environment =
                        HashMap::try_from(value).map_err(|_| wrong("a dictionary of strings"))?;
                }
                "login" => {
                    read.login = bool::try_from(value).map_err(|_| wrong("true or false"))?
                }
                _ => {
                    return Err(Error::InvalidArgument(format!(
                        "there is no option '{name}'; those of OpenShell and RunCommand are cwd, user, term, columns, \
                         rows, environment and login"
                    )));
                }
            }
        }
        read.size = columns
            .zip(rows)
            .filter(|&(columns, rows)| columns > 0 && rows > 0);
        Ok(read)
    }
}
