//! Following an operation of the daemon: its lines and bars, its end, and Ctrl-C.
//!
//! We subscribe before the operation begins, so nothing of it is missed; and we look at its state once
//! more when its path is known, so that an operation that was over at once is not waited for.

use std::future::Future;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use zbus::names::BusName;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath};

use crate::error::{Error, Result};
use crate::manager::{self, Manager};
use crate::progress::{Kind, Progress};

const INTERFACE: &str = "org.kde.kapsule.Operation";
const PATHS: &str = "/org/kde/kapsule/operations";

/// How many signals may wait to be read.
const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// How long after Ctrl-C we wait for an operation that is beginning.
const STARTING: Duration = Duration::from_millis(500);

/// How an operation has ended.
enum End {
    Completed,
    Failed(String),
}

/// Begins an operation with `start` and follows it to its end. `doing` says what it does, as in "creating
/// container box".
///
/// # Errors
/// It cannot begin, fails, or is cancelled; the daemon goes away.
pub async fn follow(
    manager: &Manager,
    doing: &str,
    start: impl Future<Output = Result<OwnedObjectPath>>,
) -> Result<()> {
    let failed = format!("following {doing}");
    let signals = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(manager::NAME)
        .interface(INTERFACE)
        .path_namespace(PATHS)
        .build()
        .map_err(Error::on_bus(failed.clone()))?;
    let owners = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, manager::NAME)
        .build()
        .map_err(Error::on_bus(failed.clone()))?;
    let connection = manager.connection();
    let (signals, owners) = tokio::try_join!(
        MessageStream::for_match_rule(signals, connection, Some(QUEUE)),
        MessageStream::for_match_rule(owners, connection, Some(QUEUE)),
    )
    .map_err(Error::on_bus(failed))?;
    let (mut signals, mut owners) = (signals, owners);

    let mut interrupts =
        signal(SignalKind::interrupt()).map_err(Error::doing("listening for Ctrl-C"))?;
    tokio::pin!(start);
    let mut interrupted = false;
    let path = tokio::select! {
        path = &mut start => path?,
        _ = interrupts.recv() => match tokio::time::timeout(STARTING, &mut start).await {
            // It has begun already, though we had not heard of it yet.
            Ok(path) => {
                interrupted = true;
                path?
            }
            // Somebody is being asked for a password, and does not want to.
            Err(_) => return Err(Error::Cancelled(doing.to_owned())),
        },
    };
    // Anybody may send us a signal that looks like one of the daemon's.
    let gone = |error| match error {
        Error::NoDaemon { .. } => Error::DaemonGone {
            doing: doing.to_owned(),
        },
        other => other,
    };
    let daemon = owner(manager).await.map_err(gone)?;
    let mut progress = Progress::new(doing);
    if let Some(end) = state(manager, &path).await.map_err(gone)? {
        return finish(&mut progress, doing, end, false);
    }
    let mut cancelled = false;
    loop {
        tokio::select! {
            message = signals.next() => {
                let Some(Ok(message)) = message else {
                    if message.is_none() {
                        return Err(Error::DaemonGone { doing: doing.to_owned() });
                    }
                    continue;
                };
                let header = message.header();
                if header.sender().map(|name| name.as_str()) != Some(daemon.as_str())
                    || header.path().map(|path| path.as_str()) != Some(path.as_str())
                {
                    continue;
                }
                if let Some(end) = show(&mut progress, &message) {
                    return finish(&mut progress, doing, end, cancelled);
                }
            }
            message = owners.next() => {
                let lost = match message {
                    Some(Ok(message)) => message
                        .body()
                        .deserialize::<(String, String, String)>()
                        .is_ok_and(|(_, old, _)| old == daemon),
                    Some(Err(_)) => false,
                    None => true,
                };
                if lost {
                    progress.clear();
                    return Err(Error::DaemonGone { doing: doing.to_owned() });
                }
            }
            _ = async { if !std::mem::take(&mut interrupted) { interrupts.recv().await; } } => {
                if cancelled {
                    progress.clear();
                    return Err(Error::Cancelled(doing.to_owned()));
                }
                cancelled = true;
                if cancel(manager, &path).await? {
                    progress.say(Kind::Information, "cancelling; Ctrl-C again does not wait for it", 0);
                } else {
                    progress.say(
                        Kind::Warning,
                        "it cannot be cancelled any more; Ctrl-C again leaves it to the daemon",
                        0,
                    );
                }
            }
        }
    }
}

fn finish(progress: &mut Progress, doing: &str, end: End, cancelled: bool) -> Result<()> {
    progress.clear();
    match end {
        End::Completed => Ok(()),
        End::Failed(_) if cancelled => Err(Error::Cancelled(doing.to_owned())),
        End::Failed(why) if why.is_empty() => Err(Error::Failed(format!("{doing} failed"))),
        End::Failed(why) => Err(Error::Failed(why)),
    }
}

/// Shows what a signal says; gives back the end if it is that.
fn show(progress: &mut Progress, message: &Message) -> Option<End> {
    let body = message.body();
    let header = message.header();
    match header.member()?.as_str() {
        "Message" => {
            let (kind, text, indent): (i32, String, i32) = body.deserialize().ok()?;
            progress.say(Kind::from(kind), &text, indent);
        }
        "ProgressStarted" => {
            let (id, description, total, indent): (String, String, i32, i32) =
                body.deserialize().ok()?;
            progress.begin(&id, &description, total, indent);
        }
        "ProgressUpdate" => {
            let (id, current, _rate): (String, i32, f64) = body.deserialize().ok()?;
            progress.update(&id, current);
        }
        "ProgressTextUpdate" => {
            let (id, text): (String, String) = body.deserialize().ok()?;
            progress.text(&id, &text);
        }
        "ProgressCompleted" => {
            let (id, success, message): (String, bool, String) = body.deserialize().ok()?;
            progress.end(&id, success, &message);
        }
        "Completed" => {
            let (success, message): (bool, String) = body.deserialize().ok()?;
            return Some(match success {
                true => End::Completed,
                false => End::Failed(message),
            });
        }
        _ => {}
    }
    None
}

/// How an operation has ended, or `None` if it runs.
async fn state(manager: &Manager, path: &OwnedObjectPath) -> Result<Option<End>> {
    let connection = manager.connection();
    let status = manager::property(connection, path.as_str(), INTERFACE, "Status").await?;
    Ok(match status.as_str() {
        "running" => None,
        "completed" => Some(End::Completed),
        _ => Some(End::Failed(
            manager::property(connection, path.as_str(), INTERFACE, "ErrorMessage").await?,
        )),
    })
}

async fn cancel(manager: &Manager, path: &OwnedObjectPath) -> Result<bool> {
    let doing = "cancelling";
    let reply = manager
        .connection()
        .call_method(
            Some(manager::NAME),
            path.as_str(),
            Some(INTERFACE),
            "Cancel",
            &(),
        )
        .await
        .map_err(Error::on_bus(doing))?;
    reply.body().deserialize().map_err(Error::on_bus(doing))
}

async fn owner(manager: &Manager) -> Result<String> {
    let doing = "looking for the Kapsule daemon";
    let name = BusName::try_from(manager::NAME).map_err(Error::on_bus(doing))?;
    let reply = manager
        .connection()
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "GetNameOwner",
            &name,
        )
        .await
        .map_err(Error::on_bus(doing))?;
    reply.body().deserialize().map_err(Error::on_bus(doing))
}
