//! The session in this process: the kernel's log comes in by one netlink socket, verdicts go out by another.
//!
//! Everything that decides runs under one lock and never waits: a verdict is a few system calls. Principles:
//! - What is told was written to the audit log first. What cannot be written is not opened.
//! - A verdict holds when the kernel has acknowledged it, and not before.
//! - Ending, cleanly or not, leaves the rules as they are: closed.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::{Action, EVENTS, Event, Outcome, Scope, State, Verdict};
use crate::audit::AuditLog;
use crate::dns::Name;
use crate::error::{Error, Result};
use crate::names::{self, Decision, Names};
use crate::namespace::{Namespace, Place};
use crate::netlink::Socket;
use crate::nflog::{Log, Reason};
use crate::nftables::{Change, FAMILIES, Key, Set, Table};
use crate::packet::Destination;
use crate::pending::{Asked, Pending, Request};
use crate::profile;
use crate::resolver;
use crate::ruleset::WINDOW_SECONDS;
use crate::state::{Journal, List, Lock, StateDir};
use crate::system;

/// A little less than the kernel's window: two processors may both log the first packet.
const QUIET: Duration = Duration::from_millis(WINDOW_SECONDS as u64 * 1000 - 500);

/// How long a bridge waits for another one to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a session is to be held.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Take up the questions that waited when the last session ended, and keep them for the next one.
    pub keep_pending: bool,
    /// Where questions for names are forwarded to; empty: names are not served.
    pub resolvers: Vec<SocketAddr>,
    /// Refuse a container that is not in interactive mode, instead of denying without asking.
    pub must_ask: bool,
}

/// A session in this process.
#[derive(Debug)]
pub struct InProcess {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the tasks of a session share.
#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    events: mpsc::Sender<Event>,
    gone: AtomicBool,
    asks: bool,
    busy: Notify,
}

#[derive(Debug)]
struct Inner {
    state: StateDir,
    table: Table,
    pending: Pending,
    journal: Option<Journal>,
    names: Names,
    audit: AuditLog,
    /// The kernel's counter of refused packets that were not logged, when it was read last.
    unasked: u64,
    /// Lost, and not yet told.
    lost: u64,
    /// The right to be the only bridge.
    alone: Option<Lock>,
}

