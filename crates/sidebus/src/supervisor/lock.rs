//! The lock on a VM's directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tokio::time::Instant;

use super::{Plan, SupervisorError};

/// How long the daemons of a broker that was killed may take to go.
const PREDECESSOR: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// Held for as long as this, or a daemon that was given it, is there.
pub(super) struct Lock {
    // Only read: it is the stdout of daemons, and what they say there goes nowhere.
    file: OwnedFd,
}

impl Lock {
    /// Makes the plan's directories, and takes the lock; waits for daemons of an earlier life to go.
    ///
    /// # Errors
    /// A directory cannot be made or is not ours; somebody has the lock and keeps it.
    pub async fn take(plan: &Plan) -> Result<Lock, SupervisorError> {
        make_ours(&plan.runtime_dir)?;
        make_ours(&plan.data_dir)?;
        let path = plan.lock();
        let failed = |step| {
            let path = path.clone();
            move |source: io::Error| SupervisorError::Directory { step, path, source }
        };
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map_err(failed("opening the lock"))?;
        let since = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK)
                    if since.elapsed() < PREDECESSOR.min(plan.patience) =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(SupervisorError::InUse {
                        path: plan.runtime_dir.clone(),
                        pid: fs::read_to_string(&path)
                            .ok()
                            .and_then(|text| text.trim().parse().ok()),
                    });
                }
                Err(errno) => return Err(failed("taking the lock")(errno.into())),
            }
        }
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .and_then(|mut file| {
                use std::io::Write;
                writeln!(file, "{}", std::process::id())
            })
            .map_err(failed("writing to the lock"))?;
        Ok(Lock { file })
    }

    /// For a daemon's stdout: it holds the lock, too, until it has gone.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn share(&self) -> io::Result<Stdio> {
        Ok(File::from(self.file.try_clone()?).into())
    }
}

/// Makes a directory for us alone, or checks that nobody else can put things into the one that is there.
fn make_ours(path: &Path) -> Result<(), SupervisorError> {
    let failed = |step| {
        move |source| SupervisorError::Directory {
            step,
            path: path.to_owned(),
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("making the directory"))?;
    let data = fs::metadata(path).map_err(failed("looking at the directory"))?;
    let ours = data.uid() == rustix::process::geteuid().as_raw() && data.mode() & 0o022 == 0;
    match ours {
        true => Ok(()),
        false => Err(SupervisorError::NotOurs(path.to_owned())),
    }
}
