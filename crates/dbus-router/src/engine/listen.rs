//! The socket that clients connect to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use dbus_wire::address::escape;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where a router listens.
#[derive(Debug)]
pub enum Listen {
    /// A new socket at this path, mode 0600.
    Path(PathBuf),
    /// A socket that listens already, as systemd passes it.
    Socket(OwnedFd),
    /// No socket: all clients come by [`Handle::connect`](crate::Handle::connect) and
    /// [`Handle::connect_with`](crate::Handle::connect_with).
    Nowhere,
}

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process serves it.
    #[error("{0} is served by another process already; end that one first, or listen elsewhere")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket; it is left alone, so remove it or listen elsewhere")]
    NotASocket(PathBuf),
    /// The directory is not there.
    #[error("cannot listen on {0}: its directory does not exist; make it first (mode 0700)")]
    NoDirectory(PathBuf),
    /// The path has no room in a socket's address.
    #[error("{0} is too long for a socket: the kernel takes 107 bytes")]
    TooLong(PathBuf),
    /// The system said no.
    #[error("cannot listen on {path}: {step}: {source}")]
    System {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that listens. The file goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    file: Option<SocketFile>,
    address: String,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held for as long as we listen: two routers cannot replace each other's stale sockets.
    _lock: File,
    identity: (u64, u64),
}

impl Listener {
    /// None for [`Listen::Nowhere`].
    pub fn new(listen: Listen) -> Result<Option<Listener>, ListenError> {
        match listen {
            Listen::Nowhere => Ok(None),
            Listen::Path(path) => Listener::at(&path).map(Some),
            Listen::Socket(socket) => {
                let _ = rustix::io::ioctl_fionbio(&socket, true);
                let address = address_of(&socket).unwrap_or_default();
                Ok(Some(Listener {
                    socket,
                    file: None,
                    address,
                }))
            }
        }
    }

    fn at(path: &Path) -> Result<Listener, ListenError> {
        let error = |step| {
            move |source: io::Error| ListenError::System {
                path: path.to_owned(),
                step,
                source,
            }
        };
        let target =
            SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong(path.to_owned()))?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|problem| match problem.kind() {
                io::ErrorKind::NotFound => ListenError::NoDirectory(path.to_owned()),
                _ => error("opening its lock file")(problem),
            })?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ListenError::InUse(path.to_owned())),
            Err(errno) => return Err(error("locking it")(errno.into())),
        }
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| error("making a socket")(errno.into()))?;
        rustix::net::bind(&socket, &target).map_err(|errno| error("binding it")(errno.into()))?;
        // Nobody can connect before listen, so nobody gets in with the mode that the umask gave.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(error("setting its mode"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(|errno| error("listening")(errno.into()))?;
        let metadata = std::fs::metadata(path).map_err(error("looking at it"))?;
        let identity = (metadata.dev(), metadata.ino());
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let address = format!(
            "unix:path={}",
            escape(absolute.as_os_str().as_encoded_bytes())
        );
        let file = SocketFile {
            path: absolute,
            lock_path,
            _lock: lock,
            identity,
        };
        Ok(Listener {
            socket,
            file: Some(file),
            address,
        })
    }

    /// The D-Bus address of the socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn accept(&self) -> Result<OwnedFd, Errno> {
        rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        // Somebody may have removed ours and put another there.
        let ours = std::fs::symlink_metadata(&file.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == file.identity);
        if ours {
            let _ = std::fs::remove_file(&file.path);
        }
        let _ = std::fs::remove_file(&file.lock_path);
    }
}

/// Takes the socket of a dead process away.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ListenError::System {
                path: path.to_owned(),
                step: "removing the socket of a dead process",
                source,
            })
        }
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

fn address_of(socket: &OwnedFd) -> Option<String> {
    let any = rustix::net::getsockname(socket).ok()?;
    let unix = SocketAddrUnix::try_from(any).ok()?;
    if let Some(path) = unix.path_bytes() {
        return Some(format!("unix:path={}", escape(path)));
    }
    unix.abstract_name()
        .map(|name| format!("unix:abstract={}", escape(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_an_error() {
        let dir = std::env::temp_dir().join(format!("listen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("bus");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::at(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(matches!(Listener::at(&path), Err(ListenError::InUse(_))));
        drop(listener);
        assert_eq!(
            std::fs::read_dir(&dir).unwrap().count(),
            0,
            "nothing is left behind"
        );
        assert!(matches!(
            Listener::at(&dir.join("none/bus")),
            Err(ListenError::NoDirectory(_))
        ));
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listener::at(&path),
            Err(ListenError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
