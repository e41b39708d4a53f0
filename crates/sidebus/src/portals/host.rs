//! The host's portals as all clients share them: a connection that watches, versions, properties, and what is told to
//! everybody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, Variant};

use super::refusal::Refusal;
use super::table::{DESKTOP_NAME, DESKTOP_PATH, DOCUMENTS_NAME, Interface};
use super::values::{self, Value};

/// How long a call to the host's portals of our own may take. A portal that is not there yet is started by it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for the host's bus when somebody asks.
const BUS_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before the host's bus is tried again, and at most.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// The host's portals.
#[derive(Debug)]
pub struct Host {
    address: String,
    connection: watch::Receiver<Option<Connection>>,
    known: Arc<Mutex<Known>>,
}

/// What was asked once; forgotten when a portal's name changes hands.
#[derive(Debug, Default)]
struct Known {
    versions: HashMap<&'static str, Result<u32, Refusal>>,
    /// Whether the portal has org.freedesktop.host.portal.Registry.
    registry: Option<bool>,
}

impl Host {
    /// Watches the host's portals at the bus with this address, as long as the host is there again and again.
    /// `everyone` is called with each signal of theirs that is told to all.
    pub fn watch(
        address: String,
        everyone: impl Everyone,
    ) -> (Arc<Host>, tokio::task::JoinHandle<()>) {
        let (sender, connection) = watch::channel(None);
        let known = Arc::new(Mutex::new(Known::default()));
        let task = tokio::spawn(keep_watching(
            address.clone(),
            sender,
            known.clone(),
            everyone,
        ));
        (
            Arc::new(Host {
                address,
                connection,
                known,
            }),
            task,
        )
    }

    /// The address of the host's session bus.
    pub fn address(&self) -> &str {
        &self.address
    }

    async fn connection(&self) -> Result<Connection, Refusal> {
        let mut connection = self.connection.clone();
        let there = connection.wait_for(Option::is_some);
        match tokio::time::timeout(BUS_PATIENCE, there).await {
            Ok(Ok(connection)) => connection.clone(),
            _ => None,
        }
        .ok_or_else(|| {
            Refusal::no_reply("the host's session bus cannot be reached; the broker keeps trying")
        })
    }

    /// Calls a method of a program of the host, as the broker itself.
    ///
    /// # Errors
    /// The host cannot be reached, or answers with an error.
    pub async fn call(
        &self,
        destination: &str,
        path: &str,
        interface: &str,
        method: &str,
        arguments: Vec<Value>,
    ) -> Result<Vec<Value>, Refusal> {
        let connection = self.connection().await?;
        let doing = format!("the host's {interface}.{method}");
        let failed = |error: zbus::Error| Refusal::of_call(&doing, &error);
        let structure = arguments
            .into_iter()
            .fold(zbus::Structure::builder(), |structure, field| {
                structure.append_field(field)
            })
            .build()
            .map_err(failed)?;
        let answer = connection
            .call_method(Some(destination), path, Some(interface), method, &structure)
            .await
            .map_err(failed)?;
        values::arguments(&answer)
    }

    /// A property of an interface.
    ///
    /// # Errors
    /// The host cannot be reached, or does not have it.
    pub async fn property(&self, interface: &Interface, name: &str) -> Result<Value, Refusal> {
        let arguments = vec![Value::from(interface.name), Value::from(name.to_owned())];
        let answer = self
            .call(
                interface.service.name(),
                interface.service.path(),
                "org.freedesktop.DBus.Properties",
                "Get",
                arguments,
            )
            .await?;
        match answer.first().map(values::unwrapped) {
            Some(value) => values::owned(value),
            None => Err(Refusal::failed("the host gave no value")),
        }
    }

