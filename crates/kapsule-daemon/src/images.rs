//! Images: where they come from, and what they want of a container.
//!
//! An image is one that Incus has (an alias or a fingerprint), or one of a simplestreams server (`SERVER:ALIAS`, the
//! server by its name in the configuration), which is fetched when it is first needed and is used from then on, with or
//! without a network.
//!
//! What an image asks for stands in its properties: `requirements.NAME`, as its maker has written them, and
//! `kapsule.with`, `kapsule.without`, `kapsule.custom_mounts` (with commas between), the defaults of containers made of
//! it. [`Daemon::import_image`] takes the latter from a file `kapsule.toml` beside the image. Simplestreams has room for
//! requirements only, so an image of a server has them as `requirements.kapsule.with`, and so on.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use incus_client::{Image, RemoteImage, Source};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_json::json;
use zbus::OwnedObjectPath;

use crate::caller::Caller;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::identity;
use crate::image_server::ImageServer;
use crate::incus::error;
use crate::names::{ImageName, quoted};
use crate::operations::{Kind, Line, Progress, Target};
use crate::options::CreateOptions;

/// The metadata of an image in two files; its root file system; and an image in one file.
const METADATA: [&str; 3] = ["incus.tar.xz", "metadata.tar.xz", "lxd.tar.xz"];
const ROOTS: [&str; 2] = ["rootfs.squashfs", "disk.squashfs"];
const WHOLE: [&str; 4] = ["image.tar.gz", "image.tar.xz", "image.tar.zst", "image.tar"];

/// An image that Incus has.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// How Incus knows it.
    pub fingerprint: String,
    /// What is written of it.
    pub properties: BTreeMap<String, String>,
}

/// What an image wishes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageWishes {
    /// Features that it is to have.
    pub with: Vec<String>,
    /// Features that it is not to have.
    pub without: Vec<String>,
    /// Directories of the caller's.
    pub custom_mounts: Vec<String>,
    /// What it asks for that nobody here knows.
    pub unknown: Vec<String>,
}

/// `kapsule.toml` beside an image.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Beside {
    description: Option<String>,
    requirements: BTreeMap<String, String>,
    default_options: DefaultOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DefaultOptions {
    with: Vec<String>,
    without: Vec<String>,
    custom_mounts: Vec<String>,
}

impl Beside {
    fn properties(&self) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        if let Some(description) = &self.description {
            properties.insert("description".to_owned(), description.clone());
        }
        for (name, value) in &self.requirements {
            properties.insert(format!("requirements.{name}"), value.clone());
        }
        let options = &self.default_options;
        for (name, list) in [
            ("with", &options.with),
            ("without", &options.without),
            ("custom_mounts", &options.custom_mounts),
        ] {
            if !list.is_empty() {
                properties.insert(format!("kapsule.{name}"), list.join(","));
            }
        }
        properties
    }
}

impl FoundImage {
    fn of(image: Image) -> Result<Self> {
        if image.kind == "virtual-machine" {
            return Err(Error::ImageNotFound(format!(
                "the image {} is one of a virtual machine, not of a container",
                image.fingerprint
            )));
        }
        Ok(Self {
            fingerprint: image.fingerprint,
            properties: image.properties,
        })
    }

    /// What an instance is made of.
    pub fn source(&self) -> Source {
        Source::fingerprint(&self.fingerprint)
    }

    /// What it wishes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: it requires what the options do not give, or what cannot be had.
    pub fn wishes(&self, options: &CreateOptions) -> Result<ImageWishes> {
        let mut wishes = ImageWishes::default();
        for (name, value) in self
            .properties
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("requirements.")?, value)))
        {
            let wanted = matches!(value.as_str(), "true" | "1" | "yes");
            match name {
                "privileged" if wanted && !options.privileged => {
                    return Err(Error::InvalidArgument(
                        "the image requires a privileged container: make it with --privileged, if its root may be the \
                         root of this machine"
                            .to_owned(),
                    ));
                }
                "privileged" if value == "false" && options.privileged => {
                    return Err(Error::InvalidArgument(
                        "the image is not made for a privileged container: make it without --privileged".to_owned(),
                    ));
                }
                "cgroup" if value == "v1" => {
                    return Err(Error::InvalidArgument(
                        "the image requires version 1 of the kernel's control groups, which Incus does not give it: \
                         take a newer image"
                            .to_owned(),
                    ));
                }
                // Every container has nesting; the rest is about virtual machines.
                "privileged" | "cgroup" | "nesting" | "secureboot" | "cdrom_agent"
                | "cdrom_cloud_init" => {}
                // Below.
                "kapsule.with" | "kapsule.without" | "kapsule.custom_mounts" => {}
                other => wishes.unknown.push(format!("{other}={value}")),
            }
        }
        let list = |name: &str| -> Vec<String> {
            self.properties
                .get(&format!("kapsule.{name}"))
                // What a server has of an image holds nothing of one's own but this.
                .or_else(|| self.properties.get(&format!("requirements.kapsule.{name}")))
                .map_or("", String::as_str)
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()
        };
        wishes.with = list("with");
        wishes.without = list("without");
        wishes.custom_mounts = list("custom_mounts");
        Ok(wishes)
    }
}

