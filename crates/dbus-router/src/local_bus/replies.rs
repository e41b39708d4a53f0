//! Calls between clients that wait for their one reply.
//!
//! Specification, "Message Types": a call gets one reply, from the one that was called. A bus lets no other
//! message of type METHOD_RETURN or ERROR pass. Two callers may use the same serial.

use crate::hash::{HashMap, HashSet};
use crate::port::SessionId;

/// What became of the wish to expect a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expectation {
    /// It is noted.
    Noted,
    /// This caller has a call with this serial outstanding at this callee.
    Twice,
    /// The caller has too many calls outstanding.
    TooMany,
}

/// All calls that wait, for both ends to find.
#[derive(Default, Debug)]
pub(crate) struct Replies {
    /// Callee → (caller, serial).
    owed: HashMap<SessionId, HashSet<(SessionId, u32)>>,
    /// Caller → how many it waits for.
    awaited: HashMap<SessionId, usize>,
}

impl Replies {
    /// A call with `serial` goes from `caller` to `callee`; `limit` is how many a caller may have.
    pub fn expect(
        &mut self,
        caller: SessionId,
        callee: SessionId,
        serial: u32,
        limit: usize,
    ) -> Expectation {
        let awaited = self.awaited.entry(caller).or_default();
        if *awaited >= limit {
            return Expectation::TooMany;
        }
        if !self
            .owed
            .entry(callee)
            .or_default()
            .insert((caller, serial))
        {
            return Expectation::Twice;
        }
        *awaited += 1;
        Expectation::Noted
    }

    /// `callee` answers `caller`. Returns whether that was waited for.
    pub fn settle(&mut self, caller: SessionId, callee: SessionId, serial: u32) -> bool {
        let Some(owed) = self.owed.get_mut(&callee) else {
            return false;
        };
        let known = owed.remove(&(caller, serial));
        if known && let Some(awaited) = self.awaited.get_mut(&caller) {
            *awaited -= 1;
        }
        known
    }

    /// Whether nothing is known of anybody.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.awaited.is_empty()
    }

    /// Forgets what `caller` waits for, and returns the serials of its calls in their order.
    pub fn give_up(&mut self, caller: SessionId) -> Vec<u32> {
        let mut serials = Vec::new();
        if self.awaited.remove(&caller).is_some_and(|count| count > 0) {
            for owed in self.owed.values_mut() {
                serials.extend(
                    owed.extract_if(|(it, _)| *it == caller)
                        .map(|(_, serial)| serial),
                );
            }
        }
        serials.sort_unstable();
        serials
    }

    /// Forgets `session` as a caller, and returns whom it owed a reply: (caller, serial), in the order of
    /// callers and serials, so that equal runs are equal.
    pub fn remove(&mut self, session: SessionId) -> Vec<(SessionId, u32)> {
        // Few go while they wait; who does is looked for everywhere.
        if self.awaited.remove(&session).is_some_and(|count| count > 0) {
            for owed in self.owed.values_mut() {
                owed.retain(|(caller, _)| *caller != session);
            }
        }
        let owed = self.owed.remove(&session).unwrap_or_default();
        let mut owed: Vec<_> = owed.into_iter().collect();
        owed.sort_unstable();
        for (caller, _) in &owed {
            if let Some(awaited) = self.awaited.get_mut(caller) {
                *awaited -= 1;
            }
        }
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(index: u32) -> SessionId {
        SessionId {
            index,
            generation: 0,
        }
    }

    #[test]
    fn two_callers_with_one_serial_both_get_their_reply_once() {
        let mut replies = Replies::default();
        let service = session(9);
        assert_eq!(
            replies.expect(session(1), service, 7, 10),
            Expectation::Noted
        );
        assert_eq!(
            replies.expect(session(2), service, 7, 10),
            Expectation::Noted
        );
        assert_eq!(
            replies.expect(session(2), service, 7, 10),
            Expectation::Twice
        );
        assert!(replies.settle(session(2), service, 7));
        assert!(!replies.settle(session(2), service, 7));
        assert!(replies.settle(session(1), service, 7));
    }

    #[test]
    fn who_goes_leaves_a_list_of_callers() {
        let mut replies = Replies::default();
        replies.expect(session(1), session(2), 1, 10);
        replies.expect(session(1), session(2), 2, 10);
        replies.expect(session(2), session(1), 1, 10);
        assert_eq!(
            replies.remove(session(2)),
            [(session(1), 1), (session(1), 2)]
        );
        assert!(replies.remove(session(1)).is_empty());
        assert!(replies.awaited.is_empty() && replies.owed.is_empty());
    }

    #[test]
    fn a_caller_that_goes_is_owed_nothing() {
        let mut replies = Replies::default();
        replies.expect(session(1), session(2), 1, 10);
        replies.expect(session(3), session(2), 1, 10);
        assert!(replies.remove(session(1)).is_empty());
        assert!(!replies.settle(session(1), session(2), 1));
        assert_eq!(replies.remove(session(2)), [(session(3), 1)]);
    }

    #[test]
    fn a_caller_has_a_bounded_number_of_calls() {
        let mut replies = Replies::default();
        assert_eq!(
            replies.expect(session(1), session(2), 1, 1),
            Expectation::Noted
        );
        assert_eq!(
            replies.expect(session(1), session(2), 2, 1),
            Expectation::TooMany
        );
    }
}
