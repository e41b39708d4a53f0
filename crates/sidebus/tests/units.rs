//! The systemd units: what systemd itself says of them.

#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "rig/raw_guest.rs"]
mod raw_guest;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dbus_wire::Body;
use raw_guest::RawGuest;
use testbed::{Output, Process, TestDir, needs, run_to_end, tools};

/// What `systemd-analyze security` may say of the agent at most, on its scale from 0 (nothing can go wrong) to 10.
const MOST_EXPOSURE: &str = "--threshold=20";

fn unit(side: &str, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(side)
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The units of a side, installed below the test's directory as `cargo xtask dist` does it.
fn installed(dir: &TestDir, side: &str, names: &[&str]) -> Vec<PathBuf> {
    let agent = Path::new(env!("CARGO_BIN_EXE_sidebus-agent"));
    let bindir = agent.parent().expect("a directory").display().to_string();
    names
        .iter()
        .map(|name| {
            let text = unit(side, name).replace("@bindir@", &bindir);
            dir.write(format!("units/{}", name.replace('@', "@1000")), text)
        })
        .collect()
}

fn analyze(dir: &TestDir, arguments: &[&str], units: &[PathBuf]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command
        .args(arguments)
        .args(units)
        .env("XDG_RUNTIME_DIR", dir.join("runtime"));
    run_to_end(command, Duration::from_secs(60)).expect("it ends")
}

#[test]
fn systemd_understands_the_units_of_the_guest() {
    needs!(tools::SYSTEMD_ANALYZE);
    let dir = TestDir::new();
    let units = installed(
        &dir,
        "guest",
        &[
            "sidebus-agent@.service",
            "sidebus-agent@.socket",
            "run-sidebus-documents.mount",
        ],
    );
    let output = analyze(&dir, &["verify", "--man=no"], &units);
    let said = output.both();
    output.success();
    // What it understands with a warning is not understood.
    assert!(!said.contains("units/"), "{said}");
}

#[test]
fn systemd_understands_the_units_of_the_host() {
    needs!(tools::SYSTEMD_ANALYZE);
    let dir = TestDir::new();
    let units = installed(
        &dir,
        "host",
        &["sidebus-broker@.service", "sidebus-broker@.socket"],
    );
    let output = analyze(&dir, &["--user", "verify", "--man=no"], &units);
    let said = output.both();
    output.success();
    assert!(!said.contains("units/"), "{said}");
}

#[test]
fn the_agent_is_in_a_sandbox() {
    needs!(tools::SYSTEMD_ANALYZE);
    let dir = TestDir::new();
    let units = installed(
        &dir,
        "guest",
        &["sidebus-agent@.service", "sidebus-agent@.socket"],
    );
    let output = analyze(
        &dir,
        &["security", "--offline=true", MOST_EXPOSURE],
        &units[..1],
    );
    output.success();
}

#[test]
fn the_broker_is_started_by_the_guests_first_connection() {
    needs!(tools::SOCKET_ACTIVATE);
    let dir = TestDir::new();
    let port = dir.make_dir("vm").join("vsock_1337");
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg("--listen")
        .arg(&port)
        .arg(env!("CARGO_BIN_EXE_sidebus-broker"))
        // As in the unit: where the socket is passed, what else would say where it is does not count.
        .args(["--vm", "test", "--bus-only", "--vsock-port", "1337"])
        .arg("--vsock-path")
        .arg(dir.join("vm/vsock"))
        .arg("--runtime-dir")
        .arg(dir.join("vm"))
        .env_clear()
        .envs(dir.environment());
    let mut process =
        Process::start(command, "systemd-socket-activate", &dir.join("logs")).expect("it starts");
    while !port.exists() {
        assert!(process.has_ended().is_none(), "{}", process.log());
        std::thread::yield_now();
    }
    let (_control, session) = RawGuest::control(&port);
    let (mut client, name) = RawGuest::on_the_bus(&port, session);
    assert!(name.starts_with(':'));
    client.call_driver("GetId", &Body::new()).returned();
}
