//! What both programs do alike: complaints, and the log.

use std::fmt;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What went wrong, for the person at the terminal: what was being done, with what, and the remedy.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// With this text.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }

    /// Says before an error what was being done: `error.map_err(Failure::doing("reading x"))`.
    pub fn doing<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Failure {
        move |error| Failure(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Runs a program: sets up its log, and says on standard error why it fails.
pub fn main(
    name: &'static str,
    verbose: u8,
    run: impl FnOnce() -> Result<(), Failure>,
) -> ExitCode {
    set_up_log(verbose);
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody reads standard error, nobody hears it.
            let _ = writeln!(std::io::stderr(), "{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The socket that systemd passes (LISTEN_FDS), if it passes one. Call it before any thread is started: it changes the
/// environment.
///
/// # Errors
/// More than one is passed, or it is neither a unix stream socket nor one of AF_VSOCK.
pub fn passed_socket() -> Result<Option<OwnedFd>, Failure> {
    let mut passed = listenfd::ListenFd::from_env();
    match passed.len() {
        0 => return Ok(None),
        1 => {}
        count => {
            return Err(Failure(format!(
                "systemd passes {count} sockets (LISTEN_FDS), and one is served"
            )));
        }
    }
    passed
        .take_unix_listener(0)
        .map(|listener| listener.map(OwnedFd::from))
        .or_else(|_| {
            passed.take_custom(
                0,
                libc::AF_VSOCK,
                libc::SOCK_STREAM,
                "socket: unix or vsock",
            )
        })
        .map_err(Failure::doing(
            "using the socket that systemd passes (LISTEN_FDS)",
        ))
}

/// On standard error, warnings only unless -v or RUST_LOG say otherwise.
fn set_up_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into());
    let filter = match verbose {
        0 => filter.from_env_lossy(),
        // The libraries below say more than a person wants to know of them.
        _ => filter.parse_lossy(format!("warn,sidebus={level}")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        // A reader that has gone must not end the program.
        .log_internal_errors(false)
        .without_time()
        .init();
}
