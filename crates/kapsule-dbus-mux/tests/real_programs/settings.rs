//! Settings: read from a file that both sides share, written by a service that the host starts, and
//! announced by its signals.

use std::time::Duration;

use testbed::{
    Deadline, Line, Lines, ServiceFile, TestDir, Topology, World, WorldOptions, in_topologies,
    needs, run_to_end, tools,
};

use crate::place::{run, run_at, start, start_at};

const SCHEMA: &str = r#"<schemalist><schema id="org.example.settings" path="/org/example/settings/">
<key name="greeting" type="s"><default>'hello'</default></key>
</schema></schemalist>"#;
const KEY: &str = "/org/example/settings/greeting";

/// A world whose host can start dconf's service, and in which programs have a schema of ours.
#[track_caller]
fn world_with_dconf(topology: Topology) -> World {
    let service = tools::DCONF_SERVICE.find().expect("its test asked for it");
    let dir = TestDir::new();
    dir.write("schemas/org.example.settings.gschema.xml", SCHEMA);
    let mut compile = std::process::Command::new("glib-compile-schemas");
    compile.arg("--strict").arg(dir.join("schemas"));
    run_to_end(compile, testbed::deadline::LIMIT)
        .unwrap_or_else(|failure| panic!("{failure}"))
        .success();
    World::start_in(
        dir,
        topology,
        &WorldOptions {
            host_services: vec![ServiceFile::new(
                "ca.desrt.dconf",
                service.display().to_string(),
            )],
            ..WorldOptions::default()
        },
    )
}

/// `gsettings` with the schema of ours.
fn gsettings<'a>(schemas: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["GSETTINGS_BACKEND=dconf", schemas, "gsettings"];
    all.extend_from_slice(arguments);
    all
}

fn a_setting_written_inside_is_kept_by_the_hosts_service(topology: Topology) {
    needs!(
        tools::DBUS_DAEMON,
        tools::DCONF,
        tools::DCONF_SERVICE,
        tools::GSETTINGS,
        tools::GLIB_COMPILE_SCHEMAS
    );
    let world = world_with_dconf(topology);
    let schemas = format!(
        "GSETTINGS_SCHEMA_DIR={}",
        world.dir.join("schemas").display()
    );
    let set = ["set", "org.example.settings", "greeting", "good morning"];
    run(&world, "env", &gsettings(&schemas, &set));

    // By the file, by another client, and by who owns the name.
    let get = ["get", "org.example.settings", "greeting"];
    let outside = run_at(&world, &world.outside(), "env", &gsettings(&schemas, &get));
    assert_eq!(outside.trim(), "'good morning'");
    assert_eq!(
        run(&world, "dconf", &["read", KEY]).trim(),
        "'good morning'"
    );
    let owned = run_at(
        &world,
        &world.outside(),
        "dbus-send",
        &[
            "--session",
            "--print-reply=literal",
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.NameHasOwner",
            "string:ca.desrt.dconf",
        ],
    );
    assert_eq!(
        owned.trim(),
        "boolean true",
        "the service runs on the host's bus"
    );
}

fn a_program_inside_is_told_of_a_setting_changed_outside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DCONF, tools::DCONF_SERVICE);
    let world = world_with_dconf(topology);
    let (_watch, mut seen) = start(&world, "dconf", &["watch", "/org/example/"]);
    let outside = world.outside();
    write_until_seen(&mut seen, |value| {
        run_at(&world, &outside, "dconf", &["write", KEY, value]);
    });
}

fn a_program_outside_is_told_of_a_setting_changed_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DCONF, tools::DCONF_SERVICE);
    let world = world_with_dconf(topology);
    let outside = world.outside();
    let (_watch, mut seen) = start_at(&world, &outside, "dconf", &["watch", "/org/example/"]);
    write_until_seen(&mut seen, |value| {
        run(&world, "dconf", &["write", KEY, value]);
    });
}

/// Nothing tells when `dconf watch` has subscribed, so what it misses before is written anew.
#[track_caller]
fn write_until_seen(seen: &mut Lines, write: impl Fn(&str)) {
    let deadline = Deadline::usual();
    for attempt in 0.. {
        assert!(
            !deadline.left().is_zero(),
            "dconf watch saw none of {attempt} changes"
        );
        let value = format!("'value {attempt}'");
        write(&value);
        let patience = Deadline::after(Duration::from_millis(500));
        loop {
            match seen.next_line(patience).expect("a pipe of ours") {
                Line::Text(line) if line.trim() == value => return,
                Line::Text(_) => {}
                Line::NotYet => break,
                Line::End => panic!("dconf watch ended"),
            }
        }
    }
}

in_topologies!(with_host: a_setting_written_inside_is_kept_by_the_hosts_service,
    a_program_inside_is_told_of_a_setting_changed_outside,
    a_program_outside_is_told_of_a_setting_changed_inside);
