//! The guest: its agent, its clients, and their streams.
//!
//! - The agent's control connection makes a *session*: the token that its other connections show. Who has not got it
//!   from us opens nothing else.
//! - A session does not end because nobody answers: a paused guest is silent and alive. It ends when the agent says so,
//!   when another agent comes after its control connection is gone or does not answer, or with the broker. What has
//!   died closes its connections, and each of them ends by itself.
//! - An agent whose control connection was cut goes on with its session by showing its token.
//! - Connections that do not say what they are for give way to those that come after them.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dbus_router::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::clients::Clients;
use super::limits::Limits;
use super::member::{self, Member};
use super::room::FileRoom;
use super::status::{AgentStatus, ClientStatus};
use crate::crossing::DocumentStore;
use crate::transport::{FrameReader, FrameWriter, LinkError, Listener, Socket, link};
use crate::wire::{
    ControlOpening, Frame, Open, Purpose, Reason, Refused, StreamOpening, Token, VERSION, Welcome,
    WireError,
};

/// How often the agent is asked for a sign of life.
const PING: Duration = Duration::from_secs(10);
/// After this long without one it counts as silent: in the status only.
const SILENT: Duration = Duration::from_secs(25);
/// How long an agent has to show that it is there, when another one would take its place.
const PROBE: Duration = Duration::from_secs(3);
/// How long the other side may take to close after a Goodbye.
const LINGER: Duration = Duration::from_secs(2);
/// How long to wait when there are no descriptors left for new connections.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Newcomers that may wait for the agent to answer.
const PROBES: usize = 4;

/// What a [`Guest`] needs.
pub struct GuestConfig {
    /// The VM bus.
    pub bus: Handle,
    /// Where its clients are entered.
    pub clients: Clients,
    /// The documents of this machine.
    pub documents: Arc<dyn DocumentStore>,
    /// Where programs see documents if the agent does not say.
    pub guest_documents: Option<PathBuf>,
    /// Quotas.
    pub limits: Limits,
}

/// The guest, as the broker sees it. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub config: GuestConfig,
    state: Mutex<State>,
    /// Streams of the whole machine.
    pub streams: Arc<Semaphore>,
    /// Files that have crossed and are still open.
    pub files: FileRoom,
    /// Bytes of messages that are more than a little, and under way.
    pub large_messages: Arc<Semaphore>,
    /// Why the broker ends, once it does.
    pub ending: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    members: HashMap<Token, Arc<Member>>,
    unopened: VecDeque<(u64, AbortHandle)>,
    connections: u64,
}

/// An agent.
pub(super) struct Session {
    token: Token,
    agent: String,
    host_name: String,
    /// Why it has ended, once it has.
    pub ended: watch::Sender<Option<String>>,
    control: Mutex<Control>,
}

struct Control {
    /// Asks the control connection for a sign of life; none while it is gone.
    probe: Option<mpsc::Sender<oneshot::Sender<()>>>,
    /// Which control connection of the session it is.
    number: u64,
    last_answer: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// Nobody is connected yet.
    pub fn new(config: GuestConfig) -> Guest {
        let most = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Guest {
            inner: Arc::new(Inner {
                streams: most(config.limits.streams),
                files: FileRoom::new(config.limits.file_bytes),
                large_messages: most(config.limits.large_message_bytes as usize),
                state: Mutex::default(),
                ending: watch::Sender::new(None),
                config,
            }),
        }
    }

    /// Serves connections; never returns.
    pub async fn serve(&self, listener: &Listener) {
        loop {
            match listener.accept().await {
                Ok(socket) => self.connected(socket),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of the guest now");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn connected(&self, socket: Socket) {
        // Held until the connection is in the list: it takes itself out when it has said what it is for.
        let mut state = locked(&self.inner.state);
        state.connections += 1;
        let number = state.connections;
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = connection(&inner, socket, number).await {
                tracing::info!(%error, "a connection of the guest ended");
            }
            inner.opened(number);
        });
        state.unopened.push_back((number, task.abort_handle()));
        if state.unopened.len() > self.inner.config.limits.unopened_connections
            && let Some((_, oldest)) = state.unopened.pop_front()
        {
            tracing::info!("too many connections are nobody's yet: the oldest goes");
            oldest.abort();
        }
    }

