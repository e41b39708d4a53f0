//! The front end for one client of the guest.
//!
//! Principles:
//! - What a client sends is done in its order; a client that waits holds up nobody else.
//! - All that the host sends to the client's link is handled in its order, replies and signals alike: a Response never
//!   overtakes the reply with its handle.
//! - A request or session that is open for the guest is open on the host, and the other way round. Whoever goes first
//!   (the client, the host's portal, the host's bus), the other side is told.
//! - Whatever is held for a client is bounded before it is taken.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use zbus::message::{Flags, Type};
use zbus::{Message, Variant};

use super::decisions::{Decision, Verdict};
use super::handles::{Handles, Kind, handle};
use super::host::is_name_change;
use super::link::{self, Link};
use super::notifications::Notifications;
use super::refusal::Refusal;
use super::table::{
    self, DESKTOP_NAME, DESKTOP_PATH, DOCUMENTS_PATH, Hand, Interface, Method, Out, Reach, Service,
};
use super::translate::{Outcome, Substitutes, Translator, imported_action};
use super::values::{self, Value};
use super::{Shared, applications, documents_portal, introspection};
use crate::broker::clients::Client;
use crate::broker::status::RequestStatus;

/// The longest arguments of a call (bytes). Values of unknown type take many times as much memory.
const LONGEST: usize = 1 << 20;
/// From here on calls are read one at a time.
const LARGE: usize = 64 * 1024;
/// Transfers that may be written at most, of one client.
const MOST_TRANSFERS: usize = 64;
/// How long a program of the guest may take to be told of an action.
const ACTION_PATIENCE: Duration = Duration::from_secs(5);

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

/// A call to the host that has not been answered.
struct Pending {
    call: Message,
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
    mut calls: mpsc::Receiver<Message>,
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
                Some(call) => guest.call(call).await,
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

