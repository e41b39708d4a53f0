//! The program in the guest: it takes the connections of programs, and carries them to the broker.
//!
//! It keeps nothing: every program has a connection of its own to the broker, and what the broker says holds. While
//! the broker is away, programs that connect wait a moment and are then told so.

pub mod cli;
mod control;
mod documents;
mod program;
mod who;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dbus_wire::Guid;
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::program::{self as process, Failure};
use crate::transport::{Endpoint, Listener, Place};
use cli::Cli;
use control::Broker;

/// Programs at the same time; the broker has its own limit, below this.
const MOST_PROGRAMS: usize = 4096;
/// How long to wait when there are no descriptors left for new connections.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long programs may take to hear that the agent ends.
const LINGER: Duration = Duration::from_secs(2);

/// What all parts of the agent know.
struct Agent {
    endpoint: Endpoint,
    /// The broker, as the control connection knows it.
    broker: watch::Receiver<Broker>,
    /// Asks for a new control connection: the broker does not know our token any more.
    renew: Arc<Notify>,
    /// Why the agent ends, once it does.
    ending: watch::Receiver<Option<String>>,
    allowed: Vec<u32>,
    documents: Option<PathBuf>,
    guid: Guid,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    process::main("sidebus-agent", cli.verbose, || {
        let passed = process::passed_socket()?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::doing("starting"))?
            .block_on(serve(cli, passed))
    })
}

async fn serve(cli: Cli, passed: Option<OwnedFd>) -> Result<(), Failure> {
    let endpoint = match (cli.connect, cli.port) {
        (Some(path), _) => Endpoint::Unix(path),
        (None, Some(port)) => Endpoint::Vsock(port),
        (None, None) => Endpoint::Vsock(port_of_credential()?),
    };
    let mut allowed = cli.allow_uid;
    allowed.extend([0, rustix::process::geteuid().as_raw()]);
    let listener = listen(cli.listen, passed, &allowed)?;
    let Listener::Unix(socket, _) = &listener else {
        return Err(Failure::new(
            "the socket that systemd passes (LISTEN_FDS) is not a unix socket: programs of the guest connect to it",
        ));
    };
    let mut guid = [0; 16];
    rustix::rand::getrandom(&mut guid, rustix::rand::GetRandomFlags::empty())
        .map_err(Failure::doing("asking for random bytes"))?;

    let (broker, broker_watch) = watch::channel(Broker::default());
    let (ending, ending_watch) = watch::channel(None);
    let renew = Arc::new(Notify::new());
    let control = tokio::spawn(control::keep(
        endpoint.clone(),
        broker,
        renew.clone(),
        ending_watch.clone(),
    ));
    let agent = Arc::new(Agent {
        endpoint,
        broker: broker_watch,
        renew,
        ending: ending_watch,
        allowed,
        documents: cli.documents,
        guid: Guid(guid),
    });

    let mut terminate =
        signal(SignalKind::terminate()).map_err(Failure::doing("waiting for signals"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(Failure::doing("waiting for signals"))?;
    // Programs can connect; whether the broker is there is told by STATUS. Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tokio::select! {
        () = accept(socket, &agent) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    drop(listener);
    ending.send_replace(Some("the agent in the guest has ended".to_owned()));
    drop(agent);
    // Every program holds the agent's side of this.
    let _ = tokio::time::timeout(LINGER, async {
        let _ = control.await;
        ending.closed().await;
    })
    .await;
    Ok(())
}

async fn accept(socket: &UnixListener, agent: &Arc<Agent>) {
    let room = Arc::new(tokio::sync::Semaphore::new(MOST_PROGRAMS));
    loop {
        let place = room.clone().acquire_owned().await;
        match socket.accept().await {
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::spawn(async move {
                    program::serve(&agent, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a program now");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn listen(
    path: Option<PathBuf>,
    passed: Option<OwnedFd>,
    allowed: &[u32],
) -> Result<Listener, Failure> {
    match (passed, path) {
        (Some(socket), _) => Listener::adopt(socket, None).map_err(Failure::doing(
            "using the socket that systemd passes (LISTEN_FDS)",
        )),
        (None, Some(path)) => {
            let failed = |error| {
                Failure::new(format!(
                    "listening on {}: {error}; is its directory there?",
                    path.display()
                ))
            };
            let listener = Listener::bind(&Place::Unix(path.clone())).map_err(failed)?;
            // Who may connect is decided by SO_PEERCRED; the mode keeps others out where only one user may.
            let one_user = allowed
                .iter()
                .all(|uid| [0, rustix::process::geteuid().as_raw()].contains(uid));
            let mode = if one_user { 0o600 } else { 0o666 };
            rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(mode))
                .map_err(|errno| failed(errno.into()))?;
            Ok(listener)
        }
        (None, None) => Err(Failure::new(
            "nowhere to listen: give --listen PATH, or pass a socket as systemd does (LISTEN_FDS); see --help",
        )),
    }
}

/// The port that the host has put into the machine's credentials.
fn port_of_credential() -> Result<u32, Failure> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        Failure::new(
            "which vsock port? give --port N, or have systemd pass the credential sidebus.port \
             (ImportCredential=sidebus.port); see --help",
        )
    })?;
    let path = PathBuf::from(dir).join("sidebus.port");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(format!(
            "reading the vsock port from the credential {}: {error}; the host sets it, for qemu with \
             -smbios type=11,value=io.systemd.credential:sidebus.port=N; or give --port N",
            path.display()
        ))
    })?;
    text.trim().parse().map_err(|_| {
        Failure::new(format!(
            "the credential sidebus.port has {:?} in it, which is no vsock port",
            text.trim()
        ))
    })
}
