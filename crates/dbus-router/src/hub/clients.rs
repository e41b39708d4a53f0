//! What clients send.

use dbus_wire::body::check_body;
use dbus_wire::error_names;
use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::header::{Change, Edit, Header};
use dbus_wire::names::UniqueName;

use super::deliver::Refusal;
use super::resolve::Target;
use super::{DRIVER, Fault, Frame, Hub, LaunchEnd, Verdict};
use crate::local_bus::{ActivationId, Expectation, Waiting};
use crate::outbox::{Ending, Outbox, Outgoing, Payload, Timer};
use crate::port::{Bus, Port, SessionId};
use crate::session::Phase;

impl Hub {
    pub(super) fn route_from_client(
        &mut self,
        id: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) -> Verdict {
        let Some(session) = self.session(id) else {
            return Verdict::Drop;
        };
        match session.phase {
            Phase::Unregistered if self.waits_for_names(id, header) => return Verdict::Wait,
            Phase::Unregistered | Phase::Monitor => return Verdict::Take,
            Phase::Opening => return Verdict::Wait,
            Phase::Active => {}
        }
        let destination = match (header.kind, header.destination) {
            // Specification, "Message Format": unknown types must be ignored.
            (MessageType::Unknown(_), _) => return Verdict::Drop,
            (MessageType::MethodReturn | MessageType::Error, None) => return Verdict::Drop,
            (_, None) if self.is_joining_container(id) => return Verdict::Wait,
            (_, None) => return Verdict::Take,
            // Malformed, which is judged before it is dropped as a reply that nobody asked for.
            (MessageType::MethodReturn | MessageType::Error, _)
                if header.reply_serial.is_none() =>
            {
                return Verdict::Take;
            }
            (_, Some(DRIVER)) => return self.route_to_driver(id, header),
            (_, Some(destination)) => destination,
        };
        let target = self.resolve(id, destination, header);
        self.report_to_host(id, destination, header, &target, out);
        if target == Target::Host {
            self.register_application(id, header, out);
        }
        match target {
            // A container bus that is back may have no place for the link yet: nothing is lost meanwhile.
            Target::Unknown(_) | Target::Container(_) if self.is_joining_container(id) => {
                Verdict::Wait
            }
            Target::Unknown(name) => {
                self.ask_container(id, name, out);
                Verdict::Wait
            }
            _ if self.is_tapped() => Verdict::Take,
            Target::Host if self.introduces_icon(id, header) => Verdict::Take,
            Target::Host => {
                if self.note_call(id, Bus::Host, header, out) {
                    self.counters.to_host += 1;
                    Verdict::Pass(Port::Link(Bus::Host, id))
                } else {
                    Verdict::Drop
                }
            }
            Target::Container(name) => {
                if !self.note_call(id, Bus::Container, header, out) {
                    return Verdict::Drop;
                }
                self.counters.inside += 1;
                let port = Port::Link(Bus::Container, id);
                match name {
                    None => Verdict::Pass(port),
                    Some(name) => {
                        self.rewrite(header, None, Some(&name.to_string()));
                        Verdict::Rewrite(port)
                    }
                }
            }
            _ => Verdict::Take,
        }
    }

    /// Makes `rewritten` from a header.
    pub(super) fn rewrite(
        &mut self,
        header: &Header<'_>,
        sender: Option<&str>,
        destination: Option<&str>,
    ) {
        let edit = Edit {
            sender: sender.map_or(Change::Keep, Change::Set),
            destination: destination.map_or(Change::Keep, Change::Set),
            ..Edit::default()
        };
        self.rewritten.clear();
        header.rewrite(&edit, &mut self.rewritten);
    }

    /// Whether a message may go to a bus. Remembers that a call waits for its reply; where too many do, refuses it
    /// and says no. A reply to the host has to answer a call that came from there.
    fn note_call(
        &mut self,
        id: SessionId,
        bus: Bus,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) -> bool {
        let limit = self.config.limits.calls_per_client;
        let Some(session) = self.session_mut(id) else {
            return false;
        };
        let link = match bus {
            Bus::Host => &mut session.host,
            Bus::Container => &mut session.container,
        };
        let Some(link) = link else {
            self.refuse(
                id,
                header,
                error_names::DISCONNECTED,
                &format!("The {bus} is gone"),
                out,
            );
            return false;
        };
        // A session bus passes replies on that nobody asked for, and several libraries take a reply by its
        // serial, whoever sent it: what is refused by every other way must not be reached by this one.
        if let (Bus::Host, MessageType::MethodReturn | MessageType::Error) = (bus, header.kind) {
            let caller = header.destination.and_then(UniqueName::parse);
            let asked = caller.zip(header.reply_serial);
            return asked.is_some_and(|(caller, serial)| link.may_answer(caller, serial));
        }
        if header.kind != MessageType::MethodCall || header.flags.contains(Flags::NO_REPLY_EXPECTED)
        {
            return true;
        }
        if link.outstanding.len() >= limit {
            let text = format!("The limit of {limit} calls that wait for a reply is reached");
            self.refuse(id, header, error_names::LIMITS_EXCEEDED, &text, out);
            return false;
        }
        link.outstanding.insert(header.serial);
        true
    }

