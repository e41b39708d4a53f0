//! `dbus-router explain FILE NAME…`: which rule decides, and what it decides.

use std::fmt::Write as _;
use std::path::Path;

use dbus_wire::names;

use super::config_file;
use super::program::Failure;
use crate::{Access, MemberRule, Policy, Rules, Side};

/// What `file` says of `names`, for a client whose executable is `process`, and of `member` of them.
pub(super) fn explain(
    file: &Path,
    names: &[String],
    process: Option<&Path>,
    member: Option<&str>,
) -> Result<String, Failure> {
    let config = config_file::read(file)?;
    let member = member.map(Member::parse).transpose()?;
    for name in names {
        if !names::is_well_known_name(name) {
            let what = if names::is_unique_name(name) {
                "is a unique name: it is judged by the names that its owner holds, so ask for one of those"
            } else {
                "is not a bus name: expected something like org.example.Name"
            };
            return Err(Failure(format!("\"{name}\" {what}")));
        }
    }
    let mut text = String::new();
    if let Some(process) = process {
        of_process(&mut text, &config.rules, process);
    }
    let policy = Policy::from_rules(config.rules);
    for name in names {
        of_name(&mut text, &policy, name, member.as_ref());
    }
    Ok(text)
}

struct Member<'t> {
    text: &'t str,
    interface: &'t str,
    member: &'t str,
    path: Option<&'t str>,
}

impl Member<'_> {
    fn parse(text: &str) -> Result<Member<'_>, Failure> {
        let wrong = || {
            Failure(format!(
                "--member \"{text}\": expected INTERFACE.MEMBER or INTERFACE.MEMBER@/PATH"
            ))
        };
        let (method, path) = match text.split_once('@') {
            Some((method, path)) => (method, Some(path)),
            None => (text, None),
        };
        let (interface, member) = method.rsplit_once('.').ok_or_else(wrong)?;
        let right = names::is_interface_name(interface)
            && names::is_member_name(member)
            && path.is_none_or(names::is_object_path);
        if !right {
            return Err(wrong());
        }
        Ok(Member {
            text,
            interface,
            member,
            path,
        })
    }

    fn is_of(&self, rules: &[MemberRule]) -> bool {
        let matches = |rule: &MemberRule| match self.path {
            Some(path) => rule.matches(Some(self.interface), Some(self.member), Some(path)),
            // Some object: whichever the rule names.
            None => MemberRule {
                path: None,
                ..rule.clone()
            }
            .matches(Some(self.interface), Some(self.member), None),
        };
        rules.iter().any(matches)
    }
}

macro_rules! line {
    ($text:expr, $($what:tt)*) => {
        writeln!($text, $($what)*).expect("a String takes everything")
    };
}

fn of_process(text: &mut String, rules: &Rules, process: &Path) {
    let shown = process.display();
    let executable = process.to_string_lossy();
    let mut found = false;
    for pass in &rules.hostpass {
        let matches = pass.everyone
            || pass
                .process
                .as_ref()
                .is_some_and(|it| it.matches(&executable));
        // A rule without `process` may still match, and only a running client could tell.
        let more: Vec<&str> = [
            pass.cgroup.as_ref().map(|_| "cgroup"),
            pass.unit.as_ref().map(|_| "unit"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !matches && (pass.process.is_some() || more.is_empty()) {
            continue;
        }
        found = true;
        let condition = if more.is_empty() {
            String::new()
        } else {
            format!(", if its {} match as well", more.join(" and "))
        };
        line!(text, "{shown}");
        line!(text, "  lives on the host{condition}: {}", pass.id);
    }
    if !found {
        line!(text, "{shown}");
        line!(text, "  lives inside: no [[hostpass]] matches it");
    }
}

fn of_name(text: &mut String, policy: &Policy, name: &str, member: Option<&Member<'_>>) {
    let rules = policy.rules();
    let standing = policy.standing(name);
    line!(text, "{name}");
    let by = match standing.rule {
        Some(rule) => rule.to_string(),
        None if standing.guarded => {
            "it hands over the host, and no rule names it (a pattern that only contains it does not)"
                .to_owned()
        }
        None => format!("no rule mentions it, so unmentioned = \"{}\" holds", word(rules.unmentioned)),
    };
    let access = match standing.access {
        Access::Hidden => "the host's is hidden: it does not exist for the inside",
        Access::See => "the host's can be seen, and not talked to",
        Access::Talk => "the host's can be seen and talked to",
        Access::Own => {
            "the host's can be seen and talked to, and clients that live on the host may own it"
        }
    };
    line!(text, "  {access}: {by}");
    if let Some(rule) = policy.lives_on_host(name) {
        line!(
            text,
            "  lives on the host for everybody; who asks for it inside is refused: {rule}"
        );
    } else if standing.access > Access::Hidden {
        line!(text, "  one of the inside goes before the host's");
    } else if rules.default == Side::Host {
        line!(
            text,
            "  what nobody owns is asked of the host: default = \"host\""
        );
    }
    // A rule that does not name what hands over the host does not hold for it.
    let rules_for_it = || {
        rules
            .names
            .iter()
            .filter(|rule| !standing.guarded && rule.name.matches(name))
    };
    match member {
        None => {
            for rule in rules_for_it() {
                let list = |members: &[MemberRule]| members.len();
                if standing.access < Access::Talk && list(&rule.calls) > 0 {
                    line!(
                        text,
                        "  {} kinds of calls are let through: {}",
                        list(&rule.calls),
                        rule.id
                    );
                }
                if standing.access < Access::Talk && list(&rule.broadcasts) > 0 {
                    line!(
                        text,
                        "  {} kinds of broadcasts arrive: {}",
                        list(&rule.broadcasts),
                        rule.id
                    );
                }
            }
        }
        Some(member) => {
            let talk = standing.access >= Access::Talk;
            let call = rules_for_it().find(|rule| member.is_of(&rule.calls));
            let signal = rules_for_it().find(|rule| member.is_of(&rule.broadcasts));
            let verdict = |rule: Option<&crate::NameRule>| match rule {
                _ if talk => format!("yes: {by}"),
                Some(rule) => format!("yes: {}", rule.id),
                None => "no".to_owned(),
            };
            line!(text, "  {} as a call to it: {}", member.text, verdict(call));
            line!(
                text,
                "  {} as a broadcast of it: {}",
                member.text,
                verdict(signal)
            );
        }
    }
    for export in rules
        .exports
        .iter()
        .filter(|export| export.name.matches(name))
    {
        let outside = match &export.rename {
            None => "is owned on the host as well".to_owned(),
            Some(rename) => match rename.apply(name, &export.name, &rules.container) {
                Some(outside) => format!("is owned on the host as {outside}"),
                None => format!("would not be a bus name as {rename}, and is not exported"),
            },
        };
        let signals = if export.signals {
            "its broadcasts go out"
        } else {
            "its broadcasts stay inside"
        };
        let calls = match (&export.calls, member) {
            (None, _) => "the host may call everything of it".to_owned(),
            (Some(calls), None) => {
                format!("the host may make {} kinds of calls to it", calls.len())
            }
            (Some(calls), Some(member)) => format!(
                "the host {} call {}",
                if member.is_of(calls) {
                    "may"
                } else {
                    "may not"
                },
                member.text
            ),
        };
        line!(
            text,
            "  when owned inside, it {outside}; {signals}; {calls}: {}",
            export.id
        );
    }
}

/// How the file writes it.
pub(super) fn word(access: Access) -> &'static str {
    match access {
        Access::Hidden => "hidden",
        Access::See => "see",
        Access::Talk => "talk",
        Access::Own => "own",
    }
}
