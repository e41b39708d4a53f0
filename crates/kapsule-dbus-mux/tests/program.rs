//! The program as a person or systemd starts it: its socket, its signals, its errors, `run` and `status`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use testbed::processes::Output;
use testbed::{
    DaemonOptions, DbusDaemon, Deadline, Mux, MuxOptions, Process, RawClient, TestDir, Topology,
    World, mux_program, needs, run_to_end, tools,
};

/// The program with these arguments, in the surroundings of `dir`, and no bus in its environment.
fn mux(dir: &TestDir, arguments: &[&str]) -> Command {
    let program = mux_program().unwrap_or_else(|failure| panic!("{failure}"));
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(dir.environment());
    command
}

#[track_caller]
fn finish(command: Command) -> Output {
    run_to_end(command, testbed::deadline::LIMIT).unwrap_or_else(|failure| panic!("{failure}"))
}

#[track_caller]
fn by_itself(dir: &TestDir) -> Mux {
    Mux::start(
        dir,
        &MuxOptions {
            host_bus: Some("none".to_owned()),
            ..MuxOptions::default()
        },
    )
    .unwrap_or_else(|failure| panic!("{failure}"))
}

#[track_caller]
fn daemon(dir: &TestDir, name: &str, configuration: &str) -> DbusDaemon {
    DbusDaemon::start(
        dir,
        &DaemonOptions {
            name: name.to_owned(),
            configuration: configuration.to_owned(),
            ..DaemonOptions::default()
        },
    )
    .unwrap_or_else(|failure| panic!("{failure}"))
}

// ── The socket ──

#[test]
fn the_socket_is_for_its_owner_alone() {
    let dir = TestDir::new();
    let mux = by_itself(&dir);
    let metadata = fs::metadata(mux.socket()).expect("the socket is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_socket_of_a_dead_process_is_replaced() {
    let dir = TestDir::new();
    let mut first = by_itself(&dir);
    first.process().signal(Signal::KILL);
    first.process().wait(Deadline::usual()).expect("it ends");
    assert!(
        first.socket().exists(),
        "a process that is killed leaves its socket"
    );
    let second = by_itself(&dir);
    RawClient::open(&second.address());
}

#[test]
fn the_socket_of_a_live_process_is_an_error_and_goes_on_working() {
    let dir = TestDir::new();
    let first = by_itself(&dir);
    let path = first.socket().display().to_string();
    let output = finish(mux(&dir, &["--listen", &path, "--host-bus", "none"]));
    assert!(!output.status.success());
    assert!(output.stderr.contains(&path), "{}", output.stderr);
    RawClient::open(&first.address());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = TestDir::new();
    let path = dir.write("precious", "data").display().to_string();
    let output = finish(mux(&dir, &["--listen", &path, "--host-bus", "none"]));
    assert!(!output.status.success());
    assert!(output.stderr.contains(&path), "{}", output.stderr);
    assert_eq!(fs::read_to_string(path).expect("it is there"), "data");
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = TestDir::new();
        let mut mux = by_itself(&dir);
        let mut client = RawClient::open(&mux.address());
        mux.process().signal(signal);
        let status = mux.process().wait(Deadline::usual()).expect("it ends");
        assert_eq!(
            status.code(),
            Some(0),
            "{signal:?}: {}",
            mux.process().log()
        );
        assert!(!mux.socket().exists(), "{signal:?} leaves no socket");
        client.expect_closed();
    }
}

#[test]
fn with_busy_poll_it_answers_while_it_looks_for_more_and_after_it_has_gone_to_sleep() {
    let dir = TestDir::new();
    let mut mux = Mux::start(
        &dir,
        &MuxOptions {
            host_bus: Some("none".to_owned()),
            arguments: vec!["--busy-poll".to_owned(), "300".to_owned()],
            ..MuxOptions::default()
        },
    )
    .unwrap_or_else(|failure| panic!("{failure}"));
    let mut client = RawClient::open(&mux.address());
    for _ in 0..3 {
        assert!(
            client
                .list_names()
                .contains(&client.unique_name().to_owned())
        );
    }
    let stat = format!("/proc/{}/stat", mux.process().id());
    let deadline = Deadline::usual();
    // The third word is the state: S is asleep.
    while fs::read_to_string(&stat).unwrap().split(' ').nth(2) != Some("S") {
        assert!(!deadline.left().is_zero(), "it never sleeps");
        std::thread::yield_now();
    }
    assert_eq!(client.request_name("org.example.Name", 0), 1);
}

