//! gdbus: GLib's own implementation of D-Bus, and its client.

use testbed::{Topology, World, in_topologies, needs, tools};

use crate::place::{
    INSIDE, INTERFACE, OUTSIDE, PATH, Services, connect, next, run, start, subscribe,
};

fn gdbus_calls_services_inside_and_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::GDBUS);
    let world = World::start(topology);
    let services = Services::start(&world);
    for (name, whereabouts) in services.names() {
        let answer = run(
            &world,
            "gdbus",
            &[
                "call",
                "--session",
                "--dest",
                name,
                "--object-path",
                PATH,
                "--method",
                &format!("{INTERFACE}.Where"),
            ],
        );
        assert_eq!(answer.trim(), format!("('{whereabouts}',)"));
    }
}

fn gdbus_introspects_services_inside_and_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::GDBUS);
    let world = World::start(topology);
    let services = Services::start(&world);
    for (name, _) in services.names() {
        let description = run(
            &world,
            "gdbus",
            &[
                "introspect",
                "--session",
                "--dest",
                name,
                "--object-path",
                PATH,
            ],
        );
        assert!(
            description.contains(&format!("interface {INTERFACE} {{")),
            "{description}"
        );
        assert!(
            description.contains("readwrite s Mood = 'calm';"),
            "{description}"
        );
    }
}

fn gdbus_monitor_follows_a_service_that_comes_and_goes(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::GDBUS);
    let world = World::start(topology);
    let (_monitor, mut lines) = start(&world, "gdbus", &["monitor", "--session", "--dest", INSIDE]);
    lines.expect_line("that the name has no owner", |line| {
        line == format!("The name {INSIDE} does not have an owner")
    });
    let services = Services::start(&world);
    lines.expect_line("that the name has an owner", |line| {
        line.starts_with(&format!("The name {INSIDE} is owned by :"))
    });
    run(
        &world,
        "gdbus",
        &[
            "call",
            "--session",
            "--dest",
            INSIDE,
            "--object-path",
            PATH,
            "--method",
            &format!("{INTERFACE}.Announce"),
            "dinner",
        ],
    );
    let announced = format!("{PATH}: {INTERFACE}.Announced ('dinner',)");
    lines.expect_line("the service's signal", |line| line == announced);
    drop(services);
    lines.expect_line("that the name has no owner any more", |line| {
        line == format!("The name {INSIDE} does not have an owner")
    });
}

fn gdbus_monitor_sees_the_signals_of_a_service_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::GDBUS);
    let world = World::start(topology);
    let _services = Services::start(&world);
    let (_monitor, mut lines) = start(
        &world,
        "gdbus",
        &["monitor", "--session", "--dest", OUTSIDE],
    );
    lines.expect_line("that the name has an owner", |line| {
        line.starts_with(&format!("The name {OUTSIDE} is owned by :"))
    });
    run(
        &world,
        "gdbus",
        &[
            "call",
            "--session",
            "--dest",
            OUTSIDE,
            "--object-path",
            PATH,
            "--method",
            &format!("{INTERFACE}.Announce"),
            "dinner",
        ],
    );
    let announced = format!("{PATH}: {INTERFACE}.Announced ('dinner',)");
    lines.expect_line("the service's signal", |line| line == announced);
}

fn gdbus_emits_a_signal_that_others_inside_receive(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::GDBUS, tools::DBUS_SEND);
    let world = World::start(topology);
    // With a rule of its own and not as a monitor: an old-fashioned subscriber.
    let subscriber = connect(&world.inside());
    let mut signals = subscribe(
        &subscriber,
        "type='signal',interface='org.example.Bell',member='Rung',path='/bell'",
    );
    run(
        &world,
        "gdbus",
        &[
            "emit",
            "--session",
            "--object-path",
            "/bell",
            "--signal",
            "org.example.Bell.Rung",
            "'twice'",
            "2",
        ],
    );
    let signal = next(&mut signals, "the signal that gdbus emits");
    let (how, often): (String, i32) = signal.body().deserialize().expect("a string and a number");
    assert_eq!((how.as_str(), often), ("twice", 2));
}

fn gdbus_waits_for_a_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::GDBUS);
    let world = World::start(topology);
    let (mut waiting, _lines) = start(&world, "gdbus", &["wait", "--session", INSIDE]);
    let _services = Services::start(&world);
    let status = waiting.wait(testbed::Deadline::usual());
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

in_topologies!(all: gdbus_calls_services_inside_and_outside,
    gdbus_introspects_services_inside_and_outside,
    gdbus_monitor_follows_a_service_that_comes_and_goes,
    gdbus_emits_a_signal_that_others_inside_receive,
    gdbus_waits_for_a_name);
in_topologies!(with_host: gdbus_monitor_sees_the_signals_of_a_service_outside);
