//! How connections begin.

use std::path::PathBuf;

use super::WireError;
use super::text::{Reader, put_path, put_text, put_u16, put_u32};

/// The version that is spoken here.
pub const VERSION: u16 = 1;
/// The first bytes of every connection's first payload, in every version.
pub const MAGIC: [u8; 8] = *b"SIDEBUS\0";

const MAX_VERSION_TEXT: usize = 64;
const MAX_HOST_NAME: usize = 255;
const MAX_APP_ID: usize = 255;
const MAX_PATH: usize = 4096;
const MAX_TEXT: usize = 1024;

/// A secret of the broker's: who shows it is who got it.
pub type Token = [u8; 16];

/// What a connection is for. The magic and the versions come first in every version there will be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The versions that the agent speaks: from this one
    pub lowest: u16,
    /// to this one.
    pub highest: u16,
    /// For what.
    pub purpose: Purpose,
}

/// For what a connection is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The agent itself.
    Control(ControlOpening),
    /// A program in the guest.
    Client(ClientOpening),
    /// A stream that the agent offers: its number stands in a message that follows on the client's connection.
    Offer(StreamOpening),
    /// A stream that the broker offered, in a message to the client.
    Answer(StreamOpening),
}

/// The agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlOpening {
    /// The token of the session that the agent had before its control connection was cut. All zero: none.
    pub resume: Token,
    /// Its program's version.
    pub agent: String,
    /// The guest's host name.
    pub host_name: String,
}

/// A program in the guest; except for the token, claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientOpening {
    /// The agent's token.
    pub session: Token,
    /// Its user.
    pub uid: u32,
    /// Its process; 0: not known.
    pub pid: u32,
    /// Its application; empty: not known.
    pub app_id: String,
    /// Where it sees the document mount; empty: nowhere.
    pub documents: PathBuf,
    /// Whether it takes file descriptors.
    pub unix_fds: bool,
}

/// A stream of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamOpening {
    /// The client's token.
    pub client: Token,
    /// The number of the stream, chosen by the side that offers it.
    pub stream: u32,
}

/// The broker takes the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version that is spoken from here on.
    pub version: u16,
    /// The token of what was opened; nothing for a stream.
    pub token: Token,
    /// The longest message that the broker takes (bytes).
    pub message_bytes: u32,
    /// The most descriptors with one message.
    pub fds_per_message: u32,
}

/// Why the broker does not take a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No version in common.
    Version,
    /// A quota is used up.
    Limits,
    /// The token is not known: the agent has to open its control connection again.
    UnknownToken,
    /// Another agent is there, and answers.
    AgentPresent,
    /// The broker ends, or cannot serve for another reason.
    Unavailable,
}

/// The broker does not take the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why, for the program.
    pub reason: Reason,
    /// Why, for a person.
    pub text: String,
}

impl Open {
    /// Of this version.
    pub fn new(purpose: Purpose) -> Open {
        Open {
            lowest: VERSION,
            highest: VERSION,
            purpose,
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Open, WireError> {
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(WireError::Magic);
        }
        let (lowest, highest) = (reader.u16()?, reader.u16()?);
        if !(lowest..=highest).contains(&VERSION) {
            return Err(WireError::Version { lowest, highest });
        }
        let purpose = match reader.u8()? {
            1 => Purpose::Control(ControlOpening {
                resume: reader.token()?,
                agent: reader.text(MAX_VERSION_TEXT)?.to_owned(),
                host_name: reader.text(MAX_HOST_NAME)?.to_owned(),
            }),
            2 => Purpose::Client(ClientOpening {
                session: reader.token()?,
                uid: reader.u32()?,
                pid: reader.u32()?,
                app_id: reader.text(MAX_APP_ID)?.to_owned(),
                documents: reader.path(MAX_PATH)?,
                unix_fds: reader.boolean()?,
            }),
            3 => Purpose::Offer(StreamOpening::read(reader)?),
            4 => Purpose::Answer(StreamOpening::read(reader)?),
            other => return Err(WireError::Value("a purpose", u64::from(other))),
        };
        Ok(Open {
            lowest,
            highest,
            purpose,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        put_u16(out, self.lowest);
        put_u16(out, self.highest);
        match &self.purpose {
            Purpose::Control(control) => {
                out.push(1);
                out.extend_from_slice(&control.resume);
                put_text(out, &control.agent, MAX_VERSION_TEXT);
                put_text(out, &control.host_name, MAX_HOST_NAME);
            }
            Purpose::Client(client) => {
                out.push(2);
                out.extend_from_slice(&client.session);
                put_u32(out, client.uid);
                put_u32(out, client.pid);
                put_text(out, &client.app_id, MAX_APP_ID);
                put_path(out, &client.documents, MAX_PATH);
                out.push(client.unix_fds.into());
            }
            Purpose::Offer(stream) => {
                out.push(3);
                stream.write(out);
            }
            Purpose::Answer(stream) => {
                out.push(4);
                stream.write(out);
            }
        }
    }
}

impl StreamOpening {
    fn read(reader: &mut Reader<'_>) -> Result<StreamOpening, WireError> {
        Ok(StreamOpening {
            client: reader.token()?,
            stream: reader.u32()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.client);
        put_u32(out, self.stream);
    }
}

impl Welcome {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Welcome, WireError> {
        Ok(Welcome {
            version: reader.u16()?,
            token: reader.token()?,
            message_bytes: reader.u32()?,
            fds_per_message: reader.u32()?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_u16(out, self.version);
        out.extend_from_slice(&self.token);
        put_u32(out, self.message_bytes);
        put_u32(out, self.fds_per_message);
    }
}

impl Refused {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Refused, WireError> {
        let reason = match reader.u16()? {
            1 => Reason::Version,
            2 => Reason::Limits,
            3 => Reason::UnknownToken,
            4 => Reason::AgentPresent,
            5 => Reason::Unavailable,
            other => return Err(WireError::Value("a reason", u64::from(other))),
        };
        Ok(Refused {
            reason,
            text: reader.text(MAX_TEXT)?.to_owned(),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_u16(
            out,
            match self.reason {
                Reason::Version => 1,
                Reason::Limits => 2,
                Reason::UnknownToken => 3,
                Reason::AgentPresent => 4,
                Reason::Unavailable => 5,
            },
        );
        put_text(out, &self.text, MAX_TEXT);
    }
}
