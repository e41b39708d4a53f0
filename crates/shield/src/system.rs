//! What Rust cannot check: entering a container's namespaces, and waiting on descriptors. All of this
//! crate's `unsafe` is here.
//!
//! A process must be single-threaded to enter a user namespace, and a program that serves D-Bus is not.
//! So a child is forked, enters, opens the sockets that are wanted, passes them back and ends. Between
//! `fork` and its end the child calls nothing but system calls that are safe after a fork
//! (signal-safety(7)): it allocates nothing and takes no lock; all it needs was made before.
//!
//! A socket belongs to the network namespace in which it was opened, wherever it is used afterwards.

#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `ioctl(2)` requests of namespace files, ioctl_ns(2).
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// A socket to be opened inside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// Netfilter's netlink.
    Netfilter,
    /// UDP, bound.
    Udp(SocketAddr),
    /// TCP, listening.
    Tcp(SocketAddr),
}

/// The user namespace that owns a network namespace.
pub(crate) fn owner(network: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument, and returns a new file descriptor that is ours.
    unsafe {
        let fd = libc::ioctl(network.as_raw_fd(), NS_GET_USERNS as _);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The user who owns a user namespace.
pub(crate) fn owner_uid(user: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t to the place it is given, which outlives the call.
    let result = unsafe { libc::ioctl(user.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut uid) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(uid)
}

/// Moves the calling thread into the network namespace: at once if that is permitted, otherwise by way of
/// the user namespace that owns it. Makes system calls only.
fn enter(network: RawFd, user: Option<RawFd>) -> Result<(), i32> {
    // SAFETY: setns takes two integers and touches no memory of ours.
    unsafe {
        if libc::setns(network, libc::CLONE_NEWNET) == 0 {
            return Ok(());
        }
        let direct = errno();
        if direct != libc::EPERM {
            return Err(direct);
        }
        let Some(user) = user else {
            return Err(direct);
        };
        if libc::setns(user, libc::CLONE_NEWUSER) != 0
            || libc::setns(network, libc::CLONE_NEWNET) != 0
        {
            return Err(errno());
        }
    }
    Ok(())
}

/// Lets the command's process enter before it executes its program.
pub(crate) fn before_exec(
    command: &mut std::process::Command,
    network: BorrowedFd<'_>,
    user: Option<BorrowedFd<'_>>,
) {
    let network = network.as_raw_fd();
    let user = user.map(|fd| fd.as_raw_fd());
    // SAFETY: the closure makes system calls only, on descriptors that the caller keeps open until the
    // process was started.
    unsafe {
        command.pre_exec(move || enter(network, user).map_err(io::Error::from_raw_os_error));
    }
}

/// A source whose descriptor is one and the same from its making to its end.
pub(crate) trait OneDescriptor: AsFd + AsRawFd {}

impl OneDescriptor for OwnedFd {}
impl OneDescriptor for crate::nflog::Log {}

/// Lets the runtime wait until there is something to read.
pub(crate) fn watch<T: OneDescriptor>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor is open, owned by `source`, and always the same, as the trait promises.
    unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }.map_err(Into::into)
}

/// Opens sockets inside a network namespace, each one or its error.
///
/// # Errors
/// If no child can be made, or it cannot enter (`EPERM`: see [`crate::namespace`]).
pub(crate) fn open_sockets(
    network: BorrowedFd<'_>,
    user: Option<BorrowedFd<'_>>,
    wanted: &[Wanted],
) -> io::Result<Vec<io::Result<OwnedFd>>> {
    let prepared: Vec<Prepared> = wanted.iter().map(Prepared::from).collect();
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let network = network.as_raw_fd();
    let user = user.map(|fd| fd.as_raw_fd());
    // SAFETY: after the fork the child runs `child`, which makes system calls only and does not return.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        child(theirs.as_raw_fd(), network, user, &prepared);
    }
    drop(theirs);
    let result = (|| {
        // First whether it could enter, then each socket.
        receive(&ours)?.map(drop)?;
        wanted.iter().map(|_| receive_socket(&ours)).collect()
    })();
    let mut status = 0;
    loop {
        // SAFETY: `pid` is our child, waited for once; `status` outlives the call.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if waited >= 0 || errno() != libc::EINTR {
            break;
        }
    }
    result
}

/// A message of the child: an error number, and a descriptor if it is 0.
fn receive(from: &OwnedFd) -> io::Result<io::Result<Option<OwnedFd>>> {
    let mut number = [0u8; 4];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut iov = [io::IoSliceMut::new(&mut number)];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            from,
            &mut iov,
            &mut ancillary,
            rustix::net::RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes != 4 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the process that entered the namespace ended early",
        ));
    }
    let mut fd = None;
    for message in ancillary.drain() {
        if let rustix::net::RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    Ok(match i32::from_ne_bytes(number) {
        0 => Ok(fd),
        e => Err(io::Error::from_raw_os_error(e)),
    })
}

