//! What programs are told, and whether it may be so.

use std::os::fd::AsRawFd;

use dbus_router::Fds;
use dbus_wire::body::Body;
use dbus_wire::error_names;
use dbus_wire::frame::{Flags, MessageType, Scan, scan};
use dbus_wire::message::Message;
use dbus_wire::names::UniqueName;

use crate::program::{Aim, Debt, Expect, Realm, RuleState, State, Token, What};
use crate::world::{APPLICATION, DRIVER, Judged, NAMES, REFUSED, STARTED, World};

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

const NONE_THERE: &[&str] = &[error_names::SERVICE_UNKNOWN, error_names::NAME_HAS_NO_OWNER];

fn known_name(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|it| *it == name)
}

impl World {
    /// A program reads. Returns whether there was something.
    pub fn hear(&mut self, p: usize, all: bool) -> Result<bool, String> {
        let program = &mut self.programs[p];
        if program.state == State::Gone || !program.reading {
            return Ok(false);
        }
        if self.medium.wires.has_ended(program.end) {
            let excused = program.excused || self.unsettled || self.features.refusals;
            self.medium.trace.say(|| format!("P{p} is disconnected"));
            ensure!(excused, "P{p} was disconnected for no reason");
            self.gone(p);
            return Ok(true);
        }
        let there = self.medium.wires.readable(program.end);
        if there == 0 {
            return Ok(false);
        }
        let most = match self.medium.random.below(4) {
            0 if !all => 1 + self.medium.random.below(64),
            _ => usize::MAX,
        };
        let mut inbox = std::mem::take(&mut program.inbox);
        self.medium
            .wires
            .read(program.end, most, &mut inbox, &mut program.fds);
        let mut at = 0;
        while self.programs[p].state != State::Gone {
            let length = match scan(&inbox[at..]) {
                Ok(Scan::Message(prologue)) => prologue.message_len(),
                Ok(Scan::NeedBytes(_)) => break,
                Err(error) => return Err(format!("P{p} got no message: {error}")),
            };
            if inbox.len() - at < length {
                break;
            }
            let message = Message::parse(inbox[at..at + length].to_vec());
            at += length;
            let message = message.map_err(|error| format!("P{p} got a bad message: {error}"))?;
            self.heard(p, &message).map_err(|problem| {
                format!(
                    "P{p}: {problem}, on {}",
                    crate::node::tell(&message.header())
                )
            })?;
        }
        inbox.drain(..at);
        self.programs[p].inbox = inbox;
        Ok(true)
    }

    fn heard(&mut self, p: usize, message: &Message) -> Judged {
        let header = message.header();
        self.medium
            .trace
            .say(|| format!("P{p} hears {}", crate::node::tell(&header)));
        let program = &mut self.programs[p];
        let fds = match header.unix_fds {
            0 => Fds::NONE,
            _ => program.fds.pop_front().unwrap_or_default(),
        };
        ensure!(
            fds.len() == header.unix_fds as usize,
            "{} descriptors came",
            fds.len()
        );
        ensure!(
            fds.is_empty() || program.takes_fds,
            "descriptors came unasked"
        );
        let sender = header.sender.ok_or("no sender")?;
        if sender == DRIVER {
            return match header.kind {
                MessageType::Signal => self.heard_driver_signal(p, message),
                MessageType::MethodReturn | MessageType::Error => {
                    self.heard_reply(p, message, None)
                }
                _ => Err("a call from the bus".into()),
            };
        }
        ensure!(program.is_up(), "a message before the answer of Hello");
        if sender.starts_with(':') && header.signature.is_empty() {
            return Err("an answer that nobody asked for".into());
        }
        let (token, about) = read_tokens(message).ok_or("a body that nobody sent")?;
        self.medium
            .trace
            .say(|| format!("P{p} has got {token:?} about {about:?}"));
        self.check_shown(self.programs[p].realm, token.0, sender)?;
        let expected = self.sent_fds.get(&token).cloned().unwrap_or_default();
        let raw: Vec<i32> = fds.as_slice().iter().map(|fd| fd.as_raw_fd()).collect();
        ensure!(
            raw == expected,
            "descriptors {raw:?} came and {expected:?} were sent"
        );
        // A message that waited for a service is overtaken by others to it.
        if header.destination != Some(STARTED) {
            let last = self.programs[p].last_from.insert(token.0, token.1);
            ensure!(
                last.is_none_or(|last| last < token.1),
                "{token:?} came after {last:?}"
            );
        }
        match header.kind {
            MessageType::MethodCall => self.heard_call(p, message, token),
            MessageType::Signal => self.heard_signal(p, message, token),
            MessageType::MethodReturn | MessageType::Error => {
                self.heard_reply(p, message, Some((token, about)))
            }
            MessageType::Unknown(_) => Err("a message of an unknown type".into()),
        }
    }

