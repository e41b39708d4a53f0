//! A machine with Incus, polkitd, the daemon, and people who type commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testbed::machine::{ALICE, User};
use testbed::{
    Deadline, Failure, Incus, IncusOptions, Line, Machine, Output, Process, SystemBus,
    SystemBusOptions, Terminal, Trouble, run_to_end,
};

/// What a slow step may take on a busy machine: a container is made, or its packages are looked at.
const SLOW: Duration = Duration::from_secs(120);

/// alice may use her own containers, bob may when he proves who he is, and carol may not.
const RULES: &str = r#"
polkit.addRule(function (action, subject) {
    if (action.id.indexOf("org.kde.kapsule.") !== 0)
        return polkit.Result.NOT_HANDLED;
    if (subject.user === "alice")
        return action.id === "org.kde.kapsule.enter-container" ? polkit.Result.YES : polkit.Result.NO;
    if (subject.user === "bob")
        return polkit.Result.AUTH_SELF;
    return polkit.Result.NO;
});
"#;

/// The daemons of a machine. They end when this goes.
pub struct Rig<'machine> {
    machine: &'machine Machine,
    _kapsuled: Process,
    _incus: Incus<'machine>,
    _bus: SystemBus<'machine>,
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../data")
        .join(file)
}

impl<'machine> Rig<'machine> {
    /// Starts all of them.
    pub fn start(machine: &'machine Machine) -> Result<Rig<'machine>, Trouble> {
        let options = SystemBusOptions {
            rules: RULES.to_owned(),
            actions: vec![data("polkit-1/org.kde.kapsule.policy")],
            bus_policies: vec![data("dbus-1/system.d/org.kde.kapsule.conf")],
        };
        let bus = SystemBus::start(machine, &options)?;
        let incus = Incus::start(machine, &IncusOptions::default())?;
        let kapsuled = start_daemon(machine, &incus)?;
        Ok(Rig {
            machine,
            _kapsuled: kapsuled,
            _incus: incus,
            _bus: bus,
        })
    }

    /// The machine.
    pub fn machine(&self) -> &'machine Machine {
        self.machine
    }

    /// Where the program is, as seen from inside the machine.
    pub fn program(&self) -> PathBuf {
        self.machine
            .program("kapsule")
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// `kapsule` with arguments, as somebody would type it in the home.
    pub fn command(&self, user: &User, arguments: &[&str]) -> Command {
        let mut command = self.machine.command_as(user, "sh");
        command
            .args(["-c", r#"cd && exec "$@""#, "sh"])
            .arg(self.program())
            .args(arguments);
        command
    }

    /// Runs `kapsule` to its end, with nothing on stdin.
    #[track_caller]
    pub fn kapsule(&self, user: &User, arguments: &[&str]) -> Output {
        run_to_end(self.command(user, arguments), SLOW)
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// What alice's `kapsule` prints, if it ends well.
    #[track_caller]
    pub fn alice(&self, arguments: &[&str]) -> String {
        self.kapsule(&ALICE, arguments).success()
    }

    /// What alice's `kapsule` prints with `input` on its stdin, and how it ends.
    #[track_caller]
    pub fn alice_with_input(&self, input: &str, arguments: &[&str]) -> Output {
        let path = self.machine.dir().write("input", input);
        let command = self.command(&ALICE, arguments);
        let mut with_input = Command::new("sh");
        with_input
            .args(["-c", r#"input=$1; shift; exec "$@" <"$input""#, "sh"])
            .arg(path)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            with_input.env(name, value.unwrap_or_default());
        }
        run_to_end(with_input, SLOW).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// alice at a terminal, where she runs a line of shell; `$kapsule` is the program.
    #[track_caller]
    pub fn at_a_terminal(&self, line: &str) -> Terminal {
        let mut command = self.machine.command_as(&ALICE, "sh");
        command
            .args(["-c", &format!("cd; {line}")])
            .env("kapsule", self.program());
        Terminal::start(&command, &self.machine.logs())
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// A file in alice's home, for the test.
    pub fn in_home(&self, below: &str) -> PathBuf {
        self.machine.outside(ALICE.home().join(below))
    }
}

fn start_daemon(machine: &Machine, incus: &Incus<'_>) -> Result<Process, Failure> {
    let profiles = fs::canonicalize(data("profiles"))
        .map_err(Failure::doing("looking for the profiles of the features"))?;
    let mux = machine.program("kapsule-dbus-mux").unwrap_or_default();
    let config = Path::new("/run/kapsule.toml");
    let text = format!(
        "default_image = \"trixie\"\n\
         default_container = \"den\"\n\
         profile_directories = [{profiles:?}]\n\
         subid_files = []\n\
         mux_program = {mux:?}\n"
    );
    fs::write(machine.outside(config), text)
        .map_err(Failure::doing("writing the daemon's configuration"))?;
    let mut command = machine.command(machine.program("kapsuled")?);
    command
        .arg("--incus-socket")
        .arg(incus.socket_inside())
        .args(["--data-dir", "/run/kapsule-data", "--config"])
        .arg(config);
    let mut kapsuled = Process::start(command, "kapsuled", &machine.logs())?;
    // It serves once its name is on the bus.
    let deadline = Deadline::usual();
    let mut watch = machine.command("gdbus");
    watch.args(["wait", "--system", "--timeout=20", "org.kde.kapsule"]);
    let (mut process, mut lines) = Process::start_reading(watch, "wait", &machine.logs())?;
    match lines.next_line(deadline) {
        Ok(Line::End) if process.wait(deadline).is_some_and(|s| s.success()) => Ok(kapsuled),
        _ => Err(kapsuled.failure("kapsuled was not on the bus in time")),
    }
}

/// A program that is started, whose output is read as it comes.
pub fn start_reading(rig: &Rig<'_>, arguments: &[&str]) -> (Process, testbed::Lines) {
    let mut command = rig.command(&ALICE, arguments);
    command.stdin(Stdio::null());
    Process::start_reading(command, "kapsule", &rig.machine().logs())
        .unwrap_or_else(|failure| panic!("{failure}"))
}
