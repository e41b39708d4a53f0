//! Messages that go.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{DbusError, MAX_FDS};
use crate::kernel::WatchedFd;

/// Bytes are collected up to this, and then written.
const COALESCE: usize = 64 * 1024;
/// The kernel counts descriptors under way for each user (ETOOMANYREFS): that may be another program's doing, and over
/// in a moment.
const TOO_MANY: Duration = Duration::from_secs(1);
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Collects messages and writes them.
#[derive(Debug)]
pub struct MessageWriter {
    socket: Arc<WatchedFd>,
    buffer: Vec<u8>,
    /// How much of it has been written.
    sent: usize,
}

impl MessageWriter {
    pub(super) fn new(socket: Arc<WatchedFd>) -> MessageWriter {
        MessageWriter {
            socket,
            buffer: Vec::new(),
            sent: 0,
        }
    }

    /// Puts bytes behind those that wait; writes if that is much.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), DbusError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() - self.sent >= COALESCE {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes what waits, and then the beginning of a message together with its descriptors.
    pub async fn send_with_fds(&mut self, bytes: &[u8], fds: &[OwnedFd]) -> Result<(), DbusError> {
        self.flush().await?;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let since = Instant::now();
        let written = loop {
            let mut ready = self.socket.writable().await?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(DbusError::Fds);
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&*self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(written) => break written,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::TOOMANYREFS) if since.elapsed() < TOO_MANY => {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        };
        self.push(&bytes[written..]).await
    }

    /// Writes all that waits.
    pub async fn flush(&mut self) -> Result<(), DbusError> {
        while self.sent < self.buffer.len() {
            let mut ready = self.socket.writable().await?;
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&*self.socket, &self.buffer[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        self.sent = 0;
        self.buffer.clear();
        if self.buffer.capacity() > 2 * COALESCE {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}
