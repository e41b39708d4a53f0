//! The JSON-lines session, byte for byte; and our bridge with another's session program.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::skip;
use crate::support::*;

struct Session {
    process: Process,
    input: Option<std::process::ChildStdin>,
    output: std::sync::mpsc::Receiver<String>,
    errors: std::sync::mpsc::Receiver<String>,
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> std::sync::mpsc::Receiver<String> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            let _ = send.send(std::mem::take(&mut line));
        }
    });
    receive
}

impl Session {
    fn start(shielded: &Shielded, inside: bool) -> Self {
        let mut command = if inside {
            let mut command = command("nsenter");
            command.args([
                "--target",
                &shielded.net.pid().to_string(),
                "--net",
                env!("CARGO_BIN_EXE_shield-bridge"),
            ]);
            command
        } else {
            shield()
        };
        let mut child = command
            .args(["session", "--json"])
            .arg(shielded.state())
            .arg(&shielded.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: lines_of(child.stdout.take().unwrap()),
            errors: lines_of(child.stderr.take().unwrap()),
            process: Process(child),
        }
    }

    fn write(&mut self, text: &str) {
        self.input
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn line(&self) -> String {
        self.output
            .recv_timeout(LIMIT)
            .expect("the session says something")
    }

    fn warning(&self) -> String {
        self.errors.recv_timeout(LIMIT).expect("the session warns")
    }

    /// Waits until the log is bound, and gives the line about the first connection after that.
    fn wait(&self, shielded: &Shielded) -> String {
        let start = std::time::Instant::now();
        // proc has a line for each reader, which begins with its group.
        let bound = || {
            inside_run(shielded.net.pid(), "cat /proc/net/netfilter/nfnetlink_log")
                .lines()
                .any(|l| l.trim_start().starts_with("100 "))
        };
        while !bound() {
            assert!(start.elapsed() < LIMIT, "the session does not begin");
        }
        assert!(!shielded.net.tcp(V6, 1));
        self.line()
    }
}

#[test]
fn lines_are_byte_for_byte_as_specified_and_malformed_ones_are_warned_of_and_survived() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    for inside in [false, true] {
        let shielded = Shielded::new("build");
        shielded.net.serve_tcp(443);
        if inside {
            // As the original leaves it: nothing says where the container is.
            std::fs::remove_file(shielded.state().join("target.json")).unwrap();
        }
        let mut session = Session::start(&shielded, inside);
        let first = session.wait(&shielded);
        assert!(
            first.starts_with("{\"type\":\"pending\",\"id\":1,\"dest\":\"2001:db8::1\",\"port\":"),
            "{first}"
        );
        assert!(
            first.ends_with(",\"proto\":6,\"domain\":\"\"}\n"),
            "{first}"
        );
        assert!(!shielded.net.tcp(V4, 443));
        assert_eq!(
            session.line(),
            "{\"type\":\"pending\",\"id\":2,\"dest\":\"203.0.113.1\",\"port\":443,\"proto\":6,\"domain\":\"\"}\n"
        );
        for (line, why) in [
            ("{\"type\":\"verdict\"", "bad JSON"),
            ("[\"verdict\",2,\"accept\"]", "not an object"),
            (
                "{\"type\":\"opinion\",\"id\":2,\"action\":\"accept\"}",
                "unknown type",
            ),
            (
                "{\"type\":\"verdict\",\"id\":true,\"action\":\"accept\"}",
                "bad id",
            ),
            (
                "{\"type\":\"verdict\",\"id\":2,\"action\":\"maybe\"}",
                "bad action",
            ),
            (
                "{\"type\":\"verdict\",\"id\":77,\"action\":\"accept\"}",
                "unknown id",
            ),
        ] {
            session.write(&format!("{line}\n"));
            let warning = session.warning();
            assert!(warning.contains(why), "{line}: {warning}");
        }
        session.write(&format!("{}\n", "x".repeat(1 << 20)));
        assert!(session.warning().contains("line too long"));
        session.write("{\"type\":\"verdict\",\"id\":2,");
        session.write("\"action\":\"accept\"}\n");
        // Nothing was said in between.
        assert_eq!(
            session.line(),
            "{\"type\":\"verdict_applied\",\"id\":2,\"dest\":\"203.0.113.1\",\"action\":\"accept\",\"ok\":true}\n"
        );
        assert!(shielded.net.tcp(V4, 443));
        session.write("{\"type\":\"verdict\",\"id\":2,\"action\":\"deny\"}\n");
        assert!(session.warning().contains("unknown id"), "it is closed");
        // End of input: exit status 0.
        session.input = None;
        assert_eq!(session.process.wait().code(), Some(0));
        assert!(session.output.recv().is_err(), "nothing more was said");
    }
}

