//! `kapsule start`, `stop`, `rm`, `rename`

use std::process::ExitCode;

use crate::cli::{Names, NamesForce, Remove, Rename};
use crate::command::print;
use crate::error::{Error, Result};
use crate::export::autostart;
use crate::export::record::Record;
use crate::manager::Manager;
use crate::operation;
use crate::progress::{Kind, note};
use crate::text::plain;

/// Does something to each of several containers: what fails for one does not keep the others waiting.
async fn each(
    names: &[String],
    mut act: impl AsyncFnMut(&str) -> Result<()>,
    done: &str,
) -> Result<ExitCode> {
    let mut failed = 0;
    for name in names {
        match act(name).await {
            Ok(()) => print(&format!("{}: {done}\n", plain(name))),
            Err(error @ (Error::NoDaemon { .. } | Error::DaemonGone { .. })) => return Err(error),
            Err(error @ Error::Cancelled(_)) => return Err(error),
            // The one and only is the error of the command.
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                note(Kind::Error, &format!("{name}: {error}"));
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// Starts containers.
pub async fn start(manager: &Manager, options: &Names) -> Result<ExitCode> {
    let act = async |name: &str| {
        let doing = format!("starting container {name}");
        operation::follow(manager, &doing, manager.start(name)).await
    };
    each(&options.names, act, "started").await
}

/// Stops containers.
pub async fn stop(manager: &Manager, options: &NamesForce) -> Result<ExitCode> {
    let act = async |name: &str| {
        let doing = format!("stopping container {name}");
        operation::follow(manager, &doing, manager.stop(name, options.force)).await
    };
    each(&options.names, act, "stopped").await
}

/// Deletes containers, and what they have exported.
pub async fn remove(manager: &Manager, options: &Remove) -> Result<ExitCode> {
    let act = async |name: &str| remove_one(manager, name, options.force).await;
    each(&options.names, act, "deleted").await
}

/// Deletes a container, and what it has exported.
///
/// # Errors
/// The daemon refuses, or it fails. What it has exported stays then.
pub async fn remove_one(manager: &Manager, name: &str, force: bool) -> Result<()> {
    let doing = format!("deleting container {name}");
    operation::follow(manager, &doing, manager.delete(name, force)).await?;
    autostart::switch_off(name)?;
    for file in Record::open(name)?.remove_all()? {
        note(Kind::Detail, &format!("removed {}", file.display()));
    }
    Ok(())
}

/// Renames a container; what it has exported would not find it any more, and is taken away.
pub async fn rename(manager: &Manager, bus: &str, options: &Rename) -> Result<ExitCode> {
    let doing = format!("renaming container {}", options.name);
    let begin = manager.rename(&options.name, &options.new_name);
    operation::follow(manager, &doing, begin).await?;
    if autostart::is_on(&options.name) {
        autostart::switch_on(bus, &options.new_name)?;
    }
    autostart::switch_off(&options.name)?;
    let (name, new_name) = (plain(&options.name), plain(&options.new_name));
    let removed = Record::open(&options.name)?.remove_all()?;
    if !removed.is_empty() {
        note(
            Kind::Hint,
            &format!(
                "what {name} had exported is removed, for it named {name}; kapsule export {new_name} exports it again"
            ),
        );
    }
    print(&format!("{name} is called {new_name} now\n"));
    Ok(ExitCode::SUCCESS)
}
