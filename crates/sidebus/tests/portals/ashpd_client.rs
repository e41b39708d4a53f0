//! ashpd as the client: what programs in Rust use. It has a D-Bus library of its own version, and compares the handles
//! that it gets with those that it expects.

use std::io::Read as _;

use ashpd::desktop::account::{AccountProxy, UserInformationOptions};
use ashpd::desktop::file_chooser::{FileChooserProxy, OpenFileOptions, SelectedFiles};
use ashpd::desktop::notification::{Notification, NotificationProxy};
use ashpd::desktop::secret::{RetrieveOptions, Secret};
use ashpd::desktop::settings::{ColorScheme, Settings};
use ashpd::zbus::Connection;
use ashpd::zbus::connection::Builder;
use futures_util::StreamExt as _;

use crate::backend::{Value, boxed, dictionary};
use crate::machine::Machine;
use crate::{needs_portals, run};

async fn connect(machine: &Machine) -> Connection {
    Builder::address(machine.address.as_str())
        .expect("an address")
        .build()
        .await
        .expect("the machine's bus")
}

#[test]
fn ashpd_opens_files_and_learns_that_the_person_cancelled() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let file = machine.desktop.file("a file.txt", "chosen");
        let uri = format!("file://{}", file.display()).replace(' ', "%20");
        machine
            .desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        let connection = connect(&machine).await;
        let selected = SelectedFiles::open_file()
            .title("Choose")
            .multiple(true)
            .connection(Some(connection.clone()))
            .send()
            .await
            .expect("a request")
            .response()
            .expect("files");
        let uri = selected.uris()[0].as_str().replace("%20", " ");
        let path = uri.strip_prefix("file://").expect("a file's URI");
        assert_eq!(std::fs::read_to_string(path).expect("a document"), "chosen");

        machine.desktop.backend.answer("FileChooser.OpenFile", |_| {
            Some(vec![Value::from(1u32), dictionary([])])
        });
        let cancelled = FileChooserProxy::with_connection(connection)
            .await
            .expect("a portal")
            .open_file(None, "Choose", OpenFileOptions::default())
            .await
            .expect("a request")
            .response();
        assert!(
            matches!(
                cancelled,
                Err(ashpd::Error::Response(
                    ashpd::desktop::ResponseError::Cancelled
                ))
            ),
            "{cancelled:?}"
        );
        machine.stop().await;
    });
}

#[test]
fn ashpd_follows_the_colour_scheme() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let settings = Settings::with_connection(connect(&machine).await)
            .await
            .expect("a portal");
        let mut changes = settings
            .receive_color_scheme_changed()
            .await
            .expect("a subscription");
        let scheme: u32 = settings
            .read("org.freedesktop.appearance", "color-scheme")
            .await
            .expect("a setting");
        assert_eq!(scheme, 1);
        let changed = vec![
            Value::from("org.freedesktop.appearance"),
            Value::from("color-scheme"),
            boxed(Value::from(2u32)),
        ];
        machine
            .desktop
            .backend
            .emit("Settings", "SettingChanged", changed)
            .await;
        assert_eq!(changes.next().await, Some(ColorScheme::PreferLight));
        machine.stop().await;
    });
}

#[test]
fn ashpd_notifies_and_retrieves_a_secret_and_a_name() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let backend = &machine.desktop.backend;
        let connection = connect(&machine).await;
        let notifications = NotificationProxy::with_connection(connection.clone())
            .await
            .expect("a portal");
        let mut invoked = notifications
            .receive_action_invoked()
            .await
            .expect("a subscription");
        let notification = Notification::new("A title")
            .body("A body")
            .default_action("open");
        notifications
            .add_notification("one", notification)
            .await
            .expect("it is shown");
        let shown = backend.called("Notification.AddNotification").await;
        let values = vec![
            Value::from(shown.text(0).to_owned()),
            Value::from(shown.text(1).to_owned()),
            Value::from("open"),
            crate::backend::array("v", Vec::new()),
        ];
        backend.emit("Notification", "ActionInvoked", values).await;
        let action = invoked.next().await.expect("an action");
        assert_eq!((action.id(), action.name()), ("one", "open"));

        backend.answer("Secret.RetrieveSecret", |call| {
            let Value::Fd(into) = &call.arguments[2] else {
                panic!("a descriptor: {call:?}");
            };
            rustix::io::write(into, b"a secret").expect("a pipe");
            Some(vec![Value::from(0u32), dictionary([])])
        });
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        Secret::with_connection(connection.clone())
            .await
            .expect("a portal")
            .retrieve(&writer, RetrieveOptions::default())
            .await
            .expect("a request")
            .response()
            .expect("a secret");
        drop(writer);
        let mut secret = [0; 8];
        reader.read_exact(&mut secret).expect("a pipe");
        assert_eq!(&secret, b"a secret");

        let picture = machine.desktop.file("face.png", "a face");
        backend.succeed(
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
        let person = AccountProxy::with_connection(connection)
            .await
            .expect("a portal")
            .user_information(None, UserInformationOptions::default())
            .await
            .expect("a request")
            .response()
            .expect("a person");
        assert_eq!(person.name(), "A Person");
        machine.stop().await;
    });
}
