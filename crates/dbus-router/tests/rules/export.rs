//! Names of the inside that are there on the host.

use dbus_router::{Access, Export, InterfaceExport, NamePattern, Policy, Rename, Rules};
use dbus_wire::body::Body;
use dbus_wire::message::Builder;
use testbed::RawClient;

use crate::place::{Place, call, filter, id, listed, members, refusal, signal, works};

const NAME: &str = "org.mpris.MediaPlayer2.player";
const RENAMED: &str = "org.mpris.MediaPlayer2.player.box";
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const WATCHER: &str = "org.kde.StatusNotifierWatcher";

fn export(name: &str) -> Export {
    Export {
        id: id("export"),
        name: NamePattern::parse(name).unwrap(),
        rename: None,
        signals: true,
        replace: false,
        calls: None,
    }
}

fn exporting(exports: Vec<Export>) -> Rules {
    Rules {
        exports,
        container: "box".to_owned(),
        ..Rules::default()
    }
}

fn renamed() -> Export {
    Export {
        rename: Some(Rename::parse("org.mpris.MediaPlayer2.{rest}.{container}").unwrap()),
        ..export("org.mpris.MediaPlayer2.*")
    }
}

fn owner_on_host(outside: &mut RawClient, name: &str) -> Option<String> {
    let serial = outside.send(
        Builder::method_call("/org/freedesktop/DBus", "GetNameOwner")
            .interface("org.freedesktop.DBus")
            .destination("org.freedesktop.DBus")
            .body(&Body::new().str(name)),
    );
    let reply = outside.expect_reply(serial);
    reply
        .error_name()
        .is_none()
        .then(|| reply.text().to_owned())
}

#[test]
fn an_exported_name_is_there_on_the_host_once_the_request_is_answered() {
    let place = Place::new(exporting(vec![export("org.mpris.MediaPlayer2.*")]));
    let (mut player, mut outside) = (place.inside(), place.outside());
    assert_eq!(player.request_name(NAME, 0), 1);
    let unique = player.unique_name().to_owned();
    assert_eq!(owner_on_host(&mut outside, NAME), Some(unique));
    works(&mut outside, NAME, &mut player);
    assert_eq!(player.release_name(NAME), 1);
    assert_eq!(owner_on_host(&mut outside, NAME), None);
}

#[test]
fn a_name_that_no_rule_exports_stays_inside() {
    let place = Place::new(exporting(vec![export("org.mpris.MediaPlayer2.*")]));
    let (mut client, mut outside) = (place.inside(), place.outside());
    assert_eq!(client.request_name("org.example.Inside", 0), 1);
    assert_eq!(owner_on_host(&mut outside, "org.example.Inside"), None);
    assert_eq!(refusal(&mut outside, client.unique_name()), DENIED);
}

#[test]
fn a_renamed_name_is_called_by_that_name_and_hears_its_own() {
    let place = Place::new(exporting(vec![renamed()]));
    let (mut player, mut outside) = (place.inside(), place.outside());
    assert_eq!(player.request_name(NAME, 0), 1);
    assert_eq!(owner_on_host(&mut outside, NAME), None);
    let received = works(&mut outside, RENAMED, &mut player);
    assert_eq!(received.header().destination, Some(NAME));
    let names = listed(&mut player);
    assert!(names.contains(&NAME.to_owned()) && !names.contains(&RENAMED.to_owned()));
}

#[test]
fn signals_of_an_export_go_to_the_host_and_others_do_not() {
    let place = Place::new(exporting(vec![export("org.mpris.MediaPlayer2.*")]));
    let (mut player, mut other, mut outside) = (place.inside(), place.inside(), place.outside());
    outside.add_match("type='signal',interface='org.example.Test'");
    assert_eq!(player.request_name(NAME, 0), 1);
    other.send(signal("Secret"));
    other.call_driver("ListNames", &Body::new());
    player.send(signal("Played"));
    outside.expect("the player's signal", |it| {
        assert!(!it.is_signal("org.example.Test", "Secret"));
        it.is_signal("org.example.Test", "Played")
    });
}

#[test]
fn the_outside_calls_what_the_rule_says() {
    let mut rule = export("org.mpris.MediaPlayer2.*");
    rule.calls = Some(members(&["org.example.Test.Work"]));
    let place = Place::new(exporting(vec![rule]));
    let (mut player, mut outside) = (place.inside(), place.outside());
    assert_eq!(player.request_name(NAME, 0), 1);
    works(&mut outside, NAME, &mut player);
    let unique = player.unique_name().to_owned();
    works(&mut outside, &unique, &mut player);
    for name in [NAME, &unique] {
        assert_eq!(outside.call(call(name, "Quit")).failed(), DENIED);
    }
}

