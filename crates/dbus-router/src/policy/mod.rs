//! What may cross the boundary, and which rule says so.
//!
//! Every question about a host name ends here, so that rules can grow without the router knowing. A
//! question is about a *well-known name*; a unique name is judged by the names that its owner holds, see
//! [`Policy::to_peer`].

mod inside;
mod memo;
mod patterns;
mod rules;

use dbus_wire::frame::MessageType;
use dbus_wire::header::Header;
use dbus_wire::names::WellKnownName;

use crate::session::Program;
pub use inside::{InsideRules, Withheld};
use memo::{Judged, Memo};
pub use patterns::{Glob, NamePattern, NamePatternError, PathPattern};

pub use rules::{
    Access, Export, HostPass, InterfaceExport, MemberRule, MemberRuleError, NameRule, Rename,
    RenameError, RuleId, Rules, Side,
};

/// Host names that hand over the host: who may talk to them can start programs outside, or read what
/// others say. They are refused unless named.
const HANDS_OVER_THE_HOST: &[&str] = &[
    "org.freedesktop.systemd1",
    "org.freedesktop.Flatpak",
    "org.freedesktop.impl.portal.*",
    // A container must not answer what its own firewall asks.
    "org.terok.Shield1.*",
];

/// What the policy says of a message to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passage {
    /// It may pass.
    Allowed,
    /// It may not, because its receiver hands over the host; the name is not shown either.
    Refused,
    /// It may not, because no rule allows it; the name can be seen.
    Forbidden,
    /// For the sender there is no such name.
    Hidden,
}

/// A name as the rules see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// How much of it there is.
    pub access: Access,
    /// The rule that decides; none where no rule mentions the name.
    pub rule: Option<RuleId>,
    /// It hands over the host, and no rule names it.
    pub guarded: bool,
}

/// What is to be decided of a message: its type and the fields that rules ask for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'m> {
    /// Signals are judged by `broadcasts`, calls by `calls`.
    pub is_signal: bool,
    /// Its interface.
    pub interface: Option<&'m str>,
    /// Its member.
    pub member: Option<&'m str>,
    /// Its object.
    pub path: Option<&'m str>,
}

impl<'m> Wish<'m> {
    pub(crate) fn of(header: &Header<'m>) -> Wish<'m> {
        Wish {
            is_signal: header.kind == MessageType::Signal,
            interface: header.interface,
            member: header.member,
            path: header.path,
        }
    }
}

/// The rules of one router, and what is refused in spite of them.
///
/// [`Policy::new`] lets everything through but the names that hand over the host, as a container that one trusts
/// needs it; [`Policy::from_rules`] lets through what [`Rules`] allow, as a sandbox does.
///
/// ```
/// use dbus_router::{Access, NamePattern, Policy};
///
/// let mut policy = Policy::new();
/// assert_eq!(policy.standing("org.freedesktop.Notifications").access, Access::Talk);
/// assert!(policy.standing("org.freedesktop.systemd1").guarded);
/// policy.allow(NamePattern::parse("org.freedesktop.systemd1")?);
/// assert!(!policy.standing("org.freedesktop.systemd1").guarded);
/// # Ok::<(), dbus_router::NamePatternError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Policy {
    refused: Vec<NamePattern>,
    allowed: Vec<NamePattern>,
    rules: Rules,
    memo: Memo,
}

impl Default for Policy {
    fn default() -> Self {
        Policy::from_rules(Rules {
            default: Side::Host,
            unmentioned: Access::Talk,
            outward_signals: true,
            inward_calls: true,
            ..Rules::default()
        })
    }
}

impl Policy {
    /// Everything of the host but the names that hand it over, and everything of the inside for the host.
    pub fn new() -> Policy {
        Policy::default()
    }

