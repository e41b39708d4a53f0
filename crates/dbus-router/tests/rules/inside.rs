//! What clients may do inside that are not trusted.

use std::sync::{Arc, Mutex};

use dbus_router::{
    Access, Admission, Config, Credentials, Decision, InsideRules, Limits, NamePattern, Router,
    RouterError, Rules, Watcher,
};
use dbus_wire::body::Body;
use dbus_wire::message::Builder;
use dbus_wire::names::WellKnownName;
use proptest::prelude::*;
use testbed::{RawClient, TestDir};

use crate::place::{Place, call, filter, names, signal, works};

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const PORTAL: &str = "org.freedesktop.portal.Desktop";
const APP: &str = "org.example.App";

/// What a guest's programs may do: own names of theirs, and talk to those who are trusted.
fn guest() -> InsideRules {
    InsideRules {
        own: vec![NamePattern::parse("org.example.*").unwrap()],
        reserved: vec![NamePattern::parse("org.freedesktop.portal.*").unwrap()],
        ..InsideRules::closed()
    }
}

fn place(inside: InsideRules) -> Place {
    Place::configured(Rules::default(), |config| config.inside = inside)
}

fn driver<'m>(member: &'m str, body: &'m Body) -> Builder<'m> {
    Builder::method_call("/org/freedesktop/DBus", member)
        .interface("org.freedesktop.DBus")
        .destination("org.freedesktop.DBus")
        .body(body)
}

/// The error of a call to the driver, and its text.
fn denied(client: &mut RawClient, member: &str, body: &Body) -> String {
    let reply = client.call(driver(member, body));
    assert_eq!(reply.error_name(), Some(DENIED), "{reply}");
    reply.text().to_owned()
}

#[test]
fn names_that_may_not_be_owned_are_refused_and_the_rule_is_named() {
    let place = place(guest());
    let mut client = place.inside();
    assert_eq!(client.request_name(APP, 0), 1);
    // Free or not, with every flag: there is no place in the queue either.
    let mut own = place.trusted();
    for owned in [false, true] {
        if owned {
            assert_eq!(own.request_name(PORTAL, 1), 1);
        }
        for flags in 0..8 {
            let body = Body::new().str(PORTAL).u32(flags);
            let text = denied(&mut client, "RequestName", &body);
            assert!(
                text.contains("inside.reserved: org.freedesktop.portal.*"),
                "{text}"
            );
        }
    }
    let queue = client.list("ListQueuedOwners", &Body::new().str(PORTAL));
    assert_eq!(queue, [own.unique_name()]);
    let body = Body::new().str("com.example.Other").u32(0);
    let text = denied(&mut client, "RequestName", &body);
    assert!(
        text.contains("com.example.Other") && text.contains("inside.own"),
        "{text}"
    );
    drop(own);
    client.add_match("type='signal',sender='org.freedesktop.portal.Desktop'");
    let body = Body::new().str(PORTAL).u32(0);
    denied(&mut client, "RequestName", &body);
}

#[test]
fn programs_talk_to_trusted_ones_and_not_to_each_other() {
    let place = place(guest());
    let (mut one, mut other, mut own) = (place.inside(), place.inside(), place.trusted());
    assert_eq!(one.request_name(APP, 0), 1);
    assert_eq!(own.request_name(PORTAL, 0), 1);
    works(&mut one, PORTAL, &mut own);
    works(&mut own, APP, &mut one);
    let (first, trusted) = (one.unique_name().to_owned(), own.unique_name().to_owned());
    works(&mut other, &trusted, &mut own);
    for name in [APP, &first] {
        let reply = other.call(call(name, "Work"));
        assert_eq!(reply.error_name(), Some(DENIED));
        assert!(
            reply.text().contains(name) && reply.text().contains("inside.peers"),
            "{reply}"
        );
    }
    // To itself it may speak.
    assert_eq!(one.request_name("org.example.Self", 0), 1);
    let serial = one.send(call("org.example.Self", "Work"));
    let received = one.expect_call("Work");
    one.answer(&received, &Body::new());
    one.expect_reply(serial).returned();
}

