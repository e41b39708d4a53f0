//! Names of the inside that are there on the host, too.
//!
//! Once a client is the primary owner inside, the name is requested on the host by the client's own host link,
//! before any later message of that client and before the answer to its RequestName. When it no longer owns it,
//! it is released outside. The inside hears nothing of either.

use dbus_wire::body::{Body, Reader};
use dbus_wire::frame::MessageType;
use dbus_wire::header::Header;
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::{Frame, Hub};
use crate::outbox::Outbox;
use crate::policy::{MemberRule, RuleId};
use crate::port::{Bus, SessionId};
use crate::session::{Exported, Purpose};

const REPLACE_EXISTING: u32 = 2;
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// The calls by which a program introduces its tray icon; the argument is a name (or a path).
const INTRODUCES: (&str, &str) = (
    "org.kde.StatusNotifierWatcher",
    "RegisterStatusNotifierItem",
);

impl Hub {
    /// A client owns `name` inside now.
    pub(super) fn export_name(
        &mut self,
        id: SessionId,
        name: &WellKnownName,
        out: &mut dyn Outbox,
    ) {
        if self.host.is_none() || self.lives_on_host(id) {
            return;
        }
        for (outside, rule, replace) in self.config.policy.exports_of(name) {
            let exported = Exported {
                inside: name.clone(),
                outside: outside.clone(),
                rule,
            };
            let Some(session) = self.session_mut(id) else {
                return;
            };
            if session.exports.iter().any(|it| it.outside == outside) {
                continue;
            }
            session.exports.push(exported);
            self.exported.insert(outside.as_str().into(), id);
            let flags = if replace { REPLACE_EXISTING } else { 0 };
            let body = Body::new().str(&outside).u32(flags);
            let purpose = Purpose::Ignored;
            self.ask_driver(id, Bus::Host, "RequestName", &body, purpose, out);
        }
    }

    /// A client does not own `name` inside any more.
    pub(super) fn unexport_name(&mut self, id: SessionId, name: &str, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let (gone, kept) = std::mem::take(&mut session.exports)
            .into_iter()
            .partition(|it: &Exported| *it.inside == *name);
        session.exports = kept;
        let gone: Vec<Exported> = gone;
        for export in gone {
            self.release_on_host(id, &export.outside, out);
        }
    }

    fn release_on_host(&mut self, id: SessionId, outside: &str, out: &mut dyn Outbox) {
        if self.exported.get(outside) == Some(&id) {
            self.exported.remove(outside);
        }
        let body = Body::new().str(outside);
        self.ask_driver(id, Bus::Host, "ReleaseName", &body, Purpose::Ignored, out);
    }

