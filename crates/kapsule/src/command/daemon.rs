//! `kapsule daemon`

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::json;

use crate::command::{print, print_json};
use crate::error::{Error, Result};
use crate::manager::{self, Manager};
use crate::text::plain;

const OPERATION: &str = "org.kde.kapsule.Operation";

/// Says how the daemon is.
pub async fn status(bus: &str, json: bool) -> Result<ExitCode> {
    let manager = Manager::connect(bus).await?;
    let version = manager.version().await?;
    let incus = manager.is_incus_available().await?;
    let mut operations = Vec::new();
    for path in manager.operations().await? {
        let get = async |name| {
            manager::property(manager.connection(), path.as_str(), OPERATION, name)
                .await
                .unwrap_or_default()
        };
        operations.push((get("Description").await, get("Status").await));
    }
    if json {
        let operations: Vec<_> = operations
            .iter()
            .map(|(what, status)| json!({"description": what, "status": status}))
            .collect();
        print_json(&json!({"version": version, "incus": incus, "operations": operations}));
    } else {
        print(&format!("kapsuled {} runs\n", plain(&version)));
        print(if incus {
            "Incus answers\n"
        } else {
            "Incus does not answer\n  hint: systemctl status incus; kapsule init sets it up\n"
        });
        for (what, status) in operations {
            print(&format!("{}: {}\n", plain(&what), plain(&status)));
        }
    }
    Ok(ExitCode::from(u8::from(!incus)))
}

/// Becomes the daemon. Comes back only with an error.
pub fn run(arguments: &[String]) -> Error {
    let program = program();
    let error = Command::new(&program).args(arguments).exec();
    Error::System {
        what: format!(
            "running {}\n  hint: kapsuled is a program of its own, beside this one",
            program.display()
        ),
        source: error,
    }
}

/// The daemon beside us, where packages put it, or wherever `PATH` finds it.
fn program() -> PathBuf {
    let ours = std::env::current_exe().unwrap_or_default();
    let directory = ours.parent().unwrap_or(Path::new("/"));
    [
        directory.join("kapsuled"),
        directory.join("../libexec/kapsuled"),
        directory.join("../lib/kapsule/kapsuled"),
    ]
    .into_iter()
    .find(|path| path.is_file())
    .unwrap_or_else(|| PathBuf::from("kapsuled"))
}
