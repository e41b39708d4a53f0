//! Measures Kapsule as a person meets it: the programs, a real Incus, a real polkitd.
//!
//! `cargo xtask bench kapsule [--rounds N] [--json]`. Needs root and what the tests need. What is compared is measured in
//! the same run, in turn, so that a machine that drifts hurts both alike.
//!
//! The machine of the tests is entered once: a second process of this program runs there and starts the programs, so that
//! the way into the machine is in no figure.

#[path = "../tests/shell/rig.rs"]
#[allow(dead_code)]
mod rig;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use testbed::machine::ALICE;
use testbed::polkit::{SystemBus, SystemBusOptions};
use testbed::{Deadline, Incus, IncusOptions, Machine, Trouble, run_to_end};

const RULES: &str = "polkit.addRule(function(action, subject) {
    if (action.id.indexOf('org.kde.kapsule.') == 0) { return polkit.Result.YES; }
});";

/// What the shell inside says when it is ready.
const PROMPT: &str = "ready-to-type> ";
/// How many of one kind are measured in a row.
const IN_A_ROW: usize = 5;
/// How many containers are listed.
const LISTED: usize = 50;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` passes an argument of its harness.
    if arguments.iter().any(|a| a == "--test") {
        return ExitCode::SUCCESS;
    }
    if let [inside, rounds, incus_dir] = &arguments[..]
        && inside == "--inside"
    {
        measure(rounds.parse().unwrap_or(1), incus_dir);
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|a| a == "--help") {
        println!("Usage: cargo xtask bench kapsule [--rounds N] [--json]");
        return ExitCode::SUCCESS;
    }
    let rounds = arguments
        .iter()
        .position(|a| a == "--rounds")
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(100);
    match run(rounds) {
        Ok(figures) => {
            if arguments.iter().any(|a| a == "--json") {
                println!("{}", figures.json());
            } else {
                figures.print();
            }
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            eprintln!("SKIPPED: bench kapsule: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// Times by what was measured, in milliseconds.
#[derive(Default)]
struct Figures(Vec<(String, Vec<f64>)>);

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    fn at(&self, name: &str, percent: usize) -> Option<f64> {
        let (_, values) = self.0.iter().find(|(known, _)| known == name)?;
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        values.get((values.len() - 1) * percent / 100).copied()
    }

    /// Rows: what is measured, against what, what is aimed at.
    const ROWS: [(&'static str, Option<&'static str>, Option<f64>); 10] = [
        (
            "kapsule enter, to the prompt",
            Some("incus exec, to the prompt"),
            Some(15.0),
        ),
        ("incus exec, to the prompt", None, None),
        // What a login session of each shell's own (PAM, logind) would add.
        (
            "incus exec su -l, to the prompt",
            Some("incus exec, to the prompt"),
            None,
        ),
        ("kapsule run true", Some("incus exec true"), None),
        ("incus exec true", None, None),
        (
            "kapsule create, to its end",
            Some("incus launch, to its end"),
            Some(400.0),
        ),
        ("incus launch, to its end", None, None),
        (
            "kapsule list, 50 containers",
            Some("incus list, 50 containers"),
            Some(30.0),
        ),
        ("incus list, 50 containers", None, None),
        ("ListContainers, 50 containers", None, Some(30.0)),
    ];

    fn print(&self) {
        println!(
            "{:32} {:>9} {:>9} {:>9} {:>5}  {:>7}  target",
            "milliseconds", "p50", "p90", "worst", "n", "ratio"
        );
        for (name, against, target) in Self::ROWS {
            let (Some(p50), Some(p90), Some(worst)) =
                (self.at(name, 50), self.at(name, 90), self.at(name, 100))
            else {
                continue;
            };
            let ratio = against
                .and_then(|other| Some(format!("{:.2}", p50 / self.at(other, 50)?)))
                .unwrap_or_default();
            let count = self
                .0
                .iter()
                .find(|(known, _)| known == name)
                .map_or(0, |(_, v)| v.len());
            println!(
                "{name:32} {p50:9.2} {p90:9.2} {worst:9.2} {count:5}  {ratio:>7}  {}",
                verdict(p50, target)
            );
        }
        println!();
        for (name, target) in [
            ("daemon, idle, Rss MiB", Some(15.0)),
            ("daemon, idle, Pss MiB", None),
            ("daemon, afterwards, Rss MiB", None),
        ] {
            if let Some(value) = self.at(name, 50) {
                println!("{name:32} {value:9.2} {:36}{}", "", verdict(value, target));
            }
        }
        println!("ratio: to the same with incus, in the same run");
    }

    fn json(&self) -> serde_json::Value {
        let rows: serde_json::Map<String, serde_json::Value> = self
            .0
            .iter()
            .map(|(name, values)| {
                let row = serde_json::json!({
                    "p50": self.at(name, 50), "p90": self.at(name, 90), "worst": self.at(name, 100), "n": values.len(),
                });
                (name.clone(), row)
            })
            .collect();
        rows.into()
    }
}

fn verdict(value: f64, target: Option<f64>) -> String {
    match target {
        Some(target) if value <= target => format!("≤ {target} met"),
        Some(target) => format!("≤ {target} MISSED"),
        None => String::new(),
    }
}

fn run(rounds: usize) -> Result<Figures, Trouble> {
    let machine = Machine::start()?;
    let bus = SystemBus::start(
        &machine,
        &SystemBusOptions {
            rules: RULES.to_owned(),
            actions: vec![rig::data("polkit-1/org.kde.kapsule.policy")],
            bus_policies: vec![rig::data("dbus-1/system.d/org.kde.kapsule.conf")],
        },
    )?;
    let incus = Incus::start(&machine, &IncusOptions::default())?;
    eprintln!("storage: {}", incus.storage_driver());
    let rig = rig::Rig::start(&machine, &bus, &incus, "error");
    let mut figures = Figures::default();
    for (name, field) in [
        ("daemon, idle, Rss MiB", "Rss"),
        ("daemon, idle, Pss MiB", "Pss"),
    ] {
        figures.add(name, memory(rig.daemon.id(), field));
    }
    let alice = rig.client(&ALICE);
    rig.create(&alice, "box");
    // The same for both: the shell's own start is in both figures.
    let profile = machine.outside("/home/alice/.bash_profile");
    std::fs::write(&profile, format!("PS1='{PROMPT}'\nPS0=\n"))
        .map_err(testbed::Failure::doing("writing a profile"))?;
    let program =
        std::env::current_exe().map_err(testbed::Failure::doing("finding this program"))?;
    let mut command = machine.command(program);
    command
        .args(["--inside", &rounds.to_string()])
        .arg(incus.dir())
        .stderr(Stdio::inherit());
    let output = run_to_end(command, Duration::from_secs(900))?;
    if !output.status.success() {
        return Err(testbed::Failure::new(format!(
            "measuring: {}\n{}",
            output.both(),
            rig.daemon.log()
        ))
        .into());
    }
    for line in output.both().lines() {
        if let Some((name, value)) = line.split_once(": ")
            && let Ok(value) = value.parse()
        {
            figures.add(name, value);
        }
    }
    let _runtime = rig.runtime.enter();
    for _ in 0..rounds {
        let began = Instant::now();
        let rows: usize = alice.list();
        assert!(rows > LISTED, "{rows}");
        figures.add("ListContainers, 50 containers", milliseconds(began));
    }
    figures.add(
        "daemon, afterwards, Rss MiB",
        memory(rig.daemon.id(), "Rss"),
    );
    Ok(figures)
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// A field of `/proc/PID/smaps_rollup`, in MiB.
fn memory(pid: u32, field: &str) -> f64 {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        })
        .unwrap_or(0.0)
        / 1024.0
}

/// Inside the machine: each figure as a line, `NAME: MILLISECONDS`.
fn measure(rounds: usize, incus_dir: &str) {
    let incus = |arguments: &[&str]| {
        let mut command = Command::new("incus");
        command
            .args(arguments)
            .env("INCUS_DIR", incus_dir)
            .env("HOME", "/root");
        command
    };
    let kapsule = |arguments: &[&str]| {
        let mut command = Command::new("/run/kapsule-programs/kapsule");
        command
            .args(arguments)
            .env("HOME", ALICE.home())
            .env("USER", ALICE.name)
            .env("XDG_RUNTIME_DIR", ALICE.runtime_dir())
            .current_dir(ALICE.home())
            .uid(ALICE.uid)
            .gid(ALICE.uid);
        command
    };
    let shell = [
        "exec",
        "box",
        "--user",
        "1000",
        "--group",
        "1000",
        "--cwd",
        "/home/alice",
        "--env",
        "HOME=/home/alice",
        "--",
        "bash",
        "-l",
    ];
    // What is measured is how long it takes who has entered a moment ago: a few in a row, of which the first is not
    // counted, and then those of the other, so that a machine that drifts hurts both alike.
    let in_a_row = |name: &str, one: &dyn Fn() -> f64| {
        one();
        for _ in 0..IN_A_ROW {
            println!("{name}: {}", one());
        }
    };
    for _ in 0..rounds.div_ceil(IN_A_ROW) {
        in_a_row("kapsule enter, to the prompt", &|| {
            to_the_prompt(kapsule(&["enter", "box"]))
        });
        in_a_row("incus exec, to the prompt", &|| {
            to_the_prompt(incus(&shell))
        });
        in_a_row("incus exec su -l, to the prompt", &|| {
            to_the_prompt(incus(&["exec", "box", "--", "su", "-l", "alice"]))
        });
        in_a_row("kapsule run true", &|| {
            to_the_end(kapsule(&["run", "box", "--", "true"]))
        });
        in_a_row("incus exec true", &|| {
            to_the_end(incus(&["exec", "box", "--user", "1000", "--", "true"]))
        });
    }
    for round in 0..rounds.div_ceil(10) + 1 {
        let name = format!("new-{round}");
        let ours = to_the_end(kapsule(&[
            "create",
            &name,
            "--image",
            "trixie",
            "--without",
            "graphics",
            "--without",
            "audio",
            "--without",
            "gpu",
        ]));
        to_the_end(kapsule(&["rm", "--force", &name]));
        let theirs = to_the_end(incus(&["launch", "trixie", &name]));
        to_the_end(incus(&["delete", "--force", &name]));
        // The first unpacks the image.
        if round > 0 {
            println!("kapsule create, to its end: {ours}");
            println!("incus launch, to its end: {theirs}");
        }
    }
    for number in 0..LISTED {
        to_the_end(incus(&[
            "init",
            "trixie",
            &format!("listed-{number}"),
            "--config",
            "user.kapsule.owner=1000",
        ]));
    }
    for _ in 0..rounds {
        println!(
            "kapsule list, 50 containers: {}",
            to_the_end(kapsule(&["list"]))
        );
        println!(
            "incus list, 50 containers: {}",
            to_the_end(incus(&["list", "--format", "csv"]))
        );
    }
}

/// Runs a command; how long it took. It has to end well.
fn to_the_end(mut command: Command) -> f64 {
    let began = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let time = milliseconds(began);
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    time
}

/// Runs a command at a terminal; how long it took until the shell inside asked for the first line.
fn to_the_prompt(mut command: Command) -> f64 {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::grantpt(&master).expect("ours");
    rustix::pty::unlockpt(&master).expect("ours");
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).expect("ours");
    rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(ALICE.uid)), None).expect("root may");
    let again = || -> OwnedFd { slave.try_clone().expect("a descriptor more") };
    command
        .stdin(again())
        .stdout(again())
        .stderr(again())
        .env("TERM", "xterm");
    let mut master = File::from(master);
    let began = Instant::now();
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Deadline::usual();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    let time = loop {
        assert!(
            deadline.wait_readable(&[master.as_fd()]).is_some(),
            "{command:?}: no prompt: {seen}"
        );
        let count = master
            .read(&mut buffer)
            .unwrap_or_else(|error| panic!("{command:?}: {error}: {seen}"));
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if seen.contains(PROMPT) {
            break milliseconds(began);
        }
    };
    master.write_all(b"exit\n").expect("the shell is there");
    drop((slave, command));
    // Read until both ends are done, so that nobody waits for room.
    while master.read(&mut buffer).is_ok_and(|count| count > 0) {}
    child.wait().expect("it is ours");
    time
}
