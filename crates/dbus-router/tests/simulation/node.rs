//! A hub with an engine that has no sockets: it moves bytes between the hub and the wires of the invented
//! world, by the rules of the real engine (buses before clients, backpressure on private ways, large messages
//! in pieces).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dbus_router::{
    ActivationId, Ending, Fds, Frame, Hub, HubConfig, Launch, Load, Outbox, Outgoing, Payload,
    Port, SessionId, Timer, Verdict,
};
use dbus_wire::frame::{MessageType, Scan, scan};
use dbus_wire::header::Header;

use crate::random::Random;
use crate::trace::Trace;
use crate::wire::{End, Wires};

/// A message up to this size is handled when it is whole; the rest of a larger one may come later.
const SMALL: usize = 4 * 1024;
/// A queue with more than this stops the reading of what feeds it.
const HIGH: usize = 16 * 1024;

/// What all parts of the world share.
#[derive(Debug)]
pub struct Medium {
    pub wires: Wires,
    pub random: Random,
    pub trace: Trace,
    pub now: Duration,
}

#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    done: usize,
    fds: Option<Fds>,
    charge: Option<SessionId>,
}

#[derive(Debug)]
enum Then {
    Take,
    Pass(Port),
}

#[derive(Debug)]
enum Rest {
    Passing {
        to: Port,
        left: usize,
    },
    Skipping {
        left: usize,
    },
    Collecting {
        buffer: Vec<u8>,
        length: usize,
        fds: Fds,
        then: Then,
    },
}

#[derive(Debug)]
pub struct Connection {
    end: End,
    /// Our connection to a bus that has not taken it yet.
    joining: bool,
    queue: VecDeque<Queued>,
    held: VecDeque<Queued>,
    /// In the middle of a message that comes in pieces.
    receiving: bool,
    blocked: bool,
    waiting: bool,
    paused: bool,
    write_dead: bool,
    partial: Vec<u8>,
    fds: VecDeque<Fds>,
    rest: Option<Rest>,
}

fn load(queue: &VecDeque<Queued>) -> Load {
    Load {
        bytes: queue.iter().map(|it| it.bytes.len() - it.done).sum(),
        fds: queue
            .iter()
            .filter_map(|it| it.fds.as_ref().map(Fds::len))
            .sum(),
    }
}

impl Connection {
    fn new(end: End, joining: bool) -> Connection {
        Connection {
            end,
            joining,
            queue: VecDeque::new(),
            held: VecDeque::new(),
            receiving: false,
            blocked: false,
            waiting: false,
            paused: false,
            write_dead: false,
            partial: Vec::new(),
            fds: VecDeque::new(),
            rest: None,
        }
    }

    fn load(&self) -> Load {
        let (queue, held) = (load(&self.queue), load(&self.held));
        Load {
            bytes: queue.bytes + held.bytes,
            fds: queue.fds + held.fds,
        }
    }
}

#[derive(Debug)]
enum Todo {
    Resume(Port),
    Drained(Port),
    Broken(Port),
}

/// What the hub wants of the world.
#[derive(Debug)]
pub enum Wish {
    Open { link: Port, unix_fds: bool },
    Launch(ActivationId, Launch),
}

#[derive(Default, Debug)]
pub struct Io {
    pub connections: BTreeMap<Port, Connection>,
    /// Closed by the hub, with something still to be written.
    lingering: Vec<Connection>,
    charges: BTreeMap<SessionId, Load>,
    todo: VecDeque<Todo>,
    pub wishes: VecDeque<Wish>,
    timers: Vec<(Duration, Timer)>,
    now: Duration,
    closed: Vec<End>,
}

/// One bus or router of the world.
#[derive(Debug)]
pub struct Node {
    pub label: &'static str,
    pub hub: Hub,
    pub io: Io,
    /// Connections that wait to be accepted, and whether they are to have descriptors.
    pub backlog: VecDeque<(End, bool, u32)>,
}

