//! What this crate accepts and refuses, compared with a dbus-daemon that is started for the test.
//!
//! A router stands before a bus: what it lets pass the bus must take, and what the bus would take the
//! router must not refuse. Without a dbus-daemon in `PATH` these tests say so and do nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dbus_wire::sasl::{Client, ClientConfig, Server, ServerConfig};
use dbus_wire::{
    Args, Body, Builder, Endian, Flags, Header, MatchRule, Message, MessageType, Scan, check_body,
    scan,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

struct Daemon {
    process: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Option<Daemon> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let config = directory.path().join("bus.conf");
        let text = format!(
            r#"<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow send_destination="*" eavesdrop="true"/>
            <allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#,
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nosyslog", "--print-address=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = match process {
            Ok(process) => process,
            Err(error) => {
                eprintln!("nothing compared, dbus-daemon cannot be started: {error}");
                return None;
            }
        };
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("unix:"), "{line}");
        Some(Daemon {
            process,
            socket,
            _directory: directory,
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    serial: u32,
    name: String,
}

impl Connection {
    fn new(daemon: &Daemon) -> Connection {
        let stream = UnixStream::connect(&daemon.socket).unwrap();
        // Not to measure anything: a daemon that hangs fails the test instead of hanging it.
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut connection = Connection {
            stream,
            buffer: Vec::new(),
            serial: 1,
            name: String::new(),
        };
        let mut client = Client::new(ClientConfig {
            uid: None,
            want_fds: true,
        });
        let mut out = Vec::new();
        client.start(&mut out);
        out.extend(driver_call("Hello").serial(1).build());
        connection.stream.write_all(&out).unwrap();
        loop {
            assert!(connection.fill(), "closed during authentication");
            let progress = client.feed(&connection.buffer).unwrap();
            connection.buffer.drain(..progress.consumed);
            if let Some(done) = progress.done {
                assert!(done.unix_fds);
                assert_eq!(done.guid.len(), 32);
                break;
            }
        }
        let reply = connection.reply_to(1).unwrap();
        connection.name = reply.reader().str().unwrap().to_owned();
        connection
    }

    /// Reads more; false at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next message; `None` if the daemon closed the connection.
    fn receive(&mut self) -> Option<Message> {
        loop {
            let need = match scan(&self.buffer).unwrap() {
                Scan::NeedBytes(need) => need,
                Scan::Message(prologue) => prologue.message_len(),
            };
            if need <= self.buffer.len() && need > 16 {
                let rest = self.buffer.split_off(need);
                let bytes = std::mem::replace(&mut self.buffer, rest);
                return Some(Message::parse(bytes).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn reply_to(&mut self, serial: u32) -> Option<Message> {
        loop {
            let message = self.receive()?;
            if message.header().reply_serial == Some(serial) {
                return Some(message);
            }
        }
    }

    fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// Whether the daemon takes a rule; the error's name if not.
    fn add_match(&mut self, rule: &str) -> Result<(), String> {
        self.call_with("AddMatch", rule)
    }

    fn call_with(&mut self, member: &str, argument: &str) -> Result<(), String> {
        let serial = self.next_serial();
        let body = Body::new().str(argument);
        let call = driver_call(member).serial(serial).body(&body).build();
        self.stream.write_all(&call).unwrap();
        let reply = self.reply_to(serial).unwrap();
        let header = reply.header();
        header
            .error_name
            .map_or(Ok(()), |name| Err(name.to_owned()))
    }
}

fn driver_call(member: &str) -> Builder<'_> {
    Builder::method_call("/org/freedesktop/DBus", member)
        .interface("org.freedesktop.DBus")
        .destination("org.freedesktop.DBus")
}

fn runner(cases: u32) -> TestRunner {
    // Failures are printed whole; there is no file of earlier ones to keep beside an integration test.
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

/// Values that try every corner of the rules for names.
const VALUES: &[&str] = &[
    "",
    " ",
    ".",
    ":",
    ":.",
    ":..",
    ":.1",
    ":1",
    ":1.",
    ":1..2",
    ":1.2",
    ":a.b",
    ":-",
    ":1.2.3",
    ":a-b.c_d",
    ":1. ",
    "a",
    "a.b",
    "a.b.c",
    "a..b",
    ".a.b",
    "a.b.",
    "1.2",
    "a.1",
    "a.1b",
    "1a.b",
    "-a.b",
    "a.-b",
    "a-b.c",
    "_._",
    "a.b-",
    "org",
    "org.freedesktop.DBus",
    "/",
    "//",
    "/a",
    "/a/",
    "/a/b",
    "/a//b",
    "/1",
    "/_",
    "/a-b",
    "/a.b",
    "a/b",
    "A1",
    "_1",
    "1A",
    "ä",
    "a.ä",
    "/ä",
    "signal",
    "method_call",
    "method_return",
    "error",
    "Signal",
    "invalid",
    "true",
    "false",
    "True",
    "1",
    "0",
    "it's",
    "a,b",
    "a=b",
    "a\\b",
    "\\",
    "'",
    "''",
    ",",
    "=",
];

const KEYS: &[&str] = &[
    "type",
    "sender",
    "destination",
    "interface",
    "member",
    "path",
    "path_namespace",
    "eavesdrop",
    "arg0",
    "arg1",
    "arg63",
    "arg64",
    "arg0path",
    "arg1path",
    "arg63path",
    "arg64path",
    "arg0namespace",
    "arg1namespace",
    "arg",
    "argpath",
    "arg0x",
    "arg0pathx",
    "arg0namespacex",
    "arg256",
    "arg4294967296",
    "Type",
    "foo",
    "",
    "path_namespac",
    "argument",
    "arg-1",
    "arg1 path",
];

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// dbus-daemon reads the number of an argument as C does: `arg0xa` is argument 10, and `arg01` argument 1. We refuse both,
/// as documented.
fn has_number_as_in_c(rule: &str) -> bool {
    rule.match_indices("arg0").any(|(at, prefix)| {
        let next = rule[at + prefix.len()..].bytes().next();
        next.is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b'x' | b'X'))
    })
}

fn compare_rule(connection: &mut Connection, rule: &str) {
    let ours = MatchRule::parse(rule);
    let theirs = connection.add_match(rule);
    match (&ours, &theirs) {
        (Err(_), Ok(())) if has_number_as_in_c(rule) => {
            connection.call_with("RemoveMatch", rule).unwrap();
        }
        (Ok(_), Ok(())) => connection.call_with("RemoveMatch", rule).unwrap(),
        (Err(error), Err(name)) => {
            assert_eq!(error.error_name(), name, "{rule}");
        }
        _ => panic!("{rule:?}: ours {ours:?}, theirs {theirs:?}"),
    }
}

#[test]
fn every_key_with_every_value_is_judged_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let mut connection = Connection::new(&daemon);
    for key in KEYS {
        for value in VALUES {
            compare_rule(&mut connection, &format!("{key}={}", quoted(value)));
            compare_rule(&mut connection, &format!("{key}={value}"));
        }
    }
    let names = [254, 255, 256].map(|len| format!("a.{}", "b".repeat(len - 2)));
    for name in &names {
        for key in ["sender", "interface", "arg0namespace", "arg0"] {
            compare_rule(&mut connection, &format!("{key}='{name}'"));
        }
        compare_rule(&mut connection, &format!("sender=':{}'", &name[1..]));
        compare_rule(
            &mut connection,
            &format!("member='{}'", "m".repeat(name.len())),
        );
        compare_rule(
            &mut connection,
            &format!("path='/{}'", "p".repeat(name.len())),
        );
    }
    for len in [1023, 1024, 1025, 2000] {
        compare_rule(&mut connection, &format!("arg0='{}'", "x".repeat(len - 7)));
        compare_rule(
            &mut connection,
            &format!("type='signal'{}", " ".repeat(len - 13)),
        );
    }
}

#[test]
fn the_shape_of_a_rule_is_judged_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let mut connection = Connection::new(&daemon);
    let piece = prop_oneof![
        4 => prop::sample::select(KEYS).prop_map(str::to_owned),
        2 => Just("type='signal'".to_owned()),
        2 => Just("member=M".to_owned()),
        2 => Just("arg0=x".to_owned()),
        4 => prop::sample::select(vec!["=", ",", "'", "\\", "\\'", " ", "\t", "\n", "\r", "=''", ","]).prop_map(str::to_owned),
        1 => prop::sample::select(VALUES).prop_map(str::to_owned),
        1 => prop::sample::select(VALUES).prop_map(quoted),
        1 => prop::sample::select(vec!["\u{b}", "\u{c}", "\u{a0}", "\u{2003}", "\u{85}", "\u{1}"]).prop_map(str::to_owned),
    ];
    let rule = prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat());
    let connection = std::cell::RefCell::new(&mut connection);
    runner(6000)
        .run(&rule, |rule| {
            compare_rule(&mut connection.borrow_mut(), &rule);
            Ok(())
        })
        .unwrap();
}

/// Signals that rules can tell apart, with the rule's arguments in every type that matters.
fn signals(serial: &mut impl FnMut() -> u32) -> Vec<Vec<u8>> {
    let texts = [
        "", "/", "/a", "/a/", "/a/b", "/a/b/", "a", "a.b", "a.b.c", "a.bc", "it's", "a,b", "a\\b",
        "x",
    ];
    let mut bodies = vec![
        Body::new(),
        Body::new().u32(0),
        Body::new().variant(|v| v.str("a.b")).str("a.b"),
        Body::new().strs(["a.b"]).struct_(|s| s.str("a.b")).str("x"),
        Body::new().byte(1).str("a.b"),
        Body::new().dict_sv(|d| {
            d.entry("a.b", |v| v.str("x"));
        }),
    ];
    for text in texts {
        bodies.push(Body::new().str(text));
        bodies.push(Body::new().str(text).str(text));
        if dbus_wire::is_object_path(text) {
            bodies.push(Body::new().object_path(text));
            bodies.push(Body::new().str("a.b").object_path(text));
        }
    }
    let mut signals = Vec::new();
    for body in &bodies {
        signals.push(
            Builder::signal("/a/b", "a.b", "M")
                .serial(serial())
                .body(body)
                .build(),
        );
    }
    for (path, interface, member) in [
        ("/", "a.b", "M"),
        ("/a", "a.b", "M"),
        ("/a/bc", "a.b", "M"),
        ("/a/b/c", "a.b", "M"),
        ("/a/b", "a.b.c", "M"),
        ("/a/b", "a.b", "N"),
    ] {
        signals.push(
            Builder::signal(path, interface, member)
                .serial(serial())
                .build(),
        );
    }
    signals
}

#[test]
fn what_a_rule_matches_is_what_dbus_daemon_delivers() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let connection = std::cell::RefCell::new(Connection::new(&daemon));
    let value = || {
        prop::sample::select(vec![
            "", "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/", "a", "a.b", "a.b.c", "a.bc", "it's",
            "a,b", "a\\b", "x", "ab",
        ])
    };
    let path = || prop::sample::select(vec!["/", "/a", "/a/b", "/a/bc", "/a/b/c", "/b"]);
    let name = || prop::sample::select(vec!["a", "a.b", "a.b.c", "a.bc", "org"]);
    let pair = prop_oneof![
        2 => prop::sample::select(vec!["signal", "method_call"]).prop_map(|v| format!("type='{v}'")),
        1 => Just("interface='a.b'".to_owned()),
        1 => Just("member='M'".to_owned()),
        1 => Just("eavesdrop='true'".to_owned()),
        2 => path().prop_map(|v| format!("path='{v}'")),
        3 => path().prop_map(|v| format!("path_namespace='{v}'")),
        5 => (prop::sample::select(vec!["arg0", "arg1", "arg2", "arg0path", "arg1path"]), value())
            .prop_map(|(key, v)| format!("{key}={}", quoted(v))),
        3 => name().prop_map(|v| format!("arg0namespace='{v}'")),
    ];
    let rules = prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join(","));
    runner(1500)
        .run(&rules, |text| {
            let Ok(rule) = MatchRule::parse(&text) else {
                return Ok(());
            };
            let connection = &mut *connection.borrow_mut();
            connection.add_match(&text).unwrap();
            let mut packet = Vec::new();
            let signals = signals(&mut || connection.next_serial());
            for signal in &signals {
                packet.extend_from_slice(signal);
            }
            let barrier = connection.next_serial();
            packet.extend(driver_call("GetId").serial(barrier).build());
            connection.stream.write_all(&packet).unwrap();
            let mut delivered = Vec::new();
            loop {
                let message = connection.receive().unwrap();
                let header = message.header();
                if header.reply_serial == Some(barrier)
                    && header.sender == Some("org.freedesktop.DBus")
                {
                    break;
                }
                if header.kind == MessageType::Signal && header.sender == Some(&connection.name) {
                    delivered.push(header.serial);
                }
            }
            let expected: Vec<u32> = signals
                .iter()
                .filter_map(|bytes| {
                    let message = Message::parse(bytes.clone()).unwrap();
                    let header = message.header();
                    rule.matches(&header, &Args::new(&header, message.body()))
                        .then_some(header.serial)
                })
                .collect();
            assert_eq!(delivered, expected, "{text}");
            // What we print is the same rule to dbus-daemon.
            connection
                .call_with("RemoveMatch", &rule.to_string())
                .unwrap();
            Ok(())
        })
        .unwrap();
}

