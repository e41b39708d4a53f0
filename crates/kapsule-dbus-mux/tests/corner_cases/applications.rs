//! Applications that break when any of it is wrong: what each does on the bus, message by message.
//!
//! Not here: portals, notifications on a screen and dconf, which `real_programs` runs; and what needs a name of the
//! inside's to be owned on the host (line 25), as tray icons and players that the host's desktop controls do.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use dbus_wire::error_names::{ACCESS_DENIED, SERVICE_UNKNOWN};
use dbus_wire::{Body, Builder};
use testbed::raw_client::call;
use testbed::{RawClient, TestDir, Topology, World, WorldOptions, in_topologies, needs, tools};

use crate::exchange::{ALL_OWNERS, INTERFACE, heard, owners_of, reaches, refused};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

// ── MPRIS ──

/// A controller of players finds one by the prefix of its name, follows its properties, and presses play; the
/// number in the player's name is that of its process.
#[track_caller]
fn a_controller_finds_and_plays(controller: &mut RawClient, player: &mut RawClient) {
    const PATH: &str = "/org/mpris/MediaPlayer2";
    const PLAYER: &str = "org.mpris.MediaPlayer2.Player";
    let name = format!("org.mpris.MediaPlayer2.vlc.instance{}", std::process::id());
    controller.add_match(&format!(
        "{ALL_OWNERS},arg0namespace='org.mpris.MediaPlayer2'"
    ));
    controller.add_match(&format!(
        "type='signal',sender='{name}',interface='{PROPERTIES}',member='PropertiesChanged',path='{PATH}'"
    ));
    assert_eq!(player.request_name(&name, 4), 1);
    player.all_so_far();
    let owner = player.unique_name().to_owned();
    let change = controller.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(change.strings(), [&*name, "", &*owner]);
    let listed = controller.list_names();
    assert_eq!(
        listed
            .iter()
            .filter(|it| it.starts_with("org.mpris."))
            .count(),
        1
    );
    let pid = controller.call_driver("GetConnectionUnixProcessID", &Body::new().str(&name));
    assert!(name.ends_with(&pid.number().to_string()));

    let serial = controller.send(call(&name, PATH, PLAYER, "PlayPause"));
    let pressed = player.expect_call("PlayPause");
    player.answer(&pressed, &Body::new());
    controller.expect_reply(serial).returned();
    let changed = Body::new()
        .str(PLAYER)
        .array("{sv}", |it| {
            it.dict_entry(|it| it.str("PlaybackStatus").variant(|it| it.str("Playing")))
        })
        .strs([""; 0]);
    player.send(Builder::signal(PATH, PROPERTIES, "PropertiesChanged").body(&changed));
    let seen = controller.expect_signal(PROPERTIES, "PropertiesChanged");
    assert_eq!((seen.sender(), seen.text()), (&*owner, PLAYER));
}

/// Applications: MPRIS. A player inside is controlled inside.
fn a_player_inside_is_controlled_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut controller = RawClient::open(&world.inside());
    let mut player = RawClient::open(&world.inside());
    a_controller_finds_and_plays(&mut controller, &mut player);
}

/// Applications: MPRIS. A player of the host is controlled from inside.
fn a_player_of_the_host_is_controlled_from_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut controller = RawClient::open(&world.inside());
    let mut player = RawClient::open(&world.outside());
    a_controller_finds_and_plays(&mut controller, &mut player);
}

// ── Single instances ──

/// A world in which these applications are installed inside.
#[track_caller]
fn world_with_applications(topology: Topology, names: &[&str]) -> World {
    let dir = TestDir::new();
    for name in names {
        dir.write(
            format!("inside-data/applications/{name}.desktop"),
            format!(
                "[Desktop Entry]\nType=Application\nName={name}\nExec=true\nDBusActivatable=true\n"
            ),
        );
    }
    World::start_in(dir, topology, &WorldOptions::default())
}

