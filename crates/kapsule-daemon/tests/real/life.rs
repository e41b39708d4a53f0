//! The life of a container, from its making to its end, and what is told of it.

use std::collections::HashMap;
use std::io::{Read, Seek};

use testbed::machine::{ALICE, BOB};
use testbed::{Machine, or_skip};
use zbus::{OwnedFd, OwnedObjectPath, OwnedVariant, Variant};

use super::interface::is_as_written;
use super::rig::{Person, Rig, plain};

type Row = (String, String, String, String, String);

/// Everybody may use his own; images may be imported, and nothing else of what is others'.
const RULES: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.kde.kapsule.enter-container") return polkit.Result.YES;
    if (action.lookup("operation") == "import_image" && action.lookup("image") == "again") return polkit.Result.YES;
    if (action.id.indexOf("org.kde.kapsule.") == 0) return polkit.Result.NO;
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_made_used_and_deleted() {
    let machine = or_skip!(Machine::start());
    let mut rig = or_skip!(Rig::start(&machine, RULES));
    let (alice, bob) = (rig.person(&ALICE).await, rig.person(&BOB).await);

    it_is_made_for_its_owner_alone(&rig, &alice).await;
    the_interfaces_are_as_written(&alice).await;
    it_goes_back_to_a_snapshot(&rig, &alice).await;
    it_is_copied_and_renamed(&rig, &alice).await;
    it_is_saved_and_loaded_without_its_rights(&rig, &alice, &bob).await;
    images_come_and_are_missed(&rig, &alice).await;
    what_is_cancelled_leaves_nothing(&rig, &alice).await;
    what_a_dead_daemon_leaves_half_made_goes(&mut rig).await;

    // It ends: with force while it runs, and nothing of it is left.
    let alice = rig.person(&ALICE).await;
    let (error, text) = alice
        .done("DeleteContainer", &("box", false))
        .await
        .expect_err("it runs");
    assert_eq!(error, "Busy", "{text}");
    assert!(text.contains("kapsule stop box"), "{text}");
    alice
        .done("DeleteContainer", &("box", true))
        .await
        .expect("it is deleted");
    let (error, _) = alice
        .call::<_, (Row,)>("GetContainerInfo", &("box",))
        .await
        .expect_err("it is gone");
    assert_eq!(error, "NoSuchContainer");
    assert!(!machine.outside("/run/kapsule-data/containers/box").exists());
}

async fn it_is_made_for_its_owner_alone(rig: &Rig<'_>, alice: &Person) {
    let path: OwnedObjectPath = alice
        .call("CreateContainer", &("box", "trixie", plain()))
        .await
        .expect("it begins");
    // What is being made is no container yet, and its name is taken.
    let rows: Vec<Row> = alice.call("ListContainers", &()).await.expect("listed");
    assert!(rows.is_empty(), "{rows:?}");
    let (error, _) = alice
        .done("CreateContainer", &("box", "trixie", plain()))
        .await
        .expect_err("the name is taken");
    assert!(error == "Busy" || error == "NameTaken", "{error}");
    alice.end(&path).await.expect("it is made");

    let rows: Vec<Row> = alice.call("ListContainers", &()).await.expect("listed");
    let (name, status, image, _, mode) = &rows[0];
    assert_eq!(
        (
            name.as_str(),
            status.as_str(),
            image.as_str(),
            mode.as_str()
        ),
        ("box", "Running", "trixie", "DbusMux")
    );
    assert_eq!(rig.config("box", "user.kapsule.owner"), "1000");
    assert_eq!(rig.config("box", "user.kapsule.unfinished"), "");
    assert_eq!(
        rig.config("box", "raw.idmap"),
        "uid 1000 1000\ngid 1000 1000"
    );
    assert_eq!(rig.config("box", "security.nesting"), "true");
    assert_eq!(rig.config("box", "security.privileged"), "");
    assert_eq!(
        rig.config("box", "user.kapsule.features"),
        "audio,dbus,gpu,graphics,home"
    );
    assert!(
        rig.config("box", "user.kapsule.left-out")
            .contains("graphics (wayland): this host has no WAYLAND_DISPLAY")
    );
    let is_there: bool = alice
        .call("IsUserSetup", &("box", 1000_u32))
        .await
        .expect("it answers");
    assert!(is_there, "alice has an account inside");

    // How far it was has been told.
    let heard = alice.heard();
    let has = |member: &str, part: &str| {
        heard
            .iter()
            .any(|(name, body)| name == member && body.contains(part))
    };
    assert!(has("ProgressStarted", "Starting"), "{heard:#?}");
    assert!(has("Message", "left out: gpu"), "{heard:#?}");
    assert!(has("Completed", "true"), "{heard:#?}");

    // What it is like.
    let all: HashMap<String, OwnedVariant> =
        alice.call("GetContainer", &("box",)).await.expect("told");
    let text = |key: &str| String::try_from(all[key].try_clone().expect("no fd")).expect("a text");
    assert_eq!(text("home"), "/home/alice");
    assert_eq!(text("status"), "Running");
    assert!(i64::try_from(all["init_pid"].try_clone().expect("no fd")).expect("a number") > 1);
    // An empty name is the default container; that one is not there.
    let config: HashMap<String, String> = alice.call("GetConfig", &()).await.expect("told");
    assert_eq!(config["default_container"], "kapsule");
    let (ok, problem, argv): (bool, String, Vec<String>) = alice
        .call(
            "PrepareEnter",
            &("box", vec!["echo", "-n", "a 'b'"], "/tmp"),
        )
        .await
        .expect("it answers");
    assert!(ok, "{problem}");
    assert_eq!(
        argv,
        [
            "kapsule", "enter", "--cwd", "/tmp", "box", "--", "echo", "-n", "a 'b'"
        ]
    );
}

