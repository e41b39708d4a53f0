//! `kapsule snapshot`, `restore`, `clone`, `save`, `load`

use std::fs::{File, OpenOptions};
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;

use crate::cli;
use crate::command::table::{moment_of, table};
use crate::command::{print, print_json};
use crate::error::{Error, Result};
use crate::manager::{Manager, Snapshot};
use crate::operation;
use crate::progress::{Kind, note};
use crate::text::plain;

/// A name that says when: `PREFIX2026-11-20-101358`.
pub fn name_by_time(prefix: &str) -> String {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let moment = moment_of(seconds).replace(' ', "-").replace(':', "");
    format!("{prefix}{moment}{:02}", seconds % 60)
}

/// Takes a snapshot, lists them, or deletes one.
pub async fn snapshot(manager: &Manager, options: &cli::Snapshot) -> Result<ExitCode> {
    let name = &options.name;
    if options.list {
        let snapshots = manager.snapshots(name).await?;
        list(snapshots, options.json);
        return Ok(ExitCode::SUCCESS);
    }
    let snapshot = match &options.snapshot {
        Some(snapshot) => snapshot.clone(),
        None => name_by_time(""),
    };
    if options.delete {
        let doing = format!("deleting snapshot {snapshot} of container {name}");
        let begin = manager.delete_snapshot(name, &snapshot);
        operation::follow(manager, &doing, begin).await?;
        print(&format!("{}: deleted\n", plain(&snapshot)));
    } else {
        take(manager, name, &snapshot).await?;
        let (name, snapshot) = (plain(name), plain(&snapshot));
        print(&format!(
            "{snapshot}\nback: kapsule restore {name} {snapshot}\n"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a snapshot.
///
/// # Errors
/// The daemon refuses, or it fails.
pub async fn take(manager: &Manager, name: &str, snapshot: &str) -> Result<()> {
    let doing = format!("taking snapshot {snapshot} of container {name}");
    operation::follow(manager, &doing, manager.create_snapshot(name, snapshot)).await
}

fn list(snapshots: Vec<Snapshot>, json: bool) {
    if json {
        let snapshots: Vec<_> = snapshots
            .iter()
            .map(|s| json!({"name": s.name, "created": s.created, "stateful": s.stateful}))
            .collect();
        print_json(&json!(snapshots));
    } else {
        let rows = snapshots.into_iter().map(|s| {
            let note = if s.stateful { "with memory" } else { "" };
            [s.name, moment_of(s.created), note.to_owned()]
        });
        print(&table(["SNAPSHOT", "CREATED (UTC)", ""], rows));
    }
}

/// Brings a container back.
pub async fn restore(manager: &Manager, options: &cli::Restore) -> Result<ExitCode> {
    let snapshot = match &options.snapshot {
        Some(snapshot) => snapshot.clone(),
        None => newest(manager, &options.name, "").await?,
    };
    back_to(manager, &options.name, &snapshot).await?;
    let (name, snapshot) = (plain(&options.name), plain(&snapshot));
    print(&format!("{name} is as it was at {snapshot}\n"));
    Ok(ExitCode::SUCCESS)
}

/// Brings a container back to a snapshot.
///
/// # Errors
/// The daemon refuses, or it fails.
pub async fn back_to(manager: &Manager, name: &str, snapshot: &str) -> Result<()> {
    let doing = format!("restoring container {name} to {snapshot}");
    operation::follow(manager, &doing, manager.restore_snapshot(name, snapshot)).await
}

/// The newest snapshot of a container whose name begins so.
///
/// # Errors
/// There is none.
pub async fn newest(manager: &Manager, name: &str, prefix: &str) -> Result<String> {
    let snapshots = manager.snapshots(name).await?;
    let newest = snapshots
        .into_iter()
        .filter(|snapshot| snapshot.name.starts_with(prefix))
        .max_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    newest.map(|snapshot| snapshot.name).ok_or_else(|| {
        let kind = if prefix.is_empty() {
            ""
        } else {
            " from an upgrade"
        };
        Error::Usage(format!(
            "container {} has no snapshot{kind}\n  hint: kapsule snapshot {} --list",
            plain(name),
            plain(name)
        ))
    })
}

/// Copies a container.
pub async fn clone(manager: &Manager, options: &cli::Clone) -> Result<ExitCode> {
    let (source, target) = (&options.source, &options.target);
    let doing = format!("copying container {source} to {target}");
    operation::follow(manager, &doing, manager.clone_container(source, target)).await?;
    let target = plain(target);
    print(&format!(
        "{target} is there\nnext: kapsule enter {target}\n"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes a container into a file.
pub async fn save(manager: &Manager, options: &cli::Save) -> Result<ExitCode> {
    let shown = plain(&options.file.display().to_string());
    let doing = format!("writing {shown}");
    let mut open = OpenOptions::new();
    open.write(true);
    match options.force {
        true => open.create(true).truncate(true),
        false => open.create_new(true),
    };
    let file = open.open(&options.file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return Error::Usage(format!(
                "{shown} is there already\n  hint: --force writes over it"
            ));
        }
        Error::doing(doing)(error)
    })?;
    let saving = format!("saving container {}", options.name);
    let saved = operation::follow(manager, &saving, manager.save(&options.name, &file)).await;
    if saved.is_err() {
        // Half a container is of no use, and looks like a whole one.
        if let Err(error) = std::fs::remove_file(&options.file) {
            note(
                Kind::Warning,
                &format!("{shown} is not whole, and stays: {error}"),
            );
        }
    }
    saved?;
    print(&format!("{} is in {shown}\n", plain(&options.name)));
    Ok(ExitCode::SUCCESS)
}

/// Makes a container from a file.
pub async fn load(manager: &Manager, options: &cli::Load) -> Result<ExitCode> {
    let shown = plain(&options.file.display().to_string());
    let file = File::open(&options.file).map_err(Error::doing(format!("opening {shown}")))?;
    let doing = format!("loading {shown}");
    operation::follow(manager, &doing, manager.load(&options.name, &file)).await?;
    print(&format!("{shown}: loaded\n"));
    Ok(ExitCode::SUCCESS)
}
