//! Hello, and the methods about names.

use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::frame::Flags;
use dbus_wire::names::{UniqueName, is_bus_name};

use super::super::joint::JointKind;
use super::super::ownership::owner_changed_body;
use super::super::resolve::Target;
use super::super::{DRIVER, Frame, Hub};
use super::Call;
use crate::local_bus::Waiting;
use crate::outbox::Outbox;
use crate::port::SessionId;
use crate::session::{Phase, Purpose};

/// The answers of StartServiceByName.
const START_REPLY_ALREADY_RUNNING: u32 = 2;

impl Hub {
    /// The first Hello of a client.
    pub(super) fn hello(&mut self, id: SessionId, frame: &Frame<'_>, out: &mut dyn Outbox) {
        let header = &frame.header;
        if !header.signature.is_empty() {
            let text = format!(
                "Call to Hello has wrong args ({}, expected )",
                header.signature
            );
            return self.refuse(id, header, error_names::INVALID_ARGS, &text, out);
        }
        if self.host.is_some() {
            return self.open_links(id, frame, out);
        }
        let name = UniqueName {
            major: 1,
            minor: self.next_minor,
        };
        self.next_minor += 1;
        let Some(session) = self.session_mut(id) else {
            return;
        };
        session.name = Some(name);
        session.hello_serial = header.serial;
        session.phase = Phase::Opening;
        self.clients.insert(name, id);
        self.registered(id, out);
        let text = name.to_string();
        let body = owner_changed_body(&text, None, Some(name));
        self.driver_broadcast("NameOwnerChanged", &body, None, out);
        self.name_acquired(id, out);
    }

    pub(super) fn hello_again(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let text = "Already handled an Hello message";
        self.refuse(call.id, call.header(), error_names::FAILED, text, out);
    }

    pub(super) fn driver_request_name(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let mut args = call.args();
        let (Ok(name), Ok(flags)) = (args.str(), args.u32()) else {
            return;
        };
        if self.remote.is_none() {
            return self.request_name(call.id, name, flags, call.frame, out);
        }
        if self.refuse_host_route(call.id, name, call.frame, out) {
            return;
        }
        let limit = self.config.limits.names_per_client;
        let mut purpose = Purpose::Ownership;
        if let (Ok(name), Some(session)) = (
            dbus_wire::names::WellKnownName::parse(name),
            self.session_mut(call.id),
        ) && session.container.is_some()
        {
            session.requests.retain(|(it, _)| *it != name);
            if session.requests.len() < limit {
                session.requests.push((name.clone(), flags));
            }
            purpose = Purpose::Requested(name);
        }
        self.ask_container_driver(call.id, call.frame, purpose, out);
    }

    pub(super) fn driver_release_name(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let name = call.str();
        if self.remote.is_none() {
            return self.release_name(call.id, name, call.frame, out);
        }
        if let Some(session) = self.session_mut(call.id) {
            session.requests.retain(|(it, _)| **it != *name);
        }
        self.ask_container_driver(call.id, call.frame, Purpose::Ownership, out);
    }

    pub(super) fn list_queued_owners(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let name = call.str();
        let own = |name: &str| Body::new().strs([name]);
        if name == DRIVER {
            return self.reply(call.id, call.header(), &own(name), out);
        }
        if let Some(unique) = UniqueName::parse(name)
            && self.clients.contains_key(&unique)
        {
            return self.reply(call.id, call.header(), &own(name), out);
        }
        let inside = !self.lives_on_host(call.id);
        let queued = self.names.queue(name).filter(|_| inside).map(|queue| {
            let names = queue.filter_map(|id| self.session(id)?.name);
            names.map(|name| name.to_string()).collect::<Vec<_>>()
        });
        if let Some(owners) = queued {
            let body = Body::new().strs(owners.iter().map(|name| &**name));
            return self.reply(call.id, call.header(), &body, out);
        }
        if self.remote.is_some() && inside {
            if let Some(raw) = self.native_name(name) {
                let purpose = Purpose::Names { activatable: false };
                let raw = raw.to_string();
                return self.ask_container_about(call.id, call.frame, &raw, purpose, out);
            }
            if self.inside_owner(name).is_some() {
                let purpose = Purpose::Names { activatable: false };
                return self.ask_container_driver(call.id, call.frame, purpose, out);
            }
        }
        if self.asks_host_about(call.id, name) {
            return self.ask_host_driver(call.id, call.frame, Purpose::Queue, out);
        }
        let text = format!("Could not get owners of name '{name}': no such name");
        self.refuse(
            call.id,
            call.header(),
            error_names::NAME_HAS_NO_OWNER,
            &text,
            out,
        );
    }

    pub(super) fn list_names(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        self.list("ListNames", false, call, out);
    }

    pub(super) fn list_activatable_names(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        self.list("ListActivatableNames", true, call, out);
    }

