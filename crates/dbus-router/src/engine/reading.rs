//! Bytes that arrive: from a read to messages, and what becomes of the rest of one that is not whole.

use std::os::fd::AsFd;
use std::sync::Arc;

use dbus_wire::frame::{Scan, scan};
use dbus_wire::header::Header;

use super::connection::{Rest, Stage, Then};
use super::io::{Io, Todo, Token};
use super::queue::{self, MAX_FDS};
use super::{READ, Router, SMALL};
use crate::hub::{Frame, Verdict};
use crate::outbox::{Fds, Outbox, Payload};
use crate::port::{Bus, Port};

impl Router {
    pub(super) fn writable(&mut self, token: Token) {
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
    pub(super) fn readable(&mut self, token: Token) {
        let Some(index) = self.io.live(token) else {
            return;
        };
        let Some(connection) = self.io.at_mut(index) else {
            return;
        };
        if connection.waiting || connection.paused || connection.closing {
            return;
        }
        let partial = std::mem::take(&mut connection.partial);
        let start = partial.len();
        // What is long grows where it is: to copy it for each read would cost the square of its length.
        let in_place = start >= SMALL;
        let (mut buffer, partial) = if in_place {
            (partial, Vec::new())
        } else {
            (std::mem::take(&mut self.buffer), partial)
        };
        if in_place {
            buffer.resize(start + READ, 0);
        } else {
            buffer[..start].copy_from_slice(&partial);
        }
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
                let end = start + received.bytes;
                let (bytes, fds) = connection.needed;
                if in_place && end < bytes && connection.fds.len() < fds {
                    buffer.truncate(end);
                    connection.partial = buffer;
                    return;
                }
                drop(partial);
                self.consume(token, &buffer[..end], start);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) =>
            {
                if in_place {
                    buffer.truncate(start);
                    connection.partial = buffer;
                    return;
                }
                connection.partial = partial;
            }
            _ => self.ended(token),
        }
        if !in_place {
            self.buffer = buffer;
        }
    }

    /// Handles bytes of a connection; what cannot be handled yet is kept in it. The first `known` were there
    /// before.
    pub(super) fn consume(&mut self, token: Token, data: &[u8], known: usize) {
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
    pub(super) fn messages(&mut self, token: Token, data: &[u8], mut at: usize) -> Option<usize> {
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
                Ok(Scan::NeedBytes(count)) => {
                    connection.needed = (count, usize::MAX);
                    break;
                }
                Err(error) => {
                    fault = Some(error.to_string());
                    break;
                }
            };
            let length = prologue.message_len();
            let whole = bytes.len() >= length;
            if !whole && length <= SMALL {
                connection.needed = (length, usize::MAX);
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
                connection.needed = (length, count);
                break;
            }
            // A message that had to wait is offered again, and arrived before.
            let seen = std::mem::take(&mut connection.seen);
            if let Some(watcher) = self.io.watcher.as_mut().filter(|_| !seen) {
                watcher.arrived(port, &header);
            }
            // A read ends behind descriptors: messages with some come one by one, however long one waits.
            self.messages_in_turn += u32::from(count == 0);
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
    pub(super) fn pass_held(&mut self, to: Port, bytes: &[u8], fds: Fds) {
        let message = crate::outbox::Outgoing {
            head: bytes,
            body: Payload::Borrowed(&[]),
            fds: &fds,
            charge: None,
        };
        self.io.send(to, message);
    }

    /// The first part of a message was passed on.
    pub(super) fn passed(&mut self, token: Token, to: Port, left: usize) {
        if left == 0 {
            return self.io.end_stream(to);
        }
        if self.io.live(token).is_some()
            && let Some(connection) = self.io.at_mut(token.index)
        {
            connection.rest = Some(Rest::Passing { to, left });
        }
    }

    pub(super) fn collect(&mut self, token: Token, length: usize, fds: Fds, then: Then) {
        self.collect_on(token, Vec::with_capacity(SMALL), length, fds, then);
    }

    pub(super) fn collect_on(
        &mut self,
        token: Token,
        buffer: Vec<u8>,
        length: usize,
        fds: Fds,
        then: Then,
    ) {
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
    pub(super) fn go_on(
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
    pub(super) fn wait(&mut self, token: Token, port: Port) {
        if let Some(connection) = self.io.at_mut(token.index) {
            connection.waiting = true;
            connection.seen = true;
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
    pub(super) fn resume(&mut self, port: Port) {
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

    pub(super) fn consume_kept(&mut self, token: Token) {
        let Some(connection) = self.io.at_mut(token.index) else {
            return;
        };
        let partial = std::mem::take(&mut connection.partial);
        if !partial.is_empty() {
            self.consume(token, &partial, partial.len());
        }
    }

    /// Stops reading a connection while what it feeds is full.
    pub(super) fn pause_if_full(&mut self, token: Token) {
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
    pub(super) fn drained(&mut self, port: Port) {
        match port {
            Port::Client(id) => {
                self.unpause(Port::Link(Bus::Host, id));
                self.unpause(Port::Link(Bus::Container, id));
            }
            Port::Link(_, id) => self.unpause(Port::Client(id)),
            Port::Control(_) => {}
        }
    }

    pub(super) fn unpause(&mut self, port: Port) {
        if let Some(index) = self.io.place(port)
            && let Some(connection) = self.io.at_mut(index)
            && std::mem::take(&mut connection.paused)
        {
            self.io.watch(index);
        }
    }

    /// A connection has ended.
    pub(super) fn ended(&mut self, token: Token) {
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
    pub(super) fn fault(&mut self, token: Token, problem: &str) {
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

    pub(super) fn broken(&mut self, port: Port) {
        if let Some(index) = self.io.place(port) {
            let token = self.io.token(index);
            self.ended(token);
        }
    }

    pub(super) fn not_sent(&mut self, port: Port, message: &[u8]) {
        let header = message
            .first_chunk()
            .and_then(|first| dbus_wire::frame::Prologue::parse(first).ok())
            .and_then(|prologue| Header::parse(&message[..prologue.header_len()]).ok());
        if let Some(header) = header {
            self.hub.not_sent(port, &header, &mut self.io);
        }
    }
}
