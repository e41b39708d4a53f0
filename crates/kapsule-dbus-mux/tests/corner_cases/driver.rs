//! Lines 27 to 30: the driver.

use std::fs::File;
use std::os::fd::AsFd;

use dbus_wire::{Body, Builder, MessageType, error_names};
use testbed::raw_client::{DRIVER, DRIVER_PATH, call, driver_call};
use testbed::{Deadline, RawClient, Topology, World, in_topologies, needs, tools};

use crate::cast::{Place, SERVICE, service};

const PEER: &str = "org.freedesktop.DBus.Peer";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";

// ── What it understands ──

/// Line 27. Peer is on every path, and without a destination too; the machine's id is the machine's.
fn peer_is_everywhere(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let mut ids = Vec::new();
    for path in ["/", DRIVER_PATH, "/org", "/no/such/object"] {
        client.call(call(DRIVER, path, PEER, "Ping")).returned();
        client
            .call(Builder::method_call(path, "Ping").interface(PEER))
            .returned();
        // Without an interface, too: the member alone says enough.
        client
            .call(Builder::method_call(path, "Ping").destination(DRIVER))
            .returned();
        for destination in [true, false] {
            let ask = Builder::method_call(path, "GetMachineId").interface(PEER);
            let ask = if destination {
                ask.destination(DRIVER)
            } else {
                ask
            };
            let answer = client.call(ask);
            ids.push(match answer.error_name() {
                Some(name) => name.to_owned(),
                None => answer.text().to_owned(),
            });
        }
    }
    ids.dedup();
    let id = std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/var/lib/dbus/machine-id"));
    match id {
        Ok(id) if id.trim().len() == 32 => assert_eq!(ids, [id.trim()]),
        _ => assert_eq!(ids, [error_names::FILE_NOT_FOUND]),
    }
}

/// Line 27. Introspect works on every path, and tells on the bus's own what is there.
fn the_driver_introspects(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let mut introspect = |path: &str| {
        let answer = client.call(call(DRIVER, path, INTROSPECTABLE, "Introspect"));
        answer.returned().text().to_owned()
    };
    let bus = introspect(DRIVER_PATH);
    for word in [
        "interface name=\"org.freedesktop.DBus\"",
        "method name=\"Hello\"",
        "method name=\"RequestName\"",
        "signal name=\"NameOwnerChanged\"",
        "property name=\"Features\"",
        "interface name=\"org.freedesktop.DBus.Monitoring\"",
        "interface name=\"org.freedesktop.DBus.Peer\"",
        "interface name=\"org.freedesktop.DBus.Properties\"",
    ] {
        assert!(bus.contains(word), "{word} is not in {bus}");
    }
    assert!(introspect("/").contains("node name=\"org"));
}

/// Line 27. The properties of the driver: each, all, one that there is not, and none can be set.
fn the_driver_has_properties(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let get = |interface: &str, name: &str| Body::new().str(interface).str(name);
    for name in ["Features", "Interfaces"] {
        let body = get(DRIVER, name);
        let ask = call(DRIVER, DRIVER_PATH, PROPERTIES, "Get").body(&body);
        let answer = client.call(ask).returned();
        assert_eq!(answer.header().signature, "v");
        let mut reader = answer.reader();
        let values = reader.variant().and_then(|mut value| value.strs());
        let values = values.expect("an array of strings");
        if name == "Interfaces" {
            assert!(
                values.contains(&"org.freedesktop.DBus.Monitoring"),
                "{values:?}"
            );
        }
    }
    let body = Body::new().str(DRIVER);
    let ask = call(DRIVER, DRIVER_PATH, PROPERTIES, "GetAll").body(&body);
    let answer = client.call(ask).returned();
    let mut names = Vec::new();
    answer
        .reader()
        .array(|entry| {
            entry.struct_(|entry| {
                names.push(entry.str()?.to_owned());
                entry.skip()
            })
        })
        .expect("a dictionary");
    names.sort();
    assert_eq!(names, ["Features", "Interfaces"]);

    for (member, body, error) in [
        (
            "Get",
            get(DRIVER, "Nonsense"),
            error_names::UNKNOWN_PROPERTY,
        ),
        (
            "Get",
            get("org.example.No", "Features"),
            error_names::UNKNOWN_INTERFACE,
        ),
        (
            "GetAll",
            Body::new().str("org.example.No"),
            error_names::UNKNOWN_INTERFACE,
        ),
        (
            "Set",
            get(DRIVER, "Features").variant(|value| value.str("x")),
            error_names::PROPERTY_READ_ONLY,
        ),
        ("Get", Body::new().str(DRIVER), error_names::INVALID_ARGS),
    ] {
        let ask = call(DRIVER, DRIVER_PATH, PROPERTIES, member).body(&body);
        assert_eq!(client.call(ask).failed(), error, "{member}");
    }
}

