//! A per-container firewall that asks.
//!
//! A container reaches only what somebody allowed. When it tries something else, the connection is refused
//! at once, and a question goes out over D-Bus; the answer takes effect with the very next connection.
//!
//! The types that matter: [`bridge::Bridge`] is one container on D-Bus, and what a program uses.
//! [`session::Session`] is what a bridge stands on: blocked connections come out, verdicts go in.
//! [`namespace::Namespace`] is where the container's network is, [`container`] finds it, and
//! [`state::StateDir`] keeps what was decided. [`ruleset`] is what stands between container and network.
//!
//! Layers, from the kernel upwards: `netlink`, `nflog` and `nftables`, `system` (all `unsafe` is there);
//! then [`session`]; then [`bridge`] and the commands of `shield-bridge` ([`cli`]).

pub mod audit;
pub mod bridge;
pub mod cli;
pub mod container;
pub mod dns;
pub mod error;
pub mod names;
pub mod namespace;
mod netlink;
mod nflog;
mod nftables;
pub mod notify;
pub mod packet;
pub mod pending;
pub mod profile;
pub mod resolver;
pub mod ruleset;
pub mod session;
pub mod state;
mod system;
pub mod text;
pub mod up;

pub use bridge::{Bridge, bus_name_for_container};
pub use error::{Error, Result};
