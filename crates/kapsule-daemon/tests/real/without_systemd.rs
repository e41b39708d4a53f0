//! Images that are not run by systemd: busybox's init, a shell's script as init, none of the usual tools.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd as Owned;
use std::os::unix::net::UnixStream;

use testbed::machine::ALICE;
use testbed::{IncusOptions, Machine, Process, or_skip};
use zbus::fdo::{DBusProxy, RequestNameFlags};
use zbus::{Connection, OwnedFd, OwnedObjectPath};

use super::inside::run;
use super::rig::{Person, Rig, USUAL_RULES, plain};
use super::tiny;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_systemd_is_a_home_too() {
    let machine = or_skip!(Machine::start());
    let options = IncusOptions {
        images: vec![],
        ..IncusOptions::default()
    };
    let rig = or_skip!(Rig::start_with(&machine, USUAL_RULES, &options));
    for (name, change) in [
        ("tiny", ""),
        // As application images have it; and no account at all.
        (
            "script",
            "rm root/sbin/init root/etc/passwd root/etc/group
             printf '#!/bin/sh\\nwhile :; do sleep 1000; done\\n' >root/sbin/init && chmod +x root/sbin/init",
        ),
        (
            "mute",
            "rm root/bin/*sh root/sbin/init && cp \"$busybox\" root/sbin/init",
        ),
    ] {
        let files = or_skip!(tiny::image(&machine, name, change));
        tiny::import(&rig.incus, name, &files);
    }
    let alice = rig.person(&ALICE).await;
    let made = async |name: &str| alice.done("CreateContainer", &(name, name, plain())).await;

    made("tiny").await.expect("it is made");
    the_user_is_at_home(&rig, &alice, "tiny").await;
    a_shell_is_a_login(&alice, "tiny").await;
    the_session_bus_is_the_multiplexers(&rig, &alice).await;
    // It stops when it is told to, and the next start is as good.
    alice
        .done("StopContainer", &("tiny", false))
        .await
        .expect("it stops");
    alice
        .done("StartContainer", &("tiny",))
        .await
        .expect("it starts");
    the_user_is_at_home(&rig, &alice, "tiny").await;

    made("script").await.expect("it is made");
    the_user_is_at_home(&rig, &alice, "script").await;
    let roots = run(&rig, &alice, "script", true, "id -u; echo $HOME; pwd").await;
    assert_eq!(roots.well(), "0\n/root\n/root\n");

    let (_, text) = made("mute").await.expect_err("nobody can be set up in it");
    assert!(
        text.contains("'mute'") && text.contains("the image has no /bin/sh; use another image"),
        "{text}"
    );
    assert!(!rig.instances().contains(&"mute".to_owned()));
    made("mute").await.expect_err("as before");
}

async fn the_user_is_at_home(rig: &Rig<'_>, alice: &Person, name: &str) {
    let line = "id -u; id -un; id -g; cd; pwd; echo $SHELL $XDG_RUNTIME_DIR; stat -c '%U %a' $XDG_RUNTIME_DIR; \
                echo inside >~/from-$KAPSULE_CONTAINER";
    let said = run(rig, alice, name, false, line).await.well();
    assert_eq!(
        said,
        "1000\nalice\n1000\n/home/alice\n/bin/sh /run/user/1000\nalice 700\n"
    );
    let file = rig.machine.outside(format!("/home/alice/from-{name}"));
    let owner = std::os::unix::fs::MetadataExt::uid(&file.metadata().expect("it is there"));
    assert_eq!(owner, 1000);
}

async fn a_shell_is_a_login(alice: &Person, name: &str) {
    let (terminal, session): (OwnedFd, OwnedObjectPath) = alice
        .call("OpenShell", &(name, Vec::<String>::new(), plain()))
        .await
        .expect("it opens");
    let typed = tokio::task::spawn_blocking(move || {
        let mut terminal = File::from(Owned::from(terminal));
        terminal
            .write_all(b"echo =$0= $(tty); exit 7\n")
            .expect("somebody is there");
        let mut said = String::new();
        // A terminal ends with an error, not with an end.
        let _ = terminal.read_to_string(&mut said);
        said
    });
    let status = alice.wait(session).await;
    let said = typed.await.expect("it reads");
    assert_eq!(status, 7, "{said}");
    assert!(said.contains("=-sh= /dev/pts/"), "{said}");
}

/// There is no bus inside, so it is the multiplexer's own, joined with that of the host.
async fn the_session_bus_is_the_multiplexers(rig: &Rig<'_>, alice: &Person) {
    let address = "echo $DBUS_SESSION_BUS_ADDRESS";
    let said = run(rig, alice, "tiny", false, address).await.well();
    assert_eq!(said, "\n", "without a session on the host there is none");
    let mut command = rig.machine.command_as(&ALICE, "dbus-daemon");
    command.args(["--session", "--nofork", "--nopidfile", "--print-address=1"]);
    command.arg("--address=unix:path=/run/user/1000/bus");
    let started = Process::start_reading(command, "session-bus", &rig.machine.logs());
    let (_bus, mut said) = started.unwrap_or_else(|failure| panic!("{failure}"));
    said.expect_line("the session bus's address", |line| {
        line.starts_with("unix:")
    });

    let line = "echo $DBUS_SESSION_BUS_ADDRESS; test -S /.kapsule/run/1000/bus && stat -c %U /.kapsule/run/1000/bus";
    let said = run(rig, alice, "tiny", false, line).await.well();
    assert_eq!(said, "unix:path=/.kapsule/run/1000/bus\nalice\n");

    // The socket that is there inside, by its other path: nothing in the image speaks D-Bus.
    let inside = "/run/kapsule-data/containers/tiny/run/1000/bus";
    let (one, other) = (as_alice(rig, inside).await, as_alice(rig, inside).await);
    let host = as_alice(rig, "/run/user/1000/bus").await;
    owns(&one, "org.example.Inside").await;
    owns(&host, "org.example.Outside").await;
    assert!(sees(&other, "org.example.Inside").await);
    assert!(sees(&other, "org.example.Outside").await);
    assert!(!sees(&host, "org.example.Inside").await);
}

async fn as_alice(rig: &Rig<'_>, socket: &str) -> Connection {
    let socket = rig.machine.outside(socket);
    let stream = std::thread::spawn(move || {
        let uid = rustix::process::Uid::from_raw(ALICE.uid);
        rustix::thread::set_thread_res_uid(None, uid, None).expect("root may be anybody");
        UnixStream::connect(socket).expect("it listens")
    });
    let stream = stream.join().expect("it does not panic");
    zbus::connection::Builder::unix_stream(stream)
        .user_id(ALICE.uid)
        .build()
        .await
        .expect("it is let in")
}

async fn owns(connection: &Connection, name: &'static str) {
    let bus = DBusProxy::new(connection).await.expect("a bus");
    let name = name.try_into().expect("a name");
    bus.request_name(name, RequestNameFlags::DO_NOT_QUEUE)
        .await
        .expect("it is free");
}

async fn sees(connection: &Connection, name: &'static str) -> bool {
    let bus = DBusProxy::new(connection).await.expect("a bus");
    bus.name_has_owner(name.try_into().expect("a name"))
        .await
        .expect("it answers")
}
