//! A container's session on D-Bus.
//!
//! One process may serve many containers on one connection: the caller owns the connection and the bus
//! names, a [`Bridge`] is one container. On one connection there is one object at each path, whoever it is
//! asked for; the container is told apart by the bus name that a call was sent to, and by the request's id.
//!
//! Signals are sent from both object paths (the documented one, and the one that the original exported), so
//! that a client of either gets each signal once if it matches by path, as proxies do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use zbus::message::Header;
use zbus::names::BusName;
use zbus::{Connection, Message, interface};

use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::pending::Request;
use crate::session::in_process::{InProcess, Options};
use crate::session::subprocess::{Program, Subprocess};
use crate::session::{Action, Event, Outcome, Scope, Session, State, Verdict};
use crate::state::StateDir;

/// Both object paths: the documented one first, then the original's.
pub const PATHS: [&str; 2] = ["/org/terok/Shield1", "/org/terok/Shield"];
/// The interface that stays as it is.
pub const INTERFACE: &str = "org.terok.Shield1";
/// The interface of what we add.
pub const INTERFACE2: &str = "org.terok.Shield2";
/// What every bridge's bus name begins with; the container's short id follows.
pub const BUS_NAME_PREFIX: &str = "org.terok.Shield1.Container_";

/// How long a signal may take to be handed to a bus that does not read.
const EMIT: Duration = Duration::from_secs(5);

/// Attaching to and detaching from a connection's object server are done one at a time.
static ATTACHING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The bus name of a container with this short id (twelve hexadecimal digits). The prefix ends in a letter
/// and an underscore, because an element of a bus name must not begin with a digit.
pub fn bus_name_for_container(short_id: &str) -> String {
    format!("{BUS_NAME_PREFIX}{short_id}")
}

/// A request's id on the bus.
pub fn request_id(container: &str, id: u64) -> String {
    format!("{container}:{id}")
}

/// Splits a request's id: at the last colon, since a container's name may have some.
pub fn parse_request_id(text: &str) -> Option<(&str, u64)> {
    let (container, id) = text.rsplit_once(':')?;
    // `parse` would take a plus sign.
    if !id.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((container, id.parse().ok()?))
}

/// Which way a bridge holds its session.
#[derive(Debug, Clone)]
pub enum Way {
    /// In this process.
    InProcess(Options),
    /// In a child process.
    Subprocess(Program),
}

impl Default for Way {
    fn default() -> Self {
        Self::InProcess(Options {
            keep_pending: true,
            resolvers: crate::resolver::system_resolvers(),
            must_ask: false,
        })
    }
}

/// One container, served.
#[derive(Debug)]
struct Served {
    container: String,
    bus_name: String,
    session: Session,
}

impl Served {
    async fn verdict(&self, id: u64, verdict: Verdict) -> bool {
        self.session.verdict(id, verdict).await == Outcome::Applied
    }
}

/// The containers that are served on one connection.
#[derive(Debug, Default)]
struct Registry {
    bridges: Mutex<HashMap<String, Arc<Served>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Served>>> {
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The containers that a call is for: the one whose name it was sent to, or all if it was sent to the
    /// connection.
    fn addressed(&self, header: Option<&Header<'_>>) -> Vec<Arc<Served>> {
        let name = match header.and_then(|h| h.destination()) {
            Some(BusName::WellKnown(name)) if name.starts_with(BUS_NAME_PREFIX) => {
                Some(name.as_str())
            }
            _ => None,
        };
        let mut found: Vec<_> = self
            .lock()
            .values()
            .filter(|s| name.is_none_or(|n| s.bus_name == n))
            .cloned()
            .collect();
        found.sort_by(|a, b| a.container.cmp(&b.container));
        found
    }

    /// The container of this name, if the call is for it.
    fn container(&self, header: Option<&Header<'_>>, container: &str) -> Option<Arc<Served>> {
        self.addressed(header)
            .into_iter()
            .find(|s| s.container == container)
    }

    async fn verdict(&self, header: &Header<'_>, request: &str, verdict: Option<Verdict>) -> bool {
        let (Some((container, id)), Some(verdict)) = (parse_request_id(request), verdict) else {
            return false;
        };
        match self.container(Some(header), container) {
            Some(served) => served.verdict(id, verdict).await,
            None => false,
        }
    }
}

struct Shield1(Arc<Registry>);

#[interface(name = "org.terok.Shield1")]
impl Shield1 {
    /// Answers a question. `action` is `accept` or `deny`. True when the kernel has acknowledged it.
    #[zbus(out_args("ok"))]
    async fn verdict(
        &self,
        #[zbus(header)] header: Header<'_>,
        request_id: &str,
        action: &str,
    ) -> bool {
        let verdict = Action::parse(action).map(Verdict::permanent);
        self.0.verdict(&header, request_id, verdict).await
    }

