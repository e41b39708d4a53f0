//! Another user in a container: somebody who may manage it has come in, while its owner is there.

use std::fs;
use std::os::unix::fs::MetadataExt;

use testbed::Process;
use testbed::machine::BOB;

use crate::rig::{Client, Options, Rig};
use crate::session_bus::multiplexers;

/// Both have a session, each as himself; neither is in the other's way.
pub fn two_users_are_in_one_container_at_once(rig: &Rig<'_>, alice: &Client<'_>, bob: &Client<'_>) {
    // Bob has a desktop, too.
    let mut command = rig.machine.command_as(&BOB, "dbus-daemon");
    command.args(["--session", "--nofork", "--nopidfile", "--print-address=1"]);
    command.arg("--address=unix:path=/run/user/1001/bus");
    let started = Process::start_reading(command, "bobs-bus", &rig.machine.logs());
    let (_bus, mut said) = started.unwrap_or_else(|failure| panic!("{failure}"));
    said.expect_line("the session bus's address", |line| {
        line.starts_with("unix:")
    });

    let mut hers = alice.shell("box", &[], Options::new());
    let mut his = bob.shell("box", &[], Options::new());
    for (shell, is) in [
        (&mut hers, "1000 alice 1000 /home/alice alice 700"),
        (&mut his, "1001 bob 1001 /home/bob bob 700"),
    ] {
        shell.send("PS1=; stty -echo; bind 'set enable-bracketed-paste off'; echo be''gin\n");
        shell.expect("begin\r\n");
        shell.send("echo $(id -u; id -un; id -g; cd; pwd; stat -c '%U %a' $XDG_RUNTIME_DIR)\n");
        let text = shell.expect("\r\n");
        assert_eq!(text.trim(), is);
    }
    // The container has one account for each, with numbers for containers of their own.
    let ranges = alice.script("cat /etc/subuid");
    assert_eq!(ranges, "alice:524288:65536\nbob:589824:65536\n");
    // His home here is the container's, and has nothing of the one that he has outside.
    his.send("touch ~/here; stat -c %u ~/here; echo e''nd\n");
    assert_eq!(his.expect("end\r\n"), "1001\r\nend\r\n");
    let home = rig.machine.outside(BOB.home());
    assert!(!home.join("here").exists());
    assert_eq!(fs::metadata(home).expect("it is there").uid(), BOB.uid);

    // Her bus is joined with her desktop; his is the container's own, for root in here is she.
    let bus = |client: &Client<'_>| {
        let (status, said, errors) = client.command_in(
            "box",
            &[
                "sh",
                "-c",
                "echo $DBUS_SESSION_BUS_ADDRESS; gdbus call --session --dest org.freedesktop.DBus \
              --object-path / --method org.freedesktop.DBus.GetId >/dev/null && echo works",
            ],
            Options::new(),
            "",
        );
        assert_eq!(status, 0, "{said}{errors}");
        said
    };
    assert_eq!(bus(alice), "unix:path=/.kapsule/run/1000/bus\nworks\n");
    assert_eq!(bus(bob), "unix:path=/run/user/1001/bus\nworks\n");
    let found = multiplexers(rig, "box");
    assert_eq!(found.len(), 1, "{found:?}");
    // Neither has the other's.
    for (client, others) in [
        (bob, "/.kapsule/run/1000 /run/user/1000"),
        (alice, "/run/user/1001 /home/bob"),
    ] {
        for path in others.split(' ') {
            let (status, said, errors) =
                client.command_in("box", &["ls", path], Options::new(), "");
            assert_ne!(status, 0, "{path}: {said}");
            assert!(errors.contains("Permission denied"), "{path}: {errors}");
        }
    }
    let socket = "perl -MIO::Socket::UNIX -e 'exit(IO::Socket::UNIX->new(Peer => shift) ? 1 : 0)' /.kapsule/run/1000/bus";
    let (status, _, errors) = bob.command_in("box", &["sh", "-c", socket], Options::new(), "");
    assert_eq!(status, 0, "he comes to her bus: {errors}");

    // Nor a say in what the other runs: by the daemon, or by a signal inside.
    for (theirs, other) in [(&hers, bob), (&his, alice)] {
        let session = other.session_of(theirs);
        for result in [
            other.call(&session, "Signal", &(9,)),
            other.call(&session, "Resize", &(1u16, 1u16)),
            other.call(&session, "Wait", &()),
        ] {
            let error = result.expect_err("it is another's").to_string();
            assert!(error.contains("NotAuthorized"), "{error}");
        }
    }
    his.send("pkill -KILL -u alice; echo status:$?\n");
    his.expect("status:1");
    his.send("exit 4\n");
    assert_eq!(bob.wait(&his.session), 4);
    // Hers is as it was.
    hers.send("echo st''ill; stty size; exit 3\n");
    hers.expect("still\r\n24 80\r\n");
    assert_eq!(alice.wait(&hers.session), 3);
}
