//! Programs in a container of the tests' own making: namespaces and nothing more, so that no Incus is needed.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::shell::terminal::Terminal;

/// What is mounted inside: the host's files, but for accounts, home and terminals.
const SET_UP: &str = r#"
mount --make-rprivate / || exit 1
mount -t proc proc /proc && mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts || exit 1
mount -t tmpfs -o mode=755 tmpfs /etc && mount -t tmpfs -o mode=755 tmpfs /home && mount -t tmpfs tmpfs /var/lib || exit 1
mkdir -p /etc/sudoers.d /etc/skel /var/lib/systemd && echo hello >/etc/skel/.profile
printf 'root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh' >/etc/passwd
printf 'root:x:0:\naudio:x:29:ann\nann:x:1000:\nvideo:x:44:\nstaff:x:50:\n' >/etc/group
printf 'root:*:1::::::\n' >/etc/shadow
mkdir /home/ann && chown 1000:1000 /home/ann
"#;

const MAP: &str = "0 1000000 1000\n1000 1000 1\n1001 1001001 654359\n";

/// Ended when this goes: the first process of a pid namespace takes all others with it.
struct Namespaces {
    unshare: Child,
    init: Arc<Init>,
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // `--kill-child`: its child goes with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn namespaces() -> Option<Namespaces> {
    let mut unshare = Command::new("unshare")
        .args([
            "-U",
            "-m",
            "-p",
            "-f",
            "-i",
            "-u",
            "-n",
            "-C",
            "--kill-child",
            "sleep",
            "infinity",
        ])
        .stdin(Stdio::null())
        .spawn()
        .ok()?;
    let outer = unshare.id();
    let deadline = testbed::Deadline::usual();
    // It is there as soon as the process is, which is a moment after `unshare` is.
    let pid: Option<u32> = loop {
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))
            .unwrap_or_default();
        if let Some(pid) = children.split_whitespace().next() {
            break pid.parse().ok();
        }
        if deadline.left().is_zero() || !matches!(unshare.try_wait(), Ok(None)) {
            break None;
        }
        std::thread::yield_now();
    };
    // From here on it is ended with this.
    let mapped = pid.is_some_and(|pid| {
        ["uid_map", "gid_map"]
            .iter()
            .all(|file| std::fs::write(format!("/proc/{pid}/{file}"), MAP).is_ok())
    });
    let (Some(pid), true) = (pid, mapped) else {
        let _ = unshare.kill();
        let _ = unshare.wait();
        return None;
    };
    let init = Init::open(pid).expect("it is the first of its namespace");
    let made = Namespaces {
        unshare,
        init: Arc::new(init),
    };
    let set_up = Command::new("nsenter")
        .args([
            "-a",
            "-S",
            "0",
            "-G",
            "0",
            "-t",
            &pid.to_string(),
            "sh",
            "-c",
            SET_UP,
        ])
        .env("KAPSULE_SECRET", "of a process in the container")
        .status()
        .expect("nsenter is there where unshare is");
    assert!(set_up.success(), "the container of the test was not made");
    Some(made)
}

macro_rules! namespaces {
    () => {
        match namespaces() {
            Some(made) => made,
            None => testbed::skip!("no user namespace can be made here; root may"),
        }
    };
}

fn program(init: &Init, argv: &[&str], uid: u32, stdio: [OwnedFd; 3]) -> Program {
    let root = init.root().expect("it runs");
    let inmate = match uid {
        0 => Inmate::root(&root),
        _ => Inmate::of(&root, uid).expect("it has an account"),
    };
    let environment = Environment::of_login(&root, &inmate, "/bin/sh");
    Program {
        directories: vec!["/does/not/exist".to_owned(), inmate.home.clone()],
        inmate,
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        login: false,
        environment,
        stdio,
        terminal: false,
        hold: None,
        container: "test".to_owned(),
    }
}

/// Runs a program, and gives its status and what it said.
async fn said(init: &Init, argv: &[&str], uid: u32) -> (i32, String) {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let null = File::open("/dev/null").expect("it is there");
    let second = writer.try_clone().expect("a descriptor more");
    let program = program(init, argv, uid, [null.into(), writer.into(), second.into()]);
    let running = program.start(init).expect("it starts");
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("it says text");
    let status = running.wait().await.expect("it ends");
    (status, text)
}

