//! How a router is: who is connected, which names live where, and what it has done.

use serde::{Deserialize, Serialize};

use super::Hub;
use crate::outbox::Outbox;
use crate::port::{Bus, Port};
use crate::session::Phase;

/// What a router has done since it started.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counters {
    /// Clients that have authenticated.
    pub connections: u64,
    /// Messages passed to the host.
    pub to_host: u64,
    /// Messages passed from the host.
    pub from_host: u64,
    /// Messages between programs inside: deliveries on the local bus, or messages passed to a remote one.
    pub inside: u64,
    /// Calls answered with an error of ours.
    pub errors: u64,
    /// Messages that the policy refused.
    pub refused: u64,
    /// Services started.
    pub activations: u64,
}

/// Where a name lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamePlace {
    /// Inside.
    Inside,
    /// On the host.
    Host,
}

/// One well-known name of the view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// The unique name of its owner, as clients see it.
    pub owner: String,
    /// Where it lives.
    pub place: NamePlace,
    /// The host has an owner for it, too, that clients would see if nobody inside had the name.
    pub hides_host: bool,
}

/// One client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its unique name; none before Hello has been answered.
    pub name: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: u32,
    /// Well-known names that it owns or waits for, on the local bus.
    pub names: Vec<String>,
    /// Its match rules.
    pub rules: usize,
    /// Bytes that wait to be read by it.
    pub queued_bytes: usize,
    /// It only listens (BecomeMonitor).
    pub monitor: bool,
}

/// The whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The GUID of the socket.
    pub guid: String,
    /// "connected", "lost", or "none".
    pub host_bus: String,
    /// "local", or for a remote one "connected" or "lost".
    pub container_bus: String,
    /// Who is connected.
    pub clients: Vec<ClientStatus>,
    /// Well-known names that clients see.
    pub names: Vec<NameStatus>,
    /// Names that can be started inside.
    pub activatable: Vec<String>,
    /// What was done.
    pub counters: Counters,
}

impl Status {
    /// The status as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers can be written as JSON")
    }

    /// Reads what [`Status::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Status, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl Hub {
    /// How the router is.
    pub fn status(&self, out: &dyn Outbox) -> Status {
        let bus = |ready: bool| if ready { "connected" } else { "lost" }.to_owned();
        let clients = self
            .session_ids()
            .into_iter()
            .filter_map(|id| {
                let session = self.session(id)?;
                Some(ClientStatus {
                    name: session.name.map(|name| name.to_string()),
                    pid: session.credentials.pid,
                    uid: session.credentials.uid,
                    names: session.claims.iter().map(|name| name.to_string()).collect(),
                    rules: session.rules.len(),
                    queued_bytes: out.queued(Port::Client(id)).bytes,
                    monitor: session.phase == Phase::Monitor,
                })
            })
            .collect();
        Status {
            guid: self.config.guid.to_string(),
            host_bus: self
                .host
                .as_ref()
                .map_or("none".to_owned(), |host| bus(host.is_ready())),
            container_bus: self
                .remote
                .as_ref()
                .map_or("local".to_owned(), |remote| bus(remote.control.is_ready())),
            clients,
            names: self.name_status(),
            activatable: self
                .activation
                .set
                .services
                .keys()
                .map(|it| it.to_string())
                .collect(),
            counters: self.counters,
        }
    }

    fn name_status(&self) -> Vec<NameStatus> {
        let mut names: Vec<NameStatus> = Vec::new();
        let on_host = |name: &str| self.host.as_ref().and_then(|host| host.view.owner(name));
        let inside: Vec<String> = match &self.remote {
            None => self
                .names
                .iter()
                .map(|(name, _)| name.to_string())
                .collect(),
            Some(remote) => remote
                .control
                .view
                .names()
                .map(|(name, _)| name.to_owned())
                .collect(),
        };
        for name in inside {
            let owner = self
                .inside_owner(&name)
                .map(|owner| owner.to_string())
                .unwrap_or_default();
            let hides_host = on_host(&name).is_some() && !self.host_name_is_hidden(&name);
            names.push(NameStatus {
                name,
                owner,
                place: NamePlace::Inside,
                hides_host,
            });
        }
        if let Some(host) = &self.host {
            for (name, owner) in host.view.names() {
                if self.host_name_is_visible(name) {
                    names.push(NameStatus {
                        name: name.to_owned(),
                        owner: owner.to_string(),
                        place: NamePlace::Host,
                        hides_host: false,
                    });
                }
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        names
    }

    /// Tables in which something of a client is left; none when nobody is connected. For tests.
    #[doc(hidden)]
    pub fn leftovers(&self) -> Vec<&'static str> {
        let remote_is_empty = self.remote.as_ref().is_none_or(super::Remote::is_idle);
        [
            ("clients", self.clients.is_empty()),
            ("unregistered clients", self.unregistered == 0),
            ("names", self.names.iter().next().is_none()),
            ("match rules", self.matches.is_empty()),
            ("replies", self.replies.is_empty()),
            ("activations", self.activation.is_idle()),
            ("joint calls", self.joints.is_empty()),
            ("monitors", self.monitors.is_empty()),
            ("Hellos at the container bus", remote_is_empty),
        ]
        .into_iter()
        .filter_map(|(table, is_empty)| (!is_empty).then_some(table))
        .collect()
    }

    /// Whether a bus has answered the Hello of its control link, and is telling its state.
    pub(super) fn is_listing(&self, bus: Bus) -> bool {
        let control = match bus {
            Bus::Host => self.host.as_ref(),
            Bus::Container => self.remote.as_ref().map(|remote| &remote.control),
        };
        control.is_some_and(super::Control::is_listing)
    }

    /// Whether a bus behind the router is connected.
    pub fn is_connected(&self, bus: Bus) -> bool {
        match bus {
            Bus::Host => self.host.as_ref().is_some_and(super::Control::is_ready),
            Bus::Container => self
                .remote
                .as_ref()
                .is_some_and(|remote| remote.control.is_ready()),
        }
    }
}
