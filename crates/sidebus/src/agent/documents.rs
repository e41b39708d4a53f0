//! The host's documents, where the guest sees them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::crossing::{
    Access, DocumentFile, DocumentId, DocumentPath, Refusal, split_document_path,
};

/// The mount.
#[derive(Clone, Debug)]
pub(super) struct Documents {
    mount: PathBuf,
}

impl Documents {
    pub fn new(mount: PathBuf) -> Documents {
        Documents { mount }
    }

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    pub fn document_at(&self, path: &Path) -> Option<(DocumentId, DocumentPath)> {
        split_document_path(&self.mount, path)
    }

    /// Opens a document's file. Blocks.
    pub fn open(&self, file: &DocumentFile) -> Result<OwnedFd, Refusal> {
        let below = Path::new(file.id.as_str()).join(file.path.as_path());
        let flags = match file.access {
            Access::Path => OFlags::PATH,
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.mount, directory, Mode::empty())
            .and_then(|mount| {
                rustix::fs::openat2(
                    &mount,
                    &below,
                    flags | OFlags::CLOEXEC | OFlags::NOCTTY,
                    Mode::empty(),
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
                )
            })
            .map_err(|errno| {
                let text = format!(
                    "opening the document {} in the guest at {}: {errno}; are the host's documents mounted there?",
                    file.id,
                    self.mount.display()
                );
                match errno {
                    Errno::NOENT => Refusal::file_not_found(text),
                    Errno::ACCESS | Errno::PERM | Errno::ROFS => Refusal::access_denied(text),
                    _ => Refusal::failed(text),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_does_not_lead_out_of_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("doc");
        std::fs::create_dir_all(mount.join("ab12")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(mount.join("ab12/x"), "x").unwrap();
        std::os::unix::fs::symlink("../../secret", mount.join("ab12/out")).unwrap();
        let documents = Documents::new(mount);
        let open = |name: &str| {
            documents.open(&DocumentFile {
                id: DocumentId::parse("ab12").unwrap(),
                path: DocumentPath::parse(Path::new(name)).unwrap(),
                access: Access::Read,
            })
        };
        assert!(open("x").is_ok());
        assert!(open("out").is_err());
        assert_eq!(
            open("no").unwrap_err().name(),
            "org.freedesktop.DBus.Error.FileNotFound"
        );
    }
}
