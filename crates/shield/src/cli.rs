//! The program `shield-bridge`: its command line, and what each command does.

mod bridge;
mod session;
pub(crate) mod terminal;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::container::{self, Found};
use crate::error::{Error, Result};
use crate::resolver;
use crate::state::StateDir;
use crate::up;

/// A container's firewall that asks, over D-Bus
///
/// A container reaches only what somebody allowed. What else it tries is refused at once, and asked about: on
/// the desktop, at the terminal, or by any program on the bus. The answer takes effect with the very next
/// connection. If this program ends, whatever was not allowed stays blocked.
#[derive(Debug, Parser)]
#[command(
    name = "shield-bridge",
    version,
    after_help = "\
Example, with a container named `build`:
  shield-bridge up build            deny all but what was allowed
  shield-bridge bridge build &      ask about the rest on the session bus
  shield-bridge notify &            ... with notifications on the desktop
  shield-bridge pending             ... or here: what waits for an answer
  shield-bridge allow 1 --for 5m

docs/shield.md explains all of it, from nothing to the first blocked connection."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a container's rules: deny all but the profile, and ask for the rest
    #[command(after_help = "\
A profile has one entry a line; # begins a comment:
  203.0.113.1            an address        203.0.113.0/24   a network
  203.0.113.1 tcp/443    one port of it    example.org      a name, and the names below it")]
    Up(Up),
    /// Serve D-Bus for one container, or for all that are up
    Bridge(Bridge),
    /// Hold a JSON-lines session on standard input and output
    Session(Session),
    /// Show desktop notifications with Allow, Allow 5 minutes, Deny
    Notify(Bus),
    /// List what waits for an answer
    Pending(Pending),
    /// Allow what was asked about
    Allow(Answer),
    /// Deny what was asked about
    Deny(Answer),
    /// Let everything through that is not denied, for a time
    AllowAll(AllowAll),
    /// Print questions and answers as they come
    Watch(Watch),
    /// Print the audit log
    Log(Log),
    /// Remove a container's rules: it reaches everything afterwards
    Down(Down),
}

/// Which container.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Which {
    /// A container's name or id, as podman, docker or Incus know it. With --pid or --netns: what to call it
    container: Option<String>,
    /// The container of this process
    #[arg(long, conflicts_with = "netns")]
    pid: Option<u32>,
    /// The container with this network namespace: /run/netns/NAME, /proc/PID/ns/net
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    which: Which,
    /// Where the container's decisions and log are kept [default: below /var/lib/shield or ~/.local/state/shield]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What to allow from the beginning
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// An address that is let through, whatever else is said; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// Deny without asking, and write it down
    #[arg(long)]
    unattended: bool,
    /// Ask about private networks (10.0.0.0/8, fc00::/7, ...), too, instead of refusing them
    #[arg(long)]
    ask_private: bool,
    /// Leave name resolution alone: names are neither known nor allowed then
    #[arg(long)]
    no_names: bool,
}

#[derive(Debug, Args, Clone)]
struct Bus {
    /// The bus: session, system, or an address
    #[arg(long, value_name = "ADDRESS", default_value = "session")]
    bus: String,
}

#[derive(Debug, Args)]
struct Resolvers {
    /// Where questions for names are forwarded to [default: those of /etc/resolv.conf]; may be given several times
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_resolver)]
    resolver: Vec<SocketAddr>,
}

impl Resolvers {
    fn addresses(&self) -> Vec<SocketAddr> {
        if self.resolver.is_empty() {
            resolver::system_resolvers()
        } else {
            self.resolver.clone()
        }
    }
}

fn parse_resolver(text: &str) -> std::result::Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.parse().map(|a: IpAddr| SocketAddr::new(a, 53)))
        .map_err(|_| "not an address, with or without a port".into())
}

#[derive(Debug, Args)]
struct Bridge {
    /// The container, by the name that `up` was given
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    container: Option<String>,
    /// Serve all containers that are up, and those that come up later
    #[arg(long)]
    all: bool,
    /// The container's state directory; with --all, the directory that holds those of all
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    bus: Bus,
    #[command(flatten)]
    resolvers: Resolvers,
    /// Hold each session in a process of its own
    #[arg(long)]
    subprocess: bool,
    /// Use this program for it, run inside the container's namespace with STATE_DIR CONTAINER added
    #[arg(long, value_name = "PROGRAM")]
    session_program: Option<PathBuf>,
    /// An argument for that program; may be given several times
    #[arg(
        long,
        value_name = "ARG",
        requires = "session_program",
        allow_hyphen_values = true
    )]
    session_arg: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
struct Session {
    /// Speak JSON lines (there is nothing else)
    #[arg(long)]
    json: bool,
    /// Keep questions over a restart, and tell losses: for our own bridge
    #[arg(long, hide = true)]
    for_bridge: bool,
    #[command(flatten)]
    resolvers: Resolvers,
    /// The container's state directory
    state_dir: PathBuf,
    /// The container
    container: String,
}

