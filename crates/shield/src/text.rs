//! What may be shown. A container chooses the names that it looks up; they reach terminals, logs and the
//! markup of notifications, so nothing but plain, short, printable ASCII passes.

/// The longest text from a container that is shown or sent on.
pub const TEXT_MAX: usize = 256;

/// Printable ASCII, at most [`TEXT_MAX`] characters; everything else becomes `?`.
pub fn plain(text: &str) -> String {
    text.chars()
        .take(TEXT_MAX)
        .map(|c| if matches!(c, ' '..='~') { c } else { '?' })
        .collect()
}

/// [`plain`] text in the markup of a notification's body, where `<b>` would be bold and `<a>` a link.
pub fn markup(text: &str) -> String {
    let mut out = String::new();
    for c in plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_bells_newlines_and_letters_that_look_like_others_do_not_pass() {
        assert_eq!(
            plain("\u{1b}]0;pwned\u{7}\n\u{440}\u{430}ypal.com\u{202e}"),
            "?]0;pwned????ypal.com?"
        );
        assert_eq!(plain(&"x".repeat(1000)).len(), TEXT_MAX);
    }

    #[test]
    fn markup_is_shown_and_not_obeyed() {
        assert_eq!(
            markup("<a href=\"x\">O'K</a>&"),
            "&lt;a href=&quot;x&quot;&gt;O&#39;K&lt;/a&gt;&amp;"
        );
    }
}
