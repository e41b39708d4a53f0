//! The ways round the policy that people have found elsewhere, one by one, each with the error that is due. Random
//! ones are in [`no_way_round`](crate::no_way_round).

use std::path::PathBuf;

use dbus_router::{Access, Rules};
use dbus_wire::body::Body;
use dbus_wire::frame::Flags;
use dbus_wire::message::Builder;
use testbed::{DaemonOptions, DbusDaemon, RawClient, TestDir};

use crate::place::{INTERFACE, PATH, Place, call, filter, listed, names, refusal, signal, works};

const HIDDEN: &str = "org.example.Hidden";
const SEEN: &str = "org.example.Seen";
const TALKS: &str = "org.example.Talks";
const SYSTEMD: &str = "org.freedesktop.systemd1";

const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";

fn see_and_talk() -> Rules {
    names(vec![filter(SEEN, Access::See), filter(TALKS, Access::Talk)])
}

fn place() -> Place {
    Place::new(see_and_talk())
}

/// A place whose host can start services that leave a file where they were started.
fn place_with_services(dir: &TestDir) -> (Place, DbusDaemon) {
    for name in [HIDDEN, SEEN, TALKS, SYSTEMD] {
        let mark = dir.join(format!("started-{name}"));
        dir.write(
            format!("services/{name}.service"),
            format!(
                "[D-BUS Service]\nName={name}\nExec=/bin/sh -c \"touch {}; exit 1\"\n",
                mark.display()
            ),
        );
    }
    let options = DaemonOptions {
        service_dirs: vec![dir.join("services")],
        name: "with-services".to_owned(),
        ..DaemonOptions::default()
    };
    let host = DbusDaemon::start(dir, &options).unwrap();
    let place = Place::configured(see_and_talk(), |config| {
        config.host = Some(dbus_wire::address::parse_addresses(host.address()).unwrap());
    });
    (place, host)
}

fn start(client: &mut RawClient, name: &str) -> Option<String> {
    let body = Body::new().str(name).u32(0);
    let start = Builder::method_call("/org/freedesktop/DBus", "StartServiceByName")
        .interface("org.freedesktop.DBus")
        .destination("org.freedesktop.DBus");
    let reply = client.call(start.body(&body));
    reply.error_name().map(str::to_owned)
}

#[test]
fn activation_starts_what_may_be_talked_to_and_nothing_else() {
    let dir = TestDir::new();
    let (place, _host) = place_with_services(&dir);
    let mut client = place.inside();
    let was_started = |name: &str| -> bool {
        let mark: PathBuf = dir.join(format!("started-{name}"));
        mark.exists()
    };
    let activatable = client.list("ListActivatableNames", &Body::new());
    assert!(activatable.contains(&SEEN.to_owned()) && activatable.contains(&TALKS.to_owned()));
    for name in [HIDDEN, SYSTEMD] {
        assert!(!activatable.contains(&name.to_owned()));
    }
    for (name, error) in [(HIDDEN, UNKNOWN), (SEEN, DENIED), (SYSTEMD, DENIED)] {
        assert_eq!(refusal(&mut client, name), error);
        assert_eq!(start(&mut client, name).as_deref(), Some(error));
        client.send(call(name, "Quiet").flags(Flags::NO_REPLY_EXPECTED));
        client.send(signal("Told").destination(name));
        assert_eq!(
            client
                .call(Builder::method_call(PATH, "Bare").destination(name))
                .failed(),
            error
        );
    }
    // The host answers after all that reached it before; what it starts leaves its mark at once.
    assert!(
        start(&mut client, TALKS).is_some(),
        "it ends without taking its name"
    );
    assert!(was_started(TALKS));
    for name in [HIDDEN, SEEN, SYSTEMD] {
        assert!(!was_started(name), "{name}");
    }
}

#[test]
fn a_unique_name_is_judged_as_its_owner_s_names_are() {
    let place = place();
    let (mut talks, hidden, seen) = (
        place.service(TALKS),
        place.service(HIDDEN),
        place.service(SEEN),
    );
    let (nameless, systemd) = (place.outside(), place.service(SYSTEMD));
    let mut client = place.inside();
    for (owner, error) in [
        (&hidden, UNKNOWN),
        (&nameless, UNKNOWN),
        (&seen, DENIED),
        (&systemd, DENIED),
    ] {
        assert_eq!(refusal(&mut client, owner.unique_name()), error);
        let silent = call(owner.unique_name(), "Work").flags(Flags::NO_AUTO_START);
        let absent = if error == UNKNOWN { NO_OWNER } else { error };
        assert_eq!(client.call(silent).failed(), absent);
    }
    let unique = talks.unique_name().to_owned();
    works(&mut client, &unique, &mut talks);
    // Forms that are no name of a bus, and a name of nobody.
    for name in [":1.999999", ":01.2x", ":a.b", ":1.2.3"] {
        assert_eq!(refusal(&mut client, name), UNKNOWN, "{name}");
    }
}

