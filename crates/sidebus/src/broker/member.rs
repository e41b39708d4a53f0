//! One program of the guest: its connection from the agent, and its own connection to the VM bus.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dbus_router::{Admission, Credentials};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::clients::{Claims, Client, Clients};
use super::guest::{Inner, Session, new_token, refuse};
use super::room::Taken;
use super::status::ClientStatus;
use crate::crossing::{
    Bridge, DocumentFile, DocumentId, DocumentPath, DocumentStore, Offer, Quotas, Refusal, Room,
    Side, StreamLink, Traffic,
};
use crate::dbus_socket;
use crate::transport::{FrameReader, FrameWriter, LinkError};
use crate::wire::{ClientOpening, Reason, StreamId, Token};

/// The two directions of a stream's connection.
type Link = (FrameReader, FrameWriter);
/// A stream's place in the quotas.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A program of the guest.
pub(super) struct Member {
    token: Token,
    number: u64,
    claims: Claims,
    documents: PathBuf,
    client: OnceLock<Arc<Client>>,
    traffic: Arc<Traffic>,
    /// What it may have of the room for files.
    files: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    most_streams: usize,
    tables: Mutex<Streams>,
    next_stream: AtomicU32,
}

#[derive(Default)]
struct Streams {
    /// Begun by the agent; the message that carries them is under way.
    offered: HashMap<StreamId, (oneshot::Receiver<Link>, Place)>,
    /// Begun by us; their connection is under way.
    awaited: HashMap<StreamId, oneshot::Sender<Link>>,
}

impl Member {
    fn new(opening: &ClientOpening, inner: &Inner) -> Option<Member> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let limits = &inner.config.limits;
        let app_id = Some(&opening.app_id)
            .filter(|id| dbus_wire::is_well_known_name(id))
            .cloned();
        let documents = if opening.documents.is_absolute() {
            opening.documents.clone()
        } else {
            inner
                .config
                .guest_documents
                .clone()
                .unwrap_or_else(|| format!("/run/user/{}/doc", opening.uid).into())
        };
        Some(Member {
            token: new_token()?,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            claims: Claims {
                uid: opening.uid,
                pid: (opening.pid != 0).then_some(opening.pid),
                app_id,
            },
            documents,
            client: OnceLock::new(),
            traffic: Arc::default(),
            files: inner.files.share(),
            streams: Arc::new(Semaphore::new(limits.streams_per_client)),
            most_streams: limits.streams_per_client,
            tables: Mutex::default(),
            next_stream: AtomicU32::new(1),
        })
    }

    pub fn token(&self) -> Token {
        self.token
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    fn tables(&self) -> MutexGuard<'_, Streams> {
        // The tables are whole between any two statements.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more stream; none if there are too many.
    pub fn room_for_stream(&self, inner: &Inner) -> Option<Place> {
        let mine = self.streams.clone().try_acquire_owned().ok()?;
        let ours = inner.streams.clone().try_acquire_owned().ok()?;
        Some((mine, ours))
    }

    /// The agent begins a stream. Enter it before its Welcome: the message that carries it may follow at once.
    pub fn offered(&self, stream: u32, room: Place) -> oneshot::Sender<Link> {
        let (sender, receiver) = oneshot::channel();
        // A number used twice is the agent's fault: the older stream ends.
        self.tables()
            .offered
            .insert(StreamId(stream), (receiver, room));
        sender
    }

    /// Who waits for the connection of a stream that we have begun.
    pub fn awaiting(&self, stream: u32) -> Option<oneshot::Sender<Link>> {
        self.tables().awaited.remove(&StreamId(stream))
    }

    pub fn status(&self) -> ClientStatus {
        ClientStatus {
            name: self.client.get().map(|client| client.name.clone()),
            uid: self.claims.uid,
            pid: self.claims.pid,
            app_id: self.claims.app_id.clone(),
            messages_in: self.traffic.received.load(Ordering::Relaxed),
            messages_out: self.traffic.sent.load(Ordering::Relaxed),
            streams: self.most_streams - self.streams.available_permits(),
        }
    }
}

/// Takes a member out of all tables, however its connection ends.
struct Leaving<'a> {
    inner: &'a Inner,
    member: &'a Arc<Member>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.inner.leave(self.member);
        if let Some(client) = self.member.client.get() {
            self.inner.config.clients.remove(client);
        }
        *self.member.tables() = Streams::default();
    }
}

