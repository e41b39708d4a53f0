//! Python programs with dbus-fast, which speaks D-Bus by itself: services that the buses activate, inside
//! and outside, and a client inside.

use std::path::Path;

use testbed::{ServiceFile, Topology, World, WorldOptions, in_topologies, needs, tools};

use crate::place::{INSIDE, OUTSIDE, run, start};

const PLACE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/real_programs/python/place.py"
);
const VISIT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/real_programs/python/visit.py"
);

fn python() -> Option<String> {
    Some(tools::PYTHON_DBUS_FAST.find()?.display().to_string())
}

/// What a visitor reports of a service that is all right.
#[track_caller]
fn assert_visited(report: &str, whereabouts: &str) {
    assert_eq!(
        report,
        format!(
            "where: {whereabouts}\nannounced: dinner\nopened: written there\nread: written here\n"
        )
    );
}

fn a_python_service_inside_serves_a_python_client_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::PYTHON_DBUS_FAST);
    let python = python().expect("found a line above");
    let world = World::start(topology);
    let (_service, mut lines) = start(&world, &python, &[PLACE, INSIDE, "inside"]);
    lines.expect_line("that the service is ready", |line| line == "ready");
    assert_visited(&run(&world, &python, &[VISIT, INSIDE]), "inside");
}

fn a_call_from_inside_starts_a_python_service_on_the_host(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::PYTHON_DBUS_FAST);
    let python = python().expect("found a line above");
    let world = World::start_with(
        topology,
        &WorldOptions {
            host_services: vec![service(&python, OUTSIDE, "outside")],
            ..WorldOptions::default()
        },
    );
    assert_visited(&run(&world, &python, &[VISIT, OUTSIDE]), "outside");
}

fn a_call_from_inside_starts_a_python_service_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::PYTHON_DBUS_FAST);
    let python = python().expect("found a line above");
    // Both sides could start it. In the control, where they are one bus, the first directory wins.
    let world = World::start_with(
        topology,
        &WorldOptions {
            inside_services: vec![service(&python, INSIDE, "inside")],
            host_services: vec![service(&python, INSIDE, "outside")],
            ..WorldOptions::default()
        },
    );
    assert_visited(&run(&world, &python, &[VISIT, INSIDE]), "inside");
}

fn service(python: &str, name: &str, whereabouts: &str) -> ServiceFile {
    assert!(Path::new(PLACE).is_file());
    ServiceFile::new(name, format!("{python} {PLACE} {name} {whereabouts}"))
}

in_topologies!(all: a_python_service_inside_serves_a_python_client_inside,
    a_call_from_inside_starts_a_python_service_inside);
in_topologies!(with_host: a_call_from_inside_starts_a_python_service_on_the_host);
