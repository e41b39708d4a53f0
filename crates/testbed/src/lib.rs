//! Private buses, clients and programs for the tests of this workspace.
//!
//! - [`World`] is a host, a container and the multiplexer between them, in one of the forms of
//!   [`Topology`]; [`DbusDaemon`] and [`Mux`] are its parts, [`TestDir`] is where it lives.
//! - [`Process`], [`run_program`] and [`Lines`] start programs, with a limit on every wait.
//! - [`Machine`] is a machine within the machine, with users, for daemons that want a whole system:
//!   [`Incus`] with containers, [`SystemBus`] with polkit. [`Terminal`] is what a person sits at.
//! - [`Vm`] is a virtual machine.
//! - [`RawClient`] sends and sees single messages.
//! - [`reference`](mod@reference) runs the test suites of the reference implementation.
//! - [`cache`] is where what takes long to make is kept from one run to the next.
//! - [`tools`] are the programs of other projects; [`needs!`] and [`skip!`] are for tests that lack one.
//!
//! Nothing here sleeps: what is waited for is a file descriptor, and [`deadline::LIMIT`] makes a hang a
//! failure.

pub mod cache;
pub mod container_image;
pub mod daemon;
pub mod deadline;
pub mod directory;
pub mod display;
pub mod failure;
pub mod incus;
pub mod machine;
pub mod mux;
pub mod polkit;
pub mod processes;
pub mod raw_client;
pub mod reference;
pub mod skip;
pub mod terminal;
pub mod tools;
pub mod vm;
pub mod world;

pub use daemon::{DaemonOptions, DbusDaemon};
pub use deadline::{Deadline, within};
pub use directory::TestDir;
pub use display::XDisplay;
pub use failure::Failure;
pub use incus::{Incus, IncusOptions};
pub use machine::{Machine, User};
pub use mux::{Mux, MuxOptions, mux_program};
pub use polkit::{SystemBus, SystemBusOptions};
pub use processes::{Line, Lines, Output, Process, run_program, run_to_end};
pub use raw_client::{Arrival, RawClient, Received};
pub use skip::Trouble;
pub use terminal::Terminal;
pub use vm::{GuestFile, Vm, VmOptions};
pub use world::{ServiceFile, Topology, World, WorldOptions};