    /// What `rules` say.
    pub fn from_rules(rules: Rules) -> Policy {
        let refused = HANDS_OVER_THE_HOST
            .iter()
            .filter(|_| rules.guard_host)
            .map(|text| NamePattern::parse(text).expect("the list above holds name patterns"))
            .collect();
        Policy {
            refused,
            allowed: Vec::new(),
            rules,
            memo: Memo::default(),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Lets `pattern` through although it hands over the host.
    pub fn allow(&mut self, pattern: NamePattern) {
        self.allowed.push(pattern);
        self.memo.clear();
    }

    /// How a well-known name of the host stands to clients inside.
    pub fn standing(&self, name: &str) -> Standing {
        self.standing_above(name, self.rules.unmentioned)
    }

    /// The same for clients to which every name is `floor` at least.
    pub fn standing_above(&self, name: &str, floor: Access) -> Standing {
        self.look(name, |judged| judged.standings[floor as usize])
    }

    fn look<R>(&self, name: &str, look: impl FnOnce(&Judged) -> R) -> R {
        self.memo.look(name, || self.judge(name), look)
    }

    /// Asks every rule about a name.
    fn judge(&self, name: &str) -> Judged {
        let guard = self.guard_of(name);
        let rules = &self.rules.names;
        let meant = |rule: &&NameRule| rule.name.matches(name);
        let counts = |rule: &NameRule| guard.is_none_or(|it| rule.name.names(it));
        let about_it: Box<[u32]> = (0..)
            .zip(rules)
            .filter(|(_, rule)| meant(rule) && counts(rule))
            .map(|(place, _)| place)
            .collect();
        let standing = |floor| {
            let mut standing = Standing {
                access: if guard.is_some() {
                    Access::Hidden
                } else {
                    floor
                },
                rule: None,
                guarded: guard.is_some() && about_it.is_empty(),
            };
            for place in &about_it {
                let rule = &rules[*place as usize];
                let access = rule.visible();
                if standing.rule.is_none() || access > standing.access {
                    standing.rule = Some(rule.id);
                }
                standing.access = standing.access.max(access);
            }
            standing
        };
        Judged {
            standings: Access::ALL.map(standing),
            lives_on_host: rules
                .iter()
                .filter(meant)
                .find(|rule| rule.lives_on_host)
                .map(|rule| rule.id),
            rules: about_it,
        }
    }

    /// The refused pattern that `name` is of, if it was not allowed.
    fn guard_of(&self, name: &str) -> Option<&NamePattern> {
        let guard = self.refused.iter().find(|pattern| pattern.matches(name))?;
        (!self.allowed.iter().any(|pattern| pattern.matches(name))).then_some(guard)
    }

    /// Whether a name belongs to the host for everybody.
    pub fn lives_on_host(&self, name: &str) -> Option<RuleId> {
        self.look(name, |judged| judged.lives_on_host)
    }

    /// The names under which an inside name is there on the host: with the place of the rule, and whether it is
    /// taken from who has it there. A name that hands over the host has to be named.
    pub(crate) fn exports_of(&self, name: &str) -> Vec<(WellKnownName, usize, bool)> {
        let mut exports: Vec<(WellKnownName, usize, bool)> = Vec::new();
        for (place, rule) in self.rules.exports.iter().enumerate() {
            if !rule.name.matches(name) {
                continue;
            }
            let outside = match &rule.rename {
                Some(rename) => rename.apply(name, &rule.name, &self.rules.container),
                None => WellKnownName::parse(name).ok(),
            };
            let Some(outside) = outside else {
                tracing::warn!(name, rule = %rule.id, "the name on the host would be none: not exported");
                continue;
            };
            let guard = self.guard_of(&outside);
            if guard.is_none_or(|it| rule.name.names(it))
                && !exports.iter().any(|(it, _, _)| *it == outside)
            {
                exports.push((outside, place, rule.replace));
            }
        }
        exports
    }

    /// Whether any rule asks what a client runs.
    pub(crate) fn asks_for_program(&self) -> bool {
        self.rules.hostpass.iter().any(|rule| !rule.everyone)
    }

    /// Whether a client that runs `program` lives on the host: what every name is to it at least, and the rule.
    pub fn hostpass(&self, program: &Program) -> Option<(Access, RuleId)> {
        let rules = self.rules.hostpass.iter();
        rules
            .filter(|rule| rule.matches(program))
            .map(|rule| (rule.access, rule.id))
            .reduce(|best, it| if it.0 > best.0 { it } else { best })
    }

    /// Whether a well-known name of the host exists for the inside.
    pub(crate) fn host_name(&self, name: &str) -> Passage {
        self.host_name_above(name, self.rules.unmentioned)
    }

    pub(crate) fn host_name_above(&self, name: &str, floor: Access) -> Passage {
        let standing = self.standing_above(name, floor);
        match standing.access {
            _ if standing.guarded => Passage::Refused,
            Access::Hidden => Passage::Hidden,
            _ => Passage::Allowed,
        }
    }

    /// Whether `interface` is one of those that go with a refused name: of that name, or below it.
    fn refuses_interface(&self, interface: &str) -> bool {
        let meant = |pattern: &NamePattern| pattern.covers_interface(interface);
        let named = |refused: &NamePattern| {
            let rules = self.rules.names.iter().map(|rule| &rule.name);
            rules.into_iter().any(|it| it.names(refused) && meant(it))
        };
        self.refused.iter().any(|it| meant(it) && !named(it)) && !self.allowed.iter().any(meant)
    }

    /// Whether a message may pass to (or, a signal, come from) a host connection that holds `names`.
    ///
    /// Who holds only refused names is refused. A connection that holds both kinds is judged by the
    /// interface: it has to be stated, and not to be one of a refused name's. Of the others the most permissive
    /// decides. `floor`: what every name, and a connection without names, is at least.
    pub(crate) fn to_peer<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        wish: &Wish<'_>,
        floor: Access,
    ) -> (Passage, Option<RuleId>) {
        let (mut refused, mut allowed) = (false, false);
        let mut best: Option<Standing> = None;
        let mut by_member = None;
        for name in names {
            let standing = self.standing_above(name, floor);
            if standing.guarded {
                refused = true;
                continue;
            }
            allowed = true;
            if best.is_none_or(|it| standing.access > it.access) {
                best = Some(standing);
            }
            if standing.access < Access::Talk && by_member.is_none() {
                by_member = self.member_rule(name, wish);
            }
        }
        match (refused, allowed) {
            (true, false) => return (Passage::Refused, None),
            (true, true) => match wish.interface {
                Some(interface) if !self.refuses_interface(interface) => {}
                _ => return (Passage::Refused, None),
            },
            (false, _) => {}
        }
        let best = best.unwrap_or(Standing {
            access: floor,
            rule: None,
            guarded: false,
        });
        match best.access {
            Access::Talk | Access::Own => (Passage::Allowed, best.rule),
            _ if by_member.is_some() => (Passage::Allowed, by_member),
            Access::See => (Passage::Forbidden, best.rule),
            Access::Hidden => (Passage::Hidden, best.rule),
        }
    }

    /// The rule that lets this one message through.
    fn member_rule(&self, name: &str, wish: &Wish<'_>) -> Option<RuleId> {
        self.look(name, |judged| {
            let mut rules = judged
                .rules
                .iter()
                .map(|it| &self.rules.names[*it as usize]);
            let rule = rules.find(|rule| {
                rule.members(wish)
                    .iter()
                    .any(|member| member.matches(wish.interface, wish.member, wish.path))
            })?;
            Some(rule.id)
        })
    }
}

impl HostPass {
    fn matches(&self, program: &Program) -> bool {
        if self.everyone {
            return true;
        }
        let cgroup = program.cgroup.as_deref();
        let unit = cgroup.and_then(|path| {
            path.rsplit('/')
                .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
        });
        let wanted = [
            (&self.process, program.executable.as_deref()),
            (&self.cgroup, cgroup),
            (&self.unit, unit),
        ];
        let mut stated = wanted
            .iter()
            .filter_map(|(glob, text)| glob.as_ref().map(|glob| (glob, text)))
            .peekable();
        stated.peek().is_some()
            && stated.all(|(glob, text)| text.is_some_and(|text| glob.matches(text)))
    }
}

impl NameRule {
    /// What it allows at least, with what it says of single members.
    fn visible(&self) -> Access {
        if self.calls.is_empty() && self.broadcasts.is_empty() {
            self.access
        } else {
            self.access.max(Access::See)
        }
    }

