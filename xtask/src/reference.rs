//! `cargo xtask reference`: the reference implementation's own tests against the multiplexer.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use clap::ValueEnum;
use testbed::reference::{Installation, SUITES};
use testbed::{Failure, Topology, World, WorldOptions, tools};

use crate::cargo;

/// Run the reference implementation's own tests (Debian package dbus-tests) against the multiplexer
///
/// Without arguments: all suites, in all topologies, compared case by case with a plain dbus-daemon; ends
/// with failure if a case passes there and not through the multiplexer.
///
/// With --suite and one --topology: that suite's own program, once, with its whole output and the
/// multiplexer's log after it. RUST_LOG is passed on to the multiplexer, and KAPSULE_DBUS_MUX names
/// another program than the one in the target directory.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask reference
  cargo xtask reference --suite test-monitor --all
  cargo xtask reference --suite test-monitor --topology local -- -p /monitor/become
  RUST_LOG=debug cargo xtask reference --suite test-fdpass --topology remote -- -p /relay
  cargo xtask reference --suite test-fdpass --topology local --strace -- -p /relay")]
pub struct Arguments {
    /// Only this suite: test-dbus-daemon, test-dbus-daemon-eavesdrop, test-fdpass, test-header-fields,
    /// test-monitor, or any other that is installed with them
    #[arg(long)]
    suite: Option<String>,

    /// Only this topology (repeatable)
    #[arg(long)]
    topology: Vec<TopologyName>,

    /// Show every case in the table, also those that came out the same everywhere
    #[arg(long)]
    all: bool,

    /// Trace the suite's system calls on its socket (needs strace)
    #[arg(long, requires = "suite")]
    strace: bool,

    /// Arguments for the suite's program (GLib: -l lists cases, -p PATH runs one)
    #[arg(last = true, requires = "suite")]
    suite_arguments: Vec<OsString>,
}

#[derive(Copy, Clone, ValueEnum)]
enum TopologyName {
    /// A dbus-daemon, no multiplexer
    Plain,
    /// A host bus, and the container bus inside the multiplexer
    Local,
    /// A host bus, and a dbus-daemon as the container bus
    Remote,
    /// The multiplexer as a message bus by itself
    NoHost,
}

impl From<TopologyName> for Topology {
    fn from(name: TopologyName) -> Topology {
        match name {
            TopologyName::Plain => Topology::Plain,
            TopologyName::Local => Topology::Local,
            TopologyName::Remote => Topology::Remote,
            TopologyName::NoHost => Topology::NoHost,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Some(installation) = Installation::find() else {
        return Err(Failure::new(tools::REFERENCE_SUITES.missing()));
    };
    let topologies: Vec<Topology> = match arguments.topology.as_slice() {
        [] => Topology::ALL.to_vec(),
        named => named.iter().map(|name| Topology::from(*name)).collect(),
    };
    if topologies.iter().any(|one| *one != Topology::Plain) {
        cargo::build_mux()?;
    }
    if let (Some(suite), [topology]) = (&arguments.suite, topologies.as_slice()) {
        return by_itself(&installation, suite, *topology, arguments);
    }
    if !arguments.suite_arguments.is_empty() || arguments.strace {
        return Err(Failure::new(
            "arguments for the suite's program, and --strace, go with one --topology",
        ));
    }
    let suites: Vec<&str> = match &arguments.suite {
        Some(suite) => vec![suite],
        None => SUITES.to_vec(),
    };
    let mut regressions = 0;
    for suite in suites {
        let comparison = installation.compare(suite, &topologies)?;
        for regression in comparison.regressions() {
            regressions += 1;
            println!("{regression}\n");
        }
        println!("{}", comparison.table(!arguments.all));
    }
    println!("{regressions} pass on a plain bus and not through the multiplexer");
    Ok(match regressions {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// One suite's own program in one topology; what it prints goes to the terminal as it comes.
fn by_itself(
    installation: &Installation,
    suite: &str,
    topology: Topology,
    arguments: &Arguments,
) -> Result<ExitCode, Failure> {
    let mut world = World::try_start(topology, &WorldOptions::default())?;
    let command = installation.command(suite, &world);
    let mut command = match arguments.strace {
        true => traced(&command),
        false => command,
    };
    let status = command
        .arg("--tap")
        .args(&arguments.suite_arguments)
        .status()
        .map_err(Failure::doing(format_args!("running {command:?}")))?;
    println!("\n{suite} in topology {topology}: {status}");
    if let Some(mux) = &mut world.mux {
        let state = match mux.process().has_ended() {
            Some(status) => format!("died: {status}"),
            None => "still runs".to_owned(),
        };
        println!("The multiplexer {state}. Its log:\n{}", mux.process().log());
    }
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The same command under strace, with what goes over its sockets in full.
fn traced(command: &Command) -> Command {
    let mut traced = Command::new("strace");
    traced
        .args([
            "-f",
            "-s",
            "4096",
            "-e",
            "trace=%network,read,write,readv,writev",
        ])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    if let Some(dir) = command.get_current_dir() {
        traced.current_dir(dir);
    }
    traced
}
