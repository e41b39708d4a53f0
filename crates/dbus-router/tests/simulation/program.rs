//! A program of the invented world: what it has said, what it was told, and what it believes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dbus_router::Fds;
use dbus_wire::match_rule::MatchRule;

use crate::wire::End;

/// Where a program is connected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Realm {
    /// To the router.
    Inside,
    /// To the host bus directly.
    Host,
    /// To the remote container bus directly.
    Container,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It has said Hello.
    Greeting,
    Up,
    Gone,
}

/// One message with a body of ours: who sent it, and its number there.
pub type Token = (usize, u32);

/// To whom a call goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aim {
    Unique(usize),
    Name(&'static str),
    Nobody,
}

/// What has to come of a call that is made when nothing else happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    AnswerOf(usize),
    Error(&'static [&'static str]),
}

/// What a call that waits for its reply was for.
#[derive(Clone, Debug)]
pub enum What {
    Hello,
    Request {
        name: &'static str,
        flags: u32,
    },
    Release {
        name: &'static str,
    },
    AddMatch(u32),
    RemoveMatch(u32),
    /// GetNameOwner; what has to come of it, if that is known.
    Owner {
        name: &'static str,
        expect: Option<Option<String>>,
    },
    HasOwner,
    Names {
        strict: bool,
    },
    Plain,
    To {
        aim: Aim,
        seq: u32,
        fds: bool,
        /// Who cannot but own the name, and since when.
        firm: Option<(usize, u64)>,
        expect: Option<Expect>,
    },
}

/// A call that a program has to answer.
#[derive(Clone, Debug)]
pub struct Debt {
    pub serial: u32,
    pub sender: String,
    pub token: Token,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleState {
    Asked,
    Active,
    Leaving,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub id: u32,
    pub text: String,
    pub rule: MatchRule,
    pub state: RuleState,
}

impl Rule {
    /// Whether it matches NameOwnerChanged for `name`, whoever the owners are.
    pub fn watches(&self, name: &str) -> bool {
        use dbus_wire::match_rule::ArgMatch;
        let rule = &self.rule;
        rule.interface.is_none()
            && rule.path.is_none()
            && rule
                .sender
                .as_deref()
                .is_none_or(|it| it == "org.freedesktop.DBus")
            && rule
                .member
                .as_deref()
                .is_none_or(|it| it == "NameOwnerChanged")
            && rule.args.iter().all(|(_, arg)| match arg {
                ArgMatch::Str(text) => **text == *name,
                ArgMatch::Namespace(space) => dbus_wire::names::name_in_namespace(name, space),
                ArgMatch::Path(_) => false,
            })
    }
}

/// What is to be noted when a message is written to its last byte.
#[derive(Clone, Debug)]
pub enum Note {
    Nothing,
    Broadcast,
    Signal(usize),
}

#[derive(Debug)]
pub struct Sending {
    pub bytes: Vec<u8>,
    pub done: usize,
    pub fds: Option<Fds>,
    pub note: Note,
    pub token: Token,
}

#[derive(Debug)]
pub struct Program {
    pub realm: Realm,
    pub end: End,
    pub state: State,
    pub takes_fds: bool,
    /// It was started to take this name.
    pub service: Option<&'static str>,
    pub name: String,
    pub inbox: Vec<u8>,
    pub fds: VecDeque<Fds>,
    pub outbox: VecDeque<Sending>,
    pub serial: u32,
    pub seq: u32,
    pub calls: BTreeMap<u32, What>,
    pub debts: Vec<Debt>,
    pub rules: Vec<Rule>,
    pub next_rule: u32,
    /// Names for which it was told NameAcquired and not NameLost.
    pub owns: BTreeSet<&'static str>,
    pub requested: BTreeSet<&'static str>,
    /// Names that nobody can take from it, and since when.
    pub firm: BTreeMap<&'static str, u64>,
    /// The owner of a name, as this program's stream has it.
    pub chain: BTreeMap<&'static str, String>,
    /// Unique names of which it was told that they came (true) or went.
    pub unique: BTreeMap<String, bool>,
    pub heard: BTreeSet<Token>,
    pub last_from: BTreeMap<usize, u32>,
    pub reading: bool,
    /// It has sent rubbish, and does nothing more.
    pub vandal: bool,
    /// Which life of the host bus it belongs to.
    pub era: u32,
    /// The bus has a reason to disconnect it, or to go itself.
    pub excused: bool,
}

impl Program {
    pub fn new(realm: Realm, end: End, takes_fds: bool, serial: u32) -> Program {
        Program {
            realm,
            end,
            state: State::Greeting,
            takes_fds,
            service: None,
            name: String::new(),
            inbox: Vec::new(),
            fds: VecDeque::new(),
            outbox: VecDeque::new(),
            serial,
            seq: 0,
            calls: BTreeMap::new(),
            debts: Vec::new(),
            rules: Vec::new(),
            next_rule: 0,
            owns: BTreeSet::new(),
            requested: BTreeSet::new(),
            firm: BTreeMap::new(),
            chain: BTreeMap::new(),
            unique: BTreeMap::new(),
            heard: BTreeSet::new(),
            last_from: BTreeMap::new(),
            reading: true,
            vandal: false,
            era: 0,
            excused: false,
        }
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// A serial that none of its calls has.
    pub fn next_serial(&mut self) -> u32 {
        loop {
            self.serial = self.serial.wrapping_add(1).max(1);
            if !self.calls.contains_key(&self.serial) {
                return self.serial;
            }
        }
    }

    /// Whether a rule that is certainly in force matches changes of owner of `name`.
    pub fn watches(&self, name: &str) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|it| it.state == RuleState::Active && it.watches(name))
    }
}