/// Line 27. What the driver refuses has the error that a dbus-daemon gives.
fn each_refusal_has_its_own_error(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let nobody = || Body::new().str("org.example.Nobody");
    let cases: Vec<(&str, Body, &str)> = vec![
        ("Hello", Body::new(), error_names::FAILED),
        ("Nonsense", Body::new(), error_names::UNKNOWN_METHOD),
        ("GetId", Body::new().u32(1), error_names::INVALID_ARGS),
        ("GetNameOwner", Body::new(), error_names::INVALID_ARGS),
        (
            "GetNameOwner",
            Body::new().u32(1),
            error_names::INVALID_ARGS,
        ),
        ("GetNameOwner", nobody(), error_names::NAME_HAS_NO_OWNER),
        (
            "GetNameOwner",
            Body::new().str(":1.4000000"),
            error_names::NAME_HAS_NO_OWNER,
        ),
        ("ListQueuedOwners", nobody(), error_names::NAME_HAS_NO_OWNER),
        ("RequestName", nobody(), error_names::INVALID_ARGS),
        (
            "RequestName",
            Body::new().str(":1.1").u32(0),
            error_names::INVALID_ARGS,
        ),
        (
            "RequestName",
            Body::new().str("nonsense").u32(0),
            error_names::INVALID_ARGS,
        ),
        (
            "RequestName",
            Body::new().str("").u32(0),
            error_names::INVALID_ARGS,
        ),
        (
            "RequestName",
            Body::new().str(DRIVER).u32(0),
            error_names::INVALID_ARGS,
        ),
        (
            "ReleaseName",
            Body::new().str(":1.1"),
            error_names::INVALID_ARGS,
        ),
        (
            "ReleaseName",
            Body::new().str("nonsense"),
            error_names::INVALID_ARGS,
        ),
        (
            "ReleaseName",
            Body::new().str(DRIVER),
            error_names::INVALID_ARGS,
        ),
        ("StartServiceByName", nobody(), error_names::INVALID_ARGS),
        (
            "StartServiceByName",
            nobody().u32(0),
            error_names::SERVICE_UNKNOWN,
        ),
        (
            "AddMatch",
            Body::new().str("nonsense"),
            error_names::MATCH_RULE_INVALID,
        ),
        (
            "RemoveMatch",
            Body::new().str("member='Never'"),
            error_names::MATCH_RULE_NOT_FOUND,
        ),
        (
            "GetConnectionUnixUser",
            nobody(),
            error_names::NAME_HAS_NO_OWNER,
        ),
        (
            "GetConnectionUnixProcessID",
            nobody(),
            error_names::NAME_HAS_NO_OWNER,
        ),
        (
            "GetConnectionCredentials",
            nobody(),
            error_names::NAME_HAS_NO_OWNER,
        ),
        (
            "GetAdtAuditSessionData",
            nobody(),
            error_names::NAME_HAS_NO_OWNER,
        ),
        (
            "GetConnectionSELinuxSecurityContext",
            nobody(),
            error_names::NAME_HAS_NO_OWNER,
        ),
        (
            "UpdateActivationEnvironment",
            nobody(),
            error_names::INVALID_ARGS,
        ),
    ];
    let mut wrong = Vec::new();
    let mut compare = |what: String, answer: testbed::Received, expected: &str| {
        if answer.error_name() != Some(expected) {
            wrong.push(format!(
                "{what}: {expected} was awaited, and this came: {answer}"
            ));
        }
    };
    for (member, body, error) in &cases {
        let answer = client.call(driver_call(member, body));
        compare(
            format!("{member} {:?}", body.reader().signature_left()),
            answer,
            error,
        );
    }
    // By interface and object.
    for (path, interface, member, error) in [
        (
            DRIVER_PATH,
            "org.example.No",
            "GetId",
            error_names::UNKNOWN_INTERFACE,
        ),
        (DRIVER_PATH, PEER, "Nonsense", error_names::UNKNOWN_METHOD),
        (
            DRIVER_PATH,
            PROPERTIES,
            "Nonsense",
            error_names::UNKNOWN_METHOD,
        ),
        ("/", PROPERTIES, "GetAll", error_names::UNKNOWN_INTERFACE),
        (
            "/",
            "org.freedesktop.DBus.Monitoring",
            "BecomeMonitor",
            error_names::UNKNOWN_INTERFACE,
        ),
    ] {
        let answer = client.call(call(DRIVER, path, interface, member));
        compare(format!("{interface}.{member} at {path}"), answer, error);
    }
    let answer = client.call(Builder::method_call("/", "Nonsense").destination(DRIVER));
    let what = "Nonsense without an interface".to_owned();
    compare(what, answer, error_names::UNKNOWN_METHOD);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Line 27. Methods of the driver are found without an interface, on any path where dbus-daemon has them.
fn driver_calls_need_no_interface(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let own = client.unique_name().to_owned();
    for path in [DRIVER_PATH, "/"] {
        let body = Body::new().str(&own);
        let ask = Builder::method_call(path, "GetNameOwner")
            .destination(DRIVER)
            .body(&body);
        assert_eq!(client.call(ask).returned().text(), own);
        for destination in [true, false] {
            let ask = Builder::method_call(path, "ListNames");
            let ask = if destination {
                ask.destination(DRIVER)
            } else {
                ask
            };
            let answer = client.call(ask);
            // Without a destination dbus-daemon understands Peer alone.
            if topology == Topology::Plain && !destination {
                assert_eq!(answer.failed(), error_names::UNKNOWN_METHOD);
                continue;
            }
            let answer = answer.returned();
            assert!(
                answer
                    .reader()
                    .strs()
                    .is_ok_and(|names| names.contains(&&*own))
            );
        }
    }
}

/// Line 27. Anything before Hello is refused and ends the connection. (dbus-daemon refuses calls, and leaves the
/// connection to who made them.)
fn anything_before_hello_ends_the_connection(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut service = service(&world, Place::Inside);
    let body = Body::new();
    let signal = Builder::signal("/", SERVICE, "Early");
    let early: Vec<(&str, Builder<'_>)> = vec![
        ("a call to the driver", driver_call("ListNames", &body)),
        ("a call to a service", call(SERVICE, "/", SERVICE, "Early")),
        (
            "a call to nobody",
            call("org.example.Nobody", "/", SERVICE, "Early"),
        ),
        ("a signal", signal.clone()),
        ("a signal to one", signal.destination(SERVICE)),
        ("a reply", Builder::method_return(1).destination(SERVICE)),
        (
            "a Hello to nobody in particular",
            Builder::method_call("/", "Hello").destination("org.example.No"),
        ),
    ];
    service.add_match("type='signal',member='Early'");
    for (what, message) in early {
        let mut client = RawClient::connect(&world.inside());
        client.authenticate();
        client.send(message);
        let before = client.expect_closed();
        let is_error = |it: &testbed::Received| it.error_name() == Some(error_names::ACCESS_DENIED);
        assert!(before.iter().all(is_error), "{what}: {before:?}");
    }
    let came = service.all_so_far();
    assert!(
        !came
            .iter()
            .any(|message| message.header().member == Some("Early")),
        "{came:?}"
    );
}

// ── Who is who ──

/// The entries of GetConnectionCredentials that are numbers, and the process descriptor.
#[track_caller]
fn credentials(
    client: &mut RawClient,
    name: &str,
) -> (Option<u32>, Option<u32>, Vec<u32>, Option<File>) {
    let body = Body::new().str(name);
    let mut answer = client
        .call(driver_call("GetConnectionCredentials", &body))
        .returned();
    let (mut uid, mut pid, mut groups, mut has_fd) = (None, None, Vec::new(), false);
    answer
        .reader()
        .array(|entry| {
            entry.struct_(|entry| {
                let key = entry.str()?;
                let mut value = entry.variant()?;
                match key {
                    "UnixUserID" => uid = Some(value.u32()?),
                    "ProcessID" => pid = Some(value.u32()?),
                    "UnixGroupIDs" => value.array(|group| {
                        groups.push(group.u32()?);
                        Ok(())
                    })?,
                    "ProcessFD" => has_fd = true,
                    _ => {}
                }
                Ok(())
            })
        })
        .expect("a dictionary");
    let fd = has_fd.then(|| File::from(answer.fds.remove(0)));
    groups.sort_unstable();
    (uid, pid, groups, fd)
}

/// Line 28. What the driver tells of a client is the client's own: not the multiplexer's, which is what the
/// bus behind sees. By unique and by well-known name; for services in other places it is theirs.
fn credentials_are_those_of_the_client(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let own = client.unique_name().to_owned();
    // All of them are this process.
    let uid = rustix::process::geteuid().as_raw();
    let pid = std::process::id();
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let unique = client.name_owner(SERVICE).expect("it is owned");
        for name in [SERVICE, &unique, &own] {
            let body = Body::new().str(name);
            let answer = client.call_driver("GetConnectionUnixUser", &body);
            assert_eq!(answer.number(), uid, "{place:?}: {name}");
            let answer = client.call_driver("GetConnectionUnixProcessID", &body);
            assert_eq!(answer.number(), pid, "{place:?}: {name}");
            let (its_uid, its_pid, groups, fd) = credentials(&mut client, name);
            assert_eq!(
                (its_uid, its_pid),
                (Some(uid), Some(pid)),
                "{place:?}: {name}"
            );
            let gid = rustix::process::getegid().as_raw();
            assert!(groups.contains(&gid), "{place:?}: {name}: {groups:?}");
            if let Some(fd) = fd {
                let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
                let info = std::fs::read_to_string(info).expect("it is ours");
                assert!(
                    info.contains(&format!("Pid:\t{pid}\n")),
                    "{place:?}: {info}"
                );
            }
        }
        service.release_name(SERVICE);
    }
    // The driver itself is the bus that the client is connected to.
    let body = Body::new().str(DRIVER);
    let answer = client.call_driver("GetConnectionUnixUser", &body);
    assert_eq!(answer.number(), uid);
}

