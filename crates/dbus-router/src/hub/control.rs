//! The control link of a bus: the router's own connection, from which the routing state comes.
//!
//! It subscribes before it lists, so that a name that comes in between is not lost.

use std::collections::HashMap;
use std::time::Duration;

use dbus_wire::body::{Body, Reader};
use dbus_wire::frame::MessageType;
use dbus_wire::message::Builder;
use dbus_wire::names::UniqueName;

use super::deliver::Origin;
use super::{DRIVER, DRIVER_PATH, Frame, Hub};
use crate::outbox::{Ending, Fds, Outbox, Outgoing, Timer};
use crate::port::{Bus, Port, SessionId};
use crate::view::BusView;

/// The first and the longest wait before a lost bus is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a reply on the control link is for.
#[derive(Debug)]
enum Question {
    Hello,
    Subscribed,
    Names,
    Activatable,
    Owner(Box<str>),
    /// Is this bus still alive? A client's link to it has ended.
    Alive(SessionId),
    /// Catch up with what this client's link is about to tell it.
    Step(SessionId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Opening,
    Listing,
    Ready,
}

/// One control link and what it has told.
#[derive(Debug)]
pub(crate) struct Control {
    bus: Bus,
    state: State,
    was_ready: bool,
    /// The router's own name on this bus.
    name: Option<UniqueName>,
    /// The bus agreed to file descriptors.
    pub unix_fds: bool,
    pub view: BusView,
    questions: HashMap<u32, Question>,
    serial: u32,
    wait: Duration,
}

impl Control {
    pub fn new(bus: Bus) -> Control {
        Control {
            bus,
            state: State::Closed,
            was_ready: false,
            name: None,
            unix_fds: false,
            view: BusView::default(),
            questions: HashMap::new(),
            serial: 0,
            wait: FIRST_WAIT,
        }
    }

    /// Whether the bus is connected and its state is known.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether the bus has answered Hello and is telling its state.
    pub fn is_listing(&self) -> bool {
        self.state == State::Listing
    }

    /// The router's own name on this bus, which clients need not see.
    pub fn name(&self) -> Option<UniqueName> {
        self.name
    }

    /// Whether that was so at least once.
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    fn ask(&mut self, member: &str, body: &Body, question: Question, out: &mut dyn Outbox) {
        self.serial += 1;
        self.questions.insert(self.serial, question);
        let call = Builder::method_call(DRIVER_PATH, member)
            .interface(DRIVER)
            .destination(DRIVER)
            .serial(self.serial)
            .body(body)
            .build();
        out.send(Port::Control(self.bus), Outgoing::whole(&call));
    }
}

impl Hub {
    pub(super) fn control_mut(&mut self, bus: Bus) -> Option<&mut Control> {
        match bus {
            Bus::Host => self.host.as_mut(),
            Bus::Container => self.remote.as_mut().map(|remote| &mut remote.control),
        }
    }

    pub(super) fn open_control(&mut self, bus: Bus, out: &mut dyn Outbox) {
        let Some(control) = self.control_mut(bus) else {
            return;
        };
        control.state = State::Opening;
        control.questions.clear();
        control.serial = 1;
        control.questions.insert(1, Question::Hello);
        let hello = Builder::method_call(DRIVER_PATH, "Hello")
            .interface(DRIVER)
            .destination(DRIVER)
            .serial(1)
            .build();
        out.open(Port::Control(bus), &hello, true);
    }

    pub(super) fn control_closed(&mut self, bus: Bus, out: &mut dyn Outbox) {
        let Some(control) = self.control_mut(bus) else {
            return;
        };
        if control.state == State::Closed {
            return;
        }
        let was_ready = control.state == State::Ready;
        control.state = State::Closed;
        control.questions.clear();
        let wait = control.wait;
        control.wait = (wait * 2).min(LONGEST_WAIT);
        let owned = control.view.clear();
        out.set_timer(Timer::Reconnect(bus), wait);
        if was_ready {
            tracing::warn!(%bus, "the bus is gone; waiting for it to come back");
        }
        match bus {
            // As the loss of a session bus does: every client ends.
            Bus::Host => {
                let ids = self.session_ids();
                for &id in &ids {
                    self.nobody_will_answer(id, out);
                }
                for id in ids {
                    self.remove_session(id, Ending::Flushed, out);
                }
                self.departed.clear();
                self.departed_on_host.clear();
            }
            Bus::Container => self.container_lost(owned, out),
        }
    }

