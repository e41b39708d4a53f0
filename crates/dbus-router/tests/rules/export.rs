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
