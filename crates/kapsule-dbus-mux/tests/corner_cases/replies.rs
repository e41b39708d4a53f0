//! Lines 7 to 10: replies and flags.

use dbus_wire::{Body, Builder, Flags, MessageType, error_names};
use testbed::raw_client::{DRIVER, call, driver_call};
use testbed::{
    RawClient, Received, ServiceFile, Topology, World, WorldOptions, in_topologies, needs, tools,
};

use crate::cast::{Place, SERVICE, service};

/// What a bus adds by itself when somebody comes, and nothing else.
fn is_greeting(message: &Received) -> bool {
    message.header().sender == Some(DRIVER) && message.header().kind == MessageType::Signal
}

/// Everything so far that is not of the bus itself.
#[track_caller]
fn from_others(client: &mut RawClient) -> Vec<Received> {
    let mut messages = client.all_so_far();
    messages.retain(|message| !is_greeting(message));
    messages
}

// ── Replies ──

/// Line 7. Two callers that use the same serial for calls to one service both get their own reply, whoever
/// is answered first.
fn callers_with_the_same_serial_get_their_own_replies(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut callers: Vec<RawClient> =
            (0..3).map(|_| RawClient::open(&world.inside())).collect();
        for (number, caller) in callers.iter_mut().enumerate() {
            let body = Body::new().u32(number as u32);
            caller.send_bytes(
                &call(SERVICE, "/", SERVICE, "Ask")
                    .serial(4711)
                    .body(&body)
                    .build(),
            );
        }
        let mut asked: Vec<Received> = (0..3).map(|_| service.expect_call("Ask")).collect();
        asked.reverse();
        for call in &asked {
            service.answer(call, &Body::new().u32(call.number()));
        }
        for (number, caller) in callers.iter_mut().enumerate() {
            let answer = caller.expect_reply(4711).returned();
            assert_eq!(answer.number(), number as u32, "{place:?}");
        }
        service.release_name(SERVICE);
    }
}

/// Line 7. Thousands of calls wait at once, are answered in the opposite order, half of them with errors, and
/// none is lost.
fn replies_come_out_of_order(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const CALLS: usize = 2_000;
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let serials: Vec<u32> = (0..CALLS)
            .map(|_| client.send(call(SERVICE, "/", SERVICE, "Ask")))
            .collect();
        let mut asked: Vec<Received> = (0..CALLS).map(|_| service.expect_call("Ask")).collect();
        assert!(
            asked
                .iter()
                .map(|call| call.header().serial)
                .eq(serials.iter().copied())
        );
        asked.reverse();
        for call in &asked {
            let serial = call.header().serial;
            if serial % 2 == 0 {
                service.answer(call, &Body::new().u32(serial));
            } else {
                service.answer_error(call, "org.example.Error.Odd", "odd");
            }
        }
        for serial in serials.into_iter().rev() {
            let answer = client.expect_reply(serial);
            match serial % 2 {
                0 => assert_eq!(answer.number(), serial, "{place:?}"),
                _ => assert_eq!(answer.failed(), "org.example.Error.Odd", "{place:?}"),
            }
        }
        service.release_name(SERVICE);
    }
}

/// Line 7. Between two clients of the router a call by unique name, a call by well-known name and a call of
/// oneself are answered by the link on which they came.
fn a_reply_goes_back_the_way_of_its_call(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut service = service(&world, Place::Inside);
    let unique = service.unique_name().to_owned();
    let mut client = RawClient::open(&world.inside());
    for destination in [SERVICE, &unique] {
        let serial = client.send(call(destination, "/", SERVICE, "Ask"));
        let asked = service.expect_call("Ask");
        assert_eq!(asked.sender(), client.unique_name());
        service.answer(&asked, &Body::new());
        let answer = client.expect_reply(serial).returned();
        assert_eq!(answer.sender(), unique);

        let serial = service.send(call(destination, "/", SERVICE, "Ask"));
        let asked = service.expect_call("Ask");
        assert_eq!(asked.sender(), unique);
        service.answer(&asked, &Body::new());
        service.expect_reply(serial).returned();
    }
}

