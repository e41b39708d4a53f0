//! What is connected to the router: clients, their links, and the control links.

use std::fmt;

/// One of the two buses behind the router.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Bus {
    /// The bus outside.
    Host,
    /// The bus inside, where it is not our own (a *remote* container bus).
    Container,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bus::Host => "host bus",
            Bus::Container => "container bus",
        })
    }
}

/// One client of the router, for as long as it is connected.
///
/// An index is used again; the generation tells a client from the one that had its place before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionId {
    /// The place of this session in a table, for engines that keep one beside the router's.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// One byte stream that the router reads from and writes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Port {
    /// A program that is connected to our socket.
    Client(SessionId),
    /// The connection to a bus that was made for one client.
    Link(Bus, SessionId),
    /// The router's own connection to a bus, from which the routing state comes.
    Control(Bus),
}

impl Port {
    /// The session that this port belongs to; none for a control link.
    pub fn session(self) -> Option<SessionId> {
        match self {
            Port::Client(id) | Port::Link(_, id) => Some(id),
            Port::Control(_) => None,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Client(id) => write!(f, "client {id}"),
            Port::Link(bus, id) => write!(f, "{bus} link of client {id}"),
            Port::Control(bus) => write!(f, "{bus} control link"),
        }
    }
}
