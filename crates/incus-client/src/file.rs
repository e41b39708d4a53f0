//! Files in instances, that run or not.

use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::client::{Body, Call, Client, decode, empty, full, read};
use crate::image::octets;
use crate::{Error, Result};

const UID: HeaderName = HeaderName::from_static("x-incus-uid");
const GID: HeaderName = HeaderName::from_static("x-incus-gid");
const MODE: HeaderName = HeaderName::from_static("x-incus-mode");
const KIND: HeaderName = HeaderName::from_static("x-incus-type");
const WRITE: HeaderName = HeaderName::from_static("x-incus-write");

/// Whose a file is, and who may do what with it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// The user, as the instance counts them.
    pub uid: u32,
    /// The group, as the instance counts them.
    pub gid: u32,
    /// Permissions, such as `0o644`.
    pub mode: u32,
}

/// A file of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceFile {
    /// Whose it is.
    pub ownership: Ownership,
    /// What it is and holds.
    pub contents: Contents,
}

/// What a file is and holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Bytes; at most 64 MiB are read.
    File(Vec<u8>),
    /// Names.
    Directory(Vec<String>),
    /// Where it points; Incus makes that an absolute path.
    Symlink(String),
}

impl Client {
    /// Reads a file, a directory or a symbolic link of an instance.
    ///
    /// `GET /1.0/instances/NAME/files?path=PATH`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn read_file(&self, instance: &str, path: &str) -> Result<InstanceFile> {
        let doing = format!("reading {path} in the instance {instance}");
        let call = Call::get(&["instances", instance, "files"], doing.as_str()).query("path", path);
        let response = self.send(call).await?;
        let ownership = ownership_of(&response);
        let kind = header(&response, &KIND).unwrap_or_default().to_owned();
        let bytes = read(&doing, response.into_body()).await?;
        let contents = match kind.as_str() {
            "directory" => Contents::Directory(
                decode::<Option<Vec<String>>>(&doing, &bytes)?.unwrap_or_default(),
            ),
            "symlink" => Contents::Symlink(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
            _ => Contents::File(bytes),
        };
        Ok(InstanceFile {
            ownership,
            contents,
        })
    }

    /// Writes a file of an instance, in the place of one that is there.
    ///
    /// `POST /1.0/instances/NAME/files?path=PATH`
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such instance or directory.
    pub async fn write_file(
        &self,
        instance: &str,
        path: &str,
        contents: impl Into<bytes::Bytes>,
        ownership: Ownership,
    ) -> Result<()> {
        let doing = format!("writing {path} in the instance {instance}");
        let body = full(contents);
        self.put_file(instance, path, "file", body, ownership, doing)
            .await
    }

    /// Makes a directory in an instance; its parents have to be there.
    ///
    /// `POST /1.0/instances/NAME/files?path=PATH`
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such instance or parent.
    pub async fn make_directory(
        &self,
        instance: &str,
        path: &str,
        ownership: Ownership,
    ) -> Result<()> {
        let doing = format!("making the directory {path} in the instance {instance}");
        self.put_file(instance, path, "directory", empty(), ownership, doing)
            .await
    }

    /// Makes a symbolic link in an instance.
    ///
    /// `POST /1.0/instances/NAME/files?path=PATH`
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such instance or directory.
    pub async fn make_symlink(&self, instance: &str, path: &str, target: &str) -> Result<()> {
        let doing = format!("making the link {path} in the instance {instance}");
        let roots = Ownership {
            uid: 0,
            gid: 0,
            mode: 0o777,
        };
        let body = full(target.to_owned());
        self.put_file(instance, path, "symlink", body, roots, doing)
            .await
    }

    /// Deletes a file, or an empty directory, of an instance.
    ///
    /// `DELETE /1.0/instances/NAME/files?path=PATH`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_file(&self, instance: &str, path: &str) -> Result<()> {
        let doing = format!("deleting {path} in the instance {instance}");
        let call = Call::delete(&["instances", instance, "files"], doing).query("path", path);
        self.tell(call).await
    }

    async fn put_file(
        &self,
        instance: &str,
        path: &str,
        kind: &'static str,
        body: Body,
        ownership: Ownership,
        doing: String,
    ) -> Result<()> {
        let Ownership { uid, gid, mode } = ownership;
        let octal =
            HeaderValue::from_str(&format!("{mode:04o}")).map_err(|error| Error::Protocol {
                doing: doing.clone(),
                why: error.to_string(),
            })?;
        let call = Call::post(&["instances", instance, "files"], doing)
            .query("path", path)
            .body(body)
            // Without it the body is taken for a form.
            .header(CONTENT_TYPE, octets())
            .header(KIND, HeaderValue::from_static(kind))
            .header(UID, uid.into())
            .header(GID, gid.into())
            .header(MODE, octal)
            .header(WRITE, HeaderValue::from_static("overwrite"))
            .unlimited();
        self.tell(call).await
    }
}

fn header<'a>(response: &'a Response<Incoming>, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn ownership_of(response: &Response<Incoming>) -> Ownership {
    let number = |name, radix| {
        header(response, name)
            .and_then(|text| u32::from_str_radix(text.trim_start_matches("0o"), radix).ok())
            .unwrap_or(0)
    };
    Ownership {
        uid: number(&UID, 10),
        gid: number(&GID, 10),
        mode: number(&MODE, 8),
    }
}
