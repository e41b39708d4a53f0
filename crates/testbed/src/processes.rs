//! Processes of a test: started with a log of their own, waited for with a limit, and ended with all
//! that they started.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::deadline::{Deadline, LIMIT};
use crate::failure::Failure;

/// A process that runs beside the test. Ended, with its descendants, when this goes; its log is shown
/// if the test is failing at that time.
pub struct Process {
    name: String,
    child: Child,
    // By pidfd and not by number: a number may belong to a stranger once the process has been reaped.
    pidfd: OwnedFd,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its stdout and stderr go to the file `NAME.log` in `logs`.
    ///
    /// # Errors
    /// The program is not there or cannot be run.
    pub fn start(command: Command, name: &str, logs: &Path) -> Result<Process, Failure> {
        Self::spawn(command, name, logs, None, None)
    }

    /// Starts `command` with its stdout given back to read from; stderr goes to the log.
    ///
    /// # Errors
    /// The program is not there or cannot be run.
    pub fn start_reading(
        command: Command,
        name: &str,
        logs: &Path,
    ) -> Result<(Process, Lines), Failure> {
        let (reader, writer) = io::pipe().map_err(Failure::doing("making a pipe"))?;
        let process = Self::spawn(command, name, logs, Some(writer.into()), None)?;
        let lines = Lines::new(format!("stdout of {name}"), reader.into());
        Ok((process, lines))
    }

    /// Starts `command` with stdout and stderr given back to read from, as one stream.
    ///
    /// # Errors
    /// The program is not there or cannot be run.
    pub fn start_reading_both(
        command: Command,
        name: &str,
        logs: &Path,
    ) -> Result<(Process, Lines), Failure> {
        let (reader, writer) = io::pipe().map_err(Failure::doing("making a pipe"))?;
        let second = writer
            .try_clone()
            .map_err(Failure::doing("making a pipe"))?;
        let process = Self::spawn(
            command,
            name,
            logs,
            Some(writer.into()),
            Some(second.into()),
        )?;
        let lines = Lines::new(format!("output of {name}"), reader.into());
        Ok((process, lines))
    }

    fn spawn(
        mut command: Command,
        name: &str,
        logs: &Path,
        stdout: Option<Stdio>,
        stderr: Option<Stdio>,
    ) -> Result<Process, Failure> {
        command.stdin(Stdio::null());
        Self::spawn_with_stdin(command, name, logs, stdout, stderr)
    }

