//! Lines 31 to 36: order, slow readers, restarts, large messages. Line 36 (what thousands of idle clients cost) is
//! for a benchmark; that they lose nothing is proved in `hostile`.

use std::collections::BTreeSet;
use std::thread;

use dbus_wire::error_names::{LIMITS_EXCEEDED, NAME_HAS_NO_OWNER, NO_REPLY, SERVICE_UNKNOWN};
use dbus_wire::{Body, Builder, Flags, MessageType};
use testbed::raw_client::{call, driver_call};
use testbed::{
    Arrival, DaemonOptions, DbusDaemon, Deadline, RawClient, Topology, World, in_topologies, needs,
    tools,
};

use crate::exchange::{ALL_OWNERS, INTERFACE, heard, owners_of, reaches, refused};

const MIB: usize = 1024 * 1024;
const DRIVER: &str = "org.freedesktop.DBus";

/// A body of so many bytes.
fn bulk(length: usize) -> Body {
    Body::new().bytes(&vec![b'x'; length])
}

// ── Order ──

/// Line 31. Calls to the driver that are sent in one write are answered in their order, whichever bus knows the
/// answer, and none is forgotten.
fn calls_to_the_driver_are_answered_in_their_order(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut fellow = RawClient::open(&world.inside());
    fellow.request_name("org.example.Inside", 0);
    let _outside = world.host.as_ref().map(|host| {
        let mut outside = RawClient::open(host.address());
        outside.request_name("org.example.Outside", 0);
        outside.all_so_far();
        outside
    });
    let mut client = RawClient::open(&world.inside());
    client.add_match(ALL_OWNERS);
    client.all_so_far();
    let text = |text: &str| Body::new().str(text);
    let calls = [
        ("GetNameOwner", text("org.example.Outside")),
        ("GetId", Body::new()),
        ("ListNames", Body::new()),
        ("GetNameOwner", text("org.example.Inside")),
        ("RequestName", text("org.example.Mine").u32(0)),
        ("NameHasOwner", text("org.example.Outside")),
        ("AddMatch", text("type='signal',interface='org.example.X'")),
        ("GetConnectionUnixProcessID", text("org.example.Outside")),
        ("GetNameOwner", text("org.example.Mine")),
        (
            "RemoveMatch",
            text("type='signal',interface='org.example.X'"),
        ),
        ("ReleaseName", text("org.example.Mine")),
        ("ListActivatableNames", Body::new()),
        ("ListQueuedOwners", text("org.example.Outside")),
        ("GetNameOwner", text("org.example.Nobody")),
        ("GetId", Body::new()),
    ];
    let (mut bytes, mut serials) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        for (member, body) in &calls {
            let serial = client.next_serial();
            bytes.extend(driver_call(member, body).serial(serial).build());
            serials.push(serial);
        }
    }
    client.send_bytes(&bytes);
    let mut answered = Vec::new();
    while answered.len() < serials.len() {
        answered.extend(client.receive().header().reply_serial);
    }
    assert_eq!(answered, serials);
}

/// Line 31. What one sender sends to one receiver arrives in the order in which it was sent, calls and signals of
/// every size, by its unique name and by its well-known name.
#[track_caller]
fn arrives_in_order(sender: &mut RawClient, receiver: &mut RawClient, name: &str) {
    receiver.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    receiver.all_so_far();
    let unique = receiver.unique_name().to_owned();
    for number in 0..300_u32 {
        let body = Body::new().u32(number);
        // One in a while is too large for one read.
        let body = match number % 50 {
            49 => body.bytes(&vec![0; 300_000]),
            _ => body,
        };
        let message = match number % 4 {
            0 => call(&unique, "/", INTERFACE, "Next").flags(Flags::NO_REPLY_EXPECTED),
            1 => Builder::signal("/", INTERFACE, "Next").destination(&unique),
            2 => call(name, "/", INTERFACE, "Next").flags(Flags::NO_REPLY_EXPECTED),
            _ => Builder::signal("/", INTERFACE, "Next"),
        };
        sender.send(message.body(&body));
    }
    for number in 0..300 {
        let next = receiver.expect("the next", |it| it.header().member == Some("Next"));
        assert_eq!(next.number(), number);
    }
}

