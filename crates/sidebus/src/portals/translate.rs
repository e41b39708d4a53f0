//! Arguments on their way to the host, and results on their way to the guest, as the [table](super::table) describes
//! them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use rustix::fs::{CWD, OFlags, fcntl_getfl};
use zbus::{Fd, Variant};

use super::activation_tokens::ActivationTokens;
use super::descriptors::{self, Descriptor};
use super::documents::Documents;
use super::handles::is_token;
use super::refusal::Refusal;
use super::spool::Spool;
use super::table::{Arg, In, Key, Method, Needs, Out, Response};
use super::uri;
use super::values::{self, Value};
use crate::crossing::{Access, DocumentFile};
use crate::policy_file::Policy;

/// The largest icon or sound (bytes).
const LARGEST_PICTURE: usize = 1 << 20;
/// The prefix by which an action's name comes back as it was; see [`In::Action`].
pub const ACTION_PREFIX: &str = "sidebus.";

/// What translating needs to know.
#[derive(Debug)]
pub struct Translator<'t> {
    /// The machine's documents.
    pub documents: &'t Documents,
    /// Where the client sees them.
    pub mount: &'t Path,
    /// What is allowed.
    pub policy: &'t Policy,
    /// Where content becomes files.
    pub spool: &'t Spool,
    /// Tokens that the host issued.
    pub tokens: &'t Mutex<ActivationTokens>,
    /// The interface's version: newer options are left out.
    pub version: u32,
}

/// What became of arguments.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The guest's `handle_token`, checked.
    pub handle_token: Option<String>,
    /// The guest's `session_handle_token`, checked.
    pub session_token: Option<String>,
    /// Whether the method takes the latter.
    pub wants_session: bool,
    /// Options that were left out, and why.
    pub left_out: Vec<(String, &'static str)>,
}

/// What stands in for the guest's handles and tokens.
pub trait Substitutes: Send + Sync {
    /// The host's handle of the guest's session.
    fn session(&self, guest: &str) -> Option<String>;
    /// Our token for the request.
    fn handle_token(&self) -> String;
    /// Our token for the session.
    fn session_token(&self) -> String;
}

