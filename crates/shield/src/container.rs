//! Finding a container: by its process, by its namespace's path, or by the name that podman, docker or
//! Incus know it by. State files and APIs are read directly; no program is run.

pub mod docker;
mod http;
pub mod incus;
pub mod podman;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::state::{StateDir, Target};

/// A container that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How: `podman`, `docker`, `incus`, `pid`, `netns`.
    pub kind: &'static str,
    /// Its first process; none if only its namespace is known.
    pub pid: Option<u32>,
    /// Twelve hexadecimal digits of its id, if it has one.
    pub short_id: Option<String>,
    /// The path of its network namespace.
    pub netns: PathBuf,
}

impl Found {
    fn process(kind: &'static str, pid: u32, id: &str) -> Self {
        Self {
            kind,
            pid: Some(pid),
            short_id: short_id(id),
            netns: format!("/proc/{pid}/ns/net").into(),
        }
    }
}

/// The first twelve hexadecimal digits of an id.
fn short_id(id: &str) -> Option<String> {
    let digits: String = id
        .chars()
        .filter(|c| *c != '-')
        .take(12)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    crate::state::is_short_id(&digits).then_some(digits)
}

/// A container of this process.
///
/// # Errors
/// If there is no such process.
pub fn by_pid(pid: u32) -> Result<Found> {
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return Err(Error::Gone(format!("process {pid}")));
    }
    Ok(Found::process("pid", pid, ""))
}

/// A container of this namespace.
pub fn by_netns(path: &Path) -> Found {
    Found {
        kind: "netns",
        pid: None,
        short_id: None,
        netns: path.to_path_buf(),
    }
}

/// A container of this name: podman is asked first, then docker, then Incus.
///
/// # Errors
/// If none of them has it, with what each of them said.
pub fn by_name(name: &str) -> Result<Found> {
    let mut tried = String::new();
    let answers = [
        ("podman", podman::find(name)),
        ("docker", docker::find(name)),
        ("incus", incus::find(name)),
    ];
    for (who, answer) in answers {
        match answer {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => tried.push_str(&format!("\n  {who}: none of this name runs")),
            Err(why) => tried.push_str(&format!("\n  {who}: {why}")),
        }
    }
    Err(Error::NoSuchContainer {
        name: name.to_owned(),
        tried,
    })
}

/// When a process started, in clock ticks since boot (proc(5), field 22 of `stat`).
pub fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The namespace of a container whose rules were loaded by `up`.
///
/// # Errors
/// If the container is gone; or if its process is, and another one has its number.
pub fn namespace(state: &StateDir, container: &str) -> Result<Namespace> {
    let Some(target) = state.target()? else {
        if !state.path().is_dir() {
            return Err(Error::NotUp {
                container: container.to_owned(),
            });
        }
        // Another program's directory: we were started inside the namespace.
        return Namespace::own();
    };
    of_target(&target)
}

/// The namespace that a target stands for.
///
/// # Errors
/// As for [`namespace`].
pub fn of_target(target: &Target) -> Result<Namespace> {
    let gone = || Error::Gone(format!("container {:?}", target.container));
    if let (Some(pid), Some(then)) = (target.pid, target.started)
        && started(pid) != Some(then)
    {
        return Err(gone());
    }
    match Namespace::open(&target.netns) {
        Err(Error::Gone(_)) => Err(gone()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_are_the_first_twelve_digits_also_of_a_uuid() {
        assert_eq!(
            short_id("0123456789ABcdef00").as_deref(),
            Some("0123456789ab")
        );
        assert_eq!(
            short_id("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9").as_deref(),
            Some("0a1b2c3d4e5f")
        );
        assert_eq!(short_id("0123"), None);
        assert_eq!(short_id("name-of-container"), None);
    }

    #[test]
    fn a_process_that_ended_is_not_another_one_with_its_number() {
        let me = std::process::id();
        let target = |started| Target {
            container: "c".into(),
            kind: "pid".into(),
            netns: "/proc/self/ns/net".into(),
            pid: Some(me),
            started,
            gateways: Vec::new(),
            ask_private: false,
            without_names: false,
        };
        assert!(of_target(&target(started(me))).is_ok());
        assert!(matches!(of_target(&target(Some(1))), Err(Error::Gone(_))));
    }
}
