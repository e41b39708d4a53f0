//! The program `dbus-router` as a person uses it: check, explain, serve, reload, log, learn.

use std::path::Path;
use std::process::Command;

use dbus_wire::Body;
use testbed::raw_client::{call, driver_call};
use testbed::{
    Arrival, DaemonOptions, DbusDaemon, Deadline, Lines, Output, Process, RawClient, TestDir,
    run_to_end,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dbus-router");

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    run_to_end(command, testbed::deadline::LIMIT).unwrap()
}

/// A host with a service, and a router before it.
struct Place {
    router: Process,
    says: Lines,
    dir: TestDir,
    _daemon: DbusDaemon,
}

impl Place {
    fn new(first: &[&str], rules: &str, more: &[&str]) -> Place {
        Place::started_by(TestDir::new(), Command::new(PROGRAM), first, rules, more)
    }

    /// `command` is the program, or what starts it.
    fn started_by(
        dir: TestDir,
        mut command: Command,
        first: &[&str],
        rules: &str,
        more: &[&str],
    ) -> Place {
        let daemon = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        for name in ["org.test.First", "org.test.Second"] {
            serve(daemon.address(), name);
        }
        let config = dir.write("rules.toml", rules);
        command
            .args(first)
            .arg("--listen")
            .arg(dir.join("bus"))
            .arg("--host")
            .arg(daemon.address())
            .arg("--config")
            .arg(config)
            .args(
                more.iter()
                    .map(|it| it.replace("{dir}", &dir.path().display().to_string())),
            )
            .arg("-v")
            .env_clear()
            .envs(dir.environment());
        let (router, mut says) =
            Process::start_reading_both(command, "dbus-router", &dir.join("logs")).unwrap();
        says.expect_line("that it is ready", |line| line.contains("ready address"));
        Place {
            router,
            says,
            dir,
            _daemon: daemon,
        }
    }

    fn client(&self) -> RawClient {
        RawClient::open(&format!("unix:path={}", self.dir.join("bus").display()))
    }

    fn rules(&self) -> std::path::PathBuf {
        self.dir.join("rules.toml")
    }
}

fn serve(address: &str, name: &str) {
    let mut service = RawClient::open(address);
    assert_eq!(service.request_name(name, 0), 1);
    std::thread::spawn(move || {
        let hour = std::time::Duration::from_secs(3600);
        while let Arrival::Message(message) = service.next_until(Deadline::after(hour)) {
            if message.header().kind == dbus_wire::MessageType::MethodCall {
                service.answer(&message, &Body::new());
            }
        }
    });
}

fn talk(name: &str) -> String {
    format!("[[filter]]\nname = \"{name}\"\naccess = \"talk\"\n")
}

fn can_call(client: &mut RawClient, name: &str) -> bool {
    let answer = client.call(call(name, "/", "org.test.I", "Method"));
    answer.error_name().is_none()
}

#[test]
fn check_is_silent_about_what_is_right_and_shows_what_is_wrong() {
    let dir = TestDir::new();
    let right = dir.write("right.toml", talk("org.test.First"));
    let wrong = dir.write(
        "wrong.toml",
        "[[filter]]\nnam = \"org.test.First\"\naccess = \"talk\"\n",
    );
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    let output = run(&["check", right]);
    assert!(output.status.success() && output.both().is_empty());
    let output = run(&["check", right, wrong]);
    assert_eq!(output.status.code(), Some(1));
    let shown = output.stderr;
    assert!(
        shown.contains(&format!("{wrong}:2:1: unknown key \"nam\" in [[filter]]")),
        "{shown}"
    );
    assert!(
        shown.contains("\n2 | nam = \"org.test.First\"\n  | ^^^\n  = did you mean \"name\"?"),
        "{shown}"
    );
    let output = run(&["check", "/nowhere/rules.toml"]);
    assert!(output.stderr.contains("cannot read /nowhere/rules.toml"));
}

#[test]
fn explain_names_the_rule_that_decides() {
    let dir = TestDir::new();
    let rules = format!(
        "{}[[hostpass]]\nprocess = \"*/python3*\"\n[[filter]]\nname = \"org.freedesktop.*\"\naccess = \"see\"\n\
         calls = [\"org.test.I.Method@/a\"]\n",
        talk("org.test.*")
    );
    let file = dir.write("rules.toml", rules);
    let file = file.to_str().unwrap();
    let of = |arguments: &[&str]| run(&[&["explain", file], arguments].concat()).success();
    let text = of(&["org.test.A"]);
    assert!(
        text.contains("seen and talked to: [[filter]] 1 (line 1)"),
        "{text}"
    );
    let text = of(&["org.freedesktop.systemd1"]);
    assert!(
        text.contains("hands over the host, and no rule names it"),
        "{text}"
    );
    let text = of(&["org.other.Name"]);
    assert!(text.contains("unmentioned = \"hidden\""), "{text}");
    let text = of(&["org.freedesktop.X", "--member", "org.test.I.Method@/a"]);
    assert!(
        text.contains("as a call to it: yes: [[filter]] 2 (line 6)"),
        "{text}"
    );
    let text = of(&["org.freedesktop.X", "--member", "org.test.I.Method@/b"]);
    assert!(text.contains("as a call to it: no"), "{text}");
    let text = of(&["--process", "/usr/bin/python3.11"]);
    assert!(
        text.contains("lives on the host: [[hostpass]] 1 (line 4)"),
        "{text}"
    );
    let text = of(&["--process", "/usr/bin/perl"]);
    assert!(text.contains("lives inside"), "{text}");
}

