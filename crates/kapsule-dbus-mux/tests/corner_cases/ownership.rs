//! Lines 20 to 26: who owns what, and who is told. Line 25 (exported names) has no tests yet: nothing can be
//! exported.

use std::thread;

use dbus_wire::error_names::{NAME_HAS_NO_OWNER, SERVICE_UNKNOWN};
use dbus_wire::{Body, Builder, Flags, MessageType};
use rustix::process::Signal;
use testbed::raw_client::{call, driver_call};
use testbed::{
    Deadline, Line, Lines, RawClient, Received, ServiceFile, TestDir, Topology, World,
    WorldOptions, in_topologies, needs, tools,
};

use crate::exchange::{ALL_OWNERS, INTERFACE, heard, owners_of, reaches, refused};

const NAME: &str = "org.example.Name";
const ALLOW: u32 = 1;
const REPLACE: u32 = 2;
const DO_NOT_QUEUE: u32 = 4;
const OWNER: u32 = 1;
const IN_QUEUE: u32 = 2;
const EXISTS: u32 = 3;
const ALREADY: u32 = 4;

/// What a message is, with what of it has to be right: one word or a few.
fn told(message: &Received) -> String {
    let header = message.header();
    match header.kind {
        MessageType::Signal => {
            let mut line = header.member.unwrap_or_default().to_owned();
            for argument in message.strings() {
                line.push(' ');
                line.push_str(if argument.is_empty() { "-" } else { argument });
            }
            line
        }
        MessageType::MethodReturn => "reply".to_owned(),
        _ => message.to_string(),
    }
}

/// Sends a call to the driver, and gives back all that comes up to its answer and nothing of what comes later.
#[track_caller]
fn told_until_reply(client: &mut RawClient, member: &str, body: &Body) -> Vec<String> {
    client.all_so_far();
    let serial = client.send(driver_call(member, body));
    let mut all = Vec::new();
    loop {
        let message = client.receive();
        all.push(told(&message));
        if message.is_reply_to(serial) {
            return all;
        }
    }
}

/// Puts RequestName's flags and queue to the proof with three parties.
#[track_caller]
fn flags_and_queue(first: &mut RawClient, second: &mut RawClient, third: &mut RawClient) {
    // Who owns it and who waits, as one who asks is told; everybody has to be told the same.
    assert_eq!(first.request_name(NAME, 0), OWNER);
    assert_eq!(first.request_name(NAME, 0), ALREADY);
    assert_eq!(second.request_name(NAME, DO_NOT_QUEUE), EXISTS);
    assert_eq!(second.request_name(NAME, REPLACE | DO_NOT_QUEUE), EXISTS);
    assert_eq!(second.release_name(NAME), 3, "it does not own it");
    assert_eq!(second.request_name(NAME, REPLACE), IN_QUEUE);
    assert_eq!(third.request_name(NAME, 0), IN_QUEUE);
    assert_eq!(third.request_name(NAME, 0), IN_QUEUE, "it waits once");
    assert_eq!(second.release_name(NAME), 1, "who waits may stop");
    assert_eq!(first.release_name(NAME), 1);
    assert_eq!(
        third.request_name(NAME, ALLOW),
        ALREADY,
        "its turn had come"
    );
    assert_eq!(first.request_name(NAME, 0), IN_QUEUE);
    // Who is replaced waits first in the queue, unless it does not want to.
    assert_eq!(second.request_name(NAME, REPLACE | ALLOW), OWNER);
    assert_eq!(second.release_name(NAME), 1);
    assert_eq!(third.request_name(NAME, ALLOW | DO_NOT_QUEUE), ALREADY);
    assert_eq!(second.request_name(NAME, REPLACE), OWNER);
    assert_eq!(
        third.release_name(NAME),
        3,
        "replaced, and it did not want to wait"
    );
    assert_eq!(second.release_name(NAME), 1);
    assert_eq!(first.release_name(NAME), 1, "it had waited since before");
    assert_eq!(first.release_name(NAME), 2, "nobody has it now");
}

