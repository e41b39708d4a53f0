//! A session with one container: what it blocks comes out, verdicts go in.
//!
//! There are two ways to hold one, behind one interface: in this process ([`in_process`]), with the netlink
//! sockets passed out of the namespace; and in a child process that speaks JSON lines ([`subprocess`]), for
//! which the original's session program will do as well as ours.

pub mod in_process;
pub mod lines;
pub mod subprocess;

use std::time::Duration;

use crate::pending::Request;

/// How many events may wait for who tells them. More are counted as lost; the questions themselves stay.
pub(crate) const EVENTS: usize = 2 * crate::pending::CAPACITY;

/// Allow or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it through.
    Accept,
    /// Keep it out.
    Deny,
}

impl Action {
    /// `accept` or `deny`, as the protocol has it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "accept" => Some(Self::Accept),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }

    /// The same in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Deny => "deny",
        }
    }
}

/// What a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// This address with this protocol and port.
    #[default]
    Port,
    /// This address, everything on it.
    Address,
    /// The name that it was looked up by, and the names below it.
    Domain,
}

impl Scope {
    /// `port`, `address` or `domain`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "port" => Some(Self::Port),
            "address" => Some(Self::Address),
            "domain" => Some(Self::Domain),
            _ => None,
        }
    }

    /// The same in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Address => "address",
            Self::Domain => "domain",
        }
    }
}

/// An answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Allow or not.
    pub action: Action,
    /// What it is about.
    pub scope: Scope,
    /// For how long; `None` for good.
    pub duration: Option<Duration>,
}

impl Verdict {
    /// For this destination, for good.
    pub fn permanent(action: Action) -> Self {
        Self {
            action,
            scope: Scope::Port,
            duration: None,
        }
    }
}

/// What happens in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection was blocked, and is asked about. The same question may come again while it waits.
    Blocked(Request),
    /// A verdict was tried: the kernel has acknowledged it, or has not.
    Applied {
        /// The question.
        request: Request,
        /// The answer.
        action: Action,
        /// Whether it holds.
        ok: bool,
    },
    /// So many events were lost since the last of these.
    Lost(u32),
    /// The container is gone, and with it the session.
    Gone,
}

/// What a session does with what nobody has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It asks.
    Asking,
    /// It denies without asking.
    Denying,
    /// It lets everything through, for a time.
    Open,
    /// The container is gone.
    Gone,
}

impl State {
    /// The word on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Denying => "denying",
            Self::Open => "open",
            Self::Gone => "gone",
        }
    }
}

/// What became of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has acknowledged it: it holds now.
    Applied,
    /// It does not hold, nothing has changed, and the question still waits.
    Failed,
    /// There is no such question.
    Unknown,
}

/// A session, whichever way it is held.
#[derive(Debug)]
pub enum Session {
    /// In this process.
    InProcess(in_process::InProcess),
    /// In a child process.
    Subprocess(subprocess::Subprocess),
}

impl Session {
    /// Gives a verdict; returns when it holds, or cannot.
    pub async fn verdict(&self, id: u64, verdict: Verdict) -> Outcome {
        match self {
            Self::InProcess(s) => s.verdict(id, verdict),
            Self::Subprocess(s) => s.verdict(id, verdict).await,
        }
    }

    /// What waits for an answer, the oldest first.
    pub fn pending(&self) -> Vec<Request> {
        match self {
            Self::InProcess(s) => s.pending(),
            Self::Subprocess(s) => s.pending(),
        }
    }

    /// Lets everything through that is not denied, for this long; for no time at all: ends it.
    pub async fn allow_all(&self, duration: Duration) -> bool {
        match self {
            Self::InProcess(s) => s.allow_all(duration),
            Self::Subprocess(s) => s.allow_all(duration).await,
        }
    }

    /// What it does at present with what nobody has decided.
    pub fn state(&self) -> State {
        match self {
            Self::InProcess(s) => s.state(),
            Self::Subprocess(s) => s.state(),
        }
    }

    /// Ends the session. The rules stay.
    pub async fn stop(&self) {
        match self {
            Self::InProcess(s) => s.stop().await,
            Self::Subprocess(s) => s.stop().await,
        }
    }
}
