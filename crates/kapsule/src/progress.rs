//! What a person sees of long work: bars and lines on a terminal, lines alone elsewhere. All on stderr, so
//! that stdout has only what was asked for.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text::plain;

/// How many bars are shown at a time; there are never more than a few.
const BARS_MAX: usize = 16;

/// What a line is about: the kinds of the signal `Message`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is being done.
    Information,
    /// What has been done.
    Success,
    /// What the person should know.
    Warning,
    /// What went wrong.
    Error,
    /// What is rarely wanted.
    Detail,
    /// What to do.
    Hint,
}

impl From<i32> for Kind {
    fn from(number: i32) -> Kind {
        match number {
            1 => Kind::Success,
            2 => Kind::Warning,
            3 => Kind::Error,
            4 => Kind::Detail,
            5 => Kind::Hint,
            _ => Kind::Information,
        }
    }
}

impl Kind {
    fn lead(self) -> (&'static str, Style) {
        let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
        match self {
            Kind::Information => ("", Style::new()),
            Kind::Success => ("", color(AnsiColor::Green)),
            Kind::Warning => ("warning: ", color(AnsiColor::Yellow)),
            Kind::Error => ("error: ", color(AnsiColor::Red)),
            Kind::Detail => ("", Style::new().dimmed()),
            Kind::Hint => ("hint: ", color(AnsiColor::Cyan)),
        }
    }
}

/// The bars and lines of one operation.
pub struct Progress {
    bars: MultiProgress,
    shown: HashMap<String, ProgressBar>,
    /// What is being done, while there is no bar.
    spinner: Option<ProgressBar>,
    on_terminal: bool,
}

impl Progress {
    /// Nothing is shown before there is something to show, or the work takes a moment.
    pub fn new(doing: &str) -> Progress {
        let on_terminal = std::io::stderr().is_terminal();
        let target = match on_terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let spinner = on_terminal.then(|| {
            let spinner = bars.add(ProgressBar::new_spinner());
            spinner.set_style(style("{spinner} {msg}"));
            spinner.set_message(format!("{}…", plain(doing)));
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Progress {
            bars,
            shown: HashMap::new(),
            spinner,
            on_terminal,
        }
    }

    /// A line for the person.
    pub fn say(&self, kind: Kind, message: &str, indent: i32) {
        let (lead, color) = kind.lead();
        let indent = " ".repeat(indentation(indent));
        let message = plain(message);
        if self.on_terminal {
            let line = if colors() {
                format!("{indent}{color}{lead}{color:#}{message}")
            } else {
                format!("{indent}{lead}{message}")
            };
            // Above the bars, which are drawn again below it.
            let _ = self.bars.println(line);
        } else {
            let _ = writeln!(std::io::stderr(), "{indent}{lead}{message}");
        }
    }

    /// A bar begins; `total` is negative if it is not known.
    pub fn begin(&mut self, id: &str, description: &str, total: i32, indent: i32) {
        if self.shown.len() >= BARS_MAX {
            return;
        }
        let description = plain(description);
        if !self.on_terminal {
            self.say(Kind::Information, &description, indent);
        }
        let indent = " ".repeat(indentation(indent));
        let bar = match u64::try_from(total) {
            Ok(total) => {
                let bar = self.bars.add(ProgressBar::new(total));
                bar.set_style(style("{prefix} {bar:30.cyan/dim} {percent:>3}% {msg:.dim}"));
                bar
            }
            Err(_) => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(style("{spinner} {prefix} {msg:.dim}"));
                bar
            }
        };
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.set_prefix(format!("{indent}{description}"));
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        self.shown.insert(id.to_owned(), bar);
    }

    /// How far a bar is.
    pub fn update(&self, id: &str, current: i32) {
        if let (Some(bar), Ok(current)) = (self.shown.get(id), u64::try_from(current)) {
            bar.set_position(current);
        }
    }

    /// What stands beside a bar.
    pub fn text(&self, id: &str, text: &str) {
        if let Some(bar) = self.shown.get(id) {
            bar.set_message(plain(text));
        }
    }

    /// A bar has ended.
    pub fn end(&mut self, id: &str, success: bool, message: &str) {
        if let Some(bar) = self.shown.remove(id) {
            bar.finish_and_clear();
        }
        if !message.is_empty() {
            let kind = if success { Kind::Success } else { Kind::Error };
            self.say(kind, message, 0);
        }
    }

    /// Takes everything away but the lines.
    pub fn clear(&mut self) {
        for (_, bar) in self.shown.drain() {
            bar.finish_and_clear();
        }
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn indentation(levels: i32) -> usize {
    usize::try_from(levels).unwrap_or(0).min(8) * 2
}

fn colors() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

fn style(template: &str) -> ProgressStyle {
    // A template that does not parse is a mistake of ours, and a plain bar then better than none.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line on stderr beside any bars.
pub fn note(kind: Kind, message: &str) {
    let (lead, color) = kind.lead();
    anstream::eprintln!(
        "{color}{lead}{color:#}{}",
        crate::text::plain_lines(message)
    );
}