/// Line 20. RequestName's flags and queue between clients are those of the specification.
fn flags_and_queue_between_clients(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut clients = [0; 3].map(|_| RawClient::open(&world.inside()));
    let [first, second, third] = &mut clients;
    flags_and_queue(first, second, third);
}

/// Line 20. They are the same between clients and programs that are connected to the container bus directly.
#[test]
fn flags_and_queue_between_clients_and_programs_of_the_container_bus() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let container = world.container.as_ref().expect("a remote container bus");
    let mut clients = [0; 2].map(|_| RawClient::open(&world.inside()));
    let mut natives = [0; 2].map(|_| RawClient::open(container.address()));
    let ([first, second], [native, other]) = (&mut clients, &mut natives);
    flags_and_queue(first, native, second);
    flags_and_queue(native, first, other);
    flags_and_queue(native, other, first);
}

/// Line 20. An owner on the host does not hold up who asks inside: there the name is free.
fn a_name_of_the_host_is_free_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    outside.request_name(NAME, 0);
    outside.all_so_far();
    let mut clients = [0; 3].map(|_| RawClient::open(&world.inside()));
    let [first, second, third] = &mut clients;
    flags_and_queue(first, second, third);
    assert_eq!(
        first.name_owner(NAME).as_deref(),
        Some(outside.unique_name())
    );
    assert_eq!(outside.request_name(NAME, 0), ALREADY);
}

/// Line 20. A queue moves on when its first goes, and the next is told.
fn the_next_in_the_queue_owns_the_name_when_the_owner_goes(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut first = RawClient::open(&world.inside());
    let mut second = RawClient::open(&world.inside());
    let mut watcher = RawClient::open(&world.inside());
    watcher.add_match(&owners_of(NAME));
    first.request_name(NAME, 0);
    assert_eq!(second.request_name(NAME, 0), IN_QUEUE);
    second.all_so_far();
    let (old, new) = (
        first.unique_name().to_owned(),
        second.unique_name().to_owned(),
    );
    drop(first);
    let acquired = second.expect_signal("org.freedesktop.DBus", "NameAcquired");
    assert_eq!(acquired.text(), NAME);
    watcher.expect("the first change", |it| {
        told(it).ends_with(&format!("- {old}"))
    });
    let change = watcher.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(change.strings(), [NAME, &old, &new]);
    reaches(&mut watcher, NAME, &mut second);
}

/// Line 21. NameOwnerChanged, NameAcquired, the reply; NameLost, NameOwnerChanged, the reply; each once.
fn the_signals_of_a_name_come_before_the_reply_and_once(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let mut rival = RawClient::open(&world.inside());
    let (me, it) = (
        client.unique_name().to_owned(),
        rival.unique_name().to_owned(),
    );
    let request = Body::new().str(NAME).u32(ALLOW);
    let release = Body::new().str(NAME);
    // Without a rule only what is sent to the client alone.
    let acquired = format!("NameAcquired {NAME}");
    let lost = format!("NameLost {NAME}");
    assert_eq!(
        told_until_reply(&mut client, "RequestName", &request),
        [&*acquired, "reply"]
    );
    assert_eq!(
        told_until_reply(&mut client, "ReleaseName", &release),
        [&*lost, "reply"]
    );
    client.add_match(&owners_of(NAME));
    rival.add_match(&owners_of(NAME));
    let gained = format!("NameOwnerChanged {NAME} - {me}");
    let gone = format!("NameOwnerChanged {NAME} {me} -");
    for _ in 0..20 {
        assert_eq!(
            told_until_reply(&mut client, "RequestName", &request),
            [&*gained, &acquired, "reply"]
        );
        assert_eq!(heard(&mut rival).last(), Some(&gained));
        assert_eq!(
            told_until_reply(&mut client, "ReleaseName", &release),
            [&*lost, &gone, "reply"]
        );
        assert_eq!(heard(&mut rival), [&*gone]);
    }
    // Who takes the name from another is told in the same order, and the other is told before it.
    client.request_name(NAME, ALLOW);
    client.all_so_far();
    let replace = Body::new().str(NAME).u32(REPLACE);
    let change = format!("NameOwnerChanged {NAME} {me} {it}");
    assert_eq!(
        told_until_reply(&mut rival, "RequestName", &replace),
        [&*change, &acquired, "reply"]
    );
    assert_eq!(heard(&mut client), [&*lost, &change]);
    assert_eq!(
        told_until_reply(&mut rival, "ReleaseName", &release),
        [
            &*lost,
            &format!("NameOwnerChanged {NAME} {it} {me}"),
            "reply"
        ]
    );
    assert_eq!(
        heard(&mut client),
        [&*format!("NameOwnerChanged {NAME} {it} {me}"), &acquired]
    );
}

