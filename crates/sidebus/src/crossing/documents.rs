//! Files of documents: what crosses of them is their name.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use futures_util::future::BoxFuture;

use super::Refusal;

/// The longest id that is taken; those of the document portal have eight characters.
const MAX_ID_LEN: usize = 64;
/// The longest path below a document (bytes).
const MAX_PATH_LEN: usize = 4096;

/// The id of a document, as the document portal gives it: the first component of a path below its mount. Letters,
/// digits, `_` and `-`, so that it can be part of a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DocumentId(String);

impl DocumentId {
    /// None if it cannot be an id.
    pub fn parse(text: &str) -> Option<DocumentId> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        // The mount has one directory that is no document.
        let whole = (1..=MAX_ID_LEN).contains(&text.len()) && text.bytes().all(legal);
        (whole && text != "by-app").then(|| DocumentId(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where below a document: relative, of plain names only (no `..`, no `.`, nothing empty), without NUL. It may be
/// empty: the document's own directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct DocumentPath(PathBuf);

impl DocumentPath {
    /// None if it could lead out of the document.
    pub fn parse(path: &Path) -> Option<DocumentPath> {
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.len() > MAX_PATH_LEN || bytes.contains(&0) {
            return None;
        }
        // A path is exactly its plain components: `components` passes over "." and doubled slashes in silence.
        let plain: Option<PathBuf> = path
            .components()
            .map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let plain = plain?;
        (plain.as_os_str() == path.as_os_str()).then_some(DocumentPath(plain))
    }

    /// As a path, relative to the document's directory.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// How a file is open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// It is only a place (O_PATH).
    Path,
    /// To be read.
    Read,
    /// To be written.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    /// Whether something can be written by it.
    pub fn writes(self) -> bool {
        matches!(self, Access::Write | Access::ReadWrite)
    }
}

/// An open file of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DocumentFile {
    /// The document.
    pub id: DocumentId,
    /// Which of its files; a document of one file has that file's name here.
    pub path: DocumentPath,
    /// How it is open.
    pub access: Access,
}

/// Takes a path below `mount` apart: `MOUNT/ID/NAME…` or `MOUNT/by-app/APP/ID/NAME…`. It looks at no file.
/// None if it is not below a document.
pub fn split_document_path(mount: &Path, path: &Path) -> Option<(DocumentId, DocumentPath)> {
    let below = path.strip_prefix(mount).ok()?;
    let mut parts = below.components();
    let mut first = parts.next()?;
    if first.as_os_str() == "by-app" {
        parts.next()?;
        first = parts.next()?;
    }
    let id = DocumentId::parse(first.as_os_str().to_str()?)?;
    Some((id, DocumentPath::parse(parts.as_path())?))
}

/// The documents of a virtual machine, as the broker has them.
///
/// Where a descriptor is of a document's file, what crosses is the document's id and the name below it; on the other
/// side it is opened again. The guest's word is a claim: [`DocumentStore::open`] decides.
pub trait DocumentStore: Send + Sync + 'static {
    /// Which document's file a path *on the host* is (below the host's document mount of this machine). Looks at the
    /// path only, does not block.
    fn document_at(&self, path: &Path) -> Option<(DocumentId, DocumentPath)>;

    /// Opens the *host's own* file of a document (not the one below the mount: those turn `(deleted)`), close-on-exec.
    /// `file` is what the guest says; nothing of it has been checked but its form: whether the document is this
    /// machine's and not revoked, and whether it may write, is for the store to find out, and that no symbolic link
    /// leads out of the document.
    fn open<'a>(&'a self, file: &'a DocumentFile) -> BoxFuture<'a, Result<OwnedFd, Refusal>>;
}

/// No documents: for a broker without a document portal.
#[derive(Debug, Default)]
pub struct NoDocuments;

impl DocumentStore for NoDocuments {
    fn document_at(&self, _path: &Path) -> Option<(DocumentId, DocumentPath)> {
        None
    }

    fn open<'a>(&'a self, file: &'a DocumentFile) -> BoxFuture<'a, Result<OwnedFd, Refusal>> {
        Box::pin(async move {
            Err(Refusal::not_supported(format!(
                "the document {} cannot be opened: this virtual machine has no document portal on the host",
                file.id
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_lead_anywhere() {
        for good in ["a1b2c3d4", "x", "A-_9"] {
            assert!(DocumentId::parse(good).is_some(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", "a/b", "a.b", "by-app", "a\0", "ä", &long] {
            assert!(DocumentId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_path_below_a_document_stays_below() {
        for good in ["", "file.txt", "dir/sub/file", "..."] {
            assert!(DocumentPath::parse(Path::new(good)).is_some(), "{good}");
        }
        for bad in [
            "..",
            "../x",
            "a/../../b",
            "/etc",
            "./a",
            "a//b",
            "a/",
            "a/./b",
            ".",
            "a\0b",
        ] {
            assert!(DocumentPath::parse(Path::new(bad)).is_none(), "{bad}");
        }
        assert!(DocumentPath::parse(Path::new(&"a/".repeat(2050))).is_none());
    }

    #[test]
    fn both_forms_of_a_document_path_are_taken_apart() {
        let mount = Path::new("/run/user/1000/doc");
        let split = |path: &str| {
            split_document_path(mount, Path::new(path))
                .map(|(id, path)| (id.0, path.0.display().to_string()))
        };
        let some = |id: &str, path: &str| Some((id.to_owned(), path.to_owned()));
        assert_eq!(
            split("/run/user/1000/doc/ab12/x.txt"),
            some("ab12", "x.txt")
        );
        assert_eq!(
            split("/run/user/1000/doc/by-app/vm.one/ab12/d/x"),
            some("ab12", "d/x")
        );
        assert_eq!(split("/run/user/1000/doc/ab12"), some("ab12", ""));
        for other in [
            "/run/user/1000/doc",
            "/run/user/1000/docs/ab12/x",
            "/run/user/1000/doc/by-app/vm.one",
            "/run/user/1000/doc/../x",
            "/etc/passwd",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