/// Rules as the original has them: verdicts by address only, sets of intervals with a time of their own, and
/// the older prefix.
const ORIGINAL: &str = r#"
table inet terok_shield
delete table inet terok_shield
table inet terok_shield {
    set allow_v4 { type ipv4_addr; flags interval, timeout; timeout 30m; }
    set allow_v6 { type ipv6_addr; flags interval, timeout; timeout 30m; }
    set deny_v4 { type ipv4_addr; flags interval; }
    set deny_v6 { type ipv6_addr; flags interval; }
    chain output {
        type filter hook output priority filter; policy drop;
        oifname lo accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ip daddr @deny_v4 reject with icmpx admin-prohibited
        ip6 daddr @deny_v6 reject with icmpx admin-prohibited
        ip daddr @allow_v4 accept
        ip6 daddr @allow_v6 accept
        log prefix "TEROK_SHIELD_QUEUED: " group 100
        meta l4proto tcp reject with tcp reset
        reject with icmpx admin-prohibited
    }
}
"#;

#[test]
fn it_works_with_the_originals_rules_by_address() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    shielded.net.serve_tcp(443);
    std::fs::remove_file(shielded.state().join("target.json")).unwrap();
    inside_run(
        shielded.net.pid(),
        &format!("nft -f - <<'EOF'\n{ORIGINAL}\nEOF"),
    );
    let mut session = Session::start(&shielded, true);
    session.wait(&shielded);
    assert!(!shielded.net.tcp(V4, 443));
    let pending = "{\"type\":\"pending\",\"id\":";
    let mut line = session.line();
    while !line.contains(V4) {
        line = session.line();
    }
    let id = line
        .strip_prefix(pending)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    session.write(&format!(
        "{{\"type\":\"verdict\",\"id\":{id},\"action\":\"accept\"}}\n"
    ));
    while !line.contains("verdict_applied") {
        line = session.line();
    }
    assert!(
        line.ends_with("\"action\":\"accept\",\"ok\":true}\n"),
        "{line}"
    );
    assert!(shielded.net.tcp(V4, 443));
    assert!(!shielded.net.tcp(V6, 443));
    let rules = inside_run(
        shielded.net.pid(),
        "nft list set inet terok_shield allow_v4",
    );
    assert!(!rules.contains("expires"), "it is for good: {rules}");
    let live = std::fs::read_to_string(shielded.state().join("live.allowed")).unwrap();
    assert_eq!(live, "203.0.113.1\n");
    // A deny takes it out again.
    let mut line = session.line();
    while !line.contains(V6) {
        line = session.line();
    }
    let id = line
        .strip_prefix(pending)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    session.write(&format!(
        "{{\"type\":\"verdict\",\"id\":{id},\"action\":\"deny\"}}\n"
    ));
    while !line.contains("verdict_applied") {
        line = session.line();
    }
    assert!(
        line.ends_with("\"action\":\"deny\",\"ok\":true}\n"),
        "{line}"
    );
    assert!(!shielded.net.tcp(V6, 443));
}

