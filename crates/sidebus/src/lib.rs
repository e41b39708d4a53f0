//! D-Bus and desktop portals for a virtual machine, over vsock.
//!
//! Two programs: `sidebus-broker` on the host, one for each virtual machine, and `sidebus-agent` in the guest.
//!
//! ```text
//!  guest: programs ──unix──▶ agent ══vsock══▶ broker ──▶ VM bus ◀── portal front ends ──▶ the host's portals
//! ```
//!
//! - [`wire`] is what agent and broker say to each other, without I/O.
//! - [`transport`] carries it: AF_VSOCK, or unix sockets (hybrid vsock, or plain).
//! - [`dbus_socket`] is a unix socket on which D-Bus messages travel with their descriptors.
//! - [`crossing`] says what becomes of a file descriptor that cannot cross, and passes messages between the two.
//! - [`supervisor`] keeps the machine's own daemons running: permission store, document portal, virtiofsd.
//! - [`agent`] and [`broker`] are the programs.
#![deny(unsafe_code)]

pub mod agent;
pub mod broker;
pub mod crossing;
pub mod dbus_socket;
mod kernel;
pub mod policy_file;
pub mod portals;
pub mod program;
pub mod supervisor;
pub mod transport;
pub mod wire;
