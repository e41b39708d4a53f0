//! The thin engine: one epoll loop that moves bytes as the [`Hub`] says.
//!
//! - Buses are served before clients, so that what a bus has said is known before a client acts on it.
//! - One read takes as many messages as there are; one write passes on as many as go to one place.
//! - A message that is not whole lives in its connection. Small ones wait until they are; a large one that
//!   is passed on unchanged streams through, and needs no memory of its size.
//! - Backpressure is for private ways only: a client whose link is full is not read, and the other way round.

mod alarms;
mod buffers;
mod children;
mod connect;
mod connection;
mod io;
mod joining;
pub(crate) mod kernel;
mod listen;
mod own_service;
mod pace;
mod peer;
mod queue;
mod reading;
mod services;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dbus_wire::address::Address;
use dbus_wire::guid::Guid;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use self::io::{Alarm, Io, Todo, Token};
use self::listen::Listener;
pub use self::listen::{Listen, ListenError};
pub use self::own_service::{
    CallError, IncomingCall, OwnService, Reply, ServeError, ServiceFailed,
};
use self::pace::Pace;
use self::services::ServiceDirs;
use crate::decision::Watcher;
use crate::hub::{Hub, HubConfig, Status};
use crate::limits::Limits;
use crate::local_bus::ActivationId;
use crate::policy::{InsideRules, Policy};
use crate::port::{Bus, Port};
use crate::session::Credentials;

/// One read takes at most this much (bytes).
const READ: usize = 256 * 1024;
/// A message up to this size is read whole before anything is done with it.
const SMALL: usize = 64 * 1024;
/// Clients accepted in one turn.
const ACCEPTS: usize = 64;
/// Descriptors that are kept for other things than clients.
const RESERVE: u64 = 128;
/// How long to wait when a bus has no place in its queue, and when there are no descriptors left.
const AGAIN: Duration = Duration::from_millis(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const SERVICES: u64 = u64::MAX - 2;
const CLOCK: u64 = u64::MAX - 3;
/// Children count down from here.
const CHILDREN: u64 = u64::MAX - 16;
const MOST_CHILDREN: u64 = 1 << 20;

/// What a router is made of.
#[derive(Debug)]
pub struct Config {
    /// The socket for clients.
    pub listen: Listen,
    /// Addresses of the host bus, tried in order; none: no host.
    pub host: Option<Vec<Address>>,
    /// Addresses of a remote container bus; none: the container bus is in this process.
    pub container: Option<Vec<Address>>,
    /// Where services and applications that are installed inside are described, as XDG_DATA_DIRS.
    pub data_dirs: Vec<PathBuf>,
    /// What of the host may be reached.
    pub policy: Policy,
    /// What clients may do inside that are not trusted: all that come by the socket.
    pub inside: InsideRules,
    /// Quotas.
    pub limits: Limits,
    /// For how long to look for more before the thread sleeps: latency bought with processor time. Zero: not at all.
    pub busy_poll: Duration,
}

impl Default for Config {
    /// A message bus by itself, on which everybody trusts everybody and that listens nowhere.
    fn default() -> Self {
        Config {
            listen: Listen::Nowhere,
            host: None,
            container: None,
            data_dirs: Vec::new(),
            policy: Policy::new(),
            inside: InsideRules::default(),
            limits: Limits::default(),
            busy_poll: Duration::ZERO,
        }
    }
}

/// Why a router could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The socket for clients.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A bus could not be reached when the router started.
    #[error("cannot use the {bus}: {problem}")]
    Bus {
        /// Which.
        bus: Bus,
        /// Where, at which step, and why.
        problem: String,
    },
    /// [`Config::inside`] refuses something, and the container bus is not in this process.
    #[error(
        "rules for the clients inside hold on the local bus only: a remote container bus has a policy of its own, \
         which has to say it; leave out one of the two"
    )]
    InsideRules,
    /// The system refused something that the router cannot be without.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

fn system(step: &'static str) -> impl Fn(Errno) -> RouterError {
    move |errno| RouterError::System {
        step,
        source: errno.into(),
    }
}

/// Controls a router from other threads, and from signal handlers' threads.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wake: OwnedFd,
    commands: Mutex<Vec<Wish>>,
}

