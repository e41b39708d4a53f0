//! What shells and commands are to who starts them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use testbed::machine::User;
use testbed::within;
use zbus::Variant;

use crate::rig::{Client, Options, Rig};

fn options<const N: usize>(pairs: [(&'static str, Variant<'static>); N]) -> Options<'static> {
    Options::from(pairs)
}

pub fn a_shell_is_a_login_of_the_same_user(alice: &Client<'_>) {
    alice.script("mkdir -p ~/work");
    let environment =
        std::collections::HashMap::from([("LC_TIME", "C"), ("LD_PRELOAD", "/evil.so")]);
    let mut shell = alice.shell(
        "box",
        &[],
        options([
            ("term", "xterm-256color".into()),
            ("columns", 91u16.into()),
            ("rows", 31u16.into()),
            ("cwd", "/home/alice/work".into()),
            ("environment", environment.into()),
        ]),
    );
    // Without what readline says to the terminal.
    shell.send("PS1=; stty -echo; bind 'set enable-bracketed-paste off'; echo be''gin\n");
    shell.expect("begin\r\n");
    shell.send(
        "echo $0 $SHELL $HOME $TERM $LC_TIME; tty; stty size; pwd; id; id -un; \
         echo user:$(stat -c %U $(tty)) preload:$LD_PRELOAD name:$KAPSULE_CONTAINER runtime:$XDG_RUNTIME_DIR; \
         shopt login_shell; systemctl --user is-system-running; loginctl show-user alice -P Linger; echo e''nd\n",
    );
    let text = shell.expect("end\r\n");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0], "-bash /bin/bash /home/alice xterm-256color C",
        "{text}"
    );
    assert!(lines[1].starts_with("/dev/pts/"), "{text}");
    assert_eq!(lines[2..4], ["31 91", "/home/alice/work"], "{text}");
    assert!(
        lines[4].starts_with("uid=1000(alice) gid=1000(alice) groups=1000(alice),"),
        "{text}"
    );
    assert!(lines[4].contains("(video)"), "{text}");
    assert_eq!(
        lines[5..7],
        [
            "alice",
            "user:alice preload: name:box runtime:/run/user/1000"
        ],
        "{text}"
    );
    assert!(lines[7].ends_with("on"), "it is no login shell: {text}");
    assert!(
        ["running", "degraded", "starting"].contains(&lines[8]),
        "no service manager of the user: {text}"
    );
    assert_eq!(lines[9], "yes", "{text}");
    shell.send("exit 5\n");
    assert_eq!(alice.wait(&shell.session), 5);
}

pub fn a_command_has_its_arguments_and_pipes(alice: &Client<'_>) {
    // Issue 6, point 5.
    let odd = [
        "-c",
        "a b",
        "; \"quotes\"",
        "$HOME `id` \\ '",
        "",
        "\n",
        "--",
        "*",
    ];
    let argv: Vec<&str> = ["printf", "[%s]"].into_iter().chain(odd).collect();
    let expected: String = odd.iter().map(|a| format!("[{a}]")).collect();
    let (status, said, errors) = alice.command(&argv, Options::new(), "");
    assert_eq!((status, said, errors), (0, expected.clone(), String::new()));
    let (_, said, _) = alice.command(&argv, options([("login", true.into())]), "");
    assert_eq!(said, expected);
    let (status, said, errors) = alice.command(
        &["sh", "-c", "cat; echo err >&2; exit 3"],
        Options::new(),
        "a\nb",
    );
    assert_eq!(
        (status, said.as_str(), errors.as_str()),
        (3, "a\nb", "err\n")
    );
    let (status, _, errors) = alice.command(&["nowhere"], Options::new(), "");
    assert_eq!(
        (status, errors.as_str()),
        (127, "kapsule: 'nowhere' is not installed in 'box'\n")
    );
}

