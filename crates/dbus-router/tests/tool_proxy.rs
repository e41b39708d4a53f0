//! `dbus-router proxy` beside Debian's xdg-dbus-proxy: the same script, option by option, and what the client
//! saw. Where the versions of xdg-dbus-proxy differ, what is documented is right; such lines say so here.

use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dbus_wire::{Body, Builder};
use testbed::raw_client::{call, driver_call};
use testbed::{
    Arrival, DaemonOptions, DbusDaemon, Deadline, RawClient, TestDir, deadline, needs, tools,
};

const OURS: &str = env!("CARGO_BIN_EXE_dbus-router");

/// One of the two programs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Program {
    Theirs,
    Ours,
}

impl Program {
    fn command(self) -> Command {
        match self {
            Program::Theirs => Command::new("xdg-dbus-proxy"),
            Program::Ours => {
                let mut command = Command::new(OURS);
                command.arg("proxy");
                command
            }
        }
    }
}

/// A running proxy, ended when this goes.
struct Running {
    child: Child,
    ready: Option<PipeReader>,
}

impl Running {
    /// Starts it with `--fd` and waits until it is ready.
    fn start(mut command: Command) -> Running {
        let (mut ready, writer) = std::io::pipe().unwrap();
        let child = command.stdin(Stdio::null()).stdout(writer).spawn().unwrap();
        drop(command);
        let came = Deadline::usual().wait_readable(&[ready.as_fd()]);
        assert!(came.is_some(), "it did not say that it is ready");
        let mut byte = [0];
        ready
            .read_exact(&mut byte)
            .expect("it is ready, and did not end");
        assert_eq!(byte, *b"x");
        Running {
            child,
            ready: Some(ready),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that authenticates line by line: xdg-dbus-proxy closes on one that sends BEGIN before it was answered.
fn open(path: &Path) -> RawClient {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(deadline::LIMIT)).unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    for (said, awaited) in [
        (format!("\0AUTH EXTERNAL {hex}\r\n"), "OK "),
        ("NEGOTIATE_UNIX_FD\r\n".to_owned(), "AGREE_UNIX_FD"),
    ] {
        socket.write_all(said.as_bytes()).unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        assert!(
            line.starts_with(awaited.as_bytes()),
            "{}",
            String::from_utf8_lossy(&line)
        );
    }
    socket.write_all(b"BEGIN\r\n").unwrap();
    let mut client = RawClient::over(socket);
    client.hello();
    client
}

/// A bus with services, and a proxy before it.
struct Place {
    _proxy: Running,
    client: RawClient,
    daemon: DbusDaemon,
    _dir: TestDir,
}

const SERVICES: [&str; 4] = [
    "org.test.Plain",
    "org.test.Tree",
    "org.test.Tree.Leaf",
    "org.test.TreeHouse",
];

impl Place {
    fn new(program: Program, options: &[&str]) -> Place {
        let dir = TestDir::new();
        let daemon = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        for name in SERVICES {
            serve(daemon.address(), name);
        }
        let socket = dir.join("proxied");
        let mut command = program.command();
        command
            .arg("--fd=1")
            .arg(format!("unix:path={}", daemon.socket().display()))
            .arg(&socket)
            .args(options);
        let proxy = Running::start(command);
        let mut client = open(&socket);
        // Theirs asks the bus who owns the names of its options, behind Hello: now it knows.
        client.call_driver("GetId", &Body::new());
        Place {
            _proxy: proxy,
            client,
            daemon,
            _dir: dir,
        }
    }

    /// What a call ends in: `ok`, or the name of its error.
    fn call(&mut self, name: &str, path: &str, interface: &str, member: &str) -> String {
        ending(self.client.call(call(name, path, interface, member)))
    }

    fn driver(&mut self, member: &str, body: &Body) -> String {
        ending(self.client.call(driver_call(member, body)))
    }

    /// The names that are listed, without the client's own.
    fn names(&mut self) -> String {
        let own = self.client.unique_name().to_owned();
        let names = self.client.list_names();
        let names: Vec<String> = names
            .into_iter()
            .filter(|name| *name != own)
            .map(|name| {
                if name.starts_with(':') {
                    ":x".to_owned()
                } else {
                    name
                }
            })
            .collect();
        names.join(" ")
    }
}

fn ending(answer: testbed::Received) -> String {
    match answer.error_name() {
        Some(error) => error.rsplit('.').next().unwrap_or_default().to_owned(),
        None => match answer.header().signature {
            "b" => format!("ok {}", answer.reader().boolean().unwrap()),
            "u" => format!("ok {}", answer.number()),
            _ => "ok".to_owned(),
        },
    }
}

/// The two answers about what is hidden, of which the manual page lists which is ours.
fn hidden(ending: String) -> String {
    match ending.as_str() {
        "NameHasNoOwner" | "ServiceUnknown" => "hidden".to_owned(),
        _ => ending,
    }
}

/// Listed: who may not own a name is told so, also where it is hidden.
fn not_owned(ending: String) -> String {
    match ending.as_str() {
        "AccessDenied" | "ServiceUnknown" => "refused".to_owned(),
        _ => ending,
    }
}

/// A service that answers every call; `Emit` makes it broadcast. It ends with its bus.
fn serve(address: &str, name: &str) {
    let mut service = RawClient::open(address);
    assert_eq!(service.request_name(name, 0), 1);
    std::thread::spawn(move || {
        let hour = std::time::Duration::from_secs(3600);
        while let Arrival::Message(message) = service.next_until(Deadline::after(hour)) {
            if message.header().kind != dbus_wire::MessageType::MethodCall {
                continue;
            }
            if message.is_call("Emit") {
                for (path, interface) in [
                    ("/a", "org.test.I"),
                    ("/b", "org.test.I"),
                    ("/a", "org.test.J"),
                ] {
                    service.send(Builder::signal(path, interface, "Changed"));
                }
            }
            service.answer(&message, &Body::new());
        }
    });
}

/// Runs `script` with both programs and compares what it says.
#[track_caller]
fn same(options: &[&str], script: impl Fn(&mut Place) -> Vec<String>) -> Vec<String> {
    let theirs = script(&mut Place::new(Program::Theirs, options));
    let ours = script(&mut Place::new(Program::Ours, options));
    assert_eq!(
        theirs, ours,
        "theirs on the left, ours on the right, with {options:?}"
    );
    ours
}

/// Everything that can be asked about each name.
fn about_names(place: &mut Place) -> Vec<String> {
    let mut said = vec![place.names()];
    for name in SERVICES {
        let text = Body::new().str(name);
        let results = [
            place.call(name, "/a", "org.test.I", "Method"),
            place.driver("GetNameOwner", &text),
            place.driver("NameHasOwner", &text),
            // Listed: about a hidden name, ours answers as about one that is not there.
            hidden(place.driver("GetConnectionUnixProcessID", &text)),
            place.driver("StartServiceByName", &Body::new().str(name).u32(0)),
            hidden(place.driver("ListQueuedOwners", &text)),
            not_owned(place.driver("RequestName", &Body::new().str(name).u32(4))),
            not_owned(place.driver("ReleaseName", &text)),
        ];
        said.push(format!("{name}: {}", results.join(" ")));
    }
    said
}

/// Listed: ours has a connection of its own, which is there where everything is.
fn about_names_without_connections(place: &mut Place) -> Vec<String> {
    let mut said = about_names(place);
    said[0] = said[0].replace(":x ", "");
    said
}

#[test]
fn without_filter_everything_passes() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let said = same(&[], about_names_without_connections);
    assert!(
        said[1].starts_with("org.test.Plain: ok ok ok true ok"),
        "{said:?}"
    );
    same(&["--see=org.test.Plain"], about_names_without_connections);
}

#[test]
fn filter_alone_hides_everything() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let said = same(&["--filter"], about_names);
    assert_eq!(said[0], "org.freedesktop.DBus");
    assert!(
        said[1].starts_with("org.test.Plain: ServiceUnknown NameHasNoOwner"),
        "{said:?}"
    );
}