/// Line 21, line 22. The order is the same where the host owns the name as well, and the host's owner stands in
/// for none.
fn the_order_is_the_same_for_a_name_that_the_host_owns(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    outside.request_name(NAME, 0);
    outside.all_so_far();
    let host = outside.unique_name().to_owned();
    let mut client = RawClient::open(&world.inside());
    let me = client.unique_name().to_owned();
    client.add_match(ALL_OWNERS);
    let request = Body::new().str(NAME).u32(0);
    let release = Body::new().str(NAME);
    for _ in 0..20 {
        assert_eq!(
            told_until_reply(&mut client, "RequestName", &request),
            [
                &*format!("NameOwnerChanged {NAME} {host} {me}"),
                &format!("NameAcquired {NAME}"),
                "reply"
            ]
        );
        let back = format!("NameOwnerChanged {NAME} {me} {host}");
        let lost = format!("NameLost {NAME}");
        assert_eq!(
            told_until_reply(&mut client, "ReleaseName", &release),
            [&*lost, &back, "reply"]
        );
    }
}

/// Line 22. A name that the inside takes from the host changes hands once for who watches, and what the host
/// does with it meanwhile is not seen.
fn what_the_host_does_with_a_hidden_name_is_not_seen(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    let mut rival = RawClient::open(&world.outside());
    let mut client = RawClient::open(&world.inside());
    let mut watcher = RawClient::open(&world.inside());
    let names = [&outside, &rival, &client].map(|it| it.unique_name().to_owned());
    let [host, other, me] = names.each_ref().map(|it| &**it);
    watcher.add_match(&owners_of(NAME));
    watcher.add_match(&format!(
        "type='signal',sender='{NAME}',interface='{INTERFACE}'"
    ));
    watcher.all_so_far();
    let change = |old: &str, new: &str| format!("NameOwnerChanged {NAME} {old} {new}");

    outside.request_name(NAME, ALLOW);
    outside.all_so_far();
    assert_eq!(heard(&mut watcher), [change("-", host)]);
    outside.send(Builder::signal("/", INTERFACE, "OfTheHost"));
    outside.all_so_far();
    assert_eq!(heard(&mut watcher), ["OfTheHost"]);

    client.request_name(NAME, 0);
    assert_eq!(heard(&mut watcher), [change(host, me)]);
    // Hidden: releases, requests, other owners, and signals by that name.
    outside.release_name(NAME);
    outside.all_so_far();
    outside.request_name(NAME, ALLOW);
    rival.request_name(NAME, REPLACE);
    rival.send(Builder::signal("/", INTERFACE, "OfTheHost"));
    rival.all_so_far();
    assert_eq!(heard(&mut watcher), [""; 0]);
    client.send(Builder::signal("/", INTERFACE, "OfTheInside"));
    assert_eq!(watcher.expect_signal(INTERFACE, "OfTheInside").sender(), me);
    assert_eq!(watcher.name_owner(NAME).as_deref(), Some(me));

    client.release_name(NAME);
    assert_eq!(heard(&mut watcher), [change(me, other)]);
    assert_eq!(watcher.name_owner(NAME).as_deref(), Some(other));
    rival.release_name(NAME);
    rival.all_so_far();
    assert_eq!(heard(&mut watcher), [change(other, host)]);

    client.request_name(NAME, 0);
    assert_eq!(heard(&mut watcher), [change(host, me)]);
    outside.release_name(NAME);
    outside.all_so_far();
    assert_eq!(heard(&mut watcher), [""; 0]);
    drop(client);
    let gone = watcher.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(told(&gone), change(me, "-"));
    outside.request_name(NAME, 0);
    outside.all_so_far();
    assert_eq!(heard(&mut watcher), [change("-", host)]);
}

