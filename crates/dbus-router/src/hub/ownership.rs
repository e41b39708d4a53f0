//! Names that change hands inside, and how each client is told.
//!
//! With a host behind us a name that the inside takes or lets go of changes bus. Each session that watches it
//! asks the host for the owner on its own host link: what the host's driver said before the answer was said
//! before the change, what it says after is hidden (or shown again). DESIGN.md, decision 4.

use std::sync::Arc;

use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::frame::MessageType;
use dbus_wire::match_rule::{ArgMatch, MatchRule, PathMatch};
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, WellKnownName, name_in_namespace, path_in_namespace};

use super::{DRIVER, DRIVER_PATH, Frame, Hub};
use crate::local_bus::{Release, Request, RequestFlags, RuleEntry, Transfer};
use crate::outbox::{Outbox, Outgoing};
use crate::port::{Bus, Port, SessionId};
use crate::session::{Barrier, DriverCall, Phase, Purpose};

impl Hub {
    /// RequestName of a client on the local bus.
    pub(super) fn request_name(
        &mut self,
        id: SessionId,
        name: &str,
        flags: u32,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let call = &frame.header;
        let Some(name) = self.ownable_name(id, name, "acquire", frame, out) else {
            return;
        };
        if self.refuse_host_route(id, &name, frame, out)
            || self.refuse_withheld(id, &name, frame, out)
        {
            return;
        }
        let claimed = self.names.claims(&name, id);
        let limit = self.config.limits.names_per_client;
        if !claimed
            && self
                .session(id)
                .is_some_and(|session| session.claims.len() >= limit)
        {
            let text = format!("The limit of {limit} names for each client is reached");
            return self.refuse(id, call, error_names::LIMITS_EXCEEDED, &text, out);
        }
        let (answer, transfer) = self.names.request(&name, id, RequestFlags(flags));
        if let Some(session) = self.session_mut(id) {
            session.claims.retain(|it| *it != name);
            if answer != Request::Exists {
                session.claims.push(name.clone());
            }
        }
        if let Some(transfer) = transfer {
            // An owner that does not want to wait has lost its claim.
            if let Some(from) = transfer.from
                && !self.names.claims(&name, from)
                && let Some(session) = self.session_mut(from)
            {
                session.claims.retain(|it| *it != name);
            }
            self.name_transferred(&transfer, true, out);
        }
        self.reply(id, call, &Body::new().u32(answer as u32), out);
    }

    /// ReleaseName of a client on the local bus.
    pub(super) fn release_name(
        &mut self,
        id: SessionId,
        name: &str,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let Some(name) = self.ownable_name(id, name, "release", frame, out) else {
            return;
        };
        let (answer, transfer) = self.names.release(&name, id);
        if answer == Release::Released
            && let Some(session) = self.session_mut(id)
        {
            session.claims.retain(|it| *it != name);
        }
        if let Some(transfer) = transfer {
            self.name_transferred(&transfer, true, out);
        }
        self.reply(id, &frame.header, &Body::new().u32(answer as u32), out);
    }

    /// The rules have changed: names that are the host's now are not a client's any more.
    pub(super) fn give_up_host_routes(&mut self, id: SessionId, out: &mut dyn Outbox) {
        if self.remote.is_some() {
            return self.give_up_on_container(id, out);
        }
        let claims = self.session(id).map(|session| session.claims.clone());
        for claim in claims.unwrap_or_default() {
            if !self.belongs_to_host(&claim) {
                continue;
            }
            let (_, transfer) = self.names.release(&claim, id);
            if let Some(session) = self.session_mut(id) {
                session.claims.retain(|it| *it != claim);
            }
            if let Some(transfer) = transfer {
                self.name_transferred(&transfer, true, out);
            }
        }
    }

