//! The daemons of one VM: its permission store, its document portal and virtiofsd, on a private bus.
//!
//! What this keeps, whatever happens:
//! - A daemon is started when what it needs is *there*: the bus before all; the permission store's name before the document
//!   portal; the document portal's name and its mount before virtiofsd. What is waited for is the thing itself, never time.
//! - One that ends is started again, at once the first time, later and later if it goes on; what builds on it is ended before
//!   and started after it.
//! - They end in the reverse order, and they end when we are killed (the kernel tells them, and their bus has gone).
//! - No mount is left that nobody serves: one left behind by an earlier life is unmounted before a new one is made.
//! - A directory has one supervisor. The lock is held by the daemons too, so that a new supervisor starts when the last daemon
//!   of the old one has gone.
//!
//! ```text
//!  supervisor thread
//!   ├─ private bus (in this process)      DIR/private.sock
//!   ├─ xdg-permission-store               org.freedesktop.impl.portal.PermissionStore on it
//!   ├─ xdg-document-portal                org.freedesktop.portal.Documents on it, FUSE at DIR/doc
//!   └─ virtiofsd                          DIR/doc/by-app/vm.NAME at DIR/virtiofs.sock
//! ```

mod back_off;
mod daemon;
mod life;
mod lock;
mod mounts;
mod plan;
mod private_bus;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::sync::{oneshot, watch};

pub use plan::{GuestUser, Plan, Programs};

/// Why the daemons of a VM do not run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A program of another project is not here.
    #[error(
        "{program} is not installed (looked in /usr/libexec and beside it); it comes with the package xdg-desktop-portal"
    )]
    NotInstalled {
        /// Its name.
        program: &'static str,
    },
    /// The VM's name cannot be part of an application id.
    #[error(
        "the VM's name {0:?} does not do: 1 to 64 letters, digits, `_` and `-`, the first of them a letter"
    )]
    Name(String),
    /// Something with a file or directory of ours.
    #[error("{step} {path}: {source}", path = path.display())]
    Directory {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it did not work.
        source: std::io::Error,
    },
    /// The directory is somebody else's, or open to others.
    #[error(
        "{path} must belong to you alone, and does not: make a directory of your own (mode 0700), for example below $XDG_RUNTIME_DIR",
        path = .0.display()
    )]
    NotOurs(PathBuf),
    /// Another broker uses the directory.
    #[error(
        "{path} is in use by another sidebus-broker{by}: one VM, one directory; end that one first or give another --runtime-dir",
        path = path.display(),
        by = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who says it has it.
        pid: Option<u32>,
    },
    /// The private bus does not start.
    #[error("starting the private bus: {0}")]
    Bus(#[from] dbus_router::RouterError),
    /// The private bus does not answer.
    #[error("using the private bus: {0}")]
    Client(#[from] zbus::Error),
    /// A daemon does not become ready, however often it is tried.
    #[error("{name} does not start ({attempts} attempts): {problem}{remedy}")]
    Daemon {
        /// Its name.
        name: &'static str,
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt ended, and what the daemon said.
        problem: String,
        /// What to do, if that is known; begins with a separator.
        remedy: String,
    },
    /// The system has no thread or runtime for us.
    #[error("starting the supervisor's thread: {0}")]
    Thread(#[source] std::io::Error),
    /// It was stopped before it had started.
    #[error("stopped before the daemons had started")]
    Stopped,
}

/// How a daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonState {
    /// It does not run: it waits for what it needs, or for its next attempt.
    Down,
    /// It runs, and is not ready yet.
    Starting,
    /// It does what it is there for.
    Ready,
}

/// A daemon, as [`Supervisor::status`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DaemonStatus {
    /// Its program's name.
    pub name: &'static str,
    /// How it is.
    pub state: DaemonState,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// How often it was started.
    pub starts: u32,
    /// How it ended last, if it did.
    pub last_end: Option<String>,
}

/// The running daemons of one VM. They end, in order, when this goes.
#[derive(Debug)]
pub struct Supervisor {
    plan: Plan,
    private_bus_address: String,
    status: watch::Receiver<Vec<DaemonStatus>>,
    thread: Running,
}

/// The supervisor's thread; ended and waited for when this goes.
#[derive(Debug)]
struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Dropped, which is as good as sent.
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the supervisor's thread has panicked");
        }
    }
}

impl Supervisor {
    /// Starts the daemons of `plan`, and returns when all are ready.
    ///
    /// # Errors
    /// The plan's directory is not ours or in use; a daemon does not become ready in three attempts. Then nothing runs and
    /// nothing is mounted.
    pub async fn start(plan: Plan) -> Result<Supervisor, SupervisorError> {
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = oneshot::channel();
        let (tell, status) = watch::channel(Vec::new());
        let its_plan = plan.clone();
        // A thread of its own and not a task: children are told of the end of the *thread* that started them.
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || life::run(its_plan, started, stopped, tell))
            .map_err(SupervisorError::Thread)?;
        let thread = Running {
            stop: Some(stop),
            thread: Some(thread),
        };
        match starting.await {
            Ok(Ok(private_bus_address)) => Ok(Supervisor {
                plan,
                private_bus_address,
                status,
                thread,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SupervisorError::Stopped),
        }
    }

    /// The D-Bus address of the bus that the VM's daemons are on.
    pub fn private_bus_address(&self) -> &str {
        &self.private_bus_address
    }

    /// Where all documents of this VM are mounted on the host.
    pub fn documents_mount(&self) -> PathBuf {
        self.plan.documents_mount()
    }

    /// What of them the guest has in its document directory.
    pub fn shared_directory(&self) -> PathBuf {
        self.plan.shared_directory()
    }

    /// To whom a document is granted that the guest is to see: `vm.NAME`.
    pub fn documents_app_id(&self) -> String {
        self.plan.documents_app_id()
    }

    /// The directory that it was started in.
    pub fn runtime_dir(&self) -> &Path {
        &self.plan.runtime_dir
    }

    /// How the daemons are now, in the order in which they are started.
    pub fn status(&self) -> Vec<DaemonStatus> {
        self.status.borrow().clone()
    }

    /// To wait for changes of the status.
    pub fn watch(&self) -> watch::Receiver<Vec<DaemonStatus>> {
        self.status.clone()
    }

    /// Ends the daemons, the last one first, and returns when they have gone and nothing is mounted. Dropping does the same
    /// and blocks the thread meanwhile.
    pub async fn stop(self) {
        let thread = self.thread;
        // A panic of the thread is told where it is waited for.
        let _ = tokio::task::spawn_blocking(move || drop(thread)).await;
    }
}