    /// A program has one name for all of a realm.
    fn check_shown(&mut self, realm: Realm, of: usize, name: &str) -> Judged {
        match self.shown.get(&(realm, of)) {
            Some(known) => ensure!(known == name, "P{of} is {known} and was shown as {name}"),
            None => {
                let taken = self.shown.iter().find(|((it, other), shown)| {
                    let other = &self.programs[*other];
                    let here = other.state != State::Gone && other.era == self.programs[of].era;
                    *it == realm && *shown == name && here
                });
                ensure!(
                    taken.is_none(),
                    "P{of} was shown as {name}, as is {taken:?}"
                );
                let form = UniqueName::parse(name).ok_or("a strange name")?;
                let shifted = form.major >= 1_000_000;
                let native = realm == Realm::Inside && self.programs[of].realm == Realm::Container;
                ensure!(shifted == native, "P{of} was shown as {name}");
                self.shown.insert((realm, of), name.to_owned());
            }
        }
        Ok(())
    }

    fn heard_call(&mut self, p: usize, message: &Message, token: Token) -> Judged {
        let header = message.header();
        let destination = header.destination.ok_or("a call without destination")?;
        if destination.starts_with(':') {
            self.check_shown(self.programs[p].realm, p, destination)?;
        } else {
            let owns = self.programs[p].owns.contains(destination);
            ensure!(
                owns || self.unsettled,
                "a call to {destination}, of which it was not told that it owns it"
            );
        }
        let before = self.delivered.insert(token, p);
        ensure!(
            before.is_none(),
            "{token:?} was delivered to {before:?} already"
        );
        if !header.flags.contains(Flags::NO_REPLY_EXPECTED) {
            let debt = Debt {
                serial: header.serial,
                sender: header.sender.unwrap_or_default().to_owned(),
                token,
            };
            self.programs[p].debts.push(debt);
        }
        Ok(())
    }

    fn heard_signal(&mut self, p: usize, message: &Message, token: Token) -> Judged {
        let header = message.header();
        ensure!(self.programs[p].heard.insert(token), "{token:?} came twice");
        match header.destination {
            Some(destination) => self.check_shown(self.programs[p].realm, p, destination)?,
            None => {
                let wanted = self.wants(p, token.0, message.bytes(), false);
                ensure!(wanted, "a signal that no rule matches");
            }
        }
        self.duties.remove(&(p, token));
        Ok(())
    }

