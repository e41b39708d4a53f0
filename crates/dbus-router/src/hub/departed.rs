//! Clients that have gone, and of which the host may still say something.
//!
//! What a client broadcasts was delivered inside when it was sent; the host brings it back on the links of the
//! others, also after its sender has left. A bus never gives a unique name twice, so a name may be kept for longer
//! than is needed.

use std::collections::{HashSet, VecDeque};

use dbus_wire::names::UniqueName;

/// How many are remembered.
const MOST: usize = 16_384;

/// The names of clients that have gone, the last ones.
#[derive(Default, Debug)]
pub(super) struct Departed {
    names: HashSet<UniqueName>,
    order: VecDeque<UniqueName>,
}

impl Departed {
    pub fn insert(&mut self, name: UniqueName) {
        if !self.names.insert(name) {
            return;
        }
        self.order.push_back(name);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    pub fn contains(&self, name: UniqueName) -> bool {
        self.names.contains(&name)
    }

    /// The host bus begins a new life, in which it gives the same names again.
    pub fn clear(&mut self) {
        *self = Departed::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let mut departed = Departed::default();
        for minor in 0..=MOST as u32 {
            departed.insert(UniqueName { major: 1, minor });
        }
        assert!(!departed.contains(UniqueName { major: 1, minor: 0 }));
        assert!(departed.contains(UniqueName { major: 1, minor: 1 }));
        assert_eq!(departed.names.len(), departed.order.len());
        departed.clear();
        assert!(!departed.contains(UniqueName { major: 1, minor: 1 }));
    }
}
