//! Decisions, told to who asked for them. Nothing is put together otherwise.

use dbus_wire::frame::MessageType;
use dbus_wire::header::Header;
use dbus_wire::match_rule::MatchRule;
use dbus_wire::names::UniqueName;

use super::driver::Call;
use super::resolve::Target;
use super::{DRIVER, Hub};
use crate::decision::{Decision, Direction, Ruling};
use crate::outbox::Outbox;
use crate::policy::{RuleId, Wish};
use crate::port::SessionId;

impl Hub {
    /// Tells of one decision.
    #[allow(clippy::too_many_arguments)]
    fn report(
        &self,
        client: SessionId,
        direction: Direction,
        header: &Header<'_>,
        destination: Option<&str>,
        name: Option<&str>,
        rule: Option<RuleId>,
        ruling: Ruling,
        out: &mut dyn Outbox,
    ) {
        let client = self.display_name(client);
        out.decided(&Decision {
            client: &client,
            direction,
            kind: header.kind,
            destination,
            name,
            interface: header.interface,
            member: header.member,
            path: header.path,
            rule,
            ruling,
        });
    }

    /// A client's call or signal to one receiver was judged, if it is for the host or would have been.
    pub(super) fn report_to_host(
        &self,
        from: SessionId,
        destination: &str,
        header: &Header<'_>,
        target: &Target,
        out: &mut dyn Outbox,
    ) {
        let is_judged = matches!(header.kind, MessageType::MethodCall | MessageType::Signal);
        let ruling = match target {
            Target::Host => Ruling::Allowed,
            Target::Refused | Target::Forbidden => Ruling::Refused,
            Target::Nobody => Ruling::Hidden,
            _ => return,
        };
        let (true, true, Some(host)) = (out.wants_decisions(), is_judged, &self.host) else {
            return;
        };
        let (rule, name) = match UniqueName::parse(destination) {
            Some(peer) => {
                let rule = self.judge_peer(from, peer, header).1;
                let floor = self.floor(from);
                let mut names = host.view.names_of(peer);
                let by = |name: &&str| self.config.policy.standing_above(name, floor).rule == rule;
                (rule, names.find(by))
            }
            None => (
                self.judge_name(from, destination, header).1,
                Some(destination),
            ),
        };
        let (direction, to) = (Direction::ToHost, Some(destination));
        self.report(from, direction, header, to, name, rule, ruling, out);
    }

    /// A client's broadcast goes to the host, or does not.
    pub(super) fn report_broadcast(
        &self,
        from: SessionId,
        header: &Header<'_>,
        goes: bool,
        rule: Option<RuleId>,
        out: &mut dyn Outbox,
    ) {
        if out.wants_decisions() && self.host.is_some() {
            let ruling = if goes {
                Ruling::Allowed
            } else {
                Ruling::Hidden
            };
            let direction = Direction::ToHost;
            self.report(from, direction, header, None, None, rule, ruling, out);
        }
    }

    /// A client's call to the driver is about a name of the host.
    pub(super) fn report_about_name(
        &self,
        from: SessionId,
        header: &Header<'_>,
        name: &str,
        rule: Option<RuleId>,
        ruling: Ruling,
        out: &mut dyn Outbox,
    ) {
        if out.wants_decisions() {
            let (direction, to) = (Direction::ToHost, Some(DRIVER));
            self.report(from, direction, header, to, Some(name), rule, ruling, out);
        }
    }

    /// A client's call to start a name of the host was judged.
    pub(super) fn report_start(
        &self,
        from: SessionId,
        header: &Header<'_>,
        name: &str,
        target: &Target,
        out: &mut dyn Outbox,
    ) {
        let ruling = match target {
            Target::Host => Ruling::Allowed,
            Target::Refused | Target::Forbidden => Ruling::Refused,
            Target::Nobody => Ruling::Hidden,
            _ => return,
        };
        if self.host.is_some() {
            let rule = self.rule_about(from, name);
            self.report_about_name(from, header, name, rule, ruling, out);
        }
    }

