//! A file descriptor whose readiness tokio watches. It is here because telling tokio so takes a promise.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A non-blocking descriptor, or one that is only used by calls that do not block.
///
/// What this file guarantees: the descriptor stays open, and the same, for as long as tokio watches it. Nobody gets
/// the [`OwnedFd`] back, or a mutable reference to it.
#[derive(Debug)]
pub(crate) struct WatchedFd(AsyncFd<OwnedFd>);

impl WatchedFd {
    /// Has it watched by the runtime that runs this.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<WatchedFd> {
        // SAFETY: an OwnedFd is open, and its number never changes. The AsyncFd owns it until both are dropped: this
        // type lends it only by shared reference, and has no way to take it out or replace it.
        let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
        watched.map(WatchedFd).map_err(|error| error.into_parts().1)
    }

    /// Waits until it can be read, or has ended.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }

    /// Waits until it can be written, or nobody reads it.
    pub async fn writable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.writable().await
    }

    /// Waits for any of these.
    pub async fn ready(&self, interest: Interest) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.ready(interest).await
    }
}

impl AsFd for WatchedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
