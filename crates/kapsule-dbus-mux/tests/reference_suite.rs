//! The reference implementation's own tests pass through the multiplexer as they pass on a plain
//! dbus-daemon, case by case, in every form in which the multiplexer runs.
//!
//! One suite in one form, with all that it says: `cargo xtask reference --suite test-monitor --topology
//! local`; one case of it: `… -- -p /monitor/become`.

use testbed::reference::Installation;
use testbed::{Topology, skip, tools};

fn passes_as_on_a_plain_bus(suite: &str) {
    let Some(installation) = Installation::find() else {
        skip!("{}", tools::REFERENCE_SUITES.missing());
    };
    let comparison = installation
        .compare(suite, &Topology::ALL)
        .unwrap_or_else(|failure| panic!("{failure}"));
    println!("{}", comparison.table(true));
    let regressions = comparison.regressions();
    assert!(
        regressions.is_empty(),
        "{} pass on a plain dbus-daemon and not through the multiplexer:\n{}",
        regressions.len(),
        regressions
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    );
}

#[test]
fn reference_suite_dbus_daemon_passes_as_on_a_plain_bus() {
    passes_as_on_a_plain_bus("test-dbus-daemon");
}

#[test]
fn reference_suite_dbus_daemon_eavesdrop_passes_as_on_a_plain_bus() {
    passes_as_on_a_plain_bus("test-dbus-daemon-eavesdrop");
}

#[test]
fn reference_suite_fdpass_passes_as_on_a_plain_bus() {
    passes_as_on_a_plain_bus("test-fdpass");
}

#[test]
fn reference_suite_header_fields_passes_as_on_a_plain_bus() {
    passes_as_on_a_plain_bus("test-header-fields");
}

#[test]
fn reference_suite_monitor_passes_as_on_a_plain_bus() {
    passes_as_on_a_plain_bus("test-monitor");
}
