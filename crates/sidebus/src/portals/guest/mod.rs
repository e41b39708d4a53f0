//! The front end for one client of the guest: its calls here, what the host says in [`host_side`].
//!
//! Principles:
//! - What a client sends is done in its order; a client that waits holds up nobody else.
//! - All that the host sends to the client's link is handled in its order, replies and signals alike: a Response never
//!   overtakes the reply with its handle.
//! - A request or session that is open for the guest is open on the host, and the other way round. Whoever goes first
//!   (the client, the host's portal, the host's bus), the other side is told.
//! - Whatever is held for a client is bounded before it is taken.

mod host_side;
mod properties;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use zbus::message::Flags;
use zbus::{Message, Variant};

use crate::broker::clients::Client;
use crate::broker::status::RequestStatus;
use crate::portals::decisions::{Decision, Verdict};
use crate::portals::handles::{Handles, Kind, handle};
use crate::portals::link::{self, Link};
use crate::portals::notifications::Notifications;
use crate::portals::refusal::Refusal;
use crate::portals::table::{
    self, DESKTOP_NAME, DESKTOP_PATH, DOCUMENTS_PATH, Hand, Interface, Method, Service,
};
use crate::portals::translate::{Outcome, Substitutes, Translator};
use crate::portals::values::{self, Value};
use crate::portals::{Shared, applications, documents_portal};

/// From here on calls are read one at a time.
const LARGE: usize = 64 * 1024;

/// A request or session that is open on the host.
struct Open {
    interface: &'static Interface,
    method: &'static Method,
    /// The host's path of the session that comes of it.
    session: Option<String>,
    /// Whether the guest has been told of the handle.
    answered: bool,
    _permit: Permit,
}

/// A place among those of the machine; the status knows of it.
struct Permit {
    shared: Arc<Shared>,
    guest: String,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.open().remove(&self.guest);
    }
}

/// A call of the guest, and the room that it takes until it is answered.
#[derive(Debug)]
pub(super) struct Call {
    /// As it came.
    pub message: Message,
    _room: OwnedSemaphorePermit,
}

impl Call {
    /// `room` is its place in [`Shared::room`].
    pub fn new(message: Message, room: OwnedSemaphorePermit) -> Call {
        Call {
            message,
            _room: room,
        }
    }
}

/// A call to the host that has not been answered.
struct Pending {
    call: Arc<Call>,
    method: &'static Method,
    version: u32,
    /// The host's paths, as we expect them.
    request: Option<String>,
    session: Option<String>,
    /// A transfer that may be written begins.
    writable: bool,
}

/// What a call comes to.
enum Answer {
    /// These values.
    Values(Vec<Value>),
    /// What the host answers.
    Later,
}

/// One client.
struct Guest {
    shared: Arc<Shared>,
    client: Arc<Client>,
    /// What it says it is, or has registered itself as.
    claimed: Option<String>,
    /// How the host knows it.
    app_id: String,
    link: Option<Link>,
    requests: Handles<Open>,
    sessions: Handles<Open>,
    pending: HashMap<NonZeroU32, Pending>,
    /// Responses that came before the reply with their handle.
    early: Vec<Message>,
    /// Transfers of files that may be written.
    writable_transfers: HashSet<String>,
    last_token: u64,
}

/// Serves a client until it has gone: that is when `calls` ends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    client: Arc<Client>,
    mut calls: mpsc::Receiver<Call>,
) {
    let claimed = client.claims.app_id.clone();
    let mut guest = Guest {
        app_id: applications::application_id(&shared.vm_name, claimed.as_deref()),
        shared,
        client,
        claimed,
        link: None,
        requests: Handles::default(),
        sessions: Handles::default(),
        pending: HashMap::new(),
        early: Vec::new(),
        writable_transfers: HashSet::new(),
        last_token: 0,
    };
    loop {
        tokio::select! {
            biased;
            message = from_host(&mut guest.link) => match message {
                Some(message) => guest.heard(message).await,
                None => guest.host_is_gone("the host's session bus has closed the connection").await,
            },
            call = calls.recv() => match call {
                // Nobody is there for what is left of it.
                Some(_) if calls.is_closed() => break,
                Some(call) => guest.call(Arc::new(call)).await,
                None => break,
            },
        }
    }
    guest.close().await;
}

