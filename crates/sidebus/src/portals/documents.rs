//! The virtual machine's own document portal, on the private bus.
//!
//! All programs of a guest have one application id there, the machine's: the mount that is shared with the guest is
//! `by-app/ID` of it, and between its programs the guest itself draws the lines.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use zbus::connection::Builder;
use zbus::{Connection, Message, Variant};

use super::refusal::Refusal;
use super::table::{DOCUMENTS_NAME, DOCUMENTS_PATH};
use super::values;
use crate::broker::status::DocumentStatus;
use crate::crossing::{
    self, Access, DocumentFile, DocumentId, DocumentPath, DocumentStore, split_document_path,
};

const INTERFACE: &str = "org.freedesktop.portal.Documents";
/// How long the document portal may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flags of AddFull and AddNamedFull.
const REUSE_EXISTING: u32 = 1;
const PERSISTENT: u32 = 2;
const DIRECTORY: u32 = 8;

/// A document's file on the host, and what the virtual machine may do with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// The file or directory. It may not exist (yet).
    pub path: PathBuf,
    /// Whether the machine may write it.
    pub writable: bool,
}

/// The documents of one virtual machine.
#[derive(Debug)]
pub struct Documents {
    bus: Connection,
    app_id: String,
    mount: PathBuf,
    persistent: bool,
    most: usize,
}

/// How documents are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DocumentsConfig {
    /// The private bus, where the machine's own document portal is.
    pub bus: String,
    /// The application id that stands for the machine; `by-app/` of it is what the guest sees.
    pub app_id: String,
    /// The mount on the host.
    pub mount: PathBuf,
    /// Whether documents outlive the broker.
    pub persistent: bool,
    /// How many there may be.
    pub most: usize,
}

