//! Connections that begin: clients that are accepted and authenticate, and links to the buses behind.

use std::os::fd::OwnedFd;

use dbus_wire::address::Address;
use dbus_wire::sasl;
use rustix::io::Errno;

use super::connect::{self, Attempt};
use super::connection::{Connection, Stage, Stranger};
use super::io::{self, Alarm, Token};
use super::queue::Written;
use super::{ACCEPT_AGAIN, ACCEPTS, AGAIN, Admission, Router, Watched, peer};
use crate::outbox::Fds;
use crate::port::{Bus, Port};

impl Router {
    /// Handles a client's authentication. Returns how many bytes it used, when it is done.
    pub(super) fn authenticate(&mut self, token: Token, data: &[u8]) -> Option<usize> {
        let connection = self.io.at_mut(token.index)?;
        let Stage::Authenticating(state) = &mut connection.stage else {
            return None;
        };
        let mut answer = Vec::new();
        let progress = state.sasl.feed(data, &mut answer);
        let written = io::answer(connection, &answer);
        let done = match progress {
            Ok(progress) => progress.done.map(|done| (done, progress.consumed)),
            Err(error) => {
                self.fault(token, &error.to_string());
                return None;
            }
        };
        if written != Written::All {
            // Who does not read a few hundred bytes of answers is no client.
            self.fault(token, "it does not read the answers to its authentication");
            return None;
        }
        let (done, used) = done?;
        let connection = self.io.at_mut(token.index)?;
        let Stage::Authenticating(state) = std::mem::replace(&mut connection.stage, Stage::Open)
        else {
            return None;
        };
        let mut credentials = state.credentials;
        if self.hub.asks_for_program() && !state.claimed {
            credentials.program = peer::program(&credentials);
        }
        let connected = if state.trusted {
            Ok(self
                .hub
                .trusted_client_connected(credentials, done.unix_fds))
        } else {
            self.hub.client_connected(credentials, done.unix_fds)
        };
        match connected {
            Ok(id) => {
                self.io.bind(Port::Client(id), token.index);
                Some(used)
            }
            Err(error) => {
                self.fault(token, &error.to_string());
                None
            }
        }
    }

    /// Handles what a bus answers to our authentication. Returns how many bytes that was, when it is done.
    pub(super) fn join(&mut self, token: Token, data: &[u8]) -> Option<usize> {
        let connection = self.io.at_mut(token.index)?;
        let port = connection.port?;
        let Stage::Joining(client) = &mut connection.stage else {
            return None;
        };
        match client.feed(data) {
            Ok(progress) => {
                let done = progress.done?;
                connection.stage = Stage::Open;
                self.hub.link_opened(port, done.unix_fds);
                Some(progress.consumed)
            }
            Err(error) => {
                self.io.destroy(token.index);
                self.link_failed(port, &format!("authentication: {error}"));
                None
            }
        }
    }

    pub(super) fn link_failed(&mut self, port: Port, reason: &str) {
        if let Port::Control(bus) = port {
            let addresses = self.addresses(bus);
            let place: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            self.problem = Some((bus, format!("{}: {reason}", place.join(";"))));
        }
        self.hub.link_failed(port, reason, &mut self.io);
    }

    pub(super) fn addresses(&self, bus: Bus) -> &[Address] {
        let addresses = match bus {
            Bus::Host => &self.host,
            Bus::Container => &self.container,
        };
        addresses.as_deref().unwrap_or(&[])
    }

    /// Connects a link.
    pub(super) fn open(
        &mut self,
        link: Port,
        hello: Vec<u8>,
        unix_fds: bool,
        since: std::time::Instant,
    ) {
        let bus = match link {
            Port::Link(bus, _) | Port::Control(bus) => bus,
            Port::Client(_) => return,
        };
        match connect::connect(self.addresses(bus), &|command| {
            self.with_original_limits(command);
        }) {
            Attempt::Connected(socket, child) => {
                if let Some(child) = child {
                    self.watch_child(Watched::Transport, child);
                }
                let uid = (!self.mapped).then_some(self.uid);
                let mut client = sasl::Client::new(sasl::ClientConfig {
                    uid,
                    want_fds: unix_fds,
                });
                let mut first = Vec::with_capacity(128 + hello.len());
                client.start(&mut first);
                first.extend_from_slice(&hello);
                let stage = Stage::Joining(Box::new(client));
                let token = self.io.insert(Connection::new(socket, Some(link), stage));
                self.io.forward(link, &first, Fds::NONE);
                self.io
                    .alarm(self.hub.limits().link_time, Alarm::Link(token));
            }
            Attempt::Busy if since.elapsed() < self.hub.limits().link_time => {
                let number = self.next_busy;
                self.next_busy += 1;
                self.busy.insert(number, (link, hello, unix_fds, since));
                self.io.alarm(AGAIN, Alarm::Connect(number));
            }
            Attempt::Busy => {
                let seconds = self.hub.limits().link_time.as_secs();
                let reason = format!("it has not accepted a connection for {seconds} seconds");
                self.link_failed(link, &reason);
            }
            Attempt::Failed(reason) => {
                if let Port::Control(bus) = link {
                    self.problem = Some((bus, reason.clone()));
                }
                self.hub.link_failed(link, &reason, &mut self.io);
            }
        }
    }

    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.listener else {
                return;
            };
            let socket = match listener.accept() {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(errno) => {
                    // EMFILE and its kin: who is connected goes on; new ones wait until there is room.
                    tracing::warn!(error = %errno, "cannot accept a client now");
                    self.accept_later = true;
                    self.io.alarm(ACCEPT_AGAIN, Alarm::Accept);
                    return;
                }
            };
            self.welcome(socket, None);
        }
    }

    /// A client that has connected may authenticate: as whom `admission` says, if it came that way.
    pub(super) fn welcome(&mut self, socket: OwnedFd, admission: Option<Admission>) {
        let Some(credentials) = peer::credentials(&socket) else {
            return;
        };
        // A link of ours to a bus speaks for its client with our own identity.
        if credentials.uid != self.uid && credentials.uid != 0 {
            tracing::warn!(uid = credentials.uid, "refused a client of another user");
            return;
        }
        let config = sasl::ServerConfig {
            accept_uid: peer::uid_inside(&credentials),
            allow_fds: self.hub.unix_fds(),
            ..sasl::ServerConfig::new(self.hub.guid(), credentials.uid)
        };
        let trusted = admission.as_ref().is_some_and(|it| it.trusted);
        let claims = admission.and_then(|it| it.credentials);
        let state = Box::new(Stranger {
            sasl: sasl::Server::new(config),
            claimed: claims.is_some(),
            credentials: claims.unwrap_or(credentials),
            trusted,
        });
        let connection = Connection::new(socket, None, Stage::Authenticating(state));
        let token = self.io.insert(connection);
        self.io
            .alarm(self.hub.limits().hello_time, Alarm::Hello(token));
        if !trusted {
            self.strangers.push_back(token);
            self.turn_away_strangers();
        }
    }

    /// Who connects and does not authenticate gives way to those who come after.
    pub(super) fn turn_away_strangers(&mut self) {
        let most = self.hub.limits().unregistered_clients;
        if self.strangers.len() <= most {
            return;
        }
        let io = &self.io;
        self.strangers.retain(|token| {
            let connection = io.live(*token).and_then(|index| io.at(index));
            connection.is_some_and(|it| matches!(it.stage, Stage::Authenticating(_)))
        });
        if self.strangers.len() > most
            && let Some(oldest) = self.strangers.pop_front()
        {
            self.fault(oldest, "too many clients have not authenticated");
        }
    }
}