    /// The version of an interface: the host's, or the highest that is carried.
    ///
    /// # Errors
    /// The host cannot be reached, or does not have the interface.
    pub async fn version(&self, interface: &'static Interface) -> Result<u32, Refusal> {
        if let Some(known) = self.known().versions.get(interface.name) {
            return known.clone().map(|version| version.min(interface.version));
        }
        let asked = self.property(interface, "version").await;
        let version = match asked {
            Ok(Variant::U32(version)) => Ok(version),
            Ok(_) => Err(Refusal::failed(format!(
                "{}: its version is no number",
                interface.name
            ))),
            Err(refusal) if is_absence(&refusal) => Err(Refusal::unknown_interface(format!(
                "the host's portals do not have {}: {}",
                interface.name,
                refusal.text()
            ))),
            // May be better the next time.
            Err(refusal) => return Err(refusal),
        };
        self.known()
            .versions
            .insert(interface.name, version.clone());
        version.map(|version| version.min(interface.version))
    }

    /// Whether the host's portal is not known to be without the registry of applications.
    pub fn may_have_registry(&self) -> bool {
        self.known().registry != Some(false)
    }

    /// Somebody has found out.
    pub fn registry_is(&self, there: bool) {
        self.known().registry = Some(there);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who hears the signals that the host's portals send to all.
pub trait Everyone: Send + 'static {
    /// A signal at the object of the desktop's portals.
    fn signal(&mut self, message: Message) -> impl Future<Output = ()> + Send;
}

/// Errors by which a portal says that it does not have an interface.
fn is_absence(refusal: &Refusal) -> bool {
    matches!(
        refusal.name(),
        "org.freedesktop.DBus.Error.InvalidArgs"
            | "org.freedesktop.DBus.Error.UnknownInterface"
            | "org.freedesktop.DBus.Error.UnknownMethod"
            | "org.freedesktop.DBus.Error.UnknownProperty"
            | "org.freedesktop.DBus.Error.UnknownObject"
            | "org.freedesktop.DBus.Error.ServiceUnknown"
    )
}

async fn keep_watching(
    address: String,
    sender: watch::Sender<Option<Connection>>,
    known: Arc<Mutex<Known>>,
    mut everyone: impl Everyone,
) {
    let mut backoff = FIRST_BACKOFF;
    let mut complained = false;
    loop {
        match open(&address).await {
            Ok((connection, mut messages)) => {
                backoff = FIRST_BACKOFF;
                complained = false;
                let _ = sender.send(Some(connection));
                while let Some(Ok(message)) = messages.next().await {
                    if message.message_type() != Type::Signal {
                        continue;
                    }
                    if is_name_change(&message) {
                        *known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
                    } else {
                        everyone.signal(message).await;
                    }
                }
                let _ = sender.send(None);
                *known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
                tracing::warn!("the host's session bus has closed the connection");
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, address, "the host's session bus cannot be reached; trying again");
                }
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

async fn open(address: &str) -> zbus::Result<(Connection, MessageStream)> {
    let connection = Builder::address(address)
        .method_timeout(PATIENCE)
        .build()
        .await?;
    let messages = MessageStream::from(&connection);
    for rule in [
        format!("type='signal',sender='{DESKTOP_NAME}',path='{DESKTOP_PATH}'"),
        name_rule(DESKTOP_NAME),
        name_rule(DOCUMENTS_NAME),
    ] {
        add_match(&connection, &rule).await?;
    }
    Ok((connection, messages))
}

/// The rule for changes of a name's owner.
pub(super) fn name_rule(name: &str) -> String {
    format!(
        "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',\
         arg0='{name}'"
    )
}

/// Adds a match rule.
pub(super) async fn add_match(connection: &Connection, rule: &str) -> zbus::Result<()> {
    connection
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "AddMatch",
            &(rule,),
        )
        .await
        .map(|_| ())
}

/// Whether a signal is the bus's own NameOwnerChanged.
pub(super) fn is_name_change(message: &Message) -> bool {
    let header = message.header();
    header
        .member()
        .is_some_and(|member| member.as_str() == "NameOwnerChanged")
        && header
            .sender()
            .is_some_and(|sender| sender.as_str() == "org.freedesktop.DBus")
}
