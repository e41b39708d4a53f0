//! `shield-bridge bridge`: one process on the bus, for one container or for all.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use zbus::Connection;
use zbus::fdo::{RequestNameFlags, RequestNameReply};

use super::{Bridge as Command, connect, state_dir};
use crate::bridge::{Bridge, Way};
use crate::error::{Error, Result};
use crate::session::in_process::Options;
use crate::session::subprocess::Program;
use crate::state::StateDir;

/// The longest pause before the bus is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(10);

pub(super) async fn bridge(options: Command) -> Result<ExitCode> {
    let way = way(&options);
    let mut process = Process {
        connection: connect(&options.bus.bus).await?,
        bus: options.bus.bus.clone(),
        way,
        bridges: HashMap::new(),
        endings: JoinSet::new(),
    };
    let failed = |e| Error::system("waiting for signals".into(), e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;

    let mut root = None;
    match &options.container {
        Some(container) => {
            let state = state_dir(options.state_dir.clone(), container);
            process.add(state, container).await?;
        }
        None => {
            let path = options
                .state_dir
                .clone()
                .unwrap_or_else(StateDir::default_root);
            StateDir::new(&path).create()?;
            let watched = Root::new(path)?;
            process.add_new(&watched).await;
            root = Some(watched);
        }
    }
    notify_ready();
    loop {
        let connection = process.connection.clone();
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = connection.closed() => process.reconnect(&mut interrupt, &mut terminate).await?,
            Some(ended) = process.endings.join_next() => {
                if let Ok(container) = ended {
                    process.remove(&container).await;
                }
                match &root {
                    // It may have come up again already.
                    Some(root) => process.add_new(root).await,
                    None => {
                        eprintln!("shield-bridge: the container is gone");
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
            changed = Root::changed(&mut root) => {
                changed?;
                if let Some(root) = &root {
                    process.add_new(root).await;
                }
            }
        }
    }
    process.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn way(options: &Command) -> Way {
    if let Some(program) = &options.session_program {
        let mut words = vec![program.clone().into_os_string()];
        words.extend(options.session_arg.iter().cloned());
        return Way::Subprocess(Program::Other(words));
    }
    let resolvers = options.resolvers.addresses();
    if options.subprocess {
        return Way::Subprocess(Program::Ours { resolvers });
    }
    Way::InProcess(Options {
        keep_pending: true,
        resolvers,
        must_ask: false,
    })
}

/// What one process serves.
struct Process {
    connection: Connection,
    bus: String,
    way: Way,
    bridges: HashMap<String, Arc<Bridge>>,
    endings: JoinSet<String>,
}

impl Process {
    /// Begins to serve a container: first the objects, then the name.
    async fn add(&mut self, state: StateDir, container: &str) -> Result<()> {
        let bridge = Bridge::start(state, container, &self.connection, self.way.clone()).await?;
        if let Err(error) = own(&self.connection, bridge.bus_name()).await {
            bridge.stop().await;
            return Err(error);
        }
        tracing::info!(container, name = bridge.bus_name(), "serving");
        let bridge = Arc::new(bridge);
        let (ending, name) = (bridge.clone(), container.to_owned());
        self.endings.spawn(async move {
            ending.ended().await;
            name
        });
        self.bridges.insert(container.to_owned(), bridge);
        Ok(())
    }

    /// Begins to serve the containers below `root` that are up, and not yet served.
    async fn add_new(&mut self, root: &Root) {
        root.watch_below();
        for state in StateDir::all(&root.path) {
            let target = match state.target() {
                Ok(Some(target)) => target,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a state directory is left out");
                    continue;
                }
            };
            let container = target.container;
            if self.bridges.contains_key(&container) {
                continue;
            }
            match self.add(state, &container).await {
                // One that is gone is no news; the others are served all the same.
                Ok(()) | Err(Error::Gone(_)) => {}
                Err(error) => eprintln!("shield-bridge: {container}: {error}"),
            }
        }
    }

    async fn remove(&mut self, container: &str) {
        if let Some(bridge) = self.bridges.remove(container) {
            bridge.stop().await;
            let _ = self.connection.release_name(bridge.bus_name()).await;
        }
    }

    async fn stop(&mut self) {
        for (_, bridge) in self.bridges.drain() {
            bridge.stop().await;
            let _ = self.connection.release_name(bridge.bus_name()).await;
        }
    }

    /// The bus is lost. The sessions go on: what is blocked meanwhile waits, and is listed when the bus is
    /// back.
    async fn reconnect(
        &mut self,
        interrupt: &mut tokio::signal::unix::Signal,
        terminate: &mut tokio::signal::unix::Signal,
    ) -> Result<()> {
        tracing::warn!("the bus is lost");
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Err(Error::Usage("ended while the bus was lost".into())),
                _ = terminate.recv() => return Err(Error::Usage("ended while the bus was lost".into())),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            let Ok(connection) = connect(&self.bus).await else {
                continue;
            };
            let mut all = Ok(());
            for bridge in self.bridges.values() {
                all = bridge.reconnect(&connection).await;
                if all.is_ok() {
                    all = own(&connection, bridge.bus_name()).await;
                }
                if all.is_err() {
                    break;
                }
            }
            match all {
                Ok(()) => {
                    self.connection = connection;
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the bus is back, but does not serve us"),
            }
        }
    }
}

/// Owns a bus name, or says that somebody else does.
async fn own(connection: &Connection, name: &str) -> Result<()> {
    match connection
        .request_name_with_flags(name, RequestNameFlags::DO_NOT_QUEUE)
        .await
    {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(_) | Err(zbus::Error::NameTaken) => Err(Error::NameTaken(name.to_owned())),
        Err(error) => Err(Error::bus(format!("requesting the bus name {name}"), error)),
    }
}

/// Tells a service manager that we serve (sd_notify(3)).
fn notify_ready() {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Ok(socket) = std::os::unix::net::UnixDatagram::unbound()
    {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::net::SocketAddr;
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&path),
        };
        if let Ok(address) = address {
            let _ = socket.send_to_addr(b"READY=1", &address);
        }
    }
}

/// The directory with the state of all containers, watched for new ones.
struct Root {
    path: PathBuf,
    watch: AsyncFd<std::os::fd::OwnedFd>,
}

impl Root {
    fn new(path: PathBuf) -> Result<Self> {
        let failed = |e: std::io::Error| Error::system(format!("watching {}", path.display()), e);
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|e| failed(e.into()))?;
        let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, &path, events).map_err(|e| failed(e.into()))?;
        let watch = crate::system::watch(fd).map_err(failed)?;
        Ok(Self { path, watch })
    }

    /// Watches the containers' directories: `up` renames a file to `target.json` when all is there. A
    /// directory that is watched already stays so.
    fn watch_below(&self) {
        for entry in std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
        {
            let events = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ONLYDIR;
            // What is no directory is no container's.
            let _ = inotify::add_watch(self.watch.get_ref(), entry.path(), events);
        }
    }

    /// Returns when something has changed; never without a directory.
    async fn changed(root: &mut Option<Self>) -> Result<()> {
        let Some(root) = root else {
            return std::future::pending().await;
        };
        let failed = |e: std::io::Error| Error::system("watching for containers".into(), e);
        let mut ready = root.watch.readable_mut().await.map_err(failed)?;
        let mut buffer = [0u8; 4096];
        // What exactly has changed does not matter: all is looked at.
        while rustix::io::read(ready.get_inner(), &mut buffer).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
        Ok(())
    }
}