#[tokio::test]
async fn arguments_and_the_exit_status_pass_exactly() {
    let made = namespaces!();
    let odd = [
        "-c",
        "a b",
        "; \"quotes\" 'q' $HOME `id`",
        "*",
        "",
        "\n",
        "ü\u{7f}",
    ];
    let argv: Vec<&str> = ["printf", "[%s]"].into_iter().chain(odd).collect();
    let (status, text) = said(&made.init, &argv, 1000).await;
    let expected: String = odd.iter().map(|a| format!("[{a}]")).collect();
    assert_eq!((status, text), (0, expected));
    assert_eq!(said(&made.init, &["sh", "-c", "exit 42"], 1000).await.0, 42);
    assert_eq!(
        said(&made.init, &["sh", "-c", "kill -TERM $$"], 1000)
            .await
            .0,
        128 + 15
    );
    let (status, text) = said(&made.init, &["no-such-program"], 1000).await;
    assert_eq!(
        (status, text.as_str()),
        (
            127,
            "kapsule: 'no-such-program' is not installed in 'test'\n"
        )
    );
    let (status, text) = said(&made.init, &["/home"], 1000).await;
    assert_eq!(
        (status, text.as_str()),
        (126, "kapsule: '/home' cannot be executed in 'test'\n")
    );
}

#[tokio::test]
async fn a_program_has_what_the_container_has_and_nothing_of_the_daemons() {
    let made = namespaces!();
    let (_reader, leak) = std::io::pipe().expect("a pipe");
    // As a library might have opened it: to be inherited.
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("it is open");
    let script = "cat /proc/self/status; echo cwd:$PWD; pwd; for n in /proc/self/ns/*; do readlink $n; done; \
                  n=3; while [ $n -lt 99 ]; do [ ! -e /proc/self/fd/$n ] || echo leaked:$n; n=$((n+1)); done; umask; id; cat /proc/self/oom_score_adj; env";
    let (status, text) = said(&made.init, &["sh", "-c", script], 1000).await;
    assert_eq!(status, 0, "{text}");
    let has = |line: &str| text.lines().any(|l| l == line);
    assert!(
        has("uid=1000(ann) gid=1000(ann) groups=1000(ann),29(audio)"),
        "{text}"
    );
    assert!(
        !text.contains("leaked:"),
        "descriptor {} was there to leak: {text}",
        leak.as_raw_fd()
    );
    assert!(
        has("/home/ann") && has("0022") && has("HOME=/home/ann") && has("USER=ann"),
        "{text}"
    );
    assert!(
        !text.contains("KAPSULE_SECRET") && !text.contains("CARGO"),
        "{text}"
    );
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
    ] {
        assert!(has(line), "{line}: {text}");
    }
    let pid = made.init.pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    for field in ["CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters"] {
        let line = status
            .lines()
            .find(|l| l.split(':').next() == Some(field))
            .expect("the kernel tells");
        assert!(has(line), "{line}: {text}");
    }
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs");
        assert!(has(&link.to_string_lossy()), "{link:?}: {text}");
    }
}

