//! The desktop's portals on the virtual machine's bus.
//!
//! ```text
//!  guest's client ──VM bus──▶ Portals ──▶ one front end per client ──▶ a link of its own ──▶ the host's portals
//!                               ▲                                                              (session bus)
//!                               └── signals for everybody ◀── one connection that watches ◀────┘
//!                                        files: the machine's own document portal (private bus)
//! ```
//!
//! [`Portals::start`] takes the names of the portals on the VM bus and serves them. [`table`] describes what is
//! carried; `guest` follows it for one client; `translate` is what happens to arguments and results; [`Documents`]
//! is the machine's document portal. On the host it is xdg-desktop-portal's own front end that is called, so that its
//! choice of a backend per desktop holds, and a person sees the dialogs that they know.

mod activation_tokens;
pub mod applications;
mod decisions;
mod descriptors;
mod documents;
mod documents_portal;
mod game_mode;
mod guest;
mod handles;
mod host;
mod introspection;
mod link;
mod notifications;
mod refusal;
mod spool;
pub mod table;
mod translate;
mod uri;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, Variant};

pub use self::documents::{Documents, DocumentsConfig, Info};
pub use self::refusal::Refusal;

use self::activation_tokens::ActivationTokens;
use self::applications::DesktopFiles;
use self::decisions::Decisions;
use self::game_mode::Games;
use self::guest::Call;
use self::host::{Everyone, Host, add_match, is_name_change};
use self::notifications::Notifications;
use self::spool::Spool;
use self::table::{DESKTOP_NAME, DESKTOP_PATH, DOCUMENTS_NAME, Reach};
use crate::broker::clients::Clients;
use crate::broker::status::{PortalsStatus, RequestStatus};
use crate::policy_file::Policy;

/// Calls that are read at a time although they are large.
const LARGE_CALLS: usize = 2;
/// The longest arguments of a call (bytes). Values of unknown type take many times as much memory once they are read.
const LONGEST: usize = 1 << 20;
/// Room for all calls of the virtual machine that have not been answered (KiB).
const ROOM: usize = 64 * 1024;
/// What a file descriptor takes of it (KiB): there are few of them.
const ROOM_OF_DESCRIPTOR: u32 = 512;

/// What the portals are made of.
#[derive(Debug)]
pub struct PortalsConfig {
    /// A trusted client of the VM bus, which nobody else uses.
    pub vm: Connection,
    /// The address of the host's session bus.
    pub host: String,
    /// The machine's documents.
    pub documents: Arc<Documents>,
    /// Who is on the VM bus.
    pub clients: Clients,
    /// What is allowed.
    pub policy: Arc<Policy>,
    /// The virtual machine's name.
    pub vm_name: String,
    /// Where files are kept whose content came without a file; made when it is needed.
    pub spool: PathBuf,
    /// Where the host looks for desktop files (`$XDG_DATA_HOME/applications`); none: none are written.
    pub applications: Option<PathBuf>,
}

