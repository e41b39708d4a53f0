//! What programs do with a bus, each with every answer checked.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use dbus_wire::body::Body;
use dbus_wire::frame::MessageType;
use dbus_wire::message::Builder;

use crate::peer::{Peer, Result, echo_call, serve_echo};
use crate::subject::{Cost, World};

/// What one run measured.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Figures {
    /// The main figure: time for one thing, in nanoseconds (the median where things were timed singly).
    pub ns: f64,
    /// The 99th percentile, where things were timed singly.
    pub p99_ns: Option<f64>,
    /// What one message costs the subject.
    #[serde(flatten)]
    pub cost: Cost,
    /// Memory, in KiB: for one idle client, or at the peak over the start.
    pub kib: Option<f64>,
}

/// One run on one subject; the number is a factor for how much it does.
type Run = fn(&World, f64) -> Result<Figures>;

pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// Between two clients inside; compared with a dbus-daemon instead of the relay.
    pub inside: bool,
    run: Run,
}

impl Scenario {
    pub fn run(&self, world: &World, work: f64) -> Result<Figures> {
        (self.run)(world, work)
    }
}

const fn scenario(name: &'static str, what: &'static str, inside: bool, run: Run) -> Scenario {
    Scenario {
        name,
        what,
        inside,
        run,
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// A message may have 128 MiB, its header and the lengths in it included.
const LARGEST: usize = 128 * MIB - KIB;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "round trip, 0 B",
        "one call at a time to a host service",
        false,
        |w, k| round_trip(w, k, 0, 4000),
    ),
    scenario(
        "round trip, 1 KiB",
        "the same with a body",
        false,
        |w, k| round_trip(w, k, KIB, 4000),
    ),
    scenario(
        "round trip, 64 KiB",
        "the same with a body",
        false,
        |w, k| round_trip(w, k, 64 * KIB, 1000),
    ),
    scenario(
        "64 outstanding, 64 B",
        "64 calls under way at any time",
        false,
        |w, k| outstanding(w, k, 64, 20_000),
    ),
    scenario(
        "64 outstanding, 1 KiB",
        "the same with a body",
        false,
        |w, k| outstanding(w, k, KIB, 20_000),
    ),
    scenario(
        "64 outstanding, 64 KiB",
        "the same with a body",
        false,
        |w, k| outstanding(w, k, 64 * KIB, 2000),
    ),
    scenario(
        "bulk, 1 MiB",
        "large calls and replies; memory at the peak",
        false,
        |w, k| bulk(w, k, MIB, 40),
    ),
    scenario("bulk, 16 MiB", "the same", false, |w, k| {
        bulk(w, k, 16 * MIB, 4)
    }),
    scenario(
        "bulk, 128 MiB",
        "the largest message that the protocol has, and its reply",
        false,
        |w, _| bulk_of(w, LARGEST, 1, &w.host),
    ),
    scenario(
        "fd in each call",
        "a descriptor to the host",
        false,
        |w, k| descriptors(w, k, true),
    ),
    scenario(
        "fd in each reply",
        "a descriptor from the host",
        false,
        |w, k| descriptors(w, k, false),
    ),
    scenario(
        "signal to 32",
        "one signal of the host to 32 subscribers inside",
        false,
        |w, k| fan_out(w, k, &w.host),
    ),
    scenario("connections", "connect, Hello, go", false, connections),
    scenario(
        "16 clients mixed",
        "calls of 0 B to 64 KiB, 16 clients",
        false,
        mixed,
    ),
    scenario(
        "round trip, 1000 idle",
        "one call at a time while 1,000 others are idle; memory of one idle client",
        false,
        among_idle,
    ),
    scenario(
        "round trip, one does not read",
        "one call at a time while a subscriber does not read its signals",
        false,
        beside_deaf,
    ),
    scenario(
        "inside: round trip, 0 B",
        "the same between two clients inside",
        true,
        |w, k| round_trip_at(w, k, 0, 4000, &w.inside),
    ),
    scenario(
        "inside: 64 outstanding, 64 B",
        "the same between two clients inside",
        true,
        |w, k| outstanding_at(w, k, 64, 20_000, &w.inside),
    ),
    scenario(
        "inside: 64 outstanding, 1 KiB",
        "the same between two clients inside",
        true,
        |w, k| outstanding_at(w, k, KIB, 20_000, &w.inside),
    ),
    scenario(
        "inside: 64 outstanding, 64 KiB",
        "the same between two clients inside",
        true,
        |w, k| outstanding_at(w, k, 64 * KIB, 2000, &w.inside),
    ),
    scenario(
        "inside: fd in each call",
        "the same between two clients inside",
        true,
        |w, k| descriptors_at(w, k, true, &w.inside),
    ),
    scenario(
        "inside: signal to 32",
        "the same, the sender inside",
        true,
        |w, k| fan_out(w, k, &w.inside),
    ),
    scenario(
        "inside: bulk, 1 MiB",
        "the same between two clients inside",
        true,
        |w, k| bulk_at(w, k, MIB, 40, &w.inside),
    ),
];

