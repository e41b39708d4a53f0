//! What goes wrong, as a client of the bus sees it.

/// An error of the service. Its D-Bus name is `org.kde.kapsule.Error.` and the variant's name; its text says what
/// was being done, what went wrong, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, zbus::DBusError)]
#[zbus(prefix = "org.kde.kapsule.Error")]
pub enum Error {
    /// There is no container of that name.
    NoSuchContainer(String),
    /// There is no such thing inside a container, or of the service: a snapshot, an operation.
    NotFound(String),
    /// Something of that name is there already.
    NameTaken(String),
    /// What was given cannot be a name.
    InvalidName(String),
    /// An argument or an option is not right.
    InvalidArgument(String),
    /// Polkit, or the rules of ownership, did not allow it.
    NotAuthorized(String),
    /// Incus does not answer.
    IncusUnavailable(String),
    /// The image is not here, or the server does not have it, or cannot be reached.
    ImageNotFound(String),
    /// Something else is being done with it.
    Busy(String),
    /// The container has to run for that.
    NotRunning(String),
    /// The person who asked for it has cancelled it.
    Cancelled(String),
    /// Anything else.
    Failed(String),
}

/// A result of the service.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The text, without the error's name.
    pub fn text(&self) -> &str {
        match self {
            Self::NoSuchContainer(text)
            | Self::NotFound(text)
            | Self::NameTaken(text)
            | Self::InvalidName(text)
            | Self::InvalidArgument(text)
            | Self::NotAuthorized(text)
            | Self::IncusUnavailable(text)
            | Self::ImageNotFound(text)
            | Self::Busy(text)
            | Self::NotRunning(text)
            | Self::Cancelled(text)
            | Self::Failed(text) => text,
        }
    }

    /// The same error with what was being done before its text: `making container 'a': …`.
    #[must_use]
    pub fn doing(mut self, what: impl std::fmt::Display) -> Self {
        let text = match &mut self {
            Self::NoSuchContainer(text)
            | Self::NotFound(text)
            | Self::NameTaken(text)
            | Self::InvalidName(text)
            | Self::InvalidArgument(text)
            | Self::NotAuthorized(text)
            | Self::IncusUnavailable(text)
            | Self::ImageNotFound(text)
            | Self::Busy(text)
            | Self::NotRunning(text)
            | Self::Cancelled(text)
            | Self::Failed(text) => text,
        };
        *text = format!("{what}: {text}");
        self
    }

    /// For `map_err` over errors of the system: what was being done, and the error.
    pub fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}
