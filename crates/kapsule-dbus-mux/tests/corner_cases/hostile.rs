//! Clients that mean harm, and very many that do nothing: they harm themselves alone.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use dbus_wire::{Body, Flags, error_names};
use testbed::raw_client::{DRIVER, DRIVER_PATH, MAX_FDS, call, driver_call};
use testbed::{Deadline, RawClient, Topology, World, in_topologies, needs, tools};

use crate::cast::{Place, SERVICE, service};
use crate::exchange::reaches;

/// Two who have nothing to do with it, and can tell that all is well.
struct Bystanders {
    caller: RawClient,
    callee: RawClient,
}

impl Bystanders {
    fn new(world: &World) -> Bystanders {
        Bystanders {
            caller: RawClient::open(&world.inside()),
            callee: service(world, Place::Inside),
        }
    }

    /// They reach each other, the driver, and what there is outside.
    #[track_caller]
    fn assert_well(&mut self) {
        reaches(&mut self.caller, SERVICE, &mut self.callee);
        assert_eq!(self.caller.name_owner("org.example.Nobody"), None);
    }
}

/// Bytes that mean nothing, in the authentication and after it.
fn rubbish_ends_its_connection_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    // A generator of pseudo-random numbers is enough to make noise, and makes the same in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    };
    for length in [16, 100, 5_000, 100_000] {
        for _ in 0..5 {
            let mut stranger = RawClient::connect(&world.inside());
            let mut bytes = noise(length);
            // The first byte of every connection.
            bytes[0] = 1;
            let _ = stranger.try_send(&bytes, &[], Deadline::usual());
            stranger.expect_closed();

            let mut client = RawClient::open(&world.inside());
            let mut bytes = noise(length);
            // Neither of the marks of a byte order.
            bytes[0] |= 0x80;
            let _ = client.try_send(&bytes, &[], Deadline::usual());
            client.expect_closed();
            bystanders.assert_well();
        }
    }
}

/// Half a message, at every stage: it waits for its rest, and nobody waits for it; when the rest does not come
/// but the end of the connection, the half has not arrived anywhere.
fn half_a_message_delays_nobody(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    let mut waiting = Vec::new();
    let large = Body::new().bytes(&vec![1; 1_000_000]);
    let small = Body::new().str("small");
    for destination in [SERVICE, "org.example.Nobody", DRIVER] {
        for (body, parts) in [
            (&small, [1, 15, 17, 40, 100]),
            (&large, [20, 200, 70_000, 400_000, 999_999]),
        ] {
            let bytes = call(destination, "/", SERVICE, "Half")
                .body(body)
                .serial(9)
                .build();
            for part in parts {
                let mut client = RawClient::open(&world.inside());
                client.send_bytes(&bytes[..part]);
                bystanders.assert_well();
                waiting.push(client);
            }
        }
    }
    for part in ["", "\0", "\0AUTH", "\0AUTH EXTERNAL 30\r\nBEG"] {
        let mut stranger = RawClient::connect(&world.inside());
        stranger.send_bytes(part.as_bytes());
        bystanders.assert_well();
        waiting.push(stranger);
    }
    drop(waiting);
    bystanders.assert_well();
    let came = bystanders.callee.all_so_far();
    assert!(
        !came.iter().any(|message| message.is_call("Half")),
        "{came:?}"
    );
}

/// A length of 4 GiB, in each of the two places that have one.
fn a_false_length_of_4_gib_ends_its_connection_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    for place in [4..8, 12..16] {
        for length in [u32::MAX, u32::MAX - 7, 1 << 31, (1 << 31) - 1] {
            let mut client = RawClient::open(&world.inside());
            let mut bytes = driver_call("GetId", &Body::new()).serial(9).build();
            bytes[place.clone()].copy_from_slice(&length.to_le_bytes());
            let _ = client.try_send(&bytes, &[], Deadline::usual());
            client.expect_closed();
            bystanders.assert_well();
        }
    }
}

