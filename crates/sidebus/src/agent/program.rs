//! One program of the guest: its socket, and its connection to the broker.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dbus_wire::sasl::{Authenticated, ServerConfig};
use futures_util::future::BoxFuture;
use tokio::net::UnixStream;

use super::Agent;
use super::control::{self, Broker};
use super::documents::Documents;
use super::who::Who;
use crate::crossing::{
    Bridge, DocumentFile, DocumentId, DocumentPath, Ended, Offer, Quotas, Refusal, Room, Side,
    StreamLink, Traffic, refuse_first_call,
};
use crate::dbus_socket::{self, MessageReader, MessageWriter};
use crate::transport::{Endpoint, FrameReader, FrameWriter, LinkError};
use crate::wire::{ClientOpening, Purpose, Reason, StreamId, StreamOpening, Token, Welcome};

/// How long a program may take to authenticate.
const AUTHENTICATION: Duration = Duration::from_secs(30);
/// How long a program waits for a broker that is not there (yet).
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before a stream or a program is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// Serves it until it goes.
pub(super) async fn serve(agent: &Arc<Agent>, stream: UnixStream) {
    let Ok(who) = Who::of(&stream) else {
        return;
    };
    if !agent.allowed.contains(&who.uid) {
        tracing::warn!(
            uid = who.uid,
            pid = who.pid,
            "refused a program of another user; --allow-uid lets it in"
        );
        return;
    }
    if let Err(error) = connected(agent, stream, &who).await {
        tracing::info!(pid = who.pid, app_id = who.app_id, %error, "the connection of a program ended");
    }
}

async fn connected(
    agent: &Arc<Agent>,
    stream: UnixStream,
    who: &Who,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut reader, mut writer) = dbus_socket::split(stream.into_std()?.into())?;
    let config = ServerConfig::new(agent.guid, who.uid);
    let authenticating = dbus_socket::authenticate_client(&mut reader, &mut writer, config);
    let authenticated = tokio::time::timeout(AUTHENTICATION, authenticating).await??;
    let documents = Documents::new(match &agent.documents {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("/run/user/{}/doc", who.uid)),
    });
    let (welcome, link) = match reach(agent, who, &authenticated, &documents).await {
        Ok(reached) => reached,
        Err(refusal) => {
            // It has been let in, so it will say Hello, and can be told.
            refuse_first_call(&mut reader, &mut writer, &refusal).await?;
            return Err(refusal.into());
        }
    };
    bridge(agent, welcome, documents, (reader, writer), link).await
}

async fn bridge(
    agent: &Arc<Agent>,
    welcome: Welcome,
    documents: Documents,
    dbus: (MessageReader, MessageWriter),
    link: (FrameReader, FrameWriter),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let side = Arc::new(GuestSide {
        endpoint: agent.endpoint.clone(),
        client: welcome.token,
        documents,
        next_stream: AtomicU32::new(1),
    });
    let quotas = Quotas {
        message_bytes: welcome.message_bytes,
        fds_per_message: welcome.fds_per_message,
    };
    let mut ending = agent.ending.clone();
    let closing = async move {
        let reason = ending.wait_for(Option::is_some).await;
        reason.ok().and_then(|it| it.clone()).unwrap_or_default()
    };
    let ended = Bridge::new(side, quotas, Arc::new(Traffic::default()))
        .run(dbus, link, closing)
        .await?;
    match ended {
        Ended::There(Some(reason)) => Err(format!("the broker closed it: {reason}").into()),
        ended => {
            tracing::debug!(?ended, "a program has gone");
            Ok(())
        }
    }
}

