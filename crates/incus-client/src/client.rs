//! The connection: a request, and its answer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;

use crate::operation::{Operation, OperationState};
use crate::{Error, Result};

/// How long an answer may take that Incus gives at once.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest answer that is read into memory.
const LARGEST_ANSWER: usize = 64 << 20;
/// How much of a stream is sent at once.
const CHUNK: usize = 256 << 10;

/// A body as it is sent.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// The way to one Incus. Cheap to clone; each request has a connection of its own, so nothing is to be done
/// when Incus has restarted.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    answer: Duration,
}

impl Client {
    /// A client of the Incus that listens at `socket`. Connects with the first request, not here.
    ///
    /// Its futures have to run on a tokio runtime with I/O and time.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client {
            inner: Arc::new(Inner {
                socket: socket.into(),
                answer: ANSWER,
            }),
        }
    }

    /// The same, with another limit (30 s) for answers that Incus gives at once. Waiting for operations and
    /// passing data have none.
    pub fn with_limit(self, answer: Duration) -> Client {
        Client {
            inner: Arc::new(Inner {
                socket: self.inner.socket.clone(),
                answer,
            }),
        }
    }

    /// Where Incus listens on this machine: `INCUS_SOCKET`, or `unix.socket` in `INCUS_DIR`, or in
    /// `/var/lib/incus`.
    pub fn usual_socket() -> PathBuf {
        if let Some(socket) = std::env::var_os("INCUS_SOCKET") {
            return socket.into();
        }
        std::env::var_os("INCUS_DIR")
            .map_or_else(|| PathBuf::from("/var/lib/incus"), PathBuf::from)
            .join("unix.socket")
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    pub(crate) async fn connect(&self, doing: &str) -> Result<UnixStream> {
        let socket = &self.inner.socket;
        UnixStream::connect(socket)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied => Error::Forbidden {
                    doing: doing.to_owned(),
                    socket: socket.clone(),
                },
                _ => Error::Unavailable {
                    doing: doing.to_owned(),
                    socket: socket.clone(),
                    source,
                },
            })
    }

    /// Sends a request and gives back its answer, of which the head has arrived, if it is no error.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Response<Incoming>> {
        let Call {
            doing,
            method,
            path,
            body,
            headers,
            limit,
        } = call;
        let stream = self.connect(&doing).await?;
        let interrupted = |error: hyper::Error| Error::Interrupted {
            doing: doing.to_string(),
            why: spoken(&error),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(interrupted)?;
        // Ends with the answer, or when the request is dropped. What goes wrong, the answer tells.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(&path);
        request = request.header(HOST, HeaderValue::from_static("incus"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| Error::Protocol {
            doing: doing.to_string(),
            why: format!("the request cannot be made: {error}"),
        })?;
        let answered = sender.send_request(request);
        let response = match limit {
            Limit::None => answered.await,
            Limit::Usual => {
                let after = self.inner.answer;
                let timely = tokio::time::timeout(after, answered).await;
                timely.map_err(|_| Error::TimedOut {
                    doing: doing.to_string(),
                    after,
                })?
            }
        }
        .map_err(interrupted)?;
        tracing::trace!(path, status = response.status().as_u16(), "answered");
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = read(&doing, response.into_body()).await?;
        let message = match serde_json::from_slice::<Failed>(&text) {
            Ok(failed) if !failed.error.is_empty() => failed.error,
            _ => format!("HTTP status {status}"),
        };
        Err(Error::answered(doing.to_string(), status, message))
    }

    /// The `metadata` of an answer that comes at once.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T> {
        let doing = call.doing.clone();
        let response = self.send(call).await?;
        let text = read(&doing, response.into_body()).await?;
        decode(&doing, &text)
    }

    /// For answers of which only that they came is of interest.
    pub(crate) async fn tell(&self, call: Call<'_>) -> Result<()> {
        let doing = call.doing.clone();
        let response = self.send(call).await?;
        read(&doing, response.into_body()).await?;
        Ok(())
    }

    /// For answers that are an operation.
    pub(crate) async fn begin(&self, call: Call<'_>) -> Result<Operation> {
        let state: OperationState = self.ask(call).await?;
        Ok(Operation::new(self.clone(), state))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.inner.socket).finish()
    }
}

/// A request that is being made up.
pub(crate) struct Call<'a> {
    doing: std::borrow::Cow<'a, str>,
    method: Method,
    path: String,
    body: Body,
    headers: Vec<(HeaderName, HeaderValue)>,
    limit: Limit,
}

/// How long it is waited for an answer's head.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Limit {
    Usual,
    None,
}

