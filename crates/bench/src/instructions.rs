//! Counts the instructions of fixed exchanges under callgrind: where time cannot guard against a change that makes
//! messages dearer, because machines are loaded and differ, this can. The count hardly depends on the machine.

use std::collections::BTreeMap;
use std::path::Path;

use dbus_wire::body::Body;
use dbus_wire::message::Builder;

use crate::peer::{Peer, Result};
use crate::process::Callgrind;
use crate::scenario::{call, echo, payload};
use crate::subject::{Kind, Programs, World, start};

/// The two lengths of an exchange, in messages: what is the same in both (starting, connecting) is no part of the
/// result.
const LENGTHS: [usize; 2] = [50, 450];
/// More than what is written down, by so many percent, fails. Another compiler moves counts by less.
const TOLERANCE: f64 = 10.0;

struct Exchange {
    name: &'static str,
    kind: Kind,
    run: fn(&World, usize) -> Result<()>,
}

const EXCHANGES: [Exchange; 6] = [
    Exchange {
        name: "call of the host and its reply",
        kind: Kind::MuxLocal,
        run: |world, count| calls(world, &world.host, 0, count),
    },
    Exchange {
        name: "call inside and its reply",
        kind: Kind::MuxLocal,
        run: |world, count| calls(world, &world.inside, 0, count),
    },
    Exchange {
        name: "call inside and its reply, 16 KiB",
        kind: Kind::MuxLocal,
        run: |world, count| calls(world, &world.inside, 16 * 1024, count),
    },
    Exchange {
        name: "signal inside to 8 subscribers",
        kind: Kind::MuxLocal,
        run: signals,
    },
    Exchange {
        name: "call of the host and its reply, remote container bus",
        kind: Kind::MuxRemote,
        run: |world, count| calls(world, &world.host, 0, count),
    },
    Exchange {
        name: "call of the host and its reply, 200 rules",
        kind: Kind::Router200,
        run: |world, count| calls(world, &world.host, 0, count),
    },
];

fn calls(world: &World, service: &Path, size: usize, count: usize) -> Result<()> {
    let to = echo(service)?;
    let mut client = Peer::connect(&world.inside)?;
    let body = payload(size);
    for _ in 0..count {
        call(&mut client, &to, &body)?;
    }
    Ok(())
}

fn signals(world: &World, count: usize) -> Result<()> {
    let mut sender = Peer::connect(&world.inside)?;
    let rule = Body::new().str("type='signal',interface='org.example.Tick'");
    let mut subscribers = Vec::new();
    for _ in 0..8 {
        let mut subscriber = Peer::connect(&world.inside)?;
        subscriber.driver("AddMatch", &rule)?;
        subscribers.push(subscriber);
    }
    for _ in 0..count {
        let serial = sender.next_serial();
        let signal = Builder::signal("/org/example/Tick", "org.example.Tick", "Tick");
        sender.send(&signal.serial(serial).body(&Body::new().u32(7)).build())?;
        for subscriber in &mut subscribers {
            while {
                let place = subscriber.next()?;
                subscriber.header(place).member != Some("Tick")
            } {}
        }
    }
    Ok(())
}

/// Counts every exchange; returns instructions for one, by name.
fn count(programs: &Programs) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for exchange in &EXCHANGES {
        let mut totals = [0; 2];
        for (total, length) in totals.iter_mut().zip(LENGTHS) {
            let callgrind = Callgrind::new()?;
            let programs = Programs {
                under: Some(callgrind.command()),
                ..programs.clone()
            };
            let world = start(exchange.kind, &programs, false)?;
            (exchange.run)(&world, length).map_err(|it| format!("{}: {it}", exchange.name))?;
            *total = callgrind.end(world.subject)?;
        }
        let each = (totals[1] - totals[0]) / (LENGTHS[1] - LENGTHS[0]) as u64;
        counts.insert(exchange.name.to_owned(), each);
    }
    Ok(counts)
}

/// Counts, and compares with what the file says; or writes the file.
///
/// # Errors
/// An exchange costs more than it did; valgrind is not there; the file cannot be read.
pub fn guard(programs: &Programs, file: &Path, write: bool) -> Result<()> {
    let io = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let counts = count(programs)?;
    if write {
        let text = serde_json::to_string_pretty(&counts).map_err(|error| io(&error))?;
        std::fs::write(file, text + "\n").map_err(|error| io(&error))?;
    }
    let text = std::fs::read_to_string(file).map_err(|error| io(&error))?;
    let before: BTreeMap<String, u64> = serde_json::from_str(&text).map_err(|error| io(&error))?;
    let mut worse = Vec::new();
    for (name, &now) in &counts {
        let Some(&then) = before.get(name) else {
            worse.push(format!("{name} is not written down"));
            continue;
        };
        let percent = (now as f64 / then as f64 - 1.0) * 100.0;
        println!("{name:56} {now:>8} instructions ({percent:+.1} %)");
        if percent > TOLERANCE {
            worse.push(format!("{name}: {now} instructions, {then} before"));
        } else if percent < -TOLERANCE {
            println!("  fewer than before: write it down with --write");
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!(
        "messages have become dearer: {}. If that is meant: cargo xtask bench instructions --write",
        worse.join("; ")
    ))
}