#[test]
fn a_socket_that_systemd_passes_is_served_and_kept() {
    needs!(tools::SOCKET_ACTIVATE);
    let dir = TestDir::new();
    let socket = dir.join("passed");
    let program = mux_program().unwrap_or_else(|failure| panic!("{failure}"));
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg("--listen")
        .arg(&socket)
        .args(["--setenv=HOME", "--setenv=XDG_RUNTIME_DIR"])
        .arg(program)
        .args(["--host-bus", "none"])
        .env_clear()
        .envs(dir.environment());
    let (mut process, mut lines) =
        Process::start_reading_both(command, "socket-activate", &dir.join("logs"))
            .unwrap_or_else(|failure| panic!("{failure}"));
    lines.expect_line("that it listens", |line| line.starts_with("Listening on "));
    RawClient::open(&format!("unix:path={}", socket.display()));
    process.signal(Signal::TERM);
    let status = process.wait(Deadline::usual()).expect("it ends");
    assert_eq!(status.code(), Some(0));
    // It is systemd's, which goes on listening.
    assert!(socket.exists());
}

// ── The buses ──

/// Whether programs inside see a name that somebody owns at `host`.
#[track_caller]
fn assert_reaches(inside: &str, host: &DbusDaemon) {
    let mut service = RawClient::open(host.address());
    assert_eq!(service.request_name("org.example.There", 0), 1);
    let mut client = RawClient::open(inside);
    let owner = client.name_owner("org.example.There");
    assert_eq!(owner.as_deref(), Some(service.unique_name()));
}

#[track_caller]
fn start_with(dir: &TestDir, host_bus: Option<&str>, environment: &[(&str, &str)]) -> Mux {
    Mux::start(
        dir,
        &MuxOptions {
            host_bus: host_bus.map(str::to_owned),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..MuxOptions::default()
        },
    )
    .unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn the_host_bus_is_that_of_the_environment() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let host = daemon(&dir, "host", "");
    let mux = start_with(&dir, None, &[("DBUS_SESSION_BUS_ADDRESS", host.address())]);
    assert_reaches(&mux.address(), &host);
}

#[test]
fn without_an_address_the_host_bus_is_in_the_runtime_directory() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let host = daemon(&dir, "runtime", "");
    assert_eq!(host.socket(), dir.join("runtime/bus"));
    let mux = start_with(&dir, None, &[]);
    assert_reaches(&mux.address(), &host);
}

#[test]
fn the_addresses_of_a_list_are_tried_in_order() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let host = daemon(&dir, "host", "");
    let list = format!(
        "tcp:host=localhost,port=1;unix:path={};{}",
        dir.join("nobody").display(),
        host.address()
    );
    let mux = start_with(&dir, Some(&list), &[]);
    assert_reaches(&mux.address(), &host);
}

#[test]
fn an_address_may_be_escaped_or_abstract_or_in_the_runtime_directory() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let abstract_name = dir.join("abstract").display().to_string();
    let host = daemon(
        &dir,
        "runtime",
        &format!("<listen>unix:abstract={abstract_name}</listen>"),
    );
    std::os::unix::fs::symlink(host.socket(), dir.join("a bus, here")).expect("our directory");
    let escaped = format!("unix:path={}/a%20bus%2c%20here", dir.path().display());
    for address in [
        escaped,
        format!("unix:abstract={abstract_name}"),
        "unix:runtime=yes".to_owned(),
    ] {
        let mux = start_with(&dir, Some(&address), &[]);
        assert_reaches(&mux.address(), &host);
    }
}

#[test]
fn an_address_may_be_a_program_that_leads_to_a_bus() {
    needs!(tools::DBUS_DAEMON, tools::STDIO_BRIDGE);
    let dir = TestDir::new();
    let host = daemon(&dir, "host", "");
    let bridge = tools::STDIO_BRIDGE.find().expect("asked for above");
    let address = format!(
        "unixexec:path={},argv1=--bus-path%3dunix%3apath%3d{}",
        bridge.display(),
        host.socket().display()
    );
    let mux = start_with(&dir, Some(&address), &[]);
    assert_reaches(&mux.address(), &host);
}

