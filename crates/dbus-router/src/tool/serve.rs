//! `dbus-router --listen PATH`: serve until a signal; load the rules again when they change.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dbus_wire::address::Address;
use dbus_wire::frame::MessageType;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::cli::Serve;
use super::config_file::{self, ConfigFile};
use super::decision_log::{DecisionLog, LogTarget};
use super::decisions::{Line, Writer, now};
use super::learn::{Learned, Member, Use};
use super::program::{Failure, print, say};
use super::watch::FileWatch;
use crate::{
    Access, BusAddress, BusAddressError, Config, Decision, Direction, Handle, HostBus, Limits,
    Listen, Policy, Router, RouterError, Rules, Ruling, Side, Watcher,
};

/// Serves until SIGTERM or SIGINT.
pub(super) fn serve(options: &Serve) -> Result<(), Failure> {
    // Before the file is read: what is saved in between is not missed.
    let watch = options.config.as_deref().and_then(watch);
    let loaded = Loaded::new(options)?;
    let mut router = start(options, Policy::from_rules(loaded.config.rules.clone()))?;
    let logs = Arc::new(AtomicBool::new(loaded.writer.is_some()));
    let loaded = Arc::new(Mutex::new(loaded));
    router.watch(Box::new(DecisionsLogged {
        loaded: loaded.clone(),
        logs: logs.clone(),
    }));
    let reload = Reload {
        options: options.clone(),
        loaded,
        logs,
        handle: router.handle(),
    };
    let on_hangup = reload.clone();
    on_signals(router.handle(), move || on_hangup.reload(true))?;
    if let Some(watch) = watch {
        on_save(watch, move || reload.reload(false));
    }
    run(router)
}

/// Serves until SIGTERM or SIGINT, refuses nothing, and writes what would have been refused as rules.
pub(super) fn learn(options: &Serve, write: Option<PathBuf>) -> Result<(), Failure> {
    let mut rules = match &options.config {
        Some(path) => config_file::read(path)?.rules,
        None => Rules::default(),
    };
    // What the file allows already needs not be learned; everything else is allowed by no rule.
    rules.default = Side::Host;
    rules.unmentioned = Access::Own;
    rules.guard_host = false;
    rules.outward_signals = true;
    rules.inward_calls = true;
    let mut router = start(options, Policy::from_rules(rules))?;
    let learned = Arc::new(Mutex::new(Learned::default()));
    router.watch(Box::new(Learning(learned.clone())));
    let save = move || -> Result<(), Failure> {
        let text = locked(&learned).to_toml();
        match &write {
            None => print(&text).map(|_| ()),
            Some(path) => std::fs::write(path, text).map_err(|error| {
                Failure(format!(
                    "cannot write the rules to {}: {error}",
                    path.display()
                ))
            }),
        }
    };
    let save = Arc::new(save);
    let on_hangup = save.clone();
    on_signals(router.handle(), move || {
        if let Err(Failure(problem)) = on_hangup() {
            say(&format!("dbus-router: {problem}"));
        }
    })?;
    run(router)?;
    save()
}

