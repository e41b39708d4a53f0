//! Fuzz targets for what reads bytes from strangers.
//!
//! Each target is a function over bytes that panics when a promise is broken. Three things run them:
//! `cargo fuzz run TARGET` looks for new inputs; `cargo test` replays those under `corpus/TARGET/`;
//! an input that once broke something is kept there. A stable toolchain can fuzz, too:
//!
//! ```sh
//! cargo fuzz run --features libfuzzer --sanitizer none header -- -max_total_time=60
//! ```
//!
//! `cargo run -p kapsule-fuzz --example seed_corpus` writes the inputs to begin with.

mod sidebus;
mod wire;

pub use sidebus::sidebus_frames;
pub use wire::{addresses, body, frames, header, match_rule, names, sasl_client, sasl_server};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its corpus.
pub const TARGETS: &[Target] = &[
    ("frames", frames),
    ("header", header),
    ("body", body),
    ("match_rule", match_rule),
    ("sasl_server", sasl_server),
    ("sasl_client", sasl_client),
    ("addresses", addresses),
    ("names", names),
    ("sidebus_frames", sidebus_frames),
];
