//! Clients that live on the host.

use dbus_router::{Access, Glob, HostPass, NamePattern, NameRule, Rules};
use dbus_wire::body::Body;
use testbed::tools::DBUS_SEND;
use testbed::{RawClient, needs, run_to_end, skip};

use crate::place::{Place, filter, id, listed, refusal, signal, works};

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";
const NAME: &str = "org.example.Passes";

fn everyone(access: Access, names: Vec<NameRule>) -> Rules {
    Rules {
        names,
        hostpass: vec![HostPass {
            id: id("hostpass"),
            process: None,
            cgroup: None,
            unit: None,
            everyone: true,
            access,
        }],
        ..Rules::default()
    }
}

/// Rules by which this test's own program lives on the host if `process` means it.
fn by_program(process: &str) -> Rules {
    let mut rules = everyone(Access::Own, Vec::new());
    rules.hostpass[0].everyone = false;
    rules.hostpass[0].process = Some(Glob::new(process));
    rules
}

/// Whether a client of the router owns names on the host.
fn owns_on_host(place: &Place, client: &mut RawClient) -> bool {
    assert_eq!(client.request_name(NAME, 0), 1);
    let mut outside = place.outside();
    let has = outside.call_driver("NameHasOwner", &Body::new().str(NAME));
    has.reader().boolean().unwrap()
}

#[test]
fn a_client_whose_program_is_meant_lives_on_the_host() {
    let own = std::env::current_exe().unwrap();
    let name = own.file_name().unwrap().to_str().unwrap();
    let place = Place::new(by_program(&format!("*/{name}")));
    assert!(owns_on_host(&place, &mut place.inside()));
}

#[test]
fn a_client_whose_program_is_another_lives_inside() {
    let place = Place::new(by_program("*/python3*"));
    assert!(!owns_on_host(&place, &mut place.inside()));
}

#[test]
fn calls_replies_and_signals_go_both_ways() {
    let place = Place::new(everyone(Access::Own, Vec::new()));
    let (mut client, mut outside) = (place.inside(), place.service("org.example.Outside"));
    assert_eq!(client.request_name(NAME, 0), 1);
    works(&mut outside, NAME, &mut client);
    works(&mut client, "org.example.Outside", &mut outside);
    let unique = client.unique_name().to_owned();
    works(&mut outside, &unique, &mut client);
    outside.add_match("type='signal',interface='org.example.Test'");
    client.send(signal("Told"));
    let told = outside.expect_signal("org.example.Test", "Told");
    assert_eq!(told.sender(), unique);
    client.add_match("type='signal',interface='org.example.Test'");
    // Its own comes back to it, as on any bus.
    client.send(signal("Told"));
    client.expect_signal("org.example.Test", "Told");
    outside.send(signal("Back"));
    client.expect_signal("org.example.Test", "Back");
}

#[test]
fn clients_reach_each_other_over_the_host_and_hear_each_other() {
    let own = std::env::current_exe().unwrap();
    let name = own.file_name().unwrap().to_str().unwrap();
    let mut rules = by_program(&format!("*/{name}"));
    rules.names = vec![filter(NAME, Access::Talk)];
    let place = Place::new(Rules::default());
    let mut inside = place.inside();
    place
        .handle
        .set_policy(dbus_router::Policy::from_rules(rules));
    // Answered after the new rules are in force.
    place.handle.status().unwrap();
    let mut passed = place.inside();
    let unique = passed.unique_name().to_owned();
    works(&mut inside, &unique, &mut passed);
    let unique = inside.unique_name().to_owned();
    works(&mut passed, &unique, &mut inside);
    assert_eq!(passed.request_name("org.example.Passes2", 0), 1);
    inside.add_match("type='signal',interface='org.example.Test'");
    passed.send(signal("Heard"));
    inside.expect_signal("org.example.Test", "Heard");
    assert_eq!(inside.request_name("org.example.Inside", 0), 1);
    assert_eq!(refusal(&mut passed, "org.example.Inside"), UNKNOWN);
}

