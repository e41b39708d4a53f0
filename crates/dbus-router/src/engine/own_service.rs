//! A name that this process answers itself: a client over a pair of sockets, with a thread of its own.
//!
//! The router sees a client like any other: what it does slowly, or not at all, or with a panic, is felt by those who
//! call it and by nobody else.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dbus_wire::body::{Body, Reader};
use dbus_wire::error_names;
use dbus_wire::frame::{Flags, MessageType, Scan, scan};
use dbus_wire::header::Header;
use dbus_wire::message::{Builder, Message};
use dbus_wire::names::WellKnownName;
use dbus_wire::sasl;
use rustix::io::Errno;

use super::{Handle, queue};
use crate::hub::{DRIVER, DRIVER_PATH};
use crate::outbox::Fds;

/// How long the router may take for each step of the start.
const START: Duration = Duration::from_secs(10);
/// One read takes at most this much (bytes).
const READ: usize = 64 * 1024;
/// RequestName: who does not get the name at once does not wait for it.
const DO_NOT_QUEUE: u32 = 4;
/// RequestName's answer for who has the name now.
const PRIMARY_OWNER: u32 = 1;

/// A call to a service of this process; see [`Handle::serve`].
#[derive(Debug)]
pub struct IncomingCall<'c> {
    header: Header<'c>,
    body: &'c [u8],
    fds: Vec<OwnedFd>,
}

impl<'c> IncomingCall<'c> {
    /// The unique name of the caller. A bus sets it: it is true.
    pub fn sender(&self) -> &'c str {
        self.header.sender.unwrap_or_default()
    }

    /// The object.
    pub fn path(&self) -> &'c str {
        self.header.path.unwrap_or_default()
    }

    /// The interface; a caller may leave it out.
    pub fn interface(&self) -> Option<&'c str> {
        self.header.interface
    }

    /// The method.
    pub fn member(&self) -> &'c str {
        self.header.member.unwrap_or_default()
    }

    /// The signature of the arguments.
    pub fn signature(&self) -> &'c str {
        self.header.signature
    }

    /// The arguments. They are well formed; whether they are what the method takes is for the service to look at.
    pub fn args(&self) -> Reader<'c> {
        Reader::new(self.header.endian, self.header.signature, self.body)
    }

    /// The file descriptors that came with the call, in the order by which arguments of type `h` count them. They can
    /// be taken out.
    pub fn fds(&mut self) -> &mut Vec<OwnedFd> {
        &mut self.fds
    }

    /// The error for a method that the service does not have.
    pub fn unknown_method(&self) -> CallError {
        let interface = self.interface().unwrap_or("(no interface)");
        CallError::new(
            error_names::UNKNOWN_METHOD,
            format!("There is no method {interface}.{} here", self.member()),
        )
    }
}

/// What a call is answered with.
#[derive(Debug, Default)]
pub struct Reply {
    /// The values.
    pub body: Body,
    /// The file descriptors that values of type `h` count.
    pub fds: Vec<OwnedFd>,
}

impl From<Body> for Reply {
    fn from(body: Body) -> Reply {
        Reply {
            body,
            fds: Vec::new(),
        }
    }
}

/// The error that a call is answered with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name}: {text}")]
pub struct CallError {
    name: String,
    text: String,
}

impl CallError {
    /// An error with this name (like `org.example.Error.NotFound`), and a text for a person. What is no error name
    /// becomes `org.freedesktop.DBus.Error.Failed`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> CallError {
        let mut name = name.into();
        if !dbus_wire::names::is_interface_name(&name) {
            name = error_names::FAILED.to_owned();
        }
        let text = text.into().replace('\0', "");
        CallError { name, text }
    }

    /// The error's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<dbus_wire::body::BodyError> for CallError {
    /// The arguments are not those of the method.
    fn from(error: dbus_wire::body::BodyError) -> CallError {
        CallError::new(error_names::INVALID_ARGS, error.to_string())
    }
}

