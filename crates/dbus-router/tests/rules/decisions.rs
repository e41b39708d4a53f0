//! What is told of decisions.

use std::sync::{Arc, Mutex};

use dbus_router::{Access, Decision, Policy, Rules, Watcher};
use dbus_wire::body::Body;
use dbus_wire::message::Builder;

use crate::place::{Place, filter, id, names, refusal, signal, works};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Watcher for Log {
    fn decided(&mut self, decision: &Decision<'_>) {
        let rule = decision.rule.map(|rule| rule.to_string());
        self.0.lock().unwrap().push(format!(
            "{:?} {} {} {:?}",
            decision.direction,
            decision.member.unwrap_or_default(),
            rule.as_deref().unwrap_or("no rule"),
            decision.ruling
        ));
    }
}

#[test]
fn each_decision_says_its_rule_and_what_it_was() {
    let log = Log::default();
    let mut rules = names(vec![filter("org.example.Talks", Access::Talk)]);
    rules.names.push({
        let mut seen = filter("org.example.Seen", Access::See);
        seen.id.index = 1;
        seen
    });
    let place = Place::watched(rules, Box::new(log.clone()));
    let (mut talks, _seen) = (
        place.service("org.example.Talks"),
        place.service("org.example.Seen"),
    );
    let (mut client, mut stranger) = (place.inside(), place.outside());
    works(&mut client, "org.example.Talks", &mut talks);
    refusal(&mut client, "org.example.Seen");
    refusal(&mut client, "org.example.Hidden");
    refusal(&mut stranger, client.unique_name());
    client.send(signal("Inside"));
    client.call_driver("ListNames", &Body::new());
    let told = log.0.lock().unwrap().clone();
    assert_eq!(
        told,
        [
            "ToHost Work [[filter]] 1 Allowed",
            "ToHost Work [[filter]] 2 Refused",
            "ToHost Work no rule Hidden",
            "FromHost Work no rule Refused",
            "ToHost Inside no rule Hidden",
        ]
    );
    assert_eq!(id("filter").to_string(), "[[filter]] 1");
    place
        .handle
        .set_policy(Policy::from_rules(Rules::default()));
}

#[test]
fn questions_to_the_driver_about_names_of_the_host_are_decisions() {
    let log = Log::default();
    let place = Place::watched(
        names(vec![filter("org.example.Talks", Access::Talk)]),
        Box::new(log.clone()),
    );
    let (talks, hidden) = (
        place.service("org.example.Talks"),
        place.service("org.example.Hidden"),
    );
    let mut client = place.inside();
    assert_eq!(client.request_name("org.example.Inside", 0), 1);
    let mut ask = |member, name: &str| {
        let driver = Builder::method_call("/org/freedesktop/DBus", member)
            .interface("org.freedesktop.DBus")
            .destination("org.freedesktop.DBus");
        let body = match member {
            "StartServiceByName" => Body::new().str(name).u32(0),
            _ => Body::new().str(name),
        };
        client.call(driver.body(&body));
        let told = std::mem::take(&mut *log.0.lock().unwrap());
        told.iter()
            .map(|line| {
                line.strip_prefix(&format!("ToHost {member} "))
                    .unwrap()
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    let questions = [
        "GetNameOwner",
        "NameHasOwner",
        "ListQueuedOwners",
        "GetConnectionUnixUser",
        "GetConnectionUnixProcessID",
        "GetConnectionCredentials",
        "StartServiceByName",
    ];
    for member in questions {
        assert_eq!(
            ask(member, "org.example.Talks"),
            ["[[filter]] 1 Allowed"],
            "{member}"
        );
        assert_eq!(
            ask(member, "org.example.Hidden"),
            ["no rule Hidden"],
            "{member}"
        );
        for inside in ["org.example.Inside", "org.freedesktop.DBus"] {
            assert_eq!(ask(member, inside), [""; 0], "{member} {inside}");
        }
    }
    assert_eq!(
        ask("GetNameOwner", talks.unique_name()),
        ["no rule Allowed"]
    );
    assert_eq!(
        ask("GetNameOwner", hidden.unique_name()),
        ["no rule Hidden"]
    );
    assert_eq!(
        ask("StartServiceByName", "org.freedesktop.systemd1"),
        ["no rule Refused"]
    );
    let rule = |name| format!("type='signal',sender='{name}'");
    assert_eq!(
        ask("AddMatch", &rule("org.example.Talks")),
        ["[[filter]] 1 Allowed"]
    );
    assert_eq!(
        ask("AddMatch", &rule("org.example.Hidden")),
        ["no rule Hidden"]
    );
    assert_eq!(ask("AddMatch", "type='signal'"), [""; 0]);
}
