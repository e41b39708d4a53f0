//! What can go wrong with a request.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a request came to nothing. Texts are for a person; `doing` is what was being done, such as
/// `starting the instance web`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the socket: Incus is not installed, not running, or starting.
    #[error("{doing}: Incus cannot be reached at {}: {source} (is it installed and running? `systemctl status incus`)", socket.display())]
    Unavailable {
        /// What was being done.
        doing: String,
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This process may not use the socket.
    #[error("{doing}: no permission to use Incus' socket {} (it is for root and the group incus-admin)", socket.display())]
    Forbidden {
        /// What was being done.
        doing: String,
        /// The socket.
        socket: PathBuf,
    },
    /// The connection broke before the answer was whole: Incus ended or was killed. Whether it has done what it
    /// was asked for is not known; an operation that ran then has ended with it.
    #[error("{doing}: the connection to Incus broke: {why}")]
    Interrupted {
        /// What was being done.
        doing: String,
        /// How it broke.
        why: String,
    },
    /// There was no answer in time.
    #[error("{doing}: Incus did not answer within {} s", after.as_secs())]
    TimedOut {
        /// What was being done.
        doing: String,
        /// The limit.
        after: Duration,
    },
    /// 404: there is no such instance, image, operation, …
    #[error("{doing}: {message}")]
    NotFound {
        /// What was being done.
        doing: String,
        /// What Incus said.
        message: String,
    },
    /// 409, or a name that is in use.
    #[error("{doing}: {message}")]
    Conflict {
        /// What was being done.
        doing: String,
        /// What Incus said.
        message: String,
    },
    /// 412: it was changed by somebody else since it was read.
    #[error("{doing}: it was changed in the meantime ({message})")]
    Changed {
        /// What was being done.
        doing: String,
        /// What Incus said.
        message: String,
    },
    /// Another error that Incus answered with.
    #[error("{doing}: {message}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// What Incus said.
        message: String,
    },
    /// An operation ended with failure.
    #[error("{doing}: {message}")]
    OperationFailed {
        /// What the operation did, in Incus' words.
        doing: String,
        /// What Incus said.
        message: String,
    },
    /// An operation was cancelled.
    #[error("{doing}: it was cancelled")]
    Cancelled {
        /// What the operation did, in Incus' words.
        doing: String,
    },
    /// The answer is not what the API says.
    #[error("{doing}: Incus' answer is not understood: {why}")]
    Protocol {
        /// What was being done.
        doing: String,
        /// What is wrong with it.
        why: String,
    },
    /// Reading or writing the caller's own data failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// There is no such thing (404).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    /// Incus is not there, or went: worth another try when it is back.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Error::Unavailable { .. } | Error::Interrupted { .. } | Error::TimedOut { .. }
        )
    }

    /// What Incus said, without what was being done.
    pub fn message(&self) -> Option<&str> {
        match self {
            Error::NotFound { message, .. }
            | Error::Conflict { message, .. }
            | Error::Changed { message, .. }
            | Error::Refused { message, .. }
            | Error::OperationFailed { message, .. } => Some(message),
            _ => None,
        }
    }

    /// From an answer that is an error: Incus answers a taken name with 409, or with 400 and words.
    pub(crate) fn answered(doing: String, status: u16, message: String) -> Error {
        match status {
            404 => Error::NotFound { doing, message },
            409 => Error::Conflict { doing, message },
            _ if says_taken(&message) => Error::Conflict { doing, message },
            412 => Error::Changed { doing, message },
            _ => Error::Refused {
                doing,
                status,
                message,
            },
        }
    }
}

/// Whether this is Incus' way to say that there is one of that name: its own words, or the database's.
pub(crate) fn says_taken(message: &str) -> bool {
    [
        "already exists",
        "already in use",
        "UNIQUE constraint failed",
    ]
    .iter()
    .any(|words| message.contains(words))
}