#[test]
fn see_shows_a_name_that_cannot_be_called() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let said = same(&["--filter", "--see=org.test.Plain"], about_names);
    assert!(
        said[1].starts_with("org.test.Plain: AccessDenied ok ok true ok"),
        "{said:?}"
    );
}

#[test]
fn talk_lets_a_name_be_called() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let said = same(&["--filter", "--talk=org.test.Plain"], about_names);
    assert!(said[1].starts_with("org.test.Plain: ok ok"), "{said:?}");
    assert!(
        said[2].starts_with("org.test.Tree: ServiceUnknown"),
        "{said:?}"
    );
}

#[test]
fn an_asterisk_is_the_name_itself_and_all_below() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    for option in [
        "--see=org.test.Tree.*",
        "--talk=org.test.Tree.*",
        "--own=org.test.Tree.*",
    ] {
        let said = same(&["--filter", option], about_names);
        assert!(
            said[4].starts_with("org.test.TreeHouse: ServiceUnknown"),
            "{said:?}"
        );
    }
}

#[test]
fn own_lets_names_be_owned() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let said = same(&["--filter", "--own=org.mine.*"], |place| {
        let mut said = Vec::new();
        for name in [
            "org.mine",
            "org.mine.a",
            "org.mine.a.b",
            "org.minely",
            "org.other",
        ] {
            let request = not_owned(place.driver("RequestName", &Body::new().str(name).u32(0)));
            let released = not_owned(place.driver("ReleaseName", &Body::new().str(name)));
            said.push(format!("{name}: {request} {released}"));
        }
        said
    });
    assert_eq!(said[1], "org.mine.a: ok 1 ok 1");
    assert_eq!(said[3], "org.minely: refused refused");
}

