//! From arguments to an exit status.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Sub};
use crate::{run, serve, status};

/// What went wrong, for the person at the terminal: what was being done, with what, and the remedy.
#[derive(Debug)]
pub(crate) struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Runs the program with the arguments of the process. The status is 0, that of the command (`run`), 1 for what
/// went wrong, or 2 for a wrong command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    set_up_log(cli.verbose);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        complain(&format!(
            "this is a fault in the program, please report it ({place})"
        ));
    }));
    let result = match cli.command {
        None => serve::serve(cli.serve).map(|()| ExitCode::SUCCESS),
        Some(Sub::Run { buses, command }) => run::run(buses, &command),
        Some(Sub::Status { path, json }) => status::status(&path, json).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|Failure(problem)| {
        complain(&problem);
        ExitCode::FAILURE
    })
}

/// Says something on standard error; where nobody reads that, nobody hears it.
pub(crate) fn complain(what: &str) {
    let _ = writeln!(std::io::stderr(), "kapsule-dbus-mux: {what}");
}

fn set_up_log(verbose: u8) {
    let asked = std::env::var("RUST_LOG")
        .ok()
        .and_then(|level| level.parse().ok());
    let level = match verbose {
        0 => asked.unwrap_or(LevelFilter::WARN),
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // The journal adds the time; so does nobody else, but a person at a terminal sees when it was.
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        // A reader that has gone must not end the router.
        .log_internal_errors(false)
        .without_time();
    log.init();
}