/// Line 31. Inside.
fn a_senders_messages_arrive_in_order_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut sender = RawClient::open(&world.inside());
    let mut receiver = RawClient::open(&world.inside());
    receiver.request_name("org.example.Inside", 0);
    arrives_in_order(&mut sender, &mut receiver, "org.example.Inside");
}

/// Line 31. And on the way to the host.
fn a_senders_messages_arrive_in_order_on_the_host(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut sender = RawClient::open(&world.inside());
    let mut receiver = RawClient::open(&world.outside());
    receiver.request_name("org.example.Outside", 0);
    receiver.all_so_far();
    arrives_in_order(&mut sender, &mut receiver, "org.example.Outside");
}

/// Line 31. An answer that the multiplexer makes itself comes after what the host had sent before.
fn an_answer_of_our_own_comes_after_what_the_host_sent_before(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    let mut client = RawClient::open(&world.inside());
    client.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    client.all_so_far();
    for _ in 0..50 {
        outside.send(Builder::signal("/", INTERFACE, "Happened"));
        outside.all_so_far();
        assert_eq!(heard(&mut client), ["Happened"]);
    }
}

/// Line 31. Nor does it overtake what the container bus had sent before, also where that waits until the
/// multiplexer knows as much itself.
#[test]
fn an_answer_of_our_own_comes_after_what_the_container_bus_sent_before() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let container = world.container.as_ref().expect("a remote container bus");
    let mut native = RawClient::open(container.address());
    let mut client = RawClient::open(&world.inside());
    client.request_name(INSIDE, 1);
    client.all_so_far();
    for _ in 0..50 {
        assert_eq!(native.request_name(INSIDE, 2), 1);
        native.all_so_far();
        assert_eq!(client.signals_so_far(), [format!("NameLost {INSIDE}")]);
        assert_eq!(native.release_name(INSIDE), 1);
        native.all_so_far();
        assert_eq!(client.signals_so_far(), [format!("NameAcquired {INSIDE}")]);
    }
}

// ── Slow readers ──

/// Line 32. A client that does not read its 64 MiB of messages stalls nobody else, and gets them all when it does.
fn a_client_that_does_not_read_stalls_nobody(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut slow = RawClient::open(&world.inside());
    slow.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    slow.all_so_far();
    let mut flooder = RawClient::open(&world.inside());
    let mut caller = RawClient::open(&world.inside());
    let mut callee = RawClient::open(&world.inside());
    let (slow_name, callee_name) = (
        slow.unique_name().to_owned(),
        callee.unique_name().to_owned(),
    );
    let body = Body::new().u32(0).bytes(&vec![b'x'; 64 * 1024]);
    for round in 0..1024 {
        match round % 2 {
            0 => flooder.send(
                call(&slow_name, "/", INTERFACE, "Flood")
                    .flags(Flags::NO_REPLY_EXPECTED)
                    .body(&body),
            ),
            _ => flooder.send(Builder::signal("/", INTERFACE, "Flood").body(&body)),
        };
        if round % 64 == 63 {
            reaches(&mut caller, &callee_name, &mut callee);
            reaches(&mut flooder, &callee_name, &mut callee);
        }
    }
    for _ in 0..1024 {
        slow.expect("what it was sent", |it| it.header().member == Some("Flood"));
    }
}

/// Line 32. On the local bus its queue has an end: a call past it is answered with LimitsExceeded, a signal past
/// it disconnects who does not read, and those whose calls it had get NoReply.
fn past_its_bound_a_slow_reader_costs_itself_alone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut slow = RawClient::open(&world.inside());
    slow.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    let slow_name = slow.unique_name().to_owned();
    let mut caller = RawClient::open(&world.inside());
    let mut other = RawClient::open(&world.inside());
    let body = bulk(32 * MIB);
    let mut calls = Vec::new();
    // 256 MiB may wait for one receiver.
    let refused = loop {
        let message = call(&slow_name, "/", INTERFACE, "Flood").body(&body);
        calls.push(caller.send(message));
        assert!(
            calls.len() < 12,
            "nothing bounds what waits for a client that does not read"
        );
        let early = caller.all_so_far();
        let answer = early
            .into_iter()
            .find(|it| it.is_reply_to(*calls.last().expect("one")));
        if let Some(answer) = answer {
            break answer.failed();
        }
    };
    assert_eq!(refused, LIMITS_EXCEEDED);
    calls.pop();
    assert!(calls.len() >= 7, "{} calls of 32 MiB had room", calls.len());
    // A small one still has room, and so have others' messages.
    let small = other.send(call(&slow_name, "/", INTERFACE, "Small"));
    assert!(other.all_so_far().iter().all(|it| !it.is_reply_to(small)));

    other.send(Builder::signal("/", INTERFACE, "Flood").body(&body));
    for serial in calls {
        assert_eq!(caller.expect_reply(serial).failed(), NO_REPLY);
    }
    assert_eq!(other.expect_reply(small).failed(), NO_REPLY);
    slow.expect_closed();
    let name = other.unique_name().to_owned();
    reaches(&mut caller, &name, &mut other);
}