/// Line 26. Applications: single instances. An application that is installed inside does not find the host's
/// instance of itself: not in a list, by no question, by no call and by no signal. Others it finds.
fn an_application_installed_inside_does_not_find_the_hosts_instance(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = world_with_applications(topology, &["org.kde.dolphin"]);
    let mut client = RawClient::open(&world.inside());
    client.add_match(ALL_OWNERS);
    client.all_so_far();
    let mut outside = RawClient::open(&world.outside());
    let others = ["org.kde.kate-4711", "org.kde.dolphinpart"];
    let hidden = [
        "org.kde.dolphin",
        "org.kde.dolphin-4711",
        "org.kde.dolphin.instance7",
    ];
    for name in hidden.iter().chain(&others) {
        assert_eq!(outside.request_name(name, 0), 1);
    }
    outside.all_so_far();
    let listed = client.list_names();
    for name in hidden {
        assert!(!listed.iter().any(|it| it == name), "{name} in {listed:?}");
        assert_eq!(client.name_owner(name), None, "{name}");
        let asked = Body::new().str(name);
        let has = client.call_driver("NameHasOwner", &asked);
        assert_eq!(has.reader().boolean(), Ok(false), "{name}");
        assert_eq!(refused(&mut client, name), SERVICE_UNKNOWN, "{name}");
        let start = client.call_driver_error("StartServiceByName", &Body::new().str(name).u32(0));
        assert_eq!(start, SERVICE_UNKNOWN, "{name}");
    }
    for name in others {
        assert!(listed.iter().any(|it| it == name), "{name} in {listed:?}");
        reaches(&mut client, name, &mut outside);
    }
    let seen = heard(&mut client);
    assert!(
        !seen
            .iter()
            .any(|it| hidden.iter().any(|name| it.contains(&format!(" {name} ")))),
        "{seen:?}"
    );
    assert!(seen.iter().any(|it| it.contains(others[0])));
}

/// Line 26. Applications: single instances. It finds its own instance, as its own.
fn an_application_installed_inside_finds_its_own_instance(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = world_with_applications(topology, &["org.kde.dolphin"]);
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.kde.dolphin", 0);
    outside.request_name("org.kde.dolphin-4711", 0);
    outside.all_so_far();
    let mut second = RawClient::open(&world.inside());
    for name in [
        "org.kde.dolphin",
        "org.kde.dolphin-4711",
        "org.kde.dolphin-4712",
    ] {
        second.add_match(&owners_of(name));
        let mut first = RawClient::open(&world.inside());
        assert_eq!(first.request_name(name, 4), 1);
        let owner = first.unique_name().to_owned();
        let change = second.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
        assert_eq!(
            change.strings(),
            [name, "", &*owner],
            "the host's was never there"
        );
        assert_eq!(second.request_name(name, 4), 3, "it is running already");
        assert_eq!(
            second.list_names().iter().filter(|it| *it == name).count(),
            1
        );
        reaches(&mut second, name, &mut first);
        drop(first);
        let change = second.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
        assert_eq!(
            change.strings(),
            [name, &*owner, ""],
            "and is not there now"
        );
    }
}

/// Line 26. Applications: single instances. An application that is not installed inside is the host's.
fn an_application_of_the_host_alone_is_found_there(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = world_with_applications(topology, &["org.kde.dolphin"]);
    let mut client = RawClient::open(&world.inside());
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.kde.okular-12", 0);
    outside.all_so_far();
    assert!(
        client
            .list_names()
            .contains(&"org.kde.okular-12".to_owned())
    );
    reaches(&mut client, "org.kde.okular-12", &mut outside);
}

// ── What hands over the host ──