#[test]
fn signals_of_programs_reach_trusted_ones_alone() {
    let place = place(guest());
    let (mut one, mut other, mut own) = (place.inside(), place.inside(), place.trusted());
    for client in [&mut one, &mut other, &mut own] {
        client.add_match("type='signal',interface='org.example.Test'");
    }
    let to = other.unique_name().to_owned();
    one.send(signal("Broadcast"));
    one.send(signal("Unicast").destination(&to));
    // A reply that nobody asked for.
    one.send(Builder::method_return(7).destination(&to));
    own.expect_signal("org.example.Test", "Broadcast");
    one.expect_signal("org.example.Test", "Broadcast");
    one.call_driver("GetId", &Body::new());
    own.send(signal("Own"));
    other.expect("the trusted one's signal, and nothing else", |it| {
        assert!(!it.is_signal("org.example.Test", "Broadcast"), "{it}");
        assert!(!it.is_signal("org.example.Test", "Unicast"), "{it}");
        assert!(!it.is_reply_to(7), "{it}");
        it.is_signal("org.example.Test", "Own")
    });
}

#[test]
fn nobody_untrusted_sees_what_others_are_told() {
    let place = place(guest());
    let (mut client, mut own) = (place.inside(), place.trusted());
    let rule = Body::new().str("eavesdrop='true',interface='org.example.Test'");
    let text = denied(&mut client, "AddMatch", &rule);
    assert!(text.contains("inside.eavesdrop"), "{text}");
    client.add_match("eavesdrop='false',interface='org.example.Test'");
    let on_bus = |interface, member| {
        Builder::method_call("/org/freedesktop/DBus", member)
            .interface(interface)
            .destination("org.freedesktop.DBus")
    };
    let monitor = Body::new().strs([""; 0]).u32(0);
    let monitoring = "org.freedesktop.DBus.Monitoring";
    for (interface, member, body) in [
        (monitoring, "BecomeMonitor", &monitor),
        (
            "org.freedesktop.DBus.Debug.Stats",
            "GetAllMatchRules",
            &Body::new(),
        ),
        ("org.freedesktop.DBus.Debug.Stats", "GetStats", &Body::new()),
        ("org.kde.kapsule.Router1", "GetStatus", &Body::new()),
    ] {
        let reply = client.call(on_bus(interface, member).body(body));
        assert_eq!(reply.error_name(), Some(DENIED), "{member}");
        assert!(reply.text().contains(member) && reply.text().contains("inside.monitor"));
    }
    // Without an interface, too.
    let bare = Builder::method_call("/org/freedesktop/DBus", "BecomeMonitor")
        .destination("org.freedesktop.DBus");
    assert_eq!(client.call(bare.body(&monitor)).failed(), DENIED);
    own.call(on_bus(monitoring, "BecomeMonitor").body(&monitor))
        .returned();
}

#[test]
fn services_are_started_for_trusted_clients_alone() {
    let dir = TestDir::new();
    let services = dir.join("dbus-1/services");
    std::fs::create_dir_all(&services).unwrap();
    std::fs::write(
        services.join("a.service"),
        "[D-BUS Service]\nName=org.example.Started\nExec=/bin/false\n",
    )
    .unwrap();
    let place = Place::configured(Rules::default(), |config| {
        config.inside = guest();
        config.data_dirs = vec![dir.join("")];
    });
    let (mut client, mut own) = (place.inside(), place.trusted());
    let start = Body::new().str("org.example.Started").u32(0);
    let text = denied(&mut client, "StartServiceByName", &start);
    assert!(
        text.contains("org.example.Started") && text.contains("inside.activate"),
        "{text}"
    );
    assert_eq!(
        client.call(call("org.example.Started", "Work")).failed(),
        DENIED
    );
    let body = Body::new().array("{ss}", |array| array);
    denied(&mut client, "UpdateActivationEnvironment", &body);
    assert_eq!(
        own.call_driver_error("StartServiceByName", &start),
        "org.freedesktop.DBus.Error.Spawn.ChildExited"
    );
}

#[test]
fn who_is_admitted_is_who_the_program_says() {
    let place = place(guest());
    let mut guest = place.admitted(Admission {
        trusted: false,
        credentials: Some(Credentials {
            uid: 4321,
            pid: Some(1234),
            groups: vec![7, 8],
            ..Credentials::default()
        }),
    });
    let mut own = place.trusted();
    let body = Body::new().str(guest.unique_name());
    for client in [&mut guest, &mut own] {
        let uid = client.call_driver("GetConnectionUnixUser", &body);
        assert_eq!(uid.number(), 4321);
        let pid = client.call_driver("GetConnectionUnixProcessID", &body);
        assert_eq!(pid.number(), 1234);
        let reply = client.call_driver("GetConnectionCredentials", &body);
        // Not this process's own descriptor of itself.
        assert_eq!(reply.fds.len(), 0);
        let mut keys = Vec::new();
        reply
            .reader()
            .array(|entry| {
                entry.struct_(|pair| {
                    keys.push(pair.str()?.to_owned());
                    pair.skip()
                })
            })
            .unwrap();
        assert_eq!(keys, ["UnixUserID", "ProcessID", "UnixGroupIDs"]);
    }
    assert_eq!(
        guest.call_driver_error("RequestName", &Body::new().str(PORTAL).u32(0)),
        DENIED
    );
    let body = Body::new().str(own.unique_name());
    let pid = own.call_driver("GetConnectionUnixProcessID", &body);
    assert_eq!(pid.number(), std::process::id());
}

