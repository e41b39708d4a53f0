//! The invented world: a router, the buses behind it (hubs themselves), and programs that do what chance says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use dbus_router::{ActivationId, Fds, HubConfig, LaunchEnd, Limits, Policy, Service, ServiceSet};
use dbus_wire::body::Body;
use dbus_wire::frame::Flags;
use dbus_wire::guid::Guid;
use dbus_wire::match_rule::MatchRule;
use dbus_wire::message::Builder;
use dbus_wire::names::WellKnownName;

use crate::node::{Medium, Node, Wish};
use crate::program::{
    Aim, Expect, Note, Program, Realm, Rule, RuleState, Sending, State, Token, What,
};
use crate::random::Random;
use crate::trace::Trace;
use crate::wire::Wires;

pub const DRIVER: &str = "org.freedesktop.DBus";
pub const REFUSED: &str = "org.freedesktop.systemd1";
pub const APPLICATION: &str = "org.app.One";
/// A service that is started inside.
pub const STARTED: &str = "org.act.Service";
const SHARED: [&str; 3] = ["org.shared.A", "org.shared.B", "org.shared.B.Sub"];
pub const HOST_ONLY: [&str; 2] = ["org.host.A", "org.host.B"];
const INSIDE_ONLY: &str = "org.inside.A";
const TOPICS: [&str; 3] = ["alpha", "beta", "org.shared.A"];
const INTERFACES: [&str; 2] = ["sim.One", "sim.Two"];

/// Every well-known name that there is.
pub const NAMES: [&str; 9] = [
    SHARED[0],
    SHARED[1],
    SHARED[2],
    HOST_ONLY[0],
    HOST_ONLY[1],
    INSIDE_ONLY,
    REFUSED,
    APPLICATION,
    STARTED,
];

/// What is behind the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Local,
    Remote,
    NoHost,
}

/// What can happen in one world.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub mode: Mode,
    /// Some programs do not read for a while, and quotas are small.
    pub slow: bool,
    /// Some programs send rubbish, or half a message.
    pub vandals: bool,
    /// Buses die and come back.
    pub restarts: bool,
    /// Links are refused now and then.
    pub refusals: bool,
    pub activation: bool,
    pub large: bool,
}

pub type Judged = Result<(), String>;

pub struct World {
    pub features: Features,
    pub medium: Medium,
    pub router: Node,
    pub host: Option<Node>,
    pub container: Option<Node>,
    pub programs: Vec<Program>,
    /// How a program is called by those of a realm.
    pub shown: BTreeMap<(Realm, usize), String>,
    /// Which program has got which call.
    pub delivered: BTreeMap<Token, usize>,
    /// Signals that have to arrive: receiver, sender, number.
    pub duties: BTreeSet<(usize, Token)>,
    pub sent_fds: BTreeMap<Token, Vec<i32>>,
    /// Something broke a moment ago: what is lost then is not held against anybody.
    pub unsettled: bool,
    /// Programs answer at once.
    pub obliging: bool,
    pub next_stint: u64,
    ends: VecDeque<(Realm, ActivationId, LaunchEnd)>,
    down: [usize; 2],
    pub era: u32,
    large: Vec<u8>,
}

fn config(guid: u8, host: bool, remote: bool, limits: Limits) -> HubConfig {
    HubConfig {
        guid: Guid([guid; 16]),
        host,
        remote_container: remote,
        policy: Policy::new(),
        inside: dbus_router::InsideRules::default(),
        limits,
        machine_id: None,
        pid: 1,
        uid: 1000,
    }
}

fn services(started: bool, applications: bool) -> ServiceSet {
    let mut set = ServiceSet::default();
    if started {
        let name = WellKnownName::parse(STARTED).expect("it is one");
        let service = Service {
            name: name.clone(),
            command: vec!["service".into()],
        };
        set.services.insert(name, service);
    }
    if applications {
        set.applications.insert(APPLICATION.into());
    }
    set
}