/// Why a service of this process could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody has the name.
    #[error(
        "{0} is owned by another program already; end that one, or keep the name for trusted ones"
    )]
    NameTaken(WellKnownName),
    /// The bus refused something.
    #[error("the bus refused {step}: {error}")]
    Refused {
        /// What was asked.
        step: &'static str,
        /// Its answer.
        error: String,
    },
    /// The router does not answer.
    #[error(
        "the router did not answer {0}: it has to run (Router::run, in a thread) while a service begins"
    )]
    NoAnswer(&'static str),
    /// The system refused a socket or a thread.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A service of this process that is on the bus. Dropping it takes it off.
#[derive(Debug)]
pub struct OwnService {
    name: WellKnownName,
    unique_name: String,
    line: Arc<Line>,
    thread: Option<JoinHandle<Result<(), ServiceFailed>>>,
}

/// A service's function has panicked; the text is the panic's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the service {name} has failed: {text}")]
pub struct ServiceFailed {
    name: WellKnownName,
    text: String,
}

impl OwnService {
    /// The name that it was to answer.
    pub fn name(&self) -> &WellKnownName {
        &self.name
    }

    /// Its unique name.
    pub fn unique_name(&self) -> &str {
        &self.unique_name
    }

    /// Sends a signal to all who have a match rule for it (or to [`Builder::destination`] alone).
    ///
    /// # Errors
    /// The service is off the bus.
    pub fn emit(&self, signal: Builder<'_>) -> io::Result<()> {
        self.line.send(signal, Vec::new()).map(|_| ())
    }

    /// Takes the service off the bus, and waits until a call that it is answering is answered.
    ///
    /// # Errors
    /// It was off already, because its function had panicked.
    pub fn end(mut self) -> Result<(), ServiceFailed> {
        self.line.hang_up();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            // What the thread runs besides the function does not panic.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

impl Drop for OwnService {
    fn drop(&mut self) {
        self.line.hang_up();
    }
}

impl Handle {
    /// Answers `name` on the bus inside by a function of this process: no socket, no program, no other crate. `answer`
    /// is called for one call after the other, in a thread of its own; `org.freedesktop.DBus.Peer.Ping` is answered
    /// without it. A service that needs more than to be called is a client by [`Handle::connect`].
    ///
    /// It is trusted: no [`InsideRules`](crate::InsideRules) bind it. Should `answer` panic, its caller gets
    /// `org.freedesktop.DBus.Error.Failed`, the service goes off the bus (its name has no owner any more), and
    /// [`OwnService::end`] says why.
    ///
    /// # Errors
    /// See [`ServeError`]: somebody has the name, the bus refuses it, or the router is not running.
    ///
    /// ```
    /// use dbus_router::{CallError, Config, Router};
    /// use dbus_wire::body::Body;
    /// use dbus_wire::message::Builder;
    /// use dbus_wire::names::WellKnownName;
    ///
    /// let router = Router::start(Config::default())?;
    /// let handle = router.handle();
    /// let running = std::thread::spawn(move || router.run());
    ///
    /// let mut count = 0;
    /// let counter = handle.serve(WellKnownName::parse("org.example.Counter")?, move |call| {
    ///     match (call.interface(), call.member()) {
    ///         (Some("org.example.Counter"), "Add") => {
    ///             // Arguments of other types are answered with InvalidArgs.
    ///             count += call.args().u32()?;
    ///             Ok(Body::new().u32(count).into())
    ///         }
    ///         (_, "Reset") => Err(CallError::new("org.example.Error.Never", "It only counts up")),
    ///         _ => Err(call.unknown_method()),
    ///     }
    /// })?;
    /// counter.emit(Builder::signal("/org/example/Counter", "org.example.Counter", "Ready"))?;
    /// counter.end()?;
    /// handle.stop();
    /// running.join().expect("it does not panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn serve<F>(&self, name: WellKnownName, answer: F) -> Result<OwnService, ServeError>
    where
        F: FnMut(&mut IncomingCall<'_>) -> Result<Reply, CallError> + Send + 'static,
    {
        let system = |step| move |source| ServeError::System { step, source };
        let socket = self.connect().map_err(system("making a pair of sockets"))?;
        socket
            .set_read_timeout(Some(START))
            .map_err(system("setting a time limit"))?;
        let other = socket
            .try_clone()
            .map_err(system("sharing a socket with a thread"))?;
        let line = Arc::new(Line {
            socket,
            serial: Mutex::new(0),
        });
        let mut mailbox = Mailbox::new(other);
        let begun = begin(&line, &mut mailbox, &name).inspect_err(|_| line.hang_up());
        let unique_name = begun?;
        line.socket
            .set_read_timeout(None)
            .map_err(system("taking a time limit back"))?;
        let served = Served {
            name: name.clone(),
            line: line.clone(),
            mailbox,
            answer,
        };
        let thread = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || served.run())
            .inspect_err(|_| line.hang_up())
            .map_err(system("starting a thread"))?;
        Ok(OwnService {
            name,
            unique_name,
            line,
            thread: Some(thread),
        })
    }
}

/// Authenticates, says Hello, and takes the name. Returns the unique name.
fn begin(line: &Line, mailbox: &mut Mailbox, name: &WellKnownName) -> Result<String, ServeError> {
    mailbox.authenticate(line)?;
    let hello = mailbox.ask(line, "Hello", &Body::new())?;
    let unique_name = hello.reader().str().unwrap_or_default().to_owned();
    let body = Body::new().str(name).u32(DO_NOT_QUEUE);
    let answer = mailbox.ask(line, "RequestName", &body)?;
    if answer.reader().u32() != Ok(PRIMARY_OWNER) {
        return Err(ServeError::NameTaken(name.clone()));
    }
    Ok(unique_name)
}

/// The way to the router; several threads may write to it.
#[derive(Debug)]
struct Line {
    socket: UnixStream,
    /// Locked while a message is written.
    serial: Mutex<u32>,
}

impl Line {
    /// Sends a message whole; returns its serial.
    fn send(&self, message: Builder<'_>, fds: Vec<OwnedFd>) -> io::Result<u32> {
        // A panic elsewhere cannot have left half a number.
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        *serial = serial.wrapping_add(1).max(1);
        let count = fds.len() as u32;
        let bytes = match count {
            0 => message.serial(*serial).build(),
            count => message.serial(*serial).unix_fds(count).build(),
        };
        self.write(&bytes, &Fds::new(fds))?;
        Ok(*serial)
    }

    fn write(&self, bytes: &[u8], fds: &Fds) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let fds = if written == 0 { fds } else { &Fds::NONE };
            match queue::send(self.socket.as_fd(), &[IoSlice::new(&bytes[written..])], fds) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn hang_up(&self) {
        // It may be closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// What comes from the router.
struct Mailbox {
    socket: UnixStream,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Mailbox {
    fn new(socket: UnixStream) -> Mailbox {
        Mailbox {
            socket,
            bytes: Vec::new(),
            fds: VecDeque::new(),
        }
    }

    /// Reads once. False: the other side has closed.
    fn read(&mut self) -> io::Result<bool> {
        let start = self.bytes.len();
        self.bytes.resize(start + READ, 0);
        let received = loop {
            let buffer = &mut self.bytes[start..];
            match queue::receive(self.socket.as_fd(), buffer, &mut self.fds) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let count = received.as_ref().map_or(0, |received| received.bytes);
        self.bytes.truncate(start + count);
        received.map(|received| received.bytes > 0)
    }

    /// The next message; none once the router has closed the connection.
    fn next(&mut self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            if let Scan::Message(prologue) =
                scan(&self.bytes).map_err(|error| wrong(error.to_string()))?
                && self.bytes.len() >= prologue.message_len()
            {
                let rest = self.bytes.split_off(prologue.message_len());
                let whole = std::mem::replace(&mut self.bytes, rest);
                let message = Message::parse(whole).map_err(|error| wrong(error.to_string()))?;
                let count = (message.header().unix_fds as usize).min(self.fds.len());
                let fds = self.fds.drain(..count).collect();
                return Ok(Some((message, fds)));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    fn authenticate(&mut self, line: &Line) -> Result<(), ServeError> {
        let step = "the authentication";
        let mut client = sasl::Client::new(sasl::ClientConfig {
            uid: Some(rustix::process::geteuid().as_raw()),
            want_fds: true,
        });
        let mut opening = Vec::new();
        client.start(&mut opening);
        line.write(&opening, &Fds::NONE)
            .map_err(|_| ServeError::NoAnswer(step))?;
        loop {
            let refused = |error: String| ServeError::Refused { step, error };
            if !self.read().map_err(|_| ServeError::NoAnswer(step))? {
                return Err(refused("it closed the connection".to_owned()));
            }
            let progress = client
                .feed(&self.bytes)
                .map_err(|error| refused(error.to_string()))?;
            self.bytes.drain(..progress.consumed);
            if progress.done.is_some() {
                return Ok(());
            }
        }
    }

    /// Calls the driver, and waits for its answer.
    fn ask(&mut self, line: &Line, step: &'static str, body: &Body) -> Result<Message, ServeError> {
        let call = Builder::method_call(DRIVER_PATH, step)
            .interface(DRIVER)
            .destination(DRIVER)
            .body(body);
        let gone = |_| ServeError::NoAnswer(step);
        let serial = line.send(call, Vec::new()).map_err(gone)?;
        loop {
            let Some((message, _)) = self.next().map_err(gone)? else {
                return Err(ServeError::NoAnswer(step));
            };
            let header = message.header();
            if header.reply_serial != Some(serial) {
                continue;
            }
            if header.kind == MessageType::Error {
                let text = message.reader().str().unwrap_or_default().to_owned();
                return Err(ServeError::Refused { step, error: text });
            }
            return Ok(message);
        }
    }
}

/// What the thread has.
struct Served<F> {
    name: WellKnownName,
    line: Arc<Line>,
    mailbox: Mailbox,
    answer: F,
}

impl<F> Served<F>
where
    F: FnMut(&mut IncomingCall<'_>) -> Result<Reply, CallError>,
{
    fn run(mut self) -> Result<(), ServiceFailed> {
        // An error of the socket is its end, too.
        while let Ok(Some((message, fds))) = self.mailbox.next() {
            let header = message.header();
            if header.kind != MessageType::MethodCall {
                continue;
            }
            let mut call = IncomingCall {
                header,
                body: message.body(),
                fds,
            };
            let answer = &mut self.answer;
            let answered = match (call.interface(), call.member()) {
                (Some("org.freedesktop.DBus.Peer"), "Ping") => Ok(Ok(Reply::default())),
                _ => catch_unwind(AssertUnwindSafe(|| answer(&mut call))),
            };
            let (result, panic) = match answered {
                Ok(result) => (result, None),
                Err(panic) => {
                    let text = "The service has failed".to_owned();
                    (Err(CallError::new(error_names::FAILED, text)), Some(panic))
                }
            };
            if !header.flags.contains(Flags::NO_REPLY_EXPECTED)
                && self.reply(&header, result).is_err()
            {
                break;
            }
            if let Some(panic) = panic {
                self.line.hang_up();
                let text = panic_text(&*panic);
                tracing::error!(name = %self.name, text, "a service of this process has panicked");
                return Err(ServiceFailed {
                    name: self.name,
                    text,
                });
            }
        }
        Ok(())
    }

    fn reply(&self, call: &Header<'_>, result: Result<Reply, CallError>) -> io::Result<()> {
        let (message, fds);
        let body;
        let error;
        (message, fds) = match result {
            Ok(reply) => {
                body = reply.body;
                (Builder::reply_to(call).body(&body), reply.fds)
            }
            Err(it) => {
                error = it;
                let reply = Builder::error_reply_to(call, &error.name, &error.text);
                (reply, Vec::new())
            }
        };
        self.line.send(message, fds).map(|_| ())
    }
}

impl<F> fmt::Debug for Served<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
