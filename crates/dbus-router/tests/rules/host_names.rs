//! Names of the host, as clients inside see them.

use dbus_router::{Access, NameRule, Rules};
use dbus_wire::body::Body;

use crate::place::{
    Place, call, filter, host_route, listed, members, names, refusal, signal, works,
};

const HIDDEN: &str = "org.example.Hidden";
const SEEN: &str = "org.example.Seen";
const TALKS: &str = "org.example.Talks";

const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";

fn see_and_talk() -> Place {
    Place::new(names(vec![
        filter(SEEN, Access::See),
        filter(TALKS, Access::Talk),
    ]))
}

#[test]
fn a_name_that_no_rule_mentions_does_not_exist() {
    let place = see_and_talk();
    let hidden = place.service(HIDDEN);
    let mut client = place.inside();
    assert_eq!(refusal(&mut client, HIDDEN), UNKNOWN);
    assert_eq!(refusal(&mut client, hidden.unique_name()), UNKNOWN);
    for name in [HIDDEN, hidden.unique_name()] {
        let body = Body::new().str(name);
        assert_eq!(client.call_driver_error("GetNameOwner", &body), NO_OWNER);
        let has = client.call_driver("NameHasOwner", &body);
        assert!(!has.reader().boolean().unwrap());
        for member in [
            "ListQueuedOwners",
            "GetConnectionUnixUser",
            "GetConnectionUnixProcessID",
            "GetConnectionCredentials",
        ] {
            assert_eq!(
                client.call_driver_error(member, &body),
                NO_OWNER,
                "{member}"
            );
        }
        let start = Body::new().str(name).u32(0);
        client.call_driver_error("StartServiceByName", &start);
        assert!(!listed(&mut client).contains(&name.to_owned()));
    }
}

#[test]
fn a_name_that_may_be_seen_is_listed_and_cannot_be_called() {
    let place = see_and_talk();
    let seen = place.service(SEEN);
    let mut client = place.inside();
    assert_eq!(refusal(&mut client, SEEN), DENIED);
    assert_eq!(refusal(&mut client, seen.unique_name()), DENIED);
    let listed = listed(&mut client);
    assert!(listed.contains(&SEEN.to_owned()));
    assert!(listed.contains(&seen.unique_name().to_owned()));
    let owner = client.call_driver("GetNameOwner", &Body::new().str(SEEN));
    assert_eq!(owner.text(), seen.unique_name());
}

#[test]
fn a_name_that_may_be_talked_to_answers_and_is_heard() {
    let place = see_and_talk();
    let mut service = place.service(TALKS);
    let mut client = place.inside();
    works(&mut client, TALKS, &mut service);
    let unique = service.unique_name().to_owned();
    works(&mut client, &unique, &mut service);
    client.add_match("type='signal',interface='org.example.Test'");
    service.send(signal("Heard"));
    client.expect_signal("org.example.Test", "Heard");
    // Who may be spoken to may speak.
    let name = client.unique_name().to_owned();
    works(&mut service, &name, &mut client);
}

#[test]
fn signals_come_from_those_alone_who_may_be_talked_to() {
    let place = see_and_talk();
    let mut others = [place.service(HIDDEN), place.service(SEEN), place.outside()];
    let mut talks = place.service(TALKS);
    let mut client = place.inside();
    client.add_match("type='signal'");
    client.add_match("eavesdrop='true'");
    let to = client.unique_name().to_owned();
    for other in &mut others {
        other.send(signal("Secret"));
        other.send(signal("Secret").destination(&to));
        // The bus has passed both on before it answers this.
        other.call_driver("GetId", &Body::new());
    }
    talks.send(signal("Last"));
    let heard = client.expect("the last signal", |it| {
        assert!(!it.is_signal("org.example.Test", "Secret"), "{it}");
        it.is_signal("org.example.Test", "Last")
    });
    assert_eq!(heard.sender(), talks.unique_name());
}

#[test]
fn changes_of_owners_are_told_of_names_that_may_be_seen() {
    let place = see_and_talk();
    let mut client = place.inside();
    client.add_match("type='signal',member='NameOwnerChanged'");
    let (hidden, stranger) = (place.service(HIDDEN), place.outside());
    let secrets = [
        HIDDEN.to_owned(),
        hidden.unique_name().to_owned(),
        stranger.unique_name().to_owned(),
    ];
    drop((hidden, stranger));
    let seen = place.service(SEEN);
    let unique = seen.unique_name().to_owned();
    drop(seen);
    // Its names go, and then it goes itself; of whom one saw come one sees the end.
    let told = std::cell::RefCell::new(Vec::new());
    client.expect("the end of who was seen", |it| {
        if !it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") {
            return false;
        }
        let change: Vec<String> = it.strings().into_iter().map(str::to_owned).collect();
        let is_last = change[0] == unique && change[2].is_empty();
        told.borrow_mut().push(change);
        is_last
    });
    let told = told.into_inner();
    assert!(told.iter().any(|it| it[0] == SEEN && it[2] == unique));
    assert!(told.iter().any(|it| it[0] == SEEN && it[1] == unique));
    for change in &told {
        assert!(!secrets.iter().any(|it| change.contains(it)), "{change:?}");
    }
}

