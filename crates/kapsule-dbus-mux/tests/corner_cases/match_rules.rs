//! Lines 15 to 19: match rules.

use dbus_wire::{Body, Builder, MessageType, error_names};
use testbed::raw_client::{DRIVER, call, driver_call};
use testbed::{RawClient, Topology, World, WorldOptions, in_topologies, needs, tools};

use crate::cast::{Place, SERVICE, service};

/// The signal after which a subscriber has seen everything that was sent before it.
const LAST: &str = "org.example.Last";

/// A client inside with these rules, and one for [`LAST`].
#[track_caller]
fn subscriber(world: &World, rules: &[&str]) -> RawClient {
    let mut client = RawClient::open(&world.inside());
    client.add_match(&format!("interface='{LAST}'"));
    for rule in rules {
        client.add_match(rule);
    }
    client
}

/// Makes `emitter` say that this was all.
#[track_caller]
fn say_last(emitter: &mut RawClient) {
    emitter.send(Builder::signal("/", LAST, "Last"));
}

/// The members of the signals of services that came to a client before [`LAST`].
#[track_caller]
fn members_before_last(client: &mut RawClient) -> Vec<String> {
    let mut members = Vec::new();
    loop {
        let message = client.receive();
        if message.is_signal(LAST, "Last") {
            return members;
        }
        if message.header().kind == MessageType::Signal && message.sender() != DRIVER {
            members.push(message.header().member.unwrap_or_default().to_owned());
        }
    }
}

// ── The grammar ──

/// Line 15. The whole grammar is taken, and what is not of it is MatchRuleInvalid, as dbus-daemon answers.
fn the_grammar_is_that_of_the_specification(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    for rule in [
        "",
        "type='signal'",
        "type=signal",
        "type='method_call'",
        "type='method_return'",
        "type='error'",
        "type='signal', member='Spaced'",
        "sender='org.example.Service'",
        "sender=':1.99'",
        "destination=':1.99'",
        "destination='org.example.Service'",
        "interface='org.example.Service',member='Rung',path='/a/b'",
        "path_namespace='/a'",
        "path_namespace='/'",
        "arg0='it'\\''s'",
        "arg0='a,b'",
        "arg0='a\\b'",
        "arg0=''",
        "arg0='zero',arg63='sixty-three'",
        "arg0path='/a/'",
        "arg63path='/a/'",
        "arg0namespace='org.example'",
        "arg0namespace='org'",
        "eavesdrop='true'",
        "eavesdrop='false'",
        "type='sig''nal'",
    ] {
        client.add_match(rule);
        client.remove_match(rule);
    }
    for rule in [
        "unknown='x'",
        "type",
        "type=",
        "type='signal",
        "type='nonsense'",
        "type='signal',type='signal'",
        "path='/a',path_namespace='/a'",
        "path='a'",
        "path='/a/'",
        "path_namespace='/a/'",
        "interface='org'",
        "member='a.b'",
        "sender='no name'",
        "destination='no name'",
        "arg64='x'",
        "arg='x'",
        "arg-1='x'",
        "arg01234='x'",
        "arg1namespace='org.example'",
        "arg0namespace='.org'",
        "arg0='x',arg0path='/x'",
        "eavesdrop='maybe'",
    ] {
        let error = client.call_driver_error("AddMatch", &Body::new().str(rule));
        assert_eq!(error, error_names::MATCH_RULE_INVALID, "{rule:?}");
        let error = client.call_driver_error("RemoveMatch", &Body::new().str(rule));
        assert_eq!(error, error_names::MATCH_RULE_INVALID, "{rule:?}");
    }
    let error = client.call_driver_error("RemoveMatch", &Body::new().str("member='Never'"));
    assert_eq!(error, error_names::MATCH_RULE_NOT_FOUND);
}

