//! Notifications from inside, shown by a notification daemon on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testbed::{
    Deadline, Lines, ServiceFile, TestDir, Topology, World, WorldOptions, XDisplay, in_topologies,
    needs, tools,
};

use crate::place::{run, run_at, start};

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";

/// A world whose host starts dunst when somebody notifies. The lines tell what dunst shows, at the time
/// when it shows it: `PROGRAM|SUMMARY|BODY`.
#[track_caller]
fn world_with_dunst(topology: Topology, display: &XDisplay) -> (World, Lines) {
    let dir = TestDir::new();
    let fifo = dir.join("shown");
    let shown = Lines::of_fifo(&fifo).unwrap_or_else(|failure| panic!("{failure}"));
    // dunst runs this when a notification has come onto the screen.
    let tell = dir.write(
        "tell",
        format!(
            "#!/bin/sh\nprintf '%s|%s|%s\\n' \"$1\" \"$2\" \"$3\" > '{}'\n",
            fifo.display()
        ),
    );
    fs::set_permissions(&tell, fs::Permissions::from_mode(0o700)).expect("our own file");
    let config = dir.write(
        "dunstrc",
        format!(
            "[global]\n[tell]\nsummary = \"*\"\nscript = \"{}\"\n",
            tell.display()
        ),
    );
    let world = World::start_in(
        dir,
        topology,
        &WorldOptions {
            environment: vec![("DISPLAY".to_owned(), display.name().to_owned())],
            host_services: vec![ServiceFile::new(
                NOTIFICATIONS,
                format!("/usr/bin/env dunst -config {}", config.display()),
            )],
            ..WorldOptions::default()
        },
    );
    (world, shown)
}

/// Calls dunst from outside, as a person at the host does with the mouse.
#[track_caller]
fn dunst(world: &World, method: &str, arguments: &[&str]) -> String {
    let method = format!("org.dunstproject.cmd0.{method}");
    let call = [
        "call",
        "--session",
        "--dest",
        NOTIFICATIONS,
        "--object-path",
        "/org/freedesktop/Notifications",
        "--method",
        &method,
    ];
    run_at(
        world,
        &world.outside(),
        "gdbus",
        &[&call, arguments].concat(),
    )
}

fn a_notification_from_inside_is_shown_on_the_host(topology: Topology) {
    needs!(
        tools::DBUS_DAEMON,
        tools::XVFB,
        tools::DUNST,
        tools::NOTIFY_SEND,
        tools::GDBUS
    );
    let display = XDisplay::start().unwrap_or_else(|failure| panic!("{failure}"));
    let (world, mut shown) = world_with_dunst(topology, &display);
    run(
        &world,
        "notify-send",
        &["--expire-time=0", "Dinner is ready", "Come & sit"],
    );
    shown.expect_line("that dunst shows the notification", |line| {
        line == "notify-send|Dinner is ready|Come & sit"
    });

    dunst(&world, "NotificationCloseAll", &[]);
    let history = dunst(&world, "NotificationListHistory", &[]);
    assert!(
        history.contains("'summary': <'Dinner is ready'>"),
        "{history}"
    );
}

fn an_action_chosen_on_the_host_reaches_the_program_inside(topology: Topology) {
    needs!(
        tools::DBUS_DAEMON,
        tools::XVFB,
        tools::DUNST,
        tools::NOTIFY_SEND,
        tools::GDBUS
    );
    let display = XDisplay::start().unwrap_or_else(|failure| panic!("{failure}"));
    let (world, mut shown) = world_with_dunst(topology, &display);
    let (mut asking, mut answer) = start(
        &world,
        "notify-send",
        &["--expire-time=0", "--action=now=Now", "Eat?"],
    );
    shown.expect_line("that dunst shows the question", |line| {
        line.contains("|Eat?|")
    });
    dunst(&world, "NotificationAction", &["0"]);
    answer.expect_line("the chosen action", |line| line == "now");
    let status = asking.wait(Deadline::usual());
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

fn a_program_inside_is_told_that_its_notification_was_closed(topology: Topology) {
    needs!(
        tools::DBUS_DAEMON,
        tools::XVFB,
        tools::DUNST,
        tools::NOTIFY_SEND,
        tools::GDBUS
    );
    let display = XDisplay::start().unwrap_or_else(|failure| panic!("{failure}"));
    let (world, mut shown) = world_with_dunst(topology, &display);
    let (mut waiting, _output) =
        start(&world, "notify-send", &["--expire-time=0", "--wait", "Bye"]);
    shown.expect_line("that dunst shows it", |line| line.contains("|Bye|"));
    assert!(
        waiting.has_ended().is_none(),
        "it waits until the notification is closed"
    );
    dunst(&world, "NotificationCloseAll", &[]);
    let status = waiting.wait(Deadline::usual());
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

in_topologies!(with_host: a_notification_from_inside_is_shown_on_the_host,
    an_action_chosen_on_the_host_reaches_the_program_inside,
    a_program_inside_is_told_that_its_notification_was_closed);