impl Node {
    pub fn new(label: &'static str, config: HubConfig) -> Node {
        Node {
            label,
            hub: Hub::new(config),
            io: Io::default(),
            backlog: VecDeque::new(),
        }
    }

    /// The program is run once: it serves buses, then clients, then takes who wants to connect.
    pub fn turn(&mut self, medium: &mut Medium, all: bool) {
        self.io.now = medium.now;
        self.flush_all(medium);
        self.links_joined(medium);
        for rank in 0..3 {
            let mut ports: Vec<Port> = self
                .io
                .connections
                .keys()
                .copied()
                .filter(|port| rank_of(*port) == rank)
                .collect();
            medium.random.shuffle(&mut ports);
            for port in ports {
                if rank == 2 && !all && medium.random.percent(30) {
                    continue;
                }
                self.read(port, medium, all);
                self.settle(medium);
            }
        }
        while self.hub.is_ready()
            && let Some((end, unix_fds, pid)) = self.backlog.pop_front()
        {
            if medium.wires.other_is_closed(end) {
                continue;
            }
            let credentials = dbus_router::Credentials {
                uid: 1000,
                pid: Some(pid),
                ..Default::default()
            };
            match self.hub.client_connected(credentials, unix_fds) {
                Ok(id) => {
                    medium.wires.at(end).accepted = true;
                    let port = Port::Client(id);
                    medium
                        .trace
                        .say(|| format!("{}: accepted {port}, process {pid}", self.label));
                    self.io
                        .connections
                        .insert(port, Connection::new(end, false));
                }
                Err(_) => medium.wires.close(end),
            }
        }
        self.settle(medium);
    }

    /// Whether a turn would find something to do.
    pub fn is_busy(&self, medium: &Medium) -> bool {
        let wires = &medium.wires;
        (!self.backlog.is_empty() && self.hub.is_ready())
            || self
                .io
                .lingering
                .iter()
                .any(|it| wires.writable(it.end) || wires.other_is_closed(it.end))
            || self.io.connections.values().any(|it| {
                let readable = wires.readable(it.end) > 0 || wires.has_ended(it.end);
                (it.joining && (medium.wires.other_is_closed(it.end) || wires.is_accepted(it.end)))
                    || (readable && !it.joining && !it.waiting && !it.paused)
                    || (!it.queue.is_empty()
                        && !it.joining
                        && (wires.writable(it.end) || wires.other_is_closed(it.end)))
            })
    }

    fn links_joined(&mut self, medium: &mut Medium) {
        let joining: Vec<(Port, End)> = self
            .io
            .connections
            .iter()
            .filter(|(_, it)| it.joining)
            .map(|(port, it)| (*port, it.end))
            .collect();
        for (port, end) in joining {
            if medium.wires.at(end).accepted {
                if let Some(connection) = self.io.connections.get_mut(&port) {
                    connection.joining = false;
                }
                self.hub.link_opened(port, true);
                self.io.flush(port, medium);
            } else if medium.wires.other_is_closed(end) {
                self.io.destroy(port);
                medium
                    .trace
                    .say(|| format!("{}: {port} failed", self.label));
                self.hub
                    .link_failed(port, "it closed the connection", &mut self.io);
            }
            self.settle(medium);
        }
    }

    fn read(&mut self, port: Port, medium: &mut Medium, all: bool) {
        loop {
            let Some(connection) = self.io.connections.get_mut(&port) else {
                return;
            };
            if connection.joining || connection.waiting || connection.paused {
                return;
            }
            let end = connection.end;
            if medium.wires.has_ended(end) {
                return self.ended(port, medium);
            }
            let there = medium.wires.readable(end);
            if there == 0 {
                return;
            }
            // A bus is heard to the end, so that what it said is known before a client acts on it.
            let most = match medium.random.below(12) {
                0 => 1,
                1 => 1 + medium.random.below(40),
                2 => 1 + medium.random.below(1000),
                _ => 64 * 1024,
            };
            medium
                .wires
                .read(end, most, &mut connection.partial, &mut connection.fds);
            self.consume(port, medium);
            self.settle(medium);
            if rank_of(port) == 2 && !all && medium.random.one_in(2) {
                return;
            }
        }
    }

