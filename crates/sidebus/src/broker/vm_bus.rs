//! The bus that the guest's programs are on: a local bus of ours, in a thread.

use std::path::Path;
use std::thread::JoinHandle;

use dbus_router::{
    Config, Handle, InsideRules, Limits as BusLimits, Listen, NamePattern, Router, RouterError,
};

use dbus_wire::WellKnownName;

use super::limits::Limits;
use crate::program::Failure;

/// Whoever offers one of these is asked by programs for the person's files: in a guest, nobody but the broker.
const RESERVED: [&str; 3] = [
    "org.freedesktop.portal.*",
    "org.freedesktop.impl.portal.*",
    "org.freedesktop.host.portal.*",
];

/// The names that a guest's programs wait for: nobody is on the bus before the portals are.
const PORTALS: [&str; 2] = [
    "org.freedesktop.portal.Desktop",
    "org.freedesktop.portal.Documents",
];

/// What a [`VmBus`] is made of.
#[derive(Debug)]
pub struct VmBusConfig<'a> {
    /// Where it has a socket in the file system; none: nowhere.
    pub socket: Option<&'a Path>,
    /// Names that the guest's programs may own. They may talk to each other only if there are any.
    pub services: Vec<NamePattern>,
    /// Whether the guest's programs wait until the portals are there.
    pub portals: bool,
    /// Quotas.
    pub limits: &'a Limits,
}

/// The VM bus. It ends with this.
#[derive(Debug)]
pub struct VmBus {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl VmBus {
    /// Starts it. `ended` is told when the bus ends.
    ///
    /// # Errors
    /// It cannot listen, or the system refuses.
    pub fn start(
        VmBusConfig {
            socket,
            services,
            portals,
            limits,
        }: VmBusConfig<'_>,
        ended: impl FnOnce(Option<RouterError>) + Send + 'static,
    ) -> Result<VmBus, Failure> {
        let reserved = RESERVED
            .iter()
            .map(|text| NamePattern::parse(text))
            .collect::<Result<_, _>>()
            .map_err(Failure::doing("reading a pattern of our own"))?;
        let awaited = PORTALS
            .iter()
            .filter(|_| portals)
            .map(|name| WellKnownName::parse(name))
            .collect::<Result<_, _>>()
            .map_err(Failure::doing("reading a name of our own"))?;
        let router = Router::start(Config {
            listen: match socket {
                Some(path) => Listen::Path(path.to_owned()),
                None => Listen::Nowhere,
            },
            inside: InsideRules {
                peers: !services.is_empty(),
                own: services,
                reserved,
                awaited,
                ..InsideRules::closed()
            },
            limits: bus_limits(limits),
            ..Config::default()
        })
        .map_err(Failure::doing("starting the machine's bus"))?;
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