    fn heard_reply(&mut self, p: usize, message: &Message, of: Option<(Token, Token)>) -> Judged {
        let header = message.header();
        let serial = header.reply_serial.unwrap_or_default();
        let what = self.programs[p].calls.remove(&serial);
        let Some(what) = what else {
            return Err(format!(
                "an answer to #{serial}, which does not wait for one"
            ));
        };
        let own_name = header.destination == Some(&*self.programs[p].name);
        let greeting = matches!(what, What::Hello);
        if !greeting && self.programs[p].realm != Realm::Container {
            ensure!(own_name, "an answer for {:?}", header.destination);
        }
        if let What::To {
            aim,
            seq,
            fds,
            firm,
            expect,
        } = what
        {
            let error = (header.kind == MessageType::Error && of.is_none())
                .then(|| header.error_name.unwrap_or_default());
            return match (of, error) {
                (Some((token, about)), _) => {
                    ensure!(
                        about == (p, seq),
                        "the answer is for {about:?}, the call was {seq}"
                    );
                    self.answered(p, &aim, firm, expect, token.0)
                }
                (None, Some(error)) => self.refused(p, &aim, (p, seq), fds, firm, expect, error),
                (None, None) => Err("the bus answered for a program".into()),
            };
        }
        ensure!(of.is_none(), "a program answered for the bus");
        if header.kind == MessageType::Error {
            let error = header.error_name.unwrap_or_default();
            return self.driver_refused(p, &what, error);
        }
        let mut reader = message.reader();
        match what {
            What::Hello => {
                let name = reader.str().map_err(|it| it.to_string())?.to_owned();
                ensure!(header.destination == Some(&name), "Hello said {name}");
                let program = &mut self.programs[p];
                program.name.clone_from(&name);
                program.state = State::Up;
                let realm = program.realm;
                let service = program.service;
                self.check_shown(realm, p, &name)?;
                if realm == Realm::Inside && self.host.is_some() {
                    self.check_shown(Realm::Host, p, &name)?;
                }
                if realm == Realm::Host {
                    self.check_shown(Realm::Inside, p, &name)?;
                }
                if let Some(service) = service {
                    self.request(p, service, 0);
                }
            }
            What::Request { name, flags } => {
                let code = reader.u32().map_err(|it| it.to_string())?;
                let settled = !self.unsettled;
                let program = &mut self.programs[p];
                let owns = program.owns.contains(name);
                if settled {
                    ensure!(
                        owns == matches!(code, 1 | 4),
                        "RequestName({name}) is {code}"
                    );
                }
                let more = program.calls.values().any(|it| match it {
                    What::Request { name: it, .. } | What::Release { name: it } => *it == name,
                    _ => false,
                });
                if owns && flags & 1 == 0 && !more && settled && !program.vandal {
                    self.next_stint += 1;
                    program.firm.insert(name, self.next_stint);
                }
            }
            What::Release { name } => {
                let owns = self.programs[p].owns.contains(name);
                ensure!(
                    !owns || self.unsettled,
                    "ReleaseName({name}), and it still owns it"
                );
            }
            What::AddMatch(id) => {
                let mut rules = self.programs[p].rules.iter_mut();
                if let Some(rule) = rules.find(|it| it.id == id) {
                    rule.state = RuleState::Active;
                }
            }
            What::RemoveMatch(id) => self.programs[p].rules.retain(|it| it.id != id),
            What::Owner { name, expect } => {
                let owner = reader.str().map_err(|it| it.to_string())?.to_owned();
                self.heard_owner(p, name, &owner, expect)?;
            }
            What::Names { strict } => {
                let names = reader.strs().map_err(|it| it.to_string())?;
                self.heard_names(p, &names, strict)?;
            }
            What::HasOwner | What::Plain => {}
            What::To { .. } => {}
        }
        Ok(())
    }

    /// GetNameOwner agrees with the changes that the stream has told.
    fn heard_owner(
        &mut self,
        p: usize,
        name: &'static str,
        owner: &str,
        expect: Option<Option<String>>,
    ) -> Judged {
        if let Some(expect) = expect {
            let expect = expect.unwrap_or_default();
            ensure!(
                expect == owner,
                "{name} is owned by {owner:?}, and should be by {expect:?}"
            );
        }
        if self.programs[p].watches(name) {
            let told = self.programs[p].chain.insert(name, owner.to_owned());
            ensure!(
                told.as_ref().is_none_or(|told| told == owner),
                "{name} is owned by {owner:?}, and it was told {told:?}"
            );
        }
        Ok(())
    }