impl Daemon {
    /// A server, by its name.
    fn server(&self, server: &str) -> Result<&ImageServer> {
        self.config
            .servers
            .get(server)
            .ok_or_else(|| {
                let known: Vec<&str> = self.config.servers.keys().map(String::as_str).collect();
                Error::ImageNotFound(format!(
                    "there is no image server {}; there are {} ([servers] in /etc/kapsule/kapsule.toml)",
                    quoted(server),
                    known.join(", ")
                ))
            })
    }

    /// Whether the server of an image is known, if it has one.
    pub(crate) fn check_server(&self, image: &ImageName) -> Result<()> {
        match image.server() {
            Some(server) => self.server(server).map(drop),
            None => Ok(()),
        }
    }

    /// An image that is here already.
    async fn image_here(&self, image: &ImageName) -> Result<Option<Image>> {
        let client = self.incus.client();
        let Some(server) = image.server() else {
            return match client.image_by_name(image.alias()).await {
                Ok(found) => Ok(Some(found)),
                Err(problem) if problem.is_not_found() => Ok(None),
                Err(problem) => Err(error(problem)),
            };
        };
        let server = self.server(server)?;
        let images = client.images().await.map_err(error)?;
        Ok(images.into_iter().find(|here| {
            here.update_source
                .as_ref()
                .is_some_and(|source| server.is_at(&source.server) && source.alias == image.alias())
        }))
    }

    /// The name by which an image of a server is asked for: `SERVER:ALIAS`.
    fn name_from_server(&self, image: &Image) -> Option<String> {
        let source = image.update_source.as_ref()?;
        let mut servers = self.config.servers.iter();
        let (name, _) = servers.find(|(_, server)| server.is_at(&source.server))?;
        Some(format!("{name}:{}", source.alias))
    }