#[test]
fn nobody_is_on_the_bus_before_the_awaited_names_are() {
    let place = place(InsideRules {
        awaited: vec![WellKnownName::parse(PORTAL).unwrap()],
        ..InsideRules::default()
    });
    let mut early = RawClient::connect(&place.address);
    early.authenticate();
    let hello = early.send(driver("Hello", &Body::new()));
    let owner = early.send(driver("GetNameOwner", &Body::new().str(PORTAL)));
    let mut own = place.trusted();
    assert_eq!(
        own.list_names()
            .iter()
            .filter(|it| it.starts_with(':'))
            .count(),
        1
    );
    assert_eq!(own.request_name(PORTAL, 0), 1);
    early.expect_reply(hello).returned();
    assert_eq!(
        early.expect_reply(owner).returned().text(),
        own.unique_name()
    );
    // It is kept for those who are trusted, also when nobody has it.
    drop(own);
    assert_eq!(
        early.call_driver_error("RequestName", &Body::new().str(PORTAL).u32(0)),
        DENIED
    );
}

#[test]
fn there_is_a_place_for_trusted_clients_when_all_others_are_taken() {
    let place = Place::configured(Rules::default(), |config| {
        config.limits = Limits {
            clients: 2,
            unregistered_clients: 1,
            ..Limits::default()
        };
    });
    let _first = place.inside();
    let mut second = RawClient::connect(&place.address);
    second.authenticate();
    let mut third = RawClient::connect(&place.address);
    third.authenticate();
    third.expect_closed();
    let mut own = place.trusted();
    own.call_driver("GetId", &Body::new());
}

#[test]
fn rules_for_the_host_and_for_the_inside_are_both_asked() {
    let place = Place::configured(
        names(vec![filter("org.example.Outside", Access::Talk)]),
        |config| config.inside = guest(),
    );
    let mut service = place.service("org.example.Outside");
    let mut client = place.inside();
    works(&mut client, "org.example.Outside", &mut service);
    assert_eq!(client.request_name(APP, 0), 1);
    assert_eq!(
        client.call_driver_error("RequestName", &Body::new().str(PORTAL).u32(0)),
        DENIED
    );
}

/// Remembers decisions.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Watcher for Log {
    fn decided(&mut self, decision: &Decision<'_>) {
        let rule = decision
            .rule
            .map(|rule| rule.to_string())
            .unwrap_or_default();
        let (about, member) = (decision.name, decision.member);
        self.0.lock().unwrap().push(format!(
            "{:?} {} {} {rule} {:?}",
            decision.direction,
            member.unwrap_or_default(),
            about.unwrap_or_default(),
            decision.ruling
        ));
    }
}

#[test]
fn what_is_refused_inside_is_a_decision() {
    let log = Log::default();
    let mut router = Router::start(Config {
        inside: guest(),
        ..Config::default()
    })
    .unwrap();
    router.watch(Box::new(log.clone()));
    let handle = router.handle();
    let running = std::thread::spawn(move || router.run());
    let admit = || {
        let mut client = RawClient::over(handle.connect_with(Admission::default()).unwrap());
        client.authenticate();
        client.hello();
        client
    };
    let (mut one, mut other) = (admit(), admit());
    assert_eq!(one.request_name(APP, 0), 1);
    other.call(call(APP, "Work"));
    other.send(signal("Told").destination(APP));
    denied(&mut other, "RequestName", &Body::new().str(PORTAL).u32(0));
    denied(
        &mut other,
        "RequestName",
        &Body::new().str("com.example").u32(0),
    );
    denied(&mut other, "AddMatch", &Body::new().str("eavesdrop='true'"));
    assert_eq!(
        *log.0.lock().unwrap(),
        [
            "Inside Work org.example.App inside.peers Refused",
            "Inside Told org.example.App inside.peers Hidden",
            "Inside RequestName org.freedesktop.portal.Desktop inside.reserved Refused",
            "Inside RequestName com.example inside.own Refused",
            "Inside AddMatch  inside.eavesdrop Refused",
        ]
    );
    handle.stop();
    running.join().unwrap().unwrap();
}

