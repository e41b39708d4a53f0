//! The engine's side of the [`Outbox`]: sockets, queues and what is to be done next.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData};

use super::alarms::Alarms;
use super::connection::Connection;
use super::queue::Written;
use crate::decision::{Decision, Watcher};
use crate::local_bus::{ActivationId, Launch};
use crate::outbox::{Ending, Fds, Load, Outbox, Outgoing, Payload, Timer};
use crate::port::{Port, SessionId};

/// Above this many bytes in a private queue its source is not read.
const HIGH: usize = 128 * 1024;
/// Messages below this size are gathered before they are written.
const GATHER: usize = 16 * 1024;
/// How long a connection that is over may take to read what was written to it.
const LINGER: Duration = Duration::from_secs(10);
/// How often, and for how long, descriptors are tried again that the kernel refused (ETOOMANYREFS).
const FDS_AGAIN: Duration = Duration::from_millis(10);
const FDS_GIVE_UP: Duration = Duration::from_secs(1);

/// A connection's place, and which of those that had it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Token {
    pub index: u32,
    pub generation: u32,
}

/// What the router asked for that has to wait until it has returned.
pub(super) enum Todo {
    Open {
        link: Port,
        hello: Vec<u8>,
        unix_fds: bool,
    },
    Resume(Port),
    Launch(ActivationId, Launch),
    /// The queue of this connection has drained: who feeds it may be read again.
    Drained(Port),
    /// Descriptors of a message that was to go to this port could not be sent.
    NotSent(Port, Vec<u8>),
    /// The connection cannot go on.
    Broken(Port),
}

/// What is to happen at a point in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Alarm {
    /// A client has to be registered by now.
    Hello(Token),
    /// A link has to be open by now.
    Link(Token),
    /// A connection that is over is closed now, read or not.
    Linger(Token),
    /// Descriptors may be tried again.
    Fds(Token),
    /// Accepting may be tried again.
    Accept,
    /// A busy bus may be tried again; the number finds what for.
    Connect(u64),
    /// A timer of the router's; the number tells it from one that was cancelled.
    Router(u64),
}

/// When an alarm rings, and its number.
pub(super) type Key = (Instant, u64);

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The sockets.
pub(super) struct Io {
    epoll: OwnedFd,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// By session: client, host link, container link, as (place + 1); 0 is none.
    ports: Vec<[u32; 3]>,
    control: [u32; 2],
    dirty: Vec<u32>,
    charges: Vec<(u32, Load)>,
    pub todo: VecDeque<Todo>,
    pub alarms: Alarms,
    timers: HashMap<Timer, (Key, u64)>,
    pub open: usize,
    /// Who is told of decisions and messages.
    pub watcher: Option<Box<dyn Watcher>>,
}

impl Io {
    pub fn new() -> std::io::Result<Io> {
        Ok(Io {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: Vec::new(),
            free: Vec::new(),
            ports: Vec::new(),
            control: [0; 2],
            dirty: Vec::new(),
            charges: Vec::new(),
            todo: VecDeque::new(),
            alarms: Alarms::new()?,
            timers: HashMap::new(),
            open: 0,
            watcher: None,
        })
    }

