//! Backups: an instance as one file, and back.

use http_body_util::BodyExt;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::client::{Call, Client, spoken, streamed};
use crate::image::octets;
use crate::operation::Operation;
use crate::timestamp::Timestamp;
use crate::{Error, Result};

const NAME: HeaderName = HeaderName::from_static("x-incus-name");

/// A backup that Incus keeps of an instance.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Backup {
    /// Its name; with the instance's before it, where Incus lists it.
    pub name: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it goes by itself.
    #[serde(default)]
    pub expires_at: Timestamp,
    /// Whether it lacks the snapshots.
    #[serde(default)]
    pub instance_only: bool,
}

/// What is to be in a backup, and how it is packed.
#[derive(Copy, Clone, Debug)]
pub struct BackupOptions {
    /// Without snapshots.
    pub instance_only: bool,
    /// `gzip`, `zstd`, `xz`, … or `none`; without it, as the server is set up.
    pub compression: Option<&'static str>,
}

impl Client {
    /// The backups that Incus keeps of an instance.
    ///
    /// `GET /1.0/instances/NAME/backups?recursion=1`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn backups(&self, instance: &str) -> Result<Vec<Backup>> {
        let doing = format!("listing the backups of {instance}");
        let call = Call::get(&["instances", instance, "backups"], doing).query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// Makes a backup, that Incus keeps until it is deleted.
    ///
    /// `POST /1.0/instances/NAME/backups`
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] if there is one of this name.
    pub async fn create_backup(
        &self,
        instance: &str,
        backup: &str,
        options: BackupOptions,
    ) -> Result<Operation> {
        let doing = format!("making a backup of {instance}");
        let mut body = serde_json::json!({
            "name": backup,
            "instance_only": options.instance_only,
            "optimized_storage": false,
        });
        if let Some(compression) = options.compression {
            body["compression_algorithm"] = compression.into();
        }
        let call = Call::post(&["instances", instance, "backups"], doing);
        self.begin(call.json(&body)?).await
    }

    /// Writes a backup to `file`, and gives back how long it is.
    ///
    /// `GET /1.0/instances/NAME/backups/BACKUP/export`
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Io`] if it cannot be written.
    pub async fn export_backup(
        &self,
        instance: &str,
        backup: &str,
        file: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64> {
        let doing = format!("writing a backup of {instance}");
        let segments = ["instances", instance, "backups", backup, "export"];
        let response = self
            .send(Call::get(&segments, doing.as_str()).unlimited())
            .await?;
        let mut body = response.into_body();
        let mut written = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Interrupted {
                doing: doing.clone(),
                why: spoken(&error),
            })?;
            if let Ok(data) = frame.into_data() {
                let wrote = file.write_all(&data).await;
                wrote.map_err(|source| Error::Io {
                    doing: doing.clone(),
                    source,
                })?;
                written += data.len() as u64;
            }
        }
        file.flush().await.map_err(|source| Error::Io {
            doing: doing.clone(),
            source,
        })?;
        Ok(written)
    }

    /// Makes an instance called `name` of a backup that `file` gives.
    ///
    /// `POST /1.0/instances` with the backup as its body
    ///
    /// # Errors
    /// [`Error::Refused`] if it is no backup; that the name is taken, the operation may tell.
    pub async fn import_backup(
        &self,
        name: &str,
        file: impl AsyncRead + Send + Sync + Unpin + 'static,
    ) -> Result<Operation> {
        let doing = format!("making the instance {name} of a backup");
        let value = HeaderValue::from_str(name).map_err(|_| Error::Protocol {
            doing: doing.clone(),
            why: "the name cannot be put into a header".to_owned(),
        })?;
        let call = Call::post(&["instances"], doing)
            .body(streamed(file))
            .header(CONTENT_TYPE, octets())
            .header(NAME, value)
            .unlimited();
        self.begin(call).await
    }

    /// Deletes a backup.
    ///
    /// `DELETE /1.0/instances/NAME/backups/BACKUP`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_backup(&self, instance: &str, backup: &str) -> Result<Operation> {
        let doing = format!("deleting a backup of {instance}");
        let call = Call::delete(&["instances", instance, "backups", backup], doing);
        self.begin(call).await
    }
}
