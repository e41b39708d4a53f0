//! Storage pools: where instances and images lie.

use serde::Deserialize;

use crate::Result;
use crate::client::{Call, Client};
use crate::instance::Config;
use crate::nullable::or_default;
use crate::timestamp::Timestamp;

/// A storage pool.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct StoragePool {
    /// Its name.
    pub name: String,
    /// `btrfs`, `dir`, `zfs`, `lvm`, …
    #[serde(default)]
    pub driver: String,
    /// `Created`, or why not.
    #[serde(default)]
    pub status: String,
    /// A person's words.
    #[serde(default)]
    pub description: String,
    /// Its configuration: `source`, `size`, …
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    /// Paths of what lies in it.
    #[serde(default, deserialize_with = "or_default")]
    pub used_by: Vec<String>,
}

/// How full a storage pool is.
#[derive(Copy, Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct PoolResources {
    /// Bytes.
    pub space: Amount,
    /// Inodes.
    #[serde(default)]
    pub inodes: Amount,
}

/// How much there is of something, and how much is in use.
#[derive(Copy, Clone, Default, Debug, Deserialize)]
#[non_exhaustive]
pub struct Amount {
    /// In use.
    #[serde(default)]
    pub used: u64,
    /// All of it.
    #[serde(default)]
    pub total: u64,
}

/// Something that lies in a storage pool.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Volume {
    /// Its name; an instance's or an image's, or its own.
    pub name: String,
    /// `container`, `virtual-machine`, `image`, `custom`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// When it was begun; Incus before 6.0 does not say.
    #[serde(default)]
    pub created_at: Timestamp,
    /// Its configuration.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    /// Paths of what has it.
    #[serde(default, deserialize_with = "or_default")]
    pub used_by: Vec<String>,
}

impl Client {
    /// All storage pools.
    ///
    /// `GET /1.0/storage-pools?recursion=1`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn storage_pools(&self) -> Result<Vec<StoragePool>> {
        let call = Call::get(&["storage-pools"], "listing storage pools").query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// One storage pool.
    ///
    /// `GET /1.0/storage-pools/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn storage_pool(&self, name: &str) -> Result<StoragePool> {
        let doing = format!("asking for the storage pool {name}");
        self.ask(Call::get(&["storage-pools", name], doing)).await
    }

    /// How full a storage pool is.
    ///
    /// `GET /1.0/storage-pools/NAME/resources`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn storage_pool_resources(&self, name: &str) -> Result<PoolResources> {
        let doing = format!("asking how full the storage pool {name} is");
        self.ask(Call::get(&["storage-pools", name, "resources"], doing))
            .await
    }

    /// What lies in a storage pool.
    ///
    /// `GET /1.0/storage-pools/NAME/volumes?recursion=1`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn storage_volumes(&self, pool: &str) -> Result<Vec<Volume>> {
        let doing = format!("listing what lies in the storage pool {pool}");
        let call = Call::get(&["storage-pools", pool, "volumes"], doing).query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// One thing that lies in a storage pool: of this kind (`image`, `container`, `custom`, …; see [`Volume::kind`]) and
    /// this name, which is an image's fingerprint.
    ///
    /// `GET /1.0/storage-pools/POOL/volumes/KIND/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn storage_volume(&self, pool: &str, kind: &str, name: &str) -> Result<Volume> {
        let doing = format!("asking for the {kind} {name} in the storage pool {pool}");
        let segments = ["storage-pools", pool, "volumes", kind, name];
        self.ask(Call::get(&segments, doing)).await
    }

    /// Deletes one thing that lies in a storage pool. An image stays one of Incus' images, and is unpacked again when it
    /// is needed.
    ///
    /// `DELETE /1.0/storage-pools/POOL/volumes/KIND/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) if it is in use.
    pub async fn delete_storage_volume(&self, pool: &str, kind: &str, name: &str) -> Result<()> {
        let doing = format!("deleting the {kind} {name} in the storage pool {pool}");
        let segments = ["storage-pools", pool, "volumes", kind, name];
        self.tell(Call::delete(&segments, doing).unlimited()).await
    }

    /// Makes a storage pool. Takes as long as the file system's tools do.
    ///
    /// `POST /1.0/storage-pools`
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) if the name is taken; [`Error::Refused`](crate::Error::Refused)
    /// if the driver is not there, or fails.
    pub async fn create_storage_pool(
        &self,
        name: &str,
        driver: &str,
        config: &Config,
    ) -> Result<()> {
        let doing = format!("making the storage pool {name} ({driver})");
        let body = serde_json::json!({ "name": name, "driver": driver, "config": config });
        let call = Call::post(&["storage-pools"], doing).unlimited();
        self.tell(call.json(&body)?).await
    }

    /// Deletes a storage pool in which nothing lies.
    ///
    /// `DELETE /1.0/storage-pools/NAME`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Refused`](crate::Error::Refused) if it is in use.
    pub async fn delete_storage_pool(&self, name: &str) -> Result<()> {
        let doing = format!("deleting the storage pool {name}");
        self.tell(Call::delete(&["storage-pools", name], doing).unlimited())
            .await
    }
}
