//! Desktop notifications: what was blocked, with Allow, Allow 5 minutes and Deny.
//!
//! Principles:
//! - A notification waits. No default is applied, neither by time nor when it is dismissed.
//! - No action is the default one: a click on the body of a notification allows nothing.
//! - The server is never introspected: servers are known whose introspection lacks `ActionInvoked`.
//! - What comes from a container is plain text, and markup only where the server says that it reads it.
//! - At most `SHOWN` are shown at a time; one more says how many wait.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use zbus::names::UniqueName;
use zbus::{Connection, MatchRule, Message, MessageStream, Variant};

use crate::bridge::{BUS_NAME_PREFIX, INTERFACE, INTERFACE2, PATHS, PendingRow};
use crate::cli::terminal::{self, QUEUE};
use crate::error::{Error, Result};
use crate::text;

const SERVER: &str = "org.freedesktop.Notifications";
const SERVER_PATH: &str = "/org/freedesktop/Notifications";

/// How many notifications are shown at a time.
const SHOWN: usize = 5;

/// How many questions are remembered; what is beyond still waits at its bridge.
const REMEMBERED: usize = 4096;

/// For how long "Allow 5 minutes" allows.
const MINUTES: u32 = 5;

/// A question: its request id, and the bus connection of who asked it.
type Key = (String, String);

/// What is asked, shown, and was dismissed.
#[derive(Debug, Default)]
struct Desk {
    /// By request id and asker.
    waiting: BTreeMap<Key, PendingRow>,
    /// The server's number of each notification that is shown, and the question's key.
    shown: HashMap<u32, Key>,
    /// What a person has put away without answering. It is not shown again.
    dismissed: HashSet<Key>,
    /// What was closed last: some servers say that a notification was closed before they say that its
    /// action was invoked.
    closed: VecDeque<(u32, Key)>,
    /// The notification that says how many more wait.
    summary: u32,
    markup: bool,
}

/// Shows notifications until the bus is gone.
///
/// # Errors
/// If the bus does not serve us, or there is no notification server on it.
pub async fn notify(connection: &Connection) -> Result<()> {
    let failed = |e| Error::bus("watching the bus", e);
    let mut signals = Vec::new();
    for rule in [
        format!("type='signal',path='{}'", PATHS[0]),
        format!("type='signal',sender='{SERVER}',path='{SERVER_PATH}',interface='{SERVER}'"),
        "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged'".into(),
    ] {
        let rule = MatchRule::try_from(rule.as_str()).map_err(failed)?;
        let stream = MessageStream::for_match_rule(rule, connection, Some(QUEUE));
        signals.push(stream.await.map_err(failed)?);
    }
    let capabilities = call(connection, SERVER, SERVER_PATH, SERVER, "GetCapabilities", &())
        .await
        .map_err(|e| Error::bus("asking the notification server\n  hint: is one running on this bus (dunst, mako, plasmashell, gnome-shell)?", e))?;
    let capabilities: Vec<String> = capabilities.body().deserialize().unwrap_or_default();
    if !capabilities.iter().any(|c| c == "actions") {
        eprintln!(
            "shield-bridge: warning: this notification server has no actions; answer with shield-bridge allow or deny"
        );
    }
    let mut desk = Desk {
        markup: capabilities.iter().any(|c| c == "body-markup"),
        ..Desk::default()
    };
    for bridge in terminal::bridges(connection).await? {
        desk.take_up(connection, &bridge).await;
    }
    desk.show(connection).await;
    let [shield, server, names] = &mut signals[..] else {
        return Err(Error::Internal("three streams were made"));
    };
    loop {
        let message = tokio::select! {
            m = terminal::next(shield) => m,
            m = terminal::next(server) => m,
            m = terminal::next(names) => m,
            () = connection.closed() => None,
        };
        match message {
            Some(Ok(message)) => desk.heard(connection, &message).await,
            Some(Err(_)) => continue,
            None => {
                let closed = zbus::Error::Failure("the connection is closed".into());
                return Err(Error::bus("watching the bus", closed));
            }
        }
        desk.show(connection).await;
    }
}

