//! Measures a virtual machine's bus: what it adds to a portal's round trip, the way from agent to broker, bulk data through a
//! pipe, and what a client of the guest costs in memory.
//!
//! `cargo bench -p sidebus`, or `cargo xtask bench sidebus`. Without a machine: agent and broker are joined by a unix socket, so
//! that what is measured is ours and not the machine monitor's. Numbers are of this machine, now.

#[allow(dead_code, reason = "shared with tests, of which each needs a part")]
#[path = "../tests/portals/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared with tests, of which each needs a part")]
#[path = "../tests/rig/broker.rs"]
mod broker;
#[allow(dead_code, reason = "shared with tests, of which each needs a part")]
#[path = "../tests/portals/desktop.rs"]
mod desktop;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use broker::{Broker, BrokerOptions};
use dbus_wire::{Body, Builder};
use desktop::Desktop;
use testbed::{Process, RawClient, TestDir, tools};

const ROUNDS: usize = 2000;
const BULK: usize = 256 << 20;
const CLIENTS: usize = 200;
/// What may be added to a portal's round trip.
const TARGET: Duration = Duration::from_millis(2);

fn main() {
    // `cargo test --benches` passes arguments of its harness.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for tool in [
        &tools::DBUS_DAEMON,
        &tools::PORTAL,
        &tools::PERMISSION_STORE,
        &tools::DOCUMENT_PORTAL,
    ] {
        if tool.find().is_none() {
            eprintln!("SKIPPED: {}", tool.missing());
            return;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let desktop = runtime.block_on(Desktop::start());
    let options = BrokerOptions {
        host_bus: Some(desktop.bus.address().to_owned()),
        policy: "[guest]\nservices = [\"org.example.Service\"]\n".to_owned(),
        ..BrokerOptions::default()
    };
    let broker = Broker::start(&desktop.dir, &options);
    let agent = Agent::start(&desktop.dir, &broker);

    println!("{:44} {:>10} {:>10} {:>10}", "", "p50", "p99", "worst");
    let met = portals(&desktop, &broker, &agent);
    echo(&broker, &agent);
    bulk(&broker, &agent);
    memory(&broker, &agent);
    drop(agent);
    drop(broker);
    std::process::exit(if met { 0 } else { 1 });
}

/// The agent, on this machine.
struct Agent {
    process: Process,
    address: String,
}

impl Agent {
    fn start(dir: &TestDir, broker: &Broker) -> Agent {
        let socket = dir.make_dir("agent").join("bus");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus-agent"));
        command
            .arg("--connect")
            .arg(broker.port_path())
            .arg("--listen")
            .arg(&socket)
            .env_clear()
            .envs(dir.environment());
        let mut process =
            Process::start(command, "sidebus-agent", &dir.join("logs")).expect("it starts");
        while UnixStream::connect(&socket).is_err() {
            assert!(process.has_ended().is_none(), "{}", process.log());
            std::thread::yield_now();
        }
        Agent {
            process,
            address: format!("unix:path={}", socket.display()),
        }
    }
}

/// The times of many calls, one after the other.
fn times(client: &mut RawClient, call: &dyn Fn() -> Builder<'static>) -> Vec<Duration> {
    for _ in 0..ROUNDS / 10 {
        client.call(call()).returned();
    }
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            client.call(call()).returned();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Prints a line of the table; gives back the median.
fn row(what: &str, times: &[Duration]) -> Duration {
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
    println!(
        "{what:44} {:>10} {:>10} {:>10}",
        ms(at(50)),
        ms(at(99)),
        ms(at(100))
    );
    at(50)
}

fn setting() -> Builder<'static> {
    static BODY: std::sync::LazyLock<Body> = std::sync::LazyLock::new(|| {
        Body::new()
            .str("org.freedesktop.appearance")
            .str("color-scheme")
    });
    Builder::method_call("/org/freedesktop/portal/desktop", "Read")
        .destination("org.freedesktop.portal.Desktop")
        .interface("org.freedesktop.portal.Settings")
        .body(&BODY)
}

fn portals(desktop: &Desktop, broker: &Broker, agent: &Agent) -> bool {
    let mut medians = Vec::new();
    for (what, address) in [
        ("Settings.Read: on the host", desktop.bus.address()),
        ("Settings.Read: on the machine's bus", &broker.address()),
        ("Settings.Read: through the agent", &agent.address),
    ] {
        let mut client = RawClient::open(address);
        medians.push(row(what, &times(&mut client, &setting)));
    }
    let added = medians[1].saturating_sub(medians[0]);
    let met = added <= TARGET;
    println!(
        "  added with --debug-access: {:.3} ms (≤ {} ms: {})",
        added.as_secs_f64() * 1e3,
        TARGET.as_millis(),
        if met { "met" } else { "MISSED" }
    );
    met
}

fn echo(broker: &Broker, agent: &Agent) {
    let id = || {
        Builder::method_call("/org/freedesktop/DBus", "GetId")
            .destination("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
    };
    for (what, address) in [
        ("GetId: on the machine's bus", &broker.address()),
        ("GetId: agent to broker and back", &agent.address),
    ] {
        let mut client = RawClient::open(address);
        row(what, &times(&mut client, &id));
    }
}

/// A pipe that a program of the guest passes to one on the machine's bus.
fn bulk(broker: &Broker, agent: &Agent) {
    let mut service = RawClient::open(&broker.address());
    assert_eq!(service.request_name("org.example.Service", 0), 1);
    let mut client = RawClient::open(&agent.address);
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let serving = std::thread::spawn(move || {
        let call = service.expect_call("Take");
        let mut pipe = File::from(call.fds[0].try_clone().expect("a descriptor"));
        let mut buffer = vec![0; 1 << 20];
        let mut sum = 0;
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            sum += count;
        }
        service.answer(&call, &Body::new().u64(sum as u64));
    });
    let start = Instant::now();
    let writing = std::thread::spawn(move || {
        let block = vec![7; 1 << 20];
        for _ in 0..BULK >> 20 {
            writer.write_all(&block).expect("the agent reads");
        }
    });
    let body = Body::new().unix_fd(0);
    let take = Builder::method_call("/", "Take")
        .destination("org.example.Service")
        .interface("org.example.Service")
        .body(&body);
    let reply = client.call_with_fds(take, &[reader.as_fd()]).returned();
    let time = start.elapsed();
    assert_eq!(reply.reader().u64(), Ok(BULK as u64));
    writing.join().expect("all was written");
    serving.join().expect("all was read");
    println!(
        "{:44} {:.0} MiB/s",
        format!("{} MiB through a pipe", BULK >> 20),
        (BULK >> 20) as f64 / time.as_secs_f64()
    );
}

fn memory(broker: &Broker, agent: &Agent) {
    let now = || (broker.memory(), broker::memory_of(agent.process.id()));
    let before = now();
    let crowd: Vec<RawClient> = (0..CLIENTS)
        .map(|_| RawClient::open(&agent.address))
        .collect();
    let after = now();
    let each =
        |before: u64, after: u64| after.saturating_sub(before) as f64 / CLIENTS as f64 / 1024.0;
    println!(
        "{:44} broker {:.0} KiB, agent {:.0} KiB (before: {} and {} KiB)",
        format!("memory of each of {CLIENTS} clients"),
        each(before.0, after.0),
        each(before.1, after.1),
        before.0 / 1024,
        before.1 / 1024
    );
    drop(crowd);
}
