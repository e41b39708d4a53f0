//! Names and paths, and the rules for them (specification: Valid Names, Valid Object Paths).

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Bus, interface, member and error names are at most this long. Object paths have no limit.
pub const MAX_NAME_LEN: usize = 255;

// One look at a table per byte: checking names is most of what checking a header costs.
const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const HYPHEN: u8 = 4;

static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => LETTER,
            b'0'..=b'9' => DIGIT,
            b'-' => HYPHEN,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// Checks elements separated by periods: none empty, the first character of each in `first`, the
/// others in `rest`. Returns how many there are.
#[inline]
fn elements(text: &[u8], first: u8, rest: u8) -> Option<usize> {
    let mut count = 1;
    let mut allowed = first;
    for &byte in text {
        if CLASS[byte as usize] & allowed != 0 {
            allowed = rest;
        } else if byte == b'.' && allowed == rest {
            allowed = first;
            count += 1;
        } else {
            return None;
        }
    }
    (allowed == rest).then_some(count)
}

/// The elements after the colon of a unique name, which may begin with digits.
fn unique_elements(text: &[u8]) -> Option<usize> {
    let mut count = 1;
    let mut fresh = true;
    for &byte in text {
        if CLASS[byte as usize] != 0 {
            fresh = false;
        } else if byte == b'.' && !fresh {
            fresh = true;
            count += 1;
        } else {
            return None;
        }
    }
    (!fresh).then_some(count)
}

/// Whether `name` is a unique connection name by the specification: a colon, then at least two
/// elements, which may begin with digits and contain letters. What buses hand out has a narrower
/// form, [`UniqueName`].
#[must_use]
pub fn is_unique_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME_LEN
        && bytes.first() == Some(&b':')
        && unique_elements(&bytes[1..]).is_some_and(|count| count >= 2)
}

/// Whether `name` is a well-known bus name: at least two elements, none beginning with a digit.
#[must_use]
#[inline]
pub fn is_well_known_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && elements(name.as_bytes(), LETTER | HYPHEN, LETTER | DIGIT | HYPHEN)
            .is_some_and(|count| count >= 2)
}

/// Whether `name` can stand where a bus name is expected, unique or well-known.
///
/// After a colon this is as lenient as dbus-daemon: one element, or nothing at all, will do
/// (`:1`). Such a name belongs to nobody, but a message to it is answered, not a reason to disconnect.
#[must_use]
#[inline]
pub fn is_bus_name(name: &str) -> bool {
    if name.as_bytes().first() == Some(&b':') {
        name.len() <= MAX_NAME_LEN && lenient_unique(&name.as_bytes()[1..])
    } else {
        is_well_known_name(name)
    }
}

fn lenient_unique(rest: &[u8]) -> bool {
    // dbus-daemon accepts nothing at all after the colon, and a period right after it.
    rest.is_empty() || unique_elements(rest.strip_prefix(b".").unwrap_or(rest)).is_some()
}

/// Whether `name` is an interface name: at least two elements of letters, digits and underscores,
/// none beginning with a digit.
#[must_use]
#[inline]
pub fn is_interface_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && elements(name.as_bytes(), LETTER, LETTER | DIGIT).is_some_and(|count| count >= 2)
}

/// Whether `name` is a member name: one element of letters, digits and underscores.
#[must_use]
#[inline]
pub fn is_member_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN && elements(name.as_bytes(), LETTER, LETTER | DIGIT) == Some(1)
}

/// Whether `name` is an error name; the rules are those of interface names.
#[must_use]
#[inline]
pub fn is_error_name(name: &str) -> bool {
    is_interface_name(name)
}

/// Whether `path` is an object path. Its length is not limited.
#[must_use]
#[inline]
pub fn is_object_path(path: &str) -> bool {
    is_object_path_bytes(path.as_bytes())
}

#[inline]
pub(crate) fn is_object_path_bytes(path: &[u8]) -> bool {
    let Some((b'/', rest)) = path.split_first() else {
        return false;
    };
    let mut fresh = true;
    for &byte in rest {
        if CLASS[byte as usize] & (LETTER | DIGIT) != 0 {
            fresh = false;
        } else if byte == b'/' && !fresh {
            fresh = true;
        } else {
            return false;
        }
    }
    !fresh || rest.is_empty()
}

/// Whether `namespace` can be the value of `arg0namespace`: like a bus name, but one element is
/// enough (specification: Match Rules).
#[must_use]
pub fn is_namespace(namespace: &str) -> bool {
    if namespace.as_bytes().first() == Some(&b':') {
        is_bus_name(namespace)
    } else {
        namespace.len() <= MAX_NAME_LEN
            && elements(
                namespace.as_bytes(),
                LETTER | HYPHEN,
                LETTER | DIGIT | HYPHEN,
            )
            .is_some()
    }
}

