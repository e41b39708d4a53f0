//! The command line of `sidebus-broker`.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::supervisor::GuestUser;

/// D-Bus and the desktop's portals for one virtual machine.
///
/// Runs on the host, beside the machine, as the user whose desktop it is. Programs in the guest that connect to
/// sidebus-agent there open files, show notifications and follow the desktop's settings through it; each thing that
/// concerns the person is asked by the host's own portal.
#[derive(Parser, Debug)]
#[command(name = "sidebus-broker", version, max_term_width = 100)]
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
  A machine on AF_VSOCK (qemu with vhost-vsock-pci,guest-cid=7):
      sidebus-broker --vm work --vsock-port 1337 --cid 7 --runtime-dir $XDG_RUNTIME_DIR/sidebus/work
  One with vsock over unix sockets (cloud-hypervisor, Firecracker, vhost-device-vsock: the machine's socket is
  v.sock, and what the guest sends to port 1337 arrives at v.sock_1337):
      sidebus-broker --vm work --vsock-path v.sock --vsock-port 1337 --runtime-dir DIR
  One that maps a port of the guest to a unix socket by itself (libkrun):
      sidebus-broker --vm work --vsock-path sidebus.sock --runtime-dir DIR
  Portals without any machine:
      sidebus-broker --vm try --vsock-path DIR/vsock --runtime-dir DIR --debug-access DIR
      DBUS_SESSION_BUS_ADDRESS=unix:path=DIR/vm.sock PROGRAM
  Who is connected, what is open, what is shared:
      sidebus-broker status

Environment:
  DBUS_SESSION_BUS_ADDRESS  the host's session bus, unless --host-bus says otherwise
  XDG_RUNTIME_DIR           where the host's bus is (as `bus`) if neither says so; where `status` looks for brokers
  LISTEN_FDS, NOTIFY_SOCKET a socket passed by systemd (AF_VSOCK or unix) takes the place of the one that
                            --vsock-port and --vsock-path name; systemd is told READY
  RUST_LOG                  error, warn, info or debug: what to say on standard error, unless -v is given";

/// The first form: serve a machine.
#[derive(Args, Debug, Clone)]
pub struct Serve {
    /// The machine's name: letters, digits, `_` and `-`, to begin with a letter. Portals see its programs as
    /// vm.NAME.APPLICATION.
    #[arg(long, value_name = "NAME", value_parser = vm_name, required = true)]
    pub vm: Option<String>,
    /// The vsock port that the agent connects to.
    #[arg(long, value_name = "N")]
    pub vsock_port: Option<u32>,
    /// Take connections from the machine with this context id only (AF_VSOCK). [default: from any]
    #[arg(
        long,
        value_name = "N",
        requires = "vsock_port",
        conflicts_with = "vsock_path"
    )]
    pub cid: Option<u32>,
    /// Listen on unix sockets: on PATH_N with --vsock-port N, else on PATH itself.
    #[arg(long, value_name = "PATH")]
    pub vsock_path: Option<PathBuf>,
    /// Where this machine's sockets, buses and mounts are; made if it is not there (mode 0700).
    #[arg(long, value_name = "DIR", required = true)]
    pub runtime_dir: Option<PathBuf>,
    /// Have the machine's bus on the host, too, at DIR/vm.sock: to try portals without a machine.
    #[arg(long, value_name = "DIR")]
    pub debug_access: Option<PathBuf>,
    /// What the machine may do, and its limits. [default: all portals of the table, the usual limits]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The host's session bus, where its portals are. [default: DBUS_SESSION_BUS_ADDRESS, then
    /// $XDG_RUNTIME_DIR/bus]
    #[arg(long, value_name = "ADDRESS")]
    pub host_bus: Option<String>,
    /// The user in the guest to whom shared documents belong there, with its group. [default: the numbers of the user
    /// that the broker runs as]
    #[arg(long, value_name = "UID[:GID]", value_parser = guest_user)]
    pub guest_user: Option<GuestUser>,
    /// The virtiofsd that shares the documents with the machine; "none" shares none. [default: the one that is
    /// installed]
    #[arg(long, value_name = "PATH|none")]
    pub virtiofsd: Option<PathBuf>,
    /// Only the machine's bus: no portals, no documents, and nothing of the host.
    #[arg(long)]
    pub bus_only: bool,
    /// Where programs in the guest see the documents that are shared with it, unless the agent says otherwise.
    /// [default: /run/user/UID/doc]
    #[arg(long, value_name = "PATH")]
    pub guest_documents: Option<PathBuf>,
}

/// Another form.
#[derive(Subcommand, Debug)]
pub enum Sub {
    /// Show the agents, the guests' clients, requests that are open, and documents that are shared.
    ///
    /// Asks every broker of this user, or one.
    Status {
        /// Only the machine with this name.
        #[arg(long, value_name = "NAME")]
        vm: Option<String>,
        /// Ask the broker with this runtime directory.
        #[arg(long, value_name = "DIR")]
        runtime_dir: Option<PathBuf>,
        /// Print JSON, one object on one line for each broker.
        #[arg(long)]
        json: bool,
    },
}

/// A machine's name is part of application ids (`vm.NAME.APP`, with `_` for `-`) and of paths.
fn vm_name(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let first = text.bytes().next();
    if first.is_some_and(|byte| byte.is_ascii_alphabetic())
        && text.len() <= 64
        && text.bytes().all(legal)
    {
        Ok(text.to_owned())
    } else {
        Err(
            "a name is of letters, digits, `_` and `-`, begins with a letter, and has at most 64"
                .to_owned(),
        )
    }
}

fn guest_user(text: &str) -> Result<GuestUser, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok(GuestUser { uid, gid }),
        _ => Err(
            "a user is its number, or its number and that of its group: 1000, or 1000:100"
                .to_owned(),
        ),
    }
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
        let parse = |line: &str| {
            Cli::try_parse_from(std::iter::once("sidebus-broker").chain(line.split(' ')))
        };
        assert!(parse("--vm a --vsock-port 7 --cid 3 --runtime-dir /d").is_ok());
        assert!(parse("--vm a --vsock-path /v --vsock-port 7 --runtime-dir /d").is_ok());
        assert!(parse("--vm a --vsock-path /v --runtime-dir /d --debug-access /x").is_ok());
        assert!(parse("--vm a --vsock-path /v --cid 3 --runtime-dir /d").is_err());
        assert!(parse("--vm ../a --vsock-port 7 --runtime-dir /d").is_err());
        assert!(parse("--vsock-port 7 --runtime-dir /d").is_err());
        let status = parse("status --json").unwrap();
        assert!(matches!(
            status.command,
            Some(Sub::Status { json: true, .. })
        ));
    }
}
