//! A D-Bus client that sends exactly what it is told to, and sees exactly what it is sent.
//!
//! It stands on [`dbus_wire`] and on nothing that other clients stand on. Every wait has a limit, and
//! panics with what was awaited and what came instead.

use std::collections::VecDeque;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use dbus_wire::sasl::{Client as SaslClient, ClientConfig};
use dbus_wire::{
    Address, Body, Builder, FIXED_LEN, Header, Message, MessageType, Reader, Scan, UnixTarget,
    parse_addresses, scan,
};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::deadline::Deadline;

/// The driver's name, and its interface's.
pub const DRIVER: &str = "org.freedesktop.DBus";
/// The driver's object.
pub const DRIVER_PATH: &str = "/org/freedesktop/DBus";
/// The most descriptors that the kernel lets one message on a socket carry (SCM_MAX_FD).
pub const MAX_FDS: usize = 253;

/// A message as it arrived, with its file descriptors.
pub struct Received {
    /// The message; it has been checked whole.
    pub message: Message,
    /// As many descriptors as its header says.
    pub fds: Vec<OwnedFd>,
}

impl Received {
    /// Its header.
    pub fn header(&self) -> Header<'_> {
        self.message.header()
    }

    /// A reader over its body.
    pub fn reader(&self) -> Reader<'_> {
        self.message.reader()
    }

    /// Who sent it, as the bus says.
    ///
    /// # Panics
    /// When it has no sender: what a bus delivers has one.
    #[track_caller]
    pub fn sender(&self) -> &str {
        self.header()
            .sender
            .unwrap_or_else(|| panic!("{self} has no sender"))
    }

    /// The strings with which its body begins.
    ///
    /// # Panics
    /// When an argument that should be a string is not one.
    #[track_caller]
    pub fn strings(&self) -> Vec<&str> {
        let leading = self
            .header()
            .signature
            .bytes()
            .take_while(|letter| *letter == b's')
            .count();
        let mut reader = self.reader();
        (0..leading)
            .map(|_| reader.str().expect("it was checked on arrival"))
            .collect()
    }

    /// The first argument, a string.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn text(&self) -> &str {
        self.strings()
            .first()
            .unwrap_or_else(|| panic!("{self} does not begin with a string"))
    }

    /// The first argument, a number.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn number(&self) -> u32 {
        self.reader()
            .u32()
            .unwrap_or_else(|error| panic!("{self} does not begin with a number: {error}"))
    }

    /// Whether it is this signal.
    pub fn is_signal(&self, interface: &str, member: &str) -> bool {
        let header = self.header();
        header.kind == MessageType::Signal
            && header.interface == Some(interface)
            && header.member == Some(member)
    }

    /// Whether it is a call of this method.
    pub fn is_call(&self, member: &str) -> bool {
        let header = self.header();
        header.kind == MessageType::MethodCall && header.member == Some(member)
    }

    /// Whether it answers the call with this serial.
    pub fn is_reply_to(&self, serial: u32) -> bool {
        let header = self.header();
        matches!(header.kind, MessageType::MethodReturn | MessageType::Error)
            && header.reply_serial == Some(serial)
    }

    /// The error that it is.
    pub fn error_name(&self) -> Option<&str> {
        self.header().error_name
    }

    /// Itself, if it is a method return.
    ///
    /// # Panics
    /// When it is an error: shows it.
    #[track_caller]
    pub fn returned(self) -> Received {
        assert!(
            self.header().kind == MessageType::MethodReturn,
            "a method return was awaited, and this came: {self}"
        );
        self
    }

    /// The name of the error that it is.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn failed(self) -> String {
        match self.error_name() {
            Some(name) => name.to_owned(),
            None => panic!("an error was awaited, and this came: {self}"),
        }
    }
}

