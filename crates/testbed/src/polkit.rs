//! The system bus of a [`Machine`], with a real polkitd on it: rules, actions, and agents that know a password.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::machine::{Machine, User};
use crate::processes::{Line, Output, Process, run_to_end};
use crate::skip::Trouble;
use crate::terminal::Terminal;
use crate::tools;

/// How a [`SystemBus`] is set up.
#[derive(Clone, Default)]
pub struct SystemBusOptions {
    /// polkit's rules (JavaScript), the first that are asked. `""`: the actions' defaults hold. There is no
    /// logind, so nobody's session is active: `allow_any` is what counts of those.
    pub rules: String,
    /// Files that define actions (`*.policy`), besides those that are installed.
    pub actions: Vec<PathBuf>,
    /// Files of the bus's own policy (`system.d/*.conf`), besides those that are installed.
    pub bus_policies: Vec<PathBuf>,
}

/// A running system bus with polkitd. Both end when this goes.
pub struct SystemBus<'machine> {
    machine: &'machine Machine,
    // In the order in which they end.
    polkitd: Process,
    bus: Process,
}

const SOCKET: &str = "/run/dbus/system_bus_socket";

impl<'machine> SystemBus<'machine> {
    /// Starts the bus and polkitd, and waits until polkitd has its name.
    ///
    /// # Errors
    /// [`Trouble::Unable`] if one of them is not installed.
    pub fn start(
        machine: &'machine Machine,
        options: &SystemBusOptions,
    ) -> Result<SystemBus<'machine>, Trouble> {
        let Some(polkitd) = tools::POLKITD.find() else {
            return Err(Trouble::Unable(tools::POLKITD.missing()));
        };
        for tool in [&tools::DBUS_DAEMON, &tools::GDBUS] {
            if tool.find().is_none() {
                return Err(Trouble::Unable(tool.missing()));
            }
        }
        for file in &options.bus_policies {
            copy_into(file, &machine.outside("/etc/dbus-1/system.d"))?;
        }
        let rules = machine.outside("/etc/polkit-1/rules.d");
        fs::create_dir_all(&rules).map_err(Failure::doing("making a directory for rules"))?;
        write_rules(machine, &options.rules)?;
        // Readable by whom polkitd becomes. The machine's own rules stay, after ours.
        for dir in [rules.parent().unwrap_or(&rules), &rules] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
                .map_err(Failure::doing("opening the rules to polkitd"))?;
        }
        add_actions(machine, &options.actions)?;

        let mut command = machine.command("dbus-daemon");
        command.args([
            "--system",
            "--nofork",
            "--nopidfile",
            "--nosyslog",
            "--print-address=1",
        ]);
        let (mut bus, mut said) = Process::start_reading(command, "system-bus", &machine.logs())?;
        match said.next_line(Deadline::usual()) {
            Ok(Line::Text(_)) => {}
            _ => return Err(bus.failure("the system bus did not start").into()),
        }
        let polkitd = start_polkitd(machine, &polkitd)?;
        Ok(SystemBus {
            machine,
            polkitd,
            bus,
        })
    }

    /// The bus's address for the test's own process. For programs inside the machine it is where they look
    /// for it.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// The bus's socket, for the test's own process.
    pub fn socket(&self) -> PathBuf {
        self.machine.outside(SOCKET)
    }

    /// The bus's process.
    pub fn bus(&mut self) -> &mut Process {
        &mut self.bus
    }

    /// polkitd's process.
    pub fn polkitd(&mut self) -> &mut Process {
        &mut self.polkitd
    }

    /// Other rules from now on: polkitd is started anew, so that no earlier answer is kept.
    ///
    /// # Errors
    /// It does not start.
    pub fn set_rules(&mut self, rules: &str) -> Result<(), Failure> {
        write_rules(self.machine, rules)?;
        let Some(program) = tools::POLKITD.find() else {
            return Err(Failure::new(tools::POLKITD.missing()));
        };
        self.polkitd.end();
        self.polkitd = start_polkitd(self.machine, &program)?;
        Ok(())
    }

    /// Runs `program` as `user` at a terminal with an agent (pkttyagent), at which somebody answers with
    /// `password` each time one is asked for. To its end, within the usual limit.
    ///
    /// # Errors
    /// [`Trouble::Unable`] if pkttyagent is not installed.
    pub fn run_with_agent(
        &self,
        user: &User,
        password: &str,
        program: impl AsRef<Path>,
        arguments: &[&str],
    ) -> Result<Challenged, Trouble> {
        if tools::PKTTYAGENT.find().is_none() {
            return Err(Trouble::Unable(tools::PKTTYAGENT.missing()));
        }
        let dir = self.machine.dir();
        let stdout = dir.write("challenged-stdout", "");
        let stderr = dir.write("challenged-stderr", "");
        let mut command = self.machine.command_as(user, "sh");
        // The agent is registered for this process, which then becomes the program. Waiting: for the end of
        // the pipe, that the agent closes when it is registered.
        let script = r#"
            agent=$(pkttyagent --process $$ --notify-fd 9 9>&1 >/dev/tty 2>&1 &)
            exec "$@" </dev/null"#;
        command
            .args(["-c", script, "sh"])
            .arg(program.as_ref())
            .args(arguments);
        // The terminal's own words are those of the agent.
        let mut terminal = Terminal::start_with(
            &command,
            File::create(&stdout).map_err(Failure::doing("making a file"))?,
            File::create(&stderr).map_err(Failure::doing("making a file"))?,
            &self.machine.logs(),
        )?;
        let deadline = Deadline::usual();
        let mut asked = 0;
        while terminal
            .read_until(deadline, |new| Some(new.find("Password: ")? + 10))
            .is_some()
        {
            asked += 1;
            terminal.send_secret(&format!("{password}\n"));
        }
        let (status, _) = terminal.wait();
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        Ok(Challenged {
            output: Output {
                status,
                stdout: read(&stdout),
                stderr: read(&stderr),
            },
            asked,
            terminal: terminal.seen().to_owned(),
        })
    }

    /// Starts an agent of `user` for the connection with the unique name `bus_name`, that is the user's, too;
    /// somebody answers with `password`, in a thread, until the agent goes.
    ///
    /// # Errors
    /// [`Trouble::Unable`] if pkttyagent is not installed.
    pub fn agent_for(&self, user: &User, password: &str, bus_name: &str) -> Result<Agent, Trouble> {
        if tools::PKTTYAGENT.find().is_none() {
            return Err(Trouble::Unable(tools::PKTTYAGENT.missing()));
        }
        let mut command = self.machine.command_as(user, "sh");
        let script = r#"
            agent=$(pkttyagent --system-bus-name "$1" --notify-fd 9 9>&1 >/dev/tty 2>&1 &)
            echo registered
            cat"#;
        command.args(["-c", script, "sh", bus_name]);
        let mut terminal = Terminal::start(&command, &self.machine.logs())?;
        let registered = terminal.read_until(Deadline::usual(), |new| new.find("registered"));
        if registered.is_none() {
            return Err(Failure::new(format!(
                "pkttyagent was not registered; it said:\n{}",
                terminal.seen()
            ))
            .into());
        }
        let typist = terminal
            .process()
            .pidfd()
            .map_err(Failure::doing("duplicating a pidfd"))?;
        let password = password.to_owned();
        let thread = std::thread::spawn(move || {
            let deadline = Deadline::after(Duration::from_secs(600));
            let mut asked = 0;
            while terminal
                .read_until(deadline, |new| Some(new.find("Password: ")? + 10))
                .is_some()
            {
                asked += 1;
                terminal.send_secret(&format!("{password}\n"));
            }
            asked
        });
        Ok(Agent {
            leader: typist,
            thread: Some(thread),
        })
    }
}