/// Line 32. Two clients that both send 64 MiB of calls before they read: all are answered.
fn two_that_send_before_they_read_are_both_answered(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const CALLS: usize = 1024;
    let world = World::start(topology);
    let mut clients = [0; 2].map(|_| RawClient::open(&world.inside()));
    for client in &mut clients {
        client.all_so_far();
    }
    let names = [&clients[0], &clients[1]].map(|it| it.unique_name().to_owned());
    let both_sent = std::sync::Barrier::new(2);
    thread::scope(|scope| {
        for (mut client, other) in clients.into_iter().zip(names.iter().rev()) {
            let both_sent = &both_sent;
            scope.spawn(move || {
                let body = bulk(64 * 1024);
                for _ in 0..CALLS {
                    client.send(call(other, "/", INTERFACE, "Big").body(&body));
                }
                both_sent.wait();
                let (mut answered, mut answers) = (0, 0);
                while (answered, answers) != (CALLS, CALLS) {
                    let message = client.receive();
                    if message.is_call("Big") {
                        client.answer(&message, &Body::new());
                        answered += 1;
                    } else {
                        message.returned();
                        answers += 1;
                    }
                }
                client
            });
        }
    });
}

/// Line 32. Half a 16 MiB message to a client does not delay another's call to it.
fn half_a_message_delays_nobodys_call(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut receiver = RawClient::open(&world.inside());
    let mut slow = RawClient::open(&world.inside());
    let mut quick = RawClient::open(&world.inside());
    let name = receiver.unique_name().to_owned();
    let body = bulk(16 * MIB);
    let serial = slow.next_serial();
    let bytes = call(&name, "/", INTERFACE, "Big")
        .body(&body)
        .serial(serial)
        .build();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    slow.send_bytes(first);
    for _ in 0..3 {
        reaches(&mut quick, &name, &mut receiver);
    }
    slow.send_bytes(rest);
    let big = receiver.expect_call("Big");
    receiver.answer(&big, &Body::new());
    slow.expect_reply(serial).returned();
}

/// Line 32. The same for a service on the host, and half a message of one that goes away harms nobody.
fn half_a_message_to_the_host_delays_nobodys_call(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut receiver = RawClient::open(&world.outside());
    let mut slow = RawClient::open(&world.inside());
    let mut quick = RawClient::open(&world.inside());
    let name = receiver.unique_name().to_owned();
    let body = bulk(16 * MIB);
    let bytes = call(&name, "/", INTERFACE, "Big")
        .body(&body)
        .serial(9)
        .build();
    slow.send_bytes(&bytes[..bytes.len() / 2]);
    reaches(&mut quick, &name, &mut receiver);
    drop(slow);
    reaches(&mut quick, &name, &mut receiver);
    assert!(receiver.all_so_far().iter().all(|it| !it.is_call("Big")));
}

// ── Who goes ──

