//! Work that Incus does in the background.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::{Call, Client};
use crate::error::says_taken;
use crate::event::EventBody;
use crate::nullable::or_default;
use crate::timestamp::Timestamp;
use crate::{Error, Result};

/// An operation as Incus tells of it.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct OperationState {
    /// Its identity, a UUID.
    pub id: String,
    /// `task`, `websocket` or `token`.
    #[serde(default)]
    pub class: String,
    /// What it does, in Incus' words: `Creating instance`.
    #[serde(default)]
    pub description: String,
    /// When it began.
    #[serde(default)]
    pub created_at: Timestamp,
    /// How far it is.
    #[serde(rename = "status_code")]
    pub status: Status,
    /// What it works on: `instances` → paths of the API.
    #[serde(default, deserialize_with = "or_default")]
    pub resources: BTreeMap<String, Vec<String>>,
    /// What is told of its kind of work; see [`OperationState::progress`].
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
    /// Whether [`Operation::cancel`] will do something.
    #[serde(default)]
    pub may_cancel: bool,
    /// Why it failed; empty if it did not.
    #[serde(default)]
    pub err: String,
}

/// How far an operation is.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "u16")]
pub enum Status {
    /// It has not begun, runs, or is being cancelled.
    Running,
    /// It has done its work.
    Success,
    /// It has failed: [`OperationState::err`] says why.
    Failure,
    /// Somebody cancelled it.
    Cancelled,
}

impl From<u16> for Status {
    fn from(code: u16) -> Status {
        match code {
            200..=299 => Status::Success,
            401 => Status::Cancelled,
            400..=499 => Status::Failure,
            _ => Status::Running,
        }
    }
}

/// How far an operation is in what can be counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Which part of the work: `download`, `create_instance_from_image_unpack`, …
    pub stage: String,
    /// 0 to 100, if that is known.
    pub percent: Option<u8>,
    /// Incus' own words: `rootfs: 45% (12.30MB/s)`.
    pub text: String,
}

impl OperationState {
    /// What it tells of its progress now.
    ///
    /// Incus puts a line for people under a key `STAGE_progress`, and for some stages numbers under `progress`.
    pub fn progress(&self) -> Option<Progress> {
        let (key, text) = self
            .metadata
            .iter()
            .find_map(|(key, value)| Some((key.strip_suffix("_progress")?, value.as_str()?)))?;
        let counted = self
            .metadata
            .get("progress")
            .and_then(|progress| progress.get("percent"))
            .and_then(|percent| match percent {
                Value::String(text) => text.parse().ok(),
                other => other.as_u64(),
            });
        let percent = counted
            .or_else(|| {
                let before = &text[..text.find('%')?];
                let digits = before
                    .rfind(|letter: char| !letter.is_ascii_digit())
                    .map_or(before, |at| {
                        before[at..].trim_start_matches(|letter: char| !letter.is_ascii_digit())
                    });
                digits.parse().ok()
            })
            .and_then(|percent: u64| u8::try_from(percent.min(100)).ok());
        Some(Progress {
            stage: key.to_owned(),
            percent,
            text: text.to_owned(),
        })
    }

    /// The names of the instances that it works on.
    pub fn instances(&self) -> impl Iterator<Item = &str> {
        self.resources
            .get("instances")
            .into_iter()
            .flatten()
            .filter_map(|path| {
                let name = path.strip_prefix("/1.0/instances/")?;
                Some(name.split(['/', '?']).next().unwrap_or(name))
            })
    }

    /// Nothing if it has done its work, else why not.
    fn outcome(self) -> Result<OperationState> {
        let doing = self.description.clone();
        match self.status {
            Status::Failure if says_taken(&self.err) => Err(Error::Conflict {
                doing,
                message: self.err,
            }),
            Status::Failure => Err(Error::OperationFailed {
                doing,
                message: self.err,
            }),
            Status::Cancelled => Err(Error::Cancelled { doing }),
            Status::Success | Status::Running => Ok(self),
        }
    }
}

/// Work that Incus does in the background. It goes on if this is dropped.
#[derive(Clone)]
pub struct Operation {
    client: Client,
    state: OperationState,
}

