//! The session bus inside: one `kapsule-dbus-mux` on the host for each user and container, watched over.
//!
//! It runs as that user, with nothing but that user's rights. Its socket is in the directory of the host that is
//! `/.kapsule/run` inside, where nothing inside can write. With systemd inside, the container has a session bus of its own, and
//! the multiplexer joins the two; otherwise it is the inside's bus itself. Only whose uid is the same on both sides has one,
//! which is the container's owner. Others who enter have the container's own bus: root inside is the owner, and a socket
//! that leads to another's desktop would be his, too.
//!
//! The container's bus is named to it by a descriptor (`unix:path=/proc/self/fd/N`) and not by a path: a path that leads
//! into the container could be made to lead to the host's own bus, and then nothing would stand between that and a program
//! inside. The descriptor is of a socket on a file system that the container has and the host has not.
//!
//! It ends with the container, and with this daemon.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::process::Signal;
use tokio::sync::{Notify, oneshot, watch};

use crate::caller::Caller;
use crate::config::Config;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::shell::{Init, Root, Running, run_as, wait_readable};

/// The feature by which a container asks for it.
pub const FEATURE: &str = "dbus";
/// Where the sockets are, inside.
const INSIDE: &str = "/.kapsule/run";
/// As long as a shell waits for it to listen.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts, at first; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts, at most.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Attempts without success, one after the other, after which it is left until somebody enters.
const ATTEMPTS: u32 = 8;
/// `TMPFS_MAGIC`, statfs(2).
const TMPFS: i64 = 0x0102_1994;

/// All of them.
#[derive(Debug)]
pub(crate) struct Muxes {
    config: Arc<Config>,
    starter: Starter,
    running: Mutex<HashMap<(String, u32), Arc<Mux>>>,
}

/// One, from the first shell that needs it to the container's end.
#[derive(Debug)]
struct Mux {
    plan: Plan,
    state: watch::Sender<State>,
    /// Which socket of the container's it was given: another one, if the bus there was made anew.
    inside: Mutex<Option<Identity>>,
    again: Notify,
}

/// A socket: device and number.
type Identity = (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Listening,
    /// It was given up.
    Ended,
}

/// What is needed to start it, once and again.
#[derive(Debug, Clone)]
struct Plan {
    program: PathBuf,
    container: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    name: String,
    home: PathBuf,
    socket: PathBuf,
    ready: PathBuf,
    host_bus: HostBus,
}

/// The address of the caller's own session bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostBus(String);

impl HostBus {
    /// What the caller says, or the usual place. The program that will connect is the caller's own, so any address is
    /// as good as another; only such as run a program are refused.
    pub(crate) fn of(caller: &Caller, said: Option<&str>) -> Self {
        let usual = || format!("unix:path=/run/user/{}/bus", caller.uid);
        Self(match said {
            Some(address)
                if address.len() < 1024 && address.split(';').all(|a| a.starts_with("unix:")) =>
            {
                address.to_owned()
            }
            _ => usual(),
        })
    }

    /// Whether a socket is there, as far as can be seen without connecting.
    fn may_be_there(&self) -> bool {
        self.0.split(';').any(|address| {
            let path = address
                .trim_start_matches("unix:")
                .split(',')
                .find_map(|pair| pair.strip_prefix("path="));
            // Abstract sockets have no file; and a path with signs that are escaped is looked for by who connects.
            path.is_none_or(|path| path.contains('%') || Path::new(path).exists())
        })
    }
}

impl Muxes {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            starter: Starter::default(),
            running: Mutex::default(),
        }
    }

    /// Makes sure that it runs for this user and container. Its address inside; `None` if there is none to be had, which
    /// is no reason not to enter.
    pub(crate) async fn ensure(
        &self,
        caller: &Caller,
        container: &Container,
        init: &Arc<Init>,
        host_bus: HostBus,
    ) -> Option<String> {
        if !container.has_feature(FEATURE) {
            return None;
        }
        // The container is another's: its root can be anybody inside, and would have the caller's desktop.
        if init.uid_outside(caller.uid) != Some(caller.uid) {
            tracing::debug!(container = %container.name, uid = caller.uid, "no multiplexer in another's container");
            return None;
        }
        let key = (container.name.to_string(), caller.uid);
        let mux = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, mux| *mux.state.borrow() != State::Ended);
            match running.get(&key) {
                Some(mux) => Arc::clone(mux),
                None => {
                    if !host_bus.may_be_there() {
                        tracing::debug!(address = host_bus.0, "the caller has no session bus");
                        return None;
                    }
                    let mux = Arc::new(Mux::new(self.plan(caller, container, host_bus)));
                    running.insert(key, Arc::clone(&mux));
                    let init = Arc::clone(init);
                    tokio::spawn(Arc::clone(&mux).watch_over(init, self.starter.clone()));
                    mux
                }
            }
        };
        mux.follow(init);
        let mut state = mux.state.subscribe();
        let decided = state.wait_for(|state| *state != State::Starting);
        match tokio::time::timeout(PATIENCE, decided).await {
            Ok(Ok(state)) if *state == State::Listening => {
                Some(format!("unix:path={INSIDE}/{}/bus", caller.uid))
            }
            Ok(_) => None,
            Err(_) => {
                tracing::warn!(container = %container.name, uid = caller.uid, "the session bus takes its time; entering without");
                None
            }
        }
    }

    /// Whether [`Muxes::ensure`] would start nothing.
    pub(crate) fn has_begun(&self, caller: &Caller, container: &Container, init: &Init) -> bool {
        if !container.has_feature(FEATURE) || init.uid_outside(caller.uid) != Some(caller.uid) {
            return true;
        }
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .get(&(container.name.to_string(), caller.uid))
            .is_some_and(|mux| *mux.state.borrow() != State::Ended)
    }

    fn plan(&self, caller: &Caller, container: &Container, host_bus: HostBus) -> Plan {
        let directory = container.run_directory(&self.config.data_directory);
        Plan {
            program: self.config.mux_program.clone(),
            container: container.name.to_string(),
            uid: caller.uid,
            gid: caller.gid,
            groups: caller.groups.iter().map(|group| group.gid).collect(),
            name: caller.name.clone(),
            home: caller.home.clone(),
            socket: directory.join(caller.uid.to_string()).join("bus"),
            // Beside the directory that is to be seen inside.
            ready: directory.with_file_name(format!("ready-{}", caller.uid)),
            host_bus,
        }
    }
}

