//! One socket of the engine: how far its current message has been read, and what waits to be written.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use dbus_wire::sasl;
use rustix::event::epoll::EventFlags;

use super::queue::Queue;
use crate::outbox::Fds;
use crate::port::Port;
use crate::session::Credentials;

/// Who has connected and is to authenticate.
pub(super) struct Stranger {
    pub sasl: sasl::Server,
    /// As the kernel says, or as [`Admission`](super::Admission) does.
    pub credentials: Credentials,
    /// They are what the program that runs the router says.
    pub claimed: bool,
    pub trusted: bool,
}

/// How far a connection is.
pub(super) enum Stage {
    /// A program has connected to our socket and authenticates.
    Authenticating(Box<Stranger>),
    /// We have connected to a bus and wait for its answers.
    Joining(Box<sasl::Client>),
    /// Messages.
    Open,
}

/// What is done with the rest of a message whose beginning was seen.
pub(super) enum Rest {
    /// Passed on to `to` as it comes.
    Passing { to: Port, left: usize },
    /// Collected, and then handed over.
    Collecting {
        buffer: Vec<u8>,
        length: usize,
        fds: Fds,
        then: Then,
    },
    /// Forgotten.
    Skipping { left: usize },
}

/// What becomes of a message that was collected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The router takes it.
    Take,
    /// It is passed on as it is.
    Pass(Port),
}

/// See the [module documentation](self).
pub(super) struct Connection {
    pub socket: OwnedFd,
    /// None before a client has authenticated, and when the router has forgotten the connection.
    pub port: Option<Port>,
    pub stage: Stage,
    /// Bytes of messages that were not whole.
    pub partial: Vec<u8>,
    /// So many bytes in `partial`, or so many descriptors, have to be there before it makes sense to look at a
    /// long one again.
    pub needed: (usize, usize),
    /// Descriptors that have arrived and belong to no message yet.
    pub fds: VecDeque<OwnedFd>,
    pub rest: Option<Rest>,
    pub queue: Queue,
    /// What must come after the message that another connection is writing here.
    pub held: Queue,
    /// Another connection is in the middle of writing a message here.
    pub receiving: bool,
    /// What epoll watches for us.
    pub interest: EventFlags,
    /// The router wants to see the next message later.
    pub waiting: bool,
    /// The next message was offered to the router before.
    pub seen: bool,
    /// Where its messages go there is no room.
    pub paused: bool,
    /// The socket takes no more at the moment.
    pub blocked: bool,
    /// Only until everything is written.
    pub closing: bool,
    /// Nobody reads what we write.
    pub write_dead: bool,
    /// Something was queued since the last attempt to write.
    pub dirty: bool,
    /// Since when descriptors cannot be sent (ETOOMANYREFS).
    pub fds_refused: Option<Instant>,
}

impl Connection {
    pub fn new(socket: OwnedFd, port: Option<Port>, stage: Stage) -> Connection {
        Connection {
            socket,
            port,
            stage,
            partial: Vec::new(),
            needed: (0, 0),
            fds: VecDeque::new(),
            rest: None,
            queue: Queue::default(),
            held: Queue::default(),
            receiving: false,
            interest: EventFlags::empty(),
            waiting: false,
            seen: false,
            paused: false,
            blocked: false,
            closing: false,
            write_dead: false,
            dirty: false,
            fds_refused: None,
        }
    }

    /// What epoll should watch.
    pub fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        if !(self.waiting || self.paused || self.closing) {
            wanted |= EventFlags::IN;
        }
        if self.blocked && self.fds_refused.is_none() {
            wanted |= EventFlags::OUT;
        }
        wanted
    }
}