    /// What of images is here, for a message.
    async fn images_here(&self) -> String {
        let Ok(images) = self.incus.client().images().await else {
            return String::new();
        };
        let mut names: Vec<String> = images
            .iter()
            .flat_map(|image| {
                let aliases = image.aliases.iter().map(|alias| alias.name.clone());
                aliases.chain(self.name_from_server(image))
            })
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            "There are no images here.".to_owned()
        } else {
            format!("Images that are here: {}.", names.join(", "))
        }
    }

    /// An image, fetched from its server if it is not here.
    pub(crate) async fn obtain_image(
        &self,
        progress: &Progress,
        image: &ImageName,
    ) -> Result<FoundImage> {
        if let Some(found) = self.image_here(image).await? {
            return FoundImage::of(found);
        }
        let Some(server) = image.server() else {
            let servers: Vec<String> = self
                .config
                .servers
                .keys()
                .map(|server| format!("'{server}:{}'", image.alias()))
                .collect();
            return Err(Error::ImageNotFound(format!(
                "there is no image '{image}' here. {} From a server it would be {}.",
                self.images_here().await,
                servers.join(" or ")
            )));
        };
        let server = self.server(server)?;
        let url = &server.url;
        let wanted = RemoteImage {
            server: url.clone(),
            protocol: "simplestreams".to_owned(),
            certificate: server.certificate().await?,
            alias: image.alias().to_owned(),
            auto_update: true,
        };
        let fetched = async {
            let begun = async {
                self.incus
                    .client()
                    .fetch_image(&wanted, &[])
                    .await
                    .map_err(error)
            };
            let operation = progress.unless_cancelled(begun).await?;
            self.incus
                .follow(
                    progress,
                    &format!("Fetching the image '{image}'"),
                    operation,
                )
                .await
        };
        let state = match fetched.await {
            Ok(state) => state,
            Err(problem @ (Error::Cancelled(_) | Error::IncusUnavailable(_))) => {
                return Err(problem);
            }
            Err(problem) => {
                return Err(Error::ImageNotFound(format!(
                    "the image '{image}' cannot be fetched from {url}: {}. Is this machine connected, and the name right? \
                     {}",
                    problem.text(),
                    self.images_here().await
                )));
            }
        };
        let fingerprint = state
            .metadata
            .get("fingerprint")
            .and_then(|fingerprint| fingerprint.as_str())
            .ok_or_else(|| Error::Failed(format!("Incus did not say which image '{image}' is")))?;
        let found = self
            .incus
            .client()
            .image(fingerprint)
            .await
            .map_err(error)?;
        FoundImage::of(found)
    }

    /// The images that are here, in JSON.
    ///
    /// # Errors
    /// [`Error::IncusUnavailable`]
    pub async fn list_images(&self) -> Result<String> {
        let images = self.incus.client().images().await.map_err(error)?;
        let rows: Vec<serde_json::Value> = images
            .iter()
            .filter(|image| image.kind != "virtual-machine")
            .map(|image| {
                let requirements: BTreeMap<&str, &str> = image.requirements().collect();
                let aliases: Vec<&str> =
                    image.aliases.iter().map(|alias| alias.name.as_str()).collect();
                json!({
                    "fingerprint": image.fingerprint,
                    "aliases": aliases,
                    "description": image.properties.get("description"),
                    "architecture": image.architecture,
                    "size": image.size,
                    "created": image.created_at.unix_seconds(),
                    "uploaded": image.uploaded_at.unix_seconds(),
                    "server": image.update_source.as_ref().map(|source| source.server.as_str()),
                    "name_from_server": self.name_from_server(image),
                    "remote_alias": image.update_source.as_ref().map(|source| source.alias.as_str()),
                    "auto_update": image.auto_update,
                    "cached": image.cached,
                    "requirements": requirements,
                })
            })
            .collect();
        Ok(serde_json::Value::Array(rows).to_string())
    }

    /// Imports an image from a directory of the caller's.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: there is none in it, or its `kapsule.toml` is not right; [`Error::NameTaken`].
    pub async fn import_image(
        self: &Arc<Self>,
        caller: &Caller,
        directory: &str,
        alias: &str,
    ) -> Result<OwnedObjectPath> {
        let directory = PathBuf::from(directory);
        let alias = match alias {
            "" => directory
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            alias => alias.to_owned(),
        };
        let name = ImageName::parse(&alias)?;
        if name.server().is_some() {
            return Err(Error::InvalidName(format!(
                "{} has a server's name in it, and an image that is imported has none",
                quoted(&alias)
            )));
        }
        let of = caller.clone();
        let files = Self::aside(move || Files::find(&of, &directory)).await?;
        if self.image_here(&name).await?.is_some() {
            return Err(Error::NameTaken(format!(
                "there is an image '{name}' already: delete it first, or give another name"
            )));
        }
        let what = format!("import the image '{name}', which all users can make containers of");
        self.polkit
            .with_images(caller, Some(&name), "import_image", &what)
            .await?;
        let daemon = self.clone();
        self.operations
            .start(
                caller,
                Kind::ImportImage,
                &[Target::Image(name.to_string())],
                format!("Importing the image '{name}'"),
                async move |progress| {
                    let client = daemon.incus.client();
                    let begun = async {
                        let root = files.root.as_ref().map(by_descriptor);
                        client
                            .import_image(&by_descriptor(&files.first), root.as_deref())
                            .await
                            .map_err(error)
                    };
                    let operation = progress.unless_cancelled(begun).await?;
                    let state = daemon
                        .incus
                        .follow(&progress, "Importing", operation)
                        .await
                        .map_err(|problem| {
                            problem.doing(format_args!("importing the image '{name}'"))
                        })?;
                    progress.commit()?;
                    let fingerprint = state
                        .metadata
                        .get("fingerprint")
                        .and_then(|fingerprint| fingerprint.as_str())
                        .ok_or_else(|| {
                            Error::Failed("Incus did not say which image it is".to_owned())
                        })?;
                    let named = async {
                        if !files.properties.is_empty() {
                            client
                                .set_image_properties(fingerprint, &files.properties)
                                .await?;
                        }
                        client.create_image_alias(name.alias(), fingerprint).await
                    };
                    if let Err(problem) = named.await {
                        // Without its name nobody would find it.
                        if let Ok(operation) = client.delete_image(fingerprint).await {
                            let _ = operation.wait().await;
                        }
                        return Err(error(problem));
                    }
                    progress
                        .message(Line::Success, format!("the image '{name}' is there"))
                        .await;
                    Ok(())
                },
            )
            .await
    }

    /// Deletes an image. Containers made of it stay.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::NotAuthorized`]
    pub async fn delete_image(
        self: &Arc<Self>,
        caller: &Caller,
        image: &str,
    ) -> Result<OwnedObjectPath> {
        let name = ImageName::parse(image)?;
        let found = self.known_image(&name).await?;
        let what = format!("delete the image '{name}'");
        self.polkit
            .with_images(caller, Some(&name), "delete_image", &what)
            .await?;
        let daemon = self.clone();
        self.operations
            .start(
                caller,
                Kind::DeleteImage,
                &[Target::Image(name.to_string())],
                format!("Deleting the image '{name}'"),
                async move |progress| {
                    progress.commit()?;
                    let operation = daemon
                        .incus
                        .client()
                        .delete_image(&found.fingerprint)
                        .await
                        .map_err(error)?;
                    daemon
                        .incus
                        .follow(&progress, "Deleting", operation)
                        .await?;
                    Ok(())
                },
            )
            .await
    }

    /// Fetches newer versions of an image that came from a server; without a name, of all of those.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::NotAuthorized`], [`Error::InvalidArgument`]
    pub async fn refresh_images(
        self: &Arc<Self>,
        caller: &Caller,
        image: &str,
    ) -> Result<OwnedObjectPath> {
        let name = match image {
            "" => None,
            image => Some(ImageName::parse(image)?),
        };
        let images = match &name {
            Some(name) => vec![self.known_image(name).await?],
            None => self.incus.client().images().await.map_err(error)?,
        };
        let from_servers: Vec<Image> = images
            .into_iter()
            .filter(|image| image.update_source.is_some())
            .collect();
        if let Some(name) = &name
            && from_servers.is_empty()
        {
            return Err(Error::InvalidArgument(format!(
                "the image '{name}' did not come from a server: import a newer one"
            )));
        }
        let shown = name.as_ref().map_or_else(
            || "all images".to_owned(),
            |name| format!("the image '{name}'"),
        );
        self.polkit
            .with_images(
                caller,
                name.as_ref(),
                "refresh_images",
                &format!("fetch newer versions of {shown}"),
            )
            .await?;
        let daemon = self.clone();
        let target = Target::Image(name.map(|name| name.to_string()).unwrap_or_default());
        self.operations
            .start(
                caller,
                Kind::RefreshImages,
                &[target],
                format!("Looking for newer versions of {shown}"),
                async move |progress| {
                    let mut failed = Vec::new();
                    for image in from_servers {
                        let called = image
                            .update_source
                            .as_ref()
                            .map_or(image.fingerprint.clone(), |source| source.alias.clone());
                        let operation = daemon
                            .incus
                            .client()
                            .refresh_image(&image.fingerprint)
                            .await
                            .map_err(error);
                        let done = match operation {
                            Ok(operation) => {
                                daemon
                                    .incus
                                    .follow(
                                        &progress,
                                        &format!("Looking for a newer '{called}'"),
                                        operation,
                                    )
                                    .await
                            }
                            Err(problem) => Err(problem),
                        };
                        match done {
                            Ok(state) => {
                                let newer =
                                    state.metadata.get("refreshed").and_then(|v| v.as_bool());
                                let text = if newer == Some(true) {
                                    format!("there is a newer '{called}' now")
                                } else {
                                    format!("Incus knows of no newer '{called}'")
                                };
                                progress.message(Line::Success, text).await;
                            }
                            Err(problem @ Error::Cancelled(_)) => return Err(problem),
                            Err(problem) => failed.push(format!("{called}: {}", problem.text())),
                        }
                    }
                    if failed.is_empty() {
                        return Ok(());
                    }
                    Err(Error::Failed(format!(
                        "{}. Is this machine connected?",
                        failed.join("; ")
                    )))
                },
            )
            .await
    }

    async fn known_image(&self, name: &ImageName) -> Result<Image> {
        match self.image_here(name).await? {
            Some(image) => Ok(image),
            None => Err(Error::ImageNotFound(format!(
                "there is no image '{name}' here. {}",
                self.images_here().await
            ))),
        }
    }
}