/// Why there are no portals.
#[derive(Debug, thiserror::Error)]
pub enum PortalsError {
    /// The names of the portals on the VM bus.
    #[error("cannot have {name} on the virtual machine's bus: {source}")]
    Name {
        /// Which.
        name: &'static str,
        /// Why not.
        source: zbus::Error,
    },
    /// The VM bus.
    #[error("the virtual machine's bus: {0}")]
    Bus(#[from] zbus::Error),
    /// The log of decisions.
    #[error("{0}")]
    Log(String),
}

/// What all front ends share.
#[derive(Debug)]
struct Shared {
    vm: Connection,
    vm_name: String,
    host: Arc<Host>,
    documents: Arc<Documents>,
    policy: Arc<Policy>,
    spool: Spool,
    desktop_files: Option<DesktopFiles>,
    decisions: Arc<Decisions>,
    tokens: Mutex<ActivationTokens>,
    requests: Arc<Semaphore>,
    large_calls: Semaphore,
    room: Arc<Semaphore>,
    notifications: Notifications,
    games: Games,
    open: Mutex<BTreeMap<String, RequestStatus>>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeMap<String, RequestStatus>> {
        // Nothing panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, ActivationTokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The portals of one virtual machine. They end with this, without closing what is open on the host one by one: use
/// [`Portals::stop`] for that.
#[derive(Debug)]
pub struct Portals {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    watching: JoinHandle<()>,
}

impl Portals {
    /// Takes the portals' names on the VM bus, and serves them from then on.
    ///
    /// # Errors
    /// Somebody else has one of the names; the log of decisions cannot be written. That the host cannot be reached is
    /// none: it may come.
    pub async fn start(config: PortalsConfig) -> Result<Portals, PortalsError> {
        let PortalsConfig {
            vm,
            host,
            documents,
            clients,
            policy,
            vm_name,
            spool,
            applications,
        } = config;
        let decisions =
            Decisions::open(&vm_name, policy.log.as_ref()).map_err(PortalsError::Log)?;
        let relay = Relay {
            vm: vm.clone(),
            policy: policy.clone(),
        };
        let calls = MessageStream::from(&vm);
        let (host, watching) = Host::watch(host, relay);
        let limits = &policy.limits;
        let shared = Arc::new(Shared {
            spool: Spool::new(spool, limits.spool_bytes),
            desktop_files: applications
                .filter(|_| policy.desktop_files)
                .map(|dir| DesktopFiles::new(dir, &vm_name)),
            decisions: Arc::new(decisions),
            tokens: Mutex::default(),
            requests: Arc::new(Semaphore::new(limits.requests.min(Semaphore::MAX_PERMITS))),
            large_calls: Semaphore::new(LARGE_CALLS),
            room: Arc::new(Semaphore::new(ROOM)),
            notifications: Notifications::new(limits.notifications),
            games: Games::default(),
            open: Mutex::default(),
            vm,
            vm_name,
            host,
            documents,
            policy,
        });
        // Before the guest can have made up as many as there may be.
        if let Some(files) = &shared.desktop_files
            && let Err(error) =
                files.provide(&applications::application_id(&shared.vm_name, None), None)
        {
            tracing::warn!(%error, "desktop files for the guest's applications cannot be written");
        }
        add_match(
            &shared.vm,
            "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',\
             member='NameOwnerChanged'",
        )
        .await?;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(shared.clone(), clients, calls, stopped));
        for name in [DESKTOP_NAME, DOCUMENTS_NAME] {
            if let Err(source) = shared.vm.request_name(name).await {
                serving.abort();
                watching.abort();
                return Err(PortalsError::Name { name, source });
            }
        }
        Ok(Portals {
            shared,
            stop,
            serving: Some(serving),
            watching,
        })
    }

    /// What is open on the host, and which documents are shared.
    pub async fn status(&self) -> PortalsStatus {
        let requests = self.shared.open().values().cloned().collect();
        // A document portal that does not answer has no documents to show.
        let documents = self.shared.documents.list().await.unwrap_or_default();
        PortalsStatus {
            requests,
            documents,
        }
    }

    /// Ends: what is open on the host is closed.
    pub async fn stop(mut self) {
        // Nobody listens if it has ended.
        let _ = self.stop.send(true);
        if let Some(serving) = self.serving.take()
            && let Err(error) = serving.await
            && error.is_panic()
        {
            tracing::error!("the portals have failed");
        }
    }
}

impl Drop for Portals {
    fn drop(&mut self) {
        self.watching.abort();
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// Hands each call to the front end of its client.
async fn serve(
    shared: Arc<Shared>,
    clients: Clients,
    mut messages: MessageStream,
    mut stopped: watch::Receiver<bool>,
) {
    let mut guests: HashMap<String, mpsc::Sender<Call>> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let message = tokio::select! {
            _ = stopped.changed() => break,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the front end of a client has failed");
                }
                continue;
            }
            message = messages.next() => match message {
                Some(Ok(message)) => message,
                // The VM bus has ended.
                Some(Err(_)) | None => break,
            },
        };
        match message.message_type() {
            Type::MethodCall => {
                dispatch(&shared, &clients, &mut guests, &mut tasks, message).await;
            }
            Type::Signal if is_name_change(&message) => {
                if let Some(name) = departed(&message) {
                    // The front end ends with its calls.
                    guests.remove(&name);
                }
            }
            _ => {}
        }
    }
    guests.clear();
    while tasks.join_next().await.is_some() {}
}

/// The unique name that nobody has any more, by this NameOwnerChanged.
fn departed(message: &Message) -> Option<String> {
    let arguments = values::arguments(message).ok()?;
    let text = |index: usize| arguments.get(index).and_then(values::text);
    let (name, new) = (text(0)?, text(2)?);
    (name.starts_with(':') && new.is_empty()).then(|| name.to_owned())
}

async fn dispatch(
    shared: &Arc<Shared>,
    clients: &Clients,
    guests: &mut HashMap<String, mpsc::Sender<Call>>,
    tasks: &mut JoinSet<()>,
    message: Message,
) {
    let Some(name) = message.header().sender().map(ToString::to_string) else {
        return;
    };
    if !guests.contains_key(&name) {
        // One that has gone meanwhile, or that nobody knows: there is nobody to answer to.
        let Some(client) = clients.get(&name) else {
            return;
        };
        let most = shared.policy.limits.calls_per_client.max(1);
        let (sender, calls) = mpsc::channel(most);
        tasks.spawn(guest::serve(shared.clone(), client, calls));
        guests.insert(name.clone(), sender);
    }
    let Some(sender) = guests.get(&name) else {
        return;
    };
    let (refused, why) = match room(shared, &message) {
        Err(why) => (message, why),
        Ok(room) => match sender.try_send(Call::new(message, room)) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(call)) => {
                let why = "too many calls of this client wait to be looked at (limits.calls_per_client in the \
                           broker's configuration)";
                (call.message, why.to_owned())
            }
            // Its front end has failed; the next call gets a new one.
            Err(mpsc::error::TrySendError::Closed(call)) => {
                guests.remove(&name);
                (
                    call.message,
                    "the front end of this client has failed".to_owned(),
                )
            }
        },
    };
    let header = refused.header();
    let answer = Message::error(&header, "org.freedesktop.DBus.Error.LimitsExceeded")
        .build(&(why.as_str(),));
    if let Ok(answer) = answer {
        // A bus that has ended is noticed by who reads from it.
        let _ = shared.vm.send(&answer).await;
    }
}

