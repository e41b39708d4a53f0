//! Features: what a person names, and the instance configuration that they become.
//!
//! What keeps holding:
//! - What a feature becomes is written on the instance, so that a changed definition does not change containers that
//!   are there.
//! - A part whose host side is missing is left out, and said; nothing fails for want of a GPU.
//! - A path that comes from the caller is one that he can reach himself, and goes to Incus without symlinks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::caller::Caller;
use crate::config::{Config, Preferences};
use crate::container;
use crate::error::{Error, Result};
use crate::identity;
use crate::names::quoted;
use crate::profile::{Author, Device, Placed, Profile, Variables};

/// What people ask for by name, and every container has: nesting is always on.
const ALWAYS: [&str; 3] = ["docker", "podman", "nesting"];

/// What was left out of a container, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The feature.
    pub feature: String,
    /// The part of it.
    pub part: String,
    /// What is missing on the host.
    pub reason: String,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.part == self.feature {
            write!(f, "{}: {}", self.feature, self.reason)
        } else {
            write!(f, "{} ({}): {}", self.feature, self.part, self.reason)
        }
    }
}

/// Devices of an instance, as Incus takes them: properties by name by device.
pub type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// What features become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Instance configuration.
    pub config: BTreeMap<String, String>,
    /// Devices.
    pub devices: Devices,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
    /// The devices that are left out, as Incus would call them.
    pub missing: Vec<String>,
    /// The configuration that is left out with them.
    pub missing_config: Vec<String>,
}

/// The features that a caller can name.
#[derive(Debug, Clone, Default)]
pub struct Features(BTreeMap<String, Profile>);

impl Features {
    /// Reads the machine's profiles and the caller's own.
    ///
    /// # Errors
    /// A profile is not right: the text names file and line.
    pub fn read(config: &Config, caller: &Caller) -> Result<Self> {
        let mut features = BTreeMap::new();
        for directory in &config.profile_directories {
            let Ok(entries) = std::fs::read_dir(directory) else {
                continue;
            };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                if let Some(name) = profile_name(&path) {
                    let text = std::fs::read_to_string(&path)
                        .map_err(Error::failed(format_args!("reading {}", path.display())))?;
                    let profile = Profile::parse(&name, &text, &path, Author::System)?;
                    features.insert(name, profile);
                }
            }
        }
        let own = caller.home.join(".config/kapsule/profiles");
        if !caller.is_root() {
            let names = identity::list(caller, &own)
                .map_err(Error::failed(format_args!("reading {}", own.display())))?;
            for file in names {
                let path = own.join(&file);
                if let Some(name) = profile_name(&path) {
                    let text = identity::read_text(caller, &path)
                        .map_err(Error::failed(format_args!("reading {}", path.display())))?;
                    if let Some(text) = text {
                        let profile = Profile::parse(&name, &text, &path, Author::Caller)?;
                        features.insert(name, profile);
                    }
                }
            }
        }
        Ok(Self(features))
    }

    /// All of them.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        self.0.values()
    }

    /// The features of a new container: the default ones and `with`, without `without`. What comes later in the list
    /// of wishes holds against what came before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: one is not known; the text says which are.
    pub fn choose(&self, wishes: &[(&[String], &[String])]) -> Result<BTreeSet<String>> {
        let mut chosen: BTreeSet<String> = self
            .profiles()
            .filter(|profile| profile.default)
            .map(|profile| profile.name.clone())
            .collect();
        for (with, without) in wishes {
            for name in *without {
                self.check(name)?;
                chosen.remove(name);
            }
            for name in *with {
                self.check(name)?;
                if self.0.contains_key(name) {
                    chosen.insert(name.clone());
                }
            }
        }
        Ok(chosen)
    }

    fn check(&self, name: &str) -> Result<()> {
        if self.0.contains_key(name) || ALWAYS.contains(&name) {
            return Ok(());
        }
        let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
        Err(Error::InvalidArgument(format!(
            "there is no feature {}; there are {}",
            quoted(name),
            known.join(", ")
        )))
    }

    /// What the features become for this caller on this host.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: an unknown variable; the text names file and line.
    pub fn apply(
        &self,
        chosen: &BTreeSet<String>,
        caller: &Caller,
        variables: &Variables,
    ) -> Result<Applied> {
        let profiles: Vec<&Profile> = chosen.iter().filter_map(|name| self.0.get(name)).collect();
        let mut applied = Applied::of(profiles.iter().copied(), caller, variables)?;
        let names: Vec<&str> = chosen.iter().map(String::as_str).collect();
        applied
            .config
            .insert(container::FEATURES.to_owned(), names.join(","));
        let definitions = serde_json::to_string(&profiles)
            .map_err(Error::failed("writing down the features' definitions"))?;
        applied
            .config
            .insert(container::DEFINITIONS.to_owned(), definitions);
        Ok(applied)
    }
}