    pub(super) fn take_from_control(&mut self, bus: Bus, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let header = &frame.header;
        if header.sender != Some(DRIVER) {
            // Nobody knows this connection; a call to it gets the answer of a connection without objects.
            if header.kind == MessageType::MethodCall {
                let text = "This connection has no objects";
                let serial = self.control_mut(bus).map_or(1, |control| {
                    control.serial += 1;
                    control.serial
                });
                let error = dbus_wire::error_names::UNKNOWN_OBJECT;
                let reply = Builder::error_reply_to(header, error, text)
                    .serial(serial)
                    .build();
                out.send(Port::Control(bus), Outgoing::whole(&reply));
            }
            return;
        }
        let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
        match (header.kind, header.reply_serial) {
            (MessageType::MethodReturn | MessageType::Error, Some(serial)) => {
                let question = self
                    .control_mut(bus)
                    .and_then(|it| it.questions.remove(&serial));
                if let Some(question) = question {
                    let failed = header.kind == MessageType::Error;
                    self.control_answered(bus, question, failed, reader, out);
                }
            }
            (MessageType::Signal, _) => match header.member {
                Some("NameOwnerChanged") => {
                    if let (Ok(name), Ok(old), Ok(new)) = (reader.str(), reader.str(), reader.str())
                    {
                        self.bus_name_changed(bus, name, old, new, out);
                        if bus == Bus::Host && self.is_tapped() && self.is_told_to_monitors(name) {
                            let (raw, body) = (header.raw(), frame.body);
                            self.tap(header, raw, body, &Fds::NONE, Origin::Driver, out);
                        }
                    }
                }
                Some("ActivatableServicesChanged") => {
                    if let Some(control) = self.control_mut(bus) {
                        let body = Body::new();
                        control.ask("ListActivatableNames", &body, Question::Activatable, out);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn is_told_to_monitors(&self, name: &str) -> bool {
        match UniqueName::parse(name) {
            // A monitor has left the bus before it sees anything; that its link ends is not news to it.
            Some(unique) => !self.monitors.iter().any(|id| {
                self.session(*id)
                    .is_some_and(|session| session.name == Some(unique))
            }),
            None => self.host_name_is_visible(name),
        }
    }

    fn control_answered(
        &mut self,
        bus: Bus,
        question: Question,
        failed: bool,
        mut reader: Reader<'_>,
        out: &mut dyn Outbox,
    ) {
        let Some(control) = self.control_mut(bus) else {
            return;
        };
        match question {
            Question::Hello if failed => {
                out.close(Port::Control(bus), Ending::Abrupt);
                return self.control_closed(bus, out);
            }
            Question::Hello => {
                control.name = reader.str().ok().and_then(UniqueName::parse);
                control.state = State::Listing;
                for member in ["NameOwnerChanged", "ActivatableServicesChanged"] {
                    let rule = format!(
                        "type='signal',sender='{DRIVER}',interface='{DRIVER}',\
                         path='{DRIVER_PATH}',member='{member}'"
                    );
                    let body = Body::new().str(&rule);
                    control.ask("AddMatch", &body, Question::Subscribed, out);
                }
                control.ask("ListNames", &Body::new(), Question::Names, out);
                control.ask(
                    "ListActivatableNames",
                    &Body::new(),
                    Question::Activatable,
                    out,
                );
            }
            Question::Subscribed => {}
            Question::Names => {
                let names = if failed {
                    Vec::new()
                } else {
                    reader.strs().unwrap_or_default()
                };
                for name in names.iter().filter(|name| !name.starts_with(':')) {
                    if *name != DRIVER {
                        let question = Question::Owner((*name).into());
                        control.ask("GetNameOwner", &Body::new().str(name), question, out);
                    }
                }
                if bus == Bus::Container {
                    for unique in names.into_iter().filter_map(UniqueName::parse) {
                        self.container_name_there(unique);
                    }
                }
            }
            Question::Activatable => {
                if let (false, Ok(names)) = (failed, reader.strs()) {
                    control.view.set_activatable(names.into_iter());
                }
            }
            Question::Owner(name) => {
                let owner = if failed {
                    None
                } else {
                    reader.str().ok().and_then(UniqueName::parse)
                };
                control.view.set_owner(&name, owner);
            }
            // They may be the last that a bus which tells its state is asked.
            Question::Alive(id) => self.container_is_alive(id, out),
            Question::Step(id) => self.container_in_step(id, out),
        }
        let Some(control) = self.control_mut(bus) else {
            return;
        };
        if control.state == State::Listing && control.questions.is_empty() {
            control.state = State::Ready;
            control.was_ready = true;
            control.wait = FIRST_WAIT;
            tracing::info!(%bus, "ready");
            if bus == Bus::Container {
                self.container_ready(out);
            }
        }
    }

    fn bus_name_changed(
        &mut self,
        bus: Bus,
        name: &str,
        old: &str,
        new: &str,
        out: &mut dyn Outbox,
    ) {
        if let Some(unique) = UniqueName::parse(name) {
            if bus == Bus::Container && !new.is_empty() {
                self.container_name_there(unique);
            }
            if new.is_empty() {
                match bus {
                    Bus::Host => {
                        if let Some(host) = &mut self.host {
                            host.view.connection_gone(unique);
                        }
                    }
                    Bus::Container => self.container_name_gone(unique),
                }
            }
            return;
        }
        if bus == Bus::Container {
            self.keep_what_was_told(name, UniqueName::parse(old));
        }
        // What our own clients have there are exports: for the inside that is no owner on the host.
        let new_owner =
            UniqueName::parse(new).filter(|it| bus != Bus::Host || !self.is_inside_client(*it));
        let Some(control) = self.control_mut(bus) else {
            return;
        };
        control.view.set_owner(name, new_owner);
        if bus == Bus::Container {
            self.container_owner_changed(name, old, new, out);
        }
    }

    /// Asks the control link of the container bus for a sign of life, on behalf of a client whose link ended.
    pub(super) fn ask_container_alive(&mut self, id: SessionId, out: &mut dyn Outbox) {
        self.ask_container_control(Question::Alive(id), out);
    }

    /// Has the control link catch up with a client's container link.
    pub(super) fn ask_container_step(&mut self, id: SessionId, out: &mut dyn Outbox) {
        self.ask_container_control(Question::Step(id), out);
    }

    fn ask_container_control(&mut self, question: Question, out: &mut dyn Outbox) {
        if let Some(control) = self.control_mut(Bus::Container)
            && control.state != State::Closed
        {
            control.ask("GetId", &Body::new(), question, out);
        }
    }
}
