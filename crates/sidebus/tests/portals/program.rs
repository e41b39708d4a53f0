//! The program itself: `sidebus-broker --debug-access`, and what a person types at a terminal.

use std::process::Command;

use testbed::{needs, run_program, tools};

use crate::backend::{Value, entry};
use crate::client::Client;
use crate::desktop::Desktop;
use crate::rig::{Broker, BrokerOptions};
use crate::{needs_portals, run};

#[test]
fn a_program_on_the_debugging_socket_chooses_a_file_and_the_status_shows_it() {
    needs_portals!();
    needs!(tools::GDBUS);
    run(async {
        let desktop = Desktop::start().await;
        let options = BrokerOptions {
            host_bus: Some(desktop.bus.address().to_owned()),
            ..BrokerOptions::default()
        };
        let broker = tokio::task::block_in_place(|| Broker::start(&desktop.dir, &options));
        let file = desktop.file("chosen.txt", "before");
        let uri = format!("file://{}", file.display());
        desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        let client = Client::connect(&broker.address()).await;
        let values = vec![Value::from(""), Value::from("Choose")];
        let (code, results) = client
            .request("FileChooser", "OpenFile", values, [])
            .await
            .expect("a request");
        assert_eq!(code, 0);
        assert!(entry(&results, "uris").is_some());
        let path = crate::file_chooser::paths(&results).remove(0);
        std::fs::write(&path, "after").expect("it may be written");
        assert_eq!(std::fs::read_to_string(&file).expect("the file"), "after");

        desktop.backend.answer("FileChooser.SaveFile", |_| None);
        let values = vec![Value::from(""), Value::from("Save")];
        let handle = client
            .open("FileChooser", "SaveFile", values, [])
            .await
            .expect("a request");
        let status = tokio::task::block_in_place(|| broker.status());
        assert_eq!(status["requests"][0]["handle"], handle, "{status}");
        assert_eq!(
            status["documents"][0]["path"],
            file.display().to_string(),
            "{status}"
        );

        let address = broker.address();
        let gdbus = tokio::task::spawn_blocking(move || {
            let mut gdbus = Command::new("gdbus");
            gdbus
                .args(["call", "--session", "--dest=org.freedesktop.portal.Desktop"])
                .args(["--object-path=/org/freedesktop/portal/desktop"])
                .args(["--method=org.freedesktop.portal.Settings.Read"])
                .args(["org.freedesktop.appearance", "color-scheme"]);
            run_program(gdbus, &address).success()
        });
        assert_eq!(gdbus.await.expect("a thread").trim(), "(<<uint32 1>>,)");
    });
}