/// Applications: systemd --user. What would start programs outside is refused, and nothing of it arrives; the
/// error says what permits it.
fn what_hands_over_the_host_is_refused(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    for name in [
        "org.freedesktop.systemd1",
        "org.freedesktop.Flatpak",
        "org.freedesktop.impl.portal.PermissionStore",
    ] {
        let mut outside = RawClient::open(&world.outside());
        outside.request_name(name, 0);
        outside.all_so_far();
        let manager = format!("{name}.Manager");
        let answer = client.call(call(
            name,
            "/org/freedesktop/systemd1",
            &manager,
            "StartTransientUnit",
        ));
        assert_eq!(answer.error_name(), Some(ACCESS_DENIED));
        assert!(
            answer.text().contains(&format!("--allow {name}")),
            "{answer}"
        );
        assert!(outside.all_so_far().is_empty());
    }
}

/// Applications: systemd --user. A systemd of the container's own is not the host's, and is not refused.
fn a_systemd_inside_is_not_the_hosts(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = RawClient::open(&world.outside());
    outside.request_name("org.freedesktop.systemd1", 0);
    outside.all_so_far();
    let mut client = RawClient::open(&world.inside());
    client.add_match(&owners_of("org.freedesktop.systemd1"));
    let mut systemd = RawClient::open(&world.inside());
    systemd.request_name("org.freedesktop.systemd1", 0);
    let change = client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(
        change.strings(),
        ["org.freedesktop.systemd1", "", systemd.unique_name()]
    );
    reaches(&mut client, "org.freedesktop.systemd1", &mut systemd);
    drop(systemd);
    client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(
        refused(&mut client, "org.freedesktop.systemd1"),
        ACCESS_DENIED
    );
}

/// Applications: systemd --user. With `--allow` it is there, and only that.
fn what_is_allowed_is_reached(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let options = WorldOptions {
        allow: vec!["org.freedesktop.systemd1".to_owned()],
        ..WorldOptions::default()
    };
    let world = World::start_with(topology, &options);
    let mut client = RawClient::open(&world.inside());
    let mut systemd = RawClient::open(&world.outside());
    systemd.request_name("org.freedesktop.systemd1", 0);
    systemd.all_so_far();
    reaches(&mut client, "org.freedesktop.systemd1", &mut systemd);
    let mut flatpak = RawClient::open(&world.outside());
    flatpak.request_name("org.freedesktop.Flatpak", 0);
    flatpak.all_so_far();
    assert_eq!(
        refused(&mut client, "org.freedesktop.Flatpak"),
        ACCESS_DENIED
    );
}

// ── Unique names in bodies and paths ──

/// Applications: AT-SPI, tray icons, polkit agents. A name that a program puts into a body is true: the registry
/// calls back by it, and gives out names of others by which they are reached.
#[track_caller]
fn names_in_bodies_are_true(registry: &mut RawClient, programs: [&mut RawClient; 2]) {
    registry.request_name("org.a11y.atspi.Registry", 0);
    registry.all_so_far();
    let mut embedded = Vec::new();
    let [first, second] = programs;
    for program in [&mut *first, &mut *second] {
        // Embed((so)): who I am, and where; the answer is who the registry is.
        let plug = Body::new().struct_(|it| it.str(program.unique_name()).object_path("/root"));
        let serial = program.send(
            call(
                "org.a11y.atspi.Registry",
                "/root",
                "org.a11y.atspi.Socket",
                "Embed",
            )
            .body(&plug),
        );
        let asked = registry.expect_call("Embed");
        let told = asked
            .reader()
            .struct_(|it| it.str())
            .expect("a name and a path")
            .to_owned();
        assert_eq!(
            told,
            asked.sender(),
            "what it says of itself is what the bus says"
        );
        let socket = Body::new().struct_(|it| it.str(registry.unique_name()).object_path("/root"));
        registry.answer(&asked, &socket);
        let answer = program.expect_reply(serial).returned();
        let name = answer
            .reader()
            .struct_(|it| it.str())
            .expect("a name")
            .to_owned();
        assert_eq!(name, answer.sender());
        reaches(program, &name, registry);
        reaches(registry, &told, program);
        embedded.push(told);
    }
    // A program that is told of another, by name, reaches it.
    registry.send(
        Builder::signal("/", INTERFACE, "Focus")
            .destination(&embedded[0])
            .body(&Body::new().str(&embedded[1])),
    );
    let focus = first.expect_signal(INTERFACE, "Focus");
    reaches(first, focus.text(), second);
    registry.release_name("org.a11y.atspi.Registry");
}