fn receive_socket(from: &OwnedFd) -> io::Result<io::Result<OwnedFd>> {
    Ok(receive(from)?.and_then(|fd| {
        fd.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no socket was passed"))
    }))
}

/// All that the child needs for one socket.
struct Prepared {
    family: i32,
    kind: i32,
    protocol: i32,
    listens: bool,
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl From<&Wanted> for Prepared {
    fn from(wanted: &Wanted) -> Self {
        // SAFETY: all zeros is a valid sockaddr_storage.
        let mut address: libc::sockaddr_storage = unsafe { zeroed() };
        let mut length = 0;
        let (family, kind, protocol) = match wanted {
            Wanted::Netfilter => (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
            Wanted::Udp(to) | Wanted::Tcp(to) => {
                let kind = if matches!(wanted, Wanted::Udp(_)) {
                    libc::SOCK_DGRAM
                } else {
                    libc::SOCK_STREAM
                };
                let family = match to {
                    SocketAddr::V4(v4) => {
                        let at = (&raw mut address).cast::<libc::sockaddr_in>();
                        // SAFETY: sockaddr_storage is large and aligned enough for every address.
                        unsafe {
                            (*at).sin_family = libc::AF_INET as _;
                            (*at).sin_port = v4.port().to_be();
                            (*at).sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                        }
                        length = size_of::<libc::sockaddr_in>() as _;
                        libc::AF_INET
                    }
                    SocketAddr::V6(v6) => {
                        let at = (&raw mut address).cast::<libc::sockaddr_in6>();
                        // SAFETY: as above.
                        unsafe {
                            (*at).sin6_family = libc::AF_INET6 as _;
                            (*at).sin6_port = v6.port().to_be();
                            (*at).sin6_addr.s6_addr = v6.ip().octets();
                        }
                        length = size_of::<libc::sockaddr_in6>() as _;
                        libc::AF_INET6
                    }
                };
                (family, kind, 0)
            }
        };
        Self {
            family,
            kind: kind | libc::SOCK_CLOEXEC,
            protocol,
            listens: matches!(wanted, Wanted::Tcp(_)),
            address,
            length,
        }
    }
}

impl Prepared {
    /// Opens, binds and listens. Makes system calls only.
    fn open(&self) -> Result<RawFd, i32> {
        // SAFETY: plain system calls on values that live in `self`; the descriptor is closed on failure.
        unsafe {
            let fd = libc::socket(self.family, self.kind, self.protocol);
            if fd < 0 {
                return Err(errno());
            }
            let one: libc::c_int = 1;
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            let done = self.length == 0
                || ((!self.listens
                    || libc::setsockopt(
                        fd,
                        libc::SOL_SOCKET,
                        libc::SO_REUSEADDR,
                        (&raw const one).cast(),
                        size,
                    ) == 0)
                    && (self.family != libc::AF_INET6
                        || libc::setsockopt(
                            fd,
                            libc::IPPROTO_IPV6,
                            libc::IPV6_V6ONLY,
                            (&raw const one).cast(),
                            size,
                        ) == 0)
                    && libc::bind(fd, (&raw const self.address).cast(), self.length) == 0
                    && (!self.listens || libc::listen(fd, 64) == 0));
            if done {
                return Ok(fd);
            }
            let error = errno();
            libc::close(fd);
            Err(error)
        }
    }
}

/// What the child does. Makes system calls only, and ends the process.
fn child(to: RawFd, network: RawFd, user: Option<RawFd>, prepared: &[Prepared]) -> ! {
    keep_only([to, network, user.unwrap_or(to)]);
    match enter(network, user) {
        Err(error) => send(to, error, None),
        Ok(()) => {
            send(to, 0, None);
            for one in prepared {
                match one.open() {
                    Ok(fd) => send(to, 0, Some(fd)),
                    Err(error) => send(to, error, None),
                }
            }
        }
    }
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Closes every descriptor but three, so that nothing of the parent's stays open because of us: the ports it
/// listens on, the log it reads. Makes system calls only. An old kernel refuses; then they stay open for as
/// long as the child lives, which is a millisecond.
fn keep_only(mut kept: [RawFd; 3]) {
    kept.sort_unstable();
    let mut from = 0u32;
    for fd in kept {
        let fd = fd.unsigned_abs();
        if from < fd {
            // SAFETY: closes descriptors of this process, none of which is used afterwards.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0u32) };
        }
        from = fd + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, 0u32) };
}

/// Sends an error number, and a descriptor if there is one. Makes system calls only.
fn send(to: RawFd, error: i32, fd: Option<RawFd>) {
    let bytes = error.to_ne_bytes();
    // SAFETY: every pointer in the message leads to a local that outlives the call; the control buffer is
    // aligned for a cmsghdr and large enough for one descriptor.
    unsafe {
        let mut iov = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut control = [0u64; 8];
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        if let Some(fd) = fd {
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        }
        libc::sendmsg(to, &raw const message, libc::MSG_NOSIGNAL);
    }
}

/// The calling thread's error number; does not allocate.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
