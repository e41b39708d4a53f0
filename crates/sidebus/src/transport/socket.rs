//! A connection: any stream that has a file descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::Interest;

use crate::kernel::WatchedFd;

/// A non-blocking stream, to be read by one task and written by another.
///
/// It is never shut down in one direction only: a vsock device may take that for the end of both.
#[derive(Debug)]
pub struct Socket {
    fd: WatchedFd,
    /// The most bytes that are written at once.
    most: usize,
}

impl Socket {
    /// Of a stream socket, which becomes non-blocking. Writes at most `most` bytes at once.
    ///
    /// # Errors
    /// The system refuses. There is no runtime (tokio).
    pub fn new(fd: OwnedFd, most: usize) -> io::Result<Socket> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Socket {
            fd: WatchedFd::new(fd, Interest::READABLE | Interest::WRITABLE)?,
            most,
        })
    }

    /// Appends what there is to `buffer`, at most what it has room for without growing; 0 at the end of the stream.
    /// None: nothing is there yet.
    pub fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, rustix::buffer::spare_capacity(buffer)) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until something is there, and appends it; 0 at the end of the stream.
    pub async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            match self.try_read(buffer)? {
                Some(count) => return Ok(count),
                None => ready.clear_ready(),
            }
        }
    }

    /// Writes some of `bytes`; says how many.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let some = &bytes[..bytes.len().min(self.most)];
        loop {
            let mut ready = self.fd.writable().await?;
            match rustix::net::send(&self.fd, some, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
