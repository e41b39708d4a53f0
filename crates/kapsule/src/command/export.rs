//! `kapsule export`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::Export;
use crate::command::table::table;
use crate::command::{print, print_json};
use crate::error::{Error, Result};
use crate::export::record::{Record, What};
use crate::export::{self, application, wrapper};
use crate::inside;
use crate::manager::Manager;
use crate::progress::{Kind, note};
use crate::text::plain;

/// Exports, lists, or takes away.
pub async fn export(bus: &str, options: Export) -> Result<ExitCode> {
    if options.delete {
        return delete(&options);
    }
    let manager = Manager::connect(bus).await?;
    let name = inside::name(&manager, &options.name).await?;
    if let Some(app) = &options.app {
        let path = export_application(&manager, bus, &name, app).await?;
        print(&format!("{}\n", plain(&path.display().to_string())));
    }
    for program in &options.bin {
        let path = export_program(&manager, bus, &name, program, options.to.as_deref()).await?;
        print(&format!("{}\n", plain(&path.display().to_string())));
    }
    if options.app.is_none() && options.bin.is_empty() {
        list(&manager, &name, options.json).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Exports an application of a container. Gives back its desktop file.
///
/// # Errors
/// There is no such application, or it cannot be written.
pub async fn export_application(
    manager: &Manager,
    bus: &str,
    container: &str,
    app: &str,
) -> Result<PathBuf> {
    let found = application::find(manager, container, app).await?;
    application::export(manager, container, &export::launcher(bus)?, &found).await
}

/// Exports a program of a container, to `to` or `~/.local/bin`. Gives back the wrapper.
///
/// # Errors
/// There is no such program, or it cannot be written.
pub async fn export_program(
    manager: &Manager,
    bus: &str,
    container: &str,
    program: &str,
    to: Option<&Path>,
) -> Result<PathBuf> {
    let name = program.rsplit('/').next().unwrap_or_default();
    if !program.starts_with('/')
        || program.chars().any(char::is_control)
        || !export::is_harmless(name)
    {
        return Err(Error::Usage(format!(
            "a program is named by its path inside, as in /usr/bin/hugo; this is none: {}",
            plain(program)
        )));
    }
    let argv = ["test", "-f", program, "-a", "-x", program].map(str::to_owned);
    if inside::capture(manager, container, &argv, 0).await?.status != 0 {
        return Err(Error::Usage(format!(
            "{} is no program in container {container}",
            plain(program)
        )));
    }
    let directory = match to {
        Some(to) => std::path::absolute(to)
            .map_err(Error::doing(format!("looking for {}", to.display())))?,
        None => export::home()?.join(".local/bin"),
    };
    let path = directory.join(name);
    let script = wrapper::script(&export::launcher(bus)?, container, program);
    let files = vec![(path.clone(), script.into_bytes(), true)];
    Record::open(container)?.add(What::Program, program, files)?;
    let search = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&search).any(|place| place == directory) {
        note(
            Kind::Hint,
            &format!("{} is not in PATH", directory.display()),
        );
    }
    Ok(path)
}

fn delete(options: &Export) -> Result<ExitCode> {
    let name = &options.name;
    let mut removed = Vec::new();
    if let Some(app) = &options.app {
        removed.extend(application::remove(name, app)?.ok_or_else(|| not_exported(name, app))?);
    }
    for program in &options.bin {
        let files = Record::open(name)?.remove(What::Program, program)?;
        removed.extend(files.ok_or_else(|| not_exported(name, program))?);
    }
    if options.app.is_none() && options.bin.is_empty() {
        removed = Record::open(name)?.remove_all()?;
    }
    for path in removed {
        print(&format!("removed {}\n", plain(&path.display().to_string())));
    }
    Ok(ExitCode::SUCCESS)
}

fn not_exported(container: &str, what: &str) -> Error {
    let (container, what) = (plain(container), plain(what));
    Error::Usage(format!(
        "{what} of container {container} is not exported\n  hint: kapsule export {container} lists what is"
    ))
}

async fn list(manager: &Manager, container: &str, json: bool) -> Result<()> {
    let record = Record::open(container)?;
    let applications = application::list(manager, container).await?;
    let is_exported = |id: &str| record.has(What::Application, id);
    let programs = record.all().iter().filter(|one| one.what == What::Program);
    if json {
        let applications: Vec<_> = applications
            .iter()
            .filter(|a| a.entry.is_shown() || is_exported(&a.id))
            .map(|a| {
                json!({
                    "id": a.id,
                    "name": a.entry.name(),
                    "path": a.path,
                    "exported": is_exported(&a.id),
                })
            })
            .collect();
        let programs: Vec<_> = programs
            .map(|one| json!({"path": one.name, "files": one.files}))
            .collect();
        print_json(&json!({"applications": applications, "programs": programs}));
        return Ok(());
    }
    let mark = |exported| if exported { "exported" } else { "" };
    let mut rows: Vec<[String; 3]> = applications
        .iter()
        .filter(|a| a.entry.is_shown() || is_exported(&a.id))
        .map(|a| {
            let exported = mark(is_exported(&a.id)).to_owned();
            [a.id.clone(), a.entry.name(), exported]
        })
        .collect();
    rows.extend(programs.map(|one| {
        [
            one.name.clone(),
            "(program)".to_owned(),
            mark(true).to_owned(),
        ]
    }));
    print(&table(["APP", "NAME", ""], rows));
    Ok(())
}