    fn members(&self, wish: &Wish<'_>) -> &[MemberRule] {
        if wish.is_signal {
            &self.broadcasts
        } else {
            &self.calls
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, access: Access) -> NameRule {
        NameRule {
            id: RuleId {
                table: "filter",
                index: 0,
                line: None,
            },
            name: NamePattern::parse(name).unwrap(),
            access,
            lives_on_host: false,
            calls: Vec::new(),
            broadcasts: Vec::new(),
        }
    }

    fn call(interface: Option<&'static str>) -> Wish<'static> {
        Wish {
            is_signal: false,
            interface,
            member: Some("M"),
            path: Some("/"),
        }
    }

    fn judge(policy: &Policy, names: &[&str], interface: Option<&'static str>) -> Passage {
        let floor = policy.rules.unmentioned;
        let names = names.iter().copied();
        policy.to_peer(names, &call(interface), floor).0
    }

    #[test]
    fn names_that_hand_over_the_host_are_refused_unless_allowed() {
        let mut policy = Policy::new();
        let refused = |policy: &Policy, name| policy.host_name(name) == Passage::Refused;
        assert!(refused(&policy, "org.freedesktop.systemd1"));
        assert!(refused(&policy, "org.freedesktop.impl.portal.Secret"));
        assert!(!refused(&policy, "org.freedesktop.impl.portalX"));
        assert!(!refused(&policy, "org.freedesktop.Notifications"));
        policy.allow(NamePattern::parse("org.freedesktop.systemd1").unwrap());
        assert!(!refused(&policy, "org.freedesktop.systemd1"));
    }

    #[test]
    fn a_connection_with_both_kinds_of_names_is_judged_by_the_interface() {
        let policy = Policy::new();
        let names = [
            "org.freedesktop.secrets",
            "org.freedesktop.impl.portal.Secret",
        ];
        let allowed = judge(&policy, &names, Some("org.freedesktop.Secret.Service"));
        assert_eq!(allowed, Passage::Allowed);
        let refused = judge(&policy, &names, Some("org.freedesktop.impl.portal.Secret"));
        assert_eq!(refused, Passage::Refused);
        let both = ["org.freedesktop.systemd1", "org.example.Other"];
        let manager = Some("org.freedesktop.systemd1.Manager");
        assert_eq!(judge(&policy, &both, manager), Passage::Refused);
        assert_eq!(judge(&policy, &names, None), Passage::Refused);
        let only = ["org.freedesktop.systemd1"];
        assert_eq!(judge(&policy, &only, Some("a.b")), Passage::Refused);
        assert_eq!(judge(&policy, &[], None), Passage::Allowed);
    }

    #[test]
    fn the_most_permissive_rule_decides() {
        let policy = Policy::from_rules(Rules {
            names: vec![
                named("org.example.*", Access::See),
                named("org.example.Talk", Access::Talk),
            ],
            ..Rules::default()
        });
        assert_eq!(policy.standing("org.example.Talk").access, Access::Talk);
        assert_eq!(policy.standing("org.example.Other").access, Access::See);
        assert_eq!(policy.standing("org.other").access, Access::Hidden);
        assert_eq!(
            judge(&policy, &["org.example.Other"], None),
            Passage::Forbidden
        );
        let both = ["org.example.Other", "org.example.Talk"];
        assert_eq!(judge(&policy, &both, None), Passage::Allowed);
        assert_eq!(judge(&policy, &["org.other"], None), Passage::Hidden);
        assert_eq!(judge(&policy, &[], None), Passage::Hidden);
    }

    #[test]
    fn a_wide_rule_does_not_open_what_hands_over_the_host() {
        let rules = |name| Rules {
            names: vec![named(name, Access::Talk)],
            ..Rules::default()
        };
        let wide = Policy::from_rules(rules("org.freedesktop.*"));
        assert!(wide.standing("org.freedesktop.systemd1").guarded);
        assert_eq!(
            wide.host_name("org.freedesktop.Notifications"),
            Passage::Allowed
        );
        let narrow = Policy::from_rules(rules("org.freedesktop.systemd1"));
        assert_eq!(
            narrow.standing("org.freedesktop.systemd1").access,
            Access::Talk
        );
        assert_eq!(
            judge(
                &narrow,
                &["org.freedesktop.systemd1", "a.b"],
                Some("org.freedesktop.systemd1.X")
            ),
            Passage::Allowed
        );
    }

    #[test]
    fn a_rule_for_a_call_lets_that_call_through_and_shows_the_name() {
        let mut rule = named("org.example.Name", Access::Hidden);
        rule.calls = vec![MemberRule::parse("a.b.M@/").unwrap()];
        let policy = Policy::from_rules(Rules {
            names: vec![rule],
            ..Rules::default()
        });
        let names = ["org.example.Name"];
        assert_eq!(policy.standing("org.example.Name").access, Access::See);
        assert_eq!(judge(&policy, &names, Some("a.b")), Passage::Allowed);
        assert_eq!(judge(&policy, &names, Some("a.c")), Passage::Forbidden);
        let mut signal = call(Some("a.b"));
        signal.is_signal = true;
        let (passage, _) = policy.to_peer(names.into_iter(), &signal, Access::Hidden);
        assert_eq!(passage, Passage::Forbidden);
    }
}
