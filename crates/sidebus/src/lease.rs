//! Whether a file is still open for writing anywhere, asked by a lease. It is here because rustix has no call for that.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

/// Whether nobody has `file` open for writing any more, or mapped so: in no process, and not under way in a socket.
/// `file` itself is open for reading only. Where the kernel has no leases for such files the answer is yes.
///
/// What this file guarantees: the system call gets an open descriptor and a number, and touches no memory.
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
