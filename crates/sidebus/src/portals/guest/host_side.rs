//! What the host says to a client's link, and what the guest is told of it.

use std::collections::HashMap;
use std::time::Duration;

use zbus::message::Type;
use zbus::{Message, Variant};

use super::{Guest, Pending, boxed, names};
use crate::portals::decisions::Verdict;
use crate::portals::host::is_name_change;
use crate::portals::notifications::Notifications;
use crate::portals::refusal::Refusal;
use crate::portals::table::{self, Hand, Out, Reach};
use crate::portals::translate::imported_action;
use crate::portals::values::{self, Value};

/// Responses that are kept until their handle is told, at most.
const MOST_EARLY: usize = 64;
/// Transfers that may be written at most, of one client.
const MOST_TRANSFERS: usize = 64;
/// How long a program of the guest may take to be told of an action.
const ACTION_PATIENCE: Duration = Duration::from_secs(5);

impl Guest {
    /// A message has come.
    pub(super) async fn heard(&mut self, message: Message) {
        match message.message_type() {
            Type::MethodReturn | Type::Error => {
                let serial = message.header().reply_serial();
                if let Some(pending) = serial.and_then(|serial| self.pending.remove(&serial)) {
                    self.replied(pending, &message).await;
                }
            }
            Type::Signal if is_name_change(&message) => {
                let gone = values::arguments(&message).is_ok_and(|arguments| {
                    matches!(arguments.get(1).and_then(values::text), Some(old) if !old.is_empty())
                });
                if gone {
                    self.host_is_gone("the host's portal has gone").await;
                }
            }
            Type::Signal => self.signalled(message).await,
            // Nobody calls a method of a client's link.
            Type::MethodCall => {}
        }
    }

    async fn replied(&mut self, pending: Pending, reply: &Message) {
        let translated = match self.refusal_in(reply) {
            Some(refusal) => Err(refusal),
            None => self.translate_reply(&pending, reply).await,
        };
        match translated {
            Ok(values) => {
                self.reply(&pending.call.message, values).await;
                if let Some(host) = &pending.request {
                    self.handle_is_told(host).await;
                }
            }
            Err(refusal) => {
                if let Some(host) = &pending.request {
                    self.requests.remove_host(host);
                }
                if let Some(host) = &pending.session {
                    self.sessions.remove_host(host);
                }
                self.reply_error(&pending.call.message, &refusal).await;
            }
        }
    }

    fn refusal_in(&self, reply: &Message) -> Option<Refusal> {
        if reply.message_type() != Type::Error {
            return None;
        }
        let name = reply.header().error_name().map_or(
            "org.freedesktop.DBus.Error.Failed".to_owned(),
            ToString::to_string,
        );
        let text = values::arguments(reply)
            .ok()
            .and_then(|arguments| arguments.first().and_then(values::text).map(str::to_owned));
        Some(Refusal::named(name, text.unwrap_or_default()))
    }

    async fn translate_reply(
        &mut self,
        pending: &Pending,
        reply: &Message,
    ) -> Result<Vec<Value>, Refusal> {
        let mut values = values::arguments(reply)?;
        if pending.method.hand == Hand::ReadSettings
            && let Some(settings) = values.first_mut()
        {
            *settings = self.shown_settings(settings)?;
        }
        if pending.writable
            && self.writable_transfers.len() < MOST_TRANSFERS
            && let Some(key) = values.first().and_then(values::text)
        {
            self.writable_transfers.insert(key.to_owned());
        }
        for (out, value) in pending.method.outs.iter().zip(&values) {
            let Some(told) = values::path_text(value) else {
                continue;
            };
            match (out.role, &pending.request, &pending.session) {
                (Out::Handle, Some(expected), _) => self.requests.move_host(expected, told),
                (Out::Session, _, Some(expected)) => self.sessions.move_host(expected, told),
                _ => {}
            }
        }
        let guest_session = self.guest_sessions();
        let session = |host: &str| guest_session.get(host).cloned();
        let mut translated = self
            .translator(pending.version)
            .outs(pending.method.outs, values, &session)
            .await?;
        for (out, value) in pending.method.outs.iter().zip(&mut translated) {
            if let Out::Handle = out.role {
                let host = values::path_text(value).unwrap_or_default();
                let (guest, _) = self
                    .requests
                    .at_host(host)
                    .ok_or_else(|| Refusal::failed("the host gave a handle of another request"))?;
                *value = zbus::ObjectPath::try_from(guest.to_owned())
                    .map(Value::from)
                    .map_err(|error| Refusal::failed(error.to_string()))?;
            }
        }
        Ok(translated)
    }

