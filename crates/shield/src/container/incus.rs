//! The Incus API over its unix socket: `GET /1.0/instances/NAME/state` has the first process, and
//! `GET /1.0/instances/NAME` the instance's uuid.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Found, http};

fn sockets() -> Vec<PathBuf> {
    if let Some(socket) = std::env::var_os("INCUS_SOCKET") {
        return vec![socket.into()];
    }
    if let Some(dir) = std::env::var_os("INCUS_DIR") {
        return vec![PathBuf::from(dir).join("unix.socket")];
    }
    ["/run/incus/unix.socket", "/var/lib/incus/unix.socket"]
        .map(PathBuf::from)
        .to_vec()
}

/// Finds a running instance by name; `PROJECT/NAME` names one of another project.
///
/// # Errors
/// Why Incus could not be asked, in words.
pub fn find(name: &str) -> Result<Option<Found>, String> {
    let mut why = "it has no socket here".to_owned();
    for socket in sockets().into_iter().filter(|s| s.exists()) {
        match find_at(&socket, name) {
            Ok(None) => why.clear(),
            Ok(found) => return Ok(found),
            Err(e) => why = e,
        }
    }
    if why.is_empty() { Ok(None) } else { Err(why) }
}

/// The same at a given socket.
///
/// # Errors
/// Why it could not be asked, in words.
pub fn find_at(socket: &Path, name: &str) -> Result<Option<Found>, String> {
    let (project, name) = name.split_once('/').unwrap_or(("default", name));
    let ask = |what: &str| -> Result<Option<Value>, String> {
        let target = format!(
            "/1.0/instances/{}{what}?project={}",
            http::escape(name),
            http::escape(project)
        );
        let (status, body) =
            http::get(socket, &target).map_err(|e| format!("asking {}: {e}", socket.display()))?;
        match status {
            200 => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|e| e.to_string()),
            404 => Ok(None),
            other => Err(format!("{} answered with status {other}", socket.display())),
        }
    };
    let Some(state) = ask("/state")? else {
        return Ok(None);
    };
    // An instance that does not run has 0 or -1 for its process.
    let pid = state
        .pointer("/metadata/pid")
        .and_then(Value::as_i64)
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid > 0);
    let Some(pid) = pid else {
        return Ok(None);
    };
    let instance = ask("")?;
    let uuid = instance
        .as_ref()
        .and_then(|i| i.pointer("/metadata/config/volatile.uuid"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    Ok(Some(Found::process("incus", pid, uuid)))
}