pub fn a_program_is_in_the_container_and_nowhere_else(alice: &Client<'_>) {
    let init =
        "cat /proc/1/status | grep -E '^(CapBnd|NoNewPrivs|Seccomp)'; grep ^0:: /proc/1/cgroup";
    let own = "cat /proc/self/status | grep -E '^(CapBnd|NoNewPrivs|Seccomp)'; grep ^0:: /proc/self/cgroup";
    let (inits, owns) = (alice.script(init), alice.script(own));
    let (inits, owns): (Vec<_>, Vec<_>) = (inits.lines().collect(), owns.lines().collect());
    // Bounding set, no_new_privs, seccomp mode and how many filters.
    assert_eq!(inits.len(), 5, "{inits:?}");
    assert_eq!(inits[..4], owns[..4]);
    assert!(
        inits[2].ends_with('2'),
        "Incus has set no filter, so that this has shown nothing: {inits:?}"
    );
    // In the container's cgroup, seen from its root.
    assert_eq!(owns[4], "0::/.lxc");
    let inside = alice
        .script("for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done");
    let outside = alice
        .script("for n in user mnt pid net ipc uts cgroup; do sudo readlink /proc/1/ns/$n; done");
    assert_eq!(inside, outside);
    let own = std::fs::read_link("/proc/self/ns/pid").expect("our own");
    assert!(!inside.contains(&*own.to_string_lossy()));
    let environment = alice.script("env; sudo env");
    assert!(
        !environment.contains("KAPSULE_TEST"),
        "the daemon's environment: {environment}"
    );
    let leaked = alice.script("n=3; while [ $n -lt 200 ]; do [ ! -e /proc/self/fd/$n ] || readlink /proc/self/fd/$n; n=$((n+1)); done");
    assert_eq!(leaked, "");
    // Where the screen is is not said to a container that has none of it.
    let screen = std::collections::HashMap::from([
        ("COLORTERM", "truecolor"),
        ("DISPLAY", ":0"),
        ("WAYLAND_DISPLAY", "wayland-0"),
        ("XAUTHORITY", "/run/user/1000/xauth"),
    ]);
    let (_, environment, _) =
        alice.command(&["env"], options([("environment", screen.into())]), "");
    assert!(
        environment.contains("COLORTERM=truecolor\n"),
        "{environment}"
    );
    for name in ["DISPLAY=", "XAUTHORITY="] {
        assert!(!environment.contains(name), "{environment}");
    }
    // What the filter denies is denied (finit_module): without it this would be EPERM.
    #[cfg(target_arch = "x86_64")]
    assert_eq!(
        alice.script("sudo perl -e 'syscall(313, -1, 0, 0); print $!+0'"),
        "38"
    );
}

pub fn signals_and_the_terminals_size_arrive(alice: &Client<'_>) {
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let (mut out, writer) = std::io::pipe().expect("a pipe");
    let null = || -> OwnedFd { File::open("/dev/null").expect("it is there").into() };
    let session = alice
        .try_command(
            "box",
            &["sh", "-c", script],
            Options::new(),
            [null(), writer.into(), null()],
        )
        .expect("it starts");
    let mut said = |text: &str| {
        use std::io::Read;
        let mut buffer = vec![0; text.len()];
        out.read_exact(&mut buffer).expect("it says so");
        assert_eq!(String::from_utf8_lossy(&buffer), text);
    };
    said("ready\n");
    alice.call(&session, "Signal", &(10,)).expect("it is ours");
    said("usr1\n");
    alice.call(&session, "Signal", &(15,)).expect("it is ours");
    said("term\n");
    assert_eq!(alice.wait(&session), 9);
    let error = alice
        .call(&session, "Resize", &(1u16, 1u16))
        .expect_err("it has no terminal");
    assert!(error.to_string().contains("has no terminal"), "{error}");

    let mut shell = alice.shell("box", &[], Options::new());
    shell.send("PS1=; stty -echo; stty size; trap 'echo winch $(stty size)' WINCH; echo be''gin\n");
    shell.expect("24 80");
    shell.expect("begin\r\n");
    alice
        .call(&shell.session, "Resize", &(132u16, 43u16))
        .expect("it has a terminal");
    shell.send("sleep 0\n");
    shell.expect("winch 43 132");
    // To what is in the foreground, not to the shell.
    shell.send(
        "sh -c 'trap \"echo hup; exit\" HUP; echo fore''ground; while :; do sleep 0.05; done'\n",
    );
    shell.expect("foreground\r\n");
    alice
        .call(&shell.session, "Signal", &(1,))
        .expect("it runs");
    shell.expect("hup\r\n");
    shell.send(
        "sh -c 'trap \"echo int; exit 130\" INT; echo wai''ting; while :; do sleep 0.05; done'; echo status:$?\n",
    );
    shell.expect("waiting\r\n");
    shell.send("\x03");
    shell.expect("status:130");
    shell.send("kill -KILL $$\n");
    assert_eq!(alice.wait(&shell.session), 128 + 9);
    // The same answer, later.
    assert_eq!(alice.wait(&shell.session), 128 + 9);
}

