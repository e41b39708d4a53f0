//! Nothing gets round the policy: a client, and connections of the host, try every way in any order, and a small
//! model of the rules says what may arrive, and which error is due.

use std::collections::{BTreeMap, BTreeSet};

use dbus_router::{Access, NameRule, Policy, Rules};
use dbus_wire::body::Body;
use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::message::Builder;
use proptest::prelude::*;
use testbed::{DaemonOptions, DbusDaemon, RawClient, Received, TestDir};

use crate::place::{INTERFACE, PATH, Place, filter, host_route, members, names};

const HIDDEN: &str = "org.example.Hidden";
const SEEN: &str = "org.example.Seen";
const TALKS: &str = "org.example.Talks";
const CALLS: &str = "org.example.Calls";
const ROUTE: &str = "org.example.Route";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const NAMES: [&str; 6] = [HIDDEN, SEEN, TALKS, CALLS, ROUTE, SYSTEMD];

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";
const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";
const DRIVER: &str = "org.freedesktop.DBus";

/// How many connections the host has.
const HOSTS: usize = 3;

fn rules() -> Rules {
    names(vec![
        filter(SEEN, Access::See),
        filter(TALKS, Access::Talk),
        NameRule {
            calls: members(&["org.example.Test.Work"]),
            broadcasts: members(&["org.example.Test.Told"]),
            ..filter(CALLS, Access::Hidden)
        },
        // It contains a name that hands over the host, and does not name it.
        filter("org.freedesktop.*", Access::Talk),
        host_route(ROUTE),
    ])
}

/// What becomes of a message to a connection of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Passes,
    Denied,
    /// As if there were no such name.
    Absent,
}

/// The rules above (or none) in other words: of a message to (or a signal from) a connection that holds `held`.
fn judge(
    has_rules: bool,
    held: &BTreeSet<&str>,
    is_signal: bool,
    member: &str,
    states_interface: bool,
) -> Fate {
    let guarded = held.contains(SYSTEMD);
    if guarded && (held.len() == 1 || !states_interface) {
        return Fate::Denied;
    }
    if !has_rules {
        return Fate::Absent;
    }
    let single = if is_signal { "Told" } else { "Work" };
    if held.contains(TALKS)
        || held.contains(ROUTE)
        || (held.contains(CALLS) && member == single && states_interface)
    {
        Fate::Passes
    } else if held.contains(SEEN) || held.contains(CALLS) {
        Fate::Denied
    } else {
        Fate::Absent
    }
}

/// To whom somebody speaks.
#[derive(Clone, Copy, Debug)]
enum To {
    Name(usize),
    Unique(usize),
}

