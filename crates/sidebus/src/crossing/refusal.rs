//! Why something does not cross, as a D-Bus error.

use std::fmt;

/// An error for the program that sent what cannot cross: a D-Bus error name, and a text for a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    name: &'static str,
    text: String,
}

impl Refusal {
    /// What is not possible at all: `org.freedesktop.DBus.Error.NotSupported`.
    pub fn not_supported(text: impl Into<String>) -> Refusal {
        Refusal::new("org.freedesktop.DBus.Error.NotSupported", text)
    }

    /// What is more than its bounds: `org.freedesktop.DBus.Error.LimitsExceeded`.
    pub fn limits_exceeded(text: impl Into<String>) -> Refusal {
        Refusal::new("org.freedesktop.DBus.Error.LimitsExceeded", text)
    }

    /// What is not allowed: `org.freedesktop.DBus.Error.AccessDenied`.
    pub fn access_denied(text: impl Into<String>) -> Refusal {
        Refusal::new("org.freedesktop.DBus.Error.AccessDenied", text)
    }

    /// What is not there: `org.freedesktop.DBus.Error.FileNotFound`.
    pub fn file_not_found(text: impl Into<String>) -> Refusal {
        Refusal::new("org.freedesktop.DBus.Error.FileNotFound", text)
    }

    /// The other side cannot be reached: `org.freedesktop.DBus.Error.NoServer`.
    pub fn no_server(text: impl Into<String>) -> Refusal {
        Refusal::new("org.freedesktop.DBus.Error.NoServer", text)
    }

    /// Anything else: `org.freedesktop.DBus.Error.Failed`.
    pub fn failed(text: impl Into<String>) -> Refusal {
        Refusal::new("org.freedesktop.DBus.Error.Failed", text)
    }

    fn new(name: &'static str, text: impl Into<String>) -> Refusal {
        Refusal {
            name,
            text: text.into(),
        }
    }

    /// The D-Bus error name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The text for a person.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}
