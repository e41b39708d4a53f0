//! Sessions, and the portals that have them; those that ask the person for more than a file.

use crate::backend::{Value, array, dictionary, entry, owned, text};
use crate::client::{DESKTOP, PATH};
use crate::machine::Machine;
use crate::{needs_portals, run};

/// `(sa{sv})`.
fn named(id: &str, options: Value) -> Value {
    zbus::Structure::builder()
        .append_field(Value::from(id.to_owned()))
        .append_field(options)
        .build()
        .map(Value::from)
        .expect("two fields")
}

#[test]
fn an_inhibition_lasts_until_it_is_closed() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let values = vec![Value::from("wayland:x"), Value::from(4u32)];
        let handle = client
            .open(
                "Inhibit",
                "Inhibit",
                values,
                [("reason", Value::from("burning a disc"))],
            )
            .await
            .expect("a request");
        assert_eq!(client.response(&handle).await.0, 0);
        let inhibited = machine.desktop.backend.called("Inhibit.Inhibit").await;
        assert_eq!(inhibited.text(2), "");
        assert_eq!(inhibited.arguments[3], Value::from(4u32));
        client
            .call_at(
                DESKTOP,
                &handle,
                "org.freedesktop.portal.Request",
                "Close",
                Vec::new(),
            )
            .await
            .expect("it is still there");
        let closed = machine.desktop.backend.called("Request.Close").await;
        assert_eq!(closed.path, inhibited.text(0));
        machine.stop().await;
    });
}

#[test]
fn a_session_has_a_handle_of_the_guest_and_its_signals_come_to_its_client_alone() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let (code, results) = client
            .request(
                "Inhibit",
                "CreateMonitor",
                vec![Value::from("")],
                [("session_handle_token", Value::from("watch"))],
            )
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let session = format!("{PATH}/session/{}/watch", client.sender());
        assert_eq!(
            entry(&results, "session_handle"),
            Some(Value::from(session.clone()))
        );
        let created = machine
            .desktop
            .backend
            .called("Inhibit.CreateMonitor")
            .await;
        let host = owned(&created.arguments[1]);
        let state = dictionary([("session-state", Value::from(2u32))]);
        machine
            .desktop
            .backend
            .emit("Inhibit", "StateChanged", vec![owned(&host), state])
            .await;
        let (_, told) = client.signal("Inhibit", "StateChanged").await;
        assert_eq!(text(&told[0]), session);
        assert_eq!(entry(&told[1], "session-state"), Some(Value::from(2u32)));
        let path = |session: &str| {
            Value::from(zbus::ObjectPath::try_from(session.to_owned()).expect("a path"))
        };
        client
            .call("Inhibit", "QueryEndResponse", vec![path(&session)])
            .await
            .expect("it is passed on");
        machine
            .desktop
            .backend
            .called("Inhibit.QueryEndResponse")
            .await;

        let other = machine.client().await;
        let error = other
            .call("Inhibit", "QueryEndResponse", vec![path(&session)])
            .await
            .expect_err("it is another client's");
        assert_eq!(error.0, "org.freedesktop.portal.Error.InvalidArgument");
        let version = client
            .call_at(
                DESKTOP,
                &session,
                "org.freedesktop.DBus.Properties",
                "Get",
                vec![
                    Value::from("org.freedesktop.portal.Session"),
                    Value::from("version"),
                ],
            )
            .await;
        assert!(version.is_ok(), "{version:?}");
        client
            .call_at(
                DESKTOP,
                &session,
                "org.freedesktop.portal.Session",
                "Close",
                Vec::new(),
            )
            .await
            .expect("it is there");
        let closed = machine.desktop.backend.called("Session.Close").await;
        assert_eq!(closed.path, text(&host));
        machine.stop().await;
    });
}

#[test]
fn shortcuts_are_bound_and_their_signals_name_the_guests_session() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let (_, results) = client
            .request(
                "GlobalShortcuts",
                "CreateSession",
                Vec::new(),
                [("session_handle_token", Value::from("keys"))],
            )
            .await
            .expect("a request");
        let session = entry(&results, "session_handle").expect("a session");
        let session = text(&session).to_owned();
        let created = machine
            .desktop
            .backend
            .called("GlobalShortcuts.CreateSession")
            .await;
        let bound = named(
            "mute",
            dictionary([("trigger_description", Value::from("F1"))]),
        );
        machine.desktop.backend.succeed(
            "GlobalShortcuts.BindShortcuts",
            [("shortcuts", array("(sa{sv})", vec![bound]))],
        );
        let wanted = named(
            "mute",
            dictionary([
                ("description", Value::from("Mute")),
                ("preferred_trigger", Value::from("F1")),
            ]),
        );
        let path = Value::from(zbus::ObjectPath::try_from(session.clone()).expect("a path"));
        let values = vec![path, array("(sa{sv})", vec![wanted]), Value::from("")];
        let (code, results) = client
            .request("GlobalShortcuts", "BindShortcuts", values, [])
            .await
            .expect("a request");
        assert_eq!(code, 0);
        assert!(entry(&results, "shortcuts").is_some());
        let asked = machine
            .desktop
            .backend
            .called("GlobalShortcuts.BindShortcuts")
            .await;
        assert_eq!(text(&asked.arguments[1]), text(&created.arguments[1]));

        let pressed = vec![
            owned(&created.arguments[1]),
            Value::from("mute"),
            Value::from(7u64),
            dictionary([]),
        ];
        machine
            .desktop
            .backend
            .emit("GlobalShortcuts", "Activated", pressed)
            .await;
        let (_, told) = client.signal("GlobalShortcuts", "Activated").await;
        assert_eq!(text(&told[0]), session);
        assert_eq!(text(&told[1]), "mute");
        machine.stop().await;
    });
}

