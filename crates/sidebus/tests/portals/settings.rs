//! The host's settings: those on the list, and their changes.

use crate::backend::{Value, boxed, entry, text};
use crate::machine::Machine;
use crate::{needs_portals, run};

/// The namespaces of an `a{sa{sv}}`.
fn namespaces(all: &Value) -> Vec<String> {
    let Value::Dict(dict) = all else {
        panic!("expected a dictionary, got {all:?}");
    };
    dict.iter().map(|(key, _)| text(key).to_owned()).collect()
}

#[test]
fn settings_on_the_list_are_read_and_others_are_not_there() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let all = client
            .call(
                "Settings",
                "ReadAll",
                vec![Value::from(Vec::<String>::new())],
            )
            .await
            .expect("settings");
        assert_eq!(namespaces(&all[0]), ["org.freedesktop.appearance"]);

        let read = |namespace: &str, key: &str| {
            let names = vec![
                Value::from(namespace.to_owned()),
                Value::from(key.to_owned()),
            ];
            client.call("Settings", "Read", names)
        };
        let scheme = read("org.freedesktop.appearance", "color-scheme").await;
        assert_eq!(
            scheme.expect("a setting"),
            [boxed(boxed(Value::from(1u32)))]
        );
        let refused = read("org.example.private", "history")
            .await
            .expect_err("not on the list");
        assert_eq!(refused.0, "org.freedesktop.portal.Error.NotFound");
        assert!(
            refused.1.contains("settings.namespaces"),
            "it says the remedy: {}",
            refused.1
        );
        machine.stop().await;
    });
}

#[test]
fn a_setting_that_changes_is_told_to_who_asked_and_only_if_it_is_on_the_list() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let (client, other) = (machine.client().await, machine.client().await);
        // Only the first one has ever called the portal.
        client
            .property("Settings", "version")
            .await
            .expect("a version");
        for client in [&client, &other] {
            client.subscribe("org.freedesktop.portal.Settings").await;
        }
        for (namespace, value) in [
            ("org.example.private", Value::from("secret")),
            ("org.freedesktop.appearance", Value::from(2u32)),
        ] {
            let changed = vec![Value::from(namespace), Value::from("key"), boxed(value)];
            machine
                .desktop
                .backend
                .emit("Settings", "SettingChanged", changed)
                .await;
        }
        for client in [&client, &other] {
            let (path, values) = client.signal("Settings", "SettingChanged").await;
            assert_eq!(path, "/org/freedesktop/portal/desktop");
            assert_eq!(
                values,
                [
                    Value::from("org.freedesktop.appearance"),
                    Value::from("key"),
                    boxed(Value::from(2u32))
                ]
            );
        }
        machine.stop().await;
    });
}

#[test]
fn the_list_of_namespaces_is_the_policys() {
    needs_portals!();
    run(async {
        let machine = Machine::with_policy("[settings]\nnamespaces = [\"org.example.*\"]").await;
        let client = machine.client().await;
        let all = client
            .call("Settings", "ReadAll", vec![Value::from(vec!["org.*"])])
            .await
            .expect("settings");
        assert_eq!(namespaces(&all[0]), ["org.example.private"]);
        let Value::Dict(dict) = &all[0] else {
            unreachable!("looked at above");
        };
        let (_, values) = dict.iter().next().expect("one");
        assert_eq!(
            entry(values, "history"),
            Some(Value::from("what the person did"))
        );
        machine.stop().await;
    });
}