/// Line 28. ProcessFD is there for a client where the kernel has it, and stands for the client's process; who
/// cannot take descriptors gets the rest without it.
fn a_client_gets_a_process_descriptor(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let own = client.unique_name().to_owned();
    let (_, _, _, fd) = credentials(&mut client, &own);
    // SO_PEERPIDFD is of Linux 6.5.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split('.').map(|it| it.parse::<u32>().unwrap_or(0));
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match fd {
        Some(fd) => {
            // A process descriptor is readable when the process has ended, and this one has not.
            let now = Deadline::after(std::time::Duration::ZERO);
            assert_eq!(now.wait_readable(&[fd.as_fd()]), None);
        }
        None => assert!(kernel < (6, 5), "Linux {release} has SO_PEERPIDFD"),
    }

    let mut without = RawClient::connect(&world.inside());
    let uid = rustix::process::geteuid().as_raw().to_string();
    let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
    authenticate_without_descriptors(&without, &uid);
    without.hello();
    let (its_uid, _, _, fd) = credentials(&mut without, &own);
    assert!(its_uid.is_some() && fd.is_none());
}

/// Authenticates, and does not ask for the passing of descriptors.
#[track_caller]
pub fn authenticate_without_descriptors(client: &RawClient, uid_in_hex: &str) {
    use std::io::{Read, Write};
    let mut socket = client.socket();
    let text = format!("\0AUTH EXTERNAL {uid_in_hex}\r\nBEGIN\r\n");
    socket.write_all(text.as_bytes()).expect("a few bytes fit");
    let deadline = Deadline::usual();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n") {
        assert!(
            deadline.wait_readable(&[socket.as_fd()]).is_some(),
            "{said:?}"
        );
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
        said.push(byte[0]);
    }
    assert!(said.starts_with(b"OK "), "{said:?}");
}

