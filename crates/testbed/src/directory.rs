//! A directory that belongs to one test, and everything that was started in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::processes::end_processes_with;

/// A temporary directory with what a program expects of its surroundings: a home, a runtime directory
/// and places for data, so that no test sees those of the person who runs it, or another test's.
///
/// When it goes, it takes along every process that still has it in its environment: services that a bus
/// activated, daemons that forked themselves away from us. Also when the test is killed and runs no
/// destructors: a process beside it waits for that.
pub struct TestDir {
    dir: tempfile::TempDir,
    leash: Child,
}

/// Waits until the process that holds the other end of its stdin is gone. The terminal's signals are for
/// the test: this is there for what the test leaves behind.
const LEASH: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for environ in $(grep -lsaF "$1" /proc/[0-9]*/environ); do
    pid=${environ#/proc/}
    kill -KILL "${pid%/environ}" 2>/dev/null
done
rm -rf "$1"
"#;

impl TestDir {
    /// Makes the directory, below `/tmp`: socket paths have little room (108 bytes).
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kapsule-test-")
            .tempdir_in("/tmp")
            .unwrap_or_else(|error| panic!("making a temporary directory in /tmp: {error}"));
        for below in [
            "home",
            "runtime",
            "data",
            "config",
            "cache",
            "state",
            "system-data",
            "logs",
        ] {
            make_private(&dir.path().join(below));
        }
        let leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("starting sh: {error}"));
        TestDir { dir, leash }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path below it.
    pub fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Makes a directory below it, with its parents, for its owner only.
    pub fn make_dir(&self, below: impl AsRef<Path>) -> PathBuf {
        let path = self.join(below);
        make_private(&path);
        path
    }

    /// Writes a file below it and gives back its path. Parents are made.
    pub fn write(&self, below: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(below);
        if let Some(parent) = path.parent() {
            make_private(parent);
        }
        fs::write(&path, contents)
            .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        path
    }

    /// The environment of a program that lives in this directory; it replaces the inherited one.
    /// `XDG_DATA_DIRS` is a directory of the test, so nothing that is installed on the machine is found.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = [
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "runtime"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_DATA_DIRS", "system-data"),
            ("TMPDIR", "runtime"),
        ]
        .into_iter()
        .map(|(name, below)| (name.to_owned(), self.join(below).display().to_string()))
        .collect();
        environment.push(("LC_ALL".to_owned(), "C.UTF-8".to_owned()));
        for inherited in ["PATH", "USER", "LOGNAME", "RUST_LOG", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(inherited) {
                environment.push((inherited.to_owned(), value));
            }
        }
        environment
    }
}

impl Default for TestDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // Not needed any more: what it would do is done here, and the directory goes with its owner.
        let _ = self.leash.kill();
        let _ = self.leash.wait();
        end_processes_with(&self.path().display().to_string());
    }
}

fn make_private(path: &Path) {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Deadline, Process};

    /// Plays the test that is killed, in a process of its own.
    #[test]
    #[expect(
        clippy::zombie_processes,
        reason = "what is left behind is what is looked at"
    )]
    fn a_test_that_is_killed_leaves_nothing_behind() {
        const PATH_OF_VICTIM: &str = "TESTBED_VICTIM";
        if std::env::var_os(PATH_OF_VICTIM).is_some() {
            let dir = TestDir::new();
            let mut command = Command::new("sleep");
            command.arg("600").envs(dir.environment());
            let child = command.spawn().expect("sleep is there");
            println!("victim {} {}", child.id(), dir.path().display());
            // SIGKILL: no destructor runs.
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .expect("we may kill ourselves");
        }
        let outer = TestDir::new();
        let ours = std::env::current_exe().expect("a path");
        let mut command = Command::new(ours);
        command
            .args(["--exact", "--nocapture"])
            .arg("directory::tests::a_test_that_is_killed_leaves_nothing_behind")
            .env(PATH_OF_VICTIM, "yes");
        let (mut process, mut lines) =
            Process::start_reading(command, "victim", &outer.join("logs")).expect("it starts");
        let said = lines.expect_line("what was started", |line| line.contains("victim "));
        let words: Vec<&str> = said.split_whitespace().rev().collect();
        let (dir, pid) = (words[0].to_owned(), words[1].parse().expect("a number"));
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        process.wait(Deadline::usual()).expect("it is killed");
        if let Ok(pidfd) = pidfd {
            use std::os::fd::AsFd;
            let ended = Deadline::usual().wait_readable(&[pidfd.as_fd()]);
            assert!(ended.is_some(), "the process that it started ends");
        }
        // The pipe of its stdout ends with the last process that holds it; the leash holds none, and
        // removes the directory right after it has killed the rest.
        let deadline = Deadline::usual();
        while Path::new(&dir).exists() {
            assert!(!deadline.left().is_zero(), "{dir} is removed");
            std::thread::yield_now();
        }
    }
}
