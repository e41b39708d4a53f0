//! `cargo xtask test`: every test of the workspace.

use std::process::{Command, ExitCode};

use testbed::container_image::{TRIXIE, TRIXIE_DOCKER, TRIXIE_PODMAN};
use testbed::reference::{Installation, SUITES};
use testbed::{Failure, Topology, tools};

use crate::tally::{Harness, Reader, Tally};
use crate::{cargo, packages, steps};

/// What the names of the tests begin with that run the reference suites: they run as a step of their own
/// here, which counts their cases and shows the table.
const REFERENCE_PREFIX: &str = "reference_suite_";

/// Run every test: of the workspace, its documentation, and the reference implementation's
///
/// Installs what the tests need from the distribution: after asking, or unasked with --yes or with CI in
/// the environment. What cannot be had is skipped, loudly, and counted.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask test
  cargo xtask test --yes               as CI does
  cargo xtask test real_programs       only tests with this in their name
  cargo xtask reference --help         the reference suites by hand")]
pub struct Arguments {
    /// Install what is missing without asking
    #[arg(long, short)]
    yes: bool,

    /// Only tests whose name contains this
    filter: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    packages::provide(tools::ALL, arguments.yes)?;
    let mut tally = Tally::default();
    images();
    if build(&mut tally)? {
        workspace(arguments.filter.as_deref(), &mut tally)?;
        if arguments.filter.is_none() {
            documentation(&mut tally)?;
            demo(&mut tally)?;
            instructions(&mut tally)?;
        }
        if arguments
            .filter
            .as_deref()
            .is_none_or(|filter| REFERENCE_PREFIX.contains(filter) || filter.contains("reference"))
        {
            reference(&mut tally)?;
        }
    }
    if !tally.details.is_empty() {
        println!("\n{}", tally.details);
    }
    for skipped in &tally.skipped {
        println!("SKIPPED: {skipped}");
    }
    println!("{tally}");
    Ok(match tally.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Makes what containers of the tests are made of, where that is not done yet: here it is a step that is seen,
/// and no test waits for it. What cannot be had the tests say themselves.
fn images() {
    if !rustix::process::geteuid().is_root() || tools::INCUSD.find().is_none() {
        return;
    }
    for recipe in [TRIXIE, TRIXIE_PODMAN, TRIXIE_DOCKER] {
        let step = format!(
            "the containers' image {} (made once, then kept)",
            recipe.alias
        );
        let made = steps::run_here(&step, || match recipe.provide() {
            Ok(_) => Ok(()),
            Err(trouble) => Err(Failure::new(trouble.to_string())),
        });
        if let Err(failure) = made {
            eprintln!("{failure}");
        }
    }
}

fn harness() -> Harness {
    let there = cargo::command()
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    match there {
        true => Harness::Nextest,
        false => Harness::Cargo,
    }
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = cargo::command();
    command.args(arguments).env("CARGO_TERM_COLOR", "never");
    command
}

/// Builds everything that the tests run; true if it builds.
fn build(tally: &mut Tally) -> Result<bool, Failure> {
    let command = cargo_command(&["test", "--workspace", "--no-run"]);
    let finished = steps::run(
        "build the workspace and its tests",
        command,
        steps::last_line,
    )?;
    if !finished.status.success() {
        finished.show_tail();
        tally.fail("the workspace does not build (see above)");
    }
    Ok(finished.status.success())
}

fn workspace(filter: Option<&str>, tally: &mut Tally) -> Result<(), Failure> {
    let harness = harness();
    let mut command = match harness {
        Harness::Nextest => cargo_command(&[
            "nextest",
            "run",
            "--no-fail-fast",
            "--no-tests=pass",
            "--success-output=immediate",
            "--failure-output=final",
        ]),
        // Documentation has a step of its own.
        Harness::Cargo => cargo_command(&["test", "--no-fail-fast", "--lib", "--bins", "--tests"]),
    };
    command.args(["--workspace", "--"]);
    if harness == Harness::Cargo {
        command.arg("--show-output");
    }
    command.args(filter).args(["--skip", REFERENCE_PREFIX]);
    counted("tests of the workspace", command, harness, tally)
}

fn documentation(tally: &mut Tally) -> Result<(), Failure> {
    let command = cargo_command(&["test", "--workspace", "--doc", "--no-fail-fast"]);
    counted(
        "examples in the documentation",
        command,
        Harness::Cargo,
        tally,
    )
}

fn counted(
    name: &str,
    command: Command,
    harness: Harness,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut reader = Reader::new(harness);
    let finished = steps::run(name, command, |line| reader.line(line))?;
    let counted = reader.finish(finished.status.success());
    if counted.failed > 0 {
        eprintln!("  (its log: {})", finished.log_file.display());
    }
    tally.add(counted);
    Ok(())
}

/// The demo says itself whether every call was answered where it should be.
fn demo(tally: &mut Tally) -> Result<(), Failure> {
    if tools::DBUS_DAEMON.find().is_none() {
        tally.skip(format!("demo: {}", tools::DBUS_DAEMON.missing()));
        return Ok(());
    }
    for (name, arguments) in [
        ("demo", &["xtask", "demo", "--no-build"][..]),
        (
            "demo with a remote container bus",
            &["xtask", "demo", "--no-build", "--remote"],
        ),
    ] {
        // Nobody is there to be asked, so it installs nothing more.
        let finished = steps::run(name, cargo_command(arguments), steps::last_line)?;
        if finished.status.success() {
            tally.pass();
        } else {
            tally.fail(&format!("{name}:\n{}", finished.log));
        }
    }
    Ok(())
}

/// Whether messages have become dearer: in instructions, which hardly depend on the machine.
fn instructions(tally: &mut Tally) -> Result<(), Failure> {
    if tools::VALGRIND.find().is_none() {
        tally.skip(format!("instructions: {}", tools::VALGRIND.missing()));
        return Ok(());
    }
    let name = "instructions for a message";
    let command = cargo_command(&["xtask", "bench", "instructions"]);
    let finished = steps::run(name, command, steps::last_line)?;
    if finished.status.success() {
        tally.pass();
    } else {
        tally.fail(&format!("{name}:\n{}", finished.log));
    }
    Ok(())
}

/// Each case that passes on a plain bus counts as one: as passed if it passes through the multiplexer in
/// all its forms.
fn reference(tally: &mut Tally) -> Result<(), Failure> {
    let Some(installation) = Installation::find() else {
        tally.skip(format!(
            "reference suites: {}",
            tools::REFERENCE_SUITES.missing()
        ));
        return Ok(());
    };
    let mut tables = String::new();
    for suite in SUITES {
        let step = format!("reference suite {suite}");
        match steps::run_here(&step, || installation.compare(suite, &Topology::ALL)) {
            Ok(comparison) => {
                for _ in 0..comparison.passed_everywhere() {
                    tally.pass();
                }
                for regression in comparison.regressions() {
                    tally.fail(&regression.to_string());
                }
                tables.push_str(&comparison.table(true));
                tables.push('\n');
            }
            Err(failure) => tally.fail(&failure.to_string()),
        }
    }
    println!("\n{tables}");
    Ok(())
}