/// Opens the program's connection, as soon as the broker is there.
async fn reach(
    agent: &Agent,
    who: &Who,
    authenticated: &Authenticated,
    documents: &Documents,
) -> Result<(Welcome, (FrameReader, FrameWriter)), Refusal> {
    let since = Instant::now();
    loop {
        let session = session(agent, since).await?;
        let opening = ClientOpening {
            session,
            uid: who.uid,
            pid: who.pid,
            app_id: who.app_id.clone().unwrap_or_default(),
            documents: documents.mount().to_owned(),
            unix_fds: authenticated.unix_fds,
        };
        let problem = match control::open(&agent.endpoint, Purpose::Client(opening)).await {
            Ok(Ok((welcome, reader, writer))) => return Ok((welcome, (reader, writer))),
            Ok(Err(refused)) if refused.reason == Reason::Limits => {
                return Err(Refusal::limits_exceeded(refused.text));
            }
            Ok(Err(refused)) => {
                if refused.reason == Reason::UnknownToken {
                    agent.renew_if(session);
                }
                refused.text
            }
            Err(error) => error.to_string(),
        };
        if since.elapsed() > PATIENCE {
            return Err(away(&problem));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The token of the agent's session; waits for one.
async fn session(agent: &Agent, since: Instant) -> Result<Token, Refusal> {
    let mut broker = agent.broker.clone();
    let here = broker.wait_for(|broker| matches!(broker, Broker::Here(_)));
    let waited = tokio::time::timeout(PATIENCE.saturating_sub(since.elapsed()), here).await;
    if let Ok(Ok(broker)) = waited
        && let Broker::Here(welcome) = &*broker
    {
        return Ok(welcome.token);
    }
    match &*agent.broker.borrow() {
        Broker::Away(reason) => Err(away(reason)),
        Broker::Here(_) => Err(away("it has just come back; try again")),
    }
}

/// Whether a connection that could not be opened is worth another try.
fn is_passing(error: &LinkError) -> bool {
    match error {
        LinkError::Io(error) => Endpoint::is_passing(error),
        // A broker on which much is going on closes those that have not said what they are for.
        LinkError::Cut(_) => true,
        _ => false,
    }
}

fn away(reason: &str) -> Refusal {
    Refusal::no_server(format!(
        "sidebus-broker on the host cannot be reached: {reason}"
    ))
}

impl Agent {
    /// Has the control connection made anew, if its session is still the one that the broker does not know.
    fn renew_if(&self, session: Token) {
        if let Broker::Here(welcome) = &*self.broker.borrow()
            && welcome.token == session
        {
            self.renew.notify_one();
        }
    }
}

struct Unlimited;

impl Room for Unlimited {
    fn hand_over(self: Box<Self>, _watches: Vec<OwnedFd>) {}
}

/// What crosses, in the guest.
struct GuestSide {
    endpoint: Endpoint,
    client: Token,
    documents: Documents,
    next_stream: AtomicU32,
}

impl GuestSide {
    /// Opens the connection of a stream. That it takes a moment to be reached is normal for some devices.
    async fn stream(&self, purpose: Purpose) -> Result<StreamLink, Refusal> {
        let since = Instant::now();
        loop {
            match control::open(&self.endpoint, purpose.clone()).await {
                Ok(Ok((_, reader, writer))) => {
                    return Ok(StreamLink {
                        reader,
                        writer,
                        guard: Box::new(()),
                    });
                }
                Ok(Err(refused)) if refused.reason == Reason::Limits => {
                    return Err(Refusal::limits_exceeded(refused.text));
                }
                Ok(Err(refused)) => return Err(Refusal::failed(refused.text)),
                Err(error) if is_passing(&error) && since.elapsed() < PATIENCE => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(away(&error.to_string())),
            }
        }
    }

    fn opening(&self, id: StreamId) -> StreamOpening {
        StreamOpening {
            client: self.client,
            stream: id.0,
        }
    }
}

impl Side for GuestSide {
    fn other(&self) -> &'static str {
        "the host"
    }

    fn document_at(&self, path: &Path) -> Option<(DocumentId, DocumentPath)> {
        self.documents.document_at(path)
    }

    fn open_document<'a>(
        &'a self,
        file: &'a DocumentFile,
    ) -> BoxFuture<'a, Result<OwnedFd, Refusal>> {
        let (documents, file) = (self.documents.clone(), file.clone());
        Box::pin(async move {
            // The host serves that file system: it may take its time.
            tokio::task::spawn_blocking(move || documents.open(&file))
                .await
                .unwrap_or_else(|_| Err(Refusal::failed("opening a document in the guest")))
        })
    }

    fn offer(&self) -> BoxFuture<'_, Result<Offer, Refusal>> {
        Box::pin(async move {
            let id = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
            let link = self.stream(Purpose::Offer(self.opening(id))).await?;
            Ok(Offer {
                id,
                link: Box::pin(std::future::ready(Ok(link))),
            })
        })
    }

    fn take(&self, id: StreamId) -> BoxFuture<'_, Result<StreamLink, Refusal>> {
        Box::pin(self.stream(Purpose::Answer(self.opening(id))))
    }

    // The host keeps to its limits; the guest trusts it anyway.

    fn room_for_files(&self, _bytes: u32) -> BoxFuture<'_, Option<Box<dyn Room>>> {
        Box::pin(std::future::ready(Some(
            Box::new(Unlimited) as Box<dyn Room>
        )))
    }

    fn room_for_message(&self, _bytes: u32) -> BoxFuture<'_, Box<dyn Send>> {
        Box::pin(std::future::ready(Box::new(()) as Box<dyn Send>))
    }

    fn named(&self, _name: &str) {}

    fn holds_until_named(&self) -> bool {
        false
    }
}