/// Line 33. A client that goes takes along what it owned, on every bus, and who called it gets NoReply.
fn a_client_that_goes_is_gone(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut watcher = RawClient::open(&world.inside());
    watcher.add_match(ALL_OWNERS);
    let mut outside = world
        .host
        .as_ref()
        .map(|host| RawClient::open(host.address()));
    let mut native = world
        .container
        .as_ref()
        .map(|bus| RawClient::open(bus.address()));
    for _ in 0..5 {
        let mut client = RawClient::open(&world.inside());
        client.request_name("org.example.Client", 0);
        let name = client.unique_name().to_owned();
        if let Some(outside) = &mut outside {
            outside.add_match(&owners_of(&name));
        }
        if let Some(native) = &mut native {
            native.add_match(&owners_of("org.example.Client"));
        }
        let waits = watcher.send(call("org.example.Client", "/", INTERFACE, "WhoIsThere"));
        let also = watcher.send(call(&name, "/", INTERFACE, "WhoIsThere"));
        client.expect_call("WhoIsThere");
        client.expect_call("WhoIsThere");
        let far = outside
            .as_mut()
            .map(|outside| outside.send(call(&name, "/", INTERFACE, "FromFar")));
        if far.is_some() {
            client.expect_call("FromFar");
        }
        drop(client);
        assert_eq!(watcher.expect_reply(waits).failed(), NO_REPLY);
        assert_eq!(watcher.expect_reply(also).failed(), NO_REPLY);
        let gone = |it: &testbed::Received, name: &str| {
            it.is_signal(DRIVER, "NameOwnerChanged")
                && it.strings()[0] == name
                && it.strings()[2].is_empty()
        };
        watcher.expect("that its name goes", |it| gone(it, "org.example.Client"));
        watcher.expect("that it goes", |it| gone(it, &name));
        if let (Some(outside), Some(far)) = (&mut outside, far) {
            assert_eq!(outside.expect_reply(far).failed(), NO_REPLY);
            outside.expect("that it goes", |it| gone(it, &name));
        }
        if let Some(native) = &mut native {
            native.expect("that its name goes", |it| gone(it, "org.example.Client"));
        }
        for asked in ["org.example.Client", &name] {
            assert_eq!(watcher.name_owner(asked), None);
            assert_eq!(refused(&mut watcher, asked), SERVICE_UNKNOWN);
        }
    }
}

// ── Restarts ──

