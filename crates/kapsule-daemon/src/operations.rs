//! Operations: what takes time, with an object on the bus for each.
//!
//! A method that takes time checks everything it can, starts an operation, and answers with its path. The operation
//! runs by itself, tells how far it is, and keeps its result for a while, for a client that looks late.
//!
//! What keeps holding:
//! - Of one container (or image) at most one operation runs; another one is told [`Error::Busy`].
//! - A cancelled operation cleans up before it says that it was cancelled. Past the point of no return ([`Progress::
//!   commit`]) it cannot be cancelled any more.
//! - An operation that panics has failed; its target is free again.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath};

use crate::caller::Caller;
use crate::error::{Error, Result};

/// The operations of one user that may run at a time.
const RUNNING_PER_USER: usize = 16;
/// How many that have ended are remembered at most.
const REMEMBERED: usize = 256;

/// What kind of operation: the word of the property `Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Create,
    Delete,
    Start,
    Stop,
    Clone,
    Rename,
    Snapshot,
    Restore,
    DeleteSnapshot,
    Save,
    Load,
    ImportImage,
    DeleteImage,
    RefreshImages,
    SetupUser,
    Initialize,
}

impl Kind {
    /// The word on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Clone => "clone",
            Self::Rename => "rename",
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::DeleteSnapshot => "delete_snapshot",
            Self::Save => "save",
            Self::Load => "load",
            Self::ImportImage => "import_image",
            Self::DeleteImage => "delete_image",
            Self::RefreshImages => "refresh_images",
            Self::SetupUser => "setup_user",
            Self::Initialize => "initialize",
        }
    }
}

/// What kind of line a [`Progress::message`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Line {
    Information = 0,
    Success = 1,
    Warning = 2,
    Error = 3,
    Detail = 4,
    Hint = 5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Status {
    Running,
    Completed,
    Failed(String),
    Cancelled(String),
}

impl Status {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Cancelled(_) => "cancelled",
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Running | Self::Completed => "",
            Self::Failed(text) | Self::Cancelled(text) => text,
        }
    }
}

/// One operation, as its object on the bus and its task share it.
struct Shared {
    id: u64,
    kind: Kind,
    description: String,
    target: String,
    uid: u32,
    path: OwnedObjectPath,
    status: Mutex<Status>,
    cancel: watch::Sender<Wish>,
    outcome: watch::Sender<Option<Result<()>>>,
}

/// What is wished of a running operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// That it goes on.
    GoOn,
    /// That it ends.
    End,
    /// It cannot be ended any more.
    Committed,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole at every point at which one could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The object on the bus.
struct OperationObject(Arc<Shared>);

