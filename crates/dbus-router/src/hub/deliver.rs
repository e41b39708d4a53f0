//! Getting messages to clients: one receiver, all who match, the driver's own, and the monitors.

use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::header::{Change, Edit, Header};
use dbus_wire::match_rule::{Args, MatchRule};
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, UniqueNameText};

use super::{DRIVER, DRIVER_PATH, Frame, Hub};
use crate::outbox::{Ending, Fds, Outbox, Outgoing, Payload};
use crate::port::{Port, SessionId};
use crate::session::Phase;

/// Who a message comes from, for rules that ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Driver,
    Client(SessionId),
    /// A connection that lives on a bus behind us; its name as the view has it.
    Outside(UniqueName),
}

/// The text of a client's name.
pub(super) struct DisplayName(Option<UniqueNameText>);

impl std::ops::Deref for DisplayName {
    type Target = str;

    fn deref(&self) -> &str {
        // dbus-daemon addresses those that have no name yet like this, too.
        self.0.as_deref().unwrap_or(":not.active.yet")
    }
}

/// Why a message did not get to its receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// The receiver's queue, or what its sender may have in queues, is full.
    Full,
    /// The receiver did not negotiate file descriptors.
    NoFds,
    /// The receiver has gone.
    Gone,
}

/// The part of its bound that a receiver has while a sender has used up its own.
const LESS_ROOM: usize = 16;

/// Broadcasts of the host that are remembered, so that a monitor sees each once.
const TAPPED: usize = 64;

