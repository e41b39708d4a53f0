//! GameMode: the guest's processes are not the host's, so the broker plays in their place.
//!
//! The host's daemon counts processes. Ours is registered while any of the guest's is. The daemon is called as programs
//! of the host do it: its portal is for sandboxed ones, and maps their processes (1.16 refuses all others).

use std::collections::HashSet;

use tokio::sync::Mutex;

use super::host::Host;
use super::refusal::Refusal;
use super::values::Value;
use zbus::Variant;

/// Games at most; the guest makes up the numbers.
const MOST: usize = 256;

/// The guest's games: client and process.
#[derive(Debug, Default)]
pub struct Games(Mutex<HashSet<(String, i32)>>);

impl Games {
    /// What `method` of the portal answers to `client`.
    ///
    /// # Errors
    /// The host cannot be reached.
    pub async fn call(
        &self,
        host: &Host,
        client: &str,
        method: &str,
        arguments: &[Value],
    ) -> Result<Vec<Value>, Refusal> {
        let pid = match arguments.first() {
            Some(Variant::I32(pid)) => *pid,
            _ => return Err(Refusal::invalid("expected a process")),
        };
        let game = (client.to_owned(), pid);
        // Held over the call, so that two first games do not both register.
        let mut games = self.0.lock().await;
        let operation = method.strip_suffix("ByPid").unwrap_or(method);
        let result = match operation {
            "RegisterGame" => {
                if games.contains(&game) || games.len() >= MOST {
                    -1
                } else {
                    let result = match games.is_empty() {
                        true => ask(host, "RegisterGame").await?,
                        false => 0,
                    };
                    if result == 0 {
                        games.insert(game);
                    }
                    result
                }
            }
            "UnregisterGame" => {
                if !games.remove(&game) {
                    -1
                } else if games.is_empty() {
                    ask(host, "UnregisterGame").await?
                } else {
                    0
                }
            }
            _ => match ask(host, "QueryStatus").await? {
                // Active, and for the process that asks: that is ours.
                2 if !games.contains(&game) => 1,
                other => other,
            },
        };
        Ok(vec![Value::from(result)])
    }

    /// A client has gone, and its games with it.
    pub async fn forget(&self, host: &Host, client: &str) {
        let mut games = self.0.lock().await;
        let before = games.len();
        games.retain(|(other, _)| other != client);
        if before > 0
            && games.is_empty()
            && let Err(refusal) = ask(host, "UnregisterGame").await
        {
            tracing::debug!(%refusal, "the host's GameMode does not let go");
        }
    }
}

async fn ask(host: &Host, method: &str) -> Result<i32, Refusal> {
    // A process of a system with 22 bits for them.
    let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let answer = host
        .call(
            "com.feralinteractive.GameMode",
            "/com/feralinteractive/GameMode",
            "com.feralinteractive.GameMode",
            method,
            vec![Value::from(pid)],
        )
        .await?;
    match answer.first() {
        Some(Variant::I32(result)) => Ok(*result),
        _ => Err(Refusal::failed("the host's GameMode gave no number")),
    }
}
