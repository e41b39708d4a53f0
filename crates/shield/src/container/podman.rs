//! Podman's state files.
//!
//! In the storage's graph root, `DRIVER-containers/containers.json` lists containers with their ids and
//! names; in its run root, `DRIVER-containers/ID/userdata/pidfile` holds the first process's number while
//! it runs. Both roots may be configured (`storage.conf`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Found;

/// Where podman keeps its files.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The graph root: images and containers.
    pub graph: PathBuf,
    /// The run root: what is gone after a reboot.
    pub run: PathBuf,
}

/// The roots that the calling user's podman uses.
pub fn roots() -> Vec<Roots> {
    let uid = rustix::process::geteuid();
    // Podman, too, looks at this first (containers-storage.conf(5)).
    let named = std::env::var_os("CONTAINERS_STORAGE_CONF").map(PathBuf::from);
    if uid.is_root() {
        let file = named.unwrap_or_else(|| "/etc/containers/storage.conf".into());
        let (graph, run) = configured(&file);
        return vec![Roots {
            graph: graph.unwrap_or_else(|| "/var/lib/containers/storage".into()),
            run: run.unwrap_or_else(|| "/run/containers/storage".into()),
        }];
    }
    let dir = |name: &str, below: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(below)))
    };
    let config = dir("XDG_CONFIG_HOME", ".config").unwrap_or_default();
    let file = named.unwrap_or_else(|| config.join("containers/storage.conf"));
    let (graph, run) = configured(&file);
    let data = dir("XDG_DATA_HOME", ".local/share").unwrap_or_default();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || format!("/run/user/{}", uid.as_raw()).into(),
        PathBuf::from,
    );
    vec![Roots {
        graph: graph.unwrap_or_else(|| data.join("containers/storage")),
        run: run.unwrap_or_else(|| runtime.join("containers")),
    }]
}

/// `graphroot` and `runroot` of a storage.conf. They are plain strings, one a line, in the file's only table
/// that has such keys.
fn configured(path: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            let value = value.trim().strip_prefix('"')?.split('"').next()?;
            (name.trim() == key && value.starts_with('/')).then(|| value.into())
        })
    };
    (value("graphroot"), value("runroot"))
}

/// Finds a running container by name or by (the beginning of) its id.
///
/// # Errors
/// Why podman's files could not be read, in words.
pub fn find(name: &str) -> Result<Option<Found>, String> {
    let mut known = false;
    for roots in roots() {
        known |= roots.graph.is_dir();
        if let Some(found) = find_in(&roots, name) {
            return Ok(Some(found));
        }
    }
    if known {
        Ok(None)
    } else {
        Err("it has no storage here".into())
    }
}

/// The same in given roots.
pub fn find_in(roots: &Roots, name: &str) -> Option<Found> {
    let drivers = std::fs::read_dir(&roots.graph).ok()?;
    for driver in drivers.flatten() {
        let directory = driver.file_name();
        if !directory.to_string_lossy().ends_with("-containers") {
            continue;
        }
        // A container that is not kept over a reboot stands in the second file.
        for list in ["containers.json", "volatile-containers.json"] {
            let text = std::fs::read_to_string(driver.path().join(list)).unwrap_or_default();
            let Some(id) = id_of(&text, name) else {
                continue;
            };
            let file = roots
                .run
                .join(&directory)
                .join(&id)
                .join("userdata/pidfile");
            let pid: Option<u32> = std::fs::read_to_string(file)
                .ok()
                .and_then(|t| t.trim().parse().ok());
            if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
                return Some(Found::process("podman", pid, &id));
            }
        }
    }
    None
}

/// The id of the container with this name, or with an id that begins so.
fn id_of(list: &str, name: &str) -> Option<String> {
    let list: Value = serde_json::from_str(list).ok()?;
    let list = list.as_array()?;
    let id = |c: &Value| {
        let id = c.get("id")?.as_str()?;
        // It becomes part of a path.
        id.bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| id.to_owned())
    };
    let named = list.iter().find(|c| {
        c.get("names")
            .and_then(Value::as_array)
            .is_some_and(|names| names.iter().any(|n| n == name))
    });
    if let Some(container) = named {
        return id(container);
    }
    let long_enough = name.len() >= 12;
    list.iter()
        .filter_map(id)
        .find(|id| long_enough && id.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_container_is_found_by_name_and_by_id_and_a_stopped_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            graph: dir.path().join("graph"),
            run: dir.path().join("run"),
        };
        let id = "ab".repeat(32);
        let list = roots.graph.join("overlay-containers");
        std::fs::create_dir_all(&list).unwrap();
        std::fs::write(
            list.join("containers.json"),
            format!("[{{\"id\":\"{id}\",\"names\":[\"build\"]}},{{\"id\":\"../../x\",\"names\":[\"evil\"]}}]"),
        )
        .unwrap();
        assert_eq!(find_in(&roots, "build"), None);
        let userdata = roots
            .run
            .join("overlay-containers")
            .join(&id)
            .join("userdata");
        std::fs::create_dir_all(&userdata).unwrap();
        std::fs::write(userdata.join("pidfile"), std::process::id().to_string()).unwrap();
        for name in ["build", &id[..12]] {
            let found = find_in(&roots, name).unwrap();
            assert_eq!(found.pid, Some(std::process::id()));
            assert_eq!(found.short_id.as_deref(), Some("abababababab"));
        }
        assert_eq!(find_in(&roots, "evil"), None);
        assert_eq!(find_in(&roots, "ab"), None);
    }
}
