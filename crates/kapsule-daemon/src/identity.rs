//! Doing something with a caller's rights in place of root's.
//!
//! What a caller names (a directory to be the home, a file of preferences) is opened with his rights, so that nobody
//! makes the daemon look where he could not look himself.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};

use crate::caller::Caller;

/// The most that is read of a file of a person's.
const FILE_LIMIT: u64 = 256 * 1024;

/// Runs `work` on a thread that has the caller's rights on files, and none of root's.
///
/// Only the effective ids are changed: so the caller, whose uid the thread's real one is not, can neither signal nor
/// trace it. If this process is not root it has no others' rights to begin with, and `work` just runs.
///
/// # Errors
/// The kernel does not let us change the ids; `work` was not run then.
pub fn as_caller<T: Send>(caller: &Caller, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if !rustix::process::geteuid().is_root() || caller.is_root() {
        return Ok(work());
    }
    let groups: Vec<Gid> = caller
        .groups
        .iter()
        .map(|group| Gid::from_raw(group.gid))
        .collect();
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("as-caller".to_owned())
            .spawn_scoped(scope, || {
                // Of this thread alone; it ends with them.
                rustix::thread::set_thread_groups(&groups)?;
                rustix::thread::set_thread_res_gid(None, gid, None)?;
                rustix::thread::set_thread_res_uid(None, uid, None)?;
                Ok(work())
            })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// The path without symlinks of something that the caller can reach himself; and what it is.
///
/// # Errors
/// What he would be told.
pub fn reachable(caller: &Caller, path: &Path) -> io::Result<(PathBuf, FileType, u32)> {
    as_caller(caller, || {
        let file: OwnedFd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok((real, FileType::from_raw_mode(stat.st_mode), stat.st_uid))
    })?
}

/// The text of a file of the caller's; `None` if it is not there.
///
/// # Errors
/// He cannot read it, or it is no file, too large, or no text.
pub fn read_text(caller: &Caller, path: &Path) -> io::Result<Option<String>> {
    as_caller(caller, || {
        // Opening a pipe must not wait for who writes it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = String::new();
        file.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_LIMIT {
            return Err(io::Error::other("it is larger than 256 KiB"));
        }
        Ok(Some(text))
    })?
}

/// The names in a directory of the caller's, sorted; none if it is not there.
///
/// # Errors
/// He cannot read it.
pub fn list(caller: &Caller, path: &Path) -> io::Result<Vec<String>> {
    as_caller(caller, || {
        let mut names = Vec::new();
        match std::fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries.take(1000) {
                    names.extend(entry?.file_name().into_string());
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
        names.sort();
        Ok(names)
    })?
}
