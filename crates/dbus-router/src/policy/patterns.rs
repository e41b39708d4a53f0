//! What a rule says of names, paths and programs: patterns, and how they are written.

use std::fmt;

use dbus_wire::names;

/// A bus name (or interface), or those below one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// `prefix.*`: names that begin with the prefix and a dot.
    Below(Box<str>),
    /// A name and all names below it, as `xdg-dbus-proxy` means `prefix.*`.
    Subtree(Box<str>),
    /// `prefix*`, as in `org.kde.StatusNotifierItem-*`: names that begin with this text.
    Prefix(Box<str>),
    /// `*`: every name.
    Any,
}

/// A text that is no name pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a bus name: expected something like org.example.Name or org.example.*")]
pub struct NamePatternError {
    text: String,
}

impl NamePattern {
    /// Reads `org.example.Name`, `org.example.*` or `org.example.Name-*`. A single `*` is an error: who means everything writes
    /// [`NamePattern::Any`].
    pub fn parse(text: &str) -> Result<NamePattern, NamePatternError> {
        let wrong = || NamePatternError {
            text: text.to_owned(),
        };
        if let Some(prefix) = text.strip_suffix(".*") {
            if !names::is_namespace(prefix) {
                return Err(wrong());
            }
            return Ok(NamePattern::Below(prefix.into()));
        }
        if let Some(prefix) = text.strip_suffix('*') {
            if !names::is_well_known_name(prefix) {
                return Err(wrong());
            }
            return Ok(NamePattern::Prefix(prefix.into()));
        }
        if !names::is_well_known_name(text) {
            return Err(wrong());
        }
        Ok(NamePattern::Exact(text.into()))
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(exact) => **exact == *name,
            NamePattern::Below(prefix) => below(prefix, name).is_some(),
            NamePattern::Subtree(prefix) => **prefix == *name || below(prefix, name).is_some(),
            NamePattern::Prefix(prefix) => name.starts_with(&**prefix),
            NamePattern::Any => true,
        }
    }

    /// What of `name` stands in the place of the asterisk; empty where the whole name is meant.
    pub fn rest<'n>(&self, name: &'n str) -> &'n str {
        match self {
            NamePattern::Exact(_) => "",
            NamePattern::Below(prefix) | NamePattern::Subtree(prefix) => {
                below(prefix, name).unwrap_or_default()
            }
            NamePattern::Prefix(prefix) => name.strip_prefix(&**prefix).unwrap_or_default(),
            NamePattern::Any => name,
        }
    }

    /// Whether this pattern names `other`: it is the same, or lies below it. A pattern that only happens to
    /// contain `other` does not name it.
    pub fn names(&self, other: &NamePattern) -> bool {
        let (NamePattern::Exact(name)
        | NamePattern::Below(name)
        | NamePattern::Subtree(name)
        | NamePattern::Prefix(name)) = self
        else {
            return false;
        };
        match other {
            NamePattern::Exact(it) => {
                it == name && !matches!(self, NamePattern::Below(_)) || below(it, name).is_some()
            }
            NamePattern::Below(prefix) => {
                below(prefix, name).is_some()
                    || (prefix == name && !matches!(self, NamePattern::Exact(_)))
            }
            NamePattern::Subtree(prefix) => prefix == name || below(prefix, name).is_some(),
            NamePattern::Prefix(prefix) => name.starts_with(&**prefix),
            NamePattern::Any => false,
        }
    }

    /// Whether `interface` is named after a name that is meant, as interfaces usually are.
    pub(crate) fn covers_interface(&self, interface: &str) -> bool {
        match self {
            NamePattern::Exact(name) | NamePattern::Below(name) | NamePattern::Subtree(name) => {
                names::name_in_namespace(interface, name)
            }
            NamePattern::Prefix(prefix) => interface.starts_with(&**prefix),
            NamePattern::Any => true,
        }
    }
}

/// What follows `prefix` and a dot.
fn below<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(prefix)?.strip_prefix('.')
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => f.write_str(name),
            NamePattern::Below(prefix) | NamePattern::Subtree(prefix) => write!(f, "{prefix}.*"),
            NamePattern::Prefix(prefix) => write!(f, "{prefix}*"),
            NamePattern::Any => f.write_str("*"),
        }
    }
}

