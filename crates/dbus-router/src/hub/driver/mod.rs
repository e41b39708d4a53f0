//! org.freedesktop.DBus as a client sees it.
//!
//! [`table::INTERFACES`] is the whole of it: each method with its arguments, and who answers it. Specification,
//! "Message Bus Messages" and "Standard Interfaces".

mod connections;
mod matching;
mod names;
mod standard;
mod stats;
mod table;

pub(super) use self::table::ROUTER;

use dbus_wire::body::Reader;
use dbus_wire::error_names;
use dbus_wire::header::Header;

use self::table::Place;
use super::{DRIVER, DRIVER_PATH, Fault, Frame, Hub};
use crate::outbox::{Ending, Outbox};
use crate::port::SessionId;

/// A call of the driver's under way: who called, and with what.
pub(super) struct Call<'f> {
    pub id: SessionId,
    pub frame: &'f Frame<'f>,
}

impl<'f> Call<'f> {
    pub(super) fn header(&self) -> &'f Header<'f> {
        &self.frame.header
    }

    /// The arguments; their signature was compared with the table's.
    pub(super) fn args(&self) -> Reader<'f> {
        let header = &self.frame.header;
        Reader::new(header.endian, header.signature, self.frame.body.bytes())
    }

    pub(super) fn str(&self) -> &'f str {
        self.args().str().unwrap_or_default()
    }
}

impl Hub {
    /// A client that has not said Hello may say that, or ask a router how it is.
    pub(super) fn take_before_hello(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> Result<(), Fault> {
        let header = &frame.header;
        let for_driver = Self::is_call(header) && header.destination == Some(DRIVER);
        let interface = header.interface;
        match header.member {
            Some("Hello") if for_driver && interface.is_none_or(|it| it == DRIVER) => {
                self.tap_client(id, frame, out);
                self.hello(id, frame, out);
                Ok(())
            }
            // So that a host bus that hangs does not keep a person from seeing that it does.
            Some("GetStatus") if for_driver && interface == Some(table::ROUTER) => {
                self.take_for_driver(id, frame, out);
                Ok(())
            }
            _ => {
                let text =
                    "Client tried to send a message other than Hello without being registered";
                self.refuse(id, header, error_names::ACCESS_DENIED, text, out);
                self.doom(id, Ending::Flushed);
                Ok(())
            }
        }
    }

    /// A message for the bus itself.
    pub(super) fn take_for_driver(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        if !Self::is_call(header) {
            return;
        }
        let member = header.member.unwrap_or_default();
        let on_bus_path = header.path == Some(DRIVER_PATH);
        let mut interface_exists = false;
        for interface in table::INTERFACES {
            if header.interface.is_some_and(|it| it != interface.name) {
                continue;
            }
            if interface.place == Place::BusPath && !on_bus_path {
                continue;
            }
            interface_exists = true;
            let Some(method) = interface
                .methods
                .iter()
                .find(|method| method.name == member)
            else {
                continue;
            };
            if header.signature != method.input {
                let text = format!(
                    "Call to {member} has wrong args ({}, expected {})",
                    header.signature, method.input
                );
                return self.refuse(id, header, error_names::INVALID_ARGS, &text, out);
            }
            let call = Call { id, frame };
            if interface.name == DRIVER {
                self.report_question(&call, member, out);
            }
            if self.lives_on_host(id) && self.answer_on_host(interface.name, member, &call, out) {
                return;
            }
            if self.refuse_for_inside(interface.name, member, &call, out) {
                return;
            }
            return (method.answer)(self, &call, out);
        }
        let interface = header.interface.unwrap_or_default();
        let (error, text) = if interface_exists {
            let text = format!("{DRIVER} does not understand message {member}");
            (error_names::UNKNOWN_METHOD, text)
        } else {
            let text = format!("{DRIVER} does not understand interface {interface}");
            (error_names::UNKNOWN_INTERFACE, text)
        };
        self.refuse(id, header, error, &text, out);
    }
}