impl Mux {
    fn new(plan: Plan) -> Self {
        Self {
            plan,
            state: watch::Sender::new(State::Starting),
            inside: Mutex::default(),
            again: Notify::new(),
        }
    }

    /// Has it started again if the container's bus is another one now.
    fn follow(&self, init: &Init) {
        let Ok(root) = init.root() else { return };
        let now = session_bus(&root, init, self.plan.uid).map(|(_, identity)| identity);
        let used = *self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.state.borrow() == State::Listening && now != used {
            tracing::info!(
                container = self.plan.container,
                uid = self.plan.uid,
                "the container's session bus is another one now"
            );
            self.state.send_replace(State::Starting);
            self.again.notify_one();
        }
    }

    async fn watch_over(self: Arc<Self>, init: Arc<Init>, starter: Starter) {
        let Plan { container, uid, .. } = &self.plan;
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            let began = Instant::now();
            match self.run(&init, &starter).await {
                Ok(End::OfContainer) => break,
                Ok(End::Again) => {
                    attempts = 0;
                    continue;
                }
                Ok(End::OfProgram(status)) => {
                    tracing::warn!(container, uid, status, "kapsule-dbus-mux has ended");
                }
                Err(error) => tracing::warn!(
                    container,
                    uid,
                    error = error.text(),
                    "no session bus inside"
                ),
            }
            if *self.state.borrow() == State::Listening || began.elapsed() > LAST_PAUSE {
                (pause, attempts) = (FIRST_PAUSE, 0);
            }
            self.state.send_replace(State::Starting);
            attempts += 1;
            if attempts >= ATTEMPTS || !self.plan.host_bus.may_be_there() || !init.is_alive() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.state.send_replace(State::Ended);
    }

    /// Starts it, and waits for its end, or the container's.
    async fn run(&self, init: &Init, starter: &Starter) -> Result<End> {
        let plan = &self.plan;
        let root = init.root()?;
        let inside = session_bus(&root, init, plan.uid);
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) =
            inside.as_ref().map(|(_, identity)| *identity);
        plan.make_directory().map_err(Error::failed(format_args!(
            "making the directory of {}",
            plan.socket.display()
        )))?;
        let ready = Ready::at(plan.ready.clone(), plan.uid).map_err(Error::failed(
            format_args!("making {}", plan.ready.display()),
        ))?;
        let command = plan.command(inside.map(|(socket, _)| socket));
        let running = starter.start(command).await?;
        tracing::debug!(
            container = plan.container,
            uid = plan.uid,
            "kapsule-dbus-mux started"
        );
        let ready = async {
            ready.wait().await;
            self.state.send_replace(State::Listening);
            std::future::pending().await
        };
        let ended = running.wait();
        tokio::pin!(ended);
        let end = tokio::select! {
            status = &mut ended => return Ok(End::OfProgram(status?)),
            () = wait_readable(init.pidfd()) => End::OfContainer,
            () = self.again.notified() => End::Again,
            () = ready => End::Again,
        };
        running.signal(Signal::TERM, false)?;
        if tokio::time::timeout(PATIENCE, &mut ended).await.is_err() {
            running.signal(Signal::KILL, false)?;
            ended.await?;
        }
        Ok(end)
    }
}

/// Why it does not run any more.
enum End {
    OfProgram(i32),
    OfContainer,
    Again,
}