// ── Monitors ──

/// Line 29. A monitor on the router's socket sees what the clients of the view say to each other and to
/// services outside, the answers, the driver's signals, each once; it loses its name, and may say nothing more.
fn a_monitor_sees_the_traffic_of_the_view(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        // What a native service says to a client is the client's traffic; the rest is not the multiplexer's.
        let mut service = service(&world, place);
        let unique = RawClient::open(&world.inside())
            .name_owner(SERVICE)
            .expect("it is owned");
        let mut client = RawClient::open(&world.inside());
        let client_name = client.unique_name().to_owned();
        let mut monitor = RawClient::open(&world.inside());
        let monitor_name = monitor.unique_name().to_owned();
        let body = Body::new().array("s", |rules| rules).u32(0);
        let become_monitor = call(
            DRIVER,
            DRIVER_PATH,
            "org.freedesktop.DBus.Monitoring",
            "BecomeMonitor",
        );
        monitor.call(become_monitor.body(&body)).returned();
        let lost = monitor.expect_signal(DRIVER, "NameLost");
        assert_eq!(lost.text(), monitor_name);
        assert_eq!(client.name_owner(&monitor_name), None, "{place:?}");

        let body = Body::new().str("overheard");
        let serial = client.send(call(SERVICE, "/", SERVICE, "Ask").body(&body));
        let asked = service.expect_call("Ask");
        service.answer(&asked, &body);
        client.expect_reply(serial).returned();
        let rung = Builder::signal("/", SERVICE, "Rung").destination(&client_name);
        client.send(rung);
        client.expect_signal(SERVICE, "Rung");
        client.request_name("org.example.Named", 0);

        let seen = monitor.expect("the call", |message| message.is_call("Ask"));
        assert_eq!(seen.sender(), client_name, "{place:?}");
        assert_eq!(seen.text(), "overheard");
        let reply = monitor.expect("the answer", |message| {
            message.is_reply_to(serial) && message.sender() == unique
        });
        assert_eq!(reply.header().destination, Some(&*client_name), "{place:?}");
        monitor.expect_signal(SERVICE, "Rung");
        monitor.expect("the call of RequestName", |message| {
            message.is_call("RequestName") && message.sender() == client_name
        });
        let changed = monitor.expect("the change of owner", |message| {
            message.is_signal(DRIVER, "NameOwnerChanged") && message.text() == "org.example.Named"
        });
        assert_eq!(changed.strings()[2], client_name, "{place:?}");
        // What comes before the next thing of the client's is all that there was: nothing was told twice.
        client.send(Builder::signal("/", SERVICE, "After"));
        loop {
            let message = monitor.receive();
            if message.is_signal(SERVICE, "After") {
                break;
            }
            let twice = message.is_call("Ask")
                || message.is_signal(SERVICE, "Rung")
                || (message.is_reply_to(serial) && message.header().sender == Some(&unique));
            assert!(!twice, "{place:?}: {message}");
        }

        monitor.send(Builder::signal("/", SERVICE, "FromTheMonitor"));
        monitor.expect_closed();
        service.release_name(SERVICE);
    }
}