/// Line 15. Each key chooses the signals that it should, of services in every place.
fn each_key_chooses_what_it_should(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut emitter = service(&world, place);
        let mut other = place.open(&world);
        let mut asker = RawClient::open(&world.inside());
        let unique = asker.name_owner(SERVICE).expect("it is owned");
        let by_unique = format!("sender='{unique}'");
        let argument_63 = "arg63='last'";
        let cases: &[(&str, &str)] = &[
            (
                "type='signal'",
                "Plain Quote Comma Path Deep Name Many Other",
            ),
            ("type='method_call'", ""),
            (
                "sender='org.example.Service'",
                "Plain Quote Comma Path Deep Name Many",
            ),
            (&by_unique, "Plain Quote Comma Path Deep Name Many"),
            ("sender='org.example.Nobody'", ""),
            (
                "interface='org.example.Service'",
                "Plain Quote Comma Path Deep Name Many Other",
            ),
            ("interface='org.example.Other'", ""),
            ("member='Plain'", "Plain"),
            ("path='/a/b'", "Deep"),
            ("path_namespace='/a'", "Deep"),
            ("path_namespace='/a/b'", "Deep"),
            ("path_namespace='/a/b/c'", ""),
            ("arg0='it'\\''s'", "Quote"),
            ("arg0='a,b\\c'", "Comma"),
            ("arg0path='/x/'", "Path"),
            ("arg0path='/x/y'", "Path"),
            ("arg0path='/x/y/z'", ""),
            ("arg0namespace='com.example'", "Name"),
            ("arg0namespace='com.exam'", ""),
            (argument_63, "Many"),
            ("arg0='',member='Many'", "Many"),
            ("destination='org.example.Service'", ""),
        ];
        let mut subscribers: Vec<RawClient> = cases
            .iter()
            .map(|(rule, _)| subscriber(&world, &[rule]))
            .collect();
        let many = (0..63)
            .fold(Body::new(), |body, _| body.str(""))
            .str("last");
        for (path, member, body) in [
            ("/", "Plain", Body::new()),
            ("/", "Quote", Body::new().str("it's")),
            ("/", "Comma", Body::new().str("a,b\\c")),
            ("/", "Path", Body::new().object_path("/x/y")),
            ("/a/b", "Deep", Body::new().u32(7)),
            ("/", "Name", Body::new().str("com.example.App")),
            ("/", "Many", many),
        ] {
            emitter.send(Builder::signal(path, SERVICE, member).body(&body));
        }
        emitter.all_so_far();
        other.send(Builder::signal("/", SERVICE, "Other"));
        say_last(&mut other);
        for ((rule, expected), client) in cases.iter().zip(&mut subscribers) {
            let came = members_before_last(client).join(" ");
            assert_eq!(came, *expected, "{place:?}: {rule}");
        }
        emitter.release_name(SERVICE);
    }
}

/// Line 15. RemoveMatch finds the rule whatever the order and the quoting of its keys, takes one of equal rules
/// at a time, and the last of them ends the matter.
fn a_rule_is_removed_whatever_its_order(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    for &place in Place::all_in(topology) {
        let mut emitter = service(&world, place);
        let mut client = subscriber(&world, &[]);
        let mut emit = |client: &mut RawClient| {
            emitter.send(Builder::signal("/", SERVICE, "Rung"));
            say_last(&mut emitter);
            members_before_last(client).len()
        };
        client.add_match("type='signal',member='Rung',path='/'");
        client.add_match("path=/,type=signal,member='Rung'");
        assert_eq!(
            emit(&mut client),
            1,
            "{place:?}: two rules are one delivery"
        );
        client.remove_match("member='Rung',path='/',type='signal'");
        assert_eq!(emit(&mut client), 1, "{place:?}: one rule is left");
        client.remove_match("path='/',member=Rung,type='signal'");
        assert_eq!(emit(&mut client), 0, "{place:?}");
        let error = client.call_driver_error(
            "RemoveMatch",
            &Body::new().str("member='Rung',path='/',type='signal'"),
        );
        assert_eq!(error, error_names::MATCH_RULE_NOT_FOUND, "{place:?}");
        emitter.release_name(SERVICE);
    }
}

