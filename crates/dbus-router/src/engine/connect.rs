//! Connecting to the buses behind the router.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use dbus_wire::address::{Address, UnixTarget};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How connecting to one address ended.
pub(super) enum Attempt {
    /// A stream; for `unixexec` with the program that is at its other end.
    Connected(OwnedFd, Option<Child>),
    /// Nobody accepts at the moment (the queue of the listener is full): try again.
    Busy,
    /// It cannot be reached; why, for a person.
    Failed(String),
}

/// Tries the addresses in order. A program that an address names is started after `prepare`.
pub(super) fn connect(addresses: &[Address], prepare: &dyn Fn(&mut Command)) -> Attempt {
    let mut problems = Vec::new();
    let mut busy = false;
    for address in addresses {
        match connect_one(address, prepare) {
            Ok(connected) => return connected,
            Err(Problem::Busy) => busy = true,
            Err(Problem::Failed(why)) => problems.push(format!("{address}: {why}")),
        }
    }
    if busy {
        return Attempt::Busy;
    }
    if problems.is_empty() {
        problems.push("the address is empty".to_owned());
    }
    Attempt::Failed(problems.join("; "))
}

enum Problem {
    Busy,
    Failed(String),
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Problem {
        match errno {
            Errno::AGAIN => Problem::Busy,
            Errno::NOENT => Problem::Failed("there is no such socket".to_owned()),
            Errno::CONNREFUSED => {
                Problem::Failed("nobody listens there (connection refused)".to_owned())
            }
            errno => Problem::Failed(errno.to_string()),
        }
    }
}

fn connect_one(address: &Address, prepare: &dyn Fn(&mut Command)) -> Result<Attempt, Problem> {
    let target = match address {
        Address::Unix(UnixTarget::Path(path)) => SocketAddrUnix::new(path)?,
        Address::Unix(UnixTarget::Abstract(name)) => SocketAddrUnix::new_abstract_name(name)?,
        Address::Unix(UnixTarget::Runtime) => match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) => SocketAddrUnix::new(PathBuf::from(dir).join("bus"))?,
            None => return Err(Problem::Failed("XDG_RUNTIME_DIR is not set".to_owned())),
        },
        Address::Unix(UnixTarget::Dir(_) | UnixTarget::Tmpdir(_)) => {
            return Err(Problem::Failed(
                "this is an address to listen on, not to connect to".to_owned(),
            ));
        }
        Address::UnixExec { path, argv0, args } => {
            return start(path, argv0.as_deref(), args, prepare);
        }
        Address::Unsupported { transport } => {
            return Err(Problem::Failed(format!(
                "the transport {transport} is not supported"
            )));
        }
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &target)?;
    Ok(Attempt::Connected(socket, None))
}

/// `unixexec`: the program speaks D-Bus on its standard input and output.
fn start(
    path: &PathBuf,
    argv0: Option<&str>,
    args: &[String],
    prepare: &dyn Fn(&mut Command),
) -> Result<Attempt, Problem> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let mut command = Command::new(path);
    prepare(&mut command);
    if let Some(argv0) = argv0 {
        command.arg0(argv0);
    }
    let output = theirs
        .try_clone()
        .map_err(|error| Problem::Failed(error.to_string()))?;
    let child = command
        .args(args)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(output))
        .spawn()
        .map_err(|error| {
            Problem::Failed(format!("{} could not be started: {error}", path.display()))
        })?;
    Ok(Attempt::Connected(ours, Some(child)))
}
