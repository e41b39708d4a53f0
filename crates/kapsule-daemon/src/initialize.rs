//! Setting up Incus: a storage pool, a network, the default profile. What is there already stays.

use std::sync::Arc;

use incus_client::{Config as Settings, Profile};
use zbus::{OwnedObjectPath, Variant};

use crate::caller::Caller;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::incus::{Incus, error};
use crate::manager::Options;
use crate::names::quoted;
use crate::operations::{Kind, Line, Target};

/// The file that says that it was done.
const DONE: &str = "initialized";

/// What a person wishes.
#[derive(Debug, Clone)]
struct Wishes {
    /// The driver of the storage pool; `None`: the best that works.
    storage: Option<String>,
    /// The size of a pool that lies in a file, such as `30GiB`.
    size: Option<String>,
    /// Whether containers have a network.
    network: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            storage: None,
            size: None,
            network: true,
        }
    }
}

impl Wishes {
    fn parse(options: &Options) -> Result<Self> {
        let mut wishes = Self::default();
        for (key, value) in options {
            let value: &Variant<'_> = value;
            match (key.as_str(), value) {
                ("storage", Variant::Str(driver)) => {
                    if !["btrfs", "dir", "zfs", "lvm"].contains(&driver.as_str()) {
                        return Err(Error::InvalidArgument(format!(
                            "there is no storage driver {}: btrfs, dir, zfs and lvm there are",
                            quoted(driver)
                        )));
                    }
                    wishes.storage = Some(driver.to_string());
                }
                ("size", Variant::Str(size)) => {
                    let digits = size.trim_start_matches(|c: char| c.is_ascii_digit());
                    if digits.len() == size.len()
                        || !["GiB", "MiB", "TiB", "GB", "MB", "TB"].contains(&digits)
                    {
                        return Err(Error::InvalidArgument(format!(
                            "{} is no size: write it as '30GiB'",
                            quoted(size)
                        )));
                    }
                    wishes.size = Some(size.to_string());
                }
                ("network", Variant::Bool(network)) => wishes.network = *network,
                (key, _) => {
                    return Err(Error::InvalidArgument(format!(
                        "the option {} is not known, or of a wrong type: storage s, size s and network b are",
                        quoted(key)
                    )));
                }
            }
        }
        Ok(wishes)
    }
}

impl Daemon {
    /// Sets up Incus.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`], [`Error::InvalidArgument`]
    pub async fn initialize(
        self: &Arc<Self>,
        caller: &Caller,
        options: &Options,
    ) -> Result<OwnedObjectPath> {
        let wishes = Wishes::parse(options)?;
        self.polkit.initialize(caller).await?;
        let daemon = self.clone();
        self.operations
            .start(
                caller,
                Kind::Initialize,
                &[Target::Incus],
                "Setting up Incus".to_owned(),
                async move |progress| {
                    progress.commit()?;
                    let done = set_up(&daemon.config, &daemon.incus, &wishes).await?;
                    for (kind, line) in done {
                        progress.message(kind, line).await;
                    }
                    Ok(())
                },
            )
            .await
    }
}

/// The same, for the first boot: `kapsuled --initialize`.
///
/// # Errors
/// What did not work.
pub async fn without_a_bus(config: &Config, incus: &Incus) -> Result<()> {
    for (_, line) in set_up(config, incus, &Wishes::default()).await? {
        println!("{line}");
    }
    Ok(())
}