    /// The guest has its request's handle: what came early is told now.
    async fn handle_is_told(&mut self, host: &str) {
        // The host may have given it another path than was expected.
        self.requests
            .mark(|open| open.answered = true, |path| path == host);
        for message in std::mem::take(&mut self.early) {
            Box::pin(self.signalled(message)).await;
        }
    }

    fn keep(&mut self, response: Message) {
        if self.early.len() == MOST_EARLY {
            self.early.remove(0);
        }
        self.early.push(response);
    }

    fn shown_settings(&self, settings: &Value) -> Result<Value, Refusal> {
        let Variant::Dict(all) = settings else {
            return Err(Refusal::failed(
                "the host's settings are not as they are described",
            ));
        };
        let failed = |error: zbus::Error| Refusal::failed(format!("the host's settings: {error}"));
        let values_signature =
            zbus::Signature::dict(zbus::Signature::Str, zbus::Signature::Variant);
        let mut shown = zbus::Dict::new(&zbus::Signature::Str, &values_signature);
        for (namespace, values) in all.iter() {
            let allowed = matches!(namespace, Variant::Str(name) if self.shared.policy.allows_setting(name.as_str()));
            if allowed {
                shown
                    .append(values::owned(namespace)?, values::owned(values)?)
                    .map_err(failed)?;
            }
        }
        Ok(Variant::Dict(shown))
    }

    /// The guest's handles of sessions, by the host's.
    fn guest_sessions(&self) -> HashMap<String, String> {
        self.sessions
            .iter()
            .filter_map(|(guest, _)| {
                Some((self.sessions.host_of(guest)?.to_owned(), guest.to_owned()))
            })
            .collect()
    }

    async fn signalled(&mut self, message: Message) {
        let header = message.header();
        let path = header
            .path()
            .map(|path| path.to_string())
            .unwrap_or_default();
        let (interface, member) = names(&message);
        match (interface.as_str(), member.as_str()) {
            ("org.freedesktop.portal.Request", "Response") => {
                match self.requests.at_host(&path).map(|(_, open)| open.answered) {
                    Some(true) => self.responded(&path, &message).await,
                    Some(false) => self.keep(message.clone()),
                    // The host has given the handle another path, and has not told it yet; or it is closed.
                    None if !self.pending.is_empty() => self.keep(message.clone()),
                    None => {}
                }
            }
            ("org.freedesktop.portal.Session", "Closed") => {
                if let Some((guest, _)) = self.sessions.remove_host(&path) {
                    let details = match values::arguments(&message) {
                        Ok(details)
                            if !details.iter().any(|value| values::has_descriptor(value)) =>
                        {
                            details
                        }
                        _ => vec![values::dictionary([])],
                    };
                    self.emit(&guest, "org.freedesktop.portal.Session", "Closed", details)
                        .await;
                }
            }
            _ => self.portal_signalled(&message, &interface, &member).await,
        }
    }

    async fn portal_signalled(&mut self, message: &Message, interface: &str, member: &str) {
        let Some(interface) = table::interface(interface) else {
            return;
        };
        let Some(signal) = interface.signal(member) else {
            return;
        };
        if signal.reach == Reach::Everyone || self.check_policy(interface).is_err() {
            // The watching connection passes on what is for all.
            return;
        }
        let Ok(mut values) = values::arguments(message) else {
            return;
        };
        let mut exported = None;
        if signal.reach == Reach::Notification {
            let id = values
                .first()
                .and_then(values::text)
                .unwrap_or_default()
                .to_owned();
            let Some(id) = Notifications::guest_id(&self.app_id, &id) else {
                return;
            };
            let action = values.get(1).and_then(values::text).unwrap_or_default();
            let action = imported_action(action).to_owned();
            if let Some(parameter) = values.get(2) {
                self.shared.tokens().learn(parameter);
            }
            exported = action.strip_prefix("app.").map(str::to_owned);
            if let [first, second, ..] = values.as_mut_slice() {
                *first = Value::from(id.to_owned());
                *second = Value::from(action);
            }
        }
        let guest_sessions = self.guest_sessions();
        let session = |host: &str| guest_sessions.get(host).cloned();
        let translated = self
            .translator(interface.version)
            .outs(signal.args, values, &session)
            .await;
        match translated {
            Ok(values) => {
                if let Some(action) = exported
                    && let Some(parameter) = values.get(2)
                    && self.activate(&action, parameter).await
                {
                    return;
                }
                self.emit(
                    interface.service.path(),
                    interface.name,
                    signal.name,
                    values,
                )
                .await;
            }
            Err(refusal) => tracing::debug!(
                interface = interface.name,
                member,
                %refusal,
                "a signal of the host's is for no session of this client"
            ),
        }
    }

