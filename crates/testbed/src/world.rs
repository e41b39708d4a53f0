//! A host, a container and the multiplexer between them, in the forms in which people run it.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::{DaemonOptions, DbusDaemon};
use crate::directory::TestDir;
use crate::failure::Failure;
use crate::mux::{Mux, MuxOptions};

/// Which buses there are.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum Topology {
    /// A dbus-daemon and no multiplexer: the control, which shows that a test is right.
    Plain,
    /// A host bus, and a container bus in the multiplexer's own process.
    Local,
    /// A host bus, and a container bus of its own process (`--container-bus`).
    Remote,
    /// The multiplexer is a message bus by itself (`--host-bus none`).
    NoHost,
}

impl Topology {
    /// All of them, the control first.
    pub const ALL: [Topology; 4] = [
        Topology::Plain,
        Topology::Local,
        Topology::Remote,
        Topology::NoHost,
    ];

    /// Those in which there is something outside, the control first.
    pub const WITH_HOST: [Topology; 3] = [Topology::Plain, Topology::Local, Topology::Remote];

    /// The word for it on command lines and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Topology::Plain => "plain",
            Topology::Local => "local",
            Topology::Remote => "remote",
            Topology::NoHost => "no-host",
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Makes tests of a function that takes a [`Topology`]: a module of the function's name with a test for
/// each topology that is listed. `with_host` stands for those that have one, `two_buses` for those in which
/// it is not the same as the container's, `multiplexed` for all but the control, `local_bus` for those in
/// which the container's bus is the multiplexer's own, `all` for all.
///
/// ```
/// # use testbed::Topology;
/// fn a_call_is_answered(topology: Topology) { /* … */ }
/// testbed::in_topologies!(with_host: a_call_is_answered);
/// ```
#[macro_export]
macro_rules! in_topologies {
    (all: $($body:ident),+ $(,)?) => {
        $($crate::in_topologies!(@ $body: plain Plain, local Local, remote Remote, no_host NoHost);)+
    };
    (with_host: $($body:ident),+ $(,)?) => {
        $($crate::in_topologies!(@ $body: plain Plain, local Local, remote Remote);)+
    };
    (two_buses: $($body:ident),+ $(,)?) => {
        $($crate::in_topologies!(@ $body: local Local, remote Remote);)+
    };
    (multiplexed: $($body:ident),+ $(,)?) => {
        $($crate::in_topologies!(@ $body: local Local, remote Remote, no_host NoHost);)+
    };
    (local_bus: $($body:ident),+ $(,)?) => {
        $($crate::in_topologies!(@ $body: local Local, no_host NoHost);)+
    };
    (@ $body:ident: $($test:ident $topology:ident),+) => {
        mod $body {
            $(
                #[test]
                fn $test() {
                    super::$body($crate::Topology::$topology);
                }
            )+
        }
    };
}

/// What there is besides the buses: services to activate, exceptions of the policy.
#[derive(Clone, Default)]
pub struct WorldOptions {
    /// Services that the host bus can activate.
    pub host_services: Vec<ServiceFile>,
    /// Services that are installed in the container. In the plain control they are on the one bus.
    pub inside_services: Vec<ServiceFile>,
    /// `--allow` of the multiplexer.
    pub allow: Vec<String>,
    /// More elements for the configuration file of each dbus-daemon.
    pub daemon_configuration: String,
    /// More of the environment of both buses and the multiplexer.
    pub environment: Vec<(String, String)>,
}

/// A D-Bus service file.
#[derive(Clone)]
pub struct ServiceFile {
    /// The name that activates it.
    pub name: String,
    /// Its command line.
    pub exec: String,
}

impl ServiceFile {
    /// A service `name` that is started by `exec`.
    pub fn new(name: impl Into<String>, exec: impl Into<String>) -> Self {
        ServiceFile {
            name: name.into(),
            exec: exec.into(),
        }
    }
}

/// A running topology. Everything in it is ended when it goes: the multiplexer first, then the buses,
/// then whatever was started in its directory.
pub struct World {
    topology: Topology,
    /// The multiplexer; there is none in the plain control.
    pub mux: Option<Mux>,
    /// The container's bus, if it is a process of its own.
    pub container: Option<DbusDaemon>,
    /// The host's bus, if there is a host.
    pub host: Option<DbusDaemon>,
    /// Where all of it lives.
    pub dir: TestDir,
}

impl World {
    /// Starts a topology with nothing besides.
    ///
    /// # Panics
    /// When a part of it cannot be started; shows its log.
    #[track_caller]
    pub fn start(topology: Topology) -> World {
        Self::start_with(topology, &WorldOptions::default())
    }

