//! File descriptors that come with a call: what they are, and what the host gets for them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, MemfdFlags, OFlags, fcntl_getfl, fstat, memfd_create};

/// The largest content that is taken from a descriptor (bytes): as much as crosses.
pub const LARGEST: u64 = 16 << 20;

/// What a descriptor is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// A file with this path.
    File(PathBuf),
    /// A directory with this path.
    Directory(PathBuf),
    /// Content without a file: a memfd, or a file that has been removed. Its name, if that can be one of a file.
    Content(Option<String>),
    /// A pipe or socket.
    Stream,
    /// A device or something else.
    Other,
}

impl Descriptor {
    /// Looks at one.
    ///
    /// # Errors
    /// The system does not say what it is.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Descriptor> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        Ok(match kind {
            FileType::Fifo | FileType::Socket => Descriptor::Stream,
            FileType::RegularFile => {
                let link = std::fs::read_link(own_link(fd))?;
                let text = link.to_string_lossy();
                if let Some(name) = text.strip_prefix("/memfd:") {
                    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
                    Descriptor::Content(file_name(name))
                } else if link.exists() {
                    Descriptor::File(link)
                } else {
                    let name = link
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned());
                    let name = name.map(|name| match name.strip_suffix(" (deleted)") {
                        Some(name) => name.to_owned(),
                        None => name,
                    });
                    Descriptor::Content(name.and_then(|name| file_name(&name)))
                }
            }
            FileType::Directory => Descriptor::Directory(std::fs::read_link(own_link(fd))?),
            _ => Descriptor::Other,
        })
    }
}

/// The path by which the kernel shows a descriptor of ours.
pub fn own_link(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The path of a descriptor as the kernel knows it, without the mark of a removed file: a document's file has that
/// soon after it was opened, though it is still there.
pub fn path_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let link = std::fs::read_link(own_link(fd)).ok()?.into_os_string();
    let mut bytes = link.into_vec();
    if !bytes.starts_with(b"/") {
        return None;
    }
    if let Some(stripped) = bytes.strip_suffix(b" (deleted)") {
        bytes.truncate(stripped.len());
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// Whether something can be written by it.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| {
        !flags.contains(OFlags::PATH)
            && matches!(flags & OFlags::RWMODE, OFlags::WRONLY | OFlags::RDWR)
    })
}

/// Whether something can be read from it.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| {
        !flags.contains(OFlags::PATH) && flags & OFlags::RWMODE != OFlags::WRONLY
    })
}

/// The whole content, from its beginning. The descriptor's own position stays where it is.
///
/// # Errors
/// It cannot be read, or is larger than [`LARGEST`].
pub fn content(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let size = fstat(&fd)?.st_size;
    let too_large = || {
        io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {} MiB", LARGEST >> 20),
        )
    };
    if u64::try_from(size).is_ok_and(|size| size > LARGEST) {
        return Err(too_large());
    }
    // A description of its own: the guest's client may share the old one.
    let file = File::open(own_link(fd.as_fd()))?;
    let mut bytes = Vec::new();
    // What grows meanwhile is not read further.
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(too_large());
    }
    Ok(bytes)
}

/// A memfd with this content that can still be sealed: portals seal what they are given, and refuse what is sealed.
///
/// # Errors
/// The system has none.
pub fn sealable_memfd(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// `name` if a file can be called so.
fn file_name(name: &str) -> Option<String> {
    let legal = !name.is_empty()
        && name.len() <= 255
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
        && !name.chars().any(char::is_control);
    legal.then(|| name.to_owned())
}

/// Whether `path` names something directly: absolute, without `.` and `..`.
pub fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && !path.as_os_str().as_bytes().contains(&0)
        && path
            .components()
            .skip(1)
            .all(|part| matches!(part, std::path::Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_known_for_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a file");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(
            Descriptor::of(file.as_fd()).unwrap(),
            Descriptor::File(path.clone())
        );
        let directory = File::open(dir.path()).unwrap();
        assert_eq!(
            Descriptor::of(directory.as_fd()).unwrap(),
            Descriptor::Directory(dir.path().to_owned())
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            Descriptor::of(file.as_fd()).unwrap(),
            Descriptor::Content(Some("a file".to_owned()))
        );
        assert_eq!(path_of(file.as_fd()).unwrap(), path);
        let memfd = sealable_memfd("notes.txt", b"content").unwrap();
        assert_eq!(
            Descriptor::of(memfd.as_fd()).unwrap(),
            Descriptor::Content(Some("notes.txt".to_owned()))
        );
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(Descriptor::of(reader.as_fd()).unwrap(), Descriptor::Stream);
        assert!(is_writable(writer.as_fd()) && !is_writable(reader.as_fd()));
        assert!(is_readable(reader.as_fd()) && !is_readable(writer.as_fd()));
        let null = File::open("/dev/null").unwrap();
        assert_eq!(Descriptor::of(null.as_fd()).unwrap(), Descriptor::Other);
    }

    #[test]
    fn content_is_read_from_its_beginning_and_not_beyond_the_bound() {
        let memfd = sealable_memfd("x", b"all of it").unwrap();
        let mut file = File::from(memfd);
        file.seek(io::SeekFrom::End(0)).unwrap();
        assert_eq!(
            content(file.try_clone().unwrap().into()).unwrap(),
            b"all of it"
        );
        file.set_len(LARGEST + 1).unwrap();
        assert_eq!(
            content(file.into()).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn a_name_with_a_slash_is_no_files() {
        for bad in ["", ".", "..", "a/b", "a\nb"] {
            assert_eq!(file_name(bad), None, "{bad:?}");
        }
        assert!(is_plain(Path::new("/a/b")));
        assert!(!is_plain(Path::new("/a/../b")) && !is_plain(Path::new("a")));
    }
}