#[test]
fn a_saved_file_is_loaded_for_clients_that_are_connected() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let mut place = Place::new(&[], &talk("org.test.First"), &[]);
    let mut client = place.client();
    assert!(can_call(&mut client, "org.test.First"));
    assert!(!can_call(&mut client, "org.test.Second"));
    std::fs::write(place.rules(), talk("org.test.Second")).unwrap();
    place
        .says
        .expect_line("that the rules were loaded", |line| {
            line.contains("were loaded")
        });
    assert!(!can_call(&mut client, "org.test.First"));
    assert!(can_call(&mut client, "org.test.Second"));
    // As editors save: a new file, renamed over the old one.
    let new = place.dir.write("new.toml", talk("org.test.*"));
    std::fs::rename(new, place.rules()).unwrap();
    place
        .says
        .expect_line("that the rules were loaded", |line| {
            line.contains("were loaded")
        });
    assert!(can_call(&mut client, "org.test.First"));
}

#[test]
fn a_file_that_is_wrong_keeps_the_old_rules_and_says_why() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let mut place = Place::new(&[], &talk("org.test.First"), &[]);
    let mut client = place.client();
    let wrong = format!("{}nam = 1\n", talk("org.test.Second"));
    std::fs::write(place.rules(), wrong).unwrap();
    place.says.expect_line("why they were not loaded", |line| {
        line.contains("not loaded")
    });
    place.says.expect_line("the place", |line| {
        line.contains("rules.toml:4:1: unknown key \"nam\"")
    });
    assert!(can_call(&mut client, "org.test.First"));
    assert!(!can_call(&mut client, "org.test.Second"));
}

#[test]
fn hangup_loads_the_rules() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let mut place = Place::new(&[], &talk("org.test.First"), &[]);
    place.router.signal(rustix::process::Signal::HUP);
    place
        .says
        .expect_line("that the rules were loaded", |line| {
            line.contains("were loaded")
        });
    assert!(can_call(&mut place.client(), "org.test.First"));
}

#[test]
fn decisions_are_lines_of_json() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let place = Place::new(
        &[],
        &talk("org.test.First"),
        &["--decisions", "{dir}/decisions"],
    );
    let mut client = place.client();
    assert!(can_call(&mut client, "org.test.First"));
    assert!(!can_call(&mut client, "org.test.Second"));
    let text = std::fs::read_to_string(place.dir.join("decisions")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |name: &str| {
        lines
            .iter()
            .find(|line| line["destination"] == name && line["member"] == "Method")
            .unwrap_or_else(|| panic!("no decision about {name}:\n{text}"))
    };
    let allowed = of("org.test.First");
    assert_eq!(allowed["verdict"], "allowed");
    assert_eq!(allowed["rule"], "[[filter]] 1 (line 1)");
    assert_eq!(allowed["direction"], "to_host");
    assert_eq!(allowed["client"], client.unique_name());
    assert!(allowed["time"].as_str().unwrap().ends_with('Z'));
    let hidden = of("org.test.Second");
    assert_eq!(hidden["verdict"], "hidden");
    assert!(hidden["rule"].is_null());
}

