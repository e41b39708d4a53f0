//! A container bus of others: a dbus-daemon or dbus-broker that programs inside are connected to as well.
//!
//! Both buses hand out `:1.N`, so names native to the container bus are *shifted*: `:M.N` there is
//! `:(M+OFFSET).N` here. OFFSET grows by a step each time the container bus restarts: an old name never means
//! a new program. A client's own name there is an *alias* of its host name.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use dbus_wire::body::{Body, Reader};
use dbus_wire::error_names;
use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::header::Header;
use dbus_wire::match_rule::{ArgMatch, MatchRule};
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::deliver::Origin;
use super::joint::without_eavesdrop;
use super::resolve::Target;
use super::restore::Restoration;
use super::{Control, DRIVER, Frame, Hub, Verdict};
use crate::hash::HashMap;
use crate::outbox::{Ending, Outbox, Outgoing};
use crate::port::{Bus, Port, SessionId};
use crate::session::{DriverCall, Link, Phase, Purpose};

/// The step of OFFSET; above every major number that a host hands out.
const STEP: u32 = 1_000_000;
/// Aliases of clients that have gone which are kept, so that late signals do not show them under a second
/// name. A bus never gives a unique name twice, so keeping more than needed does no harm.
const RETIRED: usize = 65_536;
/// RequestName's answer for who has no part in the name.
const EXISTS: u32 = 3;
/// Names that one session remembers to have asked for.
const KNOWN: usize = 4_096;

/// The remote container bus.
#[derive(Debug)]
pub(crate) struct Remote {
    pub control: Control,
    offset: u32,
    aliases: HashMap<UniqueName, UniqueName>,
    /// The same the other way round: by which name a client is, or was, known there.
    raws: HashMap<UniqueName, UniqueName>,
    /// Connections of other programs, as the control link tells.
    natives: BTreeSet<UniqueName>,
    /// Those that came while a Hello was not answered: they may be our links.
    unsure: Vec<UniqueName>,
    retired: VecDeque<UniqueName>,
    /// Clients whose Hello the container bus has not answered: a name that nobody knows may be theirs.
    hellos: Vec<SessionId>,
    /// Links that wait for those answers.
    waiting: Vec<Port>,
    /// What is to be put back after the bus was away.
    pub(super) restoration: Restoration,
}

impl Default for Remote {
    fn default() -> Self {
        Remote {
            control: Control::new(Bus::Container),
            offset: STEP,
            aliases: HashMap::default(),
            raws: HashMap::default(),
            natives: BTreeSet::new(),
            unsure: Vec::new(),
            retired: VecDeque::new(),
            hellos: Vec::new(),
            waiting: Vec::new(),
            restoration: Restoration::default(),
        }
    }
}

impl Remote {
    /// Whether a name has the form of a shifted one, of this or an earlier life of the container bus.
    pub fn is_shifted(&self, name: UniqueName) -> bool {
        name.major >= STEP
    }

    /// The name on the container bus of a shifted name; none if it is of an earlier life of that bus.
    pub fn native(&self, name: UniqueName) -> Option<UniqueName> {
        let major = name
            .major
            .checked_sub(self.offset)
            .filter(|major| *major < STEP)?;
        Some(UniqueName {
            major,
            minor: name.minor,
        })
    }

    fn shift(&self, raw: UniqueName) -> UniqueName {
        UniqueName {
            major: raw.major.saturating_add(self.offset),
            minor: raw.minor,
        }
    }

    /// How clients see a connection of the container bus.
    pub fn shown(&self, raw: UniqueName) -> UniqueName {
        self.aliases
            .get(&raw)
            .copied()
            .unwrap_or_else(|| self.shift(raw))
    }

    /// Whether nothing waits for an answer of Hello, or to be put back.
    pub fn is_idle(&self) -> bool {
        self.hellos.is_empty() && self.waiting.is_empty() && self.restoration.is_over()
    }

    /// From now on a connection of the container bus is shown as the client that it is.
    pub(super) fn is_client(&mut self, raw: UniqueName, name: UniqueName) {
        self.aliases.insert(raw, name);
        self.raws.insert(name, raw);
        self.natives.remove(&raw);
    }

    fn retire(&mut self, raw: UniqueName) {
        self.retired.push_back(raw);
        if self.retired.len() > RETIRED
            && let Some(oldest) = self.retired.pop_front()
            && let Some(name) = self.aliases.remove(&oldest)
        {
            self.raws.remove(&name);
        }
    }
}

impl Hub {
    /// How clients see a connection of the container bus.
    pub(super) fn container_shown(&self, raw: UniqueName) -> UniqueName {
        self.remote.as_ref().map_or(raw, |remote| remote.shown(raw))
    }

