//! What carries frames between agent and broker: AF_VSOCK, hybrid vsock over unix sockets, or plain unix sockets.
//!
//! Hybrid vsock (cloud-hypervisor, Firecracker, vhost-device-vsock): the guest sees AF_VSOCK; on the host a connection
//! of the guest to port P arrives at the unix socket `PATH_P`. Because the agent always connects and the broker never
//! does, the other half of it (`CONNECT P`) is not needed.

mod endpoint;
mod link;
mod listener;
mod socket;

pub use endpoint::Endpoint;
pub use link::{FrameReader, FrameWriter, LinkError, link};
pub use listener::{Listener, Place};
pub use socket::Socket;

/// The agent writes at most so many bytes at once: a vsock device over vhost-user stands still for ever after a packet
/// of the guest with more than 32 KiB.
pub const AGENT_WRITE: usize = 16 * 1024;
/// The broker's writes: as much as it has, because floods of small packets to a guest may reset a connection.
pub const BROKER_WRITE: usize = 256 * 1024;
