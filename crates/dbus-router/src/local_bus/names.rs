//! Well-known names of the local bus, and the queues of those who want them.
//!
//! Specification, "Message Bus Name Ownership" and the methods RequestName, ReleaseName and ListQueuedOwners.
//! Invariants: a name in the table has an owner; nobody is in one queue twice; the owner is the first.

use std::collections::VecDeque;

use dbus_wire::names::WellKnownName;

use crate::hash::HashMap;
use crate::port::SessionId;

/// The flags of RequestName.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RequestFlags(pub u32);

impl RequestFlags {
    const ALLOW_REPLACEMENT: u32 = 1;
    const REPLACE_EXISTING: u32 = 2;
    const DO_NOT_QUEUE: u32 = 4;

    fn allow_replacement(self) -> bool {
        self.0 & Self::ALLOW_REPLACEMENT != 0
    }

    fn replace_existing(self) -> bool {
        self.0 & Self::REPLACE_EXISTING != 0
    }

    fn do_not_queue(self) -> bool {
        self.0 & Self::DO_NOT_QUEUE != 0
    }
}

/// The answer of RequestName; the numbers are the specification's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    PrimaryOwner = 1,
    InQueue = 2,
    Exists = 3,
    AlreadyOwner = 4,
}

/// The answer of ReleaseName; the numbers are the specification's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    Released = 1,
    NonExistent = 2,
    NotOwner = 3,
}

/// A change of a name's primary owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Transfer {
    pub name: WellKnownName,
    pub from: Option<SessionId>,
    pub to: Option<SessionId>,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    session: SessionId,
    flags: RequestFlags,
}

/// All well-known names of the local bus.
#[derive(Default, Debug)]
pub(crate) struct NameRegistry {
    queues: HashMap<WellKnownName, VecDeque<Claim>>,
}

impl NameRegistry {
    /// The primary owner of `name`.
    pub fn owner(&self, name: &str) -> Option<SessionId> {
        self.queues
            .get(name)
            .and_then(|queue| queue.front())
            .map(|claim| claim.session)
    }