fn times(work: f64, count: usize) -> usize {
    ((count as f64 * work) as usize).max(4)
}

/// The name of the echo service, which the rules of a router with rules speak of.
pub const ECHO: &str = "org.kde.kapsule.Bench";

/// Starts the echo service on a bus; returns its name.
pub fn echo(path: &Path) -> Result<String> {
    let mut service = Peer::connect(path)?;
    service.driver("RequestName", &Body::new().str(ECHO).u32(0))?;
    std::thread::spawn(move || serve_echo(service));
    Ok(ECHO.to_owned())
}

/// A body of this size; in several arrays, of which the longest may have 64 MiB.
pub fn payload(size: usize) -> Body {
    const ARRAY: usize = 48 * MIB;
    let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    bytes
        .chunks(ARRAY)
        .fold(Body::new(), |body, part| body.bytes(part))
}

/// One call, its reply checked.
pub fn call(client: &mut Peer, to: &str, body: &Body) -> Result<()> {
    let serial = client.next_serial();
    client.send(&echo_call(to, "Echo", serial, body, 0))?;
    check(client, serial, body)
}

fn check(client: &mut Peer, serial: u32, body: &Body) -> Result<()> {
    let reply = client.reply_to(serial)?;
    if client.body(reply) != body.bytes {
        return Err("a reply has another body than its call".to_owned());
    }
    Ok(())
}

fn round_trip(world: &World, work: f64, size: usize, count: usize) -> Result<Figures> {
    round_trip_at(world, work, size, count, &world.host)
}

fn round_trip_at(
    world: &World,
    work: f64,
    size: usize,
    count: usize,
    service: &Path,
) -> Result<Figures> {
    let to = echo(service)?;
    let mut client = Peer::connect(&world.inside)?;
    timed_calls(world, &mut client, &to, &payload(size), times(work, count))
}

fn timed_calls(
    world: &World,
    client: &mut Peer,
    to: &str,
    body: &Body,
    count: usize,
) -> Result<Figures> {
    for _ in 0..count / 10 {
        call(client, to, body)?;
    }
    let cost = world.begin_cost()?;
    let mut durations = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        call(client, to, body)?;
        durations.push(begin.elapsed());
    }
    durations.sort_unstable();
    let at = |part: f64| durations[(durations.len() as f64 * part) as usize].as_nanos() as f64;
    Ok(Figures {
        ns: at(0.5),
        p99_ns: Some(at(0.99)),
        cost: world.end_cost(&cost, 2 * count)?,
        kib: None,
    })
}

fn outstanding(world: &World, work: f64, size: usize, count: usize) -> Result<Figures> {
    outstanding_at(world, work, size, count, &world.host)
}