pub fn root_needs_no_password(alice: &Client<'_>) {
    assert_eq!(alice.script("sudo -n id -u"), "0\n");
    let (status, said, _) = alice.command(
        &["sh", "-c", "id -u; echo $HOME"],
        options([("user", "root".into())]),
        "",
    );
    assert_eq!((status, said.as_str()), (0, "0\n/root\n"));
}

pub fn what_is_written_in_the_home_is_the_users_on_both_sides(
    rig: &Rig<'_>,
    client: &Client<'_>,
    user: &User,
    name: &str,
) {
    let (status, _, errors) = client.command_in(
        name,
        &["sh", "-c", "echo inside >~/from-inside"],
        Options::new(),
        "",
    );
    assert_eq!((status, errors.as_str()), (0, ""));
    let home = rig.machine.outside(user.home());
    let stat = std::fs::metadata(home.join("from-inside")).expect("it is in the home");
    assert_eq!((stat.uid(), stat.gid()), (user.uid, user.uid));
    std::fs::write(home.join("from-outside"), "outside").expect("we may");
    std::os::unix::fs::chown(home.join("from-outside"), Some(user.uid), Some(user.uid))
        .expect("we may");
    let (_, said, _) = client.command_in(
        name,
        &[
            "sh",
            "-c",
            "stat -c %U ~/from-outside; cat ~/from-outside; id -u",
        ],
        Options::new(),
        "",
    );
    assert_eq!(said, format!("{}\noutside{}\n", user.name, user.uid));
}

pub fn odd_calls_are_refused(alice: &Client<'_>) {
    let null = || -> OwnedFd { File::open("/dev/null").expect("it is there").into() };
    let refused = |argv: &[&str], options: Options<'_>, stdin: OwnedFd, why: &str| {
        let error = alice
            .try_command("box", argv, options, [stdin, null(), null()])
            .expect_err(why)
            .to_string();
        assert!(
            error.contains("InvalidArgument") && error.contains(why),
            "{error}"
        );
    };
    refused(&[], Options::new(), null(), "no command");
    refused(&[""], Options::new(), null(), "empty");
    refused(
        &["id"],
        options([("cwd", "relative".into())]),
        null(),
        "absolute",
    );
    refused(&["id"], options([("user", "bob".into())]), null(), "'root'");
    refused(
        &["id"],
        options([("privileged", true.into())]),
        null(),
        "no option 'privileged'",
    );
    refused(
        &["id"],
        options([("term", "../../etc/passwd".into())]),
        null(),
        "terminal",
    );
    refused(
        &["id"],
        Options::new(),
        File::open("/").expect("it is there").into(),
        "directory",
    );
    let pty = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).expect("a terminal");
    refused(&["id"], Options::new(), pty, "terminal");
}