/// A large message that promises descriptors, which do not come: its sender alone waits, and when it is whole the
/// promise is broken.
fn descriptors_that_do_not_come_delay_nobody(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    let mut client = RawClient::open(&world.inside());
    let bytes = call(SERVICE, "/", SERVICE, "Promise")
        .body(&Body::new().bytes(&vec![1; 60 * 1024 * 1024]))
        .unix_fds(3)
        .serial(9)
        .build();
    for part in bytes.chunks(6 * 1024 * 1024) {
        let _ = client.try_send(part, &[], Deadline::usual());
        bystanders.assert_well();
    }
    client.expect_closed();
    bystanders.assert_well();
}

/// 254 descriptors with one message (in two parts: the kernel takes 253 at a time), and descriptors without end
/// that belong to no message.
fn too_many_descriptors_end_their_connection_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let fds = vec![null.as_fd(); MAX_FDS];

    let bytes = call(SERVICE, "/", SERVICE, "Many")
        .unix_fds(254)
        .serial(9)
        .build();
    let mut client = RawClient::open(&world.inside());
    let _ = client.try_send(&bytes[..20], &fds, Deadline::usual());
    let _ = client.try_send(&bytes[20..], &fds[..1], Deadline::usual());
    client.expect_closed();
    bystanders.assert_well();

    // Each byte of a message that is not whole brings more.
    let bytes = call(SERVICE, "/", SERVICE, "Many")
        .unix_fds(1)
        .serial(9)
        .build();
    let mut client = RawClient::open(&world.inside());
    let mut sent = 0;
    for byte in &bytes[..bytes.len() - 1] {
        if client.try_send(&[*byte], &fds, Deadline::usual()).is_err() {
            break;
        }
        sent += 1;
        bystanders.assert_well();
    }
    client.expect_closed();
    assert!(sent < 20, "{sent} times {MAX_FDS} descriptors were taken");
    bystanders.assert_well();

    // In the authentication there are none.
    let mut stranger = RawClient::connect(&world.inside());
    let mut sent = 0;
    while sent < 20 && stranger.try_send(b"\0", &fds, Deadline::usual()).is_ok() {
        sent += 1;
        bystanders.assert_well();
    }
    assert!(sent < 20, "{sent} times {MAX_FDS} descriptors were taken");
}

/// Connections that send nothing at all, before and after they authenticate, keep nobody out.
fn silence_keeps_nobody_out(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    let mut silent = Vec::new();
    for number in 0..600 {
        let mut client = RawClient::connect(&world.inside());
        if number % 3 == 0 {
            client.authenticate();
        }
        silent.push(client);
    }
    bystanders.assert_well();
    RawClient::open(&world.inside());
}

/// A client that calls and never reads its answers harms nobody, and what it asked for is bounded.
fn answers_that_nobody_reads_delay_nobody(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    let mut client = RawClient::open(&world.inside());
    let ask = call(
        DRIVER,
        DRIVER_PATH,
        "org.freedesktop.DBus.Introspectable",
        "Introspect",
    );
    let mut bytes = Vec::new();
    for serial in 10..2_010 {
        bytes.extend(ask.clone().serial(serial).build());
    }
    let now = Deadline::after(std::time::Duration::ZERO);
    for _ in 0..10 {
        let _ = client.try_send(&bytes, &[], now);
        bystanders.assert_well();
    }
    drop(client);
    bystanders.assert_well();
}

/// Line 36. 2,000 clients that are connected and idle, and one that is busy: nothing of its calls is lost, the
/// idle ones are all told of a name, each once, and none has been disconnected.
fn two_thousand_idle_clients_lose_nothing(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const IDLE: usize = 2_000;
    const CALLS: u32 = 2_000;
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // The buses inherit it, and need two for each idle client where there are two.
    if files
        .maximum
        .is_some_and(|most| most < 3 * IDLE as u64 + 500)
    {
        testbed::skip!("a process may not open {} files here", 3 * IDLE + 500);
    }
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files)
        .expect("the hard limit is allowed");
    let world = World::start(topology);
    let mut service = service(&world, Place::Inside);
    let rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',\
                arg0='org.example.News'";
    let mut idle: Vec<RawClient> = (0..IDLE)
        .map(|_| {
            let mut client = RawClient::open(&world.inside());
            client.add_match(rule);
            client
        })
        .collect();
    let mut busy = RawClient::open(&world.inside());
    let body = Body::new().str("busy");
    for number in 0..CALLS {
        let serial = busy.send(call(SERVICE, "/", SERVICE, "Ask").body(&body));
        let asked = service.expect_call("Ask");
        service.answer(&asked, &Body::new().u32(number));
        assert_eq!(busy.expect_reply(serial).returned().number(), number);
    }
    assert_eq!(busy.request_name("org.example.News", 0), 1);
    for client in &mut idle {
        client.expect_signal(DRIVER, "NameOwnerChanged");
    }
    for client in idle.iter_mut().step_by(50) {
        let came = client.signals_so_far();
        let twice = came.iter().find(|line| line.contains("org.example.News"));
        assert_eq!(twice, None);
    }
}

