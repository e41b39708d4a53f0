//! A hostile guest: a raw program on the machine's vsock port. It needs no machine: hybrid vsock is a unix socket on the host.
//!
//! After every attack the broker is asked whether it is well: somebody else in the guest is served as before, and what the
//! attack has cost in memory and descriptors is bounded.

#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../portals/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../rig/broker.rs"]
mod broker;
mod bus;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../portals/desktop.rs"]
mod desktop;
mod frames;
mod portals;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../rig/raw_guest.rs"]
mod raw_guest;

use std::path::PathBuf;

use broker::{Broker, BrokerOptions};
use dbus_wire::Body;
use raw_guest::RawGuest;
use sidebus::wire::Token;
use testbed::TestDir;

/// A broker, and an agent's session with it.
struct Attack {
    broker: Broker,
    port: PathBuf,
    session: Token,
    _control: RawGuest,
    _dir: Option<TestDir>,
}

impl Attack {
    /// On a broker that has the machine's bus only.
    fn on_the_bus_alone(policy: &str) -> Attack {
        let dir = TestDir::new();
        let options = BrokerOptions {
            policy: policy.to_owned(),
            ..BrokerOptions::default()
        };
        let mut attack = Self::on(Broker::start(&dir, &options));
        attack._dir = Some(dir);
        attack
    }

    fn on(broker: Broker) -> Attack {
        let port = broker.port_path();
        let (control, session) = RawGuest::control(&port);
        Attack {
            broker,
            port,
            session,
            _control: control,
            _dir: None,
        }
    }

    /// A client of the guest, on the bus.
    fn client(&self) -> RawGuest {
        RawGuest::on_the_bus(&self.port, self.session).0
    }

    /// Somebody else in the guest is served.
    #[track_caller]
    fn the_broker_is_well(&mut self) {
        assert!(self.broker.process.has_ended().is_none(), "the broker runs");
        let mut other = self.client();
        let id = other.call_driver("GetId", &Body::new());
        assert_eq!(id.strings()[0].len(), 32, "the bus answers");
    }
}