/// Applications: AT-SPI. The registry is the host's.
fn names_in_bodies_are_true_for_a_registry_of_the_host(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut registry = RawClient::open(&world.outside());
    let (mut first, mut second) = (
        RawClient::open(&world.inside()),
        RawClient::open(&world.inside()),
    );
    names_in_bodies_are_true(&mut registry, [&mut first, &mut second]);
    // And of programs on either side.
    let mut third = RawClient::open(&world.outside());
    let mut registry = RawClient::open(&world.inside());
    names_in_bodies_are_true(&mut registry, [&mut first, &mut second]);
    let body = Body::new().str(third.unique_name());
    third.send(
        Builder::signal("/", INTERFACE, "Focus")
            .destination(first.unique_name())
            .body(&body),
    );
    let focus = first.expect_signal(INTERFACE, "Focus");
    reaches(&mut first, focus.text(), &mut third);
}

/// Applications: AT-SPI. Or it runs inside.
fn names_in_bodies_are_true_for_a_registry_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut registry = RawClient::open(&world.inside());
    let (mut first, mut second) = (
        RawClient::open(&world.inside()),
        RawClient::open(&world.inside()),
    );
    names_in_bodies_are_true(&mut registry, [&mut first, &mut second]);
}

/// Applications: portals. The path of a request that a program makes from its own unique name is the one that the
/// host makes from the call's sender, and the Response to it arrives by a rule on that path, subscribed before
/// the call.
fn a_path_made_of_the_callers_name_is_the_one_that_the_host_makes(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut portal = RawClient::open(&world.outside());
    portal.request_name("org.freedesktop.portal.Desktop", 0);
    portal.all_so_far();
    let mut client = RawClient::open(&world.inside());
    let path = |name: &str| {
        let name = name[1..].replace('.', "_");
        format!("/org/freedesktop/portal/desktop/request/{name}/token1")
    };
    let request = path(client.unique_name());
    client.add_match(&format!(
        "type='signal',sender='org.freedesktop.portal.Desktop',path='{request}',\
         interface='org.freedesktop.portal.Request',member='Response'"
    ));
    let serial = client.send(call(
        "org.freedesktop.portal.Desktop",
        "/org/freedesktop/portal/desktop",
        "org.freedesktop.portal.OpenURI",
        "OpenURI",
    ));
    let asked = portal.expect_call("OpenURI");
    let made = path(asked.sender());
    assert_eq!(made, request);
    // As xdg-desktop-portal does: to the caller alone. And before the reply, as it may.
    let response = Body::new().u32(0).array("{sv}", |it| it);
    portal.send(
        Builder::signal(&made, "org.freedesktop.portal.Request", "Response")
            .destination(asked.sender())
            .body(&response),
    );
    portal.answer(&asked, &Body::new().object_path(&made));
    client.expect_signal("org.freedesktop.portal.Request", "Response");
    client.expect_reply(serial).returned();
    reaches(&mut client, "org.freedesktop.portal.Desktop", &mut portal);
    let twice = client.all_so_far();
    assert!(
        twice
            .iter()
            .all(|it| it.header().member != Some("Response")),
        "{twice:?}"
    );
}

// ── Services that know their callers ──