/// Line 22. The same when it is a program of the container bus that takes the name.
#[test]
fn a_program_of_the_container_bus_takes_a_name_of_the_host() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let container = world.container.as_ref().expect("a remote container bus");
    let mut outside = RawClient::open(&world.outside());
    let host = outside.unique_name().to_owned();
    let mut native = RawClient::open(container.address());
    let mut watcher = RawClient::open(&world.inside());
    native.request_name("org.example.Known", 0);
    native.all_so_far();
    let shown = watcher.name_owner("org.example.Known").expect("an owner");
    watcher.add_match(&owners_of(NAME));
    outside.request_name(NAME, 0);
    outside.all_so_far();
    for _ in 0..20 {
        watcher.all_so_far();
        native.request_name(NAME, 0);
        native.all_so_far();
        assert_eq!(
            heard(&mut watcher),
            [format!("NameOwnerChanged {NAME} {host} {shown}")]
        );
        reaches(&mut watcher, NAME, &mut native);
        native.release_name(NAME);
        native.all_so_far();
        assert_eq!(
            heard(&mut watcher),
            [format!("NameOwnerChanged {NAME} {shown} {host}")]
        );
        reaches(&mut watcher, NAME, &mut outside);
    }
}

/// Line 23. Who subscribes and then lists, in one write, knows of every name: also of those that come while it
/// does. A list and the changes after it are the truth.
fn a_list_and_the_changes_after_it_are_the_truth(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut places = vec![world.inside()];
    places.extend(world.host.as_ref().map(|it| it.address().to_owned()));
    places.extend(world.container.as_ref().map(|it| it.address().to_owned()));
    let churn: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(number, place)| {
            let place = place.clone();
            thread::spawn(move || {
                let mut client = RawClient::open(&place);
                for round in 0..150 {
                    let name = format!("org.example.Churn{number}.N{}", round % 7);
                    if client.request_name(&name, 0) == ALREADY {
                        client.release_name(&name);
                    }
                }
                client.all_so_far();
                client
            })
        })
        .collect();
    let mut watchers = Vec::new();
    for _ in 0..12 {
        let mut watcher = RawClient::open(&world.inside());
        let rule =
            Body::new().str("type='signal',member='NameOwnerChanged',arg0namespace='org.example'");
        watcher.send(driver_call("AddMatch", &rule));
        let list = watcher.send(driver_call("ListNames", &Body::new()));
        watchers.push((watcher, list));
    }
    let churners: Vec<RawClient> = churn
        .into_iter()
        .map(|it| it.join().expect("no panic"))
        .collect();
    for (mut watcher, list) in watchers {
        // In the order in which it all came: the changes before the list are part of it.
        watcher.call_driver("GetId", &Body::new());
        let mut known = std::collections::BTreeSet::new();
        let listed = watcher.expect_reply(list).returned();
        // A change before the list that the list has not: it was undone, and that is among the changes.
        for name in listed.reader().strs().expect("strings") {
            if name.starts_with("org.example.Churn") {
                known.insert(name.to_owned());
            }
        }
        for signal in watcher.all_so_far() {
            if signal.is_signal("org.freedesktop.DBus", "NameOwnerChanged") {
                let [name, _, new] = signal.strings()[..] else {
                    panic!("three strings")
                };
                match new {
                    "" => known.remove(name),
                    _ => known.insert(name.to_owned()),
                };
            }
        }
        let truth: std::collections::BTreeSet<String> = watcher
            .list_names()
            .into_iter()
            .filter(|it| it.starts_with("org.example.Churn"))
            .collect();
        assert_eq!(known, truth);
    }
    drop(churners);
}

