//! `cargo xtask simulate`: the router in an invented world, for as long as one likes.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use testbed::Failure;

use crate::cargo;

/// Run the router's simulation: random clients, names, calls, signals, faults, against a simple model
///
/// A run is made by its seed alone. One that fails prints its seed, and --seed runs it again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask simulate                       1000 seeds
  cargo xtask simulate --minutes 30
  cargo xtask simulate --seed 4711 --trace   that one again, with all that happened before it failed")]
pub struct Arguments {
    /// How many seeds to run
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seeds: Option<u64>,

    /// How long to go on with new seeds
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,

    /// Run this seed; with --seeds or --minutes, begin with it [default: seeds that nobody has run]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Show everything that happened before a failure
    #[arg(long)]
    trace: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let seeds = match (arguments.seeds, arguments.minutes, arguments.seed) {
        (None, None, Some(_)) => Some(1),
        (None, None, None) => Some(1000),
        (seeds, _, _) => seeds,
    };
    let first = arguments.seed.unwrap_or_else(now_in_microseconds);
    println!("seeds from {first} on");
    let mut command = cargo::command();
    // Ten times as many runs in the same time are worth the build.
    command
        .args(["test", "--release", "--package", "dbus-router"])
        .args(["--test", "simulation", "--", "--nocapture"])
        .env("SIMULATION_SEED", first.to_string());
    for (name, value) in [
        ("SIMULATION_SEEDS", seeds),
        ("SIMULATION_MINUTES", arguments.minutes),
    ] {
        if let Some(value) = value {
            command.env(name, value.to_string());
        }
    }
    if arguments.trace {
        command.env("SIMULATION_TRACE", "all");
    }
    let status = command
        .status()
        .map_err(Failure::doing("running cargo test"))?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// A seed that is new each time, and that a person can type.
fn now_in_microseconds() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs() * 1_000_000 + u64::from(now.subsec_micros())
}