/// Line 8. A client uses the serials that the router uses on its links, for calls that wait at a host service
/// and at the host's driver, while names change bus and the router has calls of its own to make: every call
/// gets its own answer.
fn the_routers_own_calls_take_no_serial_of_the_clients(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const FIRST: u32 = 0xf000_0001;
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    assert_eq!(outside.request_name(SERVICE, 0), 1);
    assert_eq!(outside.request_name("org.example.Moving", 0), 1);
    let mut mover = RawClient::open(&world.inside());
    let mut client = RawClient::open(&world.inside());
    client.add_match("type='signal',member='NameOwnerChanged'");
    let serials = FIRST..FIRST + 40;
    for serial in serials.clone() {
        let ask = call(SERVICE, "/", SERVICE, "Ask").serial(serial);
        client.send_bytes(&ask.body(&Body::new().u32(serial)).build());
    }
    let asked: Vec<Received> = serials
        .clone()
        .map(|_| outside.expect_call("Ask"))
        .collect();
    for _ in 0..5 {
        mover.request_name("org.example.Moving", 4);
        mover.release_name("org.example.Moving");
    }
    client.all_so_far();
    for call in &asked {
        outside.answer(call, &Body::new().u32(call.number()));
    }
    for serial in serials.clone() {
        assert_eq!(client.expect_reply(serial).returned().number(), serial);
    }
    // And the other way: the driver's answers to both are told apart.
    for serial in serials.clone() {
        let body = Body::new().str(SERVICE);
        client.send_bytes(&driver_call("GetNameOwner", &body).serial(serial).build());
        if serial % 8 == 0 {
            mover.request_name("org.example.Moving", 4);
            mover.release_name("org.example.Moving");
        }
    }
    for serial in serials {
        let answer = client.expect_reply(serial).returned();
        assert_eq!(answer.text(), outside.unique_name(), "{serial:#x}");
    }
    let extra: Vec<Received> = from_others(&mut client);
    assert!(extra.is_empty(), "{extra:?}");
}

/// Line 8. Calls to the host's driver that it answers late, when a service has started, keep their serials while
/// the router asks the same driver on the same link.
fn a_start_that_takes_its_time_keeps_its_serial(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const SERIALS: std::ops::Range<u32> = 0xf000_0001..0xf000_0030;
    let dir = testbed::TestDir::new();
    let fifo = dir.join("let-go");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.is_ok_and(|status| status.success()), "a FIFO");
    let command = format!("/bin/sh -c \"read word < {}; exit 7\"", fifo.display());
    let options = WorldOptions {
        host_services: vec![ServiceFile::new("org.example.Slow", command)],
        ..WorldOptions::default()
    };
    let world = World::start_in(dir, topology, &options);
    let mut outside = RawClient::open(&world.outside());
    assert_eq!(outside.request_name("org.example.Moving", 0), 1);
    let mut mover = RawClient::open(&world.inside());
    let mut client = RawClient::open(&world.inside());
    client.add_match("type='signal',member='NameOwnerChanged'");
    let body = Body::new().str("org.example.Slow").u32(0);
    for serial in SERIALS {
        let start = driver_call("StartServiceByName", &body).serial(serial);
        client.send_bytes(&start.build());
    }
    for _ in 0..5 {
        mover.request_name("org.example.Moving", 4);
        mover.release_name("org.example.Moving");
    }
    let early = client.all_so_far();
    let answered = |message: &&Received| message.header().reply_serial.is_some();
    assert!(!early.iter().any(|message| answered(&message)), "{early:?}");
    std::fs::write(&fifo, "go\n").expect("the service reads");
    for serial in SERIALS {
        let error = client.expect_reply(serial).failed();
        assert_eq!(error, error_names::SPAWN_CHILD_EXITED, "{serial:#x}");
    }
}

// ── Flags ──

