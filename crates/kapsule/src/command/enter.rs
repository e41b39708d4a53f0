//! `kapsule enter`, `kapsule run`

use std::process::ExitCode;

use crate::cli::{Enter, Run};
use crate::error::{Error, Result};
use crate::inside::{self, Program};
use crate::manager::Manager;
use crate::progress::{Kind, note};
use crate::terminal::MarkType;

/// The status when the command could not be run at all, as podman and docker have it; those of the command
/// itself are below.
const NOT_RUN: u8 = 125;

/// Opens a shell.
pub async fn enter(manager: Result<Manager>, options: Enter) -> Result<ExitCode> {
    let program = Program {
        container: options.name,
        argv: options.command,
        as_root: options.root,
        terminal: None,
        cwd: options.cwd,
        mark: MarkType::Kapsule,
    };
    ended(manager, &program).await
}

/// Runs a command.
pub async fn run(manager: Result<Manager>, options: Run) -> Result<ExitCode> {
    let program = Program {
        container: options.name,
        argv: options.command,
        as_root: options.root,
        terminal: match (options.tty, options.no_tty) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        cwd: options.cwd,
        mark: MarkType::Kapsule,
    };
    ended(manager, &program).await
}

/// Runs a program to its end. What goes wrong on our side has a status of its own.
pub async fn ended(manager: Result<Manager>, program: &Program) -> Result<ExitCode> {
    let result = match manager {
        Ok(manager) => inside::run(&manager, program).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(error @ (Error::Usage(_) | Error::Cancelled(_))) => Err(error),
        Err(error) => {
            note(Kind::Error, &error.to_string());
            Ok(ExitCode::from(NOT_RUN))
        }
    }
}
