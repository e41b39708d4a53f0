//! Whether a file was saved.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// Watches the directories in which a file's name stands: editors write a new file and rename it over the old
/// one, so a watch on the file itself would lose it.
pub(super) struct FileWatch {
    fd: OwnedFd,
    names: BTreeSet<OsString>,
}

impl FileWatch {
    /// Watches `path`, and what it is a symbolic link to.
    ///
    /// # Errors
    /// The system has no more watches, or a directory is not there.
    pub fn new(path: &Path) -> std::io::Result<FileWatch> {
        let fd = inotify::init(CreateFlags::CLOEXEC)?;
        let mut names = BTreeSet::new();
        let real = std::fs::canonicalize(path)?;
        for path in BTreeSet::from([path.to_owned(), real]) {
            let Some(name) = path.file_name() else {
                continue;
            };
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
            inotify::add_watch(&fd, &parent, flags | WatchFlags::ONLYDIR)?;
            names.insert(name.to_owned());
        }
        Ok(FileWatch { fd, names })
    }

    /// Waits until the file was saved.
    ///
    /// # Errors
    /// The watch is of no use any more.
    pub fn wait(&mut self) -> std::io::Result<()> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| std::ffi::OsStr::from_bytes(name.to_bytes()));
                    let lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                    if lost || name.is_some_and(|name| self.names.contains(name)) {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