impl World {
    pub fn new(seed: u64, trace: Trace) -> World {
        let mut random = Random::new(seed);
        let mode = *random.pick(&[Mode::Local, Mode::Remote, Mode::Remote, Mode::NoHost]);
        let features = Features {
            mode,
            slow: random.one_in(3),
            vandals: random.one_in(3),
            restarts: random.one_in(4),
            refusals: random.one_in(6),
            activation: random.one_in(2),
            large: random.one_in(2),
        };
        let mut limits = Limits::default();
        if features.slow {
            limits.receiver_bytes = 512 * 1024;
            limits.sender_bytes = 768 * 1024;
        }
        let remote = mode == Mode::Remote;
        let router = Node::new("router", config(1, mode != Mode::NoHost, remote, limits));
        let medium = Medium {
            wires: Wires::default(),
            random,
            trace,
            now: Duration::ZERO,
        };
        let mut world = World {
            features,
            medium,
            router,
            host: None,
            container: None,
            programs: Vec::new(),
            shown: BTreeMap::new(),
            delivered: BTreeMap::new(),
            duties: BTreeSet::new(),
            sent_fds: BTreeMap::new(),
            unsettled: false,
            obliging: false,
            next_stint: 0,
            ends: VecDeque::new(),
            down: [0; 2],
            era: 0,
            large: vec![7; 100 * 1024],
        };
        world.medium.trace.say(|| format!("{features:?}"));
        if mode != Mode::NoHost {
            world.boot(Realm::Host);
        }
        if remote {
            world.boot(Realm::Container);
        }
        let started = features.activation && !remote;
        let node = &mut world.router;
        node.hub.set_services(services(started, true), &mut node.io);
        node.hub.start(&mut node.io);
        world.grant(Realm::Inside);
        world
    }

    fn boot(&mut self, realm: Realm) {
        let (label, guid, slot) = match realm {
            Realm::Host => ("host", 2, &mut self.host),
            _ => ("container", 3, &mut self.container),
        };
        let mut node = Node::new(label, config(guid, false, false, Limits::default()));
        if realm == Realm::Container {
            let set = services(self.features.activation, false);
            node.hub.set_services(set, &mut node.io);
        }
        node.hub.start(&mut node.io);
        *slot = Some(node);
    }

    pub fn node(&mut self, realm: Realm) -> Option<&mut Node> {
        match realm {
            Realm::Inside => Some(&mut self.router),
            Realm::Host => self.host.as_mut(),
            Realm::Container => self.container.as_mut(),
        }
    }

    /// Runs one bus or the router.
    fn run(&mut self, realm: Realm, all: bool) {
        let node = match realm {
            Realm::Inside => Some(&mut self.router),
            Realm::Host => self.host.as_mut(),
            Realm::Container => self.container.as_mut(),
        };
        let Some(node) = node else { return };
        node.turn(&mut self.medium, all);
        self.grant(realm);
    }

    /// Does what a hub wished for.
    fn grant(&mut self, realm: Realm) {
        loop {
            let Some(node) = self.node(realm) else { return };
            let Some(wish) = node.io.wishes.pop_front() else {
                return;
            };
            match wish {
                Wish::Open { link, unix_fds } => self.open(link, unix_fds),
                Wish::Launch(id, launch) => {
                    self.medium
                        .trace
                        .say(|| format!("launch of {}", launch.name));
                    self.launch(realm, id);
                }
            }
        }
    }

    fn open(&mut self, link: dbus_router::Port, unix_fds: bool) {
        use dbus_router::{Bus, Port};
        let (Port::Link(bus, _) | Port::Control(bus)) = link else {
            return;
        };
        let capacity = self.capacity();
        let target = match bus {
            Bus::Host => &mut self.host,
            Bus::Container => &mut self.container,
        };
        let refused = self.features.refusals
            && matches!(link, Port::Link(..))
            && self.medium.random.one_in(12);
        let Some(target) = target.as_mut().filter(|_| !refused) else {
            self.medium.trace.say(|| format!("{link} is refused"));
            return self.router.link_refused(link, &mut self.medium);
        };
        let end = self.medium.wires.connect(capacity);
        target.backlog.push_back((end.other(), unix_fds, 1));
        self.router.link_connected(link, end);
        self.router.settle(&mut self.medium);
    }

    fn capacity(&mut self) -> usize {
        *self.medium.random.pick(&[300, 4096, 64 * 1024])
    }