/// Whether `name` is `namespace` or begins with it and a period.
#[must_use]
#[inline]
pub fn name_in_namespace(name: &str, namespace: &str) -> bool {
    name.strip_prefix(namespace)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether `path` is `namespace` or below it. Everything is below `/`.
#[must_use]
#[inline]
pub fn path_in_namespace(path: &str, namespace: &str) -> bool {
    path.strip_prefix(namespace)
        .is_some_and(|rest| namespace == "/" || rest.is_empty() || rest.starts_with('/'))
}

/// A unique name as buses hand it out: `:MAJOR.MINOR`, two decimal numbers.
///
/// The specification would allow letters; no bus uses them, and some client libraries refuse them.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UniqueName {
    /// The number before the period.
    pub major: u32,
    /// The number after the period.
    pub minor: u32,
}

impl UniqueName {
    /// The name `:MAJOR.MINOR`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        UniqueName { major, minor }
    }

    /// Reads `:MAJOR.MINOR`. `None` for every other form: leading zeros, signs, letters, numbers
    /// above `u32::MAX`; so text and value are one to one.
    #[must_use]
    #[inline]
    pub fn parse(name: &str) -> Option<Self> {
        let bytes = name.as_bytes().strip_prefix(b":")?;
        let (major, rest) = number(bytes)?;
        let (minor, rest) = number(rest.strip_prefix(b".")?)?;
        rest.is_empty().then_some(UniqueName { major, minor })
    }
}

/// A decimal number without leading zeros, and what follows it.
#[inline]
fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value: u32 = 0;
    let mut digits = 0;
    for &byte in bytes {
        if !byte.is_ascii_digit() {
            break;
        }
        if digits == 1 && value == 0 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(byte - b'0'))?;
        digits += 1;
    }
    (digits > 0).then(|| (value, &bytes[digits..]))
}

impl fmt::Display for UniqueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl UniqueName {
    /// The name as text, without a place on the heap: a router writes one into every message.
    #[must_use]
    pub fn text(self) -> UniqueNameText {
        let mut text = UniqueNameText {
            bytes: [0; UniqueNameText::ROOM],
            start: UniqueNameText::ROOM as u8,
        };
        text.put_number(self.minor);
        text.put(b'.');
        text.put_number(self.major);
        text.put(b':');
        text
    }
}

/// The text of a [`UniqueName`]; a `str` in all but its place.
#[derive(Copy, Clone)]
pub struct UniqueNameText {
    bytes: [u8; Self::ROOM],
    start: u8,
}

impl UniqueNameText {
    /// A colon, a dot, and two numbers of at most ten digits.
    const ROOM: usize = 22;

    fn put(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[usize::from(self.start)] = byte;
    }

    fn put_number(&mut self, mut number: u32) {
        loop {
            self.put(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

impl std::ops::Deref for UniqueNameText {
    type Target = str;

    fn deref(&self) -> &str {
        let bytes = &self.bytes[usize::from(self.start)..];
        str::from_utf8(bytes).expect("digits and punctuation are UTF-8")
    }
}

impl fmt::Debug for UniqueNameText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for UniqueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UniqueName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        UniqueName::parse(name).ok_or_else(|| NameError::new(name, "unique connection name"))
    }
}

/// Text that is not the name it should be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("'{text}' is not a valid {what}")]
pub struct NameError {
    /// The text.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
}

impl NameError {
    fn new(text: &str, what: &'static str) -> Self {
        NameError {
            text: text.to_owned(),
            what,
        }
    }
}

/// A valid well-known bus name. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WellKnownName(Arc<str>);

impl WellKnownName {
    /// Takes text that [`is_well_known_name`].
    ///
    /// # Errors
    ///
    /// If it is anything else, a unique name for example.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if is_well_known_name(name) {
            Ok(WellKnownName(name.into()))
        } else {
            Err(NameError::new(name, "well-known bus name"))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for WellKnownName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

// `str` as the borrowed form: hash and order are those of the text.
impl Borrow<str> for WellKnownName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for WellKnownName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for WellKnownName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        WellKnownName::parse(name)
    }
}

impl fmt::Display for WellKnownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WellKnownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl PartialEq<str> for WellKnownName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for WellKnownName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_unique_name_is_what_parses_to_it() {
        for (major, minor) in [(0, 0), (1, 93), (u32::MAX, u32::MAX), (10, 100)] {
            let name = UniqueName { major, minor };
            assert_eq!(&*name.text(), format!(":{major}.{minor}"));
            assert_eq!(UniqueName::parse(&name.text()), Some(name));
        }
    }

