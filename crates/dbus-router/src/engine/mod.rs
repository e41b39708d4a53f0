//! The thin engine: one epoll loop that moves bytes as the [`Hub`] says.
//!
//! - Buses are served before clients, so that what a bus has said is known before a client acts on it.
//! - One read takes as many messages as there are; one write passes on as many as go to one place.
//! - A message that is not whole lives in its connection. Small ones wait until they are; a large one that
//!   is passed on unchanged streams through, and needs no memory of its size.
//! - Backpressure is for private ways only: a client whose link is full is not read, and the other way round.

mod connect;
mod connection;
mod io;
mod kernel;
mod listen;
mod peer;
mod queue;
mod services;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dbus_wire::address::Address;
use dbus_wire::frame::{Scan, scan};
use dbus_wire::guid::Guid;
use dbus_wire::header::Header;
use dbus_wire::sasl;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use self::connect::Attempt;
use self::connection::{Connection, Rest, Stage, Then};
use self::io::{Alarm, Io, Todo, Token};
use self::listen::Listener;
pub use self::listen::{Listen, ListenError};
use self::queue::{MAX_FDS, Written};
use self::services::ServiceDirs;
use crate::hub::{Frame, Hub, HubConfig, LaunchEnd, Status, Verdict};
use crate::limits::Limits;
use crate::local_bus::{ActivationId, Launch};
use crate::outbox::{Fds, Outbox, Payload};
use crate::policy::Policy;
use crate::port::{Bus, Port};

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
    /// Quotas.
    pub limits: Limits,
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
    Status(std::sync::mpsc::Sender<Status>),
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
/// use dbus_router::{Config, Limits, Listen, Policy, Router};
///
/// // A message bus by itself: no host, and the container bus in this process.
/// let router = Router::start(Config {
///     listen: Listen::Path("/run/user/1000/inside".into()),
///     host: None,
///     container: None,
///     data_dirs: Vec::new(),
///     policy: Policy::new(),
///     limits: Limits::default(),
/// })?;
/// let handle = router.handle();
/// std::thread::spawn(move || router.run());
/// handle.stop();
/// # Ok::<(), dbus_router::RouterError>(())
/// ```
pub struct Router {
    hub: Hub,
    io: Io,
    listener: Listener,
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
    uid: u32,
    buffer: Vec<u8>,
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
        let most_files = raise_file_limit();
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
            uid,
            buffer: vec![0; READ],
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
        if let Some(fd) = router.services.watch_fd() {
            watch(fd, SERVICES)?;
        }
        router
            .hub
            .set_services(router.services.load(), &mut router.io);
        router.hub.start(&mut router.io);
        router.settle();
        while !router.hub.is_ready() {
            if let Some((bus, problem)) = router.problem.take() {
                return Err(RouterError::Bus { bus, problem });
            }
            router.turn()?;
        }
        router.update_accepting()?;
        Ok(router)
    }

    /// The D-Bus address of the router's socket.
    pub fn address(&self) -> String {
        format!("{},guid={}", self.listener.address(), self.hub.guid())
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
        while !self.stopping {
            self.turn()?;
        }
        self.hub.shut_down(&mut self.io);
        self.io.flush_dirty();
        Ok(())
    }

    /// Waits for events, and handles them: buses, then clients, then the listener.
    fn turn(&mut self) -> Result<(), RouterError> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(self.io.open.max(64) + 8);
        let timeout = self.io.until_alarm().map(|wait| rustix::time::Timespec {
            tv_sec: wait.as_secs().min(3600) as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        match epoll::wait(
            self.io.epoll(),
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(system("waiting for events")(errno)),
        }
        self.handle_events(&events)
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
                SERVICES => {
                    self.services.changed();
                    self.hub.set_services(self.services.load(), &mut self.io);
                }
                child if child > CHILDREN - MOST_CHILDREN => self.child_ended(child),
                _ => continue,
            }
            self.settle();
        }
        while let Some(alarm) = self.io.due() {
            self.ring(alarm);
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

    fn writable(&mut self, token: Token) {
        if let Some(index) = self.io.live(token)
            && self
                .io
                .at(index)
                .is_some_and(|connection| connection.blocked)
        {
            self.io.flush(index);
        }
    }

    /// Reads once, and handles what came.
    fn readable(&mut self, token: Token) {
        let Some(index) = self.io.live(token) else {
            return;
        };
        let Some(connection) = self.io.at_mut(index) else {
            return;
        };
        if connection.waiting || connection.paused || connection.closing {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let partial = std::mem::take(&mut connection.partial);
        let start = partial.len();
        if buffer.len() < start + SMALL {
            buffer.resize(start + READ, 0);
        }
        buffer[..start].copy_from_slice(&partial);
        let received = queue::receive(
            connection.socket.as_fd(),
            &mut buffer[start..],
            &mut connection.fds,
        );
        match received {
            Ok(received) if received.truncated => {
                self.fault(token, "the kernel had no room for its file descriptors");
            }
            Ok(_) if connection.fds.len() > 2 * MAX_FDS => {
                self.fault(token, "more file descriptors came than messages can carry");
            }
            Ok(received) if received.bytes > 0 => {
                drop(partial);
                self.consume(token, &buffer[..start + received.bytes], start);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) =>
            {
                connection.partial = partial;
            }
            _ => self.ended(token),
        }
        if buffer.len() > READ {
            buffer.truncate(READ);
            buffer.shrink_to_fit();
        }
        self.buffer = buffer;
    }

    /// Handles bytes of a connection; what cannot be handled yet is kept in it. The first `known` were there
    /// before.
    fn consume(&mut self, token: Token, data: &[u8], known: usize) {
        let Some(connection) = self.io.at_mut(token.index) else {
            return;
        };
        let used = match &mut connection.stage {
            Stage::Open => 0,
            Stage::Authenticating(_) => match self.authenticate(token, &data[known..]) {
                Some(used) => known + used,
                None => return,
            },
            Stage::Joining(_) => match self.join(token, &data[known..]) {
                Some(used) => known + used,
                None => return,
            },
        };
        if let Some(used) = self.messages(token, data, used)
            && let Some(index) = self.io.live(token)
            && let Some(connection) = self.io.at_mut(index)
        {
            connection.partial = data[used..].to_vec();
        }
    }

    /// Handles messages from `at` on. Returns how far it came; none if the connection is gone.
    fn messages(&mut self, token: Token, data: &[u8], mut at: usize) -> Option<usize> {
        // Whole messages that are passed on to one place are written together.
        let mut run: Option<(Port, usize)> = None;
        macro_rules! end_run {
            () => {
                if let Some((to, start)) = run.take() {
                    self.io.forward(to, &data[start..at], Fds::NONE);
                    self.io.end_stream(to);
                }
            };
        }
        let mut fault = None;
        loop {
            self.io.live(token)?;
            let connection = self.io.at_mut(token.index)?;
            let port = connection.port?;
            if let Some(rest) = connection.rest.take() {
                match self.go_on(token, port, rest, &data[at..]) {
                    Ok(used) => at += used,
                    Err(problem) => {
                        fault = Some(problem);
                        break;
                    }
                }
                self.io.live(token)?;
                if self.io.at(token.index)?.rest.is_some() {
                    break;
                }
                continue;
            }
            let bytes = &data[at..];
            let prologue = match scan(bytes) {
                Ok(Scan::Message(prologue)) => prologue,
                Ok(Scan::NeedBytes(_)) => break,
                Err(error) => {
                    fault = Some(error.to_string());
                    break;
                }
            };
            let length = prologue.message_len();
            let whole = bytes.len() >= length;
            if !whole && length <= SMALL {
                break;
            }
            let header = match Header::parse(&bytes[..prologue.header_len()]) {
                Ok(header) => header,
                Err(error) => {
                    fault = Some(error.to_string());
                    break;
                }
            };
            let count = header.unix_fds as usize;
            if count > MAX_FDS || (whole && count > connection.fds.len()) {
                fault = Some(format!(
                    "the message promises {count} file descriptors; {} came with it",
                    connection.fds.len()
                ));
                break;
            }
            if count > connection.fds.len() {
                break;
            }
            let verdict = self.hub.route(port, &header, &mut self.io);
            if self.io.live(token).is_none() {
                end_run!();
                return None;
            }
            if verdict == Verdict::Wait {
                end_run!();
                self.wait(token, port);
                return Some(at);
            }
            let connection = self.io.at_mut(token.index)?;
            let fds = if count > 0 {
                Fds::new(connection.fds.drain(..count).collect())
            } else {
                Fds::NONE
            };
            match verdict {
                Verdict::Pass(to) if whole && fds.is_empty() => {
                    match run {
                        // What the router sends there itself waits behind the run.
                        Some((same, _)) if same == to && !self.io.is_held(to) => {}
                        _ => {
                            end_run!();
                            if self.io.begin_stream(to) {
                                run = Some((to, at));
                            } else {
                                self.pass_held(to, &bytes[..length], Fds::NONE);
                            }
                        }
                    }
                    at += length;
                }
                Verdict::Pass(to) => {
                    end_run!();
                    let now = bytes.len().min(length);
                    if !self.io.begin_stream(to) {
                        if whole {
                            self.pass_held(to, &bytes[..length], fds);
                            at += length;
                        } else {
                            self.collect(token, length, fds, Then::Pass(to));
                        }
                        continue;
                    }
                    self.io.forward(to, &bytes[..now], fds);
                    at += now;
                    self.passed(token, to, length - now);
                }
                Verdict::Rewrite(to) => {
                    end_run!();
                    let now = bytes.len().min(length);
                    let head = self.hub.rewritten();
                    if !self.io.begin_stream(to) {
                        let Some(body) = bytes.get(header.raw().len()..length) else {
                            // Two large messages to one client at once: the second has to wait for the first.
                            let mut buffer = head.to_vec();
                            buffer.extend_from_slice(&bytes[header.raw().len()..now]);
                            let total = head.len() + (length - header.raw().len());
                            at += now;
                            self.collect_on(token, buffer, total, fds, Then::Pass(to));
                            continue;
                        };
                        let message = [head, body].concat();
                        self.pass_held(to, &message, fds);
                        at += length;
                        continue;
                    }
                    let first = [head, &bytes[header.raw().len()..now]].concat();
                    self.io.forward(to, &first, fds);
                    at += now;
                    self.passed(token, to, length - now);
                }
                Verdict::Take => {
                    end_run!();
                    if !whole {
                        self.collect(token, length, fds, Then::Take);
                        continue;
                    }
                    let body = Payload::Borrowed(&bytes[prologue.header_len()..length]);
                    let frame = Frame { header, body, fds };
                    at += length;
                    if let Err(problem) = self.hub.take(port, &frame, &mut self.io) {
                        fault = Some(problem.to_string());
                        break;
                    }
                }
                Verdict::Drop => {
                    end_run!();
                    let now = bytes.len().min(length);
                    at += now;
                    if now < length {
                        let connection = self.io.at_mut(token.index)?;
                        connection.rest = Some(Rest::Skipping { left: length - now });
                    }
                }
                Verdict::Wait => {}
            }
        }
        end_run!();
        if fault.is_none() && at == data.len() {
            let connection = self
                .io
                .at(token.index)
                .filter(|_| self.io.live(token).is_some())?;
            if !connection.fds.is_empty() && connection.rest.is_none() {
                fault = Some("file descriptors came that no message promises".to_owned());
            }
        }
        if let Some(problem) = fault {
            self.fault(token, &problem);
            return None;
        }
        self.pause_if_full(token);
        Some(at)
    }

    /// A message to a client in the middle of another's: goes behind it.
    fn pass_held(&mut self, to: Port, bytes: &[u8], fds: Fds) {
        let message = crate::outbox::Outgoing {
            head: bytes,
            body: Payload::Borrowed(&[]),
            fds: &fds,
            charge: None,
        };
        self.io.send(to, message);
    }

    /// The first part of a message was passed on.
    fn passed(&mut self, token: Token, to: Port, left: usize) {
        if left == 0 {
            return self.io.end_stream(to);
        }
        if self.io.live(token).is_some()
            && let Some(connection) = self.io.at_mut(token.index)
        {
            connection.rest = Some(Rest::Passing { to, left });
        }
    }

    fn collect(&mut self, token: Token, length: usize, fds: Fds, then: Then) {
        self.collect_on(token, Vec::with_capacity(SMALL), length, fds, then);
    }

    fn collect_on(&mut self, token: Token, buffer: Vec<u8>, length: usize, fds: Fds, then: Then) {
        if let Some(connection) = self.io.at_mut(token.index) {
            connection.rest = Some(Rest::Collecting {
                buffer,
                length,
                fds,
                then,
            });
        }
    }

    /// Goes on with a message whose beginning was seen. Returns how many bytes belonged to it.
    fn go_on(
        &mut self,
        token: Token,
        port: Port,
        rest: Rest,
        data: &[u8],
    ) -> Result<usize, String> {
        let put_back = |io: &mut Io, rest: Rest| {
            if let Some(connection) = io.at_mut(token.index) {
                connection.rest = Some(rest);
            }
        };
        match rest {
            Rest::Passing { to, left } => {
                let now = left.min(data.len());
                self.io.forward(to, &data[..now], Fds::NONE);
                if now < left {
                    put_back(
                        &mut self.io,
                        Rest::Passing {
                            to,
                            left: left - now,
                        },
                    );
                } else {
                    self.io.end_stream(to);
                }
                Ok(now)
            }
            Rest::Skipping { left } => {
                let now = left.min(data.len());
                if now < left {
                    put_back(&mut self.io, Rest::Skipping { left: left - now });
                }
                Ok(now)
            }
            Rest::Collecting {
                mut buffer,
                length,
                fds,
                then,
            } => {
                let now = (length - buffer.len()).min(data.len());
                buffer.extend_from_slice(&data[..now]);
                if buffer.len() < length {
                    put_back(
                        &mut self.io,
                        Rest::Collecting {
                            buffer,
                            length,
                            fds,
                            then,
                        },
                    );
                    return Ok(now);
                }
                let whole = Arc::new(buffer);
                let prologue = whole
                    .first_chunk()
                    .and_then(|first| dbus_wire::frame::Prologue::parse(first).ok())
                    .ok_or("a collected message changed its mind")?;
                let head = prologue.header_len();
                let header = Header::parse(&whole[..head]).map_err(|error| error.to_string())?;
                match then {
                    Then::Pass(to) => {
                        let body = Payload::Shared(&whole, head);
                        let message = crate::outbox::Outgoing {
                            head: &whole[..head],
                            body,
                            fds: &fds,
                            charge: None,
                        };
                        self.io.send(to, message);
                    }
                    Then::Take => {
                        let body = Payload::Shared(&whole, head);
                        let frame = Frame { header, body, fds };
                        self.hub
                            .take(port, &frame, &mut self.io)
                            .map_err(|problem| problem.to_string())?;
                    }
                }
                Ok(now)
            }
        }
    }

    /// The router wants to see the next message of this port later.
    fn wait(&mut self, token: Token, port: Port) {
        if let Some(connection) = self.io.at_mut(token.index) {
            connection.waiting = true;
            self.io.watch(token.index);
        }
        // What it waits for comes by the client's links: they are read even if the client does not read.
        if let Port::Client(id) = port {
            for bus in [Bus::Host, Bus::Container] {
                self.unpause(Port::Link(bus, id));
            }
        }
    }

    /// A message that had to wait is offered again.
    fn resume(&mut self, port: Port) {
        let Some(index) = self.io.place(port) else {
            return;
        };
        let token = self.io.token(index);
        let Some(connection) = self.io.at_mut(index) else {
            return;
        };
        if !std::mem::take(&mut connection.waiting) {
            return;
        }
        self.io.watch(index);
        self.consume_kept(token);
    }

    fn consume_kept(&mut self, token: Token) {
        let Some(connection) = self.io.at_mut(token.index) else {
            return;
        };
        let partial = std::mem::take(&mut connection.partial);
        if !partial.is_empty() {
            self.consume(token, &partial, partial.len());
        }
    }

    /// Stops reading a connection while what it feeds is full.
    fn pause_if_full(&mut self, token: Token) {
        let Some(connection) = self.io.at(token.index) else {
            return;
        };
        let full = match connection.port {
            Some(Port::Client(id)) => [Bus::Host, Bus::Container]
                .into_iter()
                .any(|bus| self.io.is_full(Port::Link(bus, id))),
            Some(Port::Link(_, id)) => {
                let client = Port::Client(id);
                let waiting = self
                    .io
                    .place(client)
                    .and_then(|index| self.io.at(index))
                    .is_some_and(|client| client.waiting);
                if waiting && self.io.queued(client).bytes > self.hub.limits().receiver_bytes {
                    self.io.todo.push_back(Todo::Broken(client));
                }
                !waiting && self.io.is_full(client)
            }
            _ => false,
        };
        if full && let Some(connection) = self.io.at_mut(token.index) {
            connection.paused = true;
            self.io.watch(token.index);
        }
    }

    /// A queue has drained: what feeds it is read again.
    fn drained(&mut self, port: Port) {
        match port {
            Port::Client(id) => {
                self.unpause(Port::Link(Bus::Host, id));
                self.unpause(Port::Link(Bus::Container, id));
            }
            Port::Link(_, id) => self.unpause(Port::Client(id)),
            Port::Control(_) => {}
        }
    }

    fn unpause(&mut self, port: Port) {
        if let Some(index) = self.io.place(port)
            && let Some(connection) = self.io.at_mut(index)
            && std::mem::take(&mut connection.paused)
        {
            self.io.watch(index);
        }
    }

    /// A connection has ended.
    fn ended(&mut self, token: Token) {
        let Some(index) = self.io.live(token) else {
            return;
        };
        let port = self.io.at(index).and_then(|connection| connection.port);
        let joining = self
            .io
            .at(index)
            .is_some_and(|connection| matches!(connection.stage, Stage::Joining(_)));
        self.io.destroy(index);
        match port {
            Some(port) if joining => {
                self.link_failed(port, "it closed the connection while authenticating")
            }
            Some(port) => self.hub.closed(port, &mut self.io),
            None => {}
        }
    }

    /// A connection sent what it may not, or cannot be served.
    fn fault(&mut self, token: Token, problem: &str) {
        let Some(index) = self.io.live(token) else {
            return;
        };
        let port = self.io.at(index).and_then(|connection| connection.port);
        match port {
            Some(port) => {
                tracing::warn!(%port, problem, "closed the connection");
                // What was answered before the fault still gets there.
                if let Port::Client(_) = port {
                    self.io.flush(index);
                }
            }
            None => tracing::info!(problem, "closed a connection that had not authenticated"),
        }
        if self.io.live(token).is_some() {
            self.ended(token);
        }
    }

    fn broken(&mut self, port: Port) {
        if let Some(index) = self.io.place(port) {
            let token = self.io.token(index);
            self.ended(token);
        }
    }

    fn not_sent(&mut self, port: Port, message: &[u8]) {
        let header = message
            .first_chunk()
            .and_then(|first| dbus_wire::frame::Prologue::parse(first).ok())
            .and_then(|prologue| Header::parse(&message[..prologue.header_len()]).ok());
        if let Some(header) = header {
            self.hub.not_sent(port, &header, &mut self.io);
        }
    }

    /// Handles a client's authentication. Returns how many bytes it used, when it is done.
    fn authenticate(&mut self, token: Token, data: &[u8]) -> Option<usize> {
        let connection = self.io.at_mut(token.index)?;
        let Stage::Authenticating(state) = &mut connection.stage else {
            return None;
        };
        let mut answer = Vec::new();
        let progress = state.0.feed(data, &mut answer);
        let written = io::answer(connection, &answer);
        let done = match progress {
            Ok(progress) => progress.done.map(|done| (done, progress.consumed)),
            Err(error) => {
                self.fault(token, &error.to_string());
                return None;
            }
        };
        if written != Written::All {
            // Who does not read a few hundred bytes of answers is no client.
            self.fault(token, "it does not read the answers to its authentication");
            return None;
        }
        let (done, used) = done?;
        let connection = self.io.at_mut(token.index)?;
        let Stage::Authenticating(state) = std::mem::replace(&mut connection.stage, Stage::Open)
        else {
            return None;
        };
        match self.hub.client_connected(state.1, done.unix_fds) {
            Ok(id) => {
                self.io.bind(Port::Client(id), token.index);
                Some(used)
            }
            Err(error) => {
                self.fault(token, &error.to_string());
                None
            }
        }
    }

    /// Handles what a bus answers to our authentication. Returns how many bytes that was, when it is done.
    fn join(&mut self, token: Token, data: &[u8]) -> Option<usize> {
        let connection = self.io.at_mut(token.index)?;
        let port = connection.port?;
        let Stage::Joining(client) = &mut connection.stage else {
            return None;
        };
        match client.feed(data) {
            Ok(progress) => {
                let done = progress.done?;
                connection.stage = Stage::Open;
                self.hub.link_opened(port, done.unix_fds);
                Some(progress.consumed)
            }
            Err(error) => {
                self.io.destroy(token.index);
                self.link_failed(port, &format!("authentication: {error}"));
                None
            }
        }
    }

    fn link_failed(&mut self, port: Port, reason: &str) {
        if let Port::Control(bus) = port {
            let addresses = self.addresses(bus);
            let place: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            self.problem = Some((bus, format!("{}: {reason}", place.join(";"))));
        }
        self.hub.link_failed(port, reason, &mut self.io);
    }

    fn addresses(&self, bus: Bus) -> &[Address] {
        let addresses = match bus {
            Bus::Host => &self.host,
            Bus::Container => &self.container,
        };
        addresses.as_deref().unwrap_or(&[])
    }

    /// Connects a link.
    fn open(&mut self, link: Port, hello: Vec<u8>, unix_fds: bool, since: std::time::Instant) {
        let bus = match link {
            Port::Link(bus, _) | Port::Control(bus) => bus,
            Port::Client(_) => return,
        };
        match connect::connect(self.addresses(bus)) {
            Attempt::Connected(socket, child) => {
                if let Some(child) = child {
                    self.watch_child(Watched::Transport, child);
                }
                let uid = (!self.mapped).then_some(self.uid);
                let mut client = sasl::Client::new(sasl::ClientConfig {
                    uid,
                    want_fds: unix_fds,
                });
                let mut first = Vec::with_capacity(128 + hello.len());
                client.start(&mut first);
                first.extend_from_slice(&hello);
                let stage = Stage::Joining(Box::new(client));
                let token = self.io.insert(Connection::new(socket, Some(link), stage));
                self.io.forward(link, &first, Fds::NONE);
                self.io
                    .alarm(self.hub.limits().link_time, Alarm::Link(token));
            }
            Attempt::Busy if since.elapsed() < self.hub.limits().link_time => {
                let number = self.next_busy;
                self.next_busy += 1;
                self.busy.insert(number, (link, hello, unix_fds, since));
                self.io.alarm(AGAIN, Alarm::Connect(number));
            }
            Attempt::Busy => {
                let seconds = self.hub.limits().link_time.as_secs();
                let reason = format!("it has not accepted a connection for {seconds} seconds");
                self.link_failed(link, &reason);
            }
            Attempt::Failed(reason) => {
                if let Port::Control(bus) = link {
                    self.problem = Some((bus, reason.clone()));
                }
                self.hub.link_failed(link, &reason, &mut self.io);
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
        if wanted == self.accepting {
            return Ok(());
        }
        let result = if wanted {
            let data = EventData::new_u64(LISTENER);
            epoll::add(self.io.epoll(), &self.listener, data, EventFlags::IN)
        } else {
            epoll::delete(self.io.epoll(), &self.listener)
        };
        result.map_err(system("watching the socket for clients"))?;
        self.accepting = wanted;
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let socket = match self.listener.accept() {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(errno) => {
                    // EMFILE and its kin: who is connected goes on; new ones wait until there is room.
                    tracing::warn!(error = %errno, "cannot accept a client now");
                    self.accept_later = true;
                    self.io.alarm(ACCEPT_AGAIN, Alarm::Accept);
                    return;
                }
            };
            let Some(credentials) = peer::credentials(&socket) else {
                continue;
            };
            // A link of ours to a bus speaks for its client with our own identity.
            if credentials.uid != self.uid && credentials.uid != 0 {
                tracing::warn!(uid = credentials.uid, "refused a client of another user");
                continue;
            }
            let config = sasl::ServerConfig {
                accept_uid: peer::uid_inside(&credentials),
                allow_fds: self.hub.unix_fds(),
                ..sasl::ServerConfig::new(self.hub.guid(), credentials.uid)
            };
            let state = Box::new((sasl::Server::new(config), credentials));
            let connection = Connection::new(socket, None, Stage::Authenticating(state));
            let token = self.io.insert(connection);
            self.io
                .alarm(self.hub.limits().hello_time, Alarm::Hello(token));
            self.strangers.push_back(token);
            self.turn_away_strangers();
        }
    }

    /// Who connects and does not authenticate gives way to those who come after.
    fn turn_away_strangers(&mut self) {
        let most = self.hub.limits().unregistered_clients;
        if self.strangers.len() <= most {
            return;
        }
        let io = &self.io;
        self.strangers.retain(|token| {
            let connection = io.live(*token).and_then(|index| io.at(index));
            connection.is_some_and(|it| matches!(it.stage, Stage::Authenticating(_)))
        });
        if self.strangers.len() > most
            && let Some(oldest) = self.strangers.pop_front()
        {
            self.fault(oldest, "too many clients have not authenticated");
        }
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
                Wish::Status(sender) => {
                    let _ = sender.send(self.hub.status(&self.io));
                }
            }
        }
    }

    /// Starts a service's program.
    fn launch(&mut self, id: ActivationId, launch: &Launch) {
        let Some((program, arguments)) = launch.command.split_first() else {
            return;
        };
        let address = self.address();
        let child = Command::new(program)
            .args(arguments)
            .envs(launch.environment.iter().map(|(key, value)| (key, value)))
            .env("DBUS_STARTER_ADDRESS", &address)
            .env("DBUS_STARTER_BUS_TYPE", "session")
            .env("DBUS_SESSION_BUS_ADDRESS", &address)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => self.watch_child(Watched::Service(id), child),
            Err(error) => {
                let why = format!("Failed to execute program {}: {error}", launch.name);
                self.hub
                    .launch_ended(id, &LaunchEnd::Failed(why), &mut self.io);
            }
        }
    }

    fn watch_child(&mut self, what: Watched, child: Child) {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let fd = pid.and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        let Some(fd) = fd else { return };
        self.next_child = (self.next_child + 1) % (MOST_CHILDREN - 1);
        let data = CHILDREN - self.next_child;
        if epoll::add(
            self.io.epoll(),
            &fd,
            EventData::new_u64(data),
            EventFlags::IN,
        )
        .is_ok()
        {
            self.children.insert(data, (what, child, fd));
        }
    }

    fn child_ended(&mut self, data: u64) {
        let Some((what, mut child, fd)) = self.children.remove(&data) else {
            return;
        };
        let _ = epoll::delete(self.io.epoll(), &fd);
        let Ok(status) = child.wait() else { return };
        let Watched::Service(id) = what else { return };
        let end = match (status.code(), status.signal()) {
            (Some(code), _) => LaunchEnd::Exited(code),
            (None, signal) => LaunchEnd::Signaled(signal.unwrap_or_default()),
        };
        self.hub.launch_ended(id, &end, &mut self.io);
    }
}

/// Raises the soft limit of open files to the hard one; returns it.
fn raise_file_limit() -> u64 {
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
    in_force.unwrap_or(u64::MAX)
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
