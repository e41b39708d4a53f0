//! What is mounted where, as the kernel tells it; and mounts whose daemon has gone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The kernel's list of this namespace's mounts (proc(5)).
const MOUNTS: &str = "/proc/self/mountinfo";
/// How long fusermount3 may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the kernel's word is waited for at a time, so that who gives up waiting is not held up by it.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until a FUSE filesystem is mounted on `point`.
///
/// # Errors
/// `/proc` is not there or cannot be read.
pub(super) async fn wait_for_fuse(point: &Path) -> io::Result<()> {
    let table = Arc::new(File::open(MOUNTS)?);
    // The kernel wakes who polls the table for every change since it was polled last, so none is missed between the look and
    // the wait.
    while !fuse_is_mounted(point)? {
        let table = table.clone();
        let wait = move || {
            let mut polled = [PollFd::new(&*table, PollFlags::PRI)];
            let limit = Timespec::try_from(LOOK).ok();
            poll(&mut polled, limit.as_ref()).map(drop)
        };
        match tokio::task::spawn_blocking(wait).await {
            Ok(Ok(()) | Err(rustix::io::Errno::INTR)) => {}
            Ok(Err(errno)) => return Err(errno.into()),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(())
}

/// Whether a FUSE filesystem is mounted on `point`, alive or not.
///
/// # Errors
/// The table cannot be read.
pub(super) fn fuse_is_mounted(point: &Path) -> io::Result<bool> {
    let table = fs::read(MOUNTS)?;
    Ok(mounts(&table).any(|mount| mount.point == point && mount.kind.starts_with(b"fuse")))
}

/// Takes away what is mounted on `point`, also when its daemon has gone; nothing is mounted there afterwards.
///
/// # Errors
/// Something is mounted there that we may not unmount.
pub(super) async fn unmount_stale(point: &Path) -> io::Result<()> {
    // Several may lie on each other.
    for _ in 0..64 {
        if !fuse_is_mounted(point)? {
            return Ok(());
        }
        tracing::info!(mount = %point.display(), "unmounting a document mount whose daemon has gone");
        if rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).is_ok() {
            continue;
        }
        // Not root: the setuid helper unmounts what is ours.
        let mut fusermount = tokio::process::Command::new("fusermount3");
        fusermount
            .args(["-u", "-z", "--"])
            .arg(point)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, fusermount.output())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "fusermount3 -u hangs"))??;
        // The daemon may have done it itself meanwhile.
        if !output.status.success() && fuse_is_mounted(point)? {
            return Err(io::Error::other(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
    }
    Err(io::Error::other("it is mounted again and again"))
}

struct Mount<'a> {
    point: PathBuf,
    kind: &'a [u8],
}

/// The lines of the table: `ID PARENT DEVICE ROOT POINT OPTIONS [TAGS…] - KIND SOURCE OPTIONS`.
fn mounts(table: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = fields.nth(4)?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Mount {
            point: unescaped(point),
            kind,
        })
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_is_read_with_its_escapes_and_tags() {
        let table = b"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            43 27 0:39 / /run/a\\040b/doc rw,nosuid shared:7 master:2 - fuse.portal portal rw,user_id=0\n\
            broken line\n";
        let found: Vec<(PathBuf, &[u8])> = mounts(table)
            .map(|mount| (mount.point, mount.kind))
            .collect();
        assert_eq!(
            found,
            [
                (PathBuf::from("/"), &b"ext4"[..]),
                (PathBuf::from("/run/a b/doc"), b"fuse.portal"),
            ]
        );
    }
}
