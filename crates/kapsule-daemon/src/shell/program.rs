//! A program in a container: what it is to be, and that it runs.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Resource, Signal, WaitOptions};

use super::accounts::Inmate;
use super::enter::{self, NotStarted, Order, Step};
use super::environment::Environment;
use super::init::Init;
use super::inside::Root;
use crate::error::{Error, Result};

/// `RLIMIT_NOFILE`, as systemd gives it to what it starts: programs that use select(2) live with 1024, others raise it.
const FILES: (u64, u64) = (1024, 524_288);
/// As much of what a program says is kept for an error.
const TEXT: u64 = 64 * 1024;

/// What is to run.
#[derive(Debug)]
pub(super) struct Program {
    /// Who it is.
    pub inmate: Inmate,
    /// Its arguments, exactly; none: the login shell.
    pub argv: Vec<String>,
    /// Whether the arguments are run by a login shell, so that its profile is read.
    pub login: bool,
    /// Its environment.
    pub environment: Environment,
    /// Where it begins: the first of these that it may enter.
    pub directories: Vec<String>,
    /// What it has as 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
    /// Whether these are a terminal that it leads.
    pub terminal: bool,
    /// A pipe from which it gets [`enter::GO`] when it is permitted; none: it is already.
    pub hold: Option<OwnedFd>,
    /// The container's name, for messages.
    pub container: String,
}

impl Program {
    /// Starts it. Blocks for some milliseconds.
    pub(super) fn start(self, init: &Init) -> Result<Running> {
        let doing = format!("starting a program in '{}'", self.container);
        let root = init.root()?;
        let (programs, arguments) = self.resolve(&root)?;
        let name = arguments.first().cloned().unwrap_or_default();
        let proc = rustix::fs::open(
            "/proc",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::failed(&doing))?;
        let hard = rustix::process::getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(u64::MAX)
            .min(FILES.1);
        let limits = [(libc::RLIMIT_NOFILE, FILES.0.min(hard), hard)];
        let strings = |texts: Vec<String>| {
            texts
                .into_iter()
                .map(CString::new)
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|_| Error::InvalidArgument("an argument has a zero byte in it".to_owned()))
        };
        let [stdin, stdout, stderr] = &self.stdio;
        let order = Order {
            init: init.pidfd(),
            namespaces: init.namespaces(),
            cgroup: init.cgroup(),
            proc: proc.as_fd(),
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            terminal: self.terminal,
            hold: self.hold.as_ref().map(AsFd::as_fd),
            bounding: init.bounding(),
            no_new_privileges: init.no_new_privileges(),
            label: init.label(),
            filters: init.filters(),
            limits: &limits,
            uid: self.inmate.uid,
            gid: self.inmate.gid,
            groups: self.inmate.groups.clone(),
            directories: strings(self.directories)?,
            programs: strings(programs)?,
            arguments: strings(arguments)?,
            environment: strings(self.environment.lines().collect())?,
            not_found: format!(
                "kapsule: '{name}' is not installed in '{}'\n",
                self.container
            ),
            not_executable: format!(
                "kapsule: '{name}' cannot be executed in '{}'\n",
                self.container
            ),
        };
        let pid = enter::start(&order).map_err(|NotStarted { step, error }| {
            let text = format!("{doing}: {}: {error}", step.text());
            match error.raw_os_error() {
                Some(libc::ESRCH) if step == Step::Namespaces => Error::NotRunning(format!(
                    "{doing}: the container has stopped; start it and try again"
                )),
                Some(libc::EINVAL) if step == Step::Identity => Error::Failed(format!(
                    "{text}; uid {} or gid {} is not mapped into the container",
                    self.inmate.uid, self.inmate.gid
                )),
                _ if step == Step::Permission => Error::NotAuthorized(format!(
                    "{doing}: it was not permitted, or the service has ended"
                )),
                _ => Error::Failed(text),
            }
        })?;
        Running::of(pid)
    }

    /// Paths at which the program may be, and its arguments.
    fn resolve(&self, root: &Root) -> Result<(Vec<String>, Vec<String>)> {
        let shell = self
            .environment
            .get("SHELL")
            .unwrap_or("/bin/sh")
            .to_owned();
        let base = shell.rsplit('/').next().unwrap_or("sh").to_owned();
        let Some(command) = self.argv.first() else {
            // A dash before its name makes it a login shell, login(1).
            return Ok((vec![shell], vec![format!("-{base}")]));
        };
        if command.is_empty() {
            return Err(Error::InvalidArgument(
                "the command's name is empty; leave it out for a shell".to_owned(),
            ));
        }
        if self.login {
            let is_posix =
                ["bash", "zsh", "dash", "sh", "ksh", "ash", "mksh"].contains(&base.as_str());
            let shell = if is_posix {
                shell
            } else {
                "/bin/sh".to_owned()
            };
            let mut arguments: Vec<_> = [&shell, "-l", "-c", "exec \"$@\"", &shell]
                .map(str::to_owned)
                .into();
            arguments.extend(self.argv.iter().cloned());
            return Ok((vec![shell], arguments));
        }
        let programs = if command.contains('/') {
            vec![command.clone()]
        } else {
            self.environment
                .get("PATH")
                .unwrap_or_default()
                .split(':')
                .filter(|directory| directory.starts_with('/'))
                .map(|directory| format!("{directory}/{command}"))
                // Trying them in the child would do as well; but there are often ten, and one is right.
                .filter(|path| root.find_itself(Path::new(path)).is_ok())
                .collect()
        };
        Ok((programs, self.argv.clone()))
    }
}