impl Translator<'_> {
    /// The arguments of a call, as the host gets them.
    ///
    /// # Errors
    /// They are not those of the method, or one of them cannot cross.
    pub async fn arguments(
        &self,
        method: &Method,
        arguments: Vec<Value>,
        substitutes: &dyn Substitutes,
    ) -> Result<(Vec<Value>, Outcome), Refusal> {
        let signature: String = arguments.iter().map(values::signature).collect();
        let expected = method.signature();
        if signature != expected {
            return Err(Refusal::named(
                "org.freedesktop.DBus.Error.InvalidArgs",
                format!(
                    "{} takes ({expected}), and this is ({signature})",
                    method.name
                ),
            ));
        }
        let mut outcome = Outcome::default();
        let mut translated = Vec::with_capacity(arguments.len());
        for (Arg { name, role, .. }, value) in method.ins.iter().zip(arguments) {
            let value = self
                .inward(name, *role, value, substitutes, &mut outcome)
                .await?
                .ok_or_else(|| Refusal::invalid(format!("\"{name}\" cannot be left out")))?;
            translated.push(value);
        }
        Ok((translated, outcome))
    }

    /// One value; none: left out.
    fn inward<'f>(
        &'f self,
        name: &'f str,
        role: In,
        value: Value,
        substitutes: &'f dyn Substitutes,
        outcome: &'f mut Outcome,
    ) -> BoxFuture<'f, Result<Option<Value>, Refusal>> {
        Box::pin(async move {
            Ok(Some(match role {
                In::Data => {
                    if values::has_descriptor(&value) {
                        return Err(Refusal::not_supported(format!(
                            "\"{name}\" has a file descriptor in it, where plain data is expected"
                        )));
                    }
                    value
                }
                In::Window => Value::from(""),
                In::Options(keys) => self.options(keys, value, substitutes, outcome).await?,
                In::Entries(keys) => {
                    let mut entries = Vec::new();
                    for entry in values::items(&value)? {
                        entries.push(self.options(keys, entry, substitutes, outcome).await?);
                    }
                    values::array("a{sv}", entries)?
                }
                In::Named(keys) => {
                    let mut entries = Vec::new();
                    for entry in values::items(&value)? {
                        let Variant::Structure(structure) = entry else {
                            return Err(Refusal::invalid(format!(
                                "\"{name}\": expected a(sa{{sv}})"
                            )));
                        };
                        let mut fields = structure.into_fields();
                        if let (Some(options), Some(id)) = (fields.pop(), fields.pop()) {
                            let options = self.options(keys, options, substitutes, outcome).await?;
                            entries.push(pair(id_text(id)?, options)?);
                        }
                    }
                    values::array("(sa{sv})", entries)?
                }
                In::AllBut(dropped) => {
                    let mut kept = Vec::new();
                    for (key, value) in values::entries(value)? {
                        if dropped.contains(&key.as_str()) {
                            outcome.left_out.push((key, "it names a file of the host"));
                        } else if values::has_descriptor(&value) {
                            outcome
                                .left_out
                                .push((key, "it has a file descriptor in it"));
                        } else {
                            kept.push((key, value));
                        }
                    }
                    values::dictionary(kept)
                }
                In::HandleToken => {
                    outcome.handle_token = Some(token(name, &value)?);
                    return Ok(None);
                }
                In::SessionToken => {
                    outcome.session_token = Some(token(name, &value)?);
                    return Ok(None);
                }
                In::Session => {
                    let guest = values::path_text(&value).unwrap_or_default();
                    let host = substitutes.session(guest).ok_or_else(|| {
                        Refusal::invalid(format!("{guest} is no session of this client"))
                    })?;
                    object_path(&host)?
                }
                In::Uri => {
                    self.check_uri(values::text(&value).unwrap_or_default())?;
                    value
                }
                In::Place => {
                    let guest = values::bytes(&value).unwrap_or_default();
                    let guest = PathBuf::from(std::ffi::OsString::from_vec(guest));
                    match self.documents.host_path(self.mount, &guest).await {
                        Some(host) => values::byte_string(host.as_os_str().as_bytes()),
                        None => {
                            outcome
                                .left_out
                                .push((name.to_owned(), "it is a place in the guest alone"));
                            return Ok(None);
                        }
                    }
                }
                In::BaseName => {
                    let text = values::text(&value).unwrap_or_default();
                    Value::from(base_name(text.as_bytes()).map_or_else(String::new, |name| {
                        String::from_utf8_lossy(&name).into_owned()
                    }))
                }
                In::BaseNames => {
                    let mut names = Vec::new();
                    for item in values::items(&value)? {
                        let bytes = values::bytes(&item).unwrap_or_default();
                        let base = base_name(&bytes).ok_or_else(|| {
                            Refusal::invalid(format!(
                                "\"{name}\": {:?} is not the name of a file",
                                String::from_utf8_lossy(&bytes)
                            ))
                        })?;
                        names.push(values::byte_string(&base));
                    }
                    values::array("ay", names)?
                }
                In::ActivationToken => {
                    let token = values::text(&value).unwrap_or_default();
                    let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                    if !tokens.issued(token) {
                        outcome
                            .left_out
                            .push((name.to_owned(), "the host did not issue this token"));
                        return Ok(None);
                    }
                    value
                }
                In::Fd(needs) => Variant::Fd(Fd::Owned(
                    self.descriptor(needs, descriptor_of(value)?).await?,
                )),
                In::Fds(needs) => {
                    let mut descriptors = Vec::new();
                    for item in values::items(&value)? {
                        let fd = self.descriptor(needs, descriptor_of(item)?).await?;
                        descriptors.push(Variant::Fd(Fd::Owned(fd)));
                    }
                    values::array("h", descriptors)?
                }
                // As the host's portal has it: what is said is shown, if not with this picture.
                In::Icon | In::Sound => {
                    let crossed = match role {
                        In::Icon => icon(value).await,
                        _ => sound(value).await,
                    };
                    match crossed {
                        Ok(value) => value,
                        Err(refusal) => {
                            tracing::debug!(name, %refusal, "an icon or sound is left out");
                            outcome.left_out.push((
                                name.to_owned(),
                                "it is none by name, bytes or descriptor, or too large",
                            ));
                            return Ok(None);
                        }
                    }
                }
                In::Action => {
                    let action = values::text(&value).unwrap_or_default();
                    Value::from(exported_action(action))
                }
                In::Never(why) => {
                    if matches!(value, Variant::Bool(true)) {
                        return Err(Refusal::not_allowed(format!(
                            "\"{name}\" is refused: {why}"
                        )));
                    }
                    return Ok(None);
                }
                In::Dropped => {
                    outcome
                        .left_out
                        .push((name.to_owned(), "it says nothing to the host"));
                    return Ok(None);
                }
            }))
        })
    }

    async fn options(
        &self,
        keys: &'static [Key<In>],
        value: Value,
        substitutes: &dyn Substitutes,
        outcome: &mut Outcome,
    ) -> Result<Value, Refusal> {
        let mut kept = Vec::new();
        for (name, value) in values::entries(value)? {
            let Some(key) = keys.iter().find(|key| key.name == name) else {
                outcome
                    .left_out
                    .push((name, "it is not in the table of portals"));
                continue;
            };
            if key.since > self.version {
                outcome.left_out.push((name, "the host's portal is older"));
                continue;
            }
            let value = fitting(key, value)?;
            if let Some(value) = self
                .inward(key.name, key.role, value, substitutes, outcome)
                .await?
            {
                kept.push((name, value));
            }
        }
        for key in keys {
            match key.role {
                In::HandleToken => {
                    kept.push((key.name.to_owned(), Value::from(substitutes.handle_token())));
                }
                In::SessionToken => {
                    outcome.wants_session = true;
                    kept.push((
                        key.name.to_owned(),
                        Value::from(substitutes.session_token()),
                    ));
                }
                _ => {}
            }
        }
        Ok(values::dictionary(kept))
    }

    fn check_uri(&self, text: &str) -> Result<(), Refusal> {
        let Some(scheme) = uri::scheme(text) else {
            return Err(Refusal::invalid(format!("{text:?} is not a URI")));
        };
        if scheme.eq_ignore_ascii_case("file") {
            return Err(Refusal::not_allowed(
                "file: URIs of the guest are not files of the host; open a file by its descriptor (OpenFile)",
            ));
        }
        if !self.policy.allows_scheme(scheme) {
            return Err(Refusal::not_allowed(format!(
                "URIs of the scheme \"{scheme}\" are not opened for this virtual machine (open_uri.schemes in the \
                 broker's configuration)"
            )));
        }
        Ok(())
    }

    /// What the host gets for a descriptor of the guest's.
    ///
    /// # Errors
    /// It is not what the host needs.
    pub async fn descriptor(&self, needs: Needs, fd: OwnedFd) -> Result<OwnedFd, Refusal> {
        let unknown = |error: std::io::Error| {
            Refusal::failed(format!("looking at a file descriptor: {error}"))
        };
        let fd = match self.hosts_own(&fd).await? {
            Some(own) => own,
            None => fd,
        };
        let kind = Descriptor::of(fd.as_fd()).map_err(unknown)?;
        match (needs, kind) {
            (
                Needs::Document | Needs::WritableDocument,
                Descriptor::File(path) | Descriptor::Directory(path),
            ) => {
                let found = self.documents.find(&path).await;
                let (id, info) = found.ok_or_else(|| {
                    Refusal::not_supported(
                        "this file is not one that the host shares with the virtual machine",
                    )
                })?;
                if needs == Needs::WritableDocument && !info.writable {
                    return Err(Refusal::not_allowed(format!(
                        "the document {id} may be read only"
                    )));
                }
                Ok(fd)
            }
            (Needs::Document | Needs::WritableDocument, _) => Err(Refusal::not_supported(
                "this needs a file that the host shares with the virtual machine, and this is none",
            )),
            (Needs::File, Descriptor::File(path) | Descriptor::Directory(path))
                if self.documents.find(&path).await.is_some() =>
            {
                Ok(fd)
            }
            (Needs::File, Descriptor::File(path)) => {
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                self.spooled(fd, name).await
            }
            (Needs::File, Descriptor::Content(name)) => self.spooled(fd, name).await,
            (Needs::File, _) => Err(Refusal::not_supported(
                "this needs a file, and this is none",
            )),
            (
                Needs::Readable,
                Descriptor::File(_) | Descriptor::Content(_) | Descriptor::Stream,
            ) if descriptors::is_readable(fd.as_fd()) => Ok(fd),
            (Needs::Readable, _) => Err(Refusal::not_supported(
                "this needs a file or a pipe that can be read, and this is none",
            )),
            (Needs::Pipe, Descriptor::Stream) if descriptors::is_writable(fd.as_fd()) => Ok(fd),
            (Needs::Pipe, _) => Err(Refusal::not_supported(
                "this needs a pipe or socket that can be written, and this is none",
            )),
        }
    }

    /// The host's own file, if this is one of a document, below the mount.
    async fn hosts_own(&self, fd: &OwnedFd) -> Result<Option<OwnedFd>, Refusal> {
        use crate::crossing::DocumentStore as _;
        let Some(path) = descriptors::path_of(fd.as_fd()) else {
            return Ok(None);
        };
        let Some((id, path)) = self.documents.document_at(&path) else {
            return Ok(None);
        };
        let flags = fcntl_getfl(fd)
            .map_err(|error| Refusal::failed(format!("looking at a file descriptor: {error}")))?;
        let access = if flags.contains(OFlags::PATH) {
            Access::Path
        } else {
            match flags & OFlags::RWMODE {
                OFlags::WRONLY => Access::Write,
                OFlags::RDWR => Access::ReadWrite,
                _ => Access::Read,
            }
        };
        let file = DocumentFile { id, path, access };
        self.documents.open_file(&file).await.map(Some)
    }

    async fn spooled(&self, fd: OwnedFd, name: Option<String>) -> Result<OwnedFd, Refusal> {
        let content = read(fd).await?;
        self.spool
            .keep(name.as_deref().unwrap_or("file"), &content)
            .map_err(|error| {
                Refusal::limit(format!("the file cannot be kept on the host: {error}"))
            })
    }

    /// The results of a request, as the guest gets them. `session` is the guest's handle of a session of the host's.
    ///
    /// # Errors
    /// A document cannot be shared.
    pub async fn results(
        &self,
        response: &Response,
        results: Value,
        session: &(dyn Fn(&str) -> Option<String> + Send + Sync),
    ) -> Result<(Value, Vec<String>), Refusal> {
        let entries = values::entries(results)?;
        let writable = entries.iter().find_map(|(key, value)| match value {
            Variant::Bool(writable) if key == "writable" => Some(*writable),
            _ => None,
        });
        let mut kept = Vec::new();
        let mut left_out = Vec::new();
        for (name, value) in entries {
            let key = response.results.iter().find(|key| key.name == name);
            let value = match key {
                Some(key) => self.outward(key.role, value, writable, session).await?,
                None => None,
            };
            match value {
                Some(value) => kept.push((name, value)),
                None => left_out.push(name),
            }
        }
        Ok((values::dictionary(kept), left_out))
    }

    /// What a method returned or a signal says, as the guest gets it.
    ///
    /// # Errors
    /// They are not those of the description.
    pub async fn outs(
        &self,
        outs: &[Arg<Out>],
        values: Vec<Value>,
        session: &(dyn Fn(&str) -> Option<String> + Send + Sync),
    ) -> Result<Vec<Value>, Refusal> {
        let mut translated = Vec::new();
        if outs.len() != values.len() {
            return Err(Refusal::failed(
                "the host's answer is not as it is described",
            ));
        }
        for (out, value) in outs.iter().zip(values) {
            let value = self
                .outward(out.role, value, None, session)
                .await?
                .ok_or_else(|| {
                    Refusal::failed(format!("the host's \"{}\" cannot cross", out.name))
                })?;
            translated.push(value);
        }
        Ok(translated)
    }

    async fn outward(
        &self,
        role: Out,
        value: Value,
        writable: Option<bool>,
        session: &(dyn Fn(&str) -> Option<String> + Send + Sync),
    ) -> Result<Option<Value>, Refusal> {
        Ok(Some(match role {
            Out::Data | Out::Handle => {
                if values::has_descriptor(&value) {
                    return Ok(None);
                }
                value
            }
            Out::Session => {
                let host = values::path_text(&value).unwrap_or_default();
                let Some(guest) = session(host) else {
                    return Ok(None);
                };
                match value {
                    Variant::ObjectPath(_) => object_path(&guest)?,
                    _ => Value::from(guest),
                }
            }
            Out::Opened | Out::Received => {
                let mut uris = Vec::new();
                for text in values::texts(&value).unwrap_or_default() {
                    // RetrieveFiles tells paths.
                    let (path, is_uri) = match uri::file_path(&text) {
                        Some(path) => (path, true),
                        None if text.starts_with('/') => (PathBuf::from(text), false),
                        None => {
                            tracing::warn!(
                                "what was chosen is no file of the host; it is left out"
                            );
                            continue;
                        }
                    };
                    let writable =
                        matches!(role, Out::Opened) && writable.unwrap_or(true) && may_write(&path);
                    let (_, below) = self.documents.add(&path, writable).await?;
                    let guest = self.mount.join(below);
                    uris.push(if is_uri {
                        uri::of_path(&guest)
                    } else {
                        guest.to_string_lossy().into_owned()
                    });
                }
                Value::from(uris)
            }
            Out::Saved => {
                let mut uris = Vec::new();
                for text in values::texts(&value).unwrap_or_default() {
                    let Some(path) = uri::file_path(&text) else {
                        tracing::warn!("what was chosen is no file of the host; it is left out");
                        continue;
                    };
                    let (_, below) = self.documents.add_named(&path).await?;
                    uris.push(uri::of_path(&self.mount.join(below)));
                }
                Value::from(uris)
            }
            Out::Picture => {
                let Some(path) = values::text(&value).and_then(uri::file_path) else {
                    return Ok(None);
                };
                let (_, below) = self.documents.add(&path, false).await?;
                Value::from(uri::of_path(&self.mount.join(below)))
            }
            Out::Tokens => {
                self.tokens
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .learn(&value);
                if values::has_descriptor(&value) {
                    return Ok(None);
                }
                value
            }
            Out::AllBut(dropped) => {
                let entries = values::entries(value)?;
                values::dictionary(entries.into_iter().filter(|(key, value)| {
                    !dropped.contains(&key.as_str()) && !values::has_descriptor(value)
                }))
            }
            Out::Dropped => return Ok(None),
        }))
    }
}

