//! Decisions as lines of JSON, in a file or in the journal.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::config_file::{DecisionLog, LogTarget};

/// Where the journal takes entries (systemd: Native Journal Protocol).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// One decision. The names of the fields are those of the lines.
#[derive(Serialize, Debug)]
pub(super) struct Line<'d> {
    pub time: String,
    pub client: &'d str,
    pub direction: &'static str,
    pub destination: Option<&'d str>,
    /// By which name it was judged, or what a call to the bus itself is about.
    pub name: Option<&'d str>,
    pub interface: Option<&'d str>,
    pub member: Option<&'d str>,
    pub path: Option<&'d str>,
    /// None where no rule mentions the destination.
    pub rule: Option<String>,
    pub verdict: &'static str,
}

/// Writes lines.
#[derive(Debug)]
pub(super) struct Writer {
    log: DecisionLog,
    to: To,
    /// Said once and not for each line.
    complained: bool,
}

#[derive(Debug)]
enum To {
    File(File),
    Journal(UnixDatagram),
}

impl Writer {
    /// Opens what `log` names.
    pub fn open(log: DecisionLog) -> Result<Writer, String> {
        let to = match &log.to {
            LogTarget::File(path) => File::options()
                .create(true)
                .append(true)
                // What programs inside do is nobody else's business.
                .mode(0o600)
                .open(path)
                .map(To::File)
                .map_err(|error| {
                    format!("cannot write decisions to {}: {error}", path.display())
                })?,
            LogTarget::Journal => UnixDatagram::unbound()
                .and_then(|socket| {
                    socket.connect(JOURNAL)?;
                    // A journal that is slow must not stop the router.
                    socket.set_nonblocking(true)?;
                    Ok(To::Journal(socket))
                })
                .map_err(|error| {
                    format!(
                        "cannot write decisions to the journal ({JOURNAL}): {error}; without systemd, give a \
                         file instead"
                    )
                })?,
        };
        Ok(Writer {
            log,
            to,
            complained: false,
        })
    }

    /// Whether decisions that allow are left out.
    pub fn refused_only(&self) -> bool {
        self.log.refused_only
    }

    /// Writes a line, or says that it could not.
    pub fn write(&mut self, line: &Line<'_>) {
        let mut json = match serde_json::to_string(line) {
            Ok(json) => json,
            Err(error) => return self.complain(&error.to_string()),
        };
        let written = match &mut self.to {
            To::File(file) => {
                json.push('\n');
                // One write: lines of several routers in one file do not mix.
                file.write_all(json.as_bytes())
            }
            To::Journal(socket) => socket.send(entry(line, &json).as_bytes()).map(|_| ()),
        };
        if let Err(error) = written
            && error.kind() != ErrorKind::WouldBlock
        {
            self.complain(&error.to_string());
        }
    }

    fn complain(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(problem, "decisions cannot be written; this is said once");
        }
    }
}

/// An entry of the journal: `FIELD=VALUE` lines. No value has a line end, for none is in names, paths or JSON.
fn entry(line: &Line<'_>, json: &str) -> String {
    let mut entry = format!("MESSAGE={json}\nPRIORITY=6\nSYSLOG_IDENTIFIER=dbus-router\n");
    for (field, value) in [
        ("DBUS_CLIENT", Some(line.client)),
        ("DBUS_DIRECTION", Some(line.direction)),
        ("DBUS_DESTINATION", line.destination),
        ("DBUS_NAME", line.name),
        ("DBUS_INTERFACE", line.interface),
        ("DBUS_MEMBER", line.member),
        ("DBUS_RULE", line.rule.as_deref()),
        ("DBUS_VERDICT", Some(line.verdict)),
    ] {
        if let Some(value) = value.filter(|value| !value.contains('\n')) {
            entry.push_str(&format!("{field}={value}\n"));
        }
    }
    entry
}

/// Now, as RFC 3339 writes it, in UTC.
pub fn now() -> String {
    // A clock before 1970 is not set; that is no reason to fail.
    timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn timestamp(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        days + 1,
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_1970.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            time: now(),
            client: ":1.7",
            direction: "to_host",
            destination: Some("org.example.A"),
            name: Some("org.example.A"),
            interface: None,
            member: Some("M"),
            path: Some("/"),
            rule: Some("[[filter]] 1 (line 3)".to_owned()),
            verdict: "refused",
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| timestamp(Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00.000000Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.000000Z");
    }

    #[test]
    fn a_line_is_an_object_and_lines_are_added() {
        let dir = testbed::TestDir::new();
        let path = dir.join("decisions");
        for _ in 0..2 {
            let log = DecisionLog {
                to: LogTarget::File(path.clone()),
                refused_only: false,
            };
            Writer::open(log).unwrap().write(&line());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let object: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(object["rule"], "[[filter]] 1 (line 3)");
        assert_eq!(object["verdict"], "refused");
        assert!(object["interface"].is_null());
    }

    #[test]
    fn an_entry_of_the_journal_has_one_field_on_a_line() {
        let entry = entry(&line(), "{}");
        assert!(entry.starts_with("MESSAGE={}\nPRIORITY=6\n"));
        assert!(entry.contains("DBUS_DESTINATION=org.example.A\n") && entry.ends_with('\n'));
        assert!(!entry.contains("DBUS_INTERFACE"));
    }
}