#[derive(Clone, Debug)]
enum Try {
    /// The client sends: a call, a signal, a reply or an error that nobody asked for.
    Send {
        to: To,
        kind: MessageType,
        member: &'static str,
        states_interface: bool,
        auto_start: bool,
    },
    Start(To),
    Ask(&'static str, To),
    List,
    /// The client takes a name inside, or gives it back.
    Take(usize),
    GiveBack(usize),
    /// The client answers the last call that came from there, whether that was answered or not.
    Answer(usize),
    /// A connection of the host takes a name, waits for it, or lets it go.
    Own(usize, usize, u32),
    Release(usize, usize),
    /// It speaks to the client, or to everybody.
    Speak {
        from: usize,
        kind: MessageType,
        member: &'static str,
        broadcast: bool,
    },
    /// The rules above come into force, or none.
    Reload(bool),
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let to = prop_oneof![
        (0..NAMES.len()).prop_map(To::Name),
        (0..HOSTS).prop_map(To::Unique)
    ];
    let kind = prop_oneof![
        6 => Just(MessageType::MethodCall),
        2 => Just(MessageType::Signal),
        1 => Just(MessageType::MethodReturn),
        1 => Just(MessageType::Error),
    ];
    let member = prop_oneof![Just("Work"), Just("Told"), Just("Other")];
    let question = prop_oneof![
        Just("GetNameOwner"),
        Just("NameHasOwner"),
        Just("ListQueuedOwners"),
        Just("GetConnectionUnixUser"),
        Just("GetConnectionUnixProcessID"),
        Just("GetConnectionCredentials"),
        Just("GetConnectionSELinuxSecurityContext"),
    ];
    let send = (
        to.clone(),
        kind.clone(),
        member.clone(),
        prop::bool::weighted(0.8),
        any::<bool>(),
    )
        .prop_map(
            |(to, kind, member, states_interface, auto_start)| Try::Send {
                to,
                kind,
                member,
                states_interface,
                auto_start,
            },
        );
    let speak =
        (0..HOSTS, kind, member, any::<bool>()).prop_map(|(from, kind, member, all)| Try::Speak {
            from,
            kind,
            member,
            broadcast: all && kind == MessageType::Signal,
        });
    let one = prop_oneof![
        8 => send,
        2 => to.clone().prop_map(Try::Start),
        2 => (question, to).prop_map(|(question, to)| Try::Ask(question, to)),
        1 => Just(Try::List),
        1 => (0..NAMES.len()).prop_map(Try::Take),
        1 => (0..NAMES.len()).prop_map(Try::GiveBack),
        1 => (0..HOSTS).prop_map(Try::Answer),
        // ALLOW_REPLACEMENT and REPLACE_EXISTING in all ways: owners change and wait in queues.
        6 => (0..HOSTS, 0..NAMES.len(), 0..4u32).prop_map(|(who, name, flags)| {
            Try::Own(who, name, flags)
        }),
        2 => (0..HOSTS, 0..NAMES.len()).prop_map(|(who, name)| Try::Release(who, name)),
        5 => speak,
        2 => any::<bool>().prop_map(Try::Reload),
    ];
    prop::collection::vec(one, 20..60)
}

/// The world, and what the model knows of it.
struct World {
    client: RawClient,
    hosts: Vec<RawClient>,
    observer: RawClient,
    /// What each connection holds, as the host's bus says, and has ever held.
    held: Vec<BTreeSet<&'static str>>,
    former: Vec<BTreeSet<&'static str>>,
    inside: BTreeSet<&'static str>,
    /// The rules above are in force.
    has_rules: bool,
    /// Who owns what, as the client was told (NameOwnerChanged).
    told: BTreeMap<&'static str, String>,
    /// Who has spoken to the client, and may be answered.
    spoken: BTreeSet<usize>,
    /// The last call from each connection: its serial, and whether it waits for an answer.
    asked: BTreeMap<usize, (u32, bool)>,
    number: u32,
    // After its clients, and before the bus behind it.
    place: Place,
    container_bus: Option<DbusDaemon>,
    _dir: TestDir,
}

/// A message of this test's, as it arrived.
fn number_of(received: &Received) -> Option<u32> {
    (received.header().signature == "u").then(|| received.number())
}

impl World {
    /// A world in which the inside is the local bus, or a dbus-daemon.
    fn new(is_remote: bool) -> World {
        let dir = TestDir::new();
        let container =
            is_remote.then(|| DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap());
        let place = Place::configured(rules(), |config| {
            config.container = container
                .as_ref()
                .map(|it| dbus_wire::address::parse_addresses(it.address()).unwrap());
        });
        let mut client = place.inside();
        for rule in [
            "type='signal'",
            "type='method_call',eavesdrop='true'",
            "eavesdrop='true'",
            "eavesdrop='true',destination='org.example.Hidden'",
            "member='NameOwnerChanged'",
            "type='signal',sender='org.example.Hidden'",
        ] {
            client.add_match(rule);
        }
        World {
            client,
            hosts: (0..HOSTS).map(|_| place.outside()).collect(),
            observer: place.outside(),
            held: vec![BTreeSet::new(); HOSTS],
            former: vec![BTreeSet::new(); HOSTS],
            inside: BTreeSet::new(),
            has_rules: true,
            told: BTreeMap::new(),
            spoken: BTreeSet::new(),
            asked: BTreeMap::new(),
            number: 0,
            place,
            container_bus: container,
            _dir: dir,
        }
    }

    fn can_be_seen(&self, name: &str) -> bool {
        self.has_rules && name != HIDDEN && name != SYSTEMD
    }

    fn text(&self, to: To) -> String {
        match to {
            To::Name(name) => NAMES[name].to_owned(),
            To::Unique(host) => self.hosts[host].unique_name().to_owned(),
        }
    }

    fn owner(&self, name: &str) -> Option<usize> {
        self.held.iter().position(|held| held.contains(name))
    }

    /// A connection of the host's as the client sees it.
    fn is_visible(&self, host: usize) -> bool {
        let names = match self.held[host].is_empty() {
            true => &self.former[host],
            false => &self.held[host],
        };
        self.spoken.contains(&host) || names.iter().any(|name| self.can_be_seen(name))
    }

    fn judge_peer(&self, host: usize, is_signal: bool, member: &str, states: bool) -> Fate {
        let held = &self.held[host];
        let only_guarded = held.contains(SYSTEMD) && (held.len() == 1 || !states);
        match judge(self.has_rules, held, is_signal, member, states) {
            fate if only_guarded => fate,
            Fate::Denied | Fate::Absent if self.spoken.contains(&host) => Fate::Passes,
            fate => fate,
        }
    }

