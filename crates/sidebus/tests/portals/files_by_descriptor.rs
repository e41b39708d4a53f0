//! What comes by a file descriptor: files that are opened, mailed, printed, thrown away, and a secret in a pipe.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};
use zbus::Fd;

use crate::backend::{Value, array, dictionary, entry, text};
use crate::client::Client;
use crate::file_chooser::paths;
use crate::machine::Machine;
use crate::{needs_portals, run};

fn fd(file: impl Into<OwnedFd>) -> Value {
    Value::Fd(Fd::Owned(file.into()))
}

fn memfd(name: &str, content: &str) -> File {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).expect("a memfd"));
    file.write_all(content.as_bytes())
        .and_then(|()| file.rewind())
        .expect("room");
    file
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

/// What is behind a `file:` URI, or a path: the portal for mail has used both.
fn behind(uri: &str) -> (PathBuf, String) {
    let path = PathBuf::from(uri.strip_prefix("file://").unwrap_or(uri));
    let content = fs::read_to_string(&path).expect("a file");
    (path, content)
}

#[test]
fn a_secret_comes_through_a_pipe() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        machine
            .desktop
            .backend
            .answer("Secret.RetrieveSecret", |call| {
                let Value::Fd(into) = &call.arguments[2] else {
                    panic!("a descriptor: {call:?}");
                };
                let mut into = File::from(
                    std::os::fd::AsFd::as_fd(into)
                        .try_clone_to_owned()
                        .expect("descriptors are left"),
                );
                into.write_all(b"a secret").expect("a pipe");
                Some(vec![Value::from(0u32), dictionary([])])
            });
        let client = machine.client().await;
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let (code, _) = client
            .request("Secret", "RetrieveSecret", vec![fd(writer)], [])
            .await
            .expect("a request");
        assert_eq!(code, 0);
        // The backend's record of the call has a copy.
        drop(
            machine
                .desktop
                .backend
                .called("Secret.RetrieveSecret")
                .await,
        );
        let read = tokio::task::spawn_blocking(move || {
            let mut secret = String::new();
            // It ends when nobody on the way holds a copy any more.
            reader.read_to_string(&mut secret).map(|_| secret)
        });
        assert_eq!(read.await.expect("a thread").expect("a pipe"), "a secret");

        let error = client
            .open("Secret", "RetrieveSecret", vec![fd(memfd("x", ""))], [])
            .await
            .expect_err("it is no pipe");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.NotSupported");
        machine.stop().await;
    });
}

#[test]
fn pages_are_printed_from_whatever_can_be_read() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let (sender, printed) = std::sync::mpsc::channel();
        machine.desktop.backend.answer("Print.Print", move |call| {
            let Value::Fd(pages) = &call.arguments[4] else {
                panic!("a descriptor: {call:?}");
            };
            let mut pages = File::from(
                std::os::fd::AsFd::as_fd(pages)
                    .try_clone_to_owned()
                    .expect("descriptors are left"),
            );
            let mut text = String::new();
            pages.read_to_string(&mut text).expect("pages");
            sender.send(text).expect("the test waits");
            Some(vec![Value::from(0u32), dictionary([])])
        });
        machine.desktop.backend.answer("Print.PreparePrint", |_| {
            let settings = dictionary([
                ("n-copies", Value::from("2")),
                ("output-uri", Value::from("file:///home/person/secret.pdf")),
            ]);
            Some(vec![
                Value::from(0u32),
                dictionary([
                    ("settings", settings),
                    ("page-setup", dictionary([("Width", Value::from(210f64))])),
                    ("token", Value::from(7u32)),
                ]),
            ])
        });
        let client = machine.client().await;
        let settings = dictionary([
            ("n-copies", Value::from("2")),
            ("output-uri", Value::from("file:///home/person/.bashrc")),
        ]);
        let page_setup = dictionary([("Width", Value::from(210f64))]);
        let values = vec![Value::from(""), Value::from("A page"), settings, page_setup];
        let (code, results) = client
            .request("Print", "PreparePrint", values, [])
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let chosen = entry(&results, "settings").expect("settings");
        assert_eq!(entry(&chosen, "n-copies"), Some(Value::from("2")));
        assert_eq!(
            entry(&chosen, "output-uri"),
            None,
            "where the person prints to is not the guest's business"
        );
        let asked = machine.desktop.backend.called("Print.PreparePrint").await;
        assert_eq!(asked.option(4, "output-uri"), None, "nor its choice");

        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(b"in a pipe").expect("room");
        drop(writer);
        for (pages, expected) in [
            (fd(memfd("page", "in a memfd")), "in a memfd"),
            (fd(reader), "in a pipe"),
        ] {
            let values = vec![Value::from(""), Value::from("A page"), pages];
            let options = [("token", Value::from(7u32))];
            let (code, _) = client
                .request("Print", "Print", values, options)
                .await
                .expect("a request");
            assert_eq!(code, 0);
            assert_eq!(printed.recv().expect("pages"), expected);
        }
        machine.stop().await;
    });
}

