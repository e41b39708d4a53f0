//! The whole router without I/O.
//!
//! Principles that the code keeps:
//! - Routing state changes before the answer that tells of it is sent.
//! - What a client is told comes in one order on its own stream: an answer of our own never overtakes an
//!   answer of the host's driver that is due, nor does a message from inside overtake a change of a name's owner.
//! - A fault costs its sender, not its receiver; a receiver never stops a sender.

mod clients;
mod control;
mod deliver;
mod departed;
mod driver;
mod export;
mod hostpass;
mod inside;
pub(crate) mod joint;
mod links;
mod ownership;
mod registration;
mod reload;
mod remote;
mod report;
mod resolve;
mod restore;
mod status;

use dbus_wire::frame::MessageType;
use dbus_wire::guid::Guid;
use dbus_wire::header::Header;
use dbus_wire::names::UniqueName;

use crate::hash::HashMap;
use crate::limits::Limits;
use crate::local_bus::{
    Activation, ActivationId, MatchRegistry, NameRegistry, Replies, ServiceSet,
};
use crate::outbox::{Ending, Fds, Outbox, Payload, Timer};
use crate::policy::{InsideRules, Policy};
use crate::port::{Bus, Port, SessionId};
use crate::session::{Credentials, Phase, Session};

pub use status::{ClientStatus, Counters, NamePlace, NameStatus, Status};

pub(crate) use control::Control;
pub(crate) use remote::Remote;

/// The bus's own name.
pub(crate) const DRIVER: &str = "org.freedesktop.DBus";
/// The bus's own object.
pub(crate) const DRIVER_PATH: &str = "/org/freedesktop/DBus";

/// What a hub is made of.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// The GUID of our socket.
    pub guid: Guid,
    /// Whether there is a host bus.
    pub host: bool,
    /// Whether the container bus is a remote one; otherwise it is in this process.
    pub remote_container: bool,
    /// What of the host may be reached.
    pub policy: Policy,
    /// What clients may do inside that are not trusted.
    pub inside: InsideRules,
    /// Quotas.
    pub limits: Limits,
    /// The machine's id, for the Peer interface.
    pub machine_id: Option<String>,
    /// The router's own process id.
    pub pid: u32,
    /// The router's own user id.
    pub uid: u32,
}

/// What to do with a message whose header is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Pass the bytes on to this port as they are, while they come.
    Pass(Port),
    /// Write [`Hub::rewritten`] to this port in place of the header, and pass the body on while it comes.
    Rewrite(Port),
    /// Collect the whole message and hand it over with [`Hub::take`].
    Take,
    /// Offer it again after [`Outbox::resume`] of this port.
    Wait,
    /// Forget it.
    Drop,
}

/// One whole message.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header<'a>,
    /// Its body.
    pub body: Payload<'a>,
    /// Its file descriptors: as many as the header says.
    pub fds: Fds,
}

impl Frame<'_> {
    fn len(&self) -> usize {
        self.header.raw().len() + self.body.bytes().len()
    }
}

/// Why a connection must end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The message is not one of D-Bus.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The client sent something before Hello.
    #[error("a message other than Hello before Hello")]
    NotRegistered,
    /// A monitor may only listen.
    #[error("a monitor sent a message")]
    MonitorSpoke,
}

/// Too many clients are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the limit of clients is reached")]
pub struct TooManyClients;

#[derive(Default, Debug)]
struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
}

/// The whole router without I/O.
///
/// It is driven by frames and events and says in return, through an [`Outbox`], what is to be sent
/// where. It reads no clock, opens no socket and starts nothing itself. The order of calls for one port is:
///
/// 1. [`Hub::client_connected`] once a client has authenticated.
/// 2. For each message that arrives, as soon as its header is whole (and its file descriptors are there):
///    [`Hub::route`]. The [`Verdict`] says what to do with the message: pass it on as it is, pass it on under a
///    new header, collect it and hand it over with [`Hub::take`], hold it until [`Outbox::resume`], or forget it.
/// 3. [`Hub::closed`] when the stream has ended or a [`Fault`] was found in it.
///
/// Links are opened at the Hub's wish ([`Outbox::open`]); [`Hub::link_opened`] or [`Hub::link_failed`] answers.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    slots: Vec<Slot>,
    free: Vec<u32>,
    unregistered: usize,
    clients: HashMap<UniqueName, SessionId>,
    departed: departed::Departed,
    /// The same for clients that lived on the host.
    departed_on_host: departed::Departed,
    /// Names on the host under which clients inside are there, and whose they are.
    exported: HashMap<Box<str>, SessionId>,
    names: NameRegistry,
    matches: MatchRegistry,
    replies: Replies,
    activation: Activation,
    host: Option<Control>,
    remote: Option<Remote>,
    joints: joint::Joints,
    monitors: Vec<SessionId>,
    /// Broadcasts of the host that monitors have seen, because they come once for each session.
    tapped: std::collections::VecDeque<(UniqueName, u32)>,
    /// To be closed at the end of this turn.
    doomed: Vec<(SessionId, Ending)>,
    rewritten: Vec<u8>,
    scratch: Vec<u8>,
    found: Vec<SessionId>,
    last_driver_serial: u32,
    next_minor: u32,
    counters: Counters,
}

