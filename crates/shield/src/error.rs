//! What can go wrong, in words for the person who has to do something about it.

use std::io;

/// An error: what was being done, what went wrong, and where there is something to do, what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container, or its namespace, does not exist (any more).
    #[error("{0} is not there: the container does not run (any more)")]
    Gone(String),
    /// No container of this name was found anywhere.
    #[error(
        "no running container {name:?} was found{tried}\n  hint: name it as `podman ps`, `docker ps` or `incus list` do, or give --pid PID or --netns PATH"
    )]
    NoSuchContainer {
        /// The name.
        name: String,
        /// Where it was looked for, and what was found there.
        tried: String,
    },
    /// A capability is missing.
    #[error(
        "{what}: not permitted; missing {missing} in the user namespace that owns it\n  hint: {hint}"
    )]
    Permission {
        /// What was being done.
        what: String,
        /// The capabilities.
        missing: &'static str,
        /// What to do.
        hint: String,
    },
    /// The rules are not loaded.
    #[error(
        "the firewall of container {container:?} is not up\n  hint: shield-bridge up {container}"
    )]
    NotUp {
        /// The container.
        container: String,
    },
    /// Interactive mode is not on.
    #[error(
        "container {container:?} is not in interactive mode ({path} is missing)\n  hint: shield-bridge up without --unattended"
    )]
    NotInteractive {
        /// The container.
        container: String,
        /// The file that would say so.
        path: String,
    },
    /// Another bridge serves the container.
    #[error(
        "another bridge serves container {container:?} already{by}\n  hint: end it first; one reader at a time gets the kernel's log"
    )]
    Busy {
        /// The container.
        container: String,
        /// Which, if it is known.
        by: String,
    },
    /// The bus name is taken.
    #[error("the bus name {0} is taken: another bridge serves this container on this bus")]
    NameTaken(String),
    /// A file is not as it should be.
    #[error("{path}:{line}: {what}")]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// `nft` refused the rules or cannot be run.
    #[error("loading the rules: {0}")]
    Nft(String),
    /// The command line asks for something that makes no sense.
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
    /// Something that cannot be, was.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    pub(crate) fn system(what: String, source: io::Error) -> Self {
        Self::System { what, source }
    }

    pub(crate) fn bus(what: impl Into<String>, source: zbus::Error) -> Self {
        Self::Bus {
            what: what.into(),
            source,
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