#[test]
fn decisions_go_to_the_journal() {
    // Where the journal takes entries is fixed, so the program gets a /run of its own, with a journal of this test's.
    let dir = TestDir::new();
    let journal = std::os::unix::net::UnixDatagram::bind(dir.make_dir("journal").join("socket"));
    let journal = journal.unwrap();
    journal
        .set_read_timeout(Some(testbed::deadline::LIMIT))
        .unwrap();
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "mount", "-t", "tmpfs", "none", "/run"]);
    if !run_to_end(probe, testbed::deadline::LIMIT).is_ok_and(|it| it.status.success()) {
        testbed::skip!("no mount namespace can be made (that takes root)");
    }
    let mut command = Command::new("unshare");
    let script = "mount --make-rprivate / && mount -t tmpfs none /run && \
                  mkdir -p /run/systemd/journal && mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    command
        .args(["--mount", "sh", "-c", script])
        .arg(dir.join("journal"))
        .arg(PROGRAM);
    let rules = format!("{}[log]\ndecisions = \"journal\"\n", talk("org.test.First"));
    let place = Place::started_by(dir, command, &[], &rules, &[]);
    let mut client = place.client();
    assert!(can_call(&mut client, "org.test.First"));
    assert!(!can_call(&mut client, "org.test.Second"));
    client.call_driver("NameHasOwner", &Body::new().str("org.test.Second"));
    let entry = || {
        let mut buffer = vec![0; 64 * 1024];
        let length = journal.recv(&mut buffer).unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let fields: std::collections::BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        fields
    };
    let expected = [
        (
            "org.test.First",
            "Method",
            "allowed",
            Some("[[filter]] 1 (line 1)"),
        ),
        ("org.test.Second", "Method", "hidden", None),
        ("org.test.Second", "NameHasOwner", "hidden", None),
    ];
    for (name, member, verdict, rule) in expected {
        let entry = entry();
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "dbus-router");
        assert_eq!(entry["DBUS_CLIENT"], client.unique_name());
        assert_eq!(entry["DBUS_DIRECTION"], "to_host");
        assert_eq!(entry["DBUS_NAME"], name);
        assert_eq!(entry["DBUS_MEMBER"], member);
        assert_eq!(entry["DBUS_VERDICT"], verdict);
        assert_eq!(entry.get("DBUS_RULE").map(String::as_str), rule);
        let message: serde_json::Value = serde_json::from_str(&entry["MESSAGE"]).unwrap();
        assert_eq!(message["verdict"], verdict);
        assert_eq!(message["name"], name);
    }
}

#[test]
fn what_was_learned_allows_what_was_used_and_no_more() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let mut place = Place::new(&["learn"], "", &["--write", "{dir}/learned.toml"]);
    assert!(can_call(&mut place.client(), "org.test.First"));
    place.router.signal(rustix::process::Signal::TERM);
    let status = place.router.wait(Deadline::usual());
    assert!(status.is_some_and(|status| status.success()));
    let learned = std::fs::read_to_string(place.dir.join("learned.toml")).unwrap();
    drop(place);
    let place = Place::new(&[], &learned, &[]);
    let mut client = place.client();
    assert!(can_call(&mut client, "org.test.First"), "{learned}");
    assert!(!can_call(&mut client, "org.test.Second"), "{learned}");
    let other = call("org.test.First", "/", "org.test.I", "Other");
    assert!(
        client.call(other).failed().ends_with("AccessDenied"),
        "{learned}"
    );
}

#[test]
fn without_rules_nothing_of_the_host_is_there() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let place = Place::new(&[], "", &[]);
    let mut client = place.client();
    let own = client.unique_name().to_owned();
    assert_eq!(
        client.list_names(),
        [own, "org.freedesktop.DBus".to_owned()]
    );
    let name = Body::new().str("org.test.First");
    let answer = client.call(driver_call("GetNameOwner", &name)).failed();
    assert!(answer.ends_with("NameHasNoOwner"));
}

#[test]
fn a_wrong_file_ends_the_program_at_its_start() {
    let dir = TestDir::new();
    let file = dir.write("rules.toml", "[[fliter]]\n");
    let listen = dir.join("bus");
    let listen = listen.to_str().unwrap();
    let output = run(&[
        "--listen",
        listen,
        "--host",
        "none",
        "--config",
        file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stderr.contains("did you mean \"filter\"?"),
        "{}",
        output.stderr
    );
    assert!(!Path::new(listen).exists());
}

#[test]
fn what_was_called_by_its_unique_name_is_learned_by_its_name() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let mut place = Place::new(&["learn"], "", &["--write", "{dir}/learned.toml"]);
    let mut client = place.client();
    let owner = client.name_owner("org.test.First").unwrap();
    assert!(can_call(&mut client, &owner));
    place.router.signal(rustix::process::Signal::TERM);
    assert!(place.router.wait(Deadline::usual()).is_some());
    let learned = std::fs::read_to_string(place.dir.join("learned.toml")).unwrap();
    assert!(learned.contains("name = \"org.test.First\""), "{learned}");
    assert!(
        learned.contains("calls = [\"org.test.I.Method\"]"),
        "{learned}"
    );
}

#[test]
fn a_log_can_be_turned_on_by_the_file_while_the_router_runs() {
    testbed::needs!(testbed::tools::DBUS_DAEMON);
    let mut place = Place::new(&[], &talk("org.test.First"), &[]);
    let mut client = place.client();
    assert!(can_call(&mut client, "org.test.First"));
    let log = place.dir.join("decisions");
    let rules = format!(
        "{}[log]\ndecisions = {log:?}\nrefused_only = true\n",
        talk("org.test.First")
    );
    std::fs::write(place.rules(), rules).unwrap();
    place
        .says
        .expect_line("that the rules were loaded", |line| {
            line.contains("were loaded")
        });
    assert!(can_call(&mut client, "org.test.First"));
    assert!(!can_call(&mut client, "org.test.Second"));
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains("org.test.Second"), "{text}");
    assert!(!text.contains("org.test.First"), "{text}");
}
