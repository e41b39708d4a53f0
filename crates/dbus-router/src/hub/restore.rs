//! A container bus that was away and is back: clients' links, rules and names there are put back.
//!
//! - Every client's rules are in force before the first name is requested, so that everybody who watches is told
//!   of each name that is back.
//! - Names are requested one after the other: first by those who owned them when the bus went, then by those who
//!   waited. Nobody is replaced who was not replaced before.
//! - What programs of the new bus own already when a client's rules come into force is told to it then.

use std::collections::VecDeque;

use dbus_wire::body::Body;
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::ownership::watches_name;
use super::{DRIVER, DRIVER_PATH, Hub};
use crate::outbox::Outbox;
use crate::port::{Bus, Port, SessionId};
use crate::session::{DriverCall, Link, Phase, Purpose};

/// RequestName's flags.
const REPLACE_EXISTING: u32 = 2;
const DO_NOT_QUEUE: u32 = 4;

/// What is still to be put back.
#[derive(Default, Debug)]
pub(super) struct Restoration {
    /// Clients whose rules are not in force yet.
    clients: Vec<SessionId>,
    /// Names that were owned when the bus went, and by whom: they come first.
    owners: Vec<(SessionId, WellKnownName)>,
    /// Requests to be made, in this order.
    claims: VecDeque<(SessionId, WellKnownName, u32)>,
    /// Whose request is under way.
    asking: Option<SessionId>,
}

impl Restoration {
    /// Whether nothing is to be put back, now.
    pub fn is_over(&self) -> bool {
        self.clients.is_empty() && self.claims.is_empty() && self.asking.is_none()
    }
}

impl Hub {
    /// Whether a client's rules are still to be put back.
    pub(super) fn is_restoring(&self, id: SessionId) -> bool {
        let remote = self.remote.as_ref();
        remote.is_some_and(|remote| remote.restoration.clients.contains(&id))
    }

    /// The container bus is gone: who owned what there is who gets it back.
    pub(super) fn keep_claims(&mut self, owned: &[(Box<str>, UniqueName)]) {
        let before = match &mut self.remote {
            Some(remote) => std::mem::take(&mut remote.restoration),
            None => return,
        };
        let mut owners: Vec<(SessionId, WellKnownName)> = owned
            .iter()
            .filter_map(|(name, raw)| {
                let client = self.clients.get(&self.container_shown(*raw))?;
                Some((*client, WellKnownName::parse(name).ok()?))
            })
            .collect();
        // It went again before all was put back: what was not taken by anybody is still the former owner's.
        for (client, name) in before.owners {
            let taken = owners.iter().any(|(_, it)| *it == name)
                || owned.iter().any(|(it, _)| **it == *name);
            if !taken {
                owners.push((client, name));
            }
        }
        if let Some(remote) = &mut self.remote {
            remote.restoration.owners = owners;
        }
    }

    /// The container bus is (back) there: clients that have no link to it get one.
    pub(super) fn container_ready(&mut self, out: &mut dyn Outbox) {
        for id in self.session_ids() {
            self.link_to_container(id, out);
        }
    }

    /// Gives a client that came, or stayed, while the container bus was away its link to it.
    pub(super) fn link_to_container(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let has_none = session.container.is_none() && session.on_host.is_none();
        if session.phase != Phase::Active || !has_none {
            return;
        }
        let unix_fds = session.unix_fds;
        let ticket = session.ticket();
        let mut link = Link::default();
        let serial = link.own_serial();
        let purpose = Purpose::Hello;
        link.driver.push_back(DriverCall {
            serial,
            ticket: Some(ticket),
            purpose,
        });
        session.container = Some(link);
        self.container_hello_sent(id);
        if let Some(remote) = &mut self.remote {
            remote.restoration.clients.push(id);
        }
        let hello = Builder::method_call(DRIVER_PATH, "Hello")
            .interface(DRIVER)
            .destination(DRIVER)
            .serial(serial)
            .build();
        out.open(Port::Link(Bus::Container, id), &hello, unix_fds);
    }

    /// Whether a client's link to the container bus is being opened.
    pub(super) fn is_joining_container(&self, id: SessionId) -> bool {
        let link = self
            .session(id)
            .and_then(|session| session.container.as_ref());
        link.is_some_and(|link| !link.open)
    }

