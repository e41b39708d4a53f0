//! Lines 1 to 6: the wire.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use dbus_wire::{Body, Builder, Endian, Flags, MessageType, error_names};
use testbed::raw_client::{DRIVER, MAX_FDS, call, driver_call};
use testbed::{
    Deadline, Mux, MuxOptions, RawClient, TestDir, Topology, World, WorldOptions, in_topologies,
    needs, run_program, tools,
};

use crate::cast::{Place, SERVICE, service};

// ── Byte order ──

/// Line 1. A big-endian call and its big-endian answer reach a service in every place; where the router
/// puts in names of its own, it does so in the order of the message.
fn both_byte_orders_cross(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let unique = client.name_owner(SERVICE).expect("it is owned");
        for destination in [SERVICE, &unique] {
            for (endian, answer_endian) in [
                (Endian::Big, Endian::Big),
                (Endian::Big, Endian::Little),
                (Endian::Little, Endian::Big),
            ] {
                let body = Body::with_endian(endian).u32(0x0102_0304).str("big");
                let serial = client.send(
                    call(destination, "/", SERVICE, "Ask")
                        .endian(endian)
                        .body(&body),
                );
                let asked = service.expect_call("Ask");
                assert_eq!(asked.number(), 0x0102_0304, "{place:?}");
                // A dbus-daemon may turn round what it looks into; the multiplexer never does.
                if place == Place::Inside && matches!(topology, Topology::Local | Topology::NoHost)
                {
                    assert_eq!(asked.header().endian, endian);
                }
                let body = Body::with_endian(answer_endian).u32(0x0506_0708);
                service.send(
                    Builder::reply_to(&asked.header())
                        .endian(answer_endian)
                        .body(&body),
                );
                let answer = client.expect_reply(serial).returned();
                assert_eq!(answer.number(), 0x0506_0708, "{place:?}");
                assert_eq!(answer.sender(), unique, "{place:?}");
            }
        }
        service.release_name(SERVICE);
    }
}

/// Line 1. The driver takes calls in both byte orders, also those that it has to pass on.
fn the_driver_understands_both_byte_orders(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let own = client.unique_name().to_owned();
    for (member, body) in [
        ("GetNameOwner", Body::with_endian(Endian::Big).str(&own)),
        (
            "AddMatch",
            Body::with_endian(Endian::Big).str("type='signal',eavesdrop='true'"),
        ),
        (
            "RequestName",
            Body::with_endian(Endian::Big).str("org.example.Big").u32(4),
        ),
        (
            "ReleaseName",
            Body::with_endian(Endian::Big).str("org.example.Big"),
        ),
        ("ListNames", Body::with_endian(Endian::Big)),
    ] {
        client
            .call(driver_call(member, &body).endian(Endian::Big))
            .returned();
    }
}

// ── Limits and malformed messages ──

