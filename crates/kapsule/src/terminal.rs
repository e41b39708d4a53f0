//! The terminal on this side: raw mode and back, its size, and the marks by which terminals know that a
//! shell is in a container.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::getpgrp;
use rustix::termios::{self, LocalModes, OptionalActions, Termios, Winsize};

use crate::error::{Error, Result};

/// Whether a person sits at both ends: what is typed comes from a terminal and what is written goes to one.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The terminal's size, if it has one.
pub fn size() -> Option<Winsize> {
    let size = termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(size)
}

/// What `TERM` says, if it is a name that can be passed on.
pub fn kind() -> String {
    std::env::var("TERM")
        .ok()
        .filter(|term| {
            !term.is_empty()
                && term.len() <= 64
                && term
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
        })
        .unwrap_or_else(|| "xterm-256color".to_owned())
}

/// Whether we are in the foreground of the terminal of stdin, so that it may be read and changed. Who is not is stopped
/// by the kernel if he tries.
pub fn is_foreground() -> bool {
    // Of a terminal that is not our session's there is no foreground.
    termios::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// The terminal of stdin, for who reads it only now and then: others may sit at it as well, as the pager in
/// `kapsule run work -- git log | less` does.
pub struct Keyboard {
    terminal: File,
    echoed: bool,
}

impl Keyboard {
    /// The terminal of stdin.
    ///
    /// # Errors
    /// It is gone.
    pub fn open() -> std::io::Result<Keyboard> {
        // Opened once more, so that not waiting for keys is our own affair and not that of all who have it from the shell.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open("/proc/self/fd/0", flags, Mode::empty())
            .map_err(std::io::Error::from)
            // Another user's, perhaps. Then it may happen that we wait in reading.
            .or_else(|_| std::io::stdin().as_fd().try_clone_to_owned())?;
        let echoed = termios::tcgetattr(&terminal)?
            .local_modes
            .contains(LocalModes::ECHO);
        Ok(Keyboard {
            terminal: terminal.into(),
            echoed,
        })
    }

    /// Whether what is typed now is for us. It is not while we are in the background; nor while somebody else has taken the
    /// terminal: a pager or an editor to have each key, or who asks for a password to hide it.
    pub fn is_ours(&self) -> bool {
        let modes = match termios::tcgetattr(&self.terminal) {
            Ok(attributes) => attributes.local_modes,
            // Reading says what is wrong.
            Err(_) => return true,
        };
        let echoes = modes.contains(LocalModes::ECHO);
        let in_foreground = match termios::tcgetpgrp(&self.terminal) {
            Ok(group) => group == getpgrp(),
            // Not our session's terminal: nobody is stopped.
            Err(_) => true,
        };
        in_foreground && modes.contains(LocalModes::ICANON) && (echoes || !self.echoed)
    }
}

impl AsFd for Keyboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Read for Keyboard {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.terminal.read(buffer)
    }
}

/// The terminal in raw mode: every key goes inside. It is as it was before when this goes, also when we
/// panic or are told to end.
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Takes the terminal of stdin.
    ///
    /// # Errors
    /// It is none, or does not take it.
    pub fn enter() -> Result<RawMode> {
        let doing = "setting the terminal to raw mode";
        // Of our own: stdin may have been closed by the time of the way back.
        let terminal = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::doing(doing))?;
        let before = termios::tcgetattr(&terminal).map_err(Error::doing(doing))?;
        let raw_mode = RawMode { terminal, before };
        raw_mode.again().map_err(Error::doing(doing))?;
        Ok(raw_mode)
    }

    /// Raw mode once more, after [`suspend`](Self::suspend).
    pub fn again(&self) -> std::io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(termios::tcsetattr(
            &self.terminal,
            OptionalActions::Drain,
            &raw,
        )?)
    }

    /// The terminal as it was, for a while.
    pub fn suspend(&self) {
        // If it is gone, there is nothing to bring back.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.suspend();
    }
}

/// What marks a container's shell: Kapsule's own terminals look for `kapsule`, those that know distrobox
/// for `distrobox`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MarkType {
    /// As `kapsule`.
    Kapsule,
    /// As `distrobox`.
    Distrobox,
}

impl MarkType {
    fn name(self) -> &'static str {
        match self {
            MarkType::Kapsule => "kapsule",
            MarkType::Distrobox => "distrobox",
        }
    }
}

/// Tells the terminal (OSC 777) that what follows comes from a container, until this goes.
///
/// Terminals honour it only from a process of the foreground group, as we are.
pub struct Mark(File);

impl Mark {
    /// Says so on stdout, which is a terminal.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn push(container: &str, kind: MarkType) -> Result<Mark> {
        let doing = "telling the terminal that a container begins";
        let terminal = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::doing(doing))?;
        let mut mark = Mark(terminal.into());
        let container: String = container
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
            .collect();
        let text = format!("\x1b]777;container;push;{container};{}\x1b\\", kind.name());
        mark.0
            .write_all(text.as_bytes())
            .map_err(Error::doing(doing))?;
        Ok(mark)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // If the terminal is gone, nobody needs to be told.
        let _ = self.0.write_all(b"\x1b]777;container;pop;;\x1b\\");
    }
}