    async fn call(&mut self, call: Message) {
        let answer = self.answer(&call).await;
        let (interface, member) = names(&call);
        let portal = interface.starts_with(table::INTERFACE_PREFIX);
        match answer {
            Ok(answer) => {
                if portal {
                    self.note(&interface, &member, None, Verdict::Allowed, None);
                }
                if let Answer::Values(values) = answer {
                    self.reply(&call, values).await;
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
                self.reply_error(&call, &refusal).await;
            }
        }
    }

    async fn answer(&mut self, call: &Message) -> Result<Answer, Refusal> {
        let header = call.header();
        let path = header
            .path()
            .map(|path| path.to_string())
            .unwrap_or_default();
        let (interface, member) = names(call);
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
            "org.freedesktop.DBus.Properties" => self.properties(call, &path, &member).await,
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
                self.register(call, &member)
            }
            _ => self.portal(call, &path, &interface, &member).await,
        }
    }

    async fn portal(
        &mut self,
        call: &Message,
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
        let length = call.body().len();
        if length > LONGEST {
            return Err(Refusal::limit(format!(
                "the arguments have {length} bytes, and no more than {LONGEST} cross"
            )));
        }
        let version = self.version(described).await?;
        if method.since > version {
            return Err(Refusal::unknown_method(format!(
                "the host's {} has version {version}, and {member} came with {}",
                described.name, method.since
            )));
        }
        let shared = self.shared.clone();
        let _one_at_a_time = match length > LARGE {
            // It is never closed.
            true => shared.large_calls.acquire().await.ok(),
            false => None,
        };
        let arguments = values::arguments(call)?;
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
        call: &Message,
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
        call: &Message,
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

    // ── Properties and introspection ──

    async fn properties(
        &mut self,
        call: &Message,
        path: &str,
        member: &str,
    ) -> Result<Answer, Refusal> {
        let arguments = values::arguments(call)?;
        let text_at = |index: usize| arguments.get(index).and_then(values::text);
        let interface =
            text_at(0).ok_or_else(|| Refusal::invalid(format!("{member} takes an interface")))?;
        if self.sessions.has_guest(path) && interface == "org.freedesktop.portal.Session" {
            return match (member, text_at(1)) {
                ("Get", Some("version")) => Ok(Answer::Values(vec![boxed(Value::from(1u32))])),
                ("GetAll", _) => {
                    let all = [("version".to_owned(), Value::from(1u32))];
                    Ok(Answer::Values(vec![values::dictionary(all)]))
                }
                _ => Err(unknown_property(interface, text_at(1).unwrap_or_default())),
            };
        }
        let described = table::interface(interface)
            .filter(|interface| interface.service.path() == path)
            .ok_or_else(|| match table::why_refused(interface) {
                Some(why) => Refusal::unknown_interface(format!(
                    "{interface} is not carried into a virtual machine: {why}"
                )),
                None => Refusal::unknown_interface(format!("{path} has no interface {interface}")),
            })?;
        self.check_policy(described)?;
        let version = self.version(described).await?;
        match member {
            "Get" => {
                let name = text_at(1).unwrap_or_default();
                let value = match described.property(name) {
                    _ if name == "version" => Value::from(version),
                    Some(property) if property.since <= version => {
                        self.shared.host.property(described, name).await?
                    }
                    _ => return Err(unknown_property(interface, name)),
                };
                Ok(Answer::Values(vec![boxed(value)]))
            }
            "GetAll" => {
                let mut all = vec![("version".to_owned(), Value::from(version))];
                for property in described.properties {
                    if property.since <= version
                        && let Ok(value) = self.shared.host.property(described, property.name).await
                    {
                        all.push((property.name.to_owned(), value));
                    }
                }
                Ok(Answer::Values(vec![values::dictionary(all)]))
            }
            "Set" => Err(Refusal::named(
                "org.freedesktop.DBus.Error.PropertyReadOnly",
                format!("properties of {interface} can be read only"),
            )),
            _ => Err(unknown_method("org.freedesktop.DBus.Properties", member)),
        }
    }

    async fn introspect(&self, path: &str) -> Result<String, Refusal> {
        if self.requests.has_guest(path) {
            return Ok(introspection::of_request());
        }
        if self.sessions.has_guest(path) {
            return Ok(introspection::of_session());
        }
        let service = match path {
            DESKTOP_PATH => Service::Desktop,
            DOCUMENTS_PATH => Service::Documents,
            "/" => return Ok(introspection::of_parent(&["org"])),
            "/org" => return Ok(introspection::of_parent(&["freedesktop"])),
            "/org/freedesktop" => return Ok(introspection::of_parent(&["portal"])),
            "/org/freedesktop/portal" => {
                return Ok(introspection::of_parent(&["desktop", "documents"]));
            }
            _ => {
                return Err(Refusal::unknown_object(format!(
                    "there is no object {path}"
                )));
            }
        };
        let mut there = Vec::new();
        for interface in table::carried() {
            if interface.service == service
                && self.check_policy(interface).is_ok()
                && let Ok(version) = self.version(interface).await
            {
                there.push((interface, version));
            }
        }
        Ok(introspection::of_portals(there, &[]))
    }

    // ── What the host says ──

    async fn heard(&mut self, message: Message) {
        match message.message_type() {
            Type::MethodReturn | Type::Error => {
                let serial = message.header().reply_serial();
                if let Some(pending) = serial.and_then(|serial| self.pending.remove(&serial)) {
                    self.replied(pending, &message).await;
                }
            }
            Type::Signal if is_name_change(&message) => {
                let gone = values::arguments(&message).is_ok_and(|arguments| {
                    matches!(arguments.get(1).and_then(values::text), Some(old) if !old.is_empty())
                });
                if gone {
                    self.host_is_gone("the host's portal has gone").await;
                }
            }
            Type::Signal => self.signalled(message).await,
            // Nobody calls a method of a client's link.
            Type::MethodCall => {}
        }
    }

    async fn replied(&mut self, pending: Pending, reply: &Message) {
        let translated = match self.refusal_in(reply) {
            Some(refusal) => Err(refusal),
            None => self.translate_reply(&pending, reply).await,
        };
        match translated {
            Ok(values) => {
                self.reply(&pending.call, values).await;
                if let Some(host) = &pending.request {
                    self.handle_is_told(host).await;
                }
            }
            Err(refusal) => {
                if let Some(host) = &pending.request {
                    self.requests.remove_host(host);
                }
                if let Some(host) = &pending.session {
                    self.sessions.remove_host(host);
                }
                self.reply_error(&pending.call, &refusal).await;
            }
        }
    }

    fn refusal_in(&self, reply: &Message) -> Option<Refusal> {
        if reply.message_type() != Type::Error {
            return None;
        }
        let name = reply.header().error_name().map_or(
            "org.freedesktop.DBus.Error.Failed".to_owned(),
            ToString::to_string,
        );
        let text = values::arguments(reply)
            .ok()
            .and_then(|arguments| arguments.first().and_then(values::text).map(str::to_owned));
        Some(Refusal::named(name, text.unwrap_or_default()))
    }

    async fn translate_reply(
        &mut self,
        pending: &Pending,
        reply: &Message,
    ) -> Result<Vec<Value>, Refusal> {
        let mut values = values::arguments(reply)?;
        if pending.method.hand == Hand::ReadSettings
            && let Some(settings) = values.first_mut()
        {
            *settings = self.shown_settings(settings)?;
        }
        if pending.writable
            && self.writable_transfers.len() < MOST_TRANSFERS
            && let Some(key) = values.first().and_then(values::text)
        {
            self.writable_transfers.insert(key.to_owned());
        }
        for (out, value) in pending.method.outs.iter().zip(&values) {
            let Some(told) = values::path_text(value) else {
                continue;
            };
            match (out.role, &pending.request, &pending.session) {
                (Out::Handle, Some(expected), _) => self.requests.move_host(expected, told),
                (Out::Session, _, Some(expected)) => self.sessions.move_host(expected, told),
                _ => {}
            }
        }
        let guest_session = self.guest_sessions();
        let session = |host: &str| guest_session.get(host).cloned();
        let mut translated = self
            .translator(pending.version)
            .outs(pending.method.outs, values, &session)
            .await?;
        for (out, value) in pending.method.outs.iter().zip(&mut translated) {
            if let Out::Handle = out.role {
                let host = values::path_text(value).unwrap_or_default();
                let (guest, _) = self
                    .requests
                    .at_host(host)
                    .ok_or_else(|| Refusal::failed("the host gave a handle of another request"))?;
                *value = zbus::ObjectPath::try_from(guest.to_owned())
                    .map(Value::from)
                    .map_err(|error| Refusal::failed(error.to_string()))?;
            }
        }
        Ok(translated)
    }

    /// The guest has its request's handle: what came early is told now.
    async fn handle_is_told(&mut self, host: &str) {
        // The host may have given it another path than was expected.
        self.requests
            .mark(|open| open.answered = true, |path| path == host);
        for message in std::mem::take(&mut self.early) {
            Box::pin(self.signalled(message)).await;
        }
    }

    fn shown_settings(&self, settings: &Value) -> Result<Value, Refusal> {
        let Variant::Dict(all) = settings else {
            return Err(Refusal::failed(
                "the host's settings are not as they are described",
            ));
        };
        let failed = |error: zbus::Error| Refusal::failed(format!("the host's settings: {error}"));
        let values_signature =
            zbus::Signature::dict(zbus::Signature::Str, zbus::Signature::Variant);
        let mut shown = zbus::Dict::new(&zbus::Signature::Str, &values_signature);
        for (namespace, values) in all.iter() {
            let allowed = matches!(namespace, Variant::Str(name) if self.shared.policy.allows_setting(name.as_str()));
            if allowed {
                shown
                    .append(values::owned(namespace)?, values::owned(values)?)
                    .map_err(failed)?;
            }
        }
        Ok(Variant::Dict(shown))
    }

    /// The guest's handles of sessions, by the host's.
    fn guest_sessions(&self) -> HashMap<String, String> {
        self.sessions
            .iter()
            .filter_map(|(guest, _)| {
                Some((self.sessions.host_of(guest)?.to_owned(), guest.to_owned()))
            })
            .collect()
    }

    async fn signalled(&mut self, message: Message) {
        let header = message.header();
        let path = header
            .path()
            .map(|path| path.to_string())
            .unwrap_or_default();
        let (interface, member) = names(&message);
        match (interface.as_str(), member.as_str()) {
            ("org.freedesktop.portal.Request", "Response") => {
                match self.requests.at_host(&path).map(|(_, open)| open.answered) {
                    Some(true) => self.responded(&path, &message).await,
                    Some(false) => self.early.push(message.clone()),
                    // The host has given the handle another path, and has not told it yet; or it is closed.
                    None if !self.pending.is_empty() => self.early.push(message.clone()),
                    None => {}
                }
            }
            ("org.freedesktop.portal.Session", "Closed") => {
                if let Some((guest, _)) = self.sessions.remove_host(&path) {
                    let details = match values::arguments(&message) {
                        Ok(details)
                            if !details.iter().any(|value| values::has_descriptor(value)) =>
                        {
                            details
                        }
                        _ => vec![values::dictionary([])],
                    };
                    self.emit(&guest, "org.freedesktop.portal.Session", "Closed", details)
                        .await;
                }
            }
            _ => self.portal_signalled(&message, &interface, &member).await,
        }
    }

    async fn portal_signalled(&mut self, message: &Message, interface: &str, member: &str) {
        let Some(interface) = table::interface(interface) else {
            return;
        };
        let Some(signal) = interface.signal(member) else {
            return;
        };
        if signal.reach == Reach::Everyone || self.check_policy(interface).is_err() {
            // The watching connection passes on what is for all.
            return;
        }
        let Ok(mut values) = values::arguments(message) else {
            return;
        };
        let mut exported = None;
        if signal.reach == Reach::Notification {
            let id = values
                .first()
                .and_then(values::text)
                .unwrap_or_default()
                .to_owned();
            let Some(id) = Notifications::guest_id(&self.app_id, &id) else {
                return;
            };
            let action = values.get(1).and_then(values::text).unwrap_or_default();
            let action = imported_action(action).to_owned();
            if let Some(parameter) = values.get(2) {
                self.shared.tokens().learn(parameter);
            }
            exported = action.strip_prefix("app.").map(str::to_owned);
            if let [first, second, ..] = values.as_mut_slice() {
                *first = Value::from(id.to_owned());
                *second = Value::from(action);
            }
        }
        let guest_sessions = self.guest_sessions();
        let session = |host: &str| guest_sessions.get(host).cloned();
        let translated = self
            .translator(interface.version)
            .outs(signal.args, values, &session)
            .await;
        match translated {
            Ok(values) => {
                if let Some(action) = exported
                    && let Some(parameter) = values.get(2)
                    && self.activate(&action, parameter).await
                {
                    return;
                }
                self.emit(
                    interface.service.path(),
                    interface.name,
                    signal.name,
                    values,
                )
                .await;
            }
            Err(refusal) => tracing::debug!(
                interface = interface.name,
                member,
                %refusal,
                "a signal of the host's is for no session of this client"
            ),
        }
    }

    /// An exported action of a notification: the application's own object is told, if it is on the guest's bus.
    async fn activate(&self, action: &str, parameter: &Value) -> bool {
        let Some(app) = &self.claimed else {
            return false;
        };
        let path = format!("/{}", app.replace('.', "/").replace('-', "_"));
        let Ok(items) = values::items(parameter) else {
            return false;
        };
        let mut items = items.iter().map(values::unwrapped);
        let (mut target, mut platform) = (Vec::new(), values::dictionary([]));
        for item in &mut items {
            match (values::owned(item), values::signature(item).as_str()) {
                (Ok(data), "a{sv}") => platform = data,
                (Ok(item), _) => target.push(boxed(item)),
                (Err(_), _) => return false,
            }
        }
        let Ok(target) = values::array("v", target) else {
            return false;
        };
        let structure = zbus::Structure::builder()
            .append_field(Value::from(action.to_owned()))
            .append_field(target)
            .append_field(platform)
            .build();
        let Ok(structure) = structure else {
            return false;
        };
        let call = self.shared.vm.call_method(
            Some(app.as_str()),
            path.as_str(),
            Some("org.freedesktop.Application"),
            "ActivateAction",
            &structure,
        );
        matches!(tokio::time::timeout(ACTION_PATIENCE, call).await, Ok(Ok(_)))
    }

    /// A request has ended.
    async fn responded(&mut self, host: &str, message: &Message) {
        let Ok(arguments) = values::arguments(message) else {
            return;
        };
        let mut arguments = arguments.into_iter();
        let (Some(Variant::U32(code)), Some(results)) = (arguments.next(), arguments.next()) else {
            return;
        };
        let Some((guest, open)) = self.requests.at_host(host) else {
            return;
        };
        let guest = guest.to_owned();
        let (interface, method, session) = (open.interface, open.method, open.session.clone());
        let Some(response) = &method.response else {
            return;
        };
        let (code, results) = if code == 0 {
            if let Some(expected) = &session
                && let Ok(entries) = values::owned(&results).and_then(values::entries)
                && let Some((_, told)) = entries.iter().find(|(key, _)| key == "session_handle")
                && let Some(told) = values::path_text(told)
            {
                self.sessions.move_host(expected, told);
            }
            let guest_sessions = self.guest_sessions();
            let guest_session = |host: &str| guest_sessions.get(host).cloned();
            let translated = self
                .translator(interface.version)
                .results(response, results, &guest_session)
                .await;
            match translated {
                Ok((results, left_out)) => {
                    for key in left_out {
                        self.note(
                            interface.name,
                            method.name,
                            Some(&key),
                            Verdict::LeftOut,
                            Some("this result does not cross"),
                        );
                    }
                    (0, results)
                }
                Err(refusal) => {
                    tracing::warn!(
                        interface = interface.name,
                        method = method.name,
                        %refusal,
                        "what the host answered cannot be handed to the guest"
                    );
                    (2, values::dictionary([]))
                }
            }
        } else {
            (code, values::dictionary([]))
        };
        if code != 0 || !response.lasting {
            self.requests.remove_host(host);
        }
        if code != 0
            && let Some(session) = session
        {
            self.sessions.remove_host(&session);
        }
        let body = vec![Value::from(code), results];
        self.emit(&guest, "org.freedesktop.portal.Request", "Response", body)
            .await;
    }

    /// The host's portal, or its bus, is not there any more: nothing that waits for it waits on.
    async fn host_is_gone(&mut self, why: &str) {
        self.link = None;
        self.early.clear();
        self.writable_transfers.clear();
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Some(host) = &pending.request {
                self.requests.remove_host(host);
            }
            if let Some(host) = &pending.session {
                self.sessions.remove_host(host);
            }
            self.reply_error(&pending.call, &Refusal::no_reply(why))
                .await;
        }
        for (guest, _, _) in self.requests.drain() {
            let body = vec![Value::from(2u32), values::dictionary([])];
            self.emit(&guest, "org.freedesktop.portal.Request", "Response", body)
                .await;
        }
        for (guest, _, _) in self.sessions.drain() {
            let body = vec![values::dictionary([])];
            self.emit(&guest, "org.freedesktop.portal.Session", "Closed", body)
                .await;
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

fn unknown_property(interface: &str, name: &str) -> Refusal {
    Refusal::unknown_property(format!("{interface} has no property {name:?}"))
}
