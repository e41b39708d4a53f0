//! Names of containers, snapshots and images: what can be one, and what cannot.
//!
//! A name goes into URLs, paths, polkit's details and people's terminals, so it is checked once, where it comes in,
//! and carried in a type from there on.

use std::fmt;

use crate::error::{Error, Result};

/// What may stand in a message that repeats what somebody gave: control characters escaped, not too long.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for (count, character) in text.chars().enumerate() {
        if count == 64 {
            out.push('…');
            break;
        }
        if character.is_control() || character == '\'' {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out.push('\'');
    out
}

/// The name of a container: 1 to 63 of `a–z A–Z 0–9 -`, the first a letter, the last not a `-`.
///
/// That is what Incus takes for an instance and what can be a host name (RFC 1123), so that `--all`, `../x` and
/// anything with blanks or newlines is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName(String);

impl ContainerName {
    /// Takes a name as it came in.
    ///
    /// # Errors
    /// [`Error::InvalidName`], with what a name has to be.
    pub fn parse(text: &str) -> Result<Self> {
        let problem = if text.is_empty() {
            "it is empty"
        } else if text.len() > 63 {
            "it is longer than 63 characters"
        } else if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            "it does not begin with a letter"
        } else if text.ends_with('-') {
            "it ends with '-'"
        } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            "it has characters other than letters, digits and '-'"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Error::InvalidName(format!(
            "{} cannot be the name of a container: {problem}. Letters, digits and '-' can be in one, a letter first; \
             for example 'my-box'.",
            quoted(text)
        )))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ContainerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The name of a snapshot of a container: 1 to 63 of `a–z A–Z 0–9 - _ .`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// Takes a name as it came in.
    ///
    /// # Errors
    /// [`Error::InvalidName`], with what a name has to be.
    pub fn parse(text: &str) -> Result<Self> {
        let fits = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::InvalidName(format!(
            "{} cannot be the name of a snapshot: it is 1 to 63 letters, digits, '-', '_' and '.', a letter or digit \
             first; for example 'before-upgrade'.",
            quoted(text)
        )))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person calls an image: an alias (`debian/13`), a fingerprint, or `SERVER:ALIAS`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    server: Option<String>,
    alias: String,
}

impl ImageName {
    /// Takes a name as it came in.
    ///
    /// # Errors
    /// [`Error::InvalidName`], with what a name has to be.
    pub fn parse(text: &str) -> Result<Self> {
        let part = |part: &str| {
            (1..=128).contains(&part.len())
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && !part.contains("..")
                && part.bytes().all(|b| {
                    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'+')
                })
        };
        let (server, alias) = match text.split_once(':') {
            Some((server, alias)) => (Some(server), alias),
            None => (None, text),
        };
        if part(alias) && server.is_none_or(|server| part(server) && !server.contains('/')) {
            return Ok(Self {
                server: server.map(str::to_owned),
                alias: alias.to_owned(),
            });
        }
        Err(Error::InvalidName(format!(
            "{} cannot be the name of an image: it is an alias as 'debian/13', or a server and an alias as \
             'images:debian/13'.",
            quoted(text)
        )))
    }

    /// The server's name, if one is in it.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The alias or fingerprint.
    pub fn alias(&self) -> &str {
        &self.alias
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(server) = &self.server {
            write!(f, "{server}:")?;
        }
        f.write_str(&self.alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_something_else_are_refused() {
        let long = "a".repeat(64);
        for hostile in [
            "",
            "--all",
            "-f",
            "../x",
            "a/b",
            "a b",
            "a\nb",
            "a\0b",
            "1box",
            "box-",
            "bôx",
            "a?b=c",
            "a%2fb",
            "a'b",
            ".",
            "..",
            "a.b",
            "a:b",
            long.as_str(),
            "\u{202e}abc",
        ] {
            let error = ContainerName::parse(hostile).expect_err(hostile);
            assert!(matches!(error, Error::InvalidName(_)), "{error:?}");
            assert!(!error.text().contains(['\n', '\0']), "{error:?}");
        }
    }

    #[test]
    fn ordinary_names_are_taken() {
        let long = "a".repeat(63);
        for name in ["a", "box", "My-Box-2", "debian-13", long.as_str()] {
            assert_eq!(ContainerName::parse(name).expect(name).as_str(), name);
        }
    }

    #[test]
    fn snapshots_have_names_that_are_no_paths() {
        for hostile in ["", "--x", "../x", "a/b", "a b", ".hidden", "a\n"] {
            SnapshotName::parse(hostile).expect_err(hostile);
        }
        for name in ["before-upgrade", "2026-11-20", "a_b.c"] {
            SnapshotName::parse(name).expect(name);
        }
    }

    #[test]
    fn an_image_is_an_alias_or_a_server_and_an_alias() {
        let image = ImageName::parse("images:debian/13/cloud").expect("an image");
        assert_eq!(image.server(), Some("images"));
        assert_eq!(image.alias(), "debian/13/cloud");
        assert_eq!(image.to_string(), "images:debian/13/cloud");
        assert_eq!(
            ImageName::parse("kapsule-test").expect("an image").server(),
            None
        );
        for hostile in [
            "", ":", "a:", ":b", "--all", "../x", "a/../b", "a:b:c", "a b", "a\n", "x/y:z",
        ] {
            ImageName::parse(hostile).expect_err(hostile);
        }
    }
}
