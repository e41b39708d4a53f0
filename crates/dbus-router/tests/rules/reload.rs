//! Rules that are replaced while clients are connected and calls are under way.

use dbus_router::{Access, Policy, Rules};
use dbus_wire::body::Body;

use testbed::RawClient;

use crate::place::{Place, call, filter, host_route, names, refusal, works};

const NAME: &str = "org.example.Talks";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";

fn open() -> Rules {
    names(vec![filter(NAME, Access::Talk)])
}

#[test]
fn ten_thousand_calls_during_a_hundred_reloads_are_each_decided() {
    let place = Place::new(open());
    let mut service = place.service(NAME);
    let answering = std::thread::spawn(move || {
        let mut answered = 0u32;
        loop {
            let received = service.receive();
            if received.is_call("Stop") {
                service.answer(&received, &Body::new());
                return answered;
            }
            if received.is_call("Work") {
                service.answer(&received, &Body::new());
                answered += 1;
            }
        }
    });
    let mut client = place.inside();
    let (mut passed, mut hidden) = (0, 0);
    for turn in 0..100 {
        let rules = if turn % 2 == 0 {
            Rules::default()
        } else {
            open()
        };
        let serials: Vec<u32> = (0..100)
            .map(|place_in_turn| {
                if place_in_turn == 50 {
                    place.handle.set_policy(Policy::from_rules(rules.clone()));
                }
                client.send(call(NAME, "Work"))
            })
            .collect();
        for serial in serials {
            let reply = client.expect_reply(serial);
            match reply.error_name() {
                None => passed += 1,
                Some(UNKNOWN) => hidden += 1,
                Some(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!(passed + hidden, 10_000);
    assert!(passed > 0 && hidden > 0, "{passed} passed, {hidden} hidden");
    place.handle.set_policy(Policy::from_rules(open()));
    place.handle.status().unwrap();
    client.call(call(NAME, "Stop")).returned();
    assert_eq!(answering.join().unwrap(), passed);
}

#[test]
fn a_name_that_becomes_the_host_s_is_taken_from_its_owner_inside() {
    let place = Place::new(Rules::default());
    let mut service = place.service(NAME);
    let (mut thief, mut client) = (place.inside(), place.inside());
    assert_eq!(thief.request_name(NAME, 0), 1);
    works(&mut client, NAME, &mut thief);
    place
        .handle
        .set_policy(Policy::from_rules(names(vec![host_route(NAME)])));
    thief.expect_signal("org.freedesktop.DBus", "NameLost");
    works(&mut client, NAME, &mut service);
    place
        .handle
        .set_policy(Policy::from_rules(Rules::default()));
    place.handle.status().unwrap();
    assert_eq!(refusal(&mut client, NAME), UNKNOWN);
}

/// The changes of owners that a client was told of so far.
pub fn changes(client: &mut RawClient) -> Vec<Vec<String>> {
    let told = client.all_so_far();
    let told = told
        .iter()
        .filter(|it| it.is_signal("org.freedesktop.DBus", "NameOwnerChanged"));
    told.map(|it| it.strings().into_iter().map(str::to_owned).collect())
        .collect()
}

#[test]
fn who_watches_a_name_is_told_when_new_rules_show_or_hide_it() {
    let place = Place::new(Rules::default());
    let (service, _other) = (place.service(NAME), place.service("org.example.Other"));
    let (mut watcher, mut one_name, mut client) = (place.inside(), place.inside(), place.inside());
    watcher.add_match("type='signal',member='NameOwnerChanged'");
    one_name.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    client.add_match("type='signal',member='NameOwnerChanged',arg0='org.example.Nobody'");
    let reload = |rules: Rules| {
        place.handle.set_policy(Policy::from_rules(rules));
        place.handle.status().unwrap();
    };
    // See, talk, and a host route are all the same to who watches.
    reload(names(vec![filter(NAME, Access::See)]));
    reload(open());
    reload(names(vec![host_route(NAME)]));
    reload(Rules::default());
    reload(open());
    let owner = service.unique_name().to_owned();
    let change = |old: &str, new: &str| vec![NAME.to_owned(), old.to_owned(), new.to_owned()];
    let all = [change("", &owner), change(&owner, ""), change("", &owner)];
    for client in [&mut watcher, &mut one_name] {
        assert_eq!(changes(client), all);
    }
    // What comes after is told once, too.
    drop(service);
    let gone = watcher.expect("the end of it", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.text() == NAME
    });
    assert_eq!(gone.strings(), [NAME, owner.as_str(), ""]);
    assert_eq!(changes(&mut client), [""; 0].map(|_| Vec::<String>::new()));
}

#[test]
fn a_name_that_is_owned_inside_is_nothing_new_when_the_host_s_can_be_seen() {
    let place = Place::new(Rules::default());
    let _service = place.service(NAME);
    let (mut owner, mut watcher) = (place.inside(), place.inside());
    assert_eq!(owner.request_name(NAME, 0), 1);
    watcher.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    place.handle.set_policy(Policy::from_rules(open()));
    place.handle.status().unwrap();
    assert_eq!(changes(&mut watcher).len(), 0);
    works(&mut watcher, NAME, &mut owner);
}

#[test]
fn a_name_that_moves_to_the_host_moves_from_owner_to_owner() {
    let place = Place::new(Rules::default());
    let service = place.service(NAME);
    let (mut owner, mut watcher) = (place.inside(), place.inside());
    assert_eq!(owner.request_name(NAME, 0), 1);
    watcher.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    place
        .handle
        .set_policy(Policy::from_rules(names(vec![host_route(NAME)])));
    place.handle.status().unwrap();
    let change = [NAME, owner.unique_name(), service.unique_name()].map(str::to_owned);
    assert_eq!(changes(&mut watcher), [change]);
}

#[test]
fn a_name_that_leaves_the_inside_while_new_rules_hide_it_is_told_of_once() {
    let place = Place::new(open());
    let service = place.service(NAME);
    let (mut owner, mut watcher) = (place.inside(), place.inside());
    let (inside, outside) = (
        owner.unique_name().to_owned(),
        service.unique_name().to_owned(),
    );
    let change = |old: &str, new: &str| vec![NAME.to_owned(), old.to_owned(), new.to_owned()];
    watcher.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    for _ in 0..20 {
        assert_eq!(owner.request_name(NAME, 0), 1);
        // Not waited for: the rules change while the host is being asked who owns it there.
        let body = Body::new().str(NAME);
        let release =
            dbus_wire::message::Builder::method_call("/org/freedesktop/DBus", "ReleaseName")
                .interface("org.freedesktop.DBus")
                .destination("org.freedesktop.DBus")
                .body(&body);
        let serial = owner.send(release);
        place
            .handle
            .set_policy(Policy::from_rules(Rules::default()));
        place.handle.status().unwrap();
        owner.expect_reply(serial).returned();
        // The rules may have been first: then it left for nobody.
        let told = changes(&mut watcher);
        let expected = [
            vec![
                change(&outside, &inside),
                change(&inside, &outside),
                change(&outside, ""),
            ],
            vec![change(&outside, &inside), change(&inside, "")],
        ];
        assert!(expected.contains(&told), "{told:?}");
        place.handle.set_policy(Policy::from_rules(open()));
        place.handle.status().unwrap();
        assert_eq!(changes(&mut watcher), [change("", &outside)]);
    }
}

#[test]
fn calls_that_wait_for_a_service_get_no_reply_when_the_host_goes() {
    let dir = testbed::TestDir::new();
    let services = dir.join("dbus-1/services");
    std::fs::create_dir_all(&services).unwrap();
    std::fs::write(
        services.join("slow.service"),
        "[D-BUS Service]\nName=org.example.Slow\nExec=/bin/sleep 60\n",
    )
    .unwrap();
    let mut place = Place::configured(Rules::default(), |config| {
        config.data_dirs = vec![dir.join("")];
    });
    let mut client = place.inside();
    let started = Body::new().str("org.example.Slow").u32(0);
    let start = client.send(
        dbus_wire::message::Builder::method_call("/org/freedesktop/DBus", "StartServiceByName")
            .interface("org.freedesktop.DBus")
            .destination("org.freedesktop.DBus")
            .body(&started),
    );
    let calls = [0; 3].map(|_| client.send(call("org.example.Slow", "Work")));
    client.call_driver("GetId", &Body::new());
    place.host.process().end();
    for serial in calls.into_iter().chain([start]) {
        let reply = client.expect("an answer", |it| it.is_reply_to(serial));
        assert_eq!(
            reply.error_name(),
            Some("org.freedesktop.DBus.Error.NoReply")
        );
    }
    client.expect_closed();
}