/// Whether the person who runs the broker may write a file, by its mode. One that nobody may write is for reading, also
/// to the superuser.
fn may_write(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, Mode, accessat, stat};
    let anybody = Mode::WUSR | Mode::WGRP | Mode::WOTH;
    stat(path).is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode).intersects(anybody))
        && accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// An option's value, if its type is the right one. A `v` may come as it is, or with one more variant around it.
fn fitting(key: &Key<In>, value: Value) -> Result<Value, Refusal> {
    let found = values::signature(&value);
    if found == key.signature || key.signature == "v" {
        return Ok(value);
    }
    Err(Refusal::invalid(format!(
        "the option \"{}\" is of type {}, and this is {found}",
        key.name, key.signature
    )))
}

fn token(name: &str, value: &Value) -> Result<String, Refusal> {
    let text = values::text(value).unwrap_or_default();
    if is_token(text) {
        return Ok(text.to_owned());
    }
    Err(Refusal::invalid(format!(
        "{name} {text:?} cannot be the end of an object path: it has to have letters, digits and _ alone, and at \
         least one of them"
    )))
}

fn object_path(text: &str) -> Result<Value, Refusal> {
    zbus::ObjectPath::try_from(text.to_owned())
        .map(Value::from)
        .map_err(|error| Refusal::failed(format!("{text}: {error}")))
}