/// Room for a call until it is answered, or why there is none.
fn room(shared: &Shared, message: &Message) -> Result<OwnedSemaphorePermit, String> {
    let length = message.body().len();
    if length > LONGEST {
        return Err(format!(
            "the arguments have {length} bytes, and no more than {LONGEST} cross"
        ));
    }
    let descriptors = message.header().unix_fds().unwrap_or(0);
    let bytes = u32::try_from(length / 1024)
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    let all = descriptors
        .saturating_mul(ROOM_OF_DESCRIPTOR)
        .saturating_add(bytes);
    shared.room.clone().try_acquire_many_owned(all).map_err(|_| {
        "too many calls of this virtual machine wait to be answered, or too many file descriptors with them".to_owned()
    })
}

/// Passes on to all clients what the host's portals tell to all.
#[derive(Debug)]
struct Relay {
    vm: Connection,
    policy: Arc<Policy>,
}

impl Everyone for Relay {
    async fn signal(&mut self, message: Message) {
        if let Some(signal) = self.translated(&message)
            && let Err(error) = self.vm.send(&signal).await
        {
            tracing::debug!(%error, "a signal cannot be sent to the guest");
        }
    }
}

impl Relay {
    /// The signal for the guest, if it is one that crosses.
    fn translated(&self, message: &Message) -> Option<Message> {
        let header = message.header();
        let (interface, member) = (header.interface()?.as_str(), header.member()?.as_str());
        if header.path()?.as_str() != DESKTOP_PATH {
            return None;
        }
        let mut arguments = values::arguments(message).ok()?;
        if arguments.iter().any(|value| values::has_descriptor(value)) {
            return None;
        }
        if (interface, member) == ("org.freedesktop.DBus.Properties", "PropertiesChanged") {
            let changed = table::interface(arguments.first().and_then(values::text)?)?;
            if !self.policy.allows_portal(changed.name) {
                return None;
            }
            let known = |name: &str| changed.property(name).is_some();
            let entries = values::entries(values::owned(arguments.get(1)?).ok()?).ok()?;
            let kept = entries.into_iter().filter(|(name, _)| known(name));
            let invalidated = values::texts(arguments.get(2)?)?;
            let invalidated: Vec<String> =
                invalidated.into_iter().filter(|name| known(name)).collect();
            arguments = vec![
                Variant::from(changed.name),
                values::dictionary(kept),
                Variant::from(invalidated),
            ];
        } else {
            let described = table::interface(interface)?;
            let signal = described.signal(member)?;
            if signal.reach != Reach::Everyone || !self.policy.allows_portal(described.name) {
                return None;
            }
            let expected: String = signal.args.iter().map(|arg| arg.signature).collect();
            let found: String = arguments.iter().map(values::signature).collect();
            let shown = described.short() != "Settings"
                || arguments
                    .first()
                    .and_then(values::text)
                    .is_some_and(|namespace| self.policy.allows_setting(namespace));
            if expected != found || !shown {
                return None;
            }
        }
        values::build(Message::signal(DESKTOP_PATH, interface, member), arguments).ok()
    }
}
