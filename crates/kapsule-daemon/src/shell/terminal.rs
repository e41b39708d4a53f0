//! A terminal of a container: a pseudo-terminal in its own `devpts`.
//!
//! So `tty`, `ttyname(3)` and `/dev/pts/N` are right inside, and nothing of the host's terminal is there: what types into it
//! by ioctl types into the container's.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};

use super::init::Init;
use super::inside::reopen;
use crate::error::{Error, Result};

/// `DEVPTS_SUPER_MAGIC`, statfs(2).
const DEVPTS: i64 = 0x1cd1;

/// Columns and rows of a terminal of which nobody said the size.
const USUAL: (u16, u16) = (80, 24);

/// Both ends.
#[derive(Debug)]
pub(super) struct Terminal {
    /// For who is in front of it.
    pub master: OwnedFd,
    /// For the program.
    pub slave: OwnedFd,
    /// Where it is inside, and which device it is.
    pub place: Place,
}

/// A terminal by its name, for later.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    device: u64,
}

impl Terminal {
    /// Opens a new one, that belongs to the user with this number outside.
    pub(super) fn open(init: &Init, uid: u32, size: Option<(u16, u16)>) -> Result<Self> {
        let doing = "opening a terminal in the container";
        let root = init.root()?;
        let found = ["/dev/pts/ptmx", "/dev/ptmx"]
            .iter()
            .find_map(|path| {
                let found = root.find(Path::new(path)).ok()?;
                let stat = rustix::fs::fstat(&found).ok()?;
                let filesystem = rustix::fs::fstatfs(&found).ok()?;
                let device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                // Not just any device: opening one can have effects.
                (filesystem.f_type as i64 == DEVPTS && device == (5, 2)).then_some(found)
            })
            .ok_or_else(|| Error::Failed(format!("{doing}: it has no devpts at /dev/pts")))?;
        use std::os::fd::AsFd;
        let master = reopen(found.as_fd(), OFlags::RDWR).map_err(Error::failed(doing))?;
        rustix::pty::unlockpt(&master).map_err(Error::failed(doing))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(Error::failed(doing))?;
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None)
            .map_err(Error::failed("giving the terminal to the user"))?;
        let name = rustix::pty::ptsname(&master, Vec::new()).map_err(Error::failed(doing))?;
        let stat = rustix::fs::fstat(&slave).map_err(Error::failed(doing))?;
        resize(&slave, size.unwrap_or(USUAL)).map_err(Error::failed(doing))?;
        // Erasing a character erases all its bytes.
        if let Ok(mut modes) = rustix::termios::tcgetattr(&slave) {
            modes.input_modes |= InputModes::IUTF8;
            let _ = rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes);
        }
        Ok(Self {
            master,
            slave,
            place: Place {
                path: PathBuf::from(name.to_string_lossy().into_owned()),
                device: stat.st_rdev,
            },
        })
    }
}

impl Place {
    /// Changes the size. Not kept open for that: then the program's end would not be seen at the other end, or the
    /// other end's end by the program.
    pub(super) fn resize(&self, init: &Init, size: (u16, u16)) -> Result<()> {
        let doing = "changing the size of the terminal";
        let found = init
            .root()?
            .find_itself(&self.path)
            .map_err(Error::failed(doing))?;
        let stat = rustix::fs::fstat(&found).map_err(Error::failed(doing))?;
        if stat.st_rdev != self.device {
            return Err(Error::Failed(format!(
                "{doing}: another file is in its place"
            )));
        }
        use std::os::fd::AsFd;
        let slave =
            reopen(found.as_fd(), OFlags::RDWR | OFlags::NONBLOCK).map_err(Error::failed(doing))?;
        resize(&slave, size).map_err(Error::failed(doing))
    }
}

fn resize(terminal: &OwnedFd, (columns, rows): (u16, u16)) -> rustix::io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}
