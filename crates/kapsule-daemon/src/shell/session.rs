//! `org.kde.kapsule.Session`: a program that somebody started, as an object of the bus.

use std::sync::Arc;

use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::sync::{oneshot, watch};
use zbus::Connection;
use zbus::message::Header;
use zbus::names::OwnedUniqueName;
use zbus::object_server::SignalEmitter;

use super::init::Init;
use super::program::Running;
use super::terminal::Place;
use crate::error::{Error, Result};

/// What is kept of a session, for the object and for who watches over it.
#[derive(Debug)]
pub(super) struct State {
    pub container: String,
    pub user: String,
    /// Who started it.
    pub uid: u32,
    pub running: Running,
    pub terminal: Option<Place>,
    pub init: Arc<Init>,
    /// The exit status, once there is one.
    pub status: watch::Sender<Option<i32>>,
}

/// The object.
pub(super) struct Session(pub Arc<State>);

impl Session {
    /// Only who started it, and root.
    async fn check(&self, connection: &Connection, header: &Header<'_>) -> Result<()> {
        let refused = || Error::NotAuthorized("this session is another user's".to_owned());
        let sender = header.sender().ok_or_else(refused)?.to_owned();
        let uid = zbus::fdo::DBusProxy::new(connection)
            .await
            .map_err(Error::failed("asking the bus who calls"))?
            .get_connection_unix_user(sender.into())
            .await
            .map_err(Error::failed("asking the bus who calls"))?;
        if uid == self.0.uid || uid == 0 {
            Ok(())
        } else {
            Err(refused())
        }
    }
}

#[zbus::interface(name = "org.kde.kapsule.Session")]
impl Session {
    /// The container's name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn container(&self) -> String {
        self.0.container.clone()
    }

    /// Who the program is inside.
    #[zbus(property(emits_changed_signal = "const"))]
    fn user(&self) -> String {
        self.0.user.clone()
    }

    /// Sends a signal to the program's process group; on a terminal to the one in the foreground.
    async fn signal(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
        number: i32,
    ) -> Result<()> {
        self.check(connection, &header).await?;
        let signal = Signal::from_named_raw(number).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "there is no signal with the number {number}; see signal(7)"
            ))
        })?;
        self.0.running.signal(signal, self.0.terminal.is_some())
    }

    /// Changes the size of the program's terminal.
    async fn resize(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
        columns: u16,
        rows: u16,
    ) -> Result<()> {
        self.check(connection, &header).await?;
        let place = self.0.terminal.as_ref().ok_or_else(|| {
            Error::InvalidArgument(
                "the program has no terminal: it was started by RunCommand".to_owned(),
            )
        })?;
        place.resize(&self.0.init, (columns, rows))
    }

    /// Answers when the program has ended, at once if it has already.
    #[zbus(out_args("status"))]
    async fn wait(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<i32> {
        self.check(connection, &header).await?;
        let mut status = self.0.status.subscribe();
        let status = status
            .wait_for(Option::is_some)
            .await
            .map_err(Error::failed("waiting for the program"))?;
        // It is some: that was waited for.
        Ok(status.unwrap_or(255))
    }

    /// The program has ended.
    #[zbus(signal)]
    async fn exited(emitter: &SignalEmitter<'_>, status: i32) -> zbus::Result<()>;
}

/// Watches over a session until its end, and tells who started it. When their connection goes, the program is told as if
/// its terminal had been closed.
pub(super) async fn watch_over(
    state: Arc<State>,
    connection: Connection,
    path: String,
    sender: OwnedUniqueName,
) {
    let status = {
        let running = state.running.wait();
        let (over, gone) = (state.status.subscribe(), oneshot::channel());
        // By itself: a subscription that is given up halfway is not taken back.
        tokio::spawn(watch(connection.clone(), sender.clone(), over, gone.0));
        tokio::pin!(running);
        tokio::select! {
            status = &mut running => status,
            Ok(()) = gone.1 => {
                tracing::debug!(path, "who started the session has gone");
                for signal in [Signal::HUP, Signal::CONT] {
                    let _ = state.running.signal(signal, false);
                    let _ = state.running.signal(signal, state.terminal.is_some());
                }
                running.await
            }
        }
    };
    let status = status.unwrap_or_else(|error| {
        tracing::error!(
            path,
            error = error.text(),
            "the end of a program was not seen"
        );
        255
    });
    tracing::debug!(path, status, "a session has ended");
    state.status.send_replace(Some(status));
    if let Ok(emitter) = SignalEmitter::new(&connection, path) {
        let emitter = emitter.set_destination(sender.into_inner().into());
        let _ = Session::exited(&emitter, status).await;
    }
}

/// Tells when the connection has gone from the bus, unless the session is over before.
async fn watch(
    connection: Connection,
    name: OwnedUniqueName,
    mut over: watch::Receiver<Option<i32>>,
    gone: oneshot::Sender<()>,
) {
    let watch = async {
        let bus = zbus::fdo::DBusProxy::new(&connection).await?;
        let changes = bus
            .receive_name_owner_changed_with_args(&[(0, name.as_str())])
            .await?;
        // It may have gone before we looked.
        let there = bus.name_has_owner(name.inner().clone().into()).await?;
        Ok::<_, zbus::Error>((changes, there))
    };
    match watch.await {
        Ok((mut changes, there)) => {
            if there {
                tokio::select! {
                    // The end of what is told is no news of the name.
                    Some(_) = changes.next() => {}
                    _ = over.wait_for(Option::is_some) => return,
                }
            }
            // Nobody listens: the program has ended.
            let _ = gone.send(());
        }
        Err(error) => tracing::warn!(%error, "who started a session cannot be watched"),
    }
}
