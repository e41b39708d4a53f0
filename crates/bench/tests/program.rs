//! The benchmark itself: that it measures what it says, and takes what goes wrong for a failure. How fast anything is
//! is not looked at.

use std::process::Command;

use testbed::{TestDir, mux_program, needs, run_to_end, tools};

fn bench(dir: &TestDir, mux: &std::path::Path, arguments: &[&str]) -> testbed::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kapsule-bench"));
    command.arg("--mux").arg(mux);
    command.args(["--rounds", "1", "--work", "0.001"]);
    for subject in ["direct", "relay", "mux-local", "mux-remote"] {
        command.args(["--subject", subject]);
    }
    command.arg("--json").arg(dir.join("results.json"));
    command.args(arguments);
    run_to_end(command, testbed::deadline::LIMIT).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn every_kind_of_scenario_runs_on_every_subject() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let mux = mux_program().unwrap_or_else(|failure| panic!("{failure}"));
    let small = [
        "--only",
        "0 B",
        "--only",
        "64 B",
        "--only",
        "signal",
        "--only",
        "fd in",
        "--only",
        "connections",
    ];
    let output = bench(&dir, &mux, &small);
    let shown = output.success();
    assert!(shown.contains("Processor time of the subject"), "{shown}");
    let text = std::fs::read_to_string(dir.join("results.json")).unwrap();
    let results: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(results.len() >= 9 * 4, "{text}");
    for result in &results {
        assert!(result["failure"].is_null(), "{result}");
        assert!(result["median_ns"].as_f64().unwrap() > 0.0, "{result}");
    }
}

#[test]
fn a_subject_that_does_not_start_is_a_failed_scenario() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let output = bench(&dir, "/nonexistent".as_ref(), &["--only", "connections"]);
    assert!(!output.status.success());
    let text = std::fs::read_to_string(dir.join("results.json")).unwrap();
    let results: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for result in &results {
        let ours = result["subject"].as_str().unwrap().starts_with("mux");
        assert_eq!(result["failure"].is_string(), ours, "{result}");
    }
}
