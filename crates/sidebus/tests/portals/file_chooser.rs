//! Files that the person chooses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::backend::{Value, entry};
use crate::machine::Machine;
use crate::{needs_portals, run};

fn window_and_title() -> Vec<Value> {
    vec![Value::from("x11:1234"), Value::from("Choose")]
}

/// The paths of `uris` in a Response's results.
#[track_caller]
pub fn paths(results: &Value) -> Vec<PathBuf> {
    let uris: Vec<String> = entry(results, "uris")
        .expect("uris")
        .try_into()
        .expect("strings");
    uris.iter()
        .map(|uri| {
            let path = uri.strip_prefix("file://").expect("a file's URI");
            assert!(
                !path.contains('%'),
                "no test has a name with escapes: {uri}"
            );
            PathBuf::from(path)
        })
        .collect()
}

#[test]
fn a_file_that_was_chosen_is_read_and_written_through_its_document() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let file = machine.desktop.file("chosen.txt", "before");
        let uri = format!("file://{}", file.display());
        machine.desktop.backend.succeed(
            "FileChooser.OpenFile",
            [
                ("uris", Value::from(vec![uri])),
                ("choices", Value::from(vec![("encoding", "utf8")])),
            ],
        );
        let client = machine.client().await;
        let (code, results) = client
            .request("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let path = paths(&results).remove(0);
        assert!(path.starts_with(machine.mount()), "{}", path.display());
        assert_eq!(path.file_name().expect("a name"), "chosen.txt");
        assert_eq!(
            entry(&results, "choices"),
            Some(Value::from(vec![("encoding", "utf8")]))
        );
        assert_eq!(fs::read_to_string(&path).expect("a document"), "before");
        fs::write(&path, "after").expect("it may be written");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "after");

        let call = machine.desktop.backend.called("FileChooser.OpenFile").await;
        assert_eq!(
            call.text(2),
            "",
            "a window of the guest is none of the host"
        );
        machine.stop().await;
    });
}

#[test]
fn a_file_that_may_only_be_read_cannot_be_written_by_the_guest() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let file = machine.desktop.file("chosen.txt", "as it is");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("a file of ours");
        let uri = format!("file://{}", file.display());
        machine
            .desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        let client = machine.client().await;
        let (_, results) = client
            .request("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        let path = paths(&results).remove(0);
        assert_eq!(fs::read_to_string(&path).expect("a document"), "as it is");
        assert!(fs::write(&path, "changed").is_err());
        assert_eq!(fs::read_to_string(&file).expect("the file"), "as it is");
        machine.stop().await;
    });
}

#[test]
fn a_directory_that_was_chosen_is_shared_with_what_is_in_it() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let file = machine.desktop.file("project/src/main.c", "int main;");
        let directory = file.parent().and_then(|src| src.parent()).expect("parents");
        let uri = format!("file://{}", directory.display());
        machine
            .desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        let client = machine.client().await;
        let options = [("directory", Value::from(true))];
        let (_, results) = client
            .request("FileChooser", "OpenFile", window_and_title(), options)
            .await
            .expect("a request");
        let shared = paths(&results).remove(0);
        assert_eq!(
            fs::read_to_string(shared.join("src/main.c")).expect("a file of it"),
            "int main;"
        );
        fs::write(shared.join("new"), "made in the guest").expect("a new file");
        assert_eq!(
            fs::read_to_string(directory.join("new")).expect("the file"),
            "made in the guest"
        );

        // Where the guest is now is told to the host as the place that it is there.
        let inside = shared.join("src");
        let mut place = inside.display().to_string().into_bytes();
        place.push(0);
        let options = [("current_folder", Value::from(place))];
        client
            .request("FileChooser", "SaveFile", window_and_title(), options)
            .await
            .expect("a request");
        let call = machine.desktop.backend.called("FileChooser.SaveFile").await;
        let mut expected = directory.join("src").display().to_string().into_bytes();
        expected.push(0);
        assert_eq!(
            call.option(4, "current_folder"),
            Some(Value::from(expected))
        );
        machine.stop().await;
    });
}

#[test]
fn a_file_that_is_not_there_yet_is_saved() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let home = machine.desktop.file("there", "").with_file_name("new.txt");
        let uri = format!("file://{}", home.display());
        machine
            .desktop
            .backend
            .succeed("FileChooser.SaveFile", [("uris", Value::from(vec![uri]))]);
        let client = machine.client().await;
        let options = [
            ("current_name", Value::from("../../new.txt")),
            ("current_folder", Value::from(b"/home/guest\0".to_vec())),
            ("unheard_of", Value::from(true)),
        ];
        let (code, results) = client
            .request("FileChooser", "SaveFile", window_and_title(), options)
            .await
            .expect("a request");
        assert_eq!(code, 0);
        let path = paths(&results).remove(0);
        assert!(!path.exists());
        fs::write(&path, "saved").expect("a new file");
        assert_eq!(fs::read_to_string(&home).expect("the file"), "saved");

        let call = machine.desktop.backend.called("FileChooser.SaveFile").await;
        assert_eq!(call.option(4, "current_name"), Some(Value::from("new.txt")));
        assert_eq!(call.option(4, "current_folder"), None, "it is the guest's");
        machine.stop().await;
    });
}

#[test]
fn several_files_are_saved_into_one_directory() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let one = machine.desktop.file("one", "old");
        let two = one.with_file_name("two");
        let uris: Vec<String> = [&one, &two]
            .iter()
            .map(|path| format!("file://{}", path.display()))
            .collect();
        machine
            .desktop
            .backend
            .succeed("FileChooser.SaveFiles", [("uris", Value::from(uris))]);
        let client = machine.client().await;
        let names = vec![b"one\0".to_vec(), b"two\0".to_vec()];
        let (_, results) = client
            .request(
                "FileChooser",
                "SaveFiles",
                window_and_title(),
                [("files", Value::from(names))],
            )
            .await
            .expect("a request");
        for (path, file) in paths(&results).iter().zip([&one, &two]) {
            fs::write(path, "new").expect("it may be written");
            assert_eq!(fs::read_to_string(file).expect("the file"), "new");
        }

        let error = client
            .open(
                "FileChooser",
                "SaveFiles",
                window_and_title(),
                [("files", Value::from(vec![b"..\0".to_vec()]))],
            )
            .await
            .expect_err("no name of a file");
        assert_eq!(error.0, "org.freedesktop.portal.Error.InvalidArgument");
        machine.stop().await;
    });
}

#[test]
fn a_document_that_is_revoked_is_gone_for_the_guest() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let file = machine.desktop.file("chosen.txt", "x");
        let uri = format!("file://{}", file.display());
        machine
            .desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        let client = machine.client().await;
        let (_, results) = client
            .request("FileChooser", "OpenFile", window_and_title(), [])
            .await
            .expect("a request");
        let path = paths(&results).remove(0);
        assert!(path.exists());
        let listed = machine
            .portals
            .as_ref()
            .expect("they run")
            .status()
            .await
            .documents;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].path, file.display().to_string());
        let id = path
            .parent()
            .and_then(|dir| dir.file_name())
            .expect("an id");
        let id = Value::from(id.to_string_lossy().into_owned());
        client
            .call_documents("Documents", "Delete", vec![id])
            .await
            .expect("the guest may give it back");
        assert!(!path.exists());
        assert!(file.exists());
        machine.stop().await;
    });
}
