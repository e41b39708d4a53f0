//! The session bus inside: the desktop's services, and those of the container.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testbed::machine::ALICE;
use testbed::{Lines, Process, XDisplay, within};

use crate::rig::{Client, Options, Rig};

/// The processes that are multiplexers of this container: number and arguments.
pub fn multiplexers(rig: &Rig<'_>, container: &str) -> Vec<(u32, Vec<String>)> {
    let socket = format!("/run/kapsule-data/containers/{container}/run/");
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let arguments = fs::read(process.path().join("cmdline")).ok()?;
            let arguments: Vec<String> = arguments
                .split(|&b| b == 0)
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect();
            let is_one = arguments.first()?.ends_with("/kapsule-dbus-mux")
                && arguments.iter().any(|a| a.starts_with(&socket));
            // Of this machine: other tests have containers of that name.
            let daemon = fs::read_link(format!("/proc/{}/ns/mnt", rig.daemon.id())).ok()?;
            let theirs = fs::read_link(process.path().join("ns/mnt")).ok()?;
            (is_one && daemon == theirs).then_some((pid, arguments))
        })
        .collect()
}

/// The user's session bus on the host, with a notification daemon that tells what it shows.
pub struct Desktop {
    _bus: Process,
    _dunst: Process,
    _display: XDisplay,
    shown: Lines,
}

/// Starts it.
pub fn desktop(rig: &Rig<'_>) -> Desktop {
    let machine = rig.machine;
    let fifo = machine.outside("/run/user/1000/shown");
    let shown = Lines::of_fifo(&fifo).unwrap_or_else(|failure| panic!("{failure}"));
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).expect("our own");
    let tell = machine.outside("/run/user/1000/tell");
    fs::write(
        &tell,
        "#!/bin/sh\nprintf '%s|%s|%s\\n' \"$1\" \"$2\" \"$3\" >/run/user/1000/shown\n",
    )
    .expect("writable");
    fs::set_permissions(&tell, fs::Permissions::from_mode(0o755)).expect("our own");
    let config = machine.outside("/run/user/1000/dunstrc");
    fs::write(
        &config,
        "[global]\n[tell]\nsummary = \"*\"\nscript = \"/run/user/1000/tell\"\n",
    )
    .expect("writable");
    let mut command = machine.command_as(&ALICE, "dbus-daemon");
    command.args([
        "--session",
        "--nofork",
        "--nopidfile",
        "--print-address=1",
        "--address=unix:path=/run/user/1000/bus",
    ]);
    let (bus, mut said) = Process::start_reading(command, "session-bus", &machine.logs())
        .unwrap_or_else(|f| panic!("{f}"));
    said.expect_line("the session bus's address", |line| {
        line.starts_with("unix:")
    });
    let display = XDisplay::start().unwrap_or_else(|failure| panic!("{failure}"));
    let mut command = machine.command_as(&ALICE, "dunst");
    command
        .args(["-config", "/run/user/1000/dunstrc"])
        .env("DISPLAY", display.name());
    let dunst = Process::start(command, "dunst", &machine.logs()).unwrap_or_else(|f| panic!("{f}"));
    Desktop {
        _bus: bus,
        _dunst: dunst,
        _display: display,
        shown,
    }
}

/// A shell's script on the host, as alice: what it says.
fn on_the_host(rig: &Rig<'_>, arguments: &[&str]) -> String {
    let mut command = rig.machine.command_as(&ALICE, "sh");
    command.args(arguments);
    rig.machine.run(command).both()
}

