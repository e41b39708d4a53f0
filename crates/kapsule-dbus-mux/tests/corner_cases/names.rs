//! Lines 11 to 14: names.

use dbus_wire::error_names::{ACCESS_DENIED, NAME_HAS_NO_OWNER, SERVICE_UNKNOWN};
use dbus_wire::{Body, Builder};
use testbed::raw_client::call;
use testbed::{
    RawClient, ServiceFile, TestDir, Topology, World, WorldOptions, in_topologies, needs, tools,
};

use crate::exchange::{ALL_OWNERS, INTERFACE, heard, owners_of, reaches, refused};

/// The number after the dot of a unique name.
fn minor(name: &str) -> u32 {
    name.rsplit_once('.')
        .and_then(|(_, minor)| minor.parse().ok())
        .unwrap_or_else(|| panic!("{name} is not of the form :DIGITS.DIGITS"))
}

/// Two clients, one of each bus, to which their buses gave the same unique name. Those that were opened on the
/// way are kept: who goes now would make noise later.
struct Namesakes {
    native: RawClient,
    outside: RawClient,
    _others: Vec<RawClient>,
}

impl Namesakes {
    #[track_caller]
    fn open(world: &World) -> Namesakes {
        let container = world.container.as_ref().expect("a remote container bus");
        let mut native = RawClient::open(container.address());
        let mut outside = RawClient::open(&world.outside());
        let mut others = Vec::new();
        while native.unique_name() != outside.unique_name() {
            if minor(native.unique_name()) < minor(outside.unique_name()) {
                others.push(std::mem::replace(
                    &mut native,
                    RawClient::open(container.address()),
                ));
            } else {
                others.push(std::mem::replace(
                    &mut outside,
                    RawClient::open(&world.outside()),
                ));
            }
        }
        Namesakes {
            native,
            outside,
            _others: others,
        }
    }
}

/// Line 11. Two programs whose buses call them the same have two names inside, and each is reached by its own.
#[test]
fn programs_of_both_buses_with_one_number_are_told_apart() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let Namesakes {
        mut native,
        mut outside,
        _others,
    } = Namesakes::open(&world);
    let mut client = RawClient::open(&world.inside());
    native.request_name("org.example.Native", 0);
    outside.request_name("org.example.Outside", 0);

    let shown = client.name_owner("org.example.Native").expect("an owner");
    assert_ne!(shown, native.unique_name());
    assert_eq!(
        client.name_owner("org.example.Outside").as_deref(),
        Some(outside.unique_name())
    );
    let (_, answer) = reaches(&mut client, &shown, &mut native);
    assert_eq!(answer.sender(), shown);
    let of_host = outside.unique_name().to_owned();
    let (_, answer) = reaches(&mut client, &of_host, &mut outside);
    assert_eq!(answer.sender(), of_host);

    let names = client.list_names();
    assert!(names.contains(&shown) && names.contains(&of_host));
}

/// Line 11. The name that a client has on the container bus only is nobody's name inside, and a program of the
/// host that has the same one is what is reached by it.
#[test]
fn a_clients_name_on_the_container_bus_leads_no_other_client_to_it() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let container = world.container.as_ref().expect("a remote container bus");
    // The two buses count on their own.
    let mut native = RawClient::open(container.address());
    let _more: Vec<RawClient> = (0..4)
        .map(|_| RawClient::open(container.address()))
        .collect();
    let mut client = RawClient::open(&world.inside());
    let mut other = RawClient::open(&world.inside());
    native.request_name("org.example.Native", 0);
    let (asked, _) = reaches(&mut client, "org.example.Native", &mut native);
    let raw = asked.sender().to_owned();
    assert_ne!(raw, client.unique_name());

    let mut programs = vec![RawClient::open(&world.outside())];
    while programs.last().expect("one").unique_name() != raw {
        let last = programs.last().expect("one").unique_name();
        assert!(
            minor(last) < minor(&raw),
            "no program of the host can be called {raw} any more"
        );
        programs.push(RawClient::open(&world.outside()));
    }
    let namesake = programs.last_mut().expect("one");
    let (asked, answer) = reaches(&mut other, &raw, namesake);
    assert_eq!(asked.sender(), other.unique_name());
    assert_eq!(answer.sender(), raw);
    assert!(
        client
            .all_so_far()
            .iter()
            .all(|it| !it.is_call("WhoIsThere"))
    );
}