/// Starts a bus again at the address that it had.
#[track_caller]
fn start_again(world: &World, name: &str) -> DbusDaemon {
    let data = match name {
        "host" => "host-data",
        _ => "inside-data",
    };
    let options = DaemonOptions {
        name: name.to_owned(),
        service_dirs: vec![world.dir.join(format!("{data}/dbus-1/services"))],
        ..DaemonOptions::default()
    };
    DbusDaemon::start(&world.dir, &options).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Waits for the change of a name's owner, from `old` to `new`.
#[track_caller]
fn expect_change(client: &mut RawClient, name: &str, old: &str, new: &str) {
    client.expect(&format!("that {name} goes from {old:?} to {new:?}"), |it| {
        it.is_signal(DRIVER, "NameOwnerChanged") && it.strings() == [name, old, new]
    });
}

const INSIDE: &str = "org.example.Inside";
const NATIVE: &str = "org.example.Native";

/// Line 34. The container bus goes: calls to it get NoReply, its names leave the view with NameOwnerChanged,
/// clients stay and have the host. It comes back: their names and match rules are restored, and what was a
/// program of the old bus's is no program of the new one's.
#[test]
fn a_container_bus_that_restarts_keeps_its_clients() {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(Topology::Remote);
    let container = world.container.take().expect("a remote container bus");
    let mut native = RawClient::open(container.address());
    native.request_name(NATIVE, 0);
    let mut owner = RawClient::open(&world.inside());
    owner.request_name(INSIDE, 0);
    owner.all_so_far();
    let owner_name = owner.unique_name().to_owned();
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.example.Outside", 0);
    let mut client = RawClient::open(&world.inside());
    let client_name = client.unique_name().to_owned();
    client.add_match(ALL_OWNERS);
    client.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    let shown = client.name_owner(NATIVE).expect("an owner");
    let waits = client.send(call(NATIVE, "/", INTERFACE, "WhoIsThere"));
    let also = client.send(call(INSIDE, "/", INTERFACE, "WhoIsThere"));
    native.expect_call("WhoIsThere");
    owner.expect_call("WhoIsThere");

    drop(container);
    assert_eq!(client.expect_reply(waits).failed(), NO_REPLY);
    assert_eq!(client.expect_reply(also).failed(), NO_REPLY);
    expect_change(&mut client, NATIVE, &shown, "");
    expect_change(&mut client, &shown, &shown, "");
    expect_change(&mut client, INSIDE, &owner_name, "");
    assert_eq!(owner.expect_signal(DRIVER, "NameLost").text(), INSIDE);
    assert_eq!(client.name_owner(NATIVE), None);
    assert_eq!(client.name_owner(&shown), None);
    assert_eq!(
        client.name_owner(&client_name).as_deref(),
        Some(&*client_name)
    );
    assert_eq!(refused(&mut client, NATIVE), SERVICE_UNKNOWN);
    reaches(&mut client, "org.example.Outside", &mut outside);
    assert!(client.list_names().contains(&owner_name));

    let container = start_again(&world, "container");
    assert_eq!(owner.expect_signal(DRIVER, "NameAcquired").text(), INSIDE);
    expect_change(&mut client, INSIDE, "", &owner_name);
    reaches(&mut client, INSIDE, &mut owner);
    reaches(&mut client, &owner_name, &mut owner);
    let mut native = RawClient::open(container.address());
    native.request_name(NATIVE, 0);
    let change = client.expect("the new owner", |it| {
        it.is_signal(DRIVER, "NameOwnerChanged") && it.strings()[0] == NATIVE
    });
    let again = change.strings()[2].to_owned();
    assert_eq!(change.strings()[1], "");
    assert_ne!(again, shown, "an old name never means a new program");
    reaches(&mut client, NATIVE, &mut native);
    reaches(&mut client, &again, &mut native);
    let error = refused(&mut client, &shown);
    assert!(
        [SERVICE_UNKNOWN, NAME_HAS_NO_OWNER].contains(&&*error),
        "{error}"
    );
    native.send(Builder::signal("/", INTERFACE, "Happened"));
    assert_eq!(client.expect_signal(INTERFACE, "Happened").sender(), again);
    // Each rule is there once, as before.
    native.send(Builder::signal("/", INTERFACE, "HappenedAgain"));
    client.expect_signal(INTERFACE, "HappenedAgain");
    client.remove_match(&format!("type='signal',interface='{INTERFACE}'"));
    native.send(Builder::signal("/", INTERFACE, "NotForYou"));
    native.all_so_far();
    let (asked, _) = reaches(&mut client, NATIVE, &mut native);
    native.send(Builder::signal("/", INTERFACE, "ForYou").destination(asked.sender()));
    client.expect_signal(INTERFACE, "ForYou");
    assert!(
        client
            .all_so_far()
            .iter()
            .all(|it| it.header().member != Some("NotForYou"))
    );
}

/// Line 34. It restarts again and again.
#[test]
fn a_container_bus_may_restart_more_than_once() {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(Topology::Remote);
    let mut owner = RawClient::open(&world.inside());
    owner.request_name(INSIDE, 0);
    let mut client = RawClient::open(&world.inside());
    client.add_match(&owners_of(INSIDE));
    let name = owner.unique_name().to_owned();
    for _ in 0..4 {
        drop(world.container.take());
        expect_change(&mut client, INSIDE, &name, "");
        world.container = Some(start_again(&world, "container"));
        expect_change(&mut client, INSIDE, "", &name);
        reaches(&mut client, INSIDE, &mut owner);
    }
}

/// Line 34. When the container bus is back, everybody who watches is told of every name that is back, in whatever
/// order the clients are restored; also of a program's that was there before they were.
#[test]
fn whoever_watches_is_told_of_every_name_that_is_back() {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(Topology::Remote);
    let mut clients: Vec<RawClient> = (0..16).map(|_| RawClient::open(&world.inside())).collect();
    let names: Vec<String> = (0..16)
        .map(|number| format!("{INSIDE}.N{number}"))
        .collect();
    for (client, name) in clients.iter_mut().zip(&names) {
        client.add_match(
            "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0namespace='org.example'",
        );
        client.request_name(name, 0);
    }
    for client in &mut clients {
        client.all_so_far();
    }
    let uniques: Vec<String> = clients
        .iter()
        .map(|it| it.unique_name().to_owned())
        .collect();
    drop(world.container.take());
    for client in &mut clients {
        for (name, unique) in names.iter().zip(&uniques) {
            expect_change(client, name, unique, "");
        }
    }
    // It appears at its address when a program has its name there already.
    let container = start_again(&world, "container-again");
    let mut native = RawClient::open(container.address());
    native.request_name(NATIVE, 0);
    std::fs::rename(container.socket(), world.dir.join("container/bus")).expect("one file system");
    for (number, client) in clients.iter_mut().enumerate() {
        for (name, unique) in names.iter().zip(&uniques) {
            let what = format!("client {number}: that {name} is {unique}'s again");
            client.expect(&what, |it| {
                it.is_signal(DRIVER, "NameOwnerChanged") && it.strings() == [&**name, "", &**unique]
            });
        }
        client.expect("the program's name", |it| {
            it.is_signal(DRIVER, "NameOwnerChanged") && it.strings()[..2] == [NATIVE, ""]
        });
        assert!(
            client
                .all_so_far()
                .iter()
                .all(|it| !it.is_signal(DRIVER, "NameOwnerChanged")),
            "each is told once"
        );
    }
}

/// Line 34. What is restored is what was there: an owner owns again, although one who waited is restored before
/// it, and one who was refused, or asked while the bus was away, does not own anything.
#[test]
fn a_name_is_restored_to_its_owner() {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(Topology::Remote);
    let mut refused = RawClient::open(&world.inside());
    let mut waiting = RawClient::open(&world.inside());
    let mut owner = RawClient::open(&world.inside());
    let mut watcher = RawClient::open(&world.inside());
    watcher.add_match(ALL_OWNERS);
    owner.request_name(INSIDE, 0);
    owner.request_name("org.example.Last", 0);
    assert_eq!(waiting.request_name(INSIDE, 0), 2);
    assert_eq!(refused.request_name(INSIDE, 4), 3);
    assert_eq!(refused.request_name("org.example.Last", 4), 3);
    let name = owner.unique_name().to_owned();
    drop(world.container.take());
    expect_change(&mut watcher, INSIDE, &name, "");
    refused.call_driver_error("RequestName", &Body::new().str("org.example.New").u32(0));

    world.container = Some(start_again(&world, "container"));
    expect_change(&mut watcher, "org.example.Last", "", &name);
    // A newcomer's turn, on the same bus: what was restored before is known to it.
    for client in [&mut refused, &mut waiting, &mut owner] {
        while client.name_owner("org.example.Last").is_none() {
            watcher.all_so_far();
        }
    }
    let owners = |watcher: &mut RawClient, name: &str| {
        let answer = watcher.call(driver_call("ListQueuedOwners", &Body::new().str(name)));
        match answer.header().kind {
            MessageType::Error => Vec::new(),
            _ => {
                let strings = answer.reader().strs().expect("strings");
                strings.into_iter().map(str::to_owned).collect()
            }
        }
    };
    let deadline = Deadline::usual();
    while owners(&mut watcher, INSIDE).len() < 2 && !deadline.left().is_zero() {}
    assert_eq!(
        owners(&mut watcher, INSIDE),
        [&*name, waiting.unique_name()]
    );
    assert_eq!(owners(&mut watcher, "org.example.Last"), [&*name]);
    assert_eq!(owners(&mut watcher, "org.example.New"), [""; 0]);
}

/// Line 34. A client that comes while the container bus is away has the host, and the container when it is back.
#[test]
fn a_client_that_comes_while_the_container_bus_is_away_is_served() {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(Topology::Remote);
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.example.Outside", 0);
    let mut early = RawClient::open(&world.inside());
    early.request_name(INSIDE, 0);
    early.all_so_far();
    drop(world.container.take());
    early.expect_signal(DRIVER, "NameLost");
    let mut client = RawClient::open(&world.inside());
    client.add_match(&owners_of(INSIDE));
    reaches(&mut client, "org.example.Outside", &mut outside);
    world.container = Some(start_again(&world, "container"));
    expect_change(&mut client, INSIDE, "", early.unique_name());
    reaches(&mut client, INSIDE, &mut early);
}

/// Line 34. The host bus goes: what is outstanding gets NoReply, and then the clients end, as with the loss of a
/// session bus. Who connects meanwhile waits for it to come back.
fn a_host_bus_that_restarts_ends_its_clients_and_serves_new_ones(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(topology);
    for round in 0..2 {
        let mut outside = RawClient::open(&world.outside());
        outside.request_name("org.example.Outside", 0);
        let mut client = RawClient::open(&world.inside());
        let mut fellow = RawClient::open(&world.inside());
        fellow.request_name(INSIDE, 0);
        let waits = client.send(call("org.example.Outside", "/", INTERFACE, "WhoIsThere"));
        outside.expect_call("WhoIsThere");
        let also = client.send(call(INSIDE, "/", INTERFACE, "WhoIsThere"));
        fellow.expect_call("WhoIsThere");

        drop(world.host.take());
        let last = client.expect_closed();
        for serial in [waits, also] {
            let answer = last.iter().find(|it| it.is_reply_to(serial));
            assert_eq!(
                answer.and_then(|it| it.error_name()),
                Some(NO_REPLY),
                "{last:?}"
            );
        }
        fellow.expect_closed();
        outside.expect_closed();

        let inside = world.inside();
        let comers: Vec<_> = (0..3)
            .map(|_| {
                let inside = inside.clone();
                thread::spawn(move || RawClient::open(&inside))
            })
            .collect();
        world.host = Some(start_again(&world, "host"));
        let mut outside = RawClient::open(&world.outside());
        outside.request_name("org.example.Outside", 0);
        outside.all_so_far();
        for comer in comers {
            let mut client = comer.join().expect("it was served");
            reaches(&mut client, "org.example.Outside", &mut outside);
            assert_eq!(client.name_owner(INSIDE), None, "round {round}");
            let mut inside: BTreeSet<String> = client.list_names().into_iter().collect();
            assert!(inside.remove(client.unique_name()));
        }
    }
}

// ── Large and many ──

/// What the process has had in memory at most, in KiB.
fn peak_memory(world: &mut World) -> usize {
    let mux = world.mux.as_mut().expect("a multiplexer").process().id();
    let status = std::fs::read_to_string(format!("/proc/{mux}/status")).expect("it runs");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .expect("the kernel tells")
}

/// Line 35. The largest message there may be goes to the host and comes back, and the multiplexer's memory stays
/// small: it streams through.
fn the_largest_message_passes_in_little_memory(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(topology);
    let mut service = RawClient::open(&world.outside());
    let mut client = RawClient::open(&world.inside());
    let name = service.unique_name().to_owned();
    reaches(&mut client, &name, &mut service);
    let before = peak_memory(&mut world);
    // An array has at most 64 MiB, a message 128.
    let half = vec![b'x'; 64 * MIB - 1024];
    let body = Body::new().bytes(&half).bytes(&half);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let serial = client.send(call(&name, "/", INTERFACE, "Largest").body(&body));
            client.expect_reply(serial).returned()
        });
        let asked = service.expect_call("Largest");
        assert_eq!(asked.message.body().len(), 128 * MIB - 2048 + 8);
        assert_eq!(asked.reader().bytes().map(|it| it == half), Ok(true));
        service.answer(&asked, &body);
        let answer = sender.join().expect("it came");
        let mut reader = answer.reader();
        assert_eq!(reader.bytes().map(|it| it == half), Ok(true));
        assert_eq!(reader.bytes().map(|it| it == half), Ok(true));
    });
    let grown = peak_memory(&mut world) - before;
    assert!(grown < 16 * 1024, "it grew by {grown} KiB");
}