/// Line 9. A call of the driver's that expects no reply gets none, neither a return nor an error, whoever
/// would have answered it.
///
/// (dbus-daemon does answer, so this is not for the plain control, and the multiplexer has to keep the answers of
/// the buses behind to itself.)
fn the_driver_honours_no_reply_expected(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let own = client.unique_name().to_owned();
    let mut silent = Vec::new();
    for (member, body) in [
        ("GetId", Body::new()),
        ("ListNames", Body::new()),
        ("ListActivatableNames", Body::new()),
        ("GetNameOwner", Body::new().str(&own)),
        ("GetNameOwner", Body::new().str("org.example.Nobody")),
        ("NameHasOwner", Body::new().str("org.example.Nobody")),
        ("AddMatch", Body::new().str("type='signal',member='Rung'")),
        ("AddMatch", Body::new().str("nonsense")),
        ("RemoveMatch", Body::new().str("member='Never'")),
        ("RequestName", Body::new().str("org.example.Quiet").u32(0)),
        ("ReleaseName", Body::new().str("org.example.Quiet")),
        ("RequestName", Body::new().str("org.example.Quiet").u32(0)),
        ("RequestName", Body::new().str(":1.2").u32(0)),
        ("GetConnectionCredentials", Body::new().str(&own)),
        (
            "StartServiceByName",
            Body::new().str("org.example.Nobody").u32(0),
        ),
        ("Hello", Body::new()),
        ("Nonsense", Body::new()),
        ("GetId", Body::new().u32(1)),
    ] {
        silent.push(client.send(driver_call(member, &body).flags(Flags::NO_REPLY_EXPECTED)));
    }
    let peer = call(DRIVER, "/", "org.freedesktop.DBus.Peer", "Ping");
    silent.push(client.send(peer.flags(Flags::NO_REPLY_EXPECTED)));
    // Asked of every bus behind, which answer in order.
    client.name_owner("org.example.Nobody");
    for message in client.all_so_far() {
        let answers = message.header().reply_serial;
        assert!(!answers.is_some_and(|it| silent.contains(&it)), "{message}");
    }
    // They were obeyed all the same.
    assert_eq!(client.name_owner("org.example.Quiet"), Some(own));
    let mut service = service(&world, Place::Inside);
    service.send(Builder::signal("/", SERVICE, "Rung"));
    client.expect_signal(SERVICE, "Rung");
}

/// Line 9. A call that expects no reply arrives as one, and nobody answers in the place of a name that nobody
/// has (as dbus-daemon would).
fn a_call_that_expects_no_reply_gets_no_error(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        for destination in [SERVICE, "org.example.Nobody", ":1.4000000", ":77.1"] {
            client.send(call(destination, "/", SERVICE, "Ask").flags(Flags::NO_REPLY_EXPECTED));
        }
        let asked = service.expect_call("Ask");
        assert!(asked.header().flags.contains(Flags::NO_REPLY_EXPECTED));
        service.release_name(SERVICE);
        client.name_owner("org.example.Nobody");
        let came = from_others(&mut client);
        assert!(came.is_empty(), "{place:?}: {came:?}");
    }
}

/// Line 9. NO_AUTO_START starts nothing, on neither bus; the same call without it does.
fn no_auto_start_starts_nothing_on_either_bus(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let dir = testbed::TestDir::new();
    let mark = |name: &str| dir.join(format!("started-{name}"));
    let starts = |name: &str| {
        // It leaves a mark and takes no name: who waits for it is told that it ended.
        let command = format!("/bin/sh -c \"touch {}; exit 7\"", mark(name).display());
        ServiceFile::new(format!("org.example.{name}"), command)
    };
    let options = WorldOptions {
        host_services: vec![starts("Outside")],
        inside_services: vec![starts("Inside")],
        ..WorldOptions::default()
    };
    let inside_mark = mark("Inside");
    let outside_mark = mark("Outside");
    let world = World::start_in(dir, topology, &options);
    let mut client = RawClient::open(&world.inside());
    let mut names = vec![("org.example.Inside", inside_mark)];
    if topology != Topology::NoHost {
        names.push(("org.example.Outside", outside_mark));
    }
    for (name, mark) in names {
        let ask = || call(name, "/", SERVICE, "Ask");
        let answer = client.call(ask().flags(Flags::NO_AUTO_START)).failed();
        assert_eq!(answer, error_names::NAME_HAS_NO_OWNER, "{name}");
        assert!(!mark.exists(), "{name} was started");
        let answer = client.call(ask()).failed();
        assert_eq!(answer, error_names::SPAWN_CHILD_EXITED, "{name}");
        assert!(mark.exists(), "{name} was not started");
    }
}