/// Takes a name on the bus whose socket is given, says `ready`, and stays: a service, in what every Debian has.
const SERVICE: &str = r#"
use IO::Socket::UNIX;
my ($path, $name) = @ARGV;
my $bus = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!";
print $bus "\0AUTH EXTERNAL " . join("", map { sprintf "%02x", ord } split //, $>) . "\r\n";
<$bus> =~ /^OK/ or die;
sub pad { $_[0] . "\0" x (-length($_[0]) % $_[1]) }
sub string { pack("V", length $_[0]) . $_[0] . "\0" }
sub call {
    my ($serial, $member, $signature, $body) = @_;
    my $fields = "";
    for ([1, "o", "/org/freedesktop/DBus"], [6, "s", "org.freedesktop.DBus"], [2, "s", "org.freedesktop.DBus"], [3, "s", $member]) {
        $fields = pad($fields, 8) . pack("C", $$_[0]) . "\1$$_[1]\0" . string($$_[2]);
    }
    $fields = pad($fields, 8) . "\10\1g\0" . pack("C", length $signature) . "$signature\0" if $signature;
    pad("l\1\0\1" . pack("VVV", length $body, $serial, length $fields) . $fields, 8) . $body
}
print $bus "BEGIN\r\n", call(1, "Hello", "", ""), call(2, "RequestName", "su", pad(string($name), 4) . pack("V", 4));
$bus->flush;
$| = 1;
while (sysread $bus, my $data, 4096) { print "ready\n" if index($data, "NameAcquired") >= 0 && index($data, $name) >= 0; }
"#;

const ASK: &str = "gdbus call --session --dest org.freedesktop.DBus --object-path / --method org.freedesktop.DBus.NameHasOwner";

/// Without a session on the host there is none of it inside, and entering works.
pub fn without_a_desktop_there_is_the_containers_bus(rig: &Rig<'_>, alice: &Client<'_>) {
    assert!(multiplexers(rig, "box").is_empty());
    assert_eq!(
        alice.script("echo $DBUS_SESSION_BUS_ADDRESS"),
        "unix:path=/run/user/1000/bus\n"
    );
}

/// Issue 6, point 4.
pub fn the_desktop_is_found_inside(rig: &Rig<'_>, alice: &Client<'_>, desktop: &mut Desktop) {
    assert_eq!(
        alice.script("echo $DBUS_SESSION_BUS_ADDRESS; notify-send -a inside 'Hello there' 'from the container'"),
        "unix:path=/.kapsule/run/1000/bus\n"
    );
    desktop
        .shown
        .expect_line("that dunst shows the notification", |line| {
            line == "inside|Hello there|from the container"
        });

    // What runs, and as whom.
    let found = multiplexers(rig, "box");
    let [(pid, arguments)] = &found[..] else {
        panic!("one multiplexer for one user and container: {found:?}");
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(
        arguments[1..3],
        ["--listen", "/run/kapsule-data/containers/box/run/1000/bus"]
    );
    assert_eq!(arguments[3], "--container-bus");
    assert!(
        arguments[4].starts_with("unix:path=/proc/self/fd/"),
        "{arguments:?}"
    );
    assert_eq!(
        arguments[5..7],
        ["--host-bus", "unix:path=/run/user/1000/bus"]
    );
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    assert!(
        status.lines().any(|l| l == "Uid:\t1000\t1000\t1000\t1000"),
        "{status}"
    );
    assert!(
        status.lines().any(|l| l == "CapPrm:\t0000000000000000"),
        "{status}"
    );
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("we are root");
    assert!(
        !String::from_utf8_lossy(&environment).contains("KAPSULE_TEST"),
        "the daemon's environment"
    );

    // A service that is started inside is found inside, and not outside: one that knows of the multiplexer, and one that
    // is on the container's own bus.
    for (name, socket) in [
        ("org.kde.kapsule.Test1", "/.kapsule/run/1000/bus"),
        ("org.kde.kapsule.Test2", "/run/user/1000/bus"),
        // The container's own service manager.
        ("org.freedesktop.systemd1", ""),
    ] {
        let mut service = (!socket.is_empty()).then(|| {
            let mut service = alice.shell(
                "box",
                &["perl", "-e", SERVICE, socket, name],
                Options::new(),
            );
            service.expect("ready");
            service
        });
        assert_eq!(
            alice.script(&format!("{ASK} {name}")),
            "(true,)\n",
            "{name}"
        );
        let outside = on_the_host(rig, &["-c", &format!("{ASK} {name}")]);
        assert_eq!(outside, "(false,)\n", "{name}");
        if let Some(service) = &mut service {
            service.send("\x03");
            assert_eq!(alice.wait(&service.session), 128 + 2);
        }
    }
    // The host's service is found by both.
    let name = "org.freedesktop.Notifications";
    assert_eq!(alice.script(&format!("{ASK} {name}")), "(true,)\n");
    assert_eq!(
        on_the_host(rig, &["-c", &format!("{ASK} {name}")]),
        "(true,)\n"
    );
}

pub fn it_comes_back_when_it_was_killed(rig: &Rig<'_>, alice: &Client<'_>) {
    let before = multiplexers(rig, "box");
    let pid = before.first().expect("one runs").0;
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    within("that another takes its place", async {
        while multiplexers(rig, "box").is_empty() || multiplexers(rig, "box") == before {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(
        alice.script(&format!("{ASK} org.freedesktop.Notifications")),
        "(true,)\n"
    );
}

/// A container's root may put anything where its users' session bus is.
pub fn a_link_inside_does_not_lead_it_to_the_hosts_bus(rig: &Rig<'_>, alice: &Client<'_>) {
    // On the host that path is its session bus.
    alice.script("mv $XDG_RUNTIME_DIR/bus $XDG_RUNTIME_DIR/real; ln -s /run/user/1000/bus $XDG_RUNTIME_DIR/bus");
    // It is seen by the next who enters: it is started anew, without a bus of the container's.
    alice.script("true");
    within("that it is started anew", async {
        loop {
            let found = multiplexers(rig, "box");
            if let [(_, arguments)] = &found[..]
                && !arguments.iter().any(|a| a == "--container-bus")
            {
                assert!(
                    arguments.iter().any(|a| a == "--inside-data-dirs"),
                    "{arguments:?}"
                );
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    alice.script("mv $XDG_RUNTIME_DIR/real $XDG_RUNTIME_DIR/bus");
}
