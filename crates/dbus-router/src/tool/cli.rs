//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{BusAddress, HostBus};

/// A message bus for a sandbox, with rules for what of the host's bus is there.
///
/// Programs that connect to the socket at PATH see one bus. What they offer each other stays inside; of the
/// host they see and reach what the rules in FILE allow, and nothing else.
#[derive(Parser, Debug)]
#[command(name = "dbus-router", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_long_help = EXAMPLES)]
pub struct Cli {
    /// Serve, unless one of these is asked for.
    #[command(subcommand)]
    pub command: Option<Sub>,
    /// What to serve.
    #[command(flatten)]
    pub serve: Serve,
    /// Say more on standard error: -v what happens, -vv every step.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  A bus for a sandbox, from which notifications and portals of the host can be reached:
      cat > rules.toml <<'END'
      [[host_routes]]
      destination = \"org.freedesktop.portal.*\"
      [[filter]]
      name = \"org.freedesktop.Notifications\"
      access = \"talk\"
      END
      dbus-router check rules.toml
      dbus-router --listen \"$XDG_RUNTIME_DIR/box-bus\" --config rules.toml &
      bwrap … --bind \"$XDG_RUNTIME_DIR/box-bus\" /run/bus \\
          --setenv DBUS_SESSION_BUS_ADDRESS unix:path=/run/bus …
  Why can a name not be reached?
      dbus-router explain rules.toml org.freedesktop.secrets
  Which rules does a program need?
      dbus-router learn --listen \"$XDG_RUNTIME_DIR/box-bus\" --write rules.toml

A changed FILE is loaded when it is saved, and on SIGHUP; one that is wrong changes nothing.

Environment:
  DBUS_SESSION_BUS_ADDRESS  the host's bus, unless --host says otherwise
  XDG_RUNTIME_DIR           where the host's bus is (as `bus`) if neither says so
  NOTIFY_SOCKET             systemd is told READY and RELOADING";

/// The first form: serve a socket.
#[derive(Args, Debug, Clone)]
pub struct Serve {
    /// The socket that programs inside connect to (mode 0600). What a dead process left there is replaced.
    #[arg(long, value_name = "PATH", required = true)]
    pub listen: Option<PathBuf>,
    /// The host's bus; "none" for a message bus by itself. [default: DBUS_SESSION_BUS_ADDRESS, then
    /// $XDG_RUNTIME_DIR/bus]
    #[arg(long, value_name = "ADDRESS|none", value_parser = HostBus::parse)]
    pub host: Option<HostBus>,
    /// The sandbox's own bus, if it has one that programs also use directly; otherwise the router is that
    /// bus itself.
    #[arg(long, value_name = "ADDRESS", value_parser = BusAddress::parse)]
    pub sandbox: Option<BusAddress>,
    /// The rules. Without any, nothing of the host can be seen.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where services that can be started inside are described (dbus-1/services below each). They are started by
    /// the router and not in the sandbox. [default: nowhere]
    #[arg(long, value_name = "DIR:…", value_delimiter = ':')]
    pub data_dirs: Vec<PathBuf>,
    /// Write each decision as a line of JSON to a file, or to the journal. Goes before what the rules say of it.
    #[arg(long, value_name = "FILE|journal")]
    pub decisions: Option<String>,
    /// Look for more for so long before sleeping. Lowers the time of single calls and costs processor time; where there
    /// are few processors it may cost more than it brings.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub busy_poll: u32,
}

/// Another form.
#[derive(Subcommand, Debug)]
pub enum Sub {
    /// Say whether a file with rules is right.
    ///
    /// Errors are shown with line, column and a caret below the place. The status is 0 if all files are
    /// right, else 1.
    Check {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Say what a file's rules decide for a name, and which rule it is.
    Explain {
        /// The file.
        file: PathBuf,
        /// Names of the bus.
        #[arg(value_name = "NAME", required_unless_present = "process")]
        names: Vec<String>,
        /// For a client whose executable is this.
        #[arg(long, value_name = "EXECUTABLE")]
        process: Option<PathBuf>,
        /// For this call or signal, of all that NAME could be sent or send.
        #[arg(long, value_name = "INTERFACE.MEMBER[@PATH]")]
        member: Option<String>,
    },
    /// Serve, refuse nothing, and write down the rules that would have allowed what was used.
    Learn {
        /// What to serve.
        #[command(flatten)]
        serve: Serve,
        /// Where the rules are written when the router ends, and on SIGHUP. [default: standard output]
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Do what xdg-dbus-proxy does, with its command line.
    ///
    /// See `dbus-router proxy --help`. Called by the name xdg-dbus-proxy, the program does this, too.
    #[command(disable_help_flag = true)]
    Proxy {
        /// As for xdg-dbus-proxy.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<OsString>,
    },
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
        let cli = Cli::try_parse_from(["r", "--listen", "/x", "--host", "none"]).unwrap();
        assert!(matches!(cli.serve.host, Some(HostBus::None)));
        let cli = Cli::try_parse_from(["r", "explain", "f", "a.b", "--member", "a.b.C"]).unwrap();
        assert!(matches!(cli.command, Some(Sub::Explain { .. })));
        let cli = Cli::try_parse_from(["r", "learn", "--listen", "/x", "--write", "f"]).unwrap();
        assert!(matches!(cli.command, Some(Sub::Learn { .. })));
        let cli = Cli::try_parse_from(["r", "proxy", "unix:path=/a", "/s", "--filter", "--fd=3"]);
        let Some(Sub::Proxy { arguments }) = cli.unwrap().command else {
            panic!("another form");
        };
        assert_eq!(arguments.len(), 4);
        assert!(Cli::try_parse_from(["r"]).is_err(), "nowhere to listen");
    }
}
