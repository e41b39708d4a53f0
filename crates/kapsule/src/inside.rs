//! A program inside a container: on a terminal of its own if a person sits at ours, else with our own
//! streams.

use std::collections::HashMap;
use std::future::pending;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::tcsetwinsize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zbus::Variant;

use crate::error::{Error, Refusal, Result};
use crate::manager::{Manager, Options, Session};
use crate::operation;
use crate::progress::{Kind, note};
use crate::relay::{Relay, into_pipe};
use crate::terminal::{self, Keyboard, Mark, MarkType, RawMode};

/// What of our environment is meant for programs inside, beside `LC_*`: the language, the terminal, the
/// desktop. Nothing else is sent.
///
/// The daemon has this list too, and it decides, also of what is for this container. It stands here a second
/// time because this program does without the daemon's code; a test compares them.
const ENVIRONMENT: [&str; 26] = [
    "COLORFGBG",
    "COLORTERM",
    "DESKTOP_SESSION",
    "DISPLAY",
    "FORCE_COLOR",
    "KDE_FULL_SESSION",
    "KDE_SESSION_VERSION",
    "KONSOLE_VERSION",
    "LANG",
    "LANGUAGE",
    "NO_COLOR",
    "QT_SCALE_FACTOR",
    "TERM",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TZ",
    "VTE_VERSION",
    "WAYLAND_DISPLAY",
    "WINDOWID",
    "XAUTHORITY",
    "XCURSOR_SIZE",
    "XCURSOR_THEME",
    "XDG_ACTIVATION_TOKEN",
    "XDG_CURRENT_DESKTOP",
    "XDG_SESSION_DESKTOP",
    "XDG_SESSION_TYPE",
];

/// How long after a signal that ends us we wait for a program that is being started: it may run already.
const STARTING: Duration = Duration::from_millis(500);

/// What is to run, and how.
#[derive(Clone, Debug)]
pub struct Program {
    /// The container; empty is the default one.
    pub container: String,
    /// The command; empty is the user's shell.
    pub argv: Vec<String>,
    /// Whether it runs as root inside, and not as the user.
    pub as_root: bool,
    /// Whether it gets a terminal; `None`: if we have one.
    pub terminal: Option<bool>,
    /// Where it begins; `None`: where we are.
    pub cwd: Option<PathBuf>,
    /// How the terminal is told that we are in a container.
    pub mark: MarkType,
}

/// Runs a program inside, to its end, and gives back its exit status. A container that does not run is
/// started; the default container is made if it is not there.
///
/// # Errors
/// It cannot be started, or the daemon goes away.
pub async fn run(manager: &Manager, program: &Program) -> Result<u8> {
    let name = name(manager, &program.container).await?;
    let on_terminal = program.terminal.unwrap_or_else(|| {
        // A command in the background prints, and does not stop; a shell there has nothing to do without the terminal.
        let can_be_used = program.argv.is_empty() || terminal::is_foreground();
        terminal::is_interactive() && can_be_used
    });
    if on_terminal && !terminal::is_interactive() {
        return Err(Error::Usage(
            "--tty needs a terminal on stdin and stdout".to_owned(),
        ));
    }
    // Before anything is started: from its first moment a program inside gets the signals that we get.
    let mut signals = Signals::listen()?;
    let mut may_ask = true;
    loop {
        let start = async {
            match on_terminal {
                true => Started::OnTerminal(open_shell(manager, &name, program).await),
                false => Started::WithStreams(run_command(manager, &name, program).await),
            }
        };
        tokio::pin!(start);
        let started = tokio::select! {
            biased;
            started = &mut start => started,
            kind = signals.fatal() => match tokio::time::timeout(STARTING, &mut start).await {
                // The program runs already, though we had not heard of it yet.
                Ok(started) => {
                    signals.put_back(kind);
                    started
                }
                // There is nobody to pass it on to; what is being started ends with our connection.
                Err(_) => return Ok(exit_status(128 + kind.as_raw_value())),
            },
        };
        let error = match started {
            Started::OnTerminal(Ok((pty, session))) => {
                return on_terminal_of_its_own(&name, program.mark, pty, &session, signals).await;
            }
            Started::WithStreams(Ok((session, relays))) => {
                return with_our_streams(&session, relays, signals).await;
            }
            Started::OnTerminal(Err(error)) => error,
            Started::WithStreams(Err(error)) => error,
        };
        // Each remedy once: what fails again is not going to get better.
        if error.is(Refusal::NoSuchContainer) && program.container.is_empty() && may_ask {
            note(
                Kind::Information,
                &format!("making the default container {name}"),
            );
            operation::follow(
                manager,
                &format!("creating container {name}"),
                manager.create(&name, "", &Options::new()),
            )
            .await?;
        } else if error.is(Refusal::NotRunning) && may_ask {
            operation::follow(
                manager,
                &format!("starting container {name}"),
                manager.start(&name),
            )
            .await?;
        } else if error.is(Refusal::NotAuthorized) && may_ask && crate::agent::is_useful() {
            crate::agent::Agent::start().await;
        } else {
            return Err(error);
        }
        may_ask = false;
        // Those in the meantime were for what was done in it.
        signals.forget();
    }
}

