//! Who goes, and what is told to those who stay.

use crate::backend::{Value, dictionary};
use crate::machine::Machine;
use crate::{needs_portals, run};
use rustix::process::{Pid, Signal, kill_process};

fn window_and_title() -> Vec<Value> {
    vec![Value::from(""), Value::from("Choose")]
}

/// The process of the host's portal.
async fn portal_process(machine: &Machine) -> Pid {
    let answer = machine
        .desktop
        .backend
        .connection
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "GetConnectionUnixProcessID",
            &("org.freedesktop.portal.Desktop",),
        )
        .await
        .expect("the portal runs");
    let pid: u32 = answer.body().deserialize().expect("a number");
    Pid::from_raw(pid.try_into().expect("a process")).expect("not zero")
}

#[test]
fn a_client_that_goes_leaves_nothing_open_on_the_host() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let client = machine.client().await;
        client
            .open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        let opened = machine.desktop.backend.called("FileChooser.OpenFile").await;
        client.connection.close().await.expect("it goes");
        let closed = machine.desktop.backend.called("Request.Close").await;
        assert_eq!(closed.path, opened.text(0));
        machine.stop().await;
    });
}

#[test]
fn a_broker_that_stops_leaves_nothing_open_on_the_host() {
    needs_portals!();
    run(async {
        let mut machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let client = machine.client().await;
        client
            .open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        let opened = machine.desktop.backend.called("FileChooser.OpenFile").await;
        machine.portals.take().expect("they run").stop().await;
        let closed = machine.desktop.backend.called("Request.Close").await;
        assert_eq!(closed.path, opened.text(0));
        machine.stop().await;
    });
}

#[test]
fn a_portal_of_the_host_that_goes_ends_what_was_open_and_the_next_one_is_asked() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let client = machine.client().await;
        let handle = client
            .open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        let monitor = client
            .request(
                "Inhibit",
                "CreateMonitor",
                vec![Value::from("")],
                [("session_handle_token", Value::from("watch"))],
            )
            .await
            .expect("a session");
        assert_eq!(monitor.0, 0);
        kill_process(portal_process(&machine).await, Signal::KILL).expect("a process of ours");
        assert_eq!(client.response(&handle).await, (2, dictionary([])));
        let (path, _) = client.signal("Session", "Closed").await;
        assert!(path.ends_with("/watch"), "{path}");

        machine.desktop.backend.succeed(
            "FileChooser.OpenFile",
            [("uris", Value::from(Vec::<String>::new()))],
        );
        let (code, _) = client
            .request("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("the next portal is asked");
        assert_eq!(code, 0);
        machine.stop().await;
    });
}

#[test]
fn a_bus_of_the_host_that_goes_ends_what_was_open() {
    needs_portals!();
    run(async {
        let mut machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let client = machine.client().await;
        let handle = client
            .open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        machine.desktop.bus.process().end();
        assert_eq!(client.response(&handle).await, (2, dictionary([])));
        let error = client
            .open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect_err("there is no host");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.NoReply");
        machine.stop().await;
    });
}
