//! The options of `CreateContainer`: what they are, what they have to be, and the schema that describes them.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use serde_json::json;
use zbus::{OwnedVariant, Variant};

use crate::caller::Caller;
use crate::error::{Error, Result};
use crate::features::Features;
use crate::identity;
use crate::names::quoted;

/// A directory of the host that is to be seen inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host, without symlinks.
    pub source: PathBuf,
    /// Where it is inside.
    pub path: PathBuf,
    /// Whether it cannot be written inside.
    pub read_only: bool,
}

/// What a person wants of a new container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Features besides the default ones.
    pub with: Vec<String>,
    /// Features that it shall not have.
    pub without: Vec<String>,
    /// Root inside is root outside.
    pub privileged: bool,
    /// It goes when it is stopped.
    pub ephemeral: bool,
    /// A directory of the host that is the home inside, in place of the user's own.
    pub home: Option<PathBuf>,
    /// More directories.
    pub mounts: Vec<Mount>,
    /// What was asked for and is not there, to be said.
    pub notes: Vec<String>,
}

/// An option's value, checked for its type.
struct Value<'a> {
    key: &'a str,
    value: &'a Variant<'a>,
}

impl Value<'_> {
    fn wrong(&self, kind: &str) -> Error {
        Error::InvalidArgument(format!(
            "the option '{}' has to be {kind}, not of the type '{}'",
            self.key,
            self.value.value_signature()
        ))
    }

    fn boolean(&self) -> Result<bool> {
        match self.value {
            Variant::Bool(value) => Ok(*value),
            _ => Err(self.wrong("a boolean (b)")),
        }
    }

    fn text(&self) -> Result<String> {
        match self.value {
            Variant::Str(text) => Ok(text.to_string()),
            _ => Err(self.wrong("a text (s)")),
        }
    }

    fn texts(&self) -> Result<Vec<String>> {
        let Variant::Array(array) = self.value else {
            return Err(self.wrong("a list of texts (as)"));
        };
        array
            .iter()
            .map(|value| match value {
                Variant::Str(text) => Ok(text.to_string()),
                _ => Err(self.wrong("a list of texts (as)")),
            })
            .collect()
    }
}

/// What is inside of a variant, however many are around it: Qt puts one into another.
fn innermost<'a>(mut value: &'a Variant<'a>) -> &'a Variant<'a> {
    while let Variant::Variant(inner) = value {
        value = inner;
    }
    value
}

impl CreateOptions {
    /// From what a client has sent. Paths are looked at with the caller's rights.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: an unknown option, a wrong type, a directory that cannot be.
    pub fn parse(
        options: &HashMap<String, OwnedVariant>,
        caller: &Caller,
        features: &Features,
    ) -> Result<Self> {
        let mut out = Self::default();
        for (key, value) in options {
            let value = Value {
                key,
                value: innermost(value),
            };
            match key.as_str() {
                "with" => out.with.extend(value.texts()?),
                "without" => out.without.extend(value.texts()?),
                "privileged" => out.privileged = value.boolean()?,
                "ephemeral" => out.ephemeral = value.boolean()?,
                "home" => {
                    let home = value.text()?;
                    if !home.is_empty() {
                        out.home = Some(directory(caller, &home)?);
                    }
                }
                "custom_mounts" => {
                    for text in value.texts()? {
                        out.mounts.push(mount(caller, &text)?);
                    }
                }
                // Of the first design, whose clients send what differs from its defaults.
                "mount_home" => out.wish("home", value.boolean()?),
                "dbus_mux" | "session_mode" => out.wish("dbus", value.boolean()?),
                "host_rootfs" => {
                    if value.boolean()? {
                        out.notes.push(
                            "host_rootfs: the host's file system is not mounted inside; name directories by custom_mounts"
                                .to_owned(),
                        );
                    }
                }
                "nvidia_drivers" => {
                    if value.boolean()? {
                        out.notes.push(
                            "nvidia_drivers: the host's drivers are not put inside; install those of the same version there"
                                .to_owned(),
                        );
                    }
                }
                name if features.profiles().any(|profile| profile.name == name) => {
                    out.wish(name, value.boolean()?);
                }
                name => {
                    return Err(Error::InvalidArgument(format!(
                        "there is no option {}; GetCreateSchema says which there are",
                        quoted(name)
                    )));
                }
            }
        }
        Ok(out)
    }

