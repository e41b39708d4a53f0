//! A terminal, and a program that runs at it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::processes::{Process, indented};

/// A pseudo-terminal with a program that leads its session. The program is hung up and ended when this goes.
pub struct Terminal {
    process: Process,
    master: File,
    seen: String,
    // What of it was looked at already.
    read_to: usize,
}

impl Terminal {
    /// Runs `command` at a new terminal of 80 columns and 24 rows. Its environment is what was set on it,
    /// and nothing inherited; `TERM` is `xterm`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &Command, logs: &Path) -> Result<Terminal, Failure> {
        Self::run(command, None, logs)
    }

    /// As [`Terminal::start`], with stdout and stderr elsewhere: what is shown is what is said to the
    /// terminal itself (`/dev/tty`).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(
        command: &Command,
        stdout: File,
        stderr: File,
        logs: &Path,
    ) -> Result<Terminal, Failure> {
        Self::run(command, Some((stdout, stderr)), logs)
    }

    fn run(
        command: &Command,
        elsewhere: Option<(File, File)>,
        logs: &Path,
    ) -> Result<Terminal, Failure> {
        let (master, slave) = open()?;
        // A session of its own with this as its terminal; it does not fork, for it leads no group.
        let mut leader = Command::new("setsid");
        leader
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                leader.env(name, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            leader.current_dir(dir);
        }
        let another = || {
            slave
                .try_clone()
                .map(Stdio::from)
                .map_err(Failure::doing("duplicating a terminal's descriptor"))
        };
        let (stdout, stderr) = match elsewhere {
            Some((stdout, stderr)) => (stdout.into(), stderr.into()),
            None => (another()?, another()?),
        };
        leader.stdin(another()?);
        let process =
            Process::spawn_with_stdin(leader, "at-the-terminal", logs, Some(stdout), Some(stderr))?;
        Ok(Terminal {
            process,
            master: File::from(master),
            seen: String::new(),
            read_to: 0,
        })
    }

    /// The program.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal takes no more.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .unwrap_or_else(|error| panic!("typing {text:?}: {error}"));
    }

    /// Types what is asked for in secret: once what is typed is not shown any more. Programs that switch that off after
    /// they have asked throw away what was typed before.
    ///
    /// # Panics
    /// When it is still shown at the usual limit's end.
    #[track_caller]
    pub fn send_secret(&mut self, text: &str) {
        let deadline = Deadline::usual();
        loop {
            let modes = tcgetattr(&self.master)
                .unwrap_or_else(|error| panic!("looking at a terminal's modes: {error}"));
            if !modes.local_modes.contains(LocalModes::ECHO) {
                return self.send(text);
            }
            assert!(
                !deadline.left().is_zero(),
                "the terminal shows what is typed"
            );
            std::thread::yield_now();
        }
    }

    /// Makes it larger or smaller.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        tcsetwinsize(&self.master, size(columns, rows))
            .unwrap_or_else(|error| panic!("resizing a terminal: {error}"));
    }

    /// Reads until `wanted` is shown, after what was awaited before, and gives back what was shown up to its end.
    ///
    /// # Panics
    /// When it is not shown within the usual limit: shows what was.
    #[track_caller]
    pub fn expect(&mut self, wanted: &str) -> String {
        match self.read_until(Deadline::usual(), |new| {
            new.find(wanted).map(|at| at + wanted.len())
        }) {
            Some(text) => text,
            None => panic!(
                "awaited {wanted:?} at the terminal; it showed:\n{}",
                indented(&self.seen)
            ),
        }
    }

    /// Reads to the end, that comes when nobody has the terminal open any more, and gives back how the
    /// program ended, and all that was shown since what was awaited last.
    ///
    /// # Panics
    /// When it does not end within the usual limit.
    #[track_caller]
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let deadline = Deadline::usual();
        self.read_until(deadline, |_| None);
        let rest = self.seen[self.read_to..].to_owned();
        self.read_to = self.seen.len();
        match self.process.wait(deadline) {
            Some(status) => (status, rest),
            None => panic!(
                "the program at the terminal did not end; it showed:\n{}",
                indented(&self.seen)
            ),
        }
    }

    /// All that was shown so far, and read.
    pub fn seen(&self) -> &str {
        &self.seen
    }

    /// Reads until `end` finds one in what is new; `None` at the stream's end and at the deadline.
    pub(crate) fn read_until(
        &mut self,
        deadline: Deadline,
        end: impl Fn(&str) -> Option<usize>,
    ) -> Option<String> {
        loop {
            if let Some(length) = end(&self.seen[self.read_to..]) {
                let text = self.seen[self.read_to..self.read_to + length].to_owned();
                self.read_to += length;
                return Some(text);
            }
            deadline.wait_readable(&[self.master.as_fd()])?;
            let mut chunk = [0; 4096];
            match self.master.read(&mut chunk) {
                Ok(0) => return None,
                // A letter that is cut in two is shown as two marks; nothing awaited has one.
                Ok(length) => self
                    .seen
                    .push_str(&String::from_utf8_lossy(&chunk[..length])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // EIO: nobody has the other side open.
                Err(_) => return None,
            }
        }
    }
}

fn open() -> Result<(OwnedFd, OwnedFd), Failure> {
    let opening = |error: rustix::io::Errno| Failure::new(format!("opening a terminal: {error}"));
    let master =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(opening)?;
    grantpt(&master).map_err(opening)?;
    unlockpt(&master).map_err(opening)?;
    let name = ptsname(&master, Vec::new()).map_err(opening)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty()).map_err(opening)?;
    tcsetwinsize(&master, size(80, 24)).map_err(opening)?;
    Ok((master, slave))
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestDir;

    #[test]
    fn what_is_typed_is_read_and_what_is_said_is_shown() {
        let dir = TestDir::new();
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "stty size; read line </dev/tty; echo \"<$line>\"; exit 3",
            ])
            .envs(dir.environment());
        let mut terminal = Terminal::start(&command, &dir.join("logs")).expect("it starts");
        terminal.expect("24 80");
        terminal.send("some words\n");
        terminal.expect("<some words>");
        let (status, _) = terminal.wait();
        assert_eq!(status.code(), Some(3));
    }
}
