//! The JSON-lines session: compact objects, one a line, their keys in a fixed order.
//!
//! ```text
//! out {"type":"pending","id":1,"dest":"203.0.113.1","port":443,"proto":6,"domain":""}
//! in  {"type":"verdict","id":1,"action":"accept"}
//! out {"type":"verdict_applied","id":1,"dest":"203.0.113.1","action":"accept","ok":true}
//! ```
//!
//! A verdict may have two more keys, which older readers do not look at: `seconds`, and `scope` (`port`,
//! `address`, `domain`). `{"type":"allow_all","seconds":300}` is ours too, and so is the answer to it.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{Action, Scope, Verdict};
use crate::packet::Destination;
use crate::pending::Request;

/// The longest line that is read; what is longer is skipped.
pub const LINE_MAX: usize = 64 * 1024;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Out<'a> {
    Pending {
        id: u64,
        dest: String,
        port: u16,
        proto: u8,
        domain: &'a str,
    },
    VerdictApplied {
        id: u64,
        dest: String,
        action: &'a str,
        ok: bool,
    },
    EventsLost {
        count: u32,
    },
    AllowAllApplied {
        ok: bool,
    },
    Ready,
}

fn write(line: &Out<'_>) -> String {
    // Strings, numbers and booleans always make JSON.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

/// A `pending` line.
pub fn pending(request: &Request) -> String {
    write(&Out::Pending {
        id: request.id,
        dest: request.dest.address.to_string(),
        port: request.dest.port,
        proto: request.dest.proto,
        domain: &request.domain,
    })
}

/// A `verdict_applied` line.
pub fn verdict_applied(request: &Request, action: Action, ok: bool) -> String {
    write(&Out::VerdictApplied {
        id: request.id,
        dest: request.dest.address.to_string(),
        action: action.as_str(),
        ok,
    })
}

/// An `events_lost` line (ours; not sent to who did not ask for more than the original has).
pub fn events_lost(count: u32) -> String {
    write(&Out::EventsLost { count })
}

/// An `allow_all_applied` line (ours).
pub fn allow_all_applied(ok: bool) -> String {
    write(&Out::AllowAllApplied { ok })
}

/// A `ready` line (ours): the log is bound.
pub fn ready() -> String {
    write(&Out::Ready)
}

/// What comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A verdict about a question.
    Verdict(u64, Verdict),
    /// Let everything through, or end that.
    AllowAll(Duration),
}

/// Reads a line that comes in.
///
/// # Errors
/// What is wrong with it, for a warning.
pub fn input(line: &[u8]) -> Result<Input, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| format!("bad JSON: {e}"))?;
    let object = value.as_object().ok_or("not an object")?;
    let seconds = match object.get("seconds") {
        None => None,
        Some(v) => Some(
            v.as_u64()
                .filter(|s| u32::try_from(*s).is_ok())
                .ok_or("bad seconds")?,
        ),
    };
    match object.get("type").and_then(Value::as_str) {
        Some("verdict") => {
            let id = object
                .get("id")
                .filter(|v| v.is_u64() || v.is_i64())
                .ok_or("bad id")?;
            let action = object
                .get("action")
                .and_then(Value::as_str)
                .and_then(Action::parse)
                .ok_or("bad action")?;
            let scope = match object.get("scope") {
                None => Scope::Port,
                Some(v) => v.as_str().and_then(Scope::parse).ok_or("bad scope")?,
            };
            let id = id.as_u64().ok_or("unknown id")?;
            Ok(Input::Verdict(
                id,
                Verdict {
                    action,
                    scope,
                    duration: seconds.filter(|s| *s > 0).map(Duration::from_secs),
                },
            ))
        }
        Some("allow_all") => Ok(Input::AllowAll(Duration::from_secs(
            seconds.ok_or("bad seconds")?,
        ))),
        _ => Err("unknown type".into()),
    }
}

/// A verdict, as it is written to a session. `extended` says that the session knows our keys.
pub fn verdict(id: u64, verdict: Verdict, extended: bool) -> Option<String> {
    let action = verdict.action.as_str();
    let mut line = format!("{{\"type\":\"verdict\",\"id\":{id},\"action\":\"{action}\"");
    if verdict != Verdict::permanent(verdict.action) {
        if !extended {
            return None;
        }
        if let Some(time) = verdict.duration {
            line.push_str(&format!(",\"seconds\":{}", time.as_secs().max(1)));
        }
        line.push_str(&format!(",\"scope\":\"{}\"", verdict.scope.as_str()));
    }
    line.push_str("}\n");
    Some(line)
}

/// `allow_all`, as it is written to a session that knows it.
pub fn allow_all(duration: Duration) -> String {
    format!(
        "{{\"type\":\"allow_all\",\"seconds\":{}}}\n",
        duration.as_secs()
    )
}

/// What a session says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The session has begun.
    Ready,
    /// A connection was blocked.
    Pending(Request),
    /// A verdict was tried.
    Applied(u64, Action, bool),
    /// Events were lost.
    Lost(u32),
    /// `allow_all` was tried.
    AllowAll(bool),
}

