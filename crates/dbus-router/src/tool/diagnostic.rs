//! What is wrong with a file, shown at the place where it is wrong.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The place in the text, in bytes.
    pub span: Range<usize>,
    /// What is wrong there.
    pub what: String,
    /// What would be right, if that is known.
    pub help: Option<String>,
}

impl Problem {
    /// Something wrong at `span`.
    pub fn new(span: Range<usize>, what: impl Into<String>) -> Problem {
        Problem {
            span,
            what: what.into(),
            help: None,
        }
    }

    /// A key that is not one of `known` in `place`; the remedy is the nearest of those.
    pub fn unknown_key(span: Range<usize>, key: &str, known: &[&str], place: &str) -> Problem {
        let help = match nearest(key, known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("known are: {}", known.join(", ")),
        };
        Problem::new(span, format!("unknown key \"{key}\" in {place}")).help(help)
    }

    /// With a remedy.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

/// A text with what is wrong in it; shown as a compiler does, with the line and a caret below the place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

impl Report {
    /// `file` is how the text is called, and what `FILE:LINE:COLUMN` begins with.
    pub fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Report {
        problems.sort_by_key(|problem| problem.span.start);
        Report {
            file: file.to_owned(),
            text: text.to_owned(),
            problems,
        }
    }

    /// What is wrong, in the order of the text.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            show(f, &self.file, &self.text, problem)?;
        }
        Ok(())
    }
}

/// The line of a place, counted from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

fn show(f: &mut fmt::Formatter<'_>, file: &str, text: &str, problem: &Problem) -> fmt::Result {
    let mut start = problem.span.start.min(text.len());
    // A parser may point into the middle of a character.
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[line_start..line_end].trim_end_matches('\r');
    let number = line_of(text, start);
    let before: String = text[line_start..start].chars().map(visible).collect();
    let column = before.chars().count() + 1;
    let mut end = problem
        .span
        .end
        .clamp(start, line_start + line.len().max(start - line_start));
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let width = text[start..end].chars().count().max(1);
    let margin = number.to_string().len();
    let shown: String = line.chars().map(visible).collect();
    writeln!(f, "{file}:{number}:{column}: {}", problem.what)?;
    writeln!(f, "{number} | {shown}")?;
    write!(
        f,
        "{:margin$} | {:pad$}{}",
        "",
        "",
        "^".repeat(width),
        pad = column - 1
    )?;
    if let Some(help) = &problem.help {
        write!(f, "\n{:margin$} = {help}", "")?;
    }
    Ok(())
}

/// A tab takes one column, so that the caret stands where it should; other control characters never
/// reach the terminal.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// The one of `known` that was probably meant by `word`.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + candidate.chars().count().max(word.chars().count()) / 3
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters have to be put in, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before_last[j - 2] + 1);
            }
            row[j] = least;
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_line_and_a_caret() {
        let text = "a = 1\n\tname = \"org.ü\"\n";
        let at = text.find("\"org").unwrap();
        let problem = Problem::new(at..at + 8, "this is no name").help("write another");
        let shown = Report::new("rules.toml", text, vec![problem]).to_string();
        assert_eq!(
            shown,
            "rules.toml:2:9: this is no name\n2 |  name = \"org.ü\"\n  |         ^^^^^^^\n  = write another"
        );
    }

    #[test]
    fn a_place_at_the_end_or_beyond_it_is_shown_as_well() {
        for (text, at) in [("", 0), ("a = ", 4), ("a =\n", 4), ("ü", 1), ("x", 99)] {
            let report = Report::new("f", text, vec![Problem::new(at..at + 5, "no")]);
            assert!(report.to_string().ends_with('^'), "{report}");
        }
    }

    #[test]
    fn the_nearest_word_is_the_one_that_was_meant() {
        let known = ["destination", "process", "name", "signals"];
        assert_eq!(nearest("destinatoin", &known), Some("destination"));
        assert_eq!(nearest("signal", &known), Some("signals"));
        assert_eq!(nearest("Name", &known), Some("name"));
        assert_eq!(nearest("wholly_other", &known), None);
    }
}