/// Line 11. What a client's calls and signals carry for its sender is one name to its fellows and to the host,
/// and no two clients share it.
fn no_two_parties_have_one_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut clients: Vec<RawClient> = (0..8).map(|_| RawClient::open(&world.inside())).collect();
    let outside: Vec<RawClient> = (0..8).map(|_| RawClient::open(&world.outside())).collect();
    let mut names: Vec<String> = clients
        .iter()
        .chain(&outside)
        .map(|it| it.unique_name().to_owned())
        .collect();
    names.sort();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before);
    let listed = clients[0].list_names();
    assert!(names.iter().all(|name| listed.contains(name)));
}

/// Line 12. Hello, headers, every question to the driver, every signal of the driver's: one name.
fn a_client_has_one_name_in_every_place(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut watcher = RawClient::open(&world.inside());
    watcher.add_match(ALL_OWNERS);
    watcher.all_so_far();
    let mut client = RawClient::connect(&world.inside());
    client.authenticate();
    let name = client.hello();
    let name = name.as_str();
    let hello = client.expect_signal("org.freedesktop.DBus", "NameAcquired");
    assert_eq!(hello.text(), name);
    assert_eq!(hello.header().destination, Some(name));
    assert_eq!(
        heard(&mut watcher),
        [format!("NameOwnerChanged {name} - {name}")]
    );

    let well_known = "org.example.Client";
    assert_eq!(client.request_name(well_known, 1), 1);
    let acquired = client.expect_signal("org.freedesktop.DBus", "NameAcquired");
    assert_eq!(acquired.header().destination, Some(name));
    assert_eq!(
        heard(&mut watcher),
        [format!("NameOwnerChanged {well_known} - {name}")]
    );
    for asked in [well_known, name] {
        assert_eq!(watcher.name_owner(asked).as_deref(), Some(name));
        assert_eq!(client.name_owner(asked).as_deref(), Some(name));
        let asked = Body::new().str(asked);
        let has = watcher.call_driver("NameHasOwner", &asked);
        assert_eq!(has.reader().boolean(), Ok(true));
        assert_eq!(watcher.list("ListQueuedOwners", &asked), [name]);
        for member in ["GetConnectionUnixProcessID", "GetConnectionUnixUser"] {
            let answer = watcher.call_driver(member, &asked);
            let own = match member {
                "GetConnectionUnixUser" => rustix::process::getuid().as_raw(),
                _ => std::process::id(),
            };
            assert_eq!(answer.number(), own, "{member}");
        }
        watcher.call_driver("GetConnectionCredentials", &asked);
    }
    let mut fellow = RawClient::open(&world.inside());
    let fellow_name = fellow.unique_name().to_owned();
    let listed = watcher.list_names();
    for expected in [name, well_known, &fellow_name, watcher.unique_name()] {
        let count = listed.iter().filter(|it| *it == expected).count();
        assert_eq!(count, 1, "{expected} in {listed:?}");
    }

    // Headers, in both directions.
    let (asked, answer) = reaches(&mut fellow, well_known, &mut client);
    assert_eq!(asked.sender(), fellow_name);
    assert_eq!(answer.sender(), name);
    assert_eq!(answer.header().destination, Some(&*fellow_name));
    let (asked, answer) = reaches(&mut fellow, name, &mut client);
    assert_eq!(asked.header().destination, Some(name));
    assert_eq!(answer.sender(), name);

    // A queue, and a name that changes hands.
    assert_eq!(fellow.request_name(well_known, 0), 2);
    assert_eq!(
        watcher.list("ListQueuedOwners", &Body::new().str(well_known)),
        {
            let mut both = [name, &*fellow_name];
            both.sort();
            both
        }
    );
    watcher.all_so_far();
    assert_eq!(fellow.request_name(well_known, 2), 1);
    let lost = client.expect_signal("org.freedesktop.DBus", "NameLost");
    assert_eq!(lost.header().destination, Some(name));
    assert_eq!(
        heard(&mut watcher),
        [format!(
            "NameOwnerChanged {well_known} {name} {fellow_name}"
        )]
    );
}

