//! An agent and a broker on this machine, and programs on both sides of them.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use testbed::{DaemonOptions, DbusDaemon, Deadline, Process, RawClient, TestDir};

/// A name that a service in the guest, or behind the debugging socket, may have.
pub const SERVICE: &str = "org.example.Service";
/// The vsock port of the tests.
const PORT: u32 = 1337;

/// How the two are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// What a machine's vsock is on the host: `PATH_PORT`.
    Hybrid,
    /// One socket.
    Plain,
}

/// Agent and broker. They end with this.
pub struct Rig {
    pub agent: Option<Process>,
    pub broker: Option<Process>,
    transport: Transport,
    /// Between agent and broker, if a test has put something there.
    pub connect: PathBuf,
    starts: u32,
    lies: bool,
    /// The host's session bus, if the machine has documents.
    host_bus: Option<DbusDaemon>,
    pub dir: TestDir,
}

impl Rig {
    /// Both, connected.
    pub fn start() -> Rig {
        Self::start_with(Transport::Hybrid, "")
    }

    /// With more in the broker's configuration.
    pub fn start_with(transport: Transport, config: &str) -> Rig {
        let mut rig = Rig::new(transport, config);
        rig.start_broker();
        rig.start_agent();
        rig
    }

    /// Nothing runs yet.
    pub fn new(transport: Transport, config: &str) -> Rig {
        let dir = TestDir::new();
        let policy = format!("[guest]\nservices = [\"org.example.*\"]\n{config}");
        dir.write("policy.toml", policy);
        let connect = match transport {
            Transport::Hybrid => dir.join(format!("vsock_{PORT}")),
            Transport::Plain => dir.join("vsock"),
        };
        Rig {
            agent: None,
            broker: None,
            transport,
            connect,
            starts: 0,
            lies: false,
            host_bus: None,
            dir,
        }
    }

    /// With the machine's own document portal. The guest sees its documents where virtiofs would share them from.
    pub fn with_documents() -> Rig {
        let mut rig = Rig::new(Transport::Hybrid, "");
        let bus = DbusDaemon::start(&rig.dir, &DaemonOptions::default());
        rig.host_bus = Some(bus.unwrap_or_else(|failure| panic!("{failure}")));
        rig.start_broker();
        rig.start_agent();
        rig
    }

    /// From now on the agent takes a directory of the guest for the host's documents.
    pub fn lie_about_documents(&mut self) {
        self.lies = true;
    }

    /// All documents of the machine, as the host sees them.
    pub fn documents(&self) -> PathBuf {
        self.dir.join("vm/doc")
    }

    /// Where the guest sees its documents.
    pub fn guest_documents(&self) -> PathBuf {
        match self.host_bus {
            Some(_) if !self.lies => self.documents().join("by-app/vm.one"),
            _ => self.dir.join("guest-doc"),
        }
    }

    pub fn start_broker(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus-broker"));
        command
            .args(["-vv", "--vm", "one", "--config"])
            .arg(self.dir.join("policy.toml"))
            .arg("--runtime-dir")
            .arg(self.dir.join("vm"))
            .arg("--debug-access")
            .arg(self.dir.join("debug"))
            .arg("--vsock-path")
            .arg(self.dir.join("vsock"));
        match &self.host_bus {
            Some(bus) => command.args(["--virtiofsd", "none", "--host-bus", bus.address()]),
            None => command.arg("--bus-only"),
        };
        if self.transport == Transport::Hybrid {
            command.args(["--vsock-port", &PORT.to_string()]);
        }
        self.broker = Some(self.spawn(command, "broker", "READY=1"));
    }

    /// Starts the agent, and waits until it has reached the broker.
    pub fn start_agent(&mut self) {
        let command = self.agent_command();
        self.agent = Some(self.spawn(command, "agent", "STATUS=Connected"));
    }

    /// Starts the agent, and waits until programs can connect to it.
    pub fn start_agent_alone(&mut self) {
        let command = self.agent_command();
        self.agent = Some(self.spawn(command, "agent", "READY=1"));
    }

