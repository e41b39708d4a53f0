//! Calls to the driver that concern both buses and get one answer (remote container bus only).

use std::collections::HashMap;
use std::sync::Arc;

use dbus_wire::body::{Body, Reader};
use dbus_wire::error_names;
use dbus_wire::frame::MessageType;
use dbus_wire::match_rule::MatchRule;
use dbus_wire::message::Builder;
use dbus_wire::names::{UniqueName, WellKnownName};

use super::{DRIVER, DRIVER_PATH, Frame, Hub};
use crate::outbox::{Fds, Outbox, Outgoing, Payload};
use crate::port::{Bus, Port, SessionId};
use crate::session::{DriverCall, Purpose};

/// One call that is under way on both buses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct JointId(u64);

/// What the two answers are made into.
#[derive(Clone, Debug)]
pub(super) enum JointKind {
    /// Undone everywhere if one bus refuses.
    AddMatch(Arc<MatchRule>),
    RemoveMatch,
    Names {
        activatable: bool,
    },
    /// GetNameOwner or NameHasOwner: the container bus is asked first; then, with the call as it came, the host.
    Owner {
        has: bool,
        name: String,
        call: Vec<u8>,
    },
    /// StartServiceByName of a name that the client has not asked the container bus for yet: that is asked first,
    /// and then it is decided where to start it.
    Start {
        name: WellKnownName,
        call: Vec<u8>,
    },
}

/// What one bus has said.
#[derive(Clone, Debug)]
enum Half {
    Said { names: Vec<String> },
    Refused { error: String, text: String },
}

#[derive(Debug)]
struct Joint {
    session: SessionId,
    serial: u32,
    wants_reply: bool,
    kind: JointKind,
    due: u8,
    host: Option<Half>,
    container: Option<Half>,
}

/// All calls that are under way.
#[derive(Default, Debug)]
pub(super) struct Joints {
    all: HashMap<JointId, Joint>,
    next: u64,
}

impl Joints {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Hub {
    /// Starts a joint call. `host` and `container` are the bodies of the halves.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn start_joint(
        &mut self,
        id: SessionId,
        frame: &Frame<'_>,
        member: &str,
        kind: JointKind,
        host: Option<&Body>,
        container: Option<&Body>,
        out: &mut dyn Outbox,
    ) {
        let joint = JointId(self.joints.next);
        self.joints.next += 1;
        let header = &frame.header;
        let due = u8::from(host.is_some()) + u8::from(container.is_some());
        let wants_reply = !header
            .flags
            .contains(dbus_wire::frame::Flags::NO_REPLY_EXPECTED);
        self.joints.all.insert(
            joint,
            Joint {
                session: id,
                serial: header.serial,
                wants_reply,
                kind,
                due,
                host: None,
                container: None,
            },
        );
        for (bus, body) in [(Bus::Host, host), (Bus::Container, container)] {
            if let Some(body) = body {
                self.ask_driver(id, bus, member, body, Purpose::Half(joint), out);
            }
        }
        if due == 0 {
            self.joint_is_complete(joint, out);
        }
    }

    /// A call of our own to the driver of a bus, on a client's link.
    pub(super) fn ask_driver(
        &mut self,
        id: SessionId,
        bus: Bus,
        member: &str,
        body: &Body,
        purpose: Purpose,
        out: &mut dyn Outbox,
    ) {
        let Some(session) = self.session_mut(id) else {
            return;
        };
        let ticket = Some(session.ticket());
        let link = match bus {
            Bus::Host => &mut session.host,
            Bus::Container => &mut session.container,
        };
        let Some(link) = link else { return };
        let serial = link.own_serial();
        link.driver.push_back(DriverCall {
            serial,
            ticket,
            purpose,
        });
        let call = Builder::method_call(DRIVER_PATH, member)
            .interface(DRIVER)
            .destination(DRIVER)
            .serial(serial)
            .body(body)
            .build();
        out.send(Port::Link(bus, id), Outgoing::whole(&call));
    }