/// Bytes that look like a message to `destination` and are none, and what is wrong with each.
fn malformed(destination: &str) -> Vec<(&'static str, Vec<u8>)> {
    let valid = |body: &Body| {
        call(destination, "/", SERVICE, "Ask")
            .serial(100)
            .body(body)
            .build()
    };
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = valid(&Body::new());
        change(&mut bytes);
        bytes
    };
    let body = |signature: &str, bytes: Vec<u8>| {
        valid(&Body::from_parts(Endian::Little, signature, bytes))
    };
    let field = |code, value: Body| {
        call(destination, "/", SERVICE, "Ask")
            .serial(100)
            .field(code, value)
            .build()
    };
    let long_name = format!("org.{}", "n".repeat(252));
    vec![
        ("no byte order", with(&|bytes| bytes[0] = b'x')),
        ("the type 0", with(&|bytes| bytes[1] = 0)),
        ("version 2", with(&|bytes| bytes[3] = 2)),
        ("the serial 0", with(&|bytes| bytes[8..12].fill(0))),
        (
            "a body of 4 GiB",
            with(&|bytes| bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes())),
        ),
        (
            "a whole message of more than 128 MiB",
            with(&|bytes| bytes[4..8].copy_from_slice(&(128 * 1024 * 1024_u32).to_le_bytes())),
        ),
        (
            "header fields of 4 GiB",
            with(&|bytes| bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes())),
        ),
        (
            "header fields of more than 64 MiB",
            with(&|bytes| {
                bytes[12..16].copy_from_slice(&(64 * 1024 * 1024_u32 + 1).to_le_bytes());
            }),
        ),
        ("a boolean of 2", body("b", 2_u32.to_le_bytes().to_vec())),
        (
            "a string that is not UTF-8",
            body("s", b"\x02\0\0\0\xff\xfe\0".to_vec()),
        ),
        (
            "a string with a NUL in it",
            body("s", b"\x03\0\0\0a\0b\0".to_vec()),
        ),
        (
            "a string without its NUL",
            body("s", b"\x02\0\0\0abc".to_vec()),
        ),
        (
            "a string longer than the body",
            body("s", b"\xff\0\0\0ab\0".to_vec()),
        ),
        (
            "an object path that is none",
            body("o", b"\x02\0\0\0//\0".to_vec()),
        ),
        ("a signature that is none", body("g", b"\x01a\0".to_vec())),
        (
            "padding that is not zero",
            body("yu", b"\x01\xff\0\0\x01\0\0\0".to_vec()),
        ),
        (
            "more body than its signature",
            body("y", b"\x01\x02".to_vec()),
        ),
        (
            "less body than its signature",
            body("uu", 1_u32.to_le_bytes().to_vec()),
        ),
        (
            "an array of more than 64 MiB",
            body("ay", (64 * 1024 * 1024_u32 + 1).to_le_bytes().to_vec()),
        ),
        (
            "33 arrays in one another",
            body(
                &format!("{}y", "a".repeat(33)),
                0_u32.to_le_bytes().to_vec(),
            ),
        ),
        (
            "33 structs in one another",
            body(&format!("{}y{}", "(".repeat(33), ")".repeat(33)), vec![1]),
        ),
        ("the header field 0", field(0, Body::new().u32(1))),
        ("a member twice", field(3, Body::new().str("Ask"))),
        (
            "a path that is a string",
            Builder::new(MessageType::MethodCall)
                .member("Ask")
                .destination(destination)
                .field(1, Body::new().str("/"))
                .serial(100)
                .build(),
        ),
        (
            "a destination of 256 bytes",
            call(&long_name, "/", SERVICE, "Ask").serial(100).build(),
        ),
        (
            "a member with a hyphen",
            call(destination, "/", SERVICE, "A-sk").serial(100).build(),
        ),
        (
            "an interface without a period",
            call(destination, "/", "org", "Ask").serial(100).build(),
        ),
        (
            "no member",
            Builder::new(MessageType::MethodCall)
                .path("/")
                .destination(destination)
                .serial(100)
                .build(),
        ),
        (
            "no reply serial",
            Builder::new(MessageType::MethodReturn)
                .destination(destination)
                .serial(100)
                .build(),
        ),
        (
            "the path of local messages",
            call(destination, "/org/freedesktop/DBus/Local", SERVICE, "Ask")
                .serial(100)
                .build(),
        ),
        (
            "the interface of local messages",
            call(destination, "/", "org.freedesktop.DBus.Local", "Ask")
                .serial(100)
                .build(),
        ),
    ]
}

/// Lines 2 and 3. What is malformed ends its sender's connection and nobody else's, wherever it was going, and
/// does not arrive: version, serial, lengths, names, nesting, bodies; field 0, and a known field twice.
fn a_malformed_message_costs_its_sender_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut bystander = RawClient::open(&world.inside());
        for (wrong, bytes) in malformed(SERVICE) {
            // dbus-daemon waits for the rest of what it will refuse.
            if topology == Topology::Plain && wrong == "header fields of more than 64 MiB" {
                continue;
            }
            // Seen only if this is the one that fails.
            eprintln!("{place:?}: {wrong}");
            let mut client = RawClient::open(&world.inside());
            // Whoever judges it may do so before it has come whole.
            let _ = client.try_send(&bytes, &[], Deadline::usual());
            let before = client.expect_closed();
            // Where the bus behind closes the link, the call on it is lost and may be answered so.
            let answered = before.iter().any(|message| {
                message.is_reply_to(100) && message.error_name() != Some(error_names::NO_REPLY)
            });
            assert!(!answered, "{place:?}: {wrong} was answered: {before:?}");
            let serial = bystander.send(call(SERVICE, "/", SERVICE, "Still"));
            let asked = service.expect_call("Still");
            service.answer(&asked, &Body::new());
            bystander.expect_reply(serial).returned();
        }
        let came: Vec<_> = service
            .all_so_far()
            .into_iter()
            .filter(|message| message.is_call("Ask"))
            .collect();
        assert!(came.is_empty(), "{place:?}: {came:?}");
        service.release_name(SERVICE);
    }
}