#[test]
fn signals_end_it_at_once_and_a_new_session_counts_from_one_again() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    for _ in 0..2 {
        let mut session = Session::start(&shielded, false);
        assert!(session.wait(&shielded).contains("\"id\":1,"));
        assert_eq!(session.process.terminate().code(), Some(0));
    }
}

#[test]
fn exit_statuses_are_those_of_the_protocol() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let status = |arguments: &[&str]| shield().args(arguments).output().unwrap().status.code();
    assert_eq!(status(&["session", "--json"]), Some(2));
    assert_eq!(
        status(&["session", "--json", "--nonsense", "a", "b"]),
        Some(2)
    );
    let shielded = Shielded::with("build", &["--unattended"], "");
    let state = shielded.state().display().to_string();
    assert_eq!(
        status(&["session", "--json", &state, "build"]),
        Some(1),
        "interactive mode is not on"
    );
    shielded.up(&[]);
    let first = Session::start(&shielded, false);
    first.wait(&shielded);
    assert_eq!(
        status(&["session", "--json", &state, "build"]),
        Some(1),
        "the log is bound"
    );
}

/// What the original's session does, as far as its protocol says: it is run inside the namespace, numbers
/// from 1, and applies verdicts by address.
const OTHER: &str = r#"#!/bin/sh
# STATE_DIR CONTAINER come last
while [ "$1" = --flag ] || [ "$1" = -- ]; do shift; done
echo '{"type":"pending","id":1,"dest":"203.0.113.1","port":443,"proto":6,"domain":""}'
echo 'not JSON'
echo '{"type":"pending","id":2,"dest":"nowhere","port":443,"proto":6,"domain":""}'
while read -r line; do
    case $line in
    '{"type":"verdict","id":1,"action":"accept"}')
        nft add element inet terok_shield allow_v4 '{ 203.0.113.1 }' || exit 3
        echo '{"type":"verdict_applied","id":1,"dest":"203.0.113.1","action":"accept","ok":true}' ;;
    die) exit 1 ;;
    *) echo "unexpected: $line" >&2 ;;
    esac
done
"#;

#[tokio::test]
async fn our_bridge_works_with_another_session_program_and_never_makes_its_verdicts_longer() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("--odd name");
    shielded.net.serve_tcp(443);
    let program = shielded.dir.path().join("other-session");
    std::fs::write(&program, OTHER).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bus = Bus::new();
    let program = program.display().to_string();
    let (mut bridge, client) = shielded
        .bridge(
            &bus,
            &["--session-program", &program, "--session-arg", "--flag"],
        )
        .await;
    let name = shielded.bus_name();
    until("it is asked", async || {
        !client.pending(&name).await.is_empty()
    })
    .await;
    let waits = client.pending(&name).await;
    assert_eq!(waits.len(), 1, "{waits:?}");
    let request = waits[0].5.clone();
    assert_eq!(request, "--odd name:1");
    // The program knows no times: an answer for five minutes would become one for good.
    assert!(!client.verdict_for(&name, &request, "accept", 300).await);
    assert!(!shielded.net.tcp(V4, 443));
    assert!(client.verdict(&name, &request, "accept").await);
    assert!(shielded.net.tcp(V4, 443));
    assert_eq!(
        client.applied().await,
        (
            shielded.name.clone(),
            V4.into(),
            request.clone(),
            "accept".into(),
            true
        )
    );
    let audit = shielded.audit();
    assert!(
        audit.contains("\"action\":\"blocked\"") && audit.contains("\"action\":\"allowed\""),
        "{audit}"
    );
    assert_eq!(bridge.terminate().code(), Some(0));
    // It numbers from 1 again; the old number must not come to mean something else.
    let (_bridge, client) = shielded
        .bridge(
            &bus,
            &["--session-program", &program, "--session-arg", "--flag"],
        )
        .await;
    until("it is asked", async || {
        !client.pending(&name).await.is_empty()
    })
    .await;
    assert_eq!(client.pending(&name).await[0].5, "--odd name:2");
    assert!(!client.verdict(&name, &request, "accept").await);
}