#[zbus::interface(name = "org.kde.kapsule.Operation")]
impl OperationObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.0.id.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"), name = "Type")]
    fn kind(&self) -> &str {
        self.0.kind.as_str()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn description(&self) -> &str {
        &self.0.description
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn target(&self) -> &str {
        &self.0.target
    }

    #[zbus(property)]
    fn status(&self) -> String {
        lock(&self.0.status).as_str().to_owned()
    }

    #[zbus(property)]
    fn error_message(&self) -> String {
        lock(&self.0.status).message().to_owned()
    }

    #[zbus(out_args("accepted"))]
    async fn cancel(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<bool> {
        let caller = Caller::of(connection, &header).await?;
        if caller.uid != self.0.uid && !caller.is_root() {
            return Err(Error::NotAuthorized(format!(
                "operation {} is another user's: only he and root can cancel it",
                self.0.id
            )));
        }
        if *lock(&self.0.status) != Status::Running {
            return Ok(false);
        }
        Ok(self.0.cancel.send_if_modified(|wish| {
            let goes_on = *wish == Wish::GoOn;
            if goes_on {
                *wish = Wish::End;
            }
            goes_on
        }))
    }

    #[zbus(signal)]
    async fn message(
        emitter: &SignalEmitter<'_>,
        kind: i32,
        message: &str,
        indent: i32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_started(
        emitter: &SignalEmitter<'_>,
        progress: &str,
        description: &str,
        total: i32,
        indent: i32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_update(
        emitter: &SignalEmitter<'_>,
        progress: &str,
        current: i32,
        rate: f64,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_text_update(
        emitter: &SignalEmitter<'_>,
        progress: &str,
        text: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_completed(
        emitter: &SignalEmitter<'_>,
        progress: &str,
        success: bool,
        message: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn completed(
        emitter: &SignalEmitter<'_>,
        success: bool,
        message: &str,
    ) -> zbus::Result<()>;
}

/// What an operation is about, and is exclusive on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A container.
    Container(String),
    /// An image.
    Image(String),
    /// All of Incus.
    Incus,
}

impl Target {
    /// A container.
    pub fn container(name: &crate::names::ContainerName) -> Self {
        Self::Container(name.to_string())
    }

    fn name(&self) -> &str {
        match self {
            Self::Container(name) | Self::Image(name) => name,
            Self::Incus => "incus",
        }
    }
}

#[derive(Default)]
struct Table {
    last_id: u64,
    operations: BTreeMap<u64, (Arc<Shared>, Option<Instant>)>,
    /// What is being worked on, and by which operation.
    busy: HashMap<Target, u64>,
}

/// All operations: the ones that run, and the ones that have ended not long ago.
pub struct Operations {
    connection: Connection,
    remember: Duration,
    table: Mutex<Table>,
    running: watch::Sender<usize>,
}

impl Operations {
    /// None yet; on this connection, and with the results kept for so long.
    pub fn new(connection: Connection, remember: Duration) -> Arc<Self> {
        Arc::new(Self {
            connection,
            remember,
            table: Mutex::default(),
            running: watch::Sender::new(0),
        })
    }

    /// The connection on which they are.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The paths of all that are known, the oldest first.
    pub fn paths(&self) -> Vec<OwnedObjectPath> {
        let table = lock(&self.table);
        table
            .operations
            .values()
            .map(|(shared, _)| shared.path.clone())
            .collect()
    }

    /// Whether something is being done with it.
    pub fn is_busy(&self, target: &Target) -> bool {
        lock(&self.table).busy.contains_key(target)
    }

    /// Waits until what is being done with `target` has ended, if something is.
    pub async fn wait_until_free(&self, target: &Target) {
        let mut running = self.running.subscribe();
        while self.is_busy(target) {
            if running.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the end of one.
    ///
    /// # Errors
    /// Its error; [`Error::NotFound`] if it is not known (any more).
    pub async fn wait(&self, path: &OwnedObjectPath) -> Result<()> {
        let shared = lock(&self.table)
            .operations
            .values()
            .find(|(shared, _)| shared.path == *path)
            .map(|(shared, _)| shared.clone())
            .ok_or_else(|| Error::NotFound(format!("there is no operation {path}")))?;
        let mut outcome = shared.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await;
        // The sender is in `shared`, which we hold; and it is there, for that was waited for.
        outcome
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or(Ok(()))
    }

    /// Waits until none runs.
    pub async fn wait_until_idle(&self) {
        let mut running = self.running.subscribe();
        // The sender is ours and lives as long.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Wishes all that run to end, as far as they can be ended.
    pub fn cancel_all(&self) {
        for (shared, _) in lock(&self.table).operations.values() {
            shared.cancel.send_if_modified(|wish| {
                let goes_on = *wish == Wish::GoOn;
                if goes_on {
                    *wish = Wish::End;
                }
                goes_on
            });
        }
    }

    /// Starts one on these targets, of which the first is told as the operation's.
    ///
    /// `work` gets a [`Progress`] to report by. What it leaves behind when it fails or is cancelled it has to remove
    /// itself, before it returns.
    ///
    /// # Errors
    /// [`Error::Busy`] if something is being done with a target, or the user has too many running.
    pub async fn start<F>(
        self: &Arc<Self>,
        caller: &Caller,
        kind: Kind,
        targets: &[Target],
        description: String,
        work: impl FnOnce(Progress) -> F + Send + 'static,
    ) -> Result<OwnedObjectPath>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let shared = self.enter(caller.uid, kind, targets, description)?;
        let path = shared.path.clone();
        let server = self.connection.object_server();
        if let Err(error) = server.at(&path, OperationObject(shared.clone())).await {
            self.leave(&shared);
            lock(&self.table).operations.remove(&shared.id);
            return Err(Error::Failed(format!(
                "making the operation's object: {error}"
            )));
        }
        tracing::info!(
            id = shared.id,
            kind = kind.as_str(),
            target = shared.target,
            uid = caller.uid,
            "operation started"
        );
        let progress = Progress {
            shared: shared.clone(),
            emitter: SignalEmitter::new(&self.connection, path.clone())
                .map_err(Error::failed("making the operation's object"))?
                .into_owned(),
            indent: 0,
        };
        let operations = self.clone();
        let task = tokio::spawn(work(progress.clone()));
        tokio::spawn(async move {
            let outcome = task.await.unwrap_or_else(|error| {
                Err(Error::Failed(format!("the daemon has a fault: {error}")))
            });
            operations.end(&shared, &progress, outcome).await;
        });
        Ok(path)
    }

    fn enter(
        &self,
        uid: u32,
        kind: Kind,
        targets: &[Target],
        description: String,
    ) -> Result<Arc<Shared>> {
        let mut table = lock(&self.table);
        for target in targets {
            if let Some(id) = table.busy.get(target)
                && let Some((other, _)) = table.operations.get(id)
            {
                return Err(Error::Busy(format!(
                    "'{}' is busy: {} (operation {id}). Try again when that has ended, or cancel it.",
                    target.name(),
                    other.description
                )));
            }
        }
        let running = table
            .operations
            .values()
            .filter(|(shared, ended)| ended.is_none() && shared.uid == uid)
            .count();
        if running >= RUNNING_PER_USER {
            return Err(Error::Busy(format!(
                "{running} operations of yours are running, which is as many as may: try again when one has ended"
            )));
        }
        table.last_id += 1;
        let id = table.last_id;
        let shared = Arc::new(Shared {
            id,
            kind,
            description,
            target: targets.first().map_or("", Target::name).to_owned(),
            uid,
            path: OwnedObjectPath::try_from(format!("/org/kde/kapsule/operations/{id}"))
                .map_err(Error::failed("making the operation's path"))?,
            status: Mutex::new(Status::Running),
            cancel: watch::Sender::new(Wish::GoOn),
            outcome: watch::Sender::new(None),
        });
        table.operations.insert(id, (shared.clone(), None));
        for target in targets {
            table.busy.insert(target.clone(), id);
        }
        self.running.send_modify(|running| *running += 1);
        Ok(shared)
    }

    /// Its targets are free, and it counts as ended. Gives the paths of those to forget.
    fn leave(&self, shared: &Shared) -> Vec<OwnedObjectPath> {
        let mut table = lock(&self.table);
        table.busy.retain(|_, id| *id != shared.id);
        if let Some((_, ended)) = table.operations.get_mut(&shared.id) {
            *ended = Some(Instant::now());
        }
        self.running.send_modify(|running| *running -= 1);
        let ended: Vec<u64> = table
            .operations
            .iter()
            .filter(|(_, (_, ended))| ended.is_some())
            .map(|(id, _)| *id)
            .collect();
        let too_many = ended.len().saturating_sub(REMEMBERED);
        ended[..too_many]
            .iter()
            .filter_map(|id| table.operations.remove(id))
            .map(|(shared, _)| shared.path.clone())
            .collect()
    }

    async fn end(self: Arc<Self>, shared: &Arc<Shared>, progress: &Progress, outcome: Result<()>) {
        let status = match &outcome {
            Ok(()) => Status::Completed,
            Err(Error::Cancelled(text)) => Status::Cancelled(text.clone()),
            Err(error) => Status::Failed(error.text().to_owned()),
        };
        match &status {
            Status::Failed(text) => {
                tracing::warn!(
                    id = shared.id,
                    target = shared.target,
                    error = text,
                    "operation failed"
                );
            }
            other => tracing::info!(
                id = shared.id,
                target = shared.target,
                status = other.as_str(),
                "operation ended"
            ),
        }
        *lock(&shared.status) = status.clone();
        let forget = self.leave(shared);
        shared.outcome.send_replace(Some(outcome));
        let server = self.connection.object_server();
        if let Ok(object) = server.interface::<_, OperationObject>(&shared.path).await {
            let object = object.get().await;
            // Who listens is gone if these fail.
            let _ = object.status_changed(&progress.emitter).await;
            if !status.message().is_empty() {
                let _ = object.error_message_changed(&progress.emitter).await;
            }
        }
        let success = status == Status::Completed;
        let _ = OperationObject::completed(&progress.emitter, success, status.message()).await;
        for path in forget {
            let _ = server.remove::<OperationObject, _>(&path).await;
        }
        tokio::time::sleep(self.remember).await;
        let known = lock(&self.table).operations.remove(&shared.id).is_some();
        if known {
            let _ = server.remove::<OperationObject, _>(&shared.path).await;
        }
    }
}

/// By what an operation tells how far it is. Nothing of it fails: who listens may have gone.
#[derive(Clone)]
pub struct Progress {
    shared: Arc<Shared>,
    emitter: SignalEmitter<'static>,
    indent: i32,
}

impl Progress {
    /// The operation's number.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// A line for the person.
    pub async fn message(&self, kind: Line, text: impl AsRef<str>) {
        let _ =
            OperationObject::message(&self.emitter, kind as i32, text.as_ref(), self.indent).await;
    }

    /// The same, for what is part of it.
    #[must_use]
    pub fn indented(&self) -> Self {
        Self {
            indent: self.indent + 1,
            ..self.clone()
        }
    }

    /// A bar; `total` is `None` if it is not known.
    pub async fn bar(&self, name: &str, description: &str, total: Option<i32>) -> Bar {
        let _ = OperationObject::progress_started(
            &self.emitter,
            name,
            description,
            total.unwrap_or(-1),
            self.indent,
        )
        .await;
        self.tell_all(description, if total.is_some() { 0.0 } else { -1.0 }, "")
            .await;
        Bar {
            progress: self.clone(),
            name: name.to_owned(),
            description: description.to_owned(),
            total,
            told: (-1, String::new()),
        }
    }

    /// The manager's signal `OperationProgress`.
    async fn tell_all(&self, stage: &str, progress: f64, message: &str) {
        let id = self.shared.id.to_string();
        let _ = self
            .emitter
            .connection()
            .emit_signal(
                None::<zbus::names::BusName<'_>>,
                crate::manager::PATH,
                crate::manager::INTERFACE,
                "OperationProgress",
                &(id, stage, progress, message),
            )
            .await;
    }

    /// Whether the person has cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.shared.cancel.borrow() == Wish::End
    }

    /// Runs `work` until its end or until the person cancels.
    ///
    /// # Errors
    /// That of `work`; [`Error::Cancelled`], after which `work` is not run any further.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut wish = self.shared.cancel.subscribe();
        tokio::select! {
            biased;
            Ok(_) = wish.wait_for(|wish| *wish == Wish::End) => Err(self.cancellation()),
            result = work => result,
        }
    }

    /// From here on it cannot be cancelled.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if it was already.
    pub fn commit(&self) -> Result<()> {
        let committed = self.shared.cancel.send_if_modified(|wish| {
            let goes_on = *wish != Wish::End;
            if goes_on {
                *wish = Wish::Committed;
            }
            goes_on
        });
        if committed {
            Ok(())
        } else {
            Err(self.cancellation())
        }
    }

    /// Waits until the person cancels.
    pub async fn cancelled(&self) {
        let mut wish = self.shared.cancel.subscribe();
        // The sender is in `shared`, and lives as long.
        let _ = wish.wait_for(|wish| *wish == Wish::End).await;
    }

    /// The error of one that was cancelled.
    pub fn cancellation(&self) -> Error {
        Error::Cancelled(format!("{}: cancelled", self.shared.description))
    }
}

/// A bar of an operation.
pub struct Bar {
    progress: Progress,
    name: String,
    description: String,
    total: Option<i32>,
    told: (i32, String),
}

impl Bar {
    /// How far it is, and how much a second that is (0 if not known). Told only when it is another.
    pub async fn update(&mut self, current: i32, rate: f64, text: &str) {
        let emitter = &self.progress.emitter;
        if self.told.0 != current {
            let _ = OperationObject::progress_update(emitter, &self.name, current, rate).await;
        }
        if self.told.1 != text {
            let _ = OperationObject::progress_text_update(emitter, &self.name, text).await;
        }
        if self.told.0 != current || self.told.1 != text {
            let part = match self.total {
                Some(total) if total > 0 => f64::from(current) / f64::from(total),
                _ => -1.0,
            };
            self.progress.tell_all(&self.description, part, text).await;
            self.told = (current, text.to_owned());
        }
    }

    /// It has come to its end, or has failed.
    pub async fn complete(self, success: bool, message: &str) {
        let _ = OperationObject::progress_completed(
            &self.progress.emitter,
            &self.name,
            success,
            message,
        )
        .await;
    }
}
