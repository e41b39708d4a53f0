//! A real Incus for one test, without systemd: in a [`Machine`], with its own directory, storage, network and
//! images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use crate::container_image::{Recipe, TRIXIE};
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::processes::{Output, Process, run_to_end};
use crate::skip::Trouble;
use crate::tools;

/// Where Incus keeps everything, as seen from inside the machine.
const DIR: &str = "/run/incus";
/// How long one of its slow steps may take: making the storage, unpacking an image on a busy machine.
const SLOW: Duration = Duration::from_secs(120);

/// How an [`Incus`] is set up.
#[derive(Clone)]
pub struct IncusOptions {
    /// Images to import, each under its alias.
    pub images: Vec<Recipe>,
    /// Make a storage pool `default`, a network `incusbr0` and the profile `default` with a disk and a network
    /// device of them, as `incus admin init --minimal` does. Without it Incus is as it comes.
    pub initialized: bool,
    /// The storage pool's size; it is a sparse file.
    pub pool_size: &'static str,
}

impl Default for IncusOptions {
    fn default() -> Self {
        IncusOptions {
            images: vec![TRIXIE],
            initialized: true,
            pool_size: "8GiB",
        }
    }
}

/// A running incusd. It ends with its [`Machine`]; containers that still run, too.
pub struct Incus<'machine> {
    machine: &'machine Machine,
    incusd: PathBuf,
    process: Process,
    driver: &'static str,
}

impl<'machine> Incus<'machine> {
    /// Starts one, and waits until it is ready and set up: about three seconds.
    ///
    /// # Errors
    /// [`Trouble::Unable`] if Incus is not installed, or an image is not to be had.
    pub fn start(
        machine: &'machine Machine,
        options: &IncusOptions,
    ) -> Result<Incus<'machine>, Trouble> {
        let Some(incusd) = tools::INCUSD.find() else {
            return Err(Trouble::Unable(tools::INCUSD.missing()));
        };
        for tool in [&tools::INCUS, &tools::DNSMASQ] {
            if tool.find().is_none() {
                return Err(Trouble::Unable(tool.missing()));
            }
        }
        let images = options
            .images
            .iter()
            .map(|recipe| Ok((recipe.alias, recipe.provide()?)))
            .collect::<Result<Vec<_>, Trouble>>()?;
        let process = start_daemon(machine, &incusd)?;
        let mut incus = Incus {
            machine,
            incusd,
            process,
            driver: "dir",
        };
        incus.wait_ready()?;
        if options.initialized {
            incus.initialize(options)?;
        }
        for (alias, files) in images {
            let mut command = incus.command();
            command
                .args(["image", "import"])
                .arg(&files.metadata)
                .arg(&files.rootfs)
                .args(["--alias", alias]);
            incus.succeed(command)?;
        }
        Ok(incus)
    }

    /// The machine that it runs in.
    pub fn machine(&self) -> &'machine Machine {
        self.machine
    }

    /// Its REST socket, for the test's own process.
    pub fn socket(&self) -> PathBuf {
        self.machine.outside(self.socket_inside())
    }

    /// Its REST socket, for programs inside the machine.
    pub fn socket_inside(&self) -> PathBuf {
        Path::new(DIR).join("unix.socket")
    }

    /// Its directory, for the test's own process. Storage that Incus has mounted is seen from inside only.
    pub fn dir(&self) -> PathBuf {
        self.machine.outside(DIR)
    }

    /// The storage pool's driver: `btrfs`, or `dir` where there is none (a machine without loop devices or
    /// btrfs).
    pub fn storage_driver(&self) -> &'static str {
        self.driver
    }

    /// A command line of the client program `incus`, as root.
    pub fn command(&self) -> Command {
        let mut command = self.machine.command("incus");
        command
            .env("INCUS_DIR", DIR)
            .env("INCUS_CONF", format!("{DIR}/client"));
        command
    }

    /// Runs the client program `incus` with these arguments, to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn incus(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments);
        run_to_end(command, SLOW).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The daemon's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills the daemon (SIGKILL), as a crash would. Containers run on.
    pub fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(Deadline::usual());
    }

    /// Stops the daemon (SIGTERM), as an upgrade does. Containers run on.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.process.signal(Signal::TERM);
        self.process.wait(Deadline::after(SLOW))
    }

    /// Starts the daemon again after [`Incus::kill`] or [`Incus::stop`], and waits until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self) -> Result<(), Failure> {
        self.process = start_daemon(self.machine, &self.incusd)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<(), Failure> {
        let mut command = self.command();
        command.args(["admin", "waitready", "--timeout=60"]);
        let output = run_to_end(command, SLOW)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(self
                .process
                .failure(&format!("Incus did not become ready: {}", output.both()))),
        }
    }

    fn initialize(&mut self, options: &IncusOptions) -> Result<(), Failure> {
        let mut command = self.command();
        command.args(["storage", "create", "default", "btrfs"]);
        command.arg(format!("size={}", options.pool_size));
        let made = run_to_end(command, SLOW)?;
        if made.status.success() {
            self.driver = "btrfs";
        } else {
            // Slower to create containers on, and all else alike.
            let mut command = self.command();
            command.args(["storage", "create", "default", "dir"]);
            self.succeed(command)?;
        }
        let steps: [&[&str]; 3] = [
            &[
                "network",
                "create",
                "incusbr0",
                "ipv4.address=10.77.0.1/24",
                "ipv6.address=none",
            ],
            &[
                "profile",
                "device",
                "add",
                "default",
                "root",
                "disk",
                "path=/",
                "pool=default",
            ],
            &[
                "profile",
                "device",
                "add",
                "default",
                "eth0",
                "nic",
                "network=incusbr0",
                "name=eth0",
            ],
        ];
        for arguments in steps {
            let mut command = self.command();
            command.args(arguments);
            self.succeed(command)?;
        }
        Ok(())
    }

    fn succeed(&mut self, command: Command) -> Result<(), Failure> {
        let shown = format!("{command:?}");
        let output = run_to_end(command, SLOW)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(self
                .process
                .failure(&format!("{shown} failed: {}", output.both()))),
        }
    }
}

