//! A private dbus-daemon.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deadline::Deadline;
use crate::directory::TestDir;
use crate::failure::Failure;
use crate::processes::{Line, Process};

/// A dbus-daemon with a configuration of its own, ended when this goes.
pub struct DbusDaemon {
    process: Process,
    address: String,
    socket: PathBuf,
}

/// How a [`DbusDaemon`] is set up.
#[derive(Clone, Default)]
pub struct DaemonOptions {
    /// What tells it from others in one test: names its socket's directory and its log.
    pub name: String,
    /// Directories with `.service` files for activation.
    pub service_dirs: Vec<PathBuf>,
    /// More elements for its configuration file, such as `<limit …>` or `<policy …>`.
    pub configuration: String,
    /// More of the environment, which activated services inherit.
    pub environment: Vec<(String, String)>,
}

impl DbusDaemon {
    /// Starts one in `dir`, with the policy and the limits of a session bus, and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or does not start; its log is in the text.
    pub fn start(dir: &TestDir, options: &DaemonOptions) -> Result<DbusDaemon, Failure> {
        let name = if options.name.is_empty() {
            "dbus-daemon"
        } else {
            &options.name
        };
        // Connecting to `unix:path=` of our own choosing and not `unix:dir=`: its random name would make
        // every failure's log different.
        let socket = dir.make_dir(name).join("bus");
        let config = dir.write(format!("{name}/config"), configuration(&socket, options));
        let mut command = Command::new("dbus-daemon");
        command
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .env_clear()
            .envs(dir.environment())
            .envs(options.environment.iter().cloned());
        let (mut process, mut stdout) = Process::start_reading(command, name, &dir.join("logs"))?;
        match stdout.next_line(Deadline::usual()) {
            Ok(Line::Text(address)) => {
                // Services that it activates write there too.
                let log = dir.join(format!("logs/{name}-services.log"));
                stdout.drain_to(File::create(&log).map_err(Failure::doing("making a log"))?);
                Ok(DbusDaemon {
                    process,
                    address,
                    socket,
                })
            }
            _ => Err(process.failure("dbus-daemon did not print its address")),
        }
    }

    /// Where it listens, with its GUID: for `DBUS_SESSION_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process, to be signalled or ended.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The limits are those of the session bus that dbus-daemon installs: in effect none.
fn configuration(socket: &Path, options: &DaemonOptions) -> String {
    let mut text = String::from(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\n\
         <type>session</type>\n<keep_umask/>\n<auth>EXTERNAL</auth>\n",
    );
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .and_then(|()| text.write_char('\n'))
            .expect("a String takes all that is written");
    };
    line(format_args!(
        "<listen>unix:path={}</listen>",
        socket.display()
    ));
    for dir in &options.service_dirs {
        line(format_args!("<servicedir>{}</servicedir>", dir.display()));
    }
    line(format_args!(
        "<policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
         <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy>"
    ));
    for (limit, value) in [
        ("max_incoming_bytes", 1_000_000_000),
        ("max_incoming_unix_fds", 250_000_000),
        ("max_outgoing_bytes", 1_000_000_000),
        ("max_outgoing_unix_fds", 250_000_000),
        ("max_message_size", 1_000_000_000),
        ("service_start_timeout", 120_000),
        ("auth_timeout", 240_000),
        ("pending_fd_timeout", 150_000),
        ("max_completed_connections", 100_000),
        ("max_incomplete_connections", 10_000),
        ("max_connections_per_user", 100_000),
        ("max_pending_service_starts", 10_000),
        ("max_names_per_connection", 50_000),
        ("max_match_rules_per_connection", 50_000),
        ("max_replies_per_connection", 50_000),
    ] {
        line(format_args!("<limit name=\"{limit}\">{value}</limit>"));
    }
    line(format_args!("{}", options.configuration));
    line(format_args!("</busconfig>"));
    text
}
