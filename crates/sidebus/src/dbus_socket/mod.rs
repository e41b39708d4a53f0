//! A unix socket on which D-Bus messages travel with their file descriptors.
//!
//! A message is passed on in pieces: its header and all of its descriptors are there before anything is done with it,
//! its body need not be. So a large message costs no memory of its size.

mod authentication;
mod reading;
mod writing;

pub use authentication::{authenticate_client, authenticate_to_bus};
pub use reading::{Incoming, MessageReader};
pub use writing::MessageWriter;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dbus_wire::sasl::SaslError;
use dbus_wire::{FrameError, HeaderError};
use thiserror::Error;
use tokio::io::Interest;

use crate::kernel::WatchedFd;

/// The most descriptors that the kernel lets one message on a socket carry (SCM_MAX_FD).
const MAX_FDS: usize = 253;

/// Why a D-Bus connection is over.
#[derive(Debug, Error)]
pub enum DbusError {
    /// The socket.
    #[error("the D-Bus connection is broken: {0}")]
    Io(#[from] io::Error),
    /// What came cannot be a message.
    #[error("what came is no D-Bus message: {0}")]
    Frame(#[from] FrameError),
    /// A header is not valid.
    #[error("the header of a D-Bus message is not valid: {0}")]
    Header(#[from] HeaderError),
    /// A header is longer than we collect.
    #[error("the header of a D-Bus message takes {0} bytes; 64 KiB are the limit")]
    HeaderTooLong(usize),
    /// Descriptors do not come with the messages that announce them.
    #[error("a message announces other file descriptors than came with it")]
    Fds,
    /// Closed in the middle.
    #[error("the D-Bus connection was closed in the middle of a message")]
    Cut,
    /// Authentication.
    #[error("authentication: {0}")]
    Sasl(#[from] SaslError),
}

/// Both directions of a connection, which becomes non-blocking.
///
/// # Errors
/// The system refuses. There is no runtime (tokio).
pub fn split(socket: OwnedFd) -> io::Result<(MessageReader, MessageWriter)> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    let socket = Arc::new(WatchedFd::new(
        socket,
        Interest::READABLE | Interest::WRITABLE,
    )?);
    Ok((
        MessageReader::new(socket.clone()),
        MessageWriter::new(socket),
    ))
}
