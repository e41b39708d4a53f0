//! What the router asks of whatever drives it: an engine with sockets, or a simulation.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::decision::Decision;
use crate::local_bus::{ActivationId, Launch};
use crate::port::{Port, SessionId};

/// The file descriptors that travel with one message; closed when the last holder lets go.
#[derive(Clone, Default, Debug)]
pub struct Fds(Option<Arc<[OwnedFd]>>);

impl Fds {
    /// No file descriptors.
    pub const NONE: Fds = Fds(None);

    /// Takes `fds` in the order in which the message counts them.
    pub fn new(fds: Vec<OwnedFd>) -> Fds {
        if fds.is_empty() {
            Fds(None)
        } else {
            Fds(Some(fds.into()))
        }
    }

    /// The descriptors, in the order of the message.
    pub fn as_slice(&self) -> &[OwnedFd] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// A message's body on its way out.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Bytes that are valid during the call only.
    Borrowed(&'a [u8]),
    /// A whole message that was collected in a buffer of its own, of which the body starts at the offset
    /// (bytes): a receiver's queue may hold on to it without a copy.
    Shared(&'a Arc<Vec<u8>>, usize),
}

impl<'a> Payload<'a> {
    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        match *self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Shared(whole, offset) => &whole[offset..],
        }
    }
}

/// One whole message that is to be written to a port.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The header, padded to 8 bytes.
    pub head: &'a [u8],
    /// The body.
    pub body: Payload<'a>,
    /// The descriptors, sent with the first byte.
    pub fds: &'a Fds,
    /// Who pays for the memory while the message waits in the port's queue.
    pub charge: Option<SessionId>,
}

impl<'a> Outgoing<'a> {
    /// A message of the router's own, already in one piece.
    pub fn whole(bytes: &'a [u8]) -> Outgoing<'a> {
        Outgoing {
            head: bytes,
            body: Payload::Borrowed(&[]),
            fds: &Fds::NONE,
            charge: None,
        }
    }

    /// Length in bytes, header and body.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.bytes().len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What waits somewhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Load {
    /// Bytes.
    pub bytes: usize,
    /// File descriptors.
    pub fds: usize,
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// What is queued is written first.
    Flushed,
    /// At once; what is queued is lost.
    Abrupt,
}

/// Timers of the protocol. It reads no clock: it asks for a timer and is told when it ran out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// A service that was started has not taken its name yet.
    Activation(ActivationId),
    /// A bus was lost; try again.
    Reconnect(crate::port::Bus),
}

/// The effects of the protocol. Calls are effective in the order in which they are made.
///
/// The router never calls back into itself from here: an implementation only notes what it is told, or
/// writes to sockets.
pub trait Outbox {
    /// Writes one message to `to`, after everything that was sent there before.
    fn send(&mut self, to: Port, message: Outgoing<'_>);
    /// What waits in the queue of `port` because its reader does not take it.
    fn queued(&self, port: Port) -> Load;
    /// What waits in all queues and is paid for by `sender`.
    fn charged(&self, sender: SessionId) -> Load;
    /// Connects `link` to its bus, authenticates, and sends `hello` as the first message (in the same write as
    /// the authentication). The answer is [`Hub::link_opened`](crate::Hub::link_opened) or
    /// [`Hub::link_failed`](crate::Hub::link_failed). File descriptors are negotiated if `unix_fds`.
    fn open(&mut self, link: Port, hello: &[u8], unix_fds: bool);
    /// Closes a port. The router forgets it at once and is not told of its end.
    fn close(&mut self, port: Port, ending: Ending);
    /// Frames of `port` that were answered with [`Verdict::Wait`](crate::Verdict::Wait) are offered again.
    fn resume(&mut self, port: Port);
    /// Starts a service's program. The answer is [`Hub::launch_ended`](crate::Hub::launch_ended), should it end.
    fn launch(&mut self, activation: ActivationId, launch: &Launch);
    /// Starts a timer; there is at most one of each value.
    fn set_timer(&mut self, timer: Timer, after: Duration);
    /// Stops a timer, if it runs.
    fn cancel_timer(&mut self, timer: Timer);
    /// Whether [`Outbox::decided`] is of any use; what is not asked for is not put together.
    fn wants_decisions(&self) -> bool {
        false
    }
    /// A decision was made at the boundary.
    fn decided(&mut self, decision: &Decision<'_>) {
        let _ = decision;
    }
}
