//! The document portal as the guest has it, and transfers of files between programs.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use zbus::Fd;

use crate::backend::{Value, array, dictionary, text};
use crate::client::{Client, DOCUMENTS, DOCUMENTS_PATH};
use crate::desktop::Desktop;
use crate::file_chooser::paths;
use crate::machine::Machine;
use crate::{needs_portals, run};

fn fd(file: impl Into<OwnedFd>) -> Value {
    Value::Fd(Fd::Owned(file.into()))
}

fn byte_string(path: &Path) -> Value {
    let mut bytes = path.display().to_string().into_bytes();
    bytes.push(0);
    Value::from(bytes)
}

/// A file of the host that the guest has as a document; gives back the path in the guest.
async fn document(machine: &Machine, client: &Client, file: &Path) -> PathBuf {
    let uri = format!("file://{}", file.display());
    machine
        .desktop
        .backend
        .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
    let values = vec![Value::from(""), Value::from("")];
    let (_, results) = client
        .request("FileChooser", "OpenFile", values, [])
        .await
        .expect("a request");
    paths(&results).remove(0)
}

#[test]
fn the_guest_is_told_where_its_documents_are_and_not_where_the_hosts_files_are() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let place = client
            .call_documents("Documents", "GetMountPoint", Vec::new())
            .await
            .expect("a place");
        assert_eq!(place, [byte_string(&machine.mount())]);
        let file = machine.desktop.file("a.txt", "a");
        let shared = document(&machine, &client, &file).await;
        let id = shared.parent().and_then(Path::file_name).expect("an id");
        let id = Value::from(id.to_string_lossy().into_owned());

        let lookup =
            |path: &Path| client.call_documents("Documents", "Lookup", vec![byte_string(path)]);
        assert_eq!(
            lookup(&shared).await.as_deref(),
            Ok(&[id.try_clone().expect("a text")][..])
        );
        assert_eq!(lookup(&file).await.as_deref(), Ok(&[Value::from("")][..]));
        for (method, values) in [
            ("Info", vec![id.try_clone().expect("a text")]),
            ("List", vec![Value::from("")]),
            (
                "GetHostPaths",
                vec![Value::from(vec![text(&id).to_owned()])],
            ),
        ] {
            let error = client
                .call_documents("Documents", method, values)
                .await
                .expect_err("it would tell where the file is");
            assert_eq!(error.0, "org.freedesktop.DBus.Error.UnknownMethod");
            assert!(error.1.contains("not in the table"), "{}", error.1);
        }

        // What the host has shared is known by its descriptor; what the guest has is not shared.
        let open = File::open(&shared).expect("a document");
        let values = vec![fd(open), Value::from(true), Value::from(false)];
        let added = client.call_documents("Documents", "Add", values).await;
        assert_eq!(added.as_deref(), Ok(&[id.try_clone().expect("a text")][..]));
        let unshared = machine.desktop.file("unshared.txt", "x");
        let values = vec![
            fd(File::open(&unshared).expect("a file")),
            Value::from(true),
            Value::from(false),
        ];
        let error = client
            .call_documents("Documents", "Add", values)
            .await
            .expect_err("it is none of the host's documents");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.NotSupported");
        machine.stop().await;
    });
}

#[test]
fn documents_are_bounded() {
    needs_portals!();
    run(async {
        let machine = Machine::with_policy("[limits]\ndocuments = 1\n").await;
        let client = machine.client().await;
        let first = machine.desktop.file("1", "1");
        document(&machine, &client, &first).await;
        let second = machine.desktop.file("2", "2");
        let uri = format!("file://{}", second.display());
        machine
            .desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        let ended = client
            .request(
                "FileChooser",
                "OpenFile",
                vec![Value::from(""), Value::from("")],
                [],
            )
            .await;
        assert_eq!(ended, Ok((2, dictionary([]))));
        machine.stop().await;
    });
}