#[test]
fn call_lets_single_methods_and_objects_through() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    for rule in [
        "*",
        "",
        "org.test.I.*",
        "org.test.I.Method",
        "org.test.*",
        "org.test.I",
        "Method",
        "@/a",
        "@/a/*",
        "@/*",
        "org.test.I.*@/a",
        "org.test.J.Other@/a/*",
        "@foo",
        "a.*.b",
    ] {
        let option = format!("--call=org.test.Plain={rule}");
        same(&["--filter", &option], |place| {
            let mut said = vec![place.names()];
            for path in ["/", "/a", "/a/b", "/ab"] {
                for (interface, member) in [
                    ("org.test.I", "Method"),
                    ("org.test.I", "Other"),
                    ("org.test.J", "Other"),
                    ("org.test.I.K", "Method"),
                ] {
                    let result = place.call("org.test.Plain", path, interface, member);
                    said.push(format!("{path} {interface}.{member}: {result}"));
                }
            }
            said
        });
    }
}

/// The signals that come when the service is made to broadcast by somebody else.
fn broadcasts(place: &mut Place) -> Vec<String> {
    place.client.add_match("type='signal'");
    let mut outside = RawClient::open(place.daemon.address());
    outside
        .call(call("org.test.Plain", "/", "org.test.I", "Emit"))
        .returned();
    // What was broadcast before is on its way before this is answered.
    place
        .client
        .all_so_far()
        .iter()
        .filter(|message| message.header().member == Some("Changed"))
        .map(|message| {
            let header = message.header();
            format!("{} {}", header.path.unwrap(), header.interface.unwrap())
        })
        .collect()
}

#[test]
fn broadcast_lets_single_signals_in() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    assert!(same(&["--filter"], broadcasts).is_empty());
    assert_eq!(
        same(&["--filter", "--talk=org.test.Plain"], broadcasts).len(),
        3
    );
    assert!(same(&["--filter", "--see=org.test.Plain"], broadcasts).is_empty());
    for (rule, count) in [
        ("*", 3),
        ("org.test.I.*", 2),
        ("@/a", 2),
        ("org.test.I.Changed@/a", 1),
    ] {
        let option = format!("--broadcast=org.test.Plain={rule}");
        assert_eq!(
            same(&["--filter", &option], broadcasts).len(),
            count,
            "{rule}"
        );
    }
}

#[test]
fn a_unique_name_is_what_the_names_of_its_owner_are() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    for options in [
        &["--filter"][..],
        &["--filter", "--see=org.test.Plain"],
        &["--filter", "--talk=org.test.Plain"],
        &["--filter", "--call=org.test.Plain=@/a"],
    ] {
        same(options, |place| {
            let mut outside = RawClient::open(place.daemon.address());
            let unique = outside.name_owner("org.test.Plain").unwrap();
            vec![
                hidden(place.call(&unique, "/a", "org.test.I", "Method")),
                hidden(place.call(&unique, "/b", "org.test.I", "Method")),
                place.driver("GetNameOwner", &Body::new().str(&unique)),
                hidden(place.driver("GetConnectionUnixUser", &Body::new().str(&unique))),
            ]
        });
    }
}

#[test]
fn who_has_spoken_to_the_client_can_be_answered() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    same(&["--filter", "--own=org.mine.Name"], |place| {
        place.client.request_name("org.mine.Name", 0);
        let mut outside = RawClient::open(place.daemon.address());
        let serial = outside.send(call("org.mine.Name", "/", "org.mine.I", "Hello"));
        let asked = place.client.expect_call("Hello");
        place.client.answer(&asked, &Body::new());
        outside.expect_reply(serial).returned();
        let caller = outside.unique_name().to_owned();
        let seen = place.driver("GetNameOwner", &Body::new().str(&caller));
        let signal = Builder::signal("/", "org.mine.I", "Private").destination(&caller);
        place.client.send(signal);
        place.client.call_driver("GetId", &Body::new());
        let signals = outside.signals_so_far();
        let private = signals.iter().any(|signal| signal.starts_with("Private"));
        vec![seen, format!("{private}")]
    });
}

