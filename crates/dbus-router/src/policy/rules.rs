//! What a person writes down of what may cross the boundary. Data only: the judging is [`Policy`](crate::Policy)'s.
//!
//! Principles:
//! - Rules only allow. The most permissive that matches decides; none that matches is [`Rules::unmentioned`].
//! - Names that hand over the host stay refused unless a rule names them ([`NamePattern::names`]).

use std::fmt;

use dbus_wire::names::{self, WellKnownName};

use super::patterns::{Glob, NamePattern, PathPattern};

/// One of the two sides of a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The bus of the clients.
    Inside,
    /// The bus outside.
    Host,
}

/// How much of a name there is for the other side. Each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// It does not exist.
    Hidden,
    /// It is listed and its changes are told; nothing may be said to it, but for what a rule's `calls` allow.
    See,
    /// It may be called and sends its signals.
    Talk,
    /// It may be owned, too (by clients that live on the host).
    Own,
}

impl Access {
    /// From the least to the most.
    pub(super) const ALL: [Access; 4] = [Access::Hidden, Access::See, Access::Talk, Access::Own];
}

/// Where a rule stands, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RuleId {
    /// The table: `host_routes`, `filter`, `--talk`…, or a single rule: `inside.peers`.
    pub table: &'static str,
    /// Its place in the table, from 0.
    pub index: usize,
    /// Its line in the file, from 1.
    pub line: Option<usize>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A rule of which there is one: `inside.peers`.
        if self.table.contains('.') {
            return f.write_str(self.table);
        }
        if self.table.starts_with('-') {
            return write!(f, "{} {}", self.table, self.index + 1);
        }
        write!(f, "[[{}]] {}", self.table, self.index + 1)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// The rules of one router. The default is none: the inside sees nothing of the host.
///
/// Notifications of the host may be shown, and one method of the window manager called:
///
/// ```
/// use dbus_router::{Access, MemberRule, NamePattern, NameRule, Policy, RuleId, Rules};
///
/// let rule = |index, name: &str, access, calls: &[&str]| -> Result<NameRule, Box<dyn std::error::Error>> {
///     Ok(NameRule {
///         // What reports and decisions call the rule.
///         id: RuleId { table: "filter", index, line: None },
///         name: NamePattern::parse(name)?,
///         access,
///         lives_on_host: false,
///         calls: calls.iter().map(|text| MemberRule::parse(text)).collect::<Result<_, _>>()?,
///         broadcasts: Vec::new(),
///     })
/// };
/// let policy = Policy::from_rules(Rules {
///     names: vec![
///         rule(0, "org.freedesktop.Notifications", Access::Talk, &[])?,
///         rule(1, "org.kde.KWin", Access::Hidden, &["org.kde.KWin.*@/KWin"])?,
///     ],
///     ..Rules::default()
/// });
/// assert_eq!(policy.standing("org.freedesktop.Notifications").access, Access::Talk);
/// // Who may call something of a name sees the name.
/// assert_eq!(policy.standing("org.kde.KWin").access, Access::See);
/// assert_eq!(policy.standing("org.freedesktop.secrets").access, Access::Hidden);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// Where names live that nobody owns and no rule mentions.
    pub default: Side,
    /// What a name of the host is to the inside when no rule mentions it: the least that every name is.
    pub unmentioned: Access,
    /// What `{container}` stands for in [`Rename`].
    pub container: String,
    /// The application as which clients are registered with the host's portal.
    pub app_id: Option<String>,
    /// Host routes and filters, in the order in which they were written.
    pub names: Vec<NameRule>,
    /// Clients that live on the host.
    pub hostpass: Vec<HostPass>,
    /// Names of the inside that are there on the host, too.
    pub exports: Vec<Export>,
    /// Interfaces without a name of their own that cross.
    pub interfaces: Vec<InterfaceExport>,
    /// BecomeMonitor may be passed on to the host, for clients that live there.
    pub host_monitor: bool,
    /// UpdateActivationEnvironment may be passed on to the host, for clients that live there.
    pub host_environment: bool,
    /// What clients broadcast goes to the host without a rule of `exports` or `interfaces`.
    pub outward_signals: bool,
    /// The host may call every client, whatever `exports` and `interfaces` say.
    pub inward_calls: bool,
    /// What a connection of the host that has spoken to a client is to it at least. [`Access::See`] is
    /// xdg-dbus-proxy's: it may be watched, and not be called.
    pub spoken: Access,
    /// That connections of the host come and go is told, whatever names they hold (xdg-dbus-proxy's `--sloppy-names`).
    pub unique_name_changes: bool,
    /// Names that hand over the host (systemd1, Flatpak, impl.portal) are refused unless a rule names them.
    /// Off only for `dbus-router proxy`, where `--talk=org.freedesktop.*` means what it says.
    pub guard_host: bool,
}

