//! What Incus tells while one is connected.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::client::{Client, path};
use crate::nullable::or_default;
use crate::operation::OperationState;
use crate::timestamp::Timestamp;
use crate::{Error, Result};

/// The longest message that is taken from a websocket.
const LARGEST_MESSAGE: usize = 16 << 20;
/// How long is waited before connecting again: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

pub(crate) type WebSocket = WebSocketStream<UnixStream>;

/// Something that has happened.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Raw")]
#[non_exhaustive]
pub struct Event {
    /// When.
    pub timestamp: Timestamp,
    /// In which of Incus' projects; empty for what is of none.
    pub project: String,
    /// What.
    pub body: EventBody,
}

/// What has happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventBody {
    /// An operation began, came further or ended.
    Operation(OperationState),
    /// Something was made, changed, started, stopped or removed.
    Lifecycle(Lifecycle),
    /// Another type (`logging`, …), as it came.
    Other {
        /// The type.
        kind: String,
        /// The rest.
        metadata: Value,
    },
}

/// A change to something that Incus has.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Lifecycle {
    /// What was done: `instance-started`, `instance-deleted`, `image-created`, …
    pub action: String,
    /// To what, as a path of the API: `/1.0/instances/web`.
    #[serde(default)]
    pub source: String,
    /// More of it, such as `old_name` of `instance-renamed`.
    #[serde(default, deserialize_with = "or_default")]
    pub context: BTreeMap<String, Value>,
    /// The thing's name.
    #[serde(default)]
    pub name: String,
}

impl Lifecycle {
    /// The instance's name, if it is about an instance or a snapshot of it.
    pub fn instance(&self) -> Option<&str> {
        let rest = self.source.strip_prefix("/1.0/instances/")?;
        rest.split(['/', '?']).next()
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    timestamp: Timestamp,
    #[serde(default)]
    project: String,
    #[serde(default)]
    metadata: Value,
}

impl From<Raw> for Event {
    fn from(raw: Raw) -> Event {
        let Raw {
            kind,
            timestamp,
            project,
            metadata,
        } = raw;
        // One that is not as the API says is passed on as it is: it must not end the stream.
        let body = match kind.as_str() {
            "operation" => OperationState::deserialize(&metadata)
                .map(EventBody::Operation)
                .ok(),
            "lifecycle" => Lifecycle::deserialize(&metadata)
                .map(EventBody::Lifecycle)
                .ok(),
            _ => None,
        };
        Event {
            timestamp,
            project,
            body: body.unwrap_or(EventBody::Other { kind, metadata }),
        }
    }
}

/// Events as they come, until Incus ends. [`Watch`] goes on then.
pub struct Events {
    socket: WebSocket,
}

impl Events {
    /// The next event. Nothing is lost when the future is dropped before it is done.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: there are no more; Incus has ended.
    pub async fn next(&mut self) -> Result<Event> {
        const DOING: &str = "listening to events";
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|error| Error::Protocol {
                        doing: DOING.to_owned(),
                        why: error.to_string(),
                    });
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(Error::Interrupted {
                        doing: DOING.to_owned(),
                        why: "it was closed".to_owned(),
                    });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Err(Error::Interrupted {
                        doing: DOING.to_owned(),
                        why: error.to_string(),
                    });
                }
            }
        }
    }
}

/// What a [`Watch`] has to tell.
#[derive(Debug)]
pub enum Seen {
    /// It is connected, for the first time or again. What has happened before went unseen: ask for everything
    /// that is of interest, now.
    Connected,
    /// Something has happened.
    Event(Event),
    /// Incus is gone, or was not there in the first place. It is tried again and again.
    Lost(Error),
}

/// Events that go on when Incus restarts.
pub struct Watch {
    client: Client,
    types: Vec<String>,
    events: Option<Events>,
    told_lost: bool,
    pause: Duration,
}

impl Watch {
    /// What comes next; it never ends. Nothing is lost when the future is dropped before it is done.
    pub async fn next(&mut self) -> Seen {
        loop {
            if let Some(events) = &mut self.events {
                match events.next().await {
                    Ok(event) => return Seen::Event(event),
                    Err(error) => {
                        self.events = None;
                        self.told_lost = true;
                        return Seen::Lost(error);
                    }
                }
            }
            let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
            match self.client.events(&types).await {
                Ok(events) => {
                    self.events = Some(events);
                    self.told_lost = false;
                    self.pause = PAUSE.0;
                    return Seen::Connected;
                }
                Err(error) if !self.told_lost => {
                    self.told_lost = true;
                    return Seen::Lost(error);
                }
                Err(_) => {
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}

impl Client {
    /// Listens to events of these types (`operation`, `lifecycle`, `logging`), from now on.
    ///
    /// `GET /1.0/events?type=…` (websocket)
    ///
    /// # Errors
    /// None but those of every call.
    pub async fn events(&self, types: &[&str]) -> Result<Events> {
        let path = format!("{}?type={}", path(&["events"]), types.join(","));
        let socket = self.websocket(&path, "listening to events").await?;
        Ok(Events { socket })
    }

    /// Listens to events as [`Client::events`] does, and goes on when Incus restarts. Connects when it is first
    /// asked.
    pub fn watch(&self, types: &[&str]) -> Watch {
        Watch {
            client: self.clone(),
            types: types.iter().map(|&kind| kind.to_owned()).collect(),
            events: None,
            told_lost: false,
            pause: PAUSE.0,
        }
    }

    /// Opens a websocket at `path_and_query`.
    pub(crate) async fn websocket(&self, path_and_query: &str, doing: &str) -> Result<WebSocket> {
        let stream = self.connect(doing).await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(LARGEST_MESSAGE))
            .max_frame_size(Some(LARGEST_MESSAGE));
        let url = format!("ws://incus{path_and_query}");
        match client_async_with_config(url, stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(WebSocketError::Http(response)) => Err(Error::answered(
                doing.to_owned(),
                response.status().as_u16(),
                response
                    .body()
                    .as_deref()
                    .map(|body| String::from_utf8_lossy(body).into_owned())
                    .unwrap_or_default(),
            )),
            Err(error) => Err(Error::Interrupted {
                doing: doing.to_owned(),
                why: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        serde_json::from_str(text).expect("it is one")
    }

    #[test]
    fn a_lifecycle_event_names_its_instance() {
        let event = event(
            r#"{"type":"lifecycle","timestamp":"2026-03-01T12:30:00Z","project":"default","metadata":
               {"action":"instance-snapshot-created","source":"/1.0/instances/web/snapshots/a","context":null}}"#,
        );
        let EventBody::Lifecycle(lifecycle) = event.body else {
            panic!("it is of the lifecycle: {event:?}");
        };
        assert_eq!(lifecycle.instance(), Some("web"));
    }

    #[test]
    fn an_event_that_is_not_understood_is_passed_on_as_it_came() {
        let event = event(r#"{"type":"operation","metadata":{"id":5}}"#);
        assert!(matches!(event.body, EventBody::Other { .. }), "{event:?}");
    }
}