async fn from_host(link: &mut Option<Link>) -> Option<Message> {
    match link {
        Some(link) => link.messages.recv().await,
        None => std::future::pending().await,
    }
}

impl Guest {
    // ── Calls of the guest ──

    async fn call(&mut self, call: Arc<Call>) {
        let answer = self.answer(&call).await;
        let (interface, member) = names(&call.message);
        let portal = interface.starts_with(table::INTERFACE_PREFIX);
        match answer {
            Ok(answer) => {
                if portal {
                    self.note(&interface, &member, None, Verdict::Allowed, None);
                }
                if let Answer::Values(values) = answer {
                    self.reply(&call.message, values).await;
                }
            }
            Err(refusal) => {
                if portal {
                    self.note(
                        &interface,
                        &member,
                        None,
                        Verdict::Refused,
                        Some(refusal.text()),
                    );
                }
                self.reply_error(&call.message, &refusal).await;
            }
        }
    }

    async fn answer(&mut self, call: &Arc<Call>) -> Result<Answer, Refusal> {
        let header = call.message.header();
        let path = header
            .path()
            .map(|path| path.to_string())
            .unwrap_or_default();
        let (interface, member) = names(&call.message);
        match interface.as_str() {
            "org.freedesktop.DBus.Peer" => match member.as_str() {
                "Ping" => Ok(Answer::Values(Vec::new())),
                "GetMachineId" => Err(Refusal::not_supported(
                    "the portals are not on this machine, and do not tell which one it is",
                )),
                _ => Err(unknown_method(&interface, &member)),
            },
            "org.freedesktop.DBus.Introspectable" if member == "Introspect" => {
                let xml = self.introspect(&path).await?;
                Ok(Answer::Values(vec![Value::from(xml)]))
            }
            "org.freedesktop.DBus.Properties" => {
                self.properties(&call.message, &path, &member).await
            }
            "org.freedesktop.portal.Request" | "org.freedesktop.portal.Session" => {
                let kind = match interface.as_str() {
                    "org.freedesktop.portal.Request" => Kind::Request,
                    _ => Kind::Session,
                };
                if member != "Close" {
                    return Err(unknown_method(&interface, &member));
                }
                self.close_handle(kind, &path).await
            }
            "org.freedesktop.host.portal.Registry" if path == DESKTOP_PATH => {
                self.register(&call.message, &member)
            }
            _ => self.portal(call, &path, &interface, &member).await,
        }
    }

    async fn portal(
        &mut self,
        call: &Arc<Call>,
        path: &str,
        interface: &str,
        member: &str,
    ) -> Result<Answer, Refusal> {
        let service = match path {
            DESKTOP_PATH => Service::Desktop,
            DOCUMENTS_PATH => Service::Documents,
            _ => {
                return Err(Refusal::unknown_object(format!(
                    "there is no object {path}"
                )));
            }
        };
        // A call need not say the interface; the first one that has the method is meant.
        let named = if interface.is_empty() {
            table::carried().find(|interface| {
                interface.service == service && interface.method(member).is_some()
            })
        } else {
            table::interface(interface).filter(|found| found.service == service)
        };
        let Some(described) = named else {
            return Err(match table::why_refused(interface) {
                Some(why) => Refusal::not_allowed(format!(
                    "{interface} is not carried into a virtual machine: {why}"
                )),
                None => Refusal::unknown_interface(format!(
                    "{interface} is not in the table of portals that are carried into a virtual machine"
                )),
            });
        };
        self.check_policy(described)?;
        let Some(method) = described.method(member) else {
            return Err(Refusal::unknown_method(format!(
                "{}.{member} is not in the table of portals that are carried into a virtual machine",
                described.name
            )));
        };
        let version = self.version(described).await?;
        if method.since > version {
            return Err(Refusal::unknown_method(format!(
                "the host's {} has version {version}, and {member} came with {}",
                described.name, method.since
            )));
        }
        let shared = self.shared.clone();
        let _one_at_a_time = match call.message.body().len() > LARGE {
            // It is never closed.
            true => shared.large_calls.acquire().await.ok(),
            false => None,
        };
        let arguments = values::arguments(&call.message)?;
        self.by_hand(call, described, method, version, arguments)
            .await
    }