/// How a program fared that was [run with an agent](SystemBus::run_with_agent).
pub struct Challenged {
    /// The program's own.
    pub output: Output,
    /// How many times a password was asked for.
    pub asked: usize,
    /// What the agent showed.
    pub terminal: String,
}

/// Somebody at a terminal who types a password when asked: see [`SystemBus::agent_for`].
pub struct Agent {
    leader: OwnedFd,
    thread: Option<JoinHandle<usize>>,
}

impl Agent {
    /// Sends the agent away, and tells how many times a password was asked for.
    pub fn end(mut self) -> usize {
        self.hang_up()
    }

    fn hang_up(&mut self) -> usize {
        // The terminal's session ends with its leader.
        let _ = pidfd_send_signal(&self.leader, Signal::KILL);
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or(0)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn start_polkitd(machine: &Machine, program: &Path) -> Result<Process, Failure> {
    let mut process = Process::start(machine.command(program), "polkitd", &machine.logs())?;
    let mut command = machine.command("gdbus");
    command.args([
        "wait",
        "--system",
        "--timeout=20",
        "org.freedesktop.PolicyKit1",
    ]);
    let waited = run_to_end(command, Duration::from_secs(30))?;
    match waited.status.success() {
        true => Ok(process),
        false => Err(process.failure(&format!("polkitd did not start: {}", waited.both()))),
    }
}

fn write_rules(machine: &Machine, rules: &str) -> Result<(), Failure> {
    let file = machine.outside("/etc/polkit-1/rules.d/00-test.rules");
    fs::write(&file, rules).map_err(Failure::doing("writing polkit's rules"))
}

/// Where actions are read from there is no second directory (before polkit 126), and it is the real
/// machine's: its actions and ours take its place in the machine.
fn add_actions(machine: &Machine, files: &[PathBuf]) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    let actions = machine.outside("/run/polkit-actions");
    fs::create_dir_all(&actions).map_err(Failure::doing("making a directory for actions"))?;
    for file in files {
        copy_into(file, &actions)?;
    }
    let mut command = machine.command("sh");
    command.args([
        "-c",
        "cp -n /usr/share/polkit-1/actions/* /run/polkit-actions/ && \
         mount --bind /run/polkit-actions /usr/share/polkit-1/actions",
    ]);
    let done = run_to_end(command, Duration::from_secs(20))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "mounting polkit's actions: {}",
            done.both()
        ))),
    }
}