impl Applied {
    /// What the definitions of a container that was made before become for its owner now.
    ///
    /// # Errors
    /// [`Error::Failed`]: the definitions cannot be read.
    pub fn again(definitions: &str, caller: &Caller) -> Result<Self> {
        let profiles: Vec<Profile> = serde_json::from_str(definitions)
            .map_err(Error::failed("reading the definitions of its features"))?;
        Self::of(profiles.iter(), caller, &Variables::of(caller))
    }

    fn of<'p>(
        profiles: impl Iterator<Item = &'p Profile>,
        caller: &Caller,
        variables: &Variables,
    ) -> Result<Self> {
        let mut applied = Self::default();
        for profile in profiles {
            apply_profile(profile, caller, variables, &mut applied)?;
        }
        let left_out: Vec<String> = applied.left_out.iter().map(ToString::to_string).collect();
        // An empty value takes away what was said before.
        applied
            .config
            .insert(container::LEFT_OUT.to_owned(), left_out.join("\n"));
        Ok(applied)
    }
}

fn profile_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
    Profile::is_name(name).then(|| name.to_owned())
}

fn apply_profile(
    profile: &Profile,
    caller: &Caller,
    variables: &Variables,
    applied: &mut Applied,
) -> Result<()> {
    let mut config = BTreeMap::new();
    let all = profile
        .config
        .iter()
        .map(|(key, value)| (key.clone(), value));
    let environment = profile
        .environment
        .iter()
        .map(|(key, value)| (format!("environment.{key}"), value));
    for (key, value) in all.chain(environment) {
        match profile.expand(value, variables)? {
            Ok(value) => {
                config.insert(key, value);
            }
            Err(variable) => {
                applied.left_out.push(LeftOut {
                    feature: profile.name.clone(),
                    part: key,
                    reason: format!("this host has no {variable}"),
                });
            }
        }
    }
    for device in &profile.devices {
        match apply_device(profile, device, caller, variables)? {
            Ok((properties, environment)) => {
                applied
                    .devices
                    .insert(device_name(profile, device), properties);
                for (key, value) in environment {
                    config.insert(format!("environment.{key}"), value);
                }
            }
            Err(reason) => {
                applied.missing.push(device_name(profile, device));
                let environment = device.environment.keys();
                applied
                    .missing_config
                    .extend(environment.map(|key| format!("environment.{key}")));
                applied.left_out.push(LeftOut {
                    feature: profile.name.clone(),
                    part: device.name.clone(),
                    reason,
                });
            }
        }
    }
    applied.config.extend(config);
    Ok(())
}

/// What Incus calls a device of a feature.
fn device_name(profile: &Profile, device: &Device) -> String {
    format!("kapsule-{}-{}", profile.name, device.name)
}

/// A device's properties and its environment; or why it is left out.
type DeviceOrReason =
    std::result::Result<(BTreeMap<String, String>, BTreeMap<String, String>), String>;