/// The name of a container; an empty one is the default container's.
pub async fn name(manager: &Manager, given: &str) -> Result<String> {
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let mut config = manager.config().await?;
    config
        .remove("default_container")
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            Error::Usage(
                "no container is named, and the configuration has no default_container\n  hint: kapsule list"
                    .to_owned(),
            )
        })
}

enum Started {
    OnTerminal(Result<(OwnedFd, Session)>),
    WithStreams(Result<(Session, Vec<Relay>)>),
}

async fn open_shell(
    manager: &Manager,
    name: &str,
    program: &Program,
) -> Result<(OwnedFd, Session)> {
    let mut options = options(program);
    options.insert("term", terminal::kind().into());
    if let Some(size) = terminal::size() {
        options.insert("columns", size.ws_col.into());
        options.insert("rows", size.ws_row.into());
    }
    manager.open_shell(name, &program.argv, &options).await
}

fn options(program: &Program) -> Options<'static> {
    let mut options = Options::new();
    let here = std::env::current_dir();
    let cwd = match (&program.cwd, here) {
        (Some(cwd), Ok(here)) => Some(here.join(cwd)),
        (Some(cwd), Err(_)) => Some(cwd.clone()),
        (None, here) => here.ok(),
    };
    if let Some(cwd) = cwd.as_deref().and_then(Path::to_str) {
        options.insert("cwd", cwd.to_owned().into());
    }
    if program.as_root {
        options.insert("user", "root".into());
    }
    if program.argv.is_empty() {
        options.insert("login", true.into());
    }
    let environment: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| ENVIRONMENT.contains(&name.as_str()) || name.starts_with("LC_"))
        .collect();
    options.insert("environment", Variant::from(environment));
    options
}

/// The signals that are passed on, or that change the terminal.
struct Signals {
    told: mpsc::Receiver<SignalKind>,
    tell: mpsc::Sender<SignalKind>,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let (tell, told) = mpsc::channel(64);
        for kind in [
            SignalKind::window_change(),
            SignalKind::hangup(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            stop(),
        ] {
            let mut signal = signal(kind).map_err(Error::doing("listening for signals"))?;
            let tell = tell.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    if tell.send(kind).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Signals { told, tell })
    }

    /// The next one.
    async fn next(&mut self) -> SignalKind {
        match self.told.recv().await {
            Some(kind) => kind,
            // Not with a sender of our own.
            None => pending().await,
        }
    }

