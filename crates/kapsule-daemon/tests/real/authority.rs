//! Who may do what: allowed, denied, and asked for a password.

use std::collections::HashMap;

use testbed::machine::{ALICE, BOB, PASSWORD};
use testbed::{Machine, or_skip};
use zbus::{OwnedFd, OwnedObjectPath, Variant};

use super::rig::{Answer, Person, Rig, plain};

/// What is others' needs one's own password; names decide, to show that rules see them.
const RULES: &str = r#"
polkit.addRule(function(action, subject) {
    var container = action.lookup("container");
    if (action.id == "org.kde.kapsule.enter-container")
        return container == "forbidden" ? polkit.Result.NO : polkit.Result.YES;
    if (action.id == "org.kde.kapsule.manage-container") {
        if (action.lookup("operation") == "start" && action.lookup("owner") == "1000")
            return polkit.Result.YES;
        return polkit.Result.AUTH_SELF;
    }
    if (action.id == "org.kde.kapsule.privileged-container")
        return container == "trusted" && action.lookup("image") == "trixie" ? polkit.Result.YES : polkit.Result.NO;
    if (action.id == "org.kde.kapsule.initialize") return polkit.Result.NO;
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn polkit_and_ownership_decide_every_call() {
    let machine = or_skip!(Machine::start());
    let rig = or_skip!(Rig::start(&machine, RULES));
    let (alice, bob) = (rig.person(&ALICE).await, rig.person(&BOB).await);

    // Denied by the container's name: nothing is made, and nothing left.
    refused(
        alice
            .done("CreateContainer", &("forbidden", "trixie", plain()))
            .await,
        "a denied name",
    );
    let privileged = HashMap::from([("privileged", Variant::from(true))]);
    refused(
        alice
            .done("CreateContainer", &("box", "trixie", &privileged))
            .await,
        "a privileged container",
    );
    refused(
        alice.done("Initialize", &(plain(),)).await,
        "setting up Incus",
    );
    assert!(rig.instances().is_empty(), "{:?}", rig.instances());

    // Allowed: one's own.
    alice
        .done("CreateContainer", &("box", "trixie", plain()))
        .await
        .expect("alice makes her own");
    alice
        .done("CreateSnapshot", &("box", "before"))
        .await
        .expect("and has snapshots of it");

    directories_are_ones_own(&rig, &alice, &bob).await;
    another_has_no_part_in_it(&rig, &bob).await;
    passwords_decide(&rig, &bob).await;
    hostile_names_are_refused(&rig, &alice).await;
    what_kapsule_did_not_make_is_left_alone(&rig, &alice).await;
}

fn refused<T: std::fmt::Debug>(answer: Answer<T>, what: &str) {
    let (name, text) = answer.expect_err(what);
    assert_eq!(name, "NotAuthorized", "{what}: {text}");
}

/// What is seen inside is what its owner could see himself, and is his.
async fn directories_are_ones_own(rig: &Rig<'_>, alice: &Person, bob: &Person) {
    rig.machine.dir().make_dir("home/alice/secret/below");
    let own = |path: &str| {
        let path = rig.machine.outside(path);
        std::os::unix::fs::chown(path, Some(1000), Some(1000)).expect("we are root");
    };
    own("/home/alice/secret");
    own("/home/alice/secret/below");
    std::os::unix::fs::symlink("/root", rig.machine.outside("/home/bob/link")).expect("linked");
    for (key, directory) in [
        ("home", "/home/alice/secret/below"),
        ("home", "/root"),
        ("home", "/home/bob/link"),
        ("home", "/proc/1/root"),
        ("home", "/etc"),
    ] {
        let options = HashMap::from([(key, Variant::from(directory))]);
        let (error, text) = bob
            .done("CreateContainer", &("bobs", "trixie", options))
            .await
            .expect_err(directory);
        assert_eq!(error, "InvalidArgument", "{directory}: {text}");
        let options = HashMap::from([("custom_mounts", Variant::from(vec![directory]))]);
        let (error, text) = bob
            .done("CreateContainer", &("bobs", "trixie", options))
            .await
            .expect_err(directory);
        assert_eq!(error, "InvalidArgument", "{directory}: {text}");
    }
    let options = HashMap::from([
        ("home", Variant::from("~/secret")),
        (
            "custom_mounts",
            Variant::from(vec!["~/secret/below:/srv/below:ro"]),
        ),
    ]);
    alice
        .done("CreateContainer", &("hers", "trixie", options))
        .await
        .expect("hers are hers");
    assert_eq!(
        rig.config("hers", "user.kapsule.home"),
        "/home/alice/secret"
    );
    let inside = |command: &[&str]| {
        let output = rig
            .incus
            .incus(&[&["exec", "hers", "--"], command].concat());
        output.status.success()
    };
    assert!(
        inside(&["test", "-d", "/home/alice/below"]),
        "her home is the other directory"
    );
    assert!(inside(&["test", "-d", "/srv/below"]));
    assert!(!inside(&["touch", "/srv/below/x"]), "it cannot be written");
    alice
        .done("DeleteContainer", &("hers", true))
        .await
        .expect("deleted");
}

/// Bob can do nothing with what is alice's: not even by saying that he is she.
async fn another_has_no_part_in_it(rig: &Rig<'_>, bob: &Person) {
    let listed: Vec<(String, String, String, String, String)> =
        bob.call("ListContainers", &()).await.expect("listed");
    assert!(listed.is_empty(), "{listed:?}");
    let seen: HashMap<String, zbus::OwnedVariant> =
        bob.call("GetContainer", &("box",)).await.expect("seen");
    assert!(!seen.contains_key("home"), "where her home is is hers");
    assert_eq!(
        seen["owned"],
        Variant::from(false).try_to_owned().expect("no fd")
    );

    refused(bob.done("StopContainer", &("box", true)).await, "stopping");
    refused(
        bob.done("DeleteContainer", &("box", true)).await,
        "deleting",
    );
    refused(
        bob.done("RestoreSnapshot", &("box", "before")).await,
        "restoring",
    );
    refused(
        bob.done("CreateSnapshot", &("box", "mine")).await,
        "a snapshot",
    );
    refused(
        bob.done("DeleteSnapshot", &("box", "before")).await,
        "no snapshot",
    );
    refused(
        bob.done("CloneContainer", &("box", "copy")).await,
        "copying",
    );
    refused(
        bob.done("RenameContainer", &("box", "bobs")).await,
        "renaming",
    );
    let shell: Answer<(OwnedFd, OwnedObjectPath)> = bob
        .call("OpenShell", &("box", Vec::<String>::new(), plain()))
        .await;
    refused(shell, "a shell");
    let root = HashMap::from([("user", Variant::from("root"))]);
    let shell: Answer<(OwnedFd, OwnedObjectPath)> = bob
        .call("OpenShell", &("box", Vec::<String>::new(), &root))
        .await;
    refused(shell, "a shell of root's");
    let file = || {
        OwnedFd::from(std::os::fd::OwnedFd::from(
            tempfile::tempfile().expect("a file"),
        ))
    };
    let command: Answer<OwnedObjectPath> = bob
        .call(
            "RunCommand",
            &("box", vec!["id"], plain(), file(), file(), file()),
        )
        .await;
    refused(command, "a command");
    refused(bob.done("SaveContainer", &("box", file())).await, "saving");
    let alice = ("box", 1000_u32, 1000_u32, "alice", "/home/alice");
    refused(bob.done("SetupUser", &alice).await, "to be alice");
    let himself = ("box", 1001_u32, 1001_u32, "bob", "/home/bob");
    refused(
        bob.done("SetupUser", &himself).await,
        "an account of his own",
    );
    let entered: (bool, String, Vec<String>) = bob
        .call("PrepareEnter", &("box", Vec::<String>::new(), ""))
        .await
        .expect("it answers");
    assert!(!entered.0 && entered.2.is_empty(), "{entered:?}");
    refused(
        bob.done("DeleteImage", &("trixie",)).await,
        "deleting an image",
    );
    refused(bob.done("RefreshImages", &("",)).await, "refreshing images");

    // What rules say of others' containers holds, too.
    bob.done("StartContainer", &("box",))
        .await
        .expect("a rule lets him start hers");
    assert_eq!(rig.config("box", "user.kapsule.owner"), "1000");
}

/// A password is asked for only if the caller permits it, and it has to be right.
async fn passwords_decide(rig: &Rig<'_>, bob: &Person) {
    let (name, text) = bob
        .call::<_, OwnedObjectPath>("StopContainer", &("box", true))
        .await
        .expect_err("he may not be asked");
    assert_eq!(name, "NotAuthorized");
    assert!(text.contains("needs a password"), "{text}");

    for (password, right) in [("wrong", false), (PASSWORD, true)] {
        let arguments = [
            "--system",
            "--allow-interactive-authorization=yes",
            "--timeout=120",
            "call",
            "org.kde.kapsule",
            "/org/kde/kapsule",
            "org.kde.kapsule.Manager",
            "StopContainer",
            "sb",
            "box",
            "true",
        ];
        let challenged = match rig.bus.run_with_agent(&BOB, password, "busctl", &arguments) {
            Ok(challenged) => challenged,
            Err(testbed::skip::Trouble::Unable(why)) => {
                testbed::skip::say_skipped(format_args!("passwords are not tried: {why}"));
                return;
            }
            Err(testbed::skip::Trouble::Failed(failure)) => panic!("{failure}"),
        };
        let said = challenged.output.both();
        assert!(challenged.asked >= 1, "a password is asked for: {said}");
        assert!(
            challenged
                .terminal
                .contains("stop the container 'box', which belongs to the uid 1000"),
            "the question says what it is about: {}",
            challenged.terminal
        );
        assert_eq!(challenged.output.status.success(), right, "{said}");
        if right {
            let path = challenged
                .output
                .stdout
                .split('"')
                .nth(1)
                .unwrap_or_default();
            let path = OwnedObjectPath::try_from(path).expect("a path");
            bob.end(&path).await.expect("it stops");
        } else {
            assert!(said.contains("the password was wrong"), "{said}");
        }
    }
    let state = rig
        .incus
        .incus(&["list", "--format=csv", "--columns=s", "box"]);
    assert_eq!(state.stdout.trim(), "STOPPED");
}

async fn hostile_names_are_refused(rig: &Rig<'_>, alice: &Person) {
    let before = rig.instances();
    for name in [
        "--all",
        "-f",
        "../x",
        "box/../x",
        "a\nb",
        "a b",
        "box?project=other",
        "box%2f..",
        "1",
        "é",
        ".",
        "..",
    ] {
        for (method, answer) in [
            (
                "create",
                alice
                    .done("CreateContainer", &(name, "trixie", plain()))
                    .await,
            ),
            ("delete", alice.done("DeleteContainer", &(name, true)).await),
            ("start", alice.done("StartContainer", &(name,)).await),
            ("stop", alice.done("StopContainer", &(name, true)).await),
            ("copy", alice.done("CloneContainer", &("box", name)).await),
            (
                "rename",
                alice.done("RenameContainer", &("box", name)).await,
            ),
            ("snapshot", alice.done("CreateSnapshot", &(name, "s")).await),
        ] {
            let (error, text) = answer.expect_err(name);
            assert_eq!(error, "InvalidName", "{method} {name:?}: {text}");
            assert!(!text.contains('\n'), "{text:?}");
        }
    }
    for name in ["--x", "../x", "a b", "a\nb", ""] {
        let (error, _) = alice
            .done("CreateSnapshot", &("box", name))
            .await
            .expect_err(name);
        assert_eq!(error, "InvalidName", "snapshot {name:?}");
        let (error, _) = alice.done("DeleteImage", &(name,)).await.expect_err(name);
        assert_eq!(error, "InvalidName", "image {name:?}");
    }
    // By silence nothing is stopped or deleted.
    for method in ["DeleteContainer", "StopContainer"] {
        let (error, _) = alice.done(method, &("", true)).await.expect_err(method);
        assert_eq!(error, "InvalidName");
    }
    assert_eq!(rig.instances(), before);
}

async fn what_kapsule_did_not_make_is_left_alone(rig: &Rig<'_>, alice: &Person) {
    let made = rig.incus.incus(&["create", "trixie", "foreign"]);
    assert!(made.status.success(), "{}", made.both());
    let listed: Vec<(String, String, String, String, String)> =
        alice.call("ListContainers", &()).await.expect("listed");
    assert!(listed.iter().all(|row| row.0 != "foreign"), "{listed:?}");
    let all: Vec<HashMap<String, zbus::OwnedVariant>> =
        alice.call("ListAllContainers", &()).await.expect("listed");
    let names: Vec<String> = all
        .iter()
        .map(|one| String::try_from(one["name"].try_clone().expect("no fd")).expect("a text"))
        .collect();
    assert_eq!(names, ["box", "foreign"]);
    refused(
        alice.done("DeleteContainer", &("foreign", true)).await,
        "deleting it",
    );
    refused(
        alice.done("StartContainer", &("foreign",)).await,
        "starting it",
    );
}
