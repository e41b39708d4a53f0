//! How a broker is: `sidebus-broker status`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One client of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its unique name on the VM bus; none before its Hello.
    pub name: Option<String>,
    /// Its user in the guest, as the agent says.
    pub uid: u32,
    /// Its process in the guest, as the agent says.
    pub pid: Option<u32>,
    /// Its application, as the agent says.
    pub app_id: Option<String>,
    /// Messages from it.
    pub messages_in: u64,
    /// Messages to it.
    pub messages_out: u64,
    /// Streams of its own that are open.
    pub streams: usize,
}

/// The agent in the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// The guest's host name, as it says.
    pub host_name: String,
    /// "answers"; "silent" if a sign of life is overdue (the guest is paused, or busy); "away" if its control
    /// connection is gone.
    pub state: String,
    /// Seconds since it last answered.
    pub last_answer_seconds: u64,
}

/// One request or session that is open on the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestStatus {
    /// The unique name of the client on the VM bus.
    pub client: String,
    /// "request" or "session".
    pub kind: String,
    /// The interface and method that opened it.
    pub method: String,
    /// Its object path, as the client sees it.
    pub handle: String,
}

/// One document that is shared with the virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DocumentStatus {
    /// Its id.
    pub id: String,
    /// The file on the host.
    pub path: String,
    /// Whether the virtual machine may write it.
    pub writable: bool,
}

/// One process that the broker has started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Which.
    pub name: String,
    /// Its process; none while it does not run.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
}

/// What the portals know.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortalsStatus {
    /// Requests and sessions that are open on the host.
    pub requests: Vec<RequestStatus>,
    /// Documents that are shared.
    pub documents: Vec<DocumentStatus>,
}

/// The whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The name of the virtual machine.
    pub vm: String,
    /// The version of the broker.
    pub version: String,
    /// The broker's process.
    pub pid: u32,
    /// The agent; none if none has ever connected.
    pub agent: Option<AgentStatus>,
    /// The guest's clients.
    pub clients: Vec<ClientStatus>,
    /// Requests and documents.
    #[serde(flatten)]
    pub portals: PortalsStatus,
    /// Processes that belong to the virtual machine.
    pub daemons: Vec<DaemonStatus>,
}

impl fmt::Display for Status {
    /// For a person: a few lines for the machine, one for each client, request, document and daemon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: broker {} (pid {})", self.vm, self.version, self.pid)?;
        match &self.agent {
            None => write!(f, "\n  no agent has connected yet")?,
            Some(agent) => write!(
                f,
                "\n  agent {} on {}: {}, {} s since its last answer",
                agent.version, agent.host_name, agent.state, agent.last_answer_seconds
            )?,
        }
        write!(f, "\n  clients: {}", self.clients.len())?;
        for client in &self.clients {
            let name = client.name.as_deref().unwrap_or("(no name yet)");
            let app_id = client.app_id.as_deref().unwrap_or("-");
            write!(f, "\n    {name:<10} {app_id}, uid {}", client.uid)?;
            if let Some(pid) = client.pid {
                write!(f, ", pid {pid}")?;
            }
            write!(
                f,
                ", {} messages from it, {} to it, {} streams",
                client.messages_in, client.messages_out, client.streams
            )?;
        }
        write!(
            f,
            "\n  requests and sessions: {}",
            self.portals.requests.len()
        )?;
        for request in &self.portals.requests {
            write!(
                f,
                "\n    {:<10} {} {} at {}",
                request.client, request.kind, request.method, request.handle
            )?;
        }
        write!(f, "\n  documents: {}", self.portals.documents.len())?;
        for document in &self.portals.documents {
            let access = if document.writable {
                "read, write"
            } else {
                "read"
            };
            write!(f, "\n    {:<10} {} ({access})", document.id, document.path)?;
        }
        for daemon in &self.daemons {
            write!(f, "\n  {}: ", daemon.name)?;
            match daemon.pid {
                Some(pid) => write!(f, "pid {pid}")?,
                None => write!(f, "not running")?,
            }
            if daemon.restarts > 0 {
                write!(f, ", started again {} times", daemon.restarts)?;
            }
        }
        Ok(())
    }
}
