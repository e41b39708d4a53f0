//! What is measured, each started afresh for each run.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::Process;

/// The subjects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Kind {
    /// Programs connect to a dbus-daemon.
    Direct,
    /// A blind relay in front of it.
    Relay,
    /// xdg-dbus-proxy in front of it, without filters.
    XdgDbusProxy,
    /// The multiplexer, with the container bus in its own process.
    MuxLocal,
    /// The multiplexer, with a dbus-daemon as the container bus.
    MuxRemote,
}

impl Kind {
    pub const ALL: [Kind; 5] = [
        Kind::Direct,
        Kind::Relay,
        Kind::XdgDbusProxy,
        Kind::MuxLocal,
        Kind::MuxRemote,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Relay => "relay",
            Kind::XdgDbusProxy => "xdg-dbus-proxy",
            Kind::MuxLocal => "mux-local",
            Kind::MuxRemote => "mux-remote",
        }
    }
}

/// A subject that runs, and the buses around it.
pub struct World {
    /// Where services of the host connect.
    pub host: PathBuf,
    /// Where programs inside connect.
    pub inside: PathBuf,
    /// The process that is measured.
    pub subject: Process,
    _buses: Vec<Process>,
    _dir: TempDir,
}

/// Starts a subject with new buses.
pub fn start(kind: Kind, mux: &Path) -> Result<World, String> {
    let dir = tempfile::Builder::new()
        .prefix("kapsule-bench-")
        .tempdir()
        .map_err(|error| format!("cannot make a directory: {error}"))?;
    let at = |name: &str| dir.path().join(name);
    let (host, front, container) = (at("host"), at("front"), at("container"));
    let mut buses = Vec::new();
    let bus = dbus_daemon(dir.path(), &host)?;
    let address = |path: &Path| format!("unix:path={}", path.display());
    let command = match kind {
        Kind::Direct => {
            return Ok(World {
                inside: host.clone(),
                host,
                subject: bus,
                _buses: buses,
                _dir: dir,
            });
        }
        Kind::Relay => {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            let mut command = Command::new(own);
            command.arg("relay").args([&front, &host]);
            command
        }
        Kind::XdgDbusProxy => {
            let mut command = Command::new("xdg-dbus-proxy");
            command.arg(address(&host)).arg(&front);
            command
        }
        Kind::MuxLocal | Kind::MuxRemote => {
            let mut command = Command::new(mux);
            command
                .arg("--listen")
                .arg(&front)
                .arg("--host-bus")
                .arg(address(&host));
            command.args(["--inside-data-dirs", "/nonexistent"]);
            if kind == Kind::MuxRemote {
                buses.push(dbus_daemon(dir.path(), &container)?);
                command.arg("--container-bus").arg(address(&container));
            }
            command
        }
    };
    buses.push(bus);
    let subject = Process::start(command, &front)?;
    Ok(World {
        host,
        inside: front,
        subject,
        _buses: buses,
        _dir: dir,
    })
}

fn dbus_daemon(dir: &Path, socket: &Path) -> Result<Process, String> {
    let configuration = dir.join("bus.conf");
    let text = format!(
        "<busconfig><type>session</type><listen>unix:path={}</listen>\
         <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
         <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy>\
         <limit name=\"max_incoming_bytes\">1000000000</limit>\
         <limit name=\"max_outgoing_bytes\">1000000000</limit>\
         <limit name=\"max_message_size\">1000000000</limit>\
         <limit name=\"max_completed_connections\">100000</limit>\
         <limit name=\"max_incomplete_connections\">10000</limit>\
         <limit name=\"max_connections_per_user\">100000</limit>\
         <limit name=\"max_replies_per_connection\">50000</limit>\
         <limit name=\"max_match_rules_per_connection\">50000</limit></busconfig>",
        socket.display()
    );
    std::fs::write(&configuration, text).map_err(|error| error.to_string())?;
    let mut command = Command::new("dbus-daemon");
    command
        .arg("--nofork")
        .arg("--config-file")
        .arg(&configuration);
    Process::start(command, socket)
}
