//! One daemon of another project, as a process: started, listened to, ended.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::Instant;

use crate::kernel;

/// How long a daemon may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(3);
/// How much of what it said last is kept. What it says may be a guest's doing (virtiofsd), so it is bounded.
const WORDS: usize = 4096;

/// A process that ends when this goes, and when we do.
pub(super) struct Daemon {
    name: &'static str,
    child: Child,
    // By pidfd: a number may belong to a stranger once the process has been reaped.
    pidfd: OwnedFd,
    pid: u32,
    words: Arc<Mutex<Vec<u8>>>,
    listener: tokio::task::JoinHandle<()>,
    /// Since when it has done what it is there for.
    pub ready_since: Option<Instant>,
}

impl Daemon {
    /// Starts `command`. Its stderr is kept and logged; stdin and stdout are as the command has them.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &'static str, mut command: Command) -> io::Result<Daemon> {
        command.stderr(Stdio::piped()).kill_on_drop(true);
        kernel::ends_with_us(&mut command);
        let mut child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        let pidfd = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))?;
        let words = Arc::new(Mutex::new(Vec::new()));
        let listener = match child.stderr.take() {
            Some(stderr) => tokio::spawn(listen(name, stderr, words.clone())),
            None => tokio::spawn(std::future::ready(())),
        };
        tracing::debug!(daemon = name, pid, "started");
        Ok(Daemon {
            name,
            child,
            pidfd,
            pid,
            words,
            listener,
            ready_since: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end; may be dropped and called again.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and makes it when it does not.
    pub async fn end(&mut self) {
        // An error says only that it has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        if tokio::time::timeout(FAREWELL, self.child.wait())
            .await
            .is_err()
        {
            tracing::warn!(daemon = self.name, pid = self.pid, "does not end; killed");
            let _ = self.child.kill().await;
        }
        tracing::debug!(daemon = self.name, pid = self.pid, "ended");
    }

    /// What it said last on stderr, of a daemon that has ended.
    pub async fn last_words(&mut self) -> String {
        // What it started may hold the pipe open.
        let _ = tokio::time::timeout(Duration::from_millis(200), &mut self.listener).await;
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&words).trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn listen(name: &'static str, mut stderr: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut chunk = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        let said = &chunk[..length];
        tracing::debug!(
            daemon = name,
            said = %String::from_utf8_lossy(said).trim_end(),
        );
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(said);
        let surplus = words.len().saturating_sub(WORDS);
        words.drain(..surplus);
    }
}