// ── Errors ──

/// Ends with failure, says each of these, and never shows a backtrace.
#[track_caller]
fn assert_fails_saying(mut command: Command, said: &[&str]) {
    command.env("RUST_BACKTRACE", "full");
    let shown = format!("{command:?}");
    let output = finish(command);
    assert!(!output.status.success(), "{shown}");
    for text in said {
        assert!(
            output.stderr.contains(text),
            "{shown}\nshould say {text:?}, and says:\n{}",
            output.stderr
        );
    }
    for text in ["panicked", "backtrace", "src/"] {
        assert!(!output.stderr.contains(text), "{}", output.stderr);
    }
}

#[test]
fn errors_name_the_address_and_the_remedy() {
    let dir = TestDir::new();
    let listen = dir.join("bus").display().to_string();
    let nobody = format!("unix:path={}", dir.join("nobody").display());
    assert_fails_saying(
        mux(&dir, &["--listen", &listen, "--host-bus", &nobody]),
        &[&nobody, "host bus", "--host-bus"],
    );
    assert_fails_saying(
        mux(
            &dir,
            &[
                "--listen",
                &listen,
                "--host-bus",
                "tcp:host=localhost,port=1",
            ],
        ),
        &["tcp", "--host-bus", "unix:path="],
    );
    assert_fails_saying(
        mux(&dir, &["--listen", &listen, "--host-bus", "unix:path"]),
        &["unix:path", "--host-bus"],
    );
    assert_fails_saying(
        mux(&dir, &["--host-bus", "none"]),
        &["--listen", "LISTEN_FDS"],
    );
    let nowhere = dir.join("no/such/dir/bus").display().to_string();
    assert_fails_saying(
        mux(&dir, &["--listen", &nowhere, "--host-bus", "none"]),
        &[&nowhere],
    );
    assert_fails_saying(mux(&dir, &["status", &listen]), &[&listen]);
    let mut nothing_known = mux(&dir, &["--listen", &listen]);
    nothing_known.env_remove("XDG_RUNTIME_DIR");
    assert_fails_saying(nothing_known, &["DBUS_SESSION_BUS_ADDRESS", "--host-bus"]);
}

#[test]
fn a_container_bus_that_is_not_there_is_named() {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let host = daemon(&dir, "host", "");
    let listen = dir.join("bus").display().to_string();
    let nobody = format!("unix:path={}", dir.join("nobody").display());
    assert_fails_saying(
        mux(
            &dir,
            &[
                "--listen",
                &listen,
                "--host-bus",
                host.address(),
                "--container-bus",
                &nobody,
            ],
        ),
        &[&nobody, "container bus", "--container-bus"],
    );
}

// ── run ──