/// Line 12. Match rules know a client by the same name: as sender, as destination, as the first argument.
fn match_rules_know_a_client_by_its_one_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut watcher = RawClient::open(&world.inside());
    let mut client = RawClient::open(&world.inside());
    let mut fellow = RawClient::open(&world.inside());
    let name = client.unique_name().to_owned();
    watcher.add_match(&format!(
        "type='signal',sender='{name}',interface='{INTERFACE}'"
    ));
    watcher.add_match(&owners_of(&name));
    watcher.all_so_far();
    let body = Body::new().str("of the client");
    client.send(Builder::signal("/", INTERFACE, "Happened").body(&body));
    let other = Body::new().str("of the fellow");
    fellow.send(Builder::signal("/", INTERFACE, "Happened").body(&other));
    client.all_so_far();
    fellow.all_so_far();
    let seen = watcher.expect_signal(INTERFACE, "Happened");
    assert_eq!((seen.text(), seen.sender()), ("of the client", &*name));
    assert_eq!(heard(&mut watcher), [""; 0]);

    // A signal to one client comes without a rule; a rule on its destination brings it no second time.
    client.add_match(&format!("type='signal',destination='{name}'"));
    fellow.send(Builder::signal("/", INTERFACE, "ForYou").destination(&name));
    fellow.all_so_far();
    client.expect_signal(INTERFACE, "ForYou");
    // Over any bus this comes after what could have come twice.
    reaches(&mut fellow, &name, &mut client);
    assert_eq!(heard(&mut client), [""; 0]);

    drop(client);
    let gone = watcher.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(gone.strings(), [&*name, &*name, ""]);
    assert_eq!(heard(&mut watcher), [""; 0], "it goes once");
}

/// Line 12. The host knows a client by the name by which the client knows itself.
fn the_host_knows_a_client_by_its_one_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.example.Outside", 0);
    outside.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    let mut client = RawClient::open(&world.inside());
    let name = client.unique_name().to_owned();
    let (asked, answer) = reaches(&mut client, "org.example.Outside", &mut outside);
    assert_eq!(asked.sender(), name);
    assert_eq!(answer.header().destination, Some(&*name));
    client.send(Builder::signal("/", INTERFACE, "Happened"));
    assert_eq!(outside.expect_signal(INTERFACE, "Happened").sender(), name);
    let (asked, answer) = reaches(&mut outside, &name, &mut client);
    assert_eq!(asked.sender(), outside.unique_name());
    assert_eq!(answer.sender(), name);
}