#[derive(Debug)]
enum Wish {
    Stop,
    SetPolicy(Box<Policy>),
    Adopt(OwnedFd, Admission),
    Status(std::sync::mpsc::Sender<Status>),
}

/// As whom a client is let in that does not come by the socket; see [`Handle::connect_with`].
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// [`InsideRules`] do not bind it, and there is a place for it whatever the limit of clients is.
    pub trusted: bool,
    /// What the bus's driver says of it (GetConnectionUnixUser, GetConnectionUnixProcessID,
    /// GetConnectionCredentials, and by which program `[[hostpass]]` judges). None: what the kernel says, that is
    /// this process.
    pub credentials: Option<Credentials>,
}

impl Handle {
    fn send(&self, wish: Wish) {
        // A panic elsewhere while the list was locked leaves it as it was: whole.
        let mut commands = self
            .shared
            .commands
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        commands.push(wish);
        drop(commands);
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    /// Ends the router: clients are closed after what is queued for them, and [`Router::run`] returns.
    pub fn stop(&self) {
        self.send(Wish::Stop);
    }

    /// A client of the router in this process, over a pair of sockets and not over the one that it listens on: for a
    /// program that answers a name itself, or calls what is inside. It is a client as others are, and has still to
    /// authenticate and to say Hello (for example, `zbus::connection::Builder::unix_stream`). It is trusted: no
    /// [`InsideRules`] bind it.
    ///
    /// # Errors
    /// The system has no sockets left.
    pub fn connect(&self) -> std::io::Result<std::os::unix::net::UnixStream> {
        self.connect_with(Admission {
            trusted: true,
            credentials: None,
        })
    }

    /// A client of the router for somebody else, whose messages this process carries: a program in a virtual machine,
    /// of which a daemon in there says who it is. It authenticates with the mechanism EXTERNAL as the user that this
    /// process is, whatever `admission` says, because it is this process that holds the socket.
    ///
    /// # Errors
    /// The system has no sockets left.
    ///
    /// ```
    /// use dbus_router::{Admission, Config, Credentials, InsideRules, Router};
    ///
    /// let router = Router::start(Config {
    ///     inside: InsideRules::closed(),
    ///     ..Config::default()
    /// })?;
    /// let handle = router.handle();
    /// let serving = std::thread::spawn(move || router.run());
    /// let guest = handle.connect_with(Admission {
    ///     trusted: false,
    ///     credentials: Some(Credentials {
    ///         uid: 1000,
    ///         pid: Some(4711),
    ///         ..Credentials::default()
    ///     }),
    /// })?;
    /// // `guest` is a stream that starts with SASL, as that of any client does.
    /// # drop(guest);
    /// handle.stop();
    /// serving.join().expect("it does not panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_with(
        &self,
        admission: Admission,
    ) -> std::io::Result<std::os::unix::net::UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        self.send(Wish::Adopt(theirs.into(), admission));
        Ok(ours)
    }

    /// From now on these are the rules, for clients that are connected, too: each message is judged by the old ones
    /// or by the new. Who watches a name is told when it can be seen from now on, or not any more. See
    /// [`Hub::set_policy`].
    ///
    /// ```
    /// use dbus_router::{Config, Policy, Router, Rules};
    ///
    /// let router = Router::start(Config::default())?;
    /// let handle = router.handle();
    /// let running = std::thread::spawn(move || router.run());
    /// // Nothing of the host from here on.
    /// handle.set_policy(Policy::from_rules(Rules::default()));
    /// // Answered after that.
    /// let status = handle.status().expect("it runs");
    /// assert_eq!(status.host_bus, "none");
    /// handle.stop();
    /// running.join().expect("it does not panic")?;
    /// # Ok::<(), dbus_router::RouterError>(())
    /// ```
    pub fn set_policy(&self, policy: Policy) {
        self.send(Wish::SetPolicy(Box::new(policy)));
    }

    /// How the router is; none if it does not run any more.
    pub fn status(&self) -> Option<Status> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.send(Wish::Status(sender));
        receiver.recv_timeout(Duration::from_secs(10)).ok()
    }
}

/// A child process that is watched.
enum Watched {
    /// A service that is to take its name.
    Service(ActivationId),
    /// The other end of a `unixexec` address.
    Transport,
}

