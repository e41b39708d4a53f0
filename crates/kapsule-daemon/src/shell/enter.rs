//! What Rust cannot check: starting a program inside a container. All of this crate's `unsafe` is here.
//!
//! A process must have one thread only to enter a user namespace, and the daemon has many. So a child is forked
//! into the container's cgroup; it enters all namespaces at once, by the pidfd of the container's init, and
//! forks once more, for only children are born into another pid namespace. That second child becomes the daemon's own
//! (`CLONE_PARENT`), so its exit status is ours to collect; it leads a session, becomes the user, and executes the program.
//!
//! What this file guarantees:
//!
//! - Between a fork and the program both children make system calls only: they allocate nothing, take no lock and
//!   return to no code of the daemon's. All they need was made before ([`Order`]).
//! - Nothing of the daemon's reaches the program: of its descriptors 0, 1 and 2 as ordered and no other; of its
//!   environment, working directory, root, signal handlers, signal mask, umask, priority and keyrings nothing.
//! - While a copy of the daemon's memory exists where the container can see it, it cannot be read from there: the process
//!   is not dumpable, and its memory belongs to the host's user namespace until the program takes its place.
//! - A program that is not permitted yet waits as a child that has nothing of the daemon's open, and is executed only
//!   when the byte [`GO`] has come.
//! - The program has no more than the container's init could have: its bounding set, its `no_new_privs`, its seccomp filters,
//!   its label of the security module. A failure of one of these is a failure of the whole, never passed over.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `clone3(2)`: the child begins in the cgroup whose directory is given. (libc's constant is cut to 32 bits.)
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `setns(2)`: the time namespace.
pub(super) const CLONE_NEWTIME: libc::c_int = 0x80;
/// `keyctl(2)`: a new session keyring without a name.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
/// Where a child has its way back, and the pipe on which it waits, behind 0, 1 and 2.
const REPORT: RawFd = 3;
const HOLD: RawFd = 4;
/// `capset(2)`: capabilities of 64 bits.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// `ptrace(2)`: a seccomp filter of a stopped process.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;

/// One instruction of a seccomp filter, as `bpf(4)` has it.
pub(super) type Instruction = libc::sock_filter;

/// What is written to [`Order::hold`] when the program may begin.
pub(super) const GO: u8 = b'g';

/// Everything that the children need, made before the fork.
pub(super) struct Order<'a> {
    /// The pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// Which of its namespaces to enter: `CLONE_NEW…`.
    pub namespaces: libc::c_int,
    /// The directory of the cgroup in which the program begins.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The host's /proc: what the container has there may be anything.
    pub proc: BorrowedFd<'a>,
    /// What the program has as 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Whether 0 is a terminal that it is to have as its own.
    pub terminal: bool,
    /// A pipe to read [`GO`] from before the program is executed; if it is closed instead, it is not.
    pub hold: Option<BorrowedFd<'a>>,
    /// The capabilities that may remain in the bounding set.
    pub bounding: u64,
    /// Whether init has `no_new_privs`.
    pub no_new_privileges: bool,
    /// What to write to `attr/exec`, and where that is under /proc/self.
    pub label: Option<Label>,
    /// The seccomp filters, in the order in which init has got them.
    pub filters: &'a [Vec<Instruction>],
    /// Resource limits: which, soft, hard.
    pub limits: &'a [(u32, u64, u64)],
    /// Who the program is, in the container's numbers.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Directories to begin in: the first that can be entered.
    pub directories: Vec<CString>,
    /// Paths at which to look for the program, in turn.
    pub programs: Vec<CString>,
    /// Its arguments, the name first.
    pub arguments: Vec<CString>,
    /// Its environment: `NAME=value`.
    pub environment: Vec<CString>,
    /// What is said on 2 if it is not found, or cannot be executed.
    pub not_found: String,
    /// See above.
    pub not_executable: String,
}

/// A security module's label for the program.
pub(super) struct Label {
    /// Where it is written: below /proc.
    pub path: &'static CStr,
    /// What is written.
    pub text: Vec<u8>,
}

/// What a child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Step {
    /// A message that says no failure but the program's process id.
    Started,
    Namespaces,
    Fork,
    Session,
    Terminal,
    Stdio,
    Keyring,
    Limits,
    Label,
    Bounding,
    Filter,
    Identity,
    Capabilities,
    Privileges,
    Permission,
}