async fn call<B>(
    connection: &Connection,
    to: &str,
    path: &str,
    interface: &str,
    member: &str,
    body: &B,
) -> zbus::Result<Message>
where
    B: serde::Serialize + zbus::DynamicType,
{
    connection
        .call_method(Some(to), path, Some(interface), member, body)
        .await
}

impl Desk {
    /// What waits at a bridge that was there before us, or has just come.
    async fn take_up(&mut self, connection: &Connection, bridge: &str) {
        let owner = call(
            connection,
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "GetNameOwner",
            &bridge,
        )
        .await
        .ok()
        .and_then(|m| m.body().deserialize::<String>().ok());
        if let (Some(owner), Ok(rows)) = (owner, terminal::list_pending(connection, bridge).await) {
            for row in rows {
                self.ask(&owner, row);
            }
        }
    }

    fn ask(&mut self, asker: &str, row: PendingRow) {
        let key = (row.5.clone(), asker.to_owned());
        if self.waiting.len() < REMEMBERED && !self.dismissed.contains(&key) {
            self.waiting.entry(key).or_insert(row);
        }
    }

    async fn heard(&mut self, connection: &Connection, message: &Message) {
        let header = message.header();
        let (Some(interface), Some(member)) = (header.interface(), header.member()) else {
            return;
        };
        let sender = header.sender().map(UniqueName::as_str).unwrap_or_default();
        let body = message.body();
        match (interface.as_str(), member.as_str()) {
            (INTERFACE, "ConnectionBlocked") => {
                if let Ok(row) = body.deserialize::<PendingRow>() {
                    self.ask(sender, row);
                }
            }
            (INTERFACE, "VerdictApplied") => {
                let said = body.deserialize::<(String, String, String, String, bool)>();
                if let Ok((_, _, id, _, true)) = said {
                    self.answered(connection, &(id, sender.to_owned())).await;
                }
            }
            (SERVER, "ActionInvoked") => {
                if let Ok((number, action)) = body.deserialize::<(u32, String)>() {
                    self.clicked(connection, number, &action).await;
                }
            }
            (SERVER, "NotificationClosed") => {
                if let Ok((number, _)) = body.deserialize::<(u32, u32)>()
                    && let Some(key) = self.shown.remove(&number)
                    && self.waiting.remove(&key).is_some()
                {
                    if self.dismissed.len() >= REMEMBERED {
                        self.dismissed.clear();
                    }
                    self.closed.truncate(SHOWN);
                    self.closed.push_front((number, key.clone()));
                    self.dismissed.insert(key);
                }
            }
            ("org.freedesktop.DBus", "NameOwnerChanged") => {
                if let Ok((name, old, new)) = body.deserialize::<(String, String, String)>() {
                    self.owner_changed(connection, &name, &old, &new).await;
                }
            }
            _ => {}
        }
    }

    /// A bridge has come, or gone.
    async fn owner_changed(&mut self, connection: &Connection, name: &str, old: &str, new: &str) {
        if name == SERVER && !new.is_empty() {
            // Another server shows nothing of what the last one did.
            self.shown.clear();
            self.summary = 0;
        } else if name.starts_with(BUS_NAME_PREFIX) && !new.is_empty() {
            self.take_up(connection, name).await;
        } else if name == old && new.is_empty() {
            let gone: Vec<_> = self
                .waiting
                .keys()
                .filter(|(_, asker)| asker == old)
                .cloned()
                .collect();
            for key in gone {
                self.answered(connection, &key).await;
            }
            self.dismissed.retain(|(_, asker)| asker != old);
        }
    }

    /// A question has its answer, from here or from elsewhere, or nobody is left to answer to.
    async fn answered(&mut self, connection: &Connection, key: &Key) {
        self.waiting.remove(key);
        let number = self.shown.iter().find(|(_, k)| *k == key).map(|(n, _)| *n);
        if let Some(number) = number {
            self.shown.remove(&number);
            close(connection, number).await;
        }
    }