fn id_text(value: Value) -> Result<String, Refusal> {
    values::text(&value)
        .map(str::to_owned)
        .ok_or_else(|| Refusal::invalid("an id is a text"))
}

fn descriptor_of(value: Value) -> Result<OwnedFd, Refusal> {
    match value {
        Variant::Fd(Fd::Owned(fd)) => Ok(fd),
        _ => Err(Refusal::invalid("expected a file descriptor")),
    }
}

/// The last component of what may be a path.
fn base_name(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.rsplit(|byte| *byte == b'/').next()?;
    let legal = !last.is_empty()
        && last.len() <= 255
        && last != b"."
        && last != b".."
        && !last.contains(&0);
    legal.then(|| last.to_vec())
}

async fn read(fd: OwnedFd) -> Result<Vec<u8>, Refusal> {
    tokio::task::spawn_blocking(move || descriptors::content(fd))
        .await
        .map_err(|error| Refusal::failed(format!("reading a file descriptor: {error}")))?
        .map_err(|error| {
            Refusal::not_supported(format!(
                "reading what the file descriptor stands for: {error}"
            ))
        })
}

/// An icon: a name, names, or bytes. A descriptor becomes the bytes behind it, which every version of the portal takes.
async fn icon(value: Value) -> Result<Value, Refusal> {
    let value = values::owned(values::unwrapped(&value))?;
    if let Some(name) = values::text(&value) {
        check_icon_name(name)?;
        return Ok(value);
    }
    let (kind, inner) = tagged(value)?;
    let inner = match kind.as_str() {
        "themed" => {
            let names = values::texts(&inner)
                .ok_or_else(|| Refusal::invalid("the icon \"themed\" is a list of names"))?;
            for name in &names {
                check_icon_name(name)?;
            }
            inner
        }
        "bytes" => {
            check_size(values::bytes(&inner).map_or(0, |bytes| bytes.len()))?;
            inner
        }
        "file-descriptor" => {
            let content = read_picture(inner).await?;
            return Ok(tagged_value("bytes", Value::from(content)));
        }
        other => {
            return Err(Refusal::invalid(format!(
                "an icon \"{other}\" cannot cross: known are themed, bytes and file-descriptor"
            )));
        }
    };
    Ok(tagged_value(&kind, inner))
}