impl Step {
    const ALL: [Step; 15] = [
        Step::Started,
        Step::Namespaces,
        Step::Fork,
        Step::Session,
        Step::Terminal,
        Step::Stdio,
        Step::Keyring,
        Step::Limits,
        Step::Label,
        Step::Bounding,
        Step::Filter,
        Step::Identity,
        Step::Capabilities,
        Step::Privileges,
        Step::Permission,
    ];

    /// For a person.
    pub(super) fn text(self) -> &'static str {
        match self {
            Step::Started => "starting the program",
            Step::Namespaces => "entering the container's namespaces",
            Step::Fork => "making a process in the container",
            Step::Session => "making a session",
            Step::Terminal => "taking the terminal",
            Step::Stdio => "setting up standard input and output",
            Step::Keyring => "making a keyring",
            Step::Limits => "setting resource limits",
            Step::Label => "setting the security label of the container",
            Step::Bounding => "giving up capabilities that the container does not have",
            Step::Filter => "setting the seccomp filter of the container",
            Step::Identity => "becoming the user",
            Step::Capabilities => "giving up capabilities",
            Step::Privileges => "setting no_new_privs",
            Step::Permission => "being permitted to",
        }
    }
}

/// Why a program was not started.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub step: Step,
    pub error: io::Error,
}

/// Starts the program. Returns its process id here, as soon as it runs: it is a child of this process, to be waited for
/// by who calls. Blocks for some milliseconds.
pub(super) fn start(order: &Order<'_>) -> Result<Pid, NotStarted> {
    let failed = |step| move |error: io::Error| NotStarted { step, error };
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| failed(Step::Fork)(e.into()))?;
    let argv = pointers(&order.arguments);
    let envp = pointers(&order.environment);
    let filters: Vec<libc::sock_fprog> = order
        .filters
        .iter()
        .map(|filter| libc::sock_fprog {
            // The kernel takes at most 4096 instructions.
            len: u16::try_from(filter.len()).unwrap_or(u16::MAX),
            filter: filter.as_ptr().cast_mut(),
        })
        .collect();
    let child = Child {
        order,
        report: theirs.as_raw_fd(),
        argv: &argv,
        envp: &envp,
        filters: &filters,
    };
    // No signal handler of the daemon's runs in a child.
    let mask = block_signals();
    let cgroup = order.cgroup.map_or(-1, |fd| fd.as_raw_fd());
    // SAFETY: after the fork the child runs `first`, which makes system calls only and does not return.
    let forked = unsafe { fork(if cgroup < 0 { 0 } else { CLONE_INTO_CGROUP }, cgroup) };
    if forked == Ok(0) {
        child.first();
    }
    restore_signals(&mask);
    drop(theirs);
    let first = forked.map_err(|e| failed(Step::Fork)(io::Error::from_raw_os_error(e)))?;
    let result = reports(&ours);
    // The first child ends by itself. Only its number is ours to wait for.
    if let Some(pid) = Pid::from_raw(first) {
        let _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        });
    }
    match result {
        (Some(pid), None) => Ok(pid),
        (None, None) => Err(failed(Step::Fork)(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the process that entered the container was ended",
        ))),
        (pid, Some(not_started)) => {
            if let Some(pid) = pid {
                let _ = rustix::io::retry_on_intr(|| {
                    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                });
            }
            Err(not_started)
        }
    }
}

/// Reads what the children say, until both have ended or the program runs.
fn reports(from: &OwnedFd) -> (Option<Pid>, Option<NotStarted>) {
    let (mut pid, mut failure) = (None, None);
    let mut message = [0u8; 8];
    while let Ok(8) = rustix::io::retry_on_intr(|| rustix::io::read(from, &mut message[..])) {
        let [a, b, c, d, e, f, g, h] = message;
        let step = u32::from_ne_bytes([a, b, c, d]);
        let value = i32::from_ne_bytes([e, f, g, h]);
        match Step::ALL.get(step as usize) {
            Some(Step::Started) => pid = Pid::from_raw(value),
            Some(step) => {
                failure = Some(NotStarted {
                    step: *step,
                    error: io::Error::from_raw_os_error(value),
                });
            }
            None => {}
        }
    }
    (pid, failure)
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain(std::iter::once(null()))
        .collect()
}