    /// As the others, with stdin as the command has it.
    pub(crate) fn spawn_with_stdin(
        mut command: Command,
        name: &str,
        logs: &Path,
        stdout: Option<Stdio>,
        stderr: Option<Stdio>,
    ) -> Result<Process, Failure> {
        let (log, file) = new_log(logs, name)?;
        let or_log = |stream: Option<Stdio>| match stream {
            Some(stream) => Ok(stream),
            None => file
                .try_clone()
                .map(Stdio::from)
                .map_err(Failure::doing("duplicating a log's descriptor")),
        };
        let (stdout, stderr) = (or_log(stdout)?, or_log(stderr)?);
        let child = command
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(Failure::doing(format_args!("starting {command:?}")))?;
        let pidfd = open_pidfd(child.id())
            .ok_or_else(|| Failure::new(format!("opening the pidfd of {name}, just started")))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            pidfd,
            log,
            ended: None,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its pidfd: readable when it has ended.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// What it has said so far (stderr, and stdout unless that is read separately).
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        // An error says only that it has ended in the meantime.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// How it ended, or `None` if it still runs.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end, at most until `deadline`; `None` if it still runs then.
    pub fn wait(&mut self, deadline: Deadline) -> Option<ExitStatus> {
        deadline.wait_readable(&[self.pidfd.as_fd()])?;
        self.has_ended()
    }

    /// Waits for `ready` to become readable. False: the process ended, or the time passed, before.
    pub fn wait_ready(&mut self, ready: &impl AsFd, deadline: Deadline) -> bool {
        deadline.wait_readable(&[ready.as_fd(), self.pidfd.as_fd()]) == Some(0)
    }

    /// Asks it to end (SIGTERM), and makes it when it does not within two seconds. Its descendants are
    /// ended too. Gives back how it ended.
    pub fn end(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.has_ended() {
            return Some(status);
        }
        let descendants = descendants_of(self.id());
        self.signal(Signal::TERM);
        if self.wait(Deadline::after(Duration::from_secs(2))).is_none() {
            self.signal(Signal::KILL);
            self.wait(Deadline::usual());
        }
        for descendant in descendants {
            let _ = pidfd_send_signal(&descendant, Signal::KILL);
        }
        self.ended
    }

    /// A failure that tells how the process fared and shows its log.
    pub fn failure(&mut self, what: &str) -> Failure {
        let state = match self.has_ended() {
            Some(status) => format!("ended ({status})"),
            None => "still runs".to_owned(),
        };
        Failure::new(format!(
            "{what}\n{} {state}; its log:\n{}",
            self.name,
            indented(&self.log())
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended_before = self.has_ended();
        self.end();
        if std::thread::panicking() {
            let state = ended_before.map_or("ran".to_owned(), |status| format!("{status}"));
            eprintln!(
                "── log of {} ({state}) ──\n{}",
                self.name,
                indented(&self.log())
            );
        }
    }
}

/// What [`Lines`] has for its reader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// There will be no more.
    End,
    /// Nothing in the given time.
    NotYet,
}

/// Reads lines from a pipe, each with a time limit.
pub struct Lines {
    what: String,
    pipe: File,
    buffer: Vec<u8>,
    seen: String,
}

impl Lines {
    /// Reads from `pipe`; `what` names it when a limit passes.
    pub fn new(what: String, pipe: OwnedFd) -> Self {
        Lines {
            what,
            pipe: File::from(pipe),
            buffer: Vec::new(),
            seen: String::new(),
        }
    }

    /// Makes a FIFO at `path` and reads what is written to it; it never ends.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of_fifo(path: &Path) -> Result<Lines, Failure> {
        let pipe = mkfifo(path)
            // Open for both: opening waits for nobody, and the stream does not end with a writer.
            .and_then(|()| File::options().read(true).write(true).open(path))
            .map_err(Failure::doing(format_args!(
                "making the FIFO {}",
                path.display()
            )))?;
        Ok(Lines::new(
            format!("the FIFO {}", path.display()),
            pipe.into(),
        ))
    }

    /// Reads on in a thread of its own, into `log`: nobody who writes is held up.
    pub fn drain_to(mut self, mut log: File) {
        std::thread::spawn(move || io::copy(&mut self.pipe, &mut log));
    }

    /// The next line without its end, or that there is none, or none yet at `deadline`.
    ///
    /// # Errors
    /// Reading fails.
    pub fn next_line(&mut self, deadline: Deadline) -> io::Result<Line> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(self.line(&line[..end]));
            }
            if deadline.wait_readable(&[self.pipe.as_fd()]).is_none() {
                return Ok(Line::NotYet);
            }
            let mut chunk = [0; 4096];
            match self.pipe.read(&mut chunk) {
                // A last line may lack its end.
                Ok(0) if !self.buffer.is_empty() => {
                    let line = std::mem::take(&mut self.buffer);
                    return Ok(self.line(&line));
                }
                Ok(0) => return Ok(Line::End),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn line(&mut self, bytes: &[u8]) -> Line {
        let line = String::from_utf8_lossy(bytes).into_owned();
        self.seen.push_str(&line);
        self.seen.push('\n');
        Line::Text(line)
    }

    /// Reads until a line for which `wanted` holds, and gives it back.
    ///
    /// # Panics
    /// When there is none within the usual limit: says which, and what came instead.
    #[track_caller]
    pub fn expect_line(&mut self, awaited: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Deadline::usual();
        loop {
            let why = match self.next_line(deadline) {
                Ok(Line::Text(line)) if wanted(&line) => return line,
                Ok(Line::Text(_)) => continue,
                Ok(Line::NotYet) => "it did not come in time".to_owned(),
                Ok(Line::End) => "the stream ended".to_owned(),
                Err(error) => format!("reading failed: {error}"),
            };
            panic!(
                "awaited {awaited} on {}: {why}; it said:\n{}",
                self.what,
                indented(&self.seen)
            );
        }
    }
}

/// What a program that ran to its end has left.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Output {
    /// Both streams, for a message.
    pub fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Its stdout, if it ended well.
    ///
    /// # Panics
    /// When it did not; shows what it said.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(
            self.status.success(),
            "the program ended with {}; it said:\n{}",
            self.status,
            indented(&self.both())
        );
        self.stdout
    }
}

