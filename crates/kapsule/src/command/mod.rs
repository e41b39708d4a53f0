//! What each command does.

pub mod assemble;
pub mod autostart;
pub mod config;
pub mod create;
pub mod daemon;
pub mod enter;
pub mod export;
pub mod features;
pub mod images;
pub mod info;
pub mod init;
pub mod life;
pub mod list;
pub mod snapshot;
pub mod table;
pub mod upgrade;

use std::io::Write;

use crate::text;

/// Prints what was asked for on stdout. Who reads no more has had enough, and is not told of an error.
pub fn print(what: &str) {
    let mut stdout = anstream::stdout();
    let _ = stdout
        .write_all(what.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Prints JSON on stdout.
pub fn print_json(value: &serde_json::Value) {
    print(&format!("{}\n", text::plain_json(value)));
}
