//! What breaks, and what is left then: a clear error, nothing half-made, and the next command works.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use testbed::container_image::TRIXIE;
use testbed::machine::{ALICE, BOB};
use testbed::{Deadline, Machine, or_skip, run_to_end};
use zbus::OwnedObjectPath;

use super::rig::{Person, Rig, USUAL_RULES, plain};

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_is_said_and_leaves_nothing_half_made() {
    let machine = or_skip!(Machine::start());
    let mut rig = or_skip!(Rig::start(&machine, USUAL_RULES));
    let alice = rig.person(&ALICE).await;
    // The first one is unpacked while it is killed: later ones are copies, and quick.
    incus_is_killed_in_mid_create(&mut rig, &alice).await;
    both_are_killed_in_mid_create(&mut rig, &alice).await;
    let alice = rig.person(&ALICE).await;
    the_daemon_is_killed_in_mid_create(&mut rig, &alice).await;
    work_on_a_whole_one_is_broken_off(&mut rig).await;
    incus_is_stopped(&mut rig, &alice).await;
    a_name_is_taken(&rig, &alice).await;
    an_image_is_broken(&rig, &alice).await;
    the_disk_is_full(&rig, &alice).await;
    an_operation_is_cancelled(&rig, &alice).await;
}

async fn incus_is_killed_in_mid_create(rig: &mut Rig<'_>, alice: &Person) {
    let path = begin(alice, "killed").await;
    is_unpacked_for(rig, "killed");
    rig.incus.kill();
    let (status, text) = alice.end(&path).await.expect_err("it cannot succeed");
    assert_eq!(status, "failed");
    assert!(text.contains("killed") && text.contains("Incus"), "{text}");
    // It was unpacking the image, and takes the half for the whole: the daemon deletes that before it makes another, even
    // for who has tried again and again.
    tokio::task::block_in_place(|| {
        let here = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            scope.spawn(|| rig.incus.start_again().expect("it starts again"));
            here.block_on(impatient(alice, "next"));
        });
    });
    gone(rig, alice, "next").await;
    nothing_is_left(rig, "killed");
    works(rig, alice, "killed").await;
}

async fn both_are_killed_in_mid_create(rig: &mut Rig<'_>, alice: &Person) {
    if rig.incus.storage_driver() != "btrfs" {
        testbed::skip::say_skipped(format_args!(
            "an image that is unpacked to its half: without btrfs there is none in the storage"
        ));
        return;
    }
    forget_unpacked(rig);
    begin(alice, "both").await;
    is_unpacked_for(rig, "both");
    rig.kapsuled.signal(Signal::KILL);
    rig.incus.kill();
    rig.incus.start_again().expect("it starts again");
    rig.kill_and_start_daemon();
    let alice = rig.person(&ALICE).await;
    nothing_is_left(rig, "both");
    works(rig, &alice, "both").await;
}

async fn the_daemon_is_killed_in_mid_create(rig: &mut Rig<'_>, alice: &Person) {
    forget_unpacked(rig);
    begin(alice, "orphan").await;
    is_unpacked_for(rig, "orphan");
    let begun = unpacked(rig);
    rig.kill_and_start_daemon();
    // It is back when it has its name.
    let alice = rig.person(&ALICE).await;
    nothing_is_left(rig, "orphan");
    works(rig, &alice, "orphan").await;
    // Incus has brought that to its end: it is not done twice.
    assert_eq!(unpacked(rig), begun);
    // One that was whole before is not taken for half-made.
    made(&alice, "whole").await;
    rig.kill_and_start_daemon();
    let alice = rig.person(&ALICE).await;
    works(rig, &alice, "other").await;
    assert!(rig.instances().contains(&"whole".to_owned()));
    gone(rig, &alice, "whole").await;
}

/// What was whole stays whole, or is gone as it was meant to; and what was broken off can be done again.
async fn work_on_a_whole_one_is_broken_off(rig: &mut Rig<'_>) {
    let alice = rig.person(&ALICE).await;
    made(&alice, "whole").await;
    alice
        .done("CreateSnapshot", &("whole", "clean"))
        .await
        .expect("it is made");

    // The daemon dies while it copies: the copy is whole, or is not there.
    let begun: Result<OwnedObjectPath, _> = alice.call("CloneContainer", &("whole", "copy")).await;
    begun.expect("it begins");
    rig.kill_and_start_daemon();
    let alice = rig.person(&ALICE).await;
    until("a copy is whole or gone", || {
        let arguments = ["config", "get", "copy", "user.kapsule.unfinished"];
        let mark = rig.incus.incus(&arguments);
        // An error: there is none.
        !mark.status.success() || mark.stdout.trim().is_empty()
    });
    if rig.instances().contains(&"copy".to_owned()) {
        gone(rig, &alice, "copy").await;
    }
    nothing_is_left(rig, "copy");

    // Incus dies while it restores: it is said, and done again.
    let begun: Result<OwnedObjectPath, _> =
        alice.call("RestoreSnapshot", &("whole", "clean")).await;
    let path = begun.expect("it begins");
    rig.incus.kill();
    // It may have been quicker.
    if let Err((status, text)) = alice.end(&path).await {
        assert!(
            status == "failed" && text.contains("Incus"),
            "{status}: {text}"
        );
    }
    rig.incus.start_again().expect("it starts again");
    alice
        .done("RestoreSnapshot", &("whole", "clean"))
        .await
        .expect("it is restored");

    // The daemon dies while it deletes: what is left can be deleted.
    let begun: Result<OwnedObjectPath, _> = alice.call("DeleteContainer", &("whole", true)).await;
    begun.expect("it begins");
    rig.kill_and_start_daemon();
    let alice = rig.person(&ALICE).await;
    if let Err((name, text)) = alice.done("DeleteContainer", &("whole", true)).await {
        assert_eq!(name, "NoSuchContainer", "{text}");
    }
    nothing_is_left(rig, "whole");
    works(rig, &alice, "whole").await;
}

