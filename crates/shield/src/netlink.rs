//! Netlink, as far as netfilter needs it: messages are built, sent, and their answers read.
//!
//! Own code rather than a crate: what is needed is nine message types of two subsystems. The well-kept
//! netlink crates cover the log but not nftables, and the crates that cover nftables link a C library.
//!
//! All that is read here comes from the kernel; still, every length is checked before it is used.
//! A request is answered before `sendmsg` returns (netfilter works in the sender's context), so one
//! request is one send and as many receives as there are answers, and nothing waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};

/// A netlink message header is this long.
const HEADER: usize = 16;
/// `struct nfgenmsg`: family, version, resource id.
const GENERIC: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// What a single receive can bring; the kernel makes dump messages of at most this size.
const RECEIVE: usize = 64 * 1024;

/// The kernel's own buffer for one socket, asked for because a burst of events has to wait somewhere.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// Builds one or several messages in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    /// Where the message under construction begins.
    start: usize,
}

/// The place of a nested attribute that is not yet closed.
#[must_use]
pub(crate) struct Nest(usize);

impl Messages {
    /// Begins a message of `subsystem << 8 | kind`.
    pub(crate) fn begin(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
    ) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.push(family);
        self.bytes.push(0);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
    }

    /// Ends the message that was begun last: writes its length.
    pub(crate) fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute with these bytes, padded to four.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Values here are names, keys and numbers: far below 64 KiB.
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a string attribute, with the NUL that the kernel expects.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Opens an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Nest(at)
    }

    /// Closes it.
    pub(crate) fn close(&mut self, nest: Nest) {
        let length = (self.bytes.len() - nest.0) as u16;
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// One attribute: its type without flags, and its value.
pub(crate) type Attribute<'a> = (u16, &'a [u8]);

/// Reads the attributes in `bytes`; stops at the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A string attribute's text, without its NUL; what is not UTF-8 becomes a replacement character.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// One received message: its type, and what follows the generic header.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Splits a received datagram into its messages.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind,
            sequence,
            body,
        })
    })
}

impl<'a> Message<'a> {
    /// The attributes of a netfilter message, which stand behind its generic header.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.body.get(GENERIC..).unwrap_or_default()
    }

    /// For an error message: the error it carries, 0 for an acknowledgement.
    fn error(&self) -> Option<i32> {
        (self.kind == NLMSG_ERROR)
            .then(|| self.body.get(0..4))
            .flatten()
            .and_then(|b| b.try_into().ok())
            .map(i32::from_ne_bytes)
    }
}

