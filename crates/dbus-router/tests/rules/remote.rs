//! Rules where the container bus is a dbus-daemon of its own, to which other programs are connected directly.

use dbus_router::{Access, Export, HostPass, NamePattern, Policy, Rules};
use dbus_wire::body::Body;
use dbus_wire::message::Builder;
use testbed::{DaemonOptions, DbusDaemon, RawClient, TestDir};

use crate::place::{Place, filter, host_route, id, listed, names, refusal, signal, works};
use crate::reload::changes;

const NAME: &str = "org.example.Talks";
const HIDDEN: &str = "org.example.Hidden";
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";

/// A place with a container bus. The first field ends first.
struct Both {
    place: Place,
    container: DbusDaemon,
    dir: TestDir,
}

impl Both {
    fn new(rules: Rules) -> Both {
        let dir = TestDir::new();
        let container = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        let place = Place::configured(rules, |config| {
            // Without its GUID: another daemon takes its place in one test.
            let address = format!("unix:path={}", container.socket().display());
            config.container = Some(dbus_wire::address::parse_addresses(&address).unwrap());
        });
        Both {
            place,
            container,
            dir,
        }
    }

    /// A program that is connected to the container bus itself.
    fn native(&self) -> RawClient {
        RawClient::open(self.container.address())
    }

    fn reload(&self, rules: Rules) {
        self.place.handle.set_policy(Policy::from_rules(rules));
        self.place.handle.status().unwrap();
    }
}

fn talks() -> Rules {
    names(vec![
        filter(NAME, Access::Talk),
        filter("org.example.Seen", Access::See),
    ])
}

#[test]
fn names_of_the_host_are_seen_and_reached_as_the_rules_say() {
    let both = Both::new(talks());
    let place = &both.place;
    let mut service = place.service(NAME);
    let (hidden, seen) = (place.service(HIDDEN), place.service("org.example.Seen"));
    let mut client = place.inside();
    works(&mut client, NAME, &mut service);
    let unique = service.unique_name().to_owned();
    works(&mut client, &unique, &mut service);
    for (name, error) in [
        (HIDDEN, UNKNOWN),
        (hidden.unique_name(), UNKNOWN),
        ("org.example.Seen", DENIED),
        (seen.unique_name(), DENIED),
        ("org.freedesktop.systemd1", DENIED),
    ] {
        assert_eq!(refusal(&mut client, name), error, "{name}");
    }
    let listed = listed(&mut client);
    for name in [NAME, "org.example.Seen", &unique, seen.unique_name()] {
        assert!(listed.iter().any(|it| it == name), "{name}");
    }
    for name in [HIDDEN, hidden.unique_name()] {
        assert!(!listed.iter().any(|it| it == name), "{name}");
        let body = Body::new().str(name);
        let has = client.call_driver("NameHasOwner", &body);
        assert!(!has.reader().boolean().unwrap());
    }
    // The host hears nothing of the inside, and does not get in.
    let mut stranger = place.outside();
    stranger.add_match("type='signal',interface='org.example.Test'");
    client.send(signal("Secret"));
    client.call_driver("GetId", &Body::new());
    assert_eq!(refusal(&mut stranger, client.unique_name()), DENIED);
    assert!(
        stranger
            .signals_so_far()
            .iter()
            .all(|it| !it.contains("Secret"))
    );
}

#[test]
fn programs_of_both_kinds_have_the_inside_to_themselves() {
    let both = Both::new(talks());
    let (mut native, mut client) = (both.native(), both.place.inside());
    let _hidden = both.place.service(HIDDEN);
    assert_eq!(native.request_name(HIDDEN, 0), 1);
    works(&mut client, HIDDEN, &mut native);
    assert_eq!(client.request_name("org.example.Client", 0), 1);
    works(&mut native, "org.example.Client", &mut client);
}

