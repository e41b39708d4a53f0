//! Hash tables for the message path.
//!
//! Keys are names and serials that programs inside choose, so the hash is seeded at random for each process,
//! and cheaper than the standard one for keys of a few bytes.

use foldhash::fast::RandomState;

/// A map.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
/// A set.
pub(crate) type HashSet<K> = std::collections::HashSet<K, RandomState>;