impl Documents {
    /// Connects to the private bus.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(config: DocumentsConfig) -> zbus::Result<Documents> {
        let bus = Builder::address(config.bus.as_str())
            .method_timeout(PATIENCE)
            .build()
            .await?;
        Ok(Documents {
            bus,
            app_id: config.app_id,
            mount: config.mount,
            persistent: config.persistent,
            most: config.most,
        })
    }

    /// The application id that stands for the virtual machine.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// Where a client of the host that is the virtual machine sees its documents.
    pub fn shared_directory(&self) -> PathBuf {
        self.mount.join("by-app").join(&self.app_id)
    }

    async fn call(
        &self,
        method: &str,
        arguments: &(impl serde::Serialize + zbus::DynamicType),
    ) -> Result<Message, Refusal> {
        self.bus
            .call_method(
                Some(DOCUMENTS_NAME),
                DOCUMENTS_PATH,
                Some(INTERFACE),
                method,
                arguments,
            )
            .await
            .map_err(|error| Refusal::of_call(&format!("the document portal, {method}"), &error))
    }

    fn flags(&self, directory: bool) -> u32 {
        let mut flags = REUSE_EXISTING;
        if self.persistent {
            flags |= PERSISTENT;
        }
        if directory {
            flags |= DIRECTORY;
        }
        flags
    }

    /// Whether there may be `more` of them.
    async fn make_room(&self, more: usize) -> Result<(), Refusal> {
        let there = self.ids().await?.len();
        if there + more > self.most {
            return Err(Refusal::limit(format!(
                "{there} documents are shared with the virtual machine, and no more than {} may be (limits.documents \
                 in the broker's configuration)",
                self.most
            )));
        }
        Ok(())
    }

    /// Shares a file or directory that is there. Gives back the document's id, and where it is below the mount.
    ///
    /// # Errors
    /// It is not there, or the document portal refuses it.
    pub async fn add(&self, path: &Path, writable: bool) -> Result<(DocumentId, PathBuf), Refusal> {
        self.make_room(1).await?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| Refusal::failed(format!("{}: {error}", path.display())))?;
        let directory = File::from(
            fd.try_clone()
                .map_err(|error| Refusal::failed(format!("{}: {error}", path.display())))?,
        )
        .metadata()
        .is_ok_and(|metadata| metadata.is_dir());
        let answer = self
            .call(
                "AddFull",
                &(
                    vec![zbus::Fd::from(fd.as_fd())],
                    self.flags(directory),
                    self.app_id.as_str(),
                    permissions(writable),
                ),
            )
            .await?;
        let body = answer.body();
        let (ids, _): (Vec<String>, HashMap<String, Variant<'_>>) = body
            .deserialize()
            .map_err(|error| Refusal::failed(format!("the document portal's answer: {error}")))?;
        let id = ids.first().map(String::as_str).unwrap_or_default();
        self.added(id, path)
    }

    /// Shares a file that may not be there yet, to be written.
    ///
    /// # Errors
    /// Its directory is not there, or the document portal refuses it.
    pub async fn add_named(&self, path: &Path) -> Result<(DocumentId, PathBuf), Refusal> {
        self.make_room(1).await?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Refusal::failed(format!(
                "{}: it names no file",
                path.display()
            )));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd: OwnedFd = openat(CWD, parent, flags, Mode::empty())
            .map_err(|error| Refusal::failed(format!("{}: {error}", parent.display())))?;
        let mut name = name.as_bytes().to_vec();
        name.push(0);
        let answer = self
            .call(
                "AddNamedFull",
                &(
                    zbus::Fd::from(fd.as_fd()),
                    name,
                    self.flags(false),
                    self.app_id.as_str(),
                    permissions(true),
                ),
            )
            .await?;
        let body = answer.body();
        let (id, _): (String, HashMap<String, Variant<'_>>) = body
            .deserialize()
            .map_err(|error| Refusal::failed(format!("the document portal's answer: {error}")))?;
        self.added(&id, path)
    }

    fn added(&self, id: &str, path: &Path) -> Result<(DocumentId, PathBuf), Refusal> {
        let id = DocumentId::parse(id).ok_or_else(|| {
            Refusal::failed(format!("the document portal gave {} no id", path.display()))
        })?;
        let below = Path::new(id.as_str()).join(path.file_name().unwrap_or_default());
        tracing::info!(id = id.as_str(), path = %path.display(), "a document is shared");
        Ok((id, below))
    }

    /// What a document is, if the virtual machine may read it.
    ///
    /// # Errors
    /// There is no such document, or it is not the machine's (any more).
    pub async fn info(&self, id: &DocumentId) -> Result<Info, Refusal> {
        let answer = self.call("Info", &(id.as_str(),)).await?;
        let (path, apps): (Vec<u8>, HashMap<String, Vec<String>>) = answer
            .body()
            .deserialize()
            .map_err(|error| Refusal::failed(format!("the document portal's answer: {error}")))?;
        let granted = apps.get(&self.app_id);
        let may = |permission: &str| {
            granted.is_some_and(|granted| granted.iter().any(|given| given == permission))
        };
        if !may("read") {
            return Err(Refusal::not_found(format!(
                "the document {id} is not shared with this virtual machine"
            )));
        }
        Ok(Info {
            path: from_byte_string(path),
            writable: may("write"),
        })
    }

    /// The ids of all documents of the virtual machine.
    ///
    /// # Errors
    /// The document portal does not answer.
    pub async fn ids(&self) -> Result<Vec<(DocumentId, PathBuf)>, Refusal> {
        let answer = self.call("List", &(self.app_id.as_str(),)).await?;
        let documents: HashMap<String, Vec<u8>> = answer
            .body()
            .deserialize()
            .map_err(|error| Refusal::failed(format!("the document portal's answer: {error}")))?;
        Ok(documents
            .into_iter()
            .filter_map(|(id, path)| Some((DocumentId::parse(&id)?, from_byte_string(path))))
            .collect())
    }

    /// All documents of the virtual machine, for its status.
    ///
    /// # Errors
    /// The document portal does not answer.
    pub async fn list(&self) -> Result<Vec<DocumentStatus>, Refusal> {
        let mut list = Vec::new();
        for (id, path) in self.ids().await? {
            // One that goes meanwhile is not there.
            if let Ok(info) = self.info(&id).await {
                list.push(DocumentStatus {
                    id: id.to_string(),
                    path: path.display().to_string(),
                    writable: info.writable,
                });
            }
        }
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }

    /// The document that a path of the host belongs to: its file, or something below its directory.
    pub async fn find(&self, path: &Path) -> Option<(DocumentId, Info)> {
        if !super::descriptors::is_plain(path) {
            return None;
        }
        let ids = self.ids().await.ok()?;
        for (id, root) in ids {
            if path.starts_with(&root)
                && let Ok(info) = self.info(&id).await
                && path.starts_with(&info.path)
            {
                return Some((id, info));
            }
        }
        None
    }

    /// Takes a document away from the virtual machine: the guest's mount has it no longer.
    ///
    /// # Errors
    /// There is no such document.
    pub async fn revoke(&self, id: &DocumentId) -> Result<(), Refusal> {
        let all = vec!["read", "write", "grant-permissions", "delete"];
        self.call(
            "RevokePermissions",
            &(id.as_str(), self.app_id.as_str(), all),
        )
        .await?;
        tracing::info!(id = id.as_str(), "a document is no longer shared");
        Ok(())
    }

    /// The version of the document portal.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn version(&self) -> Result<u32, Refusal> {
        let answer = self
            .bus
            .call_method(
                Some(DOCUMENTS_NAME),
                DOCUMENTS_PATH,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &(INTERFACE, "version"),
            )
            .await
            .map_err(|error| Refusal::of_call("the document portal's version", &error))?;
        match values::arguments(&answer)?.first().map(values::unwrapped) {
            Some(Variant::U32(version)) => Ok(*version),
            _ => Err(Refusal::failed(
                "the document portal's version is no number",
            )),
        }
    }

    /// The host's path of a path that the guest sees below `documents`. None if it is not there, or leads out of it.
    pub async fn host_path(&self, documents: &Path, guest: &Path) -> Option<PathBuf> {
        let (id, below) = split_document_path(documents, guest)?;
        let info = self.info(&id).await.ok()?;
        below_root(&info.path, &below)
    }

    /// Opens the host's own file of a document: not the one below the mount, whose name soon says that it was removed.
    ///
    /// # Errors
    /// The document is not the machine's, may not be written, or the file is not there, or leads out of it.
    pub async fn open_file(&self, file: &DocumentFile) -> Result<OwnedFd, Refusal> {
        let info = self.info(&file.id).await?;
        if file.access.writes() && !info.writable {
            return Err(Refusal::not_allowed(format!(
                "the document {} may be read only",
                file.id
            )));
        }
        let flags = OFlags::CLOEXEC
            | OFlags::NOCTTY
            // What stands there may be a FIFO by now.
            | OFlags::NONBLOCK
            | match file.access {
                Access::Path => OFlags::PATH,
                Access::Read => OFlags::RDONLY,
                Access::Write => OFlags::WRONLY,
                Access::ReadWrite => OFlags::RDWR,
            };
        let DocumentFile { path: below, .. } = file.clone();
        tokio::task::spawn_blocking(move || open_beneath(&info.path, &below, flags))
            .await
            .map_err(|error| Refusal::failed(format!("opening a document: {error}")))?
    }
}