/// Whether the daemon takes a message, or closes the connection for it.
fn daemon_takes(daemon: &Daemon, message: &[u8]) -> bool {
    let mut connection = Connection::new(daemon);
    let mut packet = message.to_vec();
    packet.extend(driver_call("GetId").serial(77_777).build());
    // The daemon may close before it has read everything.
    let _ = connection.stream.write_all(&packet);
    connection.reply_to(77_777).is_some()
}

#[test]
fn headers_are_judged_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let compare = |what: &str, message: Vec<u8>| {
        let ours = Message::parse(message.clone());
        assert_eq!(
            ours.is_ok(),
            daemon_takes(&daemon, &message),
            "{what}: ours {ours:?}"
        );
    };
    // NO_REPLY_EXPECTED, and to nobody: the daemon says nothing, it only parses.
    let base = || {
        Builder::method_call("/a", "M")
            .destination("a.b")
            .flags(Flags::NO_REPLY_EXPECTED | Flags::NO_AUTO_START)
    };
    compare("a call", base().build());
    compare("unknown flags", base().flags(Flags(0xf1)).build());
    compare("unknown type", {
        let mut bytes = base().build();
        bytes[1] = 99;
        bytes
    });
    for value in VALUES {
        compare("path", base().path(value).build());
        compare("interface", base().interface(value).build());
        compare("member", base().member(value).build());
        compare("destination", base().destination(value).build());
        compare("sender", base().sender(value).build());
        compare(
            "error name",
            base().field(4, Body::new().str(value)).build(),
        );
        compare(
            "unknown field",
            base().field(77, Body::new().str(value)).build(),
        );
    }
    compare(
        "reserved path",
        base().path("/org/freedesktop/DBus/Local").build(),
    );
    compare(
        "reserved interface",
        base().interface("org.freedesktop.DBus.Local").build(),
    );
    compare("reply serial 0", base().reply_serial(0).build());
    compare(
        "no path",
        Builder::new(MessageType::MethodCall).member("M").build(),
    );
    compare(
        "no member",
        Builder::new(MessageType::MethodCall).path("/").build(),
    );
    compare("signal", Builder::signal("/", "a.b", "C").build());
    for missing in 0..3 {
        let mut signal = Builder::new(MessageType::Signal);
        if missing != 0 {
            signal = signal.path("/a")
        }
        if missing != 1 {
            signal = signal.interface("a.b")
        }
        if missing != 2 {
            signal = signal.member("M")
        }
        compare("incomplete signal", signal.build());
    }
    compare(
        "return without serial",
        Builder::new(MessageType::MethodReturn).build(),
    );
    compare(
        "error without serial",
        Builder::new(MessageType::Error)
            .field(4, Body::new().str("a.b"))
            .build(),
    );
    compare(
        "error without name",
        Builder::new(MessageType::Error).reply_serial(1).build(),
    );
    compare("field 0", base().field(0, Body::new().str("x")).build());
    for code in 1..=9 {
        compare(
            "wrong type",
            base().field(code, Body::new().byte(1)).build(),
        );
        // The number of descriptors would be right as a field, and wrong for a message without any.
        compare(
            "wrong type",
            base()
                .field(code, Body::new().u32(u32::from(code != 9)))
                .build(),
        );
        compare(
            "wrong type",
            base().field(code, Body::new().str("a.b")).build(),
        );
        compare(
            "wrong type",
            base().field(code, Body::new().object_path("/a")).build(),
        );
        compare(
            "wrong type",
            base().field(code, Body::new().signature("s")).build(),
        );
    }
    let deep = |n: usize| {
        let mut body = Body::new().byte(1);
        for _ in 1..n {
            body = Body::new().variant(|v| v.append(&body));
        }
        body
    };
    // The variant of a field is the third container already.
    for depth in [1, 2, 31, 60, 61, 62, 63, 64, 65] {
        compare(
            &format!("deep field {depth}"),
            base().field(77, deep(depth)).build(),
        );
    }
}