/// Line 9. A start inside that expects no reply starts, and gets none when it fails; who waits for the same start
/// is told.
fn a_start_that_expects_no_reply_gets_none(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let options = WorldOptions {
        inside_services: vec![ServiceFile::new("org.example.Fails", "/bin/false")],
        ..WorldOptions::default()
    };
    let world = World::start_with(topology, &options);
    let mut client = RawClient::open(&world.inside());
    let body = Body::new().str("org.example.Fails").u32(0);
    let start = driver_call("StartServiceByName", &body);
    let silent = client.send(start.clone().flags(Flags::NO_REPLY_EXPECTED));
    let error = client.call(start).failed();
    assert_eq!(error, error_names::SPAWN_CHILD_EXITED);
    let came = client.all_so_far();
    assert!(
        !came.iter().any(|message| message.is_reply_to(silent)),
        "{came:?}"
    );
}

/// Line 9. ALLOW_INTERACTIVE_AUTHORIZATION reaches the service, in every place, with the other flags.
fn interactive_authorization_passes_through(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        for flags in [
            Flags::NONE,
            Flags::ALLOW_INTERACTIVE_AUTHORIZATION,
            Flags::ALLOW_INTERACTIVE_AUTHORIZATION.with(Flags::NO_AUTO_START),
        ] {
            client.send(call(SERVICE, "/", SERVICE, "Ask").flags(flags));
            assert_eq!(
                service.expect_call("Ask").header().flags,
                flags,
                "{place:?}"
            );
        }
        service.release_name(SERVICE);
    }
}

// ── To one receiver ──

/// Line 10. Signals to one receiver cross both ways, with their sender, without a match rule.
fn unicast_signals_cross(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let unique = client.name_owner(SERVICE).expect("it is owned");
        let mut other = RawClient::open(&world.inside());
        let body = Body::new().str("for you alone");
        for destination in [SERVICE, &unique] {
            let rung = Builder::signal("/", SERVICE, "Rung").destination(destination);
            client.send(rung.body(&body));
            let signal = service.expect_signal(SERVICE, "Rung");
            assert_eq!(signal.text(), "for you alone");
            // The service answers to the name by which it knows the client, as portals do.
            let to = signal.sender().to_owned();
            let response = Builder::signal("/", SERVICE, "Response").destination(&to);
            service.send(response.body(&body));
            let signal = client.expect_signal(SERVICE, "Response");
            assert_eq!(signal.sender(), unique, "{place:?}");
            assert_eq!(signal.header().destination, Some(client.unique_name()));
        }
        let came = from_others(&mut other);
        assert!(came.is_empty(), "{place:?}: {came:?}");
        service.release_name(SERVICE);
    }
}

/// Line 10. Errors cross with their name and text.
fn errors_cross(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut service = service(&world, place);
        let mut client = RawClient::open(&world.inside());
        let serial = client.send(call(SERVICE, "/", SERVICE, "Ask"));
        let asked = service.expect_call("Ask");
        service.answer_error(&asked, "org.example.Error.No", "because");
        let answer = client.expect_reply(serial);
        assert_eq!(
            answer.error_name(),
            Some("org.example.Error.No"),
            "{place:?}"
        );
        assert_eq!(answer.text(), "because");
        service.release_name(SERVICE);
    }
}