/// Opens what is `below` a document whose file or directory is `root`. The guest can write a shared directory, so a
/// symbolic link in it may lead anywhere: none is followed out of it.
fn open_beneath(root: &Path, below: &DocumentPath, flags: OFlags) -> Result<OwnedFd, Refusal> {
    let not_found = || Refusal::not_found("there is no such file in the document".to_owned());
    let name = root.file_name().ok_or_else(not_found)?;
    // The document's own directory, MOUNT/ID, has one entry: the file, or the directory that is shared.
    let rest = match below.as_path().strip_prefix(name) {
        Ok(rest) => rest.to_owned(),
        Err(_) if below.as_path().as_os_str().is_empty() => PathBuf::new(),
        Err(_) => return Err(not_found()),
    };
    let opened = if rest.as_os_str().is_empty() {
        openat(CWD, root, flags | OFlags::NOFOLLOW, Mode::empty())
    } else {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, root, directory, Mode::empty()).and_then(|root| {
            openat2(
                root,
                &rest,
                flags,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            )
        })
    };
    let opened = opened.map_err(|error| match error {
        rustix::io::Errno::NOENT => not_found(),
        other => Refusal::failed(format!("opening a document's file: {other}")),
    })?;
    // With O_PATH a link that must not be followed is opened itself.
    let is_link = rustix::fs::fstat(&opened).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink
    });
    if is_link {
        Err(not_found())
    } else {
        Ok(opened)
    }
}

