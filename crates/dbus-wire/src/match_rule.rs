//! Match rules: which messages a connection wants to see (specification: Match Rules).
//!
//! The text is read as dbus-daemon reads it, down to white space and quotes. Two things are stricter
//! here than in dbus-daemon 1.14, both where it reads something else than what is written: a rule's
//! keys after the sixteenth count too, and the number in `argN` is decimal (there, `arg010` is
//! argument 8).

use std::cell::Cell;
use std::fmt;

use thiserror::Error;

use crate::body::{align, skip_unchecked};
use crate::error_names;
use crate::frame::{Endian, MessageType};
use crate::header::Header;
use crate::names::{
    is_bus_name, is_interface_name, is_member_name, is_namespace, is_object_path,
    name_in_namespace, path_in_namespace,
};

/// The longest text of a rule that dbus-daemon takes.
pub const MAX_RULE_LEN: usize = 1024;

/// The last argument that a rule can look at (specification: Match Rules, `arg[0, 1, 2, 3, ...]`).
pub const MAX_ARG: u8 = 63;

/// Why text is not a match rule.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum MatchRuleError {
    /// The text is longer than [`MAX_RULE_LEN`].
    #[error("the match rule is {0} bytes long, the limit is 1024")]
    TooLong(usize),
    /// A key without a value.
    #[error("the match rule has the key '{0}' without '='")]
    NoValue(String),
    /// A quotation mark is not closed.
    #[error("the match rule has unbalanced quotation marks")]
    Quotes,
    /// A key that no rule has.
    #[error("the match rule has the unknown key '{0}'")]
    UnknownKey(String),
    /// A key that is given twice, or contradicts another.
    #[error("the match rule has '{0}' twice")]
    Twice(String),
    /// A value that its key cannot have.
    #[error("the match rule has the invalid value '{value}' for '{key}'")]
    InvalidValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// An argument's number that is missing or too large.
    #[error("the match rule has the key '{0}', and arguments are arg0 to arg63")]
    ArgNumber(String),
}

impl MatchRuleError {
    /// The name of the error with which dbus-daemon answers.
    #[must_use]
    pub fn error_name(&self) -> &'static str {
        match self {
            MatchRuleError::TooLong(_) => error_names::LIMITS_EXCEEDED,
            _ => error_names::MATCH_RULE_INVALID,
        }
    }
}

/// Which object paths a rule matches.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PathMatch {
    /// `path`: this one.
    Exact(Box<str>),
    /// `path_namespace`: this one and all below it.
    Namespace(Box<str>),
}

/// What a rule wants of an argument.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ArgMatch {
    /// `argN`: this string.
    Str(Box<str>),
    /// `argNpath`: this string or object path, or one of the two ends with `/` and is a prefix of the
    /// other.
    Path(Box<str>),
    /// `arg0namespace`: this name or one below it.
    Namespace(Box<str>),
}

/// A parsed match rule. Rules that say the same are equal, in whatever order they say it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct MatchRule {
    /// `type`.
    pub kind: Option<MessageType>,
    /// `sender`: a unique or well-known name.
    pub sender: Option<Box<str>>,
    /// `destination`: a unique or well-known name.
    pub destination: Option<Box<str>>,
    /// `interface`.
    pub interface: Option<Box<str>>,
    /// `member`.
    pub member: Option<Box<str>>,
    /// `path` or `path_namespace`.
    pub path: Option<PathMatch>,
    /// `argN`, `argNpath` and `arg0namespace`, by number, each number once.
    pub args: Box<[(u8, ArgMatch)]>,
    /// `eavesdrop`.
    pub eavesdrop: Option<bool>,
}

impl MatchRule {
    /// Reads a rule.
    ///
    /// # Errors
    ///
    /// If it is too long, malformed, or has keys or values that no rule has. What a bus answers then is
    /// [`MatchRuleError::error_name`].
    pub fn parse(text: &str) -> Result<Self, MatchRuleError> {
        if text.len() > MAX_RULE_LEN {
            return Err(MatchRuleError::TooLong(text.len()));
        }
        let mut rule = MatchRule::default();
        let mut args: Vec<(u8, ArgMatch)> = Vec::new();
        let mut rest = text;
        while let Some((key, value, after)) = next_pair(rest)? {
            rest = after;
            rule.set(key, value, &mut args)?;
        }
        args.sort_unstable_by_key(|&(number, _)| number);
        rule.args = args.into();
        Ok(rule)
    }