/// Starts `touch FILE` inside, held by a pipe. Gives the pipe's other end and the start when the child waits.
fn held(
    init: &Arc<Init>,
    file: &str,
) -> (
    std::io::PipeWriter,
    std::thread::JoinHandle<Result<Running>>,
) {
    let (hold, release) = std::io::pipe().expect("a pipe");
    let pipe = std::fs::read_link(format!("/proc/self/fd/{}", hold.as_raw_fd())).expect("it is");
    let null = || -> OwnedFd {
        File::options()
            .write(true)
            .open("/dev/null")
            .expect("it is there")
            .into()
    };
    let mut program = program(init, &["touch", file], 1000, [null(), null(), null()]);
    program.hold = Some(hold.into());
    let init = Arc::clone(init);
    let start = std::thread::spawn(move || program.start(&init));
    let deadline = testbed::Deadline::usual();
    let fds = |pid: &str| -> Vec<PathBuf> {
        let names = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let entries = names.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    loop {
        let children: String = std::fs::read_dir("/proc/self/task")
            .expect("the host has a /proc")
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .collect();
        let waiting = children.split_whitespace().any(|pid| {
            // 0, 1, 2, the way back, and what it waits for: nothing else that we have open.
            std::fs::read_link(format!("/proc/{pid}/fd/4")).is_ok_and(|it| it == pipe)
                && fds(pid).len() == 5
        });
        if waiting {
            return (release, start);
        }
        assert!(!deadline.left().is_zero(), "no child waits: {children}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_program_that_is_not_permitted_yet_begins_when_it_is() {
    let made = namespaces!();
    let (mut release, start) = held(&made.init, "/home/ann/permitted");
    assert!(!start.is_finished());
    let there = ["test", "-e", "/home/ann/permitted"];
    assert_eq!(said(&made.init, &there, 1000).await.0, 1, "it has begun");
    release.write_all(&[enter::GO]).expect("it waits");
    let running = start.join().expect("no panic").expect("it starts");
    assert_eq!(running.wait().await.expect("it ends"), 0);
    assert_eq!(said(&made.init, &there, 1000).await.0, 0);
}

#[tokio::test]
async fn a_program_that_is_not_permitted_never_begins() {
    let made = namespaces!();
    for answer in [None, Some(b"n")] {
        let (mut release, start) = held(&made.init, "/home/ann/refused");
        if let Some(answer) = answer {
            release.write_all(answer).expect("it waits");
        }
        drop(release);
        let refused = start.join().expect("no panic");
        assert!(
            matches!(&refused, Err(Error::NotAuthorized(_))),
            "{refused:?}"
        );
    }
    let there = ["test", "-e", "/home/ann/refused"];
    assert_eq!(said(&made.init, &there, 1000).await.0, 1, "it has run");
}

#[tokio::test]
async fn root_inside_is_root_of_the_container_only() {
    let made = namespaces!();
    let (status, text) = said(&made.init, &["sh", "-c", "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; touch /sys/x 2>&1; chown 0 /proc/self/fd/1; cat /proc/1/environ | tr '\\0' '\\n' | grep SECRET; :"], 0).await;
    assert_eq!(status, 0, "{text}");
    assert!(text.starts_with("0\n"), "{text}");
    assert!(text.contains("1000000"), "{text}");
    assert!(
        text.contains("/sys/x"),
        "it wrote into the host's /sys: {text}"
    );
}

#[tokio::test]
async fn a_login_shell_reads_its_profile_and_then_runs_the_command() {
    let made = namespaces!();
    let (status, text) = said(
        &made.init,
        &[
            "sh",
            "-c",
            "echo 'export FROM_PROFILE=yes' >/home/ann/.profile",
        ],
        1000,
    )
    .await;
    assert_eq!(status, 0, "{text}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let null: OwnedFd = File::open("/dev/null").expect("it is there").into();
    let second = null.try_clone().expect("a descriptor more");
    let mut program = program(
        &made.init,
        &["sh", "-c", "echo $FROM_PROFILE \"$1\"", "x", "a  b"],
        1000,
        [null, writer.into(), second],
    );
    program.login = true;
    let running = program.start(&made.init).expect("it starts");
    assert_eq!(std::io::read_to_string(reader).expect("text"), "yes a  b\n");
    assert_eq!(running.wait().await.expect("it ends"), 0);
}

/// Reads a terminal until a text has come.
fn read_until(master: &mut File, text: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 4096];
    let deadline = testbed::Deadline::usual();
    while !all.contains(text) {
        assert!(
            deadline.wait_readable(&[master.as_fd()]).is_some(),
            "'{text}' did not come: {all}"
        );
        match master.read(&mut buffer) {
            Ok(count) if count > 0 => all.push_str(&String::from_utf8_lossy(&buffer[..count])),
            other => panic!("'{text}' did not come ({other:?}): {all}"),
        }
    }
    all
}

#[tokio::test]
async fn a_shell_has_a_terminal_of_the_containers_own() {
    let made = namespaces!();
    let terminal = Terminal::open(&made.init, 1000, Some((100, 30))).expect("it has a devpts");
    let slave = || terminal.slave.try_clone().expect("a descriptor more");
    let mut program = program(&made.init, &[], 1000, [slave(), slave(), slave()]);
    program.terminal = true;
    let running = program.start(&made.init).expect("it starts");
    let Terminal {
        master,
        slave,
        place,
    } = terminal;
    drop(slave);
    let mut master = File::from(master);
    let mut type_in = |text: &str, until: &str| {
        master
            .write_all(text.as_bytes())
            .expect("somebody is there");
        read_until(&mut master, until)
    };
    type_in("stty -echo; echo $0\n", "-sh");
    let text = type_in("tty; stat -c %U $(tty); stty size; echo 'done'\n", "done");
    assert!(text.contains("/dev/pts/0\r\nann\r\n30 100\r\n"), "{text}");
    place.resize(&made.init, (120, 40)).expect("it is there");
    assert!(type_in("stty size\n", "40 120").contains("40 120"));
    // Job control: the terminal interrupts what is in the foreground, and the shell goes on.
    type_in(
        "sh -c 'trap \"echo got; exit 1\" INT; echo sleeping; while :; do sleep 1; done'\n",
        "sleeping",
    );
    type_in("\x03", "got");
    type_in(
        "sh -c 'trap \"echo hup; exit 1\" HUP; echo again; while :; do sleep 0.1; done'\n",
        "again",
    );
    running.signal(Signal::HUP, true).expect("it runs");
    type_in("", "hup");
    type_in("exit 7\n", "");
    assert_eq!(running.wait().await.expect("it ends"), 7);
}

#[tokio::test]
async fn when_the_terminal_is_closed_the_shell_ends() {
    let made = namespaces!();
    let terminal = Terminal::open(&made.init, 1000, None).expect("it has a devpts");
    let slave = || terminal.slave.try_clone().expect("a descriptor more");
    let mut program = program(&made.init, &[], 1000, [slave(), slave(), slave()]);
    program.terminal = true;
    let running = program.start(&made.init).expect("it starts");
    drop(terminal);
    assert_eq!(running.wait().await.expect("it ends"), 128 + 1);
}

#[tokio::test]
async fn a_container_that_has_ended_is_not_entered() {
    let mut made = namespaces!();
    made.unshare.kill().expect("it runs");
    testbed::Deadline::usual().wait_readable(&[made.init.pidfd()]);
    assert!(!made.init.is_alive());
    let error = made.init.root().expect_err("it has ended");
    assert!(matches!(error, Error::NotRunning(_)), "{error:?}");
}

#[tokio::test]
async fn a_host_terminal_or_directory_is_not_passed_in() {
    let pty =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
            .expect("a terminal");
    let error = check_descriptor(&pty, "stdin").expect_err("it is a terminal");
    assert!(error.text().contains("terminal"), "{error:?}");
    let directory: OwnedFd = File::open("/").expect("it is there").into();
    let error = check_descriptor(&directory, "stdin").expect_err("it is a directory");
    assert!(error.text().contains("directory"), "{error:?}");
    let null: OwnedFd = File::open("/dev/null").expect("it is there").into();
    check_descriptor(&null, "stdin").expect("it gives nothing away");
}

#[tokio::test]
async fn a_user_is_set_up_once_and_again() {
    let made = namespaces!();
    let set_up = async |arguments: &[&str]| {
        let mut argv = vec![
            "/bin/sh",
            "-c",
            include_str!("../set_up_user.sh"),
            "kapsule",
        ];
        argv.extend(arguments);
        let argv = argv.into_iter().map(str::to_owned).collect();
        run_as_root(&made.init, "test", argv, Duration::from_secs(20))
            .await
            .expect("it runs")
    };
    let read = |file: &str| made.init.root().expect("it runs").text(file);
    // Uid 1000 is somebody else's name; one group is here under another number, one is not here, one's number is taken.
    let arguments = [
        "bea",
        "1000",
        "1000",
        "/home/bea",
        "/usr/bin/a-shell-of-hers",
        "bea:1000",
        "audio:63",
        "wheel:998",
        "games:44",
        "root:0",
    ];
    let (status, text) = set_up(&arguments).await;
    assert_eq!((status, text.as_str()), (0, ""));
    assert_eq!(
        read("/etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nbea:x:1000:1000::/home/bea:/bin/bash\n"
    );
    let group = "root:x:0:\naudio:x:29:bea\nann:x:1000:\nvideo:x:44:\nstaff:x:50:\nwheel:x:998:bea\ngames:x:59999:bea\n";
    assert_eq!(read("/etc/group"), group);
    assert_eq!(
        read("/etc/shadow"),
        "root:*:1::::::\nbea:*:19000:0:99999:7:::\n"
    );
    assert_eq!(
        read("/etc/sudoers.d/kapsule-1000"),
        "#1000 ALL=(ALL:ALL) NOPASSWD: ALL\n"
    );
    assert_eq!(read("/etc/subuid"), "bea:524288:65536\n");
    assert_eq!(read("/home/bea/.profile"), "hello\n");
    let inmate = Inmate::of(&made.init.root().expect("it runs"), 1000).expect("she has an account");
    assert_eq!(inmate.groups, [1000, 29, 998, 59999]);
    let files = [
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/subuid",
        "/etc/subgid",
    ];
    let before = files.map(read);
    assert_eq!(set_up(&arguments).await.0, 0);
    assert_eq!(files.map(read), before);
    // A second one, and one whose name is the system's.
    assert_eq!(
        set_up(&["cyd", "1001", "1001", "/home/cyd", "/bin/sh"])
            .await
            .0,
        0
    );
    assert_eq!(read("/etc/subuid"), "bea:524288:65536\ncyd:589824:65536\n");
    // That was all that the container has.
    let dot = ["dot", "1003", "1003", "/home/dot", "/bin/sh"];
    assert_eq!(set_up(&dot).await.0, 0);
    assert_eq!(read("/etc/subuid"), "bea:524288:65536\ncyd:589824:65536\n");
    let (status, text) = set_up(&["root", "1002", "1002", "/home/x", "/bin/sh"]).await;
    assert_eq!(status, 1);
    assert!(
        text.contains("an account of its own that is called 'root'"),
        "{text}"
    );
    assert!(
        !made
            .init
            .root()
            .expect("it runs")
            .has("/etc/passwd.lock".as_ref())
    );
}
