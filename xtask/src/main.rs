//! Tasks of this workspace: `cargo xtask --help` lists them.

mod backports;
mod bench;
mod cargo;
mod check;
mod crates;
mod demo;
#[cfg(feature = "dist")]
mod dist;
mod dist_arguments;
#[cfg(feature = "dist")]
mod guest_package;
mod packages;
mod reference;
mod simulate;
mod steps;
mod suite;
mod tally;

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
    Test(suite::Arguments),
    Bench(bench::Arguments),
    Check(check::Arguments),
    Demo(demo::Arguments),
    Dist(dist_arguments::Arguments),
    Reference(reference::Arguments),
    Simulate(simulate::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome: Result<ExitCode, Failure> = match arguments.task {
        Task::Test(arguments) => suite::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Check(arguments) => check::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        #[cfg(feature = "dist")]
        Task::Dist(arguments) => dist::run(&arguments),
        #[cfg(not(feature = "dist"))]
        Task::Dist(_) => dist_arguments::run_with_programs(),
        Task::Reference(arguments) => reference::run(&arguments),
        Task::Simulate(arguments) => simulate::run(&arguments),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        ExitCode::FAILURE
    })
}