    fn rule_about(&self, from: SessionId, name: &str) -> Option<RuleId> {
        if name.starts_with(':') {
            return None;
        }
        let policy = &self.config.policy;
        policy.standing_above(name, self.floor(from)).rule
    }

    /// A client asks the driver about a name, or wants to hear what a name says: whether it may know of it, where it
    /// is the host's.
    pub(super) fn report_question(&self, call: &Call<'_>, member: &str, out: &mut dyn Outbox) {
        if self.host.is_none() || !out.wants_decisions() {
            return;
        }
        let rule;
        let name = match member {
            "GetNameOwner" | "NameHasOwner" | "ListQueuedOwners" | "GetAdtAuditSessionData" => {
                call.str()
            }
            member if member.starts_with("GetConnection") => call.str(),
            "AddMatch" => {
                rule = MatchRule::parse(call.str()).ok();
                let sender = rule.as_ref().and_then(|rule| rule.sender.as_deref());
                sender.unwrap_or(DRIVER)
            }
            _ => return,
        };
        let unique = UniqueName::parse(name);
        let is_inside = name == DRIVER
            || unique.is_some_and(|name| self.clients.contains_key(&name))
            || self.native_name(name).is_some()
            || self.owner_for(call.id, name).is_some();
        if is_inside {
            return;
        }
        let ruling = match self.asks_host_about(call.id, name) {
            true => Ruling::Allowed,
            false => Ruling::Hidden,
        };
        let rule = self.rule_about(call.id, name);
        self.report_about_name(call.id, call.header(), name, rule, ruling, out);
    }

    /// A client's message inside, or its call to the driver, was refused by one of the rules for the inside.
    pub(super) fn report_inside(
        &self,
        from: SessionId,
        header: &Header<'_>,
        name: Option<&str>,
        rule: &'static str,
        out: &mut dyn Outbox,
    ) {
        if out.wants_decisions() {
            let rule = RuleId {
                table: rule,
                index: 0,
                line: None,
            };
            let (direction, to) = (Direction::Inside, header.destination);
            let ruling = match header.kind {
                MessageType::MethodCall => Ruling::Refused,
                _ => Ruling::Hidden,
            };
            self.report(from, direction, header, to, name, Some(rule), ruling, out);
        }
    }

    /// A call or signal of the host's to a client was judged.
    pub(super) fn report_from_host(
        &self,
        to: SessionId,
        header: &Header<'_>,
        rule: Option<RuleId>,
        allowed: bool,
        out: &mut dyn Outbox,
    ) {
        if !out.wants_decisions() {
            return;
        }
        let ruling = match (allowed, header.destination) {
            (true, _) => Ruling::Allowed,
            (false, Some(_)) => Ruling::Refused,
            (false, None) => Ruling::Hidden,
        };
        let own_name = header.destination.filter(|it| !it.starts_with(':'));
        let sender = header.sender.and_then(UniqueName::parse);
        let floor = self.floor(to);
        let senders = sender.zip(self.host.as_ref()).and_then(|(sender, host)| {
            let mut names = host.view.names_of(sender);
            names.find(|name| {
                self.config
                    .policy
                    .standing_above(name, floor)
                    .rule
                    .is_some()
            })
        });
        let (direction, name) = (Direction::FromHost, own_name.or(senders));
        self.report(
            to,
            direction,
            header,
            header.sender,
            name,
            rule,
            ruling,
            out,
        );
    }

    /// The rule by which a signal of a host connection reaches a client.
    pub(super) fn rule_of_sender(&self, to: SessionId, header: &Header<'_>) -> Option<RuleId> {
        let sender = header.sender.and_then(UniqueName::parse)?;
        let names = self.host.as_ref()?.view.names_of(sender);
        let policy = &self.config.policy;
        policy.to_peer(names, &Wish::of(header), self.floor(to)).1
    }
}
