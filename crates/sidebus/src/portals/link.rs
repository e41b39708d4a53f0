//! A connection to the host's session bus that stands for one client of the guest.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zbus::connection::Builder;
use zbus::{Connection, Message, MessageStream};

use super::host::{add_match, name_rule};
use super::refusal::Refusal;
use super::table::{DESKTOP_NAME, DESKTOP_PATH};
use super::{Shared, applications};

/// How long the host's bus, and its portal's registry, may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the registry is asked again after a desktop file was written: it learns of it by watching a directory.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// The connection. All that comes on it comes through `messages`, in order.
#[derive(Debug)]
pub struct Link {
    /// To send.
    pub connection: Connection,
    /// What comes: replies and signals. The end of it is the end of the connection.
    pub messages: mpsc::UnboundedReceiver<Message>,
    /// Its unique name on the host's bus.
    pub name: String,
    /// Whether the host's portal knows the application's id.
    pub registered: bool,
    /// Interfaces whose signals it has asked for.
    watched: Vec<&'static str>,
    drain: JoinHandle<()>,
}

impl Link {
    /// Connects, and registers the application (`id` on the host; `claimed` is what it calls itself) before anything
    /// else is called.
    ///
    /// # Errors
    /// The host's bus cannot be reached.
    pub async fn open(shared: &Shared, id: &str, claimed: Option<&str>) -> Result<Link, Refusal> {
        let failed = |error: zbus::Error| {
            Refusal::no_reply(format!("the host's session bus cannot be reached: {error}"))
        };
        let build = Builder::address(shared.host.address())
            .method_timeout(PATIENCE)
            .build();
        let connection = match tokio::time::timeout(PATIENCE, build).await {
            Ok(connection) => connection.map_err(failed)?,
            Err(_) => return Err(Refusal::no_reply("the host's session bus does not answer")),
        };
        let registered = register(shared, &connection, id, claimed).await;
        add_match(&connection, &name_rule(DESKTOP_NAME))
            .await
            .map_err(failed)?;
        let name = connection
            .unique_name()
            .map(ToString::to_string)
            .unwrap_or_default();
        let (sender, messages) = mpsc::unbounded_channel();
        let mut stream = MessageStream::from(&connection);
        // What the host sends is taken at once: a reply that somebody waits for must not be behind what nobody takes.
        let drain = tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Ok(Link {
            connection,
            messages,
            name,
            registered,
            watched: Vec::new(),
            drain,
        })
    }

    /// Asks for the signals of an interface: some portals tell those of a session to everybody, and not to the one who
    /// has it.
    ///
    /// # Errors
    /// The host's bus cannot be reached.
    pub async fn watch(&mut self, interface: &'static str) -> Result<(), Refusal> {
        if self.watched.contains(&interface) {
            return Ok(());
        }
        let rule = format!(
            "type='signal',sender='{DESKTOP_NAME}',path='{DESKTOP_PATH}',interface='{interface}'"
        );
        add_match(&self.connection, &rule)
            .await
            .map_err(|error| Refusal::of_call("watching the host's portal", &error))?;
        self.watched.push(interface);
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // It holds the connection.
        self.drain.abort();
    }
}

/// Registers an application's id with the host's portal, if that has a registry. Where it does not take this one, it may
/// take that of a program that says nothing of itself: one without any is taken for a program of the host's.
async fn register(
    shared: &Shared,
    connection: &Connection,
    id: &str,
    claimed: Option<&str>,
) -> bool {
    let any = applications::application_id(&shared.vm_name, None);
    let tried = register_as(shared, connection, id, claimed).await;
    match tried {
        Ok(registered) => registered,
        Err(why) => {
            tracing::warn!(
                id,
                why,
                "the host's portal does not take the application's id"
            );
            if id != any && register_as(shared, connection, &any, None).await == Ok(true) {
                return true;
            }
            tracing::warn!("it asks the host's portal as a program without an id");
            false
        }
    }
}

/// Whether the registry has taken the id, false if there is none; or why it has not.
async fn register_as(
    shared: &Shared,
    connection: &Connection,
    id: &str,
    claimed: Option<&str>,
) -> Result<bool, String> {
    if !shared.host.may_have_registry() {
        return Ok(false);
    }
    let new = match &shared.desktop_files {
        Some(files) => files
            .provide(id, claimed)
            .map_err(|error| format!("its desktop file cannot be written: {error}"))?,
        None => false,
    };
    let mut tries = 0;
    loop {
        let options = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let answer = connection
            .call_method(
                Some(DESKTOP_NAME),
                DESKTOP_PATH,
                Some("org.freedesktop.host.portal.Registry"),
                "Register",
                &(id, options),
            )
            .await;
        let error = match answer {
            Ok(_) => {
                shared.host.registry_is(true);
                return Ok(true);
            }
            Err(error) => Refusal::of_call("registering an application", &error),
        };
        match error.name() {
            "org.freedesktop.DBus.Error.UnknownMethod"
            | "org.freedesktop.DBus.Error.UnknownInterface" => {
                tracing::debug!("the host's portal has no registry of applications");
                shared.host.registry_is(false);
                return Ok(false);
            }
            "org.freedesktop.DBus.Error.ServiceUnknown" => return Ok(false),
            _ if new && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            _ => return Err(error.text().to_owned()),
        }
    }
}

/// Takes a notification back that nobody is connected for any more.
pub(super) fn withdraw(shared: &Arc<Shared>, app_id: String, id: String) {
    let shared = shared.clone();
    tokio::spawn(async move {
        let claimed = app_id
            .strip_prefix(&applications::machine_id(&shared.vm_name))
            .map(|rest| rest.trim_start_matches('.').to_owned());
        let Ok(link) = Link::open(&shared, &app_id, claimed.as_deref()).await else {
            return;
        };
        let withdrawn = link
            .connection
            .call_method(
                Some(DESKTOP_NAME),
                DESKTOP_PATH,
                Some("org.freedesktop.portal.Notification"),
                "RemoveNotification",
                &(id,),
            )
            .await;
        if let Err(error) = withdrawn {
            tracing::debug!(%error, "an old notification cannot be withdrawn");
        }
    });
}