/// Line 12. A program that is connected to the container bus directly has one name inside, too.
#[test]
fn a_program_of_the_container_bus_has_one_name_in_every_place() {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(Topology::Remote);
    let container = world.container.as_ref().expect("a remote container bus");
    let mut client = RawClient::open(&world.inside());
    client.add_match(ALL_OWNERS);
    client.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    let mut native = RawClient::open(container.address());
    let raw = native.unique_name().to_owned();
    let born = client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    let name = born.text().to_owned();
    assert_eq!(born.strings(), [&*name, "", &*name]);
    assert_ne!(name, raw);
    assert_eq!(native.request_name("org.example.Native", 1), 1);
    assert_eq!(
        heard(&mut client),
        [
            format!("NameAcquired {}", client.unique_name()),
            format!("NameOwnerChanged org.example.Native - {name}"),
        ]
    );
    for asked in ["org.example.Native", &name] {
        assert_eq!(client.name_owner(asked).as_deref(), Some(&*name));
        let asked = Body::new().str(asked);
        let has = client.call_driver("NameHasOwner", &asked);
        assert_eq!(has.reader().boolean(), Ok(true));
        assert_eq!(client.list("ListQueuedOwners", &asked), [&*name]);
        let pid = client.call_driver("GetConnectionUnixProcessID", &asked);
        assert_eq!(pid.number(), std::process::id());
    }
    let listed = client.list_names();
    assert_eq!(listed.iter().filter(|it| **it == name).count(), 1);
    native.send(Builder::signal("/", INTERFACE, "Happened"));
    assert_eq!(client.expect_signal(INTERFACE, "Happened").sender(), name);
    client.remove_match(&format!("type='signal',interface='{INTERFACE}'"));
    client.add_match(&format!(
        "type='signal',sender='{name}',interface='{INTERFACE}'"
    ));
    native.send(Builder::signal("/", INTERFACE, "HappenedAgain"));
    client.expect_signal(INTERFACE, "HappenedAgain");
    let (_, answer) = reaches(&mut client, &name, &mut native);
    assert_eq!(answer.sender(), name);
    drop(native);
    let gone = client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(gone.strings(), ["org.example.Native", &*name, ""]);
    let gone = client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(gone.strings(), [&*name, &*name, ""]);
}

const REFUSED: &str = "org.freedesktop.systemd1";

/// Line 13. Whose names are all refused is not there at all: not in a list, not by its unique name, not by the
/// driver's word, not by its signals.
fn a_host_program_with_a_refused_name_is_reached_by_no_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    client.add_match(ALL_OWNERS);
    client.add_match(&format!("type='signal',interface='{INTERFACE}'"));
    client.add_match(&format!("type='signal',sender='{REFUSED}'"));
    let mut outside = RawClient::open(&world.outside());
    assert_eq!(outside.request_name(REFUSED, 0), 1);
    let unique = outside.unique_name().to_owned();

    for name in [REFUSED, &unique] {
        assert_eq!(refused(&mut client, name), ACCESS_DENIED, "{name}");
        assert_eq!(client.name_owner(name), None, "{name}");
        let asked = Body::new().str(name);
        let has = client.call_driver("NameHasOwner", &asked);
        assert_eq!(has.reader().boolean(), Ok(false), "{name}");
        for member in [
            "ListQueuedOwners",
            "GetConnectionUnixProcessID",
            "GetConnectionUnixUser",
            "GetConnectionCredentials",
        ] {
            let error = client.call_driver_error(member, &asked);
            assert_eq!(error, NAME_HAS_NO_OWNER, "{member} {name}");
        }
        assert!(!client.list_names().iter().any(|it| it == name), "{name}");
    }
    let start = Body::new().str(REFUSED).u32(0);
    assert_eq!(
        client.call_driver_error("StartServiceByName", &start),
        ACCESS_DENIED
    );
    // Nor by a signal, a reply that it did not ask for, or a call that wants no answer.
    client.send(Builder::signal("/", INTERFACE, "Pushed").destination(&unique));
    client.send(Builder::method_return(77).destination(&unique));
    client.send(call(&unique, "/", INTERFACE, "Pushed").flags(dbus_wire::Flags::NO_REPLY_EXPECTED));
    client.all_so_far();
    outside.send(Builder::signal("/", INTERFACE, "Happened"));
    let got = outside.all_so_far();
    let got: Vec<String> = got.iter().map(ToString::to_string).collect();
    assert!(got.iter().all(|it| it.contains("NameAcquired")), "{got:?}");
    let seen = heard(&mut client);
    assert!(
        !seen
            .iter()
            .any(|it| it.contains(REFUSED) || it == "Happened"),
        "{seen:?}"
    );
}

