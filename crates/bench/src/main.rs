//! Measures routers and buses beside each other: interleaved in one run, so that a machine that drifts hurts
//! all alike. Figures are medians over rounds, and ratios to the blind relay (or to dbus-daemon, inside).

mod dbus_broker;
mod instructions;
mod peer;
mod process;
mod relay;
mod report;
mod scenario;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::Counter;
use crate::report::Report;
use crate::scenario::SCENARIOS;
use crate::subject::{Kind, Programs};

/// Measure D-Bus routers and buses beside each other.
///
/// Every scenario runs on every subject in turn, round after round (A B C A B C …). Every reply is checked;
/// a hang or a wrong reply is a failed scenario.
#[derive(Parser, Debug)]
#[command(name = "kapsule-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// How often each scenario runs on each subject.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// A factor for how much each run does: 0.1 for a quick look, 1 for figures to write down.
    #[arg(long, default_value_t = 1.0)]
    work: f64,
    /// Only scenarios whose name contains this (repeatable).
    #[arg(long)]
    only: Vec<String>,
    /// Only these subjects (repeatable): direct, dbus-broker, relay, xdg-dbus-proxy, mux-local, mux-remote,
    /// router, router-200-rules.
    #[arg(long)]
    subject: Vec<String>,
    /// The multiplexer to measure.
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "target/release/kapsule-dbus-mux"
    )]
    mux: PathBuf,
    /// The router to measure.
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "target/release/dbus-router"
    )]
    router: PathBuf,
    /// Have them look for more for so long before they sleep (their own option).
    #[arg(long, value_name = "MICROSECONDS")]
    busy_poll: Option<u32>,
    /// Run everything on this one processor (a number, from 0): what is measured then is work, and not where the
    /// scheduler happens to put whom.
    #[arg(long, value_name = "NUMBER")]
    processor: Option<usize>,
    /// Write everything that was measured to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw the ratios into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Be the blind relay: pass bytes and descriptors on, and look at nothing.
    Relay {
        /// The socket to listen on.
        listen: PathBuf,
        /// The socket of the bus.
        target: PathBuf,
    },
    /// Count the instructions of fixed exchanges, by valgrind's callgrind, and compare with what they were.
    Instructions {
        /// What they were: JSON, by name.
        #[arg(
            long,
            value_name = "FILE",
            default_value = "crates/bench/instructions.json"
        )]
        file: PathBuf,
        /// Write down what they are now.
        #[arg(long)]
        write: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let programs = Programs {
        mux: cli.mux,
        router: cli.router,
        busy_poll: cli.busy_poll,
        under: None,
    };
    let done = match &cli.command {
        None => None,
        Some(Command::Relay { listen, target }) => {
            Some(relay::serve(listen, target).map_err(|error| format!("relay: {error}")))
        }
        Some(Command::Instructions { file, write }) => {
            Some(instructions::guard(&programs, file, *write))
        }
    };
    match done {
        None => {}
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(problem)) => {
            eprintln!("kapsule-bench: {problem}");
            return ExitCode::FAILURE;
        }
    }
    if cli.list {
        for scenario in SCENARIOS {
            println!("{:28} {}", scenario.name, scenario.what);
        }
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str, list: &[String]| {
        list.is_empty() || list.iter().any(|part| name.contains(part.as_str()))
    };
    let named = |name: &str, list: &[String]| list.is_empty() || list.iter().any(|it| it == name);
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| named(kind.name(), &cli.subject))
        .filter(|kind| {
            let is_here = kind.is_here();
            if !is_here {
                eprintln!("{} is not installed: not measured", kind.name());
            }
            is_here
        })
        .collect();
    if let Some(processor) = cli.processor
        && let Err(problem) = process::stay_on(processor)
    {
        eprintln!("kapsule-bench: {problem}");
        return ExitCode::FAILURE;
    }
    let counts = Counter::is_possible();
    if !counts {
        eprintln!(
            "perf cannot count system calls here (package linux-perf, and root): not counted"
        );
    }
    let mut report = Report::new(&kinds);
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| wanted(scenario.name, &cli.only))
    {
        eprint!("{:28}", scenario.name);
        for _ in 0..cli.rounds {
            for &kind in &kinds {
                let outcome = subject::start(kind, &programs, false)
                    .and_then(|world| scenario.run(&world, cli.work));
                eprint!("{}", if outcome.is_ok() { "." } else { "!" });
                report.add(scenario, kind, outcome);
            }
        }
        for &kind in kinds.iter().filter(|_| counts) {
            let outcome = subject::start(kind, &programs, true)
                .and_then(|world| scenario.run(&world, cli.work / 2.0));
            eprint!("{}", if outcome.is_ok() { "," } else { "!" });
            report.add_count(scenario, kind, outcome);
        }
        eprintln!();
    }
    print!("{}", report.table());
    let written = [
        cli.json.map(|file| std::fs::write(file, report.json())),
        cli.markdown
            .map(|file| std::fs::write(file, report.markdown())),
        cli.svg.map(|file| std::fs::write(file, report.svg())),
    ];
    for result in written.into_iter().flatten() {
        if let Err(error) = result {
            eprintln!("kapsule-bench: cannot write the results: {error}");
            return ExitCode::FAILURE;
        }
    }
    if report.has_failures() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
