//! Who is on the VM bus: unique names, and the programs in the guest that have them.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// Names of clients that have gone and are remembered, so that a late message of theirs is not taken for one of
/// somebody else.
const DEPARTED: usize = 4096;
/// How many departures a slow listener may be behind before it is told that it missed some.
const DEPARTURES: usize = 1024;

/// The number of a client, never used twice by a broker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientId(pub u64);

/// What the agent says of a program in the guest. Nothing of it is proven: a guest can say what it likes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claims {
    /// Its user in the guest.
    pub uid: u32,
    /// Its process in the guest.
    pub pid: Option<u32>,
    /// The application that it belongs to (`org.kde.okular`), a well-formed name with at most 255 bytes.
    pub app_id: Option<String>,
}

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In the guest, behind the agent.
    Guest,
    /// On the host, at the socket of `--debug-access`.
    Debug,
}

/// A program on the VM bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its number.
    pub id: ClientId,
    /// Its unique name on the VM bus.
    pub name: String,
    /// Where it is.
    pub origin: Origin,
    /// What is said of it.
    pub claims: Claims,
    /// Where it sees the document mount: a document's file is at `documents/ID/NAME` for it.
    pub documents: PathBuf,
}

/// The clients of the VM bus. Cheap to clone: all clones are the same table.
///
/// A guest's client is in it before the bus answers its Hello, so whoever gets a message of one finds it here.
#[derive(Clone, Debug)]
pub struct Clients {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    departures: broadcast::Sender<Arc<Client>>,
    /// What clients are that came over the socket for debugging: none if there is no such socket.
    debug_documents: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<String, Arc<Client>>,
    departed: VecDeque<String>,
    last: u64,
}

impl Clients {
    /// Nobody yet. `debug_documents` is where clients of the debugging socket see the document mount (the host's own
    /// mount), none if there is no such socket.
    pub fn new(debug_documents: Option<PathBuf>) -> Clients {
        let (departures, _) = broadcast::channel(DEPARTURES);
        Clients {
            shared: Arc::new(Shared {
                table: Mutex::default(),
                departures,
                debug_documents,
            }),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds the lock, and a table is whole between any two statements.
        self.shared
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The client with this unique name. A name that no guest's client has, or has had lately, is one of the socket
    /// for debugging, if there is one. None: do not serve it.
    ///
    /// ```
    /// use sidebus::broker::clients::{Claims, Clients, Origin};
    ///
    /// let clients = Clients::new(Some("/run/user/1000/doc".into()));
    /// let guest = clients.add(":1.5", Claims::default(), "/run/user/1000/doc".into());
    /// assert_eq!(clients.get(":1.5").unwrap().origin, Origin::Guest);
    /// assert_eq!(clients.get(":1.6").unwrap().origin, Origin::Debug);
    /// clients.remove(&guest);
    /// assert!(clients.get(":1.5").is_none());
    /// ```
    pub fn get(&self, name: &str) -> Option<Arc<Client>> {
        let mut table = self.table();
        if let Some(client) = table.by_name.get(name) {
            return Some(client.clone());
        }
        let documents = self.shared.debug_documents.clone()?;
        if table.departed.iter().any(|departed| departed == name) {
            return None;
        }
        let client = Client {
            id: table.next_id(),
            name: name.to_owned(),
            origin: Origin::Debug,
            claims: Claims::default(),
            documents,
        };
        Some(Arc::new(client))
    }

    /// A guest's client has got its name.
    pub fn add(&self, name: &str, claims: Claims, documents: PathBuf) -> Arc<Client> {
        let mut table = self.table();
        let client = Arc::new(Client {
            id: table.next_id(),
            name: name.to_owned(),
            origin: Origin::Guest,
            claims,
            documents,
        });
        table.by_name.insert(name.to_owned(), client.clone());
        client
    }

    /// A guest's client has gone; who listens is told.
    pub fn remove(&self, client: &Arc<Client>) {
        let mut table = self.table();
        if table.by_name.remove(&client.name).is_none() {
            return;
        }
        if table.departed.len() == DEPARTED {
            table.departed.pop_front();
        }
        table.departed.push_back(client.name.clone());
        drop(table);
        // Nobody may be listening.
        let _ = self.shared.departures.send(client.clone());
    }

    /// Tells of clients of guests that go, from now on. Those of the debugging socket are told by the bus only
    /// (NameOwnerChanged).
    pub fn departures(&self) -> broadcast::Receiver<Arc<Client>> {
        self.shared.departures.subscribe()
    }

    /// The guest's clients, by their numbers.
    pub fn guests(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self.table().by_name.values().cloned().collect();
        clients.sort_by_key(|client| client.id);
        clients
    }

    /// Where clients of the debugging socket see the document mount.
    pub fn debug_documents(&self) -> Option<&Path> {
        self.shared.debug_documents.as_deref()
    }
}

impl Table {
    fn next_id(&mut self) -> ClientId {
        self.last += 1;
        ClientId(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_debugging_socket_an_unknown_name_is_nobody() {
        let clients = Clients::new(None);
        assert!(clients.get(":1.1").is_none());
    }

    #[test]
    fn who_listens_is_told_once_who_has_gone() {
        let clients = Clients::new(None);
        let client = clients.add(":1.1", Claims::default(), PathBuf::from("/doc"));
        let mut departures = clients.departures();
        clients.remove(&client);
        clients.remove(&client);
        assert_eq!(departures.try_recv().unwrap().name, ":1.1");
        assert!(departures.try_recv().is_err());
        assert!(clients.guests().is_empty());
    }
}