/// A router with its sockets.
///
/// [`Router::start`] listens and connects to the buses behind; [`Router::run`] serves until
/// [`Handle::stop`].
///
/// ```no_run
/// use dbus_router::{Config, Listen, Router};
///
/// // A message bus by itself: no host, and the container bus in this process.
/// let router = Router::start(Config {
///     listen: Listen::Path("/run/user/1000/inside".into()),
///     ..Config::default()
/// })?;
/// let handle = router.handle();
/// std::thread::spawn(move || router.run());
/// handle.stop();
/// # Ok::<(), dbus_router::RouterError>(())
/// ```
pub struct Router {
    hub: Hub,
    io: Io,
    listener: Option<Listener>,
    accepting: bool,
    /// There were no descriptors left for new clients a moment ago.
    accept_later: bool,
    /// Clients that have not authenticated, and some that have since.
    strangers: VecDeque<Token>,
    host: Option<Vec<Address>>,
    container: Option<Vec<Address>>,
    services: ServiceDirs,
    shared: Arc<Shared>,
    children: HashMap<u64, (Watched, Child, OwnedFd)>,
    next_child: u64,
    /// Buses that had no place for a link, by the number of their alarm.
    busy: HashMap<u64, (Port, Vec<u8>, bool, std::time::Instant)>,
    next_busy: u64,
    /// Why a control link could not be opened.
    problem: Option<(Bus, String)>,
    mapped: bool,
    busy_poll: Duration,
    uid: u32,
    /// The soft limit of open files that this process was started with.
    file_limit: u64,
    buffer: Vec<u8>,
    pace: Pace,
    messages_in_turn: u32,
    stopping: bool,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Router {
    /// Listens, connects to the buses behind, and learns what is on them. Raises the limit of open files to
    /// its hard limit.
    ///
    /// # Errors
    /// The socket cannot be listened on; a bus cannot be reached; the system refuses epoll or the like.
    pub fn start(config: Config) -> Result<Router, RouterError> {
        if config.container.is_some() && !config.inside.is_open() {
            return Err(RouterError::InsideRules);
        }
        let (file_limit, most_files) = raise_file_limit();
        let mut limits = config.limits;
        // A client takes three descriptors: its own and one for each bus.
        let room = most_files.saturating_sub(RESERVE) / 3;
        limits.clients = limits
            .clients
            .min(usize::try_from(room).unwrap_or(usize::MAX));
        let listener = Listener::new(config.listen)?;
        let mut guid = [0; 16];
        rustix::rand::getrandom(&mut guid, rustix::rand::GetRandomFlags::empty())
            .map_err(system("asking for random bytes"))?;
        let wake = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )
        .map_err(system("making an eventfd"))?;
        let uid = rustix::process::geteuid().as_raw();
        let hub = Hub::new(HubConfig {
            guid: Guid(guid),
            host: config.host.is_some(),
            remote_container: config.container.is_some(),
            policy: config.policy,
            inside: config.inside,
            limits,
            machine_id: machine_id(),
            pid: std::process::id(),
            uid,
        });
        let io = Io::new().map_err(|source| RouterError::System {
            step: "making an epoll",
            source,
        })?;
        let mut router = Router {
            hub,
            io,
            listener,
            accepting: false,
            accept_later: false,
            strangers: VecDeque::new(),
            host: config.host,
            container: config.container,
            services: ServiceDirs::new(config.data_dirs),
            shared: Arc::new(Shared {
                wake,
                commands: Mutex::default(),
            }),
            children: HashMap::new(),
            next_child: 0,
            busy: HashMap::new(),
            next_busy: 0,
            problem: None,
            mapped: peer::is_mapped(),
            busy_poll: config.busy_poll,
            uid,
            file_limit,
            buffer: vec![0; READ],
            pace: Pace::new(),
            messages_in_turn: 0,
            stopping: false,
        };
        let watch = |fd: std::os::fd::BorrowedFd<'_>, data| {
            epoll::add(
                router.io.epoll(),
                fd,
                EventData::new_u64(data),
                EventFlags::IN,
            )
            .map_err(system("watching with epoll"))
        };
        watch(router.shared.wake.as_fd(), WAKE)?;
        watch(router.io.alarms.clock(), CLOCK)?;
        if let Some(fd) = router.services.watch_fd() {
            watch(fd, SERVICES)?;
        }
        router
            .hub
            .set_services(router.services.load(), &mut router.io);
        router.hub.start(&mut router.io);
        router.settle();
        let mut events = Vec::new();
        while !router.hub.is_ready() {
            if let Some((bus, problem)) = router.problem.take() {
                return Err(RouterError::Bus { bus, problem });
            }
            router.turn(&mut events)?;
        }
        router.update_accepting()?;
        Ok(router)
    }

    /// The D-Bus address of the router's socket; empty if it has none.
    pub fn address(&self) -> String {
        match &self.listener {
            Some(listener) => format!("{},guid={}", listener.address(), self.hub.guid()),
            None => String::new(),
        }
    }

    /// Tells `watcher` of decisions and messages from now on. Without one, neither costs anything.
    pub fn watch(&mut self, watcher: Box<dyn Watcher>) {
        self.io.watcher = Some(watcher);
    }

    /// Has a command start with the limit of open files that this process had before the router raised it.
    pub fn with_original_limits(&self, command: &mut std::process::Command) {
        kernel::set_file_limit(command, self.file_limit);
    }

    /// For other threads.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// Serves until [`Handle::stop`].
    ///
    /// # Errors
    /// The system refuses to wait for events.
    pub fn run(mut self) -> Result<(), RouterError> {
        let mut events = Vec::new();
        while !self.stopping {
            self.turn(&mut events)?;
        }
        self.hub.shut_down(&mut self.io);
        self.io.flush_dirty();
        Ok(())
    }

    /// Waits for events, and handles them: buses, then clients, then the listener.
    fn turn(&mut self, events: &mut Vec<epoll::Event>) -> Result<(), RouterError> {
        // Room for everything that may be ready: a bus that is served late would be served after a client.
        events.clear();
        events.reserve(self.io.open.max(64) + 8);
        self.wait_for(events)
            .map_err(system("waiting for events"))?;
        self.handle_events(events)?;
        if self.pace.turn(std::mem::take(&mut self.messages_in_turn)) {
            let begin = std::time::Instant::now();
            std::thread::yield_now();
            self.pace.gave(begin.elapsed());
        }
        Ok(())
    }

    /// Waits until something happens; at first awake, if that is wished.
    fn wait_for(&self, events: &mut Vec<epoll::Event>) -> Result<(), Errno> {
        let epoll = self.io.epoll();
        let wait = |events: &mut Vec<epoll::Event>, timeout: Option<&Timespec>| {
            let room = rustix::buffer::spare_capacity(events);
            match epoll::wait(epoll, room, timeout) {
                Ok(_) | Err(Errno::INTR) => Ok(()),
                Err(errno) => Err(errno),
            }
        };
        if !self.busy_poll.is_zero() {
            let begin = std::time::Instant::now();
            let at_once = Timespec::default();
            while events.is_empty() && begin.elapsed() < self.busy_poll {
                wait(events, Some(&at_once))?;
            }
        }
        if events.is_empty() {
            wait(events, None)?;
        }
        Ok(())
    }

    fn handle_events(&mut self, events: &[epoll::Event]) -> Result<(), RouterError> {
        let token = |data: u64| Token {
            index: data as u32,
            generation: (data >> 32) as u32,
        };
        for rank in 0..3 {
            for event in events {
                let data = event.data.u64();
                if data > CHILDREN - MOST_CHILDREN {
                    continue;
                }
                let token = token(data);
                let Some(index) = self.io.live(token) else {
                    continue;
                };
                if self
                    .io
                    .at(index)
                    .is_none_or(|connection| io::rank(connection) != rank)
                {
                    continue;
                }
                let flags = event.flags;
                if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                    self.writable(token);
                }
                if flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP) {
                    self.readable(token);
                }
                self.settle();
            }
        }
        for event in events {
            let data = event.data.u64();
            match data {
                LISTENER => self.accept(),
                WAKE => self.obey(),
                CLOCK => {
                    while let Some(alarm) = self.io.alarms.due() {
                        self.ring(alarm);
                        self.settle();
                    }
                }
                SERVICES => {
                    self.services.changed();
                    self.hub.set_services(self.services.load(), &mut self.io);
                }
                child if child > CHILDREN - MOST_CHILDREN => self.child_ended(child),
                _ => continue,
            }
            self.settle();
        }
        self.update_accepting()
    }

    /// Does what the router asked for while it could not be called.
    fn settle(&mut self) {
        loop {
            while let Some(todo) = self.io.todo.pop_front() {
                match todo {
                    Todo::Open {
                        link,
                        hello,
                        unix_fds,
                    } => {
                        let since = std::time::Instant::now();
                        self.open(link, hello, unix_fds, since);
                    }
                    Todo::Resume(port) => self.resume(port),
                    Todo::Launch(id, launch) => self.launch(id, &launch),
                    Todo::Drained(port) => self.drained(port),
                    Todo::NotSent(port, message) => self.not_sent(port, &message),
                    Todo::Broken(port) => self.broken(port),
                }
            }
            self.io.flush_dirty();
            if self.io.todo.is_empty() {
                return;
            }
        }
    }

    /// The time of an alarm has come.
    fn ring(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Hello(token) => {
                let Some(index) = self.io.live(token) else {
                    return;
                };
                let Some(connection) = self.io.at(index) else {
                    return;
                };
                let registered = match connection.port {
                    Some(Port::Client(id)) => self.hub.is_registered(id),
                    _ => connection.closing,
                };
                if !registered {
                    self.fault(token, "it has not authenticated and said Hello in time");
                }
            }
            Alarm::Link(token) => {
                let Some(index) = self.io.live(token) else {
                    return;
                };
                let Some(port) = self.io.at(index).and_then(|connection| connection.port) else {
                    return;
                };
                if !self.hub.link_is_open(port) {
                    let seconds = self.hub.limits().link_time.as_secs();
                    self.io.destroy(index);
                    self.link_failed(port, &format!("no answer within {seconds} seconds"));
                }
            }
            Alarm::Linger(token) => {
                if let Some(index) = self.io.live(token) {
                    self.io.destroy(index);
                }
            }
            Alarm::Fds(token) => {
                if let Some(index) = self.io.live(token) {
                    self.io.flush(index);
                }
            }
            Alarm::Accept => self.accept_later = false,
            Alarm::Connect(number) => {
                if let Some((link, hello, unix_fds, since)) = self.busy.remove(&number)
                    && self.hub.wants_link(link)
                {
                    self.open(link, hello, unix_fds, since);
                }
            }
            Alarm::Router(number) => {
                if let Some(timer) = self.io.take_timer(number) {
                    self.hub.timer_expired(timer, &mut self.io);
                }
            }
        }
    }

    /// Accepts clients while the buses are there and there is room.
    fn update_accepting(&mut self) -> Result<(), RouterError> {
        let wanted = self.hub.is_ready() && !self.stopping && !self.accept_later;
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        if wanted == self.accepting {
            return Ok(());
        }
        let result = if wanted {
            let data = EventData::new_u64(LISTENER);
            epoll::add(self.io.epoll(), listener, data, EventFlags::IN)
        } else {
            epoll::delete(self.io.epoll(), listener)
        };
        result.map_err(system("watching the socket for clients"))?;
        self.accepting = wanted;
        Ok(())
    }

    /// Does what other threads wish.
    fn obey(&mut self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
        let wishes = {
            let mut commands = self
                .shared
                .commands
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::take(&mut *commands)
        };
        for wish in wishes {
            match wish {
                Wish::Stop => self.stopping = true,
                Wish::Adopt(socket, admission) => self.welcome(socket, Some(admission)),
                Wish::SetPolicy(policy) => self.hub.set_policy(*policy, &mut self.io),
                Wish::Status(sender) => {
                    let _ = sender.send(self.hub.status(&self.io));
                }
            }
        }
    }
}

/// Raises the soft limit of open files to the hard one; returns what it was, and what it is.
fn raise_file_limit() -> (u64, u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let in_force = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    (number(limit.current), number(in_force))
}

/// The machine's id: the same file that libdbus reads, and the older one.
fn machine_id() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .into_iter()
        .find_map(|path| {
            let id = std::fs::read_to_string(path).ok()?.trim().to_owned();
            Guid::parse(&id).map(|_| id)
        })
}
