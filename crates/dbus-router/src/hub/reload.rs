//! Rules that take the place of others while clients are connected: what becomes of names, and who is told.
//!
//! A client that watches a name which was hidden, and is not any more, has to hear of its owner as if it had come
//! now; and the other way round. That is told behind a barrier (see [`ownership`](super::ownership)): what the host's
//! driver said of the name before is judged by the old rules.

use std::collections::{BTreeMap, BTreeSet};

use dbus_wire::body::Body;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::Hub;
use super::ownership::watches_name;
use crate::outbox::Outbox;
use crate::port::{Bus, SessionId};
use crate::session::{Barrier, Purpose};

/// How a name stood: who owned it inside, and whether the host's could be seen.
type Place = (Option<UniqueName>, bool);

impl Hub {
    fn place_of(&self, name: &str) -> Place {
        (self.inside_owner(name), !self.host_name_is_hidden(name))
    }

    /// Names that a bus behind us has an owner for, and how they stand.
    pub(super) fn names_in_view(&self) -> BTreeMap<WellKnownName, Place> {
        let Some(host) = &self.host else {
            return BTreeMap::new();
        };
        let inside = self
            .remote
            .iter()
            .flat_map(|remote| remote.control.view.names());
        host.view
            .names()
            .chain(inside)
            .filter_map(|(name, _)| WellKnownName::parse(name).ok())
            .map(|name| {
                let place = self.place_of(&name);
                (name, place)
            })
            .collect()
    }

    /// Tells who watches of names that are elsewhere now, or that are (not) to be seen any more.
    pub(super) fn tell_what_rules_changed(
        &mut self,
        before: &BTreeMap<WellKnownName, Place>,
        out: &mut dyn Outbox,
    ) {
        for (name, &(old, seen)) in before {
            let (new, is_seen) = self.place_of(name);
            // On the local bus the names that were taken from clients have been told of.
            let unchanged = match (old, new) {
                (None, None) => seen == is_seen,
                _ => self.remote.is_none() || old == new,
            };
            if unchanged {
                continue;
            }
            if self.is_tapped() {
                let outside = self.host.as_ref().and_then(|host| host.view.owner(name));
                let (old, new) = (
                    old.or(outside.filter(|_| seen)),
                    new.or(outside.filter(|_| is_seen)),
                );
                if old != new {
                    let bytes = self.owner_changed_signal(name, old, new);
                    self.tap_own(&bytes, out);
                }
            }
            for id in self.watchers_of(name) {
                if let Some(session) = self.session_mut(id) {
                    session.told.retain(|(told, _)| told != name);
                }
                let barrier = Barrier {
                    name: name.clone(),
                    old,
                    new,
                    seen: (seen, is_seen),
                };
                self.start_barrier(id, barrier, out);
            }
        }
    }

    /// For each client that lives on the host, the names of connections there that it can see.
    pub(super) fn names_seen_on_host(&self) -> Vec<(SessionId, BTreeSet<WellKnownName>)> {
        let Some(host) = &self.host else {
            return Vec::new();
        };
        let ids = self.session_ids().into_iter();
        ids.filter(|id| self.lives_on_host(*id))
            .map(|id| {
                let names = host.view.names().map(|(name, _)| name);
                let seen = names.filter(|name| self.host_side_sees(id, name));
                (
                    id,
                    seen.filter_map(|it| WellKnownName::parse(it).ok())
                        .collect(),
                )
            })
            .collect()
    }

    /// Tells clients that live on the host of names that they can see now, or not any more.
    pub(super) fn tell_who_lives_on_host(
        &mut self,
        before: &[(SessionId, BTreeSet<WellKnownName>)],
        out: &mut dyn Outbox,
    ) {
        let after = self.names_seen_on_host();
        for ((id, before), (_, after)) in before.iter().zip(&after) {
            for name in before.symmetric_difference(after) {
                let watched = self.session(*id).is_some_and(|session| {
                    let mut rules = session.rules.iter();
                    rules.any(|entry| watches_name(&entry.rule, name))
                });
                if !watched {
                    continue;
                }
                let barrier = Barrier {
                    name: name.clone(),
                    old: None,
                    new: None,
                    seen: (before.contains(name), after.contains(name)),
                };
                self.start_barrier(*id, barrier, out);
            }
        }
    }

    /// Takes names that are the host's now from a client that has them on a remote container bus.
    pub(super) fn give_up_on_container(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session(id) else {
            return;
        };
        let requests = session.requests.iter().map(|(name, _)| name);
        let names: Vec<WellKnownName> = requests
            .filter(|name| self.belongs_to_host(name))
            .cloned()
            .collect();
        for name in names {
            if let Some(session) = self.session_mut(id) {
                session.requests.retain(|(it, _)| *it != name);
            }
            let body = Body::new().str(&name);
            self.ask_driver(
                id,
                Bus::Container,
                "ReleaseName",
                &body,
                Purpose::Ignored,
                out,
            );
        }
    }
}
