//! What the host sends on a client's own link, and how links begin and end.

use dbus_wire::body::{Body, Reader};
use dbus_wire::error_names;
use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::header::Header;
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::deliver::Origin;
use super::{DRIVER, Frame, Hub, Verdict};
use crate::local_bus::Waiting;
use crate::outbox::{Ending, Outbox, Outgoing};
use crate::policy::{Access, Passage, RuleId, Wish};
use crate::port::{Bus, Port, SessionId};
use crate::session::{DriverCall, Link, Phase, Purpose};

impl Hub {
    pub(super) fn route_from_link(
        &mut self,
        bus: Bus,
        id: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) -> Verdict {
        match bus {
            Bus::Host => self.route_from_host(id, header, out),
            Bus::Container => self.route_from_container(id, header, out),
        }
    }

    pub(super) fn take_from_link(
        &mut self,
        bus: Bus,
        id: SessionId,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        match bus {
            Bus::Host => self.take_from_host(id, frame, out),
            Bus::Container => self.take_from_container(id, frame, out),
        }
    }

    fn route_from_host(
        &mut self,
        id: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) -> Verdict {
        if let Some(session) = self.session_mut(id)
            && session.monitors_host
            && let Some(link) = &mut session.host
        {
            // It sees what passes on the host, to whomever that is.
            if let Some(serial) = header.reply_serial {
                link.driver_reply(serial);
            }
            return Verdict::Pass(Port::Client(id));
        }
        if speaks(header) {
            match self.comes_in(id, header) {
                Entry::ByBody => return Verdict::Take,
                entry if !self.let_in(id, header, &entry, out) => return Verdict::Drop,
                _ => {}
            }
        }
        let Some(session) = self.session_mut(id) else {
            return Verdict::Drop;
        };
        let Some(link) = &mut session.host else {
            return Verdict::Drop;
        };
        if header.sender == Some(DRIVER) {
            return Verdict::Take;
        }
        match (header.kind, header.reply_serial) {
            // A session bus passes on what nobody asked for.
            (MessageType::MethodReturn | MessageType::Error, Some(serial))
                if !link.outstanding.remove(&serial) =>
            {
                // The portal's word on a registration of ours is nobody's.
                link.driver.retain(|call| {
                    call.serial != serial || !matches!(call.purpose, Purpose::Registered)
                });
                return Verdict::Drop;
            }
            (MessageType::MethodCall, _) => self.note_question(id, header),
            (MessageType::Signal, _) if header.destination.is_none() => {
                if let Some(sender) = header.sender.and_then(UniqueName::parse) {
                    let verdict = self.judge_broadcast(id, sender, header);
                    let of_ours = self.clients.contains_key(&sender);
                    if out.wants_decisions() && !of_ours {
                        let rule = self.rule_of_sender(id, header);
                        let passes = verdict != Verdict::Drop;
                        self.report_from_host(id, header, rule, passes, out);
                    }
                    match verdict {
                        Verdict::Pass(_) => {}
                        verdict => return verdict,
                    }
                }
            }
            (MessageType::Unknown(_), _) => return Verdict::Drop,
            _ => {}
        }
        if self.is_tapped() {
            return Verdict::Take;
        }
        self.counters.from_host += 1;
        match self.other_name_of(id, header) {
            Some(name) => {
                self.rewrite(header, None, Some(&name));
                Verdict::Rewrite(Port::Client(id))
            }
            None => Verdict::Pass(Port::Client(id)),
        }
    }