impl InProcess {
    /// Begins a session; events come by the channel.
    ///
    /// # Errors
    /// If the rules are not loaded, another reader has the log, or a capability is missing. Nothing is left
    /// behind then.
    pub async fn start(
        state: StateDir,
        container: &str,
        namespace: Namespace,
        options: &Options,
    ) -> Result<(Self, mpsc::Receiver<Event>)> {
        let asks = state.is_interactive();
        if options.must_ask && !asks {
            return Err(Error::NotInteractive {
                container: container.to_owned(),
                path: state.file("interactive").display().to_string(),
            });
        }
        let lock = patiently(|| state.lock(container)).await?;
        let [log, changes] = namespace.netfilter_sockets::<2>()?;
        let mut table = Table::open(changes)
            .map_err(|e| no_permission(e, "reading the rules"))?
            .ok_or_else(|| Error::NotUp {
                container: container.to_owned(),
            })?;
        let mut log = Socket::new(log);
        patiently(|| bind(&mut log, container)).await?;
        let log =
            Log::begin(log).map_err(|e| Error::system("reading the kernel's log".into(), e))?;
        let audit_path = state.file("audit.jsonl");
        let audit = AuditLog::open(&audit_path, container)
            .map_err(|e| Error::system(format!("opening {}", audit_path.display()), e))?;
        let (allowed, denied) = state.names()?;
        let mut pending = Pending::default();
        let mut journal = None;
        if options.keep_pending {
            let (opened, requests, next) = state.journal()?;
            requests.into_iter().for_each(|r| pending.restore(r));
            pending.reserve(next);
            journal = Some(opened);
        }
        let unasked = table.unasked().unwrap_or(0);
        let (events, receiver) = mpsc::channel(EVENTS);
        let names_wanted = !options.resolvers.is_empty() && table.has_names();
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                state,
                table,
                pending,
                journal,
                names: Names::new(allowed, denied),
                audit,
                unasked,
                lost: 0,
                alone: Some(lock),
            }),
            events,
            gone: AtomicBool::new(false),
            asks,
            busy: Notify::new(),
        });
        shared.tell_what_waits();
        let log =
            system::watch(log).map_err(|e| Error::system("watching the kernel's log".into(), e))?;
        let mut tasks = vec![
            tokio::spawn(read_log(shared.clone(), log)),
            tokio::spawn(count_losses(shared.clone())),
        ];
        if names_wanted {
            match namespace.name_sockets() {
                Ok(sockets) => tasks.extend(
                    resolver::servers(&shared, sockets, &options.resolvers)
                        .into_iter()
                        .map(tokio::spawn),
                ),
                Err(error) => {
                    tracing::warn!(container, %error, "names are not served for now");
                    let (shared, resolvers) = (shared.clone(), options.resolvers.clone());
                    let place = namespace.place().clone();
                    tasks.push(tokio::spawn(serve_names_later(shared, place, resolvers)));
                }
            }
        }
        // The namespace itself is let go: a file that it is mounted on can be unmounted.
        let place = namespace.place().clone();
        tasks.push(tokio::spawn(watch_container(shared.clone(), place)));
        let session = Self {
            shared,
            tasks: Mutex::new(tasks),
        };
        Ok((session, receiver))
    }

    /// Gives a verdict.
    pub fn verdict(&self, id: u64, verdict: Verdict) -> Outcome {
        self.shared.verdict(id, verdict)
    }

    /// What waits.
    pub fn pending(&self) -> Vec<Request> {
        self.shared.lock().pending.iter().cloned().collect()
    }

    /// Lets everything through for a time, or ends that.
    pub fn allow_all(&self, duration: Duration) -> bool {
        self.shared.allow_all(duration)
    }

    /// What it does with what nobody has decided.
    pub fn state(&self) -> State {
        if self.shared.is_gone() {
            return State::Gone;
        }
        let open = self.shared.lock().table.holds(Set::Open, FAMILIES[0]);
        match (open, self.shared.asks) {
            (Ok(true), _) => State::Open,
            (_, true) => State::Asking,
            (_, false) => State::Denying,
        }
    }

    /// Ends the session: when this returns, the log is free for another reader, and port 53 too.
    pub async fn stop(&self) {
        let tasks: Vec<_> = lock(&self.tasks).drain(..).collect();
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            let _ = task.await;
        }
        self.shared.gone.store(true, Ordering::Release);
        self.shared.lock().alone = None;
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

/// Tries for a while what another bridge may stand in the way of: one that was killed needs a moment until
/// its sessions are gone.
async fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(Error::Busy { .. }) if start.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Binds the log. Reading the rules was permitted, so if this is not, somebody else reads.
fn bind(socket: &mut Socket, container: &str) -> Result<()> {
    Log::bind(socket).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM | libc::EBUSY) => Error::Busy {
            container: container.to_owned(),
            by: format!(": log group {} is bound", crate::nflog::GROUP),
        },
        _ => Error::system("binding the kernel's log".into(), e),
    })
}

pub(crate) fn no_permission(error: std::io::Error, what: &str) -> Error {
    if error.raw_os_error() == Some(libc::EPERM) {
        return Error::Permission {
            what: what.to_owned(),
            missing: "CAP_NET_ADMIN",
            hint: "run this as root, or as the user who started the container".into(),
        };
    }
    Error::system(what.to_owned(), error)
}