impl Operation {
    pub(crate) fn new(client: Client, state: OperationState) -> Operation {
        Operation { client, state }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Its identity, a UUID.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// What was known of it when this was made.
    pub fn state(&self) -> &OperationState {
        &self.state
    }

    /// Waits for its end.
    ///
    /// `GET /1.0/operations/ID/wait`
    ///
    /// # Errors
    /// [`Error::OperationFailed`] or [`Error::Conflict`] if it failed, [`Error::Cancelled`],
    /// [`Error::Interrupted`] if Incus went in the meantime, and the operation with it.
    pub async fn wait(&self) -> Result<OperationState> {
        let doing = format!("waiting for the operation “{}”", self.state.description);
        // Those that end quickly are forgotten only after a few seconds.
        let call = Call::get(&["operations", self.id(), "wait"], doing)
            .query("timeout", "-1")
            .unlimited();
        match self.client.ask::<OperationState>(call).await {
            Ok(state) => state.outcome(),
            Err(Error::Refused { message, .. }) => {
                // Incus answers with the operation's error. How it ended, the operation itself knows, if it is
                // still remembered.
                match self.client.operation(self.id()).await {
                    Ok(ended) if ended.state.status != Status::Running => ended.state.outcome(),
                    _ => Err(Error::OperationFailed {
                        doing: self.state.description.clone(),
                        message,
                    }),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for its end, and passes on what Incus tells of it until then. If the events cannot be had it is
    /// waited without.
    ///
    /// `GET /1.0/operations/ID/wait` and `GET /1.0/events?type=operation`
    ///
    /// # Errors
    /// As [`Operation::wait`].
    pub async fn wait_with(
        &self,
        mut changed: impl FnMut(&OperationState),
    ) -> Result<OperationState> {
        let mut events = self.client.events(&["operation"]).await.ok();
        let mut end = std::pin::pin!(self.wait());
        loop {
            let Some(open) = &mut events else {
                return end.await;
            };
            tokio::select! {
                state = &mut end => return state,
                event = open.next() => match event {
                    Ok(event) => {
                        if let EventBody::Operation(state) = event.body
                            && state.id == self.id()
                        {
                            changed(&state);
                        }
                    }
                    Err(_) => events = None,
                },
            }
        }
    }

    /// Asks Incus to stop it. What it has half done it takes back; [`Operation::wait`] tells when.
    ///
    /// `DELETE /1.0/operations/ID`
    ///
    /// # Errors
    /// [`Error::Refused`] if it is of a kind that cannot be cancelled; [`Error::NotFound`] if it has ended.
    pub async fn cancel(&self) -> Result<()> {
        self.client.cancel_operation(self.id()).await
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl Client {
    /// All operations that Incus knows of: those that run, and for some seconds those that have ended.
    ///
    /// `GET /1.0/operations?recursion=1`
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn operations(&self) -> Result<Vec<OperationState>> {
        let call = Call::get(&["operations"], "listing operations").query("recursion", "1");
        let by_status: Option<BTreeMap<String, Vec<OperationState>>> = self.ask(call).await?;
        Ok(by_status
            .unwrap_or_default()
            .into_values()
            .flatten()
            .collect())
    }

    /// One operation.
    ///
    /// `GET /1.0/operations/ID`
    ///
    /// # Errors
    /// [`Error::NotFound`]: Incus does not remember it, or was restarted.
    pub async fn operation(&self, id: &str) -> Result<Operation> {
        let call = Call::get(
            &["operations", id],
            format!("asking for the operation {id}"),
        );
        self.begin(call).await
    }

    /// Asks Incus to stop an operation; see [`Operation::cancel`].
    ///
    /// `DELETE /1.0/operations/ID`
    ///
    /// # Errors
    /// As [`Operation::cancel`].
    pub async fn cancel_operation(&self, id: &str) -> Result<()> {
        let doing = format!("cancelling the operation {id}");
        self.tell(Call::delete(&["operations", id], doing)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(metadata: &str) -> OperationState {
        let text = format!("{{\"id\":\"1\",\"status_code\":103,\"metadata\":{metadata}}}");
        serde_json::from_str(&text).expect("it is one")
    }

    #[test]
    fn progress_is_read_from_the_numbers_or_from_the_words() {
        let with_numbers = state(
            r#"{"download_progress":"rootfs: 45% (12.30MB/s)",
                "progress":{"stage":"download","percent":"46","speed":"12300000"}}"#,
        );
        let progress = with_numbers.progress().expect("there is some");
        assert_eq!(progress.stage, "download");
        assert_eq!(progress.percent, Some(46));

        let words = state(r#"{"create_instance_from_image_unpack_progress":"Unpack: 7% (1GB/s)"}"#);
        let progress = words.progress().expect("there is some");
        assert_eq!(progress.percent, Some(7));
        assert_eq!(progress.text, "Unpack: 7% (1GB/s)");

        let amount = state(r#"{"fs_progress":"12.3MB (1MB/s)"}"#);
        assert_eq!(amount.progress().expect("there is some").percent, None);
        assert_eq!(state("null").progress(), None);
        assert_eq!(
            state(r#"{"x_progress":"%"}"#)
                .progress()
                .expect("there is some")
                .percent,
            None
        );
    }

    #[test]
    fn instances_are_read_from_the_resources() {
        let text = r#"{"id":"1","status_code":103,
            "resources":{"instances":["/1.0/instances/web?project=x","/1.0/instances/db"]}}"#;
        let state: OperationState = serde_json::from_str(text).expect("it is one");
        assert_eq!(state.instances().collect::<Vec<_>>(), ["web", "db"]);
    }
}