#[test]
fn with_filters_it_sees_talks_and_owns_what_they_say() {
    let place = Place::new(everyone(
        Access::Hidden,
        vec![
            filter("org.example.Seen", Access::See),
            filter("org.example.Talks", Access::Talk),
            NameRule {
                name: NamePattern::parse("org.example.Own.*").unwrap(),
                ..filter("org.example.Own", Access::Own)
            },
        ],
    ));
    let _seen = place.service("org.example.Seen");
    let mut talks = place.service("org.example.Talks");
    let hidden = place.service("org.example.Hidden");
    let mut client = place.inside();
    assert_eq!(refusal(&mut client, "org.example.Seen"), DENIED);
    assert_eq!(refusal(&mut client, "org.example.Hidden"), UNKNOWN);
    assert_eq!(refusal(&mut client, hidden.unique_name()), UNKNOWN);
    works(&mut client, "org.example.Talks", &mut talks);
    let names = listed(&mut client);
    assert!(names.contains(&"org.example.Seen".to_owned()));
    assert!(!names.contains(&"org.example.Hidden".to_owned()));
    assert_eq!(client.request_name("org.example.Own.This", 0), 1);
    let body = Body::new().str("org.example.Talks.Not").u32(0);
    assert_eq!(client.call_driver_error("RequestName", &body), DENIED);
    // Who is spoken to may answer, and speak back.
    let mut stranger = place.outside();
    works(&mut stranger, "org.example.Own.This", &mut client);
    let unique = stranger.unique_name().to_owned();
    works(&mut client, &unique, &mut stranger);
}

#[test]
fn what_hands_over_the_host_stays_shut() {
    let place = Place::new(everyone(Access::Own, Vec::new()));
    let systemd = place.service("org.freedesktop.systemd1");
    let mut client = place.inside();
    assert_eq!(refusal(&mut client, "org.freedesktop.systemd1"), DENIED);
    assert_eq!(refusal(&mut client, systemd.unique_name()), DENIED);
    let body = Body::new().str("org.freedesktop.Flatpak").u32(0);
    assert_eq!(client.call_driver_error("RequestName", &body), DENIED);
    assert_eq!(
        client.call_driver_error("ReloadConfig", &Body::new()),
        DENIED
    );
    let monitor =
        dbus_wire::message::Builder::method_call("/org/freedesktop/DBus", "BecomeMonitor")
            .interface("org.freedesktop.DBus.Monitoring")
            .destination("org.freedesktop.DBus");
    let body = Body::new().strs([""; 0]).u32(0);
    assert_eq!(client.call(monitor.body(&body)).failed(), DENIED);
}

#[test]
fn a_client_is_its_own_process_for_who_asks() {
    let place = Place::new(everyone(Access::Own, Vec::new()));
    let mut client = place.inside();
    let body = Body::new().str(client.unique_name());
    let pid = client.call_driver("GetConnectionUnixProcessID", &body);
    assert_eq!(pid.number(), std::process::id());
}

#[test]
fn a_client_there_is_told_of_names_that_new_rules_show_or_hide() {
    let seen = |access| everyone(access, Vec::new());
    let place = Place::new(seen(Access::Hidden));
    let service = place.service(NAME);
    let mut client = place.inside();
    client.add_match(&format!(
        "type='signal',member='NameOwnerChanged',arg0='{NAME}'"
    ));
    let mut other = place.inside();
    other.add_match("type='signal',member='NameOwnerChanged',arg0='org.example.Nobody'");
    for access in [Access::Talk, Access::See, Access::Hidden, Access::Own] {
        place
            .handle
            .set_policy(dbus_router::Policy::from_rules(seen(access)));
        place.handle.status().unwrap();
    }
    let owner = service.unique_name().to_owned();
    let change = |old: &str, new: &str| vec![NAME.to_owned(), old.to_owned(), new.to_owned()];
    let expected = [change("", &owner), change(&owner, ""), change("", &owner)];
    assert_eq!(crate::reload::changes(&mut client), expected);
    drop(service);
    let gone = client.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
    assert_eq!(gone.strings(), change(&owner, ""));
    assert_eq!(crate::reload::changes(&mut other).len(), 0);
    client.remove_match(&format!(
        "type='signal',member='NameOwnerChanged',arg0='{NAME}'"
    ));
}