fn apply_device(
    profile: &Profile,
    device: &Device,
    caller: &Caller,
    variables: &Variables,
) -> Result<DeviceOrReason> {
    let expand_all = |values: &BTreeMap<String, Placed>| -> Result<
        std::result::Result<BTreeMap<String, String>, String>,
    > {
        let mut out = BTreeMap::new();
        for (key, value) in values {
            match profile.expand(value, variables)? {
                Ok(value) => {
                    out.insert(key.clone(), value);
                }
                Err(variable) => return Ok(Err(format!("this host has no {variable}"))),
            }
        }
        Ok(Ok(out))
    };
    let (properties, environment) = (
        expand_all(&device.properties)?,
        expand_all(&device.environment)?,
    );
    let (mut properties, environment) = match (properties, environment) {
        (Ok(properties), Ok(environment)) => (properties, environment),
        (Err(reason), _) | (_, Err(reason)) => return Ok(Err(reason)),
    };
    for need in &device.needs {
        let path = match profile.expand(need, variables)? {
            Ok(path) => path,
            Err(variable) => return Ok(Err(format!("this host has no {variable}"))),
        };
        if let Err(error) = std::fs::symlink_metadata(&path) {
            return Ok(Err(missing(&path, &error)));
        }
    }
    if properties["type"] == "disk"
        && let Some(source) = properties.get("source").cloned()
        && source.starts_with('/')
    {
        let written = &device.properties["source"].text;
        let found = identity::reachable(caller, Path::new(&source)).map(|(real, _, _)| real);
        let trusted = profile.author == Author::System && !written.contains("${");
        let real = match found {
            Ok(real) => real,
            Err(_) if trusted && Path::new(&source).exists() => PathBuf::from(&source),
            Err(error) => return Ok(Err(missing(&source, &error))),
        };
        properties.insert("source".to_owned(), real.display().to_string());
        // It may have gone when the container is started the next time: then without it.
        properties
            .entry("required".to_owned())
            .or_insert_with(|| "false".to_owned());
    }
    Ok(Ok((properties, environment)))
}

fn missing(path: &str, error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        format!("{path} is not there on this host")
    } else {
        format!("{path}: {error}")
    }
}

