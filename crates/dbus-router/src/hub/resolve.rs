//! Where a destination lives.
//!
//! The order for a well-known name is DESIGN's: owned inside; an application installed inside is never the
//! host's; owned on the host; activatable inside; activatable on the host; else the host, which answers
//! ServiceUnknown.

use dbus_wire::frame::{Flags, MessageType};
use dbus_wire::header::Header;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::Hub;
use crate::policy::Passage;
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
    /// Nowhere: the policy refuses it.
    Refused,
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
        if destination.starts_with(':') {
            // What is not of the form digits.digits can be no name of a bus that we know, and could not be
            // judged: it is nobody's.
            return match UniqueName::parse(destination) {
                Some(name) => self.resolve_unique(name, header),
                None => Target::Nobody,
            };
        }
        let may_start = !header.flags.contains(Flags::NO_AUTO_START);
        self.resolve_well_known(from, destination, may_start, header)
    }

    fn resolve_unique(&self, name: UniqueName, header: &Header<'_>) -> Target {
        if let Some(&id) = self.clients.get(&name) {
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
        let Some(host) = &self.host else {
            return Target::Nobody;
        };
        // Who answers was asked: that is looked at when it is sent.
        if matches!(header.kind, MessageType::MethodReturn | MessageType::Error) {
            return Target::Host;
        }
        match self
            .config
            .policy
            .host_peer(host.view.names_of(name), header.interface)
        {
            Passage::Allowed => Target::Host,
            Passage::Refused => Target::Refused,
        }
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
        if let Some(owner) = self.names.owner(name) {
            return Target::Inside(owner);
        }
        let application = self.activation.set.is_application(name);
        let host = self.host.as_ref().filter(|_| !application);
        let access = self.config.policy.host_name(name);
        if let Some(host) = host
            && access == Passage::Allowed
            && let Some(owner) = host.view.owner(name)
        {
            return match self
                .config
                .policy
                .host_peer(host.view.names_of(owner), header.interface)
            {
                Passage::Allowed => Target::Host,
                Passage::Refused => Target::Refused,
            };
        }
        if may_start
            && self.activation.can_start(name)
            && let Ok(name) = WellKnownName::parse(name)
        {
            return Target::Activate(name);
        }
        match (host, access) {
            (None, _) => Target::Nobody,
            (Some(_), Passage::Allowed) => Target::Host,
            (Some(_), Passage::Refused) => Target::Refused,
        }
    }

    /// Whether a name of the host exists in the view: not taken inside, not an inside application's, not
    /// refused.
    pub(super) fn host_name_is_visible(&self, name: &str) -> bool {
        self.inside_owner(name).is_none()
            && !self.activation.set.is_application(name)
            && self.config.policy.host_name(name) == Passage::Allowed
    }

    /// Whether a connection of the host may be seen at all: it does not only hold refused names.
    pub(super) fn host_peer_is_visible(&self, name: UniqueName) -> bool {
        let Some(host) = &self.host else { return false };
        let mut names = host.view.names_of(name).peekable();
        names.peek().is_none()
            || names.any(|name| self.config.policy.host_name(name) == Passage::Allowed)
    }

    /// Who owns a well-known name inside, as clients know it.
    pub(super) fn inside_owner(&self, name: &str) -> Option<UniqueName> {
        match &self.remote {
            None => self.session(self.names.owner(name)?)?.name,
            Some(remote) => remote.control.view.owner(name).map(|raw| remote.shown(raw)),
        }
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