/// Line 29. A monitor is refused with flags, which do not exist, or a rule that is none, and goes on as a client.
fn a_monitor_is_refused_what_does_not_exist(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    for (body, error) in [
        (Body::new().strs([""]).u32(1), error_names::INVALID_ARGS),
        (
            Body::new().strs(["nonsense"]).u32(0),
            error_names::MATCH_RULE_INVALID,
        ),
        (Body::new().u32(0), error_names::INVALID_ARGS),
    ] {
        let ask = call(
            DRIVER,
            DRIVER_PATH,
            "org.freedesktop.DBus.Monitoring",
            "BecomeMonitor",
        );
        assert_eq!(client.call(ask.body(&body)).failed(), error);
    }
    client.call_driver("GetId", &Body::new());
}

// ── Clients as services ──

/// Line 30. A client is a service for callers in every place: they find its name where they should, call it, and
/// are answered; its signals reach them, and theirs reach it.
fn a_client_is_a_service_for_all(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut service = service(&world, Place::Inside);
    service.add_match("type='signal',interface='org.example.Caller'");
    for &place in Place::all_in(topology) {
        let mut caller = place.open(&world);
        caller.add_match("type='signal',interface='org.example.Service'");
        // Outside nobody sees a name that was taken inside, and everybody has the client's unique name.
        let destination = match place {
            Place::Outside => service.unique_name().to_owned(),
            Place::Inside | Place::Native => SERVICE.to_owned(),
        };
        let body = Body::new().str(&format!("from {place:?}"));
        let serial = caller.send(call(&destination, "/", SERVICE, "Ask").body(&body));
        let asked = service.expect_call("Ask");
        assert_eq!(asked.text(), format!("from {place:?}"));
        service.answer(&asked, &body);
        caller.expect_reply(serial).returned();

        service.send(Builder::signal("/", SERVICE, "Rung").body(&body));
        let signal = caller.expect_signal(SERVICE, "Rung");
        assert_eq!(signal.text(), format!("from {place:?}"));
        caller.send(Builder::signal("/", "org.example.Caller", "Said").body(&body));
        let signal = service.expect_signal("org.example.Caller", "Said");
        assert_eq!(signal.sender(), asked.sender(), "{place:?}");
        assert_eq!(signal.header().kind, MessageType::Signal);
    }
}

in_topologies!(all: peer_is_everywhere,
    the_driver_introspects,
    the_driver_has_properties,
    each_refusal_has_its_own_error,
    driver_calls_need_no_interface,
    credentials_are_those_of_the_client,
    a_monitor_sees_the_traffic_of_the_view,
    a_monitor_is_refused_what_does_not_exist,
    a_client_is_a_service_for_all);
in_topologies!(multiplexed: anything_before_hello_ends_the_connection,
    a_client_gets_a_process_descriptor);
