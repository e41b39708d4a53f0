//! What was used, as the rules that allow just that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// How many different things are kept: a program inside can invent names without end.
const MOST: usize = 4096;

/// What clients did that needs a rule.
#[derive(Default, Debug)]
pub(super) struct Learned {
    names: BTreeMap<String, Used>,
    count: usize,
}

#[derive(Default, Debug)]
struct Used {
    /// `INTERFACE.MEMBER@PATH`, and without an interface `@PATH`.
    calls: BTreeSet<String>,
    broadcasts: BTreeSet<String>,
    exported_signals: bool,
    exported_calls: BTreeSet<String>,
    exported: bool,
}

/// One thing that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use<'u> {
    /// The name was looked at.
    Seen,
    /// Something was called.
    Called(Member<'u>),
    /// A broadcast of it arrived.
    Heard(Member<'u>),
    /// A client inside that owns it was called by the host.
    WasCalled(Member<'u>),
    /// A client inside that owns it sent a broadcast.
    WasHeard,
}

/// A call or signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Member<'u> {
    pub interface: Option<&'u str>,
    pub member: Option<&'u str>,
    pub path: Option<&'u str>,
}

impl Member<'_> {
    /// As a rule. Objects are left out: their paths are often made up anew each time.
    fn rule(&self) -> String {
        match (self.interface, self.member) {
            (Some(interface), Some(member)) => format!("{interface}.{member}"),
            _ => match self.path {
                Some(path) => format!("@{path}"),
                None => "*".to_owned(),
            },
        }
    }
}

impl Learned {
    /// Notes what was done with `name`, a well-known one.
    pub fn note(&mut self, name: &str, done: Use<'_>) {
        if self.count >= MOST {
            return;
        }
        if !self.names.contains_key(name) {
            self.count += 1;
        }
        let used = self.names.entry(name.to_owned()).or_default();
        let new = match done {
            Use::Seen => false,
            Use::Called(member) => used.calls.insert(member.rule()),
            Use::Heard(member) => used.broadcasts.insert(member.rule()),
            Use::WasCalled(member) => {
                used.exported = true;
                used.exported_calls.insert(member.rule())
            }
            Use::WasHeard => {
                used.exported = true;
                used.exported_signals = true;
                false
            }
        };
        self.count += usize::from(new);
    }

    /// The rules, as a file.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# What was used while `dbus-router learn` watched. Look at each rule before you keep it:\n\
             # it says what a program did, and not what it should be allowed to do.\n",
        );
        if self.count >= MOST {
            text.push_str("# There was more; this is what came first.\n");
        }
        for (name, used) in &self.names {
            if used.exported {
                export(&mut text, name, used);
            }
            if used.exported && used.calls.is_empty() && used.broadcasts.is_empty() {
                continue;
            }
            text.push_str("\n[[filter]]\n");
            line(&mut text, format_args!("name = {name:?}"));
            if used.calls.is_empty() && used.broadcasts.is_empty() {
                text.push_str("access = \"see\"\n");
            }
            list(&mut text, "calls", &used.calls);
            list(&mut text, "broadcasts", &used.broadcasts);
        }
        text
    }
}

fn export(text: &mut String, name: &str, used: &Used) {
    text.push_str("\n[[export]]\n");
    line(text, format_args!("name = {name:?}"));
    if used.exported_signals {
        text.push_str("signals = true\n");
    }
    if used.exported_calls.is_empty() {
        text.push_str("calls = []\n");
    }
    list(text, "calls", &used.exported_calls);
}

fn list(text: &mut String, key: &str, members: &BTreeSet<String>) {
    // What is in them are names and paths: nothing that TOML and Rust would quote differently.
    let members: Vec<&String> = members.iter().collect();
    match &members[..] {
        [] => {}
        [one] => line(text, format_args!("{key} = [{one:?}]")),
        many => {
            line(text, format_args!("{key} = ["));
            for member in many {
                line(text, format_args!("    {member:?},"));
            }
            text.push_str("]\n");
        }
    }
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a String takes everything");
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;

    fn member(member: &'static str) -> Member<'static> {
        Member {
            interface: Some("a.b.C"),
            member: Some(member),
            path: Some("/p"),
        }
    }

    #[test]
    fn what_is_learned_is_a_file_that_can_be_read() {
        let mut learned = Learned::default();
        learned.note("org.example.A", Use::Called(member("One")));
        learned.note("org.example.A", Use::Called(member("Two")));
        learned.note("org.example.A", Use::Heard(member("Changed")));
        learned.note("org.example.B", Use::Seen);
        learned.note("org.example.Own", Use::WasHeard);
        let text = learned.to_toml();
        let config = super::super::config_file::parse("learned", &text)
            .unwrap_or_else(|report| panic!("{report}\n{text}"));
        let rules = config.rules;
        assert_eq!(rules.names.len(), 2, "{text}");
        assert_eq!(rules.names[0].calls.len(), 2);
        assert_eq!(rules.names[0].broadcasts.len(), 1);
        assert_eq!(rules.names[1].access, Access::See);
        assert!(rules.exports[0].signals);
        assert_eq!(rules.exports[0].calls, Some(Vec::new()));
    }

    #[test]
    fn a_program_that_invents_names_fills_no_memory() {
        let mut learned = Learned::default();
        for number in 0..2 * MOST {
            learned.note(&format!("org.example.N{number}"), Use::Seen);
        }
        assert_eq!(learned.names.len(), MOST);
        assert!(learned.to_toml().contains("There was more"));
    }
}