    async fn clicked(&mut self, connection: &Connection, number: u32, action: &str) {
        let closed = || {
            self.closed
                .iter()
                .find(|(n, _)| *n == number)
                .map(|(_, k)| k)
        };
        let Some(key) = self.shown.get(&number).or_else(closed).cloned() else {
            return;
        };
        let (action, seconds) = match action {
            "allow" => ("accept", 0),
            "allow-minutes" => ("accept", MINUTES * 60),
            "deny" => ("deny", 0),
            _ => return,
        };
        // Who asked is answered.
        let answer = call(
            connection,
            &key.1,
            PATHS[0],
            INTERFACE2,
            "VerdictFor",
            &(key.0.as_str(), action, seconds),
        )
        .await;
        let ok = answer.is_ok_and(|m| m.body().deserialize().unwrap_or(false));
        // A server closes a notification whose action was invoked; so what was not done is asked anew.
        self.shown.remove(&number);
        close(connection, number).await;
        if ok {
            self.waiting.remove(&key);
            self.dismissed.remove(&key);
        } else {
            tracing::warn!(request = %text::plain(&key.0), "the answer was not applied");
        }
    }

    /// Shows what waits and is not shown, as far as there is room.
    async fn show(&mut self, connection: &Connection) {
        let open: HashSet<_> = self.shown.values().cloned().collect();
        let mut next: Vec<_> = self
            .waiting
            .keys()
            .filter(|key| !open.contains(*key))
            .cloned()
            .collect();
        let room = SHOWN.saturating_sub(open.len());
        let more = next.len().saturating_sub(room);
        next.truncate(room);
        for key in next {
            let Some(row) = self.waiting.get(&key) else {
                continue;
            };
            let (summary, body) = words(row, self.markup);
            let actions = [
                ("allow", "Allow".to_owned()),
                ("allow-minutes", format!("Allow {MINUTES} minutes")),
                ("deny", "Deny".to_owned()),
            ];
            let shown = send(connection, 0, &summary, &body, &actions).await;
            if let Some(number) = shown {
                self.shown.insert(number, key);
            }
        }
        if more > 0 {
            let body = format!("{more} more blocked connections wait: shield-bridge pending");
            if let Some(number) = send(connection, self.summary, "Firewall", &body, &[]).await {
                self.summary = number;
            }
        } else if self.summary != 0 {
            close(connection, std::mem::take(&mut self.summary)).await;
        }
    }
}

/// The words of a notification.
fn words(row: &PendingRow, markup: bool) -> (String, String) {
    let (container, dest, port, proto, domain, _) = row;
    let summary = text::plain(&format!("{container} was blocked"));
    let to = terminal::destination(dest, *port, *proto, domain);
    let body = format!("Container {container} wants to reach {to}");
    let body = if markup {
        text::markup(&body)
    } else {
        text::plain(&body)
    };
    (summary, body)
}

/// Shows a notification that stays until it is answered or put away; gives its number.
async fn send(
    connection: &Connection,
    replaces: u32,
    summary: &str,
    body: &str,
    actions: &[(&str, String)],
) -> Option<u32> {
    let actions: Vec<&str> = actions
        .iter()
        .flat_map(|(key, words)| [*key, words.as_str()])
        .collect();
    let hints = HashMap::from([
        ("urgency", Variant::from(2u8)),
        ("category", Variant::from("network")),
    ]);
    let stays = 0i32;
    let notification = (
        "shield-bridge",
        replaces,
        "security-high",
        summary,
        body,
        actions,
        hints,
        stays,
    );
    let answer = call(
        connection,
        SERVER,
        SERVER_PATH,
        SERVER,
        "Notify",
        &notification,
    )
    .await;
    match answer {
        Ok(message) => message.body().deserialize().ok(),
        Err(error) => {
            tracing::warn!(%error, "a notification could not be shown");
            None
        }
    }
}

async fn close(connection: &Connection, number: u32) {
    let _ = call(
        connection,
        SERVER,
        SERVER_PATH,
        SERVER,
        "CloseNotification",
        &number,
    )
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_markup_nor_escapes_reach_a_notification() {
        let row = (
            "c<b>".to_owned(),
            "203.0.113.1".to_owned(),
            443,
            6,
            "<a href='x'>\u{1b}[1m".to_owned(),
            "c:1".to_owned(),
        );
        let (summary, body) = words(&row, true);
        assert_eq!(summary, "c<b> was blocked");
        assert_eq!(
            body,
            "Container c&lt;b&gt; wants to reach &lt;a href=&#39;x&#39;&gt;?[1m:443 tcp (203.0.113.1:443)"
        );
        assert!(!words(&row, false).1.contains('\u{1b}'));
    }
}
