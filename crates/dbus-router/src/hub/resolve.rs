//! Where a destination lives.
//!
//! The order for a well-known name is DESIGN's: owned inside; an application installed inside is never the
//! host's; owned on the host; activatable inside; activatable on the host; else the host, which answers
//! ServiceUnknown.

use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::header::Header;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::Hub;
use crate::policy::{Access, Passage, RuleId, Side, Wish};
use crate::port::SessionId;

/// Where a message goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// To a client, over the local bus.
    Inside(SessionId),
    /// To a service that the local bus has to start first.
    Activate(WellKnownName),
    /// To the host, unchanged.
    Host,
    /// To the remote container bus; under this name there, if it has another.
    Container(Option<UniqueName>),
    /// Nowhere: no bus has it.
    Nobody,
    /// Nowhere: it would hand over the host.
    Refused,
    /// Nowhere: it exists, and no rule lets this message pass.
    Forbidden,
    /// Not known before the remote container bus has been asked.
    Unknown(WellKnownName),
}

impl Hub {
    /// Where a message of `from` with this destination (other than the driver) goes.
    pub(super) fn resolve(
        &self,
        from: SessionId,
        destination: &str,
        header: &Header<'_>,
    ) -> Target {
        if self.lives_on_host(from) {
            return self.resolve_on_host(from, destination, header);
        }
        if destination.starts_with(':') {
            // What is not of the form digits.digits can be no name of a bus that we know, and could not be
            // judged: it is nobody's.
            return match UniqueName::parse(destination) {
                Some(name) => self.resolve_unique(from, name, header),
                None => Target::Nobody,
            };
        }
        let may_start = !header.flags.contains(Flags::NO_AUTO_START);
        self.resolve_well_known(from, destination, may_start, header)
    }

    fn resolve_unique(&self, from: SessionId, name: UniqueName, header: &Header<'_>) -> Target {
        if let Some(&id) = self.clients.get(&name) {
            if self.lives_on_host(id) {
                return match self.may_meet(from, id) {
                    true => Target::Host,
                    false => Target::Forbidden,
                };
            }
            return match &self.remote {
                None => Target::Inside(id),
                Some(_) => match self.session(id).and_then(|session| session.container_name) {
                    Some(raw) => Target::Container(Some(raw)),
                    None => Target::Nobody,
                },
            };
        }
        if let Some(remote) = &self.remote
            && remote.is_shifted(name)
        {
            return match remote.native(name) {
                Some(raw) => Target::Container(Some(raw)),
                None => Target::Nobody,
            };
        }
        if self.host.is_none() {
            return Target::Nobody;
        }
        // Who answers was asked: that is looked at when it is sent.
        if matches!(header.kind, MessageType::MethodReturn | MessageType::Error) {
            return Target::Host;
        }
        target(self.judge_peer(from, name, header).0)
    }

    /// Where a message of a client that lives on the host goes: there, or nowhere.
    pub(super) fn resolve_on_host(
        &self,
        from: SessionId,
        destination: &str,
        header: &Header<'_>,
    ) -> Target {
        if matches!(header.kind, MessageType::MethodReturn | MessageType::Error) {
            return Target::Host;
        }
        if destination.starts_with(':') {
            return match UniqueName::parse(destination) {
                // Our own clients are reached over the host.
                Some(name) => match self.clients.get(&name) {
                    Some(&to) if self.may_meet(from, to) => Target::Host,
                    Some(_) => Target::Forbidden,
                    None => target(self.judge_peer(from, name, header).0),
                },
                None => Target::Nobody,
            };
        }
        // Exports of our own clients, too.
        if self.exported.contains_key(destination) {
            return Target::Host;
        }
        target(self.judge_name(from, destination, header).0)
    }

    /// Whether a message of `from` may go to a connection of the host, and which rule says so.
    pub(super) fn judge_peer(
        &self,
        from: SessionId,
        peer: UniqueName,
        header: &Header<'_>,
    ) -> (Passage, Option<RuleId>) {
        let Some(host) = &self.host else {
            return (Passage::Hidden, None);
        };
        let names = host.view.names_of(peer);
        let judged = self
            .config
            .policy
            .to_peer(names, &Wish::of(header), self.floor(from));
        match judged {
            (Passage::Hidden | Passage::Forbidden, _) if self.has_spoken(from, peer) => {
                if self.config.policy.rules().spoken >= Access::Talk {
                    (Passage::Allowed, None)
                } else {
                    (Passage::Forbidden, None)
                }
            }
            judged => judged,
        }
    }

    /// Whether a message of `from` may go to a well-known name of the host: by the name, and by the others that
    /// its owner holds.
    pub(super) fn judge_name(
        &self,
        from: SessionId,
        name: &str,
        header: &Header<'_>,
    ) -> (Passage, Option<RuleId>) {
        let policy = &self.config.policy;
        let floor = self.floor(from);
        match policy.host_name_above(name, floor) {
            Passage::Allowed => {}
            passage => return (passage, policy.standing_above(name, floor).rule),
        }
        match self.host.as_ref().and_then(|host| host.view.owner(name)) {
            Some(owner) => self.judge_peer(from, owner, header),
            None => policy.to_peer(std::iter::once(name), &Wish::of(header), floor),
        }
    }