/// Line 2. What is at the limit is no fault: 32 arrays in 32 structs, a name of 255 bytes, an object path of
/// any length, an array of nearly 64 MiB is not even large.
fn what_is_at_the_limit_crosses(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let long_path = format!("/{}", "p".repeat(100_000));
        let long_interface = format!("org.{}", "i".repeat(251));
        let long_member = "m".repeat(255);
        let deep = format!("{}{}y{}", "a".repeat(32), "(".repeat(32), ")".repeat(32));
        let empty = Body::from_parts(Endian::Little, deep, 0_u32.to_le_bytes().to_vec());
        let serial =
            client.send(call(SERVICE, &long_path, &long_interface, &long_member).body(&empty));
        let asked = service.expect_call(&long_member);
        assert_eq!(asked.header().path, Some(&*long_path), "{place:?}");
        assert_eq!(asked.header().interface, Some(&*long_interface));
        service.answer(&asked, &Body::new());
        client.expect_reply(serial).returned();

        let large = vec![7; 3 * 1024 * 1024];
        let body = Body::new().bytes(&large);
        let serial = client.send(call(SERVICE, "/", SERVICE, "Large").body(&body));
        let asked = service.expect_call("Large");
        assert!(asked.reader().bytes().is_ok_and(|bytes| bytes == large));
        service.answer(&asked, &body);
        let answer = client.expect_reply(serial).returned();
        assert!(answer.reader().bytes().is_ok_and(|bytes| bytes == large));
        service.release_name(SERVICE);
    }
}

/// A line of /proc/PID/status that is a size, in KiB.
fn memory(mux: &mut Mux, line: &str) -> u64 {
    let path = format!("/proc/{}/status", mux.process().id());
    let status = fs::read_to_string(path).expect("it runs");
    let value = status
        .lines()
        .find_map(|it| it.strip_prefix(line)?.strip_prefix(':'))
        .and_then(|it| it.split_whitespace().next()?.parse().ok());
    value.expect("the kernel tells it")
}

/// Line 2. Limits are checked before memory is taken: who announces 4 GiB is gone, and who announces the
/// largest message that there can be, and sends only its beginning, has cost next to nothing.
fn what_is_only_announced_takes_no_memory(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(topology);
    let mut bystander = service(&world, Place::Inside);
    let before = memory(world.mux.as_mut().expect("a multiplexer"), "VmData");
    let mut announcers = Vec::new();
    for destination in [SERVICE, "org.example.Nobody", DRIVER] {
        let mut bytes = call(destination, "/", SERVICE, "Ask")
            .body(&Body::new().bytes(&[0; 64]))
            .serial(100)
            .build();
        let length = 127 * 1024 * 1024_u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let mut client = RawClient::open(&world.inside());
        client.send_bytes(&bytes);
        announcers.push(client);

        bytes[4..8].copy_from_slice(&(u32::MAX - 7).to_le_bytes());
        let mut client = RawClient::open(&world.inside());
        client.send_bytes(&bytes);
        client.expect_closed();
    }
    bystander.all_so_far();
    let after = memory(world.mux.as_mut().expect("a multiplexer"), "VmData");
    assert!(
        after < before + 16 * 1024,
        "it had {before} KiB and has {after} KiB"
    );
}

// ── What the future may bring ──