    /// The same for connections that are not our own clients'; none for those, which have another name.
    pub(super) fn native_shown(&self, raw: UniqueName) -> Option<UniqueName> {
        let remote = self.remote.as_ref()?;
        if remote.aliases.contains_key(&raw) || remote.control.name() == Some(raw) {
            return None;
        }
        Some(remote.shift(raw))
    }

    /// The name on the container bus of a name that clients know.
    fn container_name_of(&self, name: UniqueName) -> Option<UniqueName> {
        match self.clients.get(&name) {
            Some(&id) => self.session(id)?.container_name,
            // A client that has gone may still be named by rules.
            None => {
                let remote = self.remote.as_ref()?;
                remote
                    .native(name)
                    .or_else(|| remote.raws.get(&name).copied())
            }
        }
    }

    /// Where a well-known name lives, with a remote container bus.
    pub(super) fn resolve_with_remote(
        &self,
        from: SessionId,
        name: &str,
        may_start: bool,
        header: &Header<'_>,
    ) -> Target {
        let Some(remote) = &self.remote else {
            return Target::Nobody;
        };
        let container = &remote.control;
        if self.belongs_to_host(name) {
            return self.resolve_outside(from, name, header);
        }
        if container.view.owner(name).is_some() {
            return Target::Container(None);
        }
        if self.activation.set.is_application(name) {
            return Target::Container(None);
        }
        let has_link = self
            .session(from)
            .is_some_and(|session| session.container.is_some());
        let known = !has_link
            || !container.is_ready()
            || self
                .session(from)
                .is_some_and(|session| session.known.contains(name));
        if !known && let Ok(name) = WellKnownName::parse(name) {
            return Target::Unknown(name);
        }
        if self.host.is_none() {
            return Target::Container(None);
        }
        if self.is_owned_on_host(name) {
            return self.resolve_outside(from, name, header);
        }
        if may_start && container.view.can_start(name) && has_link {
            return Target::Container(None);
        }
        match self.resolve_outside(from, name, header) {
            // That bus says itself that it does not know the name.
            Target::Nobody if has_link => Target::Container(None),
            target => target,
        }
    }

    /// Where a message goes that was whole only after its name had to be asked for again: to where it was on its
    /// way. What was said to the client meanwhile came after it had begun to send.
    pub(super) fn resolve_as_known(
        &mut self,
        id: SessionId,
        name: WellKnownName,
        header: &Header<'_>,
    ) -> Target {
        if let Some(session) = self.session_mut(id) {
            session.known.insert(name.clone());
        }
        let target = self.resolve(id, &name, header);
        if let Some(session) = self.session_mut(id) {
            session.known.remove(&name);
        }
        target
    }

    /// Asks on the client's container link whether a name is owned there, before it is first looked for on
    /// the host. A program that took the name and then spoke to this client over that bus is seen by this.
    pub(super) fn ask_container(
        &mut self,
        id: SessionId,
        name: WellKnownName,
        out: &mut dyn Outbox,
    ) {
        let asked = self
            .session(id)
            .and_then(|session| session.container.as_ref())
            .is_some_and(|link| {
                link.driver
                    .iter()
                    .any(|call| matches!(&call.purpose, Purpose::Known(it) if *it == name))
            });
        if !asked {
            let body = Body::new().str(&name);
            self.ask_driver(
                id,
                Bus::Container,
                "GetNameOwner",
                &body,
                Purpose::Known(name),
                out,
            );
        }
    }

    /// The container bus has said to a client who owns `name` there. From now on the control link's word is enough.
    pub(super) fn container_was_asked(
        &mut self,
        id: SessionId,
        name: WellKnownName,
        owner: Option<UniqueName>,
    ) {
        if let (Some(owner), Some(remote)) = (owner, &mut self.remote)
            && remote.control.view.owner(&name).is_none()
        {
            // The control link will say so, too; this client has to know now.
            remote.control.view.set_owner(&name, Some(owner));
        }
        if let Some(session) = self.session_mut(id) {
            if session.known.len() >= KNOWN {
                session.known.clear();
            }
            session.known.insert(name);
        }
    }

    /// In this form of the router the driver's calls are answered one by one: an answer may need two buses.
    pub(super) fn route_to_driver(&self, id: SessionId, header: &Header<'_>) -> Verdict {
        if self.remote.is_none() || header.kind != MessageType::MethodCall {
            return Verdict::Take;
        }
        let Some(session) = self.session(id) else {
            return Verdict::Drop;
        };
        let busy = |link: &Option<Link>| {
            link.as_ref()
                .is_some_and(|link| link.driver.iter().any(|call| call.ticket.is_some()))
        };
        // What the container bus has said already comes first, also where it waits for the control link.
        if busy(&session.host) || busy(&session.container) || session.stepping || self.has_joint(id)
        {
            Verdict::Wait
        } else {
            Verdict::Take
        }
    }