    fn ended(&mut self, port: Port, medium: &mut Medium) {
        self.io.destroy(port);
        medium.trace.say(|| format!("{}: {port} ended", self.label));
        self.hub.closed(port, &mut self.io);
    }

    fn fault(&mut self, port: Port, problem: &str, medium: &mut Medium) {
        medium
            .trace
            .say(|| format!("{}: {port} at fault: {problem}", self.label));
        self.io.flush(port, medium);
        self.ended(port, medium);
    }

    /// Handles what has come from a port.
    fn consume(&mut self, port: Port, medium: &mut Medium) {
        let Some(connection) = self.io.connections.get_mut(&port) else {
            return;
        };
        let data = std::mem::take(&mut connection.partial);
        let mut at = 0;
        let problem = self.messages(port, &data, &mut at, medium);
        if let Err(problem) = problem {
            return self.fault(port, &problem, medium);
        }
        if let Some(connection) = self.io.connections.get_mut(&port) {
            connection.partial = data[at..].to_vec();
        }
        self.pause_if_full(port);
    }

    fn messages(
        &mut self,
        port: Port,
        data: &[u8],
        at: &mut usize,
        medium: &mut Medium,
    ) -> Result<(), String> {
        loop {
            let Some(connection) = self.io.connections.get_mut(&port) else {
                return Ok(());
            };
            let bytes = &data[*at..];
            if let Some(rest) = connection.rest.take() {
                *at += self.go_on(port, rest, bytes, medium)?;
                match self.io.connections.get(&port) {
                    Some(connection) if connection.rest.is_none() => continue,
                    _ => return Ok(()),
                }
            }
            let prologue = match scan(bytes) {
                Ok(Scan::Message(prologue)) => prologue,
                Ok(Scan::NeedBytes(_)) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            };
            let length = prologue.message_len();
            let whole = bytes.len() >= length;
            if !whole && length <= SMALL {
                return Ok(());
            }
            let header =
                Header::parse(&bytes[..prologue.header_len()]).map_err(|it| it.to_string())?;
            let count = header.unix_fds as usize;
            if count > 0 && connection.fds.front().map(Fds::len) != Some(count) {
                return Err(format!(
                    "{count} descriptors were promised and did not come"
                ));
            }
            let verdict = self.hub.route(port, &header, &mut self.io);
            if medium.trace.is_on() {
                let label = self.label;
                let mut told = tell(&header);
                if header.signature.starts_with('s')
                    && header.sender.is_none_or(|it| it == "org.freedesktop.DBus")
                    && whole
                {
                    let body = &bytes[prologue.header_len()..length];
                    let mut reader =
                        dbus_wire::body::Reader::new(header.endian, header.signature, body);
                    while let Ok(text) = reader.str() {
                        told.push_str(&format!(" {text:?}"));
                    }
                }
                medium
                    .trace
                    .say(|| format!("{label}: {port} {told} -> {verdict:?}"));
            }
            let Some(connection) = self.io.connections.get_mut(&port) else {
                return Ok(());
            };
            if verdict == Verdict::Wait {
                connection.waiting = true;
                if let Port::Client(id) = port {
                    for bus in [dbus_router::Bus::Host, dbus_router::Bus::Container] {
                        self.io.unpause(Port::Link(bus, id));
                    }
                }
                return Ok(());
            }
            let fds = match count {
                0 => Fds::NONE,
                _ => connection.fds.pop_front().unwrap_or_default(),
            };
            let now = bytes.len().min(length);
            match verdict {
                Verdict::Pass(to) => {
                    let head = header.raw().to_vec();
                    self.pass(
                        port,
                        to,
                        head,
                        &bytes[prologue.header_len()..now],
                        length - now,
                        fds,
                    );
                    *at += now;
                }
                Verdict::Rewrite(to) => {
                    let head = self.hub.rewritten().to_vec();
                    self.pass(
                        port,
                        to,
                        head,
                        &bytes[prologue.header_len()..now],
                        length - now,
                        fds,
                    );
                    *at += now;
                }
                Verdict::Take if !whole => {
                    connection.rest = Some(Rest::Collecting {
                        buffer: bytes[..now].to_vec(),
                        length,
                        fds,
                        then: Then::Take,
                    });
                    *at += now;
                }
                Verdict::Take => {
                    let body = Payload::Borrowed(&bytes[prologue.header_len()..length]);
                    let frame = Frame { header, body, fds };
                    *at += length;
                    let taken = self.hub.take(port, &frame, &mut self.io);
                    taken.map_err(|it| it.to_string())?;
                }
                Verdict::Drop => {
                    *at += now;
                    if now < length {
                        connection.rest = Some(Rest::Skipping { left: length - now });
                    }
                }
                Verdict::Wait => {}
            }
        }
    }

