//! Where decisions are written, line by line: a file, or the journal.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Where the journal takes entries (systemd: Native Journal Protocol).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where decisions are written, as the table `[log]` of a file says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecisionLog {
    /// `decisions`.
    pub to: LogTarget,
    /// `refused_only`.
    pub refused_only: bool,
}

/// A file or the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// Lines are added to it.
    File(PathBuf),
    /// The journal of systemd.
    Journal,
}

/// A target that is open.
#[derive(Debug)]
pub struct Sink {
    to: To,
    /// Said once and not for each line.
    complained: bool,
}

#[derive(Debug)]
enum To {
    File(File),
    Journal(UnixDatagram),
}

impl Sink {
    /// Opens a target.
    ///
    /// # Errors
    /// It cannot be opened: says what, why, and the remedy.
    pub fn open(target: &LogTarget) -> Result<Sink, String> {
        let to = match target {
            LogTarget::File(path) => File::options()
                .create(true)
                .append(true)
                // What programs inside do is nobody else's business.
                .mode(0o600)
                .open(path)
                .map(To::File)
                .map_err(|error| {
                    format!("cannot write decisions to {}: {error}", path.display())
                })?,
            LogTarget::Journal => UnixDatagram::unbound()
                .and_then(|socket| {
                    socket.connect(JOURNAL)?;
                    // A journal that is slow must not stop who decides.
                    socket.set_nonblocking(true)?;
                    Ok(To::Journal(socket))
                })
                .map_err(|error| {
                    format!(
                        "cannot write decisions to the journal ({JOURNAL}): {error}; without systemd, give a \
                         file instead"
                    )
                })?,
        };
        Ok(Sink {
            to,
            complained: false,
        })
    }

    /// Writes a line of JSON, or says, once, that it could not. `entry` makes of it what the journal takes:
    /// `FIELD=VALUE` lines.
    pub fn write(&mut self, mut json: String, entry: impl FnOnce(&str) -> String) {
        let written = match &mut self.to {
            To::File(file) => {
                json.push('\n');
                // One write: lines of several programs in one file do not mix.
                file.write_all(json.as_bytes())
            }
            To::Journal(socket) => socket.send(entry(&json).as_bytes()).map(|_| ()),
        };
        if let Err(error) = written
            && error.kind() != ErrorKind::WouldBlock
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(%error, "decisions cannot be written; this is said once");
        }
    }
}