    pub(super) fn route_from_container(
        &mut self,
        id: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) -> Verdict {
        let tapped = self.is_tapped();
        let Some(session) = self.session_mut(id) else {
            return Verdict::Drop;
        };
        let must_wait = session.phase != Phase::Active || session.has_barriers();
        let Some(link) = &mut session.container else {
            return Verdict::Drop;
        };
        let reply = match header.kind {
            MessageType::MethodReturn | MessageType::Error => header.reply_serial,
            MessageType::Unknown(_) => return Verdict::Drop,
            _ => None,
        };
        let from_driver = header.sender == Some(DRIVER);
        // The answer of Hello opens the rest; nothing overtakes a change of owner that is being asked for.
        let hello = from_driver
            && reply.is_some_and(|serial| {
                link.driver
                    .iter()
                    .any(|it| it.serial == serial && matches!(it.purpose, Purpose::Hello))
            });
        if hello {
            return Verdict::Take;
        }
        if must_wait {
            return Verdict::Wait;
        }
        if from_driver {
            return self.route_from_container_driver(id, header, out);
        }
        // A session bus passes on what nobody asked for.
        if let Some(serial) = reply
            && !link.outstanding.contains(&serial)
        {
            return Verdict::Drop;
        }
        let Some(raw) = header.sender.and_then(UniqueName::parse) else {
            return Verdict::Drop;
        };
        let Some(remote) = &mut self.remote else {
            return Verdict::Drop;
        };
        if !remote.hellos.is_empty() && !remote.aliases.contains_key(&raw) {
            remote.waiting.push(Port::Link(Bus::Container, id));
            return Verdict::Wait;
        }
        let native = !remote.aliases.contains_key(&raw);
        if let Some(session) = self.session_mut(id) {
            // What it says may be that it took a name, and the control link may hear of that later: names are
            // asked for again. (Our own clients are told that they own one when the control link knows.)
            if native {
                session.known.clear();
            }
            if let (Some(serial), Some(link)) = (reply, &mut session.container) {
                link.outstanding.remove(&serial);
            }
        }
        if tapped {
            return Verdict::Take;
        }
        self.rewrite_from_container(header);
        Verdict::Rewrite(Port::Client(id))
    }

    /// Makes `rewritten` with the names that clients know.
    fn rewrite_from_container(&mut self, header: &Header<'_>) {
        let shown = |name: Option<&str>| {
            name.and_then(UniqueName::parse)
                .map(|raw| self.container_shown(raw).to_string())
        };
        let (sender, destination) = (shown(header.sender), shown(header.destination));
        self.rewrite(header, sender.as_deref(), destination.as_deref());
    }

    fn route_from_container_driver(
        &mut self,
        id: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) -> Verdict {
        let Some(remote) = &mut self.remote else {
            return Verdict::Drop;
        };
        match (header.kind, header.member) {
            (MessageType::Signal, Some("NameOwnerChanged")) if !remote.hellos.is_empty() => {
                remote.waiting.push(Port::Link(Bus::Container, id));
                Verdict::Wait
            }
            // Routing state comes from the control link: it has to have heard of the change before the client
            // that caused it does, and tells others.
            (MessageType::Signal, Some("NameAcquired" | "NameLost")) => {
                let Some(session) = self.session_mut(id) else {
                    return Verdict::Drop;
                };
                if std::mem::take(&mut session.in_step) {
                    return Verdict::Take;
                }
                if !session.stepping {
                    session.stepping = true;
                    self.ask_container_step(id, out);
                }
                Verdict::Wait
            }
            _ => Verdict::Take,
        }
    }

    /// The control link has read everything that the container bus said before a client was told of a change.
    pub(super) fn container_in_step(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.stepping = false;
        session.in_step = true;
        out.resume(Port::Link(Bus::Container, id));
        out.resume(Port::Client(id));
    }

