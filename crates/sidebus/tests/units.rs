//! The systemd units: what systemd itself says of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testbed::{Output, TestDir, needs, run_to_end, tools};

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