#[test]
fn who_watches_inside_is_told_once_of_one_owner() {
    let place = Place::new(exporting(vec![export("org.mpris.MediaPlayer2.*")]));
    let (mut player, mut watcher) = (place.inside(), place.inside());
    let rule = format!("type='signal',member='NameOwnerChanged',arg0='{NAME}'");
    watcher.add_match(&rule);
    player.add_match(&rule);
    assert_eq!(player.request_name(NAME, 0), 1);
    assert_eq!(player.release_name(NAME), 1);
    let unique = player.unique_name().to_owned();
    for client in [&mut watcher, &mut player] {
        let told: Vec<Vec<String>> = client
            .all_so_far()
            .iter()
            .filter(|it| it.is_signal("org.freedesktop.DBus", "NameOwnerChanged"))
            .map(|it| it.strings().into_iter().map(str::to_owned).collect())
            .collect();
        let change = |old: &str, new: &str| vec![NAME.to_owned(), old.into(), new.into()];
        assert_eq!(told, [change("", &unique), change(&unique, "")]);
    }
}

#[test]
fn the_name_on_the_host_goes_with_its_client_and_passes_to_the_next() {
    let place = Place::new(exporting(vec![export("org.mpris.MediaPlayer2.*")]));
    let (mut first, mut second, mut outside) = (place.inside(), place.inside(), place.outside());
    outside.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
    assert_eq!(first.request_name(NAME, 0), 1);
    assert_eq!(second.request_name(NAME, 0), 2);
    drop(first);
    let next = second.unique_name().to_owned();
    outside.expect("the next owner", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.strings()[2] == next
    });
    drop(second);
    outside.expect("no owner", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.strings()[2].is_empty()
    });
}

#[test]
fn a_tray_icon_is_introduced_by_its_name_on_the_host() {
    let icon = "org.kde.StatusNotifierItem-7-1";
    let mut rule = export("org.kde.StatusNotifierItem-*");
    rule.rename = Some(Rename::parse("org.kde.StatusNotifierItem-{container}-{rest}").unwrap());
    let mut rules = exporting(vec![rule]);
    rules.names = vec![filter(WATCHER, Access::Talk)];
    let place = Place::new(rules);
    let (mut program, mut watcher) = (place.inside(), place.service(WATCHER));
    assert_eq!(program.request_name(icon, 0), 1);
    let introduce = Builder::method_call("/StatusNotifierWatcher", "RegisterStatusNotifierItem")
        .interface(WATCHER)
        .destination(WATCHER);
    let serial = program.send(introduce.body(&Body::new().str(icon)));
    let introduced = watcher.expect_call("RegisterStatusNotifierItem");
    assert_eq!(introduced.text(), "org.kde.StatusNotifierItem-box-7-1");
    let name = introduced.text().to_owned();
    watcher.answer(&introduced, &Body::new());
    program.expect_reply(serial).returned();
    works(&mut watcher, &name, &mut program);
}

#[test]
fn an_interface_crosses_without_a_name() {
    let mut rules = exporting(Vec::new());
    rules.interfaces = vec![InterfaceExport {
        id: id("interfaces"),
        interface: NamePattern::parse("org.example.Test").unwrap(),
        signals: true,
        calls: true,
    }];
    let place = Place::new(rules);
    let (mut client, mut outside) = (place.inside(), place.outside());
    let unique = client.unique_name().to_owned();
    works(&mut outside, &unique, &mut client);
    let other = Builder::method_call("/", "M")
        .interface("org.other")
        .destination(&unique);
    assert_eq!(outside.call(other).failed(), DENIED);
    outside.add_match("type='signal'");
    client.send(Builder::signal("/", "org.other", "Secret"));
    client.send(signal("Told"));
    outside.expect("what crosses", |it| {
        assert!(!it.is_signal("org.other", "Secret"));
        it.is_signal("org.example.Test", "Told")
    });
}

/// A call of a client's properties.
fn ask<'m>(destination: &'m str, member: &'m str, body: &'m Body) -> Builder<'m> {
    Builder::method_call("/menu", member)
        .interface("org.freedesktop.DBus.Properties")
        .destination(destination)
        .body(body)
}

