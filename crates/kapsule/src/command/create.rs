//! `kapsule create`

use std::path::Path;
use std::process::ExitCode;

use zbus::Variant;

use crate::cli::Create;
use crate::command::print;
use crate::error::{Error, Result};
use crate::manager::{Manager, Options};
use crate::operation;
use crate::text::plain;

/// What a container is to be. From the command line, from a manifest, or from distrobox' options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The container's name.
    pub name: String,
    /// The image; empty is the default one.
    pub image: String,
    /// Features that it has.
    pub with: Vec<String>,
    /// Features that it has not.
    pub without: Vec<String>,
    /// Whether root inside is root outside.
    pub privileged: bool,
    /// The directory that is the home inside.
    pub home: Option<String>,
    /// Other directories that are there inside.
    pub mounts: Vec<String>,
    /// Whether it goes when it stops.
    pub ephemeral: bool,
}

impl Plan {
    /// Makes the container, and waits until it is there.
    ///
    /// # Errors
    /// The daemon refuses, or it fails.
    pub async fn carry_out(&self, manager: &Manager) -> Result<()> {
        let mut options = Options::new();
        for (key, list) in [
            ("with", &self.with),
            ("without", &self.without),
            ("custom_mounts", &self.mounts),
        ] {
            if !list.is_empty() {
                options.insert(key, Variant::from(list.clone()));
            }
        }
        for (key, wanted) in [
            ("privileged", self.privileged),
            ("ephemeral", self.ephemeral),
        ] {
            if wanted {
                options.insert(key, true.into());
            }
        }
        if let Some(home) = &self.home {
            options.insert("home", home.as_str().into());
        }
        operation::follow(
            manager,
            &format!("creating container {}", self.name),
            manager.create(&self.name, &self.image, &options),
        )
        .await
    }
}

/// A path of this user: absolute, with `~/` expanded. The daemon knows nothing of where we are.
///
/// # Errors
/// It is no text, or there is no telling where we are.
pub fn absolute(path: &Path) -> Result<String> {
    let path = match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(below), Some(home)) => home.join(below),
        _ => std::path::absolute(path)
            .map_err(Error::doing(format!("looking for {}", path.display())))?,
    };
    match path.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::Usage(format!(
            "the path {} is not UTF-8, and cannot be passed on",
            path.display()
        ))),
    }
}

/// The directory of a mount, made absolute: `DIR`, `DIR:INSIDE` or `DIR:INSIDE:ro`.
///
/// # Errors
/// As for [`absolute`].
pub fn absolute_mount(mount: &str) -> Result<String> {
    Ok(match mount.split_once(':') {
        Some((directory, inside)) => format!("{}:{inside}", absolute(Path::new(directory))?),
        None => absolute(Path::new(mount))?,
    })
}

/// Makes a container.
pub async fn create(manager: &Manager, options: &Create) -> Result<ExitCode> {
    let plan = Plan {
        name: options.name.clone(),
        image: options.image.clone().unwrap_or_default(),
        with: options.all_with(),
        without: options.all_without(),
        privileged: options.privileged,
        home: options.home.as_deref().map(absolute).transpose()?,
        mounts: options
            .mounts
            .iter()
            .map(|mount| absolute_mount(mount))
            .collect::<Result<_>>()?,
        ephemeral: options.ephemeral,
    };
    plan.carry_out(manager).await?;
    let name = plain(&plan.name);
    print(&format!("{name} is there\nnext: kapsule enter {name}\n"));
    Ok(ExitCode::SUCCESS)
}
