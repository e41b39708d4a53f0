//! Match rules of all clients, and who is to hear of a message.
//!
//! Specification, "Match Rules". Rules are found by interface first and by their first argument second,
//! because a desktop has hundreds of rules for NameOwnerChanged that differ in nothing but arg0.

use std::sync::Arc;

use dbus_wire::header::Header;
use dbus_wire::match_rule::{Arg, ArgMatch, Args, MatchRule};

use crate::hash::HashMap;
use crate::port::SessionId;

/// A rule of one client, and how often it was added.
#[derive(Clone, Debug)]
pub(crate) struct RuleEntry {
    pub rule: Arc<MatchRule>,
    pub count: u32,
}

#[derive(Default, Debug)]
struct Bucket {
    by_first_argument: HashMap<Box<str>, Vec<(SessionId, Arc<MatchRule>)>>,
    others: Vec<(SessionId, Arc<MatchRule>)>,
}

/// The rules of all clients.
#[derive(Default, Debug)]
pub(crate) struct MatchRegistry {
    by_interface: HashMap<Box<str>, Bucket>,
    any_interface: Bucket,
    /// How many rules ask to see what is addressed to others.
    eavesdropping: usize,
}

fn first_argument(rule: &MatchRule) -> Option<&str> {
    match rule.args.first() {
        Some((0, ArgMatch::Str(text))) => Some(text),
        _ => None,
    }
}

impl Bucket {
    fn insert(&mut self, session: SessionId, rule: Arc<MatchRule>) {
        match first_argument(&rule) {
            Some(first) => match self.by_first_argument.get_mut(first) {
                Some(list) => list.push((session, rule)),
                None => {
                    self.by_first_argument
                        .insert(first.into(), vec![(session, rule)]);
                }
            },
            None => self.others.push((session, rule)),
        }
    }

    fn remove(&mut self, session: SessionId, rule: &MatchRule) {
        let gone = |list: &mut Vec<(SessionId, Arc<MatchRule>)>| {
            if let Some(place) = list
                .iter()
                .position(|(other, it)| *other == session && **it == *rule)
            {
                list.swap_remove(place);
            }
        };
        match first_argument(rule) {
            Some(first) => {
                if let Some(list) = self.by_first_argument.get_mut(first) {
                    gone(list);
                    if list.is_empty() {
                        self.by_first_argument.remove(first);
                    }
                }
            }
            None => gone(&mut self.others),
        }
    }

    fn is_empty(&self) -> bool {
        self.by_first_argument.is_empty() && self.others.is_empty()
    }

    fn candidates<'b>(
        &'b self,
        first: Option<&'b str>,
    ) -> impl Iterator<Item = &'b (SessionId, Arc<MatchRule>)> {
        let keyed = first.and_then(|first| self.by_first_argument.get(first));
        keyed.into_iter().flatten().chain(&self.others)
    }
}

impl MatchRegistry {
    /// Adds a rule that `session` did not have yet.
    pub fn insert(&mut self, session: SessionId, rule: Arc<MatchRule>) {
        self.eavesdropping += usize::from(rule.eavesdrop == Some(true));
        match rule.interface.as_deref() {
            Some(interface) => match self.by_interface.get_mut(interface) {
                Some(bucket) => bucket.insert(session, rule),
                None => {
                    let mut bucket = Bucket::default();
                    let interface = interface.into();
                    bucket.insert(session, rule);
                    self.by_interface.insert(interface, bucket);
                }
            },
            None => self.any_interface.insert(session, rule),
        }
    }

    /// Takes away a rule that `session` has.
    pub fn remove(&mut self, session: SessionId, rule: &MatchRule) {
        self.eavesdropping -= usize::from(rule.eavesdrop == Some(true));
        match rule.interface.as_deref() {
            Some(interface) => {
                if let Some(bucket) = self.by_interface.get_mut(interface) {
                    bucket.remove(session, rule);
                    if bucket.is_empty() {
                        self.by_interface.remove(interface);
                    }
                }
            }
            None => self.any_interface.remove(session, rule),
        }
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self.by_interface.is_empty() && self.any_interface.is_empty() && self.eavesdropping == 0
    }

    /// Whether anybody wants to see messages that are addressed to others.
    pub fn has_eavesdroppers(&self) -> bool {
        self.eavesdropping > 0
    }

    /// Rules that might match a message with this interface and first argument.
    pub fn candidates<'r>(
        &'r self,
        interface: Option<&str>,
        first: Option<&'r str>,
    ) -> impl Iterator<Item = &'r (SessionId, Arc<MatchRule>)> {
        let named = interface.and_then(|interface| self.by_interface.get(interface));
        named
            .into_iter()
            .flat_map(move |bucket| bucket.candidates(first))
            .chain(self.any_interface.candidates(first))
    }

    /// Collects into `found` who has a rule that matches, each once, in the order of their places.
    ///
    /// `names` resolves the two keys that need a bus: whether a rule's sender (or destination) is the
    /// message's.
    pub fn matching(
        &self,
        header: &Header<'_>,
        body: &[u8],
        unicast: bool,
        mut names: impl FnMut(&MatchRule) -> bool,
        found: &mut Vec<SessionId>,
    ) {
        let args = Args::new(header, body);
        let first = match args.arg(0) {
            Some(Arg::Str(text)) => Some(text),
            _ => None,
        };
        for (session, rule) in self.candidates(header.interface, first) {
            if unicast && rule.eavesdrop != Some(true) {
                continue;
            }
            if rule.matches(header, &args) && names(rule) {
                found.push(*session);
            }
        }
        found.sort_unstable();
        found.dedup();
    }
}