    /// What becomes of a broadcast of a host connection; `Pass` (to whom does not matter) is the usual.
    fn judge_broadcast(&self, to: SessionId, sender: UniqueName, header: &Header<'_>) -> Verdict {
        // One of our own clients sent it, and it was delivered inside already.
        let to_is_inside = !self.lives_on_host(to);
        if let Some(&from) = self.clients.get(&sender) {
            let was_delivered = to_is_inside && !self.lives_on_host(from);
            return match was_delivered || !self.may_meet(from, to) {
                true => Verdict::Drop,
                false => Verdict::Pass(Port::Control(Bus::Host)),
            };
        }
        if to_is_inside && self.departed.contains(sender) {
            return Verdict::Drop;
        }
        if self.departed_on_host.contains(sender) || self.departed.contains(sender) {
            return Verdict::Pass(Port::Control(Bus::Host));
        }
        let Some(host) = &self.host else {
            return Verdict::Drop;
        };
        let floor = self.floor(to);
        let is_allowed = if floor >= Access::Talk {
            self.peer_is_visible(to, sender)
        } else {
            let names = host.view.names_of(sender);
            let judged = self.config.policy.to_peer(names, &Wish::of(header), floor);
            judged.0 == Passage::Allowed
        };
        if !is_allowed {
            return Verdict::Drop;
        }
        // A rule on a name that was taken inside matched on the host for the wrong owner.
        if to_is_inside
            && host
                .view
                .names_of(sender)
                .any(|name| !self.host_name_is_visible(name))
        {
            return Verdict::Take;
        }
        Verdict::Pass(Port::Control(Bus::Host))
    }

    fn take_from_host(&mut self, id: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let header = &frame.header;
        if header.sender == Some(DRIVER) {
            return self.take_from_host_driver(id, frame, out);
        }
        let origin = match header.sender.and_then(UniqueName::parse) {
            Some(sender) => Origin::Outside(sender),
            None => return,
        };
        if speaks(header) && self.comes_in(id, header) == Entry::ByBody {
            let entry = match self.properties_let_in(frame) {
                Some(rule) => Entry::Open(Some(rule)),
                None => Entry::Shut(None),
            };
            if !self.let_in(id, header, &entry, out) {
                return;
            }
            self.note_question(id, header);
        }
        // For who lives on the host its own link has judged by the rules.
        let is_broadcast = header.kind == MessageType::Signal && header.destination.is_none();
        if is_broadcast && !self.lives_on_host(id) {
            let args = dbus_wire::match_rule::Args::new(header, frame.body.bytes());
            let wanted = self.session(id).is_some_and(|session| {
                session.rules.iter().any(|entry| {
                    entry.rule.matches(header, &args)
                        && self.rule_names_match(&entry.rule, origin, None)
                })
            });
            if !wanted {
                return;
            }
        }
        self.tap_link(origin, header, header.raw(), frame, out);
        self.counters.from_host += 1;
        match self.other_name_of(id, header) {
            Some(name) => {
                self.rewrite(header, None, Some(&name));
                self.send_rewritten(Port::Client(id), frame, out);
            }
            None => self.send_raw(Port::Client(id), frame, out),
        }
    }

    /// The name by which a client knows itself, where a message of the host's calls it by another.
    fn other_name_of(&self, id: SessionId, header: &Header<'_>) -> Option<WellKnownName> {
        let name = header.destination.filter(|it| !it.starts_with(':'))?;
        self.name_inside(id, name)
    }

    /// A call of the host's that wants an answer is on its way to a client.
    fn note_question(&mut self, id: SessionId, header: &Header<'_>) {
        let limit = self.config.limits.calls_per_client;
        if Self::is_call(header)
            && !header.flags.contains(Flags::NO_REPLY_EXPECTED)
            && let Some(caller) = header.sender.and_then(UniqueName::parse)
            && let Some(link) = self.session_mut(id).and_then(|it| it.host.as_mut())
        {
            link.was_asked(caller, header.serial, limit);
        }
    }

    fn take_from_host_driver(&mut self, id: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let header = &frame.header;
        match (header.kind, header.reply_serial) {
            (MessageType::MethodReturn | MessageType::Error, Some(serial)) => {
                let call = self
                    .session_mut(id)
                    .and_then(|session| session.host.as_mut())
                    .and_then(|link| link.driver_reply(serial));
                match call {
                    Some(call) => self.host_driver_replied(id, call, frame, out),
                    // The driver's error for a call to a service: there is no such service, or it went.
                    // dbus-daemon answers calls that expect no reply, too.
                    None => {
                        let asked = self
                            .session_mut(id)
                            .and_then(|session| session.host.as_mut())
                            .is_some_and(|link| link.outstanding.remove(&serial));
                        if asked {
                            self.pass_from_host_driver(id, frame, out);
                        }
                    }
                }
                self.flush_deferred(id, false, out);
                // With two buses the client's next call to the driver has waited for this answer.
                if self.remote.is_some() {
                    out.resume(Port::Client(id));
                }
            }
            (MessageType::Signal, _) => self.host_driver_signalled(id, frame, out),
            _ => {}
        }
    }