/// The path of what is `below` a document whose file or directory is `root`.
fn below_root(root: &Path, below: &DocumentPath) -> Option<PathBuf> {
    if below.as_path().as_os_str().is_empty() {
        return root.parent().map(Path::to_owned);
    }
    let rest = below.as_path().strip_prefix(root.file_name()?).ok()?;
    Some(if rest.as_os_str().is_empty() {
        root.to_owned()
    } else {
        root.join(rest)
    })
}

fn from_byte_string(mut bytes: Vec<u8>) -> PathBuf {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn permissions(writable: bool) -> Vec<&'static str> {
    if writable {
        vec!["read", "write"]
    } else {
        vec!["read"]
    }
}

impl DocumentStore for Documents {
    fn document_at(&self, path: &Path) -> Option<(DocumentId, DocumentPath)> {
        split_document_path(&self.mount, path)
    }

    fn open<'a>(
        &'a self,
        file: &'a DocumentFile,
    ) -> BoxFuture<'a, Result<OwnedFd, crossing::Refusal>> {
        Box::pin(async move {
            self.open_file(file)
                .await
                .map_err(|refusal| match refusal.name() {
                    "org.freedesktop.portal.Error.NotFound" => {
                        crossing::Refusal::file_not_found(refusal.text())
                    }
                    "org.freedesktop.portal.Error.NotAllowed" => {
                        crossing::Refusal::access_denied(refusal.text())
                    }
                    _ => crossing::Refusal::failed(refusal.text()),
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(path: &str) -> DocumentPath {
        DocumentPath::parse(Path::new(path)).unwrap()
    }

    #[test]
    fn nothing_is_opened_outside_of_a_document() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("inside"), "in").unwrap();
        std::fs::write(dir.path().join("outside"), "out").unwrap();
        std::os::unix::fs::symlink("../outside", shared.join("leads-out")).unwrap();
        std::os::unix::fs::symlink("inside", shared.join("leads-in")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), dir.path().join("link")).unwrap();
        let open = |root: &Path, path: &str| open_beneath(root, &below(path), OFlags::RDONLY);
        assert!(open(&shared, "shared/inside").is_ok());
        assert!(open(&shared, "shared/leads-in").is_ok());
        assert!(open(&shared, "shared/leads-out").is_err());
        assert!(open(&shared, "other/inside").is_err());
        assert!(open(&dir.path().join("outside"), "outside").is_ok());
        assert!(
            open(&dir.path().join("link"), "link").is_err(),
            "a document that was replaced by a link"
        );
    }

    #[test]
    fn a_path_of_the_guest_is_one_of_the_host_below_the_document() {
        let root = Path::new("/home/u/dir");
        assert_eq!(below_root(root, &below("dir")).unwrap(), root);
        assert_eq!(
            below_root(root, &below("dir/a/b")).unwrap(),
            Path::new("/home/u/dir/a/b")
        );
        assert_eq!(below_root(root, &below("")).unwrap(), Path::new("/home/u"));
        assert_eq!(below_root(root, &below("other")), None);
    }
}