    fn set(
        &mut self,
        key: &str,
        value: String,
        args: &mut Vec<(u8, ArgMatch)>,
    ) -> Result<(), MatchRuleError> {
        let text = |slot: &mut Option<Box<str>>, valid: fn(&str) -> bool, value: String| {
            if slot.is_some() {
                Err(MatchRuleError::Twice(key.to_owned()))
            } else if valid(&value) {
                *slot = Some(value.into());
                Ok(())
            } else {
                Err(invalid(key, value))
            }
        };
        match key {
            "type" => {
                if self.kind.is_some() {
                    return Err(MatchRuleError::Twice(key.to_owned()));
                }
                self.kind = Some(match value.as_str() {
                    "method_call" => MessageType::MethodCall,
                    "method_return" => MessageType::MethodReturn,
                    "error" => MessageType::Error,
                    "signal" => MessageType::Signal,
                    _ => return Err(invalid(key, value)),
                });
                Ok(())
            }
            "sender" => text(&mut self.sender, is_bus_name, value),
            "destination" => text(&mut self.destination, is_bus_name, value),
            "interface" => text(&mut self.interface, is_interface_name, value),
            "member" => text(&mut self.member, is_member_name, value),
            "path" | "path_namespace" => {
                if self.path.is_some() {
                    return Err(MatchRuleError::Twice("path or path_namespace".to_owned()));
                }
                if !is_object_path(&value) {
                    return Err(invalid(key, value));
                }
                self.path = Some(if key == "path" {
                    PathMatch::Exact(value.into())
                } else {
                    PathMatch::Namespace(value.into())
                });
                Ok(())
            }
            // The one key that may come again; the last one counts.
            "eavesdrop" => match value.as_str() {
                "true" => {
                    self.eavesdrop = Some(true);
                    Ok(())
                }
                "false" => {
                    self.eavesdrop = Some(false);
                    Ok(())
                }
                _ => Err(invalid(key, value)),
            },
            _ => match key.strip_prefix("arg") {
                Some(which) => {
                    let arg = arg_match(key, which, value)?;
                    if args.iter().any(|(number, _)| *number == arg.0) {
                        return Err(MatchRuleError::Twice(format!("arg{}", arg.0)));
                    }
                    args.push(arg);
                    Ok(())
                }
                None => Err(MatchRuleError::UnknownKey(key.to_owned())),
            },
        }
    }

    /// Whether a message matches everything in the rule but `sender` and `destination`, which need a
    /// bus to say who owns a name, and `eavesdrop`.
    #[must_use]
    #[inline]
    pub fn matches(&self, header: &Header<'_>, args: &Args<'_>) -> bool {
        let same = |wanted: &Option<Box<str>>, actual: Option<&str>| match wanted {
            Some(wanted) => actual == Some(wanted),
            None => true,
        };
        self.kind.is_none_or(|kind| kind == header.kind)
            && same(&self.member, header.member)
            && same(&self.interface, header.interface)
            && match &self.path {
                None => true,
                Some(PathMatch::Exact(path)) => header.path == Some(path),
                Some(PathMatch::Namespace(namespace)) => header
                    .path
                    .is_some_and(|path| path_in_namespace(path, namespace)),
            }
            && self
                .args
                .iter()
                .all(|(number, wanted)| wanted.matches(args.arg(usize::from(*number))))
    }

    /// Whether [`MatchRule::matches`] looks at the body.
    #[must_use]
    pub fn needs_args(&self) -> bool {
        !self.args.is_empty()
    }
}