fn run(router: Router) -> Result<(), Failure> {
    tracing::info!(address = router.address(), "ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    router.run()?;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    Ok(())
}

fn start(options: &Serve, policy: Policy) -> Result<Router, Failure> {
    let listen = options
        .listen
        .clone()
        .ok_or_else(|| Failure("nowhere to listen: give --listen PATH; see --help".to_owned()))?;
    let host = match &options.host {
        Some(HostBus::None) => None,
        Some(HostBus::At(BusAddress { addresses })) => Some(addresses.clone()),
        None => Some(default_host()?),
    };
    let container = options.sandbox.as_ref().map(|bus| bus.addresses.clone());
    let data_dirs = options
        .data_dirs
        .iter()
        .filter(|dir| !dir.as_os_str().is_empty())
        .cloned()
        .collect();
    Router::start(Config {
        listen: Listen::Path(listen),
        host,
        container,
        data_dirs,
        policy,
        limits: Limits::default(),
        busy_poll: std::time::Duration::from_micros(options.busy_poll.into()),
        ..Config::default()
    })
    .map_err(|error| {
        let remedy = match &error {
            RouterError::Bus {
                bus: crate::Bus::Host,
                ..
            } => {
                "\nIs a session running? Give its bus with --host ADDRESS, or --host none for a message bus by \
                 itself."
            }
            RouterError::Bus {
                bus: crate::Bus::Container,
                ..
            } => "\nIs the sandbox's bus running? Without --sandbox the router is that bus itself.",
            _ => "",
        };
        Failure(format!("{error}{remedy}"))
    })
}

fn default_host() -> Result<Vec<Address>, Failure> {
    match BusAddress::of_session() {
        Ok(bus) => Ok(bus.addresses),
        Err(error @ BusAddressError::Nowhere) => Err(Failure(format!(
            "which host bus? {error}; give --host ADDRESS, or --host none for a message bus by itself"
        ))),
        Err(error) => Err(Failure(error.to_string())),
    }
}

/// A panic elsewhere leaves what is locked here as it was: whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ── Rules that change ──

/// What is in force.
struct Loaded {
    config: ConfigFile,
    writer: Option<Writer>,
}

impl Loaded {
    /// Reads the file and opens what it names: all, or an error and nothing changes.
    fn new(options: &Serve) -> Result<Loaded, Failure> {
        let config = match &options.config {
            Some(path) => config_file::read(path)?,
            None => ConfigFile::default(),
        };
        let log = match &options.decisions {
            Some(to) => Some(DecisionLog {
                to: match to.as_str() {
                    "journal" => LogTarget::Journal,
                    path => LogTarget::File(path.into()),
                },
                refused_only: config.log.as_ref().is_some_and(|log| log.refused_only),
            }),
            None => config.log.clone(),
        };
        let writer = log
            .as_ref()
            .map(Writer::open)
            .transpose()
            .map_err(Failure)?;
        Ok(Loaded { config, writer })
    }
}

#[derive(Clone)]
struct Reload {
    options: Serve,
    loaded: Arc<Mutex<Loaded>>,
    logs: Arc<AtomicBool>,
    handle: Handle,
}

impl Reload {
    /// Loads the file again. If anything is wrong with it, the old rules stay, and it is said. `asked`: also
    /// where nothing has changed, for a log that was moved away.
    fn reload(&self, asked: bool) {
        let shown = self
            .options
            .config
            .as_deref()
            .unwrap_or(Path::new("(no file)"));
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now().ok());
        let _ = sd_notify::notify(&states);
        match Loaded::new(&self.options) {
            Ok(new) => {
                let mut loaded = locked(&self.loaded);
                if asked || new.config != loaded.config {
                    let changed = new.config.rules != loaded.config.rules;
                    let rules = new.config.rules.clone();
                    *loaded = new;
                    self.logs.store(loaded.writer.is_some(), Ordering::Relaxed);
                    // The router may be waiting for this lock to log a decision.
                    drop(loaded);
                    if changed {
                        self.handle.set_policy(Policy::from_rules(rules));
                        // Wishes are taken up in turn: when this is answered, the rules are in force.
                        let _ = self.handle.status();
                    }
                    say(&format!(
                        "dbus-router: {}: the rules were loaded",
                        shown.display()
                    ));
                }
            }
            Err(Failure(problem)) => {
                say(&format!(
                    "dbus-router: the rules were not loaded, the old ones stay in force:\n{problem}"
                ));
            }
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }
}

/// SIGTERM and SIGINT end the router, SIGHUP is `hangup`.
fn on_signals(handle: Handle, hangup: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Failure(format!("cannot wait for signals: {error}")))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => hangup(),
                _ => handle.stop(),
            }
        }
    });
    Ok(())
}

fn watch(path: &Path) -> Option<FileWatch> {
    FileWatch::new(path)
        .inspect_err(|error| {
            // That there is no such file is said by who reads it.
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, "the file cannot be watched; SIGHUP loads it again");
            }
        })
        .ok()
}

fn on_save(mut watch: FileWatch, saved: impl Fn() + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            match watch.wait() {
                Ok(()) => saved(),
                Err(error) => {
                    tracing::warn!(%error, "the file is not watched any more; SIGHUP loads it again");
                    return;
                }
            }
        }
    });
}

// ── What is told of ──

struct DecisionsLogged {
    loaded: Arc<Mutex<Loaded>>,
    /// Whether there is a log at the moment, to be known without the lock.
    logs: Arc<AtomicBool>,
}

impl Watcher for DecisionsLogged {
    fn wants_decisions(&self) -> bool {
        self.logs.load(Ordering::Relaxed)
    }

    fn decided(&mut self, decision: &Decision<'_>) {
        let mut loaded = locked(&self.loaded);
        let Some(writer) = &mut loaded.writer else {
            return;
        };
        if writer.refused_only() && decision.ruling == Ruling::Allowed {
            return;
        }
        writer.write(&Line {
            time: now(),
            client: decision.client,
            direction: match decision.direction {
                Direction::ToHost => "to_host",
                Direction::FromHost => "from_host",
                Direction::Inside => "inside",
            },
            destination: decision.destination,
            name: decision.name,
            interface: decision.interface,
            member: decision.member,
            path: decision.path,
            rule: decision.rule.map(|rule| rule.to_string()),
            verdict: match decision.ruling {
                Ruling::Allowed => "allowed",
                Ruling::Refused => "refused",
                Ruling::Hidden => "hidden",
            },
        });
    }
}

struct Learning(Arc<Mutex<Learned>>);

impl Watcher for Learning {
    fn decided(&mut self, decision: &Decision<'_>) {
        // A unique name is of no use in a rule.
        let name = decision
            .name
            .or(decision.destination)
            .filter(|name| dbus_wire::names::is_well_known_name(name));
        let (Some(name), None) = (name, decision.rule) else {
            return;
        };
        let member = Member {
            interface: decision.interface,
            member: decision.member,
            path: decision.path,
        };
        let is_driver = decision.interface == Some("org.freedesktop.DBus");
        let done = match (decision.direction, decision.kind) {
            (Direction::ToHost, MessageType::MethodCall) if is_driver => Use::Seen,
            (Direction::ToHost, MessageType::MethodCall) => Use::Called(member),
            (Direction::ToHost, MessageType::Signal) => Use::WasHeard,
            (Direction::FromHost, MessageType::MethodCall) => Use::WasCalled(member),
            (Direction::FromHost, MessageType::Signal) => Use::Heard(member),
            _ => return,
        };
        locked(&self.0).note(name, done);
    }
}