/// Applications: Secret Service, KWallet, fcitx, ibus. A service of the host ties a session to its caller, speaks
/// to it alone, is not reached in another's name, and learns when the caller goes.
fn a_service_of_the_host_ties_a_session_to_its_caller(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut service = RawClient::open(&world.outside());
    service.request_name("org.freedesktop.secrets", 0);
    service.all_so_far();
    let mut client = RawClient::open(&world.inside());
    let mut other = RawClient::open(&world.inside());
    let open = |from: &mut RawClient, service: &mut RawClient| {
        let (asked, _) = reaches(from, "org.freedesktop.secrets", service);
        let sender = asked.sender().to_owned();
        service.add_match(&owners_of(&sender));
        // The credentials that the bus has of it are a living process's.
        let pid = service.call_driver("GetConnectionUnixProcessID", &Body::new().str(&sender));
        assert!(pid.number() > 0);
        sender
    };
    let session = open(&mut client, &mut service);
    let another = open(&mut other, &mut service);
    assert_ne!(session, another);
    assert_eq!(session, client.unique_name());

    service.send(Builder::signal("/", INTERFACE, "Unlocked").destination(&session));
    client.expect_signal(INTERFACE, "Unlocked");
    let (asked, _) = reaches(&mut other, "org.freedesktop.secrets", &mut service);
    assert_eq!(asked.sender(), another);
    assert!(
        other
            .all_so_far()
            .iter()
            .all(|it| !it.is_signal(INTERFACE, "Unlocked"))
    );
    // A sender that a client puts into its message itself counts for nothing.
    let forged =
        other.send(call("org.freedesktop.secrets", "/", INTERFACE, "Forged").sender(&session));
    let asked = service.expect_call("Forged");
    assert_eq!(asked.sender(), another);
    service.answer(&asked, &Body::new());
    other.expect_reply(forged).returned();

    drop(client);
    let gone = service.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(gone.strings(), [&*session, &*session, ""]);
    assert_eq!(service.name_owner(&another).as_deref(), Some(&*another));
}

/// Applications: notifications with actions. The server's signals reach who asked for them by interface or by the
/// server's name, as broadcasts and as unicasts, each once.
fn a_notifications_action_reaches_the_program(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const NAME: &str = "org.freedesktop.Notifications";
    let world = World::start(topology);
    let mut server = RawClient::open(&world.outside());
    server.request_name(NAME, 0);
    server.all_so_far();
    let mut by_interface = RawClient::open(&world.inside());
    by_interface.add_match(&format!("type='signal',interface='{NAME}'"));
    let mut by_name = RawClient::open(&world.inside());
    by_name.add_match(&format!(
        "type='signal',sender='{NAME}',path='/org/freedesktop/Notifications'"
    ));
    by_interface.all_so_far();
    by_name.all_so_far();
    let invoked = Body::new().u32(1).str("default");
    let signal =
        || Builder::signal("/org/freedesktop/Notifications", NAME, "ActionInvoked").body(&invoked);
    for client in [&mut by_interface, &mut by_name] {
        server.send(signal().destination(client.unique_name()));
        client.expect_signal(NAME, "ActionInvoked");
        reaches(client, NAME, &mut server);
        assert_eq!(heard(client), [""; 0]);
    }
    server.send(signal());
    for client in [&mut by_interface, &mut by_name] {
        client.expect_signal(NAME, "ActionInvoked");
        reaches(client, NAME, &mut server);
        assert_eq!(heard(client), [""; 0]);
    }
}

/// Applications: polkit agents, tray icons by path. A service of the host calls an object of the client's that it
/// registered by path alone, and the client's answer, an error too, arrives.
fn an_object_that_is_registered_by_path_is_called_back(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut authority = RawClient::open(&world.outside());
    authority.request_name("org.kde.StatusNotifierWatcher", 0);
    authority.all_so_far();
    let mut agent = RawClient::open(&world.inside());
    let register = Body::new().str("/StatusNotifierItem");
    let serial = agent.send(
        call(
            "org.kde.StatusNotifierWatcher",
            "/",
            "org.kde.StatusNotifierWatcher",
            "RegisterStatusNotifierItem",
        )
        .body(&register),
    );
    let asked = authority.expect_call("RegisterStatusNotifierItem");
    authority.answer(&asked, &Body::new());
    agent.expect_reply(serial).returned();
    let get_all = Body::new().str("org.kde.StatusNotifierItem");
    let serials: Vec<u32> = (0..2)
        .map(|_| {
            authority.send(call(asked.sender(), asked.text(), PROPERTIES, "GetAll").body(&get_all))
        })
        .collect();
    let first = agent.expect_call("GetAll");
    assert_eq!(first.header().path, Some("/StatusNotifierItem"));
    let second = agent.expect_call("GetAll");
    agent.answer_error(&second, "org.example.Error.No", "no");
    agent.answer(&first, &Body::new().array("{sv}", |it| it));
    authority.expect_reply(serials[0]).returned();
    assert_eq!(
        authority.expect_reply(serials[1]).failed(),
        "org.example.Error.No"
    );
}

