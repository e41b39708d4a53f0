//! One frame.

use thiserror::Error;

use super::text::{Reader, put_text, put_u64};
use super::{MessageHead, Open, Refused, Welcome};

/// The bytes before the payload.
pub const HEADER_LEN: usize = 8;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;
const KINDS: std::ops::RangeInclusive<u8> = 1..=11;
/// The longest reason of a [`Frame::Goodbye`].
const MAX_REASON: usize = 1024;

/// Why bytes are not a frame, or a frame is not one that fits. The connection has to be closed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// The payload is longer than [`MAX_PAYLOAD`].
    #[error("a frame announces {0} bytes, the limit is 64 KiB")]
    Oversized(u32),
    /// Bytes that are zero in this version are not.
    #[error("a frame has bits set that this version does not know")]
    Reserved,
    /// No such kind.
    #[error("there is no frame of kind {0}")]
    Kind(u8),
    /// The payload ends too early.
    #[error("the payload of a frame ends in the middle of a value")]
    Truncated,
    /// The payload goes on.
    #[error("{0} bytes are left over in a frame")]
    LeftOver(usize),
    /// A text or path is too long.
    #[error("a text of {len} bytes, where {most} are the limit")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        most: usize,
    },
    /// A text is not UTF-8, or has a NUL.
    #[error("a text is not valid")]
    Text,
    /// A number that stands for nothing.
    #[error("{1} is not {0}")]
    Value(&'static str, u64),
    /// The first frame is none of ours.
    #[error("the connection does not begin as one of an agent")]
    Magic,
    /// The other side speaks other versions.
    #[error(
        "it speaks versions {lowest} to {highest}, and this is version {}",
        super::VERSION
    )]
    Version {
        /// From this one.
        lowest: u16,
        /// To this one.
        highest: u16,
    },
    /// The id or path of a document could not be one.
    #[error("the name of a document is not valid")]
    Document,
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// What the connection is for; the first frame of the agent.
    Open(Open),
    /// The broker's answer.
    Welcome(Welcome),
    /// The broker's other answer; it closes.
    Refused(Refused),
    /// Asks for a sign of life.
    Ping(u64),
    /// The sign, with the number of the Ping.
    Pong(u64),
    /// This side is about to close, for this reason. It has sent everything.
    Goodbye(&'a str),
    /// A message begins.
    Message(MessageHead),
    /// Bytes of a file of that message; an empty one ends the file.
    Content(&'a [u8]),
    /// Bytes of the message, or of a stream. Never empty.
    Data(&'a [u8]),
    /// On a stream: no more comes.
    End,
    /// On a stream: no more is taken.
    Stop,
}

/// How long the frame at the beginning of a buffer is, its header included.
///
/// - `Ok(Ok(len))`: it is whole.
/// - `Ok(Err(len))`: call again when `len` bytes are there, counted from the beginning of the slice.
///
/// # Errors
/// As soon as it is known that this is no frame; on a length that is too large before its bytes are there.
pub fn measure(bytes: &[u8]) -> Result<Result<usize, usize>, WireError> {
    let Some(&[l0, l1, l2, l3, kind, r0, r1, r2]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(Err(HEADER_LEN));
    };
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    if len as usize > MAX_PAYLOAD {
        return Err(WireError::Oversized(len));
    }
    if [r0, r1, r2] != [0; 3] {
        return Err(WireError::Reserved);
    }
    if !KINDS.contains(&kind) {
        return Err(WireError::Kind(kind));
    }
    let whole = HEADER_LEN + len as usize;
    Ok(if bytes.len() < whole {
        Err(whole)
    } else {
        Ok(whole)
    })
}

/// Reads one whole frame; `bytes` are exactly as many as [`measure`] says.
///
/// # Errors
/// If it is not a frame of this version.
pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, WireError> {
    match measure(bytes)? {
        Err(_) => Err(WireError::Truncated),
        Ok(whole) if whole < bytes.len() => Err(WireError::LeftOver(bytes.len() - whole)),
        Ok(_) => Frame::read(bytes[4], &bytes[HEADER_LEN..]),
    }
}

impl<'a> Frame<'a> {
    fn read(kind: u8, payload: &'a [u8]) -> Result<Frame<'a>, WireError> {
        let mut reader = Reader::new(payload);
        let frame = match kind {
            1 => Frame::Open(Open::read(&mut reader)?),
            2 => Frame::Welcome(Welcome::read(&mut reader)?),
            3 => Frame::Refused(Refused::read(&mut reader)?),
            4 => Frame::Ping(reader.u64()?),
            5 => Frame::Pong(reader.u64()?),
            6 => Frame::Goodbye(reader.text(MAX_REASON)?),
            7 => Frame::Message(MessageHead::read(&mut reader)?),
            8 => Frame::Content(reader.take(payload.len())?),
            9 if payload.is_empty() => return Err(WireError::Truncated),
            9 => Frame::Data(reader.take(payload.len())?),
            10 => Frame::End,
            11 => Frame::Stop,
            other => return Err(WireError::Kind(other)),
        };
        reader.end()?;
        Ok(frame)
    }

    /// What it is, for a person.
    pub fn kind(&self) -> &'static str {
        match self {
            Frame::Open(_) => "Open",
            Frame::Welcome(_) => "Welcome",
            Frame::Refused(_) => "Refused",
            Frame::Ping(_) => "Ping",
            Frame::Pong(_) => "Pong",
            Frame::Goodbye(_) => "Goodbye",
            Frame::Message(_) => "Message",
            Frame::Content(_) => "Content",
            Frame::Data(_) => "Data",
            Frame::End => "End",
            Frame::Stop => "Stop",
        }
    }

    /// Appends the frame. Content and Data are at most [`MAX_PAYLOAD`] bytes, and a [`MessageHead`] has passed
    /// [`MessageHead::fits`].
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let kind = match self {
            Frame::Open(open) => {
                open.write(out);
                1
            }
            Frame::Welcome(welcome) => {
                welcome.write(out);
                2
            }
            Frame::Refused(refused) => {
                refused.write(out);
                3
            }
            Frame::Ping(number) => {
                put_u64(out, *number);
                4
            }
            Frame::Pong(number) => {
                put_u64(out, *number);
                5
            }
            Frame::Goodbye(reason) => {
                put_text(out, reason, MAX_REASON);
                6
            }
            Frame::Message(head) => {
                head.write(out);
                7
            }
            Frame::Content(bytes) => {
                out.extend_from_slice(bytes);
                8
            }
            Frame::Data(bytes) => {
                out.extend_from_slice(bytes);
                9
            }
            Frame::End => 10,
            Frame::Stop => 11,
        };
        let len = out.len() - start - HEADER_LEN;
        debug_assert!(len <= MAX_PAYLOAD, "{} of {len} bytes", self.kind());
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        out[start + 4] = kind;
    }

    /// The frame as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}