#[test]
fn a_single_call_may_be_allowed() {
    let place = Place::new(names(vec![NameRule {
        calls: members(&["org.example.Test.Work@/org/example/*"]),
        broadcasts: members(&["org.example.Test.Told"]),
        ..filter(TALKS, Access::Hidden)
    }]));
    let mut service = place.service(TALKS);
    let mut client = place.inside();
    works(&mut client, TALKS, &mut service);
    let unique = service.unique_name().to_owned();
    works(&mut client, &unique, &mut service);
    assert_eq!(client.call(call(TALKS, "Other")).failed(), DENIED);
    client.add_match("type='signal',interface='org.example.Test'");
    service.send(signal("Untold"));
    service.send(signal("Told"));
    client.expect("what was allowed", |it| {
        assert!(!it.is_signal("org.example.Test", "Untold"));
        it.is_signal("org.example.Test", "Told")
    });
}

#[test]
fn a_host_route_is_the_host_s_for_everybody() {
    let place = Place::new(names(vec![host_route(TALKS)]));
    let mut service = place.service(TALKS);
    let (mut client, mut thief) = (place.inside(), place.inside());
    let body = Body::new().str(TALKS).u32(0);
    assert_eq!(thief.call_driver_error("RequestName", &body), DENIED);
    works(&mut client, TALKS, &mut service);
    let owner = client.call_driver("GetNameOwner", &Body::new().str(TALKS));
    assert_eq!(owner.text(), service.unique_name());
}

#[test]
fn the_inside_has_its_own_names_and_they_come_first() {
    let place = see_and_talk();
    let _outside = place.service(TALKS);
    let (mut client, mut service) = (place.inside(), place.inside());
    assert_eq!(service.request_name(TALKS, 0), 1);
    works(&mut client, TALKS, &mut service);
    let unique = service.unique_name().to_owned();
    works(&mut client, &unique, &mut service);
}

#[test]
fn what_hands_over_the_host_needs_to_be_named() {
    const SYSTEMD: &str = "org.freedesktop.systemd1";
    for (rule, reached) in [("org.freedesktop.*", false), (SYSTEMD, true)] {
        let place = Place::new(names(vec![filter(rule, Access::Talk)]));
        let mut systemd = place.service(SYSTEMD);
        let mut client = place.inside();
        let unique = systemd.unique_name().to_owned();
        if reached {
            works(&mut client, SYSTEMD, &mut systemd);
            works(&mut client, &unique, &mut systemd);
        } else {
            assert_eq!(refusal(&mut client, SYSTEMD), DENIED);
            assert_eq!(refusal(&mut client, &unique), DENIED);
            assert!(!listed(&mut client).contains(&SYSTEMD.to_owned()));
        }
    }
}

#[test]
fn a_stranger_may_not_call_a_client_and_is_told_so() {
    let place = see_and_talk();
    let mut stranger = place.outside();
    let client = place.inside();
    assert_eq!(refusal(&mut stranger, client.unique_name()), DENIED);
}

#[test]
fn a_name_that_changes_its_owner_is_judged_by_what_it_is_now() {
    let place = see_and_talk();
    let (mut first, mut second) = (place.outside(), place.service(HIDDEN));
    let mut client = place.inside();
    assert_eq!(first.request_name(TALKS, 1), 1);
    works(&mut client, TALKS, &mut first);
    assert_eq!(second.request_name(TALKS, 2), 1);
    works(&mut client, TALKS, &mut second);
    client.call_driver("GetNameOwner", &Body::new().str(TALKS));
    let gone = first.unique_name().to_owned();
    // The router's own control link learns of changes in its own time.
    let mut errors = 0;
    for _ in 0..1000 {
        let serial = client.send(call(&gone, "Probe"));
        let reply = client.expect("an answer, or the call", |it| it.is_reply_to(serial));
        if reply.error_name() == Some(UNKNOWN) {
            errors += 1;
            break;
        }
    }
    assert_eq!(errors, 1);
}

#[test]
fn with_no_rules_nothing_of_the_host_is_there() {
    let place = Place::new(Rules::default());
    let _service = place.service(TALKS);
    let mut client = place.inside();
    assert_eq!(
        listed(&mut client),
        [
            "org.freedesktop.DBus".to_owned(),
            client.unique_name().to_owned()
        ]
    );
}