    /// Adds the directories that an image wishes. Those that the caller has not are left out; gives what is to be said of
    /// that.
    pub fn add_mounts(&mut self, caller: &Caller, wishes: &[String]) -> Vec<String> {
        let mut notes = Vec::new();
        for wish in wishes {
            match mount(caller, wish) {
                Ok(mount) if self.mounts.iter().all(|known| known.path != mount.path) => {
                    self.mounts.push(mount);
                }
                Ok(_) => {}
                Err(error) => notes.push(format!(
                    "left out: the image wishes {}, and {}",
                    quoted(wish),
                    error.text()
                )),
            }
        }
        notes
    }

    fn wish(&mut self, feature: &str, on: bool) {
        let list = if on {
            &mut self.with
        } else {
            &mut self.without
        };
        list.push(feature.to_owned());
    }

    /// The schema, in JSON, for programs that show a form or make command-line options of it.
    pub fn schema(features: &Features) -> String {
        let switches: Vec<serde_json::Value> = features
            .profiles()
            .map(|profile| {
                json!({
                    "key": profile.name,
                    "type": "boolean",
                    "title": title(&profile.name),
                    "description": profile.description,
                    "default": profile.default,
                })
            })
            .collect();
        json!({
            "version": 1,
            "sections": [
                { "id": "features", "title": "Features", "options": switches },
                { "id": "mounts", "title": "Directories of the host", "options": [
                    {
                        "key": "home", "type": "string", "format": "directory-path", "title": "Home directory",
                        "description": "A directory that is the home inside, in place of your own",
                        "default": "",
                    },
                    {
                        "key": "custom_mounts", "type": "array",
                        "items": { "type": "string", "format": "directory-path" },
                        "title": "More directories",
                        "description": "Directories of yours that are seen inside: DIR, DIR:INSIDE or DIR:INSIDE:ro",
                        "default": [],
                    },
                ] },
                { "id": "container", "title": "Container", "options": [
                    {
                        "key": "ephemeral", "type": "boolean", "title": "Ephemeral",
                        "description": "It is deleted when it is stopped", "default": false,
                    },
                    {
                        "key": "privileged", "type": "boolean", "title": "Privileged",
                        "description": "Root inside is the root of this machine; needs an administrator",
                        "default": false,
                    },
                ] },
            ],
        })
        .to_string()
    }
}

fn title(name: &str) -> String {
    match name {
        "dbus" => "D-Bus".to_owned(),
        "gpu" => "GPU".to_owned(),
        name => {
            let mut letters = name.chars();
            letters
                .next()
                .map(|first| first.to_uppercase().chain(letters).collect())
                .unwrap_or_default()
        }
    }
}

/// A directory that the caller named: his own, reached with his rights.
fn directory(caller: &Caller, text: &str) -> Result<PathBuf> {
    let path = if text == "~" {
        caller.home.clone()
    } else if let Some(below) = text.strip_prefix("~/") {
        caller.home.join(below)
    } else {
        PathBuf::from(text)
    };
    let name = quoted(text);
    if !path.is_absolute() || text.contains(['\n', '\0']) {
        return Err(Error::InvalidArgument(format!(
            "{name} is no absolute path: write it from / or ~ on"
        )));
    }
    let (real, kind, owner) = identity::reachable(caller, &path).map_err(|error| {
        Error::InvalidArgument(format!("the directory {name} cannot be used: {error}"))
    })?;
    if kind != FileType::Directory {
        return Err(Error::InvalidArgument(format!("{name} is no directory")));
    }
    if owner != caller.uid && !caller.is_root() {
        return Err(Error::InvalidArgument(format!(
            "the directory {name} belongs to the uid {owner}, and only your own can be seen in a container of yours"
        )));
    }
    if real == Path::new("/") {
        return Err(Error::InvalidArgument(
            "the whole file system cannot be mounted inside".to_owned(),
        ));
    }
    Ok(real)
}