    pub(super) fn take_from_container(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        if header.sender != Some(DRIVER) {
            let Some(raw) = header.sender.and_then(UniqueName::parse) else {
                return;
            };
            return self.pass_from_container(
                id,
                Origin::Outside(self.container_shown(raw)),
                frame,
                out,
            );
        }
        match (header.kind, header.reply_serial) {
            (MessageType::MethodReturn | MessageType::Error, Some(serial)) => {
                let link = self
                    .session_mut(id)
                    .and_then(|session| session.container.as_mut());
                // A call of the client's may have a serial of ours that waits: ours was sent first.
                let (asked, call) = link.map_or((false, None), |link| {
                    let call = link.driver_reply(serial);
                    (call.is_none() && link.outstanding.remove(&serial), call)
                });
                match call {
                    Some(call) => self.container_driver_replied(id, call, frame, out),
                    None if asked => self.pass_from_container(id, Origin::Driver, frame, out),
                    // dbus-daemon answers calls that expect no reply, too.
                    None => {}
                }
                out.resume(Port::Client(id));
            }
            (MessageType::Signal, _) => self.container_driver_signalled(id, frame, out),
            _ => {}
        }
    }

    fn pass_from_container(
        &mut self,
        id: SessionId,
        origin: Origin,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        self.rewrite_from_container(&frame.header);
        // What another client sent was shown when it sent it.
        let own = matches!(origin, Origin::Outside(sender) if self.clients.contains_key(&sender));
        if self.is_tapped() && !own {
            let head = self.rewritten.clone();
            if let Ok(header) = Header::parse(&head) {
                self.tap_link(origin, &header, &head, frame, out);
            }
        }
        self.send_rewritten(Port::Client(id), frame, out);
    }

