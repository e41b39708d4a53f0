//! Who asks for the password where no desktop does: polkit's agent for terminals, as long as we run.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The agent that runs, if one does. It is ended with us.
static RUNNING: Mutex<Option<Agent>> = Mutex::new(None);

/// How long it may take to be ready; what is asked before is refused, and no more.
const PATIENCE: Duration = Duration::from_secs(2);

/// `pkttyagent`, which asks on our terminal.
pub struct Agent(Child);

/// Whether there is a person at a terminal who may be asked, and who is not root anyway.
pub fn is_useful() -> bool {
    std::io::stdin().is_terminal()
        && std::io::stderr().is_terminal()
        && !rustix::process::geteuid().is_root()
}

impl Agent {
    /// Starts it, unless it runs. Where a desktop has its own, that one asks.
    pub async fn start() {
        if !is_useful() || RUNNING.lock().is_ok_and(|agent| agent.is_some()) {
            return;
        }
        let Some((agent, ready)) = Agent::spawn() else {
            return;
        };
        if let Ok(mut running) = RUNNING.lock() {
            *running = Some(agent);
        }
        // It closes the pipe when it is registered, or ends.
        let closed = tokio::task::spawn_blocking(move || {
            let _ = File::from(ready).read(&mut [0]);
        });
        let _ = tokio::time::timeout(PATIENCE, closed).await;
    }

    fn spawn() -> Option<(Agent, OwnedFd)> {
        let (ready, tell) = rustix::pipe::pipe().ok()?;
        rustix::io::fcntl_setfd(&ready, rustix::io::FdFlags::CLOEXEC).ok()?;
        let mut command = Command::new("pkttyagent");
        // The desktop's agent goes first, and is that of a login session; where there are none, polkit asks
        // no agent that would only fall in for another.
        if Path::new("/run/systemd/seats").exists() {
            command.arg("--fallback");
        }
        let child = command
            .arg("--notify-fd")
            .arg(tell.as_raw_fd().to_string())
            .arg("--process")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        Some((Agent(child), ready))
    }

    /// Ends it, if it runs.
    pub fn stop() {
        if let Ok(mut running) = RUNNING.lock() {
            running.take();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
