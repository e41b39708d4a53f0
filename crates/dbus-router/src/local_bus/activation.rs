//! Services that are described in files and started when somebody needs them.
//!
//! Specification, "Message Bus Starting Services (Activation)". The files are read by the engine; this is
//! what they say, and who waits.

use std::collections::{BTreeMap, HashMap, HashSet};

use dbus_wire::names::WellKnownName;

use crate::outbox::Fds;
use crate::port::SessionId;

/// One attempt to start a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ActivationId(pub(crate) u64);

/// What a `.service` file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// `Name`: the well-known name that the program takes.
    pub name: WellKnownName,
    /// `Exec`: the program and its arguments.
    pub command: Vec<String>,
}

/// Everything that is installed inside.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ServiceSet {
    /// D-Bus services by name.
    pub services: BTreeMap<WellKnownName, Service>,
    /// Names of applications: their desktop files without `.desktop`. Such a name, and names made from it
    /// (`NAME-PID`, `NAME.instance…`), belong inside whoever else owns them.
    pub applications: HashSet<Box<str>>,
}

impl ServiceSet {
    /// Whether `name` is that of an application installed inside, or is derived from one.
    pub fn is_application(&self, name: &str) -> bool {
        if self.applications.is_empty() {
            return false;
        }
        if self.applications.contains(name) {
            return true;
        }
        // A derived name goes on with `-PID` or `.instance…`; an application `org.kde.kate` does not own
        // `org.kde.katepart`.
        name.char_indices()
            .rev()
            .filter(|&(_, c)| c == '-' || c == '.')
            .any(|(at, c)| derived(&name[at + 1..], c) && self.applications.contains(&name[..at]))
    }
}

/// Whether what follows the application's name makes an instance of it.
fn derived(rest: &str, separator: char) -> bool {
    match separator {
        '-' => true,
        _ => rest.starts_with("instance") || rest.starts_with("_instance"),
    }
}

/// A program to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// The name that it is expected to take.
    pub name: WellKnownName,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What UpdateActivationEnvironment has set.
    pub environment: Vec<(String, String)>,
}

/// What waits for a service.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A message to it. `bytes` is whole, with the sender in it.
    Message {
        from: SessionId,
        bytes: Vec<u8>,
        fds: Fds,
    },
    /// A call of StartServiceByName with this serial.
    Start { from: SessionId, serial: u32 },
    /// The same, without a wish for an answer.
    Quiet { from: SessionId },
}

impl Waiting {
    pub fn from(&self) -> SessionId {
        match self {
            Waiting::Message { from, .. }
            | Waiting::Start { from, .. }
            | Waiting::Quiet { from } => *from,
        }
    }
}

/// A service that was started and has not taken its name.
#[derive(Debug)]
pub(crate) struct Pending {
    pub id: ActivationId,
    pub waiting: Vec<Waiting>,
}

/// The services, and those that are being started.
#[derive(Default, Debug)]
pub(crate) struct Activation {
    pub set: ServiceSet,
    pub environment: BTreeMap<String, String>,
    pending: HashMap<WellKnownName, Pending>,
    next: u64,
}

impl Activation {
    /// Adds to those who wait for `name`. Where nothing was under way, returns the program to start.
    pub fn wait(&mut self, name: &str, waiting: Waiting) -> Option<(ActivationId, Launch)> {
        if let Some(pending) = self.pending.get_mut(name) {
            pending.waiting.push(waiting);
            return None;
        }
        let service = self.set.services.get(name)?;
        let id = ActivationId(self.next);
        self.next += 1;
        self.pending.insert(
            service.name.clone(),
            Pending {
                id,
                waiting: vec![waiting],
            },
        );
        let environment = self
            .environment
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let launch = Launch {
            name: service.name.clone(),
            command: service.command.clone(),
            environment,
        };
        Some((id, launch))
    }

    fn of(&self, session: SessionId) -> impl Iterator<Item = &Waiting> {
        let all = self.pending.values().flat_map(|pending| &pending.waiting);
        all.filter(move |it| it.from() == session)
    }

    /// How many things of `session` wait.
    pub fn waits_of(&self, session: SessionId) -> usize {
        self.of(session).count()
    }

    /// Bytes of `session` that wait.
    pub fn bytes_of(&self, session: SessionId) -> usize {
        let bytes = |it: &Waiting| match it {
            Waiting::Message { bytes, .. } => bytes.len(),
            Waiting::Start { .. } | Waiting::Quiet { .. } => 0,
        };
        self.of(session).map(bytes).sum()
    }

    /// Whether `name` is being started, or can be.
    pub fn can_start(&self, name: &str) -> bool {
        self.set.services.contains_key(name) || self.pending.contains_key(name)
    }

    /// `name` has an owner, or cannot get one: who waited.
    pub fn take(&mut self, name: &str) -> Option<Pending> {
        self.pending.remove(name)
    }

    /// The same, by the attempt.
    pub fn take_by_id(&mut self, id: ActivationId) -> Option<(WellKnownName, Pending)> {
        let name = self.pending.iter().find(|(_, it)| it.id == id)?.0.clone();
        let pending = self.pending.remove(&*name)?;
        Some((name, pending))
    }

    /// Whether nothing is being started.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Nothing of `session` waits any more: what did, in the order in which it came for each name.
    pub fn give_up(&mut self, session: SessionId) -> Vec<Waiting> {
        let mut names: Vec<&WellKnownName> = self.pending.keys().collect();
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let names: Vec<WellKnownName> = names.into_iter().cloned().collect();
        let mut all = Vec::new();
        for name in names {
            if let Some(pending) = self.pending.get_mut(&*name) {
                all.extend(
                    pending
                        .waiting
                        .extract_if(.., |waiting| waiting.from() == session),
                );
            }
        }
        all
    }

    /// `session` has gone: nothing of it waits any more.
    pub fn forget(&mut self, session: SessionId) {
        for pending in self.pending.values_mut() {
            pending.waiting.retain(|it| it.from() != session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_made_from_an_applications_name_belong_to_it() {
        let set = ServiceSet {
            applications: ["org.kde.dolphin".into(), "org.gnome.Maps".into()].into(),
            ..ServiceSet::default()
        };
        for inside in [
            "org.kde.dolphin",
            "org.kde.dolphin-4711",
            "org.gnome.Maps.instance12_3",
            "org.kde.dolphin-1.instance2",
        ] {
            assert!(set.is_application(inside), "{inside}");
        }
        for outside in [
            "org.kde.dolphinpart",
            "org.kde",
            "org.gnome.Maps.SearchProvider",
            "org.kde.kate-1",
        ] {
            assert!(!set.is_application(outside), "{outside}");
        }
    }
}