/// Line 35. Inside, the largest message arrives whole.
fn the_largest_message_passes_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut service = RawClient::open(&world.inside());
    let mut client = RawClient::open(&world.inside());
    let name = service.unique_name().to_owned();
    let half = vec![b'x'; 64 * MIB - 1024];
    let body = Body::new().bytes(&half).bytes(&half);
    thread::scope(|scope| {
        scope.spawn(|| client.send(call(&name, "/", INTERFACE, "Largest").body(&body)));
        let asked = service.expect_call("Largest");
        assert_eq!(asked.reader().bytes().map(|it| it == half), Ok(true));
    });
}

/// Line 35. On the local bus, what waits is charged to its sender: who has filled others' queues is refused at
/// a receiver that has room, and others are not.
fn what_waits_is_charged_to_its_sender(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut receivers = [0; 2].map(|_| RawClient::open(&world.inside()));
    let names = [&receivers[0], &receivers[1]].map(|it| it.unique_name().to_owned());
    let mut greedy = RawClient::open(&world.inside());
    let mut modest = RawClient::open(&world.inside());
    let body = bulk(32 * MIB);
    // Each receiver takes 256 MiB, a sender may have 384 MiB with all of them.
    let sent: Vec<usize> = names
        .iter()
        .map(|name| {
            (0..8)
                .take_while(|_| {
                    let serial = greedy.send(call(name, "/", INTERFACE, "Flood").body(&body));
                    let answers = greedy.all_so_far();
                    let refusal = answers.into_iter().find(|it| it.is_reply_to(serial));
                    refusal.is_none_or(|it| {
                        assert_eq!(it.failed(), LIMITS_EXCEEDED);
                        false
                    })
                })
                .count()
        })
        .collect();
    assert!(sent[0] >= 7 && (3..=5).contains(&sent[1]), "{sent:?}");
    let serial = modest.send(call(&names[1], "/", INTERFACE, "Modest").body(&body));
    assert!(modest.all_so_far().iter().all(|it| !it.is_reply_to(serial)));
    // What was read is charged no longer.
    for _ in 0..sent[0] {
        receivers[0].expect_call("Flood");
    }
    let serial = greedy.send(call(&names[1], "/", INTERFACE, "Flood").body(&body));
    assert!(greedy.all_so_far().iter().all(|it| !it.is_reply_to(serial)));
    for _ in 0..=sent[1] {
        receivers[1].expect_call("Flood");
    }
    receivers[1].expect_call("Modest");
}