    fn check_policy(&self, interface: &Interface) -> Result<(), Refusal> {
        if self.shared.policy.allows_portal(interface.name) {
            return Ok(());
        }
        Err(Refusal::not_allowed(format!(
            "{} is not allowed for this virtual machine (portals in the broker's configuration)",
            interface.name
        )))
    }

    async fn version(&self, interface: &'static Interface) -> Result<u32, Refusal> {
        if interface.name == "org.freedesktop.portal.Documents" {
            return self
                .shared
                .documents
                .version()
                .await
                .map(|version| version.min(interface.version));
        }
        self.shared.host.version(interface).await
    }

    /// What is not done by the table alone.
    async fn by_hand(
        &mut self,
        call: &Arc<Call>,
        interface: &'static Interface,
        method: &'static Method,
        version: u32,
        mut arguments: Vec<Value>,
    ) -> Result<Answer, Refusal> {
        let text_at = |arguments: &[Value], index: usize| {
            arguments
                .get(index)
                .and_then(values::text)
                .unwrap_or_default()
                .to_owned()
        };
        let mut writable = false;
        match method.hand {
            Hand::Proxy | Hand::ReadSettings => {}
            Hand::ReadSetting => {
                let namespace = text_at(&arguments, 0);
                if !self.shared.policy.allows_setting(&namespace) {
                    return Err(Refusal::not_found(format!(
                        "settings of {namespace} are not shown to this virtual machine (settings.namespaces in the \
                         broker's configuration)"
                    )));
                }
            }
            Hand::SchemeSupported => {
                if !self.shared.policy.allows_scheme(&text_at(&arguments, 0)) {
                    return Ok(Answer::Values(vec![Value::from(false)]));
                }
            }
            Hand::AddNotification | Hand::RemoveNotification => {
                if let Some(id) = arguments.first_mut() {
                    let host = values::text(id)
                        .map(|id| Notifications::host_id(&self.app_id, id))
                        .ok_or_else(|| Refusal::invalid("a notification's id is a text"))?;
                    *id = Value::from(host.clone());
                    let notifications = &self.shared.notifications;
                    if method.hand == Hand::RemoveNotification {
                        notifications.remove(&self.app_id, &host);
                    } else if let Some((app_id, oldest)) = notifications.add(&self.app_id, &host) {
                        link::withdraw(&self.shared, app_id, oldest);
                    }
                }
            }
            Hand::Screenshot => {
                // Whoever has no id on the host has the permission of all others without one.
                if !self.link().await?.registered
                    && version >= 2
                    && let Some(options) = arguments.get_mut(1)
                {
                    let mut entries = values::entries(values::owned(options)?)?;
                    entries.retain(|(key, _)| key != "interactive");
                    entries.push(("interactive".to_owned(), Value::from(true)));
                    *options = values::dictionary(entries);
                }
            }
            Hand::GameMode => {
                // The signature is checked by the translation, which has nothing else to do here.
                let (arguments, _) = self
                    .translate(interface, method, version, arguments)
                    .await?;
                let answer = self
                    .shared
                    .games
                    .call(
                        &self.shared.host,
                        &self.client.name,
                        method.name,
                        &arguments,
                    )
                    .await?;
                return Ok(Answer::Values(answer));
            }
            Hand::Documents => {
                let (arguments, _) = self
                    .translate(interface, method, version, arguments)
                    .await?;
                let shared = &self.shared;
                let answer = documents_portal::call(
                    &shared.documents,
                    &self.client.documents,
                    method.name,
                    arguments,
                )
                .await?;
                return Ok(Answer::Values(answer));
            }
            Hand::StartTransfer => {
                if let Some(options) = arguments.first() {
                    writable =
                        values::entries(values::owned(options)?)?
                            .iter()
                            .any(|(key, value)| {
                                key == "writable" && matches!(value, Variant::Bool(true))
                            });
                }
            }
            Hand::AddFiles => {
                if self.writable_transfers.contains(&text_at(&arguments, 0)) {
                    self.check_writable(&arguments, version).await?;
                }
            }
        }
        self.forward(call, interface, method, version, arguments, writable)
            .await?;
        Ok(Answer::Later)
    }