    #[zbus(signal)]
    async fn connection_blocked(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        container: &str,
        dest: &str,
        port: u16,
        proto: u16,
        domain: &str,
        request_id: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn verdict_applied(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        container: &str,
        dest: &str,
        request_id: &str,
        action: &str,
        ok: bool,
    ) -> zbus::Result<()>;
}

struct Shield2(Arc<Registry>);

/// A question as `ListPending` gives it: container, address, port, protocol, name, request id.
pub type PendingRow = (String, String, u16, u16, String, String);

#[interface(name = "org.terok.Shield2")]
impl Shield2 {
    /// What waits for an answer: container, address, port, protocol, name, request id; the oldest first.
    #[zbus(out_args("pending"))]
    async fn list_pending(&self, #[zbus(header)] header: Header<'_>) -> Vec<PendingRow> {
        let mut rows = Vec::new();
        for served in self.0.addressed(Some(&header)) {
            rows.extend(served.session.pending().into_iter().map(|r| {
                (
                    served.container.clone(),
                    r.dest.address.to_string(),
                    r.dest.port,
                    u16::from(r.dest.proto),
                    r.domain,
                    request_id(&served.container, r.id),
                )
            }));
        }
        rows
    }

    /// The containers: name, short id, state.
    #[zbus(out_args("containers"))]
    async fn list_containers(
        &self,
        #[zbus(header)] header: Header<'_>,
    ) -> Vec<(String, String, String)> {
        self.0
            .addressed(Some(&header))
            .into_iter()
            .map(|s| {
                let id = s.bus_name.strip_prefix(BUS_NAME_PREFIX).unwrap_or_default();
                (
                    s.container.clone(),
                    id.to_owned(),
                    s.session.state().as_str().to_owned(),
                )
            })
            .collect()
    }

    /// Answers for so many seconds; 0 is for good.
    #[zbus(out_args("ok"))]
    async fn verdict_for(
        &self,
        #[zbus(header)] header: Header<'_>,
        request_id: &str,
        action: &str,
        seconds: u32,
    ) -> bool {
        let verdict = Action::parse(action).map(|action| Verdict {
            duration: duration(seconds),
            ..Verdict::permanent(action)
        });
        self.0.verdict(&header, request_id, verdict).await
    }

    /// Answers about a `port`, an `address` or a `domain`, for so many seconds; 0 is for good.
    #[zbus(out_args("ok"))]
    async fn verdict_scoped(
        &self,
        #[zbus(header)] header: Header<'_>,
        request_id: &str,
        action: &str,
        scope: &str,
        seconds: u32,
    ) -> bool {
        let verdict = match (Action::parse(action), Scope::parse(scope)) {
            (Some(action), Some(scope)) => Some(Verdict {
                action,
                scope,
                duration: duration(seconds),
            }),
            _ => None,
        };
        self.0.verdict(&header, request_id, verdict).await
    }

    /// Lets everything through that is not denied, for so many seconds; 0 ends that.
    #[zbus(out_args("ok"))]
    async fn allow_all(
        &self,
        #[zbus(header)] header: Header<'_>,
        container: &str,
        seconds: u32,
    ) -> bool {
        match self.0.container(Some(&header), container) {
            Some(served) => {
                let time = Duration::from_secs(seconds.into());
                served.session.allow_all(time).await
            }
            None => false,
        }
    }

    /// `asking`, `denying`, `open` or `gone`; `mixed` if the connection is asked and its containers differ.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn state(&self, #[zbus(header)] header: Option<Header<'_>>) -> String {
        let mut states = self
            .0
            .addressed(header.as_ref())
            .into_iter()
            .map(|s| s.session.state().as_str());
        let first = states.next().unwrap_or(State::Gone.as_str());
        if states.all(|s| s == first) {
            first
        } else {
            "mixed"
        }
        .to_owned()
    }

