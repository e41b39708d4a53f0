//! What programs see that look before they call: versions, introspection, and what is not there.

use std::process::Command;

use testbed::{needs, run_program, tools};

use crate::backend::Value;
use crate::machine::Machine;
use crate::{needs_portals, run};

#[test]
fn a_program_sees_the_portals_that_are_carried_and_no_others() {
    needs_portals!();
    needs!(tools::GDBUS, tools::BUSCTL);
    run(async {
        let machine = Machine::start().await;
        let address = machine.address.clone();
        let seen = tokio::task::spawn_blocking(move || {
            let mut gdbus = Command::new("gdbus");
            gdbus.args([
                "introspect",
                "--session",
                "--dest=org.freedesktop.portal.Desktop",
            ]);
            gdbus.arg("--object-path=/org/freedesktop/portal/desktop");
            let gdbus = run_program(gdbus, &address).success();
            let mut busctl = Command::new("busctl");
            busctl.args(["--user", "introspect", "org.freedesktop.portal.Desktop"]);
            busctl.arg("/org/freedesktop/portal/desktop");
            let busctl = run_program(busctl, &address).success();
            let mut tree = Command::new("busctl");
            tree.args(["--user", "tree", "org.freedesktop.portal.Documents"]);
            let tree = run_program(tree, &address).success();
            (gdbus, busctl, tree)
        });
        let (gdbus, busctl, tree) = seen.await.expect("a thread");
        for seen in [&gdbus, &busctl] {
            for there in [
                "FileChooser",
                "Settings",
                "Notification",
                "Secret",
                "GlobalShortcuts",
            ] {
                assert!(
                    seen.contains(&format!("org.freedesktop.portal.{there}")),
                    "{seen}"
                );
            }
            for absent in [
                "ScreenCast",
                "RemoteDesktop",
                "Camera",
                "DynamicLauncher",
                "Realtime",
            ] {
                assert!(!seen.contains(absent), "{absent} in {seen}");
            }
        }
        assert!(
            gdbus.contains("OpenFile(") && gdbus.contains("readonly u version = "),
            "{gdbus}"
        );
        assert!(tree.contains("/org/freedesktop/portal/documents"), "{tree}");
        machine.stop().await;
    });
}

#[test]
fn what_is_not_carried_says_so() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        for (portal, method) in [
            ("ScreenCast", "CreateSession"),
            ("RemoteDesktop", "CreateSession"),
            ("InputCapture", "CreateSession"),
            ("Camera", "AccessCamera"),
            ("Clipboard", "RequestClipboard"),
            ("Usb", "CreateSession"),
            ("Realtime", "MakeThreadRealtimeWithPID"),
            ("DynamicLauncher", "PrepareInstall"),
        ] {
            let error = client
                .call(portal, method, Vec::new())
                .await
                .expect_err("refused");
            assert_eq!(
                error.0, "org.freedesktop.portal.Error.NotAllowed",
                "{portal}"
            );
            assert!(
                error.1.contains("not carried into a virtual machine"),
                "{}",
                error.1
            );
            assert!(client.property(portal, "version").await.is_err());
        }
        let error = client
            .call("Telepathy", "ReadMind", Vec::new())
            .await
            .expect_err("no such portal");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.UnknownInterface");
        assert!(error.1.contains("not in the table"), "{}", error.1);
        let error = client
            .call("FileChooser", "OpenFiles", Vec::new())
            .await
            .expect_err("no such method");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.UnknownMethod");
        assert!(error.1.contains("not in the table"), "{}", error.1);
        machine.stop().await;
    });
}

#[test]
fn versions_are_the_hosts_lowered_to_what_is_carried() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let host = crate::client::Client::connect(machine.desktop.bus.address()).await;
        for interface in sidebus::portals::table::carried() {
            let portal = interface.short();
            if matches!(portal, "Documents" | "FileTransfer") {
                continue;
            }
            let here = client.property(portal, "version").await;
            match host.property(portal, "version").await {
                Ok(Value::U32(there)) => {
                    assert_eq!(
                        here,
                        Ok(Value::from(there.min(interface.version))),
                        "{portal}"
                    );
                }
                Ok(other) => panic!("{portal}: {other:?}"),
                Err(_) => assert!(here.is_err(), "{portal}: {here:?}"),
            }
        }
        machine.stop().await;
    });
}