    /// Passes on the first part of a message (or all of it), of which `left` bytes are to come.
    fn pass(&mut self, port: Port, to: Port, head: Vec<u8>, body: &[u8], left: usize, fds: Fds) {
        let rest = if self.io.begin_stream(to) {
            self.io.push(to, [&head, body].concat(), fds);
            if left == 0 {
                self.io.end_stream(to);
                return;
            }
            Rest::Passing { to, left }
        } else if left == 0 {
            let message = Outgoing {
                head: &head,
                body: Payload::Borrowed(body),
                fds: &fds,
                charge: None,
            };
            return self.io.send(to, message);
        } else {
            Rest::Collecting {
                length: head.len() + body.len() + left,
                buffer: [&head, body].concat(),
                fds,
                then: Then::Pass(to),
            }
        };
        if let Some(connection) = self.io.connections.get_mut(&port) {
            connection.rest = Some(rest);
        }
    }

    fn go_on(
        &mut self,
        port: Port,
        rest: Rest,
        data: &[u8],
        medium: &mut Medium,
    ) -> Result<usize, String> {
        let (now, rest) = match rest {
            Rest::Passing { to, left } => {
                let now = left.min(data.len());
                self.io.push(to, data[..now].to_vec(), Fds::NONE);
                if now == left {
                    self.io.end_stream(to);
                    return Ok(now);
                }
                let left = left - now;
                (now, Rest::Passing { to, left })
            }
            Rest::Skipping { left } => {
                let now = left.min(data.len());
                if now == left {
                    return Ok(now);
                }
                (now, Rest::Skipping { left: left - now })
            }
            Rest::Collecting {
                mut buffer,
                length,
                fds,
                then,
            } => {
                let now = (length - buffer.len()).min(data.len());
                buffer.extend_from_slice(&data[..now]);
                if buffer.len() == length {
                    self.collected(port, buffer, fds, then, medium)?;
                    return Ok(now);
                }
                let rest = Rest::Collecting {
                    buffer,
                    length,
                    fds,
                    then,
                };
                (now, rest)
            }
        };
        if let Some(connection) = self.io.connections.get_mut(&port) {
            connection.rest = Some(rest);
        }
        Ok(now)
    }

    fn collected(
        &mut self,
        port: Port,
        buffer: Vec<u8>,
        fds: Fds,
        then: Then,
        medium: &mut Medium,
    ) -> Result<(), String> {
        let whole = Arc::new(buffer);
        let Ok(Scan::Message(prologue)) = scan(&whole) else {
            return Err("a collected message changed its mind".into());
        };
        let head = prologue.header_len();
        let header = Header::parse(&whole[..head]).map_err(|it| it.to_string())?;
        let body = Payload::Shared(&whole, head);
        match then {
            Then::Pass(to) => {
                let message = Outgoing {
                    head: &whole[..head],
                    body,
                    fds: &fds,
                    charge: None,
                };
                self.io.send(to, message);
                Ok(())
            }
            Then::Take => {
                medium
                    .trace
                    .say(|| format!("{}: {port} is whole: {}", self.label, tell(&header)));
                let frame = Frame { header, body, fds };
                let taken = self.hub.take(port, &frame, &mut self.io);
                taken.map_err(|it| it.to_string())
            }
        }
    }

