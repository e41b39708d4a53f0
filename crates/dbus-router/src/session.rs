//! One client: its links, its rules, and what it is still to be told. No I/O.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dbus_wire::match_rule::MatchRule;
use dbus_wire::names::{UniqueName, WellKnownName};

use crate::hash::HashSet;
use crate::hub::joint::JointId;
use crate::local_bus::RuleEntry;
use crate::outbox::Fds;
use crate::policy::Access;
use crate::port::SessionId;

/// Who a client is, as the kernel said when it connected.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// SO_PEERCRED.
    pub uid: u32,
    /// SO_PEERCRED; none where the process is of a namespace that we cannot see.
    pub pid: Option<u32>,
    /// The effective group and SO_PEERGROUPS.
    pub groups: Vec<u32>,
    /// SO_PEERPIDFD, where the kernel has it.
    pub process_fd: Option<Arc<OwnedFd>>,
    /// SO_PEERSEC, where a security module is loaded; without the final NUL.
    pub security_label: Option<Vec<u8>>,
    /// What it runs, and in which control group; as far as rules ask for it.
    pub program: Program,
}

/// What a process runs, and where. Read while its pidfd said that it was alive: a pid that was used again deceives
/// nobody. What the process can do itself: run another program (after which it is still judged by the one that
/// connected), mount one file over another where it has a file system of its own, be debugged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// The path of its executable file (`/proc/PID/exe`).
    pub executable: Option<String>,
    /// The path of its control group (`/proc/PID/cgroup`).
    pub cgroup: Option<String>,
}

/// Where a client is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Authenticated; has not said Hello.
    Unregistered,
    /// Said Hello; its links are being opened.
    Opening,
    /// On the bus.
    Active,
    /// Sees everything, says nothing.
    Monitor,
}

/// What a reply of a bus's driver is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// The client asked; its answer passes as it is.
    Plain,
    /// The client's own Hello, forwarded.
    Hello,
    /// The client's AddMatch; undone inside if the host refuses.
    AddMatch(Arc<MatchRule>),
    /// ListNames or ListActivatableNames: the inside's are added.
    Names { activatable: bool },
    /// ListQueuedOwners: connections that the client may not see are left out.
    Queue,
    /// Ours: before the answer the client was told what the host said of this name.
    Barrier(Barrier),
    /// Ours: one half of a call that goes to both buses.
    Half(JointId),
    /// Ours: is this name owned on the container bus?
    Known(WellKnownName),
    /// The client's RequestName of this name on a remote container bus.
    Requested(WellKnownName),
    /// The client's ReleaseName there.
    Ownership,
    /// Ours: the container bus was away, and the client's rules are in force there again.
    Restored,
    /// Ours: and a name was requested there again.
    Reclaimed,
    /// Ours: who owns this name there, that was taken before its rules were in force?
    OwnerThere(WellKnownName),
    /// Ours, to the host's portal and not to the driver: which application this client is.
    Registered,
    /// Ours, and the answer does not matter.
    Ignored,
}

/// A name on its way from one bus to the other, as one session is told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Barrier {
    pub name: WellKnownName,
    /// Inside owner before; where there was none the host's owner stands in.
    pub old: Option<UniqueName>,
    /// Inside owner after; where there is none the host's owner stands in.
    pub new: Option<UniqueName>,
    /// Whether the host's name could be seen before, and after: new rules make it two different things.
    pub seen: (bool, bool),
}

/// A call to a bus's driver that waits for its reply.
#[derive(Clone, Debug)]
pub(crate) struct DriverCall {
    pub serial: u32,
    /// Its place among the calls that a driver answers in their order; none for those it answers when it can.
    pub ticket: Option<u64>,
    pub purpose: Purpose,
}

/// A connection of ours to a bus for one client.
#[derive(Default, Debug)]
pub(crate) struct Link {
    /// The bus has answered Hello.
    pub open: bool,
    /// Serials of the client's calls, to others than the driver, that wait for a reply.
    pub outstanding: HashSet<u32>,
    /// Calls to the driver that wait, the client's and ours.
    pub driver: VecDeque<DriverCall>,
    /// Calls that came by this link and that the client has not answered: who called, under which serial.
    asked: HashSet<(UniqueName, u32)>,
    last_own_serial: u32,
}

impl Link {
    /// A serial for a call of our own: none that the client has outstanding.
    pub fn own_serial(&mut self) -> u32 {
        loop {
            self.last_own_serial = self.last_own_serial.wrapping_add(1) & 0x0fff_ffff;
            let serial = 0xf000_0000 | self.last_own_serial;
            let taken = self.outstanding.contains(&serial)
                || self.driver.iter().any(|call| call.serial == serial);
            if !taken {
                return serial;
            }
        }
    }