    #[test]
    fn well_known_names_have_two_elements_that_begin_with_no_digit() {
        for good in [
            "a.b",
            "org.kde.Foo-1",
            "_.-",
            "a.b9",
            "org.freedesktop.DBus",
            "-a.b",
        ] {
            assert!(is_well_known_name(good), "{good}");
            assert!(is_bus_name(good), "{good}");
        }
        for bad in [
            "", "a", ".a.b", "a..b", "a.b.", "a.9", "9.a", "a.b c", "a.ö", ":a.b", "a/b.c", ".",
        ] {
            assert!(!is_well_known_name(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_at_most_255_bytes() {
        let name = |len: usize| format!("a.{}", "b".repeat(len - 2));
        assert!(is_well_known_name(&name(255)) && is_interface_name(&name(255)));
        assert!(!is_well_known_name(&name(256)) && !is_interface_name(&name(256)));
        assert!(is_member_name(&"m".repeat(255)) && !is_member_name(&"m".repeat(256)));
        assert!(is_unique_name(&format!(":1.{}", "2".repeat(252))));
        assert!(!is_unique_name(&format!(":1.{}", "2".repeat(253))));
        assert!(is_object_path(&format!("/{}", "p".repeat(100_000))));
    }

    #[test]
    fn unique_names_follow_the_grammar_and_buses_are_lenient() {
        for good in [":1.2", ":a.b", ":1.2.3", ":-._", ":01.2"] {
            assert!(is_unique_name(good) && is_bus_name(good), "{good}");
        }
        for lenient in [":1", ":", ":.1"] {
            assert!(
                !is_unique_name(lenient) && is_bus_name(lenient),
                "{lenient}"
            );
        }
        for bad in [":1.", ":1..2", "1.2", ":1.2:", ":1. 2", ":..", ":."] {
            assert!(!is_unique_name(bad) && !is_bus_name(bad), "{bad}");
        }
    }

    #[test]
    fn interfaces_and_members_have_no_hyphens() {
        assert!(is_interface_name("a.b") && is_interface_name("_a._1.B2"));
        for bad in ["", "a", "a.-b", "a.b-c", "a.1b", "a.", ".a", "a..b"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
        assert!(is_member_name("GetAll") && is_member_name("_1"));
        for bad in ["", "1a", "a.b", "a-b", "ä"] {
            assert!(!is_member_name(bad), "{bad}");
        }
    }

    #[test]
    fn object_paths_have_no_empty_elements() {
        for good in ["/", "/a", "/a/b", "/1/_2"] {
            assert!(is_object_path(good), "{good}");
        }
        for bad in ["", "a", "//", "/a/", "/a//b", "/a-b", "/a.b", "/ä"] {
            assert!(!is_object_path(bad), "{bad}");
        }
    }

    #[test]
    fn a_namespace_may_be_one_element() {
        assert!(is_namespace("org") && is_namespace("org.kde"));
        for bad in ["", "org.", ".org", "9", "a b"] {
            assert!(!is_namespace(bad), "{bad}");
        }
    }

    #[test]
    fn namespaces_end_at_separators() {
        assert!(name_in_namespace("org.kde", "org.kde"));
        assert!(name_in_namespace("org.kde.foo", "org.kde"));
        assert!(!name_in_namespace("org.kdefoo", "org.kde"));
        assert!(!name_in_namespace("org", "org.kde"));
        assert!(path_in_namespace("/a/b", "/a") && path_in_namespace("/a", "/a"));
        assert!(path_in_namespace("/a", "/") && path_in_namespace("/", "/"));
        assert!(!path_in_namespace("/ab", "/a") && !path_in_namespace("/", "/a"));
    }

    #[test]
    fn the_unique_names_of_buses_are_two_numbers() {
        let name = UniqueName::parse(":1.4294967295").unwrap();
        assert_eq!((name.major, name.minor), (1, u32::MAX));
        assert_eq!(name.to_string(), ":1.4294967295");
        assert_eq!(UniqueName::parse(":0.0"), Some(UniqueName::new(0, 0)));
        for bad in [
            ":1",
            "1.2",
            ":01.2",
            ":1.02",
            ":1.00",
            ":+1.2",
            ":1.4294967296",
            ":a.b",
            ":1.2.3",
            ":1.",
            ":.1",
            ": 1.2",
            "",
        ] {
            assert_eq!(UniqueName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn well_known_names_are_found_by_their_text() {
        let name = WellKnownName::parse("org.kde.foo").unwrap();
        let set = std::collections::HashSet::from([name.clone()]);
        assert!(set.contains("org.kde.foo"));
        assert_eq!(name, "org.kde.foo");
        assert!(WellKnownName::parse(":1.2").is_err());
    }
}
