//! What can go wrong, in words for the person who has to do something about it.

use std::io;
use std::process::ExitCode;

use crate::text;

/// Why the daemon refused. The names are those of its errors, `org.kde.kapsule.Error.NAME`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such container.
    NoSuchContainer,
    /// The container does not run.
    NotRunning,
    /// polkit says no, or there is nobody to ask.
    NotAuthorized,
    /// Any other.
    Other,
}

/// An error: what was being done, what went wrong, and where there is something to do, what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The daemon refused, or could not do it. Its text says what and why.
    #[error("{}", text::plain_lines(text))]
    Refused {
        /// Which of its errors.
        kind: Refusal,
        /// What it says.
        text: String,
    },
    /// The daemon is not there.
    #[error(
        "the Kapsule daemon does not run, and nothing starts it ({})\n  hint: systemctl enable --now kapsuled, or kapsuled --bus session for a try",
        text::plain(why)
    )]
    NoDaemon {
        /// What the bus says.
        why: String,
    },
    /// The bus is not there, or does not let us in.
    #[error(
        "connecting to the bus ({bus}): {source}\n  hint: is one running there? --bus ADDRESS or KAPSULE_BUS names another"
    )]
    NoBus {
        /// Which.
        bus: String,
        /// What the library says.
        source: zbus::Error,
    },
    /// The daemon went away while it worked for us.
    #[error(
        "the Kapsule daemon ended while it was {doing}\n  hint: journalctl -u kapsuled; what it had begun it takes back when it starts again"
    )]
    DaemonGone {
        /// What was being done.
        doing: String,
    },
    /// An operation failed.
    #[error("{}", text::plain_lines(.0))]
    Failed(String),
    /// The person has interrupted it.
    #[error("{}: cancelled", text::plain(.0))]
    Cancelled(String),
    /// The command line, or something like it, asks for what makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The bus.
    #[error("{what}: {source}")]
    Bus {
        /// What was being done.
        what: String,
        /// What the bus or its library says.
        source: zbus::Error,
    },
    /// The system.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: an error of the system, with what was being done.
    pub fn doing<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |error| Error::System {
            what: what.into(),
            source: error.into(),
        }
    }

    /// For `map_err`: an error of the bus, with what was being done.
    pub fn on_bus(what: impl Into<String>) -> impl FnOnce(zbus::Error) -> Error {
        move |source| {
            let what = what.into();
            match &source {
                zbus::Error::MethodError(name, said, _) => {
                    let said = said.clone().unwrap_or_else(|| name.to_string());
                    match name.strip_prefix("org.kde.kapsule.Error.") {
                        Some(kind) => Error::Refused {
                            kind: match kind {
                                "NoSuchContainer" => Refusal::NoSuchContainer,
                                "NotRunning" => Refusal::NotRunning,
                                "NotAuthorized" => Refusal::NotAuthorized,
                                _ => Refusal::Other,
                            },
                            text: said,
                        },
                        None => Error::Failed(format!("{what}: {said}")),
                    }
                }
                zbus::Error::FDO(refused) => {
                    use zbus::fdo::Error as Fdo;
                    match &**refused {
                        Fdo::ServiceUnknown(why)
                        | Fdo::NameHasNoOwner(why)
                        | Fdo::SpawnExecFailed(why)
                        | Fdo::SpawnChildExited(why)
                        | Fdo::SpawnServiceNotFound(why)
                        | Fdo::SpawnFailed(why)
                        | Fdo::TimedOut(why) => Error::NoDaemon { why: why.clone() },
                        Fdo::NoReply(_) | Fdo::Disconnected(_) => Error::DaemonGone { doing: what },
                        Fdo::AccessDenied(why)
                        | Fdo::InteractiveAuthorizationRequired(why)
                        | Fdo::AuthFailed(why) => Error::Refused {
                            kind: Refusal::NotAuthorized,
                            text: format!("{what}: {why}"),
                        },
                        _ => Error::Bus { what, source },
                    }
                }
                _ => Error::Bus { what, source },
            }
        }
    }

    /// Whether the daemon refused for this reason.
    pub fn is(&self, wanted: Refusal) -> bool {
        matches!(self, Error::Refused { kind, .. } if *kind == wanted)
    }

    /// The exit status of a command that fails with this.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::Usage(_) => 2,
            Error::Cancelled(_) => 130,
            _ => 1,
        })
    }
}