/// `fork(2)` with flags of `clone3(2)`; the error number if it fails.
///
/// # Safety
/// As fork in a process with threads: the child must make system calls only, and must not return.
unsafe fn fork(flags: u64, cgroup: RawFd) -> Result<libc::pid_t, i32> {
    // SAFETY: all zeros is a valid clone_args: no stack of its own, no thread storage, nothing written back.
    let mut arguments: libc::clone_args = unsafe { zeroed() };
    arguments.flags = flags;
    if flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if flags & CLONE_INTO_CGROUP != 0 {
        arguments.cgroup = u64::from(cgroup.unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child has memory of its own, and the call returns twice, as fork does.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if result < 0 {
        Err(errno())
    } else {
        // A process id fits.
        Ok(result as libc::pid_t)
    }
}

/// Blocks all signals of the calling thread; gives the mask there was.
fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets live here; all zeros is a valid set.
    unsafe {
        let mut all: libc::sigset_t = zeroed();
        let mut before: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the mask is one that `block_signals` got.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, mask, null_mut());
    }
}

/// What the children work from. Its methods make system calls only.
struct Child<'a> {
    order: &'a Order<'a>,
    report: RawFd,
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    filters: &'a [libc::sock_fprog],
}

impl Child<'_> {
    /// The first child: enters, and makes the second.
    fn first(&self) -> ! {
        let order = self.order;
        // SAFETY: plain system calls, on descriptors that the parent keeps open until we have ended.
        unsafe {
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
            // What the daemon has for itself, the program has not. Going back to the default is always permitted.
            libc::setpriority(libc::PRIO_PROCESS, 0, 0);
            self.write_file(c"self/oom_score_adj", b"0");
            if libc::setns(order.init.as_raw_fd(), order.namespaces) != 0 {
                self.fail(Step::Namespaces);
            }
            match fork(libc::CLONE_PARENT as u64, -1) {
                Err(_) => self.fail(Step::Fork),
                Ok(0) => self.second(),
                Ok(pid) => {
                    self.say(Step::Started, pid);
                    libc::_exit(0)
                }
            }
        }
    }

    /// The second child: becomes the program.
    fn second(&self) -> ! {
        let order = self.order;
        // SAFETY: plain system calls; every pointer leads into what was made before the fork, or to a local.
        unsafe {
            if libc::setsid() < 0 {
                self.fail(Step::Session);
            }
            if order.terminal
                && libc::ioctl(order.stdio[0].as_raw_fd(), libc::TIOCSCTTY as _, 0) != 0
            {
                self.fail(Step::Terminal);
            }
            if libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) < 0
                && !matches!(errno(), libc::ENOSYS | libc::EDQUOT)
            {
                self.fail(Step::Keyring);
            }
            for (which, soft, hard) in order.limits {
                let limit = libc::rlimit64 {
                    rlim_cur: *soft,
                    rlim_max: *hard,
                };
                if libc::prlimit64(0, *which as _, &raw const limit, null_mut()) != 0 {
                    self.fail(Step::Limits);
                }
            }
            if let Some(label) = &order.label
                && !self.write_file(label.path, &label.text)
            {
                self.fail(Step::Label);
            }
            libc::umask(0o022);
            self.forget_signals();
            self.give_up_bounding();
            for filter in self.filters {
                // Still root inside, with CAP_SYS_ADMIN there: no_new_privs is not needed for it.
                if libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    std::ptr::from_ref(filter),
                    0,
                    0,
                ) != 0
                {
                    self.fail(Step::Filter);
                }
            }
            self.become_user();
            if order.no_new_privileges && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                self.fail(Step::Privileges);
            }
            if !order
                .directories
                .iter()
                .any(|d| libc::chdir(d.as_ptr()) == 0)
            {
                libc::chdir(c"/".as_ptr());
            }
            self.place_descriptors();
            self.wait_for_permission();
            self.execute()
        }
    }

    /// # Safety
    /// In a child only.
    unsafe fn forget_signals(&self) {
        // The kernel's sigaction and signal set, all zeros: the default, and none. Its layouts differ between
        // architectures; none is as large as this. glibc's own call would leave out the signals it uses itself.
        let zeros = [0u64; 16];
        // SAFETY: the default and an empty mask are valid for every signal; what cannot be changed is refused.
        unsafe {
            for signal in 1..=64 {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    zeros.as_ptr(),
                    null_mut::<u8>(),
                    8usize,
                );
            }
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                zeros.as_ptr(),
                null_mut::<u8>(),
                8usize,
            );
        }
    }

    /// # Safety
    /// In a child only.
    unsafe fn give_up_bounding(&self) {
        // SAFETY: prctl with integers.
        unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            );
            for capability in 0..64 {
                if self.order.bounding & (1 << capability) != 0 {
                    continue;
                }
                // -1: the kernel has no such capability, and none above.
                if libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) < 0 {
                    break;
                }
                if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                    self.fail(Step::Bounding);
                }
            }
        }
    }

    /// # Safety
    /// In a child only.
    unsafe fn become_user(&self) {
        let order = self.order;
        // SAFETY: raw system calls, for glibc's would synchronise threads that a fork does not have; pointers
        // lead to locals and to the order.
        unsafe {
            let ok = libc::syscall(libc::SYS_setgroups, order.groups.len(), order.groups.as_ptr()) == 0
                // First root of the container: in a user namespace we come as nobody that it knows, and the kernel
                // takes capabilities away only from who was its root.
                && libc::syscall(libc::SYS_setresgid, order.gid, order.gid, order.gid) == 0
                && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_setresuid, order.uid, order.uid, order.uid) == 0;
            if !ok {
                self.fail(Step::Identity);
            }
            let keep = if order.uid == 0 { order.bounding } else { 0 };
            let header = [CAPABILITY_VERSION_3, 0];
            let (low, high) = (keep as u32, (keep >> 32) as u32);
            // effective, permitted, inheritable; twice 32 bits.
            let sets = [low, low, 0, high, high, 0];
            if libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) != 0 {
                self.fail(Step::Capabilities);
            }
        }
    }

    /// Puts the three descriptors in their places, and closes all others but the way back and the pipe on which to wait,
    /// which are behind them: a copy of another's end of such a pipe must not stay here while we wait.
    ///
    /// # Safety
    /// In a child only.
    unsafe fn place_descriptors(&self) {
        // SAFETY: descriptors of this process, none of which anybody else uses.
        unsafe {
            // Out of the way first: each may be in the place of another.
            let high = |fd: RawFd| {
                let high = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10);
                if high < 0 {
                    self.fail(Step::Stdio);
                }
                high
            };
            let [stdin, stdout, stderr] = self.order.stdio.map(|fd| high(fd.as_raw_fd()));
            let report = high(self.report);
            let hold = self.order.hold.map(|fd| high(fd.as_raw_fd()));
            let moved = libc::dup2(stdin, 0) >= 0
                && libc::dup2(stdout, 1) >= 0
                && libc::dup2(stderr, 2) >= 0
                && libc::dup3(report, REPORT, libc::O_CLOEXEC) >= 0
                && hold.is_none_or(|hold| libc::dup3(hold, HOLD, libc::O_CLOEXEC) >= 0);
            if !moved {
                self.say_to(report, Step::Stdio, errno());
                libc::_exit(1);
            }
            let rest = match hold {
                Some(_) => HOLD + 1,
                None => REPORT + 1,
            };
            if libc::syscall(libc::SYS_close_range, rest.unsigned_abs(), u32::MAX, 0u32) != 0 {
                self.say_to(REPORT, Step::Stdio, errno());
                libc::_exit(1);
            }
        }
    }

    /// Waits until the program may begin.
    ///
    /// # Safety
    /// In a child only, after `place_descriptors`.
    unsafe fn wait_for_permission(&self) {
        if self.order.hold.is_none() {
            return;
        }
        let mut answer = 0u8;
        // SAFETY: one byte is read into a local; the process ends without running anything of the daemon's.
        unsafe {
            let count = loop {
                let count = libc::read(HOLD, (&raw mut answer).cast(), 1);
                if count >= 0 || errno() != libc::EINTR {
                    break count;
                }
            };
            if count != 1 || answer != GO {
                self.say_to(REPORT, Step::Permission, libc::EPERM);
                libc::_exit(1);
            }
        }
    }

    /// Executes the first program that is there. If there is none, says so on 2, as a shell does.
    ///
    /// # Safety
    /// In a child only.
    unsafe fn execute(&self) -> ! {
        let order = self.order;
        let mut found = false;
        for program in &order.programs {
            // SAFETY: `argv` and `envp` end with a null pointer and lead to strings that live in the order.
            unsafe {
                libc::execve(program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            }
            if !matches!(errno(), libc::ENOENT | libc::ENOTDIR) {
                found = true;
            }
        }
        let (text, status) = if found {
            (&order.not_executable, 126)
        } else {
            (&order.not_found, 127)
        };
        // SAFETY: writes a string that lives in the order; ends the process without running anything of the daemon's.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(status)
        }
    }

    /// Writes a file below the host's /proc; whether that was done whole.
    ///
    /// # Safety
    /// In a child only.
    unsafe fn write_file(&self, path: &CStr, text: &[u8]) -> bool {
        // SAFETY: the path ends with 0; the text is written from its start for its length.
        unsafe {
            let fd = libc::openat(
                self.order.proc.as_raw_fd(),
                path.as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW,
            );
            if fd < 0 {
                return false;
            }
            let written = libc::write(fd, text.as_ptr().cast(), text.len());
            let error = errno();
            libc::close(fd);
            set_errno(error);
            usize::try_from(written) == Ok(text.len())
        }
    }

    fn fail(&self, step: Step) -> ! {
        self.say(step, errno());
        // SAFETY: ends the process without running anything of the daemon's.
        unsafe { libc::_exit(1) }
    }

    fn say(&self, step: Step, value: i32) {
        self.say_to(self.report, step, value);
    }

    fn say_to(&self, to: RawFd, step: Step, value: i32) {
        let [a, b, c, d] = (step as u32).to_ne_bytes();
        let [e, f, g, h] = value.to_ne_bytes();
        let message = [a, b, c, d, e, f, g, h];
        // SAFETY: the buffer is a local, written for its length.
        unsafe {
            libc::send(
                to,
                message.as_ptr().cast(),
                message.len(),
                libc::MSG_NOSIGNAL,
            );
        }
    }
}