/// Runs a program to its end. Its stdin is empty.
///
/// # Errors
/// It cannot be started, or does not end within `limit` (it is ended then, and what it said is shown).
pub fn run_to_end(command: Command, limit: Duration) -> Result<Output, Failure> {
    let logs = tempfile::Builder::new()
        .prefix("kapsule-test-run-")
        .tempdir_in("/tmp")
        .map_err(Failure::doing("making a temporary directory in /tmp"))?;
    let shown = format!("{command:?}");
    let stdout = logs.path().join("stdout");
    // A file and not a pipe: a descendant that keeps it open cannot hold us up, and no amount of output
    // can block the program.
    let file =
        File::create(&stdout).map_err(Failure::doing("making a file for a program's stdout"))?;
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or(OsStr::new("program"))
        .to_string_lossy()
        .into_owned();
    let mut process = Process::spawn(command, &name, logs.path(), Some(file.into()), None)?;
    let status = process.wait(Deadline::after(limit));
    let read = |path: &Path| {
        fs::read(path).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    };
    match status {
        Some(status) => Ok(Output {
            status,
            stdout: read(&stdout),
            stderr: process.log(),
        }),
        None => Err(Failure::new(format!(
            "{shown} did not end within {} s; it said:\n{}",
            limit.as_secs(),
            indented(&format!("{}{}", read(&stdout), process.log()))
        ))),
    }
}

/// Runs a program with `DBUS_SESSION_BUS_ADDRESS` set to `address`, to its end, within the usual limit.
///
/// # Panics
/// When it cannot be started or does not end: a hang is a failure, not a hang.
#[track_caller]
pub fn run_program(mut command: Command, address: &str) -> Output {
    command.env("DBUS_SESSION_BUS_ADDRESS", address);
    run_to_end(command, LIMIT).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Ends every process, but this one, that has `text` in its environment.
pub(crate) fn end_processes_with(text: &str) {
    let ours = std::process::id();
    for pid in all_process_ids() {
        if pid == ours {
            continue;
        }
        let Some(pidfd) = open_pidfd(pid) else {
            continue;
        };
        // Read after the pidfd was opened: what is read is of the process that will be signalled.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        if environment
            .windows(text.len())
            .any(|window| window == text.as_bytes())
        {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

/// All processes below `ancestor`, as pidfds.
fn descendants_of(ancestor: u32) -> Vec<OwnedFd> {
    let parents: Vec<(u32, u32)> = all_process_ids()
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut found = vec![ancestor];
    let mut looked_at = 0;
    while looked_at < found.len() {
        let parent = found[looked_at];
        looked_at += 1;
        found.extend(
            parents
                .iter()
                .filter(|(_, its_parent)| *its_parent == parent)
                .map(|(pid, _)| *pid),
        );
    }
    found[1..]
        .iter()
        .filter_map(|pid| {
            let pidfd = open_pidfd(*pid)?;
            // The number may have changed hands since it was listed.
            let parent = parent_of(*pid)?;
            found.contains(&parent).then_some(pidfd)
        })
        .collect()
}

fn all_process_ids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may itself hold any of them.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}

fn open_pidfd(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty()).ok()
}

fn mkfifo(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )?)
}

fn new_log(logs: &Path, name: &str) -> Result<(PathBuf, File), Failure> {
    for number in 0.. {
        let path = match number {
            0 => logs.join(format!("{name}.log")),
            number => logs.join(format!("{name}-{number}.log")),
        };
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(Failure::new(format!("making {}: {error}", path.display())));
            }
        }
    }
    unreachable!("the numbers do not end")
}

/// The text with each line set in, to be told from what is around it.
pub fn indented(text: &str) -> String {
    if text.trim().is_empty() {
        return "    (nothing)".to_owned();
    }
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
