//! Images: where they come from, and what they want of a container.

use std::collections::BTreeMap;
use std::sync::Arc;

use incus_client::Source;
use zbus::OwnedObjectPath;

use crate::caller::Caller;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::names::ImageName;
use crate::operations::Progress;
use crate::options::CreateOptions;

/// An image that Incus has.
pub struct FoundImage {
    /// How Incus knows it.
    pub source: Source,
    /// What is written of it.
    pub properties: BTreeMap<String, String>,
}

/// What an image wishes.
pub struct ImageWishes {
    /// Features.
    pub with: Vec<String>,
    /// No features.
    pub without: Vec<String>,
}

impl FoundImage {
    /// x
    pub fn wishes(&self, _options: &CreateOptions) -> Result<ImageWishes> {
        Ok(ImageWishes {
            with: Vec::new(),
            without: Vec::new(),
        })
    }
}

impl Daemon {
    pub(crate) fn check_server(&self, _image: &ImageName) -> Result<()> {
        Ok(())
    }
    pub(crate) async fn obtain_image(
        &self,
        _progress: &Progress,
        image: &ImageName,
    ) -> Result<FoundImage> {
        Ok(FoundImage {
            source: Source::alias(image.alias()),
            properties: BTreeMap::new(),
        })
    }
    /// x
    pub async fn list_images(&self) -> Result<String> {
        Err(Error::Failed("not yet".into()))
    }
    /// x
    pub async fn import_image(
        self: &Arc<Self>,
        _c: &Caller,
        _d: &str,
        _a: &str,
    ) -> Result<OwnedObjectPath> {
        Err(Error::Failed("not yet".into()))
    }
    /// x
    pub async fn delete_image(self: &Arc<Self>, _c: &Caller, _d: &str) -> Result<OwnedObjectPath> {
        Err(Error::Failed("not yet".into()))
    }
    /// x
    pub async fn refresh_images(
        self: &Arc<Self>,
        _c: &Caller,
        _d: &str,
    ) -> Result<OwnedObjectPath> {
        Err(Error::Failed("not yet".into()))
    }
    /// x
    pub async fn save(
        self: &Arc<Self>,
        _c: &Caller,
        _d: &str,
        _f: std::os::fd::OwnedFd,
    ) -> Result<OwnedObjectPath> {
        Err(Error::Failed("not yet".into()))
    }
    /// x
    pub async fn load(
        self: &Arc<Self>,
        _c: &Caller,
        _d: &str,
        _f: std::os::fd::OwnedFd,
    ) -> Result<OwnedObjectPath> {
        Err(Error::Failed("not yet".into()))
    }
}
