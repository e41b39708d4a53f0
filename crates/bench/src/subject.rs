//! What is measured, each started afresh for each run.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::dbus_broker;
use crate::peer::Peer;
use crate::process::{Counter, Process, is_installed};
use crate::scenario::ECHO;

/// The rules of a router with many.
const RULES: usize = 200;

/// The subjects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Kind {
    /// Programs connect to a dbus-daemon.
    Direct,
    /// Programs connect to a dbus-broker.
    DbusBroker,
    /// A blind relay in front of a dbus-daemon.
    Relay,
    /// xdg-dbus-proxy in front of it, without filters.
    XdgDbusProxy,
    /// The multiplexer, with the container bus in its own process.
    MuxLocal,
    /// The multiplexer, with a dbus-daemon as the container bus.
    MuxRemote,
    /// The router, with the sandbox's bus in its own process, and everything allowed.
    Router,
    /// The same with 200 rules, of which the last is about the service that is called.
    Router200,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Direct,
        Kind::DbusBroker,
        Kind::Relay,
        Kind::XdgDbusProxy,
        Kind::MuxLocal,
        Kind::MuxRemote,
        Kind::Router,
        Kind::Router200,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::DbusBroker => "dbus-broker",
            Kind::Relay => "relay",
            Kind::XdgDbusProxy => "xdg-dbus-proxy",
            Kind::MuxLocal => "mux-local",
            Kind::MuxRemote => "mux-remote",
            Kind::Router => "router",
            Kind::Router200 => "router-200-rules",
        }
    }

    /// Whether it can be measured here.
    pub fn is_here(self) -> bool {
        match self {
            Kind::DbusBroker => is_installed("dbus-broker"),
            Kind::XdgDbusProxy => is_installed("xdg-dbus-proxy"),
            _ => true,
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
    /// Whether this run counts system calls (and is not timed).
    counting: bool,
    _buses: Vec<Process>,
    _controller: Option<Peer>,
    _dir: TempDir,
}

/// Our own programs.
#[derive(Clone)]
pub struct Programs {
    /// kapsule-dbus-mux.
    pub mux: PathBuf,
    /// dbus-router.
    pub router: PathBuf,
    /// Microseconds for which they look for more before they sleep.
    pub busy_poll: Option<u32>,
    /// A command that runs them, with its arguments.
    pub under: Option<Vec<std::ffi::OsString>>,
}

impl Programs {
    fn command(&self, program: &Path) -> Command {
        let Some((first, rest)) = self.under.as_ref().and_then(|under| under.split_first()) else {
            return Command::new(program);
        };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }
}

/// What one message costs a subject.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Cost {
    /// Processor time, in nanoseconds.
    pub cpu_ns: Option<f64>,
    /// System calls.
    pub syscalls: Option<f64>,
}

/// What is being counted.
pub struct Meter {
    cpu_ns: u64,
    counter: RefCell<Option<Counter>>,
}

impl World {
    /// From now on until [`World::end_cost`] costs are counted.
    pub fn begin_cost(&self) -> Result<Meter, String> {
        let counter = match self.counting {
            true => Some(Counter::start(&self.subject)?),
            false => None,
        };
        Ok(Meter {
            cpu_ns: self.subject.cpu_ns(),
            counter: RefCell::new(counter),
        })
    }

    /// What each of `messages` has cost.
    pub fn end_cost(&self, meter: &Meter, messages: usize) -> Result<Cost, String> {
        let each = |count: u64| Some(count as f64 / messages as f64);
        let cpu_ns = self.subject.cpu_ns() - meter.cpu_ns;
        Ok(match meter.counter.take() {
            Some(counter) => Cost {
                cpu_ns: None,
                syscalls: each(counter.end()?),
            },
            None => Cost {
                cpu_ns: each(cpu_ns),
                syscalls: None,
            },
        })
    }
}

/// Rules of all kinds, each about another name, and then one about the service that is called.
fn rules() -> String {
    let mut text = String::new();
    for number in 0..RULES - 1 {
        let (table, key, name, rest) = match number % 4 {
            0 => (
                "filter",
                "name",
                format!("Service{number}"),
                "access = \"talk\"",
            ),
            1 => (
                "filter",
                "name",
                format!("area{number}.*"),
                "access = \"see\"",
            ),
            2 => {
                let calls = "calls = [\"org.example.Part.*@/org/example/*\"]";
                ("filter", "name", format!("Part{number}"), calls)
            }
            _ => ("host_routes", "destination", format!("Item{number}-*"), ""),
        };
        let _ = writeln!(text, "[[{table}]]\n{key} = \"org.example.{name}\"\n{rest}");
    }
    let _ = writeln!(text, "[[filter]]\nname = \"{ECHO}\"\naccess = \"talk\"");
    text
}

/// Starts a subject with new buses. `counting`: its system calls are counted, and nothing is timed.
pub fn start(kind: Kind, programs: &Programs, counting: bool) -> Result<World, String> {
    let dir = tempfile::Builder::new()
        .prefix("kapsule-bench-")
        .tempdir()
        .map_err(|error| format!("cannot make a directory: {error}"))?;
    let at = |name: &str| dir.path().join(name);
    let (host, front, container) = (at("host"), at("front"), at("container"));
    if kind == Kind::DbusBroker {
        let broker = dbus_broker::start(&host)?;
        return Ok(World {
            inside: host.clone(),
            host,
            subject: broker.process,
            counting,
            _buses: Vec::new(),
            _controller: Some(broker.controller),
            _dir: dir,
        });
    }
    let mut buses = Vec::new();
    let bus = dbus_daemon(dir.path(), &host)?;
    let address = |path: &Path| format!("unix:path={}", path.display());
    let command = match kind {
        Kind::Direct | Kind::DbusBroker => {
            return Ok(World {
                inside: host.clone(),
                host,
                subject: bus,
                counting,
                _buses: buses,
                _controller: None,
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
            let mut command = programs.command(&programs.mux);
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
            busy_poll(&mut command, programs);
            command
        }
        Kind::Router | Kind::Router200 => {
            let everything = "default = \"host\"\nunmentioned = \"talk\"\n";
            let rules = match kind {
                Kind::Router200 => rules(),
                _ => String::new(),
            };
            let file = at("rules.toml");
            std::fs::write(&file, format!("{everything}{rules}")).map_err(|it| it.to_string())?;
            let mut command = programs.command(&programs.router);
            command
                .arg("--listen")
                .arg(&front)
                .arg("--config")
                .arg(file);
            command.arg("--host").arg(address(&host));
            busy_poll(&mut command, programs);
            command
        }
    };
    buses.push(bus);
    let subject = Process::start(command, &front)?;
    Ok(World {
        host,
        inside: front,
        subject,
        counting,
        _buses: buses,
        _controller: None,
        _dir: dir,
    })
}

fn busy_poll(command: &mut Command, programs: &Programs) {
    if let Some(microseconds) = programs.busy_poll {
        command.args(["--busy-poll", &microseconds.to_string()]);
    }
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
    // Whether glibc gives the end of its heap back after each large message, and faults it in again for the next,
    // depends on how the heap happens to lie: a tenth of the time of whoever stands in front of it.
    command
        .env("MALLOC_TRIM_THRESHOLD_", (64 << 20).to_string())
        .env("MALLOC_MMAP_THRESHOLD_", (32 << 20).to_string());
    command
        .arg("--nofork")
        .arg("--config-file")
        .arg(&configuration);
    Process::start(command, socket)
}
