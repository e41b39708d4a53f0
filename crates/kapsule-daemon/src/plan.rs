//! The instance that a new container becomes: configuration and devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::fs::FileType;

use crate::caller::Caller;
use crate::config::Config;
use crate::container::{self, Mode};
use crate::error::{Error, Result};
use crate::features::{Devices, Features, LeftOut};
use crate::identity;
use crate::names::ContainerName;
use crate::options::CreateOptions;
use crate::profile::Variables;

/// The device by which every container has `/.kapsule/run`.
pub const RUN_DEVICE: &str = "kapsule-run";

/// An instance to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its configuration.
    pub config: BTreeMap<String, String>,
    /// Its devices.
    pub devices: Devices,
    /// What it does not have, and why.
    pub left_out: Vec<LeftOut>,
}

impl Plan {
    /// For this caller, on this host. Looks at his files with his rights.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: a profile is not right; the home cannot be.
    pub fn new(
        config: &Config,
        caller: &Caller,
        name: &ContainerName,
        image: &str,
        options: &CreateOptions,
        features: &Features,
        chosen: &BTreeSet<String>,
    ) -> Result<Self> {
        let applied = features.apply(chosen, caller, &Variables::of(caller))?;
        let mut plan = Self {
            config: applied.config,
            devices: applied.devices,
            left_out: applied.left_out,
        };
        let mode = if chosen.contains("dbus") {
            Mode::DbusMux
        } else {
            Mode::Session
        };
        // It was there for one that is planned anew.
        plan.config.retain(|_, value| !value.is_empty());
        plan.set(container::OWNER, caller.uid.to_string());
        plan.set(container::IMAGE, image);
        plan.set(container::MODE, mode.as_str());
        plan.set("security.nesting", "true");
        if options.privileged {
            plan.set("security.privileged", "true");
        } else if let Some(map) = id_map(caller) {
            plan.set("raw.idmap", map);
        }
        if !config.start_at_boot {
            plan.set("boot.autostart", "false");
        }
        if !config.storage_pool.is_empty() {
            plan.device(
                "root",
                &[
                    ("type", "disk"),
                    ("path", "/"),
                    ("pool", &config.storage_pool),
                ],
            );
        }
        plan.run_device(config, name);
        if chosen.contains("home") || options.home.is_some() {
            plan.home(caller, options)?;
        }
        for (number, mount) in options.mounts.iter().enumerate() {
            let source = mount.source.display().to_string();
            let path = mount.path.display().to_string();
            let read_only = mount.read_only.to_string();
            plan.device(
                &format!("kapsule-mount-{number}"),
                &[
                    ("type", "disk"),
                    ("source", &source),
                    ("path", &path),
                    ("readonly", &read_only),
                ],
            );
        }
        Ok(plan)
    }

    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.config.insert(key.to_owned(), value.into());
    }

    fn device(&mut self, name: &str, properties: &[(&str, &str)]) {
        let properties = properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.devices.insert(name.to_owned(), properties);
    }

    /// The directory with the sockets that the host has for those inside. They cannot change it, so that nothing of the
    /// host's is led astray by what they put there.
    fn run_device(&mut self, config: &Config, name: &ContainerName) {
        let (device, properties) = run_device(config, name);
        self.devices.insert(device, properties);
    }

    fn home(&mut self, caller: &Caller, options: &CreateOptions) -> Result<()> {
        let source = options.home.as_ref().unwrap_or(&caller.home);
        if caller.is_root() && !options.privileged && options.home.is_none() {
            self.left_out.push(LeftOut {
                feature: "home".to_owned(),
                part: "home".to_owned(),
                reason: "root's home is for the root of the host, whom an unprivileged container does not have"
                    .to_owned(),
            });
            return Ok(());
        }
        let (real, kind, owner) = identity::reachable(caller, source).map_err(|error| {
            Error::InvalidArgument(format!(
                "the home {} cannot be used: {error}",
                source.display()
            ))
        })?;
        if kind != FileType::Directory || real == Path::new("/") {
            return Err(Error::InvalidArgument(format!(
                "{} cannot be a home: it has to be a directory below /; 'kapsule create --without home' does without",
                source.display()
            )));
        }
        if owner != caller.uid && !caller.is_root() {
            return Err(Error::InvalidArgument(format!(
                "the home {} belongs to the uid {owner}, not to {}",
                source.display(),
                caller.name
            )));
        }
        let (source, path) = (
            real.display().to_string(),
            caller.home.display().to_string(),
        );
        self.device(
            "kapsule-home",
            &[("type", "disk"), ("source", &source), ("path", &path)],
        );
        self.set(container::HOME, source);
        Ok(())
    }
}