/// The calling thread's error number; does not allocate.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn set_errno(error: i32) {
    // SAFETY: the location is the calling thread's own.
    unsafe { *libc::__errno_location() = error };
}

/// Lets the runtime wait until a descriptor can be read.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, and an `OwnedFd` has one and the same from its making to its end.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Lets a process of the host run as this user: to be called before its program is executed.
pub(crate) fn run_as(
    command: &mut std::process::Command,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    keep: Option<OwnedFd>,
) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure makes system calls only, on numbers that it owns.
    unsafe {
        command.pre_exec(move || {
            let result = |value: libc::c_long| match value {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            // Also where the daemon is not root, as a development machine has it.
            if libc::geteuid() == 0 {
                result(libc::syscall(
                    libc::SYS_setgroups,
                    groups.len(),
                    groups.as_ptr(),
                ))?;
                result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
            }
            // A process group of its own, by which it is signalled.
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            // Ends with the daemon: whoever starts it anew starts these anew.
            result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM).into())?;
            // What came over the bus may have been left to be inherited, and is other people's.
            result(libc::syscall(
                libc::SYS_close_range,
                3u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ))?;
            if let Some(fd) = &keep {
                result(libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0).into())?;
            }
            Ok(())
        });
    }
}

/// The seccomp filters of a process, the one that it got first first. Stops it for some microseconds.
///
/// # Errors
/// If this process may not trace it, or the kernel does not tell (`CONFIG_CHECKPOINT_RESTORE`).
pub(super) fn filters_of(pid: Pid) -> io::Result<Vec<Vec<Instruction>>> {
    let raw = pid.as_raw_nonzero().get();
    let trace = |request: libc::c_uint, address: usize, data: *mut libc::c_void| {
        // SAFETY: requests that write are given a buffer large enough, below; the others touch no memory.
        let result = unsafe { libc::ptrace(request as _, raw, address, data) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(usize::try_from(result).unwrap_or(0))
        }
    };
    trace(libc::PTRACE_SEIZE as _, 0, null_mut())?;
    let read = || {
        trace(libc::PTRACE_INTERRUPT as _, 0, null_mut())?;
        let mut status = 0;
        loop {
            // SAFETY: the process is our tracee; `status` outlives the call.
            let waited = unsafe { libc::waitpid(raw, &raw mut status, libc::__WALL) };
            if waited == raw {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if !libc::WIFSTOPPED(status) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut filters = Vec::new();
        loop {
            // The newest has the number 0.
            match trace(PTRACE_SECCOMP_GET_FILTER, filters.len(), null_mut()) {
                Ok(length) => {
                    let nothing = libc::sock_filter {
                        code: 0,
                        jt: 0,
                        jf: 0,
                        k: 0,
                    };
                    let mut filter = vec![nothing; length];
                    trace(
                        PTRACE_SECCOMP_GET_FILTER,
                        filters.len(),
                        filter.as_mut_ptr().cast(),
                    )?;
                    filters.push(filter);
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
                Err(e) => return Err(e),
            }
        }
        filters.reverse();
        Ok(filters)
    };
    let result = read();
    let _ = trace(libc::PTRACE_DETACH as _, 0, null_mut());
    result
}