    fn pause_if_full(&mut self, port: Port) {
        let full = match port {
            Port::Client(id) => [dbus_router::Bus::Host, dbus_router::Bus::Container]
                .into_iter()
                .any(|bus| self.io.is_full(Port::Link(bus, id))),
            Port::Link(_, id) => {
                let client = Port::Client(id);
                let waiting = self
                    .io
                    .connections
                    .get(&client)
                    .is_some_and(|it| it.waiting);
                if waiting && self.io.queued(client).bytes > self.hub.limits().receiver_bytes {
                    self.io.todo.push_back(Todo::Broken(client));
                }
                !waiting && self.io.is_full(client)
            }
            Port::Control(_) => false,
        };
        if full && let Some(connection) = self.io.connections.get_mut(&port) {
            connection.paused = true;
        }
    }

    /// Does what the hub asked for while it could not be called.
    pub fn settle(&mut self, medium: &mut Medium) {
        loop {
            while let Some(todo) = self.io.todo.pop_front() {
                match todo {
                    Todo::Resume(port) => {
                        if let Some(connection) = self.io.connections.get_mut(&port)
                            && std::mem::take(&mut connection.waiting)
                        {
                            self.consume(port, medium);
                        }
                    }
                    Todo::Drained(Port::Client(id)) => {
                        for bus in [dbus_router::Bus::Host, dbus_router::Bus::Container] {
                            self.io.unpause(Port::Link(bus, id));
                        }
                    }
                    Todo::Drained(Port::Link(_, id)) => self.io.unpause(Port::Client(id)),
                    Todo::Drained(Port::Control(_)) => {}
                    Todo::Broken(port) => {
                        if self.io.connections.contains_key(&port) {
                            self.ended(port, medium);
                        }
                    }
                }
            }
            self.flush_all(medium);
            if self.io.todo.is_empty() {
                return;
            }
        }
    }

    fn flush_all(&mut self, medium: &mut Medium) {
        for end in std::mem::take(&mut self.io.closed) {
            if end == End::NOWHERE {
                continue;
            }
            medium.wires.close(end);
        }
        let ports: Vec<Port> = self.io.connections.keys().copied().collect();
        for port in ports {
            self.io.flush(port, medium);
        }
        let mut lingering = std::mem::take(&mut self.io.lingering);
        lingering.retain_mut(|connection| {
            self.io.write(connection, medium);
            let done = connection.queue.is_empty() || connection.write_dead;
            if done {
                medium.wires.close(connection.end);
            }
            !done
        });
        self.io.lingering.append(&mut lingering);
    }

    /// A link that the hub wished for is there, on its way to a bus.
    pub fn link_connected(&mut self, link: Port, end: End) {
        if let Some(connection) = self.io.connections.get_mut(&link) {
            connection.end = end;
        }
    }

    /// A link that the hub wished for cannot be had.
    pub fn link_refused(&mut self, link: Port, medium: &mut Medium) {
        self.io.destroy(link);
        self.hub.link_failed(link, "nobody listens", &mut self.io);
        self.settle(medium);
    }

    /// When the next timer runs out.
    pub fn next_timer(&self) -> Option<Duration> {
        self.io.timers.iter().map(|(at, _)| *at).min()
    }

    /// The timer that comes first runs out.
    pub fn ring(&mut self, medium: &mut Medium) {
        self.io.now = medium.now;
        let first = (0..self.io.timers.len()).min_by_key(|at| self.io.timers[*at].0);
        if let Some(first) = first {
            let (_, timer) = self.io.timers.remove(first);
            medium
                .trace
                .say(|| format!("{}: {timer:?} ran out", self.label));
            self.hub.timer_expired(timer, &mut self.io);
            self.settle(medium);
        }
    }