/// Line 10. A client gets one answer to its call: a second reply and a reply to no call at all do not reach it,
/// from a service in any place; nor do they cost anybody the connection.
///
/// (A session bus of dbus-daemon lets all replies through, so this is not for the plain control.)
fn replies_that_nobody_asked_for_are_dropped(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut client = RawClient::open(&world.inside());
        let mut service = service(&world, place);
        let serial = client.send(call(SERVICE, "/", SERVICE, "Ask"));
        let asked = service.expect_call("Ask");
        let caller = asked.sender();
        service.send(Builder::method_return(serial + 1).destination(caller));
        service.send(
            Builder::error("org.example.Error.Wrong", serial + 2, "wrong").destination(caller),
        );
        service.answer(&asked, &Body::new().str("right"));
        service.answer(&asked, &Body::new().str("again"));
        // What the service sends is in order: when this has come, so would have the rest.
        let last = Builder::signal("/", SERVICE, "Last").destination(caller);
        service.send(last);
        client.expect_signal(SERVICE, "Last");
        assert_eq!(client.expect_reply(serial).returned().text(), "right");
        let came = from_others(&mut client);
        assert!(came.is_empty(), "{place:?}: {came:?}");
        service.release_name(SERVICE);
    }
}

/// Line 10. On the local bus only the service that was asked can answer.
fn a_stranger_cannot_answer(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let mut service = service(&world, Place::Inside);
    let mut stranger = RawClient::open(&world.inside());
    let name = client.unique_name().to_owned();
    let serial = client.send(call(SERVICE, "/", SERVICE, "Ask"));
    let asked = service.expect_call("Ask");
    stranger.send(Builder::method_return(serial).destination(&name));
    stranger.send(Builder::error("org.example.Error.Wrong", serial, "wrong").destination(&name));
    stranger.all_so_far();
    service.answer(&asked, &Body::new().str("right"));
    assert_eq!(client.expect_reply(serial).returned().text(), "right");
    let came = from_others(&mut client);
    assert!(came.is_empty(), "{came:?}");
}

/// Line 10. A client cannot answer a call of the host that did not go to it, or that did not happen.
fn the_host_is_answered_only_what_it_asked(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    let mut client = RawClient::open(&world.inside());
    let mut stranger = RawClient::open(&world.inside());
    let client_name = client.unique_name().to_owned();
    let outside_name = outside.unique_name().to_owned();
    let serial = outside.send(call(&client_name, "/", SERVICE, "Ask"));
    let asked = client.expect_call("Ask");
    stranger.send(Builder::method_return(serial).destination(&outside_name));
    stranger.send(Builder::error("org.example.Error.Wrong", serial, "").destination(&outside_name));
    client.send(Builder::method_return(serial + 1).destination(&outside_name));
    stranger.all_so_far();
    client.all_so_far();
    client.answer(&asked, &Body::new().str("right"));
    client.answer(&asked, &Body::new().str("again"));
    client.all_so_far();
    assert_eq!(outside.expect_reply(serial).returned().text(), "right");
    let came = from_others(&mut outside);
    assert!(came.is_empty(), "{came:?}");
}

in_topologies!(all: callers_with_the_same_serial_get_their_own_replies,
    replies_come_out_of_order,
    a_reply_goes_back_the_way_of_its_call,
    no_auto_start_starts_nothing_on_either_bus,
    interactive_authorization_passes_through,
    unicast_signals_cross,
    errors_cross);
in_topologies!(with_host: the_routers_own_calls_take_no_serial_of_the_clients,
    a_start_that_takes_its_time_keeps_its_serial);
in_topologies!(multiplexed: the_driver_honours_no_reply_expected,
    a_start_that_expects_no_reply_gets_none,
    a_call_that_expects_no_reply_gets_no_error,
    replies_that_nobody_asked_for_are_dropped);
in_topologies!(local_bus: a_stranger_cannot_answer);
in_topologies!(two_buses: the_host_is_answered_only_what_it_asked);
