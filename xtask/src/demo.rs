//! `cargo xtask demo`: the multiplexer's main job, on real buses, told at the terminal.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use dbus_wire::Body;
use testbed::raw_client::call;
use testbed::{
    Deadline, Failure, Line, Lines, Process, RawClient, Topology, World, WorldOptions, run_to_end,
    tools,
};

use crate::{cargo, packages, steps};

const WEATHER: &str = "org.example.Weather";
const NOTIFICATIONS: &str = "org.freedesktop.Notifications";

/// How long a program of the demo may take.
const LIMIT: Duration = testbed::deadline::LIMIT;
/// How long a service's line may take that was written before its answer was sent.
const SOON: Duration = Duration::from_secs(2);

/// Show the main job on real buses: which call is answered where
///
/// Starts a host bus (dbus-daemon) with a notification service and a weather service, a multiplexer in
/// front of it, and programs inside that call through it; then a service inside takes over a name that the
/// host owns, and gives it back. All of it is private and ends with the demo. Needs dbus-daemon; gdbus,
/// busctl and notify-send are shown if they are there.
#[derive(clap::Args)]
pub struct Arguments {
    /// Install what is missing without asking
    #[arg(long, short)]
    yes: bool,

    /// With a container bus of its own process (a second dbus-daemon) in place of the built-in one
    #[arg(long)]
    remote: bool,

    /// Use what has been built already
    #[arg(long)]
    no_build: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    packages::provide(
        &[
            &tools::DBUS_DAEMON,
            &tools::GDBUS,
            &tools::BUSCTL,
            &tools::NOTIFY_SEND,
        ],
        arguments.yes,
    )?;
    if tools::DBUS_DAEMON.find().is_none() {
        return Err(Failure::new(
            "the demo needs dbus-daemon, and it is not here (see above for what to install)",
        ));
    }
    if !arguments.no_build {
        build("build the multiplexer", &["--package", "kapsule-dbus-mux"])?;
        let services = ["--package", "testbed", "--example", "demo_service"];
        build("build the demo's services", &services)?;
    }
    let topology = match arguments.remote {
        true => Topology::Remote,
        false => Topology::Local,
    };
    Demo::start(topology)?.play()
}

fn build(step: &str, arguments: &[&str]) -> Result<(), Failure> {
    let finished = steps::run(step, cargo::build(arguments), steps::last_line)?;
    if finished.status.success() {
        return Ok(());
    }
    finished.show_tail();
    Err(Failure::new("the demo does not build (see above)"))
}

/// Where something is.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Side {
    Host,
    Inside,
}

/// A service of the demo, which tells of each call that it answers.
struct Service {
    process: Process,
    lines: Lines,
    side: Side,
    what: &'static str,
}

impl Service {
    fn start(
        world: &World,
        side: Side,
        what: &'static str,
        arguments: &[&str],
    ) -> Result<Service, Failure> {
        let address = match side {
            Side::Host => world.outside(),
            Side::Inside => world.inside(),
        };
        let program = cargo::built("examples/demo_service")?;
        let mut command = world.command(&program.display().to_string(), &address);
        command.args(arguments);
        let (process, lines) = Process::start_reading(command, "service", &world.dir.join("logs"))?;
        let mut service = Service {
            process,
            lines,
            side,
            what,
        };
        match service.told(Deadline::usual()) {
            Some(line) if line == "ready" => Ok(service),
            _ => Err(service
                .process
                .failure(&format!("The {what} did not start."))),
        }
    }

    /// The next line that it writes.
    fn told(&mut self, deadline: Deadline) -> Option<String> {
        match self.lines.next_line(deadline) {
            Ok(Line::Text(line)) => Some(line),
            _ => None,
        }
    }
}

struct Demo {
    paint: Paint,
    /// The first is the notification service, the second the host's weather service.
    services: Vec<Service>,
    /// A program inside that watches the weather's name, and does what there is no program for.
    watcher: RawClient,
    scene: usize,
    surprises: usize,
    world: World,
}

impl Demo {
    fn start(topology: Topology) -> Result<Demo, Failure> {
        let world = World::try_start(topology, &WorldOptions::default())?;
        let services = vec![
            Service::start(
                &world,
                Side::Host,
                "notification service",
                &["notifications"],
            )?,
            Service::start(&world, Side::Host, "weather service", &["weather", "sunny"])?,
        ];
        let mut watcher = RawClient::open(&world.inside());
        watcher.add_match(&format!(
            "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{WEATHER}'"
        ));
        Ok(Demo {
            paint: Paint::for_stdout(),
            services,
            watcher,
            scene: 0,
            surprises: 0,
            world,
        })
    }