/// A panic under the lock leaves data that is still whole: every step that can panic stands before the
/// changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Hands an event on; who does not take them in time loses events, and is told how many.
    fn tell(&self, inner: &mut Inner, event: Event) {
        if self.events.try_send(event).is_err() {
            inner.lost += 1;
            self.busy.notify_one();
        }
    }

    /// At the beginning: what waits from before, and what was refused while nobody read the log.
    fn tell_what_waits(&self) {
        let mut inner = self.lock();
        if !self.asks {
            return;
        }
        let waiting: Vec<_> = inner.pending.iter().cloned().collect();
        for request in waiting {
            self.tell(&mut inner, Event::Blocked(request));
        }
        if inner.journal.is_none() {
            // Without a memory of its own, a session is told of everything that is tried from now on.
            if let Err(error) = inner.table.forget_seen() {
                tracing::warn!(%error, "what was refused a moment ago is told a moment later");
            }
            return;
        }
        let seen = inner.table.seen().unwrap_or_default();
        for dest in seen {
            if !inner.is_decided(dest) {
                self.ask(&mut inner, dest);
            }
        }
    }

    /// A packet was logged.
    fn logged(&self, inner: &mut Inner, reason: Reason, dest: Destination) {
        if dest.address.is_multicast() {
            return;
        }
        let line = profile::destination_line(dest);
        let detail = line.split_once(' ').map_or("", |(_, rest)| rest);
        let address = dest.address.to_string();
        match reason {
            Reason::Ask => self.ask(inner, dest),
            Reason::Denied => inner.note("denied", &address, detail),
            Reason::Private => inner.note("blocked", &address, &format!("{detail} private")),
            Reason::Allowed => inner.note("allowed", &address, detail),
        }
    }

    fn ask(&self, inner: &mut Inner, dest: Destination) {
        let name = inner.names.name_of(dest.address).cloned();
        let decision = name
            .as_ref()
            .map_or(Decision::Open, |n| inner.names.decision(n, Instant::now()));
        if let (Decision::Allowed(until), Some(name)) = (decision, &name)
            && names::may_be_opened_by_name(dest.address)
            && inner.open_for_name(dest.address, until).is_ok()
        {
            // The name was decided about after its address was handed out, or a while ago.
            inner.note(
                "allowed",
                &dest.address.to_string(),
                &format!("name {name}"),
            );
            return;
        }
        let domain = name.map_or(String::new(), |n| crate::text::plain(n.as_str()));
        let detail = {
            let line = profile::destination_line(dest);
            let port = line.split_once(' ').map_or("", |(_, rest)| rest);
            if domain.is_empty() {
                port.to_owned()
            } else {
                format!("{port} name {domain}")
            }
        };
        if !self.asks || decision == Decision::Denied {
            inner.note("blocked", &dest.address.to_string(), &detail);
            return;
        }
        let asked = inner.pending.blocked(dest, &domain, Instant::now(), QUIET);
        let request = match asked {
            Asked::Quiet => return,
            Asked::Again(request) => request,
            Asked::New(request, gave_way) => {
                let inner = &mut *inner;
                if let Some(journal) = &mut inner.journal {
                    if let Some(old) = gave_way {
                        journal.closed(old.id);
                    }
                    journal.opened(&request);
                    if journal.is_long()
                        && let Err(error) =
                            journal.rewrite(inner.pending.iter(), inner.pending.next())
                    {
                        tracing::warn!(%error, "the questions that wait cannot be written");
                    }
                }
                request
            }
        };
        inner.note(
            "blocked",
            &dest.address.to_string(),
            &format!("{detail} id {}", request.id),
        );
        self.tell(inner, Event::Blocked(request));
    }

    fn verdict(&self, id: u64, verdict: Verdict) -> Outcome {
        if self.is_gone() {
            return Outcome::Unknown;
        }
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(request) = inner.pending.get(id).cloned() else {
            return Outcome::Unknown;
        };
        let applied = inner.apply(&request, verdict);
        if let Err(error) = &applied {
            tracing::warn!(id, dest = %request.dest, %error, "a verdict could not be applied");
            inner.note(
                "failed",
                &request.dest.address.to_string(),
                &error.to_string(),
            );
            let event = Event::Applied {
                request,
                action: verdict.action,
                ok: false,
            };
            self.tell(inner, event);
            return Outcome::Failed;
        }
        // A wide verdict answers every question that it covers.
        let covered: Vec<u64> = inner
            .pending
            .iter()
            .filter(|other| other.id == id || covers(&request, verdict.scope, other))
            .map(|r| r.id)
            .collect();
        for id in covered {
            if let Some(request) = inner.pending.close(id) {
                if let Some(journal) = &mut inner.journal {
                    journal.closed(id);
                }
                let event = Event::Applied {
                    request,
                    action: verdict.action,
                    ok: true,
                };
                self.tell(inner, event);
            }
        }
        Outcome::Applied
    }

    fn allow_all(&self, duration: Duration) -> bool {
        if self.is_gone() {
            return false;
        }
        let mut inner = self.lock();
        if !inner.table.has_open() {
            return false;
        }
        let seconds = duration.as_secs();
        let (action, detail) = if duration.is_zero() {
            ("denied", "everything, as before".to_owned())
        } else {
            ("allowed", format!("everything for {seconds}s"))
        };
        if inner.audit.write(action, "", &detail).is_err() && !duration.is_zero() {
            return false;
        }
        let changes = FAMILIES.map(|family| {
            if duration.is_zero() {
                Change::Take(Set::Open, family)
            } else {
                Change::Put(Set::Open, family, Some(duration))
            }
        });
        let done = inner.table.change(&changes);
        if let Err(error) = &done {
            inner.note("failed", "", &error.to_string());
        }
        done.is_ok()
    }

    /// What was decided about a name.
    pub(crate) fn decision(&self, name: &Name) -> Decision {
        self.lock().names.decision(name, Instant::now())
    }

    /// A name was resolved, and the container is about to learn its addresses: those of an allowed name
    /// are opened first, so that its very next connection passes.
    pub(crate) fn resolved(&self, name: &Name, addresses: &[IpAddr]) {
        let mut inner = self.lock();
        let decision = inner.names.decision(name, Instant::now());
        for address in addresses {
            inner.names.learn(name, *address);
            if let Decision::Allowed(until) = decision
                && names::may_be_opened_by_name(*address)
                && let Err(error) = inner.open_for_name(*address, until)
            {
                tracing::warn!(%name, %address, %error, "an allowed name's address could not be opened");
            }
        }
    }
}