    pub fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Takes a socket in, and watches it.
    pub fn insert(&mut self, connection: Connection) -> Token {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u32
            }
        };
        let port = connection.port;
        let slot = &mut self.slots[index as usize];
        slot.connection = Some(Box::new(connection));
        let token = Token {
            index,
            generation: slot.generation,
        };
        self.open += 1;
        if let Some(port) = port {
            self.bind(port, index);
        }
        self.watch(index);
        token
    }

    /// From now on `port` is the connection at `index`.
    pub fn bind(&mut self, port: Port, index: u32) {
        *self.place_mut(port) = index + 1;
        if let Some(connection) = self.at_mut(index) {
            connection.port = Some(port);
        }
    }

    fn place_mut(&mut self, port: Port) -> &mut u32 {
        let (id, column) = match port {
            Port::Control(bus) => return &mut self.control[bus as usize],
            Port::Client(id) => (id, 0),
            Port::Link(bus, id) => (id, 1 + bus as usize),
        };
        if self.ports.len() <= id.index() {
            self.ports.resize(id.index() + 1, [0; 3]);
        }
        &mut self.ports[id.index()][column]
    }

    /// The place of a port's connection.
    pub fn place(&self, port: Port) -> Option<u32> {
        let place = match port {
            Port::Control(bus) => self.control[bus as usize],
            Port::Client(id) => self.ports.get(id.index())?[0],
            Port::Link(bus, id) => self.ports.get(id.index())?[1 + bus as usize],
        };
        let index = place.checked_sub(1)?;
        // A session's place is used again; an old port must not mean the new one.
        (self.at(index)?.port == Some(port)).then_some(index)
    }

    pub fn at(&self, index: u32) -> Option<&Connection> {
        self.slots.get(index as usize)?.connection.as_deref()
    }

    pub fn at_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots
            .get_mut(index as usize)?
            .connection
            .as_deref_mut()
    }

    pub fn token(&self, index: u32) -> Token {
        Token {
            index,
            generation: self.slots[index as usize].generation,
        }
    }

    /// The place of a token whose connection is still there.
    pub fn live(&self, token: Token) -> Option<u32> {
        let slot = self.slots.get(token.index as usize)?;
        (slot.generation == token.generation && slot.connection.is_some()).then_some(token.index)
    }

    /// Tells epoll what a connection waits for now.
    pub fn watch(&mut self, index: u32) {
        let token = self.token(index);
        let Some(connection) = self.slots[index as usize].connection.as_deref_mut() else {
            return;
        };
        let wanted = connection.wanted();
        if wanted == connection.interest {
            return;
        }
        let data = EventData::new_u64(u64::from(token.index) | u64::from(token.generation) << 32);
        let socket = connection.socket.as_fd();
        // Nothing wanted is not watched at all: epoll would tell of a hang-up again and again.
        let result = if wanted.is_empty() {
            epoll::delete(&self.epoll, socket)
        } else if connection.interest.is_empty() {
            epoll::add(&self.epoll, socket, data, wanted)
        } else {
            epoll::modify(&self.epoll, socket, data, wanted)
        };
        match result {
            Ok(()) => connection.interest = wanted,
            Err(error) => {
                tracing::error!(%error, "a connection cannot be watched");
                if let Some(port) = connection.port {
                    self.todo.push_back(Todo::Broken(port));
                }
            }
        }
    }

    /// Ends a connection: at once.
    pub fn destroy(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(mut connection) = slot.connection.take() else {
            return;
        };
        slot.generation = slot.generation.wrapping_add(1);
        let charges = &mut self.charges;
        connection
            .queue
            .clear(|payer, bytes, fds| pay(charges, payer, bytes, fds));
        connection
            .held
            .clear(|payer, bytes, fds| pay(charges, payer, bytes, fds));
        if let Some(port) = connection.port {
            let place = self.place_mut(port);
            if *place == index + 1 {
                *place = 0;
            }
        }
        self.free.push(index);
        self.open -= 1;
        // A message that was being passed on stays half.
        if let Some(super::connection::Rest::Passing { to, .. }) = connection.rest {
            self.stream_broken(to);
        }
    }

    fn stream_broken(&mut self, to: Port) {
        if let Some(index) = self.place(to)
            && let Some(connection) = self.at_mut(index)
            && connection.receiving
        {
            connection.receiving = false;
            connection.closing = true;
            self.todo.push_back(Todo::Broken(to));
        }
    }

    /// Writes bytes of whole messages (or of one, in pieces) to `to`, which is not in the middle of a message
    /// of somebody else's.
    pub fn forward(&mut self, to: Port, bytes: &[u8], fds: Fds) {
        let Some(index) = self.place(to) else { return };
        let Some(connection) = self.slots[index as usize].connection.as_deref_mut() else {
            return;
        };
        if connection.write_dead {
            return;
        }
        if connection.blocked || !(fds.is_empty() || connection.queue.is_empty()) {
            connection.queue.push(bytes, fds, None);
            if !connection.blocked {
                self.flush(index);
            }
            return;
        }
        let charges = &mut self.charges;
        let socket = connection.socket.as_fd();
        let (written, count) = connection
            .queue
            .write(socket, bytes, &fds, |payer, bytes, fds| {
                pay(charges, payer, bytes, fds)
            });
        let unsent = if count == 0 { fds } else { Fds::NONE };
        connection.queue.push(&bytes[count..], unsent, None);
        self.after_write(index, written);
    }

    fn after_write(&mut self, index: u32, written: Written) {
        let token = self.token(index);
        let Some(connection) = self.slots[index as usize].connection.as_deref_mut() else {
            return;
        };
        match written {
            Written::All => {
                let drained = std::mem::take(&mut connection.blocked);
                connection.fds_refused = None;
                if connection.closing && connection.port.is_none() {
                    return self.destroy(index);
                }
                if drained {
                    if let Some(port) = connection.port {
                        self.todo.push_back(Todo::Drained(port));
                    }
                    self.watch(index);
                }
            }
            Written::Blocked => {
                connection.fds_refused = None;
                if !connection.blocked {
                    connection.blocked = true;
                    self.watch(index);
                }
            }
            Written::TooManyFds => {
                connection.blocked = true;
                let since = *connection.fds_refused.get_or_insert_with(Instant::now);
                if since.elapsed() < FDS_GIVE_UP {
                    self.alarm(FDS_AGAIN, Alarm::Fds(token));
                    return self.watch(index);
                }
                connection.fds_refused = None;
                let charges = &mut self.charges;
                let pay = |payer, bytes, fds| pay(charges, payer, bytes, fds);
                let message = connection.queue.drop_first_message(pay);
                match (connection.port, message) {
                    (Some(port), Some(message)) => {
                        self.todo.push_back(Todo::NotSent(port, message));
                    }
                    (Some(port), None) => self.todo.push_back(Todo::Broken(port)),
                    (None, _) => return self.destroy(index),
                }
                self.alarm(FDS_AGAIN, Alarm::Fds(token));
                self.watch(index);
            }
            Written::Closed => {
                connection.write_dead = true;
                connection.blocked = false;
                let charges = &mut self.charges;
                connection
                    .queue
                    .clear(|payer, bytes, fds| pay(charges, payer, bytes, fds));
                match connection.port {
                    None => self.destroy(index),
                    Some(port) => {
                        // What it sent before it went is still read.
                        self.todo.push_back(Todo::Drained(port));
                        self.watch(index);
                    }
                }
            }
        }
    }

    /// Writes what waits for a connection.
    pub fn flush(&mut self, index: u32) {
        let Some(connection) = self.slots[index as usize].connection.as_deref_mut() else {
            return;
        };
        connection.dirty = false;
        if connection.write_dead {
            let charges = &mut self.charges;
            connection
                .queue
                .clear(|payer, bytes, fds| pay(charges, payer, bytes, fds));
            return;
        }
        let charges = &mut self.charges;
        let (written, _) = connection.queue.write(
            connection.socket.as_fd(),
            &[],
            &Fds::NONE,
            |payer, bytes, fds| {
                pay(charges, payer, bytes, fds);
            },
        );
        self.after_write(index, written);
    }

    /// Writes what was gathered in this turn.
    pub fn flush_dirty(&mut self) {
        while let Some(index) = self.dirty.pop() {
            if self.at(index).is_some_and(|it| it.dirty && !it.blocked) {
                self.flush(index);
            } else if let Some(connection) = self.at_mut(index) {
                connection.dirty = false;
            }
        }
    }

    /// A message from another connection begins to arrive at `to` in pieces (or a run of messages that is written
    /// later). False: another is in the middle of one.
    pub fn begin_stream(&mut self, to: Port) -> bool {
        match self.place(to).and_then(|index| self.at_mut(index)) {
            Some(connection) => !std::mem::replace(&mut connection.receiving, true),
            None => true,
        }
    }

    /// The message is whole: what was held back may follow.
    pub fn end_stream(&mut self, to: Port) {
        let Some(index) = self.place(to) else { return };
        let Some(connection) = self.slots[index as usize].connection.as_deref_mut() else {
            return;
        };
        connection.receiving = false;
        if !connection.held.is_empty() {
            connection.queue.append(&mut connection.held);
            self.mark_dirty(index);
        }
    }

    /// Whether something waits behind the message that is being written to `to`.
    pub fn is_held(&self, to: Port) -> bool {
        let connection = self.place(to).and_then(|index| self.at(index));
        connection.is_some_and(|connection| !connection.held.is_empty())
    }

    fn mark_dirty(&mut self, index: u32) {
        if let Some(connection) = self.at_mut(index)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Whether `to` has so much to write that who feeds it has to wait.
    pub fn is_full(&self, to: Port) -> bool {
        let connection = self.place(to).and_then(|index| self.at(index));
        connection
            .is_some_and(|it| it.blocked && it.queue.load().bytes + it.held.load().bytes > HIGH)
    }

    /// Sets an alarm.
    pub fn alarm(&mut self, after: Duration, alarm: Alarm) -> Key {
        self.alarms.set(after, alarm)
    }

    /// The router's timer with this number, if it was not cancelled.
    pub fn take_timer(&mut self, number: u64) -> Option<Timer> {
        let timer = *self.timers.iter().find(|(_, (_, it))| *it == number)?.0;
        self.timers.remove(&timer);
        Some(timer)
    }
}