#[test]
fn who_waits_for_a_name_is_neither_reached_nor_told_of() {
    let place = place();
    let (first, second) = (place.service(TALKS), place.service(HIDDEN));
    let mut waiting = second;
    assert_eq!(waiting.request_name(TALKS, 0), 2);
    let mut client = place.inside();
    assert_eq!(refusal(&mut client, waiting.unique_name()), UNKNOWN);
    let queue = client.list("ListQueuedOwners", &Body::new().str(TALKS));
    assert_eq!(queue, [first.unique_name()]);
    assert!(!listed(&mut client).contains(&waiting.unique_name().to_owned()));
    // Once it has the name, it can be reached, and is told of.
    client.add_match(&format!("member='NameOwnerChanged',arg0='{TALKS}'"));
    drop(first);
    client.expect("the next owner", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged")
            && it.strings()[2] == waiting.unique_name()
    });
    let queue = client.list("ListQueuedOwners", &Body::new().str(TALKS));
    assert_eq!(queue, [waiting.unique_name()]);
    works(&mut client, TALKS, &mut waiting);
}

#[test]
fn rules_that_eavesdrop_show_nothing_of_the_host() {
    let place = place();
    let (mut one, mut other) = (place.outside(), place.service(TALKS));
    let mut client = place.inside();
    for rule in [
        "eavesdrop='true'",
        "eavesdrop='true',type='method_call'",
        "eavesdrop='true',type='method_return'",
        "eavesdrop='true',sender='org.example.Talks'",
        "eavesdrop='true',destination='org.example.Talks'",
    ] {
        client.add_match(rule);
    }
    works(&mut one, TALKS, &mut other);
    let to = one.unique_name().to_owned();
    other.send(signal("Secret").destination(&to));
    one.expect_signal(INTERFACE, "Secret");
    client.call_driver("ListNames", &Body::new());
    for got in client.all_so_far() {
        assert!(got.header().interface != Some(INTERFACE), "{got}");
        assert!(got.sender() == "org.freedesktop.DBus", "{got}");
    }
}

#[test]
fn a_monitor_inside_sees_the_view_and_not_the_host() {
    let place = place();
    let (mut one, mut hidden) = (place.outside(), place.service(HIDDEN));
    let mut monitor = place.inside();
    let body = Body::new().strs([""; 0]).u32(0);
    let become_monitor = Builder::method_call("/org/freedesktop/DBus", "BecomeMonitor")
        .interface("org.freedesktop.DBus.Monitoring")
        .destination("org.freedesktop.DBus");
    monitor.call(become_monitor.body(&body)).returned();
    works(&mut one, HIDDEN, &mut hidden);
    hidden.send(signal("Secret"));
    assert_eq!(hidden.release_name(HIDDEN), 1);
    let mut client = place.inside();
    client.send(signal("Last"));
    monitor.expect("the last signal", |it| {
        let of_host = it.header().interface == Some(INTERFACE) && !it.is_signal(INTERFACE, "Last");
        assert!(!of_host, "{it}");
        let is_change = it.is_signal("org.freedesktop.DBus", "NameOwnerChanged");
        assert!(!is_change || it.text() != HIDDEN, "{it}");
        it.is_signal(INTERFACE, "Last")
    });
}

#[test]
fn a_name_taken_inside_says_nothing_of_the_host_s() {
    let place = place();
    let _hidden = place.service(HIDDEN);
    let mut client = place.inside();
    client.add_match("type='signal',member='NameOwnerChanged'");
    assert_eq!(client.request_name(HIDDEN, 0), 1);
    assert_eq!(client.request_name(SYSTEMD, 0), 1);
    let status = Builder::method_call("/org/freedesktop/DBus", "GetStatus")
        .interface("org.kde.kapsule.Router1")
        .destination("org.freedesktop.DBus");
    let status = client.call(status).returned();
    assert!(
        !status.text().contains("\"hides_host\":true"),
        "{}",
        status.text()
    );
    assert_eq!(client.release_name(HIDDEN), 1);
    let own = client.unique_name().to_owned();
    let changes = crate::reload::changes(&mut client);
    for change in changes.iter().filter(|it| it[0] == HIDDEN) {
        assert!(
            change[1..] == ["", &own] || change[1..] == [&own, ""],
            "{change:?}"
        );
    }
}

#[test]
fn a_reply_reaches_who_asked_and_once() {
    let place = place();
    let mut talks = place.service(TALKS);
    let mut stranger = place.outside();
    let mut client = place.inside();
    let to = client.unique_name().to_owned();
    let serial = talks.send(call(&to, "Work"));
    let received = client.expect_call("Work");
    let stranger_name = stranger.unique_name().to_owned();
    // To somebody else, under another serial, and a second time.
    client.send(Builder::method_return(serial).destination(&stranger_name));
    let own = talks.unique_name().to_owned();
    client.send(Builder::method_return(serial + 1).destination(&own));
    client.answer(&received, &Body::new().str("first"));
    client.answer(&received, &Body::new().str("second"));
    client.call_driver("ListNames", &Body::new());
    assert_eq!(talks.expect_reply(serial).returned().text(), "first");
    assert!(talks.all_so_far().iter().all(|it| {
        it.header()
            .reply_serial
            .is_none_or(|it| it != serial && it != serial + 1)
    }));
    assert!(
        stranger
            .all_so_far()
            .iter()
            .all(|it| !it.is_reply_to(serial) || it.sender() == "org.freedesktop.DBus")
    );
}
