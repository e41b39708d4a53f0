//! Snapshots of instances.

use serde::Deserialize;

use crate::Result;
use crate::client::{Call, Client};
use crate::operation::Operation;
use crate::timestamp::Timestamp;

/// A snapshot of an instance.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its name, without that of the instance.
    pub name: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it goes by itself.
    #[serde(default)]
    pub expires_at: Timestamp,
    /// Whether it has the memory of the processes, too.
    #[serde(default)]
    pub stateful: bool,
    /// Its own size in bytes; -1 when that is not known.
    #[serde(default)]
    pub size: i64,
}

impl Client {
    /// The snapshots of an instance, the oldest first.
    ///
    /// `GET /1.0/instances/NAME/snapshots?recursion=1`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn snapshots(&self, instance: &str) -> Result<Vec<Snapshot>> {
        let doing = format!("listing the snapshots of {instance}");
        let call = Call::get(&["instances", instance, "snapshots"], doing).query("recursion", "1");
        Ok(self.ask::<Option<_>>(call).await?.unwrap_or_default())
    }

    /// Makes a snapshot of an instance's disk; it may run.
    ///
    /// `POST /1.0/instances/NAME/snapshots`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Conflict`](crate::Error::Conflict) if there is one
    /// of this name.
    pub async fn create_snapshot(&self, instance: &str, snapshot: &str) -> Result<Operation> {
        let doing = format!("making the snapshot {snapshot} of {instance}");
        let call = Call::post(&["instances", instance, "snapshots"], doing);
        let body = serde_json::json!({ "name": snapshot, "stateful": false });
        self.begin(call.json(&body)?).await
    }

    /// Puts an instance back into the state of a snapshot. One that runs is stopped and started again.
    ///
    /// `PUT /1.0/instances/NAME` with `restore`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn restore_snapshot(&self, instance: &str, snapshot: &str) -> Result<Operation> {
        let doing = format!("restoring {instance} from its snapshot {snapshot}");
        let call = Call::put(&["instances", instance], doing);
        let body = serde_json::json!({ "restore": snapshot, "stateful": false });
        self.begin(call.json(&body)?).await
    }

    /// Renames a snapshot.
    ///
    /// `POST /1.0/instances/NAME/snapshots/SNAPSHOT`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound), [`Error::Conflict`](crate::Error::Conflict).
    pub async fn rename_snapshot(
        &self,
        instance: &str,
        snapshot: &str,
        to: &str,
    ) -> Result<Operation> {
        let doing = format!("renaming the snapshot {snapshot} of {instance} to {to}");
        let call = Call::post(&["instances", instance, "snapshots", snapshot], doing);
        self.begin(call.json(&serde_json::json!({ "name": to }))?)
            .await
    }

    /// Deletes a snapshot.
    ///
    /// `DELETE /1.0/instances/NAME/snapshots/SNAPSHOT`
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound).
    pub async fn delete_snapshot(&self, instance: &str, snapshot: &str) -> Result<Operation> {
        let doing = format!("deleting the snapshot {snapshot} of {instance}");
        let call = Call::delete(&["instances", instance, "snapshots", snapshot], doing);
        self.begin(call).await
    }
}