impl Plan {
    /// The socket's directory: the daemon makes it with the container, and for who enters later.
    fn make_directory(&self) -> io::Result<()> {
        let Some(directory) = self.socket.parent() else {
            return Ok(());
        };
        if !directory.is_dir() {
            std::fs::create_dir_all(directory)?;
        }
        std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid))?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
    }

    fn command(&self, inside: Option<OwnedFd>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--listen").arg(&self.socket);
        match &inside {
            Some(socket) => {
                command.arg("--container-bus");
                command.arg(format!("unix:path=/proc/self/fd/{}", socket.as_raw_fd()));
            }
            // What is installed on the host is not inside; it is not to be started as if it were.
            None => {
                command.args(["--inside-data-dirs", "/nonexistent"]);
            }
        }
        command
            .args(["--host-bus", &self.host_bus.0])
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("XDG_RUNTIME_DIR", format!("/run/user/{}", self.uid))
            .env("NOTIFY_SOCKET", &self.ready)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        run_as(
            &mut command,
            self.uid,
            self.gid,
            self.groups.clone(),
            inside,
        );
        command
    }
}

/// The session bus of the container's own that systemd made for this user.
fn session_bus(root: &Root, init: &Init, uid: u32) -> Option<(OwnedFd, Identity)> {
    let socket = root
        .find_itself(format!("/run/user/{uid}/bus").as_ref())
        .ok()?;
    let stat = rustix::fs::fstat(&socket).ok()?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    let is_users = init.uid_outside(uid) == Some(stat.st_uid);
    let filesystem = rustix::fs::fstatfs(&socket).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let device = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let is_inside = filesystem.f_type as i64 == TMPFS && !has_device(&mounts, device);
    if is_socket && is_users && is_inside {
        Some((socket, (stat.st_dev, stat.st_ino)))
    } else {
        tracing::warn!(
            uid,
            "what the container has at /run/user/{uid}/bus is no session bus of its own"
        );
        None
    }
}

/// Whether the host has a file system of this device mounted, given `/proc/self/mountinfo`.
fn has_device(mounts: &str, (major, minor): (u32, u32)) -> bool {
    let device = format!("{major}:{minor}");
    mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some(&device))
}

/// A socket to which a program of this user says that it is ready, sd_notify(3). By its path: not every program knows
/// abstract names.
struct Ready {
    socket: tokio::net::UnixDatagram,
    path: PathBuf,
}

impl Ready {
    fn at(path: PathBuf, uid: u32) -> io::Result<Self> {
        // Of a daemon that was killed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = tokio::net::UnixDatagram::bind(&path)?;
        let made = Self { socket, path };
        std::fs::set_permissions(&made.path, std::fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(&made.path, Some(uid), None)?;
        Ok(made)
    }

    /// Returns when it was said.
    async fn wait(&self) {
        let mut message = [0; 512];
        while let Ok(length) = self.socket.recv(&mut message).await {
            if message[..length]
                .split(|&b| b == b'\n')
                .any(|line| line == b"READY=1")
            {
                return;
            }
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Starts programs from one thread that lives as long as the daemon: they end with the thread that started them
/// (`PR_SET_PDEATHSIG`), and the runtime's threads come and go.
#[derive(Debug, Clone, Default)]
struct Starter(Arc<Mutex<Option<std::sync::mpsc::Sender<Request>>>>);

type Request = (Command, oneshot::Sender<io::Result<u32>>);

impl Starter {
    async fn start(&self, command: Command) -> Result<Running> {
        let doing = format!("starting {}", command.get_program().display());
        let (answer, answered) = oneshot::channel();
        {
            let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = thread.get_or_insert_with(Self::thread);
            // If the thread has ended, the answer is dropped, and that is seen below.
            let _ = sender.send((command, answer));
        }
        let pid = answered
            .await
            .map_err(Error::failed(&doing))?
            .map_err(Error::failed(&doing))?;
        Running::of_child(pid)
    }

    fn thread() -> std::sync::mpsc::Sender<Request> {
        let (sender, receiver) = std::sync::mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn().map(|child| child.id()));
            }
        });
        sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_the_hosts_is_known_by_its_device() {
        let mounts = "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:25 / /run rw shared:2 - tmpfs tmpfs rw\n";
        assert!(has_device(mounts, (0, 25)));
        assert!(!has_device(mounts, (0, 2)) && !has_device(mounts, (25, 0)));
    }

    #[test]
    fn an_address_that_runs_a_program_is_not_taken() {
        let caller = Caller {
            sender: zbus::names::OwnedUniqueName::try_from(":1.1").expect("it is one"),
            uid: 1000,
            gid: 1000,
            pid: 1,
            name: "ann".to_owned(),
            home: "/home/ann".into(),
            shell: "/bin/sh".into(),
            groups: Vec::new(),
            interactive: false,
        };
        let usual = "unix:path=/run/user/1000/bus";
        for (said, taken) in [
            (None, usual),
            (Some("unix:path=/tmp/x,guid=1"), "unix:path=/tmp/x,guid=1"),
            (Some("unixexec:path=/bin/sh"), usual),
            (Some("unix:path=/a;unixexec:path=/bin/sh"), usual),
            (Some("tcp:host=example.org"), usual),
        ] {
            assert_eq!(HostBus::of(&caller, said).0, taken);
        }
    }
}