/// A sound: `default`, `silent`, or a descriptor. That one is made anew: the guest's may be sealed, which is refused.
async fn sound(value: Value) -> Result<Value, Refusal> {
    let value = values::owned(values::unwrapped(&value))?;
    if let Some(name) = values::text(&value) {
        if matches!(name, "default" | "silent") {
            return Ok(value);
        }
        return Err(Refusal::invalid(format!(
            "the sound {name:?} is neither \"default\" nor \"silent\""
        )));
    }
    let (kind, inner) = tagged(value)?;
    if kind != "file-descriptor" {
        return Err(Refusal::invalid(format!(
            "a sound \"{kind}\" cannot cross: known is file-descriptor"
        )));
    }
    let content = read_picture(inner).await?;
    let memfd = descriptors::sealable_memfd("sound", &content)
        .map_err(|error| Refusal::failed(format!("making a memfd for a sound: {error}")))?;
    Ok(tagged_value(
        "file-descriptor",
        Variant::Fd(Fd::Owned(memfd)),
    ))
}

async fn read_picture(value: Value) -> Result<Vec<u8>, Refusal> {
    let content = read(descriptor_of(value)?).await?;
    check_size(content.len())?;
    Ok(content)
}

fn check_size(length: usize) -> Result<(), Refusal> {
    if length > LARGEST_PICTURE {
        return Err(Refusal::limit(format!(
            "{length} bytes are too many for an icon or a sound: no more than {LARGEST_PICTURE} cross"
        )));
    }
    Ok(())
}