    /// Waits for one that ends us.
    async fn fatal(&mut self) -> SignalKind {
        const FATAL: [SignalKind; 4] = [
            SignalKind::hangup(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::quit(),
        ];
        loop {
            match self.next().await {
                kind if kind == stop() => stop_ourselves(),
                kind if FATAL.contains(&kind) => return kind,
                _ => {}
            }
        }
    }

    /// It comes once more.
    fn put_back(&self, kind: SignalKind) {
        // If there is no room for it, there are enough others.
        let _ = self.tell.try_send(kind);
    }

    fn forget(&mut self) {
        while self.told.try_recv().is_ok() {}
    }
}

/// What Ctrl-Z is on a terminal that is not raw.
fn stop() -> SignalKind {
    SignalKind::from_raw(Signal::TSTP.as_raw())
}

fn stop_ourselves() {
    // A process may always stop itself.
    let _ = kill_process(getpid(), Signal::STOP);
}

async fn on_terminal_of_its_own(
    name: &str,
    mark: MarkType,
    pty: OwnedFd,
    session: &Session,
    mut signals: Signals,
) -> Result<u8> {
    let side = pty
        .try_clone()
        .map_err(Error::doing("preparing the terminal"))?;
    let resize = || {
        if let Some(size) = terminal::size() {
            // It has ended already if this fails.
            let _ = tcsetwinsize(&side, size);
        }
    };
    // In this order, so that they go in the other: first the mark, then raw mode.
    let raw_mode = RawMode::enter()?;
    let mark = Mark::push(name, mark)?;
    // Between our asking for the terminal and listening for signals it may have changed.
    resize();
    let mut relay = Relay::between_terminals(pty)?;

    let mut lost = None;
    let mut closed = false;
    let waiting = session.wait();
    tokio::pin!(waiting);
    let status = loop {
        tokio::select! {
            status = &mut waiting, if lost.is_none() => match status {
                Ok(status) => {
                    if !closed {
                        // What cannot be written has nobody to read it.
                        let _ = relay.finish().await;
                    }
                    break Ok(exit_status(status));
                }
                // The daemon is gone; the shell may go on until it closes its terminal.
                Err(error) if !closed => lost = Some(error),
                Err(error) => break Err(error),
            },
            _ = async { if closed { pending().await } else { relay.closed().await } } => {
                closed = true;
                if let Some(error) = lost.take() {
                    break Err(error);
                }
            }
            kind = signals.next() => {
                if kind == SignalKind::window_change() {
                    resize();
                } else if kind == stop() {
                    raw_mode.suspend();
                    stop_ourselves();
                    let _ = raw_mode.again();
                    resize();
                } else {
                    let number = kind.as_raw_value();
                    let _ = session.signal(number).await;
                    // A shell takes no notice of the one, and has no terminal any more with the other.
                    if kind == SignalKind::hangup() || kind == SignalKind::terminate() {
                        break Ok(exit_status(128 + number));
                    }
                }
            }
        }
    };
    drop(mark);
    drop(raw_mode);
    status
}

/// Runs it with our streams, or, where one is a terminal, with a pipe from or to it: a program inside must
/// not hold the terminal itself, for it could type into it.
async fn run_command(
    manager: &Manager,
    name: &str,
    program: &Program,
) -> Result<(Session, Vec<Relay>)> {
    let doing = "preparing the streams of a command";
    let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().map_err(Error::doing(doing));
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::doing(doing));
    let (stdin, typed) = match std::io::stdin().is_terminal() {
        true => {
            let keyboard = Keyboard::open().map_err(Error::doing(doing))?;
            let (reader, writer) = pipe()?;
            (reader, Some((keyboard, writer)))
        }
        false => (own(&std::io::stdin())?, None),
    };
    let (stdout, out) = match std::io::stdout().is_terminal() {
        true => {
            let (reader, writer) = pipe()?;
            (writer, Some(reader))
        }
        false => (own(&std::io::stdout())?, None),
    };
    let (stderr, errors) = match std::io::stderr().is_terminal() {
        true => {
            let (reader, writer) = pipe()?;
            (writer, Some(reader))
        }
        false => (own(&std::io::stderr())?, None),
    };
    let streams = [&stdin, &stdout, &stderr];
    let session = manager
        .run_command(name, &program.argv, &options(program), streams)
        .await?;
    if let Some((keyboard, writer)) = typed {
        into_pipe(keyboard, writer)?;
    }
    let mut relays = Vec::new();
    if let Some(reader) = out {
        relays.push(Relay::out_of(reader, std::io::stdout())?);
    }
    if let Some(reader) = errors {
        relays.push(Relay::out_of(reader, std::io::stderr())?);
    }
    Ok((session, relays))
}