async fn set_up(config: &Config, incus: &Incus, wishes: &Wishes) -> Result<Vec<(Line, String)>> {
    let client = incus.client();
    client.server().await.map_err(error)?;
    let mut done = Vec::new();
    let mut profile = match client.profile("default").await {
        Ok(profile) => profile,
        Err(problem) => return Err(error(problem)),
    };
    let mut changed = false;
    if !has(&profile, |device| {
        device.get("type").is_some_and(|kind| kind == "disk")
            && device.get("path").is_some_and(|path| path == "/")
    }) {
        let pool = pool(config, incus, wishes, &mut done).await?;
        profile.devices.insert(
            "root".to_owned(),
            [("type", "disk"), ("path", "/"), ("pool", pool.as_str())]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        );
        changed = true;
    }
    let nic = has(&profile, |device| {
        device.get("type").is_some_and(|kind| kind == "nic")
    });
    if wishes.network && !nic {
        match network(incus, &mut done).await {
            Ok(name) => {
                profile.devices.insert(
                    "eth0".to_owned(),
                    [
                        ("type", "nic"),
                        ("name", "eth0"),
                        ("network", name.as_str()),
                    ]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                );
                changed = true;
            }
            // Containers without a network are better than none.
            Err(problem) => done.push((
                Line::Warning,
                format!("containers have no network: {}", problem.text()),
            )),
        }
    }
    if changed {
        client.update_profile(&profile).await.map_err(error)?;
        done.push((Line::Success, "the default profile is set up".to_owned()));
    } else {
        done.push((Line::Information, "Incus is set up already".to_owned()));
    }
    let mark = config.data_directory.join(DONE);
    std::fs::create_dir_all(&config.data_directory)
        .and_then(|()| std::fs::write(&mark, ""))
        .map_err(Error::failed(format_args!("writing {}", mark.display())))?;
    Ok(done)
}

fn has(
    profile: &Profile,
    what: impl Fn(&std::collections::BTreeMap<String, String>) -> bool,
) -> bool {
    profile.devices.values().any(what)
}

/// The name of the storage pool for containers, which is made if there is none.
async fn pool(
    config: &Config,
    incus: &Incus,
    wishes: &Wishes,
    done: &mut Vec<(Line, String)>,
) -> Result<String> {
    let client = incus.client();
    let pools = client.storage_pools().await.map_err(error)?;
    let named = |name: &str| pools.iter().find(|pool| pool.name == name);
    if let Some(pool) = named(&config.storage_pool)
        .or_else(|| named("default"))
        .or_else(|| pools.first())
    {
        return Ok(pool.name.clone());
    }
    let name = match config.storage_pool.as_str() {
        "" => "default",
        name => name,
    };
    let drivers = match &wishes.storage {
        Some(driver) => vec![driver.as_str()],
        // A copy and a snapshot cost nothing with btrfs; a directory works everywhere.
        None => vec!["btrfs", "dir"],
    };
    let mut problems = Vec::new();
    for driver in drivers {
        let mut settings = Settings::new();
        if let Some(size) = &wishes.size
            && driver != "dir"
        {
            settings.insert("size".to_owned(), size.clone());
        }
        match client.create_storage_pool(name, driver, &settings).await {
            Ok(()) => {
                for problem in problems {
                    done.push((Line::Warning, problem));
                }
                done.push((
                    Line::Success,
                    format!("the storage pool '{name}' ({driver}) is made"),
                ));
                return Ok(name.to_owned());
            }
            Err(problem) if problem.is_unavailable() => return Err(error(problem)),
            Err(problem) => {
                problems.push(format!("no storage by {driver}: {problem}"));
                // What was begun would be in the way of the next.
                if let Err(problem) = client.delete_storage_pool(name).await
                    && !problem.is_not_found()
                {
                    tracing::warn!(error = %problem, "a storage pool that was not made whole stays");
                }
            }
        }
    }
    Err(Error::Failed(problems.join("; ")))
}

/// The name of the network for containers, which is made if there is none.
async fn network(incus: &Incus, done: &mut Vec<(Line, String)>) -> Result<String> {
    let client = incus.client();
    let networks = client.networks().await.map_err(error)?;
    if let Some(network) = networks
        .iter()
        .find(|network| network.managed && network.kind == "bridge")
    {
        return Ok(network.name.clone());
    }
    let name = "incusbr0";
    client
        .create_network(name, "bridge", &Settings::new())
        .await
        .map_err(error)?;
    done.push((Line::Success, format!("the network '{name}' is made")));
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: Variant<'_>) -> Result<Wishes> {
        let value = value.try_to_owned().expect("no fds");
        Wishes::parse(&Options::from([(key.to_owned(), value)]))
    }

    #[test]
    fn wishes_are_checked() {
        parse("storage", "dir".into()).expect("a driver");
        parse("storage", "../x".into()).expect_err("no driver");
        parse("size", "30GiB".into()).expect("a size");
        for size in ["", "GiB", "30", "30 GiB", "30GiB\nx"] {
            parse("size", size.into()).expect_err(size);
        }
        parse("network", false.into()).expect("a boolean");
        parse("network", "no".into()).expect_err("no boolean");
        parse("colour", true.into()).expect_err("not known");
    }
}
