//! Images, and their aliases.

use std::collections::BTreeMap;
use std::path::Path;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::fs::File;

use crate::client::{Call, Client, chained, full, streamed};
use crate::nullable::or_default;
use crate::operation::Operation;
use crate::timestamp::Timestamp;
use crate::{Error, Result};

/// An image that Incus has.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// Its identity: the SHA-256 of its files.
    pub fingerprint: String,
    /// Its names.
    #[serde(default, deserialize_with = "or_default")]
    pub aliases: Vec<ImageAlias>,
    /// `x86_64`, `aarch64`, …
    #[serde(default)]
    pub architecture: String,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// What its maker says of it: `os`, `release`, `description`, `requirements.…`.
    #[serde(default, deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
    /// In bytes.
    #[serde(default)]
    pub size: u64,
    /// Whether it was fetched because somebody made an instance of it, and goes again some day.
    #[serde(default)]
    pub cached: bool,
    /// Whether Incus fetches newer ones by itself.
    #[serde(default)]
    pub auto_update: bool,
    /// When it was built.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When Incus got it.
    #[serde(default)]
    pub uploaded_at: Timestamp,
    /// When an instance was last made of it.
    #[serde(default)]
    pub last_used_at: Timestamp,
    /// Where newer ones come from.
    #[serde(default)]
    pub update_source: Option<UpdateSource>,
}

/// A name of an image.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct ImageAlias {
    /// The name.
    pub name: String,
    /// A person's words.
    #[serde(default)]
    pub description: String,
    /// The image's fingerprint; with [`Client::image_alias`] only.
    #[serde(default)]
    pub target: String,
}

/// Where newer ones of an image come from.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct UpdateSource {
    /// Its name there.
    #[serde(default)]
    pub alias: String,
    /// `simplestreams` or `incus`.
    #[serde(default)]
    pub protocol: String,
    /// The server's URL.
    #[serde(default)]
    pub server: String,
}

impl Image {
    /// What an image asks of the instances made of it: the properties `requirements.NAME`, by NAME.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("requirements.")?, value.as_str())))
    }
}

/// Which image of a server is to be had.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// The server's URL: `https://images.linuxcontainers.org`.
    pub server: String,
    /// Its protocol: `simplestreams` or `incus`.
    pub protocol: String,
    /// Its certificate in PEM, if no authority that the machine trusts vouches for it; else empty.
    pub certificate: String,
    /// Its name there: `debian/13`.
    pub alias: String,
    /// Whether Incus is to fetch newer ones by itself.
    pub auto_update: bool,
}

#[derive(Serialize)]
struct NamedAlias<'a> {
    name: &'a str,
}