fn outstanding_at(
    world: &World,
    work: f64,
    size: usize,
    count: usize,
    service: &Path,
) -> Result<Figures> {
    const WINDOW: usize = 64;
    let to = echo(service)?;
    let mut client = Peer::connect(&world.inside)?;
    let body = payload(size);
    call(&mut client, &to, &body)?;
    let count = times(work, count);
    let template = echo_call(&to, "Echo", 1, &body, 0);
    let mut calls = Vec::new();
    let (mut sent, mut got) = (0, 0);
    let cost = world.begin_cost()?;
    let begin = Instant::now();
    while got < count {
        calls.clear();
        while sent < count && sent - got < WINDOW {
            let at = calls.len();
            calls.extend_from_slice(&template);
            let serial = client.next_serial();
            calls[at + 8..at + 12].copy_from_slice(&serial.to_le_bytes());
            sent += 1;
        }
        client.send(&calls)?;
        let mut place = Some(client.next()?);
        while let Some(it) = place {
            if client.header(it).kind == MessageType::MethodReturn {
                if client.body(it) != body.bytes {
                    return Err("a reply has another body than its call".to_owned());
                }
                got += 1;
            }
            place = client.next_here()?;
        }
    }
    let elapsed = begin.elapsed();
    Ok(Figures {
        ns: elapsed.as_nanos() as f64 / count as f64,
        cost: world.end_cost(&cost, 2 * count)?,
        ..Figures::default()
    })
}

fn bulk(world: &World, work: f64, size: usize, count: usize) -> Result<Figures> {
    bulk_at(world, work, size, count, &world.host)
}

fn bulk_at(world: &World, work: f64, size: usize, count: usize, service: &Path) -> Result<Figures> {
    bulk_of(world, size, times(work, count), service)
}

fn bulk_of(world: &World, size: usize, count: usize, service: &Path) -> Result<Figures> {
    let to = echo(service)?;
    let mut client = Peer::connect(&world.inside)?;
    let body = payload(size);
    let idle = world.subject.rss_kib();
    world.subject.forget_peak();
    call(&mut client, &to, &body)?;
    let cost = world.begin_cost()?;
    let begin = Instant::now();
    for _ in 0..count {
        call(&mut client, &to, &body)?;
    }
    let elapsed = begin.elapsed();
    Ok(Figures {
        ns: elapsed.as_nanos() as f64 / count as f64,
        cost: world.end_cost(&cost, 2 * count)?,
        kib: Some(world.subject.peak_kib().saturating_sub(idle) as f64),
        p99_ns: None,
    })
}

fn descriptors(world: &World, work: f64, in_calls: bool) -> Result<Figures> {
    descriptors_at(world, work, in_calls, &world.host)
}

fn descriptors_at(world: &World, work: f64, in_calls: bool, service: &Path) -> Result<Figures> {
    const WINDOW: usize = 16;
    let to = echo(service)?;
    let mut client = Peer::connect(&world.inside)?;
    let null = std::fs::File::open("/dev/null").map_err(|error| error.to_string())?;
    let null = OwnedFd::from(null);
    let body = if in_calls {
        Body::new().unix_fd(0)
    } else {
        Body::new()
    };
    let member = if in_calls { "Echo" } else { "EchoWithFd" };
    let count = times(work, 4000);
    let (mut sent, mut got, mut fds) = (0, 0, 0);
    let cost = world.begin_cost()?;
    let begin = Instant::now();
    while got < count {
        while sent < count && sent - got < WINDOW {
            let serial = client.next_serial();
            let call = echo_call(&to, member, serial, &body, u32::from(in_calls));
            if in_calls {
                client.send_fd(&call, &null)?;
            } else {
                client.send(&call)?;
            }
            sent += 1;
        }
        let mut place = Some(client.next()?);
        while let Some(it) = place {
            match client.header(it).kind {
                MessageType::MethodReturn => got += 1,
                MessageType::Error => return Err("an error came back".to_owned()),
                _ => {}
            }
            fds += client.fds.drain(..).count();
            place = client.next_here()?;
        }
    }
    if !in_calls && fds != count {
        return Err(format!("{fds} descriptors came with {count} replies"));
    }
    let elapsed = begin.elapsed();
    Ok(Figures {
        ns: elapsed.as_nanos() as f64 / count as f64,
        cost: world.end_cost(&cost, 2 * count)?,
        ..Figures::default()
    })
}

