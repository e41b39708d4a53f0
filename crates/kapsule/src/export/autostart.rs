//! Containers that are started when the person logs in: a file for each in `~/.config/autostart`, which all desktops
//! read (Desktop Application Autostart Specification), and show where such things are switched off.
//!
//! The file is all that there is of it, so that what the desktop says and what we say is the same.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::export::{exec, home, is_harmless, ourselves, record};
use crate::text::plain;

/// Has a container started at each login.
///
/// # Errors
/// The file cannot be written, or is another's.
pub fn switch_on(bus: &str, container: &str) -> Result<()> {
    let path = path(container)?;
    if path.symlink_metadata().is_ok() && text(container).is_none() {
        return Err(Error::Usage(format!(
            "{} is there already, and is none of kapsule's\n  hint: move it away",
            path.display()
        )));
    }
    let mut start = ourselves(bus)?;
    start.extend(["start".to_owned(), container.to_owned()]);
    let text = format!(
        "[Desktop Entry]\n\
         Type=Application\n\
         Name=Start the container {container}\n\
         Comment=Made by kapsule autostart\n\
         Exec={}\n\
         Icon=utilities-terminal\n\
         X-Kapsule-Container={container}\n",
        exec::compose(&start, &[])
    );
    record::write(&path, text.as_bytes(), false)
}

/// Has it started no more. Says whether it was.
///
/// # Errors
/// The file cannot be removed.
pub fn switch_off(container: &str) -> Result<bool> {
    if text(container).is_none() {
        return Ok(false);
    }
    let path = path(container)?;
    fs::remove_file(&path)
        .map(|()| true)
        .map_err(Error::doing(format!("removing {}", path.display())))
}

/// Whether a container is started at login. What a desktop has switched off is not.
pub fn is_on(container: &str) -> bool {
    let off = [
        "Hidden=true",
        "X-GNOME-Autostart-enabled=false",
        "X-KDE-autostart-enabled=false",
    ];
    text(container).is_some_and(|text| !text.lines().any(|line| off.contains(&line.trim())))
}

/// What the file says, if it is there and is ours.
fn text(container: &str) -> Option<String> {
    let text = fs::read_to_string(path(container).ok()?).ok()?;
    text.lines()
        .any(|line| line.strip_prefix("X-Kapsule-Container=") == Some(container))
        .then_some(text)
}

fn path(container: &str) -> Result<PathBuf> {
    if !is_harmless(container) {
        return Err(Error::Usage(format!(
            "{} is no name of a container",
            plain(container)
        )));
    }
    let config = match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from) {
        Some(path) if path.is_absolute() => path,
        _ => home()?.join(".config"),
    };
    Ok(config.join(format!("autostart/kapsule-{container}.desktop")))
}
