//! Where the agent finds the broker.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

/// The broker's address, as seen from the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A vsock port of the host.
    Vsock(u32),
    /// A unix socket: where there is no vsock, or no machine.
    Unix(PathBuf),
}

impl Endpoint {
    /// Connects once.
    ///
    /// # Errors
    /// As the system says. ECONNREFUSED, ECONNRESET, ETIMEDOUT (some devices, when nobody listens on the host) and
    /// ENODEV (no vsock device yet) may be over in a moment: see [`Endpoint::is_passing`].
    pub async fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Endpoint::Vsock(port) => {
                let stream = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, *port)).await?;
                stream.as_fd().try_clone_to_owned()
            }
            Endpoint::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok(stream.into_std()?.into())
            }
        }
    }

    /// Whether it is worth another try.
    pub fn is_passing(error: &io::Error) -> bool {
        use io::ErrorKind as Kind;
        let enodev = rustix::io::Errno::NODEV.raw_os_error();
        matches!(
            error.kind(),
            Kind::ConnectionRefused
                | Kind::ConnectionReset
                | Kind::TimedOut
                | Kind::NotFound
                | Kind::WouldBlock
                | Kind::Interrupted
                | Kind::HostUnreachable
                | Kind::NetworkUnreachable
        ) || error.raw_os_error() == Some(enodev)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Vsock(port) => write!(f, "vsock port {port} of the host"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
