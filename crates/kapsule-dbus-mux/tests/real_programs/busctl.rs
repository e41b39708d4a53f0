//! busctl: systemd's own implementation of D-Bus, and its client.

use testbed::{Process, Topology, World, in_topologies, needs, tools};

use crate::place::{INSIDE, INTERFACE, PATH, Services, run};

fn busctl_lists_the_services_of_both_sides_once(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::BUSCTL);
    let world = World::start(topology);
    let services = Services::start(&world);
    let list = run(
        &world,
        "busctl",
        &["--user", "list", "--no-pager", "--no-legend"],
    );
    let ours = std::process::id().to_string();
    for (name, _) in services.names() {
        let rows: Vec<&str> = list
            .lines()
            .filter(|line| line.split_whitespace().next() == Some(name))
            .collect();
        assert_eq!(rows.len(), 1, "{list}");
        // The services run in this process, and their bus knows it.
        assert_eq!(
            rows[0].split_whitespace().nth(1),
            Some(ours.as_str()),
            "{list}"
        );
    }
}

fn busctl_calls_services_inside_and_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::BUSCTL);
    let world = World::start(topology);
    let services = Services::start(&world);
    for (name, whereabouts) in services.names() {
        let answer = run(
            &world,
            "busctl",
            &["--user", "call", name, PATH, INTERFACE, "Where"],
        );
        assert_eq!(answer.trim(), format!("s \"{whereabouts}\""));
    }
}

fn busctl_reads_and_writes_properties_inside_and_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::BUSCTL);
    let world = World::start(topology);
    let services = Services::start(&world);
    for (name, _) in services.names() {
        let busctl = |arguments: &[&str]| run(&world, "busctl", &[&["--user"], arguments].concat());
        busctl(&["set-property", name, PATH, INTERFACE, "Mood", "s", "merry"]);
        let mood = busctl(&["get-property", name, PATH, INTERFACE, "Mood"]);
        assert_eq!(mood.trim(), "s \"merry\"");
    }
}

fn busctl_introspects_services_inside_and_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::BUSCTL);
    let world = World::start(topology);
    let services = Services::start(&world);
    for (name, _) in services.names() {
        let description = run(
            &world,
            "busctl",
            &["--user", "introspect", "--no-pager", name, PATH, INTERFACE],
        );
        let members: Vec<&str> = description
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        for member in [".Where", ".Announced", ".Mood"] {
            assert!(
                members.contains(&member),
                "{member} is not in:\n{description}"
            );
        }
    }
}

fn busctl_monitor_shows_calls_between_programs_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::BUSCTL);
    let world = World::start(topology);
    let _services = Services::start(&world);
    let mut command = world.command("busctl", &world.inside());
    command.args(["--user", "monitor", "--json=short", INSIDE]);
    // It says when it has become a monitor, on stderr; a call before that would not be shown.
    let (_monitor, mut lines) =
        Process::start_reading_both(command, "busctl", &world.dir.join("logs"))
            .unwrap_or_else(|failure| panic!("{failure}"));
    lines.expect_line("that it has become a monitor", |line| {
        line == "Monitoring bus message stream."
    });
    run(
        &world,
        "busctl",
        &["--user", "call", INSIDE, PATH, INTERFACE, "Where"],
    );
    let call = lines.expect_line("the call", |line| line.contains("\"member\":\"Where\""));
    assert!(call.contains("\"type\":\"method_call\""), "{call}");
    assert!(
        call.contains(&format!("\"destination\":\"{INSIDE}\"")),
        "{call}"
    );
    let answer = lines.expect_line("its answer", |line| line.contains("\"method_return\""));
    assert!(answer.contains("\"data\":[\"inside\"]"), "{answer}");
}

in_topologies!(all: busctl_lists_the_services_of_both_sides_once,
    busctl_calls_services_inside_and_outside,
    busctl_reads_and_writes_properties_inside_and_outside,
    busctl_introspects_services_inside_and_outside,
    busctl_monitor_shows_calls_between_programs_inside);
