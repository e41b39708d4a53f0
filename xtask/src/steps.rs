//! Long steps at the terminal: what runs, for how long, and what it said last; the tail of its log when it
//! fails. Without a terminal: a line at the start, at the end, and now and then.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use testbed::{Deadline, Failure, Line, Lines};

use crate::cargo;

/// How often the terminal's line is drawn anew.
const TICK: Duration = Duration::from_millis(100);
/// How often a log without a terminal gets a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// How much of a failing step's log is shown.
const TAIL: usize = 60;

/// A step that has run to its end.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it said, stdout and stderr together.
    pub log: String,
    /// Where that is kept.
    pub log_file: PathBuf,
}

impl Finished {
    /// Prints the tail of the log.
    pub fn show_tail(&self) {
        let lines: Vec<&str> = self.log.lines().collect();
        let from = lines.len().saturating_sub(TAIL);
        for line in &lines[from..] {
            eprintln!("    {line}");
        }
        eprintln!("  (all of it: {})", self.log_file.display());
    }
}

/// Runs `command` as the step `name`. Its output goes to a log below the target directory; `noted` sees
/// every line, and says what is to stand beside the step's name.
///
/// # Errors
/// It cannot be started. That it ends with failure is told by [`Finished::status`].
pub fn run(
    name: &str,
    mut command: Command,
    mut noted: impl FnMut(&str) -> Option<String>,
) -> Result<Finished, Failure> {
    let logs = cargo::target_dir().join("xtask-logs");
    fs::create_dir_all(&logs).map_err(Failure::doing(format_args!("making {}", logs.display())))?;
    let file_name: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    let log_file = logs.join(format!("{file_name}.log"));
    let mut kept = File::create(&log_file).map_err(Failure::doing(format_args!(
        "making {}",
        log_file.display()
    )))?;

    let (reader, writer) = io::pipe().map_err(Failure::doing("making a pipe"))?;
    let second = writer
        .try_clone()
        .map_err(Failure::doing("making a pipe"))?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let mut display = Display::start(name);
    let mut child = command
        .spawn()
        .map_err(Failure::doing(format_args!("starting {command:?}")))?;
    // Ours are the last writing ends; the stream ends with the program only without them.
    drop(command);

    let mut lines = Lines::new(name.to_owned(), reader.into());
    let mut log = String::new();
    loop {
        match lines.next_line(Deadline::after(TICK)) {
            Ok(Line::Text(line)) => {
                let _ = writeln!(log, "{line}");
                let _ = writeln!(kept, "{line}");
                if let Some(note) = noted(&line) {
                    display.note(&note);
                }
                display.draw_at_times();
            }
            Ok(Line::NotYet) => display.draw_at_times(),
            Ok(Line::End) => break,
            Err(error) => return Err(Failure::new(format!("reading from {name}: {error}"))),
        }
    }
    let status = child
        .wait()
        .map_err(Failure::doing(format_args!("waiting for {name}")))?;
    display.finish(status.success());
    Ok(Finished {
        status,
        log,
        log_file,
    })
}

/// Does `work` as the step `name`, in this process.
pub fn run_here<T>(name: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut display = Display::start(name);
    let outcome = work();
    display.finish(outcome.is_ok());
    outcome
}

/// For steps of which the last line is the best note.
pub fn last_line(line: &str) -> Option<String> {
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// The step's line at the terminal.
struct Display {
    name: String,
    note: String,
    started: Instant,
    drawn: Instant,
    terminal: bool,
}

impl Display {
    fn start(name: &str) -> Display {
        let now = Instant::now();
        let display = Display {
            name: name.to_owned(),
            note: String::new(),
            started: now,
            drawn: now,
            terminal: io::stderr().is_terminal(),
        };
        if display.terminal {
            display.draw();
        } else {
            eprintln!("· {name}");
        }
        display
    }

    fn note(&mut self, note: &str) {
        note.clone_into(&mut self.note);
    }

    fn draw_at_times(&mut self) {
        let due = if self.terminal { TICK } else { SIGN_OF_LIFE };
        if self.drawn.elapsed() >= due {
            self.draw();
            self.drawn = Instant::now();
        }
    }

    fn draw(&self) {
        let line = format!(
            "· {} ({}) {}",
            self.name,
            spoken(self.started.elapsed()),
            self.note
        );
        if self.terminal {
            // Cut to one line of the terminal, or each drawing would leave the rest behind.
            let width = terminal_width().saturating_sub(1);
            let cut: String = line
                .chars()
                .filter(|letter| !letter.is_control())
                .take(width)
                .collect();
            eprint!("\r\x1b[2K{cut}");
            let _ = io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn finish(&mut self, well: bool) {
        let mark = if well { "✓" } else { "✗" };
        let time = spoken(self.started.elapsed());
        if self.terminal {
            let color = if well { 32 } else { 31 };
            eprintln!("\r\x1b[2K\x1b[{color}m{mark}\x1b[0m {} ({time})", self.name);
        } else {
            eprintln!("{mark} {} ({time})", self.name);
        }
    }
}

fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|width| *width > 0)
        .unwrap_or(80)
}

/// A time as one says it: `3.2 s`, `2 min 05 s`.
fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 60.. => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_a_person_reads_them() {
        assert_eq!(spoken(Duration::from_millis(3240)), "3.2 s");
        assert_eq!(spoken(Duration::from_secs(125)), "2 min 05 s");
    }
}
