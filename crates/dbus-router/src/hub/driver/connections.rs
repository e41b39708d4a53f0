//! The methods that tell who a connection is.

use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::message::Builder;
use dbus_wire::names::UniqueName;

use super::super::{DRIVER, Hub};
use super::Call;
use crate::outbox::{Fds, Outbox, Outgoing, Payload};
use crate::port::{Port, SessionId};
use crate::session::Purpose;

/// Whom a question is about.
enum Who {
    Driver,
    Client(SessionId),
}

impl Hub {
    /// Whom a name stands for, if we can tell; otherwise the question has been passed on or refused.
    fn who(&mut self, call: &Call<'_>, out: &mut dyn Outbox) -> Option<Who> {
        let name = call.str();
        if name == DRIVER {
            return Some(Who::Driver);
        }
        let owner = UniqueName::parse(name).or_else(|| self.owner_for(call.id, name));
        if let Some(&client) = owner.and_then(|owner| self.clients.get(&owner)) {
            return Some(Who::Client(client));
        }
        let inside_elsewhere = owner.is_some() && !name.starts_with(':');
        let raw = self.native_name(name).map(|raw| raw.to_string());
        if let Some(raw) = raw.or_else(|| inside_elsewhere.then(|| name.to_owned())) {
            self.ask_container_about(call.id, call.frame, &raw, Purpose::Plain, out);
        } else if self.asks_host_about(call.id, name) {
            self.ask_host_driver(call.id, call.frame, Purpose::Plain, out);
        } else {
            let text = format!("The name {name} does not exist");
            self.refuse(
                call.id,
                call.header(),
                error_names::NAME_HAS_NO_OWNER,
                &text,
                out,
            );
        }
        None
    }

    pub(super) fn connection_unix_user(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let uid = match self.who(call, out) {
            None => return,
            Some(Who::Driver) => self.config.uid,
            Some(Who::Client(id)) => self.session(id).map_or(0, |it| it.credentials.uid),
        };
        self.reply(call.id, call.header(), &Body::new().u32(uid), out);
    }

    pub(super) fn connection_process_id(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let pid = match self.who(call, out) {
            None => return,
            Some(Who::Driver) => Some(self.config.pid),
            Some(Who::Client(id)) => self.session(id).and_then(|it| it.credentials.pid),
        };
        match pid {
            Some(pid) => self.reply(call.id, call.header(), &Body::new().u32(pid), out),
            None => {
                let text = format!("Could not determine the process id of {}", call.str());
                let error = error_names::UNIX_PROCESS_ID_UNKNOWN;
                self.refuse(call.id, call.header(), error, &text, out);
            }
        }
    }

    pub(super) fn connection_credentials(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let Some(who) = self.who(call, out) else {
            return;
        };
        let caller_takes_fds = self
            .session(call.id)
            .is_some_and(|session| session.unix_fds);
        let own;
        let credentials = match who {
            Who::Driver => {
                own = crate::session::Credentials {
                    uid: self.config.uid,
                    pid: Some(self.config.pid),
                    ..Default::default()
                };
                &own
            }
            Who::Client(id) => match self.session(id) {
                Some(session) => &session.credentials,
                None => return,
            },
        };
        let process_fd = credentials.process_fd.clone().filter(|_| caller_takes_fds);
        let body = Body::new().dict_sv(|entries| {
            entries.entry("UnixUserID", |value| value.u32(credentials.uid));
            if let Some(pid) = credentials.pid {
                entries.entry("ProcessID", |value| value.u32(pid));
            }
            if !credentials.groups.is_empty() {
                entries.entry("UnixGroupIDs", |value| {
                    value.array("u", |array| {
                        credentials
                            .groups
                            .iter()
                            .fold(array, |array, group| array.u32(*group))
                    })
                });
            }
            if let Some(label) = &credentials.security_label {
                let label = [label.as_slice(), b"\0"].concat();
                entries.entry("LinuxSecurityLabel", |value| value.bytes(&label));
            }
            if process_fd.is_some() {
                entries.entry("ProcessFD", |value| value.unix_fd(0));
            }
        });
        let Some(fd) = process_fd.and_then(|fd| fd.try_clone().ok()) else {
            return self.reply(call.id, call.header(), &body, out);
        };
        if call
            .header()
            .flags
            .contains(dbus_wire::frame::Flags::NO_REPLY_EXPECTED)
        {
            return;
        }
        let name = self.display_name(call.id);
        let serial = call.header().serial;
        let reply = self
            .addressed(Builder::method_return(serial), &name)
            .unix_fds(1)
            .body(&body)
            .build();
        let fds = Fds::new(vec![fd]);
        // Descriptors cannot wait with the driver's other answers, which are bytes; they can as messages do.
        if let Some(session) = self.session_mut(call.id)
            && session.must_defer_driver()
        {
            session.defer(reply, fds, None);
        } else {
            let body = Payload::Borrowed(&[]);
            let message = Outgoing {
                head: &reply,
                body,
                fds: &fds,
                charge: None,
            };
            out.send(Port::Client(call.id), message);
        }
    }

    pub(super) fn connection_audit_data(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        if self.who(call, out).is_some() {
            let text = "Could not determine the audit session data of this connection";
            let error = error_names::ADT_AUDIT_DATA_UNKNOWN;
            self.refuse(call.id, call.header(), error, text, out);
        }
    }

    pub(super) fn connection_selinux(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let label = match self.who(call, out) {
            None => return,
            Some(Who::Driver) => None,
            Some(Who::Client(id)) => self
                .session(id)
                .and_then(|session| session.credentials.security_label.clone()),
        };
        match label {
            Some(label) => self.reply(call.id, call.header(), &Body::new().bytes(&label), out),
            None => {
                let text = "Could not determine the security context of this connection";
                let error = error_names::SELINUX_SECURITY_CONTEXT_UNKNOWN;
                self.refuse(call.id, call.header(), error, text, out);
            }
        }
    }
}
