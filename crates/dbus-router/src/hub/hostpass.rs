//! Clients that live on the host: their names, calls and signals are there, as far as the rules let them.
//!
//! Such a client has no part in the inside: no names, match rules or broadcasts on the local bus, no container
//! link. What it asks the driver goes to the host's, over its own link, filtered; other clients are reached over
//! the host.

use std::sync::Arc;

use dbus_wire::error_names;
use dbus_wire::match_rule::MatchRule;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::driver::Call;
use super::resolve::Target;
use super::{DRIVER, Hub};
use crate::decision::Ruling;
use crate::outbox::Outbox;
use crate::policy::{Access, Passage};
use crate::port::{Bus, Port, SessionId};
use crate::session::Purpose;

impl Hub {
    /// Whether a client that lives on the host sees a name there.
    pub(super) fn host_side_sees(&self, id: SessionId, name: &str) -> bool {
        if name == DRIVER {
            return true;
        }
        match UniqueName::parse(name) {
            Some(unique) => self.clients.contains_key(&unique) || self.peer_is_visible(id, unique),
            None => {
                let floor = self.floor(id);
                self.config.policy.host_name_above(name, floor) == Passage::Allowed
                    || self.exported.contains_key(name)
            }
        }
    }

    /// A call to the driver of a client that lives on the host. False: it is answered as other clients' are.
    pub(super) fn answer_on_host(
        &mut self,
        interface: &str,
        member: &str,
        call: &Call<'_>,
        out: &mut dyn Outbox,
    ) -> bool {
        let rules = self.config.policy.rules();
        match (interface, member) {
            (DRIVER, "RequestName" | "ReleaseName") => self.own_on_host(call, out),
            (DRIVER, "StartServiceByName") => self.start_on_host(call, out),
            (DRIVER, "ListNames") => {
                let purpose = Purpose::Names { activatable: false };
                self.ask_host_driver(call.id, call.frame, purpose, out);
            }
            (DRIVER, "ListActivatableNames") => {
                let purpose = Purpose::Names { activatable: true };
                self.ask_host_driver(call.id, call.frame, purpose, out);
            }
            // Who waits for a name concerns those who may own it, as in xdg-dbus-proxy.
            (DRIVER, "ListQueuedOwners") if self.host_side_sees(call.id, call.str()) => {
                self.own_on_host(call, out);
            }
            (DRIVER, "AddMatch" | "RemoveMatch") => match MatchRule::parse(call.str()) {
                Ok(rule) if member == "AddMatch" => {
                    let rule = Arc::new(rule);
                    // Past the limit it is not remembered; the host has a limit of its own.
                    let purpose = match self.add_rule(call.id, &rule) {
                        true => Purpose::AddMatch(rule.clone()),
                        false => Purpose::Plain,
                    };
                    self.match_to_host(call, &rule, purpose, out);
                }
                Ok(rule) => {
                    self.remove_rule(call.id, &rule);
                    self.match_to_host(call, &rule, Purpose::Plain, out);
                }
                Err(error) => {
                    let (text, error) = (error.to_string(), error_names::MATCH_RULE_INVALID);
                    self.refuse(call.id, call.header(), error, &text, out);
                }
            },
            (DRIVER, "UpdateActivationEnvironment" | "ReloadConfig") => {
                if rules.host_environment {
                    self.ask_host_driver(call.id, call.frame, Purpose::Plain, out);
                } else {
                    self.forbid_driver_call(member, call, out);
                }
            }
            ("org.freedesktop.DBus.Monitoring", _) if rules.host_monitor => {
                if let Some(session) = self.session_mut(call.id) {
                    session.monitors_host = true;
                }
                self.ask_host_driver(call.id, call.frame, Purpose::Plain, out);
            }
            ("org.freedesktop.DBus.Debug.Stats", _) if rules.host_monitor => {
                self.ask_host_driver(call.id, call.frame, Purpose::Plain, out);
            }
            ("org.freedesktop.DBus.Monitoring" | "org.freedesktop.DBus.Debug.Stats", _) => {
                self.forbid_driver_call(member, call, out);
            }
            _ => return false,
        }
        true
    }

    fn forbid_driver_call(&mut self, member: &str, call: &Call<'_>, out: &mut dyn Outbox) {
        self.counters.refused += 1;
        let ruling = Ruling::Refused;
        self.report_about_name(call.id, call.header(), DRIVER, None, ruling, out);
        let text = format!("{member} is not for programs from here: no rule allows it");
        let error = error_names::ACCESS_DENIED;
        self.refuse(call.id, call.header(), error, &text, out);
    }

    /// RequestName, ReleaseName and ListQueuedOwners.
    fn own_on_host(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let name = call.str();
        let standing = self.config.policy.standing_above(name, self.floor(call.id));
        // What is no name the host says better.
        let allowed = standing.access >= Access::Own || WellKnownName::parse(name).is_err();
        let ruling = if allowed {
            Ruling::Allowed
        } else {
            Ruling::Refused
        };
        self.report_about_name(call.id, call.header(), name, standing.rule, ruling, out);
        if allowed {
            return self.ask_host_driver(call.id, call.frame, Purpose::Plain, out);
        }
        self.counters.refused += 1;
        let text = format!("No rule lets this program own {name}");
        let error = error_names::ACCESS_DENIED;
        self.refuse(call.id, call.header(), error, &text, out);
    }

    fn start_on_host(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let (id, name) = (call.id, call.str());
        let mut wish = *call.header();
        wish.interface = Some(name);
        let target = self.resolve_on_host(id, name, &wish);
        self.report_start(id, call.header(), name, &target, out);
        let (error, text) = match target {
            Target::Host => {
                if self.note_driver_call(id, call.frame, Purpose::Plain, false, out) {
                    self.send_raw(Port::Link(Bus::Host, id), call.frame, out);
                }
                return;
            }
            Target::Nobody => super::clients::nobody(name, dbus_wire::frame::Flags(0)),
            _ => {
                self.counters.refused += 1;
                let text = format!("{name} may not be started from here: no rule allows it");
                (error_names::ACCESS_DENIED, text)
            }
        };
        self.refuse(id, call.header(), error, &text, out);
    }
}