impl Hub {
    /// A hub that knows nobody. Call [`Hub::start`] before the first client.
    pub fn new(config: HubConfig) -> Hub {
        let host = config.host.then(|| Control::new(Bus::Host));
        let remote = config.remote_container.then(Remote::default);
        Hub {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            unregistered: 0,
            clients: HashMap::default(),
            departed: departed::Departed::default(),
            departed_on_host: departed::Departed::default(),
            exported: HashMap::default(),
            names: NameRegistry::default(),
            matches: MatchRegistry::default(),
            replies: Replies::default(),
            activation: Activation::default(),
            host,
            remote,
            joints: joint::Joints::default(),
            monitors: Vec::new(),
            tapped: std::collections::VecDeque::new(),
            doomed: Vec::new(),
            rewritten: Vec::new(),
            scratch: Vec::new(),
            found: Vec::new(),
            last_driver_serial: 0,
            next_minor: 0,
            counters: Counters::default(),
        }
    }

    /// Opens the control links.
    pub fn start(&mut self, out: &mut dyn Outbox) {
        if self.host.is_some() {
            self.open_control(Bus::Host, out);
        }
        if self.remote.is_some() {
            self.open_control(Bus::Container, out);
        }
    }

    /// Whether clients can be served: every bus behind has told its state.
    pub fn is_ready(&self) -> bool {
        self.host.as_ref().is_none_or(Control::is_ready)
            && self
                .remote
                .as_ref()
                .is_none_or(|remote| remote.control.was_ready())
    }

    /// Whether file descriptors can be negotiated with clients: every bus behind agreed to them.
    pub fn unix_fds(&self) -> bool {
        self.host.as_ref().is_none_or(|host| host.unix_fds)
            && self
                .remote
                .as_ref()
                .is_none_or(|remote| remote.control.unix_fds)
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The GUID of our socket.
    pub fn guid(&self) -> Guid {
        self.config.guid
    }

    /// What is installed inside is this, now. Tells clients (ActivatableServicesChanged) where it changed.
    pub fn set_services(&mut self, services: ServiceSet, out: &mut dyn Outbox) {
        if self.activation.set == services {
            return;
        }
        self.activation.set = services;
        self.announce_activatable(out);
        self.finish(out);
    }

    /// From now on these are the rules, for clients that are connected, too. What they export follows; a name that
    /// has become the host's is taken from who owns it inside. Clients that watch a name which can be seen now, and
    /// could not before (or the other way round), are told of it as of one that got its owner (or lost it). Who lives
    /// on the host is decided when a client connects: one that does and that no rule mentions any more is filtered
    /// there as others are here.
    pub fn set_policy(&mut self, policy: Policy, out: &mut dyn Outbox) {
        let before = self.names_in_view();
        let before_on_host = self.names_seen_on_host();
        self.config.policy = policy;
        for id in self.session_ids() {
            let Some(session) = self.session_mut(id) else {
                continue;
            };
            if session.on_host.is_some() {
                let program = session.credentials.program.clone();
                let policy = &self.config.policy;
                let access = policy
                    .hostpass(&program)
                    .map_or(policy.rules().unmentioned, |(access, _)| access);
                if let Some(session) = self.session_mut(id) {
                    session.on_host = Some(access);
                }
                continue;
            }
            self.give_up_host_routes(id, out);
            self.update_exports(id, out);
        }
        self.tell_what_rules_changed(&before, out);
        self.tell_who_lives_on_host(&before_on_host, out);
        self.finish(out);
    }

    /// The rules in force.
    pub fn policy(&self) -> &Policy {
        &self.config.policy
    }

    /// Sets variables for services that will be started, as UpdateActivationEnvironment does.
    pub fn set_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        self.activation.environment.extend(variables);
    }

    /// Whether [`Credentials::program`] is of any use for clients that connect.
    pub fn asks_for_program(&self) -> bool {
        self.config.policy.asks_for_program()
    }