async fn incus_is_stopped(rig: &mut Rig<'_>, alice: &Person) {
    made(alice, "before").await;
    rig.incus.stop();
    type Rows = Vec<(String, String, String, String, String)>;
    for method in ["StartContainer", "DeleteContainer", "CreateContainer"] {
        let answer = match method {
            "StartContainer" => alice.done(method, &"before").await,
            "DeleteContainer" => alice.done(method, &("before", true)).await,
            _ => alice.done(method, &("new", "trixie", plain())).await,
        };
        let (_, text) = answer.expect_err("Incus is not there");
        assert!(
            text.contains("Incus") && text.contains("unix.socket"),
            "{method}: {text}"
        );
    }
    let there: bool = alice
        .call("IsIncusAvailable", &())
        .await
        .expect("it answers");
    assert!(!there);
    rig.incus.start_again().expect("it starts again");
    // No restart of the daemon, and no first call that fails.
    let rows: Rows = alice.call("ListContainers", &()).await.expect("listed");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (rows[0].0.as_str(), rows[0].1.as_str()),
        ("before", "Running")
    );
    gone(rig, alice, "before").await;
    works(rig, alice, "new").await;
}

async fn a_name_is_taken(rig: &Rig<'_>, alice: &Person) {
    made(alice, "taken").await;
    let again = alice
        .done("CreateContainer", &("taken", "trixie", plain()))
        .await;
    let (name, text) = again.expect_err("it is taken");
    assert_eq!(name, "NameTaken", "{text}");
    assert!(text.contains("taken"), "{text}");
    // Somebody else's, and one that kapsule has not made: the same, and they stay.
    let bob = rig.person(&BOB).await;
    let (name, _) = bob
        .done("CreateContainer", &("taken", "trixie", plain()))
        .await
        .expect_err("it is taken");
    assert_eq!(name, "NameTaken");
    rig.incus.incus(&["init", "trixie", "foreign"]).success();
    let (name, _) = alice
        .done("CreateContainer", &("foreign", "trixie", plain()))
        .await
        .expect_err("it is taken");
    assert_eq!(name, "NameTaken");
    assert_eq!(rig.config("taken", "user.kapsule.owner"), "1000");
    let mut instances = rig.instances();
    instances.sort();
    assert_eq!(instances, ["foreign", "taken"]);
    rig.incus.incus(&["delete", "foreign"]).success();
    gone(rig, alice, "taken").await;
}

async fn an_image_is_broken(rig: &Rig<'_>, alice: &Person) {
    let dir = rig.machine.dir().make_dir("images");
    let files = TRIXIE.provide().expect("it was provided before");
    // One ends in its middle, the other unpacks well and has no init.
    let whole = fs::read(&files.rootfs).expect("it is there");
    fs::write(dir.join("cut.squashfs"), &whole[..whole.len() / 2]).expect("there is room");
    let mut empty = Command::new("sh");
    empty
        .args([
            "-c",
            "mkdir -p root/etc && tar -c -C root . | tar2sqfs --quiet empty.squashfs",
        ])
        .current_dir(&dir);
    run_to_end(empty, std::time::Duration::from_secs(20))
        .expect("it runs")
        .success();
    for image in ["cut", "empty"] {
        let rootfs = dir.join(format!("{image}.squashfs"));
        let (metadata, rootfs) = (shown(&files.metadata), shown(&rootfs));
        rig.incus
            .incus(&["image", "import", &metadata, &rootfs, "--alias", image])
            .success();
        let answer = alice
            .done("CreateContainer", &("hopeless", image, plain()))
            .await;
        let (status, text) = answer.expect_err("nothing comes of it");
        assert_eq!(status, "failed", "{text}");
        assert!(text.contains("hopeless"), "{image}: {text}");
        nothing_is_left(rig, "hopeless");
    }
    let answer = alice
        .done("CreateContainer", &("hopeless", "no-such-image", plain()))
        .await;
    let (_, text) = answer.expect_err("there is none");
    assert!(text.contains("no-such-image"), "{text}");
    nothing_is_left(rig, "hopeless");
    works(rig, alice, "hopeless").await;
}

