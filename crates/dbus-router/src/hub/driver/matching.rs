//! AddMatch, RemoveMatch, BecomeMonitor.

use std::sync::Arc;

use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::match_rule::MatchRule;
use dbus_wire::message::Builder;

use super::super::joint::without_eavesdrop;
use super::super::{DRIVER, Hub};
use super::Call;
use crate::local_bus::RuleEntry;
use crate::outbox::{Ending, Outbox, Outgoing};
use crate::port::{Bus, Port};
use crate::session::{Phase, Purpose};

impl Hub {
    pub(super) fn add_match(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let rule = match MatchRule::parse(call.str()) {
            Ok(rule) => Arc::new(rule),
            Err(error) => {
                let text = error.to_string();
                let error = error_names::MATCH_RULE_INVALID;
                return self.refuse(call.id, call.header(), error, &text, out);
            }
        };
        if rule.eavesdrop == Some(true) && self.refuse_eavesdropping(call, out) {
            return;
        }
        if !self.add_rule(call.id, &rule) {
            let limit = self.config.limits.rules_per_client;
            let text = format!("The limit of {limit} match rules for each client is reached");
            return self.refuse(
                call.id,
                call.header(),
                error_names::LIMITS_EXCEEDED,
                &text,
                out,
            );
        }
        if self.remote.is_some() {
            self.add_match_joint(call.id, call.frame, &rule, out);
        } else if self.host.is_some() {
            self.match_to_host(call, &rule, Purpose::AddMatch(rule.clone()), out);
        } else {
            self.reply(call.id, call.header(), &Body::new(), out);
        }
    }

    pub(super) fn remove_match(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let rule = match MatchRule::parse(call.str()) {
            Ok(rule) => rule,
            Err(error) => {
                let text = error.to_string();
                let error = error_names::MATCH_RULE_INVALID;
                return self.refuse(call.id, call.header(), error, &text, out);
            }
        };
        if !self.remove_rule(call.id, &rule) {
            let text = "The given match rule wasn't found and can't be removed";
            let error = error_names::MATCH_RULE_NOT_FOUND;
            return self.refuse(call.id, call.header(), error, text, out);
        }
        if self.remote.is_some() {
            self.remove_match_joint(call.id, call.frame, &rule, out);
        } else if self.host.is_some() {
            self.match_to_host(call, &rule, Purpose::Plain, out);
        } else {
            self.reply(call.id, call.header(), &Body::new(), out);
        }
    }

    /// Passes AddMatch or RemoveMatch on to the host, without eavesdropping in it.
    pub(in crate::hub) fn match_to_host(
        &mut self,
        call: &Call<'_>,
        rule: &MatchRule,
        purpose: Purpose,
        out: &mut dyn Outbox,
    ) {
        if rule.eavesdrop.is_none() {
            return self.ask_host_driver(call.id, call.frame, purpose, out);
        }
        let header = call.header();
        if !self.note_driver_call(call.id, call.frame, purpose, true, out) {
            return;
        }
        let body = Body::new().str(&without_eavesdrop(rule).to_string());
        let message = Builder::method_call(
            header.path.unwrap_or("/"),
            header.member.unwrap_or_default(),
        )
        .interface(DRIVER)
        .destination(DRIVER)
        .flags(header.flags)
        .serial(header.serial)
        .body(&body)
        .build();
        out.send(Port::Link(Bus::Host, call.id), Outgoing::whole(&message));
    }

    pub(super) fn become_monitor(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let mut args = call.args();
        let (Ok(texts), Ok(flags)) = (args.strs(), args.u32()) else {
            return;
        };
        let id = call.id;
        if flags != 0 {
            let text = "No flags are defined for BecomeMonitor";
            return self.refuse(id, call.header(), error_names::INVALID_ARGS, text, out);
        }
        let limit = self.config.limits.rules_per_client;
        if texts.len() > limit {
            let text = format!("The limit of {limit} match rules for each client is reached");
            return self.refuse(id, call.header(), error_names::LIMITS_EXCEEDED, &text, out);
        }
        let mut rules = Vec::with_capacity(texts.len());
        for text in texts {
            match MatchRule::parse(text) {
                Ok(rule) => rules.push(RuleEntry {
                    rule: Arc::new(rule),
                    count: 1,
                }),
                Err(error) => {
                    let text = error.to_string();
                    let error = error_names::MATCH_RULE_INVALID;
                    return self.refuse(id, call.header(), error, &text, out);
                }
            }
        }
        self.reply(id, call.header(), &Body::new(), out);
        self.leave_bus(id, true, out);
        self.leave_container(id, out);
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.phase = Phase::Monitor;
        session.rules = rules;
        let name = session.name;
        let links = [
            (Bus::Host, session.host.take()),
            (Bus::Container, session.container.take()),
        ];
        if let Some(name) = name {
            let lost = name.to_string();
            self.flush_deferred(id, true, out);
            self.driver_signal(id, "NameLost", &Body::new().str(&lost), out);
            self.clients.remove(&name);
            self.departed.insert(name);
        }
        for (bus, link) in links {
            if link.is_some() {
                out.close(Port::Link(bus, id), Ending::Flushed);
            }
        }
        self.monitors.push(id);
    }
}
