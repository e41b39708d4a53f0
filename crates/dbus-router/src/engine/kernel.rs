//! What the kernel knows of the process at the other end of a socket, and a descriptor that was inherited by its number.
//!
//! The one file of this crate with `unsafe` in it: socket options that rustix has no safe call for, or one that does not
//! take a process of another namespace into account. Each call passes a buffer of its own and the buffer's true length; the kernel writes at most that much and
//! says how much it wrote, and only that is read. A descriptor that the kernel hands out is owned by nobody else.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// SO_PEERPIDFD: in Linux since 6.5, and not in every libc's headers.
const SO_PEERPIDFD: libc::c_int = 77;

/// Reads a socket option into `buffer`; returns how many bytes it has (more than the buffer: ERANGE).
fn option(socket: BorrowedFd<'_>, name: libc::c_int, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `buffer` is valid for writes of `length` bytes, and `length` for one socklen_t; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(length as usize)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor of our own for what the inherited descriptor `fd` is; an error if there is none of that number.
#[cfg(feature = "tool")]
pub(crate) fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC reads no memory, and takes any number: one that is not open is EBADF.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Closes the inherited descriptor `fd`, of which [`inherited`] gave one of our own: who waits at its other end is
/// to see it closed when ours is.
#[cfg(feature = "tool")]
pub(crate) fn close_inherited(fd: i32) {
    if fd > 2 {
        // SAFETY: called before anything else was opened, with a number from the command line: nobody here owns it.
        unsafe { libc::close(fd) };
    }
}

/// SO_PEERCRED: process, user and group. A process that is of no namespace of ours has the pid 0.
pub(super) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<(u32, u32, u32)> {
    let mut buffer = [0u8; size_of::<libc::ucred>()];
    option(socket, libc::SO_PEERCRED, &mut buffer)?;
    let (numbers, _) = buffer.as_chunks::<4>();
    let [pid, uid, gid] = [0, 1, 2].map(|at| u32::from_ne_bytes(numbers[at]));
    Ok((pid, uid, gid))
}

/// SO_PEERGROUPS: the supplementary groups.
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    // NGROUPS_MAX is 65536; who has more than this many is told of without them.
    let mut buffer = vec![0u8; 4 * 1024];
    let Ok(length) = option(socket, libc::SO_PEERGROUPS, &mut buffer) else {
        return Vec::new();
    };
    let (groups, _) = buffer[..length.min(buffer.len())].as_chunks::<4>();
    groups
        .iter()
        .map(|group| u32::from_ne_bytes(*group))
        .collect()
}

/// SO_PEERPIDFD, where the kernel has it.
pub(super) fn peer_pidfd(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut buffer = [0u8; size_of::<libc::c_int>()];
    let length = option(socket, SO_PEERPIDFD, &mut buffer).ok()?;
    let fd = libc::c_int::from_ne_bytes(buffer);
    if length != buffer.len() || fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just opened this descriptor (close-on-exec) for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// SO_PEERSEC: the label of a security module, where one is loaded; without its final NUL.
pub(super) fn peer_label(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut buffer = vec![0u8; 256];
    let length = option(socket, libc::SO_PEERSEC, &mut buffer).ok()?;
    buffer.truncate(length);
    while buffer.last() == Some(&0) {
        buffer.pop();
    }
    (!buffer.is_empty()).then_some(buffer)
}

/// Lets a program start with this soft limit of open files, instead of the one that we have raised for
/// ourselves: programs that use select, or close every descriptor there might be, suffer from a high one.
pub(super) fn set_file_limit(command: &mut Command, soft: u64) {
    let set = move || {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` is valid for the write, and for the read below; both calls are system calls and
        // nothing else.
        let result = unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
                limit.rlim_cur = soft.min(limit.rlim_max);
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
            } else {
                -1
            }
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: in the child, between fork and exec, `set` makes two system calls, allocates nothing and takes no
    // lock.
    unsafe { command.pre_exec(set) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let (pid, uid, _) = peer_credentials(one.as_fd()).unwrap();
        assert_eq!(pid, std::process::id());
        assert_eq!(uid, rustix::process::getuid().as_raw());
    }

    #[test]
    fn a_program_starts_with_the_limit_of_files_that_it_is_given() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn"]);
        set_file_limit(&mut command, 77);
        assert_eq!(command.output().unwrap().stdout, b"77\n");
    }

    #[test]
    fn our_own_groups_are_what_the_kernel_says_of_the_other_end() {
        let (one, _other) = UnixStream::pair().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .unwrap();
        let mut expected: Vec<u32> = line
            .split_whitespace()
            .map(|it| it.parse().unwrap())
            .collect();
        let mut groups = peer_groups(one.as_fd());
        expected.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, expected);
    }
}