/// Line 13. A refused name that the host could start is not listed as one, and is not started.
fn a_refused_name_that_the_host_can_start_is_not_there(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let dir = TestDir::new();
    let trace = dir.join("started");
    let script = dir.write("start.sh", format!("echo >> {}\n", trace.display()));
    let exec = format!("/bin/sh {}", script.display());
    let options = WorldOptions {
        host_services: [REFUSED, "org.example.Allowed"]
            .map(|name| ServiceFile::new(name, exec.clone()))
            .into(),
        ..WorldOptions::default()
    };
    let world = World::start_in(dir, topology, &options);
    let mut client = RawClient::open(&world.inside());
    let names = client.list("ListActivatableNames", &Body::new());
    assert!(names.contains(&"org.example.Allowed".to_owned()));
    assert!(!names.contains(&REFUSED.to_owned()), "{names:?}");
    let start = Body::new().str(REFUSED).u32(0);
    assert_eq!(
        client.call_driver_error("StartServiceByName", &start),
        ACCESS_DENIED
    );
    assert_eq!(refused(&mut client, REFUSED), ACCESS_DENIED);
    // Whatever the host was told to start, it has been told before this.
    let mut outside = RawClient::open(&world.outside());
    assert_eq!(outside.name_owner(REFUSED), None);
    outside.all_so_far();
    assert!(!trace.exists());
}

/// Line 13. A refused program that calls a client gets its answer, and opens no way back by it.
fn a_refused_host_program_may_call_and_is_answered(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let mut outside = RawClient::open(&world.outside());
    outside.request_name(REFUSED, 0);
    let name = client.unique_name().to_owned();
    let (asked, _) = reaches(&mut outside, &name, &mut client);
    assert_eq!(asked.sender(), outside.unique_name());
}

/// Line 13. A connection with names of both kinds is judged by the interface, by each of its names.
fn a_host_program_with_names_of_both_kinds_is_judged_by_the_interface(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.freedesktop.impl.portal.Secret", 0);
    outside.request_name("org.freedesktop.secrets", 0);
    let unique = outside.unique_name().to_owned();
    for destination in ["org.freedesktop.secrets", &unique] {
        reaches(&mut client, destination, &mut outside);
        for interface in [
            "org.freedesktop.impl.portal.Secret",
            "org.freedesktop.impl.portal.Secret.More",
        ] {
            let answer = client.call(call(destination, "/", interface, "RetrieveSecret"));
            assert_eq!(answer.failed(), ACCESS_DENIED, "{destination} {interface}");
        }
        // Without an interface, a service finds one that has the method.
        let without = Builder::method_call("/", "RetrieveSecret").destination(destination);
        assert_eq!(
            client.call(without).failed(),
            ACCESS_DENIED,
            "{destination}"
        );
    }
    assert!(
        outside
            .all_so_far()
            .iter()
            .all(|it| !it.is_call("RetrieveSecret"))
    );
    let listed = client.list_names();
    assert!(listed.contains(&unique) && listed.contains(&"org.freedesktop.secrets".to_owned()));
    assert!(!listed.contains(&"org.freedesktop.impl.portal.Secret".to_owned()));
}

/// Line 13. What `--allow` names is there by every name.
fn a_refused_name_that_is_allowed_is_there_by_every_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let options = WorldOptions {
        allow: vec![REFUSED.to_owned()],
        ..WorldOptions::default()
    };
    let world = World::start_with(topology, &options);
    let mut client = RawClient::open(&world.inside());
    let mut outside = RawClient::open(&world.outside());
    outside.request_name(REFUSED, 0);
    let unique = outside.unique_name().to_owned();
    assert_eq!(client.name_owner(REFUSED).as_deref(), Some(&*unique));
    let listed = client.list_names();
    assert!(listed.contains(&unique) && listed.contains(&REFUSED.to_owned()));
    reaches(&mut client, REFUSED, &mut outside);
    reaches(&mut client, &unique, &mut outside);
}

