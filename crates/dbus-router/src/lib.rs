//! Routes the messages of D-Bus clients between two buses, so that a client sees one.
//!
//! [`Router`] is a router with sockets: give it a [`Config`], and run it. Without a host it is a message bus.
//!
//! - [`Policy`] and [`Rules`] say what of the host may be seen, reached and owned; [`InsideRules`] what clients may do
//!   inside that are not trusted. [`Handle::set_policy`] replaces the rules while the router runs.
//! - [`Handle`] controls a router from other threads, lets clients in that come by no socket
//!   ([`Handle::connect_with`]), and answers names by functions of this process ([`Handle::serve`]).
//! - A [`Watcher`] is told of each decision; [`Handle::status`] says who is connected and what was done.
//! - [`Hub`] is the whole protocol as a state machine without I/O, for those who drive it by other means.
//!
//! Nothing here panics on what a client or a bus sends, keeps global state, or sets logging up: it logs by `tracing`.
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