fn pay(charges: &mut [(u32, Load)], payer: SessionId, bytes: usize, fds: usize) {
    if let Some((generation, load)) = charges.get_mut(payer.index())
        && *generation == payer.generation
    {
        load.bytes = load.bytes.saturating_sub(bytes);
        load.fds = load.fds.saturating_sub(fds);
    }
}

impl Outbox for Io {
    fn wants_decisions(&self) -> bool {
        self.watcher
            .as_ref()
            .is_some_and(|watcher| watcher.wants_decisions())
    }

    fn decided(&mut self, decision: &Decision<'_>) {
        if let Some(watcher) = &mut self.watcher {
            watcher.decided(decision);
        }
    }

    fn send(&mut self, to: Port, message: Outgoing<'_>) {
        let Some(index) = self.place(to) else { return };
        if let Some(payer) = message.charge {
            if self.charges.len() <= payer.index() {
                self.charges
                    .resize(payer.index() + 1, (u32::MAX, Load::default()));
            }
            let entry = &mut self.charges[payer.index()];
            if entry.0 != payer.generation {
                *entry = (payer.generation, Load::default());
            }
            entry.1.bytes += message.len();
            entry.1.fds += message.fds.len();
        }
        let Some(connection) = self.slots[index as usize].connection.as_deref_mut() else {
            return;
        };
        let queue = if connection.receiving {
            &mut connection.held
        } else {
            &mut connection.queue
        };
        queue.push(message.head, message.fds.clone(), message.charge);
        let body = message.body.bytes();
        let direct = matches!(message.body, Payload::Borrowed(_))
            && body.len() >= GATHER
            && !connection.receiving
            && !connection.blocked
            && !connection.write_dead;
        if !direct {
            queue.push_body(message.body, message.charge);
            if !connection.receiving {
                self.mark_dirty(index);
                if body.len() >= GATHER && self.at(index).is_some_and(|it| !it.blocked) {
                    self.flush(index);
                }
            }
            return;
        }
        let charges = &mut self.charges;
        let socket = connection.socket.as_fd();
        let (written, count) = queue.write(socket, body, &Fds::NONE, |payer, bytes, fds| {
            pay(charges, payer, bytes, fds);
        });
        if let Some(payer) = message.charge {
            pay(charges, payer, count, 0);
        }
        queue.push(&body[count..], Fds::NONE, message.charge);
        self.after_write(index, written);
    }

