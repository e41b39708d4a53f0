//! What `kapsule assemble` is given: the containers that are wanted.
//!
//! A mistake says where it is: file, line, column, the line itself, and a caret below it. Mistakes are
//! found before anything is done.

pub mod distrobox_ini;
pub mod kapsule_toml;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::command::create::Plan;
use crate::error::{Error, Result};
use crate::text::plain;

/// The longest manifest that is read.
const SIZE_MAX: u64 = 1024 * 1024;

/// A container that is wanted, and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The container.
    pub plan: Plan,
    /// Packages of its distribution.
    pub packages: Vec<String>,
    /// Commands that root runs once, after the packages are there.
    pub setup: Vec<String>,
    /// Commands that the user runs once, after that.
    pub run: Vec<String>,
    /// Applications that are exported.
    pub export: Vec<String>,
    /// Programs that are exported.
    pub export_bin: Vec<String>,
    /// Whether it is made anew if it is there already.
    pub replace: bool,
    /// What the person should know of it.
    pub notes: Vec<String>,
}

/// A mistake in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, and what to do.
    pub what: String,
    /// Where, in bytes.
    pub at: Range<usize>,
}

/// A mistake with the lines around it, for a person.
struct Shown<'a> {
    file: &'a Path,
    text: &'a str,
    mistake: &'a Mistake,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, at) = (self.text, &self.mistake.at);
        let start = floor(text, at.start);
        let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let number = text[..start].matches('\n').count() + 1;
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |end| start + end);
        let end = floor(text, at.end).clamp(start, line_end);
        let before = plain(&text[line_start..start]);
        let marked = plain(&text[start..end]);
        let after = plain(text[end..line_end].trim_end());
        let column = text[line_start..start].chars().count() + 1;
        let width = number.to_string().len();
        let carets = "^".repeat(marked.chars().count().max(1));
        writeln!(
            f,
            "{}:{number}:{column}: {}",
            plain(&self.file.display().to_string()),
            self.mistake.what
        )?;
        writeln!(f, "{:width$} |", "")?;
        writeln!(f, "{number} | {before}{marked}{after}")?;
        write!(
            f,
            "{:width$} | {}{carets}",
            "",
            " ".repeat(before.chars().count())
        )
    }
}

fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

/// Reads a manifest; `NAME.ini` is one of distrobox.
///
/// # Errors
/// It cannot be read, or has a mistake.
pub fn read(file: &Path, features: &[String]) -> Result<Vec<Wanted>> {
    let doing = || format!("reading {}", plain(&file.display().to_string()));
    let size = std::fs::metadata(file)
        .map_err(Error::doing(doing()))?
        .len();
    if size > SIZE_MAX {
        return Err(Error::Usage(format!(
            "{}: it is too large for a manifest",
            doing()
        )));
    }
    let text = std::fs::read_to_string(file).map_err(Error::doing(doing()))?;
    let is_ini = file.extension().is_some_and(|ending| ending == "ini");
    let parsed = match is_ini {
        true => distrobox_ini::parse(&text),
        false => kapsule_toml::parse(&text, features),
    };
    parsed.map_err(|mistake| {
        let mistake = &mistake;
        Error::Usage(
            Shown {
                file,
                text: &text,
                mistake,
            }
            .to_string(),
        )
    })
}

/// Why this cannot be the name of a container.
fn wrong_name(name: &str) -> Option<&'static str> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match name.as_bytes() {
        [] => Some("a container has a name"),
        [first, ..] if !first.is_ascii_alphabetic() => {
            Some("a container's name begins with a letter")
        }
        bytes if !bytes.iter().copied().all(is_part) || bytes.ends_with(b"-") => {
            Some("a container's name has letters, digits and dashes, and no dash at its end")
        }
        bytes if bytes.len() > 63 => Some("a container's name has at most 63 characters"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a person sees of a mistake.
    pub(super) fn shown(file: &str, text: &str, mistake: &Mistake) -> String {
        let file = Path::new(file);
        Shown {
            file,
            text,
            mistake,
        }
        .to_string()
    }

    #[test]
    fn a_caret_stands_below_what_is_meant() {
        let text = "[a]\nimäge = \"x\"\n";
        let mistake = Mistake {
            what: "unknown key".to_owned(),
            at: 4..10,
        };
        assert_eq!(
            shown("m.toml", text, &mistake),
            "m.toml:2:1: unknown key\n  |\n2 | imäge = \"x\"\n  | ^^^^^"
        );
    }

    #[test]
    fn a_mistake_beyond_the_end_and_an_escape_are_shown_all_the_same() {
        let mistake = Mistake {
            what: "it ends".to_owned(),
            at: 100..200,
        };
        assert_eq!(
            shown("m.toml", "\u{1b}[2J", &mistake),
            "m.toml:1:5: it ends\n  |\n1 | \\u{1b}[2J\n  |          ^"
        );
    }
}