    /// What becomes of a call or signal of the client's, and at whom it arrives (none: nobody has the name).
    fn judge_to(
        &self,
        to: To,
        is_signal: bool,
        member: &str,
        states: bool,
    ) -> (Fate, Option<usize>) {
        match to {
            To::Unique(host) => (self.judge_peer(host, is_signal, member, states), Some(host)),
            To::Name(name) => {
                let name = NAMES[name];
                let owner = self.owner(name);
                let fate = match name {
                    SYSTEMD => Fate::Denied,
                    _ if !self.can_be_seen(name) => Fate::Absent,
                    _ => match owner {
                        Some(host) => self.judge_peer(host, is_signal, member, states),
                        None => judge(true, &BTreeSet::from([name]), is_signal, member, states),
                    },
                };
                (fate, owner)
            }
        }
    }

    /// Every message has arrived where it was going; returns what the client and the host's connections got.
    fn settle(&mut self) -> (Vec<Received>, Vec<Vec<Received>>) {
        // Answered by the host over the client's own link, so it comes after all that the client has sent, and is
        // followed by nothing that was sent before.
        self.client.call_driver("ListNames", &Body::new());
        let mut got: Vec<Vec<Received>> = Vec::new();
        for host in &mut self.hosts {
            got.push(host.all_so_far());
        }
        self.client.call_driver("ListNames", &Body::new());
        let told = self.client.all_so_far();
        for one in &told {
            self.check_change(one);
        }
        (told, got)
    }

    /// Who owns a name in the client's view.
    fn owner_in_view(&self, name: &str) -> Option<&str> {
        if self.inside.contains(name) {
            return Some(self.client.unique_name());
        }
        let owner = self.owner(name).filter(|_| self.can_be_seen(name))?;
        Some(self.hosts[owner].unique_name())
    }

    /// A change of an owner begins where the last one ended.
    fn check_change(&mut self, told: &Received) {
        if !told.is_signal(DRIVER, "NameOwnerChanged") {
            return;
        }
        let change = told.strings();
        if let Some(name) = NAMES.into_iter().find(|name| *name == change[0]) {
            let before = self.told.insert(name, change[2].to_owned());
            assert_eq!(before.unwrap_or_default(), change[1], "{change:?}");
        }
    }

    /// Names have changed on the host: asks who owns what, and waits until the router knows.
    fn names_changed(&mut self) {
        for held in &mut self.held {
            held.clear();
        }
        for name in NAMES {
            if let Some(owner) = self.observer.name_owner(name) {
                let host = self
                    .hosts
                    .iter()
                    .position(|it| it.unique_name() == owner)
                    .expect("nobody else is there");
                self.held[host].insert(name);
                self.former[host].insert(name);
            }
        }
        // The router reads what the bus has told it before it obeys.
        self.place.handle.status().unwrap();
    }

    fn take(&mut self, what: &Try) {
        match what.clone() {
            Try::Send {
                to,
                kind,
                member,
                states_interface,
                auto_start,
            } => self.send(to, kind, member, states_interface, auto_start),
            Try::Start(to) => self.start(to),
            Try::Ask(question, to) => self.ask(question, to),
            Try::List => self.list(),
            Try::Take(name) => {
                let name = NAMES[name];
                let body = Body::new().str(name).u32(0);
                if name == ROUTE && self.has_rules {
                    assert_eq!(self.client.call_driver_error("RequestName", &body), DENIED);
                } else {
                    self.client.call_driver("RequestName", &body);
                    self.inside.insert(name);
                }
            }
            Try::GiveBack(name) => {
                self.client.release_name(NAMES[name]);
                self.inside.remove(NAMES[name]);
            }
            Try::Answer(host) => self.answer(host),
            Try::Own(host, name, flags) => {
                self.hosts[host].request_name(NAMES[name], flags);
                self.names_changed();
            }
            Try::Release(host, name) => {
                self.hosts[host].release_name(NAMES[name]);
                self.names_changed();
            }
            Try::Speak {
                from,
                kind,
                member,
                broadcast,
            } => self.speak(from, kind, member, broadcast),
            Try::Reload(has_rules) => {
                let rules = if has_rules { rules() } else { Rules::default() };
                self.place.handle.set_policy(Policy::from_rules(rules));
                self.place.handle.status().unwrap();
                self.has_rules = has_rules;
                if has_rules {
                    // It is the host's now.
                    self.inside.remove(ROUTE);
                }
            }
        }
        self.what_was_told_is_true();
    }

