//! The multiplexer under test, as a process.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deadline::Deadline;
use crate::directory::TestDir;
use crate::failure::Failure;
use crate::processes::Process;

/// A running kapsule-dbus-mux, ended when this goes.
pub struct Mux {
    process: Process,
    socket: PathBuf,
}

/// Its command line.
#[derive(Clone, Default)]
pub struct MuxOptions {
    /// `--host-bus`: an address, or `none`. Without it the program looks for itself.
    pub host_bus: Option<String>,
    /// `--container-bus`; none of it is the local bus.
    pub container_bus: Option<String>,
    /// `--inside-data-dirs`.
    pub inside_data_dirs: Vec<PathBuf>,
    /// `--allow`, once for each.
    pub allow: Vec<String>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// More of the environment, which services activated inside inherit.
    pub environment: Vec<(String, String)>,
    /// What tells it from others in one test; names its socket's directory and its log.
    pub name: String,
}

/// The program, next to the one that runs: tests stand in `target/PROFILE/deps`, tasks in
/// `target/PROFILE`. `KAPSULE_DBUS_MUX` names another to be put to the same tests.
///
/// # Errors
/// It has not been built.
pub fn mux_program() -> Result<PathBuf, Failure> {
    if let Some(program) = std::env::var_os("KAPSULE_DBUS_MUX") {
        return Ok(program.into());
    }
    let ours = std::env::current_exe().map_err(Failure::doing("finding this program's path"))?;
    ours.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("kapsule-dbus-mux"))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            Failure::new(format!(
                "there is no kapsule-dbus-mux beside {}: build it with `cargo build -p kapsule-dbus-mux`, \
                 or name one in the environment variable KAPSULE_DBUS_MUX",
                ours.display()
            ))
        })
}

impl Mux {
    /// Starts one in `dir` and waits until it says that it is ready (sd_notify, `READY=1`).
    ///
    /// # Errors
    /// It is not built, ends, or is not ready in time; its log is in the text.
    pub fn start(dir: &TestDir, options: &MuxOptions) -> Result<Mux, Failure> {
        let name = if options.name.is_empty() {
            "mux"
        } else {
            &options.name
        };
        let its_dir = dir.make_dir(name);
        let socket = its_dir.join("bus");
        let notify_path = its_dir.join("notify");
        // One that was started here before has left it.
        let _ = std::fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path)
            .map_err(Failure::doing("binding a socket for sd_notify"))?;

        let mut command = Command::new(mux_program()?);
        command.arg("--listen").arg(&socket);
        if let Some(address) = &options.host_bus {
            command.arg("--host-bus").arg(address);
        }
        if let Some(address) = &options.container_bus {
            command.arg("--container-bus").arg(address);
        }
        if !options.inside_data_dirs.is_empty() {
            let dirs = std::env::join_paths(&options.inside_data_dirs)
                .map_err(Failure::doing("joining the data directories by colons"))?;
            command.arg("--inside-data-dirs").arg(dirs);
        }
        for name in &options.allow {
            command.arg("--allow").arg(name);
        }
        command
            .args(&options.arguments)
            .env_clear()
            .envs(dir.environment())
            .env("NOTIFY_SOCKET", &notify_path)
            .envs(options.environment.iter().cloned());

        let mut process = Process::start(command, name, &dir.join("logs"))?;
        let deadline = Deadline::usual();
        loop {
            if !process.wait_ready(&notify, deadline) {
                return Err(process.failure("kapsule-dbus-mux did not become ready"));
            }
            if says_ready(&notify)
                .map_err(Failure::doing("reading what the mux told by sd_notify"))?
            {
                return Ok(Mux { process, socket });
            }
        }
    }

    /// The path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens: for `DBUS_SESSION_BUS_ADDRESS`.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// The process, to be signalled or ended.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn says_ready(notify: &UnixDatagram) -> io::Result<bool> {
    let mut datagram = [0; 4096];
    let length = notify.recv(&mut datagram)?;
    Ok(datagram[..length]
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"READY=1"))
}