/// Line 24. A call right after the reply to another client's RequestName reaches the new owner, whoever owned
/// the name before.
fn a_call_right_after_request_name_reaches_the_new_owner(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = (topology != Topology::NoHost && topology != Topology::Plain)
        .then(|| RawClient::open(&world.outside()));
    let mut first = RawClient::open(&world.inside());
    let mut second = RawClient::open(&world.inside());
    let mut caller = RawClient::open(&world.inside());
    for round in 0..30 {
        let name = format!("org.example.Round{round}");
        if let Some(outside) = &mut outside {
            outside.request_name(&name, 0);
            outside.all_so_far();
            if round % 2 == 0 {
                reaches(&mut caller, &name, outside);
            }
        }
        first.request_name(&name, ALLOW);
        reaches(&mut caller, &name, &mut first);
        second.request_name(&name, REPLACE);
        reaches(&mut caller, &name, &mut second);
        second.release_name(&name);
        reaches(&mut caller, &name, &mut first);
        first.release_name(&name);
        match &mut outside {
            Some(outside) => drop(reaches(&mut caller, &name, outside)),
            None => assert_eq!(refused(&mut caller, &name), SERVICE_UNKNOWN),
        }
    }
}

/// Line 24. A program of the container bus takes a name and says so to a client over that bus: the client's call
/// reaches it, whether the client knew the name before or not.
#[test]
fn a_client_that_is_told_over_the_container_bus_reaches_the_new_owner() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let container = world.container.as_ref().expect("a remote container bus");
    let mut outside = RawClient::open(&world.outside());
    let mut native = RawClient::open(container.address());
    let mut client = RawClient::open(&world.inside());
    native.request_name("org.example.Native", 0);
    native.all_so_far();
    let (asked, _) = reaches(&mut client, "org.example.Native", &mut native);
    let client_there = asked.sender().to_owned();
    for round in 0..40 {
        let name = format!("org.example.Round{round}");
        if round % 2 == 0 {
            outside.request_name(&name, 0);
            outside.all_so_far();
        }
        if round % 4 < 2 {
            match round % 2 {
                0 => drop(reaches(&mut client, &name, &mut outside)),
                _ => assert_eq!(refused(&mut client, &name), SERVICE_UNKNOWN),
            }
        }
        // In one write: nothing but the container bus's own order says which is first.
        let body = Body::new().str(&name).u32(0);
        let serial = native.next_serial();
        let mut bytes = driver_call("RequestName", &body).serial(serial).build();
        let told = Body::new().str(&name);
        let serial = native.next_serial();
        bytes.extend(
            Builder::signal("/", INTERFACE, "ItIsMine")
                .destination(&client_there)
                .body(&told)
                .serial(serial)
                .build(),
        );
        native.send_bytes(&bytes);
        let told = client.expect_signal(INTERFACE, "ItIsMine");
        reaches(&mut client, told.text(), &mut native);
    }
}