    fn queued(&self, port: Port) -> Load {
        let connection = self.place(port).and_then(|index| self.at(index));
        connection.map_or(Load::default(), |connection| {
            let (queue, held) = (connection.queue.load(), connection.held.load());
            Load {
                bytes: queue.bytes + held.bytes,
                fds: queue.fds + held.fds,
            }
        })
    }

    fn charged(&self, sender: SessionId) -> Load {
        match self.charges.get(sender.index()) {
            Some((generation, load)) if *generation == sender.generation => *load,
            _ => Load::default(),
        }
    }

    fn open(&mut self, link: Port, hello: &[u8], unix_fds: bool) {
        self.todo.push_back(Todo::Open {
            link,
            hello: hello.to_vec(),
            unix_fds,
        });
    }

    fn close(&mut self, port: Port, ending: Ending) {
        let Some(index) = self.place(port) else {
            return;
        };
        *self.place_mut(port) = 0;
        let token = self.token(index);
        let Some(connection) = self.at_mut(index) else {
            return;
        };
        connection.port = None;
        connection.closing = true;
        let unread = connection.queue.is_empty() && connection.held.is_empty();
        if ending == Ending::Abrupt || unread || connection.write_dead || connection.receiving {
            return self.destroy(index);
        }
        self.alarm(LINGER, Alarm::Linger(token));
        self.flush(index);
        if self.live(token).is_some() {
            self.watch(index);
        }
    }

