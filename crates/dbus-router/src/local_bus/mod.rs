//! The parts of a message bus that live in our own process: names and their queues, match rules, replies
//! that are waited for, and services that are started. No I/O.

mod activation;
mod matches;
mod names;
mod replies;

pub(crate) use activation::{Activation, Waiting};
pub use activation::{ActivationId, Launch, Service, ServiceSet};
pub(crate) use matches::{MatchRegistry, RuleEntry};
pub(crate) use names::{NameRegistry, Release, Request, RequestFlags, Transfer};
pub(crate) use replies::{Expectation, Replies};
