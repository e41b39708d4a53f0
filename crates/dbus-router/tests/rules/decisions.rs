//! What is told of decisions.

use std::sync::{Arc, Mutex};

use dbus_router::{Access, Decision, Policy, Rules, Watcher};

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
    client.call_driver("ListNames", &dbus_wire::body::Body::new());
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