/// A `NETLINK_NETFILTER` socket, wherever it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, sequence: 0 }
    }

    /// Asks the kernel for a large receive buffer. Beyond the system's limit only a privileged process
    /// gets it; a smaller one loses more in a burst, which is counted, so failure is no error.
    pub(crate) fn enlarge_buffer(&self) {
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&self.fd, RECEIVE_BUFFER)
            .is_err()
        {
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&self.fd, RECEIVE_BUFFER);
        }
    }

    /// Sends one message and waits for its acknowledgement.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Messages),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        let mut out = Messages::default();
        out.begin(kind, NLM_F_ACK, sequence, family, resource);
        fill(&mut out);
        out.end();
        self.send(&out)?;
        self.acknowledged(sequence)
    }

    /// Sends messages as one transaction of `subsystem`: all of it happens, or nothing.
    ///
    /// Each of `parts` is a message type, whether it creates, and what fills it.
    pub(crate) fn transaction(
        &mut self,
        subsystem: u16,
        family: u8,
        parts: &mut [(u16, bool, Fill<'_>)],
    ) -> io::Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut out = Messages::default();
        let first = self.next_sequence();
        out.begin(BATCH_BEGIN, 0, first, 0, subsystem);
        out.end();
        let count = parts.len();
        let mut last = first;
        for (i, (kind, create, fill)) in parts.iter_mut().enumerate() {
            last = self.next_sequence();
            let mut flags = if *create { NLM_F_CREATE } else { 0 };
            if i + 1 == count {
                flags |= NLM_F_ACK;
            }
            out.begin(subsystem << 8 | *kind, flags, last, family, 0);
            fill(&mut out);
            out.end();
        }
        let end = self.next_sequence();
        out.begin(BATCH_END, 0, end, 0, subsystem);
        out.end();
        self.send(&out)?;
        self.acknowledged(last)
    }

    /// Sends a request and hands each message of the answer to `each`.
    pub(crate) fn query(
        &mut self,
        kind: u16,
        family: u8,
        dump: bool,
        fill: impl FnOnce(&mut Messages),
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        let mut out = Messages::default();
        let flags = if dump { NLM_F_DUMP } else { NLM_F_ACK };
        out.begin(kind, flags, sequence, family, 0);
        fill(&mut out);
        out.end();
        self.send(&out)?;
        let mut done = None;
        let mut buffer = vec![0u8; RECEIVE];
        while done.is_none() {
            let Some(length) = self.receive(&mut buffer)? else {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the kernel did not finish its answer",
                ));
            };
            for message in messages(&buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                match message.error() {
                    Some(0) => done = Some(Ok(())),
                    Some(e) => done = Some(Err(io::Error::from_raw_os_error(-e))),
                    None if message.kind == NLMSG_DONE => done = Some(Ok(())),
                    None => each(&message),
                }
            }
        }
        done.unwrap_or(Ok(()))
    }

    /// Receives a datagram; `None` if there is none now.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(Some(length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn send(&self, out: &Messages) -> io::Result<()> {
        let sent = rustix::net::send(&self.fd, &out.bytes, SendFlags::empty())?;
        if sent == out.bytes.len() {
            Ok(())
        } else {
            Err(io::Error::other("the kernel took only part of a request"))
        }
    }

    /// Reads what the kernel has answered: the first error, or the acknowledgement of `sequence`.
    fn acknowledged(&self, sequence: u32) -> io::Result<()> {
        let mut buffer = [0u8; 8192];
        let mut result: Option<io::Result<()>> = None;
        'answers: while let Some(length) = self.receive(&mut buffer)? {
            for message in messages(&buffer[..length]) {
                let Some(error) = message.error() else {
                    continue;
                };
                if error != 0 && result.is_none() {
                    result = Some(Err(io::Error::from_raw_os_error(-error)));
                }
                // Errors of a transaction's earlier parts come before its last part's answer.
                if message.sequence == sequence {
                    result.get_or_insert(Ok(()));
                    break 'answers;
                }
            }
        }
        result.unwrap_or_else(|| {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the kernel did not acknowledge the request",
            ))
        })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Fills one message of a transaction.
pub(crate) type Fill<'a> = Box<dyn FnMut(&mut Messages) + 'a>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written() {
        let mut out = Messages::default();
        out.begin(0x0a0c, NLM_F_ACK, 7, 1, 0);
        out.string(1, "abc");
        let nest = out.nest(2);
        out.attribute(1, &[1, 2, 3, 4, 5]);
        out.close(nest);
        out.end();
        let all: Vec<_> = messages(&out.bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].sequence, 7);
        assert_eq!(
            attribute(all[0].payload(), 1).map(text).as_deref(),
            Some("abc")
        );
        let inner = attribute(all[0].payload(), 2).expect("the nested attribute");
        assert_eq!(attribute(inner, 1), Some(&[1u8, 2, 3, 4, 5][..]));
    }

    #[test]
    fn lengths_that_lie_end_the_reading_and_nothing_else() {
        for bytes in [
            &[][..],
            &[0, 0][..],
            &[3, 0, 1, 0][..],
            &[255, 255, 1, 0, 1][..],
            &[0, 0, 0, 0, 0, 0, 0, 0][..],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        let mut long = vec![0u8; 16];
        long[0] = 200;
        assert_eq!(messages(&long).count(), 0);
    }
}