#[test]
fn run_gives_the_command_a_bus_and_ends_with_its_status() {
    let dir = TestDir::new();
    let script = "echo $DBUS_SESSION_BUS_ADDRESS; test -S ${DBUS_SESSION_BUS_ADDRESS#unix:path=} || \
                  test -S $(echo $DBUS_SESSION_BUS_ADDRESS | sed 's/unix:path=\\([^,]*\\).*/\\1/'); \
                  exit $(($? + 42))";
    let output = finish(mux(
        &dir,
        &["run", "--host-bus", "none", "--", "sh", "-c", script],
    ));
    assert_eq!(output.status.code(), Some(42), "{}", output.both());
    let address = output.stdout.trim();
    let path = address
        .strip_prefix("unix:path=")
        .and_then(|rest| rest.split(',').next())
        .expect("an address with a path");
    assert!(!Path::new(path).exists(), "{path} is cleaned up");
    let left: Vec<_> = fs::read_dir(dir.join("runtime"))
        .expect("our directory")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn run_is_a_session_bus_for_real_programs() {
    needs!(tools::DBUS_DAEMON, tools::DBUS_SEND);
    let world = World::start(Topology::Plain);
    let mut service = RawClient::open(&world.outside());
    assert_eq!(service.request_name("org.example.There", 0), 1);
    let mut command = mux(
        &world.dir,
        &[
            "run",
            "--",
            "dbus-send",
            "--session",
            "--print-reply=literal",
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.GetNameOwner",
            "string:org.example.There",
        ],
    );
    command.env("DBUS_SESSION_BUS_ADDRESS", world.outside());
    assert_eq!(finish(command).success().trim(), service.unique_name());
}

#[test]
fn run_ends_as_a_shell_does_for_a_command_that_a_signal_ended_or_that_is_not_there() {
    let dir = TestDir::new();
    let run = |command: &[&str]| {
        let arguments = [&["run", "--host-bus", "none", "--"], command].concat();
        finish(mux(&dir, &arguments)).status.code()
    };
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"]), Some(128 + 15));
    assert_eq!(run(&["/nonexistent/command"]), Some(127));
    assert_eq!(run(&["/"]), Some(126));
}

#[test]
fn run_passes_sigterm_to_the_command_and_waits_for_it() {
    let dir = TestDir::new();
    let script =
        "trap 'echo ending; exit 7' TERM; echo ready; while :; do read -r _ < \"$FIFO\"; done";
    let fifo = dir.join("fifo");
    let _held_open = testbed::Lines::of_fifo(&fifo).unwrap_or_else(|failure| panic!("{failure}"));
    let mut command = mux(
        &dir,
        &["run", "--host-bus", "none", "--", "sh", "-c", script],
    );
    command.env("FIFO", &fifo);
    let (mut process, mut lines) = Process::start_reading(command, "run", &dir.join("logs"))
        .unwrap_or_else(|failure| panic!("{failure}"));
    lines.expect_line("that the command runs", |line| line == "ready");
    process.signal(Signal::TERM);
    lines.expect_line("that the command ends", |line| line == "ending");
    let status = process.wait(Deadline::usual()).expect("it ends");
    assert_eq!((status.code(), status.signal()), (Some(7), None));
}

// ── status ──

#[test]
fn status_shows_clients_and_names_and_where_they_live() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Local);
    let mut outside = RawClient::open(&world.outside());
    assert_eq!(outside.request_name("org.example.Outside", 0), 1);
    let mut inside = RawClient::open(&world.inside());
    assert_eq!(inside.request_name("org.example.Inside", 0), 1);

    let socket = world.mux.as_ref().expect("there is one").socket();
    let socket = socket.display().to_string();
    let text = finish(mux(&world.dir, &["status", &socket])).success();
    for shown in [
        "org.example.Outside",
        "org.example.Inside",
        inside.unique_name(),
    ] {
        assert!(text.contains(shown), "{shown} is not in:\n{text}");
    }

    let json = finish(mux(&world.dir, &["status", "--json", &socket])).success();
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.trim_end().lines().count(), 1, "one object on one line");
    let holds = |text: &str| json.contains(&format!("\"{text}\""));
    assert!(status.is_object());
    assert!(
        holds("org.example.Inside") && holds("org.example.Outside"),
        "{json}"
    );
}

// ── Its log ──

#[test]
fn a_reader_of_the_log_that_has_gone_does_not_end_it() {
    let dir = TestDir::new();
    let socket = dir.join("bus");
    let ready = dir.join("ready");
    let told = std::os::unix::net::UnixDatagram::bind(&ready).expect("a socket to be told by");
    told.set_read_timeout(Some(testbed::deadline::LIMIT))
        .expect("a limit");
    let mut command = mux(&dir, &["-vv", "--host-bus", "none", "--listen"]);
    command
        .arg(&socket)
        .env("NOTIFY_SOCKET", &ready)
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    drop(child.stderr.take());
    told.recv(&mut [0; 64]).expect("it gets ready");
    for _ in 0..3 {
        // Rubbish is worth a line in the log.
        use std::io::{Read, Write};
        let mut rude = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
        rude.write_all(b"rubbish\r\n").expect("it reads");
        let _ = rude.read(&mut [0; 64]);
    }
    let address = format!("unix:path={}", socket.display());
    RawClient::open(&address);
    child.kill().expect("it still runs");
    child.wait().expect("it is ours");
}
