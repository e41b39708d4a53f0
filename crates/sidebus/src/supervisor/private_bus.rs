//! The bus of one VM's own daemons: a local bus in this process, that nobody but the daemons and the broker is on.

use std::path::Path;
use std::thread::JoinHandle;

use dbus_router::{Config, Handle, Listen, Router, RouterError};
use futures_util::StreamExt;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream};

/// A running bus. Its clients are disconnected when it goes, and daemons whose bus has gone end by themselves.
pub(super) struct PrivateBus {
    address: String,
    handle: Handle,
    thread: Option<JoinHandle<Result<(), RouterError>>>,
}

impl PrivateBus {
    /// Listens at `socket`, in a thread of its own.
    ///
    /// # Errors
    /// The socket cannot be listened on; the thread cannot be started.
    pub fn start(socket: &Path) -> Result<PrivateBus, RouterError> {
        let router = Router::start(Config {
            listen: Listen::Path(socket.to_owned()),
            // Nothing is activated: what runs here is started by the supervisor.
            ..Config::default()
        })?;
        let address = router.address();
        let handle = router.handle();
        let thread = std::thread::Builder::new()
            .name("private-bus".to_owned())
            .spawn(move || router.run())
            .map_err(|source| RouterError::System {
                step: "starting the private bus's thread",
                source,
            })?;
        Ok(PrivateBus {
            address,
            handle,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client of it, in this process.
    ///
    /// # Errors
    /// The bus has gone.
    pub async fn connect(&self) -> zbus::Result<Connection> {
        let socket = self
            .handle
            .connect()
            .map_err(|error| zbus::Error::InputOutput(std::sync::Arc::new(error)))?;
        zbus::connection::Builder::unix_stream(socket).build().await
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            tracing::error!(%error, "the private bus failed");
        }
    }
}

/// Waits until somebody owns `name`.
///
/// # Errors
/// The bus has gone.
pub(super) async fn wait_for_name(bus: &Connection, name: &str) -> zbus::Result<()> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, name)
        .build()?;
    // Before the question, so that a change between the answer and the wait is not missed.
    let mut changes = MessageStream::for_match_rule(rule, bus, None).await?;
    let owned: bool = bus
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "NameHasOwner",
            &name,
        )
        .await?
        .body()
        .deserialize()?;
    if owned {
        return Ok(());
    }
    while let Some(change) = changes.next().await {
        let change = change?;
        let (_, _, new): (String, String, String) = change.body().deserialize()?;
        if !new.is_empty() {
            return Ok(());
        }
    }
    Err(zbus::Error::Failure(
        "the private bus has closed its connection".to_owned(),
    ))
}
