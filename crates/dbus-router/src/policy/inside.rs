//! What clients may do on the local bus for whom nobody vouches.

use std::fmt;

use dbus_wire::names::WellKnownName;

use super::patterns::NamePattern;

/// What clients may do inside that are not trusted: those that came by the socket, and those that
/// [`Handle::connect_with`](crate::Handle::connect_with) says so of. The default is a bus on which everybody trusts
/// everybody, as a session bus is; [`InsideRules::closed`] is its contrary.
///
/// A trusted client is bound by none of this. What is not allowed is refused with AccessDenied, in words that name
/// the rule (`inside.own`, `inside.peers`…); a signal that may not arrive just does not. The rules hold on the local
/// bus: a remote container bus has a policy of its own.
///
/// A bus for programs that are not believed, with portals that this program answers itself:
///
/// ```
/// use dbus_router::{InsideRules, NamePattern};
/// use dbus_wire::names::WellKnownName;
///
/// let rules = InsideRules {
///     // Any name, but none of the portals'…
///     own: vec![NamePattern::Any],
///     reserved: vec![NamePattern::parse("org.freedesktop.portal.*")?],
///     // …and nobody is served before this one has its owner.
///     awaited: vec![WellKnownName::parse("org.freedesktop.portal.Desktop")?],
///     ..InsideRules::closed()
/// };
/// assert!(rules.may_own("org.example.App").is_ok());
/// assert!(rules.may_own("org.freedesktop.portal.Desktop").is_err());
/// assert!(!rules.peers && !rules.monitor);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InsideRules {
    /// Names that they may own and queue for.
    pub own: Vec<NamePattern>,
    /// Names that they may not own whatever [`InsideRules::own`] says: nobody can stand in for who is to have them,
    /// also while they have no owner.
    pub reserved: Vec<NamePattern>,
    /// Names that have to be owned before such a client is on the bus: its Hello is answered once they all are (or
    /// its time is up, see [`Limits::hello_time`](crate::Limits::hello_time)). They are reserved, too.
    pub awaited: Vec<WellKnownName>,
    /// They may become monitors, and ask for statistics and the state of the router, which tell of others.
    pub monitor: bool,
    /// They may have match rules with `eavesdrop='true'`, which show what is addressed to others.
    pub eavesdrop: bool,
    /// They may call each other, and hear each other's signals. Otherwise that is for them and trusted ones.
    pub peers: bool,
    /// They may start services, by name or by a message, and say in which environment (UpdateActivationEnvironment,
    /// ReloadConfig).
    pub activate: bool,
}

impl Default for InsideRules {
    fn default() -> Self {
        InsideRules {
            own: vec![NamePattern::Any],
            reserved: Vec::new(),
            awaited: Vec::new(),
            monitor: true,
            eavesdrop: true,
            peers: true,
            activate: true,
        }
    }
}

/// Why a name may not be owned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Withheld<'r> {
    /// It is kept for trusted clients by this pattern.
    Reserved(&'r NamePattern),
    /// Clients wait until a trusted one has it.
    Awaited,
    /// No pattern lets it be owned.
    NotOwnable,
}

impl Withheld<'_> {
    /// The rule's name: `inside.reserved`, `inside.awaited` or `inside.own`.
    pub fn rule(&self) -> &'static str {
        match self {
            Withheld::Reserved(_) => "inside.reserved",
            Withheld::Awaited => "inside.awaited",
            Withheld::NotOwnable => "inside.own",
        }
    }
}

impl fmt::Display for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Withheld::Reserved(pattern) => {
                write!(f, "it is kept for others (inside.reserved: {pattern})")
            }
            Withheld::Awaited => f.write_str("it is kept for others (inside.awaited)"),
            Withheld::NotOwnable => f.write_str("no rule allows it (inside.own)"),
        }
    }
}

impl InsideRules {
    /// Nothing: who is not trusted may call those who are, and be called by them.
    pub fn closed() -> InsideRules {
        InsideRules {
            own: Vec::new(),
            reserved: Vec::new(),
            awaited: Vec::new(),
            monitor: false,
            eavesdrop: false,
            peers: false,
            activate: false,
        }
    }

    /// Whether a client that is not trusted may own a well-known name, or queue for it.
    ///
    /// # Errors
    /// Which rule is against it.
    pub fn may_own(&self, name: &str) -> Result<(), Withheld<'_>> {
        if let Some(pattern) = self.reserved.iter().find(|it| it.matches(name)) {
            return Err(Withheld::Reserved(pattern));
        }
        if self.awaited.iter().any(|it| **it == *name) {
            return Err(Withheld::Awaited);
        }
        if self.own.iter().any(|it| it.matches(name)) {
            Ok(())
        } else {
            Err(Withheld::NotOwnable)
        }
    }

    /// Whether anything is refused to anybody.
    pub(crate) fn is_open(&self) -> bool {
        *self == InsideRules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_or_awaited_cannot_be_owned_whatever_else_is_said() {
        let awaited = WellKnownName::parse("org.example.Awaited").unwrap();
        let portals = NamePattern::parse("org.freedesktop.portal.*").unwrap();
        let rules = InsideRules {
            reserved: vec![portals.clone()],
            awaited: vec![awaited],
            ..InsideRules::default()
        };
        assert_eq!(rules.may_own("org.example.Own"), Ok(()));
        assert_eq!(rules.may_own("org.freedesktop.portalX"), Ok(()));
        assert_eq!(
            rules.may_own("org.freedesktop.portal.Desktop"),
            Err(Withheld::Reserved(&portals))
        );
        assert_eq!(rules.may_own("org.example.Awaited"), Err(Withheld::Awaited));
    }

    #[test]
    fn closed_rules_let_no_name_be_owned() {
        let rules = InsideRules::closed();
        assert_eq!(rules.may_own("org.example.Own"), Err(Withheld::NotOwnable));
        assert!(!rules.is_open() && InsideRules::default().is_open());
    }
}
