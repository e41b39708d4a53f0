//! The program on the host: the machine's bus, the portals on it, and the guest's way to both.
//!
//! It is put together here, in this order: the daemons of the machine (supervisor), the machine's bus, the portals on
//! it, and last the socket for the agent; READY when all of it is there. It ends in the reverse order.

pub mod cli;
pub mod clients;
pub mod guest;
pub mod limits;
mod member;
mod room;
pub mod status;
mod status_socket;
pub mod vm_bus;

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::crossing::{DocumentStore, NoDocuments};
use crate::policy_file::Policy;
use crate::portals::{Documents, DocumentsConfig, Portals, PortalsConfig};
use crate::program::{self, Failure};
use crate::supervisor::{Plan, Supervisor, SupervisorError};
use crate::transport::{Listener, Place};
use cli::{Cli, Serve, Sub};
use clients::Clients;
use guest::{Guest, GuestConfig};
use status::{DaemonStatus, PortalsStatus, Status};
use status_socket::StatusSocket;
use vm_bus::{VmBus, VmBusConfig};

/// How long the portals may take to say what is open, and to close it.
const PORTALS_ANSWER: Duration = Duration::from_secs(2);
const PORTALS_END: Duration = Duration::from_secs(5);

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    program::main("sidebus-broker", cli.verbose, || match cli.command {
        Some(Sub::Status {
            vm,
            runtime_dir,
            json,
        }) => status_socket::show(vm.as_deref(), runtime_dir.as_deref(), json),
        None => {
            let passed = program::passed_socket()?;
            tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(Failure::doing("starting"))?
                .block_on(serve(cli.serve, passed))
        }
    })
}

async fn serve(options: Serve, passed: Option<OwnedFd>) -> Result<(), Failure> {
    let (Some(vm), Some(runtime_dir)) = (&options.vm, &options.runtime_dir) else {
        return Err(Failure::new(
            "--vm and --runtime-dir are needed; see --help",
        ));
    };
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;
    let policy = Arc::new(match &options.config {
        Some(path) => Policy::read(path).map_err(|error| Failure::new(error.to_string()))?,
        None => Policy::default(),
    });
    make_private(runtime_dir)?;
    let debug_socket = match &options.debug_access {
        Some(dir) => {
            make_private(dir)?;
            Some(dir.join("vm.sock"))
        }
        None => None,
    };

    // Starting takes a moment; who does not want to wait for it does not have to.
    let machine = tokio::select! {
        machine = Machine::start(&options, vm, runtime_dir, &policy) => machine?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let documents: Arc<dyn DocumentStore> = match &machine {
        Some(machine) => machine.documents.clone(),
        None => Arc::new(NoDocuments),
    };
    let (ended, bus_ended) = oneshot::channel();
    let bus = VmBusConfig {
        socket: debug_socket.as_deref(),
        services: policy.services.clone(),
        portals: machine.is_some(),
        limits: &policy.limits,
    };
    let bus = VmBus::start(bus, |error| {
        // Who waits may have stopped waiting.
        let _ = ended.send(error);
    })?;
    let seen = machine.as_ref().map(|it| it.documents.shared_directory());
    let clients = Clients::new(debug_socket.map(|_| seen.unwrap_or_default()));
    let portals = match &machine {
        Some(machine) => Some(
            machine
                .portals(vm, runtime_dir, &policy, &bus, &clients)
                .await?,
        ),
        None => None,
    };
    let guest = Guest::new(GuestConfig {
        bus: bus.handle().clone(),
        clients,
        documents,
        guest_documents: options.guest_documents.clone(),
        limits: policy.limits.clone(),
    });
    let listener = listen(&options, passed)?;
    let status = async || {
        let (agent, clients) = guest.status();
        Status {
            vm: vm.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            agent,
            clients,
            portals: match &portals {
                // A document portal that hangs must not hide that it does.
                Some(portals) => tokio::time::timeout(PORTALS_ANSWER, portals.status())
                    .await
                    .unwrap_or_default(),
                None => PortalsStatus::default(),
            },
            daemons: machine.as_ref().map(Machine::daemons).unwrap_or_default(),
        }
    };
    let status_socket = StatusSocket::bind(runtime_dir, vm)?;

    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tracing::info!(vm, "ready");
    let result = tokio::select! {
        () = guest.serve(&listener) => Ok(()),
        () = status_socket.serve(status) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = bus_ended => Err(match error {
            Ok(Some(error)) => Failure::new(format!("the machine's bus ended: {error}")),
            _ => Failure::new("the machine's bus ended"),
        }),
    };
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    drop(status_socket);
    drop(listener);
    guest.end("the broker on the host has ended").await;
    if let Some(portals) = portals {
        // The host may not answer any more.
        let _ = tokio::time::timeout(PORTALS_END, portals.stop()).await;
    }
    drop(bus);
    if let Some(machine) = machine {
        machine.supervisor.stop().await;
    }
    result
}

fn on_signal(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::doing("waiting for signals"))
}

/// What of the host belongs to the machine: its daemons, and its documents.
struct Machine {
    supervisor: Supervisor,
    documents: Arc<Documents>,
    host: String,
}