fn start_daemon(machine: &Machine, incusd: &Path) -> Result<Process, Failure> {
    fs::create_dir_all(machine.outside(DIR))
        .map_err(Failure::doing("making a directory for Incus"))?;
    // It starts itself, and what else came with it, by name.
    let beside = incusd.parent().unwrap_or(Path::new("/"));
    let mut command = machine.command(incusd);
    let path = command
        .get_envs()
        .find_map(|(name, value)| (name == "PATH").then_some(value?))
        .unwrap_or_default()
        .to_owned();
    let mut with_its_own = beside.as_os_str().to_owned();
    with_its_own.push(":");
    with_its_own.push(path);
    command
        .arg("--group=root")
        .env("INCUS_DIR", DIR)
        .env("PATH", with_its_own);
    Process::start(command, "incusd", &machine.logs())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::or_skip;

    #[test]
    fn a_container_runs_and_nothing_of_it_is_left_behind() {
        let machine = or_skip!(Machine::start());
        let mut incus = or_skip!(Incus::start(&machine, &IncusOptions::default()));
        incus.incus(&["launch", "trixie", "one"]).success();
        let said = incus
            .incus(&[
                "exec",
                "one",
                "--",
                "sh",
                "-c",
                "id -u; cat /etc/os-release",
            ])
            .success();
        assert!(said.contains("VERSION_CODENAME=trixie"), "{said}");
        // It runs on without its daemon, and is found again.
        incus.kill();
        incus.start_again().expect("it starts again");
        let state = incus
            .incus(&["list", "--format=csv", "--columns=ns"])
            .success();
        assert_eq!(state.trim(), "one,RUNNING");
        let dir = machine.dir().path().to_owned();
        let init = incus
            .incus(&["info", "one"])
            .success()
            .lines()
            .find_map(|line| line.strip_prefix("PID: ")?.parse::<i32>().ok())
            .expect("a process id");
        let init = rustix::process::Pid::from_raw(init).expect("not zero");
        let init = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty())
            .expect("it runs");
        drop(incus);
        drop(machine);
        assert!(!dir.exists());
        let ended = Deadline::usual().wait_readable(&[init.as_fd()]);
        assert!(ended.is_some(), "the container has ended");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it is there");
        assert!(!mounts.contains(&*dir.to_string_lossy()), "{mounts}");
    }
}
