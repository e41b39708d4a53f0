//! Measures the bridge against its specification: a real container, kernel log, bus and bridge.
//!
//! `cargo bench -p shield`. Needs root and the packages that the tests need. Numbers are of this machine, now;
//! a machine that does other things shows others.

#[path = "../tests/real/support.rs"]
#[allow(dead_code)]
mod support;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::*;

const ROUNDS: usize = 500;

fn main() {
    // `cargo bench` and `cargo test --benches` pass arguments of their harness.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    if let Some(why) = cannot() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    println!(
        "{:36} {:>10} {:>10} {:>10}  target",
        "", "p50", "p99", "worst"
    );
    runtime.block_on(latencies(&[]));
    runtime.block_on(latencies(&["--subprocess"]));
    let met = runtime.block_on(flood());
    std::process::exit(if met { 0 } else { 1 });
}

/// Prints a line of the table.
fn row(what: &str, times: &mut [Duration], target: Duration, original: &str) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let ms = |d: Duration| format!("{:.3} ms", d.as_secs_f64() * 1e3);
    println!(
        "{what:36} {:>10} {:>10} {:>10}  < {} {}{original}",
        ms(at(50)),
        ms(at(99)),
        ms(at(100)),
        ms(target),
        if at(50) < target { "met" } else { "MISSED" },
    );
}

/// Runs work in the container, one piece at a time, in one thread.
struct Inside {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Inside {
    fn new(pid: u32) -> Self {
        let (work, pieces) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || {
            inside(pid, move || {
                for piece in pieces {
                    piece();
                }
            })
        });
        Self { work }
    }

    async fn run<T: Send + 'static>(&self, piece: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = tokio::sync::oneshot::channel();
        let boxed = Box::new(move || drop(send.send(piece())));
        self.work.send(boxed).expect("the thread runs");
        receive.await.expect("the piece runs")
    }
}

async fn latencies(arguments: &[&str]) {
    let way = if arguments.is_empty() {
        ""
    } else {
        " (subprocess)"
    };
    let shielded = Shielded::new("bench");
    let bus = Bus::new();
    for port in 1..=ROUNDS as u16 {
        shielded.net.serve_tcp(10_000 + port);
    }
    let (_bridge, client) = shielded.bridge(&bus, arguments).await;
    let name = shielded.bus_name();
    let container = Inside::new(shielded.net.pid());

    let (mut to_signal, mut to_answer) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 20 {
        let start = container
            .run(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
                let start = Instant::now();
                let _ = socket.send_to(b"x", ("198.18.0.1", 20_000 + round as u16));
                start
            })
            .await;
        let blocked = client.blocked_at("198.18.0.1", 20_000 + round as u16).await;
        let told = start.elapsed();
        let start = Instant::now();
        assert!(client.verdict(&name, &blocked.5, "deny").await);
        let answered = start.elapsed();
        // The first rounds warm the caches.
        if round >= 20 {
            to_signal.push(told);
            to_answer.push(answered);
        }
    }
    let half = Duration::from_micros(500);
    row(
        &format!("block to signal{way}"),
        &mut to_signal,
        half,
        "  (the original: 1009.6 ms)",
    );
    row(
        &format!("Verdict, until it holds{way}"),
        &mut to_answer,
        half,
        "",
    );

    let mut to_connected = Vec::new();
    for round in 1..=ROUNDS as u16 {
        let to: SocketAddr = (
            V4.parse::<std::net::Ipv4Addr>().expect("an address"),
            10_000 + round,
        )
            .into();
        let start = Instant::now();
        let refused = container.run(move || TcpStream::connect(to).is_err()).await;
        assert!(refused);
        let blocked = client.blocked_at(V4, 10_000 + round).await;
        assert!(client.verdict(&name, &blocked.5, "accept").await);
        let connected = container.run(move || TcpStream::connect(to).is_ok()).await;
        assert!(connected, "the very next connection");
        to_connected.push(start.elapsed());
    }
    let whole = Duration::from_millis(1);
    row(
        &format!("blocked, verdict, connected{way}"),
        &mut to_connected,
        whole,
        "",
    );
}

/// 400,000 packets to 200 destinations, and 60,000 destinations once. True if nothing leaked.
async fn flood() -> bool {
    let shielded = Shielded::new("bench");
    let bus = Bus::new();
    let (bridge, client) = shielded.bridge(&bus, &[]).await;
    let before = shielded.net.arrived();
    let memory_before = memory(bridge.pid());
    let container = Inside::new(shielded.net.pid());
    let send = |count: u32, destinations: u32, first: u32| {
        container.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
            let start = Instant::now();
            for n in 0..count {
                let to = std::net::Ipv4Addr::from(first + n % destinations);
                let _ = socket.send_to(b"x", (to, 9));
            }
            start.elapsed()
        })
    };
    let took = send(400_000, 200, 0xc612_0000).await;
    let mut events = 0u64;
    let mut lost = 0u64;
    while let Ok(message) = tokio::time::timeout(Duration::from_secs(2), client.signal()).await {
        match message.header().member().map(|m| m.to_string()).as_deref() {
            Some("ConnectionBlocked") => events += 1,
            Some("EventsLost") => {
                lost += u64::from(message.body().deserialize::<(String, u32)>().expect("su").1);
            }
            _ => {}
        }
    }
    let windows = took.as_secs() / 5 + 1;
    let leaked = shielded.net.arrived() - before;
    println!(
        "\nflood: 400,000 packets to 200 destinations in {:.2} s ({:.1} us each)\n  events {events} (at most {}: {}), lost {lost}, leaked {leaked}, memory +{} KiB",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / 4e5,
        200 * windows,
        if events <= 200 * windows {
            "met"
        } else {
            "MISSED"
        },
        memory(bridge.pid()).saturating_sub(memory_before),
    );
    let took = send(60_000, 60_000, 0xc613_0000).await;
    let (mut events, mut lost) = (0u64, 0u64);
    while events + lost < 60_000 {
        let Ok(message) = tokio::time::timeout(Duration::from_secs(10), client.signal()).await
        else {
            break;
        };
        match message.header().member().map(|m| m.to_string()).as_deref() {
            Some("ConnectionBlocked") => events += 1,
            Some("EventsLost") => {
                lost += u64::from(message.body().deserialize::<(String, u32)>().expect("su").1);
            }
            _ => {}
        }
    }
    let scan_leaked = shielded.net.arrived() - before;
    println!(
        "scan: 60,000 destinations in {:.2} s\n  events {events}, counted as lost {lost}, neither {}, leaked {scan_leaked}, memory +{} KiB",
        took.as_secs_f64(),
        60_000u64.saturating_sub(events + lost),
        memory(bridge.pid()).saturating_sub(memory_before),
    );
    leaked == 0 && scan_leaked == 0
}

/// The process's memory that is its own, in KiB.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    text.lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .expect("the kernel says so")
}
