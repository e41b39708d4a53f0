//! Routes the messages of D-Bus clients between two buses, so that a client sees one.
//!
//! [`Router`] is a router with sockets: give it a [`Config`], and run it. [`Hub`] is the whole protocol as a
//! state machine without I/O, for those who drive it by other means; [`Policy`] says what of the host may be
//! reached.
#![deny(unsafe_code)]

mod bus_address;
mod decision;
mod engine;
mod hash;
mod hub;
mod limits;
mod local_bus;
mod outbox;
mod policy;
mod port;
mod session;
#[cfg(feature = "tool")]
pub mod tool;
mod view;

pub use bus_address::{BusAddress, BusAddressError, HostBus};
pub use decision::{Decision, Direction, Ruling, Watcher};
pub use engine::{
    Admission, CallError, Config, Handle, IncomingCall, Listen, ListenError, OwnService, Reply,
    Router, RouterError, ServeError, ServiceFailed,
};
pub use hub::{
    ClientStatus, Counters, Fault, Frame, Hub, HubConfig, LaunchEnd, NamePlace, NameStatus, Status,
    TooManyClients, Verdict,
};
pub use limits::Limits;
pub use local_bus::{ActivationId, Launch, Service, ServiceSet};
pub use outbox::{Ending, Fds, Load, Outbox, Outgoing, Payload, Timer};
pub use policy::{
    Access, Export, Glob, HostPass, InsideRules, InterfaceExport, MemberRule, MemberRuleError,
    NamePattern, NamePatternError, NameRule, PathPattern, Policy, Rename, RenameError, RuleId,
    Rules, Side, Standing, Wish, Withheld,
};
pub use port::{Bus, Port, SessionId};
pub use session::{Credentials, Program};
