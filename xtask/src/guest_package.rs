//! What `cargo xtask dist` makes for virtual machines: the agent with its units, as a tree and as one archive to be
//! unpacked in the guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::Failure;

use crate::cargo;
use crate::dist::{Tree, man_pages};

/// For the guest's system manager: one agent serves all of it.
const UNITS: [(&str, &str); 3] = [
    (
        "sidebus-agent@.service",
        include_str!("../../crates/sidebus/data/guest/sidebus-agent@.service"),
    ),
    (
        "sidebus-agent@.socket",
        include_str!("../../crates/sidebus/data/guest/sidebus-agent@.socket"),
    ),
    (
        "run-sidebus-documents.mount",
        include_str!("../../crates/sidebus/data/guest/run-sidebus-documents.mount"),
    ),
];

const PRESET: &str = include_str!("../../crates/sidebus/data/guest/80-sidebus.preset");

/// Makes the tree and the archive in `dist`; gives back the archive's path.
///
/// # Errors
/// Something cannot be written; there is no `tar`.
pub fn make(dist: &Path, prefix: &Path) -> Result<PathBuf, Failure> {
    let mut tree = Tree::new(dist.join("guest"));
    let agent = cargo::target_dir().join("release/sidebus-agent");
    tree.copy(&agent, "bin/sidebus-agent")?;
    man_pages(&mut tree, &sidebus::agent::cli::command())?;
    let bindir = prefix.join("bin").display().to_string();
    for (unit, text) in UNITS {
        tree.write(
            format!("lib/systemd/system/{unit}"),
            text.replace("@bindir@", &bindir),
        )?;
    }
    tree.write("lib/systemd/system-preset/80-sidebus.preset", PRESET)?;
    for document in ["docs/sidebus.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        let path = cargo::root().join(document);
        let name = path.file_name().unwrap_or_default().to_owned();
        tree.copy(&path, Path::new("share/doc/sidebus-agent").join(name))?;
    }
    let archive = dist.join(format!(
        "sidebus-guest-{}-{}.tar.gz",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    ));
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--sort=name", "-czf"])
        .arg(&archive)
        .arg("-C")
        .arg(tree.root())
        .arg(".");
    let status = tar.status().map_err(Failure::doing(
        "running tar, to pack what goes into a guest",
    ))?;
    match status.success() {
        true => Ok(archive),
        false => Err(Failure::new("tar failed (see above)")),
    }
}