impl ArgMatch {
    /// Whether an argument is what the rule wants. No argument, and one of another type, never is.
    #[must_use]
    pub fn matches(&self, arg: Option<Arg<'_>>) -> bool {
        match (self, arg) {
            (ArgMatch::Str(wanted), Some(Arg::Str(actual))) => actual == &**wanted,
            (ArgMatch::Path(wanted), Some(Arg::Str(actual) | Arg::ObjectPath(actual))) => {
                let wanted = &**wanted;
                actual == wanted
                    || (wanted.ends_with('/') && actual.starts_with(wanted))
                    || (actual.ends_with('/') && wanted.starts_with(actual))
            }
            (ArgMatch::Namespace(wanted), Some(Arg::Str(actual))) => {
                name_in_namespace(actual, wanted)
            }
            _ => false,
        }
    }
}

fn invalid(key: &str, value: String) -> MatchRuleError {
    MatchRuleError::InvalidValue {
        key: key.to_owned(),
        value,
    }
}

/// `which` is what follows `arg` in the key.
fn arg_match(key: &str, which: &str, value: String) -> Result<(u8, ArgMatch), MatchRuleError> {
    let digits = which.bytes().take_while(u8::is_ascii_digit).count();
    let (number, kind) = which.split_at(digits);
    let canonical = !number.is_empty() && (number.len() == 1 || !number.starts_with('0'));
    let number = match number.parse::<u8>() {
        Ok(number) if canonical && number <= MAX_ARG => number,
        _ => return Err(MatchRuleError::ArgNumber(key.to_owned())),
    };
    match (number, kind) {
        (_, "") => Ok((number, ArgMatch::Str(value.into()))),
        (_, "path") => Ok((number, ArgMatch::Path(value.into()))),
        (0, "namespace") if is_namespace(&value) => Ok((0, ArgMatch::Namespace(value.into()))),
        (0, "namespace") => Err(invalid(key, value)),
        _ => Err(MatchRuleError::UnknownKey(key.to_owned())),
    }
}

/// A key, its value with quotes and escapes resolved, and the text after the comma.
type Pair<'a> = (&'a str, String, &'a str);

/// The next pair of a rule; `None` at its end.
fn next_pair(text: &str) -> Result<Option<Pair<'_>>, MatchRuleError> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r');
    let text = text.trim_start_matches(space);
    let key_len = text.find(|c| c == '=' || space(c)).unwrap_or(text.len());
    let (key, rest) = text.split_at(key_len);
    // White space at the end is no pair. dbus-daemon takes '=' without a key for the end, too.
    if key.is_empty() {
        return Ok(None);
    }
    let Some(rest) = rest.trim_start_matches(space).strip_prefix('=') else {
        return Err(MatchRuleError::NoValue(key.to_owned()));
    };
    let (value, rest) = value(rest)?;
    Ok(Some((key, value, rest)))
}

/// A value up to its comma or the end, and the text after the comma. As in a shell: in quotes
/// everything is literal; outside, a backslash before an apostrophe makes it literal, and before
/// anything else it is itself literal.
fn value(text: &str) -> Result<(String, &str), MatchRuleError> {
    let mut value = String::new();
    let mut quoted = false;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => value.push(c),
            ',' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, '\'')) => value.push('\''),
                // What follows is taken as it is, even a comma or a second backslash.
                Some((_, other)) => {
                    value.push('\\');
                    value.push(other);
                }
                None => value.push('\\'),
            },
            _ => value.push(c),
        }
    }
    if quoted {
        Err(MatchRuleError::Quotes)
    } else {
        Ok((value, ""))
    }
}

