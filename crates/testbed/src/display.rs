//! An X server that draws into memory.

use std::process::Command;

use crate::deadline::Deadline;
use crate::directory::TestDir;
use crate::failure::Failure;
use crate::processes::{Line, Process};

/// A running Xvfb, ended when this goes.
pub struct XDisplay {
    _process: Process,
    name: String,
    _dir: TestDir,
}

impl XDisplay {
    /// Starts one with a number that is free, and waits until it takes connections.
    ///
    /// # Errors
    /// It is not installed, or does not start; its log is in the text.
    pub fn start() -> Result<XDisplay, Failure> {
        let dir = TestDir::new();
        let mut command = Command::new("Xvfb");
        command
            .args(["-displayfd", "1", "-screen", "0", "800x600x24"])
            .args(["-nolisten", "tcp", "-noreset"])
            .env_clear()
            .envs(dir.environment());
        let (mut process, mut stdout) = Process::start_reading(command, "Xvfb", &dir.join("logs"))?;
        match stdout.next_line(Deadline::usual()) {
            Ok(Line::Text(number)) => Ok(XDisplay {
                _process: process,
                name: format!(":{}", number.trim()),
                _dir: dir,
            }),
            _ => Err(process.failure("Xvfb did not say which display it serves")),
        }
    }

    /// For `DISPLAY`.
    pub fn name(&self) -> &str {
        &self.name
    }
}