impl Hub {
    /// Sends a message from inside to a client. `head` has the sender in it.
    pub(super) fn send_inside(
        &mut self,
        from: SessionId,
        to: SessionId,
        head: &[u8],
        body: Payload<'_>,
        fds: &Fds,
        out: &mut dyn Outbox,
    ) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        let Some(session) = self.session(to) else {
            return Err(Refusal::Gone);
        };
        if !matches!(session.phase, Phase::Active) {
            return Err(Refusal::Gone);
        }
        if !fds.is_empty() && !session.unix_fds {
            return Err(Refusal::NoFds);
        }
        let length = head.len() + body.bytes().len();
        let port = Port::Client(to);
        let queued = out.queued(port);
        let waiting = queued.bytes + session.deferred_bytes();
        let charged = out.charged(from);
        let receiver_is_full = (waiting > 0 && waiting + length > limits.receiver_bytes)
            || (!fds.is_empty() && queued.fds + fds.len() > limits.receiver_fds);
        // Only a call can be refused to its sender. A signal or reply that is not delivered ends its receiver, which
        // has to answer for its own queue, and not for what its sender has in those of others. But where a sender
        // has too much unread, many small bounds would be a large one: who does not read then has less room.
        let behind = waiting > limits.receiver_bytes / LESS_ROOM
            || (!fds.is_empty() && queued.fds > limits.receiver_fds / LESS_ROOM);
        let sender_is_full = (behind || is_call_head(head))
            && ((charged.bytes > 0 && charged.bytes + length > limits.sender_bytes)
                || (!fds.is_empty() && charged.fds + fds.len() > limits.sender_fds));
        if receiver_is_full || sender_is_full {
            return Err(Refusal::Full);
        }
        let must_defer = session.must_defer_inside();
        self.counters.inside += 1;
        if must_defer {
            let bytes = [head, body.bytes()].concat();
            let session = self
                .session_mut(to)
                .expect("it was there a few lines above");
            session.defer(bytes, fds.clone(), Some(from));
        } else {
            out.send(
                port,
                Outgoing {
                    head,
                    body,
                    fds,
                    charge: Some(from),
                },
            );
        }
        Ok(())
    }

    /// The descriptors of a message to `port` were refused by the kernel for too long: a call is answered, and
    /// who should have got something else has lost it, and with it the stream.
    pub(super) fn descriptors_refused(
        &mut self,
        port: Port,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) {
        let text = "Too many file descriptors of this user are in flight";
        let caller = match port {
            Port::Client(_) => {
                let name = header.sender.and_then(UniqueName::parse);
                name.and_then(|name| self.clients.get(&name).copied())
            }
            Port::Link(_, id) => Some(id),
            Port::Control(_) => None,
        };
        match (port, caller) {
            (_, Some(caller)) if Self::is_call(header) => {
                if let Port::Client(callee) = port {
                    self.replies.settle(caller, callee, header.serial);
                }
                self.refuse(caller, header, error_names::LIMITS_EXCEEDED, text, out);
            }
            (Port::Client(receiver), _) => self.doom(receiver, Ending::Abrupt),
            (Port::Link(_, id), _) => self.doom(id, Ending::Flushed),
            _ => {}
        }
    }

    /// Sends a message from inside to everybody whose rules match.
    ///
    /// `header` is the message as it came, `head` its header with the sender in it. `skip` gets it anyway.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn broadcast_inside(
        &mut self,
        from: SessionId,
        header: &Header<'_>,
        head: &[u8],
        body: Payload<'_>,
        fds: &Fds,
        skip: Option<SessionId>,
        out: &mut dyn Outbox,
    ) {
        let unicast = header.destination.is_some();
        if unicast && !self.matches.has_eavesdroppers() {
            return;
        }
        let mut found = std::mem::take(&mut self.found);
        self.matches.matching(
            header,
            body.bytes(),
            unicast,
            |rule| self.rule_names_match(rule, Origin::Client(from), header.destination),
            &mut found,
        );
        for &to in &found {
            if Some(to) == skip || !self.may_meet(from, to) {
                continue;
            }
            if self.send_inside(from, to, head, body, fds, out) == Err(Refusal::Full) {
                tracing::warn!(client = %to, "disconnected: it does not read its signals");
                self.doom(to, Ending::Abrupt);
            }
        }
        found.clear();
        self.found = found;
    }

    /// The two keys of a match rule that need a bus to resolve.
    pub(super) fn rule_names_match(
        &self,
        rule: &MatchRule,
        origin: Origin,
        destination: Option<&str>,
    ) -> bool {
        let sender_matches = match rule.sender.as_deref() {
            None => true,
            Some(DRIVER) => origin == Origin::Driver,
            Some(name) => self.is_name_of(name, origin),
        };
        sender_matches
            && match rule.destination.as_deref() {
                None => true,
                Some(name) => {
                    destination == Some(name)
                        || destination.is_some_and(|it| self.are_names_of_one(it, name))
                }
            }
    }

    /// Whether two names, in the view, are names of one connection.
    fn are_names_of_one(&self, one: &str, other: &str) -> bool {
        let owner = |name: &str| UniqueName::parse(name).or_else(|| self.owner_in_view(name));
        owner(one).is_some_and(|it| owner(other) == Some(it))
    }

    /// Whether `name`, in the view, is a name of `origin`.
    fn is_name_of(&self, name: &str, origin: Origin) -> bool {
        if let Some(unique) = UniqueName::parse(name) {
            return match origin {
                Origin::Driver => false,
                Origin::Client(id) => self
                    .session(id)
                    .is_some_and(|session| session.name == Some(unique)),
                Origin::Outside(other) => other == unique,
            };
        }
        match (self.owner_in_view(name), origin) {
            (Some(owner), Origin::Client(id)) => self
                .session(id)
                .is_some_and(|session| session.name == Some(owner)),
            (Some(owner), Origin::Outside(other)) => owner == other,
            _ => false,
        }
    }

    /// Sends a message of the driver's to a client, behind the answers that are due to it from the host.
    pub(super) fn driver_send(&mut self, to: SessionId, bytes: Vec<u8>, out: &mut dyn Outbox) {
        self.tap_own(&bytes, out);
        self.eavesdrop_driver(&bytes, to, out);
        self.driver_send_untapped(to, bytes, out);
    }

    pub(super) fn driver_send_untapped(
        &mut self,
        to: SessionId,
        bytes: Vec<u8>,
        out: &mut dyn Outbox,
    ) {
        let limit = self.config.limits.receiver_bytes;
        let Some(session) = self.session_mut(to) else {
            return;
        };
        let waiting = out.queued(Port::Client(to)).bytes + session.deferred_bytes();
        if waiting > 0 && waiting + bytes.len() > limit {
            tracing::warn!(client = %to, "disconnected: it does not read the bus's answers");
            self.doom(to, Ending::Abrupt);
        } else if session.must_defer_driver() {
            session.defer(bytes, Fds::NONE, None);
        } else {
            out.send(Port::Client(to), Outgoing::whole(&bytes));
        }
    }

    /// Lets out what waited for answers of the host's driver, as far as they have come (or all).
    pub(super) fn flush_deferred(&mut self, id: SessionId, all: bool, out: &mut dyn Outbox) {
        if all && let Some(session) = self.session_mut(id) {
            // The link has gone: nothing is due any more.
            if let Some(link) = &mut session.host {
                link.driver.clear();
            }
        }
        while let Some(deferred) = self
            .session_mut(id)
            .and_then(|session| session.next_deferred())
        {
            out.send(
                Port::Client(id),
                Outgoing {
                    head: &deferred.bytes,
                    body: Payload::Borrowed(&[]),
                    fds: &deferred.fds,
                    charge: deferred.charge,
                },
            );
        }
    }

    /// Starts a message of the driver's to a client.
    pub(super) fn addressed<'b>(&mut self, builder: Builder<'b>, name: &'b str) -> Builder<'b> {
        builder
            .sender(DRIVER)
            .destination(name)
            .serial(self.driver_serial())
    }

    /// The name to put into SENDER or DESTINATION for a client.
    pub(super) fn display_name(&self, id: SessionId) -> DisplayName {
        DisplayName(
            self.session(id)
                .and_then(|session| session.name)
                .map(UniqueName::text),
        )
    }

    /// Answers a call of a client, unless it does not want an answer.
    pub(super) fn reply(
        &mut self,
        to: SessionId,
        call: &Header<'_>,
        body: &Body,
        out: &mut dyn Outbox,
    ) {
        if !call.flags.contains(Flags::NO_REPLY_EXPECTED) {
            self.reply_to_serial(to, call.serial, body, out);
        }
    }

    pub(super) fn reply_to_serial(
        &mut self,
        to: SessionId,
        serial: u32,
        body: &Body,
        out: &mut dyn Outbox,
    ) {
        let name = self.display_name(to);
        let reply = self
            .addressed(Builder::method_return(serial), &name)
            .body(body)
            .build();
        self.driver_send(to, reply, out);
    }

    /// Answers a call of a client with an error, unless it does not want an answer or it was no call.
    pub(super) fn refuse(
        &mut self,
        to: SessionId,
        call: &Header<'_>,
        error: &str,
        text: &str,
        out: &mut dyn Outbox,
    ) {
        self.counters.errors += 1;
        if Self::is_call(call) && !call.flags.contains(Flags::NO_REPLY_EXPECTED) {
            self.refuse_serial(to, call.serial, error, text, out);
        }
    }

    pub(super) fn refuse_serial(
        &mut self,
        to: SessionId,
        serial: u32,
        error: &str,
        text: &str,
        out: &mut dyn Outbox,
    ) {
        let name = self.display_name(to);
        let reply = self
            .addressed(Builder::error(error, serial, text), &name)
            .build();
        self.driver_send(to, reply, out);
    }

    /// The answer to a call whose callee has gone.
    pub(super) fn no_reply(&mut self, to: SessionId, serial: u32, out: &mut dyn Outbox) {
        self.refuse_serial(
            to,
            serial,
            error_names::NO_REPLY,
            "Message recipient disconnected from message bus without replying",
            out,
        );
    }

    /// A signal of the driver's to one client.
    pub(super) fn driver_signal(
        &mut self,
        to: SessionId,
        member: &str,
        body: &Body,
        out: &mut dyn Outbox,
    ) {
        let name = self.display_name(to);
        let builder = Builder::signal(DRIVER_PATH, DRIVER, member);
        let signal = self.addressed(builder, &name).body(body).build();
        self.driver_send(to, signal, out);
    }

    /// A signal of the driver's to all who have a rule for it, or to one of them.
    pub(super) fn driver_broadcast(
        &mut self,
        member: &str,
        body: &Body,
        only: Option<SessionId>,
        out: &mut dyn Outbox,
    ) {
        let serial = self.driver_serial();
        let bytes = Builder::signal(DRIVER_PATH, DRIVER, member)
            .sender(DRIVER)
            .serial(serial)
            .body(body)
            .build();
        let Some((header, body)) = split(&bytes) else {
            return;
        };
        let mut found = std::mem::take(&mut self.found);
        self.matches.matching(
            &header,
            body,
            false,
            |rule| self.rule_names_match(rule, Origin::Driver, None),
            &mut found,
        );
        if only.is_none() {
            self.tap_own(&bytes, out);
        }
        for &to in &found {
            if only.is_none_or(|only| only == to) {
                self.driver_send_untapped(to, bytes.clone(), out);
            }
        }
        found.clear();
        self.found = found;
    }

    /// Whether a client has a rule for a signal of the driver's.
    pub(super) fn has_rule_for_driver_signal(
        &self,
        id: SessionId,
        header: &Header<'_>,
        body: &[u8],
    ) -> bool {
        let args = Args::new(header, body);
        self.session(id).is_some_and(|session| {
            session.rules.iter().any(|entry| {
                entry.rule.matches(header, &args)
                    && self.rule_names_match(&entry.rule, Origin::Driver, None)
            })
        })
    }

    /// Shows a message of the driver's to those who eavesdrop.
    fn eavesdrop_driver(&mut self, bytes: &[u8], receiver: SessionId, out: &mut dyn Outbox) {
        if !self.matches.has_eavesdroppers() {
            return;
        }
        let Some((header, body)) = split(bytes) else {
            return;
        };
        let mut found = Vec::new();
        self.matches.matching(
            &header,
            body,
            true,
            |rule| self.rule_names_match(rule, Origin::Driver, header.destination),
            &mut found,
        );
        for to in found {
            if to != receiver {
                self.driver_send_untapped(to, bytes.to_vec(), out);
            }
        }
    }

    /// Whether anybody monitors the router.
    pub(super) fn is_tapped(&self) -> bool {
        !self.monitors.is_empty()
    }

    /// Shows a message of our own making to the monitors.
    pub(super) fn tap_own(&mut self, bytes: &[u8], out: &mut dyn Outbox) {
        if self.is_tapped()
            && let Some((header, body)) = split(bytes)
        {
            let body = Payload::Borrowed(body);
            self.tap(&header, header.raw(), body, &Fds::NONE, Origin::Driver, out);
        }
    }

    /// Shows a message that a client sent to the monitors, with its sender in it.
    pub(super) fn tap_client(&mut self, from: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        if !self.is_tapped() {
            return;
        }
        let name = self.display_name(from);
        let mut head = Vec::new();
        let edit = Edit {
            sender: Change::Set(&name),
            ..Edit::default()
        };
        frame.header.rewrite(&edit, &mut head);
        let origin = Origin::Client(from);
        self.tap(&frame.header, &head, frame.body, &frame.fds, origin, out);
    }

    /// Shows a message that a bus behind us sent to a client.
    pub(super) fn tap_link(
        &mut self,
        origin: Origin,
        header: &Header<'_>,
        head: &[u8],
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        if !self.is_tapped() {
            return;
        }
        if header.destination.is_none() {
            match origin {
                // The control link has shown it.
                Origin::Driver => return,
                Origin::Outside(sender) => {
                    let key = (sender, header.serial);
                    if self.tapped.contains(&key) {
                        return;
                    }
                    if self.tapped.len() >= TAPPED {
                        self.tapped.pop_front();
                    }
                    self.tapped.push_back(key);
                }
                Origin::Client(_) => {}
            }
        }
        self.tap(header, head, frame.body, &frame.fds, origin, out);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn tap(
        &mut self,
        header: &Header<'_>,
        head: &[u8],
        body: Payload<'_>,
        fds: &Fds,
        origin: Origin,
        out: &mut dyn Outbox,
    ) {
        let args = Args::new(header, body.bytes());
        let limit = self.config.limits.receiver_bytes;
        let mut overrun = Vec::new();
        for &monitor in &self.monitors {
            let Some(session) = self.session(monitor) else {
                continue;
            };
            let wanted = session.rules.is_empty()
                || session.rules.iter().any(|entry| {
                    entry.rule.matches(header, &args)
                        && self.rule_names_match(&entry.rule, origin, header.destination)
                });
            if !wanted {
                continue;
            }
            let port = Port::Client(monitor);
            let waiting = out.queued(port).bytes;
            if waiting > 0 && waiting + head.len() + body.bytes().len() > limit {
                overrun.push(monitor);
                continue;
            }
            // A header that promises descriptors, without them, would end the monitor.
            if fds.is_empty() || session.unix_fds {
                out.send(
                    port,
                    Outgoing {
                        head,
                        body,
                        fds,
                        charge: None,
                    },
                );
            }
        }
        for monitor in overrun {
            tracing::warn!(client = %monitor, "disconnected: the monitor does not read");
            self.doom(monitor, Ending::Abrupt);
        }
    }
}

/// Whether a header is a call's. Specification, "Message Format": the type is the second byte.
fn is_call_head(head: &[u8]) -> bool {
    let kind = head.get(1).copied().map(MessageType::from_byte);
    kind == Some(MessageType::MethodCall)
}

/// A message of our own making, taken apart again.
pub(super) fn split(bytes: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let prologue = dbus_wire::frame::Prologue::parse(bytes.first_chunk()?).ok()?;
    let (header, body) = bytes.split_at_checked(prologue.header_len())?;
    Some((Header::parse(header).ok()?, body))
}
