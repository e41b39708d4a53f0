//! The session in a child process that speaks JSON lines.
//!
//! The child is ours (`shield-bridge session`, executed from `/proc/self/exe`, so that it is found wherever
//! the program lies), or the original's. If it dies it is started again, with back-off; the rules stay
//! closed meanwhile. Our own session numbers its questions for ever, so its numbers are used as they are. The
//! original's counts from 1 whenever it starts; its numbers are translated, so that an old answer never meets
//! a new question.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::lines::{self, Lines, Output};
use super::{Action, EVENTS, Event, Outcome, State, Verdict};
use crate::audit::AuditLog;
use crate::error::{Error, Result};
use crate::namespace::{Namespace, Place};
use crate::pending::{Asked, Pending, Request};
use crate::state::{Journal, StateDir};

/// How long a child may take to answer a verdict.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long another's program has to say, by ending, that it cannot do its work.
const GRACE: Duration = Duration::from_millis(500);

/// Which program speaks.
#[derive(Debug, Clone)]
pub enum Program {
    /// Our own, which knows timed verdicts; with the resolvers it is to use.
    Ours {
        /// Where questions for names are forwarded to.
        resolvers: Vec<std::net::SocketAddr>,
    },
    /// Another: the command, to which the state directory and the container are added. It is run inside
    /// the container's network namespace.
    Other(Vec<OsString>),
}

/// A session in a child process.
#[derive(Debug)]
pub struct Subprocess {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    input: mpsc::Sender<String>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    ours: bool,
}

#[derive(Debug, Default)]
struct Inner {
    pending: Pending,
    /// Ours to the child's, of the child that runs now.
    to_child: HashMap<u64, u64>,
    from_child: HashMap<u64, u64>,
    /// Verdicts that the child has not answered.
    verdicts: HashMap<u64, (Verdict, oneshot::Sender<bool>)>,
    /// What a child that has just begun says that it waits for.
    listed: HashSet<u64>,
    allow_all: Option<oneshot::Sender<bool>>,
    audit: Option<AuditLog>,
    journal: Option<Journal>,
    open_until: Option<Instant>,
    gone: bool,
}

