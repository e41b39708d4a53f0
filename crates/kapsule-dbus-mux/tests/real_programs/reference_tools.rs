//! dbus-send and dbus-monitor: the reference implementation's clients.

use testbed::{Topology, World, in_topologies, needs, tools};

use crate::place::{INSIDE, INTERFACE, PATH, Services, connect, run, start, subscribe};

fn dbus_send_calls_services_inside_and_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DBUS_SEND);
    let world = World::start(topology);
    let services = Services::start(&world);
    for (name, whereabouts) in services.names() {
        let answer = run(
            &world,
            "dbus-send",
            &[
                "--session",
                "--print-reply=literal",
                &format!("--dest={name}"),
                PATH,
                &format!("{INTERFACE}.Where"),
            ],
        );
        assert_eq!(answer.trim(), whereabouts);
    }
}

fn dbus_monitor_shows_what_programs_inside_say(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DBUS_SEND);
    let world = World::start(topology);
    let _services = Services::start(&world);
    let (_monitor, mut lines) = start(&world, "dbus-monitor", &["--session"]);
    // A monitor is told that it has lost its unique name; from then on it sees everything.
    lines.expect_line("that it has become a monitor", |line| {
        line.contains("member=NameLost")
    });
    run(
        &world,
        "dbus-send",
        &[
            "--session",
            "--print-reply",
            &format!("--dest={INSIDE}"),
            PATH,
            &format!("{INTERFACE}.Announce"),
            "string:dinner",
        ],
    );
    let call = lines.expect_line("the call", |line| line.contains("member=Announce"));
    assert!(call.starts_with("method call "), "{call}");
    assert!(call.contains(&format!("destination={INSIDE}")), "{call}");
    lines.expect_line("the signal", |line| line.contains("member=Announced"));
    lines.expect_line("its argument", |line| line.trim() == "string \"dinner\"");
    lines.expect_line("the answer", |line| line.starts_with("method return "));
}

fn dbus_monitor_with_rules_shows_the_signals_that_programs_inside_receive(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DBUS_SEND);
    let world = World::start(topology);
    let services = Services::start(&world);
    // Of the host's broadcasts, those come in that somebody inside asked for.
    let rule = format!("type='signal',interface='{INTERFACE}'");
    let subscriber = connect(&world.inside());
    let _signals = subscribe(&subscriber, &rule);
    let (_monitor, mut lines) = start(
        &world,
        "dbus-monitor",
        &["--session", &rule, "member='NameLost'"],
    );
    lines.expect_line("that it has become a monitor", |line| {
        line.contains("member=NameLost")
    });
    for (name, whereabouts) in services.names() {
        run(
            &world,
            "dbus-send",
            &[
                "--session",
                "--print-reply",
                &format!("--dest={name}"),
                PATH,
                &format!("{INTERFACE}.Announce"),
                &format!("string:{whereabouts}"),
            ],
        );
        let signal = lines.expect_line("a signal", |line| line.contains("member=Announced"));
        assert!(signal.starts_with("signal "), "{signal}");
        lines.expect_line("its argument", |line| {
            line.trim() == format!("string \"{whereabouts}\"")
        });
    }
}

in_topologies!(all: dbus_send_calls_services_inside_and_outside,
    dbus_monitor_shows_what_programs_inside_say,
    dbus_monitor_with_rules_shows_the_signals_that_programs_inside_receive);
