//! Applications and programs of a container, put among those of the host.
//!
//! What comes from inside is not trusted: files are read with limits, names become file names only if they
//! are made of harmless characters, keys of a desktop file are passed on only if they are known to start
//! nothing outside, and what is started is always `kapsule run CONTAINER -- …`.

pub mod application;
pub mod autostart;
pub mod desktop_entry;
pub mod exec;
pub mod icon;
pub mod record;
pub mod wrapper;

use std::path::PathBuf;

use crate::error::{Error, Result};

/// How exported things start a program inside.
///
/// # Errors
/// Our path is no text.
pub fn launcher(bus: &str) -> Result<Vec<String>> {
    let mut launcher = ourselves(bus)?;
    launcher.push("run".to_owned());
    Ok(launcher)
}

/// How this program is started by others: our own path, and the bus if it is not the usual one.
///
/// # Errors
/// Our path is no text.
pub fn ourselves(bus: &str) -> Result<Vec<String>> {
    let ours = std::env::current_exe()
        .map_err(Error::doing("finding the path of this program"))?
        .into_os_string()
        .into_string()
        .map_err(|path| {
            Error::Usage(format!(
                "the path of this program is not UTF-8: {}",
                path.display()
            ))
        })?;
    let mut line = vec![ours];
    if bus != "system" {
        line.push(format!("--bus={bus}"));
    }
    Ok(line)
}

/// `~/.local/share`, or what `XDG_DATA_HOME` says.
///
/// # Errors
/// There is no home.
pub fn data_home() -> Result<PathBuf> {
    match std::env::var_os("XDG_DATA_HOME").map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(path),
        _ => Ok(home()?.join(".local/share")),
    }
}

/// The home.
///
/// # Errors
/// There is none.
pub fn home() -> Result<PathBuf> {
    std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| Error::Usage("there is no home directory\n  hint: set HOME".to_owned()))
}

/// Whether a name from inside can be part of a file's name.
pub fn is_harmless(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-+@".contains(&b))
}