    fn pass_from_host_driver(&mut self, id: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        self.tap_link(
            Origin::Driver,
            &frame.header,
            frame.header.raw(),
            frame,
            out,
        );
        self.send_raw(Port::Client(id), frame, out);
    }

    fn host_driver_replied(
        &mut self,
        id: SessionId,
        call: DriverCall,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        let failed = header.kind == MessageType::Error;
        let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
        match call.purpose {
            Purpose::Plain => self.pass_from_host_driver(id, frame, out),
            Purpose::Hello => {
                let name = if failed {
                    None
                } else {
                    reader.str().ok().and_then(UniqueName::parse)
                };
                self.host_said_hello(id, name, frame, out);
            }
            Purpose::AddMatch(rule) => {
                if failed {
                    self.remove_rule(id, &rule);
                }
                self.pass_from_host_driver(id, frame, out);
            }
            Purpose::Names { activatable } => match reader.strs() {
                Ok(names) if !failed => {
                    let names = self.merged_names(id, names.into_iter(), activatable);
                    let body = Body::new().strs(names.iter().map(|name| &**name));
                    let name = self.display_name(id);
                    let reply = self
                        .addressed(
                            dbus_wire::message::Builder::method_return(call.serial),
                            &name,
                        )
                        .body(&body)
                        .build();
                    self.tap_own(&reply, out);
                    out.send(Port::Client(id), Outgoing::whole(&reply));
                }
                _ => self.pass_from_host_driver(id, frame, out),
            },
            Purpose::Queue => match reader.strs() {
                Ok(names) if !failed => {
                    let seen = names.into_iter().filter(|it| self.is_listed(id, it, false));
                    let body = Body::new().strs(seen);
                    let name = self.display_name(id);
                    let reply = self
                        .addressed(Builder::method_return(call.serial), &name)
                        .body(&body)
                        .build();
                    self.tap_own(&reply, out);
                    out.send(Port::Client(id), Outgoing::whole(&reply));
                }
                _ => self.pass_from_host_driver(id, frame, out),
            },
            Purpose::Barrier(barrier) => {
                let owner = if failed {
                    None
                } else {
                    reader.str().ok().and_then(UniqueName::parse)
                };
                self.owner_change_is_due(id, &barrier, owner, out);
            }
            Purpose::Half(joint) => self.half_answered(joint, Bus::Host, frame, out),
            Purpose::Known(_)
            | Purpose::Requested(_)
            | Purpose::Ownership
            | Purpose::Restored
            | Purpose::Reclaimed
            | Purpose::OwnerThere(_)
            | Purpose::Registered
            | Purpose::Ignored => {}
        }
    }

