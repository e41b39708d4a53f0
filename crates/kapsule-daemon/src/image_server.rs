//! A server that images are fetched from, as the configuration has it.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};

/// As much of a certificate's file as is read: a chain is a few thousand bytes.
const LARGEST: u64 = 64 * 1024;

/// A simplestreams server: `"URL"`, or `{ url = "URL", certificate = "FILE" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageServer {
    /// Its URL.
    pub url: String,
    /// The file (PEM) with the certificate by which it is known, if no authority that this machine trusts vouches for it.
    pub certificate: Option<PathBuf>,
}

impl ImageServer {
    /// One at a URL, for which an authority vouches.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            certificate: None,
        }
    }

    /// Whether a URL is this server's.
    pub fn is_at(&self, url: &str) -> bool {
        self.url.trim_end_matches('/') == url.trim_end_matches('/')
    }

    /// Its certificate in PEM; empty if it needs none. Read anew each time, for certificates are renewed.
    ///
    /// # Errors
    /// [`Error::Failed`] with the file: it cannot be read, or there is no certificate in it.
    pub async fn certificate(&self) -> Result<String> {
        use tokio::io::AsyncReadExt;
        let Some(path) = &self.certificate else {
            return Ok(String::new());
        };
        let reading = format!(
            "reading the certificate {} of the image server {}",
            path.display(),
            self.url
        );
        let file = tokio::fs::File::open(path)
            .await
            .map_err(Error::failed(&reading))?;
        let mut text = String::new();
        file.take(LARGEST)
            .read_to_string(&mut text)
            .await
            .map_err(Error::failed(&reading))?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Error::Failed(format!(
                "{reading}: there is none in it; it has to be in PEM, with a line -----BEGIN CERTIFICATE-----"
            )));
        }
        Ok(text)
    }
}

impl<'de> Deserialize<'de> for ImageServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    url: String,
    certificate: Option<PathBuf>,
}

/// Either form. Not serde's own way for it (`untagged`), which only says that none of them fits.
struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = ImageServer;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a URL, or { url = \"URL\", certificate = \"FILE\" }")
    }

    fn visit_str<E: de::Error>(self, url: &str) -> std::result::Result<ImageServer, E> {
        checked(url.to_owned(), None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<ImageServer, A::Error> {
        let whole = Whole::deserialize(MapAccessDeserializer::new(map))?;
        checked(whole.url, whole.certificate)
    }
}

fn checked<E: de::Error>(
    url: String,
    certificate: Option<PathBuf>,
) -> std::result::Result<ImageServer, E> {
    let host = ["https://", "http://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    if host.is_none_or(|host| host.is_empty() || host.starts_with('/'))
        || url.contains(char::is_whitespace)
    {
        return Err(E::custom(format_args!(
            "{url:?} is no URL of a server: https://HOST, or https://HOST/DIRECTORY"
        )));
    }
    if certificate.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(E::custom("a certificate's path has to be absolute"));
    }
    Ok(ImageServer { url, certificate })
}