/// The files of an image, opened with the caller's rights.
struct Files {
    first: File,
    root: Option<File>,
    properties: BTreeMap<String, String>,
}

impl Files {
    fn find(caller: &Caller, directory: &Path) -> Result<Self> {
        if !directory.is_absolute() {
            return Err(Error::InvalidArgument(format!(
                "{} is no absolute path",
                quoted(&directory.display().to_string())
            )));
        }
        let open = |names: &[&str]| -> Result<Option<File>> {
            for name in names {
                let path = directory.join(name);
                let opened = identity::as_caller(caller, || {
                    let flags =
                        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                    rustix::fs::open(&path, flags, Mode::empty())
                });
                match opened {
                    Ok(Ok(file)) => {
                        let file = File::from(file);
                        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                            return Ok(Some(file));
                        }
                        return Err(Error::InvalidArgument(format!(
                            "{} is no regular file",
                            path.display()
                        )));
                    }
                    Ok(Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)) => {}
                    Ok(Err(problem)) => {
                        return Err(Error::InvalidArgument(format!(
                            "{}: {problem}",
                            path.display()
                        )));
                    }
                    Err(problem) => {
                        return Err(Error::Failed(format!("{}: {problem}", path.display())));
                    }
                }
            }
            Ok(None)
        };
        let path = directory.join("kapsule.toml");
        let text = identity::read_text(caller, &path).map_err(|problem| {
            Error::InvalidArgument(format!("reading {}: {problem}", path.display()))
        })?;
        let properties = match text {
            Some(text) => toml::from_str::<Beside>(&text)
                .map_err(|problem| {
                    Error::InvalidArgument(crate::config::at_place(&path, &text, &problem))
                })?
                .properties(),
            None => BTreeMap::new(),
        };
        if let Some(first) = open(&METADATA)? {
            let root = open(&ROOTS)?.ok_or_else(|| {
                Error::InvalidArgument(format!(
                    "{} has an image's metadata, and no {}",
                    directory.display(),
                    ROOTS.join(" or ")
                ))
            })?;
            return Ok(Self {
                first,
                root: Some(root),
                properties,
            });
        }
        match open(&WHOLE)? {
            Some(first) => Ok(Self {
                first,
                root: None,
                properties,
            }),
            None => Err(Error::InvalidArgument(format!(
                "{} has no image: that is {} with {}, or one of {}",
                directory.display(),
                METADATA[0],
                ROOTS[0],
                WHOLE.join(", ")
            ))),
        }
    }
}

