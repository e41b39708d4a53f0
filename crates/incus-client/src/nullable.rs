//! Lists and maps of Go, of which an empty one is written as `null`.

use serde::{Deserialize, Deserializer};

/// For `deserialize_with`: `null` is the default value.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