async fn the_interfaces_are_as_written(alice: &Person) {
    is_as_written(alice, "/org/kde/kapsule", "org.kde.kapsule.Manager").await;
    let operations: Vec<OwnedObjectPath> = alice.call("ListOperations", &()).await.expect("listed");
    let operation = operations.first().expect("it is remembered");
    is_as_written(alice, operation.as_str(), "org.kde.kapsule.Operation").await;
    let (_pty, session): (OwnedFd, OwnedObjectPath) = alice
        .call("OpenShell", &("box", vec!["sleep", "60"], plain()))
        .await
        .expect("it opens");
    is_as_written(alice, session.as_str(), "org.kde.kapsule.Session").await;
}

async fn it_goes_back_to_a_snapshot(rig: &Rig<'_>, alice: &Person) {
    let inside = |arguments: &[&str]| {
        let output = rig
            .incus
            .incus(&[&["exec", "box", "--"], arguments].concat());
        output.status.success()
    };
    assert!(inside(&["touch", "/srv/before"]));
    alice
        .done("CreateSnapshot", &("box", "first"))
        .await
        .expect("made");
    assert!(inside(&["touch", "/srv/after"]));
    let (error, _) = alice
        .done("CreateSnapshot", &("box", "first"))
        .await
        .expect_err("there is one");
    assert_eq!(error, "NameTaken");
    let snapshots: Vec<(String, u64, bool)> = alice
        .call("ListSnapshots", &("box",))
        .await
        .expect("listed");
    assert_eq!(snapshots.len(), 1);
    assert_eq!((snapshots[0].0.as_str(), snapshots[0].2), ("first", false));
    assert!(snapshots[0].1 > 1_700_000_000, "{}", snapshots[0].1);

    alice
        .done("RestoreSnapshot", &("box", "first"))
        .await
        .expect("restored");
    let info: (Row,) = alice
        .call("GetContainerInfo", &("box",))
        .await
        .expect("there");
    assert_eq!(info.0.1, "Running", "it runs as it did before");
    assert!(inside(&["test", "-e", "/srv/before"]));
    assert!(!inside(&["test", "-e", "/srv/after"]));
    assert_eq!(rig.config("box", "user.kapsule.unfinished"), "");
    alice
        .done("DeleteSnapshot", &("box", "first"))
        .await
        .expect("deleted");
    let (error, text) = alice
        .done("RestoreSnapshot", &("box", "first"))
        .await
        .expect_err("gone");
    assert_eq!(error, "NotFound", "{text}");
}

