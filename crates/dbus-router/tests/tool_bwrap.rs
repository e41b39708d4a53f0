//! The example of docs/dbus-router.md: a bubblewrap sandbox whose only way to the host's bus is the router.

use std::process::Command;

use dbus_wire::{Body, MessageType};
use testbed::{
    Arrival, DaemonOptions, DbusDaemon, Deadline, Output, Process, RawClient, TestDir, run_to_end,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dbus-router");

const RULES: &str = r#"
[[host_routes]]
destination = "org.freedesktop.portal.*"

[[filter]]
name = "org.freedesktop.Notifications"
access = "talk"
"#;

struct Sandbox {
    _router: Process,
    dir: TestDir,
    _daemon: DbusDaemon,
}

impl Sandbox {
    fn new() -> Sandbox {
        let dir = TestDir::new();
        let daemon = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        for name in [
            "org.freedesktop.Notifications",
            "org.freedesktop.portal.Desktop",
            "org.freedesktop.secrets",
            "org.freedesktop.systemd1",
        ] {
            serve(daemon.address(), name);
        }
        let rules = dir.write("rules.toml", RULES);
        let mut command = Command::new(PROGRAM);
        command
            .arg("--listen")
            .arg(dir.join("bus"))
            .args(["-v", "--host", daemon.address(), "--config"])
            .arg(rules);
        let (router, mut says) =
            Process::start_reading_both(command, "dbus-router", &dir.join("logs")).unwrap();
        says.expect_line("that it is ready", |line| line.contains("ready address"));
        Sandbox {
            _router: router,
            dir,
            _daemon: daemon,
        }
    }

    /// Runs a program inside: it sees the system's files and one socket.
    fn run(&self, program: &[&str]) -> Output {
        let mut command = Command::new("bwrap");
        command
            .args([
                "--unshare-all",
                "--die-with-parent",
                "--new-session",
                "--clearenv",
            ])
            .args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"])
            .args([
                "--symlink",
                "usr/lib64",
                "/lib64",
                "--symlink",
                "usr/bin",
                "/bin",
            ])
            .args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .arg("--ro-bind")
            .arg(self.dir.join("bus"))
            .arg("/run/bus")
            .args(["--setenv", "DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/bus"])
            .args(["--setenv", "PATH", "/usr/bin"])
            .args(program);
        run_to_end(command, testbed::deadline::LIMIT).unwrap()
    }
}

/// Answers as a notification daemon does where it is asked that, and others with what they were asked.
fn serve(address: &str, name: &str) {
    let mut service = RawClient::open(address);
    assert_eq!(service.request_name(name, 0), 1);
    std::thread::spawn(move || {
        let hour = std::time::Duration::from_secs(3600);
        while let Arrival::Message(message) = service.next_until(Deadline::after(hour)) {
            let header = message.header();
            if header.kind != MessageType::MethodCall {
                continue;
            }
            let body = match header.member {
                Some("Notify") => Body::new().u32(7),
                Some("GetCapabilities") => Body::new().strs(["body", "actions"]),
                Some("GetServerInformation") => {
                    Body::new().str("test").str("test").str("1").str("1.2")
                }
                Some(member) => Body::new().str(member),
                None => Body::new(),
            };
            service.answer(&message, &body);
        }
    });
}

fn bwrap_works() -> bool {
    Command::new("bwrap")
        .args([
            "--unshare-all",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "true",
        ])
        .status()
        .is_ok_and(|status| status.success())
}

#[test]
fn a_bubblewrap_sandbox_reaches_what_the_rules_allow_and_sees_nothing_else() {
    testbed::needs!(
        testbed::tools::DBUS_DAEMON,
        testbed::tools::BUSCTL,
        testbed::tools::NOTIFY_SEND,
        testbed::tools::BWRAP
    );
    if !bwrap_works() {
        testbed::skip!("bwrap makes no sandbox here: it needs user namespaces");
    }
    let sandbox = Sandbox::new();
    sandbox
        .run(&["notify-send", "--print-id", "Hello", "from inside"])
        .success();
    let busctl = ["busctl", "--address=unix:path=/run/bus"];
    let call = |name: &str| {
        let arguments = [
            "call",
            name,
            "/org/freedesktop/portal/desktop",
            "org.freedesktop.portal.Test",
            "Ask",
        ];
        sandbox.run(&[&busctl[..], &arguments].concat())
    };
    assert_eq!(
        call("org.freedesktop.portal.Desktop").success().trim(),
        "s \"Ask\""
    );
    for name in ["org.freedesktop.secrets", "org.freedesktop.systemd1"] {
        assert!(!call(name).status.success(), "{name}");
    }
    let list = sandbox
        .run(&[&busctl[..], &["list", "--no-legend"]].concat())
        .success();
    let mut names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with(':'))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "org.freedesktop.DBus",
            "org.freedesktop.Notifications",
            "org.freedesktop.portal.Desktop"
        ],
        "{list}"
    );
    // The owners of those two, and busctl itself.
    let unique = list.lines().filter(|line| line.starts_with(':')).count();
    assert_eq!(unique, 3, "{list}");
}
