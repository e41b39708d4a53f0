//! What the router decided at the boundary, for those who asked to be told.

use dbus_wire::frame::MessageType;
use dbus_wire::header::Header;

use crate::policy::RuleId;
use crate::port::Port;

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From a client to the host.
    ToHost,
    /// From the host to a client.
    FromHost,
    /// Between clients, or between a client and the bus inside. What [`InsideRules`](crate::InsideRules) refuse is told
    /// of, and nothing else.
    Inside,
}

/// What was decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ruling {
    /// It passes.
    Allowed,
    /// It does not, and a caller is told so (AccessDenied).
    Refused,
    /// It does not, and a caller is told that there is no such name.
    Hidden,
}

/// One decision about one message, or about one call to the driver.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'d> {
    /// The unique name of the client.
    pub client: &'d str,
    /// Which way.
    pub direction: Direction,
    /// The message's type.
    pub kind: MessageType,
    /// The destination, as the message states it; the sender for what comes from the host.
    pub destination: Option<&'d str>,
    /// The name by which it was judged: of the host's connection, or of an export; for a call to the driver the name
    /// that it is about. None where there is none, as for a connection that owns no name.
    pub name: Option<&'d str>,
    /// The interface.
    pub interface: Option<&'d str>,
    /// The member.
    pub member: Option<&'d str>,
    /// The object.
    pub path: Option<&'d str>,
    /// The rule that decided; none where no rule mentions the name.
    pub rule: Option<RuleId>,
    /// What was decided.
    pub ruling: Ruling,
}

/// Is told of decisions and messages by a [`Router`](crate::Router), in the router's thread: it should be quick.
///
/// ```
/// use std::sync::mpsc;
///
/// use dbus_router::{Config, Decision, Router, Ruling, Watcher};
///
/// /// Tells another thread of what was refused.
/// struct Refusals(mpsc::Sender<String>);
///
/// impl Watcher for Refusals {
///     fn decided(&mut self, decision: &Decision<'_>) {
///         if decision.ruling != Ruling::Allowed {
///             let about = decision.name.or(decision.destination).unwrap_or("everybody");
///             let _ = self.0.send(format!("{} and {about}", decision.client));
///         }
///     }
/// }
///
/// let mut router = Router::start(Config::default())?;
/// let (sender, refusals) = mpsc::channel();
/// router.watch(Box::new(Refusals(sender)));
/// assert!(refusals.try_recv().is_err(), "nothing was refused yet");
/// # Ok::<(), dbus_router::RouterError>(())
/// ```
pub trait Watcher: Send {
    /// Whether decisions are to be told at the moment; what is not asked for is not put together.
    fn wants_decisions(&self) -> bool {
        true
    }

    /// A decision was made.
    fn decided(&mut self, decision: &Decision<'_>);

    /// A message came from `from`, a client or a link to a bus. Decisions about it come next.
    fn arrived(&mut self, from: Port, header: &Header<'_>) {
        let _ = (from, header);
    }
}