impl<'a> Call<'a> {
    /// `segments` are the path below `/1.0`, each encoded here.
    pub(crate) fn new(
        method: Method,
        segments: &[&str],
        doing: impl Into<std::borrow::Cow<'a, str>>,
    ) -> Call<'a> {
        Call {
            doing: doing.into(),
            method,
            path: path(segments),
            body: empty(),
            headers: Vec::new(),
            limit: Limit::Usual,
        }
    }

    pub(crate) fn get(segments: &[&str], doing: impl Into<std::borrow::Cow<'a, str>>) -> Call<'a> {
        Self::new(Method::GET, segments, doing)
    }

    pub(crate) fn post(segments: &[&str], doing: impl Into<std::borrow::Cow<'a, str>>) -> Call<'a> {
        Self::new(Method::POST, segments, doing)
    }

    pub(crate) fn put(segments: &[&str], doing: impl Into<std::borrow::Cow<'a, str>>) -> Call<'a> {
        Self::new(Method::PUT, segments, doing)
    }

    pub(crate) fn patch(
        segments: &[&str],
        doing: impl Into<std::borrow::Cow<'a, str>>,
    ) -> Call<'a> {
        Self::new(Method::PATCH, segments, doing)
    }

    pub(crate) fn delete(
        segments: &[&str],
        doing: impl Into<std::borrow::Cow<'a, str>>,
    ) -> Call<'a> {
        Self::new(Method::DELETE, segments, doing)
    }

    /// Adds to the query.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.path
            .push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(name);
        self.path.push('=');
        encode(&mut self.path, value);
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn json(mut self, value: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_vec(value).map_err(|error| Error::Protocol {
            doing: self.doing.to_string(),
            why: format!("the request cannot be written: {error}"),
        })?;
        self.body = full(text);
        let json = HeaderValue::from_static("application/json");
        Ok(self.header(CONTENT_TYPE, json))
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// For answers that come when something has happened, or when much data has been passed.
    pub(crate) fn unlimited(mut self) -> Self {
        self.limit = Limit::None;
        self
    }
}

/// `/1.0/…` of segments that are encoded here.
pub(crate) fn path(segments: &[&str]) -> String {
    let mut path = "/1.0".to_owned();
    for segment in segments {
        path.push('/');
        // These two would be taken for steps in the path by who reads it.
        match *segment {
            "." => path.push_str("%2E"),
            ".." => path.push_str("%2E%2E"),
            segment => encode(&mut path, segment),
        }
    }
    path
}

/// RFC 3986: all but the unreserved characters, as `%XX`.
fn encode(path: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            _ => {
                path.push('%');
                path.push(char::from(DIGITS[usize::from(byte >> 4)]));
                path.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// What `reader` gives, as it comes.
pub(crate) fn streamed(reader: impl AsyncRead + Send + Sync + Unpin + 'static) -> Body {
    let chunks = futures_util::stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        match reader.read_buf(&mut chunk).await? {
            0 => Ok(None),
            _ => Ok(Some((Frame::data(chunk.freeze()), reader))),
        }
    });
    BodyExt::boxed(StreamBody::new(chunks))
}

/// Several bodies, one after the other.
pub(crate) fn chained(bodies: Vec<Body>) -> Body {
    let frames = futures_util::stream::iter(bodies).flat_map(http_body_util::BodyStream::new);
    BodyExt::boxed(StreamBody::new(frames))
}

/// The whole of an answer, if it is not too long.
pub(crate) async fn read(doing: &str, mut body: Incoming) -> Result<Vec<u8>> {
    let mut text = Vec::with_capacity(body.size_hint().lower().min(1 << 20) as usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Interrupted {
            doing: doing.to_owned(),
            why: spoken(&error),
        })?;
        if let Ok(data) = frame.into_data() {
            if text.len() + data.len() > LARGEST_ANSWER {
                return Err(Error::Protocol {
                    doing: doing.to_owned(),
                    why: format!("it is longer than {} MiB", LARGEST_ANSWER >> 20),
                });
            }
            text.extend_from_slice(&data);
        }
    }
    Ok(text)
}

/// The `metadata` of an answer.
///
/// An answer that Incus begins before it knows its end (waiting) is an error in its text only.
pub(crate) fn decode<T: DeserializeOwned>(doing: &str, text: &[u8]) -> Result<T> {
    #[derive(serde::Deserialize)]
    #[serde(bound = "T: DeserializeOwned")]
    struct Answer<T> {
        #[serde(default)]
        error: String,
        #[serde(default)]
        error_code: u16,
        metadata: Option<T>,
    }
    let protocol = |why: String| Error::Protocol {
        doing: doing.to_owned(),
        why,
    };
    let answer: Answer<T> =
        serde_json::from_slice(text).map_err(|error| protocol(error.to_string()))?;
    if !answer.error.is_empty() {
        return Err(Error::answered(
            doing.to_owned(),
            answer.error_code,
            answer.error,
        ));
    }
    match answer.metadata {
        Some(metadata) => Ok(metadata),
        // An empty list is written as null.
        None => serde_json::from_str("null").map_err(|error| protocol(error.to_string())),
    }
}

/// hyper's errors, with what is behind them.
pub(crate) fn spoken(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[derive(serde::Deserialize)]
struct Failed {
    #[serde(default)]
    error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(path(&["instances", "web"]), "/1.0/instances/web");
        assert_eq!(
            path(&["instances", "../images", "a?b#c d\n"]),
            "/1.0/instances/..%2Fimages/a%3Fb%23c%20d%0A"
        );
        assert_eq!(path(&["instances", ".."]), "/1.0/instances/%2E%2E");
        assert_eq!(path(&["images", "é"]), "/1.0/images/%C3%A9");
    }

    #[test]
    fn queries_are_encoded() {
        let call = Call::get(&["events"], "")
            .query("type", "a,b")
            .query("x", "&=");
        assert_eq!(call.path, "/1.0/events?type=a%2Cb&x=%26%3D");
    }
}