/// What one of four clients does: 0 and 1 are trusted.
#[derive(Clone, Debug)]
enum Act {
    Request(usize, &'static str, u32),
    Release(usize, &'static str),
    Call(usize, Whom),
    Signal(usize, Option<Whom>),
    /// A reply to the last call of somebody, whether it came here or not.
    Reply(usize, usize),
}

#[derive(Clone, Copy, Debug)]
enum Whom {
    Name(&'static str),
    Client(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let name = prop_oneof![
        Just(APP),
        Just("org.example.Other"),
        Just(PORTAL),
        Just("com.example.Elsewhere")
    ];
    let whom = prop_oneof![
        name.clone().prop_map(Whom::Name),
        (0..4usize).prop_map(Whom::Client)
    ];
    let one = prop_oneof![
        3 => (0..4usize, name.clone(), 0..8u32).prop_map(|(who, name, flags)| {
            Act::Request(who, name, flags)
        }),
        1 => (0..4usize, name).prop_map(|(who, name)| Act::Release(who, name)),
        4 => (0..4usize, whom.clone()).prop_map(|(who, whom)| Act::Call(who, whom)),
        3 => (0..4usize, prop::option::of(whom)).prop_map(|(who, whom)| Act::Signal(who, whom)),
        1 => (0..4usize, 0..4usize).prop_map(|(who, whom)| Act::Reply(who, whom)),
    ];
    prop::collection::vec(one, 20..80)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::with_cases(16)
    })]

    #[test]
    fn whatever_happens_two_untrusted_programs_never_meet(all in acts()) {
        let router = Router::start(Config { inside: guest(), ..Config::default() }).unwrap();
        let handle = router.handle();
        let running = std::thread::spawn(move || router.run());
        let mut clients: Vec<RawClient> = (0..4)
            .map(|place| {
                let admission = Admission { trusted: place < 2, credentials: None };
                let mut client = RawClient::over(handle.connect_with(admission).unwrap());
                client.authenticate();
                client.hello();
                client.add_match("type='signal'");
                client
            })
            .collect();
        let unique: Vec<String> = clients.iter().map(|it| it.unique_name().to_owned()).collect();
        let mut last = [1u32; 4];
        for act in all {
            let text = |whom: Whom| match whom {
                Whom::Name(name) => name.to_owned(),
                Whom::Client(client) => unique[client].clone(),
            };
            match act {
                Act::Request(who, name, flags) => {
                    let body = Body::new().str(name).u32(flags);
                    let reply = clients[who].call(driver("RequestName", &body));
                    let may = who < 2 || name.starts_with("org.example.");
                    prop_assert_eq!(reply.error_name(), (!may).then_some(DENIED));
                }
                Act::Release(who, name) => {
                    clients[who].release_name(name);
                }
                Act::Call(who, whom) => last[who] = clients[who].send(call(&text(whom), "Work")),
                Act::Signal(who, None) => {
                    clients[who].send(signal("Told"));
                }
                Act::Signal(who, Some(whom)) => {
                    clients[who].send(signal("Told").destination(&text(whom)));
                }
                Act::Reply(who, whom) => {
                    let reply = Builder::method_return(last[whom]);
                    clients[who].send(reply.destination(&unique[whom]));
                }
            }
        }
        for client in &mut clients {
            client.call_driver("GetId", &Body::new());
        }
        for (place, client) in clients.iter_mut().enumerate() {
            for got in client.all_so_far() {
                let from = unique.iter().position(|it| it == got.sender());
                let is_peer = from.is_some_and(|from| from >= 2 && from != place);
                prop_assert!(place < 2 || !is_peer, "{}", got);
            }
        }
        for name in [PORTAL, "com.example.Elsewhere"] {
            let owner = clients[0].name_owner(name);
            prop_assert!(owner.is_none_or(|it| unique[..2].contains(&it)));
        }
        handle.stop();
        running.join().unwrap().unwrap();
    }
}

#[test]
fn they_are_for_the_local_bus() {
    let result = Router::start(Config {
        container: Some(dbus_wire::address::parse_addresses("unix:path=/nowhere").unwrap()),
        inside: InsideRules::closed(),
        ..Config::default()
    });
    assert!(matches!(result, Err(RouterError::InsideRules)));
}