    fn send(
        &mut self,
        to: To,
        kind: MessageType,
        member: &'static str,
        states_interface: bool,
        auto_start: bool,
    ) {
        self.number += 1;
        let number = self.number;
        let (destination, body) = (self.text(to), Body::new().u32(number));
        let builder = match kind {
            MessageType::MethodCall if states_interface => {
                Builder::method_call(PATH, member).interface(INTERFACE)
            }
            MessageType::MethodCall => Builder::method_call(PATH, member),
            MessageType::Signal => Builder::signal(PATH, INTERFACE, member),
            MessageType::MethodReturn => Builder::method_return(number + 1_000_000),
            _ => Builder::new(MessageType::Error)
                .field(4, Body::new().str("org.example.Error"))
                .reply_serial(number + 1_000_000),
        };
        let flags = match auto_start {
            true => Flags(0),
            false => Flags::NO_AUTO_START,
        };
        let serial = self
            .client
            .send(builder.destination(&destination).flags(flags).body(&body));
        let speaks = matches!(kind, MessageType::MethodCall | MessageType::Signal);
        let is_signal = kind == MessageType::Signal;
        let states = states_interface || is_signal;
        let inside = matches!(to, To::Name(name) if self.inside.contains(NAMES[name]));
        let (fate, owner) = self.judge_to(to, is_signal, member, states);
        let (client, hosts) = self.settle();
        for (host, got) in hosts.iter().enumerate() {
            let arrived = got
                .iter()
                .filter(|it| number_of(it) == Some(number))
                .count();
            let due = speaks && !inside && fate == Fate::Passes && owner == Some(host);
            assert_eq!(arrived, usize::from(due), "at the host's {host}");
        }
        let own = client
            .iter()
            .filter(|it| number_of(it) == Some(number))
            .count();
        assert_eq!(own, usize::from(inside && speaks), "at the client itself");
        let answer = client.iter().find(|it| it.is_reply_to(serial));
        let absent = match auto_start {
            true => UNKNOWN,
            false => NO_OWNER,
        };
        let due = match (fate, owner) {
            _ if kind != MessageType::MethodCall || inside => None,
            (Fate::Denied, _) => Some(DENIED),
            (Fate::Absent, _) | (Fate::Passes, None) => Some(absent),
            // It waits for an answer that is not given here.
            (Fate::Passes, Some(_)) => None,
        };
        assert_eq!(answer.and_then(|it| it.error_name()), due);
    }

    fn start(&mut self, to: To) {
        let name = self.text(to);
        let body = Body::new().str(&name).u32(0);
        let start = Builder::method_call("/org/freedesktop/DBus", "StartServiceByName")
            .interface(DRIVER)
            .destination(DRIVER);
        let reply = self.client.call(start.body(&body));
        match to {
            // A connection cannot be started, and nothing is told of it.
            To::Unique(_) => assert!(reply.error_name().is_some()),
            To::Name(place) if self.inside.contains(NAMES[place]) => match self.container_bus {
                None => assert_eq!(reply.returned().number(), 2),
                // Here, too, dbus-daemon knows only those that it has a file for.
                Some(_) => assert_eq!(reply.error_name(), Some(UNKNOWN)),
            },
            To::Name(place) => {
                let name = NAMES[place];
                // To start a name is to use it, and no single call: it has to be one that may be talked to.
                // (dbus-daemon knows only those that it has a file for, and here it has none.)
                let due = match self.judge_to(to, false, "", true).0 {
                    Fate::Denied => DENIED,
                    Fate::Absent | Fate::Passes => UNKNOWN,
                };
                assert_eq!(reply.error_name(), Some(due), "{name}");
            }
        }
    }

    fn ask(&mut self, question: &'static str, to: To) {
        let name = self.text(to);
        let body = Body::new().str(&name);
        let call = Builder::method_call("/org/freedesktop/DBus", question)
            .interface(DRIVER)
            .destination(DRIVER);
        let reply = self.client.call(call.body(&body));
        let is_there = match to {
            To::Unique(host) => self.is_visible(host),
            To::Name(place) => {
                let name = NAMES[place];
                self.inside.contains(name) || (self.can_be_seen(name) && self.owner(name).is_some())
            }
        };
        match question {
            "NameHasOwner" => {
                assert_eq!(reply.reader().boolean().unwrap(), is_there);
            }
            // Nobody here has one; but whether there is somebody must not be told.
            "GetConnectionSELinuxSecurityContext" => {
                assert_eq!(reply.error_name() != Some(NO_OWNER), is_there);
            }
            _ => assert_eq!(
                reply.error_name(),
                (!is_there).then_some(NO_OWNER),
                "{name}"
            ),
        }
        if let (true, "GetNameOwner", To::Name(place)) = (is_there, question, to) {
            let name = NAMES[place];
            let owner = match self.inside.contains(name) {
                true => self.client.unique_name(),
                false => self.hosts[self.owner(name).unwrap()].unique_name(),
            };
            assert_eq!(reply.text(), owner);
        }
    }