/// An object path, or a path and all below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathPattern {
    /// This path.
    Exact(Box<str>),
    /// `PATH/*`: this path and all below it.
    Subtree(Box<str>),
}

impl PathPattern {
    /// Reads `/a/path` or `/a/path/*`; none where it is no object path.
    pub fn parse(text: &str) -> Option<PathPattern> {
        match text.strip_suffix("/*") {
            Some("") => Some(PathPattern::Subtree("/".into())),
            Some(path) if names::is_object_path(path) => Some(PathPattern::Subtree(path.into())),
            None if names::is_object_path(text) => Some(PathPattern::Exact(text.into())),
            _ => None,
        }
    }

    /// Whether `path` is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => **exact == *path,
            PathPattern::Subtree(root) => names::path_in_namespace(path, root),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(path) => f.write_str(path),
            PathPattern::Subtree(path) if **path == *"/" => f.write_str("/*"),
            PathPattern::Subtree(path) => write!(f, "{path}/*"),
        }
    }
}

/// A pattern for file paths and the like: `*` is any text (slashes, too), `?` any one character.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob(Box<str>);

impl Glob {
    /// A pattern; every text is one.
    pub fn new(text: &str) -> Glob {
        Glob(text.into())
    }

    /// Whether the whole of `text` is meant.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text): (Vec<char>, Vec<char>) =
            (self.0.chars().collect(), text.chars().collect());
        // Where the last asterisk stands, and how much of the text it has taken so far.
        let (mut p, mut t, mut star) = (0, 0, None);
        while t < text.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(it) if *it == '?' || *it == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        p = at + 1;
                        t = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|it| *it == '*')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_is_no_name_is_an_error_that_shows_it() {
        let error = NamePattern::parse("*").unwrap_err();
        assert!(error.to_string().contains("\"*\""));
        assert!(NamePattern::parse("org..x").is_err());
        assert!(NamePattern::parse("org*").is_err());
        assert!(NamePattern::parse(":1.5").is_err());
    }

    #[test]
    fn a_wide_pattern_does_not_name_what_it_happens_to_contain() {
        let pattern = |text: &str| NamePattern::parse(text).unwrap();
        let refused = pattern("org.freedesktop.systemd1");
        assert!(pattern("org.freedesktop.systemd1").names(&refused));
        assert!(!pattern("org.freedesktop.*").names(&refused));
        let portals = pattern("org.freedesktop.impl.portal.*");
        assert!(pattern("org.freedesktop.impl.portal.Secret").names(&portals));
        assert!(pattern("org.freedesktop.impl.portal.*").names(&portals));
        assert!(!pattern("org.freedesktop.impl.*").names(&portals));
        assert!(!NamePattern::Any.names(&refused));
    }

    #[test]
    fn the_rest_is_what_the_asterisk_stands_for() {
        let players = NamePattern::parse("org.mpris.MediaPlayer2.*").unwrap();
        assert_eq!(
            players.rest("org.mpris.MediaPlayer2.vlc.instance7"),
            "vlc.instance7"
        );
        assert!(!players.matches("org.mpris.MediaPlayer2"));
        assert!(
            NamePattern::Subtree("org.mpris.MediaPlayer2".into()).matches("org.mpris.MediaPlayer2")
        );
    }

    #[test]
    fn a_glob_means_the_whole_text() {
        let glob = Glob::new("*/python3*");
        assert!(glob.matches("/usr/bin/python3.11"));
        assert!(!glob.matches("/usr/bin/perl"));
        assert!(!Glob::new("/bin/a").matches("/bin/ab"));
        assert!(Glob::new("/bin/?b*").matches("/bin/ab"));
        assert!(Glob::new("*a*b").matches("xxaxxabxb"));
    }

    #[test]
    fn a_path_with_an_asterisk_is_the_path_and_all_below() {
        let below = PathPattern::parse("/a/b/*").unwrap();
        assert!(below.matches("/a/b") && below.matches("/a/b/c") && !below.matches("/a/bc"));
        assert!(PathPattern::parse("/*").unwrap().matches("/x"));
        assert!(PathPattern::parse("a").is_none());
        assert_eq!(below.to_string(), "/a/b/*");
    }
}
