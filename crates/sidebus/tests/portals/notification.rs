//! Notifications: whose they are, their icons, and their actions.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use zbus::{Fd, Structure};

use crate::backend::{Value, array, boxed, dictionary, text};
use crate::desktop::Desktop;
use crate::machine::Machine;
use crate::{needs_portals, run};

/// A red square of 16 by 16.
const PNG: [u8; 82] = [
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52,
    0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x10, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0xf3, 0xff,
    0x61, 0x00, 0x00, 0x00, 0x19, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0xf8, 0xcf, 0xc0, 0xf0,
    0x9f, 0x12, 0xcc, 0x30, 0x6a, 0xc0, 0xa8, 0x01, 0xa3, 0x06, 0x0c, 0x17, 0x03, 0x00, 0x30, 0xc4,
    0xfe, 0x10, 0x8a, 0xc6, 0x4c, 0xe5, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42,
    0x60, 0x82,
];

/// How the host knows a program that does not say what it is.
const APP: &str = "vm.one.unknown";

fn icon(kind: &str, content: Value) -> Value {
    Value::from(Structure::from((kind.to_owned(), content)))
}

/// A sealed memfd, as the crossing makes them.
fn sealed(content: &[u8]) -> OwnedFd {
    let fd =
        memfd_create("icon.png", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    rustix::io::write(&fd, content).expect("room");
    fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )
    .expect("it can be sealed");
    fd
}

#[test]
fn a_notification_is_shown_with_its_icon_and_its_action_comes_back() {
    needs_portals!();
    run(async {
        let desktop = Desktop::start().await;
        let log = desktop.dir.join("decisions");
        let policy = format!("[log]\ndecisions = \"{}\"\n", log.display());
        let machine = Machine::in_desktop(desktop, &policy).await;
        let client = machine.client().await;
        let icons = [
            icon("bytes", Value::from(PNG.to_vec())),
            icon("file-descriptor", Value::Fd(Fd::Owned(sealed(&PNG)))),
            icon("themed", Value::from(vec!["face-smile"])),
        ];
        for icon in icons {
            let button = dictionary([
                ("label", Value::from("Open")),
                ("action", Value::from("open")),
            ]);
            let notification = dictionary([
                ("title", Value::from("A title")),
                ("body", Value::from("A body")),
                ("icon", icon),
                ("default-action", Value::from("app.show")),
                ("buttons", array("a{sv}", vec![button])),
            ]);
            client
                .call(
                    "Notification",
                    "AddNotification",
                    vec![Value::from("n:1"), notification],
                )
                .await
                .expect("it is shown");
            let shown = machine
                .desktop
                .backend
                .called("Notification.AddNotification")
                .await;
            assert_eq!(shown.text(1), format!("{APP}:n:1"));
            assert_eq!(shown.option(2, "title"), Some(Value::from("A title")));
            assert!(shown.option(2, "icon").is_some(), "{shown:?}");
            let action = shown.option(2, "default-action").expect("an action");
            assert!(
                !text(&action).starts_with("app."),
                "the host does not look for the application on its own bus"
            );
            // The person clicks.
            let platform = dictionary([("activation-token", Value::from("focus"))]);
            let parameter = array("v", vec![boxed(platform)]);
            let values = vec![
                Value::from(shown.text(0).to_owned()),
                Value::from(shown.text(1).to_owned()),
                action,
                parameter,
            ];
            machine
                .desktop
                .backend
                .emit("Notification", "ActionInvoked", values)
                .await;
            let (_, told) = client.signal("Notification", "ActionInvoked").await;
            assert_eq!(told[0], Value::from("n:1"));
            assert_eq!(told[1], Value::from("app.show"));
        }
        // A token that the host issued goes back to it, and no other.
        machine
            .desktop
            .backend
            .answer("AppChooser.ChooseApplication", |_| None);
        for token in ["focus", "made-up"] {
            let values = vec![Value::from(""), Value::from("https://example.org/")];
            let options = [
                ("activation_token", Value::from(token)),
                ("ask", Value::from(true)),
            ];
            client
                .open("OpenURI", "OpenURI", values, options)
                .await
                .expect("a request");
        }
        let decisions = std::fs::read_to_string(&log).expect("a log");
        let left_out: Vec<&str> = decisions
            .lines()
            .filter(|line| line.contains("\"key\":\"activation_token\""))
            .collect();
        // Before version 4 the host's portal takes none.
        let takes_tokens = match client.property("OpenURI", "version").await {
            Ok(Value::U32(version)) => version >= 4,
            other => panic!("no version: {other:?}"),
        };
        assert_eq!(
            left_out.len(),
            if takes_tokens { 1 } else { 2 },
            "{decisions}"
        );
        machine.stop().await;
    });
}

#[test]
fn a_notification_is_withdrawn_under_the_id_that_it_was_shown_with() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let add = |id: &str| {
            let notification = dictionary([("title", Value::from("x"))]);
            client.call(
                "Notification",
                "AddNotification",
                vec![Value::from(id.to_owned()), notification],
            )
        };
        add("1").await.expect("it is shown");
        client
            .call("Notification", "RemoveNotification", vec![Value::from("1")])
            .await
            .expect("it is withdrawn");
        let shown = machine
            .desktop
            .backend
            .called("Notification.AddNotification")
            .await;
        let withdrawn = machine
            .desktop
            .backend
            .called("Notification.RemoveNotification")
            .await;
        assert_eq!(withdrawn.text(1), shown.text(1));
        assert_eq!(withdrawn.text(0), shown.text(0));
        machine.stop().await;
    });
}

#[test]
fn the_oldest_notification_goes_for_one_too_many() {
    needs_portals!();
    run(async {
        let machine = Machine::with_policy("[limits]\nnotifications = 2\n").await;
        let client = machine.client().await;
        for id in ["1", "2", "3"] {
            let notification = dictionary([("title", Value::from(id))]);
            client
                .call(
                    "Notification",
                    "AddNotification",
                    vec![Value::from(id), notification],
                )
                .await
                .expect("it is shown");
        }
        let withdrawn = machine
            .desktop
            .backend
            .called("Notification.RemoveNotification")
            .await;
        assert_eq!(withdrawn.text(1), format!("{APP}:1"));
        machine.stop().await;
    });
}

#[test]
fn an_icon_that_is_a_file_of_the_host_is_not_shown_and_the_notification_is() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        for icon in [
            Value::from("/etc/passwd"),
            icon("file", Value::from("file:///etc/passwd")),
            icon("themed", Value::from(vec!["../../etc/passwd"])),
        ] {
            let notification = dictionary([("title", Value::from("x")), ("icon", icon)]);
            client
                .call(
                    "Notification",
                    "AddNotification",
                    vec![Value::from("x"), notification],
                )
                .await
                .expect("it is shown");
            let shown = machine
                .desktop
                .backend
                .called("Notification.AddNotification")
                .await;
            assert_eq!(shown.option(2, "title"), Some(Value::from("x")));
            assert_eq!(shown.option(2, "icon"), None);
        }
        let values = vec![Value::from("x"), dictionary([("title", Value::from(7u32))])];
        let error = client
            .call("Notification", "AddNotification", values)
            .await
            .expect_err("a title is a text");
        assert_eq!(error.0, "org.freedesktop.portal.Error.InvalidArgument");
        machine.stop().await;
    });
}