async fn it_is_copied_and_renamed(rig: &Rig<'_>, alice: &Person) {
    alice
        .done("CloneContainer", &("box", "copy"))
        .await
        .expect("copied");
    let source = |name: &str| {
        let output = rig
            .incus
            .incus(&["config", "device", "get", name, "kapsule-run", "source"]);
        output.stdout.trim().to_owned()
    };
    assert_eq!(source("copy"), "/run/kapsule-data/containers/copy/run");
    alice
        .done("RenameContainer", &("copy", "other"))
        .await
        .expect("renamed");
    assert_eq!(source("other"), "/run/kapsule-data/containers/other/run");
    alice
        .done("StartContainer", &("other",))
        .await
        .expect("it starts under its new name");
    a_display_that_comes_is_had_at_the_next_start(rig, alice).await;
    let (error, _) = alice
        .done("RenameContainer", &("other", "again"))
        .await
        .expect_err("it runs");
    assert_eq!(error, "Busy");
    alice
        .done("StopContainer", &("other", true))
        .await
        .expect("stopped");
    alice
        .done("StopContainer", &("other", false))
        .await
        .expect("one that is stopped is left as it is");
    alice
        .done("DeleteContainer", &("other", false))
        .await
        .expect("deleted");
}

/// The container was made without a display, and has one when there is one; and again none.
async fn a_display_that_comes_is_had_at_the_next_start(rig: &Rig<'_>, alice: &Person) {
    let again = async || {
        alice
            .done("StopContainer", &("other", true))
            .await
            .expect("stopped");
        alice
            .done("StartContainer", &("other",))
            .await
            .expect("started");
        let devices = rig.incus.incus(&["config", "device", "list", "other"]);
        devices.stdout.contains("kapsule-graphics-wayland")
    };
    let socket_inside = || {
        let test = ["test", "-S", "/.kapsule/host/wayland-0"];
        rig.incus.incus(&[["exec", "other", "--"], test].concat())
    };
    assert!(!again().await, "there is no display");
    let socket = rig.machine.outside("/run/user/1000/wayland-7");
    let display = std::os::unix::net::UnixListener::bind(&socket).expect("the directory is there");
    std::os::unix::fs::chown(&socket, Some(1000), Some(1000)).expect("we are root");
    assert!(again().await, "there is a display");
    let inside = socket_inside();
    assert!(inside.status.success(), "{}", inside.both());
    assert_eq!(
        rig.config("other", "environment.WAYLAND_DISPLAY"),
        "/.kapsule/host/wayland-0"
    );
    // After a new login it is another socket of the same name: who enters finds it bound anew.
    drop(display);
    std::fs::remove_file(&socket).expect("it is there");
    let display = std::os::unix::net::UnixListener::bind(&socket).expect("the name is free");
    std::os::unix::fs::chown(&socket, Some(1000), Some(1000)).expect("we are root");
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&socket).expect("there"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let entered: (bool, String, Vec<String>) = alice
            .call("PrepareEnter", &("other", Vec::<String>::new(), ""))
            .await
            .expect("it answers");
        assert!(entered.0, "{}", entered.1);
        let bound = [
            "exec",
            "other",
            "--",
            "stat",
            "-c",
            "%i",
            "/.kapsule/host/wayland-0",
        ];
        if rig.incus.incus(&bound).stdout.trim() == inode.to_string() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it is bound anew");
    }
    drop(display);
    std::fs::remove_file(&socket).expect("it is there");
    assert!(!again().await, "it is gone");
    let gone = socket_inside();
    assert!(!gone.status.success(), "{}", gone.both());
    assert!(
        rig.config("other", "user.kapsule.left-out")
            .contains("wayland")
    );
}

