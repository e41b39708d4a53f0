//! What the rules say of a name, remembered: each message asks for the same few names again, and there may be hundreds
//! of rules.
//!
//! The rules of a [`Policy`](super::Policy) do not change, so an answer stays right for as long as the policy lives.
//! Names come from clients, so there is a bound; beyond it everything is forgotten and learnt again.

use std::cell::RefCell;

use super::{Access, RuleId, Standing};
use crate::hash::HashMap;

/// Names that are remembered at the same time.
const NAMES: usize = 1024;

/// What the rules say of one name.
#[derive(Debug)]
pub(super) struct Judged {
    /// How it stands, by what every name is to the client at least.
    pub standings: [Standing; Access::ALL.len()],
    /// The rule by which it belongs to the host for everybody.
    pub lives_on_host: Option<RuleId>,
    /// The rules that are about it, by their place.
    pub rules: Box<[u32]>,
}

/// What was learnt of names.
#[derive(Default)]
pub(super) struct Memo(RefCell<HashMap<Box<str>, Judged>>);

impl Memo {
    /// Looks at what is known of `name`, or else at what `judge` says of it.
    pub fn look<R>(
        &self,
        name: &str,
        judge: impl FnOnce() -> Judged,
        look: impl FnOnce(&Judged) -> R,
    ) -> R {
        if let Some(judged) = self.0.borrow().get(name) {
            return look(judged);
        }
        let judged = judge();
        let seen = look(&judged);
        let mut names = self.0.borrow_mut();
        if names.len() >= NAMES {
            names.clear();
        }
        names.insert(name.into(), judged);
        seen
    }

    /// Forgets everything: what the answers stood on has changed.
    pub fn clear(&mut self) {
        self.0.get_mut().clear();
    }
}

impl Clone for Memo {
    /// Knows nothing yet.
    fn clone(&self) -> Memo {
        Memo::default()
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memo({} names)", self.0.borrow().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Judged {
        let standing = |access| Standing {
            access,
            rule: None,
            guarded: false,
        };
        Judged {
            standings: Access::ALL.map(standing),
            lives_on_host: None,
            rules: Box::default(),
        }
    }

    #[test]
    fn a_name_is_judged_once_and_not_more_are_kept_than_there_is_room_for() {
        let memo = Memo::default();
        let mut judged = 0;
        for _ in 0..3 {
            memo.look(
                "org.example.Name",
                || {
                    judged += 1;
                    nothing()
                },
                |_| (),
            );
        }
        assert_eq!(judged, 1);
        for number in 0..3 * NAMES {
            memo.look(&format!("org.example.N{number}"), nothing, |_| ());
            assert!(memo.0.borrow().len() <= NAMES);
        }
    }
}
