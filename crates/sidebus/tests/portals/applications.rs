//! Who asks: how the host knows the guest's programs.

use crate::backend::{Value, dictionary};
use crate::client::{DESKTOP, PATH};
use crate::machine::Machine;
use crate::{needs_portals, run};

#[test]
fn a_program_that_says_what_it_is_is_known_by_that_below_the_machines_name() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let register = |id: &str| {
            let values = vec![Value::from(id.to_owned()), dictionary([])];
            let registry = "org.freedesktop.host.portal.Registry";
            client.call_at(DESKTOP, PATH, registry, "Register", values)
        };
        let error = register("../../x").await.expect_err("no id");
        assert_eq!(error.0, "org.freedesktop.portal.Error.InvalidArgument");
        register("org.example.Editor")
            .await
            .expect("it is known now");
        let values = vec![Value::from("1"), dictionary([("title", Value::from("x"))])];
        client
            .call("Notification", "AddNotification", values)
            .await
            .expect("it is shown");
        let shown = machine
            .desktop
            .backend
            .called("Notification.AddNotification")
            .await;
        assert_eq!(shown.text(1), "vm.one.org.example.Editor:1");
        // The host's portal takes ids from 1.20 on.
        let known = shown.text(0);
        let desktop_file = machine
            .desktop
            .dir
            .join("data/applications/vm.one.org.example.Editor.desktop");
        if std::env::var_os("SIDEBUS_TEST_PORTAL_ROOT").is_some() {
            assert_eq!(known, "vm.one.org.example.Editor");
            let text = std::fs::read_to_string(&desktop_file).expect("a desktop file");
            assert!(text.contains("Name=org.example.Editor (one)"), "{text}");
        } else {
            assert!(
                ["", "vm.one.org.example.Editor"].contains(&known),
                "{known}"
            );
        }
        assert!(
            register("org.example.Other").await.is_err(),
            "once is enough"
        );
        machine.stop().await;
        assert!(!desktop_file.exists(), "it goes with the broker");
    });
}

#[test]
fn an_action_of_a_notification_that_an_application_exports_is_activated_there() {
    needs_portals!();
    run(async {
        let machine = Machine::with_policy("[guest]\nservices = [\"org.example.*\"]\n").await;
        let client = machine.client().await;
        let values = vec![Value::from("org.example.Editor"), dictionary([])];
        client
            .call_at(
                DESKTOP,
                PATH,
                "org.freedesktop.host.portal.Registry",
                "Register",
                values,
            )
            .await
            .expect("it is known now");
        // The application's own object, on the machine's bus.
        let (sender, activated) = std::sync::mpsc::channel();
        let application = zbus::connection::Builder::address(machine.address.as_str())
            .serve_at("/org/example/Editor", Application(sender))
            .name("org.example.Editor")
            .build()
            .await
            .expect("an application of the guest");
        let notification = dictionary([
            ("title", Value::from("x")),
            ("default-action", Value::from("app.show")),
            ("default-action-target", Value::from(7u32)),
        ]);
        client
            .call(
                "Notification",
                "AddNotification",
                vec![Value::from("1"), notification],
            )
            .await
            .expect("it is shown");
        let shown = machine
            .desktop
            .backend
            .called("Notification.AddNotification")
            .await;
        let parameter = crate::backend::array("v", vec![crate::backend::boxed(Value::from(7u32))]);
        let values = vec![
            Value::from(shown.text(0).to_owned()),
            Value::from(shown.text(1).to_owned()),
            shown.option(2, "default-action").expect("an action"),
            parameter,
        ];
        machine
            .desktop
            .backend
            .emit("Notification", "ActionInvoked", values)
            .await;
        let told =
            tokio::task::spawn_blocking(move || activated.recv_timeout(testbed::deadline::LIMIT));
        let told = told.await.expect("a thread").expect("it is activated");
        assert_eq!(told, ("show".to_owned(), vec![7]));
        drop(application);
        machine.stop().await;
    });
}

/// An application that exports actions.
struct Application(std::sync::mpsc::Sender<(String, Vec<u32>)>);

#[zbus::interface(name = "org.freedesktop.Application")]
impl Application {
    fn activate_action(
        &self,
        name: &str,
        parameter: Vec<zbus::OwnedVariant>,
        _platform_data: std::collections::HashMap<String, zbus::OwnedVariant>,
    ) {
        let numbers = parameter
            .into_iter()
            .map(|value| u32::try_from(value).expect("a number"))
            .collect();
        self.0
            .send((name.to_owned(), numbers))
            .expect("the test waits");
    }
}