    fn launch(&mut self, realm: Realm, id: ActivationId) {
        let end = match self.medium.random.below(6) {
            0 => LaunchEnd::Failed("there is no such program".into()),
            1 => LaunchEnd::Exited(1),
            2 => return,
            3 => {
                self.connect(realm, Some(STARTED));
                LaunchEnd::Exited(0)
            }
            _ => {
                self.connect(realm, Some(STARTED));
                return;
            }
        };
        self.ends.push_back((realm, id, end));
    }

    fn launch_ended(&mut self) {
        if let Some((realm, id, end)) = self.ends.pop_front() {
            let node = match realm {
                Realm::Inside => Some(&mut self.router),
                Realm::Host => self.host.as_mut(),
                Realm::Container => self.container.as_mut(),
            };
            if let Some(node) = node {
                node.hub.launch_ended(id, &end, &mut node.io);
                node.settle(&mut self.medium);
            }
        }
    }

    /// A new program.
    pub fn connect(&mut self, realm: Realm, service: Option<&'static str>) {
        let capacity = self.capacity();
        let end = self.medium.wires.connect(capacity);
        let takes_fds = self.medium.random.percent(80);
        let serial = *self
            .medium
            .random
            .pick(&[0, 0, 0, 0xf000_0000, 0xffff_fff0]);
        let pid = 100 + self.programs.len() as u32;
        let Some(node) = self.node(realm) else { return };
        node.backlog.push_back((end.other(), takes_fds, pid));
        let mut program = Program::new(realm, end, takes_fds, serial);
        program.service = service;
        program.era = self.era;
        self.programs.push(program);
        let p = self.programs.len() - 1;
        self.medium.trace.say(|| format!("P{p} connects {realm:?}"));
        self.ask(p, "Hello", &Body::new(), What::Hello);
    }

    /// Which realms there are for programs.
    pub fn realms(&self) -> Vec<Realm> {
        let mut realms = vec![Realm::Inside];
        if self.host.is_some() {
            realms.push(Realm::Host);
        }
        if self.container.is_some() {
            realms.push(Realm::Container);
        }
        realms
    }

    // --- What programs say ---

    fn put(&mut self, p: usize, bytes: Vec<u8>, fds: Option<Fds>, note: Note, token: Token) {
        self.programs[p].outbox.push_back(Sending {
            bytes,
            done: 0,
            fds,
            note,
            token,
        });
        self.write(p);
    }

    /// Writes what there is room for.
    fn write(&mut self, p: usize) -> bool {
        let mut moved = false;
        let end = self.programs[p].end;
        while let Some(sending) = self.programs[p].outbox.front_mut() {
            let sending_fds = sending.fds.as_ref().filter(|_| sending.done == 0);
            let rest = &sending.bytes[sending.done..];
            match self.medium.wires.write(end, rest, sending_fds) {
                None => {
                    self.programs[p].outbox.clear();
                    return moved;
                }
                Some(0) => return moved,
                Some(count) => {
                    moved = true;
                    sending.done += count;
                    if sending.done < sending.bytes.len() {
                        return moved;
                    }
                    if let Some(sent) = self.programs[p].outbox.pop_front() {
                        self.sent(p, &sent);
                    }
                }
            }
        }
        moved
    }

    /// A message is on its way: who has to get it?
    fn sent(&mut self, p: usize, sending: &Sending) {
        if self.unsettled || self.features.refusals {
            return;
        }
        match sending.note {
            Note::Nothing => {}
            Note::Signal(to) => {
                let receiver = &self.programs[to];
                let refused = self.programs[p].realm == Realm::Inside && self.may_be_refused(to);
                if !refused && receiver.is_up() && (sending.fds.is_none() || receiver.takes_fds) {
                    self.duties.insert((to, sending.token));
                }
            }
            Note::Broadcast => {
                for to in 0..self.programs.len() {
                    let receiver = &self.programs[to];
                    if receiver.is_up()
                        && (sending.fds.is_none() || receiver.takes_fds)
                        && self.reaches(p, to)
                        && self.wants(to, p, &sending.bytes, true)
                    {
                        self.duties.insert((to, sending.token));
                    }
                }
            }
        }
    }

