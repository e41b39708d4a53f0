//! Docker's API: `GET /containers/NAME/json` over its unix socket. Podman's service speaks it, too.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Found, http};

/// The sockets to ask: `DOCKER_HOST` if it is one, otherwise the system's and the user's own.
fn sockets() -> Vec<PathBuf> {
    if let Ok(host) = std::env::var("DOCKER_HOST") {
        return host
            .strip_prefix("unix://")
            .map(PathBuf::from)
            .into_iter()
            .collect();
    }
    let mut sockets = vec![
        PathBuf::from("/run/docker.sock"),
        "/var/run/docker.sock".into(),
    ];
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
        sockets.push(PathBuf::from(runtime).join("docker.sock"));
    }
    sockets
}

/// Finds a running container by name or id.
///
/// # Errors
/// Why docker could not be asked, in words.
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
    let target = format!("/containers/{}/json", http::escape(name));
    let (status, body) =
        http::get(socket, &target).map_err(|e| format!("asking {}: {e}", socket.display()))?;
    match status {
        200 => {}
        404 => return Ok(None),
        other => return Err(format!("{} answered with status {other}", socket.display())),
    }
    let answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let pid = answer.pointer("/State/Pid").and_then(Value::as_u64);
    let id = answer.get("Id").and_then(Value::as_str).unwrap_or_default();
    // A container that does not run has 0 for its process.
    Ok(pid
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid > 0)
        .map(|pid| Found::process("docker", pid, id)))
}