#[test]
fn of_properties_those_of_the_exported_interface_cross() {
    let mut rules = exporting(Vec::new());
    rules.interfaces = vec![InterfaceExport {
        id: id("interfaces"),
        interface: NamePattern::parse("com.canonical.dbusmenu").unwrap(),
        signals: true,
        calls: true,
    }];
    let place = Place::new(rules);
    let (mut client, mut outside) = (place.inside(), place.outside());
    let unique = client.unique_name().to_owned();
    for (member, rest) in [("GetAll", None), ("Get", Some("Status"))] {
        let body = |interface| match rest {
            None => Body::new().str(interface),
            Some(rest) => Body::new().str(interface).str(rest),
        };
        let serial = outside.send(ask(&unique, member, &body("com.canonical.dbusmenu")));
        let received = client.expect_call(member);
        assert_eq!(received.strings()[0], "com.canonical.dbusmenu");
        client.answer(&received, &Body::new().str("here"));
        assert_eq!(outside.expect_reply(serial).returned().text(), "here");
        // The second argument is no way in, and neither is one that is no text.
        for other in ["org.example.Secrets", ""] {
            let other = Body::new().str(other).str("com.canonical.dbusmenu");
            assert_eq!(outside.call(ask(&unique, member, &other)).failed(), DENIED);
        }
        for odd in [Body::new(), Body::new().u32(22)] {
            assert_eq!(outside.call(ask(&unique, member, &odd)).failed(), DENIED);
        }
    }
    // A signal to the client alone is judged alike.
    for interface in ["org.example.Secrets", "com.canonical.dbusmenu"] {
        let body = Body::new().str(interface);
        outside.send(
            Builder::signal(
                "/menu",
                "org.freedesktop.DBus.Properties",
                "PropertiesChanged",
            )
            .destination(&unique)
            .body(&body),
        );
    }
    client.expect("the menu's change, and no other", |it| {
        let is_change = it.is_signal("org.freedesktop.DBus.Properties", "PropertiesChanged");
        assert!(
            !is_change || it.strings()[0] == "com.canonical.dbusmenu",
            "{it}"
        );
        is_change
    });
}

#[test]
fn new_rules_export_and_take_back_what_is_owned() {
    let place = Place::new(Rules::default());
    let (mut player, mut outside) = (place.inside(), place.outside());
    outside.add_match("member='NameOwnerChanged',arg0namespace='org.mpris'");
    assert_eq!(player.request_name(NAME, 0), 1);
    let mut tell = |rules: Rules, name: &str, has: bool| {
        place.handle.set_policy(Policy::from_rules(rules));
        outside.expect("a change on the host", |it| {
            it.is_signal("org.freedesktop.DBus", "NameOwnerChanged")
                && it.strings()[0] == name
                && it.strings()[2].is_empty() != has
        });
    };
    tell(exporting(vec![export("org.mpris.*")]), NAME, true);
    tell(exporting(vec![renamed()]), RENAMED, true);
    tell(Rules::default(), RENAMED, false);
}

#[test]
fn a_name_is_taken_from_the_host_where_the_rule_says_so() {
    for replace in [false, true] {
        let place = Place::new(exporting(vec![Export {
            replace,
            ..export("org.mpris.MediaPlayer2.*")
        }]));
        let (mut before, mut player, mut outside) =
            (place.outside(), place.inside(), place.outside());
        // ALLOW_REPLACEMENT.
        assert_eq!(before.request_name(NAME, 1), 1);
        outside.add_match(&format!("member='NameOwnerChanged',arg0='{NAME}'"));
        let change = |old: &RawClient, new: &RawClient| {
            [NAME, old.unique_name(), new.unique_name()].map(str::to_owned)
        };
        let told = |outside: &mut RawClient| {
            let told = outside.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
            told.strings()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(player.request_name(NAME, 0), 1);
        let first = if replace { &player } else { &before };
        assert_eq!(
            owner_on_host(&mut outside, NAME).as_deref(),
            Some(first.unique_name())
        );
        if replace {
            // It was taken before the answer; who had it waits, and has it back.
            assert_eq!(told(&mut outside), change(&before, &player));
            before.expect_signal("org.freedesktop.DBus", "NameLost");
            assert_eq!(player.release_name(NAME), 1);
            assert_eq!(told(&mut outside), change(&player, &before));
        } else {
            // The inside waits, and has it next.
            assert_eq!(before.release_name(NAME), 1);
            assert_eq!(told(&mut outside), change(&before, &player));
            works(&mut outside, NAME, &mut player);
        }
    }
}

#[test]
fn of_two_rules_for_one_name_the_first_says_how_it_is_exported() {
    let first = Export {
        replace: true,
        calls: Some(members(&["org.example.Test.Work"])),
        ..export("org.mpris.MediaPlayer2.player")
    };
    let place = Place::new(exporting(vec![first, export("org.mpris.*"), renamed()]));
    let (mut before, mut player, mut outside) = (place.outside(), place.inside(), place.outside());
    assert_eq!(before.request_name(NAME, 1), 1);
    assert_eq!(player.request_name(NAME, 0), 1);
    let unique = player.unique_name().to_owned();
    assert_eq!(owner_on_host(&mut outside, NAME), Some(unique.clone()));
    // The third gives it another name besides.
    assert_eq!(owner_on_host(&mut outside, RENAMED), Some(unique));
    assert_eq!(outside.call(call(NAME, "Quit")).failed(), DENIED);
    let serial = outside.send(call(RENAMED, "Quit"));
    let quit = player.expect_call("Quit");
    player.answer(&quit, &Body::new());
    outside.expect_reply(serial).returned();
}
