//! What of the host an inside program may see and reach.
//!
//! Every question about a host name ends here, so that rules can grow without the router knowing. A
//! question is about a *well-known name*; a unique name is judged by the names that its owner holds, see
//! [`Policy::host_peer`].

use std::fmt;

/// Host names that hand over the host: who may talk to them can start programs outside, or read what
/// others say. They are refused unless allowed by name.
const HANDS_OVER_THE_HOST: &[&str] = &[
    "org.freedesktop.systemd1",
    "org.freedesktop.Flatpak",
    "org.freedesktop.impl.portal.*",
    // A container must not answer what its own firewall asks.
    "org.terok.Shield1.*",
];

/// A bus name, or all names below a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// `prefix.*`: names that begin with the prefix and a dot.
    Below(Box<str>),
}

/// A text that is no name pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a bus name: expected something like org.example.Name or org.example.*")]
pub struct NamePatternError {
    text: String,
}

impl NamePattern {
    /// Reads `org.example.Name` or `org.example.*`.
    pub fn parse(text: &str) -> Result<NamePattern, NamePatternError> {
        let wrong = || NamePatternError {
            text: text.to_owned(),
        };
        if let Some(prefix) = text.strip_suffix(".*") {
            if !dbus_wire::names::is_namespace(prefix) {
                return Err(wrong());
            }
            return Ok(NamePattern::Below(prefix.into()));
        }
        if !dbus_wire::names::is_well_known_name(text) {
            return Err(wrong());
        }
        Ok(NamePattern::Exact(text.into()))
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(exact) => **exact == *name,
            NamePattern::Below(prefix) => name
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.starts_with('.')),
        }
    }

    /// Whether `interface` is named after a name that is meant, as interfaces usually are.
    fn covers_interface(&self, interface: &str) -> bool {
        let (NamePattern::Exact(name) | NamePattern::Below(name)) = self;
        dbus_wire::names::name_in_namespace(interface, name)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => f.write_str(name),
            NamePattern::Below(prefix) => write!(f, "{prefix}.*"),
        }
    }
}

/// What the policy says of a message to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It may pass.
    Allowed,
    /// It may not, and the name is not shown either.
    Refused,
}

/// The rules of one router.
#[derive(Clone, Debug)]
pub struct Policy {
    refused: Vec<NamePattern>,
    allowed: Vec<NamePattern>,
}

impl Default for Policy {
    fn default() -> Self {
        let refused = HANDS_OVER_THE_HOST
            .iter()
            .map(|text| NamePattern::parse(text).expect("the list above holds name patterns"))
            .collect();
        Policy {
            refused,
            allowed: Vec::new(),
        }
    }
}

impl Policy {
    /// Everything of the host but the names that hand it over.
    pub fn new() -> Policy {
        Policy::default()
    }

    /// Lets `pattern` through although it hands over the host.
    pub fn allow(&mut self, pattern: NamePattern) {
        self.allowed.push(pattern);
    }

    /// Whether a well-known name of the host exists for the inside.
    pub fn host_name(&self, name: &str) -> Access {
        let refused = self.refused.iter().any(|pattern| pattern.matches(name))
            && !self.allowed.iter().any(|pattern| pattern.matches(name));
        if refused {
            Access::Refused
        } else {
            Access::Allowed
        }
    }

    /// Whether `interface` is one of those that go with a refused name: of that name, or below it.
    fn refuses_interface(&self, interface: &str) -> bool {
        let meant = |pattern: &NamePattern| pattern.covers_interface(interface);
        self.refused.iter().any(meant) && !self.allowed.iter().any(meant)
    }

    /// Whether a message with `interface` may pass to a host connection that holds `names`.
    ///
    /// Who holds only refused names is refused. A connection that holds both kinds is judged by the
    /// interface: it has to be stated, and not to be one of a refused name's.
    pub fn host_peer<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        interface: Option<&str>,
    ) -> Access {
        let (mut refused, mut allowed) = (false, false);
        for name in names {
            match self.host_name(name) {
                Access::Refused => refused = true,
                Access::Allowed => allowed = true,
            }
        }
        match (refused, allowed) {
            (false, _) => Access::Allowed,
            (true, false) => Access::Refused,
            (true, true) => match interface {
                Some(interface) if self.refuses_interface(interface) => Access::Refused,
                Some(_) => Access::Allowed,
                None => Access::Refused,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hand_over_the_host_are_refused_unless_allowed() {
        let mut policy = Policy::new();
        assert_eq!(
            policy.host_name("org.freedesktop.systemd1"),
            Access::Refused
        );
        assert_eq!(
            policy.host_name("org.freedesktop.impl.portal.Secret"),
            Access::Refused
        );
        assert_eq!(
            policy.host_name("org.freedesktop.impl.portalX"),
            Access::Allowed
        );
        assert_eq!(
            policy.host_name("org.freedesktop.Notifications"),
            Access::Allowed
        );
        policy.allow(NamePattern::parse("org.freedesktop.systemd1").unwrap());
        assert_eq!(
            policy.host_name("org.freedesktop.systemd1"),
            Access::Allowed
        );
    }

    #[test]
    fn a_connection_with_both_kinds_of_names_is_judged_by_the_interface() {
        let policy = Policy::new();
        let names = || {
            [
                "org.freedesktop.secrets",
                "org.freedesktop.impl.portal.Secret",
            ]
            .into_iter()
        };
        assert_eq!(
            policy.host_peer(names(), Some("org.freedesktop.Secret.Service")),
            Access::Allowed
        );
        assert_eq!(
            policy.host_peer(names(), Some("org.freedesktop.impl.portal.Secret")),
            Access::Refused
        );
        let both = ["org.freedesktop.systemd1", "org.example.Other"].into_iter();
        assert_eq!(
            policy.host_peer(both, Some("org.freedesktop.systemd1.Manager")),
            Access::Refused
        );
        assert_eq!(policy.host_peer(names(), None), Access::Refused);
        assert_eq!(
            policy.host_peer(["org.freedesktop.systemd1"].into_iter(), Some("a.b")),
            Access::Refused
        );
        assert_eq!(policy.host_peer([].into_iter(), None), Access::Allowed);
    }

    #[test]
    fn a_pattern_that_is_no_name_is_an_error_that_shows_it() {
        let error = NamePattern::parse("*").unwrap_err();
        assert!(error.to_string().contains("\"*\""));
        assert!(NamePattern::parse("org..x").is_err());
        assert!(NamePattern::parse(":1.5").is_err());
    }
}