/// Line 35. Twenty thousand calls in one write: none is lost, and the answers come in the order of the calls.
#[track_caller]
fn many_calls_are_all_answered(client: &mut RawClient, mut service: RawClient) {
    const CALLS: usize = 20_000;
    let name = service.unique_name().to_owned();
    client.all_so_far();
    service.all_so_far();
    let mut bytes = Vec::new();
    let mut serials = Vec::new();
    for _ in 0..CALLS {
        let serial = client.next_serial();
        bytes.extend(call(&name, "/", INTERFACE, "Small").serial(serial).build());
        serials.push(serial);
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..CALLS {
                let asked = service.receive();
                service.answer(&asked, &Body::new());
            }
            // Its answers are on their way when the bus has answered it.
            service.all_so_far();
        });
        client.send_bytes(&bytes);
        for serial in serials {
            match client.next_until(Deadline::usual()) {
                Arrival::Message(answer) => {
                    let answer = answer.returned();
                    assert_eq!(answer.header().reply_serial, Some(serial));
                }
                other => panic!("the answer to call {serial} was awaited: {other:?}"),
            }
        }
    });
}

/// Line 35. Inside.
fn many_small_calls_are_all_answered_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let service = RawClient::open(&world.inside());
    many_calls_are_all_answered(&mut client, service);
}

/// Line 35. And on the host.
fn many_small_calls_are_all_answered_by_the_host(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let service = RawClient::open(&world.outside());
    many_calls_are_all_answered(&mut client, service);
}

in_topologies!(all: calls_to_the_driver_are_answered_in_their_order,
    a_senders_messages_arrive_in_order_inside, a_client_that_does_not_read_stalls_nobody,
    two_that_send_before_they_read_are_both_answered, half_a_message_delays_nobodys_call,
    a_client_that_goes_is_gone, the_largest_message_passes_inside,
    many_small_calls_are_all_answered_inside);
in_topologies!(with_host: a_senders_messages_arrive_in_order_on_the_host,
    an_answer_of_our_own_comes_after_what_the_host_sent_before,
    half_a_message_to_the_host_delays_nobodys_call, many_small_calls_are_all_answered_by_the_host);
in_topologies!(two_buses: a_host_bus_that_restarts_ends_its_clients_and_serves_new_ones,
    the_largest_message_passes_in_little_memory);
testbed::in_topologies!(@ past_its_bound_a_slow_reader_costs_itself_alone: local Local, no_host NoHost);
testbed::in_topologies!(@ what_waits_is_charged_to_its_sender: local Local, no_host NoHost);