fn fan_out(world: &World, work: f64, sender: &Path) -> Result<Figures> {
    const SUBSCRIBERS: usize = 32;
    const AT_ONCE: usize = 16;
    let mut sender = Peer::connect(sender)?;
    let rule = Body::new().str("type='signal',interface='org.example.Tick'");
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut subscriber = Peer::connect(&world.inside)?;
        subscriber.driver("AddMatch", &rule)?;
        subscribers.push(subscriber);
    }
    let rounds = times(work, 100);
    let body = Body::new().u32(7);
    let cost = world.begin_cost()?;
    let begin = Instant::now();
    for _ in 0..rounds {
        let mut signals = Vec::new();
        for _ in 0..AT_ONCE {
            let serial = sender.next_serial();
            let signal = Builder::signal("/org/example/Tick", "org.example.Tick", "Tick");
            signals.extend_from_slice(&signal.serial(serial).body(&body).build());
        }
        sender.send(&signals)?;
        for subscriber in &mut subscribers {
            let mut got = 0;
            while got < AT_ONCE {
                let place = subscriber.next()?;
                got += usize::from(subscriber.header(place).member == Some("Tick"));
            }
        }
    }
    let elapsed = begin.elapsed();
    Ok(Figures {
        ns: elapsed.as_nanos() as f64 / (rounds * AT_ONCE * SUBSCRIBERS) as f64,
        cost: world.end_cost(&cost, rounds * AT_ONCE * SUBSCRIBERS)?,
        ..Figures::default()
    })
}

fn connections(world: &World, work: f64) -> Result<Figures> {
    let count = times(work, 500);
    let cost = world.begin_cost()?;
    let begin = Instant::now();
    for _ in 0..count {
        Peer::connect(&world.inside)?;
    }
    let elapsed = begin.elapsed();
    Ok(Figures {
        ns: elapsed.as_nanos() as f64 / count as f64,
        cost: world.end_cost(&cost, count)?,
        ..Figures::default()
    })
}

fn mixed(world: &World, work: f64) -> Result<Figures> {
    const CLIENTS: usize = 16;
    let to = echo(&world.host)?;
    let count = times(work, 400);
    let cost = world.begin_cost()?;
    let begin = Instant::now();
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let to = &to;
                scope.spawn(move || {
                    let mut client = Peer::connect(&world.inside)?;
                    let bodies = [0, 100, KIB, 8 * KIB, 64 * KIB].map(payload);
                    for turn in 0..count {
                        call(&mut client, to, &bodies[(turn + number) % bodies.len()])?;
                    }
                    Ok(())
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a client panicked".to_owned()))
        };
        threads.into_iter().map(join).collect()
    });
    results.into_iter().collect::<Result<Vec<()>>>()?;
    let elapsed = begin.elapsed();
    Ok(Figures {
        ns: elapsed.as_nanos() as f64 / (count * CLIENTS) as f64,
        cost: world.end_cost(&cost, 2 * count * CLIENTS)?,
        ..Figures::default()
    })
}

fn among_idle(world: &World, work: f64) -> Result<Figures> {
    const IDLE: usize = 1000;
    let to = echo(&world.host)?;
    let mut client = Peer::connect(&world.inside)?;
    let before = world.subject.rss_kib();
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(Peer::connect(&world.inside)?);
    }
    let memory = world.subject.rss_kib().saturating_sub(before) as f64 / IDLE as f64;
    let figures = timed_calls(world, &mut client, &to, &payload(0), times(work, 4000))?;
    drop(idle);
    Ok(Figures {
        kib: Some(memory),
        ..figures
    })
}

fn beside_deaf(world: &World, work: f64) -> Result<Figures> {
    let to = echo(&world.host)?;
    let mut deaf = Peer::connect(&world.inside)?;
    deaf.driver(
        "AddMatch",
        &Body::new().str("type='signal',interface='org.example.Tick'"),
    )?;
    let mut sender = Peer::connect(&world.host)?;
    let body = payload(16 * KIB);
    for _ in 0..64 {
        let serial = sender.next_serial();
        let signal = Builder::signal("/org/example/Tick", "org.example.Tick", "Tick");
        sender.send(&signal.serial(serial).body(&body).build())?;
    }
    // The signals are on their way when the bus has answered this.
    sender.driver("GetId", &Body::new())?;
    std::thread::sleep(Duration::from_millis(50));
    let mut client = Peer::connect(&world.inside)?;
    timed_calls(world, &mut client, &to, &payload(0), times(work, 4000))
}