/// `(sv)`.
fn tagged(value: Value) -> Result<(String, Value), Refusal> {
    let wrong = || Refusal::invalid("expected a name, or (sv)");
    let Variant::Structure(structure) = value else {
        return Err(wrong());
    };
    let mut fields = structure.into_fields();
    let (Some(inner), Some(kind), None) = (fields.pop(), fields.pop(), fields.pop()) else {
        return Err(wrong());
    };
    let kind = values::text(&kind).ok_or_else(wrong)?.to_owned();
    match inner {
        Variant::Variant(inner) => Ok((kind, *inner)),
        _ => Err(wrong()),
    }
}

fn tagged_value(kind: &str, inner: Value) -> Value {
    // A value as a field is one in a variant.
    Value::from(zbus::Structure::from((kind.to_owned(), inner)))
}

/// A structure of a text and a value that has no variant around it.
fn pair(text: String, value: Value) -> Result<Value, Refusal> {
    zbus::Structure::builder()
        .append_field(Value::from(text))
        .append_field(value)
        .build()
        .map(Value::from)
        .map_err(|error| Refusal::failed(format!("making a structure: {error}")))
}

/// A name and not a path or URI, which would be of the host's.
fn check_icon_name(name: &str) -> Result<(), Refusal> {
    if name.contains(['/', ':']) || name.len() > 255 {
        return Err(Refusal::invalid(format!(
            "{name:?} is not the name of an icon"
        )));
    }
    Ok(())
}