    /// The rules have changed: what a client exports follows.
    pub(super) fn update_exports(&mut self, id: SessionId, out: &mut dyn Outbox) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let before = std::mem::take(&mut session.exports);
        let mut inside: Vec<WellKnownName> = match &self.remote {
            None => {
                let names = self.names.iter().filter(|(_, owner)| *owner == id);
                names.map(|(name, _)| name.clone()).collect()
            }
            Some(remote) => {
                let raw = self.session(id).and_then(|session| session.container_name);
                let names = raw
                    .into_iter()
                    .flat_map(|raw| remote.control.view.names_of(raw));
                names
                    .filter_map(|it| WellKnownName::parse(it).ok())
                    .collect()
            }
        };
        inside.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let policy = &self.config.policy;
        let wanted: Vec<WellKnownName> = inside
            .iter()
            .flat_map(|name| policy.exports_of(name))
            .map(|(outside, _, _)| outside)
            .collect();
        for export in &before {
            if !wanted.contains(&export.outside) {
                self.release_on_host(id, &export.outside, out);
            }
        }
        for name in &inside {
            self.export_name(id, name, out);
        }
    }

    /// Whether a connection of the host is a client of ours that lives inside: its names there are exports.
    pub(super) fn is_inside_client(&self, name: UniqueName) -> bool {
        self.clients
            .get(&name)
            .is_some_and(|id| !self.lives_on_host(*id))
    }

    /// The rule of an export that lets the host call a client like this.
    pub(super) fn export_lets_in(&self, id: SessionId, header: &Header<'_>) -> Option<RuleId> {
        let session = self.session(id)?;
        let rules = self.config.policy.rules();
        let by_name = session.exports.iter().find_map(|export| {
            let is_meant = header
                .destination
                .is_none_or(|it| it.starts_with(':') || *export.outside == *it);
            let rule = rules.exports.get(export.rule).filter(|_| is_meant)?;
            let allows = |it: &MemberRule| it.matches(header.interface, header.member, header.path);
            let is_allowed = rule
                .calls
                .as_ref()
                .is_none_or(|members| members.iter().any(allows));
            is_allowed.then_some(rule.id)
        });
        by_name.or_else(|| self.interface_lets_in(header.interface?))
    }

    fn interface_lets_in(&self, interface: &str) -> Option<RuleId> {
        let mut rules = self.config.policy.rules().interfaces.iter();
        let rule = rules.find(|rule| rule.calls && rule.interface.matches(interface))?;
        Some(rule.id)
    }

    /// Whether what a message asks of a client's properties has to be looked at: those of some interfaces are for the
    /// host, and which are meant is in the body.
    pub(super) fn asks_for_properties(&self, header: &Header<'_>) -> bool {
        let mut rules = self.config.policy.rules().interfaces.iter();
        header.interface == Some(PROPERTIES) && rules.any(|rule| rule.calls)
    }

    /// The rule that lets the host have the properties that a message is about.
    pub(super) fn properties_let_in(&self, frame: &Frame<'_>) -> Option<RuleId> {
        self.interface_lets_in(about(frame)?)
    }

    /// Whether a broadcast of a client inside goes to the host, and by which rule.
    pub(super) fn goes_to_host(
        &self,
        from: SessionId,
        frame: &Frame<'_>,
    ) -> (bool, Option<RuleId>) {
        let rules = self.config.policy.rules();
        if rules.outward_signals {
            return (true, None);
        }
        let header = &frame.header;
        let exports = self.session(from).map(|session| session.exports.iter());
        let by_name = exports.into_iter().flatten().find_map(|export| {
            let rule = rules.exports.get(export.rule)?;
            rule.signals.then_some(rule.id)
        });
        let about = match header.interface {
            Some(PROPERTIES) => about(frame),
            interface => interface,
        };
        let rule = by_name.or_else(|| {
            let mut interfaces = rules.interfaces.iter();
            let rule = interfaces
                .find(|rule| rule.signals && about.is_some_and(|it| rule.interface.matches(it)))?;
            Some(rule.id)
        });
        (rule.is_some(), rule)
    }

    /// The name by which a client knows itself, where the host calls it by another.
    pub(super) fn name_inside(&self, id: SessionId, destination: &str) -> Option<WellKnownName> {
        let session = self.session(id)?;
        let export = session
            .exports
            .iter()
            .find(|it| *it.outside == *destination)?;
        (export.inside != export.outside).then(|| export.inside.clone())
    }

    /// Whether a call introduces a tray icon that may have another name on the host.
    pub(super) fn introduces_icon(&self, id: SessionId, header: &Header<'_>) -> bool {
        header.kind == MessageType::MethodCall
            && header.member == Some(INTRODUCES.1)
            && header.interface.is_none_or(|it| it == INTRODUCES.0)
            && header.signature == "s"
            && self
                .session(id)
                .is_some_and(|session| session.exports.iter().any(|it| it.inside != it.outside))
    }

    /// The same call with the name that the icon has on the host.
    pub(super) fn renamed_icon(&self, id: SessionId, frame: &Frame<'_>) -> Option<Vec<u8>> {
        let header = &frame.header;
        if !self.introduces_icon(id, header) {
            return None;
        }
        let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
        let name = reader.str().ok()?;
        let session = self.session(id)?;
        let export = session.exports.iter().find(|it| *it.inside == *name)?;
        let mut call = Builder::method_call(header.path?, header.member?)
            .flags(header.flags)
            .serial(header.serial);
        if let Some(interface) = header.interface {
            call = call.interface(interface);
        }
        if let Some(destination) = header.destination {
            call = call.destination(destination);
        }
        Some(call.body(&Body::new().str(&export.outside)).build())
    }
}

/// The interface that a message of org.freedesktop.DBus.Properties is about: always its first argument.
fn about<'f>(frame: &Frame<'f>) -> Option<&'f str> {
    let header = &frame.header;
    let mut body = Reader::new(header.endian, header.signature, frame.body.bytes());
    body.str().ok()
}