/// Text that parses back to the same rule, the same for equal rules. Quotes and escapes can make it
/// longer than the text that was parsed, and so longer than [`MAX_RULE_LEN`].
impl fmt::Display for MatchRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut pair = |key: fmt::Arguments<'_>, value: &str| {
            write!(f, "{comma}{key}='")?;
            comma = ",";
            for (n, part) in value.split('\'').enumerate() {
                // An apostrophe: out of the quotes, escaped, and into quotes again.
                f.write_str(if n > 0 { "'\\''" } else { "" })?;
                f.write_str(part)?;
            }
            f.write_str("'")
        };
        let kind = self.kind.and_then(|kind| match kind {
            MessageType::MethodCall => Some("method_call"),
            MessageType::MethodReturn => Some("method_return"),
            MessageType::Error => Some("error"),
            MessageType::Signal => Some("signal"),
            MessageType::Unknown(_) => None,
        });
        for (key, value) in [
            ("type", kind),
            ("sender", self.sender.as_deref()),
            ("destination", self.destination.as_deref()),
            ("interface", self.interface.as_deref()),
            ("member", self.member.as_deref()),
        ] {
            if let Some(value) = value {
                pair(format_args!("{key}"), value)?;
            }
        }
        match &self.path {
            Some(PathMatch::Exact(path)) => pair(format_args!("path"), path)?,
            Some(PathMatch::Namespace(path)) => pair(format_args!("path_namespace"), path)?,
            None => {}
        }
        for (number, arg) in &self.args {
            match arg {
                ArgMatch::Str(value) => pair(format_args!("arg{number}"), value)?,
                ArgMatch::Path(value) => pair(format_args!("arg{number}path"), value)?,
                ArgMatch::Namespace(value) => pair(format_args!("arg{number}namespace"), value)?,
            }
        }
        match self.eavesdrop {
            Some(true) => pair(format_args!("eavesdrop"), "true"),
            Some(false) => pair(format_args!("eavesdrop"), "false"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for MatchRule {
    type Err = MatchRuleError;
    fn from_str(text: &str) -> Result<Self, MatchRuleError> {
        MatchRule::parse(text)
    }
}

/// An argument that a rule can look at.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Arg<'a> {
    /// A `STRING`.
    Str(&'a str),
    /// An `OBJECT_PATH`.
    ObjectPath(&'a str),
}

/// How many arguments [`Args`] remembers. Rules look at the first few; later ones are read again.
const REMEMBERED: usize = 8;

/// The strings and object paths among a body's first 64 arguments, read when they are first asked
/// for. The body need not have been checked; where it is malformed, or ends, the arguments end.
#[derive(Debug)]
pub struct Args<'a> {
    endian: Endian,
    signature: &'a [u8],
    body: &'a [u8],
    known: [Cell<Option<Arg<'a>>>; REMEMBERED],
    /// How far the body has been read.
    reached: Cell<Position>,
}

#[derive(Copy, Clone, Debug, Default)]
struct Position {
    /// The number of the next argument.
    number: usize,
    /// Where its type is in the signature.
    typ: usize,
    /// Where it is in the body, before its padding.
    at: usize,
}

impl<'a> Args<'a> {
    /// The arguments of a message. Nothing is read yet.
    #[must_use]
    pub fn new(header: &Header<'a>, body: &'a [u8]) -> Self {
        Args {
            endian: header.endian,
            signature: header.signature.as_bytes(),
            body,
            known: [const { Cell::new(None) }; REMEMBERED],
            reached: Cell::new(Position::default()),
        }
    }

    /// The argument with this number, counted from 0; `None` if there is none, or it is neither a
    /// string nor an object path.
    #[must_use]
    pub fn arg(&self, number: usize) -> Option<Arg<'a>> {
        let mut position = self.reached.get();
        if number < position.number {
            return self.known.get(number)?.get();
        }
        if number > usize::from(MAX_ARG) {
            return None;
        }
        loop {
            let arg = self.read(&mut position);
            let read = position.number;
            position.number += 1;
            if let Some(cell) = self.known.get(read) {
                cell.set(arg);
                self.reached.set(position);
            }
            if read == number {
                return arg;
            }
        }
    }

    /// Reads the argument at `position` and moves behind it; behind everything, if there is none.
    fn read(&self, position: &mut Position) -> Option<Arg<'a>> {
        let &code = self.signature.get(position.typ)?;
        if let b's' | b'o' = code {
            let start = align(position.at, 4) + 4;
            let len = self.endian.u32_at(self.body, start - 4);
            let text = len
                .and_then(|len| self.body.get(start..start.saturating_add(len as usize)))
                .and_then(|bytes| std::str::from_utf8(bytes).ok());
            let Some(text) = text else {
                position.typ = self.signature.len();
                return None;
            };
            position.typ += 1;
            position.at = start + text.len() + 1;
            return Some(if code == b's' {
                Arg::Str(text)
            } else {
                Arg::ObjectPath(text)
            });
        }
        let mut typ = position.typ;
        match skip_unchecked(
            self.endian,
            self.signature,
            &mut typ,
            self.body,
            position.at,
            0,
        ) {
            Some(at) => {
                position.typ = typ;
                position.at = at;
            }
            None => position.typ = self.signature.len(),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, Builder, Message};

    fn rule(text: &str) -> MatchRule {
        MatchRule::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn matches(rule_text: &str, message: &Message) -> bool {
        let header = message.header();
        rule(rule_text).matches(&header, &Args::new(&header, message.body()))
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let a = rule("type='signal',member='M',arg1='x',arg0path='/a/',path='/p'");
        let b = rule("path='/p',arg0path='/a/',arg1='x',member='M',type='signal'");
        assert_eq!(a, b);
        assert_eq!(a.to_string(), b.to_string());
        assert_ne!(a, rule("type='signal'"));
    }

    #[test]
    fn quotes_and_backslashes_are_those_of_a_shell() {
        let arg = |text: &str| match &rule(text).args[0].1 {
            ArgMatch::Str(value) => value.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(arg(r"arg0='a,b'"), "a,b");
        assert_eq!(arg(r"arg0=abc"), "abc");
        assert_eq!(arg(r"arg0="), "");
        assert_eq!(arg(r"arg0='',type=signal"), "");
        assert_eq!(arg(r"arg0=a'b'c"), "abc");
        assert_eq!(arg(r"arg0=\'"), "'");
        assert_eq!(arg(r"arg0='\'"), r"\");
        assert_eq!(arg(r"arg0='\\'"), r"\\");
        assert_eq!(arg(r"arg0=\\"), r"\\");
        assert_eq!(arg(r"arg0=\a"), r"\a");
        assert_eq!(arg(r"arg0=\"), r"\");
        assert_eq!(arg(r"arg0=\,,type=signal"), r"\,");
        assert_eq!(arg(r"arg0='it'\''s'"), "it's");
        assert_eq!(arg(r"arg0='a b' "), "a b ");
        assert_eq!(arg(r"arg0= a"), " a");
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in [
            "type='foo'",
            "type=''",
            "foo='bar'",
            "type",
            "type ",
            "type='signal',foo",
            "type='signal",
            "arg0='x\\",
            "arg0='a''",
            "sender='a'",
            "sender='a..b'",
            "interface='a'",
            "member='a.b'",
            "path='a'",
            "path='/a/'",
            "path='/a',path_namespace='/b'",
            "path='/a',path='/a'",
            "path_namespace='/',path='/'",
            "type='signal',type='signal'",
            "member='a',member='a'",
            "arg='x'",
            "arg64='x'",
            "arg0x='y'",
            "arg-1='x'",
            "arg00='x'",
            "arg07='x'",
            "arg1namespace='a.b'",
            "arg0namespace='a..b'",
            "arg0namespace=''",
            "arg0='a',arg0='b'",
            "arg0='a',arg0path='/b'",
            "arg256='x'",
            "arg0pathx='/a'",
            "eavesdrop='yes'",
            "eavesdrop=''",
            "type= 'signal'",
            ",type='signal'",
            "type='signal',,member='a'",
            "TYPE='signal'",
        ] {
            assert!(MatchRule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_but_valid_rules_are_accepted() {
        for good in [
            "",
            " ",
            "type='signal',",
            "type='signal', ",
            " type ='signal'",
            "type=signal",
            "type='signal', member='a'",
            "eavesdrop='true',eavesdrop='false'",
            "arg63='x'",
            "arg0path=''",
            "sender=':1'",
            "arg0namespace='org'",
            "type='signal',='ends here',nonsense",
        ] {
            rule(good);
        }
        assert_eq!(
            rule("eavesdrop='true',eavesdrop='false'").eavesdrop,
            Some(false)
        );
    }

    #[test]
    fn a_rule_is_at_most_1024_bytes_long() {
        let of_len = |len: usize| format!("arg0='{}'", "x".repeat(len - 7));
        assert!(MatchRule::parse(&of_len(1024)).is_ok());
        assert_eq!(
            MatchRule::parse(&of_len(1025)),
            Err(MatchRuleError::TooLong(1025))
        );
    }

    #[test]
    fn display_parses_back() {
        let text = "type='signal',sender='a.b',destination=':1.2',interface='a.b',member='M',path_namespace='/a',arg0namespace='a',arg1='it'\\''s',arg2path='/',eavesdrop='true'";
        assert_eq!(rule(text).to_string(), text);
        assert_eq!(rule(&rule(text).to_string()), rule(text));
    }

    #[test]
    fn arguments_match_by_their_type() {
        let body = Body::new()
            .u32(1)
            .array("{sv}", |a| {
                a.dict_entry(|e| e.str("k").variant(|v| v.u64(1)))
            })
            .struct_(|s| s.byte(1).str("inside"))
            .variant(|v| v.strs(["q"]))
            .signature("a{sv}")
            .str("org.kde.Foo")
            .object_path("/aa/bb/")
            .u64(3)
            .str("last");
        // An object path may not end with '/'; rules must cope with what nobody has checked.
        let bytes = Builder::signal("/a/b", "c.d", "E").body(&body).build();
        let prologue = crate::Prologue::parse(bytes.first_chunk().unwrap()).unwrap();
        let (header, body) = bytes.split_at(prologue.header_len());
        let header = Header::parse(header).unwrap();
        let args = Args::new(&header, body);
        assert_eq!(args.arg(8), Some(Arg::Str("last")));
        assert_eq!(args.arg(5), Some(Arg::Str("org.kde.Foo")));
        assert_eq!(args.arg(6), Some(Arg::ObjectPath("/aa/bb/")));
        assert_eq!(args.arg(8), Some(Arg::Str("last")));
        assert_eq!(args.arg(9), None);
        assert_eq!(args.arg(8), Some(Arg::Str("last")));
        for other in [0, 1, 2, 3, 4, 7, 63, 64, 1000] {
            assert_eq!(args.arg(other), None, "{other}");
        }
        let matches = |text: &str| rule(text).matches(&header, &args);
        assert!(matches("arg5='org.kde.Foo'") && matches("arg5path='org.kde.Foo'"));
        assert!(matches("arg6path='/aa/bb/cc'") && matches("arg6path='/aa/'"));
        assert!(!matches("arg6='/aa/bb/'"));
        assert!(!matches("arg6path='/aa/b'") && !matches("arg6path='/aa'"));
        assert!(!matches("arg0='1'") && !matches("arg9=''"));
    }

    #[test]
    fn header_fields_match_exactly() {
        let signal = Builder::signal("/a/b", "c.d", "E").build();
        let signal = Message::parse(signal).unwrap();
        for good in [
            "",
            "type='signal'",
            "interface='c.d'",
            "member='E'",
            "path='/a/b'",
            "path_namespace='/a'",
            "path_namespace='/'",
            "path_namespace='/a/b'",
            "sender='x.y'",
            "destination='x.y'",
        ] {
            assert!(matches(good, &signal), "{good}");
        }
        for bad in [
            "type='method_call'",
            "interface='c.e'",
            "member='e'",
            "path='/a'",
            "path_namespace='/a/b/c'",
            "path_namespace='/a/bb'",
            "arg0=''",
        ] {
            assert!(!matches(bad, &signal), "{bad}");
        }
    }

    #[test]
    fn arg0namespace_ends_at_periods() {
        let with = |text: &str| {
            let body = Body::new().str(text);
            Message::parse(Builder::signal("/", "a.b", "C").body(&body).build()).unwrap()
        };
        assert!(matches("arg0namespace='org.kde'", &with("org.kde")));
        assert!(matches("arg0namespace='org.kde'", &with("org.kde.foo")));
        assert!(!matches("arg0namespace='org.kde'", &with("org.kdefoo")));
        assert!(!matches("arg0namespace='org.kde'", &with("org")));
    }
}
