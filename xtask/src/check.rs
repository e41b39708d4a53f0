//! `cargo xtask check`: what is asked of the code besides its tests.

use std::process::{Command, ExitCode};

use testbed::Failure;

use crate::tally::Tally;
use crate::{cargo, steps};

/// Check the code: format, lints, documentation, dependencies
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<ExitCode, Failure> {
    let mut tally = Tally::default();
    let mut step = |name: &str, probe: &[&str], remedy: &str, command: Command| {
        let there = cargo::command()
            .args(probe)
            .output()
            .is_ok_and(|output| output.status.success());
        if !there {
            tally.skip(format!(
                "{name}: cargo {} does not run ({remedy})",
                probe[0]
            ));
            return Ok(());
        }
        let finished = steps::run(name, command, steps::last_line)?;
        if finished.status.success() {
            tally.pass();
        } else {
            finished.show_tail();
            tally.fail(&format!("{name}: failed"));
        }
        Ok::<(), Failure>(())
    };

    let mut format = cargo::command();
    format.args(["fmt", "--all", "--check"]);
    step(
        "format",
        &["fmt", "--version"],
        "rustup component add rustfmt",
        format,
    )?;

    let mut lints = cargo::command();
    lints.args([
        "clippy",
        "--workspace",
        "--all-targets",
        // The command lines of all programs, and what is made of them.
        "--features",
        "xtask/dist",
        "--",
        "-D",
        "warnings",
    ]);
    step(
        "lints",
        &["clippy", "--version"],
        "rustup component add clippy",
        lints,
    )?;

    let mut documentation = cargo::command();
    documentation
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", &["--version"], "", documentation)?;

    if cargo::root().join("deny.toml").is_file() {
        let mut dependencies = cargo::command();
        dependencies.args(["deny", "check", "bans", "licenses", "sources"]);
        step(
            "dependencies",
            &["deny", "--version"],
            "cargo install cargo-deny",
            dependencies,
        )?;
    }

    for skipped in &tally.skipped {
        println!("SKIPPED: {skipped}");
    }
    if tally.failed > 0 {
        println!("{}", tally.details);
    }
    println!("{tally}");
    Ok(match tally.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
