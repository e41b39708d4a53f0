//! A container's network namespace, and what one has to be to act in it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::system::{self, Wanted};

/// Where a namespace was found, and which one it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    identity: (u64, u64),
}

impl Place {
    /// Whether the path still leads to this namespace. Our own sockets keep a namespace alive in the
    /// kernel, so whether its container is gone can only be seen from where it was found.
    pub fn is_still_there(&self) -> bool {
        rustix::fs::stat(&self.path).is_ok_and(|s| (s.st_dev, s.st_ino) == self.identity)
    }

    /// Opens it again.
    ///
    /// # Errors
    /// If it is not there any more, or not the same.
    pub fn open(&self) -> Result<Namespace> {
        let namespace = Namespace::open(&self.path)?;
        if namespace.place == *self {
            Ok(namespace)
        } else {
            Err(Error::Gone(self.path.display().to_string()))
        }
    }

    /// The process by which it was found.
    pub(crate) fn process(&self) -> Option<rustix::process::Pid> {
        let rest = self.path.strip_prefix("/proc").ok()?;
        let pid = rest.components().next()?.as_os_str().to_str()?;
        rustix::process::Pid::from_raw(pid.parse().ok()?)
    }
}

/// A network namespace that was found and opened.
#[derive(Debug)]
pub struct Namespace {
    place: Place,
    network: OwnedFd,
    /// The user namespace that owns it. `None` if it is not ours to see: then we cannot act there either.
    user: Option<OwnedFd>,
}

/// The sockets of a resolver inside a namespace.
#[derive(Debug, Default)]
pub(crate) struct NameSockets {
    pub(crate) udp: Vec<OwnedFd>,
    pub(crate) tcp: Vec<OwnedFd>,
}

impl Namespace {
    /// Opens the namespace that this path stands for: `/proc/PID/ns/net`, or a file such as those in
    /// `/run/netns`.
    ///
    /// # Errors
    /// If it does not exist, is no network namespace, or must not be looked at.
    pub fn open(path: &Path) -> Result<Self> {
        let network: OwnedFd = std::fs::File::open(path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => Error::Gone(path.display().to_string()),
                io::ErrorKind::PermissionDenied => Error::Permission {
                    what: format!("opening {}", path.display()),
                    missing: "CAP_SYS_PTRACE",
                    hint: "run this as the user who started the container, or as root".into(),
                },
                _ => Error::system(
                    format!("opening the network namespace {}", path.display()),
                    e,
                ),
            })?
            .into();
        let stat = rustix::fs::fstat(&network)
            .map_err(|e| Error::system(format!("looking at {}", path.display()), e.into()))?;
        let user = system::owner(network.as_fd());
        if let Err(e) = &user
            && e.raw_os_error() == Some(libc::ENOTTY)
        {
            return Err(Error::Usage(format!(
                "{} is no network namespace",
                path.display()
            )));
        }
        Ok(Self {
            place: Place {
                path: path.to_path_buf(),
                identity: (stat.st_dev, stat.st_ino),
            },
            user: user.ok(),
            network,
        })
    }

    /// The namespace of the calling process.
    ///
    /// # Errors
    /// As for [`Namespace::open`].
    pub fn own() -> Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// Where it was found.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        self.place.identity == other.place.identity
    }

    /// Whether a process in it could change the rules: its user namespace owns the network namespace, and
    /// it has `CAP_NET_ADMIN` there. Then the firewall keeps out only what does not try.
    pub fn is_open_to(&self, pid: u32) -> bool {
        const NET_ADMIN: u64 = 1 << 12;
        let Some(user) = &self.user else {
            return false;
        };
        let (Ok(owner), Ok(theirs)) = (
            rustix::fs::fstat(user),
            rustix::fs::stat(format!("/proc/{pid}/ns/user")),
        ) else {
            return false;
        };
        // The bounding set is what it, or a set-uid program that it runs, could have.
        let bounding = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .and_then(|status| {
                let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
                u64::from_str_radix(line.trim(), 16).ok()
            })
            .unwrap_or(0);
        (owner.st_dev, owner.st_ino) == (theirs.st_dev, theirs.st_ino) && bounding & NET_ADMIN != 0
    }

    /// Opens netlink sockets inside.
    pub(crate) fn netfilter_sockets<const N: usize>(&self) -> Result<[OwnedFd; N]> {
        let sockets = self.open_sockets(&[Wanted::Netfilter; N])?;
        let mut opened = Vec::with_capacity(N);
        for socket in sockets {
            opened.push(socket.map_err(|e| {
                Error::system(
                    "opening a netlink socket in the container's namespace".into(),
                    e,
                )
            })?);
        }
        opened
            .try_into()
            .map_err(|_| Error::Internal("a socket is missing"))
    }

    /// Opens the resolver's sockets inside: port 53 on the loopback addresses. An address family that the
    /// container does not have is left out.
    pub(crate) fn name_sockets(&self) -> Result<NameSockets> {
        let addresses: [SocketAddr; 2] = [
            ([127, 0, 0, 1], 53).into(),
            (std::net::Ipv6Addr::LOCALHOST, 53).into(),
        ];
        let wanted: Vec<_> = addresses
            .iter()
            .flat_map(|a| [Wanted::Udp(*a), Wanted::Tcp(*a)])
            .collect();
        let mut found = NameSockets::default();
        for (wanted, socket) in wanted.iter().zip(self.open_sockets(&wanted)?) {
            match (wanted, socket) {
                (Wanted::Udp(_), Ok(fd)) => found.udp.push(fd),
                (_, Ok(fd)) => found.tcp.push(fd),
                // The container has no such addresses.
                (_, Err(e))
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
                    ) => {}
                (_, Err(e)) => {
                    return Err(Error::system(
                        "listening on port 53 of the container's loopback address".into(),
                        e,
                    ));
                }
            }
        }
        Ok(found)
    }

    fn open_sockets(&self, wanted: &[Wanted]) -> Result<Vec<io::Result<OwnedFd>>> {
        system::open_sockets(
            self.network.as_fd(),
            self.user.as_ref().map(|u| u.as_fd()),
            wanted,
        )
        .map_err(|e| self.entering(e))
    }

    /// Lets a command's process run inside.
    pub(crate) fn enter_before_exec(&self, command: &mut std::process::Command) {
        system::before_exec(
            command,
            self.network.as_fd(),
            self.user.as_ref().map(|u| u.as_fd()),
        );
    }

    /// Explains why entering failed: which capability is missing, and who has it.
    pub(crate) fn entering(&self, error: io::Error) -> Error {
        if error.raw_os_error() != Some(libc::EPERM) {
            return Error::system(format!("entering {}", self.place.path.display()), error);
        }
        let owner = self
            .user
            .as_ref()
            .and_then(|u| system::owner_uid(u.as_fd()).ok());
        let me = rustix::process::geteuid().as_raw();
        Error::Permission {
            what: format!("entering {}", self.place.path.display()),
            missing: "CAP_SYS_ADMIN and CAP_NET_ADMIN",
            hint: match owner {
                Some(uid) if uid != me => format!(
                    "its user namespace belongs to uid {uid}, and you are uid {me}: run this as that user, or as root"
                ),
                Some(_) => "run this as root, or start the container without root so that its namespace is yours".into(),
                None => "the user namespace that owns it is not below yours: run this from the host, as root or as the user who started the container".into(),
            },
        }
    }
}
