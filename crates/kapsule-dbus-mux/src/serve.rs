//! `kapsule-dbus-mux --listen PATH`: serve until a signal.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use dbus_router::{
    BusAddress, BusAddressError, Config, Handle, HostBus, Limits, Listen, Policy, Router,
};
use dbus_wire::address::Address;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{Buses, Serve};
use crate::program::Failure;

pub(crate) fn serve(options: Serve) -> Result<(), Failure> {
    let listen = listen(options.listen)?;
    let busy_poll = Duration::from_micros(options.busy_poll.into());
    let router = start(listen, &options.buses, busy_poll)?;
    stop_on_signals(router.handle())?;
    tracing::info!(address = router.address(), "ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    router.run()?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    Ok(())
}

fn listen(path: Option<PathBuf>) -> Result<Listen, Failure> {
    let passed = listenfd::ListenFd::from_env().take_unix_listener(0);
    match (path, passed) {
        // systemd listens there already; a unit may name the path for those who read it.
        (_, Ok(Some(socket))) => Ok(Listen::Socket(OwnedFd::from(socket))),
        (Some(path), _) => Ok(Listen::Path(path)),
        (None, Err(error)) => Err(Failure(format!(
            "the socket that was passed by LISTEN_FDS cannot be used: {error}; it has to be a unix \
             stream socket that listens"
        ))),
        (None, Ok(None)) => Err(Failure(
            "nowhere to listen: give --listen PATH, or pass a socket as systemd does (LISTEN_FDS); \
             see --help"
                .to_owned(),
        )),
    }
}

/// Starts a router as the options say.
pub(crate) fn start(listen: Listen, buses: &Buses, busy_poll: Duration) -> Result<Router, Failure> {
    let host = match &buses.host_bus {
        Some(HostBus::None) => None,
        Some(HostBus::At(BusAddress { addresses })) => Some(addresses.clone()),
        None => Some(default_host_bus()?),
    };
    let container = buses
        .container_bus
        .as_ref()
        .map(|bus| bus.addresses.clone());
    if host.is_none() && container.is_some() {
        return Err(Failure(
            "--host-bus none with --container-bus leaves nothing to bring together: programs can use \
             the container bus directly, or leave --container-bus out for a bus by itself"
                .to_owned(),
        ));
    }
    let data_dirs = match (&buses.inside_data_dirs, &container) {
        (Some(dirs), _) => dirs
            .iter()
            .filter(|dir| !dir.as_os_str().is_empty())
            .cloned()
            .collect(),
        (None, None) => default_data_dirs(),
        // That bus starts its services itself; which applications are inside only --inside-data-dirs can say.
        (None, Some(_)) => Vec::new(),
    };
    let mut policy = Policy::new();
    for pattern in &buses.allow {
        policy.allow(pattern.clone());
    }
    let limits = Limits::default();
    let config = Config {
        listen,
        host,
        container,
        data_dirs,
        policy,
        limits,
        busy_poll,
        ..Config::default()
    };
    Router::start(config).map_err(|error| {
        let remedy = match &error {
            dbus_router::RouterError::Bus { bus: dbus_router::Bus::Host, .. } => {
                "\nIs a session running? Give its bus with --host-bus ADDRESS, or --host-bus none for a \
                 message bus by itself."
            }
            dbus_router::RouterError::Bus { bus: dbus_router::Bus::Container, .. } => {
                "\nIs the container's bus running? Without --container-bus the router is that bus itself."
            }
            _ => "",
        };
        Failure(format!("{error}{remedy}"))
    })
}

fn default_host_bus() -> Result<Vec<Address>, Failure> {
    match BusAddress::of_session() {
        Ok(bus) => Ok(bus.addresses),
        Err(error @ BusAddressError::Nowhere) => Err(Failure(format!(
            "which host bus? {error}; give --host-bus ADDRESS, or --host-bus none for a message bus by itself"
        ))),
        Err(error) => Err(Failure(error.to_string())),
    }
}

fn default_data_dirs() -> Vec<PathBuf> {
    let home = std::env::var_os("XDG_DATA_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    let dirs = std::env::var_os("XDG_DATA_DIRS")
        .filter(|dirs| !dirs.is_empty())
        .unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    home.into_iter()
        .chain(std::env::split_paths(&dirs))
        .collect()
}

/// SIGTERM and SIGINT end the router.
fn stop_on_signals(handle: Handle) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure(format!("cannot wait for signals: {error}")))?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            handle.stop();
        }
    });
    Ok(())
}