impl Default for Rules {
    /// No rules: the inside sees nothing of the host.
    fn default() -> Self {
        Rules {
            default: Side::Inside,
            unmentioned: Access::Hidden,
            container: "sandbox".to_owned(),
            app_id: None,
            names: Vec::new(),
            hostpass: Vec::new(),
            exports: Vec::new(),
            interfaces: Vec::new(),
            host_monitor: false,
            host_environment: false,
            outward_signals: false,
            inward_calls: false,
            spoken: Access::Talk,
            unique_name_changes: false,
            guard_host: true,
        }
    }
}

/// What names of the host are to the inside.
#[derive(Clone, PartialEq, Debug)]
pub struct NameRule {
    /// Where it stands.
    pub id: RuleId,
    /// The names.
    pub name: NamePattern,
    /// How much of them there is.
    pub access: Access,
    /// A host route: the names belong to the host for everybody, and may not be taken inside.
    pub lives_on_host: bool,
    /// Calls that are allowed though `access` is below [`Access::Talk`]. The names can be seen.
    pub calls: Vec<MemberRule>,
    /// Signals that arrive though `access` is below [`Access::Talk`]. The names can be seen.
    pub broadcasts: Vec<MemberRule>,
}

/// A call or signal, or many.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MemberRule {
    /// The interface; any if none.
    pub interface: Option<NamePattern>,
    /// The member; any if none.
    pub member: Option<Box<str>>,
    /// The object; any if none.
    pub path: Option<PathPattern>,
}

