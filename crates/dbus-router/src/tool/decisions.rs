//! Decisions as lines of JSON, in a file or in the journal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::decision_log::{DecisionLog, Sink};

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
    sink: Sink,
    refused_only: bool,
}

impl Writer {
    /// Opens what `log` names.
    pub fn open(log: &DecisionLog) -> Result<Writer, String> {
        Ok(Writer {
            sink: Sink::open(&log.to)?,
            refused_only: log.refused_only,
        })
    }

    /// Whether decisions that allow are left out.
    pub fn refused_only(&self) -> bool {
        self.refused_only
    }

    /// Writes a line, or says that it could not.
    pub fn write(&mut self, line: &Line<'_>) {
        // Strings and nothing else: it can always be written.
        if let Ok(json) = serde_json::to_string(line) {
            self.sink.write(json, |json| entry(line, json));
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
    use crate::tool::decision_log::LogTarget;

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
            Writer::open(&log).unwrap().write(&line());
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
