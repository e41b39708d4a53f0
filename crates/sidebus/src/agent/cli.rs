//! The command line of `sidebus-agent`.

use std::path::PathBuf;

use clap::{CommandFactory, Parser};

/// The session bus of a virtual machine, whose portals are those of the host.
///
/// Runs in the guest. Programs connect to its socket as to a D-Bus session bus; it carries their messages to
/// sidebus-broker on the host.
#[derive(Parser, Debug)]
#[command(name = "sidebus-agent", version, max_term_width = 100)]
#[command(after_long_help = EXAMPLES)]
pub struct Cli {
    /// The socket that programs connect to. What a dead process left there is replaced. [default: the socket that
    /// systemd passes]
    #[arg(long, value_name = "PATH")]
    pub listen: Option<PathBuf>,
    /// The vsock port of the host at which the broker waits. [default: the credential sidebus.port]
    #[arg(long, value_name = "N", conflicts_with = "connect")]
    pub port: Option<u32>,
    /// Reach the broker by a unix socket and not by vsock: for a container, or to try it on one machine.
    #[arg(long, value_name = "PATH")]
    pub connect: Option<PathBuf>,
    /// Also serve programs of the user with this number; otherwise only those of the user that the agent runs as, and
    /// of root. May be given several times.
    #[arg(long, value_name = "UID")]
    pub allow_uid: Vec<u32>,
    /// Where programs see the documents that the host shares (the mount of its virtiofs).
    /// [default: /run/user/UID/doc of each program's user]
    #[arg(long, value_name = "PATH")]
    pub documents: Option<PathBuf>,
    /// Say more on standard error: -v what happens, -vv in detail.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  From systemd, with its socket and its credential, no options are needed. The credential comes from the host:
      qemu … -smbios type=11,value=io.systemd.credential:sidebus.port=1337
  By hand:
      sidebus-agent --listen $XDG_RUNTIME_DIR/bus --port 1337
      export DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus

Environment:
  CREDENTIALS_DIRECTORY     the file sidebus.port in it is the default of --port
  LISTEN_FDS, NOTIFY_SOCKET a socket passed by systemd takes the place of --listen; systemd is told READY, and whether
                            the broker is reached
  RUST_LOG                  error, warn, info or debug: what to say on standard error, unless -v is given";

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
        let parse =
            |words: &[&str]| Cli::try_parse_from([&["sidebus-agent"], words].concat()).is_ok();
        assert!(parse(&[]));
        assert!(parse(&[
            "--listen",
            "/x",
            "--port",
            "1337",
            "--allow-uid",
            "1000"
        ]));
        assert!(!parse(&["--connect", "/x", "--port", "1337"]));
    }
}