    fn heard_names(&mut self, p: usize, names: &[&str], strict: bool) -> Judged {
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        ensure!(sorted.len() == names.len(), "ListNames has one name twice");
        ensure!(names.contains(&DRIVER), "ListNames without the bus");
        if !strict {
            return Ok(());
        }
        let realm = self.programs[p].realm;
        for name in NAMES {
            let owned = self.view(realm, name).is_some();
            ensure!(
                names.contains(&name) == owned,
                "ListNames, and {name}: {owned}"
            );
        }
        let mut strangers = names.iter().filter(|it| it.starts_with(':')).count();
        for (q, program) in self.programs.iter().enumerate() {
            let name = self.shown.get(&(realm, q));
            let Some(name) = name.filter(|_| program.is_up()) else {
                continue;
            };
            let here = match (realm, program.realm) {
                (Realm::Inside, Realm::Host) if program.owns.contains(REFUSED) => continue,
                (Realm::Host, Realm::Container) | (Realm::Container, Realm::Host) => false,
                _ => true,
            };
            ensure!(
                names.contains(&&**name) == here,
                "ListNames, and {name}: {here}"
            );
            strangers -= usize::from(here);
        }
        let unknown = self.programs.iter().enumerate();
        let unknown = unknown
            .filter(|(q, it)| it.is_up() && !self.shown.contains_key(&(realm, *q)))
            .count();
        // The router itself is on both buses; and who was not met yet has a name that we do not know.
        let hidden = self
            .programs
            .iter()
            .filter(|it| it.owns.contains(REFUSED))
            .count();
        ensure!(
            strangers <= unknown + 1 + hidden,
            "ListNames has {strangers} strangers: {names:?}"
        );
        Ok(())
    }

    /// Who owns a name, for those of a realm. Right when nothing is under way.
    pub fn view(&self, realm: Realm, name: &str) -> Option<usize> {
        let among = |realms: &[Realm]| {
            self.programs.iter().position(|program| {
                program.is_up() && realms.contains(&program.realm) && program.owns.contains(name)
            })
        };
        match realm {
            Realm::Host => among(&[Realm::Host]),
            Realm::Container => among(&[Realm::Inside, Realm::Container]),
            Realm::Inside => among(&[Realm::Inside, Realm::Container]).or_else(|| {
                among(&[Realm::Host]).filter(|_| name != REFUSED && name != APPLICATION)
            }),
        }
    }

    fn still_firm(&self, name: &'static str, firm: Option<(usize, u64)>) -> Option<usize> {
        let (owner, stint) = firm?;
        let owner = Some(owner).filter(|owner| !self.programs[*owner].excused)?;
        (self.programs[owner].firm.get(name) == Some(&stint)).then_some(owner)
    }

