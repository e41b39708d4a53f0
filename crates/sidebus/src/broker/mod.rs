//! The program on the host: the machine's bus, the portals on it, and the guest's way to both.
//!
//! It is put together here, in this order: the daemons of the machine (supervisor), the machine's bus, the portals on
//! it, and last the socket for the agent; READY when all of it is there. It ends in the reverse order.

pub mod cli;
pub mod clients;
pub mod limits;
pub mod status;
pub mod vm_bus;

use std::process::ExitCode;

use clap::Parser;

use crate::program::{self, Failure};
use cli::{Cli, Serve, Sub};

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    program::main("sidebus-broker", cli.verbose, || match cli.command {
        Some(Sub::Status { .. }) => Err(Failure::new("status: nobody answers yet")),
        None => serve(cli.serve),
    })
}

fn serve(_options: Serve) -> Result<(), Failure> {
    Ok(())
}