    #[zbus(signal)]
    async fn events_lost(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        container: &str,
        count: u32,
    ) -> zbus::Result<()>;
}

fn duration(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// A container's bridge.
///
/// The bus name is its caller's: request [`Bridge::bus_name`] when it has started, and release it when it
/// has stopped.
///
/// ```no_run
/// use shield::bridge::{Bridge, Way};
/// use shield::state::StateDir;
///
/// # async fn serve(connection: &zbus::Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let state = StateDir::new("/var/lib/shield/box");
/// let bridge = Bridge::start(state, "box", connection, Way::default()).await?;
/// connection.request_name(bridge.bus_name()).await?;
/// bridge.submit_verdict("box:1", "accept").await;
/// bridge.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bridge {
    container_id: String,
    served: Arc<Served>,
    connection: watch::Sender<Option<Connection>>,
    ended: watch::Receiver<bool>,
    stopping: mpsc::Sender<()>,
}

impl Bridge {
    /// Begins to serve a container on a connected bus.
    ///
    /// # Errors
    /// If the rules are not loaded, another bridge serves the container, a capability is missing, or the
    /// container is served on this connection already. Nothing is left behind then.
    pub async fn start(
        state: StateDir,
        container: &str,
        connection: &Connection,
        way: Way,
    ) -> Result<Self> {
        let namespace = crate::container::namespace(&state, container)?;
        Self::start_in(state, container, namespace, connection, way).await
    }

    /// The same for a namespace that was found already.
    ///
    /// # Errors
    /// As for [`Bridge::start`].
    pub async fn start_in(
        state: StateDir,
        container: &str,
        namespace: Namespace,
        connection: &Connection,
        way: Way,
    ) -> Result<Self> {
        let container_id = state.container_id()?;
        let (session, events) = match way {
            Way::InProcess(options) => {
                let (session, events) =
                    InProcess::start(state, container, namespace, &options).await?;
                (Session::InProcess(session), events)
            }
            Way::Subprocess(program) => {
                let (session, events) =
                    Subprocess::start(state, container, namespace, program).await?;
                (Session::Subprocess(session), events)
            }
        };
        let served = Arc::new(Served {
            container: container.to_owned(),
            bus_name: bus_name_for_container(&container_id),
            session,
        });
        if let Err(error) = attach(connection, &served).await {
            served.session.stop().await;
            return Err(error);
        }
        let (connections, watched) = watch::channel(Some(connection.clone()));
        let (end, ended) = watch::channel(false);
        let (stopping, stopped) = mpsc::channel(1);
        tokio::spawn(run(served.clone(), events, watched, stopped, end));
        Ok(Self {
            container_id,
            served,
            connection: connections,
            ended,
            stopping,
        })
    }

    /// Answers a question as a caller on the bus would: `request_id` is `container:id`, `action` is `accept`
    /// or `deny`. True when the kernel has acknowledged it.
    pub async fn submit_verdict(&self, request_id: &str, action: &str) -> bool {
        match (parse_request_id(request_id), Action::parse(action)) {
            (Some((container, id)), Some(action)) if container == self.served.container => {
                self.served.verdict(id, Verdict::permanent(action)).await
            }
            _ => false,
        }
    }

    /// The container's name.
    pub fn container(&self) -> &str {
        &self.served.container
    }

    /// The container's short id.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The bus name that its caller owns for it.
    pub fn bus_name(&self) -> &str {
        &self.served.bus_name
    }

    /// What waits for an answer.
    pub fn pending(&self) -> Vec<Request> {
        self.served.session.pending()
    }

    /// What it does with what nobody has decided.
    pub fn state(&self) -> State {
        self.served.session.state()
    }

    /// Goes on with another connection, when the first one is lost. Nothing else changes.
    ///
    /// # Errors
    /// If the objects cannot be exported there.
    pub async fn reconnect(&self, connection: &Connection) -> Result<()> {
        attach(connection, &self.served).await?;
        self.connection.send_replace(Some(connection.clone()));
        Ok(())
    }

    /// Returns when the bridge has ended: because it was stopped, or because its container is gone.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error says that the task is gone, and so is the bridge.
        let _ = ended.wait_for(|e| *e).await;
    }

    /// Ends the bridge; the rules stay. The work is done elsewhere, so that it is done also if the caller is
    /// cancelled.
    pub async fn stop(&self) {
        let _ = self.stopping.try_send(());
        self.ended().await;
    }
}

/// Exports a container on a connection.
async fn attach(connection: &Connection, served: &Arc<Served>) -> Result<()> {
    let _one_at_a_time = ATTACHING.lock().await;
    let failed = |e| Error::bus("exporting the container on the bus", e);
    let server = connection.object_server();
    let registry = match server.interface::<_, Shield1>(PATHS[0]).await {
        Ok(known) => known.get().await.0.clone(),
        Err(_) => Arc::new(Registry::default()),
    };
    {
        let mut bridges = registry.lock();
        if bridges.contains_key(&served.container) {
            return Err(Error::Busy {
                container: served.container.clone(),
                by: " on this connection".into(),
            });
        }
        bridges.insert(served.container.clone(), served.clone());
    }
    for path in PATHS {
        let exported = async {
            server.at(path, Shield1(registry.clone())).await?;
            server.at(path, Shield2(registry.clone())).await
        };
        if let Err(error) = exported.await {
            registry.lock().remove(&served.container);
            unexport_if_empty(connection, &registry).await;
            return Err(failed(error));
        }
    }
    Ok(())
}

