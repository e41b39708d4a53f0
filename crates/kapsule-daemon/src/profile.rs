//! A feature's definition: a file that says which devices, configuration and environment it is.
//!
//! ```toml
//! description = "Windows of programs inside appear on the desktop (Wayland)"
//! default = true                       # on unless --without
//!
//! [config]                             # instance configuration
//! "limits.processes" = "10000"
//!
//! [environment]                        # of programs inside
//! QT_QPA_PLATFORM = "wayland"
//!
//! [[device]]                           # a device of Incus'
//! name = "wayland"
//! type = "disk"
//! source = "${XDG_RUNTIME_DIR}/${WAYLAND_DISPLAY}"
//! path = "/.kapsule/host/wayland-0"
//! needs = ["/dev/dri"]                 # paths of the host, without which it is left out; a disk's source always is one
//! environment = { WAYLAND_DISPLAY = "/.kapsule/host/wayland-0" }   # if the device is there
//! ```
//!
//! `${NAME}` is replaced by a variable's value, `$$` is a dollar.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::line_of;
use crate::error::{Error, Result};

/// Who has written a profile, and so what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Author {
    /// The machine's administrator or the distribution: everything.
    System,
    /// The caller: nothing that he could not do himself.
    Caller,
}

/// A value and the line in which it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// As it stands there.
    pub text: String,
    /// The line, from 1.
    pub line: usize,
}

/// A device of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name within the profile.
    pub name: String,
    /// The line in which it begins.
    pub line: usize,
    /// Incus' properties of it.
    pub properties: BTreeMap<String, Placed>,
    /// Paths of the host without which it is left out.
    pub needs: Vec<Placed>,
    /// The environment that belongs to it.
    pub environment: BTreeMap<String, Placed>,
}

/// A feature's definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The feature's name: the file's, without `.toml`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Who has written it.
    pub author: Author,
    /// For a person, in a line.
    pub description: String,
    /// Whether new containers have it without being asked.
    pub default: bool,
    /// Instance configuration.
    pub config: BTreeMap<String, Placed>,
    /// Environment of programs inside.
    pub environment: BTreeMap<String, Placed>,
    /// Devices.
    pub devices: Vec<Device>,
}

/// Reads a value with its place.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line<T>(&self, value: &Spanned<T>) -> usize {
        line_of(self.text, value.span().start)
    }

    fn error(&self, line: usize, what: impl std::fmt::Display) -> Error {
        Error::InvalidArgument(format!("{}:{line}: {what}", self.path.display()))
    }

    fn string(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Placed> {
        let line = self.line(value);
        match value.get_ref() {
            DeValue::String(text) => Ok(Placed {
                text: text.to_string(),
                line,
            }),
            _ => Err(self.error(line, format_args!("'{key}' has to be a text in quotes"))),
        }
    }

    fn boolean(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<bool> {
        match value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.error(
                self.line(value),
                format_args!("'{key}' has to be true or false"),
            )),
        }
    }

    fn strings(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<Placed>> {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().map(|value| self.string(key, value)).collect(),
            _ => Err(self.error(
                self.line(value),
                format_args!("'{key}' has to be a list of texts: [\"…\"]"),
            )),
        }
    }

    fn table(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<BTreeMap<String, Placed>> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.error(self.line(value), format_args!("'{key}' has to be a table")));
        };
        table
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                let value = self.string(&name, value)?;
                Ok((name, value))
            })
            .collect()
    }

    fn device(&self, value: &Spanned<DeValue<'_>>) -> Result<Device> {
        let line = self.line(value);
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.error(line, "a device is a table: [[device]]"));
        };
        let mut device = Device {
            name: String::new(),
            line,
            properties: BTreeMap::new(),
            needs: Vec::new(),
            environment: BTreeMap::new(),
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => device.name = self.string("name", value)?.text,
                "needs" => device.needs = self.strings("needs", value)?,
                "environment" => device.environment = self.table("environment", value)?,
                key => {
                    let value = self.string(key, value)?;
                    device.properties.insert(key.to_owned(), value);
                }
            }
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if device.name.is_empty() || !device.name.bytes().all(plain) {
            return Err(self.error(line, "a device needs a name of letters, digits and '-'"));
        }
        if !device.properties.contains_key("type") {
            return Err(self.error(line, format_args!("device '{}' needs a type", device.name)));
        }
        Ok(device)
    }
}