/// A program that runs, or has run. Its number stays its own until its end was seen here.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    /// Until its end was seen: afterwards the number may be another's. Held while signals are sent.
    pidfd: Mutex<Option<OwnedFd>>,
}

impl Running {
    /// A child of this process for which nobody else waits.
    pub(crate) fn of_child(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self::of(pid.ok_or_else(|| Error::Failed("a process without a number".to_owned()))?)
    }

    fn of(pid: Pid) -> Result<Self> {
        // It is our child and nobody has waited for it: the number is its own.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(Error::failed("watching the program that was started"))?;
        Ok(Self {
            pid,
            pidfd: Mutex::new(Some(pidfd)),
        })
    }

    fn pidfd(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.pidfd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its end: its exit status, or 128 and the number of the signal that ended it. To be called once.
    pub(crate) async fn wait(&self) -> Result<i32> {
        let doing = "waiting for the program";
        let pidfd = match self.pidfd().as_ref() {
            Some(pidfd) => pidfd.try_clone().map_err(Error::failed(doing))?,
            None => return Err(Error::Failed(format!("{doing}: it has ended"))),
        };
        let readable = enter::watch(pidfd).map_err(Error::failed(doing))?;
        let _ready = readable.readable().await.map_err(Error::failed(doing))?;
        let mut pidfd = self.pidfd();
        let status = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG)
            .map_err(Error::failed(doing))?;
        *pidfd = None;
        let Some((_, status)) = status else {
            return Err(Error::Failed(format!("{doing}: it has not ended")));
        };
        let status = ExitStatus::from_raw(status.as_raw());
        Ok(status
            .code()
            .or_else(|| Some(128 + status.signal()?))
            .unwrap_or(255))
    }

    /// Sends a signal to its process group, or to the one in the foreground of its terminal.
    pub(crate) fn signal(&self, signal: Signal, foreground: bool) -> Result<()> {
        let pidfd = self.pidfd();
        if pidfd.is_none() {
            return Ok(());
        }
        let group = if foreground { self.foreground() } else { None };
        match rustix::process::kill_process_group(group.unwrap_or(self.pid), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::Failed(format!(
                "sending a signal to the program: {error}"
            ))),
        }
    }

    /// The process group that its terminal has in the foreground, if that is of its session.
    fn foreground(&self) -> Option<Pid> {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).ok()?;
        // proc_pid_stat(5): the name is in parentheses and may have any; tpgid is the 8th field.
        let (_, fields) = stat.rsplit_once(')')?;
        let number: i32 = fields.split_whitespace().nth(5)?.parse().ok()?;
        // -1: it has no terminal any more.
        let group = (number > 0).then(|| Pid::from_raw(number))??;
        (rustix::process::getsid(Some(group)).ok()? == self.pid).then_some(group)
    }
}