/// One line, for a person to read.
impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        write!(f, "{:?} {}", header.kind, header.serial)?;
        for (word, value) in [
            (" from ", header.sender),
            (" to ", header.destination),
            (" at ", header.path),
            (" of ", header.interface),
            (" ", header.member),
            (" ", header.error_name),
        ] {
            if let Some(value) = value {
                write!(f, "{word}{value}")?;
            }
        }
        if let Some(serial) = header.reply_serial {
            write!(f, " for call {serial}")?;
        }
        write!(f, " ({})", header.signature)?;
        for text in self.strings() {
            write!(f, " {text:?}")?;
        }
        match self.fds.len() {
            0 => Ok(()),
            count => write!(f, " with {count} fds"),
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What arrives at a client.
#[derive(Debug)]
pub enum Arrival {
    /// A message.
    Message(Received),
    /// The other side has closed the connection.
    Closed,
    /// Nothing in the given time.
    Nothing,
}

/// A client. Made by [`RawClient::open`], or step by step.
pub struct RawClient {
    socket: UnixStream,
    /// Bytes of messages that are not whole yet, from `parsed` on.
    incoming: Vec<u8>,
    parsed: usize,
    fds: VecDeque<OwnedFd>,
    /// Messages that came before one that was awaited, in their order.
    held: VecDeque<Received>,
    last_serial: u32,
    unique_name: Option<String>,
    unix_fds: bool,
}

impl RawClient {
    /// A client of the bus at `address`: connected, authenticated, with a unique name.
    ///
    /// # Panics
    /// When any of it fails.
    #[track_caller]
    pub fn open(address: &str) -> RawClient {
        let mut client = RawClient::connect(address);
        client.authenticate();
        client.hello();
        client
    }

    /// Connects, and sends nothing. Of the addresses of the specification, those with a socket's path, in
    /// the file system or abstract.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn connect(address: &str) -> RawClient {
        let addresses = parse_addresses(address).unwrap_or_else(|error| panic!("{error}"));
        let socket = match addresses.first() {
            Some(Address::Unix(UnixTarget::Path(path))) => UnixStream::connect(path),
            Some(Address::Unix(UnixTarget::Abstract(name))) => {
                use std::os::linux::net::SocketAddrExt;
                std::os::unix::net::SocketAddr::from_abstract_name(name)
                    .and_then(|address| UnixStream::connect_addr(&address))
            }
            _ => panic!("this client connects to no address such as {address}"),
        };
        Self::over(socket.unwrap_or_else(|error| panic!("connecting to {address}: {error}")))
    }

    /// Connects to the socket at `path`, and sends nothing.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn connect_path(path: &Path) -> RawClient {
        let socket = UnixStream::connect(path)
            .unwrap_or_else(|error| panic!("connecting to {}: {error}", path.display()));
        Self::over(socket)
    }

    /// A client over a socket that is connected.
    ///
    /// # Panics
    /// When the socket cannot be made non-blocking.
    #[track_caller]
    pub fn over(socket: UnixStream) -> RawClient {
        socket
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        RawClient {
            socket,
            incoming: Vec::new(),
            parsed: 0,
            fds: VecDeque::new(),
            held: VecDeque::new(),
            last_serial: 0,
            unique_name: None,
            unix_fds: false,
        }
    }

    /// Authenticates as the user that we are, and asks for the passing of file descriptors.
    ///
    /// # Panics
    /// When the bus refuses, or does not answer.
    #[track_caller]
    pub fn authenticate(&mut self) {
        let uid = rustix::process::geteuid().as_raw();
        let mut sasl = SaslClient::new(ClientConfig {
            uid: Some(uid),
            want_fds: true,
        });
        let mut opening = Vec::new();
        sasl.start(&mut opening);
        self.send_bytes(&opening);
        let deadline = Deadline::usual();
        loop {
            assert!(
                self.read_some(deadline) == Read::Some,
                "the bus did not answer the authentication"
            );
            let progress = sasl
                .feed(&self.incoming)
                .unwrap_or_else(|error| panic!("the bus refused: {error}"));
            self.incoming.drain(..progress.consumed);
            if let Some(done) = progress.done {
                self.unix_fds = done.unix_fds;
                return;
            }
        }
    }

    /// Whether the passing of file descriptors was agreed on.
    pub fn may_pass_fds(&self) -> bool {
        self.unix_fds
    }

    /// Calls Hello, and gives back the unique name.
    ///
    /// # Panics
    /// When the bus does not give one.
    #[track_caller]
    pub fn hello(&mut self) -> String {
        let answer = self.call_driver("Hello", &Body::new());
        let name = answer.text().to_owned();
        self.unique_name = Some(name.clone());
        name
    }

    /// The unique name.
    ///
    /// # Panics
    /// Before [`RawClient::hello`].
    #[track_caller]
    pub fn unique_name(&self) -> &str {
        self.unique_name
            .as_deref()
            .expect("a client that has called Hello")
    }

    /// The socket, to shut down, to set options, to write to in ways that are not here.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    // ── Sending ──

    /// The next serial; each is given out once.
    pub fn next_serial(&mut self) -> u32 {
        self.last_serial += 1;
        self.last_serial
    }

    /// Sends a message under the next serial, and gives that back.
    ///
    /// # Panics
    /// When the bus does not take it in time.
    #[track_caller]
    pub fn send(&mut self, message: Builder<'_>) -> u32 {
        self.send_with_fds(message, &[])
    }

    /// Sends a message with file descriptors under the next serial, and gives that back. The header says
    /// how many there are.
    ///
    /// # Panics
    /// When the bus does not take it in time.
    #[track_caller]
    pub fn send_with_fds(&mut self, message: Builder<'_>, fds: &[BorrowedFd<'_>]) -> u32 {
        let serial = self.next_serial();
        let count = u32::try_from(fds.len()).expect("no more than the kernel takes");
        let bytes = match count {
            0 => message.serial(serial).build(),
            count => message.serial(serial).unix_fds(count).build(),
        };
        self.send_bytes_with_fds(&bytes, fds);
        serial
    }

    /// Sends these bytes, whatever they are.
    ///
    /// # Panics
    /// When the bus does not take them in time, or has closed the connection.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.send_bytes_with_fds(bytes, &[]);
    }

    /// Sends these bytes, the first of them with these descriptors.
    ///
    /// # Panics
    /// When the bus does not take them in time, or has closed the connection.
    #[track_caller]
    pub fn send_bytes_with_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let deadline = Deadline::usual();
        let sent = self.try_send(bytes, fds, deadline);
        match sent {
            Ok(sent) => assert!(
                sent == bytes.len(),
                "the bus took {sent} of {} bytes in time",
                bytes.len()
            ),
            Err(error) => panic!("sending {} bytes: {error}", bytes.len()),
        }
    }

    /// Sends as much of these bytes as the bus takes until `deadline`, and gives back how much that was.
    ///
    /// # Errors
    /// The bus has closed the connection.
    pub fn try_send(
        &mut self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<usize, Errno> {
        let mut sent = 0;
        while sent < bytes.len() {
            let fds = if sent == 0 { fds } else { &[] };
            match send_once(self.socket.as_fd(), &bytes[sent..], fds) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => {
                    if !deadline.wait_writable(self.socket.as_fd()) {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    // ── Receiving ──

    /// What comes next, until `deadline`.
    ///
    /// # Panics
    /// When what comes is not a valid message.
    #[track_caller]
    pub fn next_until(&mut self, deadline: Deadline) -> Arrival {
        if let Some(held) = self.held.pop_front() {
            return Arrival::Message(held);
        }
        self.read_message(deadline)
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn receive(&mut self) -> Received {
        match self.next_until(Deadline::usual()) {
            Arrival::Message(message) => message,
            other => panic!("a message was awaited: {other:?}"),
        }
    }

    /// The first message for which `wanted` holds. Those that come before it are kept, in their order, for
    /// what receives next.
    ///
    /// # Panics
    /// When none comes: says what was `awaited`, and what came instead.
    #[track_caller]
    pub fn expect(&mut self, awaited: &str, wanted: impl Fn(&Received) -> bool) -> Received {
        if let Some(at) = self.held.iter().position(&wanted) {
            return self.held.remove(at).expect("it is at this place");
        }
        let deadline = Deadline::usual();
        loop {
            match self.read_message(deadline) {
                Arrival::Message(message) if wanted(&message) => return message,
                Arrival::Message(message) => self.held.push_back(message),
                other => panic!(
                    "awaited {awaited}: {other:?}; what came instead:\n{}",
                    self.held
                        .iter()
                        .map(|message| format!("    {message}\n"))
                        .collect::<String>()
                ),
            }
        }
    }

    /// The first signal of this interface and member.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn expect_signal(&mut self, interface: &str, member: &str) -> Received {
        self.expect(&format!("the signal {interface}.{member}"), |message| {
            message.is_signal(interface, member)
        })
    }

    /// The first call of this method.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn expect_call(&mut self, member: &str) -> Received {
        self.expect(&format!("a call of {member}"), |message| {
            message.is_call(member)
        })
    }

    /// The answer to the call with this serial, a return or an error.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn expect_reply(&mut self, serial: u32) -> Received {
        self.expect(&format!("the answer to call {serial}"), |message| {
            message.is_reply_to(serial)
        })
    }

    /// Waits until the bus closes the connection; gives back what it sent before.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn expect_closed(&mut self) -> Vec<Received> {
        let deadline = Deadline::usual();
        let mut before = Vec::new();
        loop {
            match self.next_until(deadline) {
                Arrival::Message(message) => before.push(message),
                Arrival::Closed => return before,
                Arrival::Nothing => {
                    panic!("awaited that the bus closes the connection; it sent {before:?}")
                }
            }
        }
    }

    /// Everything that the bus had sent, or was bound to send, before it answered a call that is sent
    /// now: what is not among it will not come for anything that happened so far.
    ///
    /// # Panics
    /// When the bus does not answer.
    #[track_caller]
    pub fn all_so_far(&mut self) -> Vec<Received> {
        self.call_driver("GetId", &Body::new());
        self.held.drain(..).collect()
    }

    /// As [`RawClient::all_so_far`], the signals only, as `MEMBER ARGUMENT ARGUMENT…`.
    ///
    /// # Panics
    /// When the bus does not answer.
    #[track_caller]
    pub fn signals_so_far(&mut self) -> Vec<String> {
        self.all_so_far()
            .iter()
            .filter(|message| message.header().kind == MessageType::Signal)
            .map(|message| {
                let mut line = message.header().member.unwrap_or_default().to_owned();
                for argument in message.strings() {
                    line.push(' ');
                    line.push_str(if argument.is_empty() { "-" } else { argument });
                }
                line
            })
            .collect()
    }

    // ── Calls ──

    /// Sends a call and waits for its answer, a return or an error. Other messages are kept.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn call(&mut self, message: Builder<'_>) -> Received {
        let serial = self.send(message);
        self.expect_reply(serial)
    }

    /// Sends a call with file descriptors and waits for its answer.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn call_with_fds(&mut self, message: Builder<'_>, fds: &[BorrowedFd<'_>]) -> Received {
        let serial = self.send_with_fds(message, fds);
        self.expect_reply(serial)
    }

    /// Answers a call.
    ///
    /// # Panics
    /// When the bus does not take it.
    #[track_caller]
    pub fn answer(&mut self, call: &Received, body: &Body) {
        self.send(Builder::reply_to(&call.header()).body(body));
    }

    /// Answers a call with an error.
    ///
    /// # Panics
    /// When the bus does not take it.
    #[track_caller]
    pub fn answer_error(&mut self, call: &Received, name: &str, text: &str) {
        self.send(Builder::error_reply_to(&call.header(), name, text));
    }

    /// Calls a method of the driver that succeeds.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn call_driver(&mut self, member: &str, body: &Body) -> Received {
        self.call(driver_call(member, body)).returned()
    }

    /// Calls a method of the driver that fails; gives back the error's name.
    ///
    /// # Panics
    /// When it does not fail.
    #[track_caller]
    pub fn call_driver_error(&mut self, member: &str, body: &Body) -> String {
        self.call(driver_call(member, body)).failed()
    }

    /// RequestName: 1 primary owner, 2 in queue, 3 exists, 4 already owner. `flags`: 1 allow replacement,
    /// 2 replace existing, 4 do not queue.
    ///
    /// # Panics
    /// When the bus answers with an error.
    #[track_caller]
    pub fn request_name(&mut self, name: &str, flags: u32) -> u32 {
        self.call_driver("RequestName", &Body::new().str(name).u32(flags))
            .number()
    }

    /// ReleaseName: 1 released, 2 no such name, 3 not owner.
    ///
    /// # Panics
    /// When the bus answers with an error.
    #[track_caller]
    pub fn release_name(&mut self, name: &str) -> u32 {
        self.call_driver("ReleaseName", &Body::new().str(name))
            .number()
    }

    /// AddMatch; the rule is in force when this returns.
    ///
    /// # Panics
    /// When the bus refuses the rule.
    #[track_caller]
    pub fn add_match(&mut self, rule: &str) {
        self.call_driver("AddMatch", &Body::new().str(rule));
    }

    /// RemoveMatch.
    ///
    /// # Panics
    /// When the bus does not know the rule.
    #[track_caller]
    pub fn remove_match(&mut self, rule: &str) {
        self.call_driver("RemoveMatch", &Body::new().str(rule));
    }

    /// GetNameOwner; `None` if the name has none.
    ///
    /// # Panics
    /// When the bus answers with another error.
    #[track_caller]
    pub fn name_owner(&mut self, name: &str) -> Option<String> {
        let body = Body::new().str(name);
        let answer = self.call(driver_call("GetNameOwner", &body));
        match answer.error_name() {
            Some(dbus_wire::error_names::NAME_HAS_NO_OWNER) => None,
            _ => Some(answer.returned().text().to_owned()),
        }
    }

    /// ListNames, sorted.
    ///
    /// # Panics
    /// When the bus answers with an error.
    #[track_caller]
    pub fn list_names(&mut self) -> Vec<String> {
        self.list("ListNames", &Body::new())
    }

    /// A method of the driver that gives back an array of strings, sorted here.
    ///
    /// # Panics
    /// When the bus answers with an error, or with something else.
    #[track_caller]
    pub fn list(&mut self, member: &str, body: &Body) -> Vec<String> {
        let answer = self.call_driver(member, body);
        let mut names: Vec<String> = answer
            .reader()
            .strs()
            .unwrap_or_else(|error| panic!("{member} gives back strings: {error}"))
            .into_iter()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    // ── The socket ──

    /// The next message from the socket.
    #[track_caller]
    fn read_message(&mut self, deadline: Deadline) -> Arrival {
        loop {
            if let Some(message) = self.take_message() {
                return Arrival::Message(message);
            }
            match self.read_some(deadline) {
                Read::Some => {}
                Read::Closed => return Arrival::Closed,
                Read::Nothing => return Arrival::Nothing,
            }
        }
    }

    /// A message that is whole, from what was read.
    #[track_caller]
    fn take_message(&mut self) -> Option<Received> {
        let unparsed = &self.incoming[self.parsed..];
        if unparsed.len() < FIXED_LEN {
            return None;
        }
        let scanned =
            scan(unparsed).unwrap_or_else(|error| panic!("the bus sent rubbish: {error}"));
        let Scan::Message(prologue) = scanned else {
            return None;
        };
        let length = prologue.message_len();
        let bytes = unparsed.get(..length)?.to_vec();
        self.parsed += length;
        if self.parsed == self.incoming.len() {
            self.incoming.clear();
            self.parsed = 0;
        }
        let message = Message::parse(bytes)
            .unwrap_or_else(|error| panic!("the bus sent an invalid message: {error}"));
        let count = message.header().unix_fds as usize;
        assert!(
            count <= self.fds.len(),
            "a message has come whole, and {} of its {count} descriptors",
            self.fds.len()
        );
        let fds = self.fds.drain(..count).collect();
        Some(Received { message, fds })
    }

    #[track_caller]
    fn read_some(&mut self, deadline: Deadline) -> Read {
        if self.parsed > 0 {
            self.incoming.drain(..self.parsed);
            self.parsed = 0;
        }
        let mut chunk = [0; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut chunk)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            match received {
                Ok(received) => {
                    assert!(
                        !received.flags.contains(ReturnFlags::CTRUNC),
                        "descriptors were lost on the way in"
                    );
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = message {
                            self.fds.extend(fds);
                        }
                    }
                    if received.bytes == 0 {
                        return Read::Closed;
                    }
                    self.incoming.extend_from_slice(&chunk[..received.bytes]);
                    return Read::Some;
                }
                Err(Errno::CONNRESET) => return Read::Closed,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if deadline.wait_readable(&[self.socket.as_fd()]).is_none() {
                        return Read::Nothing;
                    }
                }
                Err(error) => panic!("reading from the bus: {error}"),
            }
        }
    }
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Read {
    Some,
    Closed,
    Nothing,
}

