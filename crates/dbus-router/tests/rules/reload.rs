//! Rules that are replaced while clients are connected and calls are under way.

use dbus_router::{Access, Policy, Rules};
use dbus_wire::body::Body;

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
