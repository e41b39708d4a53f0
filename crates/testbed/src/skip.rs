//! Tests that cannot run here say so, loudly.

use std::fmt;
use std::io::Write;

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
