//! What clients that are not trusted may do inside. The questions of every message are here, and cost one look where
//! everybody may talk to everybody.

use dbus_wire::error_names;
use dbus_wire::header::Header;

use super::driver::Call;
use super::{DRIVER, Frame, Hub};
use crate::outbox::Outbox;
use crate::port::{Port, SessionId};
use crate::session::Phase;

impl Hub {
    /// Whether a client may send to another: both alike are nobody's friends where peers may not meet.
    pub(super) fn may_meet(&self, from: SessionId, to: SessionId) -> bool {
        self.config.inside.peers || from == to || self.is_trusted(from) || self.is_trusted(to)
    }

    fn is_trusted(&self, id: SessionId) -> bool {
        self.session(id).is_some_and(|session| session.trusted)
    }

    /// Whether a client may have services started.
    pub(super) fn may_start(&self, id: SessionId) -> bool {
        self.config.inside.activate || self.is_trusted(id)
    }

    /// Refuses a message by one of the rules for the inside, which is about `name` if about any.
    fn forbid(
        &mut self,
        id: SessionId,
        message: &Header<'_>,
        rule: &'static str,
        name: Option<&str>,
        text: &str,
        out: &mut dyn Outbox,
    ) {
        self.counters.refused += 1;
        self.report_inside(id, message, name, rule, out);
        tracing::info!(client = %id, text, "refused inside");
        self.refuse(id, message, error_names::ACCESS_DENIED, text, out);
    }

    pub(super) fn refuse_peer(
        &mut self,
        from: SessionId,
        header: &Header<'_>,
        out: &mut dyn Outbox,
    ) {
        let destination = header.destination.unwrap_or_default();
        let text = format!(
            "This program may not send messages to {destination}: neither of the two is trusted \
             (inside.peers)"
        );
        let name = Some(destination);
        self.forbid(from, header, "inside.peers", name, &text, out);
    }

    pub(super) fn refuse_start(
        &mut self,
        from: SessionId,
        header: &Header<'_>,
        name: &str,
        out: &mut dyn Outbox,
    ) {
        let text = format!("This program may not start {name} (inside.activate)");
        self.forbid(from, header, "inside.activate", Some(name), &text, out);
    }

    /// Refuses a name that the rules keep from a client.
    pub(super) fn refuse_withheld(
        &mut self,
        id: SessionId,
        name: &str,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) -> bool {
        if self.is_trusted(id) {
            return false;
        }
        let Err(why) = self.config.inside.may_own(name) else {
            return false;
        };
        let rule = why.rule();
        let text = format!("{name} may not be owned by this program: {why}");
        self.forbid(id, &frame.header, rule, Some(name), &text, out);
        true
    }

    /// Refuses to show a client what is addressed to others.
    pub(super) fn refuse_eavesdropping(&mut self, call: &Call<'_>, out: &mut dyn Outbox) -> bool {
        if self.config.inside.eavesdrop || self.is_trusted(call.id) {
            return false;
        }
        let text = "This program may not have match rules with eavesdrop='true' (inside.eavesdrop)";
        let rule = "inside.eavesdrop";
        self.forbid(call.id, call.header(), rule, None, text, out);
        true
    }

    /// Refuses a method of the driver's that is not for a client.
    pub(super) fn refuse_for_inside(
        &mut self,
        interface: &str,
        member: &str,
        call: &Call<'_>,
        out: &mut dyn Outbox,
    ) -> bool {
        let rules = &self.config.inside;
        let (allowed, rule) = match (interface, member) {
            (DRIVER, "UpdateActivationEnvironment" | "ReloadConfig") => {
                (rules.activate, "inside.activate")
            }
            (
                "org.freedesktop.DBus.Monitoring"
                | "org.freedesktop.DBus.Debug.Stats"
                | super::driver::ROUTER,
                _,
            ) => (rules.monitor, "inside.monitor"),
            _ => return false,
        };
        if allowed || self.is_trusted(call.id) {
            return false;
        }
        let text = format!("This program may not call {member} of the bus ({rule})");
        self.forbid(call.id, call.header(), rule, None, &text, out);
        true
    }

    // ── Names that have to be there first ──

    fn awaited_is_missing(&self) -> bool {
        let awaited = &self.config.inside.awaited;
        awaited.iter().any(|name| self.names.owner(name).is_none())
    }

    /// Whether a client's Hello is answered later, when names have their owners.
    pub(super) fn waits_for_names(&self, id: SessionId, header: &Header<'_>) -> bool {
        header.member == Some("Hello") && !self.is_trusted(id) && self.awaited_is_missing()
    }

    /// A name has an owner: if it was the last that was waited for, those who waited are served.
    pub(super) fn serve_who_waited(&mut self, name: &str, out: &mut dyn Outbox) {
        if !self.config.inside.awaited.iter().any(|it| **it == *name) || self.awaited_is_missing() {
            return;
        }
        for id in self.session_ids() {
            if self
                .session(id)
                .is_some_and(|session| session.phase == Phase::Unregistered)
            {
                out.resume(Port::Client(id));
            }
        }
    }
}