#[test]
fn a_host_route_is_the_host_s_whoever_has_the_name_inside() {
    let both = Both::new(names(vec![host_route(NAME)]));
    let mut service = both.place.service(NAME);
    let (mut native, mut client) = (both.native(), both.place.inside());
    assert_eq!(native.request_name(NAME, 0), 1);
    let body = Body::new().str(NAME).u32(0);
    assert_eq!(client.call_driver_error("RequestName", &body), DENIED);
    works(&mut client, NAME, &mut service);
    assert_eq!(
        client.name_owner(NAME).as_deref(),
        Some(service.unique_name())
    );
    client.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    assert_eq!(native.release_name(NAME), 1);
    native.call_driver("GetId", &Body::new());
    client.call_driver("ListNames", &Body::new());
    assert_eq!(changes(&mut client).len(), 0);
}

#[test]
fn an_exported_name_is_there_on_the_host() {
    let both = Both::new(Rules {
        exports: vec![Export {
            id: id("export"),
            name: NamePattern::parse("org.mpris.*").unwrap(),
            rename: None,
            signals: true,
            replace: false,
            calls: None,
        }],
        ..Rules::default()
    });
    let (mut player, mut outside) = (both.place.inside(), both.place.outside());
    outside.add_match("member='NameOwnerChanged',arg0='org.mpris.Player'");
    outside.add_match("type='signal',interface='org.example.Test'");
    assert_eq!(player.request_name("org.mpris.Player", 0), 1);
    // The container bus has answered; the host has been asked, and may not have answered yet.
    let there = outside.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(there.strings()[2], player.unique_name());
    works(&mut outside, "org.mpris.Player", &mut player);
    player.send(signal("Played"));
    outside.expect_signal("org.example.Test", "Played");
    assert_eq!(player.release_name("org.mpris.Player"), 1);
    outside.expect("the end of the export", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.strings()[2].is_empty()
    });
}

#[test]
fn new_rules_take_a_name_from_the_client_that_has_it_inside() {
    let both = Both::new(Rules::default());
    let mut service = both.place.service(NAME);
    let (mut owner, mut client) = (both.place.inside(), both.place.inside());
    assert_eq!(owner.request_name(NAME, 0), 1);
    works(&mut client, NAME, &mut owner);
    client.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    both.reload(names(vec![host_route(NAME)]));
    owner.expect_signal("org.freedesktop.DBus", "NameLost");
    works(&mut client, NAME, &mut service);
    let mut native = both.native();
    assert_eq!(native.name_owner(NAME), None);
    // Told once, with the owner that it has now.
    client.call_driver("ListNames", &Body::new());
    let change = [NAME, owner.unique_name(), service.unique_name()].map(str::to_owned);
    assert_eq!(changes(&mut client), [change]);
    both.reload(Rules::default());
    client.call_driver("ListNames", &Body::new());
    let change = [NAME, service.unique_name(), ""].map(str::to_owned);
    assert_eq!(changes(&mut client), [change]);
    assert_eq!(refusal(&mut client, NAME), UNKNOWN);
}

#[test]
fn of_a_name_that_was_taken_the_host_s_changes_are_told() {
    let both = Both::new(Rules::default());
    let (mut owner, mut client) = (both.place.inside(), both.place.inside());
    client.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    assert_eq!(owner.request_name(NAME, 0), 1);
    both.reload(names(vec![host_route(NAME)]));
    owner.expect_signal("org.freedesktop.DBus", "NameLost");
    let service = both.place.service(NAME);
    client.call_driver("ListNames", &Body::new());
    let (inside, outside) = (owner.unique_name(), service.unique_name());
    let expected = [[NAME, "", inside], [NAME, inside, ""], [NAME, "", outside]];
    assert_eq!(
        changes(&mut client),
        expected.map(|it| it.map(str::to_owned))
    );
}