#[test]
fn the_driver_itself_is_there_but_for_what_hands_over_the_host() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    same(&["--filter"], |place| {
        let environment = Body::new().array("{ss}", |array| array);
        let nothing = Body::new();
        let mut said: Vec<String> = [
            ("GetId", &nothing),
            ("ListActivatableNames", &nothing),
            ("ReloadConfig", &nothing),
            ("UpdateActivationEnvironment", &environment),
        ]
        .into_iter()
        .map(|(member, body)| format!("{member} {}", place.driver(member, body)))
        .collect();
        let driver = "org.freedesktop.DBus";
        let path = "/org/freedesktop/DBus";
        let introspect = place.call(
            driver,
            path,
            "org.freedesktop.DBus.Introspectable",
            "Introspect",
        );
        said.push(format!("Introspect {introspect}"));
        let body = Body::new().strs(Vec::<String>::new()).u32(0);
        let monitor = call(
            driver,
            path,
            "org.freedesktop.DBus.Monitoring",
            "BecomeMonitor",
        );
        said.push(format!(
            "BecomeMonitor {}",
            ending(place.client.call(monitor.body(&body)))
        ));
        said
    });
}

#[test]
fn args_come_from_a_descriptor() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    for program in [Program::Theirs, Program::Ours] {
        let dir = TestDir::new();
        let daemon = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        serve(daemon.address(), "org.test.Plain");
        let socket = dir.join("proxied");
        let mut file = std::fs::File::create(dir.join("arguments")).unwrap();
        write!(
            file,
            "--fd=1\0unix:path={}\0{}\0--filter\0",
            daemon.socket().display(),
            socket.display()
        )
        .unwrap();
        let mut command = program.command();
        command.args(["--args=0", "--talk=org.test.Plain"]);
        // Descriptor 0 is the one that a child has without any unsafe.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec \"$@\" <\"$ARGUMENTS\"", "sh"])
            .env("ARGUMENTS", dir.join("arguments"))
            .arg(command.get_program())
            .args(command.get_args());
        let _proxy = Running::start(shell);
        let mut client = open(&socket);
        assert_eq!(client.list_names().len(), 4, "{program:?}");
    }
}

#[test]
fn several_addresses_are_several_proxies_that_end_when_fd_is_closed() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    for program in [Program::Theirs, Program::Ours] {
        let dir = TestDir::new();
        let daemon = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        serve(daemon.address(), "org.test.Plain");
        let address = format!("unix:path={}", daemon.socket().display());
        let (first, second) = (dir.join("first"), dir.join("second"));
        // Flatpak reserves the path with an empty file.
        std::fs::write(&first, "").unwrap();
        let mut command = program.command();
        command
            .arg("--fd=1")
            .arg(&address)
            .arg(&first)
            .arg("--filter");
        command.arg(&address).arg(&second);
        let mut proxy = Running::start(command);
        assert_eq!(open(&first).list_names().len(), 2);
        let mut client = open(&second);
        assert!(client.list_names().contains(&"org.test.Plain".to_owned()));
        drop(proxy.ready.take());
        client.expect_closed();
        let status = proxy.child.wait().unwrap();
        assert!(status.success(), "{program:?}: {status}");
    }
}

#[test]
fn a_wrong_command_line_is_said_in_the_same_words() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let dir = TestDir::new();
    let socket = dir.join("s").display().to_string();
    for arguments in [
        &["--bogus"][..],
        &["--fd=x"],
        &["--filter"],
        &["unix:path=/nope"],
        &["unix:path=/nope", &socket, "--bogus"],
        &["unix:path=/nope", &socket, "--see=1"],
        &["unix:path=/nope", &socket, "--see"],
        &["unix:path=/nope", &socket, "--call=org.a.b"],
        &["unix:path=/nope", &socket, "--filter=x"],
        &["unix:path=/nope", &socket, "--see=*"],
        &["--args=99"],
    ] {
        let run = |program: Program| {
            let output = program.command().args(arguments).output().unwrap();
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )
        };
        let (theirs, ours) = (run(Program::Theirs), run(Program::Ours));
        assert_eq!(theirs.0, ours.0, "{arguments:?}");
        // Ours goes on to say what would be right.
        let first = theirs.1.split(':').next().unwrap().to_owned();
        assert!(
            ours.1.starts_with(&first),
            "{arguments:?}: {} / {}",
            theirs.1,
            ours.1
        );
    }
}

