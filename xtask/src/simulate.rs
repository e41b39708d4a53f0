//! `cargo xtask simulate`: the router in an invented world, for as long as one likes.

use std::process::ExitCode;

use testbed::Failure;

use crate::cargo;

/// Run the router's simulation: random clients, names, calls, signals, faults, against a simple model
///
/// A run is made by its seed alone. One that fails prints its seed, and --seed runs it again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask simulate                  1000 seeds
  cargo xtask simulate --minutes 30
  cargo xtask simulate --seed 4711      that one run again, with its log")]
pub struct Arguments {
    /// How many seeds to run, beginning with a random one
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seeds: Option<u64>,

    /// How long to go on with new seeds
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,

    /// Run this seed; with --seeds or --minutes, begin with it
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut command = cargo::command();
    // Ten times as many runs in the same time are worth the build.
    command.args([
        "test",
        "--release",
        "--package",
        "dbus-router",
        "--test",
        "simulation",
        "--",
        "--nocapture",
    ]);
    let seeds = match (arguments.seeds, arguments.minutes, arguments.seed) {
        (None, None, Some(_)) => Some(1),
        (None, None, None) => Some(1000),
        (seeds, _, _) => seeds,
    };
    for (name, value) in [
        ("SIMULATION_SEEDS", seeds),
        ("SIMULATION_MINUTES", arguments.minutes),
        ("SIMULATION_SEED", arguments.seed),
    ] {
        if let Some(value) = value {
            command.env(name, value.to_string());
        }
    }
    let status = command
        .status()
        .map_err(Failure::doing("running cargo test"))?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
