//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use dbus_router::{BusAddress, HostBus, NamePattern};

/// One session bus for a container: what programs inside offer comes first, everything else is on the host.
///
/// Programs that connect to the socket at PATH see one session bus. Names that are owned inside the container
/// are found inside; all others are those of the host's session bus.
#[derive(Parser, Debug)]
#[command(name = "kapsule-dbus-mux", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_long_help = EXAMPLES)]
pub struct Cli {
    /// Serve, unless one of these is asked for.
    #[command(subcommand)]
    pub command: Option<Sub>,
    /// What to serve.
    #[command(flatten)]
    pub serve: Serve,
    /// Say more on standard error: -v what happens, -vv in detail.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  Serve a container, whose directory /run/user/1000/box is bind-mounted into it:
      kapsule-dbus-mux --listen /run/user/1000/box/bus
  and inside:
      export DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/box/bus
  The same, with a dbus-daemon of the container that other programs use directly:
      kapsule-dbus-mux --listen /run/user/1000/box/bus --container-bus unix:path=/run/box/bus
  Try it, without any container:
      kapsule-dbus-mux run -- busctl --user list

Environment:
  DBUS_SESSION_BUS_ADDRESS  the host bus, unless --host-bus says otherwise
  XDG_RUNTIME_DIR           where the host bus is (as `bus`) if neither says so
  XDG_DATA_DIRS             where the container's services and applications are described
  LISTEN_FDS, NOTIFY_SOCKET a socket passed by systemd takes the place of --listen; systemd is told READY
  RUST_LOG                  error, warn, info or debug: what to say on standard error, unless -v is given";

/// The first form: serve a socket.
#[derive(Args, Debug)]
pub struct Serve {
    /// The socket that programs inside connect to (mode 0600). What a dead process left there is replaced.
    #[arg(long, value_name = "PATH", global = false)]
    pub listen: Option<PathBuf>,
    /// Which buses to bring together.
    #[command(flatten)]
    pub buses: Buses,
    /// Look for more for so long before sleeping. Lowers the time of single calls and costs processor time; where there
    /// are few processors it may cost more than it brings.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub busy_poll: u32,
}

/// The buses, and what is inside.
#[derive(Args, Debug, Clone)]
pub struct Buses {
    /// The container's own bus, if it has one that programs also use directly; otherwise the router is that
    /// bus itself.
    #[arg(long, value_name = "ADDRESS", value_parser = BusAddress::parse)]
    pub container_bus: Option<BusAddress>,
    /// The host's session bus; "none" for a message bus by itself. [default: DBUS_SESSION_BUS_ADDRESS, then
    /// $XDG_RUNTIME_DIR/bus]
    #[arg(long, value_name = "ADDRESS|none", value_parser = HostBus::parse)]
    pub host_bus: Option<HostBus>,
    /// Where the container's services (dbus-1/services) and applications (applications) are described.
    /// What is installed there is started inside and does not find the host's instance. [default: XDG_DATA_DIRS,
    /// unless a container bus is given]
    #[arg(long, value_name = "DIR:…", value_delimiter = ':')]
    pub inside_data_dirs: Option<Vec<PathBuf>>,
    /// A host name that is refused otherwise because it hands over the host: org.freedesktop.systemd1,
    /// org.freedesktop.Flatpak, org.freedesktop.impl.portal.*, org.terok.Shield1.*. May be given several times.
    #[arg(long, value_name = "NAME", value_parser = pattern)]
    pub allow: Vec<NamePattern>,
}

/// Another form.
#[derive(Subcommand, Debug)]
pub enum Sub {
    /// Run a command with a bus of its own in front of the host's, and end with it.
    ///
    /// Makes a private socket, sets DBUS_SESSION_BUS_ADDRESS for COMMAND, ends with COMMAND's status (128 + N if
    /// signal N ended it) and leaves nothing behind.
    Run {
        /// Which buses to bring together.
        #[command(flatten)]
        buses: Buses,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Show who is connected to a running router, which names live where, and counters.
    Status {
        /// The socket of the router.
        path: PathBuf,
        /// Print JSON, one object on one line.
        #[arg(long)]
        json: bool,
    },
}

fn pattern(text: &str) -> Result<NamePattern, String> {
    NamePattern::parse(text).map_err(|error| error.to_string())
}

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_forms_of_the_manual_are_read() {
        let cli = Cli::try_parse_from(["mux", "--listen", "/x", "--host-bus", "none"]).unwrap();
        assert!(matches!(cli.serve.buses.host_bus, Some(HostBus::None)));
        let cli =
            Cli::try_parse_from(["mux", "run", "--host-bus", "unix:path=/h", "--", "ls", "-l"])
                .unwrap();
        assert!(matches!(cli.command, Some(Sub::Run { command, .. }) if command == ["ls", "-l"]));
        let cli = Cli::try_parse_from(["mux", "status", "/x", "--json"]).unwrap();
        assert!(matches!(cli.command, Some(Sub::Status { json: true, .. })));
    }
}