/// The device by which a container of this name has `/.kapsule/run`.
pub fn run_device(config: &Config, name: &ContainerName) -> (String, BTreeMap<String, String>) {
    let source = container::run_directory(&config.data_directory, name)
        .display()
        .to_string();
    let properties = [
        ("type", "disk"),
        ("source", source.as_str()),
        ("path", "/.kapsule/run"),
        ("readonly", "true"),
    ];
    (
        RUN_DEVICE.to_owned(),
        properties
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    )
}

/// The caller himself, and nobody else. Root of the host is not mapped into a container that is not privileged.
pub fn id_map(caller: &Caller) -> Option<String> {
    (!caller.is_root()).then(|| {
        format!(
            "uid {uid} {uid}\ngid {gid} {gid}",
            uid = caller.uid,
            gid = caller.gid
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Group;
    use std::path::PathBuf;

    fn caller(home: &Path, uid: u32) -> Caller {
        Caller {
            sender: zbus::names::OwnedUniqueName::try_from(":1.1").expect("a name"),
            uid,
            gid: 1005,
            pid: 0,
            name: "ana".to_owned(),
            home: home.to_owned(),
            shell: PathBuf::from("/bin/sh"),
            groups: vec![Group {
                gid: 1005,
                name: "ana".to_owned(),
            }],
            interactive: false,
        }
    }

    fn plan(caller: &Caller, options: &CreateOptions, chosen: &[&str]) -> Result<Plan> {
        let config = Config {
            data_directory: PathBuf::from("/var/lib/kapsule"),
            ..Config::default()
        };
        let chosen = chosen.iter().map(|name| (*name).to_owned()).collect();
        let name = ContainerName::parse("box").expect("a name");
        Plan::new(
            &config,
            caller,
            &name,
            "debian/13",
            options,
            &Features::default(),
            &chosen,
        )
    }

    #[test]
    fn a_container_is_unprivileged_and_maps_its_owner_alone() {
        let plan = plan(
            &caller(Path::new("/nonexistent"), 1000),
            &CreateOptions::default(),
            &[],
        )
        .expect("planned");
        assert_eq!(plan.config["raw.idmap"], "uid 1000 1000\ngid 1005 1005");
        assert_eq!(plan.config["security.nesting"], "true");
        assert!(!plan.config.contains_key("security.privileged"));
        assert_eq!(plan.config[container::OWNER], "1000");
        assert_eq!(plan.config[container::MODE], "Session");
        let devices: Vec<&String> = plan.devices.keys().collect();
        assert_eq!(devices, [RUN_DEVICE]);
        assert_eq!(
            plan.devices[RUN_DEVICE]["source"],
            "/var/lib/kapsule/containers/box/run"
        );
        assert_eq!(plan.devices[RUN_DEVICE]["readonly"], "true");
    }

    #[test]
    fn a_privileged_one_maps_nobody() {
        let options = CreateOptions {
            privileged: true,
            ..CreateOptions::default()
        };
        let plan = plan(
            &caller(Path::new("/nonexistent"), 1000),
            &options,
            &["dbus"],
        )
        .expect("planned");
        assert_eq!(plan.config["security.privileged"], "true");
        assert!(!plan.config.contains_key("raw.idmap"));
        assert_eq!(plan.config[container::MODE], "DbusMux");
    }

    #[test]
    fn root_of_the_host_is_never_mapped_into_an_unprivileged_one() {
        let plan = plan(
            &caller(Path::new("/root"), 0),
            &CreateOptions::default(),
            &["home"],
        )
        .expect("planned");
        assert!(!plan.config.contains_key("raw.idmap"));
        assert!(!plan.devices.contains_key("kapsule-home"));
        assert_eq!(plan.left_out.len(), 1);
    }

    #[test]
    fn a_home_that_is_not_there_is_an_error_with_a_remedy() {
        let error = plan(
            &caller(Path::new("/"), 1000),
            &CreateOptions::default(),
            &["home"],
        )
        .expect_err("no home");
        assert!(error.text().contains("--without home"), "{}", error.text());
    }
}
