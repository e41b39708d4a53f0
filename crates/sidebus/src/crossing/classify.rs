//! What a file descriptor is, and so what crosses in its place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SocketType;

use super::{Access, DocumentFile, DocumentId, DocumentPath, Refusal};
use crate::wire::{MAX_FILE_LEN, Shape};

/// What crosses in place of a descriptor.
#[derive(Debug)]
pub(super) enum Crossing {
    Document(DocumentFile),
    /// The bytes of this file.
    Bytes {
        file: OwnedFd,
        len: u32,
        position: u32,
        name: String,
    },
    /// A stream; `end` is non-blocking, or a socket.
    Stream {
        end: OwnedFd,
        shape: Shape,
    },
}

/// Decides. `document_at` knows the document mount of this side; `other` is the other side's name for a person.
pub(super) fn classify(
    fd: OwnedFd,
    document_at: &dyn Fn(&Path) -> Option<(DocumentId, DocumentPath)>,
    other: &str,
) -> Result<Crossing, Refusal> {
    let looking = |error: rustix::io::Errno| {
        Refusal::failed(format!("looking at a file descriptor: {error}"))
    };
    let stat = rustix::fs::fstat(&fd).map_err(looking)?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(looking)?;
    let access = access(flags);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile | FileType::Directory => {
            if let Some((id, path)) = path_of(&fd).and_then(|path| document_at(&path)) {
                return Ok(Crossing::Document(DocumentFile { id, path, access }));
            }
        }
        _ => {}
    }
    let refused = |what: &str| {
        Err(Refusal::not_supported(format!(
            "{what} cannot be passed to {other}: only files of documents, other files up to 16 MiB, pipes and \
             stream sockets can"
        )))
    };
    match (kind, access) {
        (FileType::RegularFile, Access::Path) => refused("a file descriptor opened with O_PATH"),
        (FileType::RegularFile, Access::Write) => {
            refused("a file that is open for writing only, and is no document,")
        }
        (FileType::RegularFile, Access::Read | Access::ReadWrite) => {
            let len = u32::try_from(stat.st_size)
                .ok()
                .filter(|len| *len <= MAX_FILE_LEN);
            let Some(len) = len else {
                return refused(&format!("a file of {} bytes", stat.st_size));
            };
            let position = rustix::fs::tell(&fd).unwrap_or(0);
            let name = path_of(&fd)
                .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .map(|name| {
                    name.strip_prefix("memfd:")
                        .map(str::to_owned)
                        .unwrap_or(name)
                })
                .unwrap_or_default();
            Ok(Crossing::Bytes {
                file: fd,
                len,
                position: u32::try_from(position).unwrap_or(len),
                name,
            })
        }
        (FileType::Fifo, Access::Read) => pipe(&fd, OFlags::RDONLY, Shape::Reads),
        (FileType::Fifo, Access::Write) => pipe(&fd, OFlags::WRONLY, Shape::Writes),
        (FileType::Fifo, Access::ReadWrite) => {
            refused("a pipe that is open in both directions at one end")
        }
        (FileType::Socket, _) => match rustix::net::sockopt::socket_type(&fd) {
            Ok(SocketType::STREAM)
                if !rustix::net::sockopt::socket_acceptconn(&fd).unwrap_or(true) =>
            {
                Ok(Crossing::Stream {
                    end: fd,
                    shape: Shape::Socket,
                })
            }
            Ok(SocketType::STREAM) => refused("a socket that listens"),
            _ => refused("a socket that is no stream"),
        },
        (FileType::Directory, _) => refused("a directory that is no document"),
        (FileType::CharacterDevice | FileType::BlockDevice, _) => refused("a device"),
        _ => refused("this kind of file descriptor"),
    }
}

/// A pipe's end, opened once more: the file description that came is the sender's too, who would find it
/// non-blocking.
fn pipe(fd: &OwnedFd, flags: OFlags, shape: Shape) -> Result<Crossing, Refusal> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(end) => Ok(Crossing::Stream { end, shape }),
        // Another user's pipe cannot be opened so.
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => rustix::io::dup(fd)
            .and_then(|end| rustix::io::ioctl_fionbio(&end, true).map(|()| end))
            .map(|end| Crossing::Stream { end, shape })
            .map_err(|error| Refusal::failed(format!("taking a pipe: {error}"))),
        Err(error) => Err(Refusal::failed(format!(
            "taking a pipe: {error}; its other end may be closed"
        ))),
    }
}

fn access(flags: OFlags) -> Access {
    if flags.contains(OFlags::PATH) {
        return Access::Path;
    }
    match flags & OFlags::RWMODE {
        OFlags::WRONLY => Access::Write,
        OFlags::RDWR => Access::ReadWrite,
        _ => Access::Read,
    }
}