    /// Says goodbye to everybody, and waits a moment for it to arrive.
    pub async fn end(&self, reason: &str) {
        self.inner.ending.send_replace(Some(reason.to_owned()));
        let gone = async {
            while !self.inner.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(LINGER, gone).await;
    }

    /// The agent, and the clients by the order in which they came.
    pub fn status(&self) -> (Option<AgentStatus>, Vec<ClientStatus>) {
        let state = locked(&self.inner.state);
        let agent = state.session.as_ref().map(|session| session.status());
        let mut members: Vec<_> = state.members.values().cloned().collect();
        drop(state);
        members.sort_by_key(|member| member.number());
        (
            agent,
            members.iter().map(|member| member.status()).collect(),
        )
    }
}

impl Inner {
    /// A connection has been taken, or has gone: other bounds hold for it from here on.
    pub fn opened(&self, number: u64) {
        locked(&self.state)
            .unopened
            .retain(|(other, _)| *other != number);
    }

    fn is_empty(&self) -> bool {
        let state = locked(&self.state);
        let agent_is_away = state
            .session
            .as_ref()
            .is_none_or(|session| locked(&session.control).probe.is_none());
        state.members.is_empty() && agent_is_away
    }

    fn session(&self, token: &Token) -> Option<Arc<Session>> {
        let state = locked(&self.state);
        let session = state.session.as_ref()?;
        (session.token == *token && session.ended.borrow().is_none()).then(|| session.clone())
    }

    fn member(&self, token: &Token) -> Option<Arc<Member>> {
        locked(&self.state).members.get(token).cloned()
    }

    /// Enters a client, if there is a place for it.
    pub fn enter(&self, member: &Arc<Member>) -> bool {
        let mut state = locked(&self.state);
        if state.members.len() >= self.config.limits.clients {
            return false;
        }
        state.members.insert(member.token(), member.clone());
        true
    }

    pub fn leave(&self, member: &Member) {
        locked(&self.state).members.remove(&member.token());
    }

    pub fn welcome(&self, token: Token) -> Frame<'static> {
        Frame::Welcome(Welcome {
            version: VERSION,
            token,
            message_bytes: self.config.limits.message_bytes,
            fds_per_message: self.config.limits.fds_per_message,
        })
    }
}

/// A token that nobody can guess; None if the system has no random bytes.
pub(super) fn new_token() -> Option<Token> {
    let mut token = [0; 16];
    let count = rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty());
    (count == Ok(token.len())).then_some(token)
}