    fn agent_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus-agent"));
        command
            .args(["-vv", "--listen"])
            .arg(self.dir.join("guest-bus"))
            .arg("--connect")
            .arg(&self.connect)
            .arg("--documents")
            .arg(self.guest_documents());
        command
    }

    /// Starts one, and waits until it says `sign` by sd_notify.
    fn spawn(&mut self, mut command: Command, name: &str, sign: &str) -> Process {
        self.starts += 1;
        let name = format!("{name}-{}", self.starts);
        let notify_path = self.dir.join(format!("notify-{name}"));
        let notify = UnixDatagram::bind(&notify_path).expect("a socket for sd_notify");
        command
            .env_clear()
            .envs(self.dir.environment())
            .env("NOTIFY_SOCKET", &notify_path);
        let mut process = Process::start(command, &name, &self.dir.join("logs"))
            .unwrap_or_else(|failure| panic!("{failure}"));
        let deadline = Deadline::usual();
        let mut buffer = [0; 4096];
        loop {
            if !process.wait_ready(&notify, deadline) {
                panic!("{}", process.failure(&format!("it did not say {sign}")));
            }
            let len = notify.recv(&mut buffer).expect("what it says");
            let text = String::from_utf8_lossy(&buffer[..len]);
            if text.lines().any(|line| line.starts_with(sign)) {
                return process;
            }
        }
    }

    /// Where programs of the guest connect.
    pub fn guest_address(&self) -> String {
        format!("unix:path={}", self.dir.join("guest-bus").display())
    }

    /// Where programs of the host connect.
    pub fn host_address(&self) -> String {
        format!("unix:path={}", self.dir.join("debug/vm.sock").display())
    }

    /// A program of the guest.
    pub fn guest(&self) -> RawClient {
        RawClient::open(&self.guest_address())
    }

    /// A program of the host.
    pub fn host(&self) -> RawClient {
        RawClient::open(&self.host_address())
    }

    /// A program of the host that has [`SERVICE`].
    pub fn service(&self) -> RawClient {
        let mut service = self.host();
        assert_eq!(service.request_name(SERVICE, 0), 1);
        service
    }

    /// Somebody who offers [`SERVICE`] on one side, and somebody on the other who calls it.
    pub fn pair(&self, service_in_guest: bool) -> (RawClient, RawClient) {
        let (mut service, caller) = if service_in_guest {
            (self.guest(), self.host())
        } else {
            (self.host(), self.guest())
        };
        assert_eq!(service.request_name(SERVICE, 0), 1);
        (service, caller)
    }

    /// Somebody on the host who offers this name, and a program of the guest.
    pub fn pair_named(&self, name: &str) -> (RawClient, RawClient) {
        let mut service = self.host();
        assert_eq!(service.request_name(name, 0), 1);
        (service, self.guest())
    }

    /// A command in the environment of this test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.dir.environment());
        command
    }

    /// `sidebus-broker status --json`.
    pub fn status(&self) -> sidebus::broker::status::Status {
        let mut command = self.command(env!("CARGO_BIN_EXE_sidebus-broker"));
        command.args(["status", "--json"]);
        let output = testbed::run_to_end(command, testbed::deadline::LIMIT)
            .unwrap_or_else(|failure| panic!("{failure}"))
            .success();
        serde_json::from_str(&output).expect("a status")
    }

    /// Asks for the status until it is as wanted.
    pub fn wait_for_status(
        &self,
        awaited: &str,
        wanted: impl Fn(&sidebus::broker::status::Status) -> bool,
    ) {
        let deadline = Deadline::usual();
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(!deadline.left().is_zero(), "awaited {awaited}: {status}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in [&self.broker, &self.agent].into_iter().flatten() {
                eprintln!("---- {}\n{}", process.id(), process.log());
            }
        }
        // The agent says goodbye to the broker.
        for process in [&mut self.agent, &mut self.broker].into_iter().flatten() {
            process.end();
        }
    }
}
