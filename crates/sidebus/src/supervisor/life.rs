//! The life of a VM's daemons: what is started when, what follows from an end, and the way back down.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use zbus::Connection;

use super::back_off::BackOff;
use super::daemon::Daemon;
use super::lock::Lock;
use super::mounts;
use super::private_bus::{PrivateBus, wait_for_name};
use super::{DaemonState, DaemonStatus, Plan, SupervisorError};

/// How often a daemon is tried before the start as a whole is given up.
const ATTEMPTS: u32 = 3;
/// virtiofsd ends with the monitor's connection; one that has served for this long has done its work.
const SERVED: Duration = Duration::from_secs(1);

/// In the order in which they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    PermissionStore,
    DocumentPortal,
    Virtiofsd,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::PermissionStore => "xdg-permission-store",
            Part::DocumentPortal => "xdg-document-portal",
            Part::Virtiofsd => "virtiofsd",
        }
    }

    /// What has to be ready before it is started.
    fn after(self) -> Option<Part> {
        match self {
            Part::PermissionStore => None,
            Part::DocumentPortal => Some(Part::PermissionStore),
            Part::Virtiofsd => Some(Part::DocumentPortal),
        }
    }

    /// What has to go when it ends. The document portal asks the permission store nothing once it runs; virtiofsd holds on
    /// to a mount.
    fn builds_on(self) -> Option<Part> {
        match self {
            Part::PermissionStore | Part::DocumentPortal => None,
            Part::Virtiofsd => Some(Part::DocumentPortal),
        }
    }
}

/// A daemon's place, whether it runs or not.
struct Place {
    part: Part,
    daemon: Option<Daemon>,
    back_off: BackOff,
    not_before: Instant,
    starts: u32,
    last_end: Option<String>,
}

struct Life {
    plan: Plan,
    lock: Lock,
    places: Vec<Place>,
    /// Where the monitor connects. Ours, so that it is there before virtiofsd is, and while it is not.
    virtiofs: Option<OwnedFd>,
    bus: PrivateBus,
    client: Connection,
    status: watch::Sender<Vec<DaemonStatus>>,
}

/// The supervisor's thread, from start to end.
pub(super) fn run(
    plan: Plan,
    started: oneshot::Sender<Result<String, SupervisorError>>,
    stopped: oneshot::Receiver<()>,
    status: watch::Sender<Vec<DaemonStatus>>,
) {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(live(plan, started, stopped, status)),
        // Nobody listens any more: then nobody needs to know.
        Err(error) => drop(started.send(Err(SupervisorError::Thread(error)))),
    }
}

async fn live(
    plan: Plan,
    started: oneshot::Sender<Result<String, SupervisorError>>,
    mut stopped: oneshot::Receiver<()>,
    status: watch::Sender<Vec<DaemonStatus>>,
) {
    let prepared = tokio::select! {
        prepared = Life::prepare(plan, status) => prepared,
        _ = &mut stopped => return,
    };
    let mut life = match prepared {
        Ok(life) => life,
        Err(error) => return drop(started.send(Err(error))),
    };
    let outcome = tokio::select! {
        outcome = life.bring_all_up() => outcome,
        _ = &mut stopped => Err(SupervisorError::Stopped),
    };
    match outcome {
        Ok(()) => {
            // If nobody waits for this any more, `stopped` says so at once.
            let _ = started.send(Ok(life.bus.address().to_owned()));
            tokio::select! {
                never = life.keep_up() => match never {},
                _ = &mut stopped => {}
            }
            life.take_down().await;
        }
        Err(error) => {
            // Told when all is gone again, so that whoever hears it may try once more.
            life.take_down().await;
            drop(life);
            let _ = started.send(Err(error));
        }
    }
}

impl Life {
    async fn prepare(
        plan: Plan,
        status: watch::Sender<Vec<DaemonStatus>>,
    ) -> Result<Life, SupervisorError> {
        check_name(&plan.vm)?;
        let lock = Lock::take(&plan).await?;
        // Whatever an earlier life has left behind, whether or not we shall mount anything.
        unmount(&plan.documents_mount()).await?;
        let bus = PrivateBus::start(&plan.private_bus_socket())?;
        let client = bus.connect().await?;
        let mut parts = vec![Part::PermissionStore, Part::DocumentPortal];
        let virtiofs = match &plan.programs.virtiofsd {
            Some(_) => {
                parts.push(Part::Virtiofsd);
                Some(listen(&plan.virtiofs_socket())?)
            }
            None => None,
        };
        let places = parts
            .into_iter()
            .map(|part| Place {
                part,
                daemon: None,
                back_off: BackOff::default(),
                not_before: Instant::now(),
                starts: 0,
                last_end: None,
            })
            .collect();
        let life = Life {
            plan,
            lock,
            places,
            virtiofs,
            bus,
            client,
            status,
        };
        life.tell();
        Ok(life)
    }