impl Client {
    /// All images.
    ///
    /// `GET /1.0/images?recursion=1`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn images(&self) -> Result<Vec<Image>> {
        let call = Call::get(&["images"], "listing images").query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// The image with this fingerprint, or the only one of which it begins so.
    ///
    /// `GET /1.0/images/FINGERPRINT`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn image(&self, fingerprint: &str) -> Result<Image> {
        let doing = format!("asking for the image {fingerprint}");
        self.ask(Call::get(&["images", fingerprint], doing)).await
    }

    /// What an alias stands for.
    ///
    /// `GET /1.0/images/aliases/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn image_alias(&self, name: &str) -> Result<ImageAlias> {
        let doing = format!("asking for the image {name}");
        self.ask(Call::get(&["images", "aliases", name], doing))
            .await
    }

    /// The image with this name: an alias, or a fingerprint or its beginning.
    ///
    /// `GET /1.0/images/aliases/NAME`, `GET /1.0/images/FINGERPRINT`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn image_by_name(&self, name: &str) -> Result<Image> {
        match self.image_alias(name).await {
            Ok(alias) => self.image(&alias.target).await,
            Err(error) if error.is_not_found() => self.image(name).await.map_err(|_| error),
            Err(error) => Err(error),
        }
    }

    /// Fetches an image from a server, and gives it these aliases. The operation's metadata has its
    /// `fingerprint`.
    ///
    /// `POST /1.0/images`
    ///
    /// # Errors
    /// None but those of every call; that there is no network or no such image, the operation tells.
    pub async fn fetch_image(&self, image: &RemoteImage, aliases: &[&str]) -> Result<Operation> {
        let doing = format!("fetching the image {} from {}", image.alias, image.server);
        let body = serde_json::json!({
            "source": {
                "type": "image",
                "mode": "pull",
                "server": image.server,
                "protocol": image.protocol,
                "certificate": image.certificate,
                "alias": image.alias,
            },
            "auto_update": image.auto_update,
            "aliases": aliases.iter().map(|name| NamedAlias { name }).collect::<Vec<_>>(),
        });
        // It looks for the image before it answers.
        let call = Call::post(&["images"], doing).unlimited();
        self.begin(call.json(&body)?).await
    }

    /// Imports an image from files: one with everything in it, or one with metadata and one with the root file
    /// system. The operation's metadata has its `fingerprint`; give it a name with
    /// [`Client::create_image_alias`].
    ///
    /// `POST /1.0/images`
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; that it is no image, the operation tells.
    pub async fn import_image(&self, metadata: &Path, rootfs: Option<&Path>) -> Result<Operation> {
        let doing = format!("importing the image {}", metadata.display());
        let open = |path: &Path| {
            let path = path.to_owned();
            let doing = doing.clone();
            async move {
                File::open(&path).await.map_err(|source| Error::Io {
                    doing: format!("{doing}: reading {}", path.display()),
                    source,
                })
            }
        };
        let first = open(metadata).await?;
        let Some(rootfs) = rootfs else {
            let call = Call::post(&["images"], doing.as_str())
                .body(streamed(first))
                .header(CONTENT_TYPE, octets())
                .unlimited();
            return self.begin(call).await;
        };
        let second = open(rootfs).await?;
        // No file has this in it, but by intent; and then it is no image.
        const BOUNDARY: &str = "kapsule-f0a1a3b4-6c1e-4a42-9a6f-0d2f5ac0c6a5";
        let part = |name: &str| {
            full(format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            ))
        };
        let body = chained(vec![
            part("metadata"),
            streamed(first),
            full("\r\n"),
            part("rootfs"),
            streamed(second),
            full(format!("\r\n--{BOUNDARY}--\r\n")),
        ]);
        const FORM: &str =
            "multipart/form-data; boundary=kapsule-f0a1a3b4-6c1e-4a42-9a6f-0d2f5ac0c6a5";
        let call = Call::post(&["images"], doing.as_str())
            .body(body)
            .header(CONTENT_TYPE, HeaderValue::from_static(FORM))
            .unlimited();
        self.begin(call).await
    }

    /// Makes an image of an instance that does not run. The operation's metadata has its `fingerprint`.
    ///
    /// `POST /1.0/images` with an instance as source
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if it runs.
    pub async fn publish_image(&self, instance: &str, aliases: &[&str]) -> Result<Operation> {
        let doing = format!("making an image of the instance {instance}");
        let body = serde_json::json!({
            "source": { "type": "instance", "name": instance },
            "aliases": aliases.iter().map(|name| NamedAlias { name }).collect::<Vec<_>>(),
        });
        self.begin(Call::post(&["images"], doing).json(&body)?)
            .await
    }

    /// Fetches a newer one of an image that came from a server, if there is one. The operation's metadata has
    /// `refreshed`.
    ///
    /// `POST /1.0/images/FINGERPRINT/refresh`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn refresh_image(&self, fingerprint: &str) -> Result<Operation> {
        let doing = format!("refreshing the image {fingerprint}");
        self.begin(Call::post(&["images", fingerprint, "refresh"], doing))
            .await
    }

    /// Sets some of an image's properties; the others stay.
    ///
    /// `PATCH /1.0/images/FINGERPRINT`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_image_properties(
        &self,
        fingerprint: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<()> {
        let doing = format!("writing down what is known of the image {fingerprint}");
        let body = serde_json::json!({ "properties": properties });
        self.tell(Call::patch(&["images", fingerprint], doing).json(&body)?)
            .await
    }

    /// Deletes an image. Instances made of it stay.
    ///
    /// `DELETE /1.0/images/FINGERPRINT`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_image(&self, fingerprint: &str) -> Result<Operation> {
        let doing = format!("deleting the image {fingerprint}");
        self.begin(Call::delete(&["images", fingerprint], doing))
            .await
    }

    /// Gives an image a name.
    ///
    /// `POST /1.0/images/aliases`
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such image, [`Error::Conflict`] if the name is taken.
    pub async fn create_image_alias(&self, name: &str, fingerprint: &str) -> Result<()> {
        let doing = format!("naming an image {name}");
        let body = serde_json::json!({ "name": name, "target": fingerprint });
        self.tell(Call::post(&["images", "aliases"], doing).json(&body)?)
            .await
    }

    /// Takes a name away from its image.
    ///
    /// `DELETE /1.0/images/aliases/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_image_alias(&self, name: &str) -> Result<()> {
        let doing = format!("taking the name {name} away from an image");
        self.tell(Call::delete(&["images", "aliases", name], doing))
            .await
    }
}

pub(crate) fn octets() -> HeaderValue {
    HeaderValue::from_static("application/octet-stream")
}
