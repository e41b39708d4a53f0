//! org.freedesktop.portal.Documents, as the guest sees it.
//!
//! The guest's programs are one application to the document portal. A guest cannot share files of its own: nobody on
//! the host would get at them. What it can do with documents is see where they are, and give them back.

use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use zbus::{Fd, Variant};

use super::descriptors;
use super::documents::Documents;
use super::refusal::Refusal;
use super::values::{self, Value};
use crate::crossing::{DocumentId, split_document_path};

/// What a method answers. `arguments` are translated: descriptors are the host's own files of documents.
///
/// # Errors
/// It cannot be done, with the reason.
pub async fn call(
    documents: &Documents,
    mount: &Path,
    method: &str,
    arguments: Vec<Value>,
) -> Result<Vec<Value>, Refusal> {
    let mut arguments = arguments.into_iter();
    let mut next = || {
        arguments
            .next()
            .ok_or_else(|| Refusal::invalid("an argument is missing"))
    };
    Ok(match method {
        "GetMountPoint" => vec![values::byte_string(mount.as_os_str().as_bytes())],
        "Add" => vec![Value::from(
            existing(documents, &next()?).await?.to_string(),
        )],
        "AddFull" => {
            let mut ids = Vec::new();
            for item in values::items(&next()?)? {
                ids.push(existing(documents, &item).await?.to_string());
            }
            let mount_point = values::byte_string(mount.as_os_str().as_bytes());
            vec![
                Value::from(ids),
                values::dictionary([("mountpoint".to_owned(), mount_point)]),
            ]
        }
        "GrantPermissions" => {
            let id = id(&next()?)?;
            next()?;
            let wanted = values::texts(&next()?).unwrap_or_default();
            let info = documents.info(&id).await?;
            // Every program of the guest sees what the machine has; what the machine does not have it cannot give.
            if wanted.iter().any(|wanted| wanted == "write") && !info.writable {
                return Err(Refusal::not_allowed(format!(
                    "the document {id} may be read only"
                )));
            }
            Vec::new()
        }
        "RevokePermissions" => {
            documents.info(&id(&next()?)?).await?;
            return Err(Refusal::not_allowed(
                "to the host all programs of this virtual machine are one: a document is taken from all of them \
                 (Delete), or from none",
            ));
        }
        "Delete" => {
            let id = id(&next()?)?;
            documents.info(&id).await?;
            documents.revoke(&id).await?;
            Vec::new()
        }
        "Lookup" => {
            let guest = values::bytes(&next()?).unwrap_or_default();
            let guest = PathBuf::from(std::ffi::OsString::from_vec(guest));
            let found = match split_document_path(mount, &guest) {
                Some((id, _)) => documents.info(&id).await.is_ok().then(|| id.to_string()),
                None => None,
            };
            vec![Value::from(found.unwrap_or_default())]
        }
        other => return Err(Refusal::unknown_method(format!("{other} is not carried"))),
    })
}

fn id(value: &Value) -> Result<DocumentId, Refusal> {
    let text = values::text(value).unwrap_or_default();
    DocumentId::parse(text)
        .ok_or_else(|| Refusal::not_found(format!("there is no document {text:?}")))
}

/// The document that a descriptor's file belongs to.
async fn existing(documents: &Documents, value: &Value) -> Result<DocumentId, Refusal> {
    let path = match value {
        Variant::Fd(Fd::Owned(fd)) => descriptors::path_of(fd.as_fd()),
        _ => None,
    };
    let found = match path {
        Some(path) => documents.find(&path).await,
        None => None,
    };
    found.map(|(id, _)| id).ok_or_else(|| {
        Refusal::not_supported(
            "a file of the guest cannot be shared with the host by the document portal; only one that the host has \
             shared already is known to it",
        )
    })
}