    /// Owner first, then who waits, in order.
    pub fn queue(&self, name: &str) -> Option<impl Iterator<Item = SessionId> + '_> {
        self.queues
            .get(name)
            .map(|queue| queue.iter().map(|claim| claim.session))
    }

    /// All names that are owned, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&WellKnownName, SessionId)> + '_ {
        self.queues
            .iter()
            .filter_map(|(name, queue)| queue.front().map(|claim| (name, claim.session)))
    }

    /// Whether `session` owns or waits for `name`.
    pub fn claims(&self, name: &str, session: SessionId) -> bool {
        self.queues
            .get(name)
            .is_some_and(|queue| queue.iter().any(|claim| claim.session == session))
    }

    /// RequestName. The second part is there where the owner changed.
    pub fn request(
        &mut self,
        name: &WellKnownName,
        session: SessionId,
        flags: RequestFlags,
    ) -> (Request, Option<Transfer>) {
        let claim = Claim { session, flags };
        let Some(queue) = self.queues.get_mut(&**name) else {
            self.queues.insert(name.clone(), VecDeque::from([claim]));
            let transfer = Transfer {
                name: name.clone(),
                from: None,
                to: Some(session),
            };
            return (Request::PrimaryOwner, Some(transfer));
        };
        let owner = *queue.front().expect("a name in the table has an owner");
        if owner.session == session {
            queue[0].flags = flags;
            return (Request::AlreadyOwner, None);
        }
        if !(owner.flags.allow_replacement() && flags.replace_existing()) {
            let place = queue.iter().position(|other| other.session == session);
            if flags.do_not_queue() {
                if let Some(place) = place {
                    queue.remove(place);
                }
                return (Request::Exists, None);
            }
            match place {
                Some(place) => queue[place].flags = flags,
                None => queue.push_back(claim),
            }
            return (Request::InQueue, None);
        }
        queue.retain(|other| other.session != session);
        if owner.flags.do_not_queue() {
            queue.pop_front();
        }
        queue.push_front(claim);
        let transfer = Transfer {
            name: name.clone(),
            from: Some(owner.session),
            to: Some(session),
        };
        (Request::PrimaryOwner, Some(transfer))
    }

    /// ReleaseName. The second part is there where the owner changed.
    pub fn release(&mut self, name: &str, session: SessionId) -> (Release, Option<Transfer>) {
        let Some((key, queue)) = self.queues.get_key_value(name) else {
            return (Release::NonExistent, None);
        };
        let key = key.clone();
        let Some(place) = queue.iter().position(|claim| claim.session == session) else {
            return (Release::NotOwner, None);
        };
        let queue = self.queues.get_mut(name).expect("found a line above");
        queue.remove(place);
        if place > 0 {
            return (Release::Released, None);
        }
        let next = queue.front().map(|claim| claim.session);
        if next.is_none() {
            self.queues.remove(name);
        }
        (
            Release::Released,
            Some(Transfer {
                name: key,
                from: Some(session),
                to: next,
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session(index: u32) -> SessionId {
        SessionId {
            index,
            generation: 0,
        }
    }

    fn name() -> WellKnownName {
        WellKnownName::parse("org.example.Name").unwrap()
    }

    #[test]
    fn the_first_owns_the_second_waits_and_follows() {
        let mut names = NameRegistry::default();
        let (answer, transfer) = names.request(&name(), session(1), RequestFlags(0));
        assert_eq!(answer, Request::PrimaryOwner);
        assert_eq!(transfer.unwrap().to, Some(session(1)));
        assert_eq!(
            names.request(&name(), session(2), RequestFlags(0)).0,
            Request::InQueue
        );
        assert_eq!(
            names.request(&name(), session(3), RequestFlags(4)).0,
            Request::Exists
        );
        assert_eq!(
            names.request(&name(), session(1), RequestFlags(0)).0,
            Request::AlreadyOwner
        );
        let (answer, transfer) = names.release(&name(), session(1));
        assert_eq!(answer, Release::Released);
        assert_eq!(transfer.unwrap().to, Some(session(2)));
        assert_eq!(names.release(&name(), session(1)).0, Release::NotOwner);
        assert_eq!(
            names.release("org.example.Other", session(1)).0,
            Release::NonExistent
        );
    }

    #[test]
    fn an_owner_that_allows_it_is_replaced_and_waits_unless_it_will_not_queue() {
        let mut names = NameRegistry::default();
        names.request(&name(), session(1), RequestFlags(1));
        let (answer, transfer) = names.request(&name(), session(2), RequestFlags(2 | 1));
        assert_eq!(answer, Request::PrimaryOwner);
        assert_eq!(transfer.unwrap().from, Some(session(1)));
        assert_eq!(
            names.queue(&name()).unwrap().collect::<Vec<_>>(),
            [session(2), session(1)]
        );
        names.request(&name(), session(2), RequestFlags(1 | 4));
        names.request(&name(), session(3), RequestFlags(2));
        assert_eq!(
            names.queue(&name()).unwrap().collect::<Vec<_>>(),
            [session(3), session(1)]
        );
    }

    proptest! {
        #[test]
        fn nobody_is_in_a_queue_twice_and_each_change_of_owner_is_told(
            steps in prop::collection::vec((0u32..4, any::<bool>(), 0u32..8), 0..60)
        ) {
            let mut names = NameRegistry::default();
            for (who, request, flags) in steps {
                let before = names.owner(&name());
                let transfer = if request {
                    names.request(&name(), session(who), RequestFlags(flags)).1
                } else {
                    names.release(&name(), session(who)).1
                };
                let after = names.owner(&name());
                prop_assert_eq!(transfer.is_some(), before != after);
                if let Some(transfer) = transfer {
                    prop_assert_eq!(transfer.from, before);
                    prop_assert_eq!(transfer.to, after);
                }
                if let Some(queue) = names.queue(&name()) {
                    let mut all: Vec<_> = queue.collect();
                    let length = all.len();
                    all.sort();
                    all.dedup();
                    prop_assert_eq!(all.len(), length);
                    prop_assert!(length > 0);
                }
            }
        }
    }
}