    /// The process is killed.
    pub fn die(&mut self, medium: &mut Medium) {
        for connection in self.io.connections.values().chain(&self.io.lingering) {
            medium.wires.close(connection.end);
        }
        for (end, ..) in self.backlog.drain(..) {
            medium.wires.close(end);
        }
        self.io = Io::default();
    }

    /// What is not at rest although nothing is left to be done.
    pub fn unrest(&self) -> Option<String> {
        if let Some(it) = self.io.charges.iter().find(|(_, it)| it.bytes > 0) {
            return Some(format!(
                "{}: {} is charged for {:?}",
                self.label, it.0, it.1
            ));
        }
        self.io.connections.iter().find_map(|(port, it)| {
            let problem = if it.waiting {
                "waits for ever with a message"
            } else if !it.partial.is_empty() || it.rest.is_some() {
                "has half a message"
            } else if !it.queue.is_empty() || !it.held.is_empty() || it.receiving {
                "has something in its queue"
            } else if it.paused || it.joining {
                "is not read"
            } else {
                return None;
            };
            Some(format!("{}: {port} {problem}", self.label))
        })
    }
}

fn rank_of(port: Port) -> usize {
    match port {
        Port::Control(_) => 0,
        Port::Link(..) => 1,
        Port::Client(_) => 2,
    }
}

/// A message in one line.
pub fn tell(header: &Header<'_>) -> String {
    let kind = match header.kind {
        MessageType::MethodCall => "call",
        MessageType::MethodReturn => "return",
        MessageType::Error => "error",
        MessageType::Signal => "signal",
        MessageType::Unknown(_) => "unknown",
    };
    let mut text = format!("{kind} #{}", header.serial);
    for (label, value) in [
        ("", header.member),
        ("", header.error_name),
        ("from ", header.sender),
        ("to ", header.destination),
    ] {
        if let Some(value) = value {
            text.push_str(&format!(" {label}{value}"));
        }
    }
    if let Some(serial) = header.reply_serial {
        text.push_str(&format!(" for #{serial}"));
    }
    text
}

impl Io {
    fn destroy(&mut self, port: Port) {
        if let Some(connection) = self.connections.remove(&port) {
            self.forget(connection);
        }
    }

    fn forget(&mut self, connection: Connection) {
        self.closed.push(connection.end);
        for queued in connection.queue.iter().chain(&connection.held) {
            self.pay(
                queued.charge,
                queued.bytes.len() - queued.done,
                queued.fds.as_ref(),
            );
        }
        // A message that was being passed on stays half.
        if let Some(Rest::Passing { to, .. }) = connection.rest
            && let Some(receiver) = self.connections.get_mut(&to)
            && receiver.receiving
        {
            receiver.receiving = false;
            self.todo.push_back(Todo::Broken(to));
        }
    }

    fn pay(&mut self, charge: Option<SessionId>, bytes: usize, fds: Option<&Fds>) {
        if let Some(load) = charge.and_then(|payer| self.charges.get_mut(&payer)) {
            load.bytes -= bytes;
            load.fds -= fds.map_or(0, Fds::len);
        }
    }

    fn push(&mut self, to: Port, bytes: Vec<u8>, fds: Fds) {
        if let Some(connection) = self.connections.get_mut(&to) {
            connection.queue.push_back(Queued {
                bytes,
                done: 0,
                fds: Some(fds).filter(|fds| !fds.is_empty()),
                charge: None,
            });
        }
    }

    fn begin_stream(&mut self, to: Port) -> bool {
        match self.connections.get_mut(&to) {
            Some(connection) => !std::mem::replace(&mut connection.receiving, true),
            None => true,
        }
    }

    fn end_stream(&mut self, to: Port) {
        if let Some(connection) = self.connections.get_mut(&to) {
            connection.receiving = false;
            let mut held = std::mem::take(&mut connection.held);
            connection.queue.append(&mut held);
        }
    }

    fn is_full(&self, port: Port) -> bool {
        self.connections
            .get(&port)
            .is_some_and(|it| it.blocked && it.load().bytes > HIGH)
    }