/// Line 3. A header field that nobody knows does not end the connection, and the message arrives; it is
/// filtered as dbus-daemon does it, so that no receiver takes it for a bus's word. A message of an unknown type
/// is ignored. Unknown flags are kept.
fn what_is_unknown_does_no_harm(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let ignored = Builder::new(MessageType::from_byte(77))
            .destination(SERVICE)
            .path("/")
            .interface(SERVICE)
            .member("Future");
        client.send(ignored);
        let serial = client.send(
            call(SERVICE, "/", SERVICE, "Ask")
                .field(200, Body::new().str("from the future"))
                .flags(Flags(0x70)),
        );
        let asked = service.expect_call("Ask");
        assert_eq!(asked.header().flags, Flags(0x70), "{place:?}");
        service.send(
            Builder::reply_to(&asked.header())
                .field(201, Body::new().u32(1))
                .flags(Flags(0x71)),
        );
        let answer = client.expect_reply(serial).returned();
        assert_eq!(answer.header().flags, Flags(0x71), "{place:?}");
        assert!(
            service
                .all_so_far()
                .iter()
                .all(|message| message.header().member != Some("Future")),
            "{place:?}"
        );
        service.release_name(SERVICE);
    }
}

// ── File descriptors ──

/// Pipes whose write ends are sent, and how to see that the right ones arrived: each is written to.
struct Pipes {
    readers: Vec<std::io::PipeReader>,
    writers: Vec<std::io::PipeWriter>,
}

impl Pipes {
    fn new(count: usize) -> Pipes {
        let (readers, writers) = (0..count).map(|_| std::io::pipe().expect("a pipe")).unzip();
        Pipes { readers, writers }
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.writers.iter().map(AsFd::as_fd).collect()
    }

    /// Each of the descriptors is the one that was sent in its place.
    #[track_caller]
    fn assert_arrived(mut self, fds: Vec<std::os::fd::OwnedFd>) {
        assert_eq!(fds.len(), self.readers.len());
        self.writers.clear();
        for (number, fd) in fds.into_iter().enumerate() {
            let mut file = fs::File::from(fd);
            file.write_all(&(number as u32).to_le_bytes())
                .expect("a pipe takes it");
        }
        for (number, mut reader) in self.readers.drain(..).enumerate() {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).expect("a pipe that ends");
            assert_eq!(text, (number as u32).to_le_bytes());
        }
    }
}

/// Line 4. As many descriptors as one message can carry, to and from a service in every place, in their order.
fn a_message_carries_253_descriptors(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let options = WorldOptions {
        daemon_configuration: "<limit name=\"max_message_unix_fds\">253</limit>".to_owned(),
        ..WorldOptions::default()
    };
    let world = World::start_with(topology, &options);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        for count in [1, MAX_FDS] {
            let pipes = Pipes::new(count);
            let serial = client.send_with_fds(call(SERVICE, "/", SERVICE, "Take"), &pipes.fds());
            let asked = service.expect_call("Take");
            let header = asked.message.clone();
            pipes.assert_arrived(asked.fds);

            let pipes = Pipes::new(count);
            service.send_with_fds(Builder::reply_to(&header.header()), &pipes.fds());
            let answer = client.expect_reply(serial).returned();
            pipes.assert_arrived(answer.fds);
        }
        service.release_name(SERVICE);
    }
}

/// Line 4. Descriptors may come with any byte of their message, also each with another; many small messages
/// with descriptors at once lose none.
fn descriptors_come_with_any_byte_of_their_message(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        // One small message, and one that is passed on while it comes.
        for size in [40, 300_000] {
            let pipes = Pipes::new(2);
            let fds = pipes.fds();
            let body = Body::new().bytes(&vec![1; size]);
            let bytes = call(SERVICE, "/", SERVICE, "Take")
                .body(&body)
                .unix_fds(2)
                .serial(client.next_serial())
                .build();
            let half = bytes.len() / 2;
            let last = bytes.len() - 1;
            client.send_bytes(&bytes[..half]);
            client.send_bytes_with_fds(&bytes[half..last], &fds[..1]);
            client.send_bytes_with_fds(&bytes[last..], &fds[1..]);
            pipes.assert_arrived(service.expect_call("Take").fds);
        }
        let many: Vec<Pipes> = (0..200).map(|_| Pipes::new(1)).collect();
        for pipes in &many {
            client.send_with_fds(call(SERVICE, "/", SERVICE, "Many"), &pipes.fds());
        }
        for pipes in many {
            pipes.assert_arrived(service.expect_call("Many").fds);
        }
        service.release_name(SERVICE);
    }
}

