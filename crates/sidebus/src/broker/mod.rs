//! The program on the host: the machine's bus, the portals on it, and the guest's way to both.
//!
//! It is put together here, in this order: the daemons of the machine (supervisor), the machine's bus, the portals on
//! it, and last the socket for the agent; READY when all of it is there. It ends in the reverse order.

pub mod cli;
pub mod clients;
pub mod guest;
pub mod limits;
mod member;
pub mod status;
mod status_socket;
pub mod vm_bus;

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::crossing::{DocumentStore, NoDocuments};
use crate::program::{self, Failure};
use crate::transport::{Listener, Place};
use cli::{Cli, Serve, Sub};
use clients::Clients;
use guest::{Guest, GuestConfig};
use limits::Limits;
use status::{PortalsStatus, Status};
use status_socket::StatusSocket;
use vm_bus::VmBus;

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
    let limits = Limits::default();
    make_private(runtime_dir)?;
    let debug_socket = match &options.debug_access {
        Some(dir) => {
            make_private(dir)?;
            Some(dir.join("vm.sock"))
        }
        None => None,
    };

    let (ended, bus_ended) = oneshot::channel();
    let bus = VmBus::start(debug_socket.as_deref(), Vec::new(), &limits, |error| {
        // Who waits may have stopped waiting.
        let _ = ended.send(error);
    })?;
    let clients = Clients::new(
        options
            .debug_access
            .as_ref()
            .map(|_| runtime_dir.join("doc")),
    );
    let documents: Arc<dyn DocumentStore> = Arc::new(NoDocuments);
    let guest = Guest::new(GuestConfig {
        bus: bus.handle().clone(),
        clients: clients.clone(),
        documents,
        guest_documents: options.guest_documents.clone(),
        limits,
    });
    let listener = listen(&options, passed)?;
    let status = {
        let (vm, guest) = (vm.clone(), guest.clone());
        move || {
            let (agent, clients) = guest.status();
            Status {
                vm: vm.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                agent,
                clients,
                portals: PortalsStatus::default(),
                daemons: Vec::new(),
            }
        }
    };
    let status_socket = StatusSocket::bind(runtime_dir, vm)?;

    let mut terminate =
        signal(SignalKind::terminate()).map_err(Failure::doing("waiting for signals"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(Failure::doing("waiting for signals"))?;
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
    drop(listener);
    guest.end("the broker on the host has ended").await;
    drop(status_socket);
    drop(bus);
    result
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