/// Whether a verdict about `request` answers `other` too.
fn covers(request: &Request, scope: Scope, other: &Request) -> bool {
    match scope {
        Scope::Port => false,
        Scope::Address => request.dest.address == other.dest.address,
        Scope::Domain => match (Name::parse(&request.domain), Name::parse(&other.domain)) {
            (Some(name), Some(below)) => name.covers(&below),
            _ => false,
        },
    }
}

/// Why a verdict cannot be applied.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it has no name")]
    NoName,
    #[error("the address as a whole is denied")]
    AddressDenied,
    #[error("the audit log cannot be written: {0}")]
    Audit(std::io::Error),
    #[error("the kernel refused: {0}")]
    Kernel(#[from] std::io::Error),
}

impl Inner {
    /// Writes to the audit log what has happened already.
    fn note(&mut self, action: &str, dest: &str, detail: &str) {
        if let Err(error) = self.audit.write(action, dest, detail) {
            tracing::error!(%error, action, dest, detail, "the audit log cannot be written");
        }
    }

    /// Whether a rule stands about a destination.
    fn is_decided(&mut self, dest: Destination) -> bool {
        let key = Key::of(dest);
        let address = Key::Address(dest.address);
        [
            (Set::AllowPort, key),
            (Set::DenyPort, key),
            (Set::Allow, address),
            (Set::Deny, address),
            (Set::Named, address),
        ]
        .into_iter()
        .any(|(set, key)| self.table.holds(set, key).unwrap_or(false))
    }