impl Machine {
    /// Starts the daemons; none with `--bus-only`.
    async fn start(
        options: &Serve,
        vm: &str,
        runtime_dir: &Path,
        policy: &Policy,
    ) -> Result<Option<Machine>, Failure> {
        if options.bus_only {
            return Ok(None);
        }
        let host = match &options.host_bus {
            Some(address) => address.clone(),
            None => host_bus()?,
        };
        let mut plan = Plan::new(vm, runtime_dir).map_err(without_portals)?;
        plan.guest_user = options.guest_user;
        match &options.virtiofsd {
            Some(none) if none.as_os_str() == "none" => plan.programs.virtiofsd = None,
            Some(path) => plan.programs.virtiofsd = Some(path.clone()),
            None if plan.programs.virtiofsd.is_none() => tracing::warn!(
                "virtiofsd is not installed: the guest does not see the documents that are shared with it; install \
                 it, or name it with --virtiofsd PATH, or say --virtiofsd none"
            ),
            None => {}
        }
        let supervisor = Supervisor::start(plan).await.map_err(without_portals)?;
        let documents = Documents::connect(DocumentsConfig {
            bus: supervisor.private_bus_address().to_owned(),
            app_id: supervisor.documents_app_id(),
            mount: supervisor.documents_mount(),
            persistent: policy.persistent_documents,
            most: policy.limits.documents,
        })
        .await
        .map_err(Failure::doing("connecting to the machine's private bus"))?;
        Ok(Some(Machine {
            supervisor,
            documents: Arc::new(documents),
            host,
        }))
    }

    async fn portals(
        &self,
        vm: &str,
        runtime_dir: &Path,
        policy: &Arc<Policy>,
        bus: &VmBus,
        clients: &Clients,
    ) -> Result<Portals, Failure> {
        let connection = bus
            .handle()
            .connect()
            .map_err(Failure::doing("connecting to the machine's bus"))?;
        let connection = zbus::connection::Builder::unix_stream(connection)
            .build()
            .await
            .map_err(Failure::doing("connecting to the machine's bus"))?;
        Portals::start(PortalsConfig {
            vm: connection,
            host: self.host.clone(),
            documents: self.documents.clone(),
            clients: clients.clone(),
            policy: policy.clone(),
            vm_name: vm.to_owned(),
            spool: runtime_dir.join("spool"),
            applications: data_home().map(|dir| dir.join("applications")),
        })
        .await
        .map_err(Failure::doing("starting the portals"))
    }

    fn daemons(&self) -> Vec<DaemonStatus> {
        let daemons = self.supervisor.status().into_iter();
        daemons
            .map(|daemon| DaemonStatus {
                name: daemon.name.to_owned(),
                pid: daemon.pid,
                restarts: daemon.starts.saturating_sub(1),
            })
            .collect()
    }
}

fn without_portals(error: SupervisorError) -> Failure {
    Failure::new(format!(
        "{error}\nWith --bus-only there are neither portals nor documents, and none of this is needed."
    ))
}

/// The host's session bus, as programs find it.
fn host_bus() -> Result<String, Failure> {
    if let Ok(address) = std::env::var("DBUS_SESSION_BUS_ADDRESS")
        && !address.is_empty()
    {
        return Ok(address);
    }
    match std::env::var("XDG_RUNTIME_DIR") {
        Ok(dir) if !dir.is_empty() => Ok(format!(
            "unix:path={}",
            dbus_wire::address::escape(format!("{dir}/bus").as_bytes())
        )),
        _ => Err(Failure::new(
            "which session bus has the host's portals? Neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set; \
             give --host-bus ADDRESS, or --bus-only for the machine's bus without portals",
        )),
    }
}

/// Where the person's own data is.
fn data_home() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))
}

/// A directory for us alone.
fn make_private(dir: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Failure::doing(format!(
            "making the directory {}",
            dir.display()
        )))
}

fn listen(options: &Serve, passed: Option<OwnedFd>) -> Result<Listener, Failure> {
    if let Some(socket) = passed {
        return Listener::adopt(socket, options.cid).map_err(Failure::doing(
            "using the socket that systemd passes (LISTEN_FDS)",
        ));
    }
    let place = match (&options.vsock_path, options.vsock_port) {
        (Some(path), Some(port)) => Place::hybrid(path, port),
        (Some(path), None) => Place::Unix(path.clone()),
        (None, Some(port)) => Place::Vsock {
            port,
            cid: options.cid,
        },
        (None, None) => {
            return Err(Failure::new(
                "nowhere to wait for the agent: give --vsock-port N, or --vsock-path PATH, or pass a socket as \
                 systemd does (LISTEN_FDS); see --help",
            ));
        }
    };
    Listener::bind(&place).map_err(|error| {
        let remedy = match (&place, error.raw_os_error()) {
            (Place::Vsock { .. }, _) => {
                "\nIs the module vhost_vsock (or vmw_vsock…) loaded, and the port free? Without vsock of the kernel, \
                 use --vsock-path with vhost-device-vsock."
            }
            _ => "",
        };
        Failure::new(format!("listening on {place}: {error}{remedy}"))
    })
}