impl Variables {
    /// Those of a caller. His environment is looked at for where his display is, and believed as far as it can be
    /// only his own.
    pub fn of(caller: &Caller) -> Self {
        let environment = environment_of(caller.pid);
        let runtime = PathBuf::from(format!("/run/user/{}", caller.uid));
        let there = runtime.is_dir();
        let of_environment = |name: &str| {
            environment
                .iter()
                .find_map(|(key, value)| (key == name).then(|| value.clone()))
        };
        let wayland = of_environment("WAYLAND_DISPLAY")
            .filter(|name| is_file_name(name))
            .or_else(|| first_wayland(&runtime));
        let display = of_environment("DISPLAY")
            .and_then(|display| display_number(&display))
            .or_else(|| first_x11(Path::new("/tmp/.X11-unix")));
        let authority = of_environment("XAUTHORITY")
            .map_or_else(|| caller.home.join(".Xauthority"), PathBuf::from);
        let authority = identity::reachable(caller, &authority)
            .ok()
            .filter(|(_, kind, owner)| *kind == FileType::RegularFile && *owner == caller.uid)
            .map(|(real, _, _)| real.display().to_string());
        let home = caller.home.display().to_string();
        Self(
            [
                ("HOME", Some(home)),
                ("USER", Some(caller.name.clone())),
                ("UID", Some(caller.uid.to_string())),
                ("GID", Some(caller.gid.to_string())),
                (
                    "XDG_RUNTIME_DIR",
                    there.then(|| runtime.display().to_string()),
                ),
                ("WAYLAND_DISPLAY", wayland),
                ("DISPLAY", display.map(|number| format!(":{number}"))),
                ("DISPLAY_NUMBER", display.map(|number| number.to_string())),
                ("XAUTHORITY", authority),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        )
    }
}

/// The environment of a process, as it was started; nothing if it has gone.
fn environment_of(pid: u32) -> Vec<(String, String)> {
    std::fs::read(format!("/proc/{pid}/environ"))
        .unwrap_or_default()
        .split(|&b| b == 0)
        .filter_map(|entry| {
            let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn is_file_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn first_wayland(runtime: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(runtime)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.starts_with("wayland-") && !name.ends_with(".lock") && is_file_name(name)
        })
        .collect();
    names.sort();
    names.into_iter().next()
}

/// `:0`, `:0.0` and `localhost:10.0` have numbers; only a local display has a socket to bind.
fn display_number(display: &str) -> Option<u32> {
    let number = display
        .strip_prefix(':')
        .or_else(|| display.strip_prefix("unix:"))?;
    number.split('.').next()?.parse().ok()
}

fn first_x11(directory: &Path) -> Option<u32> {
    std::fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix('X')?.parse().ok())
        .min()
}

/// The caller's own wishes; none if he has written none.
///
/// # Errors
/// The file is not right: the text names it and the line.
pub fn preferences(caller: &Caller) -> Result<Preferences> {
    let path = caller.home.join(".config/kapsule/config.toml");
    let text = identity::read_text(caller, &path)
        .map_err(|error| Error::Failed(format!("reading {}: {error}", path.display())))?;
    Preferences::parse(text.as_deref().unwrap_or_default(), &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Group;

    /// Who runs the test.
    fn caller(home: &Path) -> Caller {
        let uid = rustix::process::geteuid().as_raw();
        Caller {
            sender: zbus::names::OwnedUniqueName::try_from(":1.1").expect("a name"),
            uid,
            gid: uid,
            pid: 0,
            name: "ana".to_owned(),
            home: home.to_owned(),
            shell: PathBuf::from("/bin/sh"),
            groups: vec![Group {
                gid: uid,
                name: "ana".to_owned(),
            }],
            interactive: false,
        }
    }

    fn features(directory: &Path, files: &[(&str, &str)]) -> Result<Features> {
        for (name, text) in files {
            std::fs::write(directory.join(name), text).expect("written");
        }
        let config = Config {
            profile_directories: vec![directory.to_owned()],
            ..Config::default()
        };
        Features::read(&config, &caller(Path::new("/nonexistent")))
    }

    const ON: &str = "default = true\n";

    #[test]
    fn later_wishes_hold_against_earlier_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let features = features(
            dir.path(),
            &[("a.toml", ON), ("b.toml", ON), ("c.toml", "")],
        )
        .expect("read");
        let names = |wishes: &[(&[&str], &[&str])]| {
            let owned: Vec<(Vec<String>, Vec<String>)> = wishes
                .iter()
                .map(|(with, without)| {
                    (
                        with.iter().map(|name| (*name).to_owned()).collect(),
                        without.iter().map(|name| (*name).to_owned()).collect(),
                    )
                })
                .collect();
            let borrowed: Vec<(&[String], &[String])> = owned
                .iter()
                .map(|(with, without)| (with.as_slice(), without.as_slice()))
                .collect();
            features
                .choose(&borrowed)
                .map(|set| set.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("known"), ["a", "b"]);
        assert_eq!(
            names(&[(&["c"], &["a"]), (&["a"], &["b"])]).expect("known"),
            ["a", "c"]
        );
        assert_eq!(names(&[(&["docker"], &[])]).expect("known"), ["a", "b"]);
        let error = names(&[(&["x"], &[])]).expect_err("unknown");
        assert!(
            error.text().contains("there are a, b, c"),
            "{}",
            error.text()
        );
    }

    #[test]
    fn a_part_that_the_host_has_not_is_left_out_with_a_note() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = dir.path().join("socket");
        std::fs::write(&there, "").expect("written");
        let text = format!(
            "default = true\n[[device]]\nname = \"wayland\"\ntype = \"disk\"\nsource = \"{}\"\npath = \"/w\"\n\
             environment = {{ W = \"/w\" }}\n\
             [[device]]\nname = \"gpu\"\ntype = \"gpu\"\nneeds = [\"/nonexistent/dri\"]\nenvironment = {{ G = \"1\" }}\n\
             [[device]]\nname = \"x11\"\ntype = \"disk\"\nsource = \"/x/${{DISPLAY}}\"\npath = \"/x\"\n",
            there.display()
        );
        let features = features(dir.path(), &[("graphics.toml", &text)]).expect("read");
        let chosen = features.choose(&[]).expect("chosen");
        let variables = Variables([("DISPLAY".to_owned(), None)].into());
        let applied = features
            .apply(&chosen, &caller(dir.path()), &variables)
            .expect("applied");
        let devices: Vec<&String> = applied.devices.keys().collect();
        assert_eq!(devices, ["kapsule-graphics-wayland"]);
        assert_eq!(
            applied.devices["kapsule-graphics-wayland"]["required"],
            "false"
        );
        assert_eq!(applied.config["environment.W"], "/w");
        assert!(!applied.config.contains_key("environment.G"));
        assert_eq!(applied.config[container::FEATURES], "graphics");
        assert_eq!(
            applied.config[container::LEFT_OUT],
            "graphics (gpu): /nonexistent/dri is not there on this host\ngraphics (x11): this host has no DISPLAY"
        );
    }

    #[test]
    fn what_the_host_has_is_looked_up_anew_by_the_definitions_of_then() {
        let dir = tempfile::tempdir().expect("a directory");
        let part = dir.path().join("later");
        let text = format!(
            "default = true\n[[device]]\nname = \"x\"\ntype = \"disk\"\nsource = \"{}\"\npath = \"/x\"\n",
            part.display()
        );
        let features = features(dir.path(), &[("a.toml", &text)]).expect("read");
        let chosen = features.choose(&[]).expect("chosen");
        let caller = caller(dir.path());
        let then = features
            .apply(&chosen, &caller, &Variables::default())
            .expect("applied");
        assert!(then.devices.is_empty());
        assert_eq!(then.missing, ["kapsule-a-x"]);
        // The definition is another now, and the host has what it lacked.
        std::fs::write(dir.path().join("a.toml"), "default = false").expect("written");
        std::fs::write(&part, "").expect("written");
        let now = Applied::again(&then.config[container::DEFINITIONS], &caller).expect("applied");
        assert_eq!(now.devices["kapsule-a-x"]["path"], "/x");
        assert_eq!(now.config[container::LEFT_OUT], "");
    }

    #[test]
    fn sources_are_without_symlinks() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir
            .path()
            .join("real")
            .canonicalize()
            .unwrap_or_else(|_| dir.path().join("real"));
        std::fs::write(&real, "").expect("written");
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("linked");
        let text = "default = true\n[[device]]\nname = \"a\"\ntype = \"disk\"\nsource = \"${HOME}/link\"\npath = \"/a\"\n";
        let features = features(dir.path(), &[("a.toml", text)]).expect("read");
        let variables =
            Variables([("HOME".to_owned(), Some(dir.path().display().to_string()))].into());
        let chosen = features.choose(&[]).expect("chosen");
        let applied = features
            .apply(&chosen, &caller(dir.path()), &variables)
            .expect("applied");
        assert!(applied.devices["kapsule-a-a"]["source"].ends_with("/real"));
    }

    #[test]
    fn displays_are_local_ones() {
        assert_eq!(display_number(":0"), Some(0));
        assert_eq!(display_number(":12.1"), Some(12));
        assert_eq!(display_number("localhost:10.0"), None);
        assert_eq!(display_number(":../../x"), None);
        assert!(!is_file_name("../wayland-0"));
        assert!(!is_file_name("/etc/shadow"));
    }

    #[test]
    fn the_profiles_that_are_delivered_are_right() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/profiles");
        let config = Config {
            profile_directories: vec![directory],
            ..Config::default()
        };
        let caller = caller(Path::new("/nonexistent"));
        let features = Features::read(&config, &caller).expect("they are read");
        let names: Vec<&str> = features
            .profiles()
            .map(|profile| profile.name.as_str())
            .collect();
        assert_eq!(names, ["audio", "dbus", "gpu", "graphics", "home"]);
        for profile in features.profiles() {
            assert!(profile.default, "{} is on", profile.name);
            assert!(!profile.description.is_empty());
        }
        let all = features.choose(&[]).expect("chosen");
        features
            .apply(&all, &caller, &Variables::of(&caller))
            .expect("every variable is known");
    }
}