    /// Lets an allowed name's address through.
    fn open_for_name(&mut self, address: IpAddr, until: Option<Instant>) -> std::io::Result<()> {
        let key = Key::Address(address);
        let change = match until {
            None => Change::Put(Set::Named, key, None),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                Change::Put(Set::Allow, key, Some(left))
            }
        };
        self.table.change(&[change])
    }

    /// Makes a verdict hold.
    fn apply(&mut self, request: &Request, verdict: Verdict) -> std::result::Result<(), Refused> {
        let dest = request.dest;
        // The original's rules know addresses only.
        let scope = match verdict.scope {
            Scope::Port if !self.table.has_ports() => Scope::Address,
            scope => scope,
        };
        let key = Key::of(dest);
        let address = Key::Address(dest.address);
        let accept = verdict.action == Action::Accept;
        let time = verdict.duration;
        let put = |allow, deny, key| {
            let (put, take) = if accept { (allow, deny) } else { (deny, allow) };
            [Change::Take(take, key), Change::Put(put, key, time)]
        };
        let mut changes = vec![Change::Take(Set::Seen, key)];
        let mut name = None;
        match scope {
            Scope::Port => {
                if accept && self.table.holds(Set::Deny, address)? {
                    return Err(Refused::AddressDenied);
                }
                changes.extend(put(Set::AllowPort, Set::DenyPort, key));
            }
            Scope::Address => {
                changes.extend(put(Set::Allow, Set::Deny, address));
                changes.push(Change::Take(Set::AllowPort, key));
                changes.push(Change::Take(Set::DenyPort, key));
                if !accept {
                    changes.push(Change::Take(Set::Named, address));
                }
            }
            Scope::Domain => {
                let asked = Name::parse(&request.domain).ok_or(Refused::NoName)?;
                let mut addresses = self.names.addresses_of(&asked);
                if !addresses.contains(&dest.address) {
                    addresses.push(dest.address);
                }
                for address in addresses {
                    let key = Key::Address(address);
                    match (accept, time) {
                        (true, _) if !names::may_be_opened_by_name(address) => {}
                        (true, None) => changes.push(Change::Put(Set::Named, key, None)),
                        (true, time) => changes.push(Change::Put(Set::Allow, key, time)),
                        (false, _) => changes.push(Change::Take(Set::Named, key)),
                    }
                }
                changes.push(Change::Take(
                    if accept {
                        Set::DenyPort
                    } else {
                        Set::AllowPort
                    },
                    key,
                ));
                name = Some(asked);
            }
        }
        let mut detail = match (&name, scope) {
            (Some(name), _) => format!("verdict id {} name {name}", request.id),
            (None, Scope::Address) => format!("verdict id {} every port", request.id),
            (None, _) => {
                let line = profile::destination_line(dest);
                let port = line.split_once(' ').map_or("", |(_, rest)| rest).to_owned();
                format!("verdict id {} {port}", request.id)
            }
        };
        if let Some(time) = time {
            detail.push_str(&format!(" for {}s", time.as_secs()));
        }
        let action = if accept { "allowed" } else { "denied" };
        match self.audit.write(action, &dest.address.to_string(), &detail) {
            // Nothing is opened that the log does not have.
            Err(e) if accept => return Err(Refused::Audit(e)),
            Err(error) => tracing::error!(%error, "the audit log cannot be written"),
            Ok(()) => {}
        }
        self.table.change(&changes)?;
        if let Some(name) = &name {
            let until = time.map(|t| Instant::now() + t);
            self.names.decide(name, accept, until);
        }
        if time.is_none() {
            self.remember(dest, scope, name.as_ref(), accept);
        }
        Ok(())
    }

    /// Writes a permanent verdict down, for when the container is started again.
    fn remember(&self, dest: Destination, scope: Scope, name: Option<&Name>, accept: bool) {
        let (allow, deny, line) = match (scope, name) {
            (Scope::Domain, Some(name)) => {
                (List::LiveDomains, List::DeniedDomains, name.to_string())
            }
            (Scope::Address, _) => (List::LiveAllowed, List::DenyList, dest.address.to_string()),
            _ => (
                List::LivePorts,
                List::DenyPorts,
                profile::destination_line(dest),
            ),
        };
        let (add, take) = if accept { (allow, deny) } else { (deny, allow) };
        if let Err(error) = self
            .state
            .take(take, &line)
            .and_then(|()| self.state.add(add, &line))
        {
            tracing::error!(%error, "the verdict holds, but only until the container ends");
        }
    }
}

