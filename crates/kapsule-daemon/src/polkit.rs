//! Polkit: whether who calls may do what he asks for.
//!
//! Interface `org.freedesktop.PolicyKit1.Authority`, method `CheckAuthorization((sa{sv}) subject, s action, a{ss}
//! details, u flags, s cancellation) → (bba{ss})`. The subject is the caller's name on the system bus, which cannot be
//! another program's by the time that polkit looks.

use std::collections::HashMap;

use zbus::{Connection, Variant};

use crate::caller::Caller;
use crate::error::{Error, Result};

/// What polkit knows by name. The file `data/polkit-1/org.kde.kapsule.policy` says what holds for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To make containers of one's own, and use them.
    Enter,
    /// To do something with what is others', or with what all share.
    Manage,
    /// To set up Incus.
    Initialize,
    /// To have a container whose root is the host's.
    Privileged,
}

impl Action {
    /// The name that polkit has for it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Enter => "org.kde.kapsule.enter-container",
            Self::Manage => "org.kde.kapsule.manage-container",
            Self::Initialize => "org.kde.kapsule.initialize",
            Self::Privileged => "org.kde.kapsule.privileged-container",
        }
    }
}

/// How polkit learns who is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subjects {
    /// By the name on the bus: the service is on the system bus.
    BusNames,
    /// By process: the service is on a session bus, for development. A process can end while it is looked at; so
    /// this is not for the system bus.
    Processes,
}

/// The way to polkit.
#[derive(Debug, Clone)]
pub struct Polkit {
    system_bus: Connection,
    subjects: Subjects,
}

#[derive(serde::Deserialize, zbus::Type)]
struct Answer {
    authorized: bool,
    challenge: bool,
    details: HashMap<String, String>,
}

impl Polkit {
    /// Polkit on this system bus.
    pub fn new(system_bus: Connection, subjects: Subjects) -> Self {
        Self {
            system_bus,
            subjects,
        }
    }

    /// Returns if the caller may; a person is asked for a password if the caller permits that and polkit wants it.
    ///
    /// `details` is what rules can look at (`action.lookup("container")`); `what` completes the sentence
    /// "Authentication is required to …" of the password dialog.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`]: polkit says no, or wants a password and may not ask, or does not answer.
    pub async fn check(
        &self,
        caller: &Caller,
        action: Action,
        details: &[(&str, &str)],
        what: &str,
    ) -> Result<()> {
        let (kind, subject) = match self.subjects {
            Subjects::BusNames => (
                "system-bus-name",
                HashMap::from([("name", Variant::from(caller.sender.as_str()))]),
            ),
            Subjects::Processes => (
                "unix-process",
                HashMap::from([
                    ("pid", Variant::from(caller.pid)),
                    // Polkit finds the start time itself then.
                    ("start-time", Variant::from(0_u64)),
                    ("uid", Variant::from(caller.uid.cast_signed())),
                ]),
            ),
        };
        let mut all: HashMap<&str, &str> = details.iter().copied().collect();
        let message = format!("Authentication is required to {}", escape_message(what));
        all.insert("polkit.message", &message);
        let flags: u32 = u32::from(caller.interactive);
        let reply = self
            .system_bus
            .call_method(
                Some("org.freedesktop.PolicyKit1"),
                "/org/freedesktop/PolicyKit1/Authority",
                Some("org.freedesktop.PolicyKit1.Authority"),
                "CheckAuthorization",
                &((kind, subject), action.id(), all, flags, ""),
            )
            .await
            .map_err(|error| {
                Error::NotAuthorized(format!(
                    "asking polkit whether {} may {what}: {error}. Without polkit nobody is let in; is polkitd \
                     installed, and org.kde.kapsule.policy among its actions?",
                    caller.name
                ))
            })?;
        let answer: Answer = reply
            .body()
            .deserialize()
            .map_err(|error| Error::NotAuthorized(format!("reading polkit's answer: {error}")))?;
        tracing::debug!(
            action = action.id(),
            uid = caller.uid,
            authorized = answer.authorized,
            challenge = answer.challenge,
            "polkit"
        );
        if answer.authorized {
            return Ok(());
        }
        let why = if answer.details.contains_key("polkit.dismissed") {
            "the question for the password was dismissed"
        } else if answer.challenge && !caller.interactive {
            "that needs a password, and the program that asked does not permit asking for one"
        } else if answer.challenge {
            "that needs a password, and none could be asked for: is an authentication agent running in the session \
             (in a terminal: pkttyagent)?"
        } else {
            "polkit's rules do not allow it, or the password was wrong"
        };
        Err(Error::NotAuthorized(format!(
            "{} may not {what}: {why} (action {})",
            caller.name,
            action.id()
        )))
    }
}

/// Polkit replaces `$(key)` by details in the message.
fn escape_message(text: &str) -> String {
    text.replace("$(", "$ (")
}
