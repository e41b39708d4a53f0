//! A process that is measured: what it costs, from the kernel's books.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use tempfile::TempDir;

/// How long a subject may take until its socket is there.
const START: Duration = Duration::from_secs(60);

/// Whether a program is installed: it can say its version.
pub fn is_installed(program: &str) -> bool {
    let version = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// This process, and all that it starts, run on one processor from now on.
///
/// # Errors
/// There is no such processor, or this process may not run there.
pub fn stay_on(processor: usize) -> Result<(), String> {
    let refused =
        || format!("--processor {processor}: there is none of this number that may be used here");
    if processor >= rustix::thread::CpuSet::MAX_CPU {
        return Err(refused());
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).map_err(|_| refused())
}

pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program.
    pub fn spawn(mut command: Command) -> Result<Process, String> {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))?;
        Ok(Process { child })
    }

    /// Starts a program and waits for its socket.
    pub fn start(mut command: Command, socket: &Path) -> Result<Process, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null());
        let mut process = Process::spawn(command)?;
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(format!("{name} ended at once: {status}"));
            }
            if begin.elapsed() > START {
                return Err(format!(
                    "{name} does not listen after {} s",
                    START.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(process)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Time on a processor since its start, all threads, in nanoseconds: the scheduler's own count.
    pub fn cpu_ns(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).into_iter().flatten().flatten();
        tasks
            .filter_map(|task| {
                let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
                text.split_whitespace().next()?.parse::<u64>().ok()
            })
            .sum()
    }

    /// Resident memory now, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory since [`Process::forget_peak`], in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Begins to count the peak anew.
    pub fn forget_peak(&self) {
        // 5: reset the high water mark, proc(5).
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }
}

/// Counts the system calls of a process, by perf: which costs the process something at each of them, so nothing is timed
/// while they are counted.
pub struct Counter {
    perf: Child,
    control: File,
    answers: File,
    dir: TempDir,
}

impl Counter {
    /// Whether there is a perf, and it may count system calls.
    pub fn is_possible() -> bool {
        let perf = Command::new("perf")
            .args(["stat", "-e", "raw_syscalls:sys_enter", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        perf.is_ok_and(|status| status.success())
    }

    /// Begins to count.
    pub fn start(process: &Process) -> Result<Counter, String> {
        let io = |error: std::io::Error| format!("counting system calls: {error}");
        let dir = tempfile::tempdir().map_err(io)?;
        let at = |name: &str| dir.path().join(name);
        for name in ["control", "answers"] {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(CWD, at(name), mode).map_err(|errno| io(errno.into()))?;
        }
        let open = |name: &str| File::options().read(true).write(true).open(at(name));
        let (control, answers) = (open("control").map_err(io)?, open("answers").map_err(io)?);
        let mut fifos = OsString::from("--control=fifo:");
        fifos.push(at("control"));
        fifos.push(",");
        fifos.push(at("answers"));
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-D", "-1", "-e", "raw_syscalls:sys_enter"])
            .arg("-o")
            .arg(at("count"))
            .args(["-p", &process.id().to_string()])
            .arg(fifos)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io)?;
        let mut counter = Counter {
            perf,
            control,
            answers,
            dir,
        };
        counter.tell("enable")?;
        Ok(counter)
    }

    fn tell(&mut self, what: &str) -> Result<(), String> {
        let mut answer = [0; 4];
        writeln!(self.control, "{what}")
            .and_then(|()| self.answers.read_exact(&mut answer))
            .map_err(|error| format!("counting system calls: {error}"))
    }

    /// Stops, and says how many there were.
    pub fn end(mut self) -> Result<u64, String> {
        self.tell("disable")?;
        let perf = rustix::process::Pid::from_child(&self.perf);
        let _ = rustix::process::kill_process(perf, rustix::process::Signal::INT);
        let _ = self.perf.wait();
        let text = std::fs::read_to_string(self.dir.path().join("count")).unwrap_or_default();
        let count = text.lines().find(|line| line.contains("sys_enter"));
        count
            .and_then(|line| line.split(',').next()?.parse().ok())
            .ok_or_else(|| format!("counting system calls: perf says {text:?}"))
    }
}

/// Counts the instructions of a process, by running it under valgrind's callgrind.
pub struct Callgrind {
    dir: TempDir,
}

impl Callgrind {
    /// # Errors
    /// There is no valgrind, or no room.
    pub fn new() -> Result<Callgrind, String> {
        if !is_installed("valgrind") {
            return Err("valgrind is not installed".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|error| format!("a directory: {error}"))?;
        Ok(Callgrind { dir })
    }

    /// What the process is to be run by.
    pub fn command(&self) -> Vec<OsString> {
        let mut out = OsString::from("--callgrind-out-file=");
        out.push(self.dir.path().join("out"));
        ["valgrind", "-q", "--tool=callgrind"]
            .into_iter()
            .map(OsString::from)
            .chain([out])
            .collect()
    }

    /// Ends the process, and says how many instructions it has run.
    pub fn end(&self, mut process: Process) -> Result<u64, String> {
        let pid = rustix::process::Pid::from_child(&process.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = process.child.wait();
        let text = std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default();
        text.lines()
            .find_map(|line| {
                let count = line.strip_prefix("summary: ");
                count
                    .or_else(|| line.strip_prefix("totals: "))?
                    .trim()
                    .parse()
                    .ok()
            })
            .ok_or_else(|| "callgrind has written no summary".to_owned())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