/// Line 4. Descriptors go with the first byte of their message and only once, also where its receiver reads
/// late and the message is written in many parts.
fn a_large_message_in_many_parts_keeps_its_descriptors(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let body = Body::new().bytes(&vec![1; 2 * 1024 * 1024]);
        let sent: Vec<Pipes> = (1..=4).map(Pipes::new).collect();
        for pipes in &sent {
            client.send_with_fds(
                call(SERVICE, "/", SERVICE, "Take").body(&body),
                &pipes.fds(),
            );
        }
        for pipes in sent {
            pipes.assert_arrived(service.expect_call("Take").fds);
        }
        service.release_name(SERVICE);
    }
}

/// Line 4. A wrong count closes that client alone: too few when the message is whole, or some that no
/// message promises.
fn a_wrong_count_of_descriptors_costs_its_sender_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let promise = |count: u32| {
            call(SERVICE, "/", SERVICE, "Take")
                .unix_fds(count)
                .serial(100)
                .build()
        };
        for (promised, came) in [(2, 1), (1, 0), (254, 253), (u32::MAX, 1)] {
            let mut client = RawClient::open(&world.inside());
            let pipes = Pipes::new(came);
            let _ = client.try_send(&promise(promised), &pipes.fds(), Deadline::usual());
            client.expect_closed();
        }
        assert!(
            !service
                .all_so_far()
                .iter()
                .any(|message| message.is_call("Take")),
            "{place:?}"
        );
        service.release_name(SERVICE);
    }
}

/// Whether a descriptor of a process is closed in programs that it starts; none if it has no such descriptor.
fn close_on_exec(pid: u32, number: u32) -> Option<bool> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
    // O_CLOEXEC
    Some(flags & 0o2_000_000 != 0)
}

/// Line 4. Every descriptor of the multiplexer is closed in the programs that it starts, those that arrive
/// included.
fn descriptors_are_close_on_exec(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(topology);
    let mut service = service(&world, Place::Inside);
    let mut client = RawClient::open(&world.inside());
    let pipes = Pipes::new(3);
    // The first part of a message: its descriptors have to wait in the multiplexer.
    let bytes = call(SERVICE, "/", SERVICE, "Take")
        .unix_fds(3)
        .serial(100)
        .build();
    let (first, rest) = bytes.split_at(20);
    client.send_bytes_with_fds(first, &pipes.fds());
    service.all_so_far();
    let pid = world.mux.as_mut().expect("a multiplexer").process().id();
    let mut seen = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it is ours") {
        let entry = entry.expect("it is ours");
        let number = entry.file_name().to_string_lossy().parse::<u32>().ok();
        // The standard streams, and what whoever started the test has left open, have been inherited.
        let inherited = number.is_some_and(|number| {
            number <= 2 || close_on_exec(std::process::id(), number) == Some(false)
        });
        if inherited {
            continue;
        }
        let Some(close_on_exec) = number.and_then(|number| close_on_exec(pid, number)) else {
            continue;
        };
        let link = fs::read_link(format!("/proc/{pid}/fd/{}", entry.file_name().display()));
        assert!(close_on_exec, "{link:?} is not closed on exec");
        seen += 1;
    }
    assert!(seen >= 5, "{seen} descriptors is too few to be all");
    client.send_bytes(rest);
    pipes.assert_arrived(service.expect_call("Take").fds);
}

/// Line 4. The multiplexer may open as many files as the system lets it, however few it may when it starts.
#[test]
fn the_limit_of_open_files_is_raised() {
    let dir = TestDir::new();
    let program = testbed::mux_program().unwrap_or_else(|failure| panic!("{failure}"));
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -S -n 100; exec \"$@\"", "sh"])
        .arg(program)
        // The parent of what it runs is the multiplexer.
        .args([
            "run",
            "--host-bus",
            "none",
            "--",
            "sh",
            "-c",
            "cat /proc/$PPID/limits",
        ])
        .env_clear()
        .envs(dir.environment());
    let limits = run_program(command, "").success();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("the kernel tells it");
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), words.next(), "{line}");
}

