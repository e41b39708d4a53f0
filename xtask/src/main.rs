//! Tasks of this workspace: `cargo xtask --help` lists them.

mod cargo;
mod reference;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use testbed::Failure;

/// Tasks of this workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Reference(reference::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome: Result<ExitCode, Failure> = match arguments.task {
        Task::Reference(arguments) => reference::run(&arguments),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        ExitCode::FAILURE
    })
}
