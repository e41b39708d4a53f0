//! The command line of `cargo xtask dist`.
//!
//! The task itself needs the programs' own command lines, to write man pages and completions from them. It
//! is behind a feature, because no other task should wait for the programs to be built, or fail when they
//! do not build.

use std::path::PathBuf;
#[cfg(not(feature = "dist"))]
use std::process::ExitCode;

#[cfg(not(feature = "dist"))]
use testbed::Failure;

/// Build what a package holds: programs, man pages, completions, systemd units
///
/// Everything goes to the directory dist, laid out as it is below a prefix.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask dist
  cargo xtask dist --install                               into /usr/local
  cargo xtask dist --install --prefix ~/.local             for yourself
  cargo xtask dist --install --prefix /usr --destdir pkg   for a package")]
pub struct Arguments {
    /// Install it below the prefix
    #[arg(long)]
    pub install: bool,

    /// Where the programs will run from; systemd's units name it
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: PathBuf,

    /// Install below this directory, as packagers do: DESTDIR/PREFIX
    #[arg(long, value_name = "DIR", requires = "install")]
    pub destdir: Option<PathBuf>,
}

/// Runs this same command line in a build of xtask that has the programs' command lines.
#[cfg(not(feature = "dist"))]
pub fn run_with_programs() -> Result<ExitCode, Failure> {
    let status = crate::cargo::command()
        .args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--features",
            "dist",
            "--",
        ])
        .args(std::env::args_os().skip(1))
        .current_dir(std::env::current_dir().map_err(Failure::doing("finding this directory"))?)
        .status()
        .map_err(Failure::doing("running cargo"))?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