/// Serves a program of the guest until it goes.
pub(super) async fn serve(
    inner: &Arc<Inner>,
    session: &Session,
    opening: ClientOpening,
    connection: u64,
    reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), LinkError> {
    let Some(member) = Member::new(&opening, inner).map(Arc::new) else {
        let text = "the host has no random numbers".to_owned();
        return refuse(reader, writer, Reason::Unavailable, text).await;
    };
    if !inner.enter(&member) {
        let text = format!(
            "the machine has {} programs on its bus already, and that is its limit",
            inner.config.limits.clients
        );
        return refuse(reader, writer, Reason::Limits, text).await;
    }
    inner.opened(connection);
    let _leaving = Leaving {
        inner,
        member: &member,
    };
    let dbus = match connect(inner, &member.claims, opening.unix_fds).await {
        Ok(dbus) => dbus,
        Err(text) => return refuse(reader, writer, Reason::Unavailable, text).await,
    };
    writer.send(&inner.welcome(member.token)).await?;
    let limits = &inner.config.limits;
    let quotas = Quotas {
        message_bytes: limits.message_bytes,
        fds_per_message: limits.fds_per_message,
    };
    let side = Arc::new(HostSide {
        inner: inner.clone(),
        member: member.clone(),
    });
    let (mut ended, mut ending) = (session.ended.subscribe(), inner.ending.subscribe());
    let closing = async move {
        let reason = tokio::select! {
            reason = ended.wait_for(Option::is_some) => reason.ok().and_then(|it| it.clone()),
            reason = ending.wait_for(Option::is_some) => reason.ok().and_then(|it| it.clone()),
        };
        reason.unwrap_or_default()
    };
    let bridge = Bridge::new(side, quotas, member.traffic.clone());
    let result = bridge.run(dbus, (reader, writer), closing).await;
    let name = member.client.get().map(|client| client.name.as_str());
    match result {
        Ok(end) => tracing::debug!(name, ?end, "a program of the guest has gone"),
        Err(error) => {
            tracing::info!(name, %error, "the connection of a program of the guest ended")
        }
    }
    Ok(())
}

/// A connection to the VM bus, authenticated.
async fn connect(
    inner: &Inner,
    claims: &Claims,
    unix_fds: bool,
) -> Result<(dbus_socket::MessageReader, dbus_socket::MessageWriter), String> {
    let problem =
        |error: &dyn std::fmt::Display| format!("connecting to the machine's bus: {error}");
    let admission = Admission {
        trusted: false,
        credentials: Some(Credentials {
            uid: claims.uid,
            pid: claims.pid,
            ..Credentials::default()
        }),
    };
    let stream = inner
        .config
        .bus
        .connect_with(admission)
        .map_err(|error| problem(&error))?;
    let (mut reader, mut writer) =
        dbus_socket::split(stream.into()).map_err(|error| problem(&error))?;
    dbus_socket::authenticate_to_bus(&mut reader, &mut writer, unix_fds)
        .await
        .map_err(|error| problem(&error))?;
    Ok((reader, writer))
}

impl Room for Taken {
    fn hand_over(self: Box<Self>, watches: Vec<OwnedFd>) {
        Taken::hand_over(*self, watches);
    }
}

/// What crosses, at the host.
struct HostSide {
    inner: Arc<Inner>,
    member: Arc<Member>,
}

impl HostSide {
    fn documents(&self) -> &dyn DocumentStore {
        &*self.inner.config.documents
    }

    fn clients(&self) -> &Clients {
        &self.inner.config.clients
    }
}

impl Side for HostSide {
    fn other(&self) -> &'static str {
        "the virtual machine"
    }

    fn document_at(&self, path: &Path) -> Option<(DocumentId, DocumentPath)> {
        self.documents().document_at(path)
    }

    fn open_document<'a>(
        &'a self,
        file: &'a DocumentFile,
    ) -> BoxFuture<'a, Result<OwnedFd, Refusal>> {
        self.documents().open(file)
    }

    fn offer(&self) -> BoxFuture<'_, Result<Offer, Refusal>> {
        let offer = self.member.room_for_stream(&self.inner).map(|room| {
            let id = StreamId(self.member.next_stream.fetch_add(1, Ordering::Relaxed));
            let (sender, receiver) = oneshot::channel();
            self.member.tables().awaited.insert(id, sender);
            let link = async move {
                let (reader, writer) = receiver.await.map_err(|_| {
                    Refusal::failed("the program in the guest went before it took a stream")
                })?;
                Ok(StreamLink {
                    reader,
                    writer,
                    guard: Box::new(room),
                })
            };
            Offer {
                id,
                link: Box::pin(link),
            }
        });
        let offer = offer.ok_or_else(|| {
            Refusal::limits_exceeded(
                "too many pipes and sockets of this program, or of its virtual machine, are open",
            )
        });
        Box::pin(std::future::ready(offer))
    }

    fn take(&self, id: StreamId) -> BoxFuture<'_, Result<StreamLink, Refusal>> {
        let offered = self.member.tables().offered.remove(&id);
        Box::pin(async move {
            let none = || Refusal::failed(format!("there is no stream with number {}", id.0));
            let (link, room) = offered.ok_or_else(none)?;
            let (reader, writer) = link.await.map_err(|_| none())?;
            Ok(StreamLink {
                reader,
                writer,
                guard: Box::new(room),
            })
        })
    }

    fn room_for_files(&self, bytes: u32) -> BoxFuture<'_, Option<Box<dyn Room>>> {
        Box::pin(async move {
            let taken = self.inner.files.take(&self.member.files, bytes).await?;
            Some(Box::new(taken) as Box<dyn Room>)
        })
    }

    fn room_for_message(&self, bytes: u32) -> BoxFuture<'_, Box<dyn Send>> {
        // One message has room for itself, whatever the limit.
        let bytes = bytes.min(self.inner.config.limits.large_message_bytes);
        Box::pin(async move {
            let room = self
                .inner
                .large_messages
                .clone()
                .acquire_many_owned(bytes)
                .await;
            Box::new(room) as Box<dyn Send>
        })
    }

    fn named(&self, name: &str) {
        let member = &self.member;
        let client = self
            .clients()
            .add(name, member.claims.clone(), member.documents.clone());
        // A bus names a client once; another name would be of another client.
        if let Err(client) = member.client.set(client) {
            self.clients().remove(&client);
        }
    }

    fn holds_until_named(&self) -> bool {
        true
    }
}