    /// A client's new link to the container bus is open: its rules are put back.
    pub(super) fn restore_on_container(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session(id) else {
            return;
        };
        let (name, raw) = (session.name, session.container_name);
        let rules: Vec<_> = session
            .rules
            .iter()
            .map(|entry| (entry.rule.clone(), entry.count))
            .collect();
        if let (Some(name), Some(raw), Some(remote)) = (name, raw, &mut self.remote) {
            remote.is_client(raw, name);
        }
        self.add_rules_about(id, out);
        for (rule, count) in rules {
            if let Some(rule) = self.container_rule(&rule) {
                let body = Body::new().str(&rule.to_string());
                for _ in 0..count {
                    self.ask_driver(id, Bus::Container, "AddMatch", &body, Purpose::Ignored, out);
                }
            }
        }
        let none = Body::new();
        self.ask_driver(
            id,
            Bus::Container,
            "ListNames",
            &none,
            Purpose::Restored,
            out,
        );
        self.container_hello_ended(id, out);
        out.resume(Port::Link(Bus::Container, id));
    }

    /// A client's rules are in force. `names` are there already, and nobody has told it of their owners.
    pub(super) fn rules_are_restored(
        &mut self,
        id: SessionId,
        names: &[&str],
        out: &mut dyn Outbox,
    ) {
        let met = self
            .session_mut(id)
            .map(|session| std::mem::take(&mut session.met))
            .unwrap_or_default();
        for raw in names.iter().filter_map(|name| UniqueName::parse(name)) {
            if let Some(native) = self.native_shown(raw).filter(|_| !met.contains(&raw)) {
                let text = native.to_string();
                self.tell_owner_change(id, &text, None, Some(native), out);
            }
        }
        for name in names {
            let watched = self.session(id).is_some_and(|session| {
                let mut rules = session.rules.iter();
                rules.any(|entry| watches_name(&entry.rule, name))
            });
            if let (true, Ok(name)) = (watched, WellKnownName::parse(name)) {
                let body = Body::new().str(&name);
                let purpose = Purpose::OwnerThere(name);
                self.ask_driver(id, Bus::Container, "GetNameOwner", &body, purpose, out);
            }
        }
        self.restored(id, out);
    }

    /// The owner of a name that was taken before a client's rules were in force.
    pub(super) fn owner_there(
        &mut self,
        id: SessionId,
        name: &WellKnownName,
        owner: &str,
        out: &mut dyn Outbox,
    ) {
        let told = self.session(id).is_some_and(|session| {
            let mut told = session.told.iter();
            told.any(|(it, owner)| it == name && owner.is_some())
        });
        if !told {
            self.container_change_seen(id, name, "", owner, out);
        }
    }

    /// A client's rules are in force, or it has gone. After the last of them the names are requested.
    pub(super) fn restored(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(remote) = &mut self.remote else {
            return;
        };
        let restoration = &mut remote.restoration;
        let before = restoration.clients.len();
        restoration.clients.retain(|it| *it != id);
        if restoration.clients.len() < before && restoration.clients.is_empty() {
            self.gather_claims();
            self.reclaim_next(out);
        } else if restoration.asking == Some(id) && self.session(id).is_none() {
            self.reclaim_next(out);
        }
    }

    fn gather_claims(&mut self) {
        let owners = match &self.remote {
            Some(remote) => remote.restoration.owners.clone(),
            None => return,
        };
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for id in self.session_ids() {
            let requests = self
                .session(id)
                .map(|session| session.requests.clone())
                .unwrap_or_default();
            for (name, flags) in requests {
                if owners.iter().any(|(owner, it)| (*owner, it) == (id, &name)) {
                    first.push((id, name, flags));
                } else if flags & DO_NOT_QUEUE == 0 {
                    then.push((id, name, flags & !REPLACE_EXISTING));
                } else if let Some(session) = self.session_mut(id) {
                    // It was replaced, and did not want to wait.
                    session.requests.retain(|(it, _)| *it != name);
                }
            }
        }
        if let Some(remote) = &mut self.remote {
            remote.restoration.claims = first.into_iter().chain(then).collect();
        }
    }

    /// Makes the next request for a name that is to be put back.
    pub(super) fn reclaim_next(&mut self, out: &mut dyn Outbox) {
        while let Some(remote) = &mut self.remote {
            remote.restoration.asking = None;
            let Some((id, name, flags)) = remote.restoration.claims.pop_front() else {
                remote.restoration.owners.clear();
                return;
            };
            // The client may have gone, or have released the name in the meantime.
            let wanted = self.session(id).is_some_and(|session| {
                session.container.is_some() && session.requests.iter().any(|(it, _)| *it == name)
            });
            if !wanted {
                continue;
            }
            if let Some(remote) = &mut self.remote {
                remote.restoration.asking = Some(id);
            }
            let body = Body::new().str(&name).u32(flags);
            let purpose = Purpose::Reclaimed;
            return self.ask_driver(id, Bus::Container, "RequestName", &body, purpose, out);
        }
    }
}