    fn answered(
        &mut self,
        p: usize,
        aim: &Aim,
        firm: Option<(usize, u64)>,
        expect: Option<Expect>,
        by: usize,
    ) -> Judged {
        match *aim {
            Aim::Unique(to) => ensure!(to == by, "P{to} was called, and P{by} answered"),
            Aim::Name(name) => {
                let requested = self.programs[by].requested.contains(name);
                ensure!(requested, "{name} was called, and P{by} answered");
                if let Some(owner) = self.still_firm(name, firm) {
                    ensure!(owner == by, "{name} is P{owner}'s, and P{by} answered");
                }
                let hidden = name == REFUSED || name == APPLICATION;
                let outside = self.programs[by].realm == Realm::Host;
                let inside = self.programs[p].realm == Realm::Inside;
                ensure!(
                    !(hidden && outside && inside),
                    "{name} of the host answered"
                );
            }
            Aim::Nobody => return Err(format!("nobody was called, and P{by} answered")),
        }
        match expect {
            None => Ok(()),
            Some(Expect::AnswerOf(owner)) if owner == by => Ok(()),
            Some(expect) => Err(format!("P{by} answered, and not {expect:?}")),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn refused(
        &mut self,
        p: usize,
        aim: &Aim,
        token: Token,
        fds: bool,
        firm: Option<(usize, u64)>,
        expect: Option<Expect>,
        error: &str,
    ) -> Judged {
        if let Some(expect) = expect {
            let right = matches!(&expect, Expect::Error(all) if all.contains(&error));
            ensure!(right, "{error}, and not {expect:?}");
        }
        if self.unsettled || self.features.refusals {
            return Ok(());
        }
        if error == error_names::LIMITS_EXCEEDED && self.features.slow {
            return Ok(());
        }
        let got_by = self.delivered.get(&token).copied();
        if error == error_names::NO_REPLY {
            let lives = got_by.filter(|by| {
                let callee = &self.programs[*by];
                callee.state != State::Gone && !callee.excused
            });
            ensure!(
                lives.is_none(),
                "NoReply, and P{lives:?} has the call and lives"
            );
        } else if error != error_names::NOT_SUPPORTED {
            ensure!(
                got_by.is_none(),
                "{error}, and P{got_by:?} has got the call"
            );
        }
        let owner = match *aim {
            Aim::Unique(to) => {
                let refused = self.may_be_refused(to) && self.programs[p].realm == Realm::Inside;
                let there = self.programs[to].is_up() && !self.programs[to].excused;
                Some(to).filter(|_| there && !(refused && error == error_names::ACCESS_DENIED))
            }
            Aim::Name(name) => self.still_firm(name, firm),
            Aim::Nobody => None,
        };
        if let Some(owner) = owner {
            let no_fds = fds && !self.programs[owner].takes_fds;
            let right = no_fds && error == error_names::NOT_SUPPORTED;
            ensure!(right, "{error}, and P{owner} was called and is there");
        }
        let usual = match error {
            error_names::SERVICE_UNKNOWN
            | error_names::NAME_HAS_NO_OWNER
            | error_names::NO_REPLY => true,
            error_names::NOT_SUPPORTED => fds,
            error_names::ACCESS_DENIED => match *aim {
                Aim::Unique(to) => self.may_be_refused(to),
                Aim::Name(name) => name == REFUSED,
                Aim::Nobody => false,
            },
            error_names::TIMED_OUT
            | error_names::SPAWN_CHILD_EXITED
            | error_names::SPAWN_EXEC_FAILED => *aim == Aim::Name(STARTED),
            _ => false,
        };
        ensure!(usual, "{error} to a call of {aim:?}");
        Ok(())
    }

    fn driver_refused(&mut self, p: usize, what: &What, error: &str) -> Judged {
        let lenient = self.unsettled
            || self.features.refusals
            || (self.features.slow && error == error_names::LIMITS_EXCEEDED);
        match what {
            What::Hello => {
                ensure!(lenient, "Hello was refused: {error}");
                self.leave(p);
            }
            What::Owner { name, expect } if error == error_names::NAME_HAS_NO_OWNER => {
                self.heard_owner(p, name, "", expect.clone())?;
            }
            What::Plain | What::HasOwner => {
                let usual = NONE_THERE.contains(&error)
                    || error.contains("Spawn")
                    || error == error_names::TIMED_OUT
                    || error == error_names::ACCESS_DENIED
                    || error == error_names::NO_REPLY;
                ensure!(usual || lenient, "the bus says {error}");
            }
            What::AddMatch(id) => {
                ensure!(lenient, "AddMatch was refused: {error}");
                self.programs[p].rules.retain(|it| it.id != *id);
            }
            What::RemoveMatch(id) => {
                ensure!(lenient, "RemoveMatch was refused: {error}");
                self.programs[p].rules.retain(|it| it.id != *id);
            }
            _ => ensure!(lenient, "the bus says {error}"),
        }
        Ok(())
    }

    fn heard_driver_signal(&mut self, p: usize, message: &Message) -> Judged {
        let header = message.header();
        let mut reader = message.reader();
        let member = header.member.unwrap_or_default();
        if member == "ActivatableServicesChanged" {
            return Ok(());
        }
        let first = reader.str().map_err(|it| it.to_string())?;
        match member {
            "NameAcquired" | "NameLost" => {
                ensure!(
                    header.destination == Some(&*self.programs[p].name)
                        || self.programs[p].realm == Realm::Container,
                    "{member} for {:?}",
                    header.destination
                );
                let Some(name) = known_name(first) else {
                    ensure!(
                        first == self.programs[p].name && member == "NameAcquired",
                        "{member} of {first}"
                    );
                    return Ok(());
                };
                let lenient = self.unsettled;
                let program = &mut self.programs[p];
                let right = match member {
                    "NameAcquired" => program.owns.insert(name),
                    _ => program.owns.remove(name),
                };
                ensure!(right || lenient, "{member} of {name}, twice");
                ensure!(
                    program.requested.contains(name),
                    "it did not ask for {name}"
                );
                let firm = member == "NameLost" && program.firm.remove(name).is_some();
                ensure!(!firm || lenient, "{name} was taken from it");
            }
            "NameOwnerChanged" => {
                let (Ok(old), Ok(new)) = (reader.str(), reader.str()) else {
                    return Err("NameOwnerChanged without owners".into());
                };
                self.heard_change(p, first, old, new)?;
            }
            _ => return Err("an unknown signal of the bus".into()),
        }
        Ok(())
    }

    fn heard_change(&mut self, p: usize, first: &str, old: &str, new: &str) -> Judged {
        self.medium
            .trace
            .say(|| format!("P{p} hears that {first} went from {old:?} to {new:?}"));
        ensure!(old != new, "{first} went from {old:?} to {new:?}");
        let program = &self.programs[p];
        let asked = program.rules.iter().any(|it| it.watches(first));
        // A rule whose answer was lost with a bus may be in force.
        ensure!(asked || self.unsettled, "a change of {first}, unasked");
        let realm = program.realm;
        for owner in [old, new].into_iter().filter(|it| !it.is_empty()) {
            ensure!(
                UniqueName::parse(owner).is_some(),
                "a strange owner, {owner}"
            );
        }
        let Some(name) = known_name(first) else {
            ensure!(
                first == old || first == new,
                "{first} went from {old:?} to {new:?}"
            );
            let program = &mut self.programs[p];
            let came = first == new;
            let before = program.unique.insert(first.to_owned(), came);
            ensure!(
                before.is_none_or(|before| before && !came) || self.unsettled,
                "{first} came or went twice"
            );
            return Ok(());
        };
        for owner in [old, new] {
            let of = self
                .programs
                .iter()
                .position(|it| !owner.is_empty() && it.name == owner);
            let Some(of) = of.filter(|_| realm == Realm::Inside && !self.features.restarts) else {
                continue;
            };
            if self.programs[of].realm == Realm::Container {
                continue;
            }
            ensure!(
                self.programs[of].requested.contains(name),
                "{name} is not {owner}'s"
            );
            let hidden = name == REFUSED || name == APPLICATION;
            ensure!(
                !hidden || self.programs[of].realm != Realm::Host,
                "{name} of the host is seen"
            );
        }
        let program = &mut self.programs[p];
        if program.watches(name) {
            let told = program.chain.insert(name, new.to_owned());
            // Its host has died, and it is about to be disconnected: the answer that says when a name changed bus
            // died, too, and what was kept until then still comes. No bus owes more to who leaves it.
            let ends = realm == Realm::Inside && program.era != self.era;
            ensure!(
                ends || told.as_ref().is_none_or(|told| told == old),
                "{name} went from {old:?} to {new:?}, and it was told {told:?}"
            );
        }
        Ok(())
    }

    // --- At rest ---

    /// Nothing is under way: nobody waits, and everybody has what was sent.
    pub fn check_rest(&mut self) -> Judged {
        for node in [
            Some(&self.router),
            self.host.as_ref(),
            self.container.as_ref(),
        ] {
            if let Some(problem) = node.and_then(crate::node::Node::unrest) {
                return Err(problem);
            }
        }
        for (p, program) in self.programs.iter().enumerate() {
            if program.state == State::Gone {
                continue;
            }
            ensure!(program.is_up(), "P{p} never got an answer to Hello");
            let waiting = program.calls.iter().next();
            ensure!(waiting.is_none(), "P{p} waits for ever for {waiting:?}");
            ensure!(program.outbox.is_empty(), "P{p} is not read");
            ensure!(program.inbox.is_empty(), "P{p} has got half a message");
        }
        if let Some((to, token)) = self.duties.first() {
            return Err(format!("P{to} never got the signal {token:?}"));
        }
        for name in NAMES {
            for realms in [&[Realm::Inside, Realm::Container][..], &[Realm::Host]] {
                let owners: Vec<usize> = (0..self.programs.len())
                    .filter(|p| {
                        let program = &self.programs[*p];
                        program.is_up()
                            && realms.contains(&program.realm)
                            && program.owns.contains(name)
                    })
                    .collect();
                ensure!(owners.len() < 2, "{name} is owned by {owners:?}");
            }
        }
        self.unsettled = false;
        Ok(())
    }

    /// Asks everybody about everything, and compares the answers with the model.
    pub fn probe(&mut self) -> Judged {
        // Who did not read for a time has much to catch up with, and what the others are about to ask of it may be more
        // than a receiver may have waiting: nobody can say whether it is there at the end of the questions.
        for p in 0..self.programs.len() {
            if self.programs[p].is_up() && self.programs[p].excused {
                self.leave(p);
            }
        }
        self.rest()?;
        let up: Vec<usize> = (0..self.programs.len())
            .filter(|p| self.programs[*p].is_up())
            .collect();
        let refusals = std::mem::take(&mut self.features.refusals);
        for &p in &up {
            let realm = self.programs[p].realm;
            for name in NAMES {
                let owner = self.view(realm, name);
                // The name of a program that was not met yet is not known.
                let expect = match owner {
                    None => Some(None),
                    Some(owner) => self.shown.get(&(realm, owner)).cloned().map(Some),
                };
                let body = Body::new().str(name);
                self.ask(p, "GetNameOwner", &body, What::Owner { name, expect });
                let expect = match owner {
                    Some(owner) => Expect::AnswerOf(owner),
                    None if name == REFUSED && realm == Realm::Inside && self.host.is_some() => {
                        Expect::Error(&[error_names::ACCESS_DENIED])
                    }
                    None => Expect::Error(NONE_THERE),
                };
                self.call(p, Aim::Name(name), Some(expect));
            }
            for to in 0..self.programs.len() {
                let there = self.programs[to].is_up();
                let refused = self.may_be_refused(to) && realm == Realm::Inside;
                if !refused && self.shown.contains_key(&(realm, to)) && there {
                    self.call(p, Aim::Unique(to), Some(Expect::AnswerOf(to)));
                }
            }
            self.ask(p, "ListNames", &Body::new(), What::Names { strict: true });
        }
        self.rest()?;
        self.features.refusals = refusals;
        self.check_rest()
    }
}

fn read_tokens(message: &Message) -> Option<(Token, Token)> {
    let mut reader = message.reader();
    reader.str().ok()?;
    let mut number = || reader.u32().ok();
    let token = (number()? as usize, number()?);
    let about = (number()? as usize, number()?);
    Some((token, about))
}