async fn the_disk_is_full(rig: &Rig<'_>, alice: &Person) {
    if rig.incus.storage_driver() != "btrfs" {
        testbed::skip::say_skipped(format_args!(
            "a full disk: the storage has no limit without btrfs"
        ));
        return;
    }
    let incus = |arguments: &[&str]| rig.incus.incus(arguments).success();
    incus(&["storage", "create", "tiny", "btrfs", "size=128MiB"]);
    incus(&["profile", "device", "set", "default", "root", "pool=tiny"]);
    let answer = alice
        .done("CreateContainer", &("large", "trixie", plain()))
        .await;
    let (status, text) = answer.expect_err("there is no room");
    assert_eq!(status, "failed", "{text}");
    let lower = text.to_lowercase();
    assert!(lower.contains("space") || lower.contains("full"), "{text}");
    nothing_is_left(rig, "large");
    let volumes = incus(&["storage", "volume", "list", "tiny", "--format=csv"]);
    assert!(!volumes.contains("large"), "{volumes}");
    incus(&[
        "profile",
        "device",
        "set",
        "default",
        "root",
        "pool=default",
    ]);
    works(rig, alice, "large").await;
}

async fn an_operation_is_cancelled(rig: &Rig<'_>, alice: &Person) {
    let path = begin(alice, "unwanted").await;
    let operation = alice.operation(&path).await;
    let cancelled: bool = operation.call("Cancel", &()).await.expect("it answers");
    assert!(cancelled);
    let (status, _) = alice.end(&path).await.expect_err("it was cancelled");
    assert_eq!(status, "cancelled");
    nothing_is_left(rig, "unwanted");
    works(rig, alice, "unwanted").await;
}

/// Makes a container, and tries again whenever it is told that Incus is not there.
async fn impatient(person: &Person, name: &str) {
    let deadline = Deadline::usual();
    loop {
        let Err((_, text)) = person
            .done("CreateContainer", &(name, "trixie", plain()))
            .await
        else {
            return;
        };
        assert!(text.contains("unix.socket"), "{text}");
        assert!(
            !deadline.left().is_zero(),
            "Incus does not come back: {text}"
        );
    }
}

/// Waits until Incus is at work on a container, and has begun to unpack its image where there is such a thing.
#[track_caller]
fn is_unpacked_for(rig: &Rig<'_>, name: &str) {
    until("Incus is at work", || {
        rig.instances().contains(&name.to_owned())
    });
    if rig.incus.storage_driver() == "btrfs" {
        until("Incus is unpacking", || unpacked(rig).is_some());
    }
}

/// When Incus began to unpack the image into its storage, if it has.
fn unpacked(rig: &Rig<'_>) -> Option<String> {
    let path = "/1.0/storage-pools/default/volumes/image?recursion=1";
    let volumes = rig.incus.incus(&["query", path]).success();
    let begun = volumes
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"created_at\": "));
    begun.map(str::to_owned)
}

/// Deletes what is unpacked, so that the next container has it unpacked again.
fn forget_unpacked(rig: &Rig<'_>) {
    let path = "/1.0/storage-pools/default/volumes/image";
    let volumes = rig.incus.incus(&["query", path]).success();
    for volume in volumes.lines().filter_map(|line| line.split('"').nth(1)) {
        rig.incus
            .incus(&["query", "--request=DELETE", volume])
            .success();
    }
    assert_eq!(unpacked(rig), None);
}

/// Begins to make a container, and does not wait.
async fn begin(person: &Person, name: &str) -> OwnedObjectPath {
    person
        .call("CreateContainer", &(name, "trixie", plain()))
        .await
        .expect("it begins")
}

async fn made(person: &Person, name: &str) {
    person
        .done("CreateContainer", &(name, "trixie", plain()))
        .await
        .expect("it is made");
}

async fn gone(rig: &Rig<'_>, person: &Person, name: &str) {
    person
        .done("DeleteContainer", &(name, true))
        .await
        .expect("it is deleted");
    assert!(!rig.instances().contains(&name.to_owned()));
}

/// The next command works: one of this name is made, runs, and is deleted.
async fn works(rig: &Rig<'_>, person: &Person, name: &str) {
    made(person, name).await;
    assert_eq!(rig.config(name, "user.kapsule.owner"), "1000");
    gone(rig, person, name).await;
    nothing_is_left(rig, name);
}

/// Waits until there is no container of this name, and nothing that was kept of it.
#[track_caller]
fn nothing_is_left(rig: &Rig<'_>, name: &str) {
    let directory = rig
        .machine
        .outside(format!("/run/kapsule-data/containers/{name}"));
    until("what was half-made is removed", || {
        !rig.instances().contains(&name.to_owned()) && !directory.exists()
    });
}

/// Asks again and again, for there is nothing to wait on.
#[track_caller]
fn until(awaited: &str, holds: impl Fn() -> bool) {
    let deadline = Deadline::usual();
    while !holds() {
        assert!(!deadline.left().is_zero(), "awaited: {awaited}");
        std::thread::yield_now();
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
