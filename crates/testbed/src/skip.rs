//! Tests that cannot run here say so, loudly.

use std::fmt;
use std::io::Write;

use crate::failure::Failure;

/// Why something that a test needs is not there.
#[derive(Debug)]
pub enum Trouble {
    /// This machine cannot, or may not: the test is skipped.
    Unable(String),
    /// It should have worked.
    Failed(Failure),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unable(why) => f.write_str(why),
            Trouble::Failed(failure) => failure.fmt(f),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failed(failure)
    }
}

/// What a `Result<_, Trouble>` holds; skips the rest of the test if this machine is unable, and fails the
/// test if it failed.
#[macro_export]
macro_rules! or_skip {
    ($result:expr) => {
        match $result {
            Ok(there) => there,
            Err($crate::skip::Trouble::Unable(why)) => $crate::skip!("{why}"),
            Err($crate::skip::Trouble::Failed(failure)) => panic!("{failure}"),
        }
    };
}

/// Says that a test is skipped, and why, on stderr: `SKIPPED: TEST: WHY`.
///
/// Past the test harness, which would keep what a passing test prints to itself. `cargo xtask test`
/// counts these lines. Use [`skip!`](crate::skip!), which also returns from the test.
pub fn say_skipped(why: fmt::Arguments<'_>) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED: {test}: {why}\n");
    // There is nobody to tell if stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Skips the rest of a test: says `SKIPPED:` and why, and returns.
#[macro_export]
macro_rules! skip {
    ($($why:tt)+) => {{
        $crate::skip::say_skipped(format_args!($($why)+));
        return;
    }};
}