fn copy_into(file: &Path, dir: &Path) -> Result<(), Failure> {
    let name = file
        .file_name()
        .ok_or_else(|| Failure::new(format!("{} is no file", file.display())))?;
    fs::create_dir_all(dir)
        .and_then(|()| fs::copy(file, dir.join(name)))
        .map_err(Failure::doing(format_args!(
            "copying {} to {}",
            file.display(),
            dir.display()
        )))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{ALICE, BOB, PASSWORD};
    use crate::or_skip;

    const ACTIONS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD polkit Policy Configuration 1.0//EN"
 "http://www.freedesktop.org/software/polkit/policyconfig-1.dtd">
<policyconfig>
  <action id="org.kde.kapsule.test">
    <description>Test</description><message>Authentication is required to test</message>
    <defaults><allow_any>auth_admin</allow_any></defaults>
  </action>
</policyconfig>
"#;

    /// pkcheck asks polkitd about a process: about itself.
    const CHECK: &[&str] = &[
        "-c",
        "exec pkcheck --action-id org.kde.kapsule.test --process $$ --allow-user-interaction",
    ];

    #[test]
    fn polkit_allows_denies_and_asks_for_an_administrators_password() {
        let machine = or_skip!(Machine::start());
        let actions = machine.dir().write("org.kde.kapsule.test.policy", ACTIONS);
        let rules = "polkit.addRule(function(action, subject) {
            if (action.id != 'org.kde.kapsule.test') return polkit.Result.NOT_HANDLED;
            if (subject.user == 'bob') return polkit.Result.NO;
        });";
        let options = SystemBusOptions {
            rules: rules.to_owned(),
            actions: vec![actions],
            ..SystemBusOptions::default()
        };
        let mut bus = or_skip!(SystemBus::start(&machine, &options));

        let mut denied = machine.command_as(&BOB, "sh");
        denied.args(CHECK);
        assert!(!machine.run(denied).status.success());

        let right = or_skip!(bus.run_with_agent(&ALICE, PASSWORD, "sh", CHECK));
        assert!(right.output.status.success(), "{}", right.terminal);
        assert_eq!(right.asked, 1, "{}", right.terminal);

        let wrong = or_skip!(bus.run_with_agent(&ALICE, "wrong", "sh", CHECK));
        assert!(!wrong.output.status.success(), "{}", wrong.terminal);
        assert!(wrong.asked >= 1, "{}", wrong.terminal);

        bus.set_rules("polkit.addRule(function() { return polkit.Result.YES; });")
            .expect("polkitd starts again");
        let mut allowed = machine.command_as(&BOB, "sh");
        allowed.args(CHECK);
        machine.run(allowed).success();
    }
}