/// Line 24. It does so also where the multiplexer itself has not heard of it yet: that bus has much to tell it of
/// what happened before, and is slow to.
#[test]
fn a_client_that_is_told_before_the_multiplexer_is_reaches_the_new_owner() {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(Topology::Remote);
    let mut container = world.container.take().expect("a remote container bus");
    let mut outside = RawClient::open(&world.outside());
    outside.request_name(NAME, 0);
    outside.all_so_far();
    let mut native = RawClient::open(container.address());
    native.request_name("org.example.Native", 0);
    native.all_so_far();
    let mut client = RawClient::open(&world.inside());
    let mut other = RawClient::open(&world.inside());
    let (asked, _) = reaches(&mut client, "org.example.Native", &mut native);
    let client_there = asked.sender().to_owned();

    // More than a socket holds, while the multiplexer does not read.
    let mux = world.mux.as_mut().expect("a multiplexer").process();
    mux.signal(Signal::STOP);
    let (busy, flags) = (Body::new().str("org.example.Busy"), Body::new().u32(0));
    let (request, mut bytes) = (busy.clone().append(&flags), Vec::new());
    for _ in 0..2000 {
        for (member, body) in [("RequestName", &request), ("ReleaseName", &busy)] {
            let message = driver_call(member, body).flags(Flags::NO_REPLY_EXPECTED);
            bytes.extend(message.serial(native.next_serial()).build());
        }
    }
    native.send_bytes(&bytes);
    native.request_name(NAME, 0);
    native.send(Builder::signal("/", INTERFACE, "ItIsMine").destination(&client_there));
    native.all_so_far();
    container.process().signal(Signal::STOP);
    mux.signal(Signal::CONT);

    client.expect_signal(INTERFACE, "ItIsMine");
    let serial = client.send(call(NAME, "/", INTERFACE, "WhoIsThere"));
    // The call has been looked at when this is answered.
    other.all_so_far();
    container.process().signal(Signal::CONT);
    let asked = native.expect_call("WhoIsThere");
    native.answer(&asked, &Body::new());
    client.expect_reply(serial).returned();
}

/// Line 24a. A client that comes is seen once, under one name, by whoever watches, however many come at a time;
/// and it goes once.
fn a_client_comes_once_and_goes_once_under_one_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const CLIENTS: usize = 24;
    let world = World::start(topology);
    let mut watcher = RawClient::open(&world.inside());
    watcher.add_match(ALL_OWNERS);
    watcher.all_so_far();
    let comers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let inside = world.inside();
            thread::spawn(move || RawClient::open(&inside))
        })
        .collect();
    let clients: Vec<RawClient> = comers
        .into_iter()
        .map(|it| it.join().expect("no panic"))
        .collect();
    let mut names: Vec<String> = clients
        .iter()
        .map(|it| it.unique_name().to_owned())
        .collect();
    names.sort();
    let mut come = heard(&mut watcher);
    come.sort();
    let expected: Vec<String> = names
        .iter()
        .map(|name| format!("NameOwnerChanged {name} - {name}"))
        .collect();
    assert_eq!(come, expected);
    drop(clients);
    let mut gone: Vec<String> = (0..CLIENTS).map(|_| told(&watcher.receive())).collect();
    gone.sort();
    let expected: Vec<String> = names
        .iter()
        .map(|name| format!("NameOwnerChanged {name} {name} -"))
        .collect();
    assert_eq!(gone, expected);
    // Whatever else there is to tell was told before a newcomer is.
    let _last = RawClient::open(&world.inside());
    assert_eq!(heard(&mut watcher).len(), 1);
}

// ── Activation ──

/// A world whose services say where they were started, on a FIFO, and do nothing else: the test itself takes
/// their names.
struct Starts {
    world: World,
    lines: Lines,
}

impl Starts {
    #[track_caller]
    fn new(topology: Topology, inside: &[&str], outside: &[&str]) -> Starts {
        let dir = TestDir::new();
        Self::new_in(dir, topology, inside, outside)
    }

    #[track_caller]
    fn new_in(dir: TestDir, topology: Topology, inside: &[&str], outside: &[&str]) -> Starts {
        let fifo = dir.join("started");
        let lines = Lines::of_fifo(&fifo).unwrap_or_else(|failure| panic!("{failure}"));
        for place in ["inside", "outside"] {
            let script = format!(
                "echo \"{place} $1 ${{CORNER:-unset}}\" > {}\nexec sleep 1000\n",
                fifo.display()
            );
            dir.write(format!("{place}.sh"), script);
        }
        let file = |place: &str, name: &str| {
            let script = dir.join(format!("{place}.sh"));
            ServiceFile::new(name, format!("/bin/sh {} {name}", script.display()))
        };
        let options = WorldOptions {
            inside_services: inside.iter().map(|name| file("inside", name)).collect(),
            host_services: outside.iter().map(|name| file("outside", name)).collect(),
            ..WorldOptions::default()
        };
        let world = World::start_in(dir, topology, &options);
        Starts { world, lines }
    }