pub fn a_session_ends_with_who_started_it(rig: &Rig<'_>) {
    let other = rig.client(&testbed::machine::ALICE);
    let (mut out, writer) = std::io::pipe().expect("a pipe");
    let null = || -> OwnedFd { File::open("/dev/null").expect("it is there").into() };
    let script = "trap 'echo hup; exit' HUP; echo ready; while :; do sleep 0.05; done";
    let _session = other
        .try_command(
            "box",
            &["sh", "-c", script],
            Options::new(),
            [null(), writer.into(), null()],
        )
        .expect("it starts");
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut out, &mut ready).expect("it runs");
    other.run("the end of a connection", async {
        other.connection.clone().close().await.expect("it is open");
    });
    assert_eq!(crate::rig::read_all(out), "hup\n");
}

pub fn programs_that_have_ended_cost_the_daemon_nothing(rig: &Rig<'_>, alice: &Client<'_>) {
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", rig.daemon.id()))
            .expect("it runs")
            .count()
    };
    let root = rig.client(&User {
        name: "root",
        uid: 0,
        groups: &[],
    });
    // How many rules the daemon has at the bus, to be told of callers that go.
    let rules = || {
        root.run("the bus's rules", async {
            let answer = root
                .connection
                .call_method(
                    Some("org.freedesktop.DBus"),
                    "/org/freedesktop/DBus",
                    Some("org.freedesktop.DBus.Debug.Stats"),
                    "GetAllMatchRules",
                    &(),
                )
                .await;
            // A bus may be built without.
            let rules: std::collections::HashMap<String, Vec<String>> =
                answer.ok()?.body().deserialize().expect("as documented");
            let all = rules.into_values().flatten();
            Some(
                all.filter(|rule| rule.contains("NameOwnerChanged") && rule.contains("arg0"))
                    .count(),
            )
        })
    };
    if rules().is_none() {
        testbed::skip::say_skipped(format_args!(
            "what the daemon asks the bus for: this bus does not tell"
        ));
    }
    alice.script("true");
    let before = (descriptors(), rules());
    for _ in 0..25 {
        alice.script("true");
    }
    // The last one's may take a moment.
    within("that nothing is kept of programs that have ended", async {
        while descriptors() > before.0 || rules() > before.1 {
            tokio::task::yield_now().await;
        }
    });
}

pub fn another_user_has_no_part_in_a_session(alice: &Client<'_>, bob: &Client<'_>) {
    let shell = alice.shell("box", &["sleep", "1000"], Options::new());
    let theirs = bob.session_of(&shell);
    for result in [
        bob.call(&theirs, "Signal", &(9,)),
        bob.call(&theirs, "Resize", &(1u16, 1u16)),
        bob.call(&theirs, "Wait", &()),
    ] {
        let error = result.expect_err("it is alice's").to_string();
        assert!(error.contains("NotAuthorized"), "{error}");
    }
    // The terminal's other end is closed, and the program with it.
    drop(shell.master);
    assert_eq!(alice.wait(&shell.session), 128 + 1);
}

pub fn a_container_that_was_started_anew_is_entered_anew(rig: &Rig<'_>, alice: &Client<'_>) {
    let before = alice.script("sudo readlink /proc/1/ns/pid");
    let shell = alice.shell("box", &[], Options::new());
    alice.operation("StopContainer", &("box", true));
    assert_eq!(alice.wait(&shell.session), 128 + 9);
    within("that the multiplexer ends with the container", async {
        while !crate::session_bus::multiplexers(rig, "box").is_empty() {
            tokio::task::yield_now().await;
        }
    });
    alice.start("box");
    assert_ne!(alice.script("sudo readlink /proc/1/ns/pid"), before);
    // What systemd made when it started, and waited for.
    assert_eq!(
        alice.script("echo $XDG_RUNTIME_DIR; test -S $XDG_RUNTIME_DIR/bus && echo bus"),
        "/run/user/1000\nbus\n"
    );
}
