//! Requests: their handles, their ends, and who may close them.

use crate::backend::{Value, dictionary, text};
use crate::client::{DESKTOP, PATH};
use crate::machine::Machine;
use crate::{needs_portals, run};

fn window_and_title() -> Vec<Value> {
    vec![Value::from(""), Value::from("Choose")]
}

#[test]
fn a_person_who_cancels_is_told_as_such() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        machine.desktop.backend.answer("FileChooser.OpenFile", |_| {
            Some(vec![Value::from(1u32), dictionary([])])
        });
        let client = machine.client().await;
        let ended = client
            .request("FileChooser", "OpenFile", window_and_title(), [])
            .await;
        assert_eq!(ended, Ok((1, dictionary([]))));
        let status = machine.portals.as_ref().expect("they run").status().await;
        assert_eq!(status.requests, []);
        machine.stop().await;
    });
}

#[test]
fn a_request_that_is_closed_is_closed_on_the_host_and_only_by_its_client() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let (client, other) = (machine.client().await, machine.client().await);
        let handle = client
            .open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        let opened = machine.desktop.backend.called("FileChooser.OpenFile").await;
        let status = machine.portals.as_ref().expect("they run").status().await;
        assert_eq!(status.requests.len(), 1);
        assert_eq!(status.requests[0].handle, handle);
        assert_eq!(
            status.requests[0].method,
            "org.freedesktop.portal.FileChooser.OpenFile"
        );

        let close = |client: &crate::client::Client| {
            let connection = client.connection.clone();
            let handle = handle.clone();
            async move {
                connection
                    .call_method(
                        Some(DESKTOP),
                        handle.as_str(),
                        Some("org.freedesktop.portal.Request"),
                        "Close",
                        &(),
                    )
                    .await
                    .map(|_| ())
            }
        };
        assert!(close(&other).await.is_err(), "it is somebody else's");
        close(&client).await.expect("it is closed");
        let closed = machine.desktop.backend.called("Request.Close").await;
        assert_eq!(closed.path, opened.text(0));
        assert!(close(&client).await.is_err(), "it is not there any more");
        let status = machine.portals.as_ref().expect("they run").status().await;
        assert_eq!(status.requests, []);
        machine.stop().await;
    });
}

#[test]
fn a_token_that_would_end_the_hosts_portal_is_refused() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        for token in ["", "a b", "a-b", "a/../b", "ü"] {
            let mut values = window_and_title();
            values.push(dictionary([(
                "handle_token",
                Value::from(token.to_owned()),
            )]));
            let error = client
                .call("FileChooser", "OpenFile", values)
                .await
                .expect_err("no token");
            assert_eq!(
                error.0, "org.freedesktop.portal.Error.InvalidArgument",
                "{token:?}"
            );
        }
        client
            .property("FileChooser", "version")
            .await
            .expect("the host's portal lives");
        machine.stop().await;
    });
}

#[test]
fn a_token_that_is_in_use_gets_another_handle() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let client = machine.client().await;
        let mut handles = Vec::new();
        for _ in 0..2 {
            let mut values = window_and_title();
            values.push(dictionary([("handle_token", Value::from("same"))]));
            let answer = client
                .call("FileChooser", "OpenFile", values)
                .await
                .expect("a request");
            handles.push(text(&answer[0]).to_owned());
        }
        assert_eq!(
            handles[0],
            format!("{PATH}/request/{}/same", client.sender())
        );
        assert_ne!(handles[0], handles[1]);
        assert!(handles[1].starts_with(&handles[0]));
        machine.stop().await;
    });
}

#[test]
fn requests_are_bounded_for_each_client_and_for_the_machine() {
    needs_portals!();
    run(async {
        let machine =
            Machine::with_policy("[limits]\nrequests_per_client = 2\nrequests = 3\n").await;
        machine
            .desktop
            .backend
            .answer("FileChooser.OpenFile", |_| None);
        let (one, two) = (machine.client().await, machine.client().await);
        let mut open = Vec::new();
        for client in [&one, &one, &two] {
            open.push(
                client
                    .open("FileChooser", "OpenFile", window_and_title(), [])
                    .await
                    .expect("there is room"),
            );
        }
        for (client, limit) in [
            (&one, "limits.requests_per_client"),
            (&two, "limits.requests"),
        ] {
            let error = client
                .open("FileChooser", "OpenFile", window_and_title(), [])
                .await
                .expect_err("no room");
            assert_eq!(error.0, "org.freedesktop.DBus.Error.LimitsExceeded");
            assert!(error.1.contains(limit), "{}", error.1);
        }
        one.call_at(
            DESKTOP,
            &open[0],
            "org.freedesktop.portal.Request",
            "Close",
            Vec::new(),
        )
        .await
        .expect("it is closed");
        two.open("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("there is room again");
        machine.stop().await;
    });
}

#[test]
fn arguments_of_other_types_are_refused_before_the_host_sees_them() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let wrong = client
            .call("FileChooser", "OpenFile", vec![Value::from("")])
            .await
            .expect_err("arguments are missing");
        assert_eq!(wrong.0, "org.freedesktop.DBus.Error.InvalidArgs");
        let wrong = client
            .open(
                "FileChooser",
                "OpenFile",
                window_and_title(),
                [("multiple", Value::from("yes"))],
            )
            .await
            .expect_err("an option of another type");
        assert_eq!(wrong.0, "org.freedesktop.portal.Error.InvalidArgument");
        assert!(wrong.1.contains("\"multiple\" is of type b"), "{}", wrong.1);
        let large = Value::from("x".repeat(2 << 20));
        let wrong = client
            .open("FileChooser", "OpenFile", vec![Value::from(""), large], [])
            .await
            .expect_err("too large");
        assert_eq!(wrong.0, "org.freedesktop.DBus.Error.LimitsExceeded");
        machine.stop().await;
    });
}
