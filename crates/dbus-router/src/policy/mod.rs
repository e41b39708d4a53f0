//! What of the host an inside program may see and reach.
//!
//! Every question about a host name ends here, so that rules can grow without the router knowing. A
//! question is about a *well-known name*; a unique name is judged by the names that its owner holds, see
//! [`Policy::host_peer`].

mod patterns;
mod rules;

pub use patterns::{Glob, NamePattern, NamePatternError, PathPattern};
pub use rules::{
    Access, Export, HostPass, InterfaceExport, MemberRule, MemberRuleError, NameRule, Rename,
    RenameError, RuleId, Rules, Side,
};

/// Host names that hand over the host: who may talk to them can start programs outside, or read what
/// others say. They are refused unless allowed by name.
const HANDS_OVER_THE_HOST: &[&str] = &[
    "org.freedesktop.systemd1",
    "org.freedesktop.Flatpak",
    "org.freedesktop.impl.portal.*",
];

/// What the policy says of a message to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passage {
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
    pub(crate) fn host_name(&self, name: &str) -> Passage {
        let refused = self.refused.iter().any(|pattern| pattern.matches(name))
            && !self.allowed.iter().any(|pattern| pattern.matches(name));
        if refused {
            Passage::Refused
        } else {
            Passage::Allowed
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
    pub(crate) fn host_peer<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        interface: Option<&str>,
    ) -> Passage {
        let (mut refused, mut allowed) = (false, false);
        for name in names {
            match self.host_name(name) {
                Passage::Refused => refused = true,
                Passage::Allowed => allowed = true,
            }
        }
        match (refused, allowed) {
            (false, _) => Passage::Allowed,
            (true, false) => Passage::Refused,
            (true, true) => match interface {
                Some(interface) if self.refuses_interface(interface) => Passage::Refused,
                Some(_) => Passage::Allowed,
                None => Passage::Refused,
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
            Passage::Refused
        );
        assert_eq!(
            policy.host_name("org.freedesktop.impl.portal.Secret"),
            Passage::Refused
        );
        assert_eq!(
            policy.host_name("org.freedesktop.impl.portalX"),
            Passage::Allowed
        );
        assert_eq!(
            policy.host_name("org.freedesktop.Notifications"),
            Passage::Allowed
        );
        policy.allow(NamePattern::parse("org.freedesktop.systemd1").unwrap());
        assert_eq!(
            policy.host_name("org.freedesktop.systemd1"),
            Passage::Allowed
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
            Passage::Allowed
        );
        assert_eq!(
            policy.host_peer(names(), Some("org.freedesktop.impl.portal.Secret")),
            Passage::Refused
        );
        let both = ["org.freedesktop.systemd1", "org.example.Other"].into_iter();
        assert_eq!(
            policy.host_peer(both, Some("org.freedesktop.systemd1.Manager")),
            Passage::Refused
        );
        assert_eq!(policy.host_peer(names(), None), Passage::Refused);
        assert_eq!(
            policy.host_peer(["org.freedesktop.systemd1"].into_iter(), Some("a.b")),
            Passage::Refused
        );
        assert_eq!(policy.host_peer([].into_iter(), None), Passage::Allowed);
    }
}