/// A text that says no call or signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not of the form [METHOD][@PATH]: expected something like org.example.Interface.Member, \
     org.example.Interface.*, * or any of these with @/a/path or @/a/path/*"
)]
pub struct MemberRuleError {
    text: String,
}

impl MemberRule {
    /// Everything.
    pub const ANY: MemberRule = MemberRule {
        interface: None,
        member: None,
        path: None,
    };

    /// Reads `[METHOD][@PATH]`. METHOD is `*`, `INTERFACE.*` or `INTERFACE.MEMBER`; PATH may end in `/*`.
    pub fn parse(text: &str) -> Result<MemberRule, MemberRuleError> {
        let wrong = || MemberRuleError {
            text: text.to_owned(),
        };
        let (method, path) = match text.split_once('@') {
            Some((method, path)) => (method, Some(path)),
            None => (text, None),
        };
        let path = match path {
            None => None,
            Some(path) => Some(PathPattern::parse(path).ok_or_else(wrong)?),
        };
        if method.is_empty() || method == "*" {
            return Ok(MemberRule {
                path,
                ..MemberRule::ANY
            });
        }
        let (interface, member) = method.rsplit_once('.').ok_or_else(wrong)?;
        if !names::is_interface_name(interface) {
            return Err(wrong());
        }
        let member = match member {
            "*" => None,
            member if names::is_member_name(member) => Some(member.into()),
            _ => return Err(wrong()),
        };
        Ok(MemberRule {
            interface: Some(NamePattern::Exact(interface.into())),
            member,
            path,
        })
    }

    /// Whether a message with these fields is meant. What the rule names has to be stated.
    pub fn matches(
        &self,
        interface: Option<&str>,
        member: Option<&str>,
        path: Option<&str>,
    ) -> bool {
        self.interface
            .as_ref()
            .is_none_or(|it| interface.is_some_and(|interface| it.matches(interface)))
            && self
                .member
                .as_deref()
                .is_none_or(|it| member.is_some_and(|member| member == it))
            && self
                .path
                .as_ref()
                .is_none_or(|it| path.is_some_and(|path| it.matches(path)))
    }
}

/// Clients that live on the host. All that is stated has to match; nothing stated matches nobody.
#[derive(Clone, PartialEq, Debug)]
pub struct HostPass {
    /// Where it stands.
    pub id: RuleId,
    /// The program's executable file.
    pub process: Option<Glob>,
    /// Its control group, as `/proc/PID/cgroup` has it.
    pub cgroup: Option<Glob>,
    /// Its systemd unit (the last part of the control group that is one).
    pub unit: Option<Glob>,
    /// Every client.
    pub everyone: bool,
    /// What every name of the host is to them at least. [`Access::Own`]: they may do there what any program may,
    /// but for what hands over the host.
    pub access: Access,
}

/// A name of the inside that is there on the host, too.
#[derive(Clone, PartialEq, Debug)]
pub struct Export {
    /// Where it stands.
    pub id: RuleId,
    /// The names inside.
    pub name: NamePattern,
    /// Their names on the host, where they differ.
    pub rename: Option<Rename>,
    /// What its owner broadcasts goes to the host, too.
    pub signals: bool,
    /// The name is taken from who owns it on the host (REPLACE_EXISTING).
    pub replace: bool,
    /// What the outside may call; everything if none.
    pub calls: Option<Vec<MemberRule>>,
}

/// An interface without a name of its own (a menu, a tray icon's) that crosses.
#[derive(Clone, PartialEq, Debug)]
pub struct InterfaceExport {
    /// Where it stands.
    pub id: RuleId,
    /// The interfaces.
    pub interface: NamePattern,
    /// Signals of clients go to the host, too.
    pub signals: bool,
    /// The outside may call it on any client.
    pub calls: bool,
}

/// How a name is called on the host: a text with `{name}`, `{rest}` (what the asterisk of the rule's name stands
/// for) and `{container}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename(Box<str>);

/// A text that cannot be the name of an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenameError {
    /// A placeholder that there is not.
    #[error("\"{{{0}}}\" is unknown: there are {{name}}, {{rest}} and {{container}}")]
    Unknown(String),
    /// A brace without its other.
    #[error("a \"{{\" is not closed")]
    Open,
    /// With everything put in it is no bus name.
    #[error("\"{0}\" would not be a bus name")]
    NotAName(String),
}

impl Rename {
    /// Reads a text like `org.mpris.MediaPlayer2.{rest}.{container}`.
    pub fn parse(text: &str) -> Result<Rename, RenameError> {
        let filled = fill(text, "org.example.Name", "Name", "sandbox")?;
        if !names::is_well_known_name(&filled) {
            return Err(RenameError::NotAName(filled));
        }
        Ok(Rename(text.into()))
    }

    /// The name on the host of `name`, which `pattern` matches. None where that would be no bus name (it could
    /// be too long).
    pub fn apply(
        &self,
        name: &str,
        pattern: &NamePattern,
        container: &str,
    ) -> Option<WellKnownName> {
        let filled = fill(&self.0, name, pattern.rest(name), &element(container)).ok()?;
        WellKnownName::parse(&filled).ok()
    }
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn fill(text: &str, name: &str, rest: &str, container: &str) -> Result<String, RenameError> {
    let mut filled = String::new();
    let mut left = text;
    while let Some((before, after)) = left.split_once('{') {
        let (placeholder, after) = after.split_once('}').ok_or(RenameError::Open)?;
        filled.push_str(before);
        filled.push_str(match placeholder {
            "name" => name,
            "rest" => rest,
            "container" => container,
            other => return Err(RenameError::Unknown(other.to_owned())),
        });
        left = after;
    }
    filled.push_str(left);
    Ok(filled)
}

/// `text` as a part of a bus name: other characters become underscores, and it does not begin with a digit.
fn element(text: &str) -> String {
    let mut element: String = text
        .chars()
        .map(|it| match it {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => it,
            _ => '_',
        })
        .collect();
    if element.is_empty() || element.starts_with(|it: char| it.is_ascii_digit()) {
        element.insert(0, '_');
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_written_as_for_xdg_dbus_proxy() {
        let all = MemberRule::parse("*").unwrap();
        assert!(all.matches(None, Some("M"), Some("/")));
        let one = MemberRule::parse("a.b.Notify@/a/*").unwrap();
        assert!(one.matches(Some("a.b"), Some("Notify"), Some("/a/x")));
        assert!(!one.matches(Some("a.b"), Some("Other"), Some("/a/x")));
        assert!(!one.matches(None, Some("Notify"), Some("/a/x")));
        assert!(!one.matches(Some("a.b"), Some("Notify"), Some("/b")));
        let interface = MemberRule::parse("a.b.*").unwrap();
        assert!(interface.matches(Some("a.b"), Some("X"), None));
        assert!(!interface.matches(Some("a.b.c"), Some("X"), None));
        let path = MemberRule::parse("@/p").unwrap();
        assert!(path.matches(None, None, Some("/p")));
        for wrong in ["Notify", "a.b.", "a.b.c@x", "a..b.M"] {
            assert!(MemberRule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_renamed_export_is_a_bus_name_or_none() {
        let rename = Rename::parse("org.mpris.MediaPlayer2.{rest}.{container}").unwrap();
        let players = NamePattern::parse("org.mpris.MediaPlayer2.*").unwrap();
        let name = rename.apply("org.mpris.MediaPlayer2.vlc", &players, "7 of nine");
        assert_eq!(
            name.as_deref(),
            Some("org.mpris.MediaPlayer2.vlc._7_of_nine")
        );
        assert!(matches!(
            Rename::parse("a.{x}"),
            Err(RenameError::Unknown(_))
        ));
        assert_eq!(Rename::parse("a.{rest"), Err(RenameError::Open));
        assert!(matches!(
            Rename::parse("{container}"),
            Err(RenameError::NotAName(_))
        ));
    }

    #[test]
    fn a_rule_says_where_it_stands() {
        let id = RuleId {
            table: "host_routes",
            index: 1,
            line: Some(14),
        };
        assert_eq!(id.to_string(), "[[host_routes]] 2 (line 14)");
    }
}