/// Applications: screen casting. A descriptor that the host hands out, a socket as PipeWire's, is usable inside in
/// both directions, and one of the client's on the host.
fn a_socket_that_the_host_hands_out_is_usable(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut portal = RawClient::open(&world.outside());
    portal.request_name("org.freedesktop.portal.Desktop", 0);
    portal.all_so_far();
    let mut client = RawClient::open(&world.inside());
    let serial = client.send(call(
        "org.freedesktop.portal.Desktop",
        "/org/freedesktop/portal/desktop",
        "org.freedesktop.portal.ScreenCast",
        "OpenPipeWireRemote",
    ));
    let asked = portal.expect_call("OpenPipeWireRemote");
    let (near, mut far) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let body = Body::new().unix_fd(0);
    portal.send_with_fds(
        Builder::reply_to(&asked.header()).body(&body),
        &[near.as_fd()],
    );
    drop(near);
    let mut answer = client.expect_reply(serial).returned();
    let mut remote = File::from(answer.fds.remove(0));
    remote.write_all(b"to the host").expect("it takes it");
    let mut text = [0; 11];
    far.read_exact(&mut text).expect("it comes");
    assert_eq!(&text, b"to the host");
    far.write_all(b"and inside!").expect("it takes it");
    remote.read_exact(&mut text).expect("it comes");
    assert_eq!(&text, b"and inside!");
    drop(remote);
    assert_eq!(
        far.read(&mut text).expect("its end"),
        0,
        "nobody has kept the descriptor"
    );
}

/// Applications: agents and services that both sides have. The inside's own session manager, secret service or
/// notification daemon is the one that programs inside find, and the host's is found when it is gone.
fn a_service_that_both_sides_have_is_the_insides(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut host = RawClient::open(&world.outside());
    let mut client = RawClient::open(&world.inside());
    for name in [
        "org.freedesktop.secrets",
        "org.freedesktop.Notifications",
        "org.fcitx.Fcitx5",
    ] {
        host.request_name(name, 0);
        host.all_so_far();
        let mut inside = RawClient::open(&world.inside());
        reaches(&mut client, name, &mut host);
        inside.request_name(name, 0);
        reaches(&mut client, name, &mut inside);
        client.add_match(&owners_of(name));
        drop(inside);
        client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
        reaches(&mut client, name, &mut host);
    }
}

in_topologies!(all: a_player_inside_is_controlled_inside, names_in_bodies_are_true_for_a_registry_inside);
in_topologies!(with_host: a_player_of_the_host_is_controlled_from_inside,
    names_in_bodies_are_true_for_a_registry_of_the_host,
    a_path_made_of_the_callers_name_is_the_one_that_the_host_makes,
    a_service_of_the_host_ties_a_session_to_its_caller, a_notifications_action_reaches_the_program,
    an_object_that_is_registered_by_path_is_called_back, a_socket_that_the_host_hands_out_is_usable);
in_topologies!(two_buses: an_application_installed_inside_does_not_find_the_hosts_instance,
    an_application_installed_inside_finds_its_own_instance,
    an_application_of_the_host_alone_is_found_there, what_hands_over_the_host_is_refused,
    a_systemd_inside_is_not_the_hosts, what_is_allowed_is_reached,
    a_service_that_both_sides_have_is_the_insides);
