//! `kapsule-dbus-mux run -- COMMAND`: a bus for as long as a command runs.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use dbus_router::Listen;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Buses;
use crate::program::{Failure, complain};
use crate::serve;

/// The status of a shell for a command that cannot be started, and for one that is not there.
const CANNOT_START: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(crate) fn run(buses: Buses, command: &[OsString]) -> Result<ExitCode, Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure("no command to run; see --help".to_owned()))?;
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let base = base.map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::Builder::new()
        .prefix("kapsule-dbus-mux-")
        .tempdir_in(&base)
        .or_else(|_| {
            tempfile::Builder::new()
                .prefix("kapsule-dbus-mux-")
                .tempdir()
        })
        .map_err(|error| {
            Failure(format!(
                "cannot make a directory for the socket in {}: {error}",
                base.display()
            ))
        })?;
    let router = serve::start(Listen::Path(dir.path().join("bus")), &buses, Duration::ZERO)?;
    let handle = router.handle();
    let address = router.address();
    // Signals that came before the command runs are passed on to it, too.
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT])
        .map_err(|error| Failure(format!("cannot wait for signals: {error}")))?;
    let mut child = Command::new(program);
    router.with_original_limits(&mut child);
    let serving = std::thread::spawn(move || router.run());
    let child = child
        .args(arguments)
        .env("DBUS_SESSION_BUS_ADDRESS", &address)
        .env_remove("DBUS_SESSION_BUS_PID")
        .env_remove("DBUS_SESSION_BUS_WINDOWID")
        .env_remove("NOTIFY_SOCKET")
        .spawn();
    let status = match child {
        Err(error) => {
            complain(&format!("cannot run {}: {error}", program.display()));
            match error.kind() {
                std::io::ErrorKind::NotFound => ExitCode::from(NOT_FOUND),
                _ => ExitCode::from(CANNOT_START),
            }
        }
        Ok(mut child) => {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let signals_end = signals.handle();
            let passing = std::thread::spawn(move || {
                for signal in signals.forever() {
                    // The terminal sends SIGINT to the whole foreground group: the command has it already.
                    let signal = match signal {
                        SIGTERM => Signal::TERM,
                        SIGHUP => Signal::HUP,
                        _ => continue,
                    };
                    if let Some(pid) = pid {
                        let _ = kill_process(pid, signal);
                    }
                }
            });
            let status = child.wait().map_err(|error| {
                Failure(format!("cannot wait for {}: {error}", program.display()))
            })?;
            signals_end.close();
            let _ = passing.join();
            exit_code(status)
        }
    };
    handle.stop();
    if let Ok(Err(error)) = serving.join() {
        tracing::warn!(%error, "the router ended before the command");
    }
    dir.close().map_err(|error| {
        Failure(format!(
            "cannot remove the directory of the socket: {error}"
        ))
    })?;
    Ok(status)
}

fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
