//! The head of a message: its length, and what stands for its file descriptors.

use super::text::{Reader, put_path, put_text, put_u32};
use super::{MAX_PAYLOAD, WireError};
use crate::crossing::{Access, DocumentFile, DocumentId, DocumentPath};

/// The most descriptors with one message, whatever the limits of a broker are.
pub const MAX_DESCRIPTORS: usize = 64;
/// The longest file that crosses by its bytes.
pub const MAX_FILE_LEN: u32 = 16 * 1024 * 1024;

const LEAST_FILE_ROOM: u32 = 256 * 1024;
const MAX_ID: usize = 64;
const MAX_PATH: usize = 4096;
/// The longest file name of Linux.
const MAX_NAME: usize = 255;

/// The number of a stream, chosen by the side that offers it; once only for each client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamId(pub u32);

/// What the receiver of a stream's descriptor can do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// It reads: the end of a pipe.
    Reads,
    /// It writes: the other end of a pipe.
    Writes,
    /// Both: a socket.
    Socket,
}

/// What crosses in place of a file descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// A file of a document.
    Document(DocumentFile),
    /// The bytes of a file; they follow in [`super::Frame::Content`].
    Bytes {
        /// At most so many.
        len: u32,
        /// Where the file is read next.
        position: u32,
        /// The file's name, without its directories; may be empty.
        name: String,
    },
    /// A stream of its own.
    Stream {
        /// Its number.
        id: StreamId,
        /// Which way.
        shape: Shape,
    },
}

/// The head of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageHead {
    /// The length of the D-Bus message; never 0.
    pub message_len: u32,
    /// Its descriptors, in their order.
    pub descriptors: Vec<Descriptor>,
}

impl MessageHead {
    /// Whether it has a place in one frame.
    pub fn fits(&self) -> bool {
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return false;
        }
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes.len() <= MAX_PAYLOAD
    }

    /// The bytes that its files are charged with. A file takes descriptors, too, so that a small one is no smaller than
    /// 256 KiB.
    pub fn file_room(&self) -> u64 {
        let len = |descriptor: &Descriptor| match descriptor {
            Descriptor::Bytes { len, .. } => u64::from(*len.max(&LEAST_FILE_ROOM)),
            Descriptor::Document(_) | Descriptor::Stream { .. } => 0,
        };
        self.descriptors.iter().map(len).sum()
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<MessageHead, WireError> {
        let message_len = reader.u32()?;
        if message_len == 0 {
            return Err(WireError::Value("the length of a message", 0));
        }
        let count = usize::from(reader.u8()?);
        if count > MAX_DESCRIPTORS {
            return Err(WireError::TooLong {
                len: count,
                most: MAX_DESCRIPTORS,
            });
        }
        let mut descriptors = Vec::with_capacity(count);
        for _ in 0..count {
            descriptors.push(Descriptor::read(reader)?);
        }
        Ok(MessageHead {
            message_len,
            descriptors,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_u32(out, self.message_len);
        let count = self.descriptors.len().min(MAX_DESCRIPTORS);
        out.push(count as u8);
        for descriptor in &self.descriptors[..count] {
            descriptor.write(out);
        }
    }
}

impl Descriptor {
    fn read(reader: &mut Reader<'_>) -> Result<Descriptor, WireError> {
        match reader.u8()? {
            1 => {
                let access = match reader.u8()? {
                    0 => Access::Path,
                    1 => Access::Read,
                    2 => Access::Write,
                    3 => Access::ReadWrite,
                    other => return Err(WireError::Value("a way to open", u64::from(other))),
                };
                let id = DocumentId::parse(reader.text(MAX_ID)?).ok_or(WireError::Document)?;
                let path =
                    DocumentPath::parse(&reader.path(MAX_PATH)?).ok_or(WireError::Document)?;
                Ok(Descriptor::Document(DocumentFile { id, path, access }))
            }
            2 => {
                let (len, position) = (reader.u32()?, reader.u32()?);
                if len > MAX_FILE_LEN {
                    return Err(WireError::Value("the length of a file", u64::from(len)));
                }
                let name = reader.text(MAX_NAME)?;
                if name.contains('/') {
                    return Err(WireError::Text);
                }
                Ok(Descriptor::Bytes {
                    len,
                    position,
                    name: name.to_owned(),
                })
            }
            3 => {
                let id = StreamId(reader.u32()?);
                let shape = match reader.u8()? {
                    1 => Shape::Reads,
                    2 => Shape::Writes,
                    3 => Shape::Socket,
                    other => return Err(WireError::Value("a direction", u64::from(other))),
                };
                Ok(Descriptor::Stream { id, shape })
            }
            other => Err(WireError::Value("a descriptor", u64::from(other))),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Descriptor::Document(file) => {
                out.push(1);
                out.push(match file.access {
                    Access::Path => 0,
                    Access::Read => 1,
                    Access::Write => 2,
                    Access::ReadWrite => 3,
                });
                put_text(out, file.id.as_str(), MAX_ID);
                put_path(out, file.path.as_path(), MAX_PATH);
            }
            Descriptor::Bytes {
                len,
                position,
                name,
            } => {
                out.push(2);
                put_u32(out, *len);
                put_u32(out, *position);
                put_text(out, name, MAX_NAME);
            }
            Descriptor::Stream { id, shape } => {
                out.push(3);
                put_u32(out, id.0);
                out.push(match shape {
                    Shape::Reads => 1,
                    Shape::Writes => 2,
                    Shape::Socket => 3,
                });
            }
        }
    }
}
