//! A file that has crossed by its bytes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};

/// The longest name of a memfd is 249 bytes.
const MAX_NAME: usize = 249;

/// A memfd that is being filled.
#[derive(Debug)]
pub(super) struct SealedFile {
    fd: OwnedFd,
    len: u32,
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
        Ok(SealedFile { fd, len: 0 })
    }

    /// How long it is.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Appends.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = rustix::io::write(&self.fd, bytes)?;
            bytes = &bytes[count..];
            self.len += count as u32;
        }
        Ok(())
    }

    /// Nobody can change it any more. F_SEAL_SEAL is not set: portals refuse icons that have it.
    pub fn seal(self, position: u32) -> io::Result<OwnedFd> {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&self.fd, seals)?;
        rustix::fs::seek(&self.fd, SeekFrom::Start(u64::from(position)))?;
        Ok(self.fd)
    }
}
