//! A program that embeds a router, and is a client of it, or answers a name, itself.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use dbus_router::{CallError, Config, InsideRules, OwnService, Reply, Router, Rules, ServeError};
use dbus_wire::body::Body;
use dbus_wire::message::Builder;
use dbus_wire::names::WellKnownName;
use testbed::RawClient;

use crate::place::{INTERFACE, Place, call, signal, works};

const NAME: &str = "org.example.Own";
const FAILED: &str = "org.freedesktop.DBus.Error.Failed";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";

fn name() -> WellKnownName {
    WellKnownName::parse(NAME).unwrap()
}

/// A service that says what it was called with, fails, or panics.
fn serve(place: &Place) -> OwnService {
    let mut calls = 0u32;
    let service = place.handle.serve(name(), move |call| {
        calls += 1;
        match call.member() {
            "Who" => {
                let body = Body::new()
                    .str(call.sender())
                    .str(call.path())
                    .str(call.interface().unwrap_or_default());
                Ok(body.u32(calls).into())
            }
            "Swap" => {
                let fds = std::mem::take(call.fds()).into_iter().rev().collect();
                let body = Body::new().unix_fd(0).unix_fd(1);
                Ok(Reply { body, fds })
            }
            "Add" => {
                let mut args = call.args();
                Ok(Body::new().u32(args.u32()? + args.u32()?).into())
            }
            "Refuse" => Err(CallError::new("org.example.Error.No", "not today\0")),
            "Odd" => Err(CallError::new("no error name", "…")),
            "Panic" => panic!("a fault of the service's"),
            _ => Err(call.unknown_method()),
        }
    });
    service.unwrap()
}

#[test]
fn the_embedding_program_is_a_client_without_a_socket_of_its_own() {
    let place = Place::new(Rules::default());
    let mut own = RawClient::over(place.handle.connect().unwrap());
    own.authenticate();
    own.hello();
    assert_eq!(own.request_name(NAME, 0), 1);
    let mut client = place.inside();
    works(&mut client, NAME, &mut own);
}

#[test]
fn a_function_answers_a_name() {
    let place = Place::new(Rules::default());
    let service = serve(&place);
    let mut client = place.inside();
    assert_eq!(
        client.name_owner(NAME).as_deref(),
        Some(service.unique_name())
    );
    let reply = client.call(call(NAME, "Who")).returned();
    assert_eq!(
        &reply.strings()[..3],
        [client.unique_name(), "/org/example/Test", INTERFACE]
    );
    let sum = Body::new().u32(20).u32(22);
    let reply = client.call(call(NAME, "Add").body(&sum)).returned();
    assert_eq!(reply.number(), 42);
    for (member, error) in [
        ("Add", "org.freedesktop.DBus.Error.InvalidArgs"),
        ("Refuse", "org.example.Error.No"),
        ("Odd", FAILED),
        ("Other", "org.freedesktop.DBus.Error.UnknownMethod"),
    ] {
        assert_eq!(client.call(call(NAME, member)).failed(), error, "{member}");
    }
    let ping = Builder::method_call("/any/path", "Ping")
        .interface("org.freedesktop.DBus.Peer")
        .destination(NAME);
    client.call(ping).returned();
    // Nobody waits for an answer that is not wanted, and none comes.
    let silent = call(NAME, "Who").flags(dbus_wire::frame::Flags::NO_REPLY_EXPECTED);
    let serial = client.send(silent);
    let counted = client.call(call(NAME, "Who")).returned();
    assert!(!client.all_so_far().iter().any(|it| it.is_reply_to(serial)));
    drop(counted);
}

