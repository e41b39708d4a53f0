//! Images that Incus was ended in the middle of unpacking.
//!
//! The first container of an image has it unpacked into the storage pool, and later ones are copies of that. Incus
//! notes that the volume is there before it has unpacked anything. Ended then (killed, or with the power), it takes the
//! half for the whole afterwards (seen in 6.0.4, on btrfs), and no container made from it starts.
//!
//! What tells of it is the half-made container, which Incus keeps: [`Daemon::heal_image`]. So nothing else has to be
//! remembered, and it does not matter whether this daemon was ended as well.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use incus_client::{Instance, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::incus::error;

/// How long an unpacking program that has outlived its Incus is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Deletes the unpacked image of a half-made container, if Incus was ended in the middle of unpacking it. The image
    /// itself stays, and is unpacked again for the next container. Containers that were made from it are whole or broken
    /// by themselves, and stay as they are.
    ///
    /// # Errors
    /// Incus is not there, or its unpacking program still is: to be done again later.
    pub(crate) async fn heal_image(&self, half_made: &Instance) -> Result<()> {
        let (Some(image), false) = (
            half_made.config.get("volatile.base_image"),
            has_its_files(half_made),
        ) else {
            return Ok(());
        };
        let root = half_made.expanded_devices.values().find(|device| {
            let is = |key: &str, value: &str| device.get(key).is_some_and(|has| has == value);
            is("type", "disk") && is("path", "/")
        });
        let Some(pool) = root.and_then(|root| root.get("pool")) else {
            return Ok(());
        };
        let client = self.incus.client();
        let volume = match client.storage_volume(pool, "image", image).await {
            Ok(volume) => volume,
            // Some kinds of storage keep none.
            Err(problem) if problem.is_not_found() => return Ok(()),
            Err(problem) => return Err(error(problem)),
        };
        // It was there before, or is being unpacked just now, or was by this Incus, which then has brought it to an end.
        let operations = client.operations().await.map_err(error)?;
        let begun = operations.iter().map(|operation| &operation.created_at);
        if !is_half(&half_made.created_at, &volume.created_at, begun) {
            return Ok(());
        }
        let suffix = format!("/storage-pools/{pool}/images/{image}");
        Self::aside(move || wait_for_survivors(&suffix)).await?;
        match client.delete_storage_volume(pool, "image", image).await {
            Ok(()) => {
                tracing::warn!(
                    image,
                    pool,
                    "Incus was ended in the middle of unpacking this image: it is unpacked anew for the next container"
                );
                Ok(())
            }
            Err(problem) if problem.is_not_found() => Ok(()),
            Err(problem) if problem.is_unavailable() => Err(error(problem)),
            // Nothing gets better by waiting, and the container's name would never be free.
            Err(problem) => {
                tracing::error!(image, pool, error = %problem, "this image is unpacked to its half, and could not be deleted");
                Ok(())
            }
        }
    }
}

/// Whether Incus has given a container its copy of the image: it notes then what is to be done at the first start.
fn has_its_files(container: &Instance) -> bool {
    container.config.contains_key("volatile.apply_template")
        || container.last_used_at.unix_seconds().is_some()
}

/// Whether an unpacked image is not whole; the container that it was unpacked for is not.
///
/// `operations` is when those began that Incus knows of. It forgets them when it ends: one that began before the volume
/// did means that this is still the same Incus. It would have removed what it could not unpack.
fn is_half<'a>(
    container: &Timestamp,
    volume: &Timestamp,
    operations: impl Iterator<Item = &'a Timestamp>,
) -> bool {
    let (Some(container), Some(volume)) = (container.unix_nanoseconds(), volume.unix_nanoseconds())
    else {
        return false;
    };
    container <= volume
        && !operations
            .filter_map(Timestamp::unix_nanoseconds)
            .any(|operation| operation <= volume)
}

