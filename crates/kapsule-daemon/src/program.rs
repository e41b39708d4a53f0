//! The program `kapsuled`: its arguments, its start and its end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use zbus::Connection;
use zbus::connection::Builder;

use crate::config::Config;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::incus::Incus;
use crate::manager::{Manager, NAME, PATH};
use crate::operations::Operations;
use crate::polkit::{Polkit, Subjects};
use crate::shell::Shells;

/// How long operations have to end when the daemon is stopped.
const END: Duration = Duration::from_secs(20);

/// The service org.kde.kapsule: containers for people, made by Incus, authorised by polkit.
///
/// It runs as root, on the system bus; systemd or the bus starts it when somebody needs it.
#[derive(Debug, Parser)]
#[command(name = "kapsuled", version)]
struct Arguments {
    /// The bus: "system", "session" (for development), or an address, which is taken for a system bus
    #[arg(long, default_value = "system", value_name = "BUS")]
    bus: String,
    /// Incus' socket [default: $INCUS_SOCKET, or unix.socket in $INCUS_DIR or /var/lib/incus]
    #[arg(long, value_name = "PATH")]
    incus_socket: Option<PathBuf>,
    /// The configuration file [default: /etc/kapsule/kapsule.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the daemon keeps what belongs to containers
    #[arg(long, default_value = "/var/lib/kapsule", value_name = "DIR")]
    data_dir: PathBuf,
    /// Set up Incus (a storage pool, a network, the default profile) and end; needs no bus
    #[arg(long)]
    initialize: bool,
    /// Log more; RUST_LOG, if it is set, says exactly what
    #[arg(short, long)]
    verbose: bool,
}

/// The command line, for the manual page.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs it.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.verbose { "debug" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(format!("warn,kapsule_daemon={level}"))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    // Few threads: it waits most of the time, and each has its memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(arguments));
            // What hangs in a disk is not waited for.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        }
        Err(error) => Err(Error::Failed(format!("starting: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kapsuled: {}", error.text());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let mut config = Config::read(arguments.config.as_deref())?;
    config.data_directory = absolute(&arguments.data_dir)?;
    config.incus_socket = arguments
        .incus_socket
        .unwrap_or_else(incus_client::Client::usual_socket);
    let config = Arc::new(config);
    let incus = Arc::new(Incus::new(incus_client::Client::new(&config.incus_socket)));
    if arguments.initialize {
        return crate::initialize::without_a_bus(&config, &incus).await;
    }
    let connecting = |error: zbus::Error| {
        Error::Failed(format!("connecting to the {} bus: {error}", arguments.bus))
    };
    let connection = match arguments.bus.as_str() {
        "system" => Builder::system(),
        "session" => Builder::session(),
        address => Builder::address(address),
    }
    .build()
    .await
    .map_err(connecting)?;
    let polkit = match arguments.bus.as_str() {
        "session" => {
            let system = Connection::system().await.map_err(Error::failed(
                "connecting to the system bus, where polkit is",
            ))?;
            Polkit::new(system, Subjects::Processes)
        }
        _ => Polkit::new(connection.clone(), Subjects::BusNames),
    };
    let remember = Duration::from_secs(config.remember_seconds);
    let operations = Operations::new(connection.clone(), remember);
    let shells = Shells::new(connection.clone(), config.clone());
    let daemon = Daemon::new(config, incus, polkit, operations.clone(), shells);
    connection
        .object_server()
        .at(PATH, Manager::new(daemon.clone()))
        .await
        .map_err(Error::failed("making the object /org/kde/kapsule"))?;
    let (terminate, interrupt) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let watching = Error::failed("watching for signals");
    let (mut terminate, mut interrupt) = terminate
        .and_then(|terminate| Ok((terminate, interrupt?)))
        .map_err(watching)?;
    // What the last one of us left half-made goes before anybody can ask for anything.
    daemon.sweep().await;
    let watch = tokio::spawn(daemon.clone().watch());
    connection.request_name(NAME).await.map_err(|error| {
        Error::Failed(format!(
            "taking the name {NAME}: {error}. Another kapsuled may be running, or org.kde.kapsule.conf is not among the \
             bus' policies."
        ))
    })?;
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("serving");
    let lost = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = connection.closed() => true,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    operations.cancel_all();
    if tokio::time::timeout(END, operations.wait_until_idle())
        .await
        .is_err()
    {
        tracing::warn!(
            "operations did not end; what they leave half-made is removed at the next start"
        );
    }
    watch.abort();
    if lost {
        return Err(Error::Failed(
            "the connection to the bus was lost; systemd starts the daemon again".to_owned(),
        ));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::failed(format_args!("finding {}", path.display())))
}