#[test]
fn a_mail_has_the_guests_files_as_files_of_the_host() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let file = machine.desktop.file("shared.txt", "of the host");
        let shared = document(&machine, &client, &file).await;
        machine.desktop.backend.succeed("Email.ComposeEmail", []);
        let attachments = array(
            "h",
            vec![
                fd(memfd("report.txt", "of the guest")),
                fd(File::open(&shared).expect("a document")),
            ],
        );
        let options = [
            ("subject", Value::from("Hello")),
            ("attachment_fds", attachments),
        ];
        let (code, _) = client
            .request("Email", "ComposeEmail", vec![Value::from("")], options)
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let composed = machine.desktop.backend.called("Email.ComposeEmail").await;
        let attached: Vec<String> = composed
            .option(3, "attachments")
            .expect("attachments")
            .try_into()
            .expect("strings");
        let attached: Vec<_> = attached.iter().map(|uri| behind(uri)).collect();
        assert_eq!(attached[0].1, "of the guest");
        assert_eq!(attached[0].0.file_name().expect("a name"), "report.txt");
        assert_eq!(attached[1], (file, "of the host".to_owned()));
        machine.stop().await;
        assert!(!attached[0].0.exists(), "it goes with the broker");
    });
}

#[test]
fn a_wallpaper_is_a_file_of_the_host_or_becomes_one() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let values = vec![Value::from(""), fd(memfd("sea.png", "waves"))];
        let (code, _) = client
            .request(
                "Wallpaper",
                "SetWallpaperFile",
                values,
                [("set-on", Value::from("both"))],
            )
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let set = machine
            .desktop
            .backend
            .called("Wallpaper.SetWallpaperURI")
            .await;
        let (path, content) = behind(set.text(3));
        assert_eq!(content, "waves");
        assert_eq!(path.file_name().expect("a name"), "sea.png");

        let file = Value::from("file:///etc/passwd");
        let error = client
            .open(
                "Wallpaper",
                "SetWallpaperURI",
                vec![Value::from(""), file],
                [],
            )
            .await
            .expect_err("a file of the host");
        assert_eq!(error.0, "org.freedesktop.portal.Error.NotAllowed");
        machine.stop().await;
    });
}

#[test]
fn a_document_is_thrown_away_if_it_may_be_written() {
    needs_portals!();
    run(async {
        use std::os::unix::fs::PermissionsExt as _;
        let machine = Machine::start().await;
        let client = machine.client().await;
        let file = machine.desktop.file("old.txt", "old");
        let shared = document(&machine, &client, &file).await;
        let open = File::options()
            .read(true)
            .write(true)
            .open(&shared)
            .expect("a document");
        let answer = client
            .call("Trash", "TrashFile", vec![fd(open)])
            .await
            .expect("an answer");
        assert_eq!(answer, [Value::from(1u32)]);
        assert!(!file.exists());

        let file = machine.desktop.file("kept.txt", "kept");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("a file of ours");
        let shared = document(&machine, &client, &file).await;
        let open = File::open(&shared).expect("a document");
        let error = client
            .call("Trash", "TrashFile", vec![fd(open)])
            .await
            .expect_err("read only");
        assert_eq!(error.0, "org.freedesktop.portal.Error.NotAllowed");
        let error = client
            .call("Trash", "TrashFile", vec![fd(memfd("x", "x"))])
            .await
            .expect_err("nothing of the host");
        assert_eq!(error.0, "org.freedesktop.DBus.Error.NotSupported");
        assert!(file.exists());
        machine.stop().await;
    });
}

#[test]
fn a_file_is_opened_on_the_host_by_its_descriptor() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        let file = machine.desktop.file("shared.txt", "of the host");
        let shared = document(&machine, &client, &file).await;
        machine
            .desktop
            .backend
            .answer("AppChooser.ChooseApplication", |_| {
                let chosen = [("choice", Value::from("org.example.Opener"))];
                Some(vec![Value::from(0u32), dictionary(chosen)])
            });
        for (descriptor, name) in [
            (fd(File::open(&shared).expect("a document")), "shared.txt"),
            (fd(memfd("notes.txt", "of the guest")), "notes.txt"),
        ] {
            let values = vec![Value::from(""), descriptor];
            client
                .request("OpenURI", "OpenFile", values, [("ask", Value::from(true))])
                .await
                .expect("a request");
            let asked = machine
                .desktop
                .backend
                .called("AppChooser.ChooseApplication")
                .await;
            let shown = asked
                .option(4, "filename")
                .or_else(|| asked.option(4, "uri"));
            assert!(
                shown
                    .as_ref()
                    .is_some_and(|shown| text(shown).ends_with(name)),
                "{asked:?}"
            );
        }
        machine.stop().await;
    });
}