/// Reads the kernel's log.
async fn read_log(shared: Arc<Shared>, mut log: AsyncFd<Log>) {
    loop {
        let Ok(mut ready) = log.readable_mut().await else {
            return;
        };
        match ready.get_inner_mut().read() {
            Ok(reading) => {
                if !reading.more {
                    ready.clear_ready();
                }
                let mut inner = shared.lock();
                for (reason, dest) in reading.packets {
                    shared.logged(&mut inner, reason, dest);
                }
                inner.lost += u64::from(reading.lost);
                drop(inner);
                shared.busy.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, "the kernel's log cannot be read; what is blocked is no longer asked about");
                return;
            }
        }
        // A flood must not keep verdicts waiting.
        tokio::task::yield_now().await;
    }
}

/// Tells what was lost, once a second, while there is traffic that could be.
async fn count_losses(shared: Arc<Shared>) {
    loop {
        shared.busy.notified().await;
        // What the kernel did not log for want of room it counts for as long as the room is full.
        for _ in 0..=WINDOW_SECONDS + 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut guard = shared.lock();
            let inner = &mut *guard;
            if let Ok(unasked) = inner.table.unasked() {
                inner.lost += unasked.saturating_sub(inner.unasked);
                inner.unasked = unasked;
            }
            if inner.lost > 0 {
                let lost = u32::try_from(inner.lost).unwrap_or(u32::MAX);
                inner.note("lost", "", &format!("{lost} events"));
                if shared.events.try_send(Event::Lost(lost)).is_ok() {
                    inner.lost -= u64::from(lost);
                }
            }
        }
    }
}

/// Serves names when port 53 in the container is free: a resolver of its own may have it.
async fn serve_names_later(shared: Arc<Shared>, place: Place, resolvers: Vec<SocketAddr>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let opened = place.open().and_then(|namespace| namespace.name_sockets());
        match opened {
            Ok(sockets) => {
                tracing::info!("names are served");
                // They end with this task.
                let mut tasks = tokio::task::JoinSet::new();
                for server in resolver::servers(&shared, sockets, &resolvers) {
                    tasks.spawn(server);
                }
                tasks.join_all().await;
            }
            Err(Error::Gone(_)) => return,
            Err(_) => {}
        }
    }
}

/// Waits for the container's end, or for its rules to be taken down; looks at the lists again when they
/// were put up again.
async fn watch_container(shared: Arc<Shared>, place: Place) {
    tokio::select! {
        () = container_ended(&place) => {}
        () = taken_down(&shared) => {}
    }
    shared.gone.store(true, Ordering::Release);
    let _ = shared.events.send(Event::Gone).await;
}

async fn container_ended(place: &Place) {
    let process = place.process().and_then(|pid| {
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    });
    match process.and_then(|fd| system::watch(fd).ok()) {
        Some(process) if place.is_still_there() => {
            let _ = process.readable().await;
        }
        _ => {
            while place.is_still_there() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn taken_down(shared: &Shared) {
    use rustix::fs::inotify;
    let state = shared.lock().state.clone();
    let target = state.file("target.json");
    let watched = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .and_then(|fd| {
            let events = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&fd, state.path(), events).map(|_| fd)
        })
        .map_err(std::io::Error::from)
        .and_then(system::watch);
    let mut watched = match watched {
        // Another program's directory has no such file, and is not taken down by us.
        Ok(watched) if target.exists() => watched,
        _ => return std::future::pending().await,
    };
    let mut buffer = [0u8; 4096];
    while let Ok(mut ready) = watched.readable_mut().await {
        while rustix::io::read(ready.get_inner(), &mut buffer).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
        if !target.exists() {
            return;
        }
        match state.names() {
            Ok((allowed, denied)) => shared.lock().names.reload(allowed, denied),
            Err(error) => tracing::warn!(%error, "the lists of names cannot be read"),
        }
    }
    std::future::pending().await
}