/// Reads a line of a session. It comes from inside the container's network namespace, and is believed in
/// nothing: an address has to be one, and a name becomes plain text.
pub fn output(line: &[u8]) -> Option<Output> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let number = |key: &str| value.get(key).and_then(Value::as_u64);
    Some(match text("type")? {
        "pending" => Output::Pending(Request {
            id: number("id")?,
            dest: Destination {
                address: text("dest")?.parse().ok()?,
                proto: number("proto")?.try_into().ok()?,
                port: number("port")?.try_into().ok()?,
            },
            domain: crate::text::plain(text("domain").unwrap_or_default()),
        }),
        "verdict_applied" => Output::Applied(
            number("id")?,
            Action::parse(text("action")?)?,
            value.get("ok")?.as_bool()?,
        ),
        "ready" => Output::Ready,
        "events_lost" => Output::Lost(number("count")?.try_into().ok()?),
        "allow_all_applied" => Output::AllowAll(value.get("ok")?.as_bool()?),
        _ => return None,
    })
}

/// Splits what is read into lines, and skips lines that are too long, without keeping them.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    skipping: bool,
}

impl Lines {
    /// Adds what was read; gives each whole line, or `None` for one that was too long.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.grow(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            lines.push((!std::mem::take(&mut self.skipping)).then_some(line));
        }
        self.grow(bytes);
        lines
    }

    fn grow(&mut self, bytes: &[u8]) {
        if self.skipping || self.line.len() + bytes.len() > LINE_MAX {
            self.skipping = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            id: 1,
            dest: Destination {
                address: "203.0.113.1".parse().unwrap(),
                proto: 6,
                port: 443,
            },
            domain: String::new(),
        }
    }

    #[test]
    fn lines_are_byte_for_byte_those_of_the_protocol() {
        assert_eq!(
            pending(&request()),
            "{\"type\":\"pending\",\"id\":1,\"dest\":\"203.0.113.1\",\"port\":443,\"proto\":6,\"domain\":\"\"}\n"
        );
        assert_eq!(
            verdict_applied(&request(), Action::Accept, true),
            "{\"type\":\"verdict_applied\",\"id\":1,\"dest\":\"203.0.113.1\",\"action\":\"accept\",\"ok\":true}\n"
        );
        assert_eq!(
            verdict(1, Verdict::permanent(Action::Deny), false).unwrap(),
            "{\"type\":\"verdict\",\"id\":1,\"action\":\"deny\"}\n"
        );
    }

    #[test]
    fn malformed_input_is_named() {
        for (line, why) in [
            ("{", "bad JSON"),
            ("[1]", "not an object"),
            ("{\"type\":\"x\"}", "unknown type"),
            (
                "{\"type\":\"verdict\",\"id\":true,\"action\":\"accept\"}",
                "bad id",
            ),
            (
                "{\"type\":\"verdict\",\"id\":1.0,\"action\":\"accept\"}",
                "bad id",
            ),
            (
                "{\"type\":\"verdict\",\"id\":\"1\",\"action\":\"accept\"}",
                "bad id",
            ),
            (
                "{\"type\":\"verdict\",\"id\":-1,\"action\":\"accept\"}",
                "unknown id",
            ),
            (
                "{\"type\":\"verdict\",\"id\":1,\"action\":\"ACCEPT\"}",
                "bad action",
            ),
        ] {
            let error = input(line.as_bytes()).unwrap_err();
            assert!(error.starts_with(why), "{line}: {error}");
        }
    }

    #[test]
    fn a_timed_verdict_is_never_told_to_who_would_make_it_permanent() {
        let timed = Verdict {
            duration: Some(Duration::from_secs(300)),
            ..Verdict::permanent(Action::Accept)
        };
        assert_eq!(verdict(1, timed, false), None);
        let line = verdict(1, timed, true).unwrap();
        assert_eq!(input(line.trim().as_bytes()), Ok(Input::Verdict(1, timed)));
    }

    #[test]
    fn what_a_session_says_is_read_back_and_rubbish_is_not() {
        assert_eq!(
            output(pending(&request()).trim().as_bytes()),
            Some(Output::Pending(request()))
        );
        assert_eq!(
            output(
                verdict_applied(&request(), Action::Deny, false)
                    .trim()
                    .as_bytes()
            ),
            Some(Output::Applied(1, Action::Deny, false))
        );
        for bad in [
            "",
            "{}",
            "{\"type\":\"pending\",\"id\":1,\"dest\":\"<b>\",\"port\":443,\"proto\":6,\"domain\":\"\"}",
            "{\"type\":\"pending\",\"id\":1,\"dest\":\"1.2.3.4\",\"port\":70000,\"proto\":6,\"domain\":\"\"}",
        ] {
            assert_eq!(output(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn lines_come_whole_however_they_are_cut_and_long_ones_not_at_all() {
        let text = b"one\ntwo\n\nthree";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut all = lines.push(&text[..cut]);
            all.extend(lines.push(&text[cut..]));
            assert_eq!(
                all,
                [
                    Some(b"one".to_vec()),
                    Some(b"two".to_vec()),
                    Some(Vec::new())
                ]
            );
        }
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; LINE_MAX]).is_empty());
        assert!(lines.push(b"x").is_empty());
        assert!(lines.line.is_empty());
        assert_eq!(lines.push(b"x\nok\n"), [None, Some(b"ok".to_vec())]);
    }
}