    fn unpause(&mut self, port: Port) {
        if let Some(connection) = self.connections.get_mut(&port) {
            connection.paused = false;
        }
    }

    fn flush(&mut self, port: Port, medium: &mut Medium) {
        let Some(mut connection) = self.connections.remove(&port) else {
            return;
        };
        let was_blocked = connection.blocked;
        self.write(&mut connection, medium);
        if was_blocked && !connection.blocked {
            self.todo.push_back(Todo::Drained(port));
        }
        self.connections.insert(port, connection);
    }

    fn write(&mut self, connection: &mut Connection, medium: &mut Medium) {
        if connection.joining {
            return;
        }
        connection.blocked = false;
        while let Some(first) = connection.queue.front_mut() {
            let fds = first.fds.as_ref().filter(|_| first.done == 0);
            let written = medium
                .wires
                .write(connection.end, &first.bytes[first.done..], fds);
            let count = match written {
                Some(count) => count,
                None => {
                    connection.write_dead = true;
                    first.bytes.len() - first.done
                }
            };
            let (charge, start) = (first.charge, first.done == 0);
            first.done += count;
            let fds = first.fds.clone().filter(|_| start && count > 0);
            let done = first.done == first.bytes.len();
            if count > 0 && start {
                first.fds = None;
            }
            self.pay(charge, count, fds.as_ref());
            if !done {
                connection.blocked = true;
                return;
            }
            connection.queue.pop_front();
        }
    }
}

impl Outbox for Io {
    fn send(&mut self, to: Port, message: Outgoing<'_>) {
        let Some(connection) = self.connections.get_mut(&to) else {
            return;
        };
        if let Some(payer) = message.charge {
            let load = self.charges.entry(payer).or_default();
            load.bytes += message.len();
            load.fds += message.fds.len();
        }
        let queued = Queued {
            bytes: [message.head, message.body.bytes()].concat(),
            done: 0,
            fds: Some(message.fds.clone()).filter(|fds| !fds.is_empty()),
            charge: message.charge,
        };
        if connection.receiving {
            connection.held.push_back(queued);
        } else {
            connection.queue.push_back(queued);
        }
    }

    fn queued(&self, port: Port) -> Load {
        self.connections
            .get(&port)
            .map(Connection::load)
            .unwrap_or_default()
    }

    fn charged(&self, sender: SessionId) -> Load {
        self.charges.get(&sender).copied().unwrap_or_default()
    }

    fn open(&mut self, link: Port, hello: &[u8], unix_fds: bool) {
        // What is written before the world has connected it waits, as it does in a socket.
        self.connections
            .insert(link, Connection::new(End::NOWHERE, true));
        self.push(link, hello.to_vec(), Fds::NONE);
        self.wishes.push_back(Wish::Open { link, unix_fds });
    }

    fn close(&mut self, port: Port, ending: Ending) {
        // A link that is being opened is not opened.
        self.wishes
            .retain(|wish| !matches!(wish, Wish::Open { link, .. } if *link == port));
        let Some(connection) = self.connections.remove(&port) else {
            return;
        };
        // After half a message there is nothing to flush; its source may have gone already.
        let keep = ending == Ending::Flushed
            && !connection.receiving
            && connection.held.is_empty()
            && !connection.joining
            && !connection.queue.is_empty();
        if keep {
            self.lingering.push(connection);
        } else {
            self.forget(connection);
        }
    }

    fn resume(&mut self, port: Port) {
        self.todo.push_back(Todo::Resume(port));
    }

    fn launch(&mut self, activation: ActivationId, launch: &Launch) {
        self.wishes
            .push_back(Wish::Launch(activation, launch.clone()));
    }

    fn set_timer(&mut self, timer: Timer, after: Duration) {
        self.cancel_timer(timer);
        self.timers.push((self.now + after, timer));
    }

    fn cancel_timer(&mut self, timer: Timer) {
        self.timers.retain(|(_, it)| *it != timer);
    }
}