/// A call of the driver's own interface.
pub fn driver_call<'a>(member: &'a str, body: &'a Body) -> Builder<'a> {
    Builder::method_call(DRIVER_PATH, member)
        .interface(DRIVER)
        .destination(DRIVER)
        .body(body)
}

/// A call of `member` of `interface` at `path` of the service `destination`.
pub fn call<'a>(
    destination: &'a str,
    path: &'a str,
    interface: &'a str,
    member: &'a str,
) -> Builder<'a> {
    Builder::method_call(path, member)
        .interface(interface)
        .destination(destination)
}

fn send_once(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "{} descriptors are more than {MAX_FDS}", fds.len());
    }
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::{Topology, World, needs, tools};

    #[test]
    fn a_call_a_reply_and_a_signal_cross_a_plain_bus() {
        needs!(tools::DBUS_DAEMON);
        let world = World::start(Topology::Plain);
        let mut service = RawClient::open(&world.inside());
        let mut client = RawClient::open(&world.inside());
        assert_eq!(service.request_name("org.example.Echo", 0), 1);
        client.add_match("type='signal',interface='org.example.Echo'");
        let owner = client.name_owner("org.example.Echo");
        assert_eq!(owner.as_deref(), Some(service.unique_name()));
        assert_eq!(client.name_owner("org.example.Nobody"), None);

        let body = Body::new().str("hello");
        let serial =
            client.send(call("org.example.Echo", "/", "org.example.Echo", "Say").body(&body));
        let asked = service.expect_call("Say");
        assert_eq!(asked.text(), "hello");
        assert_eq!(asked.sender(), client.unique_name());
        service.send(Builder::signal("/", "org.example.Echo", "Said").body(&body));
        service.answer(&asked, &body);
        assert_eq!(client.expect_reply(serial).returned().text(), "hello");
        // What came before an answer is kept, and in its order.
        assert_eq!(
            client.signals_so_far().last().map(String::as_str),
            Some("Said hello")
        );
    }

    #[test]
    fn file_descriptors_arrive_with_their_message() {
        needs!(tools::DBUS_DAEMON);
        let world = World::start(Topology::Plain);
        let mut service = RawClient::open(&world.inside());
        let mut client = RawClient::open(&world.inside());
        assert!(client.may_pass_fds());
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let body = Body::new().unix_fd(0);
        let name = service.unique_name().to_owned();
        client.send_with_fds(
            call(&name, "/", "org.example.Fds", "Take").body(&body),
            &[writer.as_fd()],
        );
        drop(writer);
        let mut taken = service.expect_call("Take");
        let mut file = File::from(taken.fds.remove(0));
        file.write_all(b"through").expect("a pipe takes it");
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("a pipe that ends");
        assert_eq!(text, "through");
    }

    #[test]
    fn rubbish_ends_the_connection() {
        needs!(tools::DBUS_DAEMON);
        let world = World::start(Topology::Plain);
        let mut client = RawClient::open(&world.inside());
        client.send_bytes(&[b'l'; 64]);
        client.expect_closed();
    }
}
