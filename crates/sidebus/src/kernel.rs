//! What the kernel and tokio do only for a promise: the one file of this crate with `unsafe` in it.
//!
//! What it guarantees: between fork and exec a child makes two system calls, takes no lock and allocates nothing; a
//! descriptor that tokio watches stays open, and the same, for as long as it is watched; the system call that asks for a
//! lease gets an open descriptor and a number, and touches no memory.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Has the kernel send SIGTERM to the program when the *thread* that starts it ends: start it from one that lives as
/// long as the program is to.
pub(crate) fn ends_with_us(command: &mut tokio::process::Command) {
    let parent: Pid = getpid();
    let between_fork_and_exec = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // We may have gone before the kernel was asked to tell.
        if getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: the closure calls prctl and getppid, both of which may be called after a fork of a program with
    // threads; it neither allocates nor locks (an error made from an errno is a number), and does not panic.
    unsafe {
        command.pre_exec(between_fork_and_exec);
    }
}

/// A non-blocking descriptor, or one that is only used by calls that do not block. Nobody gets the [`OwnedFd`] back, or
/// a mutable reference to it.
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

/// Whether nobody has `file` open for writing any more, or mapped so: in no process, and not under way in a socket.
/// `file` itself is open for reading only. Where the kernel has no leases for such files the answer is yes.
pub(crate) fn is_released(file: impl AsFd) -> bool {
    let fd = file.as_fd();
    // SAFETY: the descriptor is borrowed, so it is open during the call; F_SETLEASE takes an int and no pointer. The lease
    // that it gives, if it does, goes when the descriptor is closed; until then somebody who opens the file for writing
    // could have us sent a SIGIO, and nobody can open what has no name and no descriptor.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crossing::SealedFile;

    #[test]
    fn a_file_is_released_when_its_last_descriptor_is_closed_wherever_that_is() {
        let mut file = SealedFile::new("x").unwrap();
        file.append(b"hello").unwrap();
        let (file, watch) = file.seal(0).unwrap();
        assert!(!is_released(&watch));
        let copy = file.try_clone().unwrap();
        drop(file);
        assert!(!is_released(&watch), "a copy is open");
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [copy.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [std::io::IoSlice::new(b"x")];
        let flags = rustix::net::SendFlags::empty();
        rustix::net::sendmsg(&here, &bytes, &mut control, flags).unwrap();
        drop(copy);
        assert!(!is_released(&watch), "it is under way in a socket");
        drop((here, there));
        assert!(is_released(&watch));
    }
}