    fn container_driver_replied(
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
            Purpose::Hello => {
                let name = if failed {
                    None
                } else {
                    reader.str().ok().and_then(UniqueName::parse)
                };
                self.container_said_hello(id, name, header, &mut reader, out);
            }
            Purpose::Half(joint) => self.half_answered(joint, Bus::Container, frame, out),
            Purpose::Known(name) => {
                let owner = if failed {
                    None
                } else {
                    reader.str().ok().and_then(UniqueName::parse)
                };
                self.container_was_asked(id, name, owner);
            }
            Purpose::Names { .. } => {
                // ListQueuedOwners
                let names: Vec<String> = match reader.strs() {
                    Ok(names) if !failed => names
                        .into_iter()
                        .map(|name| match UniqueName::parse(name) {
                            Some(raw) => self.container_shown(raw).to_string(),
                            None => name.to_owned(),
                        })
                        .collect(),
                    _ => return self.pass_from_container(id, Origin::Driver, frame, out),
                };
                let body = Body::new().strs(names.iter().map(|name| &**name));
                self.reply_to_serial(id, call.serial, &body, out);
            }
            Purpose::Registered | Purpose::Ignored => {}
            Purpose::Requested(name) => {
                // Who does not own it, and does not wait for it, has no claim to be restored.
                if (failed || reader.u32() == Ok(EXISTS))
                    && let Some(session) = self.session_mut(id)
                {
                    session.requests.retain(|(it, _)| *it != name);
                }
                self.pass_from_container(id, Origin::Driver, frame, out);
            }
            Purpose::Restored => {
                let names = if failed { None } else { reader.strs().ok() };
                self.rules_are_restored(id, &names.unwrap_or_default(), out);
            }
            Purpose::Reclaimed => self.reclaim_next(out),
            Purpose::OwnerThere(name) => {
                if let (false, Ok(owner)) = (failed, reader.str()) {
                    self.owner_there(id, &name, owner, out);
                }
            }
            Purpose::Plain
            | Purpose::Queue
            | Purpose::Ownership
            | Purpose::AddMatch(_)
            | Purpose::Barrier(_) => {
                self.pass_from_container(id, Origin::Driver, frame, out);
            }
        }
    }

    fn container_said_hello(
        &mut self,
        id: SessionId,
        name: Option<UniqueName>,
        header: &Header<'_>,
        reader: &mut Reader<'_>,
        out: &mut dyn Outbox,
    ) {
        let Some(raw) = name else {
            let error = header.error_name.unwrap_or(error_names::NO_SERVER);
            let text = reader.str().unwrap_or("it refused Hello").to_owned();
            let opening = self
                .session(id)
                .is_some_and(|session| session.phase == Phase::Opening);
            if opening {
                let serial = self.session(id).map_or(0, |session| session.hello_serial);
                self.hello_failed(id, Bus::Container, out);
                // In its words, as the host's refusal: a limit of the bus behind is one for the client.
                let text = format!("The container bus: {text}");
                self.refuse_serial(id, serial, error, &text, out);
            } else {
                self.remove_session(id, Ending::Flushed, out);
            }
            return;
        };
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.container_name = Some(raw);
        if let Some(link) = &mut session.container {
            link.open = true;
        }
        match session.phase {
            Phase::Opening => self.registered_if_both(id, out),
            _ => self.restore_on_container(id, out),
        }
    }

    /// A client is registered when both buses have answered its Hello.
    pub(super) fn registered_if_both(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session(id) else {
            return;
        };
        let (Some(name), Some(raw)) = (session.name, session.container_name) else {
            // The container bus is away: the host alone will do until it is back.
            if session.name.is_some() && session.container.is_none() {
                self.registered(id, out);
                self.name_acquired(id, out);
                if self.remote.as_ref().is_some_and(|it| it.control.is_ready()) {
                    self.link_to_container(id, out);
                }
            }
            return;
        };
        if let Some(remote) = &mut self.remote {
            remote.is_client(raw, name);
        }
        self.add_rules_about(id, out);
        self.container_hello_ended(id, out);
        self.registered(id, out);
        self.name_acquired(id, out);
        out.resume(Port::Link(Bus::Container, id));
    }

    pub(super) fn container_hello_sent(&mut self, id: SessionId) {
        if let Some(remote) = &mut self.remote {
            remote.hellos.push(id);
        }
    }

    pub(super) fn container_hello_ended(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(remote) = &mut self.remote else {
            return;
        };
        remote.hellos.retain(|it| *it != id);
        if remote.hellos.is_empty() {
            let unsure = std::mem::take(&mut remote.unsure);
            let natives = unsure
                .into_iter()
                .filter(|raw| !remote.aliases.contains_key(raw));
            remote.natives.extend(natives);
            for port in std::mem::take(&mut remote.waiting) {
                out.resume(port);
            }
        }
    }

    fn container_driver_signalled(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
        match header.member {
            Some("NameOwnerChanged") => {
                if let (Ok(name), Ok(old), Ok(new)) = (reader.str(), reader.str(), reader.str()) {
                    self.container_change_seen(id, name, old, new, out);
                }
            }
            // The host's is the one that it hears of its unique name.
            Some("NameAcquired" | "NameLost")
                if reader.str().is_ok_and(|name| name.starts_with(':')) => {}
            Some(member @ ("NameAcquired" | "NameLost")) => {
                self.pass_from_container(id, Origin::Driver, frame, out);
                let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
                let Ok(name) = reader.str() else { return };
                let known = WellKnownName::parse(name).ok();
                if let Some(session) = self.session_mut(id) {
                    session.acquired.retain(|it| **it != *name);
                    if member == "NameAcquired" {
                        session.acquired.extend(known.clone());
                    }
                }
                match (member, known) {
                    ("NameLost", _) => {
                        self.loss_was_told(id, Some(name), out);
                        self.unexport_name(id, name, out);
                    }
                    (_, Some(known)) => self.export_name(id, &known, out),
                    _ => {}
                }
            }
            _ => self.pass_from_container(id, Origin::Driver, frame, out),
        }
    }

    /// A session's own container link tells of a new owner.
    pub(super) fn container_change_seen(
        &mut self,
        id: SessionId,
        name: &str,
        old: &str,
        new: &str,
        out: &mut dyn Outbox,
    ) {
        let shown = |raw: &str| UniqueName::parse(raw).map(|raw| self.container_shown(raw));
        let (shown_old, shown_new) = (shown(old), shown(new));
        if let Some(raw) = UniqueName::parse(name) {
            if let Some(native) = self.native_shown(raw) {
                let text = native.to_string();
                self.tell_owner_change(id, &text, shown_old, shown_new, out);
                if self.is_restoring(id)
                    && let Some(session) = self.session_mut(id)
                {
                    session.met.push(raw);
                }
            }
            return;
        }
        let Ok(name) = WellKnownName::parse(name) else {
            return;
        };
        // Who has the host's name there has it for nobody of ours.
        if self.belongs_to_host(&name) {
            return;
        }
        // A rule that the client has taken back may be in force there for a moment.
        if let Some(session) = self.session_mut(id)
            && (session.rules.iter()).any(|it| super::ownership::watches_name(&it.rule, &name))
        {
            session.remember_told(name.clone(), shown_new, KNOWN);
        }
        if shown_old.is_some() && shown_new.is_some() {
            return self.tell_owner_change(id, &name, shown_old, shown_new, out);
        }
        self.start_owner_barrier(id, name, shown_old, shown_new, out);
    }

    /// The control link is about to hear that `name` has left `owner`. For a session that watches it and was not
    /// told, it stays there until its own link says otherwise.
    pub(super) fn keep_what_was_told(&mut self, name: &str, owner: Option<UniqueName>) {
        let Ok(name) = WellKnownName::parse(name) else {
            return;
        };
        // Their own link will say nothing of it.
        if self.belongs_to_host(&name) {
            return;
        }
        let owner = owner.map(|raw| self.container_shown(raw));
        // A rule that the container bus has not got yet cannot bring this change.
        let watchers: Vec<SessionId> = self
            .matches
            .candidates(Some(DRIVER), Some(&name))
            .filter(|(id, rule)| {
                super::ownership::watches_name(rule, &name) && !self.is_adding(*id, rule)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in watchers {
            if let Some(session) = self.session_mut(id)
                && session.container.is_some()
                && !session.told.iter().any(|(told, _)| *told == name)
            {
                session.remember_told(name.clone(), owner, KNOWN);
            }
        }
    }

    /// The control link tells of a new owner: monitors hear of it from here.
    pub(super) fn container_owner_changed(
        &mut self,
        name: &str,
        old: &str,
        new: &str,
        out: &mut dyn Outbox,
    ) {
        if !self.is_tapped() {
            return;
        }
        let shown = |raw: &str| UniqueName::parse(raw).map(|raw| self.container_shown(raw));
        let (old, new) = (shown(old), shown(new));
        for id in self.monitors.clone() {
            if let Some(monitor) = self.session_mut(id)
                && monitor.name == old
                && let Some(place) = monitor.lost.iter().position(|it| **it == *name)
            {
                monitor.lost.swap_remove(place);
                return;
            }
        }
        let Ok(name) = WellKnownName::parse(name) else {
            return;
        };
        if self.belongs_to_host(&name) {
            return;
        }
        // Who loses it is told first (NameLost), on its own link.
        let loser = old.and_then(|old| self.clients.get(&old).copied());
        if let Some(loser) = loser.and_then(|id| self.session_mut(id))
            && loser.container.is_some()
        {
            return loser.losing.push((name, old, new));
        }
        self.tap_owner_changed(&name, old, new, out);
    }

    /// A client was told that it lost `name` (or goes, and loses all): monitors hear what became of it.
    pub(super) fn loss_was_told(
        &mut self,
        id: SessionId,
        name: Option<&str>,
        out: &mut dyn Outbox,
    ) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let all = std::mem::take(&mut session.losing);
        let (told, kept) = all
            .into_iter()
            .partition(|(lost, ..)| name.is_none_or(|name| **lost == *name));
        session.losing = kept;
        let told: Vec<_> = told;
        for (name, old, new) in told {
            self.tap_owner_changed(&name, old, new, out);
        }
    }

    /// A connection of the container bus has gone.
    pub(super) fn container_name_gone(&mut self, raw: UniqueName) {
        let Some(remote) = &mut self.remote else {
            return;
        };
        remote.natives.remove(&raw);
        remote.unsure.retain(|it| *it != raw);
        if remote.aliases.contains_key(&raw) {
            remote.retire(raw);
        }
    }

    /// A connection of the container bus is there: of another program, if it is none of our links.
    pub(super) fn container_name_there(&mut self, raw: UniqueName) {
        if let Some(remote) = &mut self.remote
            && !remote.aliases.contains_key(&raw)
            && remote.control.name() != Some(raw)
        {
            if remote.hellos.is_empty() {
                remote.natives.insert(raw);
            } else {
                remote.unsure.push(raw);
            }
        }
    }

    /// A client's rule as the container bus is to have it: with its names, and wide enough that changes of
    /// owners arrive whose old or new owner is the host's. None: nothing there can match.
    pub(super) fn container_rule(&self, rule: &MatchRule) -> Option<MatchRule> {
        let mut rule = rule.clone();
        let names = [&mut rule.sender, &mut rule.destination];
        for name in names {
            if let Some(unique) = name.as_deref().and_then(UniqueName::parse) {
                *name = Some(self.container_name_of(unique)?.to_string().into());
            }
        }
        let may_be_owner_change = rule.sender.as_deref().is_none_or(|sender| sender == DRIVER)
            && rule.interface.as_deref().is_none_or(|it| it == DRIVER)
            && rule
                .member
                .as_deref()
                .is_none_or(|it| it == "NameOwnerChanged");
        if may_be_owner_change && rule.sender.is_some() {
            rule.args = rule
                .args
                .iter()
                .filter(|(index, _)| *index == 0)
                .cloned()
                .collect();
        }
        for (_, arg) in rule.args.iter_mut() {
            if let ArgMatch::Str(text) = arg
                && may_be_owner_change
                && let Some(unique) = UniqueName::parse(text)
                && let Some(raw) = self.container_name_of(unique)
            {
                *text = raw.to_string().into();
            }
        }
        Some(rule)
    }

    /// A client has got its name on the container bus: the rules of others that name it can be in force there from
    /// now on. (It may have been known by its host name for a while.)
    pub(super) fn add_rules_about(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(name) = self.session(id).and_then(|session| session.name) else {
            return;
        };
        let name = name.to_string();
        let mut due = Vec::new();
        for other in self.session_ids().into_iter().filter(|other| *other != id) {
            let Some(session) = self.session(other) else {
                continue;
            };
            let has_link = session.container.as_ref().is_some_and(|link| link.open);
            if !has_link || session.phase != Phase::Active {
                continue;
            }
            for entry in &session.rules {
                let names = [&entry.rule.sender, &entry.rule.destination];
                if names.into_iter().any(|it| it.as_deref() == Some(&*name)) {
                    due.push((other, entry.rule.clone(), entry.count));
                }
            }
        }
        for (other, rule, count) in due {
            let Some(rule) = self.container_rule(&rule) else {
                continue;
            };
            let body = Body::new().str(&rule.to_string());
            for _ in 0..count {
                self.ask_driver(
                    other,
                    Bus::Container,
                    "AddMatch",
                    &body,
                    Purpose::Ignored,
                    out,
                );
            }
        }
    }

    /// AddMatch with two buses.
    pub(super) fn add_match_joint(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        rule: &Arc<MatchRule>,
        out: &mut dyn Outbox,
    ) {
        let kind = super::joint::JointKind::AddMatch(rule.clone());
        self.match_joint(id, frame, "AddMatch", rule, kind, out);
    }

    /// RemoveMatch with two buses.
    pub(super) fn remove_match_joint(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        rule: &MatchRule,
        out: &mut dyn Outbox,
    ) {
        let kind = super::joint::JointKind::RemoveMatch;
        self.match_joint(id, frame, "RemoveMatch", rule, kind, out);
    }

    fn match_joint(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        member: &str,
        rule: &MatchRule,
        kind: super::joint::JointKind,
        out: &mut dyn Outbox,
    ) {
        let session = self.session(id);
        let has_host = session.is_some_and(|session| session.host.is_some());
        let has_container = session.is_some_and(|session| session.container.is_some());
        let host = has_host.then(|| Body::new().str(&without_eavesdrop(rule).to_string()));
        let container = self
            .container_rule(rule)
            .filter(|_| has_container)
            .map(|rule| Body::new().str(&rule.to_string()));
        self.start_joint(
            id,
            frame,
            member,
            kind,
            host.as_ref(),
            container.as_ref(),
            out,
        );
    }

    /// A call of a client's goes to the driver of the container bus as it is.
    pub(super) fn ask_container_driver(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        purpose: Purpose,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let ticket = session.ticket();
        let Some(link) = &mut session.container else {
            let text = "The container bus is gone; it will be connected again when it is back";
            return self.refuse(id, header, error_names::DISCONNECTED, text, out);
        };
        if !header.flags.contains(Flags::NO_REPLY_EXPECTED) {
            let ticket = (header.member != Some("StartServiceByName")).then_some(ticket);
            link.driver.push_back(DriverCall {
                serial: header.serial,
                ticket,
                purpose,
            });
        }
        self.send_to_driver(Port::Link(Bus::Container, id), frame, out);
    }

    /// A question about one connection goes to the container bus, under the name that it has there.
    pub(super) fn ask_container_about(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        raw: &str,
        purpose: Purpose,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let ticket = session.ticket();
        let Some(link) = &mut session.container else {
            let (error, text) = super::clients::nobody(raw, Flags(0));
            return self.refuse(id, header, error, &text, out);
        };
        if !header.flags.contains(Flags::NO_REPLY_EXPECTED) {
            let ticket = Some(ticket);
            link.driver.push_back(DriverCall {
                serial: header.serial,
                ticket,
                purpose,
            });
        }
        let call = Builder::method_call(super::DRIVER_PATH, header.member.unwrap_or_default())
            .interface(header.interface.unwrap_or(DRIVER))
            .destination(DRIVER)
            .flags(header.flags)
            .serial(header.serial)
            .body(&Body::new().str(raw))
            .build();
        out.send(Port::Link(Bus::Container, id), Outgoing::whole(&call));
    }

    /// The container bus is gone: its names leave the view, calls to it get NoReply, clients stay.
    pub(super) fn container_lost(
        &mut self,
        owned: Vec<(Box<str>, UniqueName)>,
        out: &mut dyn Outbox,
    ) {
        let ids = self.session_ids();
        self.keep_claims(&owned);
        let changes: Vec<(WellKnownName, UniqueName)> = owned
            .iter()
            .filter_map(|(name, raw)| {
                Some((WellKnownName::parse(name).ok()?, self.container_shown(*raw)))
            })
            .collect();
        for &id in &ids {
            let Some(session) = self.session_mut(id) else {
                continue;
            };
            if session.phase == Phase::Opening && session.container.take().is_some() {
                // The host alone will do until it is back.
                session.container_name = None;
                out.close(Port::Link(Bus::Container, id), Ending::Abrupt);
                self.registered_if_both(id, out);
                continue;
            }
            if session.container.is_none() {
                continue;
            }
            session.stepping = false;
            session.in_step = false;
            session.known.clear();
            let told = std::mem::take(&mut session.told);
            let acquired = std::mem::take(&mut session.acquired);
            let halves: Vec<_> = session
                .container
                .iter()
                .flat_map(|link| &link.driver)
                .filter_map(|call| match call.purpose {
                    Purpose::Half(joint) => Some(joint),
                    _ => None,
                })
                .collect();
            self.nothing_will_answer(id, Bus::Container, out);
            if let Some(session) = self.session_mut(id) {
                session.container = None;
                session.container_name = None;
            }
            out.close(Port::Link(Bus::Container, id), Ending::Abrupt);
            // Not what the control link knows: it may have heard more than this client was told, or less.
            for name in &acquired {
                self.driver_signal(id, "NameLost", &Body::new().str(name), out);
            }
            // What this client heard of a name's owner is what it has to hear the end of.
            let mut lost: Vec<(WellKnownName, UniqueName)> = changes
                .iter()
                .filter(|(name, _)| !told.iter().any(|(it, _)| it == name))
                .cloned()
                .collect();
            lost.extend(
                told.into_iter()
                    .filter_map(|(name, owner)| Some((name, owner?))),
            );
            lost.sort_unstable();
            for (name, owner) in &lost {
                let watched = self.session(id).is_some_and(|session| {
                    session
                        .rules
                        .iter()
                        .any(|it| super::ownership::watches_name(&it.rule, name))
                });
                if watched {
                    self.start_owner_barrier(id, name.clone(), Some(*owner), None, out);
                }
            }
            // The host's half of an answer comes after the changes that it is to agree with.
            for joint in halves {
                self.half_lost(joint, Bus::Container, out);
            }
            out.resume(Port::Client(id));
        }
        let natives = self
            .remote
            .as_ref()
            .map(|remote| remote.natives.iter().map(|raw| remote.shift(*raw)))
            .map(Iterator::collect::<Vec<_>>);
        for native in natives.unwrap_or_default() {
            for &id in &ids {
                self.tell_owner_change(id, &native.to_string(), Some(native), None, out);
            }
        }
        if let Some(remote) = &mut self.remote {
            remote.offset = remote.offset.saturating_add(STEP);
            remote.aliases.clear();
            remote.raws.clear();
            remote.natives.clear();
            remote.unsure.clear();
            remote.retired.clear();
            remote.hellos.clear();
            for port in std::mem::take(&mut remote.waiting) {
                out.resume(port);
            }
        }
    }

    /// A client becomes a monitor: it hears that it lost its names on the container bus.
    pub(super) fn leave_container(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let raw = self.session(id).and_then(|session| session.container_name);
        let (Some(raw), Some(remote)) = (raw, &self.remote) else {
            return;
        };
        let names = remote.control.view.names_of(raw);
        let lost: Vec<_> = names
            .filter_map(|name| WellKnownName::parse(name).ok())
            .collect();
        for name in &lost {
            self.driver_signal(id, "NameLost", &Body::new().str(name), out);
        }
        if let Some(session) = self.session_mut(id) {
            session.lost = lost;
        }
    }

    /// One client's link to the container bus has ended: with the bus, or alone?
    pub(super) fn container_link_closed(&mut self, id: SessionId, out: &mut dyn Outbox) {
        self.ask_container_alive(id, out);
    }

    /// The container bus lives, so it has closed this client's link: that client is off the bus.
    pub(super) fn container_is_alive(&mut self, id: SessionId, out: &mut dyn Outbox) {
        self.nothing_will_answer(id, Bus::Container, out);
        self.remove_session(id, Ending::Flushed, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_life_of_the_container_bus_is_nobody() {
        let mut remote = Remote::default();
        let raw = UniqueName { major: 1, minor: 7 };
        let shown = remote.shown(raw);
        assert_eq!(shown.to_string(), ":1000001.7");
        assert_eq!(remote.native(shown), Some(raw));
        remote.offset += STEP;
        assert!(remote.is_shifted(shown));
        assert_eq!(remote.native(shown), None);
        assert_eq!(remote.shown(raw).to_string(), ":2000001.7");
    }

    #[test]
    fn a_client_is_shown_by_its_host_name() {
        let mut remote = Remote::default();
        let (raw, host) = (
            UniqueName { major: 1, minor: 0 },
            UniqueName {
                major: 1,
                minor: 93,
            },
        );
        remote.aliases.insert(raw, host);
        assert_eq!(remote.shown(raw), host);
    }
}
