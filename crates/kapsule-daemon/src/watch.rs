//! What Incus tells, passed on: states of containers to the bus, ends of containers to the shells, and a sweep whenever
//! Incus is back.

use std::sync::Arc;
use std::time::Duration;

use incus_client::{EventBody, Lifecycle, Seen};
use zbus::object_server::SignalEmitter;

use crate::daemon::Daemon;
use crate::manager::{Manager, PATH};

/// Between two attempts to remove what Incus is at work on.
const PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Watches Incus for as long as the daemon runs.
    pub async fn watch(self: Arc<Self>) {
        tokio::join!(self.listen(), self.sweep_again());
    }

    /// Sweeps again a while after Incus was still at work on what is half-made: unpacking a large image goes on when nobody
    /// waits for it any more, and Incus tells no end of it.
    async fn sweep_again(&self) {
        loop {
            self.sweep_again.notified().await;
            tokio::time::sleep(PAUSE).await;
            self.sweep().await;
        }
    }

    async fn listen(&self) {
        let mut watch = self.incus.client().watch(&["lifecycle"]);
        loop {
            match watch.next().await {
                Seen::Connected => {
                    tracing::info!("Incus is there");
                    self.incus.is_telling(true);
                    self.sweep().await;
                    self.changed().await;
                }
                Seen::Lost(error) => {
                    tracing::warn!(%error, "Incus is not there");
                    self.incus.is_telling(false);
                    self.is_unswept();
                }
                Seen::Event(event) => {
                    if let EventBody::Lifecycle(lifecycle) = event.body {
                        self.lifecycle(&lifecycle).await;
                    }
                }
            }
        }
    }

    async fn lifecycle(&self, lifecycle: &Lifecycle) {
        let Some(name) = lifecycle.instance() else {
            return;
        };
        self.incus.has_changed(name);
        let state = match lifecycle.action.as_str() {
            "instance-started" | "instance-restarted" | "instance-resumed" => Some("Running"),
            "instance-stopped" | "instance-shutdown" => Some("Stopped"),
            "instance-paused" => Some("Frozen"),
            "instance-deleted" => Some("Deleted"),
            "instance-created"
            | "instance-renamed"
            | "instance-updated"
            | "instance-restored"
            | "instance-snapshot-created"
            | "instance-snapshot-deleted" => None,
            _ => return,
        };
        if let Some(old) = lifecycle
            .context
            .get("old_name")
            .and_then(|old| old.as_str())
        {
            self.incus.has_changed(old);
        }
        if matches!(
            lifecycle.action.as_str(),
            "instance-stopped" | "instance-shutdown" | "instance-deleted" | "instance-restarted"
        ) {
            self.shells.container_stopped(name);
        }
        if let Some(state) = state
            && let Some(emitter) = self.emitter()
        {
            let _ = Manager::container_state_changed(&emitter, name, state).await;
        }
        self.changed().await;
    }

    /// Tells the bus that the list of containers is another.
    pub(crate) async fn changed(&self) {
        if let Some(emitter) = self.emitter() {
            // Nobody may listen; that the connection is gone is noticed elsewhere.
            let _ = Manager::containers_changed(&emitter).await;
        }
    }

    fn emitter(&self) -> Option<SignalEmitter<'_>> {
        SignalEmitter::new(self.operations.connection(), PATH).ok()
    }
}