impl Subprocess {
    /// Starts the child; events come by the channel.
    ///
    /// # Errors
    /// If it cannot be started, or ends before it has said anything with its reason (exit status 1 or 2).
    pub async fn start(
        state: StateDir,
        container: &str,
        namespace: Namespace,
        program: Program,
    ) -> Result<(Self, mpsc::Receiver<Event>)> {
        let ours = matches!(program, Program::Ours { .. });
        let mut inner = Inner::default();
        if !ours {
            // The original's program writes neither blocks nor verdicts down; ours does so itself.
            let path = state.file("audit.jsonl");
            let audit = AuditLog::open(&path, container)
                .map_err(|e| Error::system(format!("opening {}", path.display()), e))?;
            inner.audit = Some(audit);
            // Nor does it number its questions on after a restart. What waited cannot be answered any more,
            // but its numbers must not come to mean something else.
            let (mut journal, _, next) = state.journal()?;
            journal.rewrite(std::iter::empty(), next)?;
            inner.pending.reserve(next);
            inner.journal = Some(journal);
        }
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            ours,
        });
        let (events, receiver) = mpsc::channel(EVENTS);
        let (input, lines) = mpsc::channel(256);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let was_up = state.target()?.is_some();
        let mut keeper = Keeper {
            shared: shared.clone(),
            state,
            container: container.to_owned(),
            place: namespace.place().clone(),
            was_up,
            program,
            events,
            lines,
            again: String::new(),
            ready: Some(ready),
        };
        let first = keeper.spawn()?;
        let grace = if ours { PATIENCE } else { GRACE };
        let task = tokio::spawn(async move { keeper.run(first, stopped).await });
        match tokio::time::timeout(grace, is_ready).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(Error::Internal("the session's keeper has ended")),
            // Another's program says nothing until something is blocked.
            Err(_) if !ours => {}
            Err(_) => {
                task.abort();
                return Err(Error::Internal("the session program does not begin"));
            }
        }
        let session = Self {
            shared,
            task: Mutex::new(Some(task)),
            input,
            stop: Mutex::new(Some(stop)),
        };
        Ok((session, receiver))
    }

    /// Gives a verdict, and waits until the child says that it holds.
    pub async fn verdict(&self, id: u64, verdict: Verdict) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let line = {
            let mut inner = self.shared.lock();
            let Some(child_id) = inner.to_child.get(&id).copied() else {
                return Outcome::Unknown;
            };
            // The original's would make a verdict for five minutes one for good.
            let Some(line) = lines::verdict(child_id, verdict, self.shared.ours) else {
                return Outcome::Failed;
            };
            inner.verdicts.insert(id, (verdict, answer));
            line
        };
        if self.input.send(line).await.is_err() {
            return Outcome::Failed;
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(true)) => Outcome::Applied,
            _ => Outcome::Failed,
        }
    }

    /// What waits.
    pub fn pending(&self) -> Vec<Request> {
        self.shared.lock().pending.iter().cloned().collect()
    }

    /// Lets everything through for a time, if the child knows how.
    pub async fn allow_all(&self, duration: Duration) -> bool {
        if !self.shared.ours {
            return false;
        }
        let (answer, answered) = oneshot::channel();
        self.shared.lock().allow_all = Some(answer);
        if self.input.send(lines::allow_all(duration)).await.is_err() {
            return false;
        }
        let done = matches!(tokio::time::timeout(PATIENCE, answered).await, Ok(Ok(true)));
        if done {
            self.shared.lock().open_until = Some(Instant::now() + duration);
        }
        done
    }

    /// What it does with what nobody has decided.
    pub fn state(&self) -> State {
        let inner = self.shared.lock();
        match (inner.gone, inner.open_until) {
            (true, _) => State::Gone,
            (false, Some(until)) if Instant::now() < until => State::Open,
            _ => State::Asking,
        }
    }

    /// Ends the child: by closing its input, and if it does not go, by killing it. A caller that is
    /// cancelled meanwhile does not stop it.
    pub async fn stop(&self) {
        let stop = self
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(stop);
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(status: std::process::ExitStatus, container: &str, state: &StateDir) -> Error {
    match status.code() {
        Some(1) if !state.is_interactive() => Error::NotInteractive {
            container: container.to_owned(),
            path: state.file("interactive").display().to_string(),
        },
        Some(1) => Error::Busy {
            container: container.to_owned(),
            by: ", or its rules are not loaded (the session said which on standard error)".into(),
        },
        code => Error::Usage(format!(
            "the session program ended at once ({})",
            code.map_or_else(
                || format!("signal {}", status.signal().unwrap_or(0)),
                |c| format!("exit status {c}")
            )
        )),
    }
}

/// Keeps a child running.
struct Keeper {
    shared: Arc<Shared>,
    state: StateDir,
    container: String,
    place: Place,
    was_up: bool,
    program: Program,
    events: mpsc::Sender<Event>,
    lines: mpsc::Receiver<String>,
    /// Verdicts that were told to a child that died.
    again: String,
    /// Told once: the first child has begun, or why it has not.
    ready: Option<oneshot::Sender<Result<()>>>,
}

impl Keeper {
    fn spawn(&self) -> Result<Child> {
        // Held until the process was started.
        let mut inside = None;
        let mut command = match &self.program {
            Program::Ours { resolvers } => {
                let mut command = std::process::Command::new("/proc/self/exe");
                command.args(["session", "--json", "--for-bridge"]);
                for resolver in resolvers {
                    command.arg(format!("--resolver={resolver}"));
                }
                command.arg("--");
                command
            }
            Program::Other(words) => {
                let (program, arguments) = words
                    .split_first()
                    .ok_or_else(|| Error::Usage("the session command is empty".into()))?;
                let mut command = std::process::Command::new(program);
                command.args(arguments);
                let namespace = self.place.open()?;
                namespace.enter_before_exec(&mut command);
                inside = Some(namespace);
                command
            }
        };
        command.arg(self.state.path());
        // A name that looks like an option stands behind `--`.
        if self.container.starts_with('-') && matches!(self.program, Program::Other(_)) {
            command.arg("--");
        }
        command.arg(&self.container);
        let mut command = Command::from(command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        command.spawn().map_err(|e| match &self.program {
            Program::Ours { .. } => Error::system("starting /proc/self/exe session".into(), e),
            Program::Other(words) => {
                let name = words
                    .first()
                    .map_or_else(String::new, |w| w.to_string_lossy().into_owned());
                if let (Some(libc::EPERM), Some(inside)) = (e.raw_os_error(), &inside) {
                    inside.entering(e)
                } else {
                    Error::system(format!("starting the session program {name}"), e)
                }
            }
        })
    }

    async fn run(&mut self, first: Child, mut stopped: oneshot::Receiver<()>) {
        let mut child = Some(first);
        let mut pause = Duration::from_millis(100);
        loop {
            let started = Instant::now();
            let current = match child.take() {
                Some(current) => Ok(current),
                None => self.spawn(),
            };
            match current {
                Ok(mut current) => {
                    let (Some(stdin), Some(stdout)) = (current.stdin.take(), current.stdout.take())
                    else {
                        return;
                    };
                    let asked_to = self.serve(stdin, stdout, &mut stopped).await;
                    if asked_to {
                        // Its input is closed; ours ends at once.
                        if tokio::time::timeout(Duration::from_secs(2), current.wait())
                            .await
                            .is_err()
                        {
                            let _ = current.kill().await;
                        }
                        return;
                    }
                    if let Some(ready) = self.ready.take().filter(|r| !r.is_closed()) {
                        let status = current.wait().await;
                        let why = status.map_or_else(
                            |e| Error::system("waiting for the session program".into(), e),
                            |status| ended(status, &self.container, &self.state),
                        );
                        let _ = ready.send(Err(why));
                        return;
                    }
                    let _ = current.kill().await;
                    tracing::warn!(container = %self.container, "the session program has ended");
                }
                Err(error) => tracing::warn!(container = %self.container, %error, "no session"),
            }
            self.forget_child();
            // `down` takes the target away; another program's directory never had one.
            let taken_down = self.was_up && !matches!(self.state.target(), Ok(Some(_)));
            if taken_down || !self.place.is_still_there() {
                self.shared.lock().gone = true;
                let _ = self.events.send(Event::Gone).await;
                return;
            }
            if started.elapsed() > Duration::from_secs(10) {
                pause = Duration::from_millis(100);
            }
            tokio::select! {
                _ = &mut stopped => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Talks with a child until it ends; true if we were asked to stop.
    async fn serve(
        &mut self,
        mut stdin: ChildStdin,
        mut stdout: ChildStdout,
        stopped: &mut oneshot::Receiver<()>,
    ) -> bool {
        let mut split = Lines::default();
        let mut buffer = [0u8; 8192];
        let mut look = tokio::time::interval(Duration::from_secs(1));
        let mut begun = !self.shared.ours;
        loop {
            tokio::select! {
                _ = &mut *stopped => return true,
                read = stdout.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return false,
                    Ok(length) => {
                        for line in split.push(&buffer[..length]).into_iter().flatten() {
                            match lines::output(&line) {
                                Some(output) => {
                                    begun |= output == Output::Ready;
                                    self.said(output);
                                }
                                None => tracing::warn!(container = %self.container, "the session said something unknown"),
                            }
                        }
                        let again = std::mem::take(&mut self.again);
                        if !again.is_empty() && stdin.write_all(again.as_bytes()).await.is_err() {
                            return false;
                        }
                    }
                },
                line = self.lines.recv(), if begun => match line {
                    Some(line) => if stdin.write_all(line.as_bytes()).await.is_err() { return false },
                    None => return true,
                },
                _ = look.tick() => if !self.place.is_still_there() { return false },
            }
        }
    }

    fn said(&mut self, output: Output) {
        // Ours says that it is ready when it has said what waits from before.
        if (output == Output::Ready || !self.shared.ours)
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(Ok(()));
        }
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        let event = match output {
            Output::Pending(said) => {
                inner.listed.insert(said.id);
                let request = match inner.from_child.get(&said.id).copied() {
                    Some(id) => match inner.pending.get(id) {
                        // The child says that it still waits.
                        Some(request) if request.dest == said.dest => request.clone(),
                        _ => return,
                    },
                    None => {
                        let request = if self.shared.ours {
                            take_up(&mut inner.pending, said.clone())
                        } else {
                            translate(inner, &said)
                        };
                        inner.to_child.insert(request.id, said.id);
                        inner.from_child.insert(said.id, request.id);
                        request
                    }
                };
                let line = crate::profile::destination_line(request.dest);
                let port = line.split_once(' ').map_or("", |(_, rest)| rest);
                let detail = format!("{port} id {}", request.id);
                write_down(inner, "blocked", &request, &detail);
                Event::Blocked(request)
            }
            Output::Applied(child_id, action, ok) => {
                let Some(id) = inner.from_child.get(&child_id).copied() else {
                    return;
                };
                let Some(request) = inner.pending.get(id).cloned() else {
                    return;
                };
                let word = match (ok, action) {
                    (false, _) => "failed",
                    (true, Action::Accept) => "allowed",
                    (true, Action::Deny) => "denied",
                };
                write_down(inner, word, &request, &format!("verdict id {id}"));
                if ok {
                    inner.pending.close(id);
                    if let Some(journal) = &mut inner.journal {
                        journal.closed(id);
                    }
                    inner.to_child.remove(&id);
                    inner.from_child.remove(&child_id);
                }
                if let Some((_, answer)) = inner.verdicts.remove(&id) {
                    let _ = answer.send(ok);
                }
                Event::Applied {
                    request,
                    action,
                    ok,
                }
            }
            Output::Ready => {
                drop(guard);
                self.take_stock();
                return;
            }
            Output::Lost(count) => Event::Lost(count),
            Output::AllowAll(ok) => {
                if let Some(answer) = inner.allow_all.take() {
                    let _ = answer.send(ok);
                }
                return;
            }
        };
        drop(guard);
        // Who does not take events in time can still ask what waits.
        if self.events.try_send(event).is_err() {
            tracing::warn!(container = %self.container, "an event was not told");
        }
    }

    /// A child of ours has said all that waits. What we believed to wait and it does not name was answered
    /// before its predecessor died; what waits and has its answer here already is to be told again.
    fn take_stock(&mut self) {
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        while self.lines.try_recv().is_ok() {}
        let known: Vec<_> = inner.pending.iter().map(|r| r.id).collect();
        for id in known {
            if !inner.listed.contains(&id) {
                inner.pending.close(id);
                inner.to_child.remove(&id);
                inner.from_child.remove(&id);
                if let Some((_, answer)) = inner.verdicts.remove(&id) {
                    let _ = answer.send(true);
                }
            }
        }
        self.again = inner
            .verdicts
            .iter()
            .filter_map(|(id, (verdict, _))| lines::verdict(*id, *verdict, true))
            .collect();
    }

    /// The child is gone. The next one of ours takes its questions up; those of another cannot be answered
    /// any more, and are asked again when the container tries again.
    fn forget_child(&self) {
        let mut inner = self.shared.lock();
        inner.listed.clear();
        inner.allow_all = None;
        if self.shared.ours {
            return;
        }
        inner.verdicts.clear();
        let ids: Vec<_> = inner.pending.iter().map(|r| r.id).collect();
        for id in ids {
            inner.pending.close(id);
        }
        inner.to_child.clear();
        inner.from_child.clear();
    }
}

/// A question of our own session: its number is kept.
fn take_up(pending: &mut Pending, said: Request) -> Request {
    let same: Vec<_> = pending
        .iter()
        .filter(|r| r.dest == said.dest)
        .map(|r| r.id)
        .collect();
    for id in same {
        pending.close(id);
    }
    pending.restore(said.clone());
    said
}

/// A question of another program's session: it gets a number of ours.
fn translate(inner: &mut Inner, said: &Request) -> Request {
    match inner
        .pending
        .blocked(said.dest, &said.domain, Instant::now(), Duration::ZERO)
    {
        Asked::New(request, gave_way) => {
            if let Some(old) = gave_way
                && let Some(child) = inner.to_child.remove(&old.id)
            {
                inner.from_child.remove(&child);
            }
            if let Some(journal) = &mut inner.journal {
                journal.opened(&request);
            }
            request
        }
        Asked::Again(request) => {
            // The original has a new number for each packet; the newest is the one to answer.
            if let Some(old) = inner.to_child.get(&request.id) {
                inner.from_child.remove(old);
            }
            request
        }
        // Nothing is quiet for no time at all.
        Asked::Quiet => said.clone(),
    }
}

fn write_down(inner: &mut Inner, action: &str, request: &Request, detail: &str) {
    if let Some(audit) = &mut inner.audit
        && let Err(error) = audit.write(action, &request.dest.address.to_string(), detail)
    {
        tracing::error!(%error, "the audit log cannot be written");
    }
}