#[test]
fn a_monitor_of_the_inside_takes_nothing_from_a_client_there() {
    let place = Place::new(Rules::default());
    let mut monitor = place.inside();
    let body = Body::new().strs([""; 0]).u32(0);
    let become_monitor =
        dbus_wire::message::Builder::method_call("/org/freedesktop/DBus", "BecomeMonitor")
            .interface("org.freedesktop.DBus.Monitoring")
            .destination("org.freedesktop.DBus");
    monitor.call(become_monitor.body(&body)).returned();
    place
        .handle
        .set_policy(dbus_router::Policy::from_rules(everyone(
            Access::Own,
            Vec::new(),
        )));
    place.handle.status().unwrap();
    let (mut client, mut outside) = (place.inside(), place.service("org.example.Outside"));
    client.add_match("type='signal',sender='org.example.Outside'");
    outside.send(signal("Told"));
    client.expect_signal("org.example.Test", "Told");
    works(&mut client, "org.example.Outside", &mut outside);
}

/// Rules by which clients of this control group, or unit, live on the host.
fn by_cgroup(cgroup: Option<&str>, unit: Option<&str>) -> Rules {
    let mut rules = everyone(Access::Own, Vec::new());
    let one = &mut rules.hostpass[0];
    one.everyone = false;
    one.cgroup = cgroup.map(Glob::new);
    one.unit = unit.map(Glob::new);
    rules
}

/// Whether `dbus-send`, run in the control group `GROUP/app-fcitx5-7.service` of a hierarchy that is mounted for it
/// alone, sees the host. None where this machine does not let us have one.
fn sees_the_host(place: &Place, hierarchy: &str, group: &str) -> Option<bool> {
    const SCRIPT: &str = r#"
        mount --make-rprivate / && mount -t $2 none "$1" || exit 77
        group="$1/$3/app-fcitx5-7.service"
        mkdir -p "$group" || exit 77
        sh -c 'echo $$ >"$0/cgroup.procs" || exit 77; exec "$@"' "$group" \
            dbus-send --bus="$4" --dest=org.freedesktop.DBus --print-reply=literal / \
            org.freedesktop.DBus.NameHasOwner string:org.example.Outside
        status=$?
        rmdir "$group" "$1/$3"
        exit $status"#;
    let dir = testbed::TestDir::new();
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(dir.make_dir("hierarchy"))
        .args([hierarchy, group, &place.address]);
    let output = run_to_end(command, std::time::Duration::from_secs(20)).unwrap();
    if output.status.code() == Some(77) || output.stderr.contains("unshare failed") {
        return None;
    }
    Some(output.success().contains("boolean true"))
}

#[test]
fn a_client_is_known_by_its_control_group_and_by_its_unit() {
    needs!(DBUS_SEND);
    let mut tried = 0;
    for hierarchy in ["cgroup2", "cgroup -o none,name=systemd"] {
        let group = format!("kapsule-test-{}", std::process::id());
        let cgroup = format!("/{group}/*");
        for (cgroup, unit, lives_there) in [
            (Some(&*cgroup), None, true),
            (None, Some("app-fcitx5*.service"), true),
            (Some(&*cgroup), Some("app-fcitx5*.service"), true),
            (Some(&*cgroup), Some("app-other*.service"), false),
            (Some("/elsewhere/*"), None, false),
            (None, Some("fcitx5.service"), false),
        ] {
            let place = Place::new(by_cgroup(cgroup, unit));
            let _outside = place.service("org.example.Outside");
            let Some(sees) = sees_the_host(&place, hierarchy, &group) else {
                break;
            };
            assert_eq!(sees, lives_there, "{hierarchy}: {cgroup:?}, {unit:?}");
            tried += 1;
        }
    }
    if tried == 0 {
        skip!("no control group can be made in a mount namespace of its own (that takes root)");
    }
}

#[test]
fn where_the_router_cannot_tell_who_a_client_is_it_lives_inside() {
    // Credentials that somebody states have no executable and no control group.
    let place = Place::new(by_program("*"));
    let mut client = place.admitted(dbus_router::Admission {
        trusted: false,
        credentials: Some(dbus_router::Credentials {
            pid: Some(std::process::id()),
            ..Default::default()
        }),
    });
    assert!(!owns_on_host(&place, &mut client));
    assert!(owns_on_host(&place, &mut place.inside()));
}
