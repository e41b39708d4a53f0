//! What tests need and takes long to make, kept from one run to the next: `${XDG_CACHE_HOME:-~/.cache}/kapsule-tests`.

use std::path::PathBuf;

/// The directory. It may be removed at any time; what was in it is made again.
pub fn directory() -> PathBuf {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        // Somebody without a home.
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
        .join("kapsule-tests")
}