impl Profile {
    /// Whether a text can be the name of a feature.
    pub fn is_name(text: &str) -> bool {
        (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }

    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the file and the line.
    pub fn parse(name: &str, text: &str, path: &Path, author: Author) -> Result<Self> {
        let reader = Reader { path, text };
        let table = DeTable::parse(text)
            .map_err(|error| Error::InvalidArgument(crate::config::at_place(path, text, &error)))?;
        let mut profile = Self {
            name: name.to_owned(),
            path: path.to_owned(),
            author,
            description: String::new(),
            default: false,
            config: BTreeMap::new(),
            environment: BTreeMap::new(),
            devices: Vec::new(),
        };
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "description" => profile.description = reader.string("description", value)?.text,
                "default" => profile.default = reader.boolean("default", value)?,
                "config" => profile.config = reader.table("config", value)?,
                "environment" => profile.environment = reader.table("environment", value)?,
                "device" => {
                    let DeValue::Array(devices) = value.get_ref() else {
                        return Err(
                            reader.error(reader.line(value), "devices are written [[device]]")
                        );
                    };
                    profile.devices = devices
                        .iter()
                        .map(|device| reader.device(device))
                        .collect::<Result<_>>()?;
                }
                other => {
                    return Err(reader.error(
                        reader.line(key),
                        format_args!(
                            "'{other}' is not known: description, default, config, environment and device are"
                        ),
                    ));
                }
            }
        }
        if author == Author::Caller {
            profile.check_of_caller()?;
        }
        Ok(profile)
    }

    /// A person's own profile must not give him what he has not.
    fn check_of_caller(&self) -> Result<()> {
        let refused = |line: usize, what: String| {
            Err(Error::InvalidArgument(format!(
                "{}:{line}: {what} can only be in a profile of the machine (/etc/kapsule/profiles)",
                self.path.display()
            )))
        };
        for (key, value) in &self.config {
            if !matches!(key.split('.').next(), Some("limits")) {
                return refused(value.line, format!("the configuration '{key}'"));
            }
        }
        for device in &self.devices {
            let kind = &device.properties["type"];
            let known: &[&str] = match kind.text.as_str() {
                "disk" => &["type", "source", "path", "readonly"],
                "gpu" => &["type"],
                other => return refused(kind.line, format!("a device of the type '{other}'")),
            };
            for (key, value) in &device.properties {
                if !known.contains(&key.as_str()) {
                    return refused(value.line, format!("the device property '{key}'"));
                }
            }
        }
        Ok(())
    }

    /// Replaces `${NAME}` in a value.
    ///
    /// # Errors
    /// An unknown variable is an [`Error::InvalidArgument`] with the file and the line. The name of a variable that is
    /// known and has no value here comes as `Ok(Err(name))`.
    pub fn expand<'v>(
        &self,
        value: &Placed,
        variables: &'v Variables,
    ) -> Result<std::result::Result<String, &'v str>> {
        let place = |what: String| {
            Error::InvalidArgument(format!("{}:{}: {what}", self.path.display(), value.line))
        };
        let mut out = String::new();
        let mut rest = value.text.as_str();
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
            else {
                return Err(place(
                    "a '$' that begins no variable: write ${NAME}, or $$ for a dollar".to_owned(),
                ));
            };
            match variables.0.get_key_value(name) {
                Some((_, Some(value))) => out.push_str(value),
                Some((name, None)) => return Ok(Err(name)),
                None => {
                    let known: Vec<&str> = variables.0.keys().map(String::as_str).collect();
                    return Err(place(format!(
                        "unknown variable ${{{name}}}; known are {}",
                        known.join(", ")
                    )));
                }
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(Ok(out))
    }
}

/// The variables that profiles can use. One without a value is known, and not there on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(pub BTreeMap<String, Option<String>>);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, author: Author) -> Result<Profile> {
        Profile::parse("x", text, Path::new("/p/x.toml"), author)
    }

    /// They live as long as what they expand to.
    fn variables() -> &'static Variables {
        Box::leak(Box::new(Variables(
            [
                ("HOME".to_owned(), Some("/home/ana".to_owned())),
                ("WAYLAND_DISPLAY".to_owned(), None),
            ]
            .into(),
        )))
    }

    const DISK: &str = r#"description = "d"
default = true

[[device]]
name = "home"
type = "disk"
source = "${HOME}/$$x"
path = "/mnt"
needs = ["/dev/dri"]
environment = { A = "b" }
"#;

    #[test]
    fn a_profile_is_read_with_its_lines() {
        let profile = parse(DISK, Author::System).expect("it is whole");
        assert!(profile.default);
        let device = &profile.devices[0];
        assert_eq!(device.properties["source"].line, 7);
        assert_eq!(device.needs[0].text, "/dev/dri");
        assert_eq!(device.environment["A"].text, "b");
        let source = profile.expand(&device.properties["source"], variables());
        assert_eq!(source.expect("known").expect("there"), "/home/ana/$x");
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_names_file_and_line() {
        let profile = parse(&DISK.replace("${HOME}", "${HOEM}"), Author::System).expect("whole");
        let error = profile
            .expand(&profile.devices[0].properties["source"], variables())
            .expect_err("HOEM is not known");
        assert!(
            error.text().starts_with("/p/x.toml:7: "),
            "{}",
            error.text()
        );
        assert!(error.text().contains("${HOEM}"), "{}", error.text());
    }

    #[test]
    fn a_variable_without_value_is_not_there() {
        let profile = parse(DISK, Author::System).expect("whole");
        let value = Placed {
            text: "a${WAYLAND_DISPLAY}".to_owned(),
            line: 1,
        };
        assert_eq!(
            profile.expand(&value, variables()).expect("known"),
            Err("WAYLAND_DISPLAY")
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            ("default = 1", 1),
            ("\nfoo = 1", 2),
            ("[[device]]\ntype = \"disk\"", 1),
            ("[[device]]\nname = \"a\"", 1),
            ("[[device]]\nname = \"a\"\ntype = 3", 3),
            ("a = ", 1),
        ] {
            let error = parse(text, Author::System).expect_err(text);
            let begin = format!("/p/x.toml:{line}: ");
            assert!(error.text().starts_with(&begin), "{text}: {}", error.text());
        }
    }

    #[test]
    fn a_profile_of_a_person_gives_him_nothing_that_he_has_not() {
        for text in [
            "[config]\n\"security.privileged\" = \"true\"",
            "[config]\n\"raw.lxc\" = \"x\"",
            "[[device]]\nname = \"a\"\ntype = \"unix-char\"\nsource = \"/dev/sda\"",
            "[[device]]\nname = \"a\"\ntype = \"proxy\"",
            "[[device]]\nname = \"a\"\ntype = \"disk\"\nshift = \"true\"",
        ] {
            parse(text, Author::System).expect("the machine may");
            let error = parse(text, Author::Caller).expect_err(text);
            assert!(
                error.text().contains("/etc/kapsule/profiles"),
                "{}",
                error.text()
            );
        }
        parse(DISK, Author::Caller)
            .expect("a disk may be; its source is looked at with his rights");
    }
}
