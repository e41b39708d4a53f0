//! What a client of the machine's bus may not do there.

use dbus_wire::Body;
use testbed::RawClient;

use crate::Attack;
use crate::raw_guest::{Method, RawGuest};

const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";

#[test]
fn names_of_portals_and_others_cannot_be_taken() {
    let mut attack = Attack::on_the_bus_alone("[guest]\nservices = [\"org.example.Mine\"]\n");
    let mut client = attack.client();
    for name in [
        "org.freedesktop.portal.Desktop",
        "org.freedesktop.portal.Documents",
        "org.freedesktop.portal.Anything",
        "org.freedesktop.impl.portal.PermissionStore",
        "org.freedesktop.systemd1",
        "org.example.Other",
        "org.example.MineToo",
    ] {
        let reply = client.call_driver("RequestName", &Body::new().str(name).u32(7));
        assert_eq!(reply.failed(), ACCESS_DENIED, "{name}");
    }
    let reply = client.call_driver("RequestName", &Body::new().str("org.example.Mine").u32(0));
    assert_eq!(
        reply.returned().number(),
        1,
        "what the policy names is the guest's"
    );
    attack.the_broker_is_well();
}

#[test]
fn nobody_in_the_guest_monitors_or_eavesdrops() {
    let mut attack = Attack::on_the_bus_alone("[guest]\nservices = [\"org.example.Mine\"]\n");
    let (mut spy, _) = RawGuest::on_the_bus(&attack.port, attack.session);
    let monitor = Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus.Monitoring",
        member: "BecomeMonitor",
    };
    let body = Body::new().array("s", |rules| rules).u32(0);
    assert_eq!(spy.call(monitor, &body).failed(), ACCESS_DENIED);
    // Taken or refused: nothing of others comes by it.
    for rule in ["eavesdrop='true'", "eavesdrop='true',type='method_call'"] {
        spy.call_driver("AddMatch", &Body::new().str(rule));
    }
    let (mut service, _) = RawGuest::on_the_bus(&attack.port, attack.session);
    service
        .call_driver("RequestName", &Body::new().str("org.example.Mine").u32(0))
        .returned();
    let mut caller = attack.client();
    let secret = Method {
        destination: "org.example.Mine",
        path: "/x",
        interface: "org.example.Mine",
        member: "Secret",
    };
    caller.send_call(secret, &Body::new().str("password"), Vec::new());
    // Whether the call is delivered is the policy's; when the bus has answered this, it was, or never will be.
    caller.call_driver("GetId", &Body::new());
    let serial = spy.send_call(
        Method {
            member: "GetId",
            interface: "org.freedesktop.DBus",
            ..monitor
        },
        &Body::new(),
        Vec::new(),
    );
    loop {
        let message = spy.message();
        assert_ne!(message.header().member, Some("Secret"), "{message}");
        if message.header().reply_serial == Some(serial) {
            break;
        }
    }
    attack.the_broker_is_well();
}

#[test]
fn the_debugging_socket_gives_no_more_rights() {
    let attack = Attack::on_the_bus_alone("");
    let mut client = RawClient::open(&attack.broker.address());
    let body = Body::new().str("org.freedesktop.portal.Desktop").u32(0);
    assert_eq!(
        client.call_driver_error("RequestName", &body),
        ACCESS_DENIED
    );
}

#[test]
fn ten_thousand_calls_that_nobody_answers_meet_a_limit() {
    let mut attack = Attack::on_the_bus_alone("[guest]\nservices = [\"org.example.Mine\"]\n");
    let (mut service, _) = RawGuest::on_the_bus(&attack.port, attack.session);
    service
        .call_driver("RequestName", &Body::new().str("org.example.Mine").u32(0))
        .returned();
    let before = attack.broker.memory();
    let mut caller = attack.client();
    let deaf = Method {
        destination: "org.example.Mine",
        path: "/x",
        interface: "org.example.Mine",
        member: "Wait",
    };
    let serials: Vec<u32> = (0..10_000)
        .map(|_| caller.send_call(deaf, &Body::new().str("x"), Vec::new()))
        .collect();
    // The last one is refused, or the caller has been ended: it does not wait with the others.
    let last = serials.last().copied();
    while let Some(message) = caller.message_or_end() {
        if message.header().reply_serial == last {
            assert!(message.error_name().is_some(), "{message}");
            break;
        }
    }
    attack.the_broker_is_well();
    let cost = attack.broker.memory().saturating_sub(before);
    assert!(cost < 64 << 20, "{cost} bytes");
}

#[test]
fn who_does_not_read_is_ended_or_bounded_and_others_are_served() {
    let mut attack = Attack::on_the_bus_alone("");
    let before = attack.broker.memory();
    let mut deaf = attack.client();
    // Each answer is larger than its question: the bus describes itself.
    let describe = Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus.Introspectable",
        member: "Introspect",
    };
    deaf.stream
        .set_write_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("a socket");
    let mut sent = 0;
    // Until the broker takes no more, or ends us.
    while sent < 50_000 && deaf.try_send_call(describe, &Body::new()) {
        sent += 1;
    }
    attack.the_broker_is_well();
    let cost = attack.broker.memory().saturating_sub(before);
    assert!(
        cost < 128 << 20,
        "{cost} bytes for one that does not read ({sent} calls)"
    );
    drop(deaf);
    attack.the_broker_is_well();
}

#[test]
fn clients_have_a_bound_and_their_places_come_back() {
    let mut attack = Attack::on_the_bus_alone("[limits]\nclients = 20\n");
    let crowd: Vec<RawGuest> = (0..19).map(|_| attack.client()).collect();
    attack.the_broker_is_well();
    // The broker notices in its own time that who asked it has gone.
    let _twentieth = a_place_of_its_own(&attack);
    let mut one_more = RawGuest::connect(&attack.port);
    one_more.open_client(attack.session);
    assert!(matches!(
        one_more.fate(),
        crate::raw_guest::Fate::Refused(_)
    ));
    drop(crowd);
    a_place_of_its_own(&attack);
}

/// A client, as soon as there is a place for it.
fn a_place_of_its_own(attack: &Attack) -> RawGuest {
    let deadline = testbed::Deadline::usual();
    loop {
        let mut next = RawGuest::connect(&attack.port);
        next.open_client(attack.session);
        if next.is_welcome() {
            return next;
        }
        assert!(!deadline.left().is_zero(), "places come back");
    }
}