    pub(super) fn take_from_client(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> Result<(), Fault> {
        let Some(session) = self.session(id) else {
            return Ok(());
        };
        match session.phase {
            Phase::Unregistered => return self.take_before_hello(id, frame, out),
            Phase::Monitor => return Err(Fault::MonitorSpoke),
            Phase::Opening | Phase::Active => {}
        }
        let header = &frame.header;
        let Some(destination) = header.destination else {
            check(frame)?;
            match header.kind {
                MessageType::Signal => self.broadcast(id, frame, out),
                // Specification, "Message Bus Messages": without a destination a call is for the bus.
                _ => {
                    self.tap_client(id, frame, out);
                    self.take_for_driver(id, frame, out);
                }
            }
            return Ok(());
        };
        if destination == DRIVER {
            check(frame)?;
            self.tap_client(id, frame, out);
            self.take_for_driver(id, frame, out);
            return Ok(());
        }
        if let MessageType::MethodReturn | MessageType::Error = header.kind
            && header.reply_serial.is_none()
        {
            check(frame)?;
        }
        let target = match self.resolve(id, destination, header) {
            Target::Unknown(name) => self.resolve_as_known(id, name, header),
            target => target,
        };
        match target {
            Target::Inside(to) => {
                check(frame)?;
                self.deliver(id, to, frame, out);
            }
            Target::Activate(name) => {
                check(frame)?;
                if !self.may_start(id) {
                    self.tap_client(id, frame, out);
                    self.refuse_start(id, header, &name, out);
                    return Ok(());
                }
                self.hold_for_activation(id, &name, frame, out);
            }
            Target::Host => {
                self.tap_client(id, frame, out);
                if self.note_call(id, Bus::Host, header, out) {
                    self.counters.to_host += 1;
                    match self.renamed_icon(id, frame) {
                        Some(call) => {
                            out.send(Port::Link(Bus::Host, id), Outgoing::whole(&call));
                        }
                        None => self.send_raw(Port::Link(Bus::Host, id), frame, out),
                    }
                }
            }
            Target::Container(name) => {
                self.tap_client(id, frame, out);
                if self.note_call(id, Bus::Container, header, out) {
                    self.counters.inside += 1;
                    let name = name.map(|name| name.to_string());
                    self.rewrite(header, None, name.as_deref());
                    self.send_rewritten(Port::Link(Bus::Container, id), frame, out);
                }
            }
            Target::Nobody | Target::Unknown(_) => {
                check(frame)?;
                self.tap_client(id, frame, out);
                let (error, text) = nobody(destination, header.flags);
                self.refuse(id, header, error, &text, out);
            }
            Target::Forbidden => {
                check(frame)?;
                self.tap_client(id, frame, out);
                self.counters.refused += 1;
                let text = format!("No rule lets this message pass to {destination}");
                self.refuse(id, header, error_names::ACCESS_DENIED, &text, out);
            }
            Target::Refused => {
                check(frame)?;
                self.tap_client(id, frame, out);
                self.counters.refused += 1;
                tracing::info!(client = %id, destination, "refused: it hands over the host");
                let text = format!(
                    "{destination} is not reachable from inside: it would hand over the host \
                     (the router's option --allow {destination} permits it)"
                );
                self.refuse(id, header, error_names::ACCESS_DENIED, &text, out);
            }
        }
        Ok(())
    }

    /// Sends a message on as it is.
    pub(super) fn send_raw(&mut self, to: Port, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let (head, body, fds) = (frame.header.raw(), frame.body, &frame.fds);
        out.send(
            to,
            Outgoing {
                head,
                body,
                fds,
                charge: None,
            },
        );
    }

    /// Sends a message on under the header that [`Hub::rewrite`] made.
    pub(super) fn send_rewritten(&mut self, to: Port, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let (body, fds) = (frame.body, &frame.fds);
        out.send(
            to,
            Outgoing {
                head: &self.rewritten,
                body,
                fds,
                charge: None,
            },
        );
    }

    /// One message from one client to another (or itself).
    fn deliver(&mut self, from: SessionId, to: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let header = &frame.header;
        if !self.may_meet(from, to) {
            self.tap_client(from, frame, out);
            return self.refuse_peer(from, header, out);
        }
        let wants_reply = header.kind == MessageType::MethodCall
            && !header.flags.contains(Flags::NO_REPLY_EXPECTED);
        if wants_reply {
            let limit = self.config.limits.calls_per_client;
            let (error, text) = match self.replies.expect(from, to, header.serial, limit) {
                Expectation::Noted => ("", String::new()),
                Expectation::Twice => (
                    error_names::ACCESS_DENIED,
                    "A call with this serial is already waiting for a reply of this recipient"
                        .into(),
                ),
                Expectation::TooMany => (
                    error_names::LIMITS_EXCEEDED,
                    format!("The limit of {limit} calls that wait for a reply is reached"),
                ),
            };
            if !error.is_empty() {
                return self.refuse(from, header, error, &text, out);
            }
        }
        if let (MessageType::MethodReturn | MessageType::Error, Some(serial)) =
            (header.kind, header.reply_serial)
            && !self.replies.settle(to, from, serial)
        {
            tracing::debug!(client = %from, "dropped a reply that nobody asked for");
            return;
        }
        let mut head = std::mem::take(&mut self.scratch);
        self.head_from(from, header, &mut head);
        let result = self.post(from, to, header, &head, frame, out);
        if let Err(refusal) = result {
            if wants_reply {
                self.replies.settle(from, to, header.serial);
            }
            self.not_delivered(from, to, header, refusal, out);
        }
        head.clear();
        self.scratch = head;
    }

    /// The header of a client's message as its receivers get it: with the sender in it.
    pub(super) fn head_from(&self, from: SessionId, header: &Header<'_>, head: &mut Vec<u8>) {
        let name = self.display_name(from);
        head.clear();
        // A client may rely on it that a field which it knows, and we do not, was set by a bus.
        let edit = Edit {
            sender: Change::Set(&name),
            known_fields_only: true,
            ..Edit::default()
        };
        header.rewrite(&edit, head);
    }

    fn post(
        &mut self,
        from: SessionId,
        to: SessionId,
        header: &Header<'_>,
        head: &[u8],
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> Result<(), Refusal> {
        self.tap_client(from, frame, out);
        self.send_inside(from, to, head, frame.body, &frame.fds, out)?;
        self.broadcast_inside(from, header, head, frame.body, &frame.fds, Some(to), out);
        Ok(())
    }

    /// A message for one client could not be given to it.
    fn not_delivered(
        &mut self,
        from: SessionId,
        to: SessionId,
        header: &Header<'_>,
        refusal: Refusal,
        out: &mut dyn Outbox,
    ) {
        let is_reply = matches!(header.kind, MessageType::MethodReturn | MessageType::Error);
        match refusal {
            Refusal::Full if header.kind == MessageType::MethodCall => {
                let text = "The recipient does not read its messages: its queue is full";
                self.refuse(from, header, error_names::LIMITS_EXCEEDED, text, out);
            }
            Refusal::Full => {
                tracing::warn!(client = %to, "disconnected: it does not read its messages");
                self.doom(to, Ending::Abrupt);
            }
            Refusal::NoFds => {
                let text = "Tried to send a message with Unix file descriptors to a client that \
                            doesn't support that";
                self.refuse(from, header, error_names::NOT_SUPPORTED, text, out);
                // Who called waits for an answer; this is the only one it can get.
                if is_reply && let Some(serial) = header.reply_serial {
                    self.refuse_serial(to, serial, error_names::NOT_SUPPORTED, text, out);
                }
            }
            Refusal::Gone => {
                let (error, text) = nobody(header.destination.unwrap_or_default(), header.flags);
                self.refuse(from, header, error, &text, out);
            }
        }
    }

    /// A signal without destination: to all inside who want it, and to the host.
    fn broadcast(&mut self, from: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        self.tap_client(from, frame, out);
        if self.lives_on_host(from) {
            self.counters.to_host += 1;
            self.report_broadcast(from, &frame.header, true, None, out);
            return self.send_raw(Port::Link(Bus::Host, from), frame, out);
        }
        if self.remote.is_some() {
            self.send_raw(Port::Link(Bus::Container, from), frame, out);
        } else {
            let mut head = std::mem::take(&mut self.scratch);
            self.head_from(from, &frame.header, &mut head);
            let (body, fds) = (frame.body, &frame.fds);
            self.broadcast_inside(from, &frame.header, &head, body, fds, None, out);
            head.clear();
            self.scratch = head;
        }
        let (goes, rule) = self.goes_to_host(from, frame);
        self.report_broadcast(from, &frame.header, goes, rule, out);
        if self.host.is_some() && goes {
            self.counters.to_host += 1;
            self.send_raw(Port::Link(Bus::Host, from), frame, out);
        }
    }

    /// A message for a service that has to be started.
    fn hold_for_activation(
        &mut self,
        from: SessionId,
        name: &str,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        if frame.header.kind != MessageType::MethodCall && frame.header.kind != MessageType::Signal
        {
            return;
        }
        let limits = &self.config.limits;
        if self.activation.waits_of(from) >= limits.pending_activations
            || self.activation.bytes_of(from) + frame.len() > limits.sender_bytes
        {
            let text = "Too much waits for services that are being started";
            return self.refuse(from, &frame.header, error_names::LIMITS_EXCEEDED, text, out);
        }
        let mut bytes = Vec::with_capacity(frame.len() + 32);
        self.head_from(from, &frame.header, &mut bytes);
        bytes.extend_from_slice(frame.body.bytes());
        let waiting = Waiting::Message {
            from,
            bytes,
            fds: frame.fds.clone(),
        };
        self.wait_for_service(name, waiting, out);
    }

    /// Lets something wait for a service, and starts it where it is not being started already.
    pub(super) fn wait_for_service(&mut self, name: &str, waiting: Waiting, out: &mut dyn Outbox) {
        if let Some((id, launch)) = self.activation.wait(name, waiting) {
            tracing::info!(name, "starting the service");
            self.counters.activations += 1;
            out.set_timer(Timer::Activation(id), self.config.limits.activation_time);
            out.launch(id, &launch);
        }
    }

    /// A name that services were waiting for has an owner.
    pub(super) fn release_waiting(&mut self, name: &str, owner: SessionId, out: &mut dyn Outbox) {
        let Some(pending) = self.activation.take(name) else {
            return;
        };
        out.cancel_timer(Timer::Activation(pending.id));
        for waiting in pending.waiting {
            match waiting {
                Waiting::Message { from, bytes, fds } => {
                    let Some((header, body)) = super::deliver::split(&bytes) else {
                        continue;
                    };
                    let frame = Frame {
                        header,
                        body: Payload::Borrowed(body),
                        fds,
                    };
                    self.deliver(from, owner, &frame, out);
                }
                Waiting::Start { from, serial } => {
                    // DBUS_START_REPLY_SUCCESS
                    let body = dbus_wire::body::Body::new().u32(1);
                    self.reply_to_serial(from, serial, &body, out);
                }
                Waiting::Quiet { .. } => {}
            }
        }
    }

    pub(super) fn activation_failed(
        &mut self,
        id: ActivationId,
        how: &LaunchEnd,
        out: &mut dyn Outbox,
    ) {
        // A program that goes into the background ends with 0, and its child takes the name.
        if *how == LaunchEnd::Exited(0) {
            return;
        }
        let Some((name, pending)) = self.activation.take_by_id(id) else {
            return;
        };
        out.cancel_timer(Timer::Activation(id));
        let (error, text) = match how {
            LaunchEnd::Failed(why) => (error_names::SPAWN_EXEC_FAILED, why.clone()),
            LaunchEnd::Exited(status) => (
                error_names::SPAWN_CHILD_EXITED,
                format!("Process {name} exited with status {status}"),
            ),
            LaunchEnd::Signaled(signal) => (
                error_names::SPAWN_CHILD_SIGNALED,
                format!("Process {name} received signal {signal}"),
            ),
            LaunchEnd::TimedOut => (
                error_names::TIMED_OUT,
                format!(
                    "Failed to activate service '{name}': timed out (service_start_timeout={}ms)",
                    self.config.limits.activation_time.as_millis()
                ),
            ),
        };
        tracing::warn!(%name, error = text, "the service did not start");
        for waiting in pending.waiting {
            match waiting {
                Waiting::Message { from, bytes, .. } => {
                    if let Some((header, _)) = super::deliver::split(&bytes) {
                        self.refuse(from, &header, error, &text, out);
                    }
                }
                Waiting::Start { from, serial } => {
                    self.refuse_serial(from, serial, error, &text, out);
                }
                Waiting::Quiet { .. } => {}
            }
        }
    }
}

/// A bus promises that what arrives is well formed: a malformed message ends its sender's connection.
fn check(frame: &Frame<'_>) -> Result<(), Fault> {
    let header = &frame.header;
    header
        .check()
        .map_err(|error| Fault::Malformed(error.to_string()))?;
    check_body(
        header.endian,
        header.signature,
        frame.body.bytes(),
        // Which descriptor an index means is between the two programs; dbus-daemon does not look, either.
        u32::MAX,
    )
    .map_err(|error| Fault::Malformed(error.to_string()))
}

/// The error for a name that nobody has.
pub(super) fn nobody(name: &str, flags: Flags) -> (&'static str, String) {
    if flags.contains(Flags::NO_AUTO_START) {
        (
            error_names::NAME_HAS_NO_OWNER,
            format!("Name \"{name}\" does not exist"),
        )
    } else {
        (
            error_names::SERVICE_UNKNOWN,
            format!("The name {name} was not provided by any .service files"),
        )
    }
}
