//! The application as which a client is known to the host's portal.
//!
//! `org.freedesktop.host.portal.Registry.Register(s app_id, a{sv} options)` has to come, on the client's own host
//! link, before its first call to the portal. Where the portal has no such interface its error is nobody's news.

use dbus_wire::body::Body;
use dbus_wire::header::Header;
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, name_in_namespace};

use super::Hub;
use crate::outbox::{Outbox, Outgoing};
use crate::port::{Bus, Port, SessionId};
use crate::session::{DriverCall, Purpose};

const PORTALS: &str = "org.freedesktop.portal";
const DESKTOP: &str = "org.freedesktop.portal.Desktop";
const DESKTOP_PATH: &str = "/org/freedesktop/portal/desktop";
const REGISTRY: &str = "org.freedesktop.host.portal.Registry";

impl Hub {
    /// A message of a client's is about to go to the host: if it is its first to a portal, the client is registered
    /// before.
    pub(super) fn register_application(
        &mut self,
        id: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) {
        let Some(app_id) = &self.config.policy.rules().app_id else {
            return;
        };
        let is_registered = self.session(id).is_none_or(|session| session.is_registered);
        if is_registered || !Self::is_call(header) || !self.is_portal(header.destination) {
            return;
        }
        let body = Body::new().str(app_id).dict_sv(|_| {});
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.is_registered = true;
        let Some(link) = &mut session.host else {
            return;
        };
        let serial = link.own_serial();
        link.driver.push_back(DriverCall {
            serial,
            ticket: None,
            purpose: Purpose::Registered,
        });
        let call = Builder::method_call(DESKTOP_PATH, "Register")
            .interface(REGISTRY)
            .destination(DESKTOP)
            .serial(serial)
            .body(&body)
            .build();
        out.send(Port::Link(Bus::Host, id), Outgoing::whole(&call));
    }

    fn is_portal(&self, destination: Option<&str>) -> bool {
        let Some(destination) = destination else {
            return false;
        };
        match (UniqueName::parse(destination), &self.host) {
            (Some(unique), Some(host)) => host.view.owner(DESKTOP) == Some(unique),
            _ => name_in_namespace(destination, PORTALS),
        }
    }
}