/// Line 4. When there are no descriptors left (EMFILE), who is connected is served, new clients wait, and are
/// served when there is room.
fn a_lack_of_descriptors_is_survived(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(topology);
    let mut service = service(&world, Place::Inside);
    let mut client = RawClient::open(&world.inside());
    let pid = world.mux.as_mut().expect("a multiplexer").process().id();
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .count() as u64;
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid"));
    let limit = rustix::process::Rlimit {
        current: Some(open + 12),
        ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
    };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit)
        .expect("a process of ours");
    let crowd: Vec<RawClient> = (0..40)
        .map(|_| RawClient::connect(&world.inside()))
        .collect();
    for _ in 0..10 {
        let serial = client.send(call(SERVICE, "/", SERVICE, "Ask"));
        let asked = service.expect_call("Ask");
        service.answer(&asked, &Body::new());
        client.expect_reply(serial).returned();
    }
    drop(crowd);
    RawClient::open(&world.inside());
}

/// Relays between the clients of `path` and the bus at `bus`, as a bus that does not pass descriptors.
fn bus_without_descriptors(path: std::path::PathBuf, bus: std::path::PathBuf) {
    let listener = UnixListener::bind(path).expect("a directory of ours");
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let bus = UnixStream::connect(&bus).expect("the bus runs");
            thread::spawn(move || relay_without_descriptors(client, bus));
        }
    });
}

/// One connection of [`bus_without_descriptors`]. Its end is that of either side.
fn relay_without_descriptors(mut client: UnixStream, mut bus: UnixStream) -> std::io::Result<()> {
    let line = |from: &mut UnixStream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            from.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok::<_, std::io::Error>(line)
    };
    loop {
        let said = line(&mut client)?;
        if said.starts_with(b"NEGOTIATE_UNIX_FD") {
            client.write_all(b"ERROR\r\n")?;
            continue;
        }
        bus.write_all(&said)?;
        if said == b"BEGIN\r\n" {
            break;
        }
        client.write_all(&line(&mut bus)?)?;
    }
    let (mut from_client, mut to_bus) = (client.try_clone()?, bus.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_bus);
        let _ = to_bus.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut bus, &mut client);
    client.shutdown(std::net::Shutdown::Both)
}

/// Line 4. NEGOTIATE_UNIX_FD is agreed on only where every bus behind agreed.
#[test]
fn descriptors_are_agreed_on_only_where_every_bus_takes_them() {
    needs!(tools::DBUS_DAEMON);
    for without in ["host", "container", "neither"] {
        let dir = TestDir::new();
        let address = |name: &str| {
            let options = testbed::DaemonOptions {
                name: name.to_owned(),
                ..Default::default()
            };
            let daemon = testbed::DbusDaemon::start(&dir, &options)
                .unwrap_or_else(|failure| panic!("{failure}"));
            let address = if name == without {
                let path = dir.join(format!("{name}/relay"));
                bus_without_descriptors(path.clone(), daemon.socket().to_owned());
                format!("unix:path={}", path.display())
            } else {
                daemon.address().to_owned()
            };
            (daemon, address)
        };
        let (_host, host_bus) = address("host");
        let (_container, container_bus) = address("container");
        let options = MuxOptions {
            host_bus: Some(host_bus),
            container_bus: Some(container_bus),
            ..MuxOptions::default()
        };
        let mux = Mux::start(&dir, &options).unwrap_or_else(|failure| panic!("{failure}"));
        let client = RawClient::open(&mux.address());
        assert_eq!(client.may_pass_fds(), without == "neither", "{without}");
    }
}

// ── Any cut ──

/// Line 5. A whole conversation, byte by byte: each has been read before the next is sent, because the answer
/// to somebody else's call lies between.
fn a_conversation_may_come_byte_by_byte(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut clock = RawClient::open(&world.inside());
        let mut client = RawClient::connect(&world.inside());
        let mut bytes = format!("\0AUTH EXTERNAL {}\r\nBEGIN\r\n", own_uid_in_hex()).into_bytes();
        bytes.extend(driver_call("Hello", &Body::new()).serial(1).build());
        let body = Body::new().str("in pieces");
        bytes.extend(
            call(SERVICE, "/", SERVICE, "Ask")
                .serial(2)
                .body(&body)
                .build(),
        );
        for byte in bytes {
            client.send_bytes(&[byte]);
            clock.call_driver("GetId", &Body::new());
        }
        assert_eq!(service.expect_call("Ask").text(), "in pieces", "{place:?}");
        service.release_name(SERVICE);
    }
}