/// A backup is made by whoever made it: rights that are written in it are not had by loading it.
async fn it_is_saved_and_loaded_without_its_rights(rig: &Rig<'_>, alice: &Person, bob: &Person) {
    alice
        .done("CloneContainer", &("box", "hostile"))
        .await
        .expect("copied");
    for change in [
        &["config", "set", "hostile", "security.privileged=true"][..],
        &[
            "config",
            "set",
            "hostile",
            "raw.lxc=lxc.apparmor.profile=unconfined",
        ],
        &["config", "set", "hostile", "user.kapsule.owner=1000"],
        &[
            "config",
            "device",
            "add",
            "hostile",
            "kapsule-mount-7",
            "disk",
            "source=/",
            "path=/mnt",
        ],
    ] {
        let output = rig.incus.incus(change);
        assert!(output.status.success(), "{}", output.both());
    }
    let mut file = tempfile::tempfile().expect("a file");
    let passed = |file: &std::fs::File| {
        OwnedFd::from(std::os::fd::OwnedFd::from(file.try_clone().expect("an fd")))
    };
    alice
        .done("SaveContainer", &("hostile", passed(&file)))
        .await
        .expect("saved");
    file.rewind().expect("it is a file");
    bob.done("LoadContainer", &("bobs", passed(&file)))
        .await
        .expect("loaded");
    assert_eq!(rig.config("bobs", "user.kapsule.owner"), "1001");
    assert_eq!(rig.config("bobs", "security.privileged"), "");
    assert_eq!(rig.config("bobs", "raw.lxc"), "");
    assert_eq!(
        rig.config("bobs", "raw.idmap"),
        "uid 1001 1001\ngid 1001 1001"
    );
    let devices = rig
        .incus
        .incus(&["config", "device", "list", "bobs"])
        .stdout;
    assert!(!devices.contains("kapsule-mount-7"), "{devices}");
    bob.done("StartContainer", &("bobs",))
        .await
        .expect("it is a container as any");

    // What is no backup leaves nothing.
    let nonsense = tempfile::tempfile().expect("a file");
    let (status, text) = bob
        .done(
            "LoadContainer",
            &(
                "nonsense",
                OwnedFd::from(std::os::fd::OwnedFd::from(nonsense)),
            ),
        )
        .await
        .expect_err("it is none");
    assert_eq!(status, "failed", "{text}");
    assert!(!rig.instances().contains(&"nonsense".to_owned()));
    for (person, name) in [(alice, "hostile"), (bob, "bobs")] {
        let _ = person.done("StopContainer", &(name, true)).await;
    }
    bob.done("DeleteContainer", &("bobs", true))
        .await
        .expect("deleted");
    rig.incus.incus(&["delete", "hostile", "--force"]);
    file.rewind().expect("it is a file");
    let mut start = [0; 2];
    file.read_exact(&mut start).expect("it is written");
    assert_eq!(start, [0x1f, 0x8b], "a gzipped tarball");
}

