//! The files of a container, read from outside without being led out of it.
//!
//! Everything there is the container's to change at any time: a path may lead anywhere, a file may be a pipe that never
//! says anything, or have no end. So each path is resolved inside the container's root, in one system call; only regular
//! files are read; and a limit comes first.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// As much of a file as is read: /etc/group of a large site has some hundred kilobytes.
const LIMIT: u64 = 4 << 20;

/// The root directory of a container.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// The root of a process.
    ///
    /// # Errors
    /// If it has gone, or must not be looked at.
    pub(super) fn of_process(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(
            CWD,
            format!("/proc/{pid}/root"),
            flags,
            Mode::empty(),
        )?))
    }

    #[cfg(test)]
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// What is at a path, without opening it: symbolic links, absolute ones too, lead inside.
    ///
    /// # Errors
    /// As `openat2(2)`.
    pub(super) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH)
    }

    /// The same, without following a link at the end of the path.
    pub(crate) fn find_itself(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        // EAGAIN: something was renamed meanwhile, and the kernel cannot say whether the path left the root.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
                Err(rustix::io::Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Reads a regular file, 4 MiB at most.
    ///
    /// # Errors
    /// If it is not there, is something else, or is larger.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.find(path)?;
        let stat = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a regular file",
            ));
        }
        let mut content = Vec::new();
        std::fs::File::from(reopen(found.as_fd(), OFlags::RDONLY)?)
            .take(LIMIT + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 > LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is larger than 4 MiB",
            ));
        }
        Ok(content)
    }

    /// A small text file; nothing if it is not there, or not to be read.
    pub(super) fn text(&self, path: &str) -> String {
        self.read(Path::new(path))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether a file is there that somebody may execute.
    pub fn is_program(&self, path: &Path) -> bool {
        self.find(path)
            .and_then(|found| Ok(rustix::fs::fstat(found)?))
            .is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                    && stat.st_mode & 0o111 != 0
            })
    }

    /// Whether anything is at the path.
    pub fn has(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }
}

/// Opens what a path descriptor stands for: that very file, whatever is at its path now.
pub(super) fn reopen(path: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(
        format!("/proc/self/fd/{}", path.as_raw_fd()),
        flags,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("etc")).expect("it is new");
        let root = Root::at(dir.path()).expect("it is there");
        (dir, root)
    }

    #[test]
    fn links_that_lead_out_lead_inside() {
        let (dir, root) = container();
        std::fs::write(dir.path().join("etc/real"), "inside").expect("writable");
        for (link, to) in [("absolute", "/etc/real"), ("up", "../../../../../etc/real")] {
            std::os::unix::fs::symlink(to, dir.path().join("etc").join(link)).expect("it is new");
            assert_eq!(root.text(&format!("/etc/{link}")), "inside", "{link}");
        }
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/host")).expect("new");
        assert!(root.read(Path::new("/etc/host")).is_err());
    }

    #[test]
    fn a_pipe_in_place_of_a_file_does_not_hold_anybody_up() {
        let (dir, root) = container();
        let fifo = dir.path().join("etc/passwd");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).expect("it is new");
        let error = root
            .read(Path::new("/etc/passwd"))
            .expect_err("it is a pipe");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let (dir, root) = container();
        let file = std::fs::File::create(dir.path().join("etc/group")).expect("it is new");
        file.set_len(LIMIT + 1).expect("sparse");
        let error = root
            .read(Path::new("/etc/group"))
            .expect_err("it is too large");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
