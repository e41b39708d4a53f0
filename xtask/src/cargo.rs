//! Running cargo on this workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::Failure;

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a directory in the workspace's root")
}

/// The cargo that runs this task, in the workspace's root.
pub fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    command
}

/// Where this workspace is built: this task itself was built there.
pub fn target_dir() -> PathBuf {
    let ours = std::env::current_exe().unwrap_or_default();
    // TARGET/PROFILE/xtask
    match ours.ancestors().nth(2) {
        Some(dir) if dir.is_dir() => dir.to_owned(),
        _ => root().join("target"),
    }
}

/// A build with these arguments, in the profile of this task.
pub fn build(arguments: &[&str]) -> Command {
    let mut command = command();
    command
        .arg("build")
        .args(arguments)
        .env("CARGO_TERM_COLOR", "never");
    command
}

/// The path of a program that was built beside this task.
///
/// # Errors
/// This task does not know where it is itself.
pub fn built(program: &str) -> Result<PathBuf, Failure> {
    let ours = std::env::current_exe().map_err(Failure::doing("finding this program's path"))?;
    Ok(ours.with_file_name(program))
}

/// Builds the multiplexer in the profile of this task, unless `KAPSULE_DBUS_MUX` names one, and gives back
/// its path. Cargo's own messages go to the terminal.
///
/// # Errors
/// It does not build.
pub fn build_mux() -> Result<PathBuf, Failure> {
    if std::env::var_os("KAPSULE_DBUS_MUX").is_none() {
        let status = build(&["--quiet", "--package", "kapsule-dbus-mux"])
            .status()
            .map_err(Failure::doing("running cargo build"))?;
        if !status.success() {
            return Err(Failure::new("kapsule-dbus-mux does not build (see above)"));
        }
    }
    testbed::mux_program()
}
