//! What was decided, as lines of JSON, in a file or in the journal.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use dbus_router::tool::now;
use serde::Serialize;

use crate::policy_file::{DecisionLog, LogTarget};

/// Where the journal takes entries (systemd: Native Journal Protocol).
const JOURNAL: &str = "/run/systemd/journal/socket";

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
    to: Option<(Mutex<Target>, bool)>,
}

#[derive(Debug)]
struct Target {
    to: To,
    /// Said once and not for each line.
    complained: bool,
}

#[derive(Debug)]
enum To {
    File(File),
    Journal(UnixDatagram),
}

impl Decisions {
    /// Opens what `log` names.
    ///
    /// # Errors
    /// It cannot be opened: says what and why.
    pub fn open(vm: &str, log: Option<&DecisionLog>) -> Result<Decisions, String> {
        let Some(log) = log else {
            return Ok(Decisions {
                vm: vm.to_owned(),
                to: None,
            });
        };
        let to = match &log.to {
            LogTarget::File(path) => File::options()
                .create(true)
                .append(true)
                // What programs of the guest do is nobody else's business.
                .mode(0o600)
                .open(path)
                .map(To::File)
                .map_err(|error| {
                    format!("cannot write decisions to {}: {error}", path.display())
                })?,
            LogTarget::Journal => UnixDatagram::unbound()
                .and_then(|socket| {
                    socket.connect(JOURNAL)?;
                    // A journal that is slow must not stop the portals.
                    socket.set_nonblocking(true)?;
                    Ok(To::Journal(socket))
                })
                .map_err(|error| {
                    format!(
                        "cannot write decisions to the journal ({JOURNAL}): {error}; without systemd, give a file \
                         instead"
                    )
                })?,
        };
        Ok(Decisions {
            vm: vm.to_owned(),
            to: Some((
                Mutex::new(Target {
                    to,
                    complained: false,
                }),
                log.refused_only,
            )),
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
        let Some((target, refused_only)) = &self.to else {
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
        let Ok(mut json) = serde_json::to_string(&line) else {
            return;
        };
        let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut target.to {
            To::File(file) => {
                json.push('\n');
                // One write: lines of several brokers in one file do not mix.
                file.write_all(json.as_bytes())
            }
            // JSON has no line ends in it, and so the entry is three lines.
            To::Journal(socket) => socket
                .send(
                    format!("MESSAGE={json}\nPRIORITY=6\nSYSLOG_IDENTIFIER=sidebus-broker\n")
                        .as_bytes(),
                )
                .map(|_| ()),
        };
        if let Err(error) = written
            && error.kind() != ErrorKind::WouldBlock
            && !std::mem::replace(&mut target.complained, true)
        {
            tracing::warn!(%error, "decisions cannot be written; this is said once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