/// Says no, and waits a moment for the other side to read it.
pub(super) async fn refuse(
    mut reader: FrameReader,
    mut writer: FrameWriter,
    reason: Reason,
    text: String,
) -> Result<(), LinkError> {
    tracing::info!(?reason, text, "refused a connection of the guest");
    let refusing = async {
        writer
            .send(&Frame::Refused(Refused { reason, text }))
            .await?;
        while reader.next().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(LINGER, refusing)
        .await
        .unwrap_or(Ok(()))
}

async fn connection(inner: &Arc<Inner>, socket: Socket, number: u64) -> Result<(), LinkError> {
    let (mut reader, writer) = link(socket);
    let open = match reader.next().await {
        Ok(Some(Frame::Open(open))) => open,
        Ok(None) => return Ok(()),
        Ok(Some(other)) => {
            return Err(LinkError::Unexpected {
                frame: other.kind(),
                expected: "Open",
            });
        }
        Err(LinkError::Wire(error @ WireError::Version { .. })) => {
            let text = format!("{error}; install the same version of sidebus on both sides");
            return refuse(reader, writer, Reason::Version, text).await;
        }
        Err(error) => return Err(error),
    };
    // It is in the list of those that are nobody yet until it has been taken: who is refused may take a moment to go.
    if inner.ending.borrow().is_some() {
        let text = "the broker is ending".to_owned();
        return refuse(reader, writer, Reason::Unavailable, text).await;
    }
    match open {
        Open {
            purpose: Purpose::Control(opening),
            ..
        } => control(inner, opening, number, reader, writer).await,
        Open {
            purpose: Purpose::Client(opening),
            ..
        } => match inner.session(&opening.session) {
            Some(session) => member::serve(inner, &session, opening, number, reader, writer).await,
            None => unknown(reader, writer).await,
        },
        Open {
            purpose: Purpose::Offer(stream),
            ..
        } => match inner.member(&stream.client) {
            Some(member) => offered(inner, &member, &stream, number, reader, writer).await,
            None => unknown(reader, writer).await,
        },
        Open {
            purpose: Purpose::Answer(stream),
            ..
        } => match inner.member(&stream.client) {
            Some(member) => answered(inner, &member, &stream, number, reader, writer).await,
            None => unknown(reader, writer).await,
        },
    }
}

async fn unknown(reader: FrameReader, writer: FrameWriter) -> Result<(), LinkError> {
    let text = "the broker does not know this token; it may have been restarted".to_owned();
    refuse(reader, writer, Reason::UnknownToken, text).await
}

async fn offered(
    inner: &Inner,
    member: &Member,
    stream: &StreamOpening,
    number: u64,
    reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), LinkError> {
    let Some(guard) = member.room_for_stream(inner) else {
        let text = "too many pipes and sockets of this program, or of the machine, are open";
        return refuse(reader, writer, Reason::Limits, text.to_owned()).await;
    };
    inner.opened(number);
    let offered = member.offered(stream.stream, guard);
    writer.send(&inner.welcome([0; 16])).await?;
    // Its client may have gone; then the connection closes here.
    let _ = offered.send((reader, writer));
    Ok(())
}

async fn answered(
    inner: &Inner,
    member: &Member,
    stream: &StreamOpening,
    number: u64,
    reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), LinkError> {
    let Some(awaiting) = member.awaiting(stream.stream) else {
        return unknown(reader, writer).await;
    };
    inner.opened(number);
    writer.send(&inner.welcome([0; 16])).await?;
    // Who waited may have gone; then the connection closes here.
    let _ = awaiting.send((reader, writer));
    Ok(())
}

async fn control(
    inner: &Arc<Inner>,
    opening: ControlOpening,
    connection: u64,
    reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), LinkError> {
    let (probe, probes) = mpsc::channel(PROBES);
    let resumed = inner.session(&opening.resume);
    let session = match resumed {
        Some(session) => {
            tracing::info!(agent = session.agent, "the agent goes on with its session");
            session
        }
        None => {
            if !step_aside(inner).await {
                let text = "another agent is connected, and answers; one is enough: it serves all \
                            programs of the guest"
                    .to_owned();
                return refuse(reader, writer, Reason::AgentPresent, text).await;
            }
            let Some(token) = new_token() else {
                let text = "the host has no random numbers".to_owned();
                return refuse(reader, writer, Reason::Unavailable, text).await;
            };
            tracing::info!(
                agent = opening.agent,
                host_name = opening.host_name,
                "an agent has connected"
            );
            Arc::new(Session {
                token,
                agent: opening.agent,
                host_name: opening.host_name,
                ended: watch::Sender::new(None),
                control: Mutex::new(Control {
                    probe: None,
                    number: 0,
                    last_answer: Instant::now(),
                }),
            })
        }
    };
    inner.opened(connection);
    let number = {
        let mut state = locked(&inner.state);
        if let Some(other) = &state.session
            && !Arc::ptr_eq(other, &session)
        {
            // Another one was as quick, or an older one did not answer.
            other.end("another agent has taken its place");
        }
        state.session = Some(session.clone());
        let mut control = locked(&session.control);
        // The control connection before this one ends when its channel does.
        control.probe = Some(probe);
        control.number += 1;
        control.last_answer = Instant::now();
        control.number
    };
    let result = async {
        writer.send(&inner.welcome(session.token)).await?;
        control_life(inner, &session, reader, writer, probes).await
    }
    .await;
    let mut control = locked(&session.control);
    if control.number == number {
        control.probe = None;
        tracing::info!(
            agent = session.agent,
            "the agent's control connection is gone"
        );
    }
    drop(control);
    result
}

/// Whether a new agent can take the place of the present one, if there is one.
async fn step_aside(inner: &Inner) -> bool {
    let present = locked(&inner.state).session.clone();
    let probe = present.and_then(|session| locked(&session.control).probe.clone());
    let Some(probe) = probe else {
        return true;
    };
    let (answer, answered) = oneshot::channel();
    if probe.try_send(answer).is_err() {
        // It is being asked by others, or has just gone.
        return probe.is_closed();
    }
    !matches!(tokio::time::timeout(PROBE, answered).await, Ok(Ok(())))
}

impl Session {
    fn end(&self, reason: &str) {
        self.ended.send_replace(Some(reason.to_owned()));
        locked(&self.control).probe = None;
    }

    fn status(&self) -> AgentStatus {
        let control = locked(&self.control);
        let silent_for = control.last_answer.elapsed();
        let state = match &control.probe {
            None => "away",
            Some(_) if silent_for > SILENT => "silent",
            Some(_) => "answers",
        };
        AgentStatus {
            version: self.agent.clone(),
            host_name: self.host_name.clone(),
            state: state.to_owned(),
            last_answer_seconds: silent_for.as_secs(),
        }
    }
}

async fn control_life(
    inner: &Inner,
    session: &Session,
    mut reader: FrameReader,
    mut writer: FrameWriter,
    mut probes: mpsc::Receiver<oneshot::Sender<()>>,
) -> Result<(), LinkError> {
    let mut ended = session.ended.subscribe();
    let mut ending = inner.ending.subscribe();
    // One that waits for a place in the guest's queue must not keep the broker from ending.
    let reason = tokio::select! {
        result = signs_of_life(session, &mut reader, &mut writer, &mut probes) => return result,
        reason = ended.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
        reason = ending.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
    };
    let reason = reason.unwrap_or_default();
    let parting = async {
        writer.send(&Frame::Goodbye(&reason)).await?;
        while reader.next().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(LINGER, parting)
        .await
        .unwrap_or(Ok(()))
}

async fn signs_of_life(
    session: &Session,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    probes: &mut mpsc::Receiver<oneshot::Sender<()>>,
) -> Result<(), LinkError> {
    let mut timer = tokio::time::interval(PING);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    // One Ping at a time: a paused guest's queue does not fill.
    let mut awaited = false;
    let mut asking: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        tokio::select! {
            frame = reader.next() => match frame? {
                Some(Frame::Ping(number)) => writer.send(&Frame::Pong(number)).await?,
                Some(Frame::Pong(answered)) => {
                    if answered == number {
                        awaited = false;
                        locked(&session.control).last_answer = Instant::now();
                        for asking in asking.drain(..) {
                            let _ = asking.send(());
                        }
                    }
                }
                Some(Frame::Goodbye(_)) => {
                    session.end("the agent has ended");
                    return Ok(());
                }
                None => return Ok(()),
                Some(other) => return Err(LinkError::Unexpected {
                    frame: other.kind(),
                    expected: "Ping, Pong or Goodbye",
                }),
            },
            asked = probes.recv() => match asked {
                Some(asked) => {
                    asking.push(asked);
                    if !awaited {
                        number += 1;
                        awaited = true;
                        writer.send(&Frame::Ping(number)).await?;
                    }
                }
                // Another control connection has taken this one's place.
                None => return Ok(()),
            },
            _ = timer.tick() => if !awaited {
                number += 1;
                awaited = true;
                writer.send(&Frame::Ping(number)).await?;
            },
        }
    }
}
