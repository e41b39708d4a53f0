//! The bus that the guest's programs are on: a local bus of ours, in a thread.

use std::path::Path;
use std::thread::JoinHandle;

use dbus_router::{Config, Handle, Limits as BusLimits, Listen, Policy, Router, RouterError};

use super::limits::Limits;
use crate::program::Failure;

/// The VM bus. It ends with this.
#[derive(Debug)]
pub struct VmBus {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl VmBus {
    /// Starts it. It has a socket in the file system only if `socket` says where. `ended` is told when the bus ends.
    pub fn start(
        socket: Option<&Path>,
        runtime_dir: &Path,
        limits: &Limits,
        ended: impl FnOnce(Option<RouterError>) + Send + 'static,
    ) -> Result<VmBus, Failure> {
        // A router has a socket; where nobody is to come by it, its file goes before anybody can.
        let hidden = runtime_dir.join("vm-bus");
        let path = socket.unwrap_or(&hidden);
        let router = Router::start(Config {
            listen: Listen::Path(path.to_owned()),
            host: None,
            container: None,
            data_dirs: Vec::new(),
            policy: Policy::new(),
            limits: bus_limits(limits),
        })
        .map_err(Failure::doing("starting the machine's bus"))?;
        if socket.is_none() {
            std::fs::remove_file(&hidden)
                .map_err(Failure::doing(format!("removing {}", hidden.display())))?;
        }
        let handle = router.handle();
        let thread = std::thread::Builder::new()
            .name("vm-bus".to_owned())
            .spawn(move || ended(router.run().err()))
            .map_err(Failure::doing("starting a thread"))?;
        Ok(VmBus {
            handle,
            thread: Some(thread),
        })
    }

    /// To connect to it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for VmBus {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bus_limits(limits: &Limits) -> BusLimits {
    BusLimits {
        // The broker's own connections, and those of the socket for debugging, are clients as well.
        clients: limits.clients + 64,
        unregistered_clients: limits.clients + 64,
        names_per_client: limits.names_per_client,
        rules_per_client: limits.rules_per_client,
        calls_per_client: limits.calls_per_client,
        receiver_bytes: limits.queued_bytes,
        sender_bytes: limits.queued_bytes,
        receiver_fds: limits.queued_fds,
        sender_fds: limits.queued_fds,
        ..BusLimits::default()
    }
}
