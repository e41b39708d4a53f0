//! Debug.Stats, and the router's own interface.

use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::names::UniqueName;

use super::super::Hub;
use super::Call;
use crate::outbox::Outbox;
use crate::port::Port;

impl Hub {
    pub(super) fn get_stats(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let sessions = self.session_ids();
        let active = self.clients.len() as u32;
        let rules: usize = sessions
            .iter()
            .filter_map(|id| self.session(*id))
            .map(|it| it.rules.len())
            .sum();
        let names = self.names.iter().count() as u32;
        let body = Body::new().dict_sv(|entries| {
            entries.entry("Serial", |value| value.u32(self.last_driver_serial));
            entries.entry("ActiveConnections", |value| value.u32(active));
            entries.entry("IncompleteConnections", |value| {
                value.u32(sessions.len().saturating_sub(active as usize) as u32)
            });
            entries.entry("MatchRules", |value| value.u32(rules as u32));
            entries.entry("BusNames", |value| value.u32(names + active));
        });
        self.reply(call.id, call.header(), &body, out);
    }

    pub(super) fn get_connection_stats(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let name = call.str();
        let owner = UniqueName::parse(name).or_else(|| self.inside_owner(name));
        let id = owner.and_then(|owner| self.clients.get(&owner).copied());
        let Some((id, session)) = id.and_then(|id| Some((id, self.session(id)?))) else {
            let text = format!("The name {name} does not exist");
            let error = error_names::NAME_HAS_NO_OWNER;
            return self.refuse(call.id, call.header(), error, &text, out);
        };
        let queued = out.queued(Port::Client(id));
        let unique = session
            .name
            .map(|name| name.to_string())
            .unwrap_or_default();
        let body = Body::new().dict_sv(|entries| {
            entries.entry("UniqueName", |value| value.str(&unique));
            entries.entry("MatchRules", |value| value.u32(session.rules.len() as u32));
            entries.entry("BusNames", |value| {
                value.u32(session.claims.len() as u32 + 1)
            });
            entries.entry("OutgoingBytes", |value| value.u32(queued.bytes as u32));
            entries.entry("OutgoingFDs", |value| value.u32(queued.fds as u32));
        });
        self.reply(call.id, call.header(), &body, out);
    }

    pub(super) fn get_all_match_rules(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for id in self.session_ids() {
            let Some(session) = self.session(id) else {
                continue;
            };
            let Some(name) = session.name else { continue };
            let rules = session.rules.iter();
            let texts = rules.flat_map(|it| vec![it.rule.to_string(); it.count as usize]);
            all.push((name.to_string(), texts.collect()));
        }
        let body = Body::new().array("{sas}", |entries| {
            all.iter().fold(entries, |entries, (name, rules)| {
                entries.dict_entry(|entry| entry.str(name).strs(rules.iter().map(|it| &**it)))
            })
        });
        self.reply(call.id, call.header(), &body, out);
    }

    pub(super) fn get_status(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let json = self.status(out).to_json();
        self.reply(call.id, call.header(), &Body::new().str(&json), out);
    }
}
