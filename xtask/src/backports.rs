//! Packages that a release of Debian has in its backports only: the source of these for apt, written with the
//! person's consent, from the mirror that apt has Debian from.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use testbed::container_image::debian_mirror;
use testbed::{Failure, run_to_end};

/// Where the source is written to; removing the file undoes it.
const FILE: &str = "/etc/apt/sources.list.d/kapsule-backports.sources";

/// A source to be added to apt's.
pub struct Backports {
    suite: String,
}

impl Backports {
    /// The backports of the release `codename`, if one of `packages` is not to be had without them.
    pub fn wanted(packages: &BTreeSet<&str>, codename: &str) -> Option<Backports> {
        // Debian's own names are plain words; "sid" and "testing" have no backports.
        let plain = !codename.is_empty() && codename.bytes().all(|byte| byte.is_ascii_lowercase());
        if !plain || codename == "sid" || without_candidate(packages).is_empty() {
            return None;
        }
        Some(Backports {
            suite: format!("{codename}-backports"),
        })
    }

    /// What is said when the person is asked.
    pub fn shown(&self) -> String {
        format!("after adding {} to apt's sources ({FILE})", self.suite)
    }

    /// The command line, to be run as root, that writes the source.
    ///
    /// # Errors
    /// apt has Debian from nowhere.
    pub fn writing(&self) -> Result<Vec<String>, Failure> {
        let Backports { suite } = self;
        let text = format!(
            "# What the tests of Kapsule need and the release itself has not.\nTypes: deb\nURIs: {}\nSuites: {suite}\n\
             Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            debian_mirror()?
        );
        let script = "printf %s \"$1\" >\"$2\"";
        Ok(["sh", "-c", script, "sh", &text, FILE]
            .map(str::to_owned)
            .into())
    }
}

/// Those that apt knows nowhere to get from.
fn without_candidate<'a>(packages: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let mut command = Command::new("apt-cache");
    command.env("LC_ALL", "C").arg("policy").args(packages);
    let said: Result<_, Failure> = run_to_end(command, Duration::from_secs(60));
    let Ok(said) = said else {
        return BTreeSet::new();
    };
    let known = with_candidate(&said.stdout);
    packages
        .iter()
        .copied()
        .filter(|package| !known.contains(package))
        .collect()
}

/// The packages of which `apt-cache policy` has told a version to be had.
fn with_candidate(policy: &str) -> BTreeSet<&str> {
    let mut package = None;
    let mut known = BTreeSet::new();
    for line in policy.lines() {
        if !line.starts_with(' ') {
            package = line.strip_suffix(':');
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            known.extend(package);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_has_a_version_of_is_told_from_what_it_only_knows_the_name_of() {
        let policy = "bash:\n  Installed: (none)\n  Candidate: 5.2\n  Version table:\n     5.2 500\n\
                      incus-base:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert_eq!(with_candidate(policy), BTreeSet::from(["bash"]));
    }
}
