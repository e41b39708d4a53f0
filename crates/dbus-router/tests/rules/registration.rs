//! The application as which clients are known to the host's portal.

use dbus_router::{Access, Rules};
use dbus_wire::body::Body;

use crate::place::{Place, call, filter};

const PORTAL: &str = "org.freedesktop.portal.Desktop";

fn rules() -> Rules {
    Rules {
        app_id: Some("org.example.App".to_owned()),
        names: vec![filter("org.freedesktop.portal.*", Access::Talk)],
        ..Rules::default()
    }
}

#[test]
fn a_client_is_registered_once_and_before_its_first_portal_call() {
    let place = Place::new(rules());
    let mut portal = place.service(PORTAL);
    let mut client = place.inside();
    let serials = [
        client.send(call(PORTAL, "First")),
        client.send(call(PORTAL, "Second")),
    ];
    let mut calls = Vec::new();
    while calls.len() < 3 {
        let received = portal.receive();
        if received
            .header()
            .interface
            .is_some_and(|it| it != "org.freedesktop.DBus")
        {
            calls.push(received);
        }
    }
    let members: Vec<_> = calls.iter().filter_map(|it| it.header().member).collect();
    assert_eq!(members, ["Register", "First", "Second"]);
    let registered = &calls[0];
    assert_eq!(
        registered.header().interface,
        Some("org.freedesktop.host.portal.Registry")
    );
    assert_eq!(
        registered.header().path,
        Some("/org/freedesktop/portal/desktop")
    );
    assert_eq!(registered.header().signature, "sa{sv}");
    assert_eq!(registered.text(), "org.example.App");
    assert_eq!(registered.sender(), client.unique_name());
    // A portal without that interface refuses; the client hears nothing of it.
    portal.answer_error(registered, "org.freedesktop.DBus.Error.UnknownMethod", "no");
    for received in &calls[1..] {
        portal.answer(received, &Body::new());
    }
    for serial in serials {
        client.expect("the answers, and no other", |it| {
            assert!(it.error_name().is_none(), "{it}");
            it.is_reply_to(serial)
        });
    }
}

#[test]
fn without_a_portal_the_client_gets_the_bus_s_own_error() {
    let place = Place::new(rules());
    let mut client = place.inside();
    let error = client.call(call(PORTAL, "First")).failed();
    assert_eq!(error, "org.freedesktop.DBus.Error.ServiceUnknown");
    assert!(
        client
            .all_so_far()
            .iter()
            .all(|it| it.error_name().is_none())
    );
}
