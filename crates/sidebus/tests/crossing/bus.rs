//! The machine's bus, as programs of the guest see it.

use dbus_wire::{Body, Builder};
use testbed::raw_client::{DRIVER, call};
use testbed::{RawClient, needs, run_program, tools};

use crate::rig::{Rig, SERVICE, Transport};

#[test]
fn a_call_crosses_both_ways_over_either_transport() {
    for transport in [Transport::Hybrid, Transport::Plain] {
        for service_in_guest in [false, true] {
            let rig = Rig::start_with(transport, "");
            let (mut service, mut caller) = rig.pair(service_in_guest);
            let body = Body::new().str("are you there?");
            let serial = caller.send(call(SERVICE, "/a", "org.example.A", "Ask").body(&body));
            let asked = service.expect_call("Ask");
            assert_eq!(asked.text(), "are you there?");
            assert_eq!(asked.sender(), caller.unique_name());
            service.answer(&asked, &Body::new().str("yes"));
            let reply = caller.expect_reply(serial).returned();
            assert_eq!(reply.text(), "yes");
            assert_eq!(reply.sender(), service.unique_name());
        }
    }
}

#[test]
fn programs_of_every_library_find_a_bus() {
    needs!(tools::BUSCTL, tools::GDBUS, tools::DBUS_SEND);
    let rig = Rig::start();
    let address = rig.guest_address();
    let _service = rig.service();

    let mut busctl = rig.command("busctl");
    busctl.args(["--address", &address, "--list", "list"]);
    let names = run_program(busctl, &address).success();
    assert!(names.contains(SERVICE), "{names}");

    let mut gdbus = rig.command("gdbus");
    gdbus.args(["call", "--address", &address, "-d", DRIVER, "-o", "/"]);
    gdbus.args(["-m", "org.freedesktop.DBus.NameHasOwner", SERVICE]);
    assert_eq!(run_program(gdbus, &address).success().trim(), "(true,)");

    let mut dbus_send = rig.command("dbus-send");
    dbus_send.args(["--session", "--print-reply", "--dest=org.freedesktop.DBus"]);
    dbus_send.args([
        "/",
        "org.freedesktop.DBus.GetNameOwner",
        &format!("string:{SERVICE}"),
    ]);
    let owner = run_program(dbus_send, &address).success();
    assert!(owner.contains("string \":1."), "{owner}");
}

#[test]
fn a_service_written_with_zbus_serves_the_host_from_the_guest() {
    struct Greeter;
    #[zbus::interface(name = "org.example.Greeter")]
    impl Greeter {
        fn greet(&self, name: &str) -> String {
            format!("Hello {name}!")
        }
    }
    let rig = Rig::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let serving = runtime.block_on(async {
        zbus::connection::Builder::address(rig.guest_address().as_str())
            .serve_at("/greeter", Greeter)
            .name(SERVICE)
            .build()
            .await
            .unwrap()
    });
    let mut host = rig.host();
    let body = Body::new().str("host");
    let reply = host
        .call(call(SERVICE, "/greeter", "org.example.Greeter", "Greet").body(&body))
        .returned();
    assert_eq!(reply.text(), "Hello host!");
    drop(serving);
}

#[test]
fn the_bus_says_of_a_program_what_the_agent_says() {
    let rig = Rig::start();
    let mut guest = rig.guest();
    let name = guest.unique_name().to_owned();
    let body = Body::new().str(&name);
    let pid = guest
        .call_driver("GetConnectionUnixProcessID", &body)
        .number();
    assert_eq!(pid, std::process::id());
    let uid = guest.call_driver("GetConnectionUnixUser", &body).number();
    assert_eq!(uid, rustix::process::getuid().as_raw());
}