    /// What a service that was started has said.
    #[track_caller]
    fn next(&mut self) -> String {
        match self.lines.next_line(Deadline::usual()) {
            Ok(Line::Text(line)) => line,
            _ => panic!("no service was started"),
        }
    }

    /// The service at that place takes its name.
    #[track_caller]
    fn takes_its_name(&self, started: &str) -> RawClient {
        let words: Vec<&str> = started.split(' ').collect();
        let address = match words[0] {
            "inside" => self.world.inside(),
            _ => self.world.outside(),
        };
        let mut service = RawClient::open(&address);
        assert_eq!(service.request_name(words[1], 0), OWNER);
        service
    }
}

/// Line 26. A name that both buses can start is started inside; one that only the host can start, there.
fn what_both_can_start_is_started_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let both = "org.example.Both";
    let mut starts = Starts::new(topology, &[both], &[both, "org.example.Host"]);
    let mut client = RawClient::open(&starts.world.inside());
    let names = client.list("ListActivatableNames", &Body::new());
    for name in [both, "org.example.Host"] {
        assert_eq!(
            names.iter().filter(|it| *it == name).count(),
            1,
            "{names:?}"
        );
    }
    for (name, place) in [(both, "inside"), ("org.example.Host", "outside")] {
        let serial = client.send(call(name, "/", INTERFACE, "WhoIsThere"));
        let started = starts.next();
        assert_eq!(started, format!("{place} {name} unset"));
        let mut service = starts.takes_its_name(&started);
        let asked = service.expect_call("WhoIsThere");
        assert_eq!(asked.sender(), client.unique_name());
        service.answer(&asked, &Body::new());
        client.expect_reply(serial).returned();
    }
}

/// Line 26. StartServiceByName follows the same order.
fn start_service_by_name_starts_inside_first(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let both = "org.example.Both";
    let mut starts = Starts::new(topology, &[both], &[both, "org.example.Host"]);
    let mut client = RawClient::open(&starts.world.inside());
    for (name, place) in [(both, "inside"), ("org.example.Host", "outside")] {
        let start = Body::new().str(name).u32(0);
        let serial = client.send(driver_call("StartServiceByName", &start));
        let started = starts.next();
        assert_eq!(started, format!("{place} {name} unset"));
        let _service = starts.takes_its_name(&started);
        assert_eq!(client.expect_reply(serial).returned().number(), 1);
        let again = client.call_driver("StartServiceByName", &start);
        assert_eq!(again.number(), 2, "it runs already");
    }
}

/// Line 26. What the host owns already is not started inside, unless it is an application of the inside's.
fn what_the_host_owns_is_not_started_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let both = "org.example.Both";
    let starts = Starts::new(topology, &[both], &[]);
    let mut outside = RawClient::open(&starts.world.outside());
    outside.request_name(both, 0);
    outside.all_so_far();
    let mut client = RawClient::open(&starts.world.inside());
    reaches(&mut client, both, &mut outside);
    let start = Body::new().str(both).u32(0);
    assert_eq!(client.call_driver("StartServiceByName", &start).number(), 2);
}