/// Takes a container off a connection.
async fn detach(connection: &Connection, served: &Served) {
    let _one_at_a_time = ATTACHING.lock().await;
    let server = connection.object_server();
    if let Ok(known) = server.interface::<_, Shield1>(PATHS[0]).await {
        let registry = known.get().await.0.clone();
        registry.lock().remove(&served.container);
        unexport_if_empty(connection, &registry).await;
    }
}

async fn unexport_if_empty(connection: &Connection, registry: &Registry) {
    if registry.lock().is_empty() {
        for path in PATHS {
            let _ = connection.object_server().remove::<Shield1, _>(path).await;
            let _ = connection.object_server().remove::<Shield2, _>(path).await;
        }
    }
}

/// Tells events until the bridge is stopped or its container is gone, and then cleans up.
async fn run(
    served: Arc<Served>,
    mut events: mpsc::Receiver<Event>,
    connection: watch::Receiver<Option<Connection>>,
    mut stopped: mpsc::Receiver<()>,
    end: watch::Sender<bool>,
) {
    loop {
        let event = tokio::select! {
            // A bridge that is dropped is stopped, too.
            _ = stopped.recv() => break,
            event = events.recv() => event,
        };
        let current = connection.borrow().clone();
        match event {
            None | Some(Event::Gone) => break,
            Some(event) => {
                let Some(current) = current else {
                    continue;
                };
                let emitted = tokio::time::timeout(EMIT, emit(&current, &served, &event)).await;
                if !matches!(emitted, Ok(Ok(()))) {
                    // It can still be asked for (ListPending), and is not lost.
                    tracing::warn!(container = served.container, "a signal could not be sent");
                }
            }
        }
    }
    served.session.stop().await;
    let current = connection.borrow().clone();
    if let Some(current) = current {
        let _ = tokio::time::timeout(EMIT, detach(&current, &served)).await;
    }
    end.send_replace(true);
}

/// Sends an event's signal from both paths, in one write.
async fn emit(connection: &Connection, served: &Served, event: &Event) -> zbus::Result<()> {
    let container = served.container.as_str();
    let signal = |path: &'static str, interface: &'static str, member: &'static str| {
        let path = zbus::ObjectPath::from_static_str_unchecked(path);
        let interface = zbus::names::InterfaceName::from_static_str_unchecked(interface);
        let member = zbus::names::MemberName::from_static_str_unchecked(member);
        let message = Message::signal(path, interface, member);
        match connection.unique_name() {
            Some(name) => message.sender(name),
            None => message,
        }
    };
    let mut messages = Vec::with_capacity(PATHS.len());
    for path in PATHS {
        messages.push(match event {
            Event::Blocked(request) => signal(path, INTERFACE, "ConnectionBlocked").build(&(
                container,
                request.dest.address.to_string(),
                request.dest.port,
                u16::from(request.dest.proto),
                request.domain.as_str(),
                request_id(container, request.id),
            ))?,
            Event::Applied {
                request,
                action,
                ok,
            } => signal(path, INTERFACE, "VerdictApplied").build(&(
                container,
                request.dest.address.to_string(),
                request_id(container, request.id),
                action.as_str(),
                *ok,
            ))?,
            Event::Lost(count) => {
                signal(path, INTERFACE2, "EventsLost").build(&(container, *count))?
            }
            Event::Gone => return Ok(()),
        });
    }
    connection.send_all(&messages).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_split_at_its_last_colon() {
        assert_eq!(parse_request_id("c:1"), Some(("c", 1)));
        assert_eq!(parse_request_id("a:b:17"), Some(("a:b", 17)));
        for bad in [
            "",
            "c",
            "c:",
            "c:x",
            "c:-1",
            "c:+1",
            "c: 1",
            "c:1.0",
            "c:99999999999999999999",
        ] {
            assert_eq!(parse_request_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_bus_name_of_a_container_is_legal_also_if_its_id_begins_with_a_digit() {
        let name = bus_name_for_container("0123456789ab");
        assert_eq!(name, "org.terok.Shield1.Container_0123456789ab");
        assert!(zbus::names::WellKnownName::try_from(name).is_ok());
    }
}