    /// A client has authenticated that is bound by the rules for the inside. `unix_fds`: it negotiated file
    /// descriptors.
    pub fn client_connected(
        &mut self,
        credentials: Credentials,
        unix_fds: bool,
    ) -> Result<SessionId, TooManyClients> {
        let connected = self.slots.len() - self.free.len();
        if connected >= self.config.limits.clients
            || self.unregistered >= self.config.limits.unregistered_clients
        {
            return Err(TooManyClients);
        }
        Ok(self.new_session(credentials, unix_fds))
    }

    /// A client has authenticated that the program which runs the router vouches for: no rule for the inside binds
    /// it, and there is always a place for it.
    pub fn trusted_client_connected(
        &mut self,
        credentials: Credentials,
        unix_fds: bool,
    ) -> SessionId {
        let id = self.new_session(credentials, unix_fds);
        if let Some(session) = self.session_mut(id) {
            session.trusted = true;
        }
        id
    }

    fn new_session(&mut self, credentials: Credentials, unix_fds: bool) -> SessionId {
        self.unregistered += 1;
        self.counters.connections += 1;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u32
            }
        };
        let slot = &mut self.slots[index as usize];
        let mut session = Session::new(credentials, unix_fds);
        if self.config.host
            && let Some((access, rule)) = self.config.policy.hostpass(&session.credentials.program)
        {
            tracing::debug!(%rule, "a client lives on the host");
            session.on_host = Some(access);
        }
        slot.session = Some(Box::new(session));
        SessionId {
            index,
            generation: slot.generation,
        }
    }

    /// What is to become of a message from `port`, of which the header is known. File descriptors must have
    /// arrived. Call it again for the same message only after [`Verdict::Wait`].
    pub fn route(&mut self, port: Port, header: &Header<'_>, out: &mut dyn Outbox) -> Verdict {
        let verdict = match port {
            Port::Client(id) => self.route_from_client(id, header, out),
            Port::Link(bus, id) => self.route_from_link(bus, id, header, out),
            Port::Control(_) => Verdict::Take,
        };
        self.finish(out);
        verdict
    }

    /// Takes a whole message, after [`Verdict::Take`]. On a fault the port has to be closed, and
    /// [`Hub::closed`] told.
    pub fn take(
        &mut self,
        port: Port,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> Result<(), Fault> {
        let result = match port {
            Port::Client(id) => self.take_from_client(id, frame, out),
            Port::Link(bus, id) => {
                self.take_from_link(bus, id, frame, out);
                Ok(())
            }
            Port::Control(bus) => {
                self.take_from_control(bus, frame, out);
                Ok(())
            }
        };
        self.finish(out);
        result
    }

    /// The header that [`Verdict::Rewrite`] asked for.
    pub fn rewritten(&self) -> &[u8] {
        &self.rewritten
    }

    /// The stream of `port` has ended.
    pub fn closed(&mut self, port: Port, out: &mut dyn Outbox) {
        match port {
            Port::Client(id) => self.remove_session(id, Ending::Abrupt, out),
            Port::Link(bus, id) => self.link_closed(bus, id, out),
            Port::Control(bus) => self.control_closed(bus, out),
        }
        self.finish(out);
    }

    /// A link is connected and authenticated, and its Hello is on its way. `unix_fds`: the bus agreed to
    /// file descriptors.
    pub fn link_opened(&mut self, port: Port, unix_fds: bool) {
        if let Port::Control(bus) = port
            && let Some(control) = self.control_mut(bus)
        {
            control.unix_fds = unix_fds;
        }
    }

    /// A link could not be opened; `reason` is for a person.
    pub fn link_failed(&mut self, port: Port, reason: &str, out: &mut dyn Outbox) {
        match port {
            Port::Link(bus, id) => self.link_refused(bus, id, reason, out),
            Port::Control(bus) => self.control_closed(bus, out),
            Port::Client(_) => {}
        }
        self.finish(out);
    }

    /// A service's program has ended (or could not be started), as `how` says.
    pub fn launch_ended(&mut self, id: ActivationId, how: &LaunchEnd, out: &mut dyn Outbox) {
        self.activation_failed(id, how, out);
        self.finish(out);
    }

    /// A timer ran out.
    pub fn timer_expired(&mut self, timer: Timer, out: &mut dyn Outbox) {
        match timer {
            Timer::Activation(id) => self.activation_failed(id, &LaunchEnd::TimedOut, out),
            Timer::Reconnect(bus) => self.open_control(bus, out),
        }
        self.finish(out);
    }

    /// Closes every client, after what is queued for it.
    pub fn shut_down(&mut self, out: &mut dyn Outbox) {
        for id in self.session_ids() {
            self.remove_session(id, Ending::Flushed, out);
        }
        self.finish(out);
    }

    /// Whether a client has said Hello and got its answer.
    pub fn is_registered(&self, id: SessionId) -> bool {
        self.session(id)
            .is_some_and(|it| matches!(it.phase, Phase::Active | Phase::Monitor))
    }

    /// Whether a bus has answered the Hello on a link.
    pub fn link_is_open(&self, link: Port) -> bool {
        match link {
            Port::Control(bus) => self.is_connected(bus) || self.is_listing(bus),
            Port::Link(bus, id) => self.link(bus, id).is_none_or(|link| link.open),
            Port::Client(_) => true,
        }
    }

    /// Whether a link that was to be opened is still wanted.
    pub fn wants_link(&self, link: Port) -> bool {
        match link {
            Port::Control(_) => true,
            Port::Link(bus, id) => self.link(bus, id).is_some_and(|link| !link.open),
            Port::Client(_) => false,
        }
    }

    fn link(&self, bus: Bus, id: SessionId) -> Option<&crate::session::Link> {
        let session = self.session(id)?;
        match bus {
            Bus::Host => session.host.as_ref(),
            Bus::Container => session.container.as_ref(),
        }
    }

    /// A message that was sent to `port` could not be written there, because the kernel refused its file
    /// descriptors for too long.
    pub fn not_sent(&mut self, port: Port, header: &Header<'_>, out: &mut dyn Outbox) {
        self.descriptors_refused(port, header, out);
        self.finish(out);
    }

    /// How many clients are connected.
    pub fn client_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn session(&self, id: SessionId) -> Option<&Session> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation {
            slot.session.as_deref()
        } else {
            None
        }
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation {
            slot.session.as_deref_mut()
        } else {
            None
        }
    }

    fn session_ids(&self) -> Vec<SessionId> {
        let ids = self.slots.iter().enumerate();
        ids.filter(|(_, slot)| slot.session.is_some())
            .map(|(index, slot)| SessionId {
                index: index as u32,
                generation: slot.generation,
            })
            .collect()
    }

    /// Marks a client to be closed at the end of this turn, when nothing iterates over anything.
    fn doom(&mut self, id: SessionId, ending: Ending) {
        self.doomed.push((id, ending));
    }

    /// The end of a turn: closes who was marked, and whom that marked.
    fn finish(&mut self, out: &mut dyn Outbox) {
        while let Some((id, ending)) = self.doomed.pop() {
            self.remove_session(id, ending, out);
        }
    }

    /// Forgets a client: its ports, rules, names, calls.
    fn remove_session(&mut self, id: SessionId, ending: Ending, out: &mut dyn Outbox) {
        if self.session(id).is_none() {
            return;
        }
        self.flush_deferred(id, true, out);
        self.leave_bus(id, false, out);
        self.loss_was_told(id, None, out);
        self.activation.forget(id);
        self.forget_joints(id);
        let slot = &mut self.slots[id.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let Some(session) = slot.session.take() else {
            return;
        };
        self.free.push(id.index);
        if matches!(session.phase, Phase::Unregistered | Phase::Opening) {
            self.unregistered -= 1;
        }
        if let Some(name) = session.name {
            self.clients.remove(&name);
            if session.on_host.is_some() {
                self.departed_on_host.insert(name);
            } else if self.host.is_some() {
                self.departed.insert(name);
            }
        }
        self.monitors.retain(|it| *it != id);
        self.exported.retain(|_, it| *it != id);
        self.container_hello_ended(id, out);
        self.restored(id, out);
        for (bus, link) in [
            (Bus::Host, &session.host),
            (Bus::Container, &session.container),
        ] {
            if link.is_some() {
                out.close(Port::Link(bus, id), Ending::Flushed);
            }
        }
        out.close(Port::Client(id), ending);
    }

    /// A serial for a message of the driver's.
    fn driver_serial(&mut self) -> u32 {
        self.last_driver_serial = self.last_driver_serial.wrapping_add(1).max(1);
        self.last_driver_serial
    }

    fn is_call(header: &Header<'_>) -> bool {
        header.kind == MessageType::MethodCall
    }
}

/// How a service's program ended before it had taken its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LaunchEnd {
    /// It could not be started; why.
    Failed(String),
    /// It exited with this status.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
    /// It took too long.
    TimedOut,
}
