//! Who owns what on a bus behind the router, as its control link tells. No I/O.

use std::collections::VecDeque;

use dbus_wire::names::UniqueName;

use crate::hash::{HashMap, HashSet};

/// Names that a connection held which are remembered.
const FORMER: usize = 64;
/// Connections that are gone and of which it is remembered what they held, for those who hear of it late.
const GONE: usize = 4_096;

/// The state of one bus.
#[derive(Default, Debug)]
pub(crate) struct BusView {
    /// What connections hold or have held: whoever saw one come has to see it go.
    former: HashMap<UniqueName, Vec<Box<str>>>,
    gone: VecDeque<UniqueName>,
    owners: HashMap<Box<str>, UniqueName>,
    names_of: HashMap<UniqueName, Vec<Box<str>>>,
    activatable: HashSet<Box<str>>,
}

impl BusView {
    /// The owner of a well-known name.
    pub fn owner(&self, name: &str) -> Option<UniqueName> {
        self.owners.get(name).copied()
    }

    /// The well-known names that a connection holds.
    pub fn names_of(&self, owner: UniqueName) -> impl Iterator<Item = &str> {
        self.names_of
            .get(&owner)
            .into_iter()
            .flatten()
            .map(|name| &**name)
    }

    /// The well-known names that a connection holds or has held.
    pub fn former_names_of(&self, owner: UniqueName) -> impl Iterator<Item = &str> {
        self.former
            .get(&owner)
            .into_iter()
            .flatten()
            .map(|name| &**name)
    }

    /// A connection has ended.
    pub fn connection_gone(&mut self, owner: UniqueName) {
        if !self.former.contains_key(&owner) {
            return;
        }
        self.gone.push_back(owner);
        if self.gone.len() > GONE
            && let Some(oldest) = self.gone.pop_front()
        {
            self.former.remove(&oldest);
        }
    }

    /// All well-known names that are owned.
    pub fn names(&self) -> impl Iterator<Item = (&str, UniqueName)> {
        self.owners.iter().map(|(name, owner)| (&**name, *owner))
    }

    /// Whether the bus can start `name`.
    pub fn can_start(&self, name: &str) -> bool {
        self.activatable.contains(name)
    }

    /// The names that the bus can start are these.
    pub fn set_activatable<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        self.activatable = names.map(Box::from).collect();
    }

    /// `name` has this owner now.
    pub fn set_owner(&mut self, name: &str, owner: Option<UniqueName>) {
        let before = match owner {
            Some(owner) => self.owners.insert(name.into(), owner),
            None => self.owners.remove(name),
        };
        if before == owner {
            return;
        }
        if let Some(before) = before
            && let Some(names) = self.names_of.get_mut(&before)
        {
            names.retain(|it| **it != *name);
            if names.is_empty() {
                self.names_of.remove(&before);
            }
        }
        if let Some(owner) = owner {
            self.names_of.entry(owner).or_default().push(name.into());
            let former = self.former.entry(owner).or_default();
            if former.len() < FORMER && !former.iter().any(|it| **it == *name) {
                former.push(name.into());
            }
        }
    }

    /// The bus was lost: nothing is known. Returns what was owned.
    pub fn clear(&mut self) -> Vec<(Box<str>, UniqueName)> {
        self.names_of.clear();
        self.former.clear();
        self.gone.clear();
        self.activatable.clear();
        let mut owned: Vec<_> = self.owners.drain().collect();
        owned.sort_unstable();
        owned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_holds_what_it_owns_and_nothing_else() {
        let (first, second) = (
            UniqueName { major: 1, minor: 1 },
            UniqueName { major: 1, minor: 2 },
        );
        let mut view = BusView::default();
        view.set_owner("a.b", Some(first));
        view.set_owner("a.c", Some(first));
        view.set_owner("a.b", Some(second));
        assert_eq!(view.names_of(first).collect::<Vec<_>>(), ["a.c"]);
        assert_eq!(view.owner("a.b"), Some(second));
        view.set_owner("a.b", None);
        assert_eq!(view.names_of(second).count(), 0);
        assert!(view.names_of.len() == 1);
        assert_eq!(view.clear().len(), 1);
    }
}