    /// The names of both buses in one list: the host's that exist in the view, and the inside's.
    pub(super) fn merged_names<'n>(
        &self,
        id: SessionId,
        host: impl Iterator<Item = &'n str>,
        activatable: bool,
    ) -> Vec<String> {
        let mut names: Vec<String> = host
            .filter(|name| self.is_listed(id, name, activatable))
            .map(str::to_owned)
            .collect();
        if self.remote.is_some() || self.lives_on_host(id) {
            return names;
        }
        let known: std::collections::HashSet<String> = names.iter().cloned().collect();
        let inside: Vec<String> = if activatable {
            self.activation
                .set
                .services
                .keys()
                .map(|name| name.to_string())
                .collect()
        } else {
            self.names
                .iter()
                .map(|(name, _)| name.to_string())
                .collect()
        };
        names.extend(inside.into_iter().filter(|name| !known.contains(name)));
        names
    }

    /// Whether a name of the host belongs into a list of names.
    fn is_listed(&self, id: SessionId, name: &str, activatable: bool) -> bool {
        if self.lives_on_host(id) {
            return self.host_side_sees(id, name);
        }
        if name == DRIVER {
            return true;
        }
        match UniqueName::parse(name) {
            Some(unique) => self.clients.contains_key(&unique) || self.peer_is_visible(id, unique),
            // What is taken inside is added from there; what can be started is both.
            None => {
                (activatable && self.inside_owner(name).is_some())
                    || self.host_name_is_visible(name)
            }
        }
    }

    fn host_driver_signalled(&mut self, id: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let header = &frame.header;
        let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
        let told = match (header.member, reader.str()) {
            (Some("NameOwnerChanged"), Ok(name)) => {
                let owners = (reader.str().unwrap_or(""), reader.str().unwrap_or(""));
                let is_told = self.host_change_is_told(id, name);
                if is_told && !self.lives_on_host(id) && !name.starts_with(':') {
                    // What our own clients have there are exports: nobody inside takes them for the host's.
                    let of_host = |owner: &str| {
                        UniqueName::parse(owner).filter(|it| !self.is_inside_client(*it))
                    };
                    let (old, new) = (of_host(owners.0), of_host(owners.1));
                    if old.is_some() == owners.0.is_empty() || new.is_some() == owners.1.is_empty()
                    {
                        if old != new {
                            self.tell_owner_change(id, name, old, new, out);
                        }
                        return;
                    }
                }
                is_told
            }
            // It was told with the answer of Hello, so that nothing comes in between. Of other names clients
            // inside have exports there, which is no news to them.
            (Some("NameAcquired" | "NameLost"), Ok(name)) => {
                !name.starts_with(':') && self.lives_on_host(id)
            }
            _ => true,
        };
        if told {
            self.pass_from_host_driver(id, frame, out);
        }
    }

    /// Whether a session hears of the host's change of a name's owner now.
    fn host_change_is_told(&self, id: SessionId, name: &str) -> bool {
        if let Some(unique) = UniqueName::parse(name) {
            return self.floor(id) >= Access::See
                || self.config.policy.rules().unique_name_changes
                || self.departed.contains(unique)
                || self.departed_on_host.contains(unique)
                || self.clients.contains_key(&unique)
                || self.is_own_name(id, unique)
                || self.peer_is_visible(id, unique);
        }
        let Some(session) = self.session(id) else {
            return false;
        };
        // Until its barrier the change inside, or of the rules, has not happened for this session.
        let pending = session.pending_barrier(name);
        let seen = pending.map(|barrier| barrier.seen);
        if session.on_host.is_some() {
            return seen.map_or_else(|| self.host_side_sees(id, name), |(before, _)| before);
        }
        if seen.map_or(self.host_name_is_hidden(name), |(before, _)| !before) {
            return false;
        }
        if let Some(barrier) = pending {
            return barrier.old.is_none();
        }
        match session.told.iter().find(|(told, _)| **told == *name) {
            Some((_, inside_owner)) => inside_owner.is_none(),
            None => self.inside_owner(name).is_none(),
        }
    }

    fn is_own_name(&self, id: SessionId, name: UniqueName) -> bool {
        self.session(id)
            .is_some_and(|session| session.name == Some(name))
    }

    /// Does as was decided of a call, or a signal to it alone, from the host to a client: whether it passes;
    /// otherwise it has been refused. Who may be spoken to may speak.
    fn let_in(
        &mut self,
        id: SessionId,
        header: &Header<'_>,
        entry: &Entry,
        out: &mut dyn Outbox,
    ) -> bool {
        let Some(sender) = header.sender.and_then(UniqueName::parse) else {
            return false;
        };
        let (allowed, rule) = match *entry {
            Entry::Open(rule) => (true, rule),
            Entry::Shut(rule) => (false, rule),
            Entry::ByBody => (false, None),
        };
        self.report_from_host(id, header, rule, allowed, out);
        if allowed {
            let limit = self.config.limits.calls_per_client;
            if self.floor(id) < Access::Talk
                && let Some(session) = self.session_mut(id)
            {
                session.is_spoken_to(sender, limit);
            }
            return true;
        }
        self.counters.refused += 1;
        if Self::is_call(header) && !header.flags.contains(Flags::NO_REPLY_EXPECTED) {
            let link = self
                .session_mut(id)
                .and_then(|session| session.host.as_mut());
            if let Some(link) = link {
                let text = "No rule lets this call in";
                let error = error_names::ACCESS_DENIED;
                let reply = Builder::error_reply_to(header, error, text)
                    .serial(link.own_serial())
                    .build();
                out.send(Port::Link(Bus::Host, id), Outgoing::whole(&reply));
            }
        }
        false
    }

    /// Whether a call, or a signal to it alone, may come from the host to a client.
    fn comes_in(&self, id: SessionId, header: &Header<'_>) -> Entry {
        if self.config.policy.rules().inward_calls && self.config.inside.peers {
            return Entry::Open(None);
        }
        let Some(sender) = header.sender.and_then(UniqueName::parse) else {
            return Entry::Shut(None);
        };
        let policy = &self.config.policy;
        if let Some(&from) = self.clients.get(&sender) {
            return match self.may_meet(from, id) {
                true => Entry::Open(None),
                false => Entry::Shut(None),
            };
        }
        if policy.rules().inward_calls || self.lives_on_host(id) {
            return Entry::Open(None);
        }
        let Some(host) = &self.host else {
            return Entry::Shut(None);
        };
        if let Some(rule) = self.export_lets_in(id, header) {
            return Entry::Open(Some(rule));
        }
        let wish = Wish::of(header);
        let mut names = host.view.names_of(sender);
        let (allowed, rule) = if wish.is_signal {
            let (passage, rule) = policy.to_peer(names, &wish, self.floor(id));
            (passage == Passage::Allowed, rule)
        } else {
            let friend = names
                .by_ref()
                .map(|name| policy.standing(name))
                .find(|standing| standing.access >= Access::Talk);
            (friend.is_some(), friend.and_then(|standing| standing.rule))
        };
        match allowed {
            true => Entry::Open(rule),
            false if self.asks_for_properties(header) => Entry::ByBody,
            false => Entry::Shut(rule),
        }
    }

    /// Forwards a call of a client's to the host's driver as it is.
    pub(super) fn ask_host_driver(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        purpose: Purpose,
        out: &mut dyn Outbox,
    ) {
        if self.note_driver_call(id, frame, purpose, true, out) {
            self.send_to_driver(Port::Link(Bus::Host, id), frame, out);
        }
    }

    /// Sends a call on to the driver of a bus: to itself, where it had no destination. (dbus-daemon takes only Peer
    /// for its own then, and says so in a message without a sender.)
    pub(super) fn send_to_driver(&mut self, to: Port, frame: &Frame<'_>, out: &mut dyn Outbox) {
        if frame.header.destination.is_some() {
            return self.send_raw(to, frame, out);
        }
        self.rewrite(&frame.header, None, Some(DRIVER));
        self.send_rewritten(to, frame, out);
    }

    /// Remembers a call to the host's driver. `ordered`: the driver answers it in its turn.
    pub(super) fn note_driver_call(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        purpose: Purpose,
        ordered: bool,
        out: &mut dyn Outbox,
    ) -> bool {
        let limit = self.config.limits.calls_per_client;
        let header = &frame.header;
        let Some(session) = self.session_mut(id) else {
            return false;
        };
        if header.flags.contains(Flags::NO_REPLY_EXPECTED) {
            return session.host.is_some();
        }
        let ticket = ordered.then(|| session.ticket());
        let Some(link) = &mut session.host else {
            return false;
        };
        if link.driver.len() >= limit {
            let text = format!("The limit of {limit} calls that wait for a reply is reached");
            self.refuse(id, header, error_names::LIMITS_EXCEEDED, &text, out);
            return false;
        }
        link.driver.push_back(DriverCall {
            serial: header.serial,
            ticket,
            purpose,
        });
        true
    }

    /// Opens the links of a client that says Hello with `frame`.
    pub(super) fn open_links(&mut self, id: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        // Where the container bus is away the host alone will do until it is back.
        let with_container = !self.lives_on_host(id)
            && self
                .remote
                .as_ref()
                .is_some_and(|remote| remote.control.is_ready() || remote.control.is_listing());
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let unix_fds = session.unix_fds;
        session.phase = Phase::Opening;
        session.hello_serial = frame.header.serial;
        let ticket = session.ticket();
        let serial = frame.header.serial;
        let hello = || DriverCall {
            serial,
            ticket: Some(ticket),
            purpose: Purpose::Hello,
        };
        let mut host = Link::default();
        host.driver.push_back(hello());
        session.host = Some(host);
        if with_container {
            let mut container = Link::default();
            container.driver.push_back(hello());
            session.container = Some(container);
        }
        let message = hello_message(serial);
        out.open(Port::Link(Bus::Host, id), &message, unix_fds);
        if with_container {
            self.container_hello_sent(id);
            out.open(Port::Link(Bus::Container, id), &message, unix_fds);
        }
    }

    /// The host has answered Hello, with a name or with an error.
    fn host_said_hello(
        &mut self,
        id: SessionId,
        name: Option<UniqueName>,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let Some(name) = name else {
            // A host that refuses: the client gets its words, and may try again.
            self.hello_failed(id, Bus::Host, out);
            if frame.header.kind == MessageType::Error {
                self.send_raw(Port::Client(id), frame, out);
            } else {
                let text = "The host bus gave a name that is not of the form :DIGITS.DIGITS";
                self.hello_refused(id, text, out);
            }
            return;
        };
        let with_container = self.remote.is_some() && !self.lives_on_host(id);
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.name = Some(name);
        if let Some(link) = &mut session.host {
            link.open = true;
        }
        self.clients.insert(name, id);
        if with_container {
            self.registered_if_both(id, out);
        } else {
            self.registered(id, out);
            self.name_acquired(id, out);
        }
    }

    /// A client is on the bus: tells it its name.
    pub(super) fn registered(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.phase = Phase::Active;
        let serial = session.hello_serial;
        self.unregistered -= 1;
        let name = self.display_name(id);
        // NO_REPLY_EXPECTED makes no sense on Hello: how else would a client learn its name?
        let reply = self
            .addressed(dbus_wire::message::Builder::method_return(serial), &name)
            .body(&Body::new().str(&name))
            .build();
        self.tap_own(&reply, out);
        out.send(Port::Client(id), Outgoing::whole(&reply));
        out.resume(Port::Client(id));
    }

    /// The rest of Hello: a new name is acquired as others are.
    pub(super) fn name_acquired(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let body = Body::new().str(&self.display_name(id));
        self.driver_signal(id, "NameAcquired", &body, out);
    }

    /// A link could not be opened, or its Hello was refused: the client is where it was before Hello.
    pub(super) fn hello_failed(&mut self, id: SessionId, bus: Bus, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.phase = Phase::Unregistered;
        let links = [
            (Bus::Host, session.host.take()),
            (Bus::Container, session.container.take()),
        ];
        let name = session.name.take();
        if let Some(name) = name {
            self.clients.remove(&name);
        }
        for (it, link) in links {
            if link.is_some() {
                tracing::debug!(client = %id, %bus, "Hello was refused");
                out.close(Port::Link(it, id), Ending::Abrupt);
            }
        }
        self.container_hello_ended(id, out);
        out.resume(Port::Client(id));
    }

    pub(super) fn hello_refused(&mut self, id: SessionId, text: &str, out: &mut dyn Outbox) {
        let serial = self.session(id).map_or(0, |session| session.hello_serial);
        if serial != 0 {
            self.refuse_serial(id, serial, error_names::NO_SERVER, text, out);
        }
    }

    /// A link could not be opened.
    pub(super) fn link_refused(
        &mut self,
        bus: Bus,
        id: SessionId,
        reason: &str,
        out: &mut dyn Outbox,
    ) {
        let opening = self
            .session(id)
            .is_some_and(|session| session.phase == Phase::Opening);
        if !opening {
            return self.link_closed(bus, id, out);
        }
        tracing::warn!(client = %id, %bus, reason, "the link could not be opened");
        self.hello_failed(id, bus, out);
        let text = format!("The {bus} could not be reached: {reason}");
        self.hello_refused(id, &text, out);
    }

    /// A link has ended.
    pub(super) fn link_closed(&mut self, bus: Bus, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session(id) else {
            return;
        };
        match (bus, session.phase) {
            (_, Phase::Opening) => {
                let reason = "it closed the connection";
                self.link_refused(bus, id, reason, out);
            }
            (_, Phase::Unregistered | Phase::Monitor) => {}
            (Bus::Host, Phase::Active) => {
                self.nobody_will_answer(id, out);
                self.remove_session(id, Ending::Flushed, out);
            }
            (Bus::Container, Phase::Active) => self.container_link_closed(id, out),
        }
    }

    /// The host is gone, and with it the client goes: every call of it that waits gets NoReply, wherever it waits.
    pub(super) fn nobody_will_answer(&mut self, id: SessionId, out: &mut dyn Outbox) {
        self.nothing_will_answer(id, Bus::Host, out);
        self.nothing_will_answer(id, Bus::Container, out);
        for serial in self.replies.give_up(id) {
            self.no_reply(id, serial, out);
        }
        for waiting in self.activation.give_up(id) {
            match waiting {
                Waiting::Message { bytes, .. } => {
                    if let Some((header, _)) = super::deliver::split(&bytes) {
                        let text = "The host bus is gone, and this program's connection with it";
                        self.refuse(id, &header, error_names::NO_REPLY, text, out);
                    }
                }
                Waiting::Start { serial, .. } => self.no_reply(id, serial, out),
                Waiting::Quiet { .. } => {}
            }
        }
    }

    /// A bus is gone: every call of a client's that waits there gets NoReply.
    pub(super) fn nothing_will_answer(&mut self, id: SessionId, bus: Bus, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let link = match bus {
            Bus::Host => &mut session.host,
            Bus::Container => &mut session.container,
        };
        let Some(link) = link else { return };
        let mut serials: Vec<u32> = link.outstanding.drain().collect();
        serials.sort_unstable();
        for call in std::mem::take(&mut link.driver) {
            match call.purpose {
                Purpose::Plain
                | Purpose::AddMatch(_)
                | Purpose::Names { .. }
                | Purpose::Queue
                | Purpose::Requested(_)
                | Purpose::Ownership => serials.push(call.serial),
                // To a container bus that is back the Hello is ours.
                Purpose::Hello if bus == Bus::Host => serials.push(call.serial),
                Purpose::Hello
                | Purpose::Half(_)
                | Purpose::Barrier(_)
                | Purpose::Known(_)
                | Purpose::Restored
                | Purpose::Reclaimed
                | Purpose::OwnerThere(_)
                | Purpose::Registered
                | Purpose::Ignored => {}
            }
        }
        for serial in serials {
            self.no_reply(id, serial, out);
        }
        self.flush_deferred(id, false, out);
    }
}

/// What was decided of a message of the host's to one client.
#[derive(PartialEq, Eq, Debug)]
enum Entry {
    /// It may come in, by this rule if it needs one.
    Open(Option<RuleId>),
    /// It may not.
    Shut(Option<RuleId>),
    /// That depends on its first argument.
    ByBody,
}

/// Whether a message of the host's speaks to one client, and not the driver does.
fn speaks(header: &Header<'_>) -> bool {
    matches!(header.kind, MessageType::MethodCall | MessageType::Signal)
        && header.destination.is_some()
        && header.sender != Some(DRIVER)
}

/// Hello, in our own words: always one that wants its answer.
fn hello_message(serial: u32) -> Vec<u8> {
    dbus_wire::message::Builder::method_call(super::DRIVER_PATH, "Hello")
        .interface(DRIVER)
        .destination(DRIVER)
        .serial(serial)
        .build()
}