/// Line 15a. `eavesdrop='true'` shows a client inside nothing that two programs of the host say to each other,
/// although the host's policy would let it.
fn eavesdropping_does_not_reach_the_host(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut service = service(&world, Place::Outside);
    let mut caller = RawClient::open(&world.outside());
    // That the host would show it.
    let mut spy_outside = RawClient::open(&world.outside());
    let mut spy = RawClient::open(&world.inside());
    for rule in [
        "eavesdrop='true'",
        "eavesdrop=true,type='method_call'",
        "type='method_call',eavesdrop='true'",
        "eavesdrop='true',destination='org.example.Service'",
        "'eavesdrop'='true'",
    ] {
        for spy in [&mut spy, &mut spy_outside] {
            let body = Body::new().str(rule);
            // One of them is no rule at all; it must not become one on the way.
            spy.call(driver_call("AddMatch", &body));
        }
    }
    let serial = caller.send(call(SERVICE, "/", SERVICE, "Secret"));
    let asked = service.expect_call("Secret");
    service.answer(&asked, &Body::new());
    caller.expect_reply(serial).returned();
    service.send(Builder::signal("/", SERVICE, "SecretToo").destination(caller.unique_name()));
    caller.expect_signal(SERVICE, "SecretToo");
    spy_outside.expect_call("Secret");
    // The host's answer to a question of the spy comes after everything that the host had for it.
    assert_eq!(spy.name_owner("org.example.Nobody"), None);
    // (What is inside may be seen: calls of clients to the container bus.)
    let hosts = [service.unique_name(), caller.unique_name(), SERVICE];
    for message in spy.all_so_far() {
        let header = message.header();
        let sender = header.sender.unwrap_or_default();
        let destination = header.destination.unwrap_or_default();
        assert!(
            !hosts.contains(&sender) && !hosts.contains(&destination),
            "{message}"
        );
    }
}

// ── Two buses ──

/// Line 16. A rule without a sender gets one reply, and matches the signals of services in every place.
fn a_rule_without_a_sender_matches_on_both_buses(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut client = RawClient::open(&world.inside());
    let body = Body::new().str("type='signal',interface='org.example.Service'");
    let serial = client.send(driver_call("AddMatch", &body));
    client.expect_reply(serial).returned();
    for &place in Place::all_in(topology) {
        let mut service = place.open(&world);
        service.send(Builder::signal("/", SERVICE, &format!("From{place:?}")));
        client.expect_signal(SERVICE, &format!("From{place:?}"));
    }
    client.remove_match("type='signal',interface='org.example.Service'");
    client.name_owner("org.example.Nobody");
    let second = client
        .all_so_far()
        .into_iter()
        .find(|message| message.is_reply_to(serial));
    assert!(second.is_none(), "{second:?}");
}

/// Lines 16 and 19. A host that has a limit of match rules says LimitsExceeded, the client hears it, and the
/// rule is in force nowhere; those before it are, and there is room again when one goes.
fn a_rule_that_one_bus_refuses_is_rolled_back(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let options = WorldOptions {
        daemon_configuration: "<limit name=\"max_match_rules_per_connection\">5</limit>".to_owned(),
        ..WorldOptions::default()
    };
    let world = World::start_with(topology, &options);
    let mut client = subscriber(&world, &[]);
    let mut taken = Vec::new();
    let refused = (0..20)
        .map(|number| format!("type='signal',member='M{number}'"))
        .find(|rule| {
            let body = Body::new().str(rule);
            let answer = client.call(driver_call("AddMatch", &body));
            match answer.error_name() {
                None => taken.push(rule.clone()),
                Some(error) => assert_eq!(error, error_names::LIMITS_EXCEEDED),
            }
            answer.error_name().is_some()
        })
        .expect("a limit of 5");
    assert_eq!(taken.len(), 4, "{taken:?}");
    let member = |rule: &str| rule.split('\'').nth(3).unwrap_or_default().to_owned();
    let mut emitter = RawClient::open(&world.inside());
    let emit = |emitter: &mut RawClient, client: &mut RawClient| {
        emitter.send(Builder::signal("/", SERVICE, &member(&refused)));
        emitter.send(Builder::signal("/", SERVICE, &member(&taken[0])));
        say_last(emitter);
        members_before_last(client)
    };
    assert_eq!(emit(&mut emitter, &mut client), [member(&taken[0])]);
    client.remove_match(&taken[1]);
    client.add_match(&refused);
    assert_eq!(
        emit(&mut emitter, &mut client),
        [member(&refused), member(&taken[0])]
    );
}

/// Line 19. Other limits of the bus behind reach the client, too: a host that takes no more connections refuses
/// Hello, and says why; who is connected stays.
fn a_host_that_takes_no_more_connections_says_so(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let options = WorldOptions {
        daemon_configuration: "<limit name=\"max_connections_per_user\">6</limit>".to_owned(),
        ..WorldOptions::default()
    };
    let world = World::start_with(topology, &options);
    let mut first = RawClient::open(&world.inside());
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = RawClient::connect(&world.inside());
        client.authenticate();
        let answer = client.call(driver_call("Hello", &Body::new()));
        match answer.error_name() {
            None => clients.push(client),
            Some(name) => break name.to_owned(),
        }
        assert!(clients.len() < 10, "a limit of 6");
    };
    assert_eq!(refused, error_names::LIMITS_EXCEEDED);
    first.call_driver("GetId", &Body::new());
}