#[test]
fn a_guest_may_not_watch_own_a_portals_name_or_listen_to_others() {
    let rig = Rig::start();
    let mut guest = rig.guest();
    let rules = Body::new().array("s", |a| a).u32(0);
    let monitor = call(
        DRIVER,
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus.Monitoring",
        "BecomeMonitor",
    );
    let denied = "org.freedesktop.DBus.Error.AccessDenied";
    assert_eq!(guest.call(monitor.body(&rules)).failed(), denied);
    for name in [
        "org.freedesktop.portal.Desktop",
        "org.freedesktop.portal.Documents",
        "org.freedesktop.impl.portal.Secret",
        "com.example.NotAllowed",
    ] {
        let body = Body::new().str(name).u32(0);
        assert_eq!(
            guest.call_driver_error("RequestName", &body),
            denied,
            "{name}"
        );
    }
    let body = Body::new().str("eavesdrop='true'");
    assert_eq!(guest.call_driver_error("AddMatch", &body), denied);
}

#[test]
fn a_signal_reaches_who_asked_for_it_on_the_other_side() {
    let rig = Rig::start();
    let (mut service, mut guest) = rig.pair(false);
    guest.add_match("type='signal',interface='org.example.A'");
    let body = Body::new().str("news");
    service.send(Builder::signal("/a", "org.example.A", "Changed").body(&body));
    let signal = guest.expect_signal("org.example.A", "Changed");
    assert_eq!(signal.text(), "news");
}

#[test]
fn calls_that_follow_hello_at_once_are_answered_in_order() {
    let rig = Rig::start();
    let mut guest = RawClient::connect(&rig.guest_address());
    guest.authenticate();
    let hello = guest.send(testbed::raw_client::driver_call("Hello", &Body::new()));
    let calls: Vec<u32> = (0..50)
        .map(|_| guest.send(testbed::raw_client::driver_call("GetId", &Body::new())))
        .collect();
    let name = guest.expect_reply(hello).returned();
    assert!(name.text().starts_with(":1."));
    for call in calls {
        guest.expect_reply(call).returned();
    }
}

#[test]
fn a_large_message_arrives_whole_in_both_directions() {
    let rig = Rig::start();
    let (mut service, mut guest) = rig.pair(false);
    let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7) as u8).collect();
    let body = Body::new().bytes(&bytes);
    let serial = guest.send(call(SERVICE, "/a", "org.example.A", "Take").body(&body));
    let taken = service.expect_call("Take");
    assert!(taken.reader().bytes().unwrap() == bytes);
    service.answer(&taken, &body);
    let reply = guest.expect_reply(serial).returned();
    assert!(reply.reader().bytes().unwrap() == bytes);
}

#[test]
fn a_message_in_the_other_byte_order_and_in_pieces_arrives() {
    let rig = Rig::start();
    let (mut service, mut guest) = rig.pair(false);
    let body = Body::with_endian(dbus_wire::Endian::Big).str("big");
    let message = Builder::method_call("/a", "Ask")
        .endian(dbus_wire::Endian::Big)
        .destination(SERVICE)
        .serial(77)
        .body(&body)
        .build();
    for piece in message.chunks(5) {
        guest.send_bytes(piece);
    }
    let asked = service.expect_call("Ask");
    assert_eq!(asked.text(), "big");
    service.answer(&asked, &Body::new());
    guest.expect_reply(77).returned();
}

#[test]
fn a_program_that_sends_what_is_no_message_is_disconnected_and_others_are_not() {
    let rig = Rig::start();
    let mut other = rig.guest();
    let mut guest = rig.guest();
    guest.send_bytes(&[b'x'; 64]);
    guest.expect_closed();
    // A header that is well-formed, and a boolean that is neither true nor false: the bus finds that.
    let (_service, mut guest) = rig.pair(false);
    let body = Body::from_parts(dbus_wire::Endian::Little, "b", vec![7, 0, 0, 0]);
    guest.send(call(SERVICE, "/a", "org.example.A", "Ask").body(&body));
    guest.expect_closed();
    assert!(!other.list_names().is_empty());
}
