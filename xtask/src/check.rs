//! `cargo xtask check`: what is asked of the code besides its tests.

use std::process::ExitCode;

use testbed::Failure;

use crate::tally::Tally;
use crate::{cargo, steps};

/// Check the code: format, lints, documentation; with cargo-deny, licenses and advisories
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<ExitCode, Failure> {
    let mut tally = Tally::default();
    let mut step = |name: &str, probe: &[&str], remedy: &str, arguments: &[&str]| {
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
        let mut command = cargo::command();
        command.args(arguments).env("RUSTDOCFLAGS", "-D warnings");
        let finished = steps::run(name, command, steps::last_line)?;
        if finished.status.success() {
            tally.pass();
        } else if finished.log.contains("failed to fetch advisory database") {
            tally.skip(format!(
                "{name}: the database of advisories cannot be fetched here"
            ));
        } else {
            finished.show_tail();
            tally.fail(&format!("{name}: failed"));
        }
        Ok::<(), Failure>(())
    };

    let remedy = "rustup component add rustfmt";
    let arguments = ["fmt", "--all", "--check"];
    step("format", &["fmt", "--version"], remedy, &arguments)?;

    let remedy = "rustup component add clippy";
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        // The command lines of all programs, and what is made of them.
        "--features",
        "xtask/dist",
        "--",
        "-D",
        "warnings",
    ];
    step("lints", &["clippy", "--version"], remedy, &arguments)?;

    let arguments = ["doc", "--workspace", "--no-deps"];
    step("documentation", &["--version"], "", &arguments)?;

    let remedy = "cargo install cargo-deny";
    let arguments = ["deny", "check", "bans", "licenses", "sources"];
    step("dependencies", &["deny", "--version"], remedy, &arguments)?;
    let arguments = ["deny", "check", "advisories"];
    step("advisories", &["deny", "--version"], remedy, &arguments)?;

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
