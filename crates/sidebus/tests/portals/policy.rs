//! What the policy file forbids.

use crate::backend::Value;
use crate::desktop::Desktop;
use crate::machine::Machine;
use crate::{needs_portals, run};

#[test]
fn a_portal_that_is_denied_is_not_there_and_the_error_names_the_remedy() {
    needs_portals!();
    run(async {
        let machine = Machine::with_policy("[portals]\ndeny = [\"FileChooser\"]\n").await;
        let client = machine.client().await;
        let values = vec![Value::from(""), Value::from("")];
        let error = client
            .open("FileChooser", "OpenFile", values, [])
            .await
            .expect_err("denied");
        assert_eq!(error.0, "org.freedesktop.portal.Error.NotAllowed");
        assert!(error.1.contains("broker's configuration"), "{}", error.1);
        assert!(client.property("FileChooser", "version").await.is_err());
        assert!(client.property("Settings", "version").await.is_ok());
        machine.stop().await;
    });
}

#[test]
fn uris_are_opened_by_their_scheme_and_files_never() {
    needs_portals!();
    run(async {
        let desktop = Desktop::start().await;
        let log = desktop.dir.join("decisions");
        let policy = format!(
            "[open_uri]\nschemes = [\"https\"]\n[log]\ndecisions = \"{}\"\nrefused_only = true\n",
            log.display()
        );
        let machine = Machine::in_desktop(desktop, &policy).await;
        let client = machine.client().await;
        machine
            .desktop
            .backend
            .answer("AppChooser.ChooseApplication", |_| None);
        let open = |uri: &str| {
            let values = vec![Value::from(""), Value::from(uri.to_owned())];
            client.open("OpenURI", "OpenURI", values, [("ask", Value::from(true))])
        };
        open("https://example.org/").await.expect("a request");
        machine
            .desktop
            .backend
            .called("AppChooser.ChooseApplication")
            .await;
        for (uri, error) in [
            ("file:///etc/passwd", "NotAllowed"),
            ("FILE:///etc/passwd", "NotAllowed"),
            ("http://example.org/", "NotAllowed"),
            ("x-thunar-open:/x", "NotAllowed"),
            (" file:///etc/passwd", "InvalidArgument"),
            ("/etc/passwd", "InvalidArgument"),
            ("", "InvalidArgument"),
        ] {
            let refused = open(uri).await.expect_err("refused");
            assert_eq!(
                refused.0,
                format!("org.freedesktop.portal.Error.{error}"),
                "{uri}: {}",
                refused.1
            );
        }
        let decisions = std::fs::read_to_string(&log).expect("a log");
        let refused: Vec<&str> = decisions
            .lines()
            .filter(|line| line.contains("\"refused\""))
            .collect();
        assert_eq!(refused.len(), 7, "{decisions}");
        assert!(
            refused[0].contains("\"member\":\"OpenURI\""),
            "{}",
            refused[0]
        );
        machine.stop().await;
    });
}

#[test]
fn a_program_of_the_guest_cannot_be_a_portal() {
    needs_portals!();
    run(async {
        let machine = Machine::with_policy("[guest]\nservices = [\"org.example.*\"]\n").await;
        let client = machine.client().await;
        for name in [
            "org.freedesktop.portal.Desktop",
            "org.freedesktop.portal.Other",
            "org.freedesktop.impl.portal.desktop.x",
            "org.unheard.Of",
        ] {
            assert!(
                client.connection.request_name(name).await.is_err(),
                "{name}"
            );
        }
        client
            .connection
            .request_name("org.example.Service")
            .await
            .expect("the policy allows it");
        machine.stop().await;
    });
}