/// Line 17. A rule on a well-known name follows the owner that the view shows: the host's, then the inside's,
/// then the host's again; what the other says in the meantime does not arrive.
fn a_rule_on_a_name_follows_its_owner(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut outside = service(&world, Place::Outside);
    let mut inside = RawClient::open(&world.inside());
    let mut client = subscriber(&world, &["type='signal',sender='org.example.Service'"]);
    // A rule that does not name the sender shows what both say, so that there is something to compare with.
    let mut witness = subscriber(&world, &["interface='org.example.Service'"]);
    let mut round = |outside: &mut RawClient, inside: &mut RawClient, expected: &[&str]| {
        // Each is told of the change before it speaks, and speaks before the last word of the other.
        inside.send(Builder::signal("/", SERVICE, "Inside"));
        inside.all_so_far();
        outside.send(Builder::signal("/", SERVICE, "Outside"));
        witness.expect_signal(SERVICE, "Inside");
        witness.expect_signal(SERVICE, "Outside");
        inside.name_owner("org.example.Nobody");
        say_last(outside);
        assert_eq!(members_before_last(&mut client), expected);
        witness.all_so_far();
    };
    round(&mut outside, &mut inside, &["Outside"]);
    assert_eq!(inside.request_name(SERVICE, 4), 1);
    round(&mut outside, &mut inside, &["Inside"]);
    assert_eq!(inside.release_name(SERVICE), 1);
    round(&mut outside, &mut inside, &["Outside"]);
    assert_eq!(outside.release_name(SERVICE), 1);
    assert_eq!(inside.request_name(SERVICE, 4), 1);
    round(&mut outside, &mut inside, &["Inside"]);
}

/// Line 18. A broadcast of a client that is seen on both buses is delivered once to each who asked for it: to
/// others inside, to itself, and to the host.
fn a_broadcast_is_delivered_once(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let rules = [
        "interface='org.example.Service'",
        "member='Rung'",
        "type='signal'",
    ];
    let mut inside = subscriber(&world, &rules);
    let mut emitter = subscriber(&world, &rules);
    let mut others = Vec::new();
    for &place in Place::all_in(topology) {
        if place != Place::Inside {
            let mut client = place.open(&world);
            client.add_match(&format!("interface='{LAST}'"));
            for rule in rules {
                client.add_match(rule);
            }
            others.push((place, client));
        }
    }
    for _ in 0..20 {
        emitter.send(Builder::signal("/", SERVICE, "Rung"));
    }
    // Behind everything that the host sends back.
    emitter.name_owner("org.example.Nobody");
    inside.name_owner("org.example.Nobody");
    say_last(&mut emitter);
    assert_eq!(members_before_last(&mut inside).len(), 20);
    assert_eq!(members_before_last(&mut emitter).len(), 20);
    for (place, mut client) in others {
        assert_eq!(members_before_last(&mut client).len(), 20, "{place:?}");
    }
}

/// Line 18. A broadcast of a host service is delivered once, whatever number of rules it matches.
fn a_broadcast_of_the_host_is_delivered_once(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let mut emitter = service(&world, Place::Outside);
    let mut client = subscriber(
        &world,
        &[
            "interface='org.example.Service'",
            "sender='org.example.Service'",
            "member='Rung'",
        ],
    );
    for _ in 0..20 {
        emitter.send(Builder::signal("/", SERVICE, "Rung"));
    }
    say_last(&mut emitter);
    assert_eq!(members_before_last(&mut client).len(), 20);
}

in_topologies!(all: the_grammar_is_that_of_the_specification,
    each_key_chooses_what_it_should,
    a_rule_is_removed_whatever_its_order,
    a_rule_without_a_sender_matches_on_both_buses,
    a_broadcast_is_delivered_once);
in_topologies!(with_host: a_rule_that_one_bus_refuses_is_rolled_back,
    a_broadcast_of_the_host_is_delivered_once);
in_topologies!(two_buses: eavesdropping_does_not_reach_the_host,
    a_host_that_takes_no_more_connections_says_so,
    a_rule_on_a_name_follows_its_owner);