    /// Until all are ready, or one does not come up.
    async fn bring_all_up(&mut self) -> Result<(), SupervisorError> {
        while self.places.iter().any(|place| !place.is_ready()) {
            if let Err((index, problem)) = self.turn().await {
                let place = &self.places[index];
                if place.back_off.failures() >= ATTEMPTS {
                    return Err(SupervisorError::Daemon {
                        name: place.part.name(),
                        attempts: place.back_off.failures(),
                        remedy: remedy(place.part, &problem),
                        problem,
                    });
                }
            }
        }
        Ok(())
    }

    /// For ever.
    async fn keep_up(&mut self) -> std::convert::Infallible {
        loop {
            // What went wrong is in the log, and is tried again.
            let _ = self.turn().await;
        }
    }

    /// Starts the one daemon that can be started; if there is none, waits until one ends or can be started.
    ///
    /// # Errors
    /// A daemon has failed: which, and how.
    async fn turn(&mut self) -> Result<(), (usize, String)> {
        let now = Instant::now();
        if let Some(index) = self
            .places
            .iter()
            .position(|place| place.daemon.is_none() && self.may_start(place, now))
        {
            return match self.bring_up(index).await {
                Ok(()) => Ok(()),
                Err(problem) => {
                    self.failed(index, Duration::ZERO, problem.clone()).await;
                    Err((index, problem))
                }
            };
        }
        let next = self
            .places
            .iter()
            .filter(|place| place.daemon.is_none() && place.not_before > now)
            .map(|place| place.not_before)
            .min();
        let wait = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        let (index, status) = tokio::select! {
            ended = an_end(&mut self.places) => ended,
            () = wait => return Ok(()),
        };
        self.lost(index, status).await
    }

    fn may_start(&self, place: &Place, now: Instant) -> bool {
        let ready = |part| {
            self.places
                .iter()
                .any(|place| place.part == part && place.is_ready())
        };
        place.not_before <= now && place.part.after().is_none_or(ready)
    }

    /// Starts a daemon and waits until it is ready.
    async fn bring_up(&mut self, index: usize) -> Result<(), String> {
        let part = self.places[index].part;
        if part == Part::DocumentPortal {
            let mount = self.plan.documents_mount();
            unmount(&mount).await.map_err(|error| error.to_string())?;
        }
        let command = self
            .command(part)
            .map_err(|error| format!("preparing its start: {error}"))?;
        let shown = command.as_std().get_program().display().to_string();
        let daemon = Daemon::start(part.name(), command)
            .map_err(|error| format!("starting {shown}: {error}"))?;
        let place = &mut self.places[index];
        place.starts += 1;
        // In its place before anything is awaited: whoever stops us in the middle finds it there.
        place.daemon = Some(daemon);
        self.tell();
        let (client, plan) = (&self.client, &self.plan);
        let daemon = self.places[index]
            .daemon
            .as_mut()
            .expect("it has just been put there");
        let problem = tokio::select! {
            ready = tokio::time::timeout(plan.patience, ready(part, client, plan)) => match ready {
                Ok(Ok(())) => None,
                Ok(Err(problem)) => Some(problem),
                Err(_) => Some(format!("it was not ready within {:?}", plan.patience)),
            },
            status = daemon.ended() => Some(shown_end(&status)),
        };
        if let Some(problem) = problem {
            daemon.end().await;
            let words = daemon.last_words().await;
            self.places[index].daemon = None;
            return Err(match words.is_empty() {
                true => problem,
                false => format!("{problem}; it said: {words}"),
            });
        }
        daemon.ready_since = Some(Instant::now());
        tracing::info!(daemon = part.name(), pid = daemon.pid(), "ready");
        self.tell();
        Ok(())
    }

    /// A daemon that ran has ended.
    async fn lost(
        &mut self,
        index: usize,
        status: io::Result<ExitStatus>,
    ) -> Result<(), (usize, String)> {
        let place = &mut self.places[index];
        let Some(mut daemon) = place.daemon.take() else {
            return Ok(());
        };
        let ran = daemon.ready_since.map_or(Duration::ZERO, |at| at.elapsed());
        let mut problem = shown_end(&status);
        if place.part == Part::Virtiofsd
            && ran >= SERVED
            && status.as_ref().is_ok_and(ExitStatus::success)
        {
            tracing::debug!(daemon = "virtiofsd", "the monitor has disconnected");
            place.last_end = Some(problem);
            place.not_before = Instant::now();
            self.tell();
            return Ok(());
        }
        let words = daemon.last_words().await;
        if !words.is_empty() {
            problem = format!("{problem}; it said: {words}");
        }
        self.failed(index, ran, problem.clone()).await;
        Err((index, problem))
    }