    fn resume(&mut self, port: Port) {
        self.todo.push_back(Todo::Resume(port));
    }

    fn launch(&mut self, activation: ActivationId, launch: &Launch) {
        self.todo
            .push_back(Todo::Launch(activation, launch.clone()));
    }

    fn set_timer(&mut self, timer: Timer, after: Duration) {
        self.cancel_timer(timer);
        let number = self.alarms.next_number();
        let key = self.alarm(after, Alarm::Router(number));
        self.timers.insert(timer, (key, number));
    }

    fn cancel_timer(&mut self, timer: Timer) {
        if let Some((key, _)) = self.timers.remove(&timer) {
            self.alarms.cancel(key);
        }
    }
}

/// An unauthenticated client's queue: what the handshake answers.
pub(super) fn answer(connection: &mut Connection, bytes: &[u8]) -> Written {
    connection.queue.push(bytes, Fds::NONE, None);
    let (written, _) =
        connection
            .queue
            .write(connection.socket.as_fd(), &[], &Fds::NONE, |_, _, _| {});
    written
}

/// Whether a connection has a bus at its other end.
pub(super) fn rank(connection: &Connection) -> u8 {
    match connection.port {
        Some(Port::Control(_)) => 0,
        Some(Port::Link(..)) => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::connection::Stage;
    use std::os::unix::net::UnixStream;

    fn connection(port: Port) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (
            Connection::new(ours.into(), Some(port), Stage::Open),
            theirs,
        )
    }

    fn session(index: u32, generation: u32) -> SessionId {
        SessionId { index, generation }
    }

    #[test]
    fn a_port_of_an_earlier_session_is_not_the_one_in_its_place() {
        let mut io = Io::new().unwrap();
        let (first, _kept) = connection(Port::Client(session(0, 0)));
        io.insert(first);
        io.close(Port::Client(session(0, 0)), Ending::Abrupt);
        let (second, _also) = connection(Port::Client(session(0, 1)));
        io.insert(second);
        assert!(io.place(Port::Client(session(0, 0))).is_none());
        assert!(io.place(Port::Client(session(0, 1))).is_some());
        assert_eq!(io.open, 1);
    }

    #[test]
    fn what_waits_is_charged_to_its_sender_until_it_is_read() {
        use std::io::Read;
        let mut io = Io::new().unwrap();
        let (receiver, mut theirs) = connection(Port::Client(session(0, 0)));
        let token = io.insert(receiver);
        let sender = session(1, 0);
        let body = vec![7; 1 << 20];
        let message = Outgoing {
            head: b"12345678",
            body: Payload::Borrowed(&body),
            fds: &Fds::NONE,
            charge: Some(sender),
        };
        io.send(Port::Client(session(0, 0)), message);
        let waiting = io.charged(sender);
        assert!(waiting.bytes > 0 && waiting == io.queued(Port::Client(session(0, 0))));
        let mut read = 0;
        let mut buffer = vec![0; 1 << 16];
        while read < body.len() + 8 {
            read += theirs.read(&mut buffer).unwrap();
            io.flush(token.index);
        }
        assert_eq!(io.charged(sender), Load::default());
    }
}