async fn with_our_streams(
    session: &Session,
    relays: Vec<Relay>,
    mut signals: Signals,
) -> Result<u8> {
    let waiting = session.wait();
    tokio::pin!(waiting);
    let status = loop {
        tokio::select! {
            status = &mut waiting => break status,
            kind = signals.next() => {
                if kind == SignalKind::window_change() {
                    continue;
                }
                let _ = session.signal(kind.as_raw_value()).await;
                if kind == stop() {
                    stop_ourselves();
                    let _ = session.signal(Signal::CONT.as_raw()).await;
                }
            }
        }
    };
    for relay in relays {
        let _ = relay.finish().await;
    }
    Ok(exit_status(status?))
}

/// What a shell sees of a status.
fn exit_status(status: i32) -> u8 {
    u8::try_from(status).unwrap_or(255)
}

/// What a command inside has printed.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its exit status.
    pub status: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: String,
}

/// How long a command may take whose output we read: what looks at a few files.
const CAPTURE: Duration = Duration::from_secs(60);

/// Runs a command inside as the user and takes what it prints, at most `limit` bytes of it.
///
/// # Errors
/// It cannot be run, prints more, or takes longer than a minute.
pub async fn capture(
    manager: &Manager,
    container: &str,
    argv: &[String],
    limit: usize,
) -> Result<Captured> {
    // What fails leaves a session; it ends with our connection at the latest.
    match tokio::time::timeout(CAPTURE, captured(manager, container, argv, limit)).await {
        Ok(captured) => captured,
        Err(_) => Err(Error::Failed(format!(
            "container {} has not answered for a minute\n  hint: kapsule enter {} to look why",
            crate::text::plain(container),
            crate::text::plain(container)
        ))),
    }
}

async fn captured(
    manager: &Manager,
    container: &str,
    argv: &[String],
    limit: usize,
) -> Result<Captured> {
    let doing = "preparing the streams of a command";
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::doing(doing));
    let stdin: OwnedFd = std::fs::File::open("/dev/null")
        .map_err(Error::doing(doing))?
        .into();
    let (out, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    let options = Options::from([("cwd", "/".into())]);
    let session = manager
        .run_command(container, argv, &options, [&stdin, &stdout, &stderr])
        .await?;
    drop((stdout, stderr));
    let out = read(out, limit)?;
    let errors = read(errors, 64 * 1024)?;
    let (out, errors) = tokio::join!(out, errors);
    let out = out.map_err(Error::doing("reading what a command prints"))?;
    let Some(stdout) = out else {
        let _ = session.signal(Signal::KILL.as_raw()).await;
        return Err(Error::Failed(format!(
            "container {} printed more than {limit} bytes where a list was asked for; it is not believed",
            crate::text::plain(container)
        )));
    };
    let errors = errors.ok().flatten().unwrap_or_default();
    Ok(Captured {
        status: session.wait().await?,
        stdout,
        stderr: String::from_utf8_lossy(&errors).into_owned(),
    })
}

/// Reads a pipe to its end; nothing if there is more than `limit`. Closing the pipe then ends who writes.
fn read(
    pipe: OwnedFd,
    limit: usize,
) -> Result<impl Future<Output = std::io::Result<Option<Vec<u8>>>>> {
    use tokio::io::AsyncReadExt;
    let doing = "preparing the streams of a command";
    let pipe =
        tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).map_err(Error::doing(doing))?;
    Ok(async move {
        let mut bytes = Vec::new();
        let mut limited = pipe.take(limit as u64 + 1);
        limited.read_to_end(&mut bytes).await?;
        Ok((bytes.len() <= limit).then_some(bytes))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_we_send_is_what_the_daemon_passes_on() {
        assert_eq!(super::ENVIRONMENT, kapsule_daemon::shell::PASSED_ON);
    }
}