#[test]
fn files_are_given_from_program_to_program_and_between_guest_and_host() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let (client, other) = (machine.client().await, machine.client().await);
        let file = machine.desktop.file("dragged.txt", "dragged");
        let shared = document(&machine, &client, &file).await;
        let options = || dictionary([]);

        // A program of the guest gives a file.
        let key = client
            .call_documents("FileTransfer", "StartTransfer", vec![options()])
            .await
            .expect("a key")
            .remove(0);
        let files = array("h", vec![fd(File::open(&shared).expect("a document"))]);
        let key_again = || Value::from(text(&key).to_owned());
        client
            .call_documents(
                "FileTransfer",
                "AddFiles",
                vec![key_again(), files, options()],
            )
            .await
            .expect("it is added");
        // One of the host gets the host's file.
        let host = Client::connect(machine.desktop.bus.address()).await;
        let received = host
            .call_at(
                DOCUMENTS,
                DOCUMENTS_PATH,
                "org.freedesktop.portal.FileTransfer",
                "RetrieveFiles",
                vec![key_again(), options()],
            )
            .await
            .expect("files");
        assert_eq!(received, [Value::from(vec![file.display().to_string()])]);

        // A program of the host gives one, and the guest gets a document.
        let given = machine.desktop.file("given.txt", "given");
        let options_of_host = dictionary([("autostop", Value::from(true))]);
        let key = host
            .call_at(
                DOCUMENTS,
                DOCUMENTS_PATH,
                "org.freedesktop.portal.FileTransfer",
                "StartTransfer",
                vec![options_of_host],
            )
            .await
            .expect("a key")
            .remove(0);
        let key_again = || Value::from(text(&key).to_owned());
        let files = array("h", vec![fd(File::open(&given).expect("a file"))]);
        host.call_at(
            DOCUMENTS,
            DOCUMENTS_PATH,
            "org.freedesktop.portal.FileTransfer",
            "AddFiles",
            vec![key_again(), files, options()],
        )
        .await
        .expect("it is added");
        let received = other
            .call_documents(
                "FileTransfer",
                "RetrieveFiles",
                vec![key_again(), options()],
            )
            .await
            .expect("files")
            .remove(0);
        let received: Vec<String> = received.try_into().expect("strings");
        let received = PathBuf::from(&received[0]);
        assert!(
            received.starts_with(machine.mount()),
            "{}",
            received.display()
        );
        assert_eq!(fs::read_to_string(&received).expect("a document"), "given");
        assert!(
            fs::write(&received, "x").is_err(),
            "it was given to be read"
        );

        let unshared = machine.desktop.file("unshared.txt", "x");
        let key = client
            .call_documents("FileTransfer", "StartTransfer", vec![options()])
            .await
            .expect("a key")
            .remove(0);
        let files = array("h", vec![fd(File::open(&unshared).expect("a file"))]);
        let error = client
            .call_documents("FileTransfer", "AddFiles", vec![key, files, options()])
            .await
            .expect_err("it is none of the guest's documents");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.NotSupported");
        machine.stop().await;
    });
}

#[test]
fn documents_outlive_the_broker_if_the_policy_says_so() {
    needs_portals!();
    run(async {
        let mut desktop = Desktop::start().await;
        for (policy, stays) in [("", false), ("[documents]\npersistent = true\n", true)] {
            let machine = Machine::in_desktop(desktop, policy).await;
            let client = machine.client().await;
            let file = machine.desktop.file(&format!("stays-{stays}"), "x");
            let shared = document(&machine, &client, &file).await;
            assert!(shared.exists());
            // The document portal writes it down when it has time, and whose it is after that.
            let kept = machine
                .desktop
                .dir
                .join("runtime/vm/data/flatpak/db/documents");
            let id = shared.parent().and_then(Path::file_name).expect("an id");
            let has =
                |kept: &[u8], wanted: &[u8]| kept.windows(wanted.len()).any(|part| part == wanted);
            let written = || {
                fs::read(&kept).is_ok_and(|kept| {
                    has(&kept, id.as_encoded_bytes())
                        && has(&kept, machine.documents.app_id().as_bytes())
                })
            };
            while stays && !written() {
                tokio::task::yield_now().await;
            }
            desktop = machine.end().await;
            let machine = Machine::in_desktop(desktop, policy).await;
            assert_eq!(shared.exists(), stays, "{policy}");
            desktop = machine.end().await;
        }
    });
}
