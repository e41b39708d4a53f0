//! What was decided, as lines of JSON, in a file or in the journal.

use std::sync::{Mutex, PoisonError};

use dbus_router::tool::decision_log::{DecisionLog, Sink};
use dbus_router::tool::now;
use serde::Serialize;

/// What became of it.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes to the host, or is answered.
    Allowed,
    /// An error was answered.
    Refused,
    /// It goes to the host without this.
    LeftOut,
}

/// One decision. The names of the fields are those of the lines.
#[derive(Serialize, Debug)]
pub struct Decision<'d> {
    /// The client's unique name on the virtual machine's bus.
    pub client: &'d str,
    /// Its application, as it says.
    pub app_id: Option<&'d str>,
    /// What was called.
    pub interface: &'d str,
    /// Its method.
    pub member: &'d str,
    /// An option or result, where one was left out.
    pub key: Option<&'d str>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, if it was not allowed.
    pub why: Option<&'d str>,
}

#[derive(Serialize)]
struct Line<'d> {
    time: String,
    vm: &'d str,
    #[serde(flatten)]
    decision: &'d Decision<'d>,
}

/// Writes decisions, if the policy says where.
#[derive(Debug)]
pub struct Decisions {
    vm: String,
    /// None: nowhere. And whether those that allow are left out.
    to: Option<(Mutex<Sink>, bool)>,
}

impl Decisions {
    /// Opens what `log` names.
    ///
    /// # Errors
    /// It cannot be opened: says what and why.
    pub fn open(vm: &str, log: Option<&DecisionLog>) -> Result<Decisions, String> {
        let to = match log {
            Some(log) => Some((Mutex::new(Sink::open(&log.to)?), log.refused_only)),
            None => None,
        };
        Ok(Decisions {
            vm: vm.to_owned(),
            to,
        })
    }

    /// Writes one.
    pub fn note(&self, decision: &Decision<'_>) {
        tracing::debug!(
            client = decision.client,
            interface = decision.interface,
            member = decision.member,
            key = decision.key,
            verdict = ?decision.verdict,
            why = decision.why,
            "portal decision"
        );
        let Some((sink, refused_only)) = &self.to else {
            return;
        };
        if *refused_only && decision.verdict == Verdict::Allowed {
            return;
        }
        let line = Line {
            time: now(),
            vm: &self.vm,
            decision,
        };
        // Strings and nothing else: it can always be written.
        let Ok(json) = serde_json::to_string(&line) else {
            return;
        };
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        // JSON has no line ends in it, and so the entry is three lines.
        sink.write(json, |json| {
            format!("MESSAGE={json}\nPRIORITY=6\nSYSLOG_IDENTIFIER=sidebus-broker\n")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbus_router::tool::decision_log::LogTarget;

    fn decision(verdict: Verdict) -> Decision<'static> {
        Decision {
            client: ":1.7",
            app_id: None,
            interface: "org.freedesktop.portal.OpenURI",
            member: "OpenURI",
            key: None,
            verdict,
            why: Some("the scheme \"ftp\"\nis not on the list"),
        }
    }

    #[test]
    fn a_decision_is_a_line_of_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions");
        let log = DecisionLog {
            to: LogTarget::File(path.clone()),
            refused_only: true,
        };
        let decisions = Decisions::open("work", Some(&log)).unwrap();
        decisions.note(&decision(Verdict::Refused));
        decisions.note(&decision(Verdict::Allowed));
        decisions.note(&decision(Verdict::LeftOut));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["vm"], "work");
        assert_eq!(lines[0]["verdict"], "refused");
        assert_eq!(lines[0]["member"], "OpenURI");
        assert_eq!(lines[1]["verdict"], "left_out");
    }
}