/// Returns when a descriptor can be read: a pidfd, when its process has ended. At once, if it cannot be waited for.
pub(crate) async fn wait_readable(fd: BorrowedFd<'_>) {
    let watched = fd.try_clone_to_owned().and_then(enter::watch);
    if let Ok(watched) = watched {
        let _ = watched.readable().await;
    }
}

/// Runs a program as root inside, for the daemon itself, and waits. Its exit status, and what it said.
///
/// # Errors
/// If it cannot be started, or has not ended when the time is up: then it is ended.
pub(super) async fn run_as_root(
    init: &Arc<Init>,
    container: &str,
    argv: Vec<String>,
    time: Duration,
) -> Result<(i32, String)> {
    let doing = "running a program in the container";
    let (reader, writer) = std::io::pipe().map_err(Error::failed(doing))?;
    let null: OwnedFd = File::open("/dev/null")
        .map_err(Error::failed(doing))?
        .into();
    let second = writer.try_clone().map_err(Error::failed(doing))?;
    let program_init = Arc::clone(init);
    let container = container.to_owned();
    let running = tokio::task::spawn_blocking(move || {
        let root = program_init.root()?;
        let inmate = Inmate::root(&root);
        let mut environment = Environment::default();
        environment.set(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        environment.set("HOME", "/root");
        environment.set("LC_ALL", "C");
        let program = Program {
            inmate,
            argv,
            login: false,
            environment,
            directories: Vec::new(),
            stdio: [null, writer.into(), second.into()],
            terminal: false,
            hold: None,
            container,
        };
        program.start(&program_init)
    })
    .await
    .map_err(Error::failed(doing))??;
    let text = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let _ = reader.take(TEXT).read_to_end(&mut text);
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let status = match tokio::time::timeout(time, running.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            running.signal(Signal::KILL, false)?;
            let _ = running.wait().await;
            return Err(Error::Failed(format!(
                "{doing}: it has not ended after {} s",
                time.as_secs()
            )));
        }
    };
    // What it started may hold the pipe for longer.
    let text = match tokio::time::timeout(Duration::from_secs(1), text).await {
        Ok(Ok(text)) => text,
        _ => String::new(),
    };
    Ok((status, text))
}

/// Whether a caller's descriptor may be a program's: a pipe, a file, a socket, or a device that is no terminal. A terminal
/// of the host could be typed into from inside; a directory would be a way out.
///
/// # Errors
/// [`Error::InvalidArgument`] with what it is.
pub(super) fn check_descriptor(fd: &OwnedFd, name: &str) -> Result<()> {
    use rustix::fs::FileType;
    let refuse = |what: &str| Error::InvalidArgument(format!("{name} is {what}"));
    let flags =
        rustix::fs::fcntl_getfl(fd).map_err(Error::failed(format_args!("looking at {name}")))?;
    if flags.contains(OFlags::PATH) {
        return Err(refuse("not open for reading or writing"));
    }
    let stat = rustix::fs::fstat(fd).map_err(Error::failed(format_args!("looking at {name}")))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::RegularFile | FileType::Socket => Ok(()),
        FileType::CharacterDevice if rustix::termios::isatty(fd) => {
            Err(refuse("a terminal; use OpenShell, which makes one inside"))
        }
        FileType::CharacterDevice => {
            // mem(4): null, zero, full, random, urandom.
            let device = (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            );
            match device {
                (1, 3 | 5 | 7 | 8 | 9) => Ok(()),
                _ => Err(refuse("a device; give a pipe or a file")),
            }
        }
        FileType::Directory => Err(refuse("a directory; give a pipe or a file")),
        _ => {
            tracing::debug!(fd = fd.as_raw_fd(), "refused");
            Err(refuse("neither a pipe nor a file"))
        }
    }
}

#[cfg(test)]
mod tests;
