//! Where the broker waits for the agent.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::net::AddressFamily;
use tokio::net::UnixListener;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use super::{BROKER_WRITE, Socket};

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// AF_VSOCK: this port, for the machine with this context id, or for any.
    Vsock {
        /// The port.
        port: u32,
        /// The machine.
        cid: Option<u32>,
    },
    /// A unix socket at this path.
    Unix(PathBuf),
}

impl Place {
    /// Hybrid vsock: the socket for `port` of the machine whose vsock is at `path`.
    pub fn hybrid(path: &Path, port: u32) -> Place {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("_{port}"));
        Place::Unix(name.into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Vsock { port, cid: None } => write!(f, "vsock port {port}"),
            Place::Vsock {
                port,
                cid: Some(cid),
            } => write!(f, "vsock port {port} for context {cid}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A socket that listens. The file of a unix socket goes with it.
#[derive(Debug)]
pub enum Listener {
    /// AF_VSOCK.
    Vsock(VsockListener, Option<u32>),
    /// A unix socket, and its file if it is ours.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a socket that we made: its path, its device and inode.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another may stand there now.
        if std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Listens there. What a dead process left at a path is replaced.
    ///
    /// # Errors
    /// As the system says; `AddrInUse` if somebody serves that path.
    pub fn bind(place: &Place) -> io::Result<Listener> {
        match place {
            Place::Vsock { port, cid } => {
                let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, *port))?;
                Ok(Listener::Vsock(listener, *cid))
            }
            Place::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                let meta = std::fs::symlink_metadata(path)?;
                let file = SocketFile {
                    path: path.clone(),
                    identity: (meta.dev(), meta.ino()),
                };
                Ok(Listener::Unix(listener, Some(file)))
            }
        }
    }

    /// A socket that listens already, as systemd passes it.
    ///
    /// # Errors
    /// It is neither AF_VSOCK nor AF_UNIX, or the system refuses.
    pub fn adopt(socket: OwnedFd, cid: Option<u32>) -> io::Result<Listener> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        match rustix::net::sockopt::socket_domain(&socket)? {
            AddressFamily::VSOCK => Ok(Listener::Vsock(VsockListener::from(socket), cid)),
            AddressFamily::UNIX => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                Ok(Listener::Unix(UnixListener::from_std(listener)?, None))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither an AF_VSOCK nor a unix socket",
            )),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// As the system says: no descriptors are left, for example.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Socket::new(stream.into_std()?.into(), BROKER_WRITE)
            }
            Listener::Vsock(listener, wanted) => loop {
                let (stream, peer) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await?;
                if wanted.is_some_and(|cid| cid != peer.cid()) {
                    tracing::warn!(
                        cid = peer.cid(),
                        "turned away a connection from another machine than that of --cid"
                    );
                    continue;
                }
                return Socket::new(stream.as_fd().try_clone_to_owned()?, BROKER_WRITE);
            },
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something else than a socket is there; remove it, or listen elsewhere",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves it; end that one first, or listen elsewhere",
        )),
    }
}