#[test]
fn descriptors_reach_the_function_and_come_back() {
    let place = Place::new(Rules::default());
    let _service = serve(&place);
    let mut client = place.inside();
    let dir = testbed::TestDir::new();
    let files = ["one", "two"].map(|text| File::open(dir.write(text, text)).unwrap());
    let body = Body::new().unix_fd(0).unix_fd(1);
    let fds = [files[0].as_fd(), files[1].as_fd()];
    let mut reply = client.call_with_fds(call(NAME, "Swap").body(&body), &fds);
    assert_eq!(reply.fds.len(), 2);
    let texts: Vec<String> = reply
        .fds
        .drain(..)
        .map(|fd| {
            let mut text = [0; 3];
            File::from(fd).read_exact_at(&mut text, 0).unwrap();
            String::from_utf8(text.to_vec()).unwrap()
        })
        .collect();
    assert_eq!(texts, ["two", "one"]);
}

#[test]
fn its_signals_reach_those_who_want_them() {
    let place = Place::new(Rules::default());
    let service = serve(&place);
    let mut client = place.inside();
    client.add_match(&format!("type='signal',sender='{NAME}'"));
    service.emit(signal("Told")).unwrap();
    let told = client.expect_signal(INTERFACE, "Told");
    assert_eq!(told.sender(), service.unique_name());
    service.end().unwrap();
    assert_eq!(client.call(call(NAME, "Who")).failed(), UNKNOWN);
}

#[test]
fn a_panic_costs_the_service_and_nobody_else() {
    let place = Place::new(Rules::default());
    let service = serve(&place);
    let (mut client, mut other) = (place.inside(), place.inside());
    client.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    assert_eq!(client.call(call(NAME, "Panic")).failed(), FAILED);
    client.expect("that the name has no owner", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.strings()[2].is_empty()
    });
    assert_eq!(other.call(call(NAME, "Who")).failed(), UNKNOWN);
    assert!(service.emit(signal("Told")).is_err());
    let failed = service.end().unwrap_err().to_string();
    assert!(
        failed.contains(NAME) && failed.contains("a fault of the service's"),
        "{failed}"
    );
    let again = serve(&place);
    client.call(call(NAME, "Who")).returned();
    drop(again);
    client.expect("that it has none again", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.strings()[2].is_empty()
    });
}

#[test]
fn a_slow_function_keeps_nobody_else_waiting() {
    let place = Place::new(Rules::default());
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let _service = place
        .handle
        .serve(name(), move |_| {
            let _ = gate.recv();
            Ok(Body::new().into())
        })
        .unwrap();
    let (mut client, mut other) = (place.inside(), place.inside());
    let serial = client.send(call(NAME, "Wait"));
    for _ in 0..10 {
        other.list_names();
        client.list_names();
    }
    open.send(()).unwrap();
    client.expect_reply(serial).returned();
}

#[test]
fn why_a_service_cannot_begin_is_said() {
    let place = Place::new(Rules::default());
    let mut owner = place.inside();
    assert_eq!(owner.request_name(NAME, 0), 1);
    let begun = place
        .handle
        .serve(name(), |call| Err(call.unknown_method()));
    assert!(matches!(begun, Err(ServeError::NameTaken(it)) if it == name()));
    // It does not wait in the queue.
    assert_eq!(
        owner.list("ListQueuedOwners", &Body::new().str(NAME)).len(),
        1
    );
}

#[test]
fn a_bus_that_listens_nowhere_serves_who_is_let_in() {
    let router = Router::start(Config {
        inside: InsideRules::closed(),
        ..Config::default()
    })
    .unwrap();
    assert_eq!(router.address(), "");
    let handle = router.handle();
    let running = std::thread::spawn(move || router.run());
    let service = handle
        .serve(name(), |call| Ok(Body::new().str(call.member()).into()))
        .unwrap();
    let guest = dbus_router::Admission::default();
    let mut client = RawClient::over(handle.connect_with(guest).unwrap());
    client.authenticate();
    client.hello();
    assert_eq!(client.call(call(NAME, "Echo")).returned().text(), "Echo");
    handle.stop();
    running.join().unwrap().unwrap();
    client.expect_closed();
    service.end().unwrap();
}
