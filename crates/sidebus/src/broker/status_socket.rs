//! The socket at which a broker is asked how it is, and who asks.
//!
//! It is DIR/status.sock of the runtime directory; $XDG_RUNTIME_DIR/sidebus/brokers/VM leads to it, so that
//! `sidebus-broker status` finds all of a person's brokers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::status::Status;
use crate::program::Failure;
use crate::transport::{Listener, Place};

const NAME: &str = "status.sock";
/// Where brokers leave word of themselves, below XDG_RUNTIME_DIR.
const BROKERS: &str = "sidebus/brokers";
/// How long a broker may take to answer, and who asks to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The broker's end. Its files go with it.
pub(super) struct StatusSocket {
    listener: Listener,
    sign: Option<PathBuf>,
}

impl StatusSocket {
    pub fn bind(runtime_dir: &Path, vm: &str) -> Result<StatusSocket, Failure> {
        let path = std::path::absolute(runtime_dir.join(NAME))
            .map_err(Failure::doing("finding the runtime directory"))?;
        let listener = Listener::bind(&Place::Unix(path.clone()))
            .map_err(Failure::doing(format!("listening on {}", path.display())))?;
        // Who has no such directory asks with --runtime-dir.
        let sign = brokers().and_then(|dir| {
            super::make_private(&dir).ok()?;
            let sign = dir.join(vm);
            let _ = std::fs::remove_file(&sign);
            std::os::unix::fs::symlink(&path, &sign).ok()?;
            Some(sign)
        });
        Ok(StatusSocket { listener, sign })
    }

    /// Answers whoever connects; never returns.
    pub async fn serve(&self, status: impl AsyncFn() -> Status) {
        loop {
            let Ok(socket) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(mut text) = serde_json::to_vec(&status().await) else {
                continue;
            };
            text.push(b'\n');
            tokio::spawn(tokio::time::timeout(PATIENCE, async move {
                let mut rest = &text[..];
                while !rest.is_empty() {
                    match socket.write(rest).await {
                        Ok(count) => rest = &rest[count..],
                        Err(_) => return,
                    }
                }
            }));
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if let Some(sign) = &self.sign {
            let _ = std::fs::remove_file(sign);
        }
    }
}

fn brokers() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(dir).join(BROKERS))
}

/// `sidebus-broker status`: prints how the brokers are.
pub(super) fn show(
    vm: Option<&str>,
    runtime_dir: Option<&Path>,
    json: bool,
) -> Result<(), Failure> {
    let sockets = match runtime_dir {
        Some(dir) => vec![dir.join(NAME)],
        None => signs()?,
    };
    let mut shown = 0;
    for socket in sockets {
        let status = match ask(&socket) {
            Ok(status) => status,
            // What a broker left that was killed.
            Err(_) if runtime_dir.is_none() => {
                let _ = std::fs::remove_file(&socket);
                continue;
            }
            Err(error) => {
                return Err(Failure::new(format!(
                    "asking the broker at {}: {error}",
                    socket.display()
                )));
            }
        };
        if vm.is_some_and(|vm| vm != status.vm) {
            continue;
        }
        let text = if json {
            serde_json::to_string(&status).map_err(Failure::doing("writing JSON"))?
        } else {
            status.to_string()
        };
        let separator = if shown > 0 && !json { "\n" } else { "" };
        // A reader that has seen enough closes the pipe.
        if writeln!(std::io::stdout(), "{separator}{text}").is_err() {
            return Ok(());
        }
        shown += 1;
    }
    match (shown, vm) {
        (0, Some(vm)) => Err(Failure::new(format!(
            "no broker of this user runs for a machine called {vm}"
        ))),
        (0, None) => Err(Failure::new(
            "no broker of this user runs; one with another XDG_RUNTIME_DIR is asked with --runtime-dir DIR",
        )),
        _ => Ok(()),
    }
}

/// The sockets of all brokers of this user, by the names of their machines.
fn signs() -> Result<Vec<PathBuf>, Failure> {
    let dir = brokers().ok_or_else(|| {
        Failure::new("where are the brokers? XDG_RUNTIME_DIR is not set; give --runtime-dir DIR")
    })?;
    let mut signs: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::new(format!("reading {}: {error}", dir.display()))),
    };
    signs.sort();
    Ok(signs)
}

fn ask(socket: &Path) -> std::io::Result<Status> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