    fn list(&mut self) {
        let listed: BTreeSet<String> = self.client.list_names().into_iter().collect();
        let mut due = BTreeSet::from([DRIVER.to_owned(), self.client.unique_name().to_owned()]);
        for (host, connection) in self.hosts.iter().enumerate() {
            if self.is_visible(host) {
                due.insert(connection.unique_name().to_owned());
            }
        }
        for name in NAMES {
            let of_host = self.can_be_seen(name) && self.owner(name).is_some();
            if of_host || self.inside.contains(name) {
                due.insert(name.to_owned());
            }
        }
        assert_eq!(listed, due);
    }

    fn answer(&mut self, host: usize) {
        let Some((serial, waits)) = self.asked.get_mut(&host) else {
            return;
        };
        self.number += 1;
        let (number, waits) = (self.number, std::mem::take(waits));
        let to = self.hosts[host].unique_name().to_owned();
        let body = Body::new().u32(number);
        self.client
            .send(Builder::method_return(*serial).destination(&to).body(&body));
        let (_, hosts) = self.settle();
        let arrived = hosts[host]
            .iter()
            .filter(|it| number_of(it) == Some(number));
        assert_eq!(
            arrived.count(),
            usize::from(waits),
            "an answer to each call, and one"
        );
    }

    fn speak(&mut self, from: usize, kind: MessageType, member: &'static str, broadcast: bool) {
        self.number += 1;
        let (number, body) = (self.number, Body::new().u32(self.number));
        let builder = match kind {
            MessageType::MethodCall => Builder::method_call(PATH, member).interface(INTERFACE),
            MessageType::Signal => Builder::signal(PATH, INTERFACE, member),
            MessageType::MethodReturn => Builder::method_return(number + 1_000_000),
            _ => Builder::new(MessageType::Error)
                .field(4, Body::new().str("org.example.Error"))
                .reply_serial(number + 1_000_000),
        };
        let to = self.client.unique_name().to_owned();
        let builder = match broadcast {
            true => builder.body(&body),
            false => builder.destination(&to).body(&body),
        };
        let held = self.held[from].clone();
        let due = match kind {
            MessageType::MethodCall => {
                self.has_rules && (held.contains(TALKS) || held.contains(ROUTE))
            }
            MessageType::Signal => judge(self.has_rules, &held, true, member, true) == Fate::Passes,
            _ => false,
        };
        let serial = self.hosts[from].send(builder);
        self.hosts[from].call_driver("GetId", &Body::new());
        let (client, mut hosts) = self.settle();
        let arrived = client.iter().filter(|it| number_of(it) == Some(number));
        assert_eq!(arrived.count(), usize::from(due), "at the client");
        if due && !broadcast {
            self.spoken.insert(from);
        }
        if kind == MessageType::MethodCall {
            if due {
                self.asked.insert(from, (serial, true));
            } else {
                hosts[from].retain(|it| it.is_reply_to(serial));
                let answer = hosts[from].pop().expect("an answer");
                assert_eq!(answer.error_name(), Some(DENIED));
            }
        }
    }

    /// What the client was told of the owners of names is what it sees, after each step: no change is missing, none is
    /// told twice, and none is of a name that it must not see.
    fn what_was_told_is_true(&mut self) {
        self.client.call_driver("ListNames", &Body::new());
        for told in self.client.all_so_far() {
            // On a bus of the sandbox's own, eavesdropping shows what is said there.
            let of_host = self
                .hosts
                .iter()
                .any(|it| it.unique_name() == told.sender());
            let is_usual = told.sender() == DRIVER || self.container_bus.is_some();
            assert!(is_usual && !of_host, "nobody spoke, and yet: {told}");
            self.check_change(&told);
        }
        for name in NAMES {
            let told = self.told.get(name).map_or("", |owner| owner);
            assert_eq!(told, self.owner_in_view(name).unwrap_or(""), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 60,
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 20 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_gets_round_the_policy(all in tries()) {
        let mut world = World::new(false);
        for one in &all {
            world.take(one);
        }
    }

    #[test]
    fn nothing_gets_round_the_policy_with_a_bus_of_the_sandbox_s_own(all in tries()) {
        let mut world = World::new(true);
        for one in &all {
            world.take(one);
        }
    }
}