    /// An exported action of a notification: the application's own object is told, if it is on the guest's bus.
    async fn activate(&self, action: &str, parameter: &Value) -> bool {
        let Some(app) = &self.claimed else {
            return false;
        };
        let path = format!("/{}", app.replace('.', "/").replace('-', "_"));
        let Ok(items) = values::items(parameter) else {
            return false;
        };
        let mut items = items.iter().map(values::unwrapped);
        let (mut target, mut platform) = (Vec::new(), values::dictionary([]));
        for item in &mut items {
            match (values::owned(item), values::signature(item).as_str()) {
                (Ok(data), "a{sv}") => platform = data,
                (Ok(item), _) => target.push(boxed(item)),
                (Err(_), _) => return false,
            }
        }
        let Ok(target) = values::array("v", target) else {
            return false;
        };
        let structure = zbus::Structure::builder()
            .append_field(Value::from(action.to_owned()))
            .append_field(target)
            .append_field(platform)
            .build();
        let Ok(structure) = structure else {
            return false;
        };
        let call = self.shared.vm.call_method(
            Some(app.as_str()),
            path.as_str(),
            Some("org.freedesktop.Application"),
            "ActivateAction",
            &structure,
        );
        matches!(tokio::time::timeout(ACTION_PATIENCE, call).await, Ok(Ok(_)))
    }

    /// A request has ended.
    async fn responded(&mut self, host: &str, message: &Message) {
        let Ok(arguments) = values::arguments(message) else {
            return;
        };
        let mut arguments = arguments.into_iter();
        let (Some(Variant::U32(code)), Some(results)) = (arguments.next(), arguments.next()) else {
            return;
        };
        let Some((guest, open)) = self.requests.at_host(host) else {
            return;
        };
        let guest = guest.to_owned();
        let (interface, method, session) = (open.interface, open.method, open.session.clone());
        let Some(response) = &method.response else {
            return;
        };
        let (code, results) = if code == 0 {
            if let Some(expected) = &session
                && let Ok(entries) = values::owned(&results).and_then(values::entries)
                && let Some((_, told)) = entries.iter().find(|(key, _)| key == "session_handle")
                && let Some(told) = values::path_text(told)
            {
                self.sessions.move_host(expected, told);
            }
            let guest_sessions = self.guest_sessions();
            let guest_session = |host: &str| guest_sessions.get(host).cloned();
            let translated = self
                .translator(interface.version)
                .results(response, results, &guest_session)
                .await;
            match translated {
                Ok((results, left_out)) => {
                    for key in left_out {
                        self.note(
                            interface.name,
                            method.name,
                            Some(&key),
                            Verdict::LeftOut,
                            Some("this result does not cross"),
                        );
                    }
                    (0, results)
                }
                Err(refusal) => {
                    tracing::warn!(
                        interface = interface.name,
                        method = method.name,
                        %refusal,
                        "what the host answered cannot be handed to the guest"
                    );
                    (2, values::dictionary([]))
                }
            }
        } else {
            (code, values::dictionary([]))
        };
        if code != 0 || !response.lasting {
            self.requests.remove_host(host);
        }
        if code != 0
            && let Some(session) = session
        {
            self.sessions.remove_host(&session);
        }
        let body = vec![Value::from(code), results];
        self.emit(&guest, "org.freedesktop.portal.Request", "Response", body)
            .await;
    }

    /// The host's portal, or its bus, is not there any more: nothing that waits for it waits on.
    pub(super) async fn host_is_gone(&mut self, why: &str) {
        self.link = None;
        self.early.clear();
        self.writable_transfers.clear();
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Some(host) = &pending.request {
                self.requests.remove_host(host);
            }
            if let Some(host) = &pending.session {
                self.sessions.remove_host(host);
            }
            self.reply_error(&pending.call.message, &Refusal::no_reply(why))
                .await;
        }
        for (guest, _, _) in self.requests.drain() {
            let body = vec![Value::from(2u32), values::dictionary([])];
            self.emit(&guest, "org.freedesktop.portal.Request", "Response", body)
                .await;
        }
        for (guest, _, _) in self.sessions.drain() {
            let body = vec![values::dictionary([])];
            self.emit(&guest, "org.freedesktop.portal.Session", "Closed", body)
                .await;
        }
    }
}
