//! What agent and broker say to each other: frames, without I/O.
//!
//! # Connections
//!
//! The agent connects, always; the broker never has to reach into the guest. What a connection is for stands in its
//! first frame, [`Open`]; the broker answers [`Welcome`] or [`Refused`]. There are three kinds:
//!
//! - **control**, one for each agent: versions are agreed on, the agent gets a token that its other connections
//!   show, and both sides ask for signs of life ([`Frame::Ping`], one at a time; nobody is ended for a late
//!   answer, because a paused guest is late and alive);
//! - **client**, one for each program in the guest: D-Bus messages in both directions, each as [`MessageHead`],
//!   then the bytes of its files ([`Frame::Content`]; an empty one ends a file), then its own ([`Frame::Data`]);
//! - **stream**, one for each pipe or socket that crosses: [`Frame::Data`] in one direction or both. A connection is
//!   never closed half (some transports then close it whole): [`Frame::End`] says that no more comes, [`Frame::Stop`]
//!   that no more is taken.
//!
//! # Frames
//!
//! Eight bytes, then the payload. Numbers are little-endian; texts and paths are their length (16 bits) and their bytes.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | length of the payload, at most [`MAX_PAYLOAD`] |
//! | 1 | kind |
//! | 3 | zero |
//!
//! Every length is checked before memory is taken for what it announces, and nothing may be left over in a frame.

mod descriptor;
mod frame;
mod opening;
mod text;

pub use descriptor::{Descriptor, MAX_DESCRIPTORS, MAX_FILE_LEN, MessageHead, Shape, StreamId};
pub use frame::{Frame, HEADER_LEN, MAX_PAYLOAD, WireError, measure, parse};
pub use opening::{
    ClientOpening, ControlOpening, MAGIC, Open, Purpose, Reason, Refused, StreamOpening, Token,
    VERSION, Welcome,
};