    /// Starts a topology.
    ///
    /// # Panics
    /// When a part of it cannot be started; shows its log.
    #[track_caller]
    pub fn start_with(topology: Topology, options: &WorldOptions) -> World {
        Self::start_in(TestDir::new(), topology, options)
    }

    /// Starts a topology in a directory that already holds what its services need.
    ///
    /// # Panics
    /// When a part of it cannot be started; shows its log.
    #[track_caller]
    pub fn start_in(dir: TestDir, topology: Topology, options: &WorldOptions) -> World {
        Self::try_start_in(dir, topology, options)
            .unwrap_or_else(|failure| panic!("{topology}: {failure}"))
    }

    /// Starts a topology.
    ///
    /// # Errors
    /// A part of it cannot be started; the text has its log.
    pub fn try_start(topology: Topology, options: &WorldOptions) -> Result<World, Failure> {
        Self::try_start_in(TestDir::new(), topology, options)
    }

    fn try_start_in(
        dir: TestDir,
        topology: Topology,
        options: &WorldOptions,
    ) -> Result<World, Failure> {
        let host_services = services_dir(&dir, "host-data", &options.host_services);
        let inside_services = services_dir(&dir, "inside-data", &options.inside_services);

        let daemon = |name: &str, service_dirs: Vec<PathBuf>| {
            let options = DaemonOptions {
                name: name.to_owned(),
                service_dirs,
                configuration: options.daemon_configuration.clone(),
                environment: options.environment.clone(),
            };
            DbusDaemon::start(&dir, &options)
        };
        let host = match topology {
            Topology::Plain => Some(daemon(
                "host",
                vec![inside_services.clone(), host_services],
            )?),
            Topology::Local | Topology::Remote => Some(daemon("host", vec![host_services])?),
            Topology::NoHost => None,
        };
        let container = match topology {
            Topology::Remote => Some(daemon("container", vec![inside_services])?),
            Topology::Plain | Topology::Local | Topology::NoHost => None,
        };
        let mux = match topology {
            Topology::Plain => None,
            Topology::Local | Topology::Remote | Topology::NoHost => {
                let options = MuxOptions {
                    host_bus: Some(match &host {
                        Some(host) => host.address().to_owned(),
                        None => "none".to_owned(),
                    }),
                    container_bus: container.as_ref().map(|bus| bus.address().to_owned()),
                    inside_data_dirs: vec![dir.join("inside-data")],
                    allow: options.allow.clone(),
                    environment: options.environment.clone(),
                    ..MuxOptions::default()
                };
                Some(Mux::start(&dir, &options)?)
            }
        };
        Ok(World {
            topology,
            mux,
            container,
            host,
            dir,
        })
    }

    /// Which it is.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The address that programs in the container are given.
    pub fn inside(&self) -> String {
        match (&self.mux, &self.host) {
            (Some(mux), _) => mux.address(),
            (None, Some(host)) => host.address().to_owned(),
            (None, None) => unreachable!("every topology has a bus"),
        }
    }

    /// The address that programs outside are given. In the plain control it is that of those inside.
    ///
    /// # Panics
    /// In [`Topology::NoHost`].
    #[track_caller]
    pub fn outside(&self) -> String {
        self.host
            .as_ref()
            .expect("a topology with a host")
            .address()
            .to_owned()
    }

    /// A command in the environment of this world, with `address` as its session bus.
    pub fn command(&self, program: &str, address: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.dir.environment())
            .env("DBUS_SESSION_BUS_ADDRESS", address)
            .current_dir(self.dir.join("home"));
        command
    }
}

/// Makes a data directory with service files in it; gives back the directory that holds them.
fn services_dir(dir: &TestDir, data: &str, services: &[ServiceFile]) -> PathBuf {
    let services_dir = dir.make_dir(format!("{data}/dbus-1/services"));
    dir.make_dir(format!("{data}/applications"));
    for service in services {
        dir.write(
            format!("{data}/dbus-1/services/{}.service", service.name),
            format!(
                "[D-BUS Service]\nName={}\nExec={}\n",
                service.name, service.exec
            ),
        );
    }
    services_dir
}
