//! The program `dbus-router`: the router with a command line and a file of rules.
//!
//! [`main`] runs it, [`cli`] is its command line and [`proxy_arguments`] that of xdg-dbus-proxy,
//! [`config_file`] reads the rules. Behind the feature `tool`: a library user needs none of it.

pub mod cli;
pub mod config_file;
pub mod decision_log;
mod decisions;
pub mod diagnostic;
mod explain;
mod learn;
mod program;
mod proxy;
pub mod proxy_arguments;
mod proxy_log;
mod serve;
mod watch;

pub use decisions::now;
pub use program::main;