    fn list(&mut self, member: &str, activatable: bool, call: &Call<'_>, out: &mut dyn Outbox) {
        if self.host.is_none() {
            let mut names = vec![DRIVER.to_owned()];
            if activatable {
                names.extend(
                    self.activation
                        .set
                        .services
                        .keys()
                        .map(|name| name.to_string()),
                );
            } else {
                let mut unique: Vec<&UniqueName> = self.clients.keys().collect();
                unique.sort_unstable();
                names.extend(unique.into_iter().map(|name| name.to_string()));
                names.extend(self.names.iter().map(|(name, _)| name.to_string()));
            }
            let body = Body::new().strs(names.iter().map(|name| &**name));
            return self.reply(call.id, call.header(), &body, out);
        }
        if self.remote.is_some() {
            let has_container = self
                .session(call.id)
                .is_some_and(|session| session.container.is_some());
            let kind = JointKind::Names { activatable };
            let none = Body::new();
            let container = has_container.then_some(&none);
            return self.start_joint(
                call.id,
                call.frame,
                member,
                kind,
                Some(&none),
                container,
                out,
            );
        }
        self.ask_host_driver(call.id, call.frame, Purpose::Names { activatable }, out);
    }

    pub(super) fn name_has_owner(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        self.owner_question(true, call, out);
    }

    pub(super) fn get_name_owner(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        self.owner_question(false, call, out);
    }

    /// NameHasOwner (`has`) and GetNameOwner.
    fn owner_question(&mut self, has: bool, call: &Call<'_>, out: &mut dyn Outbox) {
        let name = call.str();
        let unique = UniqueName::parse(name);
        let known = if name == DRIVER {
            Some(DRIVER.to_owned())
        } else if let Some(unique) = unique {
            self.clients.contains_key(&unique).then(|| name.to_owned())
        } else if self.remote.is_none() {
            self.owner_for(call.id, name).map(|owner| owner.to_string())
        } else {
            None
        };
        if let Some(owner) = known {
            let body = if has {
                Body::new().boolean(true)
            } else {
                Body::new().str(&owner)
            };
            return self.reply(call.id, call.header(), &body, out);
        }
        if self.remote.is_some() && is_bus_name(name) && !self.belongs_to_host(name) {
            let has_link = self
                .session(call.id)
                .is_some_and(|session| session.container.is_some());
            let asked = match unique {
                Some(_) => self.native_name(name).map(|raw| raw.to_string()),
                None => Some(name.to_owned()),
            };
            if let Some(asked) = asked.filter(|_| has_link) {
                let kept = [call.header().raw(), call.frame.body.bytes()].concat();
                let kind = JointKind::Owner {
                    has,
                    name: name.to_owned(),
                    call: kept,
                };
                let body = Body::new().str(&asked);
                let member = "GetNameOwner";
                return self.start_joint(call.id, call.frame, member, kind, None, Some(&body), out);
            }
        }
        if self.asks_host_about(call.id, name) {
            return self.ask_host_driver(call.id, call.frame, Purpose::Plain, out);
        }
        if has {
            return self.reply(call.id, call.header(), &Body::new().boolean(false), out);
        }
        let text = format!("Could not get owner of name '{name}': no such name");
        self.refuse(
            call.id,
            call.header(),
            error_names::NAME_HAS_NO_OWNER,
            &text,
            out,
        );
    }

    /// The name on the container bus of a name that is shifted.
    pub(in crate::hub) fn native_name(&self, name: &str) -> Option<UniqueName> {
        let unique = UniqueName::parse(name)?;
        self.remote
            .as_ref()?
            .native(unique)
            .filter(|_| !self.clients.contains_key(&unique))
    }

    /// Whether a question about a name that is not inside may go to the host.
    pub(in crate::hub) fn asks_host_about(&self, id: SessionId, name: &str) -> bool {
        if self.host.is_none() {
            return false;
        }
        if self.lives_on_host(id) {
            return self.host_side_sees(id, name);
        }
        match UniqueName::parse(name) {
            Some(unique) => {
                self.peer_is_visible(id, unique)
                    && self
                        .remote
                        .as_ref()
                        .is_none_or(|remote| !remote.is_shifted(unique))
            }
            None => self.host_name_is_visible(name),
        }
    }

    /// Whether a name that is owned on the host is one that the inside could start, too.
    fn inside_can_start(&self, name: &str) -> bool {
        match &self.remote {
            None => self.activation.can_start(name),
            Some(remote) => remote.control.view.can_start(name),
        }
    }

