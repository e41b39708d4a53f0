//! A host bus, a router in front of it, and clients on both sides.

use std::thread::JoinHandle;

use dbus_router::{
    Access, Admission, Config, Handle, Listen, MemberRule, NamePattern, NameRule, Policy, Router,
    RuleId, Rules, Watcher,
};
use dbus_wire::body::Body;
use dbus_wire::message::Builder;
use testbed::{DaemonOptions, DbusDaemon, RawClient, Received, TestDir};

/// The interface of the tests' calls and signals.
pub const INTERFACE: &str = "org.example.Test";
/// Their object.
pub const PATH: &str = "/org/example/Test";

/// Ends with its router, its daemon and its directory.
pub struct Place {
    pub handle: Handle,
    pub address: String,
    thread: Option<JoinHandle<()>>,
    pub host: DbusDaemon,
    _dir: TestDir,
}

impl Place {
    pub fn new(rules: Rules) -> Place {
        Place::with(rules, |_| {}, None)
    }

    /// A place of which `watcher` is told.
    pub fn watched(rules: Rules, watcher: Box<dyn Watcher>) -> Place {
        Place::with(rules, |_| {}, Some(watcher))
    }

    /// A place where more is different than the rules.
    pub fn configured(rules: Rules, change: impl FnOnce(&mut Config)) -> Place {
        Place::with(rules, change, None)
    }

    fn with(
        rules: Rules,
        change: impl FnOnce(&mut Config),
        watcher: Option<Box<dyn Watcher>>,
    ) -> Place {
        let dir = TestDir::new();
        let host = DbusDaemon::start(&dir, &DaemonOptions::default()).unwrap();
        let mut config = Config {
            listen: Listen::Path(dir.join("inside")),
            host: Some(dbus_wire::address::parse_addresses(host.address()).unwrap()),
            policy: Policy::from_rules(rules),
            ..Config::default()
        };
        change(&mut config);
        let mut router = Router::start(config).unwrap();
        if let Some(watcher) = watcher {
            router.watch(watcher);
        }
        let (address, handle) = (router.address(), router.handle());
        let thread = std::thread::spawn(move || router.run().unwrap());
        Place {
            handle,
            address,
            thread: Some(thread),
            host,
            _dir: dir,
        }
    }

    /// A client of the router.
    pub fn inside(&self) -> RawClient {
        RawClient::open(&self.address)
    }

    /// A client of the router that comes another way.
    pub fn admitted(&self, admission: Admission) -> RawClient {
        let mut client = RawClient::over(self.handle.connect_with(admission).unwrap());
        client.authenticate();
        client.hello();
        client
    }

    /// A client of the router that is trusted.
    pub fn trusted(&self) -> RawClient {
        self.admitted(Admission {
            trusted: true,
            credentials: None,
        })
    }

    /// A client of the host bus.
    pub fn outside(&self) -> RawClient {
        RawClient::open(self.host.address())
    }

    /// A client of the host bus that owns `name`.
    pub fn service(&self, name: &str) -> RawClient {
        let mut service = self.outside();
        assert_eq!(service.request_name(name, 0), 1);
        service
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

pub fn id(table: &'static str) -> RuleId {
    RuleId {
        table,
        index: 0,
        line: None,
    }
}

pub fn filter(name: &str, access: Access) -> NameRule {
    NameRule {
        id: id("filter"),
        name: NamePattern::parse(name).unwrap(),
        access,
        lives_on_host: false,
        calls: Vec::new(),
        broadcasts: Vec::new(),
    }
}

pub fn host_route(name: &str) -> NameRule {
    NameRule {
        id: id("host_routes"),
        lives_on_host: true,
        ..filter(name, Access::Talk)
    }
}

pub fn members(texts: &[&str]) -> Vec<MemberRule> {
    texts
        .iter()
        .map(|text| MemberRule::parse(text).unwrap())
        .collect()
}

/// Rules with these about names.
pub fn names(names: Vec<NameRule>) -> Rules {
    Rules {
        names,
        ..Rules::default()
    }
}

pub fn call<'m>(destination: &'m str, member: &'m str) -> Builder<'m> {
    Builder::method_call(PATH, member)
        .interface(INTERFACE)
        .destination(destination)
}

pub fn signal(member: &str) -> Builder<'_> {
    Builder::signal(PATH, INTERFACE, member)
}

/// `caller` calls `destination`, and `service` answers.
#[track_caller]
pub fn works(caller: &mut RawClient, destination: &str, service: &mut RawClient) -> Received {
    let serial = caller.send(call(destination, "Work"));
    let received = service.expect_call("Work");
    service.answer(&received, &Body::new().str("done"));
    let reply = caller.expect_reply(serial).returned();
    assert_eq!(reply.text(), "done");
    received
}

/// Which error `caller` gets from `destination`.
#[track_caller]
pub fn refusal(caller: &mut RawClient, destination: &str) -> String {
    caller.call(call(destination, "Work")).failed()
}

pub fn listed(client: &mut RawClient) -> Vec<String> {
    let names = client.call_driver("ListNames", &Body::new());
    let names = names.reader().strs().unwrap();
    names.into_iter().map(str::to_owned).collect()
}
