//! From arguments to an exit status.

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use super::cli::{Cli, Sub};
use super::{config_file, explain, proxy, proxy_arguments, serve};

/// What went wrong, for the person at the terminal: what was being done, with what, and the remedy.
#[derive(Debug)]
pub(super) struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Runs the program with the arguments of the process. The status is 0, 1 for what went wrong, or 2 for a wrong
/// command line (1 in the proxy form, as for xdg-dbus-proxy).
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        say(&format!(
            "dbus-router: this is a fault in the program, please report it ({place})"
        ));
    }));
    let mut arguments = std::env::args_os();
    let called = arguments.next();
    if proxy_arguments::is_called(called.as_deref(), "xdg-dbus-proxy") {
        set_up_log(0);
        return proxy::main("xdg-dbus-proxy", arguments);
    }
    // Before clap sees them: what follows is another program's command line.
    if std::env::args_os().nth(1).as_deref() == Some("proxy".as_ref()) {
        set_up_log(0);
        return proxy::main("dbus-router proxy", arguments.skip(1));
    }
    let cli = Cli::parse();
    set_up_log(cli.verbose);
    let result = match cli.command {
        None => serve::serve(&cli.serve).map(|()| ExitCode::SUCCESS),
        Some(Sub::Check { files }) => Ok(check(&files)),
        Some(Sub::Explain {
            file,
            names,
            process,
            member,
        }) => explain::explain(&file, &names, process.as_deref(), member.as_deref())
            .and_then(|text| print(&text)),
        Some(Sub::Learn { serve, write }) => {
            serve::learn(&serve, write).map(|()| ExitCode::SUCCESS)
        }
        Some(Sub::Proxy { arguments }) => {
            return proxy::main("dbus-router proxy", arguments.into_iter());
        }
    };
    result.unwrap_or_else(|Failure(problem)| {
        say(&format!("dbus-router: {problem}"));
        ExitCode::FAILURE
    })
}

fn check(files: &[PathBuf]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        if let Err(error) = config_file::read(file) {
            say(&error.to_string());
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// To standard output; a reader that has seen enough (`… | head`) is no failure.
pub(super) fn print(text: &str) -> Result<ExitCode, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A line on standard error. Who reads it may have gone, and that ends no router (`eprintln!` would).
pub(super) fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn set_up_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // The journal adds the time, and a person at a terminal sees when it was.
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .log_internal_errors(false)
        .without_time()
        .init();
}
