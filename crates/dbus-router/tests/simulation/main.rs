//! The whole router in an invented world.
//!
//! The router and the buses behind it are hubs, run against each other in memory, with programs around them
//! that call, signal, take names, stop reading, send rubbish and leave. A run is made by its seed alone. What
//! every program is told is compared with a model of the view; see `judge.rs` for the list of what must hold.
//!
//! Environment: SIMULATION_SEED (the first seed), SIMULATION_SEEDS (how many), SIMULATION_MINUTES (how long),
//! SIMULATION_TRACE (how many events are shown of a failure; "all" shows every one).

mod judge;
mod node;
mod program;
mod random;
mod trace;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use trace::Trace;
use world::World;

/// How many seeds a plain `cargo test` runs.
const SEEDS: u64 = 30;

fn simulate(world: &mut World) -> Result<(), String> {
    let rounds = 1 + world.medium.random.below(3);
    for _ in 0..rounds {
        let steps = 200 + world.medium.random.below(2500);
        for _ in 0..steps {
            world.step()?;
        }
        world.rest()?;
        world.check_rest()?;
        world.probe()?;
    }
    for p in 0..world.programs.len() {
        world.leave(p);
    }
    world.rest()?;
    let left = world.router.hub.client_count();
    if left > 0 {
        return Err(format!("the router still has {left} clients"));
    }
    let left = world.router.hub.leftovers();
    if !left.is_empty() {
        return Err(format!("the router still has {left:?}"));
    }
    for bus in [&world.host, &world.container].into_iter().flatten() {
        let left = bus.hub.client_count();
        if left > 1 {
            return Err(format!("{} still has {left} clients", bus.label));
        }
    }
    Ok(())
}

/// One world. What was wrong in it, if something was, and what happened before.
fn run(seed: u64, trace: Trace) -> Result<(), (String, Vec<String>)> {
    let mut world = World::new(seed, trace);
    let result = catch_unwind(AssertUnwindSafe(|| simulate(&mut world)));
    let problem = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(problem)) => problem,
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => format!("panic: {text}"),
            None => "panic".to_owned(),
        },
    };
    let features = &world.features;
    let mut lines = vec![format!("a world of mode {:?}: {features:?}", features.mode)];
    lines.extend(world.medium.trace.lines().cloned());
    Err((problem, lines))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_program_sees_one_bus_whatever_happens() {
    let minutes = setting("SIMULATION_MINUTES");
    let first = setting("SIMULATION_SEED");
    let seeds = match (minutes, setting("SIMULATION_SEEDS")) {
        (Some(_), None) => u64::MAX,
        (_, seeds) => seeds.unwrap_or(if first.is_some() { 1 } else { SEEDS }),
    };
    let asked = std::env::var("SIMULATION_TRACE").ok();
    let most = match asked.as_deref() {
        Some("all") => usize::MAX,
        Some(number) => number.parse().unwrap_or(80),
        None => 80,
    };
    let first = first.unwrap_or(1);
    let began = Instant::now();
    let mut failures = 0;
    for seed in (first..).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
        if minutes.is_some_and(|it| began.elapsed() > Duration::from_secs(60 * it)) {
            break;
        }
        let Err((problem, _)) = run(seed, Trace::default()) else {
            continue;
        };
        let again = run(seed, Trace::on(most));
        println!("seed {seed}: {problem}");
        println!("    cargo xtask simulate --seed {seed} --trace");
        match again {
            Err((same, lines)) => {
                if same != problem {
                    println!("    (the second time: {same})");
                }
                if failures == 0 || asked.is_some() {
                    for line in lines {
                        println!("    {line}");
                    }
                }
            }
            Ok(()) => println!("    (it did not happen a second time)"),
        }
        failures += 1;
        if failures >= setting("SIMULATION_FAILURES").unwrap_or(1) {
            break;
        }
    }
    assert!(failures == 0, "{failures} of the worlds went wrong");
}
