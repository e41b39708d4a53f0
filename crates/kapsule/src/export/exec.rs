//! The value of `Exec` in a desktop file (Desktop Entry Specification, "The Exec key").
//!
//! Two layers of quoting lie on each other: that of all values (`\s`, `\n`, `\\`), and that of arguments
//! (double quotes, in which `"`, `` ` ``, `$` and `\` have a backslash). Field codes (`%U`) are filled in by
//! who starts it; `%%` is a percent sign.

/// One argument; field codes are still in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument(String);

/// Takes off the quoting of values.
pub fn unescape_value(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('s') => out.push(' '),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') => out.push('\\'),
            // Not in the specification; it is left to the next layer.
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// Puts on the quoting of values.
pub fn escape_value(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        match c {
            ' ' if at == 0 => out.push_str("\\s"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out
}

/// The arguments of an `Exec` value. `None`: a quote does not end.
pub fn parse(value: &str) -> Option<Vec<Argument>> {
    let text = unescape_value(value);
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => arguments.extend(current.take().map(Argument)),
            '"' => {
                let current = current.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => current.push(chars.next()?),
                        c => current.push(c),
                    }
                }
            }
            '\\' => current.get_or_insert_default().push(chars.next()?),
            c => current.get_or_insert_default().push(c),
        }
    }
    arguments.extend(current.map(Argument));
    Some(arguments)
}

/// An `Exec` value that starts `launcher` with `arguments`, whose field codes are kept where they make
/// sense outside.
pub fn compose(launcher: &[String], arguments: &[Argument]) -> String {
    let launcher = launcher.iter().map(|text| quote(&text.replace('%', "%%")));
    let arguments = arguments
        .iter()
        .filter_map(|argument| kept_codes(&argument.0))
        .map(|argument| quote(&argument));
    let line: Vec<String> = launcher.chain(arguments).collect();
    escape_value(&line.join(" "))
}

/// The argument with those field codes that mean something to a program inside: files, locations, the icon
/// and the name. `%k`, the desktop file, is one of the host's; the others are deprecated and stand for
/// nothing. An argument that was nothing but such a code goes.
fn kept_codes(argument: &str) -> Option<String> {
    let mut out = String::with_capacity(argument.len());
    let mut chars = argument.chars();
    let mut dropped = false;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some(code) if "fFuUic%".contains(code) => out.extend(['%', code]),
            Some(code) if code.is_ascii_alphabetic() => dropped = true,
            // A lone percent sign is a mistake that everybody takes for itself.
            Some(other) => {
                out.push_str("%%");
                out.push(other);
            }
            None => out.push_str("%%"),
        }
    }
    (!(dropped && out.is_empty())).then_some(out)
}

fn quote(argument: &str) -> String {
    const RESERVED: &str = " \t\n\"'\\><~|&;$*?#()`";
    if !argument.is_empty() && !argument.contains(|c| RESERVED.contains(c)) {
        return argument.to_owned();
    }
    let mut out = String::from('"');
    for c in argument.chars() {
        if "\"`$\\".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(value: &str) -> String {
        let launcher = ["/usr/bin/kapsule", "run", "work", "--"].map(str::to_owned);
        compose(&launcher, &parse(value).expect("the quotes end"))
    }

    #[test]
    fn a_plain_command_keeps_its_codes() {
        assert_eq!(
            rewritten("kate -b %U"),
            "/usr/bin/kapsule run work -- kate -b %U"
        );
        assert_eq!(
            rewritten("foo --icon-and-name %i %c 100%%"),
            "/usr/bin/kapsule run work -- foo --icon-and-name %i %c 100%%"
        );
    }

    #[test]
    fn codes_of_the_host_and_dead_ones_go() {
        assert_eq!(
            rewritten("foo %k --at=%k %d %m %f"),
            "/usr/bin/kapsule run work -- foo --at= %f"
        );
    }

    #[test]
    fn both_layers_of_quoting_are_taken_off_and_put_on() {
        // The specification's own example: an argument with a backslash is "\\\\" in the file.
        let value = r#"sh -c "echo \\"\\$HOME\\" 'it is' \\\\\\\\n" "a b""#;
        let arguments = parse(value).expect("the quotes end");
        assert_eq!(arguments[2].0, r#"echo "$HOME" 'it is' \\n"#);
        assert_eq!(arguments[3].0, "a b");
        let again = compose(&[], &arguments);
        assert_eq!(parse(&again), Some(arguments));
    }

    #[test]
    fn nothing_gets_out_of_an_argument() {
        for hostile in [
            r#"foo ; rm -rf ~"#,
            r#"foo "$(reboot)" `reboot`"#,
            r#"foo\nExec=evil"#,
            r#"foo "\n[Desktop Action x]\nExec=evil""#,
        ] {
            let out = rewritten(hostile);
            assert!(out.starts_with("/usr/bin/kapsule run work -- foo"), "{out}");
            assert!(!out.contains('\n'), "{out}");
            for argument in parse(&out).expect("the quotes end").iter().skip(4) {
                assert!(
                    !argument.0.contains("evil")
                        || argument.0.contains('=')
                        || argument.0.contains('\n'),
                    "{out}"
                );
            }
            // What is reserved stands in quotes, where the specification wants it.
            let unquoted: String = out.split('"').step_by(2).collect();
            assert!(!unquoted.contains([';', '$', '`', '~']), "{out}");
        }
    }

    #[test]
    fn a_quote_that_does_not_end_is_a_mistake() {
        assert_eq!(parse(r#"foo "bar"#), None);
        assert_eq!(parse("  "), Some(vec![]));
        assert_eq!(parse(r#"foo """#).map(|a| a.len()), Some(2));
    }
}
