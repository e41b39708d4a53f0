//! Why a call is not answered as it was meant: a D-Bus error for the guest's program.

use std::fmt;

/// An error that goes back to the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    name: String,
    text: String,
}

impl Refusal {
    /// An argument is not what it should be.
    pub fn invalid(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.portal.Error.InvalidArgument", text)
    }

    /// The policy, or the way across, does not permit it.
    pub fn not_allowed(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.portal.Error.NotAllowed", text)
    }

    /// There is no such thing.
    pub fn not_found(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.portal.Error.NotFound", text)
    }

    /// It was tried and did not work.
    pub fn failed(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.portal.Error.Failed", text)
    }

    /// A descriptor that cannot be used for this.
    pub fn not_supported(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.NotSupported", text)
    }

    /// More than there may be.
    pub fn limit(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.LimitsExceeded", text)
    }

    /// No such interface at that object.
    pub fn unknown_interface(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.UnknownInterface", text)
    }

    /// No such method.
    pub fn unknown_method(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.UnknownMethod", text)
    }

    /// No such object.
    pub fn unknown_object(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.UnknownObject", text)
    }

    /// No such property.
    pub fn unknown_property(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.UnknownProperty", text)
    }

    /// The host's portals do not answer.
    pub fn no_reply(text: impl Into<String>) -> Refusal {
        Refusal::named("org.freedesktop.DBus.Error.NoReply", text)
    }

    /// An error with a name that somebody else gave.
    pub fn named(name: impl Into<String>, text: impl Into<String>) -> Refusal {
        Refusal {
            name: name.into(),
            text: text.into(),
        }
    }

    /// The D-Bus error's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A failure of a call of ours, with what was being done.
    pub fn of_call(doing: &str, error: &zbus::Error) -> Refusal {
        match error {
            zbus::Error::MethodError(name, text, _) => Refusal::named(
                name.as_str(),
                text.as_deref().unwrap_or("the error says nothing more"),
            ),
            zbus::Error::FDO(error) => {
                use zbus::DBusError as _;
                let text = error.description().unwrap_or("the error says nothing more");
                Refusal::named(error.name().as_str(), text)
            }
            other => Refusal::failed(format!("{doing}: {other}")),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.name)
    }
}

impl std::error::Error for Refusal {}

impl From<crate::crossing::Refusal> for Refusal {
    fn from(refusal: crate::crossing::Refusal) -> Refusal {
        Refusal::named(refusal.name(), refusal.text())
    }
}