#[test]
fn damaged_headers_are_judged_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let base = Builder::method_call("/a", "M")
        .destination("a.b")
        .interface("a.b")
        .reply_serial(1)
        .body(&Body::new().str("x"))
        .flags(Flags::NO_REPLY_EXPECTED | Flags::NO_AUTO_START)
        .field(
            77,
            Body::new().dict_sv(|d| {
                d.entry("k", |v| v.boolean(true))
                    .entry("l", |v| v.strs(["x"]));
            }),
        )
        .build();
    for at in 0..base.len() {
        for byte in [0, 1, 2, b's', b'a', 0x80] {
            let mut damaged = base.clone();
            damaged[at] = byte;
            // Another length is another message, which the daemon would wait for.
            let ours = match scan(&damaged) {
                Ok(Scan::Message(prologue)) if prologue.message_len() == damaged.len() => {
                    Message::parse(damaged.clone()).is_ok()
                }
                Ok(_) => continue,
                Err(_) => false,
            };
            assert_eq!(
                ours,
                daemon_takes(&daemon, &damaged),
                "byte {at} set to {byte}"
            );
        }
    }
}

#[test]
fn bodies_are_judged_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let signature = prop::sample::select(vec![
        "", "y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g", "v", "ay", "ab", "as",
        "ao", "ax", "av", "aay", "a{sv}", "a{yv}", "(yv)", "a(yx)", "yv", "sb", "a(s)", "vv", "ag",
        "aas", "a{sas}", "yay", "yax", "a(ay)", "bb", "yyyyu", "(y)y", "(y)x",
    ]);
    let word = prop_oneof![
        3 => (0u8..12).prop_map(|n| vec![n, 0, 0, 0]),
        2 => prop::sample::select(vec![
            &b"\x01s\0\0"[..], b"\x01y\0\0", b"\x01v\0\0", b"\x02ay\0", b"\x01b\0\0", b"\x01\0\0\0", b"\0\0\0\0", b"\x01x\0\0", b"/a\0\0", b"/\0\0\0",
            b"abc\0", b"a\0\0\0", b"\x02as\0", b"\x05a{sv}\0\0\0", b"\x03(y)\0\0\0\0", b"\xc3\xa4\0\0", b"\xff\0\0\0",
        ]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..5),
        1 => prop::collection::vec(Just(0u8), 0..9),
    ];
    let body = prop::collection::vec(word, 0..6).prop_map(|words| words.concat());
    runner(3000)
        .run(&(signature, body), |(signature, body)| {
            let ours = check_body(Endian::Little, signature, &body, 0);
            let parts = Body::from_parts(Endian::Little, signature, body.clone());
            let message = Builder::signal("/a", "a.b", "M").body(&parts).build();
            let header = scan(&message).unwrap();
            assert!(matches!(header, Scan::Message(p) if Header::parse(&message[..p.header_len()]).is_ok()));
            assert_eq!(
                ours.is_ok(),
                daemon_takes(&daemon, &message),
                "{signature} {body:?}: ours {ours:?}"
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn deep_values_are_judged_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let compare = |what: String, body: &Body| {
        let message = Builder::signal("/a", "a.b", "M").body(body).build();
        let ours = Message::parse(message.clone());
        assert_eq!(
            ours.is_ok(),
            daemon_takes(&daemon, &message),
            "{what}: {:?}",
            ours.err()
        );
    };
    for depth in [1, 62, 63, 64, 65, 66] {
        for inner in [
            Body::new().byte(1),
            Body::new().bytes(b"x"),
            Body::new().strs(["x"]),
            Body::new().strs([""; 0]),
            Body::new().struct_(|s| s.byte(1)),
            Body::new().array("v", |a| a),
            Body::new().array("v", |a| a.variant(|v| v.byte(1))),
        ] {
            let what = format!("{depth} variants of {}", inner.signature);
            let mut body = inner;
            for _ in 0..depth {
                body = Body::new().variant(|v| v.append(&body));
            }
            compare(what, &body);
        }
    }
    for depth in [31, 32, 33] {
        let signature = format!("{}y{}", "(".repeat(depth), ")".repeat(depth));
        compare(
            signature.clone(),
            &Body::from_parts(Endian::Little, signature, vec![1]),
        );
        let signature = format!("{}y", "a".repeat(depth));
        compare(
            signature.clone(),
            &Body::from_parts(Endian::Little, signature, vec![0; 4]),
        );
    }
}

/// The lines of a server without what servers are free to choose: texts of errors, the GUID.
fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .split_terminator("\r\n")
        .map(|line| match line.split_once(' ') {
            Some((command @ ("ERROR" | "OK"), _)) => command.to_owned(),
            _ => line.to_owned(),
        })
        .collect()
}

/// Our uid, and the daemon's, as the kernel tells it to both.
fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn compare_sasl(daemon: &Daemon, script: &[u8]) {
    let mut server = Server::new(ServerConfig::new([0; 16], own_uid()));
    let mut ours = Vec::new();
    let mut sent = script.to_vec();
    let result = server.feed(script, &mut ours);
    // Something to wait for: an unknown command is answered in every state, and a first message is.
    match &result {
        Ok(progress) if progress.done.is_some() => {
            sent.truncate(progress.consumed);
            sent.extend(driver_call("Hello").build());
        }
        Ok(_) => {
            sent.extend_from_slice(b"\r\nFOO\r\n");
            server.feed(b"\r\nFOO\r\n", &mut ours).unwrap();
        }
        Err(_) => {}
    }
    let ours = lines(&ours);

    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let _ = stream.write_all(&sent);
    let mut theirs = Vec::new();
    let mut chunk = [0; 4096];
    let what = String::from_utf8_lossy(&sent);
    match result {
        Err(error) => {
            // The daemon may drop its last answers with the connection.
            while let Ok(n @ 1..) = stream.read(&mut chunk) {
                theirs.extend_from_slice(&chunk[..n]);
            }
            let theirs = lines(&theirs);
            assert!(
                ours.starts_with(&theirs),
                "{what:?}: ours {ours:?} then {error}, theirs {theirs:?}"
            );
        }
        Ok(progress) => {
            let done = progress.done.is_some();
            // After the lines comes the reply to Hello.
            while lines(&theirs).len() < ours.len() + usize::from(done)
                || !(done || theirs.ends_with(b"\n"))
            {
                match stream.read(&mut chunk) {
                    Ok(n @ 1..) => theirs.extend_from_slice(&chunk[..n]),
                    end => panic!(
                        "{what:?}: ours {ours:?}, theirs {:?}, then {end:?}",
                        lines(&theirs)
                    ),
                }
            }
            assert_eq!(ours, lines(&theirs)[..ours.len()], "{what:?}");
            if done {
                assert_eq!(
                    lines(&theirs)[ours.len()].as_bytes().first(),
                    Some(&b'l'),
                    "{what:?}"
                );
            }
        }
    }
}

#[test]
fn authentication_is_answered_as_dbus_daemon_does() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let hex: String = own_uid()
        .to_string()
        .bytes()
        .map(|b| format!("{b:02x}"))
        .collect();
    let line = prop_oneof![
        4 => Just(format!("AUTH EXTERNAL {hex}")),
        2 => Just(format!("DATA {hex}")),
        2 => prop::sample::select(vec!["AUTH EXTERNAL", "DATA", "AUTH EXTERNAL ", "DATA "]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["BEGIN", "NEGOTIATE_UNIX_FD", "CANCEL", "ERROR", "ERROR \"x\"", "BEGIN x"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec![
            "AUTH", "AUTH ", "AUTH FOO", "AUTH ANONYMOUS", "AUTH ANONYMOUS 78", "AUTH EXTERNAL zz", "AUTH EXTERNAL 39393939",
            "AUTH EXTERNAL 3938 ", "DATA zz", "DATA 3939", "AUTH\tEXTERNAL\t39", "AUTH  EXTERNAL  39", "AUTH EXTERNAL 2d31", "AUTH EXTERNAL 3030303939",
            "AUTH DBUS_COOKIE_SHA1 30", "AUTH external 30", "",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "auth EXTERNAL", " AUTH EXTERNAL", "OK 00", "REJECTED", "AGREE_UNIX_FD", "FOO", "AUTH\u{e4}", "FOO\0", "\n", "\r", "BEGIN\n", "AUTHEXTERNAL",
        ]).prop_map(str::to_owned),
    ];
    let script = prop::collection::vec(line, 0..9).prop_map(|lines| {
        let mut script = vec![0];
        for line in lines {
            script.extend_from_slice(line.as_bytes());
            script.extend_from_slice(b"\r\n");
        }
        script
    });
    runner(1500)
        .run(&script, |script| {
            compare_sasl(&daemon, &script);
            Ok(())
        })
        .unwrap();
    compare_sasl(&daemon, b"AUTH EXTERNAL\r\n");
    compare_sasl(&daemon, &[&b"\0AUTH "[..], &[b'x'; 20_000]].concat());
}