    /// After an end that was not wanted: ends what builds on it, tidies up, and says when it is tried again.
    async fn failed(&mut self, index: usize, ran: Duration, problem: String) {
        let place = &mut self.places[index];
        let part = place.part;
        let wait = place.back_off.failed(ran);
        place.not_before = Instant::now() + wait;
        tracing::warn!(
            daemon = part.name(),
            again_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "{problem}"
        );
        place.last_end = Some(problem);
        for above in (0..self.places.len()).rev() {
            if self.places[above].part.builds_on() == Some(part) {
                self.end(above).await;
            }
        }
        if part == Part::DocumentPortal {
            // Who looks there now is to find nothing, and not an error of a filesystem without a server.
            if let Err(error) = unmount(&self.plan.documents_mount()).await {
                tracing::warn!("{error}");
            }
        }
        self.tell();
    }

    async fn end(&mut self, index: usize) {
        if let Some(mut daemon) = self.places[index].daemon.take() {
            daemon.end().await;
        }
    }

    /// Ends all, the last one first.
    async fn take_down(&mut self) {
        for index in (0..self.places.len()).rev() {
            self.end(index).await;
            if self.places[index].part == Part::DocumentPortal
                && let Err(error) = unmount(&self.plan.documents_mount()).await
            {
                tracing::warn!("{error}");
            }
        }
        if self.virtiofs.take().is_some() {
            let _ = std::fs::remove_file(self.plan.virtiofs_socket());
        }
        self.tell();
    }

    fn tell(&self) {
        let status = self
            .places
            .iter()
            .map(|place| DaemonStatus {
                name: place.part.name(),
                state: match &place.daemon {
                    None => DaemonState::Down,
                    Some(daemon) if daemon.ready_since.is_none() => DaemonState::Starting,
                    Some(_) => DaemonState::Ready,
                },
                pid: place.daemon.as_ref().map(Daemon::pid),
                starts: place.starts,
                last_end: place.last_end.clone(),
            })
            .collect();
        self.status.send_replace(status);
    }

    fn command(&self, part: Part) -> io::Result<Command> {
        let programs = &self.plan.programs;
        let mut command = match part {
            Part::PermissionStore => Command::new(&programs.permission_store),
            Part::DocumentPortal => Command::new(&programs.document_portal),
            Part::Virtiofsd => {
                Command::new(programs.virtiofsd.as_ref().ok_or(io::ErrorKind::NotFound)?)
            }
        };
        command
            .env_clear()
            .envs(
                ["PATH", "HOME", "LANG", "LC_ALL", "USER", "LOGNAME"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(self.lock.share()?);
        match part {
            Part::PermissionStore | Part::DocumentPortal => {
                command
                    .env("DBUS_SESSION_BUS_ADDRESS", self.bus.address())
                    .env("XDG_RUNTIME_DIR", &self.plan.runtime_dir)
                    .env("XDG_DATA_HOME", &self.plan.data_dir)
                    // No other daemon is to be looked for on this bus.
                    .env("GIO_USE_VFS", "local")
                    .env("GSETTINGS_BACKEND", "memory");
            }
            Part::Virtiofsd => {
                let listening = self.virtiofs.as_ref().ok_or(io::ErrorKind::NotFound)?;
                command
                    .stdin(Stdio::from(listening.try_clone()?))
                    .arg("--fd=0")
                    .arg("--shared-dir")
                    .arg(self.plan.shared_directory())
                    .args(VIRTIOFSD)
                    .args(ownership(&self.plan));
            }
        }
        Ok(command)
    }
}

impl Place {
    fn is_ready(&self) -> bool {
        self.daemon
            .as_ref()
            .is_some_and(|daemon| daemon.ready_since.is_some())
    }
}

/// What virtiofsd is told besides what it shares: documents come and go on the host, so nothing is cached; a FUSE mount gives no
/// file handles, and cannot be seen from another mount namespace; the limit of open files is ours, which we have raised.
const VIRTIOFSD: [&str; 6] = [
    "--sandbox=none",
    "--cache=never",
    "--inode-file-handles=never",
    "--rlimit-nofile=0",
    "--no-announce-submounts",
    "--log-level=warn",
];

/// Whoever asks in the guest, on the host it is us; and there, documents belong to the guest's user.
fn ownership(plan: &Plan) -> Vec<String> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut arguments = Vec::new();
    for (option, ours, theirs) in [
        ("--translate-uid", uid, plan.guest_user.map(|user| user.uid)),
        ("--translate-gid", gid, plan.guest_user.map(|user| user.gid)),
    ] {
        arguments.push(format!("{option}=squash-guest:0:{ours}:{}", u32::MAX));
        if let Some(theirs) = theirs {
            arguments.push(format!("{option}=squash-host:0:{theirs}:{}", u32::MAX));
        }
    }
    arguments
}

/// Waits for what a daemon is there for.
async fn ready(part: Part, bus: &Connection, plan: &Plan) -> Result<(), String> {
    match part {
        Part::PermissionStore => wait_for_name(bus, "org.freedesktop.impl.portal.PermissionStore")
            .await
            .map_err(|error| format!("waiting for its name on the private bus: {error}")),
        Part::DocumentPortal => {
            wait_for_name(bus, "org.freedesktop.portal.Documents")
                .await
                .map_err(|error| format!("waiting for its name on the private bus: {error}"))?;
            let mount = async {
                mounts::wait_for_fuse(&plan.documents_mount()).await?;
                // Served, and not only mounted.
                tokio::fs::metadata(plan.shared_directory()).await
            };
            mount
                .await
                .map(drop)
                .map_err(|error| format!("waiting for the document mount: {error}"))
        }
        // Its socket listens since before it was started; what comes is served when it comes to it.
        Part::Virtiofsd => Ok(()),
    }
}

/// The first of the daemons to end.
async fn an_end(places: &mut [Place]) -> (usize, io::Result<ExitStatus>) {
    let ends = places.iter_mut().enumerate().filter_map(|(index, place)| {
        let daemon = place.daemon.as_mut()?;
        Some(Box::pin(async move { (index, daemon.ended().await) }))
    });
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(ends).await.0
}

fn shown_end(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("it ended ({status})"),
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}

/// What a person can do about a daemon that does not start.
fn remedy(part: Part, problem: &str) -> String {
    if part != Part::DocumentPortal {
        return String::new();
    }
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "\nThe kernel has no FUSE (/dev/fuse is not there): modprobe fuse".to_owned()
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "\nYou may not open /dev/fuse: its usual mode is 0666 (chmod 666 /dev/fuse, as root)"
                .to_owned()
        }
        _ if problem.contains("fusermount") => {
            "\nDocuments are mounted by fusermount3, which has to be setuid root (package fuse3)"
                .to_owned()
        }
        _ => String::new(),
    }
}