#[test]
fn log_prints_calls_and_what_becomes_of_them() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    let lines = |program: Program| {
        let dir = TestDir::new();
        let daemon = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        serve(daemon.address(), "org.test.Plain");
        let socket = dir.join("proxied");
        let log = dir.join("log");
        let mut command = program.command();
        command.arg("--fd=9");
        command
            .arg(format!("unix:path={}", daemon.socket().display()))
            .arg(&socket);
        command.args(["--filter", "--log", "--see=org.test.Plain"]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec \"$@\" 9>&1 >\"$LOG\"", "sh"])
            .env("LOG", &log)
            .arg(command.get_program())
            .args(command.get_args());
        let mut proxy = Running::start(shell);
        let mut client = open(&socket);
        client
            .call(call("org.test.Plain", "/", "a.b", "C"))
            .failed();
        client
            .call(call("org.test.Hidden", "/", "a.b", "C"))
            .failed();
        client.call_driver("GetId", &Body::new());
        drop(proxy.ready.take());
        proxy.child.wait().unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        // Serials, and calls of the proxy's own, differ: they are not the client's.
        text.lines()
            .filter(|line| {
                line.starts_with('C') && line.contains(" call ") || line.starts_with('*')
            })
            .filter(|line| *line != "*SKIPPED*" && *line != "*REWRITTEN*")
            .map(|line| match line.split_once(": ") {
                Some((_, rest)) => rest.to_owned(),
                None => line.to_owned(),
            })
            .collect::<Vec<String>>()
    };
    let theirs = lines(Program::Theirs);
    assert!(theirs.contains(&"*DENIED* (ping)".to_owned()), "{theirs:?}");
    assert_eq!(theirs, lines(Program::Ours));
}

#[test]
fn called_by_the_name_xdg_dbus_proxy_it_is_one() {
    let dir = TestDir::new();
    let link = dir.join("xdg-dbus-proxy");
    std::os::unix::fs::symlink(OURS, &link).unwrap();
    let output = Command::new(&link).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("xdg-dbus-proxy 0.1.7"));
    let output = Command::new(&link).arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("usage: xdg-dbus-proxy"));
}

#[test]
fn sloppy_names_shows_unique_names() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    for options in [
        &["--filter"][..],
        &["--filter", "--sloppy-names"],
        &["--filter", "--see=org.test.Plain"],
    ] {
        same(options, |place| {
            place
                .client
                .add_match("type='signal',member='NameOwnerChanged'");
            let outside = RawClient::open(place.daemon.address());
            let unique = outside.unique_name().to_owned();
            let mut said = vec![
                place.driver("GetNameOwner", &Body::new().str(&unique)),
                hidden(place.driver("GetConnectionUnixUser", &Body::new().str(&unique))),
                hidden(place.call(&unique, "/", "org.test.I", "Method")),
                format!("{}", place.client.list_names().contains(&unique)),
            ];
            drop(outside);
            // Its end is announced before a call that is sent after the bus has noticed it.
            let mut other = RawClient::open(place.daemon.address());
            while other.list_names().contains(&unique) {}
            said.extend(
                place
                    .client
                    .signals_so_far()
                    .iter()
                    .filter(|signal| signal.contains(&unique))
                    .map(|signal| signal.replace(&unique, ":x")),
            );
            said
        });
    }
}

#[test]
fn descriptors_pass_in_both_directions() {
    needs!(tools::DBUS_DAEMON, tools::XDG_DBUS_PROXY);
    same(&["--filter", "--own=org.mine.Name"], |place| {
        place.client.request_name("org.mine.Name", 0);
        let mut outside = RawClient::open(place.daemon.address());
        let (mut reader, writer) = std::io::pipe().unwrap();
        let body = Body::new().unix_fd(0);
        let message = call("org.mine.Name", "/", "org.mine.I", "Take").body(&body);
        let serial = outside.send_with_fds(message, &[writer.as_fd()]);
        drop(writer);
        let mut taken = place.client.expect_call("Take");
        // Back the same way, in the answer.
        let fd = taken.fds.remove(0);
        let answer = Builder::reply_to(&taken.header()).body(&body);
        place.client.send_with_fds(answer, &[fd.as_fd()]);
        drop(fd);
        let mut back = outside.expect_reply(serial).returned();
        let mut file = std::fs::File::from(back.fds.remove(0));
        file.write_all(b"there and back").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        vec![text]
    });
}
