//! Which names lead to which addresses, and what was decided about names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::dns::Name;

/// How many addresses keep their name; the one learned first gives way.
const CAPACITY: usize = 8192;

/// What was decided about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Its addresses are let through; until then, if the decision was for a time.
    Allowed(Option<Instant>),
    /// It is not resolved.
    Denied,
    /// Nothing: it is resolved, and its addresses are asked about.
    Open,
}

/// The names of one container.
#[derive(Debug, Default)]
pub struct Names {
    names: HashMap<IpAddr, Name>,
    order: VecDeque<IpAddr>,
    allowed: HashMap<String, Option<Instant>>,
    denied: HashMap<String, Option<Instant>>,
}

impl Names {
    /// Begins with these decisions.
    pub fn new(allowed: HashSet<Name>, denied: HashSet<Name>) -> Self {
        let forever = |names: HashSet<Name>| {
            names
                .into_iter()
                .map(|n| (n.as_str().to_owned(), None))
                .collect()
        };
        Self {
            allowed: forever(allowed),
            denied: forever(denied),
            ..Self::default()
        }
    }

    /// Takes the decisions that are for good from the lists again; those for a time go on.
    pub fn reload(&mut self, allowed: HashSet<Name>, denied: HashSet<Name>) {
        for (ours, new) in [(&mut self.allowed, allowed), (&mut self.denied, denied)] {
            ours.retain(|_, until| until.is_some());
            for name in new {
                ours.insert(name.as_str().to_owned(), None);
            }
        }
    }

    /// The decision that covers a name: one about it or about a name above it; deny before allow.
    pub fn decision(&self, name: &Name, now: Instant) -> Decision {
        let holds = |until: &&Option<Instant>| until.is_none_or(|t| now < t);
        if name
            .and_parents()
            .any(|n| self.denied.get(n).filter(holds).is_some())
        {
            return Decision::Denied;
        }
        // Of several, the one that lasts longest: for good before for a time.
        let mut found: Option<Option<Instant>> = None;
        for until in name
            .and_parents()
            .filter_map(|n| self.allowed.get(n).filter(holds))
        {
            found = Some(match (found, *until) {
                (Some(Some(a)), Some(b)) => Some(a.max(b)),
                (None, until) => until,
                _ => None,
            });
        }
        found.map_or(Decision::Open, Decision::Allowed)
    }

    /// Decides about a name, for a time or for good.
    pub fn decide(&mut self, name: &Name, allow: bool, until: Option<Instant>) {
        let (put, take) = if allow {
            (&mut self.allowed, &mut self.denied)
        } else {
            (&mut self.denied, &mut self.allowed)
        };
        take.remove(name.as_str());
        put.insert(name.as_str().to_owned(), until);
    }

    /// A name was resolved to an address. Of several names for one address the last one is remembered.
    pub fn learn(&mut self, name: &Name, address: IpAddr) {
        if self.names.insert(address, name.clone()).is_none() {
            self.order.push_back(address);
            if self.order.len() > CAPACITY
                && let Some(oldest) = self.order.pop_front()
            {
                self.names.remove(&oldest);
            }
        }
    }

    /// The name that an address was looked up by.
    pub fn name_of(&self, address: IpAddr) -> Option<&Name> {
        self.names.get(&address)
    }

    /// The known addresses of a name and of those below it.
    pub fn addresses_of(&self, name: &Name) -> Vec<IpAddr> {
        self.names
            .iter()
            .filter(|(_, n)| name.covers(n))
            .map(|(a, _)| *a)
            .collect()
    }
}

/// Addresses that a name may never open: who controls a name controls where it leads, and could lead it
/// into the private network.
pub fn may_be_opened_by_name(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let o = a.octets();
            !(a.is_private()
                || a.is_loopback()
                || a.is_link_local()
                || a.is_multicast()
                || a.is_broadcast()
                || o[0] == 0
                || (o[0] == 100 && o[1] & 0xc0 == 64))
        }
        IpAddr::V6(a) => {
            !(a.is_loopback()
                || a.is_unspecified()
                || a.is_multicast()
                || a.is_unique_local()
                || a.is_unicast_link_local()
                || a.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn n(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn deny_comes_before_allow_whichever_is_the_closer_one() {
        let names = Names::new(
            HashSet::from([n("example.org"), n("a.bad.example")]),
            HashSet::from([n("x.example.org"), n("bad.example")]),
        );
        let now = Instant::now();
        assert_eq!(
            names.decision(&n("www.example.org"), now),
            Decision::Allowed(None)
        );
        assert_eq!(names.decision(&n("x.example.org"), now), Decision::Denied);
        assert_eq!(names.decision(&n("a.bad.example"), now), Decision::Denied);
        assert_eq!(names.decision(&n("other.example"), now), Decision::Open);
    }

    #[test]
    fn a_decision_for_a_time_ends() {
        let mut names = Names::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        names.decide(&n("a.b"), true, Some(later));
        assert_eq!(
            names.decision(&n("a.b"), now),
            Decision::Allowed(Some(later))
        );
        assert_eq!(names.decision(&n("a.b"), later), Decision::Open);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten() {
        let mut names = Names::default();
        for i in 0..CAPACITY as u32 + 10 {
            names.learn(&n("a.b"), std::net::Ipv4Addr::from(i).into());
        }
        assert_eq!(names.names.len(), CAPACITY);
        assert_eq!(names.order.len(), CAPACITY);
        assert!(names.name_of(std::net::Ipv4Addr::from(3).into()).is_none());
    }

    #[test]
    fn a_name_cannot_open_the_private_network() {
        for bad in [
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!may_be_opened_by_name(bad.parse().unwrap()), "{bad}");
        }
        assert!(may_be_opened_by_name("203.0.113.1".parse().unwrap()));
    }
}