fn check_name(vm: &str) -> Result<(), SupervisorError> {
    let good = (1..=64).contains(&vm.len())
        && vm.starts_with(|first: char| first.is_ascii_alphabetic())
        && vm
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    match good {
        true => Ok(()),
        false => Err(SupervisorError::Name(vm.to_owned())),
    }
}

/// Listens for the monitor, which belongs to the same user.
fn listen(path: &Path) -> Result<OwnedFd, SupervisorError> {
    let failed = |step| {
        move |source| SupervisorError::Directory {
            step,
            path: path.to_owned(),
            source,
        }
    };
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("removing an old socket,")(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed("listening at"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("setting the mode of"))?;
    let listener = listener.into_std().map_err(failed("listening at"))?;
    // virtiofsd waits in accept.
    listener
        .set_nonblocking(false)
        .map_err(failed("listening at"))?;
    Ok(listener.into())
}

async fn unmount(mount: &Path) -> Result<(), SupervisorError> {
    mounts::unmount_stale(mount)
        .await
        .map_err(|source| SupervisorError::Directory {
            step: "unmounting what an earlier document portal has left at",
            path: mount.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vms_name_can_be_part_of_an_application_id() {
        for good in ["a", "debian-13", "Work_2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "13", "../x", "a.b", "ä", "-a", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whoever_writes_in_the_guest_it_is_us_on_the_host() {
        let mut plan = Plan {
            vm: "a".to_owned(),
            runtime_dir: "/run/x".into(),
            data_dir: "/run/x/data".into(),
            programs: super::super::Programs {
                permission_store: "/p".into(),
                document_portal: "/d".into(),
                virtiofsd: None,
            },
            guest_user: None,
            patience: Duration::from_secs(1),
        };
        let us = rustix::process::geteuid().as_raw();
        let first = format!("--translate-uid=squash-guest:0:{us}:4294967295");
        assert_eq!(ownership(&plan)[0], first);
        assert_eq!(ownership(&plan).len(), 2);
        plan.guest_user = Some(super::super::GuestUser {
            uid: 1000,
            gid: 100,
        });
        assert_eq!(
            ownership(&plan)[1..],
            [
                "--translate-uid=squash-host:0:1000:4294967295".to_owned(),
                format!(
                    "--translate-gid=squash-guest:0:{}:4294967295",
                    rustix::process::getegid().as_raw()
                ),
                "--translate-gid=squash-host:0:100:4294967295".to_owned(),
            ]
        );
    }
}
