//! The broker as a program, beside a test.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::{Deadline, Process, TestDir, tools};

/// The port of the machine's vsock that it serves.
pub const PORT: u32 = 1337;

/// How it is started.
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// The host's session bus; none: only the machine's bus is served.
    pub host_bus: Option<String>,
    /// The policy file's text.
    pub policy: String,
    /// Where the machine's vsock is on the host; none: in the broker's directory.
    pub vsock_path: Option<PathBuf>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A running broker, ended when this goes.
pub struct Broker {
    pub process: Process,
    dir: PathBuf,
    vsock_path: PathBuf,
}

impl Broker {
    /// Starts one in `dir`, and waits until it is ready.
    pub fn start(dir: &TestDir, options: &BrokerOptions) -> Broker {
        let its_dir = dir.make_dir("broker");
        let vsock_path = match &options.vsock_path {
            Some(path) => path.clone(),
            None => its_dir.join("vsock"),
        };
        let notify_path = its_dir.join("notify");
        // One that was started here before has left it.
        let _ = std::fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path).expect("a socket for sd_notify");
        let policy = dir.write("broker/policy.toml", &options.policy);

        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus-broker"));
        command
            .args(["--vm", "test", "-v"])
            .arg("--vsock-path")
            .arg(&vsock_path)
            .arg("--vsock-port")
            .arg(PORT.to_string())
            .arg("--runtime-dir")
            .arg(its_dir.join("run"))
            .arg("--debug-access")
            .arg(its_dir.join("debug"))
            .arg("--config")
            .arg(policy)
            .args(&options.arguments)
            .env_clear()
            .envs(dir.environment())
            .env("NOTIFY_SOCKET", &notify_path);
        match &options.host_bus {
            Some(address) => {
                let virtiofsd = tools::VIRTIOFSD.find().unwrap_or_else(|| "none".into());
                command
                    .arg("--host-bus")
                    .arg(address)
                    .arg("--virtiofsd")
                    .arg(virtiofsd)
            }
            None => command.arg("--bus-only"),
        };
        let mut process =
            Process::start(command, "sidebus-broker", &dir.join("logs")).expect("it starts");
        loop {
            if !process.wait_ready(&notify, Deadline::usual()) {
                panic!("{}", process.failure("sidebus-broker did not become ready"));
            }
            if says_ready(&notify).expect("what it tells systemd") {
                break;
            }
        }
        Broker {
            process,
            dir: its_dir,
            vsock_path,
        }
    }

    /// Where what the guest sends to the broker's port arrives.
    pub fn port_path(&self) -> PathBuf {
        port_path(&self.vsock_path)
    }

    /// The machine's bus, as programs of the host reach it.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.dir.join("debug/vm.sock").display())
    }

    /// Its runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What `sidebus-broker status --json` says.
    pub fn status(&self) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus-broker"));
        command
            .args(["status", "--json", "--runtime-dir"])
            .arg(self.runtime_dir());
        let output = testbed::run_to_end(command, std::time::Duration::from_secs(20));
        let said = output.expect("it ends").success();
        serde_json::from_str(&said).expect("JSON")
    }

    /// How much of its memory is its own and there (bytes).
    pub fn memory(&self) -> u64 {
        memory_of(self.process.id())
    }

    /// How many file descriptors it has.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .expect("it runs")
            .count()
    }
}

/// How much of a process's memory is its own and there (bytes).
pub fn memory_of(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .expect("the kernel says it");
    kib * 1024
}

/// Where a hybrid vsock has what the guest sends to the broker's port.
pub fn port_path(vsock: &Path) -> PathBuf {
    PathBuf::from(format!("{}_{PORT}", vsock.display()))
}

fn says_ready(notify: &UnixDatagram) -> io::Result<bool> {
    let mut datagram = [0; 4096];
    let length = notify.recv(&mut datagram)?;
    Ok(datagram[..length]
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"READY=1"))
}
