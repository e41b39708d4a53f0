//! Private buses, clients and programs for the tests of this workspace.
//!
//! - [`World`] is a host, a container and the multiplexer between them, in one of the forms of
//!   [`Topology`]; [`DbusDaemon`] and [`Mux`] are its parts, [`TestDir`] is where it lives.
//! - [`Process`], [`run_program`] and [`Lines`] start programs, with a limit on every wait.
//! - [`RawClient`] sends and sees single messages.
//! - [`reference`](mod@reference) runs the test suites of the reference implementation.
//! - [`tools`] are the programs of other projects; [`needs!`] and [`skip!`] are for tests that lack one.
//!
//! Nothing here sleeps: what is waited for is a file descriptor, and [`deadline::LIMIT`] makes a hang a
//! failure.

pub mod daemon;
pub mod deadline;
pub mod directory;
pub mod display;
pub mod failure;
pub mod mux;
pub mod processes;
pub mod raw_client;
pub mod reference;
pub mod skip;
pub mod tools;
pub mod world;

pub use daemon::{DaemonOptions, DbusDaemon};
pub use deadline::{Deadline, within};
pub use directory::TestDir;
pub use display::XDisplay;
pub use failure::Failure;
pub use mux::{Mux, MuxOptions, mux_program};
pub use processes::{Line, Lines, Output, Process, run_program, run_to_end};
pub use raw_client::{Arrival, RawClient, Received};
pub use world::{ServiceFile, Topology, World, WorldOptions};
