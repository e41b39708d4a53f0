//! `cargo xtask bench`: routers and buses beside each other, in one run.

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};

use testbed::Failure;

use crate::cargo;

/// Measure: dbus-daemon, a blind relay, xdg-dbus-proxy and the multiplexer beside each other
///
/// Builds in release, and runs every scenario on every subject in turn, round after round, so that a machine
/// that drifts hurts all alike. What follows is passed on: `cargo xtask bench --help` shows it.
///
/// `cargo xtask bench instructions` counts the instructions of fixed exchanges, and compares with what they were.
///
/// `cargo xtask bench sidebus` measures a virtual machine's bus: what it adds to a portal's round trip, agent to broker,
/// bulk data through a pipe, memory per client.
///
/// `cargo xtask bench shield` measures the firewall instead: from a blocked connection to the signal, from a verdict
/// to the kernel's acknowledgement, and a flood.
///
/// `cargo xtask bench kapsule [--rounds N] [--json]` measures containers: from `kapsule enter` to the prompt, making and
/// listing them, beside the same with `incus`; and the daemon's memory. Needs root and Incus.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Arguments of kapsule-bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some((first, rest)) = arguments.arguments.split_first()
        && let Some(package) = ["shield", "sidebus"].into_iter().find(|name| first == name)
    {
        return of_crate(package, rest);
    }
    if let Some((first, rest)) = arguments.arguments.split_first()
        && first == "kapsule"
    {
        return kapsule(rest);
    }
    let build = cargo::build(&[
        "--release",
        "--package",
        "kapsule-bench",
        "--package",
        "kapsule-dbus-mux",
        "--package",
        "dbus-router",
    ])
    .status()
    .map_err(Failure::doing("running cargo build"))?;
    if !build.success() {
        return Err(Failure::new("the benchmark does not build (see above)"));
    }
    let programs = cargo::target_dir().join("release");
    let status = std::process::Command::new(programs.join("kapsule-bench"))
        .arg("--mux")
        .arg(programs.join("kapsule-dbus-mux"))
        .arg("--router")
        .arg(programs.join("dbus-router"))
        .args(&arguments.arguments)
        .current_dir(cargo::root())
        .status()
        .map_err(Failure::doing("running the benchmark"))?;
    Ok(exit_code(status))
}

/// The benchmark that a crate has of its own.
fn of_crate(package: &str, arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let status = cargo::command()
        .args(["bench", "--package", package, "--"])
        .args(arguments)
        .status()
        .map_err(Failure::doing("running cargo bench"))?;
    Ok(exit_code(status))
}

fn kapsule(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    // The programs are started by the benchmark, from beside it.
    let build = cargo::build(&[
        "--release",
        "--package",
        "kapsule",
        "--package",
        "kapsule-daemon",
        "--package",
        "kapsule-dbus-mux",
        "--bins",
        // With the programs, so that what they share is built once.
        "--bench",
        "kapsule",
    ])
    .status()
    .map_err(Failure::doing("running cargo build"))?;
    if !build.success() {
        return Err(Failure::new("the programs do not build (see above)"));
    }
    let status = cargo::command()
        .args([
            "bench",
            "--package",
            "kapsule",
            "--package",
            "kapsule-daemon",
            "--package",
            "kapsule-dbus-mux",
            "--bench",
            "kapsule",
            "--",
        ])
        .args(arguments)
        .status()
        .map_err(Failure::doing("running cargo bench"))?;
    Ok(exit_code(status))
}

/// A task that ran a program ends as well as the program did.
fn exit_code(status: ExitStatus) -> ExitCode {
    match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