/// Line 13, line 23. The state of the host is learned without a gap: a program that takes a refused name while
/// the multiplexer starts is refused by its unique name as well.
fn a_name_that_is_taken_while_the_multiplexer_starts_is_judged(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let mut world = World::start(topology);
    let (outside, host) = (world.outside(), world.host.take().expect("a host"));
    let container = world.container.take();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let taker = std::thread::spawn(move || {
        let mut takers = Vec::new();
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) && takers.len() < 400
        {
            let mut taker = RawClient::open(&outside);
            taker.request_name(&format!("{REFUSED_BELOW}.N{}", takers.len()), 0);
            takers.push(taker);
        }
        takers
    });
    let options = testbed::MuxOptions {
        host_bus: Some(host.address().to_owned()),
        container_bus: container.as_ref().map(|it| it.address().to_owned()),
        name: "second".to_owned(),
        ..testbed::MuxOptions::default()
    };
    let mux = testbed::Mux::start(&world.dir, &options).unwrap_or_else(|it| panic!("{it}"));
    // Whoever is there by now took its name before, or while, the multiplexer learned of it.
    let mut client = RawClient::open(&mux.address());
    stop.send(()).expect("the taker is there");
    let mut takers = taker.join().expect("the taker does not panic");
    // The bus may tell a taker that it has the name a moment before it tells others.
    takers.last_mut().expect("one at least").all_so_far();
    for taker in &takers {
        assert_eq!(refused(&mut client, taker.unique_name()), ACCESS_DENIED);
    }
    drop((mux, host, container));
}

/// A family of refused names.
const REFUSED_BELOW: &str = "org.freedesktop.impl.portal";

/// Line 14. Every unique name that a client sees has the form `:DIGITS.DIGITS`; several client libraries
/// refuse others.
fn unique_names_are_digits_dot_digits(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    client.add_match(ALL_OWNERS);
    let _fellow = RawClient::open(&world.inside());
    let _native = world
        .container
        .as_ref()
        .map(|container| RawClient::open(container.address()));
    let mut names = client.list_names();
    names.extend(client.all_so_far().iter().flat_map(|it| {
        it.strings()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    }));
    let unique: Vec<&String> = names.iter().filter(|it| it.starts_with(':')).collect();
    assert!(unique.len() >= 2);
    for name in unique {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
        let (major, minor) = name[1..].split_once('.').expect("a dot");
        assert!(digits(major) && digits(minor), "{name}");
        assert!(
            major.parse::<u32>().is_ok_and(|it| it <= i32::MAX as u32),
            "{name}"
        );
    }
}

/// Line 14. Names of other forms are nobody's.
fn a_unique_name_of_another_form_is_nobodys(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    for name in [
        ":1.c5",
        ":a.b",
        ":1.2.3",
        ":1.99999999",
        ":99.1",
        ":5000001.1",
    ] {
        let error = refused(&mut client, name);
        assert!(
            [SERVICE_UNKNOWN, NAME_HAS_NO_OWNER].contains(&&*error),
            "{name}: {error}"
        );
        assert_eq!(client.name_owner(name), None, "{name}");
    }
}

in_topologies!(all: a_client_has_one_name_in_every_place, match_rules_know_a_client_by_its_one_name,
    unique_names_are_digits_dot_digits, a_unique_name_of_another_form_is_nobodys);
in_topologies!(with_host: no_two_parties_have_one_name, the_host_knows_a_client_by_its_one_name);
in_topologies!(two_buses: a_refused_name_that_the_host_can_start_is_not_there, a_host_program_with_a_refused_name_is_reached_by_no_name,
    a_refused_host_program_may_call_and_is_answered,
    a_host_program_with_names_of_both_kinds_is_judged_by_the_interface,
    a_refused_name_that_is_allowed_is_there_by_every_name,
    a_name_that_is_taken_while_the_multiplexer_starts_is_judged);