    /// A name that belongs to the host cannot be taken inside: refuses that, and says so.
    pub(super) fn refuse_host_route(
        &mut self,
        id: SessionId,
        name: &str,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> bool {
        let Some(rule) = self.config.policy.lives_on_host(name) else {
            return false;
        };
        if self.host.is_none() {
            return false;
        }
        self.counters.refused += 1;
        let ruling = crate::decision::Ruling::Refused;
        self.report_about_name(id, &frame.header, name, Some(rule), ruling, out);
        let text = format!("{name} may not be owned inside: {rule} says that it lives on the host");
        self.refuse(id, &frame.header, error_names::ACCESS_DENIED, &text, out);
        true
    }

    /// A name that can be owned; otherwise the call has been refused.
    fn ownable_name(
        &mut self,
        id: SessionId,
        name: &str,
        verb: &str,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> Option<WellKnownName> {
        let problem = if name.starts_with(':') {
            format!("Cannot {verb} a service starting with ':' such as \"{name}\"")
        } else if name == DRIVER {
            format!(
                "Cannot {verb} a service named {DRIVER}, because that name is reserved for the bus"
            )
        } else {
            match WellKnownName::parse(name) {
                Ok(name) => return Some(name),
                Err(_) => format!("Requested bus name \"{name}\" is not valid"),
            }
        };
        self.refuse(id, &frame.header, error_names::INVALID_ARGS, &problem, out);
        None
    }

    /// Tells of a new owner. `tell_old`: the old owner is still there to hear NameLost.
    fn name_transferred(&mut self, transfer: &Transfer, tell_old: bool, out: &mut dyn Outbox) {
        let name = &transfer.name;
        let unique = |hub: &Hub, id: Option<SessionId>| {
            id.and_then(|id| hub.session(id))
                .and_then(|session| session.name)
        };
        let (old, new) = (unique(self, transfer.from), unique(self, transfer.to));
        let body = Body::new().str(name);
        if let Some(from) = transfer.from.filter(|_| tell_old) {
            self.driver_signal(from, "NameLost", &body, out);
        }
        if let Some(from) = transfer.from {
            self.unexport_name(from, name, out);
        }
        self.inside_owner_changed(name, old, new, out);
        if let Some(to) = transfer.to {
            self.driver_signal(to, "NameAcquired", &body, out);
            self.export_name(to, name, out);
            self.release_waiting(name, to, out);
            self.serve_who_waited(name, out);
        }
    }

    /// An inside name has another owner: tells who watches.
    pub(super) fn inside_owner_changed(
        &mut self,
        name: &WellKnownName,
        old: Option<UniqueName>,
        new: Option<UniqueName>,
        out: &mut dyn Outbox,
    ) {
        let stays_inside = old.is_some() && new.is_some();
        if self.host.is_none() || stays_inside {
            let body = owner_changed_body(name, old, new);
            return self.driver_broadcast("NameOwnerChanged", &body, None, out);
        }
        self.tap_owner_changed(name, old, new, out);
        for id in self.watchers_of(name) {
            self.start_owner_barrier(id, name.clone(), old, new, out);
        }
    }

    /// Who may have a rule for a change of a name's owner.
    pub(super) fn watchers_of(&self, name: &str) -> Vec<SessionId> {
        let mut watchers: Vec<SessionId> = self
            .matches
            .candidates(Some(DRIVER), Some(name))
            .filter(|(_, rule)| watches_name(rule, name))
            .map(|(id, _)| *id)
            .collect();
        watchers.sort_unstable();
        watchers.dedup();
        watchers
    }

    /// Shows monitors a change of bus as the control link sees it.
    pub(super) fn tap_owner_changed(
        &mut self,
        name: &WellKnownName,
        old: Option<UniqueName>,
        new: Option<UniqueName>,
        out: &mut dyn Outbox,
    ) {
        if !self.is_tapped() {
            return;
        }
        let outside = self
            .host
            .as_ref()
            .and_then(|host| host.view.owner(name))
            .filter(|_| !self.host_name_is_hidden(name));
        let bytes = self.owner_changed_signal(name, old.or(outside), new.or(outside));
        self.tap_own(&bytes, out);
    }

    /// NameOwnerChanged as the driver sends it to all.
    pub(super) fn owner_changed_signal(
        &mut self,
        name: &str,
        old: Option<UniqueName>,
        new: Option<UniqueName>,
    ) -> Vec<u8> {
        let serial = self.driver_serial();
        Builder::signal(DRIVER_PATH, DRIVER, "NameOwnerChanged")
            .sender(DRIVER)
            .serial(serial)
            .body(&owner_changed_body(name, old, new))
            .build()
    }

    /// A name gets another owner inside, or none, or one at last: see [`Hub::start_barrier`].
    pub(super) fn start_owner_barrier(
        &mut self,
        id: SessionId,
        name: WellKnownName,
        old: Option<UniqueName>,
        new: Option<UniqueName>,
        out: &mut dyn Outbox,
    ) {
        // By the rules of this moment: what later ones make of the name is a change of its own.
        let is_seen = !self.host_name_is_hidden(&name);
        let barrier = Barrier {
            name,
            old,
            new,
            seen: (is_seen, is_seen),
        };
        self.start_barrier(id, barrier, out);
    }

    /// Asks the host, on the session's own link, who owns a name that changes bus.
    pub(super) fn start_barrier(&mut self, id: SessionId, barrier: Barrier, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let ticket = session.ticket();
        let Some(link) = session.host.as_mut().filter(|link| link.open) else {
            return self.owner_change_is_due(id, &barrier, None, out);
        };
        let serial = link.own_serial();
        let body = Body::new().str(&barrier.name);
        let purpose = Purpose::Barrier(barrier);
        link.driver.push_back(DriverCall {
            serial,
            ticket: Some(ticket),
            purpose,
        });
        let call = Builder::method_call(DRIVER_PATH, "GetNameOwner")
            .interface(DRIVER)
            .destination(DRIVER)
            .serial(serial)
            .body(&body)
            .build();
        out.send(Port::Link(Bus::Host, id), Outgoing::whole(&call));
    }

    /// The host has answered a barrier: tells the session of the change, now.
    pub(super) fn owner_change_is_due(
        &mut self,
        id: SessionId,
        barrier: &Barrier,
        host_owner: Option<UniqueName>,
        out: &mut dyn Outbox,
    ) {
        let (before, after) = barrier.seen;
        let outside = host_owner.filter(|it| !self.is_inside_client(*it));
        let old = barrier.old.or(outside.filter(|_| before));
        let new = barrier.new.or(outside.filter(|_| after));
        if old != new {
            self.tell_owner_change(id, &barrier.name, old, new, out);
        }
        if self.remote.is_some() {
            out.resume(Port::Link(Bus::Container, id));
        }
    }

    /// Writes NameOwnerChanged to a session whose rules match, ahead of what is deferred.
    pub(super) fn tell_owner_change(
        &mut self,
        id: SessionId,
        name: &str,
        old: Option<UniqueName>,
        new: Option<UniqueName>,
        out: &mut dyn Outbox,
    ) {
        let bytes = self.owner_changed_signal(name, old, new);
        let Some((header, body)) = super::deliver::split(&bytes) else {
            return;
        };
        if self.has_rule_for_driver_signal(id, &header, body) {
            out.send(Port::Client(id), Outgoing::whole(&bytes));
        }
    }

    /// Whether the host's name is one that clients never hear of.
    pub(super) fn host_name_is_hidden(&self, name: &str) -> bool {
        (self.activation.set.is_application(name) && !self.belongs_to_host(name))
            || self.config.policy.host_name(name) != crate::policy::Passage::Allowed
    }

    /// Adds a rule of a client to the local tables. False: it has too many. (Those of clients that live on the host
    /// match nothing inside; they are remembered for what new rules show and hide.)
    pub(super) fn add_rule(&mut self, id: SessionId, rule: &Arc<MatchRule>) -> bool {
        let limit = self.config.limits.rules_per_client;
        let Some(session) = self.session_mut(id) else {
            return false;
        };
        let is_inside = session.on_host.is_none();
        if let Some(entry) = session.rules.iter_mut().find(|entry| *entry.rule == **rule) {
            entry.count += 1;
            return true;
        }
        if session.rules.len() >= limit {
            return false;
        }
        session.rules.push(RuleEntry {
            rule: rule.clone(),
            count: 1,
        });
        if is_inside {
            self.matches.insert(id, rule.clone());
        }
        true
    }

    /// Takes a rule of a client away. False: it has none like this.
    pub(super) fn remove_rule(&mut self, id: SessionId, rule: &MatchRule) -> bool {
        let Some(session) = self.session_mut(id) else {
            return false;
        };
        let Some(place) = session.rules.iter().position(|entry| *entry.rule == *rule) else {
            return false;
        };
        session.rules[place].count -= 1;
        if session.rules[place].count == 0 {
            session.rules.swap_remove(place);
            // Of names that it does not watch any more it is told nothing, so what it was told grows old.
            let rules = &session.rules;
            session
                .told
                .retain(|(name, _)| rules.iter().any(|entry| watches_name(&entry.rule, name)));
            if session.on_host.is_none() {
                self.matches.remove(id, rule);
            }
        }
        true
    }

    /// A client goes (or becomes a monitor): its rules and names are gone, and who called it gets
    /// NoReply. `stays`: it is still there to hear that it lost its names.
    pub(super) fn leave_bus(&mut self, id: SessionId, stays: bool, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let (rules, claims) = (
            std::mem::take(&mut session.rules),
            std::mem::take(&mut session.claims),
        );
        // The rules of a monitor say what it sees, and are in no table; nor are those of who lives on the host.
        let in_no_table = session.phase == Phase::Monitor || session.on_host.is_some();
        let name = session.name.filter(|_| session.phase == Phase::Active);
        if !in_no_table {
            for entry in rules {
                self.matches.remove(id, &entry.rule);
            }
        }
        for claim in claims.iter().rev() {
            if let (_, Some(transfer)) = self.names.release(claim, id) {
                self.name_transferred(&transfer, stays, out);
            }
        }
        if let (Some(name), None) = (name, &self.host) {
            let text = name.to_string();
            let body = owner_changed_body(&text, Some(name), None);
            self.driver_broadcast("NameOwnerChanged", &body, None, out);
        }
        for (caller, serial) in self.replies.remove(id) {
            self.no_reply(caller, serial, out);
        }
    }
}

/// The three arguments of NameOwnerChanged.
pub(super) fn owner_changed_body(
    name: &str,
    old: Option<UniqueName>,
    new: Option<UniqueName>,
) -> Body {
    let text = |owner: Option<UniqueName>| owner.map(|it| it.to_string()).unwrap_or_default();
    Body::new().str(name).str(&text(old)).str(&text(new))
}

/// Whether a rule may match NameOwnerChanged for `name`, whoever the owners are.
pub(super) fn watches_name(rule: &MatchRule, name: &str) -> bool {
    rule.kind.is_none_or(|kind| kind == MessageType::Signal)
        && rule.sender.as_deref().is_none_or(|sender| sender == DRIVER)
        && rule
            .interface
            .as_deref()
            .is_none_or(|interface| interface == DRIVER)
        && rule
            .member
            .as_deref()
            .is_none_or(|member| member == "NameOwnerChanged")
        && rule.path.as_ref().is_none_or(|path| match path {
            PathMatch::Exact(path) => **path == *DRIVER_PATH,
            PathMatch::Namespace(path) => path_in_namespace(DRIVER_PATH, path),
        })
        && rule
            .args
            .iter()
            .filter(|(index, _)| *index == 0)
            .all(|(_, arg)| match arg {
                ArgMatch::Str(text) => **text == *name,
                ArgMatch::Namespace(namespace) => name_in_namespace(name, namespace),
                // A name has no slash: argNpath is equality here.
                ArgMatch::Path(text) => **text == *name,
            })
}
