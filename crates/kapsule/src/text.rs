//! What may be shown. Names, descriptions and error texts can come out of a container, whose owner may
//! want to move the cursor, retitle the window or hide what stands there; so nothing that a terminal obeys
//! passes, and nothing that makes text look as if it stood elsewhere.

/// The longest text from elsewhere that is shown on a line.
const SHOWN_MAX: usize = 4096;

/// Whether a terminal shows this character, and only shows it.
fn is_shown(c: char) -> bool {
    !matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' // C0, DEL and C1: escape sequences begin here
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' // invisible; directions
        | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line of text to show: what a terminal would obey is written as `\u{1b}`.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (shown, c) in text.chars().enumerate() {
        if shown == SHOWN_MAX {
            out.push('…');
            break;
        }
        if is_shown(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

/// [`plain`] text that may have several lines.
pub fn plain_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(plain).collect();
    lines.join("\n")
}

/// JSON that can be printed on a terminal, too: what it would obey is escaped as JSON has it.
///
/// Outside of its strings JSON has no such characters, so this changes how the text is written and not what
/// it says.
pub fn plain_json(json: &serde_json::Value) -> String {
    let text = format!("{json:#}");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_shown(c) {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(
            plain("\u{1b}]0;pwned\u{7}\n\u{9b}31m\u{202e}"),
            "\\u{1b}]0;pwned\\u{7}\\u{a}\\u{9b}31m\\u{202e}"
        );
        assert_eq!(plain("Größe – 大"), "Größe – 大");
        assert_eq!(plain(&"x".repeat(10_000)).chars().count(), SHOWN_MAX + 1);
    }

    #[test]
    fn json_says_the_same_and_moves_no_cursor() {
        let value = serde_json::json!({"name": "a\u{1b}[2J\u{9b}\u{e0041}\n"});
        let text = plain_json(&value);
        assert!(text.chars().all(|c| c == '\n' || is_shown(c)), "{text}");
        let again: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(again, value);
    }
}