    fn play(mut self) -> Result<ExitCode, Failure> {
        self.introduce();

        self.scene("A program inside notifies.");
        self.notify()?;
        self.answered(Side::Host);

        self.scene("A program inside asks a service of the host.");
        let inside = self.world.inside();
        self.ask_weather(&inside)?;
        self.answered(Side::Host);

        self.scene(
            "A service inside takes the name that the host owns; the same call goes to it at once.",
        );
        let service = Service::start(
            &self.world,
            Side::Inside,
            "weather service",
            &["weather", "rain, in here"],
        )?;
        self.say(&format!(
            "weather service inside: process {}",
            service.process.id()
        ));
        self.services.push(service);
        self.change_of_owner();
        self.ask_weather(&inside)?;
        self.answered(Side::Inside);

        self.scene("Outside nothing has changed: a program on the host asks.");
        let outside = self.world.outside();
        self.ask_weather(&outside)?;
        self.answered(Side::Host);

        self.scene("What programs inside see: one bus with the names of both.");
        self.look_around()?;

        self.scene("The service inside ends, and the name is the host's again.");
        if let Some(mut service) = self.services.pop() {
            service.process.end();
        }
        self.change_of_owner();
        self.ask_weather(&inside)?;
        self.answered(Side::Host);

        println!();
        match self.surprises {
            0 => {
                println!("Every call was answered where it should be.");
                Ok(ExitCode::SUCCESS)
            }
            count => {
                println!("{count} did not go as it should: look for «instead» above.");
                if let Some(mux) = &mut self.world.mux {
                    println!("The multiplexer's log:\n{}", mux.process().log());
                }
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn introduce(&mut self) {
        let paint = self.paint;
        let row = |side: Option<Side>, what: &str, pid: u32, address: &str| {
            let side = side.map_or(String::new(), |side| paint.side(side));
            println!(
                "  {side:6}  {what:32} process {pid:<8} {}",
                paint.faint(address)
            );
        };
        println!("\n{}", paint.bold("There are"));
        let outside = self.world.outside();
        if let Some(host) = &mut self.world.host {
            row(
                Some(Side::Host),
                "bus (dbus-daemon)",
                host.process().id(),
                &outside,
            );
        }
        for (service, name) in self.services.iter().zip([NOTIFICATIONS, WEATHER]) {
            row(Some(service.side), service.what, service.process.id(), name);
        }
        if let Some(container) = &mut self.world.container {
            let address = container.address().to_owned();
            let pid = container.process().id();
            row(Some(Side::Inside), "bus (dbus-daemon)", pid, &address);
        }
        let inside = self.world.inside();
        if let Some(mux) = &mut self.world.mux {
            row(
                None,
                "kapsule-dbus-mux between them",
                mux.process().id(),
                &inside,
            );
        }
        println!("\n  What runs “inside” has the multiplexer's socket as its session bus.");
    }

    fn scene(&mut self, title: &str) {
        self.scene += 1;
        println!("\n{}", self.paint.bold(&format!("{}  {title}", self.scene)));
    }

    fn say(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("     {line}");
        }
    }

    /// Runs a program as a person would, and shows both.
    fn run(&self, address: &str, arguments: &[&str]) -> Result<String, Failure> {
        let shown: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.contains(' ') {
                true => format!("'{argument}'"),
                false => (*argument).to_owned(),
            })
            .collect();
        let place = match address == self.world.inside() {
            true => self.paint.side(Side::Inside),
            false => self.paint.side(Side::Host),
        };
        println!("   {place} $ {}", shown.join(" "));
        let mut command = self.world.command(arguments[0], address);
        command.args(&arguments[1..]);
        let output = run_to_end(command, LIMIT)?;
        if !output.status.success() {
            return Err(Failure::new(format!(
                "{} ended with {}:\n{}",
                arguments[0],
                output.status,
                output.both()
            )));
        }
        Ok(output.stdout)
    }

    fn notify(&mut self) -> Result<(), Failure> {
        let (summary, body) = ("Dinner is ready", "says the container");
        if tools::NOTIFY_SEND.find().is_some() {
            let output = self.run(&self.world.inside(), &["notify-send", summary, body])?;
            self.say(&output);
            return Ok(());
        }
        self.say("(notify-send is not here; a client of ours does what it does)");
        let arguments = Body::new()
            .str("demo")
            .u32(0)
            .str("")
            .str(summary)
            .str(body)
            .strs(std::iter::empty::<&str>())
            .dict_sv(|_| {})
            .i32(-1);
        let path = "/org/freedesktop/Notifications";
        let notify = call(NOTIFICATIONS, path, NOTIFICATIONS, "Notify").body(&arguments);
        self.watcher.call(notify).returned();
        Ok(())
    }

    /// Asks for the weather by its name, always in the same way.
    fn ask_weather(&mut self, address: &str) -> Result<(), Failure> {
        let (path, interface, member) = ("/org/example/Weather", "org.example.Weather1", "Today");
        let output = if tools::GDBUS.find().is_some() {
            let method = format!("{interface}.{member}");
            self.run(
                address,
                &[
                    "gdbus",
                    "call",
                    "--session",
                    "--dest",
                    WEATHER,
                    "--object-path",
                    path,
                    "--method",
                    &method,
                ],
            )?
        } else {
            let answer = RawClient::open(address).call(call(WEATHER, path, interface, member));
            format!("{WEATHER} {member}: {:?}", answer.returned().text())
        };
        self.say(&output);
        Ok(())
    }

    /// Says who answered the call that was just made. A service writes its line before it answers.
    fn answered(&mut self, awaited: Side) {
        let soon = Deadline::after(SOON);
        let told = self.services.iter_mut().rev().find_map(|service| {
            // The one that should have is waited for; of the others, what there is.
            let deadline = if service.side == awaited {
                soon
            } else {
                Deadline::after(Duration::ZERO)
            };
            Some((
                service.side,
                service.what,
                service.process.id(),
                service.told(deadline)?,
            ))
        });
        match told {
            Some((side, what, pid, line)) => {
                let arrow = format!(
                    "→ {} the {what} answered, process {pid}",
                    self.paint.side(side)
                );
                println!("     {arrow} {}", self.paint.faint(&format!("({line})")));
                if side != awaited {
                    self.surprise(&format!("awaited: {}", self.paint.side(awaited)));
                }
            }
            None => self.surprise("no service of the demo was called"),
        }
    }

    /// Says what programs inside are told when the weather's name changes hands.
    fn change_of_owner(&mut self) {
        let signal = self
            .watcher
            .expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
        let named = |owner: &str| match owner {
            "" => "nobody".to_owned(),
            owner => owner.to_owned(),
        };
        if let [name, old, new] = signal.strings().as_slice() {
            println!(
                "     a program inside is told: {name} goes from {} to {}",
                named(old),
                named(new)
            );
            if old.is_empty() || new.is_empty() {
                self.surprise("the name always has an owner, on one side or the other");
            }
        }
    }

    fn look_around(&mut self) -> Result<(), Failure> {
        let inside = self.world.inside();
        let names: Vec<String> = self
            .watcher
            .list_names()
            .into_iter()
            .filter(|name| !name.starts_with(':'))
            .collect();
        if tools::BUSCTL.find().is_some() {
            let output = self.run(
                &inside,
                &["busctl", "--user", "list", "--acquired", "--no-pager"],
            )?;
            // The columns that tell something here.
            let width = output
                .lines()
                .next()
                .and_then(|titles| titles.find(" UNIT"))
                .unwrap_or(usize::MAX);
            let rows: Vec<String> = output
                .lines()
                .map(|line| line.chars().take(width).collect())
                .collect();
            self.say(&rows.join("\n"));
        } else {
            self.say(&names.join("\n"));
        }
        for name in [NOTIFICATIONS, WEATHER] {
            if names.iter().filter(|listed| *listed == name).count() != 1 {
                self.surprise(&format!("{name} should be listed once"));
            }
        }
        if let Some(mux) = &self.world.mux {
            let program = testbed::mux_program()?.display().to_string();
            let socket = mux.socket().display().to_string();
            println!(
                "   {} $ kapsule-dbus-mux status {socket}",
                self.paint.side(Side::Host)
            );
            let mut command = self.world.command(&program, &self.world.outside());
            command.args(["status", &socket]);
            let output = run_to_end(command, LIMIT)?;
            self.say(&output.both());
            if !output.status.success() {
                self.surprise("a status should have been shown");
            }
        }
        Ok(())
    }

    fn surprise(&mut self, what: &str) {
        self.surprises += 1;
        println!("     {}", self.paint.loud(&format!("instead: {what}")));
    }
}

/// Colours, at a terminal that has them.
#[derive(Copy, Clone)]
struct Paint {
    colours: bool,
}

impl Paint {
    fn for_stdout() -> Paint {
        Paint {
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn loud(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// The word for a side, always of the same width.
    fn side(self, side: Side) -> String {
        match side {
            Side::Host => self.paint("1;34", "HOST  "),
            Side::Inside => self.paint("1;32", "INSIDE"),
        }
    }
}