async fn images_come_and_are_missed(rig: &Rig<'_>, alice: &Person) {
    // A name that nobody has, and a server that cannot be reached: what, from where, and what there is.
    let (status, text) = alice
        .done("CreateContainer", &("web", "nothing", plain()))
        .await
        .expect_err("no such image");
    assert_eq!(status, "failed");
    assert!(
        text.contains("'nothing'") && text.contains("trixie"),
        "{text}"
    );
    let (status, text) = alice
        .done("CreateContainer", &("web", "nowhere:debian/13", plain()))
        .await
        .expect_err("no network");
    assert_eq!(status, "failed");
    assert!(
        text.contains("https://images.invalid") && text.contains("connected"),
        "{text}"
    );
    let (error, text) = alice
        .done("CreateContainer", &("web", "moon:debian/13", plain()))
        .await
        .expect_err("no such server");
    assert_eq!(error, "ImageNotFound", "{text}");
    assert!(!rig.instances().contains(&"web".to_owned()));

    // From files, with what is to be known of it.
    let files = rig.machine.dir().make_dir("home/alice/again");
    let exported = rig
        .incus
        .incus(&["image", "export", "trixie", "/home/alice/again/"]);
    assert!(exported.status.success(), "{}", exported.both());
    for entry in std::fs::read_dir(&files).expect("there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = if name.ends_with(".tar.xz") || name.ends_with(".xz") {
            "incus.tar.xz"
        } else {
            "rootfs.squashfs"
        };
        std::fs::rename(entry.path(), files.join(wanted)).expect("renamed");
    }
    let text = "[requirements]\nprivileged = \"true\"\n[default_options]\nwithout = [\"home\"]\n";
    std::fs::write(files.join("kapsule.toml"), text).expect("written");
    for entry in std::fs::read_dir(&files).expect("there").flatten() {
        std::os::unix::fs::chown(entry.path(), Some(1000), Some(1000)).expect("we are root");
    }
    std::os::unix::fs::chown(&files, Some(1000), Some(1000)).expect("we are root");
    let (error, text) = alice
        .done("ImportImage", &("/home/alice/again", "another"))
        .await
        .expect_err("rules do not let her");
    assert_eq!(error, "NotAuthorized", "{text}");
    // The same files are the same image, which Incus has once: the first goes.
    let deleted = rig.incus.incus(&["image", "delete", "trixie"]);
    assert!(deleted.status.success(), "{}", deleted.both());
    alice
        .done("ImportImage", &("/home/alice/again", ""))
        .await
        .expect("imported");
    let images: String = alice.call("ListImages", &()).await.expect("listed");
    let images: serde_json::Value = serde_json::from_str(&images).expect("JSON");
    assert_eq!(images[0]["aliases"][0], "again");
    assert_eq!(images[0]["requirements"]["privileged"], "true");
    let (_, text) = alice
        .done("CreateContainer", &("web", "again", plain()))
        .await
        .expect_err("it requires more");
    assert!(text.contains("--privileged"), "{text}");
    let (error, text) = alice
        .done("ImportImage", &("/root", "again2"))
        .await
        .expect_err("she cannot look there");
    assert_eq!(error, "InvalidArgument", "{text}");
    // For those after us.
    let fingerprint = images[0]["fingerprint"].as_str().expect("a text");
    rig.incus
        .incus(&["image", "alias", "create", "trixie", fingerprint]);
    rig.incus.incus(&[
        "image",
        "unset-property",
        fingerprint,
        "requirements.privileged",
    ]);
}

async fn what_is_cancelled_leaves_nothing(rig: &Rig<'_>, alice: &Person) {
    let path: OwnedObjectPath = alice
        .call("CreateContainer", &("doomed", "trixie", plain()))
        .await
        .expect("it begins");
    let bob = rig.person(&BOB).await;
    bob.operation(&path)
        .await
        .call::<_, _, bool>("Cancel", &())
        .await
        .expect_err("it is not his");
    let accepted: bool = alice
        .operation(&path)
        .await
        .call("Cancel", &())
        .await
        .expect("it is hers");
    assert!(accepted);
    let (status, text) = alice.end(&path).await.expect_err("it was cancelled");
    assert_eq!(status, "cancelled", "{text}");
    assert!(!rig.instances().contains(&"doomed".to_owned()));
    let again: bool = alice
        .operation(&path)
        .await
        .call("Cancel", &())
        .await
        .expect("it answers");
    assert!(!again, "it has ended");
    // The name is free again.
    let options = HashMap::from([("without", Variant::from(vec!["home"]))]);
    alice
        .done("CreateContainer", &("doomed", "trixie", options))
        .await
        .expect("made");
    assert_eq!(rig.config("doomed", "user.kapsule.home"), "");
    alice
        .done("DeleteContainer", &("doomed", true))
        .await
        .expect("deleted");
}

async fn what_a_dead_daemon_leaves_half_made_goes(rig: &mut Rig<'_>) {
    let alice = rig.person(&ALICE).await;
    let _: OwnedObjectPath = alice
        .call("CreateContainer", &("orphan", "trixie", plain()))
        .await
        .expect("it begins");
    rig.kill_and_start_daemon();
    let alice = rig.person(&ALICE).await;
    // Whether Incus had begun or not: the name is free, and others are untouched.
    alice
        .done("CreateContainer", &("orphan", "trixie", plain()))
        .await
        .expect("the name is free");
    alice
        .done("DeleteContainer", &("orphan", true))
        .await
        .expect("deleted");
    let rows: Vec<Row> = alice.call("ListContainers", &()).await.expect("listed");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].0.as_str(), rows[0].1.as_str()), ("box", "Running"));
}