/// The name of an action, so that it comes back to us. An action `app.…` would be activated on the host's bus, where
/// the guest's application is not.
fn exported_action(action: &str) -> String {
    if action.starts_with("app.") || action.starts_with(ACTION_PREFIX) {
        format!("{ACTION_PREFIX}{action}")
    } else {
        action.to_owned()
    }
}

/// The name that the guest gave.
pub fn imported_action(action: &str) -> &str {
    action.strip_prefix(ACTION_PREFIX).unwrap_or(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actions_name_comes_back_as_it_was() {
        for action in ["app.open", "open", "sidebus.open", "sidebus.app.open", ""] {
            assert_eq!(imported_action(&exported_action(action)), action);
            assert!(!exported_action(action).starts_with("app."));
        }
    }

    #[test]
    fn only_names_of_files_are_names() {
        assert_eq!(base_name(b"a.txt").unwrap(), b"a.txt");
        assert_eq!(base_name(b"../../etc/passwd").unwrap(), b"passwd");
        for bad in [&b""[..], b".", b"..", b"a/..", b"a/", b"a\0b"] {
            assert_eq!(base_name(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn an_icon_is_a_name_or_its_bytes_and_no_file_of_the_host() {
        assert!(icon(Value::from("face-smile")).await.is_ok());
        assert!(icon(Value::from("/etc/passwd")).await.is_err());
        assert!(
            icon(tagged_value("themed", Value::from(vec!["a", "b"])))
                .await
                .is_ok()
        );
        assert!(
            icon(tagged_value("themed", Value::from(vec!["../a"])))
                .await
                .is_err()
        );
        assert!(
            icon(tagged_value("file", Value::from("/etc/passwd")))
                .await
                .is_err()
        );
        let fd = descriptors::sealable_memfd("icon", b"pixels").unwrap();
        let by_descriptor = tagged_value("file-descriptor", Variant::Fd(Fd::Owned(fd)));
        assert_eq!(
            icon(by_descriptor).await.unwrap(),
            tagged_value("bytes", Value::from(b"pixels".to_vec()))
        );
        let large = tagged_value("bytes", Value::from(vec![1u8; LARGEST_PICTURE + 1]));
        assert!(icon(large).await.is_err());
    }

    #[tokio::test]
    async fn a_sound_is_made_anew_so_that_it_can_be_sealed() {
        assert!(sound(Value::from("silent")).await.is_ok());
        assert!(sound(Value::from("/x.ogg")).await.is_err());
        let fd = descriptors::sealable_memfd("s", b"beep").unwrap();
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SEAL).unwrap();
        let made = sound(tagged_value("file-descriptor", Variant::Fd(Fd::Owned(fd)))).await;
        let (_, inner) = tagged(made.unwrap()).unwrap();
        let fd = descriptor_of(inner).unwrap();
        assert!(rustix::fs::fcntl_get_seals(&fd).unwrap().is_empty());
        assert_eq!(descriptors::content(fd).unwrap(), b"beep");
    }
}