// ── What test-uid-permissions of the reference implementation asks ──

/// Who has the bus's own uid may update the activation environment and become a monitor.
fn the_own_uid_may_do_everything(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let body = Body::new().array("{ss}", |entries| {
        entries.dict_entry(|entry| entry.str("CORNER").str("case"))
    });
    client.call_driver("UpdateActivationEnvironment", &body);
    let body = Body::new().strs([""]).u32(0);
    let ask = call(
        DRIVER,
        DRIVER_PATH,
        "org.freedesktop.DBus.Monitoring",
        "BecomeMonitor",
    );
    client.call(ask.body(&body)).returned();
}

/// Another uid is not let in at all, whatever it claims, although it could open the socket.
fn another_uid_is_not_let_in(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DBUS_SEND);
    if !rustix::process::geteuid().is_root() {
        testbed::skip!("only root can become somebody else");
    }
    let mut world = World::start(topology);
    let mut bystanders = Bystanders::new(&world);
    // The directories and the socket are for their owner; here they must not be what keeps it out.
    let socket = world
        .mux
        .as_mut()
        .expect("a multiplexer")
        .socket()
        .to_owned();
    for path in socket
        .ancestors()
        .take_while(|path| path.starts_with(world.dir.path()))
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    }
    for member in ["GetId", "ListNames", "ReloadConfig"] {
        let output = Command::new("dbus-send")
            .arg(format!("--bus=unix:path={}", socket.display()))
            .args(["--print-reply", "--dest=org.freedesktop.DBus", "/"])
            .arg(format!("org.freedesktop.DBus.{member}"))
            .env_clear()
            .stdin(Stdio::null())
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .output()
            .expect("it is installed");
        assert!(!output.status.success(), "{member}: {output:?}");
        assert!(output.stdout.is_empty(), "{member}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("Permission denied"), "{said}");
        bystanders.assert_well();
    }
}

/// What a router refuses for handing over the host is not to be had by a call that expects no answer either.
fn a_silent_call_is_refused_too(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut systemd = RawClient::open(&world.outside());
    assert_eq!(systemd.request_name("org.freedesktop.systemd1", 0), 1);
    let mut client = RawClient::open(&world.inside());
    let unique = systemd.unique_name().to_owned();
    for destination in ["org.freedesktop.systemd1", &unique] {
        for flags in [Flags::NO_REPLY_EXPECTED, Flags::NONE] {
            let start = call(
                destination,
                "/",
                "org.freedesktop.systemd1.Manager",
                "StartTransientUnit",
            );
            let serial = client.send(start.flags(flags));
            if flags == Flags::NONE {
                let error = client.expect_reply(serial).failed();
                let refusals = [error_names::ACCESS_DENIED, error_names::SERVICE_UNKNOWN];
                assert!(refusals.contains(&&*error), "{error}");
            }
        }
    }
    let came = systemd.all_so_far();
    assert!(
        !came
            .iter()
            .any(|message| message.is_call("StartTransientUnit")),
        "{came:?}"
    );
}

in_topologies!(all: half_a_message_delays_nobody,
    a_false_length_of_4_gib_ends_its_connection_alone,
    two_thousand_idle_clients_lose_nothing,
    the_own_uid_may_do_everything,
    answers_that_nobody_reads_delay_nobody);
in_topologies!(multiplexed: rubbish_ends_its_connection_alone,
    descriptors_that_do_not_come_delay_nobody,
    too_many_descriptors_end_their_connection_alone,
    silence_keeps_nobody_out,
    another_uid_is_not_let_in);
in_topologies!(two_buses: a_silent_call_is_refused_too);
