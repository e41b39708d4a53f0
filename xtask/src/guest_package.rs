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

/// Makes the tree and the archive in `dist`, with the program `agent`, to be unpacked at `prefix`; gives back the archive's path.
///
/// # Errors
/// Something cannot be written; there is no `tar`.
pub fn make(dist: &Path, prefix: &Path, agent: &Path) -> Result<PathBuf, Failure> {
    let mut tree = Tree::new(dist.join("guest"));
    tree.copy(agent, "bin/sidebus-agent")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_the_agent_its_units_and_their_preset() {
        let dir = testbed::TestDir::new();
        let agent = dir.write("agent", "#!/bin/true\n");
        let archive = make(&dir.join("dist"), Path::new("/usr/local"), &agent).expect("it is made");
        let mut tar = Command::new("tar");
        tar.arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(dir.make_dir("out"));
        assert!(tar.status().expect("tar is here").success());
        let unit = dir.join("out/lib/systemd/system/sidebus-agent@.service");
        let unit = std::fs::read_to_string(unit).expect("a unit");
        assert!(
            unit.contains("ExecStart=/usr/local/bin/sidebus-agent "),
            "{unit}"
        );
        for file in [
            "bin/sidebus-agent",
            "lib/systemd/system/sidebus-agent@.socket",
            "lib/systemd/system/run-sidebus-documents.mount",
            "lib/systemd/system-preset/80-sidebus.preset",
            "share/man/man1/sidebus-agent.1",
        ] {
            assert!(dir.join("out").join(file).is_file(), "{file}");
        }
    }
}