    /// What every name of the host is to a client at least.
    pub(super) fn floor(&self, id: SessionId) -> Access {
        let session = self.session(id);
        session
            .and_then(|session| session.on_host)
            .unwrap_or(self.config.policy.rules().unmentioned)
    }

    /// Whether a client has no part in the inside.
    pub(super) fn lives_on_host(&self, id: SessionId) -> bool {
        self.session(id)
            .is_some_and(|session| session.on_host.is_some())
    }

    fn has_spoken(&self, to: SessionId, peer: UniqueName) -> bool {
        self.session(to)
            .is_some_and(|session| session.spoken.contains(&peer))
    }

    /// Whether a name is the host's for everybody.
    pub(super) fn belongs_to_host(&self, name: &str) -> bool {
        self.host.is_some() && self.config.policy.lives_on_host(name).is_some()
    }

    /// Whether a name that nobody owns is looked for on the host.
    fn defaults_to_host(&self, name: &str) -> bool {
        let rules = self.config.policy.rules();
        rules.default == Side::Host
            || self.config.policy.standing(name).rule.is_some()
            || self
                .host
                .as_ref()
                .is_some_and(|host| host.view.can_start(name))
    }

    /// Where a message goes whose name nobody inside has.
    pub(super) fn resolve_outside(
        &self,
        from: SessionId,
        name: &str,
        header: &Header<'_>,
    ) -> Target {
        match target(self.judge_name(from, name, header).0) {
            Target::Host if !self.is_owned_on_host(name) && !self.defaults_to_host(name) => {
                Target::Nobody
            }
            target => target,
        }
    }

    /// Whether the host has an owner for a name that clients inside may know.
    pub(super) fn is_owned_on_host(&self, name: &str) -> bool {
        self.host
            .as_ref()
            .is_some_and(|host| host.view.owner(name).is_some())
            && self.config.policy.host_name(name) == Passage::Allowed
    }

    /// Where a well-known name lives. `may_start`: activation is wanted.
    pub(super) fn resolve_well_known(
        &self,
        from: SessionId,
        name: &str,
        may_start: bool,
        header: &Header<'_>,
    ) -> Target {
        if self.remote.is_some() {
            return self.resolve_with_remote(from, name, may_start, header);
        }
        if self.belongs_to_host(name) {
            return self.resolve_outside(from, name, header);
        }
        if let Some(owner) = self.names.owner(name) {
            return Target::Inside(owner);
        }
        let application = self.activation.set.is_application(name);
        let has_host = self.host.is_some() && !application;
        if has_host && self.is_owned_on_host(name) {
            return self.resolve_outside(from, name, header);
        }
        if may_start
            && self.activation.can_start(name)
            && let Ok(name) = WellKnownName::parse(name)
        {
            return Target::Activate(name);
        }
        if has_host {
            self.resolve_outside(from, name, header)
        } else {
            Target::Nobody
        }
    }

    /// Whether a name of the host exists in the view: not taken inside, not an inside application's, not
    /// refused.
    pub(super) fn host_name_is_visible(&self, name: &str) -> bool {
        self.inside_owner(name).is_none()
            && (!self.activation.set.is_application(name) || self.belongs_to_host(name))
            && self.config.policy.host_name(name) == Passage::Allowed
    }

    /// Whether a client may see a connection of the host at all: it does not only hold names that the client may
    /// not see, or has spoken to it.
    pub(super) fn peer_is_visible(&self, to: SessionId, peer: UniqueName) -> bool {
        let Some(host) = &self.host else { return false };
        let floor = self.floor(to);
        let is_visible =
            |name: &str| self.config.policy.host_name_above(name, floor) == Passage::Allowed;
        let mut names = host.view.names_of(peer).peekable();
        if names.peek().is_some() {
            names.any(is_visible) || self.has_spoken(to, peer)
        } else {
            floor >= Access::See
                || self.has_spoken(to, peer)
                || host.view.former_names_of(peer).any(is_visible)
        }
    }

    /// Who owns a well-known name inside, as clients know it.
    pub(super) fn inside_owner(&self, name: &str) -> Option<UniqueName> {
        if self.belongs_to_host(name) {
            return None;
        }
        match &self.remote {
            None => self.session(self.names.owner(name)?)?.name,
            Some(remote) => remote.control.view.owner(name).map(|raw| remote.shown(raw)),
        }
    }

    /// The client that owns a well-known name, as far as that is known without asking the host: inside, or for
    /// clients that live on the host there.
    pub(super) fn owner_for(&self, id: SessionId, name: &str) -> Option<UniqueName> {
        if !self.lives_on_host(id) {
            return self.inside_owner(name);
        }
        let client = self.exported.get(name)?;
        self.session(*client)?.name
    }

    /// Who owns a well-known name in the view.
    pub(super) fn owner_in_view(&self, name: &str) -> Option<UniqueName> {
        if let Some(owner) = self.inside_owner(name) {
            return Some(owner);
        }
        let owner = self.host.as_ref()?.view.owner(name)?;
        self.host_name_is_visible(name).then_some(owner)
    }
}

/// Where a message to the host goes that was judged.
fn target(passage: Passage) -> Target {
    match passage {
        Passage::Allowed => Target::Host,
        Passage::Refused => Target::Refused,
        Passage::Forbidden => Target::Forbidden,
        Passage::Hidden => Target::Nobody,
    }
}
