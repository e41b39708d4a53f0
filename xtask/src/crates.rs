//! Programs that no distribution has in the version that tests need: cargo installs them beside what else tests
//! keep, one directory for each version, so that nothing of the person's own is touched.

use std::process::Command;

use testbed::Failure;
use testbed::tools::{Crate, Tool};

use crate::{cargo, steps};

/// The command for one of them, as a person would type it.
pub fn shown(program: Crate) -> String {
    format!(
        "cargo install --locked --root {} {}@{}",
        program.root().display(),
        program.name,
        program.version
    )
}

/// Those of `tools` that cargo installs.
pub fn of(tools: &[&'static Tool]) -> Vec<Crate> {
    tools.iter().filter_map(|tool| tool.from_crate()).collect()
}

/// Installs them, one after the other; what they have in common is built once. What does not build is shown, and is no
/// error here.
///
/// # Errors
/// cargo cannot be run at all.
pub fn install(programs: &[Crate]) -> Result<(), Failure> {
    for program in programs {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .args(["install", "--locked", "--force", "--root"])
            .arg(program.root())
            .arg(format!("{}@{}", program.name, program.version))
            // Not in the workspace: its configuration is for its own programs.
            .current_dir("/")
            .env("CARGO_TARGET_DIR", cargo::target_dir().join("xtask-crates"))
            .env("CARGO_TERM_COLOR", "never");
        let step = format!("build {} {}", program.name, program.version);
        let finished = steps::run(&step, command, steps::last_line)?;
        if !finished.status.success() {
            finished.show_tail();
        }
    }
    Ok(())
}
