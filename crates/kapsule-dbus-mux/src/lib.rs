//! The program `kapsule-dbus-mux`: one session bus for a container.
//!
//! [`cli`] is its command line; [`main`] runs it. The router is [`dbus_router`].
#![forbid(unsafe_code)]

pub mod cli;
mod program;
mod run;
mod serve;
mod status;

pub use program::main;