#[derive(Debug, Args)]
struct Pending {
    #[command(flatten)]
    bus: Bus,
    /// Only of this container
    container: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Answer {
    /// The question: its id, as `pending` lists it (CONTAINER:NUMBER; the number alone if only one has it)
    id: String,
    /// For a time only: 30s, 5m, 2h, 1d
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    /// The whole address, every port of it
    #[arg(long, conflicts_with = "domain")]
    address: bool,
    /// The name, with the names below it
    #[arg(long)]
    domain: bool,
    #[command(flatten)]
    bus: Bus,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct AllowAll {
    /// The container
    container: String,
    /// For how long; 0 ends it
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Duration,
    #[command(flatten)]
    bus: Bus,
}

#[derive(Debug, Args)]
struct Watch {
    #[command(flatten)]
    bus: Bus,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Log {
    /// Only of this container
    container: Option<String>,
    /// The container's state directory; without CONTAINER, the directory that holds those of all
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print the lines as they are
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Down {
    /// The container, by the name that `up` was given
    container: String,
    /// Its state directory
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("shield=warn,zbus=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shield-bridge: {error}");
            match error {
                Error::Usage(_) => ExitCode::from(2),
                _ => ExitCode::from(1),
            }
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => run_up(options),
        Command::Down(options) => {
            let state = state_dir(options.state_dir, &options.container);
            up::down(&state, &options.container)?;
            println!(
                "{}: the rules are removed; it reaches everything now",
                options.container
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Log(options) => terminal::log(options),
        Command::Bridge(options) => in_runtime(bridge::bridge(options)),
        Command::Session(options) => in_runtime(session::session(options)),
        Command::Notify(options) => in_runtime(async {
            let connection = connect(&options.bus).await?;
            crate::notify::notify(&connection)
                .await
                .map(|()| ExitCode::SUCCESS)
        }),
        Command::Pending(options) => in_runtime(terminal::pending(options)),
        Command::Allow(options) => {
            in_runtime(terminal::answer(options, crate::session::Action::Accept))
        }
        Command::Deny(options) => {
            in_runtime(terminal::answer(options, crate::session::Action::Deny))
        }
        Command::AllowAll(options) => in_runtime(terminal::allow_all(options)),
        Command::Watch(options) => in_runtime(terminal::watch(options)),
    }
}

/// One thread: everything here waits, or is a few microseconds of work.
fn in_runtime(future: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::system("starting".into(), e))?;
    let result = runtime.block_on(future);
    // A read from standard input that still waits must not keep us.
    runtime.shutdown_background();
    result
}

fn run_up(options: Up) -> Result<ExitCode> {
    let Which {
        container,
        pid,
        netns,
    } = options.which;
    let (name, found): (String, Found) = match (container, pid, netns) {
        (name, Some(pid), _) => (
            name.unwrap_or_else(|| format!("pid{pid}")),
            container::by_pid(pid)?,
        ),
        (name, None, Some(path)) => {
            let file = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let name = name.or(file).unwrap_or_else(|| "netns".into());
            (name, container::by_netns(&path))
        }
        (Some(name), None, None) => {
            let found = container::by_name(&name)?;
            (name, found)
        }
        (None, None, None) => {
            return Err(Error::Usage(
                "name a container, a --pid or a --netns".into(),
            ));
        }
    };
    let name = crate::text::plain(&name);
    let state = state_dir(options.state_dir, &name);
    let wishes = up::Wishes {
        profile: options
            .profile
            .as_deref()
            .map(up::read_profile)
            .transpose()?,
        gateways: options.gateway,
        unattended: options.unattended,
        ask_private: options.ask_private,
        without_names: options.no_names,
    };
    let done = up::up(&state, &name, &found, &wishes)?;
    println!(
        "{name}: up ({}), state in {}",
        done.short_id,
        state.path().display()
    );
    if done.open_to_container {
        eprintln!(
            "shield-bridge: warning: processes in {name} have CAP_NET_ADMIN over their own network and can remove the rules\n  hint: a rootless podman container, or one without that capability, cannot"
        );
    }
    if !options.unattended {
        println!("next: shield-bridge bridge {name}");
    }
    Ok(ExitCode::SUCCESS)
}

fn state_dir(given: Option<PathBuf>, container: &str) -> StateDir {
    match given {
        Some(path) => StateDir::new(path),
        None => StateDir::of_container(&StateDir::default_root(), container),
    }
}

/// Connects to a bus: `session`, `system` or an address.
async fn connect(bus: &str) -> Result<zbus::Connection> {
    let builder = match bus {
        "session"
            if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none()
                && std::env::var_os("XDG_RUNTIME_DIR").is_none() =>
        {
            return Err(Error::Usage(
                "there is no session bus here (DBUS_SESSION_BUS_ADDRESS is not set)\n  hint: --bus ADDRESS, or --bus system".into(),
            ));
        }
        "session" => zbus::connection::Builder::session(),
        "system" => zbus::connection::Builder::system(),
        address => zbus::connection::Builder::address(address),
    };
    builder
        .build()
        .await
        .map_err(|e| Error::bus(format!("connecting to the bus ({bus})"), e))
}

fn parse_time(text: &str) -> std::result::Result<Duration, String> {
    let unit = |c| match c {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let (digits, factor) = match text.chars().last().and_then(unit) {
        Some(factor) => (&text[..text.len() - 1], factor),
        None => (text, 1),
    };
    let seconds: u32 = digits
        .parse()
        .ok()
        .and_then(|n: u32| n.checked_mul(factor))
        .ok_or("write a time as 30s, 5m, 2h or 1d")?;
    Ok(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("30s", 30),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
            ("7", 7),
        ] {
            assert_eq!(parse_time(text).unwrap().as_secs(), seconds);
        }
        for bad in ["", "m", "-5m", "5 m", "5w", "1.5h", "99999999999d"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