/// Line 5. A message in every split of two.
fn a_message_may_come_in_every_split_of_two(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut clock = RawClient::open(&world.inside());
        let mut client = RawClient::open(&world.inside());
        let body = Body::new().str("in two");
        let length = call(SERVICE, "/", SERVICE, "Ask")
            .serial(1)
            .body(&body)
            .build()
            .len();
        for split in 1..length {
            let bytes = call(SERVICE, "/", SERVICE, "Ask")
                .serial(client.next_serial())
                .body(&body)
                .build();
            client.send_bytes(&bytes[..split]);
            clock.call_driver("GetId", &Body::new());
            client.send_bytes(&bytes[split..]);
            assert_eq!(service.expect_call("Ask").text(), "in two", "{place:?}");
        }
        service.release_name(SERVICE);
    }
}

// ── Authentication ──

fn own_uid_in_hex() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    uid.bytes().map(|digit| format!("{digit:02x}")).collect()
}

/// What a bus answers to these bytes, until it has said `lines` lines.
#[track_caller]
fn dialogue(address: &str, bytes: &[u8], lines: usize) -> Vec<String> {
    let client = RawClient::connect(address);
    let mut socket = client.socket().try_clone().expect("a descriptor is left");
    socket.set_nonblocking(false).expect("a socket");
    socket
        .set_read_timeout(Some(testbed::deadline::LIMIT))
        .expect("a socket");
    socket.write_all(bytes).expect("a few bytes fit");
    let mut said = Vec::new();
    let mut byte = [0];
    while said.iter().filter(|byte| **byte == b'\n').count() < lines {
        match socket.read(&mut byte) {
            Ok(1) => said.push(byte[0]),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("awaited {lines} lines: {error}; it said {said:?}"),
        }
    }
    let text = String::from_utf8(said).expect("the protocol is ASCII");
    text.lines()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

/// Line 6. The claimed uid is checked against what the kernel says; without one the kernel's word is enough;
/// ANONYMOUS is refused; a line of more than 16 KiB ends the connection. As dbus-daemon answers.
fn authentication_believes_the_kernel_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let own = own_uid_in_hex();
    for (bytes, answers) in [
        (format!("\0AUTH EXTERNAL {own}\r\n"), vec!["OK"]),
        ("\0AUTH EXTERNAL\r\nDATA\r\n".to_owned(), vec!["DATA", "OK"]),
        (format!("\0AUTH EXTERNAL {own}37\r\n"), vec!["REJECTED"]),
        (
            "\0AUTH EXTERNAL 343739313234\r\n".to_owned(),
            vec!["REJECTED"],
        ),
        ("\0AUTH ANONYMOUS\r\n".to_owned(), vec!["REJECTED"]),
        ("\0AUTH ANONYMOUS 7a7a\r\n".to_owned(), vec!["REJECTED"]),
        ("\0AUTH\r\n".to_owned(), vec!["REJECTED"]),
        ("\0NONSENSE\r\n".to_owned(), vec!["ERROR"]),
        ("\0NEGOTIATE_UNIX_FD\r\n".to_owned(), vec!["ERROR"]),
        (
            format!("\0AUTH EXTERNAL 3939\r\nAUTH EXTERNAL {own}\r\nNEGOTIATE_UNIX_FD\r\n"),
            vec!["REJECTED", "OK", "AGREE_UNIX_FD"],
        ),
        ("\0BEGIN\r\n".to_owned(), vec![]),
        (format!("AUTH EXTERNAL {own}\r\n"), vec![]),
        (format!("\0AUTH EXTERNAL {}\r\n", "37".repeat(9000)), vec![]),
    ] {
        let lines = answers.len().max(1);
        let said = dialogue(&world.inside(), bytes.as_bytes(), lines);
        let start: String = bytes.chars().take(60).collect();
        assert_eq!(said, answers, "{start:?}");
    }
}

