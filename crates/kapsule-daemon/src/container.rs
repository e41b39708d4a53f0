//! A container, as Incus describes it and as kapsule has marked it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::names::ContainerName;

/// The uid of who made it. A container without it is none of kapsule's.
pub const OWNER: &str = "user.kapsule.owner";
/// The features that were asked for, with commas between.
pub const FEATURES: &str = "user.kapsule.features";
/// What was left out, and why: `feature: reason`, a line each.
pub const LEFT_OUT: &str = "user.kapsule.left-out";
/// The definitions of its features as they were when it was made, in JSON: what of the host they mean is looked up anew
/// at each start.
pub const DEFINITIONS: &str = "user.kapsule.definitions";
/// The mode, a word of [`Mode`].
pub const MODE: &str = "user.kapsule.mode";
/// What the person called the image.
pub const IMAGE: &str = "user.kapsule.image";
/// The directory of the host that is the home inside.
pub const HOME: &str = "user.kapsule.home";
/// There while the container is being made: who finds it without knowing the operation may remove it.
pub const UNFINISHED: &str = "user.kapsule.unfinished";

/// Where session buses meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// None of the buses of the host is to be had.
    Session,
    /// The multiplexer: container services first, all else on the host.
    DbusMux,
    /// Not made by kapsule: nothing is known.
    Default,
}

impl Mode {
    /// The word on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "Session",
            Self::DbusMux => "DbusMux",
            Self::Default => "Default",
        }
    }
}

/// What is known of a container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub name: ContainerName,
    /// The uid of who made it; `None` if kapsule did not make it.
    pub owner: Option<u32>,
    /// `Running`, `Stopped`, `Frozen`, …: Incus' words.
    pub status: String,
    /// Its first process, if it runs.
    pub init_pid: Option<u32>,
    /// What the person called the image.
    pub image: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Its instance configuration, with that of its profiles.
    pub config: BTreeMap<String, String>,
    /// Whether it goes when it is stopped.
    pub ephemeral: bool,
}

impl Container {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.status == "Running"
    }

    /// Whether root inside is root outside.
    pub fn is_privileged(&self) -> bool {
        self.config
            .get("security.privileged")
            .is_some_and(|value| value == "true" || value == "1")
    }

    /// The features it has (what was left out for want of a part on the host included).
    pub fn features(&self) -> impl Iterator<Item = &str> {
        self.config
            .get(FEATURES)
            .map_or("", String::as_str)
            .split(',')
            .filter(|feature| !feature.is_empty())
    }

    /// Whether it has a feature.
    pub fn has_feature(&self, name: &str) -> bool {
        self.features().any(|feature| feature == name)
    }

    /// Whether it is still being made, or the making was left half-done.
    pub fn is_unfinished(&self) -> bool {
        self.config.contains_key(UNFINISHED)
    }

    /// Where session buses meet.
    pub fn mode(&self) -> Mode {
        match self.owner {
            None => Mode::Default,
            Some(_) if self.has_feature("dbus") => Mode::DbusMux,
            Some(_) => Mode::Session,
        }
    }

    /// The host's directory that is the home inside, if one is.
    pub fn home(&self) -> Option<&Path> {
        self.config.get(HOME).map(Path::new)
    }

    /// The host's directory that is `/.kapsule/run` inside. `UID/` below it belongs to the user, and has the bus.
    pub fn run_directory(&self, data: &Path) -> PathBuf {
        run_directory(data, &self.name)
    }
}

/// The host's directory that is `/.kapsule/run` inside of the container of this name.
pub fn run_directory(data: &Path, name: &ContainerName) -> PathBuf {
    directory(data, name).join("run")
}

/// What the daemon keeps of the container of this name.
pub fn directory(data: &Path, name: &ContainerName) -> PathBuf {
    data.join("containers").join(name.as_str())
}
