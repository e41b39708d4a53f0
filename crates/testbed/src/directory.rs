//! A directory that belongs to one test, and everything that was started in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::processes::end_processes_with;

/// A temporary directory with what a program expects of its surroundings: a home, a runtime directory
/// and places for data, so that no test sees those of the person who runs it, or another test's.
///
/// When it goes, it takes along every process that still has it in its environment: services that a bus
/// activated, daemons that forked themselves away from us.
pub struct TestDir {
    dir: tempfile::TempDir,
}

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
        TestDir { dir }
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
        end_processes_with(&self.path().display().to_string());
    }
}

fn make_private(path: &Path) {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
}
