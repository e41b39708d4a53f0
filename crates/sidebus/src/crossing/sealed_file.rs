//! A file that has crossed by its bytes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};

/// The longest name of a memfd is 249 bytes.
const MAX_NAME: usize = 249;

/// A memfd that is being filled.
#[derive(Debug)]
pub(crate) struct SealedFile {
    fd: OwnedFd,
}

impl SealedFile {
    /// An empty one; `name` is shown as that of the file.
    pub fn new(name: &str) -> io::Result<SealedFile> {
        let mut end = name.len().min(MAX_NAME);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Without the flag, kernels since 6.3 may complain in their log, and can be told to refuse.
        let noexec = flags | MemfdFlags::NOEXEC_SEAL;
        let fd = match rustix::fs::memfd_create(&name[..end], noexec) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(&name[..end], flags)?,
            other => other?,
        };
        Ok(SealedFile { fd })
    }

    /// Appends.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = rustix::io::write(&self.fd, bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Nobody can change it any more. F_SEAL_SEAL is not set: portals refuse icons that have it. Gives the file, and a
    /// descriptor that is open for reading only: by it one finds out whether the first is still open somewhere.
    pub fn seal(self, position: u32) -> io::Result<(OwnedFd, OwnedFd)> {
        let again = |mode| {
            let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
            rustix::fs::open(path, mode | OFlags::CLOEXEC, Mode::empty())
        };
        // The kernel counts who has opened a file for writing, and the one that made it has not opened it.
        let (file, watch) = (again(OFlags::RDWR)?, again(OFlags::RDONLY)?);
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&self.fd, seals)?;
        rustix::fs::seek(&file, SeekFrom::Start(u64::from(position)))?;
        Ok((file, watch))
    }
}