    /// One bus has answered its half.
    pub(super) fn half_answered(
        &mut self,
        id: JointId,
        bus: Bus,
        frame: &Frame<'_>,
        out: &mut dyn Outbox,
    ) {
        let header = &frame.header;
        let mut reader = Reader::new(header.endian, header.signature, frame.body.bytes());
        let half = if header.kind == MessageType::Error {
            Half::Refused {
                error: header.error_name.unwrap_or(error_names::FAILED).to_owned(),
                text: reader.str().unwrap_or_default().to_owned(),
            }
        } else {
            let names = match header.signature {
                "as" => reader
                    .strs()
                    .unwrap_or_default()
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                "s" => reader.str().into_iter().map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            Half::Said { names }
        };
        self.half_ended(id, bus, half, out);
    }

    fn half_ended(&mut self, id: JointId, bus: Bus, half: Half, out: &mut dyn Outbox) {
        let Some(joint) = self.joints.all.get_mut(&id) else {
            return;
        };
        match bus {
            Bus::Host => joint.host = Some(half),
            Bus::Container => joint.container = Some(half),
        }
        joint.due -= 1;
        if joint.due == 0 {
            self.joint_is_complete(id, out);
        }
    }

    /// A bus is gone, and with it its half of a call.
    pub(super) fn half_lost(&mut self, id: JointId, bus: Bus, out: &mut dyn Outbox) {
        let half = Half::Refused {
            error: error_names::DISCONNECTED.to_owned(),
            text: format!("The {bus} is gone"),
        };
        self.half_ended(id, bus, half, out);
    }

    fn joint_is_complete(&mut self, id: JointId, out: &mut dyn Outbox) {
        let Some(joint) = self.joints.all.remove(&id) else {
            return;
        };
        let session = joint.session;
        let result = match &joint.kind {
            JointKind::AddMatch(rule) => self.match_added(&joint, rule, out),
            JointKind::RemoveMatch => Ok(Body::new()),
            JointKind::Names { activatable } => self.names_joined(&joint, *activatable),
            JointKind::Owner { has, name, call } => {
                match self.owner_joined(&joint, *has, name) {
                    Some(result) => result,
                    // Not inside: the host's answer is the answer.
                    None => return self.forward_kept_call(session, call, out),
                }
            }
            JointKind::Start { name, call } => {
                let owner = match &joint.container {
                    Some(Half::Said { names }) => names.first(),
                    _ => None,
                };
                let owner = owner.and_then(|it| UniqueName::parse(it));
                self.container_was_asked(session, name.clone(), owner);
                if let Some(frame) = kept_frame(call) {
                    self.take_for_driver(session, &frame, out);
                }
                return out.resume(Port::Client(session));
            }
        };
        if joint.wants_reply {
            match result {
                Ok(body) => self.reply_to_serial(session, joint.serial, &body, out),
                Err((error, text)) => {
                    self.refuse_serial(session, joint.serial, &error, &text, out);
                }
            }
        }
        out.resume(Port::Client(session));
    }

    fn match_added(
        &mut self,
        joint: &Joint,
        rule: &Arc<MatchRule>,
        out: &mut dyn Outbox,
    ) -> Result<Body, (String, String)> {
        let id = joint.session;
        let refusal = [&joint.host, &joint.container]
            .into_iter()
            .find_map(|half| match half {
                Some(Half::Refused { error, text }) => Some((error.clone(), text.clone())),
                _ => None,
            });
        let Some(refusal) = refusal else {
            return Ok(Body::new());
        };
        self.remove_rule(id, rule);
        if matches!(joint.host, Some(Half::Said { .. })) {
            let body = Body::new().str(&without_eavesdrop(rule).to_string());
            self.ask_driver(id, Bus::Host, "RemoveMatch", &body, Purpose::Ignored, out);
        }
        if matches!(joint.container, Some(Half::Said { .. }))
            && let Some(rule) = self.container_rule(rule)
        {
            let body = Body::new().str(&rule.to_string());
            self.ask_driver(
                id,
                Bus::Container,
                "RemoveMatch",
                &body,
                Purpose::Ignored,
                out,
            );
        }
        Err(refusal)
    }

    fn names_joined(&self, joint: &Joint, activatable: bool) -> Result<Body, (String, String)> {
        let host = match &joint.host {
            Some(Half::Refused { error, text }) => return Err((error.clone(), text.clone())),
            Some(Half::Said { names }) => names.as_slice(),
            None => &[],
        };
        let mut names =
            self.merged_names(joint.session, host.iter().map(|name| &**name), activatable);
        let known: std::collections::HashSet<String> = names.iter().cloned().collect();
        if let Some(Half::Said { names: inside }) = &joint.container {
            for name in inside {
                let shown = match UniqueName::parse(name) {
                    Some(raw) => match self.native_shown(raw) {
                        Some(shown) => shown.to_string(),
                        None => continue,
                    },
                    // The host's, whoever has it there.
                    None if self.belongs_to_host(name) => continue,
                    None => name.clone(),
                };
                if !known.contains(&shown) {
                    names.push(shown);
                }
            }
        }
        Ok(Body::new().strs(names.iter().map(|name| &**name)))
    }

    fn owner_joined(
        &self,
        joint: &Joint,
        has: bool,
        name: &str,
    ) -> Option<Result<Body, (String, String)>> {
        if let Some(Half::Said { names }) = &joint.container
            && let Some(raw) = names.first().and_then(|name| UniqueName::parse(name))
        {
            let shown = self.container_shown(raw).to_string();
            return Some(Ok(if has {
                Body::new().boolean(true)
            } else {
                Body::new().str(&shown)
            }));
        }
        if !self.host_name_is_hidden(name) {
            return None;
        }
        Some(if has {
            Ok(Body::new().boolean(false))
        } else {
            let text = format!("Could not get owner of name '{name}': no such name");
            Err((error_names::NAME_HAS_NO_OWNER.to_owned(), text))
        })
    }

    fn forward_kept_call(&mut self, id: SessionId, call: &[u8], out: &mut dyn Outbox) {
        if let Some(frame) = kept_frame(call) {
            self.ask_host_driver(id, &frame, Purpose::Plain, out);
        }
    }

    /// Whether a rule of this client's is on its way to the container bus.
    pub(super) fn is_adding(&self, id: SessionId, rule: &MatchRule) -> bool {
        self.joints.all.values().any(|joint| {
            joint.session == id
                && joint.container.is_none()
                && matches!(&joint.kind, JointKind::AddMatch(adding) if **adding == *rule)
        })
    }

    /// A client has gone: nobody waits for what it asked.
    pub(super) fn forget_joints(&mut self, id: SessionId) {
        self.joints.all.retain(|_, joint| joint.session != id);
    }

    /// Whether a call of this client's is under way on both buses.
    pub(super) fn has_joint(&self, id: SessionId) -> bool {
        self.joints.all.values().any(|joint| joint.session == id)
    }
}

/// A call that was kept, as it came.
fn kept_frame(call: &[u8]) -> Option<Frame<'_>> {
    let (header, body) = super::deliver::split(call)?;
    Some(Frame {
        header,
        body: Payload::Borrowed(body),
        fds: Fds::NONE,
    })
}

/// The rule as it goes to the host: eavesdropping is taken out, whatever the host's policy is.
pub(super) fn without_eavesdrop(rule: &MatchRule) -> MatchRule {
    MatchRule {
        eavesdrop: None,
        ..rule.clone()
    }
}