    /// A call came by this link and wants an answer. Past `limit`, what was never answered is forgotten.
    pub fn was_asked(&mut self, caller: UniqueName, serial: u32, limit: usize) {
        if self.asked.len() >= limit {
            self.asked.clear();
        }
        self.asked.insert((caller, serial));
    }

    /// The client answers a call: whether there was one, and this is the first answer.
    pub fn may_answer(&mut self, caller: UniqueName, serial: u32) -> bool {
        self.asked.remove(&(caller, serial))
    }

    /// The reply with this serial has come from the driver: what it was for.
    ///
    /// A client may use a serial of ours later, or one of its own twice; the driver answers in order, so the
    /// first that waits is meant.
    pub fn driver_reply(&mut self, reply_serial: u32) -> Option<DriverCall> {
        let place = self
            .driver
            .iter()
            .position(|call| call.serial == reply_serial)?;
        let call = self.driver.remove(place);
        // A client that is done with its start keeps nothing for calls that it no longer makes.
        if self.driver.is_empty() {
            self.driver = VecDeque::new();
        }
        call
    }

    fn oldest_ticket(&self) -> Option<u64> {
        self.driver.iter().find_map(|call| call.ticket)
    }

    fn barriers(&self) -> impl Iterator<Item = &Barrier> {
        self.driver.iter().filter_map(|call| match &call.purpose {
            Purpose::Barrier(barrier) => Some(barrier),
            _ => None,
        })
    }
}

/// A message to the client that has to come after an answer of the host's driver.
#[derive(Debug)]
pub(crate) struct Deferred {
    after: u64,
    pub bytes: Vec<u8>,
    pub fds: Fds,
    pub charge: Option<SessionId>,
}

/// A name of a client's that is requested on the host, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Exported {
    pub inside: WellKnownName,
    pub outside: WellKnownName,
    /// The rule's place among the exports.
    pub rule: usize,
}

/// One client of the router.
#[derive(Debug)]
pub(crate) struct Session {
    pub phase: Phase,
    pub credentials: Credentials,
    /// The rules for the inside do not bind it.
    pub trusted: bool,
    /// The client negotiated file descriptors.
    pub unix_fds: bool,
    /// Its one name, everywhere.
    pub name: Option<UniqueName>,
    /// What a remote container bus calls it.
    pub container_name: Option<UniqueName>,
    pub host: Option<Link>,
    pub container: Option<Link>,
    /// It has no part in the inside; what every name of the host is to it at least.
    pub on_host: Option<Access>,
    /// Names that it owns inside and that are requested on the host.
    pub exports: Vec<Exported>,
    /// The host's portal was told which application it is.
    pub is_registered: bool,
    /// It became a monitor there.
    pub monitors_host: bool,
    /// Connections of the host that have spoken to it first, and may be answered otherwise than by replies.
    pub spoken: HashSet<UniqueName>,
    pub rules: Vec<RuleEntry>,
    /// Names that it owns or waits for on the local bus.
    pub claims: Vec<WellKnownName>,
    /// Owners on a remote container bus as this session was told, where that may differ from what the control
    /// link says.
    pub told: Vec<(WellKnownName, Option<UniqueName>)>,
    /// Connections of a container bus that is back of which it was told before its rules were put back.
    pub met: Vec<UniqueName>,
    /// Names of which a remote container bus told it that it owns them, and not yet that it lost them.
    pub acquired: Vec<WellKnownName>,
    /// Names that it asked the container bus for; from then on the control link's word is enough.
    pub known: HashSet<WellKnownName>,
    /// RequestName calls for a remote container bus, to be said again should it restart: name and flags.
    pub requests: Vec<(WellKnownName, u32)>,
    /// Names that a monitor lost on a remote container bus when it became one: no news to it.
    pub lost: Vec<WellKnownName>,
    /// Changes of owner, for the monitors, that come after this client's NameLost.
    pub losing: Vec<(WellKnownName, Option<UniqueName>, Option<UniqueName>)>,
    /// The control link was asked to catch up with this session's container link.
    pub stepping: bool,
    /// It has; the next change of ownership on the container link may be passed on.
    pub in_step: bool,
    /// Serial of the Hello that is being answered.
    pub hello_serial: u32,
    next_ticket: u64,
    deferred: VecDeque<Deferred>,
    deferred_bytes: usize,
}

impl Session {
    pub fn new(credentials: Credentials, unix_fds: bool) -> Session {
        Session {
            phase: Phase::Unregistered,
            credentials,
            trusted: false,
            unix_fds,
            name: None,
            container_name: None,
            host: None,
            container: None,
            on_host: None,
            exports: Vec::new(),
            is_registered: false,
            monitors_host: false,
            spoken: HashSet::default(),
            rules: Vec::new(),
            claims: Vec::new(),
            told: Vec::new(),
            met: Vec::new(),
            acquired: Vec::new(),
            known: HashSet::default(),
            requests: Vec::new(),
            lost: Vec::new(),
            losing: Vec::new(),
            stepping: false,
            in_step: false,
            hello_serial: 0,
            next_ticket: 0,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
        }
    }