/// Line 26. NO_AUTO_START starts nothing on either bus; the first that is started afterwards is the one asked for.
fn no_auto_start_starts_nothing_on_either_bus(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let (inside, outside) = ("org.example.In", "org.example.Out");
    let mut starts = Starts::new(topology, &[inside, "org.example.Last"], &[outside]);
    let mut client = RawClient::open(&starts.world.inside());
    for name in [inside, outside] {
        let quiet = call(name, "/", INTERFACE, "WhoIsThere").flags(Flags::NO_AUTO_START);
        let error = client.call(quiet).failed();
        assert!(
            [NAME_HAS_NO_OWNER, SERVICE_UNKNOWN].contains(&&*error),
            "{error}"
        );
    }
    client.send(call("org.example.Last", "/", INTERFACE, "WhoIsThere"));
    assert_eq!(starts.next(), "inside org.example.Last unset");
}

/// Line 26. UpdateActivationEnvironment is for what is started inside, and the host's services never hear of it.
fn the_activation_environment_stays_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let (inside, outside) = ("org.example.In", "org.example.Out");
    let mut starts = Starts::new(topology, &[inside], &[outside]);
    let mut client = RawClient::open(&starts.world.inside());
    let variables = Body::new().array("{ss}", |body| {
        body.dict_entry(|it| it.str("CORNER").str("set"))
    });
    client.call_driver("UpdateActivationEnvironment", &variables);
    client.send(call(inside, "/", INTERFACE, "WhoIsThere"));
    assert_eq!(starts.next(), "inside org.example.In set");
    client.send(call(outside, "/", INTERFACE, "WhoIsThere"));
    assert_eq!(starts.next(), "outside org.example.Out unset");
}

/// Line 26. What is installed later, inside or on the host, is told of (ActivatableServicesChanged), listed and
/// started where it is.
fn services_that_are_installed_later_are_followed(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut starts = Starts::new(topology, &[], &[]);
    let mut client = RawClient::open(&starts.world.inside());
    client.add_match(
        "type='signal',sender='org.freedesktop.DBus',member='ActivatableServicesChanged'",
    );
    let mut places = vec!["inside"];
    if topology != Topology::NoHost {
        places.push("outside");
    }
    for place in places {
        let name = format!("org.example.Later.{place}");
        let data = if place == "inside" {
            "inside-data"
        } else {
            "host-data"
        };
        let script = starts.world.dir.join(format!("{place}.sh"));
        let text = format!(
            "[D-BUS Service]\nName={name}\nExec=/bin/sh {} {name}\n",
            script.display()
        );
        // As a package manager does: whole, or not there.
        let new = starts.world.dir.write(format!("{name}.new"), text);
        let services = starts.world.dir.join(format!("{data}/dbus-1/services"));
        std::fs::rename(new, services.join(format!("{name}.service"))).expect("one file system");
        // Each of the buses may say that something has changed, and one of them first.
        while !client
            .list("ListActivatableNames", &Body::new())
            .contains(&name)
        {
            client.expect_signal("org.freedesktop.DBus", "ActivatableServicesChanged");
        }
        let serial = client.send(call(&name, "/", INTERFACE, "WhoIsThere"));
        let started = starts.next();
        assert_eq!(started, format!("{place} {name} unset"));
        let mut service = starts.takes_its_name(&started);
        let asked = service.expect_call("WhoIsThere");
        service.answer(&asked, &Body::new());
        client.expect_reply(serial).returned();
    }
}

in_topologies!(all: flags_and_queue_between_clients,
    the_next_in_the_queue_owns_the_name_when_the_owner_goes,
    the_signals_of_a_name_come_before_the_reply_and_once,
    a_list_and_the_changes_after_it_are_the_truth,
    a_call_right_after_request_name_reaches_the_new_owner,
    a_client_comes_once_and_goes_once_under_one_name,
    services_that_are_installed_later_are_followed);
in_topologies!(with_host: what_both_can_start_is_started_inside,
    start_service_by_name_starts_inside_first, what_the_host_owns_is_not_started_inside,
    no_auto_start_starts_nothing_on_either_bus);
in_topologies!(two_buses: a_name_of_the_host_is_free_inside,
    the_order_is_the_same_for_a_name_that_the_host_owns,
    what_the_host_does_with_a_hidden_name_is_not_seen,
    the_activation_environment_stays_inside);