/// Waits for programs of Incus' that write below a directory whose path ends so. They outlive it, and would write into
/// what is unpacked next.
fn wait_for_survivors(suffix: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let survivors = survivors(suffix);
        let Some((pid, survivor)) = survivors.first() else {
            return Ok(());
        };
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(survivor, PollFlags::IN)];
        let patience = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => {
                return Err(Error::Failed(format!(
                    "the process {pid} is still unpacking for an Incus that is not there any more"
                )));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(problem) => return Err(Error::failed("waiting for a process")(problem)),
        }
    }
}

/// The processes of root that have such a directory, or one below it, among their arguments.
fn survivors(suffix: &str) -> Vec<(i32, OwnedFd)> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // Whoever else has such arguments is not to hold us up.
            if entry.metadata().ok()?.uid() != 0 {
                return None;
            }
            // Before its arguments are read: so it is this one that they are of.
            let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
            arguments
                .split(|&b| b == 0)
                .any(|argument| names(argument, suffix))
                .then_some((pid, process))
        })
        .collect()
}

fn names(argument: &[u8], suffix: &str) -> bool {
    let Ok(argument) = std::str::from_utf8(argument) else {
        return false;
    };
    argument
        .split_once(suffix)
        .is_some_and(|(_, below)| below.is_empty() || below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_half_if_it_was_begun_for_the_container_by_an_incus_that_is_gone() {
        let at = |second: u32| Timestamp::from(&*format!("2026-03-01T12:00:{second:02}.5Z"));
        let half = |container, volume, operations: &[u32]| {
            let operations: Vec<Timestamp> = operations.iter().map(|&second| at(second)).collect();
            is_half(&at(container), &at(volume), operations.iter())
        };
        // Incus has restarted: all that it does began afterwards.
        assert!(half(10, 11, &[]));
        assert!(half(10, 11, &[20, 21]));
        // It was there before.
        assert!(!half(10, 9, &[20]));
        // It is at work on it, or has been there all the time.
        assert!(!half(10, 11, &[10]));
        assert!(!half(10, 11, &[5, 20]));
        // An Incus that does not tell when.
        assert!(!is_half(&at(1), &Timestamp::default(), std::iter::empty()));
    }

    #[test]
    fn survivors_are_those_that_write_into_this_image() {
        let suffix = "/storage-pools/default/images/6ca5";
        for argument in [
            "/var/lib/incus/storage-pools/default/images/6ca5",
            "/var/lib/incus/storage-pools/default/images/6ca5/rootfs",
        ] {
            assert!(names(argument.as_bytes(), suffix), "{argument}");
        }
        for argument in [
            "/var/lib/incus/storage-pools/default/images/6ca5ff/rootfs",
            "/var/lib/incus/images/6ca5.rootfs",
            "",
        ] {
            assert!(!names(argument.as_bytes(), suffix), "{argument}");
        }
        assert!(survivors("/storage-pools/none/images/none").is_empty());
    }

    #[test]
    fn an_unpacking_program_that_outlives_its_incus_is_waited_for() {
        if !rustix::process::geteuid().is_root() {
            testbed::skip::say_skipped(format_args!("only programs of root are looked at"));
            return;
        }
        let suffix = format!("/storage-pools/test-{}/images/6ca5", std::process::id());
        let mut unpacking = std::process::Command::new("sh")
            .args(["-c", "read line", &format!("/var/lib/incus{suffix}/rootfs")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("there is a shell");
        // It is ourselves until it is the shell.
        let deadline = testbed::Deadline::usual();
        while survivors(&suffix).is_empty() {
            assert!(!deadline.left().is_zero(), "it is not found");
        }
        let suffix_of = suffix.clone();
        let waiting = std::thread::spawn(move || wait_for_survivors(&suffix_of));
        assert!(!waiting.is_finished());
        drop(unpacking.stdin.take());
        let waited = waiting.join().expect("it does not panic");
        assert!(waited.is_ok(), "{waited:?}");
        assert!(survivors(&suffix).is_empty());
        unpacking.wait().expect("it has ended");
    }
}