    /// Whether broadcasts of `from` come to where `to` is, for certain.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let (sender, receiver) = (&self.programs[from], &self.programs[to]);
        match (sender.realm, receiver.realm) {
            (Realm::Host, Realm::Container) | (Realm::Container, Realm::Host) => false,
            // Who holds only names that are refused is not seen.
            (Realm::Host, Realm::Inside) => !sender.requested.contains(REFUSED),
            _ => true,
        }
    }

    /// Whether a rule of `p` matches a broadcast of `from`. `certainly`: a rule that is in force.
    pub fn wants(&self, p: usize, from: usize, bytes: &[u8], certainly: bool) -> bool {
        let Ok(message) = dbus_wire::message::Message::parse(bytes.to_vec()) else {
            return false;
        };
        let header = message.header();
        let args = dbus_wire::match_rule::Args::new(&header, message.body());
        let program = &self.programs[p];
        let shown = self.shown.get(&(program.realm, from));
        program.rules.iter().any(|it| {
            let sender = match it.rule.sender.as_deref() {
                None => true,
                Some(name) if name.starts_with(':') => Some(name) == shown.map(|it| &**it),
                Some(DRIVER) => false,
                Some(_) => !certainly,
            };
            sender
                && (!certainly || it.state == RuleState::Active)
                && it.rule.matches(&header, &args)
        })
    }

    fn descriptors(&mut self, p: usize) -> Option<Fds> {
        if !self.programs[p].takes_fds || !self.medium.random.percent(12) {
            return None;
        }
        let count = 1 + self.medium.random.below(3);
        let open = || std::fs::File::open("/dev/null").map(OwnedFd::from);
        let fds: Vec<OwnedFd> = (0..count).filter_map(|_| open().ok()).collect();
        Some(Fds::new(fds))
    }

    /// A body of ours: a topic, who says it, about which call, something to carry.
    fn body(&mut self, p: usize, about: Token, fds: Option<&Fds>) -> (Body, Token) {
        let program = &mut self.programs[p];
        program.seq += 1;
        let token = (p, program.seq);
        let topic = *self.medium.random.pick(&TOPICS);
        let size = match self.medium.random.below(60) {
            0..3 if self.features.slow && self.features.large => self.large.len(),
            0 if self.features.large => 1 + self.medium.random.below(self.large.len()),
            1..4 if self.features.large => self.medium.random.below(9000),
            _ => self.medium.random.below(20),
        };
        let mut body = Body::new()
            .str(topic)
            .u32(p as u32)
            .u32(token.1)
            .u32(about.0 as u32)
            .u32(about.1)
            .bytes(&self.large[..size]);
        if let Some(fds) = fds {
            use std::os::fd::AsRawFd;
            for index in 0..fds.len() {
                body = body.unix_fd(index as u32);
            }
            let raw = fds.as_slice().iter().map(|fd| fd.as_raw_fd()).collect();
            self.sent_fds.insert(token, raw);
        }
        (body, token)
    }

    /// A call to the driver.
    pub fn ask(&mut self, p: usize, member: &str, body: &Body, what: What) {
        let program = &mut self.programs[p];
        let serial = program.next_serial();
        program.calls.insert(serial, what);
        let bytes = Builder::method_call("/org/freedesktop/DBus", member)
            .interface(DRIVER)
            .destination(DRIVER)
            .serial(serial)
            .body(body)
            .build();
        self.medium.trace.say(|| {
            format!(
                "P{p} #{serial} asks {member} {}",
                body.reader().str().unwrap_or_default()
            )
        });
        self.put(p, bytes, None, Note::Nothing, (p, 0));
    }

    pub fn call(&mut self, p: usize, aim: Aim, expect: Option<Expect>) {
        let destination = match &aim {
            // Its name may be another's today.
            Aim::Unique(to) if self.programs[*to].era != self.era => return,
            Aim::Unique(to) => match self.shown.get(&(self.programs[p].realm, *to)) {
                Some(name) => name.clone(),
                None => return,
            },
            Aim::Name(name) => (*name).to_owned(),
            Aim::Nobody => (*self
                .medium
                .random
                .pick(&["org.nobody.X", ":1.4000", ":77.1"]))
            .to_owned(),
        };
        let probe = expect.is_some();
        let fds = self.descriptors(p).filter(|_| !probe);
        let (body, token) = self.body(p, (0, 0), fds.as_ref());
        let mut flags = Flags::NONE;
        let silent = !probe && self.medium.random.percent(10);
        if silent {
            flags = flags.with(Flags::NO_REPLY_EXPECTED);
        }
        if probe || self.medium.random.percent(20) {
            flags = flags.with(Flags::NO_AUTO_START);
        }
        let firm = match &aim {
            Aim::Name(name) => self.firm_owner(self.programs[p].realm, name),
            _ => None,
        };
        let program = &mut self.programs[p];
        let serial = program.next_serial();
        if !silent {
            let what = What::To {
                aim,
                seq: token.1,
                fds: fds.is_some(),
                firm,
                expect,
            };
            program.calls.insert(serial, what);
        }
        let interface = *self.medium.random.pick(&INTERFACES);
        let bytes = Builder::method_call("/sim", "Do")
            .interface(interface)
            .destination(&destination)
            .flags(flags)
            .serial(serial)
            .unix_fds(fds.as_ref().map_or(0, Fds::len) as u32)
            .body(&body)
            .build();
        self.medium
            .trace
            .say(|| format!("P{p} #{serial} calls {destination} as {token:?} {flags:?}"));
        self.put(p, bytes, fds, Note::Nothing, token);
    }

    /// Who cannot but own a name in the view of a realm, and since when.
    pub fn firm_owner(&self, realm: Realm, name: &'static str) -> Option<(usize, u64)> {
        let among = |realms: &[Realm]| {
            self.programs.iter().enumerate().find_map(|(p, program)| {
                let stint = program.firm.get(name)?;
                (program.is_up() && realms.contains(&program.realm)).then_some((p, *stint))
            })
        };
        match realm {
            Realm::Host => among(&[Realm::Host]),
            Realm::Container => among(&[Realm::Inside, Realm::Container]),
            Realm::Inside => among(&[Realm::Inside, Realm::Container])
                .or_else(|| among(&[Realm::Host]).filter(|_| HOST_ONLY.contains(&name))),
        }
    }

    fn signal(&mut self, p: usize, to: Option<usize>) {
        let realm = self.programs[p].realm;
        let destination = match to {
            None => None,
            Some(to) if self.programs[to].era != self.era => return,
            Some(to) => match self.shown.get(&(realm, to)) {
                Some(name) => Some(name.clone()),
                None => return,
            },
        };
        let fds = self.descriptors(p);
        let (body, token) = self.body(p, (0, 0), fds.as_ref());
        let serial = self.programs[p].next_serial();
        let interface = *self.medium.random.pick(&INTERFACES);
        let sender = self.programs[p].name.clone();
        let mut builder = Builder::signal("/sim", interface, "Said")
            .serial(serial)
            .unix_fds(fds.as_ref().map_or(0, Fds::len) as u32)
            .body(&body);
        if self.medium.random.one_in(4) {
            builder = builder.sender(&sender);
        }
        if let Some(destination) = &destination {
            builder = builder.destination(destination);
        }
        let bytes = builder.build();
        self.medium
            .trace
            .say(|| format!("P{p} #{serial} signals {destination:?} as {token:?}"));
        // The host does not let a refused program be reached.
        let note = match to {
            None => Note::Broadcast,
            Some(to) if realm == Realm::Inside && self.may_be_refused(to) => Note::Nothing,
            Some(to) => Note::Signal(to),
        };
        self.put(p, bytes, fds, note, token);
    }

    /// Whether the policy may refuse messages to a program, because of the names that it has.
    pub fn may_be_refused(&self, to: usize) -> bool {
        let program = &self.programs[to];
        program.realm == Realm::Host && program.requested.contains(REFUSED)
    }

    /// Answers a call that it was asked.
    fn answer(&mut self, p: usize, which: usize) {
        let debt = self.programs[p].debts.remove(which);
        let (body, token) = self.body(p, debt.token, None);
        let serial = self.programs[p].next_serial();
        let builder = if self.medium.random.one_in(5) {
            Builder::error("sim.Error.Own", debt.serial, "")
        } else {
            Builder::method_return(debt.serial)
        };
        let bytes = builder
            .destination(&debt.sender)
            .serial(serial)
            .body(&body)
            .build();
        self.medium
            .trace
            .say(|| format!("P{p} #{serial} answers {:?} as {token:?}", debt.token));
        self.put(p, bytes, None, Note::Nothing, token);
    }

    fn bogus_answer(&mut self, p: usize, to: usize) {
        let Some(destination) = self.shown.get(&(self.programs[p].realm, to)).cloned() else {
            return;
        };
        let serial = self.programs[p].next_serial();
        let bytes = Builder::method_return(0x7fff_0000)
            .destination(&destination)
            .serial(serial)
            .build();
        self.put(p, bytes, None, Note::Nothing, (p, 0));
    }

    pub fn request(&mut self, p: usize, name: &'static str, flags: u32) {
        let program = &mut self.programs[p];
        program.requested.insert(name);
        program.firm.remove(name);
        let realm = program.realm;
        if name == REFUSED && realm == Realm::Host {
            // What it said before, or what was said to it, may be refused already.
            self.duties.retain(|(to, (from, _))| *from != p && *to != p);
        }
        let body = Body::new().str(name).u32(flags);
        self.ask(p, "RequestName", &body, What::Request { name, flags });
    }

    fn random_rule(&mut self, p: usize) -> String {
        let random = &mut self.medium.random;
        let interface = *random.pick(&INTERFACES);
        let topic = *random.pick(&TOPICS);
        let name = *random.pick(&NAMES);
        match random.below(10) {
            0 => "type='signal'".into(),
            1 => format!("type='signal',interface='{interface}'"),
            2 => format!("interface='{interface}',arg0='{topic}'"),
            3 => format!("type='signal',sender='{name}'"),
            4 => {
                let other = random.below(self.programs.len());
                match self.shown.get(&(self.programs[p].realm, other)) {
                    Some(name) => format!("type='signal',sender='{name}',member='Said'"),
                    None => "path='/sim',type='signal'".into(),
                }
            }
            5 => format!("type='signal',sender='{DRIVER}',member='NameOwnerChanged'"),
            6 => "member='NameOwnerChanged',arg0namespace='org.shared'".into(),
            _ => format!("type='signal',sender='{DRIVER}',member='NameOwnerChanged',arg0='{name}'"),
        }
    }

    fn add_rule(&mut self, p: usize) {
        let text = self.random_rule(p);
        let Ok(rule) = MatchRule::parse(&text) else {
            return;
        };
        let program = &mut self.programs[p];
        let id = program.next_rule;
        program.next_rule += 1;
        program.rules.push(Rule {
            id,
            text: text.clone(),
            rule,
            state: RuleState::Asked,
        });
        self.ask(p, "AddMatch", &Body::new().str(&text), What::AddMatch(id));
    }

    fn remove_rule(&mut self, p: usize) {
        let program = &mut self.programs[p];
        let active = program.rules.iter_mut();
        let Some(rule) = active.filter(|it| it.state == RuleState::Active).last() else {
            return;
        };
        rule.state = RuleState::Leaving;
        let (id, text) = (rule.id, rule.text.clone());
        let unwatched: Vec<_> = NAMES
            .into_iter()
            .filter(|it| !program.watches(it))
            .collect();
        for name in unwatched {
            program.chain.remove(name);
        }
        self.duties.retain(|(to, _)| *to != p);
        self.ask(
            p,
            "RemoveMatch",
            &Body::new().str(&text),
            What::RemoveMatch(id),
        );
    }

    /// A program does something.
    fn act(&mut self, p: usize) {
        let program = &self.programs[p];
        if !program.is_up() || program.vandal || program.calls.len() > 15 {
            return;
        }
        let realm = self.programs[p].realm;
        let other = self.medium.random.below(self.programs.len());
        let owned_by = match realm {
            Realm::Host => [
                SHARED[0],
                SHARED[1],
                SHARED[2],
                HOST_ONLY[0],
                HOST_ONLY[1],
                REFUSED,
                APPLICATION,
            ],
            _ => [
                SHARED[0],
                SHARED[1],
                SHARED[2],
                INSIDE_ONLY,
                INSIDE_ONLY,
                REFUSED,
                APPLICATION,
            ],
        };
        let ownable = match self.medium.random.below(3) {
            0 => *self.medium.random.pick(&owned_by),
            _ => owned_by[self.medium.random.below(3)],
        };
        let name = *self.medium.random.pick(&NAMES);
        match self.medium.random.below(100) {
            0..10 => {
                let flags = self.medium.random.below(8) as u32;
                self.request(p, ownable, flags);
            }
            10..15 => {
                self.programs[p].firm.remove(ownable);
                let body = Body::new().str(ownable);
                self.ask(p, "ReleaseName", &body, What::Release { name: ownable });
            }
            15..23 if self.programs[p].rules.len() < 6 => self.add_rule(p),
            23..26 => self.remove_rule(p),
            26..40 => self.call(p, Aim::Unique(other), None),
            40..54 => self.call(p, Aim::Name(name), None),
            54..56 => self.call(p, Aim::Nobody, None),
            56..66 if !self.programs[p].debts.is_empty() => {
                let which = self.medium.random.below(self.programs[p].debts.len());
                self.answer(p, which);
            }
            66..74 => self.signal(p, None),
            74..80 => self.signal(p, Some(other)),
            80..86 => {
                let what = What::Owner { name, expect: None };
                self.ask(p, "GetNameOwner", &Body::new().str(name), what);
            }
            86 => self.ask(p, "NameHasOwner", &Body::new().str(name), What::HasOwner),
            87 => self.ask(p, "ListNames", &Body::new(), What::Names { strict: false }),
            88 => self.ask(p, "GetId", &Body::new(), What::Plain),
            89 => self.ask(p, "ListQueuedOwners", &Body::new().str(name), What::Plain),
            90 => self.ask(
                p,
                "GetConnectionUnixProcessID",
                &Body::new().str(name),
                What::Plain,
            ),
            91 => self.ask(
                p,
                "StartServiceByName",
                &Body::new().str(name).u32(0),
                What::Plain,
            ),
            92 => self.bogus_answer(p, other),
            93 | 94 if self.features.slow && self.medium.random.one_in(2) => {
                self.medium.trace.say(|| format!("P{p} does not read"));
                self.programs[p].reading = false;
                self.programs[p].excused = true;
            }
            95 if self.medium.random.one_in(2) => self.leave(p),
            96 if self.features.vandals && self.medium.random.one_in(2) => self.vandalise(p),
            _ => {}
        }
    }

    fn vandalise(&mut self, p: usize) {
        self.medium.trace.say(|| format!("P{p} sends rubbish"));
        self.programs[p].excused = true;
        self.programs[p].vandal = true;
        self.programs[p].firm.clear();
        let bytes = match self.medium.random.below(3) {
            0 => (0..40).map(|_| self.medium.random.number() as u8).collect(),
            1 => {
                // A length of nearly 4 GiB.
                let mut bytes = b"l\x01\x00\x01".to_vec();
                bytes.extend([0xff; 12]);
                bytes
            }
            _ => {
                let size = 1 + self.medium.random.below(100);
                let body = Body::new().bytes(&self.large[..50_000]);
                let whole = Builder::signal("/sim", "sim.One", "Said")
                    .body(&body)
                    .build();
                let half = whole[..whole.len() / 2 - size].to_vec();
                self.put(p, half, None, Note::Nothing, (p, 0));
                return self.leave(p);
            }
        };
        self.put(p, bytes, None, Note::Nothing, (p, 0));
    }

    pub fn leave(&mut self, p: usize) {
        self.medium.trace.say(|| format!("P{p} leaves"));
        self.gone(p);
    }

    /// A program is not there any more.
    pub fn gone(&mut self, p: usize) {
        let program = &mut self.programs[p];
        program.state = State::Gone;
        program.owns.clear();
        program.firm.clear();
        program.outbox.clear();
        program.debts.clear();
        self.medium.wires.close(program.end);
        self.duties.retain(|(to, _)| *to != p);
    }

    // --- Time ---

    fn kill_bus(&mut self, realm: Realm) {
        let slot = match realm {
            Realm::Host => &mut self.host,
            _ => &mut self.container,
        };
        let Some(mut node) = slot.take() else { return };
        self.era += u32::from(realm == Realm::Host);
        self.medium
            .trace
            .say(|| format!("the bus of {realm:?} dies"));
        node.die(&mut self.medium);
        self.unsettled = true;
        self.duties.clear();
        self.ends.retain(|(it, ..)| *it != realm);
        let down = 1 + self.medium.random.below(300);
        self.down[usize::from(realm == Realm::Container)] = down;
        for p in 0..self.programs.len() {
            let program = &mut self.programs[p];
            program.firm.clear();
            match (realm, program.realm) {
                (_, it) if it == realm => self.gone(p),
                (Realm::Host, Realm::Inside) => program.excused = true,
                _ => {}
            }
        }
        if realm == Realm::Container {
            self.shown.retain(|(it, p), _| {
                *it != Realm::Container && self.programs[*p].realm != Realm::Container
            });
        }
    }

    fn revive(&mut self) {
        for (place, realm) in [(0, Realm::Host), (1, Realm::Container)] {
            if self.down[place] > 0 {
                self.down[place] -= 1;
                if self.down[place] == 0 {
                    self.medium
                        .trace
                        .say(|| format!("the bus of {realm:?} is back"));
                    self.boot(realm);
                }
            }
        }
    }

    fn ring_first(&mut self) -> bool {
        let first = self
            .realms()
            .into_iter()
            .filter_map(|realm| Some((self.node(realm)?.next_timer()?, realm)))
            .min();
        let Some((at, realm)) = first else {
            return false;
        };
        self.medium.now = self.medium.now.max(at);
        let node = match realm {
            Realm::Inside => &mut self.router,
            Realm::Host => self.host.as_mut().expect("it has a timer"),
            Realm::Container => self.container.as_mut().expect("it has a timer"),
        };
        node.ring(&mut self.medium);
        self.grant(realm);
        true
    }

    /// One step of a busy world.
    pub fn step(&mut self) -> Judged {
        self.revive();
        let realms = self.realms();
        match self.medium.random.below(1000) {
            0..420 => {
                let realm = *self.medium.random.pick(&realms);
                self.run(realm, false);
            }
            420..700 if !self.programs.is_empty() => {
                let p = self.medium.random.below(self.programs.len());
                self.write(p);
                self.hear(p, false)?;
            }
            700..970 if !self.programs.is_empty() => {
                let p = self.medium.random.below(self.programs.len());
                self.act(p);
            }
            970..985 => {
                let up = self
                    .programs
                    .iter()
                    .filter(|it| it.state != State::Gone)
                    .count();
                if up < 9 {
                    let realm = match self.medium.random.below(5) {
                        0..3 => Realm::Inside,
                        _ => *self.medium.random.pick(&realms),
                    };
                    self.connect(realm, None);
                }
            }
            985..988 => self.launch_ended(),
            988 => {
                self.ring_first();
            }
            989 if self.features.restarts && self.medium.random.one_in(6) => {
                let realm = *self.medium.random.pick(&realms);
                if realm != Realm::Inside {
                    self.kill_bus(realm);
                }
            }
            990 => {
                for program in &mut self.programs {
                    program.reading = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets everything come to rest: all read, all answer, time passes.
    pub fn rest(&mut self) -> Judged {
        while self.down.iter().any(|it| *it > 0) {
            self.revive();
        }
        self.obliging = true;
        for program in &mut self.programs {
            program.reading = true;
        }
        let mut rounds = 0;
        loop {
            rounds += 1;
            if rounds > 20_000 {
                return Err("the world does not come to rest".into());
            }
            let mut moved = false;
            for realm in self.realms() {
                let busy = match realm {
                    Realm::Inside => self.router.is_busy(&self.medium),
                    Realm::Host => self
                        .host
                        .as_ref()
                        .is_some_and(|it| it.is_busy(&self.medium)),
                    Realm::Container => self
                        .container
                        .as_ref()
                        .is_some_and(|it| it.is_busy(&self.medium)),
                };
                if busy {
                    moved = true;
                    self.run(realm, true);
                }
            }
            for p in 0..self.programs.len() {
                if self.programs[p].state == State::Gone {
                    continue;
                }
                moved |= self.write(p);
                moved |= self.hear(p, true)?;
                while !self.programs[p].debts.is_empty() {
                    moved = true;
                    self.answer(p, 0);
                }
            }
            if !moved {
                if !self.ends.is_empty() {
                    self.launch_ended();
                } else if !self.ring_first() {
                    break;
                }
            }
        }
        self.obliging = false;
        Ok(())
    }
}
