//! The questions that wait for an answer.
//!
//! Invariants:
//! - An id stands for one destination, for ever: ids only grow, also over a restart.
//! - A destination has at most one id at a time.
//! - There are at most [`CAPACITY`] questions; for a new one the oldest gives way. Its traffic stays
//!   blocked, and when it is tried again it is asked about again.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::packet::Destination;

/// How many questions may wait, for one container.
pub const CAPACITY: usize = 4096;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number, from 1.
    pub id: u64,
    /// Where the container wanted to go.
    pub dest: Destination,
    /// The name that the container had looked up, or empty. Plain ASCII.
    pub domain: String,
}

/// The questions of one container.
#[derive(Debug)]
pub struct Pending {
    next: u64,
    requests: BTreeMap<u64, (Request, Option<Instant>)>,
    ids: HashMap<Destination, u64>,
}

/// What became of a blocked destination.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A new question; the oldest may have given way to it.
    New(Request, Option<Request>),
    /// It waits already, and is to be told again.
    Again(Request),
    /// It was told a moment ago.
    Quiet,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            next: 1,
            requests: BTreeMap::new(),
            ids: HashMap::new(),
        }
    }
}

impl Pending {
    /// A destination was blocked now; `quiet` is how long after telling it is not told again.
    pub fn blocked(
        &mut self,
        dest: Destination,
        domain: &str,
        now: Instant,
        quiet: Duration,
    ) -> Asked {
        if let Some((request, told)) = self.ids.get(&dest).and_then(|id| self.requests.get_mut(id))
        {
            if told.is_some_and(|t| now.duration_since(t) < quiet) {
                return Asked::Quiet;
            }
            *told = Some(now);
            if request.domain.is_empty() {
                request.domain = domain.to_owned();
            }
            return Asked::Again(request.clone());
        }
        let oldest = (self.requests.len() >= CAPACITY)
            .then(|| self.requests.first_key_value().map(|(id, _)| *id))
            .flatten();
        let gone = oldest.and_then(|id| self.close(id));
        let request = Request {
            id: self.next,
            dest,
            domain: domain.to_owned(),
        };
        self.put(request.clone(), Some(now));
        Asked::New(request, gone)
    }

    /// Puts back a question from before a restart.
    pub fn restore(&mut self, request: Request) {
        if self.requests.len() < CAPACITY && !self.ids.contains_key(&request.dest) {
            self.put(request, None);
        }
    }

    fn put(&mut self, request: Request, told: Option<Instant>) {
        self.reserve(request.id + 1);
        self.ids.insert(request.dest, request.id);
        self.requests.insert(request.id, (request, told));
    }

    /// No new id will be below this.
    pub fn reserve(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// The id that the next question will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The question with this id.
    pub fn get(&self, id: u64) -> Option<&Request> {
        self.requests.get(&id).map(|(r, _)| r)
    }

    /// Takes a question away.
    pub fn close(&mut self, id: u64) -> Option<Request> {
        let (request, _) = self.requests.remove(&id)?;
        self.ids.remove(&request.dest);
        Some(request)
    }

    /// All questions, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Request> {
        self.requests.values().map(|(r, _)| r)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dest(n: u32) -> Destination {
        Destination {
            address: std::net::Ipv4Addr::from(0xcb00_0000 + n).into(),
            proto: 6,
            port: 443,
        }
    }

    const QUIET: Duration = Duration::from_secs(4);

    #[test]
    fn a_destination_keeps_its_id_while_it_waits_and_gets_a_new_one_afterwards() {
        let mut pending = Pending::default();
        let now = Instant::now();
        assert!(
            matches!(pending.blocked(dest(1), "", now, QUIET), Asked::New(r, None) if r.id == 1)
        );
        assert_eq!(pending.blocked(dest(1), "", now, QUIET), Asked::Quiet);
        assert!(
            matches!(pending.blocked(dest(1), "a.b", now + QUIET, QUIET), Asked::Again(r) if r.id == 1 && r.domain == "a.b")
        );
        pending.close(1).unwrap();
        assert!(
            matches!(pending.blocked(dest(1), "", now, QUIET), Asked::New(r, None) if r.id == 2)
        );
    }

    #[test]
    fn random_operations_keep_the_invariants() {
        let mut pending = Pending::default();
        let mut meaning: HashMap<u64, Destination> = HashMap::new();
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let now = Instant::now();
        for _ in 0..50_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let n = (state >> 8) as u32 % 9000;
            match state % 8 {
                0 => {
                    pending.close(u64::from(n));
                }
                1 => pending.restore(Request {
                    id: pending.next(),
                    dest: dest(n),
                    domain: String::new(),
                }),
                _ => {
                    pending.blocked(dest(n), "", now, QUIET);
                }
            }
            assert!(pending.len() <= CAPACITY);
            assert_eq!(pending.ids.len(), pending.requests.len());
        }
        for request in pending.iter() {
            let known = meaning.entry(request.id).or_insert(request.dest);
            assert_eq!(*known, request.dest);
            assert!(request.id < pending.next());
            assert_eq!(pending.ids[&request.dest], request.id);
        }
    }
}