    pub(super) fn start_service_by_name(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let (id, name) = (call.id, call.str());
        let header = call.header();
        let already = Body::new().u32(START_REPLY_ALREADY_RUNNING);
        if name == DRIVER {
            return self.reply(id, header, &already, out);
        }
        if let Some(unique) = UniqueName::parse(name)
            && (self.clients.contains_key(&unique) || self.native_name(name).is_some())
        {
            return self.reply(id, header, &already, out);
        }
        // A connection with names of both kinds is judged by the interface; to start it is to use its name.
        let mut wish = *header;
        wish.interface = Some(name);
        wish.flags = Flags(header.flags.0 & !Flags::NO_AUTO_START.0);
        let target = self.resolve_well_known(id, name, true, &wish);
        self.report_start(id, header, name, &target, out);
        match target {
            Target::Inside(_) => self.reply(id, header, &already, out),
            Target::Activate(name) => {
                if !self.may_start(id) {
                    return self.refuse_start(id, header, &name, out);
                }
                if self.activation.waits_of(id) >= self.config.limits.pending_activations {
                    let text = "Too much waits for services that are being started";
                    return self.refuse(id, header, error_names::LIMITS_EXCEEDED, text, out);
                }
                if header.flags.contains(Flags::NO_REPLY_EXPECTED) {
                    // Started all the same; nobody is told.
                    let waiting = Waiting::Quiet { from: id };
                    return self.wait_for_service(&name, waiting, out);
                }
                let waiting = Waiting::Start {
                    from: id,
                    serial: header.serial,
                };
                self.wait_for_service(&name, waiting, out);
            }
            // The host would not know the name, where it is one to be started inside.
            Target::Host if self.inside_can_start(name) => self.reply(id, header, &already, out),
            Target::Host => {
                if self.note_driver_call(id, call.frame, Purpose::Plain, false, out) {
                    let port = crate::port::Port::Link(crate::port::Bus::Host, id);
                    self.send_raw(port, call.frame, out);
                }
            }
            Target::Container(_) => {
                self.ask_container_driver(id, call.frame, Purpose::Plain, out);
            }
            Target::Unknown(name) => {
                let kept = [header.raw(), call.frame.body.bytes()].concat();
                let asked = Body::new().str(&name);
                let kind = JointKind::Start { name, call: kept };
                self.start_joint(
                    id,
                    call.frame,
                    "GetNameOwner",
                    kind,
                    None,
                    Some(&asked),
                    out,
                );
            }
            Target::Forbidden => {
                self.counters.refused += 1;
                let text = format!("{name} may not be started from here: no rule allows it");
                self.refuse(id, header, error_names::ACCESS_DENIED, &text, out);
            }
            Target::Nobody => {
                let (error, text) = super::super::clients::nobody(name, Flags(0));
                self.refuse(id, header, error, &text, out);
            }
            Target::Refused => {
                self.counters.refused += 1;
                let text = format!("{name} may not be started from inside: it hands over the host");
                self.refuse(id, header, error_names::ACCESS_DENIED, &text, out);
            }
        }
    }

    pub(super) fn update_environment(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        if call.header().path != Some(super::DRIVER_PATH) {
            let text = format!(
                "UpdateActivationEnvironment is at {} only",
                super::DRIVER_PATH
            );
            let error = error_names::ACCESS_DENIED;
            return self.refuse(call.id, call.header(), error, &text, out);
        }
        if self.remote.is_some() {
            return self.ask_container_driver(call.id, call.frame, Purpose::Plain, out);
        }
        /// What one bus keeps for services, in bytes and in variables.
        const MOST: (usize, usize) = (256 * 1024, 1024);
        let mut variables = Vec::new();
        let read = call.args().array(|entry| {
            entry.struct_(|pair| {
                variables.push((pair.str()?.to_owned(), pair.str()?.to_owned()));
                Ok(())
            })
        });
        let environment = &self.activation.environment;
        let bytes = |all: &mut dyn Iterator<Item = (&String, &String)>| -> usize {
            all.map(|(key, value)| key.len() + value.len()).sum()
        };
        let total = bytes(&mut environment.iter())
            + bytes(&mut variables.iter().map(|(key, value)| (key, value)));
        if read.is_err() || total > MOST.0 || environment.len() + variables.len() > MOST.1 {
            let text = format!(
                "The bus keeps at most {} variables, {} bytes",
                MOST.1, MOST.0
            );
            return self.refuse(
                call.id,
                call.header(),
                error_names::LIMITS_EXCEEDED,
                &text,
                out,
            );
        }
        let wrong = variables
            .iter()
            .find(|(key, _)| key.is_empty() || key.contains('='));
        if let Some((key, _)) = wrong {
            let text = format!("\"{key}\" is not the name of a variable");
            return self.refuse(
                call.id,
                call.header(),
                error_names::INVALID_ARGS,
                &text,
                out,
            );
        }
        self.activation.environment.extend(variables);
        self.reply(call.id, call.header(), &Body::new(), out);
    }

    pub(super) fn reload_config(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        if self.remote.is_some() {
            return self.ask_container_driver(call.id, call.frame, Purpose::Plain, out);
        }
        // The directories of services are watched: what is there is known already.
        self.reply(call.id, call.header(), &Body::new(), out);
    }

    pub(super) fn get_id(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let body = Body::new().str(&self.config.guid.to_string());
        self.reply(call.id, call.header(), &body, out);
    }

    /// The list of what can be started has changed.
    pub(in crate::hub) fn announce_activatable(&mut self, out: &mut dyn Outbox) {
        self.driver_broadcast("ActivatableServicesChanged", &Body::new(), None, out);
    }
}