/// Line 6. AUTH, NEGOTIATE_UNIX_FD, BEGIN, Hello and the first call with its descriptors, in one packet.
fn everything_may_come_in_one_packet(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::connect(&world.inside());
        let pipes = Pipes::new(2);
        let mut bytes = format!(
            "\0AUTH EXTERNAL {}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n",
            own_uid_in_hex()
        )
        .into_bytes();
        bytes.extend(driver_call("Hello", &Body::new()).serial(1).build());
        let take = call(SERVICE, "/", SERVICE, "Take").unix_fds(2).serial(2);
        bytes.extend(take.build());
        client.send_bytes_with_fds(&bytes, &pipes.fds());
        pipes.assert_arrived(service.expect_call("Take").fds);
        service.release_name(SERVICE);
    }
}

/// Line 6. Who does not authenticate, or authenticates and does not say Hello, is sent away when the time is
/// over; who does both stays.
#[test]
fn authentication_has_a_time_limit() {
    let dir = TestDir::new();
    let path = dir.join("bus");
    let router = dbus_router::Router::start(dbus_router::Config {
        listen: dbus_router::Listen::Path(path.clone()),
        host: None,
        container: None,
        data_dirs: Vec::new(),
        policy: dbus_router::Policy::new(),
        limits: dbus_router::Limits {
            // Long enough for those who mean to: the test does nothing in between.
            hello_time: Duration::from_secs(3),
            ..dbus_router::Limits::default()
        },
        ..dbus_router::Config::default()
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let handle = router.handle();
    let running = thread::spawn(move || router.run());
    let address = format!("unix:path={}", path.display());
    let mut real = RawClient::open(&address);
    let mut silent = RawClient::connect(&address);
    let mut halfway = RawClient::connect(&address);
    halfway.send_bytes(b"\0AUTH EXTERNAL");
    let mut nameless = RawClient::connect(&address);
    nameless.authenticate();
    for client in [&mut silent, &mut halfway, &mut nameless] {
        client.expect_closed();
    }
    real.call_driver("GetId", &Body::new());
    handle.stop();
    running
        .join()
        .expect("the router does not panic")
        .expect("the router ends well");
}

/// Line 6. A client in a user namespace claims the uid that it has there.
fn a_client_in_a_user_namespace_claims_its_uid_there(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::DBUS_SEND);
    let probe = Command::new("unshare")
        .args(["--user", "--map-user=4711", "true"])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        testbed::skip!("user namespaces cannot be made here");
    }
    let world = World::start(topology);
    let mut command = world.command("unshare", &world.inside());
    command.args([
        "--user",
        "--map-user=4711",
        "dbus-send",
        "--session",
        "--print-reply",
        "--dest=org.freedesktop.DBus",
        "/",
        "org.freedesktop.DBus.ListNames",
    ]);
    let said = run_program(command, &world.inside()).success();
    assert!(said.contains("org.freedesktop.DBus"), "{said}");
    // The uid of another namespace is no key to ours.
    let lie = dialogue(&world.inside(), b"\0AUTH EXTERNAL 34373131\r\n", 1);
    assert_eq!(lie, ["REJECTED"]);
}

in_topologies!(all: both_byte_orders_cross,
    the_driver_understands_both_byte_orders,
    a_malformed_message_costs_its_sender_alone,
    what_is_at_the_limit_crosses,
    what_is_unknown_does_no_harm,
    a_message_carries_253_descriptors,
    a_large_message_in_many_parts_keeps_its_descriptors,
    a_wrong_count_of_descriptors_costs_its_sender_alone,
    a_conversation_may_come_byte_by_byte,
    a_message_may_come_in_every_split_of_two,
    authentication_believes_the_kernel_alone);

// The multiplexer itself is looked at, or does what dbus-daemon does not: that takes descriptors only with bytes
// which it reads as those of a message, and no uid of another namespace.
in_topologies!(multiplexed: what_is_only_announced_takes_no_memory,
    descriptors_are_close_on_exec,
    a_lack_of_descriptors_is_survived,
    everything_may_come_in_one_packet,
    descriptors_come_with_any_byte_of_their_message,
    a_client_in_a_user_namespace_claims_its_uid_there);