/// `DIR`, `DIR:INSIDE` or `DIR:INSIDE:ro`.
fn mount(caller: &Caller, text: &str) -> Result<Mount> {
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    let (source, inside) = match rest.split_once(':') {
        Some((source, inside)) => (source, Some(inside)),
        None => (rest, None),
    };
    let source_path = directory(caller, source)?;
    let path = match inside {
        Some(inside) => PathBuf::from(inside),
        None if source == "~" => caller.home.clone(),
        None => source
            .strip_prefix("~/")
            .map_or_else(|| PathBuf::from(source), |below| caller.home.join(below)),
    };
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path == Path::new("/") || path.starts_with("/.kapsule") {
        return Err(Error::InvalidArgument(format!(
            "{} cannot be a place inside: it has to be an absolute path, without '..', and not / or below /.kapsule",
            quoted(&path.display().to_string())
        )));
    }
    Ok(Mount {
        source: source_path,
        path,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(home: &Path) -> Caller {
        Caller {
            sender: zbus::names::OwnedUniqueName::try_from(":1.1").expect("a name"),
            uid: rustix::process::geteuid().as_raw(),
            gid: 0,
            pid: 0,
            name: "ana".to_owned(),
            home: home.to_owned(),
            shell: PathBuf::from("/bin/sh"),
            groups: Vec::new(),
            interactive: false,
        }
    }

    fn parse(home: &Path, options: Vec<(&str, Variant<'_>)>) -> Result<CreateOptions> {
        let options = options
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.try_to_owned().expect("no fds")))
            .collect();
        CreateOptions::parse(&options, &caller(home), &Features::default())
    }

    #[test]
    fn options_of_both_designs_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("work")).expect("made");
        let options = parse(
            dir.path(),
            vec![
                ("with", Variant::from(vec!["gpu"])),
                ("mount_home", Variant::from(false)),
                (
                    "privileged",
                    Variant::Variant(Box::new(Variant::from(true))),
                ),
                (
                    "custom_mounts",
                    Variant::from(vec!["~/work", "~/work:/srv/w:ro"]),
                ),
            ],
        )
        .expect("right");
        assert_eq!(options.with, ["gpu"]);
        assert_eq!(options.without, ["home"]);
        assert!(options.privileged);
        assert_eq!(options.mounts[0].path, dir.path().join("work"));
        assert!(!options.mounts[0].read_only);
        assert_eq!(options.mounts[1].path, Path::new("/srv/w"));
        assert!(options.mounts[1].read_only);
    }

    #[test]
    fn wrong_options_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "").expect("written");
        for (key, value) in [
            ("colour", Variant::from(true)),
            ("privileged", Variant::from("yes")),
            ("with", Variant::from("gpu")),
            ("home", Variant::from("relative")),
            ("home", Variant::from("/nonexistent/x")),
            ("home", Variant::from("~/file")),
            ("home", Variant::from("/")),
            ("custom_mounts", Variant::from(vec!["~:/a/../b"])),
            ("custom_mounts", Variant::from(vec!["~:/"])),
            ("custom_mounts", Variant::from(vec!["~:/.kapsule/run"])),
            ("custom_mounts", Variant::from(vec!["~:relative"])),
        ] {
            let text = format!("{key} {value:?}");
            let error = parse(dir.path(), vec![(key, value)]).expect_err(&text);
            assert!(
                matches!(error, Error::InvalidArgument(_)),
                "{text}: {error:?}"
            );
        }
    }

    #[test]
    fn the_schema_is_what_clients_of_the_first_design_read() {
        let schema: serde_json::Value =
            serde_json::from_str(&CreateOptions::schema(&Features::default())).expect("JSON");
        assert_eq!(schema["version"], 1);
        for section in schema["sections"].as_array().expect("sections") {
            for option in section["options"].as_array().expect("options") {
                for key in ["key", "type", "title", "description", "default"] {
                    assert!(!option[key].is_null(), "{option} has {key}");
                }
            }
        }
    }
}