/// The path by which an open file is opened again, whoever opened it first.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(properties: &[(&str, &str)]) -> FoundImage {
        FoundImage {
            fingerprint: "f".to_owned(),
            properties: properties
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_an_image_requires_has_to_be_given() {
        let privileged = CreateOptions {
            privileged: true,
            ..CreateOptions::default()
        };
        let wants = image(&[("requirements.privileged", "true")]);
        let error = wants
            .wishes(&CreateOptions::default())
            .expect_err("not given");
        assert!(error.text().contains("--privileged"), "{}", error.text());
        wants.wishes(&privileged).expect("given");
        image(&[("requirements.cgroup", "v1")])
            .wishes(&privileged)
            .expect_err("cannot be had");
        let wishes = image(&[
            ("requirements.nesting", "true"),
            ("requirements.moon", "full"),
            ("requirements.kapsule.without", "home, gpu"),
        ])
        .wishes(&privileged)
        .expect("had");
        assert_eq!(wishes.unknown, ["moon=full"]);
        assert_eq!(wishes.without, ["home", "gpu"]);
        let error = image(&[("requirements.privileged", "false")])
            .wishes(&privileged)
            .expect_err("it must not be");
        assert!(
            error.text().contains("without --privileged"),
            "{}",
            error.text()
        );
    }

    #[test]
    fn default_options_come_from_the_file_beside_the_image() {
        let text = "description = \"d\"\n[requirements]\nprivileged = \"true\"\n[default_options]\nwithout = [\"home\", \"gpu\"]\ncustom_mounts = [\"~/kde\"]\n";
        let beside: Beside = toml::from_str(text).expect("right");
        let properties = beside.properties();
        assert_eq!(properties["requirements.privileged"], "true");
        assert_eq!(properties["kapsule.without"], "home,gpu");
        let found = FoundImage {
            fingerprint: "f".to_owned(),
            properties,
        };
        let wishes = found
            .wishes(&CreateOptions {
                privileged: true,
                ..CreateOptions::default()
            })
            .expect("given");
        assert_eq!(wishes.without, ["home", "gpu"]);
        assert_eq!(wishes.custom_mounts, ["~/kde"]);
    }
}