/// Where an open file is. A file below a document mount is called `(deleted)` as soon as the mount has forgotten its
/// name, and is there all the same: then it is the path without that word.
fn path_of(fd: impl AsFd) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let path = std::fs::read_link(link).ok()?;
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(rest) => Some(PathBuf::from(std::ffi::OsStr::from_bytes(rest))),
        None => Some(path),
    }
}

/// Reads of the file from `offset` on; empty at its end.
pub(super) fn read_part(file: &OwnedFd, offset: u32, most: usize) -> io::Result<Vec<u8>> {
    let mut part = Vec::with_capacity(most);
    loop {
        match rustix::io::pread(
            file,
            rustix::buffer::spare_capacity(&mut part),
            u64::from(offset),
        ) {
            Ok(_) => return Ok(part),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(fd: impl Into<OwnedFd>) -> Result<Crossing, Refusal> {
        let document_at =
            |path: &Path| super::super::split_document_path(Path::new("/nowhere"), path);
        classify(fd.into(), &document_at, "the host")
    }

    #[test]
    fn the_ends_of_a_pipe_cross_each_in_its_direction() {
        let (reader, writer) = std::io::pipe().unwrap();
        let kept = writer.try_clone().unwrap();
        let Ok(Crossing::Stream { shape, .. }) = look(reader) else {
            panic!("a reader is a stream");
        };
        assert_eq!(shape, Shape::Reads);
        // Its writer still has somebody to read: the end that was opened again is gone, though.
        let (reader, writer) = (std::io::pipe().unwrap(), writer);
        drop((reader, writer, kept));
        let (_reader, writer) = std::io::pipe().unwrap();
        let Ok(Crossing::Stream { shape, .. }) = look(writer) else {
            panic!("a writer is a stream");
        };
        assert_eq!(shape, Shape::Writes);
    }

    #[test]
    fn the_senders_own_end_of_a_pipe_stays_blocking() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let senders = reader.try_clone().unwrap();
        let crossing = look(reader).unwrap();
        let flags = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).unwrap();
        assert!(!flags(&senders.into()).contains(OFlags::NONBLOCK));
        let Crossing::Stream { end, .. } = crossing else {
            panic!("a stream");
        };
        assert!(flags(&end).contains(OFlags::NONBLOCK));
    }

    #[test]
    fn what_has_no_other_form_is_refused_with_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        let path = rustix::fs::open(&file, OFlags::PATH, Mode::empty()).unwrap();
        let writer = std::fs::File::options().write(true).open(&file).unwrap();
        let big = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.path().join("big"))
            .unwrap();
        big.set_len(u64::from(MAX_FILE_LEN) + 1).unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        for (fd, word) in [
            (path, "O_PATH"),
            (writer.into(), "writing only"),
            (big.into(), "16777217 bytes"),
            (event, "this kind"),
            (listener.into(), "listens"),
            (datagrams.into(), "no stream"),
            (std::fs::File::open(dir.path()).unwrap().into(), "directory"),
            (std::fs::File::open("/dev/null").unwrap().into(), "device"),
        ] {
            let refusal = look(fd).unwrap_err();
            assert_eq!(refusal.name(), "org.freedesktop.DBus.Error.NotSupported");
            assert!(refusal.text().contains(word), "{word}: {refusal}");
        }
    }

    #[test]
    fn a_file_crosses_with_its_name_its_length_and_where_it_is_read_next() {
        use std::io::Seek;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a name.txt");
        std::fs::write(&path, "0123456789").unwrap();
        let mut file = std::fs::File::open(path).unwrap();
        file.seek(io::SeekFrom::Start(4)).unwrap();
        let Ok(Crossing::Bytes {
            file,
            len,
            position,
            name,
        }) = look(file)
        else {
            panic!("bytes");
        };
        assert_eq!((len, position, name.as_str()), (10, 4, "a name.txt"));
        assert_eq!(read_part(&file, 8, 100).unwrap(), b"89");
        assert_eq!(read_part(&file, 10, 100).unwrap(), b"");
    }

    #[test]
    fn a_file_below_the_document_mount_crosses_by_its_id() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir(mount.path().join("ab12")).unwrap();
        let path = mount.path().join("ab12/x.txt");
        std::fs::write(&path, "x").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let document_at = |path: &Path| super::super::split_document_path(mount.path(), path);
        let crossing = classify(file.into(), &document_at, "the host").unwrap();
        let Crossing::Document(document) = crossing else {
            panic!("a document");
        };
        assert_eq!(document.id.as_str(), "ab12");
        assert_eq!(document.path.as_path(), Path::new("x.txt"));
        assert_eq!(document.access, Access::Write);
    }
}
