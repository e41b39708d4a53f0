//! What the tests stand on: a container and its network, a bus, a bridge, and a client of it.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use zbus::export::futures_core::Stream;
use zbus::{Connection, MatchRule, Message, MessageStream};

/// No wait in these tests is longer; what takes longer has failed.
pub const LIMIT: Duration = Duration::from_secs(20);

pub const V4: &str = "203.0.113.1";
pub const V6: &str = "2001:db8::1";

/// Says loudly that a test did not run, and why.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        // Written past the harness, which would show it for failed tests only.
        let line = format!("SKIPPED: {}: {}\n", module_path!(), format!($($why)*));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return;
    }};
}

/// Why these tests cannot run here; found out by doing.
pub fn cannot() -> Option<String> {
    for (program, arguments) in [
        ("ip", &["-V"][..]),
        ("nft", &["--version"][..]),
        ("dbus-daemon", &["--version"][..]),
    ] {
        if !runs(program, arguments) {
            return Some(format!("{program} does not run"));
        }
    }
    let made = command("unshare")
        .args(["--net", "--", "nft", "add", "table", "inet", "probe"])
        .stderr(Stdio::piped())
        .output();
    match made {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "no network namespace with nftables can be made: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare does not run: {error}")),
    }
}

pub fn runs(program: &str, arguments: &[&str]) -> bool {
    command(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A command with a PATH that has the administrators' programs.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that is ended, by its id, when the test is done.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it at once, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return status;
            }
            assert!(
                start.elapsed() < LIMIT,
                "process {} does not end",
                self.pid()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a process in a network namespace of its own that does nothing, and has its loopback up.
fn namespace_process() -> Process {
    let mut child = command("unshare")
        .args([
            "--net",
            "--",
            "sh",
            "-c",
            "ip link set lo up && echo ready && exec sleep 3600",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("it is piped");
    let _ = BufReader::new(out).read_line(&mut line);
    let process = Process(child);
    assert_eq!(line, "ready\n");
    process
}

/// A container, and the network that it can see: one peer, which answers for every address.
///
/// The container has 203.0.113.2 and 2001:db8::2. The peer has 203.0.113.1 and 2001:db8::1, and takes
/// whatever is sent to 198.18.0.0/15 as its own.
pub struct Net {
    /// The container's first process, if it is ours.
    pub container: Option<Process>,
    pub peer: Process,
    pid: u32,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Net {
    pub fn new() -> Self {
        let container = namespace_process();
        let mut net = Self::around(container.pid());
        net.container = Some(container);
        net
    }

    /// A network for a container that exists already.
    pub fn around(container: u32) -> Self {
        let net = Self {
            container: None,
            peer: namespace_process(),
            pid: container,
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (inside, outside) = (format!("c{number}"), format!("p{number}"));
        let peer = net.peer.pid();
        run(command("ip")
            .args(["link", "add", &inside, "netns"])
            .arg(container.to_string())
            .args(["type", "veth", "peer", "name", &outside, "netns"])
            .arg(peer.to_string()));
        inside_run(container, &format!(
            "ip link set lo up; ip addr add 203.0.113.2/24 dev {inside}; ip -6 addr add 2001:db8::2/64 dev {inside} nodad
             ip link set {inside} up; ip route add default via {V4}; ip -6 route add default via {V6}"));
        inside_run(peer, &format!(
            "ip addr add {V4}/24 dev {outside}; ip -6 addr add {V6}/64 dev {outside} nodad
             ip link set {outside} up; ip route add local 198.18.0.0/15 dev lo
             nft add table inet counted
             nft add chain inet counted in '{{ type filter hook prerouting priority -300; }}'
             nft add counter inet counted arrived
             nft add rule inet counted in meta iifname {outside} meta l4proto '{{ udp, icmp }}' counter name arrived
             nft add rule inet counted in meta iifname {outside} tcp flags '&' '(syn|ack)' == syn counter name arrived"));
        net
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The container ends.
    pub fn end(&mut self) {
        self.container = None;
    }

    /// How many packets of the container have come out: of UDP and ICMP all, of TCP those that begin a
    /// connection. (The end of an allowed one may be on its way when nobody looks for it.)
    pub fn arrived(&self) -> u64 {
        let text = inside_run(self.peer.pid(), "nft list counter inet counted arrived");
        let rest = text
            .split("packets ")
            .nth(1)
            .expect("a counter has packets");
        rest.split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    }

    /// A TCP server at the peer: says "hi" to who connects, for as long as the peer lives.
    pub fn serve_tcp(&self, port: u16) {
        let listener = inside(self.peer.pid(), move || {
            TcpListener::bind(("::", port)).expect("the port is free")
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = std::io::Write::write_all(&mut stream, b"hi");
            }
        });
    }

    /// A UDP server at the peer: sends back what it gets.
    pub fn serve_udp(&self, port: u16) {
        for address in [V4, V6] {
            let socket = inside(self.peer.pid(), move || {
                UdpSocket::bind((address, port)).expect("the port is free")
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            });
        }
    }

    /// Connects from the container by TCP; true if the server was reached.
    pub fn tcp(&self, address: &str, port: u16) -> bool {
        let to = SocketAddr::new(address.parse().expect("an address"), port);
        inside(self.pid(), move || connects(to))
    }

    /// Sends a datagram from the container by UDP; true if it came back.
    pub fn udp(&self, address: &str, port: u16) -> bool {
        let to = SocketAddr::new(address.parse().expect("an address"), port);
        inside(self.pid(), move || echoes(to))
    }
}

pub fn connects(to: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(3)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(LIMIT));
    let mut said = [0; 2];
    stream.read_exact(&mut said).is_ok() && &said == b"hi"
}

pub fn echoes(to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        "::".parse().expect("an address")
    };
    let socket = UdpSocket::bind((any, 0)).expect("a port is free");
    socket.connect(to).expect("a UDP socket connects");
    // What is blocked fails at once; what is allowed comes back at once.
    socket
        .set_read_timeout(Some(LIMIT))
        .expect("a limit can be set");
    if socket.send(b"echo").is_err() {
        return false;
    }
    let mut buffer = [0; 16];
    matches!(socket.recv(&mut buffer), Ok(4))
}

/// Runs something in a process's network namespace, in a thread of its own.
pub fn inside<T: Send + 'static>(pid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("the process lives");
    std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .expect("root may enter");
        work()
    })
    .join()
    .expect("the work inside succeeds")
}

/// Runs a shell script in a process's network namespace.
pub fn inside_run(pid: u32, script: &str) -> String {
    run(command("nsenter")
        .arg("--target")
        .arg(pid.to_string())
        .args(["--net", "--", "sh", "-ec", script]))
}

/// The program under test.
pub fn shield() -> Command {
    command(env!("CARGO_BIN_EXE_shield-bridge"))
}

/// A private session bus.
pub struct Bus {
    pub daemon: Process,
    pub address: String,
    _dir: tempfile::TempDir,
}

impl Bus {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("bus");
        Self::at(dir, &path)
    }

    fn at(dir: tempfile::TempDir, path: &Path) -> Self {
        let (daemon, address) = dbus_daemon(path);
        Self {
            daemon,
            address,
            _dir: dir,
        }
    }

    /// Ends the bus, and starts another at the same address.
    pub fn restart(&mut self) {
        let path = self._dir.path().join("bus");
        self.daemon.kill();
        let _ = std::fs::remove_file(&path);
        (self.daemon, self.address) = dbus_daemon(&path);
    }

    pub async fn connect(&self) -> Connection {
        zbus::connection::Builder::address(self.plain_address().as_str())
            .build()
            .await
            .expect("the bus takes us")
    }

    /// The address without its guid, which changes when the bus is started again.
    pub fn plain_address(&self) -> String {
        self.address
            .split(',')
            .next()
            .expect("an address")
            .to_owned()
    }
}

fn dbus_daemon(path: &Path) -> (Process, String) {
    let mut child = command("dbus-daemon")
        .args(["--session", "--nofork", "--nosyslog", "--print-address=1"])
        .arg(format!("--address=unix:path={}", path.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dbus-daemon starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("it is piped");
    let _ = BufReader::new(out).read_line(&mut line);
    let process = Process(child);
    assert!(line.starts_with("unix:"), "dbus-daemon says {line:?}");
    (process, line.trim().to_owned())
}

/// A container that is up, with its state directory.
pub struct Shielded {
    pub net: Net,
    pub name: String,
    pub dir: tempfile::TempDir,
}

impl Shielded {
    pub fn new(name: &str) -> Self {
        Self::with(name, &[], "")
    }

    /// With arguments for `up`, and a profile.
    pub fn with(name: &str, arguments: &[&str], profile: &str) -> Self {
        let shielded = Self {
            net: Net::new(),
            name: name.to_owned(),
            dir: tempfile::tempdir().expect("a directory can be made"),
        };
        std::fs::write(shielded.profile(), profile).expect("the profile can be written");
        shielded.up(arguments);
        shielded
    }

    fn profile(&self) -> PathBuf {
        self.dir.path().join("profile")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `shield-bridge up`.
    pub fn up(&self, arguments: &[&str]) {
        run(shield()
            .arg("up")
            .args(["--pid", &self.net.pid().to_string(), "--state-dir"])
            .arg(self.state())
            .arg("--profile")
            .arg(self.profile())
            .args(arguments)
            .args(["--", &self.name]));
    }

    pub fn short_id(&self) -> String {
        let text = std::fs::read_to_string(self.state().join("container.id")).expect("it is up");
        text.trim().to_owned()
    }

    pub fn bus_name(&self) -> String {
        shield::bus_name_for_container(&self.short_id())
    }

    /// The rules as the kernel has them.
    pub fn rules(&self) -> String {
        let text = inside_run(self.net.pid(), "nft list table inet terok_shield");
        // What time changes is no change.
        text.lines()
            .map(|l| l.split(" expires ").next().unwrap_or(l))
            .filter(|l| !l.contains("packets"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The sets' elements, without those that only say what was seen.
    pub fn decisions(&self) -> Vec<String> {
        let mut found = Vec::new();
        let text = inside_run(self.net.pid(), "nft list sets inet");
        let mut set = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("set ") {
                set = name.trim_end_matches(" {").to_owned();
            }
            if line.starts_with("elements") && !set.starts_with("seen") && !set.starts_with("noted")
            {
                found.push(format!("{set}: {line}"));
            }
        }
        found
    }

    pub fn audit(&self) -> String {
        std::fs::read_to_string(self.state().join("audit.jsonl")).unwrap_or_default()
    }

    /// Starts `shield-bridge bridge`, and waits until it serves.
    pub async fn bridge(&self, bus: &Bus, arguments: &[&str]) -> (Process, Client) {
        let client = Client::new(bus).await;
        let process = self.start_bridge(bus, arguments);
        client.wait_for_name(&self.bus_name()).await;
        (process, client)
    }

    /// Starts `shield-bridge bridge`.
    pub fn start_bridge(&self, bus: &Bus, arguments: &[&str]) -> Process {
        Process(
            shield()
                .args(["bridge", "--bus", &bus.plain_address(), "--state-dir"])
                .arg(self.state())
                .args(["--resolver", "127.0.0.1:9"])
                .args(arguments)
                .args(["--", &self.name])
                .stdin(Stdio::null())
                .spawn()
                .expect("shield-bridge starts"),
        )
    }

    /// Runs a command of the program that has to succeed, or not.
    pub fn says(&self, bus: &Bus, arguments: &[&str]) -> Output {
        shield()
            .args(arguments)
            .env("DBUS_SESSION_BUS_ADDRESS", bus.plain_address())
            .output()
            .expect("shield-bridge starts")
    }
}

/// A question as a signal has it.
pub type Blocked = (String, String, u16, u16, String, String);
/// An answer as a signal has it.
pub type Applied = (String, String, String, String, bool);

/// A client on the bus: hears the bridge's signals, and answers.
pub struct Client {
    pub connection: Connection,
    signals: tokio::sync::Mutex<MessageStream>,
    names: tokio::sync::Mutex<MessageStream>,
}

pub const PATH: &str = "/org/terok/Shield1";

impl Client {
    pub async fn new(bus: &Bus) -> Self {
        let connection = bus.connect().await;
        let rule = format!("type='signal',path='{PATH}'");
        let names = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged'";
        Self {
            signals: stream(&connection, &rule).await.into(),
            names: stream(&connection, names).await.into(),
            connection,
        }
    }

    pub async fn wait_for_name(&self, name: &str) {
        let mut names = self.names.lock().await;
        let waiting = async {
            loop {
                let owned: bool = self.dbus("NameHasOwner", &name).await;
                if owned {
                    return;
                }
                next(&mut names).await;
            }
        };
        tokio::time::timeout(LIMIT, waiting)
            .await
            .unwrap_or_else(|_| panic!("nobody owns {name}"));
    }

    pub async fn wait_until_gone(&self, name: &str) {
        let mut names = self.names.lock().await;
        let waiting = async {
            while self.dbus::<_, bool>("NameHasOwner", &name).await {
                next(&mut names).await;
            }
        };
        tokio::time::timeout(LIMIT, waiting)
            .await
            .unwrap_or_else(|_| panic!("{name} is still owned"));
    }

    pub async fn dbus<B, T>(&self, member: &str, body: &B) -> T
    where
        B: serde::Serialize + zbus::DynamicType,
        T: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        self.call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            member,
            body,
        )
        .await
        .expect("the bus answers")
    }

    pub async fn call<B, T>(
        &self,
        to: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) -> zbus::Result<T>
    where
        B: serde::Serialize + zbus::DynamicType,
        T: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        let called = self
            .connection
            .call_method(Some(to), path, Some(interface), member, body);
        let reply = tokio::time::timeout(LIMIT, called)
            .await
            .unwrap_or_else(|_| panic!("{member} is not answered"))?;
        reply.body().deserialize()
    }

    /// The next signal of the bridge, of any kind.
    pub async fn signal(&self) -> Message {
        let mut signals = self.signals.lock().await;
        tokio::time::timeout(LIMIT, next(&mut signals))
            .await
            .expect("a signal comes")
    }

    /// The next signal of this kind; others are passed over.
    pub async fn expect<T>(&self, member: &str) -> T
    where
        T: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        loop {
            let message = self.signal().await;
            if message
                .header()
                .member()
                .is_some_and(|m| m.as_str() == member)
            {
                return message
                    .body()
                    .deserialize()
                    .expect("the signature is the specified one");
            }
        }
    }

    pub async fn blocked(&self) -> Blocked {
        self.expect("ConnectionBlocked").await
    }

    /// The next question about this address.
    pub async fn blocked_at(&self, address: &str, port: u16) -> Blocked {
        loop {
            let blocked = self.blocked().await;
            if blocked.1 == address && blocked.2 == port {
                return blocked;
            }
        }
    }

    pub async fn applied(&self) -> Applied {
        self.expect("VerdictApplied").await
    }

    pub async fn verdict(&self, to: &str, request: &str, action: &str) -> bool {
        self.call(to, PATH, "org.terok.Shield1", "Verdict", &(request, action))
            .await
            .expect("it is answered")
    }

    pub async fn verdict_for(&self, to: &str, request: &str, action: &str, seconds: u32) -> bool {
        self.call(
            to,
            PATH,
            "org.terok.Shield2",
            "VerdictFor",
            &(request, action, seconds),
        )
        .await
        .expect("it is answered")
    }

    pub async fn pending(&self, to: &str) -> Vec<Blocked> {
        self.call(to, PATH, "org.terok.Shield2", "ListPending", &())
            .await
            .expect("it is answered")
    }

    pub async fn state(&self, to: &str) -> String {
        let value: zbus::OwnedVariant = self
            .call(
                to,
                PATH,
                "org.freedesktop.DBus.Properties",
                "Get",
                &("org.terok.Shield2", "State"),
            )
            .await
            .expect("it is answered");
        String::try_from(value).expect("it is a string")
    }
}

pub async fn stream(connection: &Connection, rule: &str) -> MessageStream {
    let rule = MatchRule::try_from(rule).expect("the rule is well formed");
    let queue = std::num::NonZeroUsize::new(65_536);
    MessageStream::for_match_rule(rule, connection, queue)
        .await
        .expect("the bus takes the rule")
}

pub async fn next(stream: &mut MessageStream) -> Message {
    let mut stream = std::pin::Pin::new(stream);
    std::future::poll_fn(|context| stream.as_mut().poll_next(context))
        .await
        .expect("the stream goes on")
        .expect("it is a message")
}

/// Waits until something is so that cannot be waited for otherwise.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < LIMIT, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