#[test]
fn new_rules_pass_over_who_has_the_name_inside_by_itself() {
    let both = Both::new(Rules::default());
    let mut service = both.place.service(NAME);
    let (mut native, mut client) = (both.native(), both.place.inside());
    assert_eq!(native.request_name(NAME, 0), 1);
    works(&mut client, NAME, &mut native);
    client.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    let inside = client.name_owner(NAME).unwrap();
    both.reload(names(vec![host_route(NAME)]));
    works(&mut client, NAME, &mut service);
    both.reload(Rules::default());
    works(&mut client, NAME, &mut native);
    let service = service.unique_name();
    let expected = [[NAME, &inside, service], [NAME, service, &inside]];
    assert_eq!(
        changes(&mut client),
        expected.map(|it| it.map(str::to_owned))
    );
}

#[test]
fn a_rule_about_a_client_that_has_gone_can_be_taken_back_everywhere() {
    let both = Both::new(Rules::default());
    let (gone, mut client) = (both.place.inside(), both.place.inside());
    let rule = format!("type='signal',sender='{}'", gone.unique_name());
    let mut native = both.native();
    let mut rules = |expected: bool| {
        let stats = Builder::method_call("/org/freedesktop/DBus", "GetAllMatchRules")
            .interface("org.freedesktop.DBus.Debug.Stats")
            .destination("org.freedesktop.DBus");
        let all = native.call(stats).returned();
        let text = format!("{:?}", String::from_utf8_lossy(all.message.bytes()));
        assert_eq!(text.contains("type='signal',sender=':1."), expected);
    };
    client.add_match(&rule);
    rules(true);
    let name = gone.unique_name().to_owned();
    client.add_match(&format!("member='NameOwnerChanged',arg0='{name}'"));
    drop(gone);
    client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    client.remove_match(&rule);
    rules(false);
}

#[test]
fn connections_of_a_container_bus_that_is_back_are_told_as_new() {
    let mut both = Both::new(Rules::default());
    let native = both.native();
    let mut client = both.place.inside();
    client.add_match("type='signal',member='NameOwnerChanged'");
    let shifted = |life: u32, name: &str| {
        let (_, minor) = name.split_once('.').unwrap();
        format!(":{life}000001.{minor}")
    };
    let before = shifted(1, native.unique_name());
    both.container.process().end();
    let gone = client.expect("the end of a native connection", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.text() == before
    });
    assert_eq!(gone.strings(), [before.as_str(), before.as_str(), ""]);
    let options = DaemonOptions::default();
    std::fs::remove_file(both.container.socket()).ok();
    let back = DbusDaemon::start(&both.dir, &options).unwrap();
    let early = RawClient::open(back.address());
    let early_name = shifted(2, early.unique_name());
    let there = client.expect("a connection of the new bus", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.text() == early_name
    });
    assert_eq!(there.strings(), [early_name.as_str(), "", &early_name]);
    let late = RawClient::open(back.address());
    let late_name = shifted(2, late.unique_name());
    client.expect("one that came later", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.text() == late_name
    });
    client.call_driver("ListNames", &Body::new());
    assert_eq!(changes(&mut client).len(), 0, "each is told once");
    let mut late = late;
    works(&mut client, &late_name, &mut late);
    both.container = back;
}

#[test]
fn a_client_that_lives_on_the_host_stays_there_when_the_container_bus_is_back() {
    let mut both = Both::new(Rules {
        hostpass: vec![HostPass {
            id: id("hostpass"),
            process: None,
            cgroup: None,
            unit: None,
            everyone: true,
            access: Access::Own,
        }],
        ..Rules::default()
    });
    let mut client = both.place.inside();
    both.container.process().end();
    std::fs::remove_file(both.container.socket()).ok();
    both.container = DbusDaemon::start(&both.dir, &DaemonOptions::default()).unwrap();
    let mut native = both.native();
    native.add_match("type='signal',member='NameOwnerChanged'");
    // The router's own link, and no other.
    while both.place.handle.status().unwrap().container_bus != "connected" {
        std::thread::yield_now();
    }
    client.list_names();
    let unique = native.list_names();
    let unique = unique.iter().filter(|name| name.starts_with(':'));
    assert_eq!(unique.count(), 2);
}
