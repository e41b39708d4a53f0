//! Decisions, told to who asked for them. Nothing is put together otherwise.

use dbus_wire::frame::MessageType;
use dbus_wire::header::Header;
use dbus_wire::names::UniqueName;

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