    /// Who may only read a document cannot give away the right to write it.
    async fn check_writable(&self, arguments: &[Value], version: u32) -> Result<(), Refusal> {
        use table::Needs;
        for item in arguments
            .get(1)
            .map(values::items)
            .transpose()?
            .into_iter()
            .flatten()
        {
            let Variant::Fd(zbus::Fd::Owned(fd)) = item else {
                continue;
            };
            self.translator(version)
                .descriptor(Needs::WritableDocument, fd)
                .await?;
        }
        Ok(())
    }

    fn translator(&self, version: u32) -> Translator<'_> {
        Translator {
            documents: &self.shared.documents,
            mount: &self.client.documents,
            policy: &self.shared.policy,
            spool: &self.shared.spool,
            tokens: &self.shared.tokens,
            version,
        }
    }

    async fn translate(
        &mut self,
        interface: &'static Interface,
        method: &'static Method,
        version: u32,
        arguments: Vec<Value>,
    ) -> Result<(Vec<Value>, Ours), Refusal> {
        let ours = Ours {
            number: self.last_token + 1,
            sessions: self
                .sessions
                .iter()
                .filter_map(|(guest, _)| {
                    Some((guest.to_owned(), self.sessions.host_of(guest)?.to_owned()))
                })
                .collect(),
            outcome: Outcome::default(),
        };
        self.last_token += 1;
        let (arguments, outcome) = self
            .translator(version)
            .arguments(method, arguments, &ours)
            .await?;
        for (key, why) in &outcome.left_out {
            self.note(
                interface.name,
                method.name,
                Some(key),
                Verdict::LeftOut,
                Some(why),
            );
        }
        Ok((arguments, Ours { outcome, ..ours }))
    }

    /// Sends a call to the host; what it answers goes to the guest when it comes.
    async fn forward(
        &mut self,
        call: &Arc<Call>,
        interface: &'static Interface,
        method: &'static Method,
        version: u32,
        arguments: Vec<Value>,
        writable: bool,
    ) -> Result<(), Refusal> {
        let most = self.shared.policy.limits.calls_per_client;
        if self.pending.len() >= most {
            return Err(Refusal::limit(format!(
                "{most} calls of this client wait for the host already (limits.calls_per_client in the broker's \
                 configuration)"
            )));
        }
        let (arguments, ours) = self
            .translate(interface, method, version, arguments)
            .await?;
        let host_name = self.link().await?.name.clone();
        let request = match method.response {
            Some(_) => {
                let host = handle(Kind::Request, &host_name, &ours.handle_token());
                let guest =
                    self.new_guest_handle(Kind::Request, ours.outcome.handle_token.as_deref());
                let permit = self.permit(Kind::Request, &guest, interface, method)?;
                Some((guest, host, permit))
            }
            None => None,
        };
        let session = if ours.outcome.wants_session {
            self.link().await?.watch(interface.name).await?;
            let host = handle(Kind::Session, &host_name, &ours.session_token());
            let guest = self.new_guest_handle(Kind::Session, ours.outcome.session_token.as_deref());
            let permit = self.permit(Kind::Session, &guest, interface, method)?;
            Some((guest, host, permit))
        } else {
            None
        };
        let message = Message::method_call(interface.service.path(), method.name)
            .destination(interface.service.name())
            .interface(interface.name);
        let message = values::build(message, arguments)
            .map_err(|error| Refusal::failed(format!("making the call to the host: {error}")))?;
        let serial = message.primary_header().serial_num();
        self.link()
            .await?
            .connection
            .send(&message)
            .await
            .map_err(|error| Refusal::no_reply(format!("calling the host's portal: {error}")))?;
        let session_host = session.as_ref().map(|(_, host, _)| host.clone());
        let request_host = request.as_ref().map(|(_, host, _)| host.clone());
        let open = |permit, session| Open {
            interface,
            method,
            session,
            answered: false,
            _permit: permit,
        };
        if let Some((guest, host, permit)) = request {
            self.requests
                .insert(guest, host, open(permit, session_host.clone()));
        }
        if let Some((guest, host, permit)) = session {
            self.sessions.insert(guest, host, open(permit, None));
        }
        self.pending.insert(
            serial,
            Pending {
                call: call.clone(),
                method,
                version,
                request: request_host,
                session: session_host,
                writable,
            },
        );
        Ok(())
    }

    /// The guest's handle for its token. One that is in use already gets another end, as the host's portal does it.
    fn new_guest_handle(&mut self, kind: Kind, token: Option<&str>) -> String {
        let made_up;
        let token = match token {
            Some(token) => token,
            None => {
                self.last_token += 1;
                made_up = format!("sidebus{}", self.last_token);
                &made_up
            }
        };
        let mut path = handle(kind, &self.client.name, token);
        let in_use = |guest: &Guest, path: &str| match kind {
            Kind::Request => guest.requests.has_guest(path),
            Kind::Session => guest.sessions.has_guest(path),
        };
        while in_use(self, &path) {
            self.last_token += 1;
            path = handle(
                kind,
                &self.client.name,
                &format!("{token}_{}", self.last_token),
            );
        }
        path
    }

    fn permit(
        &self,
        kind: Kind,
        guest: &str,
        interface: &Interface,
        method: &Method,
    ) -> Result<Permit, Refusal> {
        let limits = &self.shared.policy.limits;
        if self.requests.len() + self.sessions.len() >= limits.requests_per_client {
            return Err(Refusal::limit(format!(
                "{} requests and sessions of this client are open already (limits.requests_per_client in the broker's \
                 configuration)",
                limits.requests_per_client
            )));
        }
        let permit = self.shared.requests.clone().try_acquire_owned().map_err(|_| {
            Refusal::limit(format!(
                "{} requests and sessions of this virtual machine are open already (limits.requests in the broker's \
                 configuration)",
                limits.requests
            ))
        })?;
        let status = RequestStatus {
            client: self.client.name.clone(),
            kind: kind.word().to_owned(),
            method: format!("{}.{}", interface.name, method.name),
            handle: guest.to_owned(),
        };
        self.shared.open().insert(guest.to_owned(), status);
        Ok(Permit {
            shared: self.shared.clone(),
            guest: guest.to_owned(),
            _permit: permit,
        })
    }

    async fn link(&mut self) -> Result<&mut Link, Refusal> {
        // Two lines for one: the borrow checker does not see that a link that is there is returned.
        if self.link.is_none() {
            self.link =
                Some(Link::open(&self.shared, &self.app_id, self.claimed.as_deref()).await?);
        }
        self.link
            .as_mut()
            .ok_or_else(|| Refusal::no_reply("the host's session bus cannot be reached"))
    }

    /// A program says which application it is, as one of the host's would.
    fn register(&mut self, call: &Message, member: &str) -> Result<Answer, Refusal> {
        if member != "Register" {
            return Err(unknown_method(
                "org.freedesktop.host.portal.Registry",
                member,
            ));
        }
        let arguments = values::arguments(call)?;
        let (Some(id), 2) = (arguments.first().and_then(values::text), arguments.len()) else {
            return Err(Refusal::invalid("Register takes (sa{sv})"));
        };
        if !dbus_wire::names::is_well_known_name(id) {
            return Err(Refusal::invalid(format!(
                "{id:?} is not the id of an application"
            )));
        }
        if self.claimed.is_some() || self.link.is_some() {
            return Err(Refusal::failed(
                "this connection is known as an application already, or has called a portal before",
            ));
        }
        self.claimed = Some(id.to_owned());
        self.app_id = applications::application_id(&self.shared.vm_name, Some(id));
        Ok(Answer::Values(Vec::new()))
    }

    async fn close_handle(&mut self, kind: Kind, path: &str) -> Result<Answer, Refusal> {
        let handles = match kind {
            Kind::Request => &mut self.requests,
            Kind::Session => &mut self.sessions,
        };
        let host = handles.host_of(path).map(str::to_owned).ok_or_else(|| {
            Refusal::unknown_object(format!("{path} is no {} of this client", kind.word()))
        })?;
        handles.remove_host(&host);
        self.close_on_host(kind, &host).await;
        Ok(Answer::Values(Vec::new()))
    }

    async fn close_on_host(&mut self, kind: Kind, host: &str) {
        let interface = match kind {
            Kind::Request => "org.freedesktop.portal.Request",
            Kind::Session => "org.freedesktop.portal.Session",
        };
        let Some(link) = &self.link else { return };
        let closed = async {
            let message = Message::method_call(host, "Close")
                .with_flags(Flags::NO_REPLY_EXPECTED | Flags::NO_AUTO_START)
                .destination(DESKTOP_NAME)
                .interface(interface)
                .build(&())?;
            link.connection.send(&message).await
        };
        if let Err(error) = closed.await {
            tracing::debug!(%error, host, "what is open on the host cannot be closed");
        }
    }

    /// The client has gone: nothing of it stays open on the host.
    async fn close(mut self) {
        for (_, host, _) in self.requests.drain() {
            self.close_on_host(Kind::Request, &host).await;
        }
        for (_, host, _) in self.sessions.drain() {
            self.close_on_host(Kind::Session, &host).await;
        }
        self.shared
            .games
            .forget(&self.shared.host, &self.client.name)
            .await;
    }

    // ── To the guest ──

    async fn reply(&self, call: &Message, values: Vec<Value>) {
        if call
            .primary_header()
            .flags()
            .contains(Flags::NO_REPLY_EXPECTED)
        {
            return;
        }
        let header = call.header();
        let reply = values::build(Message::method_return(&header), values);
        self.send(reply).await;
    }

    async fn reply_error(&self, call: &Message, refusal: &Refusal) {
        if call
            .primary_header()
            .flags()
            .contains(Flags::NO_REPLY_EXPECTED)
        {
            return;
        }
        let header = call.header();
        let reply = Message::error(&header, refusal.name()).build(&(refusal.text(),));
        self.send(reply).await;
    }

    async fn emit(&self, path: &str, interface: &str, member: &str, body: Vec<Value>) {
        let signal =
            Message::signal(path, interface, member).destination(self.client.name.as_str());
        self.send(values::build(signal, body)).await;
    }

    async fn send(&self, message: zbus::Result<Message>) {
        let sent = match message {
            Ok(message) => self.shared.vm.send(&message).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(client = self.client.name, %error, "a message to the guest cannot be sent");
        }
    }

    fn note(
        &self,
        interface: &str,
        member: &str,
        key: Option<&str>,
        verdict: Verdict,
        why: Option<&str>,
    ) {
        self.shared.decisions.note(&Decision {
            client: &self.client.name,
            app_id: self.claimed.as_deref(),
            interface,
            member,
            key,
            verdict,
            why,
        });
    }
}

/// Our own handles of one call.
struct Ours {
    number: u64,
    sessions: HashMap<String, String>,
    outcome: Outcome,
}

impl Substitutes for Ours {
    fn session(&self, guest: &str) -> Option<String> {
        self.sessions.get(guest).cloned()
    }

    fn handle_token(&self) -> String {
        format!("sidebus_r{}", self.number)
    }

    fn session_token(&self) -> String {
        format!("sidebus_s{}", self.number)
    }
}

fn names(message: &Message) -> (String, String) {
    let header = message.header();
    (
        header
            .interface()
            .map(ToString::to_string)
            .unwrap_or_default(),
        header.member().map(ToString::to_string).unwrap_or_default(),
    )
}

fn boxed(value: Value) -> Value {
    Variant::Variant(Box::new(value))
}

fn unknown_method(interface: &str, member: &str) -> Refusal {
    Refusal::unknown_method(format!("{interface} has no method {member}"))
}