    /// A connection of the host speaks to it. Past `limit` those before are forgotten.
    pub fn is_spoken_to(&mut self, by: UniqueName, limit: usize) {
        if self.spoken.len() >= limit && !self.spoken.contains(&by) {
            self.spoken.clear();
        }
        self.spoken.insert(by);
    }

    /// A place in the order of the driver's answers.
    pub fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket - 1
    }

    /// The client was told who owns `name` inside; at most `most` names are remembered.
    pub fn remember_told(&mut self, name: WellKnownName, owner: Option<UniqueName>, most: usize) {
        self.told.retain(|(told, _)| *told != name);
        self.told.push((name, owner));
        if self.told.len() > most {
            self.told.remove(0);
        }
    }

    /// The change of `name` that waits first for its barrier.
    pub fn pending_barrier(&self, name: &str) -> Option<&Barrier> {
        self.host
            .as_ref()?
            .barriers()
            .find(|barrier| *barrier.name == *name)
    }

    /// Whether a change of any name waits for its barrier.
    pub fn has_barriers(&self) -> bool {
        self.host
            .as_ref()
            .is_some_and(|link| link.barriers().next().is_some())
    }

    /// Whether the driver's own message has to wait behind an answer of the host's.
    pub fn must_defer_driver(&self) -> bool {
        !self.deferred.is_empty()
            || self
                .host
                .as_ref()
                .is_some_and(|link| link.oldest_ticket().is_some())
    }

    /// Whether a message from inside has to wait: behind a change of owner that is being asked for, and behind
    /// what the driver has said already, such as NameAcquired for the name that is called.
    pub fn must_defer_inside(&self) -> bool {
        !self.deferred.is_empty() || self.has_barriers()
    }

    /// Keeps a message back until every answer of the host's driver that is due now has come.
    pub fn defer(&mut self, bytes: Vec<u8>, fds: Fds, charge: Option<SessionId>) {
        self.deferred_bytes += bytes.len();
        self.deferred.push_back(Deferred {
            after: self.next_ticket,
            bytes,
            fds,
            charge,
        });
    }

    /// The next message whose time has come.
    pub fn next_deferred(&mut self) -> Option<Deferred> {
        let oldest = self
            .host
            .as_ref()
            .and_then(Link::oldest_ticket)
            .unwrap_or(u64::MAX);
        let front = self.deferred.front()?;
        if front.after > oldest {
            return None;
        }
        let deferred = self.deferred.pop_front()?;
        self.deferred_bytes -= deferred.bytes.len();
        Some(deferred)
    }

    /// Bytes that are kept back.
    pub fn deferred_bytes(&self) -> usize {
        self.deferred_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let mut session = Session::new(Credentials::default(), true);
        session.host = Some(Link::default());
        session
    }

    fn call(session: &mut Session, serial: u32) {
        let ticket = Some(session.ticket());
        let call = DriverCall {
            serial,
            ticket,
            purpose: Purpose::Plain,
        };
        session.host.as_mut().unwrap().driver.push_back(call);
    }

    #[test]
    fn an_own_serial_is_none_that_the_client_has_outstanding() {
        let mut link = Link::default();
        link.outstanding.insert(0xf000_0001);
        link.driver.push_back(DriverCall {
            serial: 0xf000_0002,
            ticket: None,
            purpose: Purpose::Plain,
        });
        assert_eq!(link.own_serial(), 0xf000_0003);
    }

    #[test]
    fn only_a_call_that_came_may_be_answered_and_once() {
        let mut link = Link::default();
        let name = |minor| UniqueName { major: 1, minor };
        link.was_asked(name(5), 7, 2);
        assert!(!link.may_answer(name(5), 8));
        assert!(!link.may_answer(name(6), 7));
        assert!(link.may_answer(name(5), 7));
        assert!(!link.may_answer(name(5), 7));
        for serial in 1..=3 {
            link.was_asked(name(5), serial, 2);
        }
        assert!(
            link.may_answer(name(5), 3),
            "the newest is known at the limit"
        );
    }

    #[test]
    fn what_is_deferred_comes_out_in_order_behind_the_answers_that_were_due() {
        let mut session = session();
        call(&mut session, 1);
        session.defer(b"a".to_vec(), Fds::NONE, None);
        call(&mut session, 2);
        session.defer(b"b".to_vec(), Fds::NONE, None);
        assert!(session.next_deferred().is_none());
        session.host.as_mut().unwrap().driver_reply(1).unwrap();
        assert_eq!(session.next_deferred().unwrap().bytes, b"a");
        assert!(session.next_deferred().is_none());
        session.host.as_mut().unwrap().driver_reply(2).unwrap();
        assert_eq!(session.next_deferred().unwrap().bytes, b"b");
        assert_eq!(session.deferred_bytes(), 0);
    }
}