#[test]
fn the_persons_name_and_picture_are_told_as_they_allow() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let picture = machine.desktop.file("face.png", "a face");
        machine.desktop.backend.succeed(
            "Account.GetUserInformation",
            [
                ("id", Value::from("user")),
                ("name", Value::from("A Person")),
                (
                    "image",
                    Value::from(format!("file://{}", picture.display())),
                ),
            ],
        );
        let client = machine.client().await;
        let (code, results) = client
            .request(
                "Account",
                "GetUserInformation",
                vec![Value::from("")],
                [("reason", Value::from("to greet"))],
            )
            .await
            .expect("a request");
        assert_eq!(code, 0);
        assert_eq!(entry(&results, "name"), Some(Value::from("A Person")));
        let image = entry(&results, "image").expect("a picture");
        let image = std::path::PathBuf::from(text(&image).strip_prefix("file://").expect("a URI"));
        assert!(image.starts_with(machine.mount()));
        assert_eq!(
            std::fs::read_to_string(&image).expect("a document"),
            "a face"
        );
        assert!(std::fs::write(&image, "another").is_err());
        machine.stop().await;
    });
}

#[test]
fn a_screenshot_is_a_document_and_is_asked_for_by_the_person() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let picture = machine.desktop.file("shot.png", "pixels");
        machine.desktop.backend.succeed(
            "Screenshot.Screenshot",
            [("uri", Value::from(format!("file://{}", picture.display())))],
        );
        let color = Value::from(zbus::Structure::from((1f64, 0.5f64, 0f64)));
        machine
            .desktop
            .backend
            .succeed("Screenshot.PickColor", [("color", owned(&color))]);
        let client = machine.client().await;
        let options = [("interactive", Value::from(false))];
        let (code, results) = client
            .request("Screenshot", "Screenshot", vec![Value::from("")], options)
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let uri = entry(&results, "uri").expect("a picture");
        let path = std::path::PathBuf::from(text(&uri).strip_prefix("file://").expect("a URI"));
        assert!(path.starts_with(machine.mount()));
        assert_eq!(
            std::fs::read_to_string(&path).expect("a document"),
            "pixels"
        );
        if std::env::var_os("SIDEBUS_TEST_PORTAL_ROOT").is_none() {
            let asked = machine
                .desktop
                .backend
                .called("Screenshot.Screenshot")
                .await;
            assert_eq!(
                asked.option(3, "interactive"),
                Some(Value::from(true)),
                "the host cannot tell who asks, so nobody is asked for leave only once"
            );
        }
        let (code, results) = client
            .request("Screenshot", "PickColor", vec![Value::from("")], [])
            .await
            .expect("a request");
        assert_eq!((code, entry(&results, "color")), (0, Some(color)));
        machine.stop().await;
    });
}

#[test]
fn no_program_of_the_guest_is_started_at_login() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let commandline = || Value::from(vec!["sh", "-c", "rm -rf ~"]);
        let error = client
            .open(
                "Background",
                "RequestBackground",
                vec![Value::from("")],
                [
                    ("autostart", Value::from(true)),
                    ("commandline", commandline()),
                ],
            )
            .await
            .expect_err("refused");
        assert_eq!(error.0, "org.freedesktop.portal.Error.NotAllowed");
        let (code, _) = client
            .request(
                "Background",
                "RequestBackground",
                vec![Value::from("")],
                [
                    ("commandline", commandline()),
                    ("reason", Value::from("to sync")),
                ],
            )
            .await
            .expect("a request");
        assert_eq!(code, 0);
        for call in machine.desktop.backend.calls_so_far().await {
            if call.name() == "Background.EnableAutostart" {
                assert_eq!(call.arguments[1], Value::from(false), "{call:?}");
                assert_eq!(
                    call.arguments[2],
                    Value::from(Vec::<String>::new()),
                    "{call:?}"
                );
            }
        }
        machine.stop().await;
    });
}

#[test]
fn a_session_for_the_location_is_the_guests_and_is_closed() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let options = dictionary([
            ("session_handle_token", Value::from("here")),
            ("accuracy", Value::from(2u32)),
        ]);
        // Without GeoClue on the host there is no location; a session there is.
        let created = client
            .call("Location", "CreateSession", vec![options])
            .await;
        let session = match created {
            Ok(answer) => text(&answer[0]).to_owned(),
            Err(error) => testbed::skip!("the host has no locations: {error:?}"),
        };
        assert_eq!(session, format!("{PATH}/session/{}/here", client.sender()));
        let status = machine.portals.as_ref().expect("they run").status().await;
        assert_eq!(status.requests.len(), 1);
        assert_eq!(status.requests[0].kind, "session");
        client
            .call_at(
                DESKTOP,
                &session,
                "org.freedesktop.portal.Session",
                "Close",
                Vec::new(),
            )
            .await
            .expect("it is there");
        let status = machine.portals.as_ref().expect("they run").status().await;
        assert_eq!(status.requests, []);
        machine.stop().await;
    });
}
