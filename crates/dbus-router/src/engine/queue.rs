//! Bytes and descriptors that wait to be written to one socket.
//!
//! A message's descriptors go out with its first byte, so a chunk that carries some starts a sendmsg of its
//! own; everything else is written together, as much as the socket takes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::buffers;
use crate::outbox::{Fds, Load, Payload};
use crate::port::SessionId;

/// Small messages are gathered in chunks of at most this size (bytes), and what is longer is divided.
const CHUNK: usize = buffers::SIZE;
/// A body of at least this size that is shared is kept by reference.
const SHARE: usize = 16 * 1024;
/// How many chunks one sendmsg takes.
const GATHER: usize = 32;

#[derive(Debug)]
enum Data {
    Own(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Own(bytes) => bytes,
            Data::Shared(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Chunk {
    data: Data,
    start: usize,
    fds: Fds,
    charge: Option<SessionId>,
}

impl Chunk {
    fn rest(&self) -> &[u8] {
        &self.data.bytes()[self.start..]
    }
}

/// What one attempt to write came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// Everything.
    All,
    /// The socket is full.
    Blocked,
    /// Too many descriptors of this user are in flight (ETOOMANYREFS); it may be another program's doing.
    TooManyFds,
    /// Nobody reads any more.
    Closed,
}

/// A queue in front of one socket.
#[derive(Default, Debug)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    load: Load,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn load(&self) -> Load {
        self.load
    }

    /// Appends bytes; `fds` go with the first of them.
    pub fn push(&mut self, bytes: &[u8], fds: Fds, charge: Option<SessionId>) {
        if bytes.is_empty() {
            return;
        }
        self.load.bytes += bytes.len();
        self.load.fds += fds.len();
        if let Some(Chunk {
            data: Data::Own(last),
            charge: payer,
            ..
        }) = self.chunks.back_mut()
            && fds.is_empty()
            && *payer == charge
            && last.len() + bytes.len() <= CHUNK
        {
            last.extend_from_slice(bytes);
            return;
        }
        let mut fds = fds;
        for part in bytes.chunks(CHUNK) {
            self.chunks.push_back(Chunk {
                data: Data::Own(buffers::with(part)),
                start: 0,
                fds: std::mem::take(&mut fds),
                charge,
            });
        }
    }

    /// Appends a body; a large one that is shared is not copied.
    pub fn push_body(&mut self, body: Payload<'_>, charge: Option<SessionId>) {
        match body {
            Payload::Shared(whole, offset) if whole.len() - offset >= SHARE => {
                self.load.bytes += whole.len() - offset;
                let data = Data::Shared(whole.clone());
                self.chunks.push_back(Chunk {
                    data,
                    start: offset,
                    fds: Fds::NONE,
                    charge,
                });
            }
            _ => self.push(body.bytes(), Fds::NONE, charge),
        }
    }

    /// Moves everything of `other` behind what is here.
    pub fn append(&mut self, other: &mut Queue) {
        self.load.bytes += other.load.bytes;
        self.load.fds += other.load.fds;
        other.load = Load::default();
        self.chunks.append(&mut other.chunks);
    }

    /// Forgets everything; `paid` is told what no longer waits.
    pub fn clear(&mut self, mut paid: impl FnMut(SessionId, usize, usize)) {
        for chunk in self.chunks.drain(..) {
            if let Some(payer) = chunk.charge {
                paid(payer, chunk.rest().len(), chunk.fds.len());
            }
        }
        self.load = Load::default();
    }

    /// Writes what waits, and then `more`, of which the rest that the socket does not take is *not* kept:
    /// the second part of the result is how much of it was written. `fds` go with the first byte of `more`, and may be
    /// some only if nothing waits.
    pub fn write(
        &mut self,
        socket: BorrowedFd<'_>,
        more: &[u8],
        fds: &Fds,
        mut paid: impl FnMut(SessionId, usize, usize),
    ) -> (Written, usize) {
        let mut more_written = 0;
        while self.chunks.is_empty() {
            if more_written == more.len() {
                return (Written::All, more_written);
            }
            let left = &more[more_written..];
            let result = if fds.is_empty() || more_written > 0 {
                rustix::net::send(socket, left, SendFlags::NOSIGNAL)
            } else {
                send(socket, &[IoSlice::new(left)], fds)
            };
            match result {
                Ok(sent) => more_written += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return (Written::Blocked, more_written),
                Err(Errno::TOOMANYREFS) => return (Written::TooManyFds, more_written),
                Err(_) => return (Written::Closed, more_written),
            }
        }
        loop {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let mut count = 0;
            let mut wanted = 0;
            let mut fds = &Fds::NONE;
            let mut all_chunks = true;
            for chunk in &self.chunks {
                if count == GATHER - 1 || (count > 0 && !chunk.fds.is_empty()) {
                    all_chunks = false;
                    break;
                }
                if count == 0 {
                    fds = &chunk.fds;
                }
                let rest = chunk.rest();
                wanted += rest.len();
                slices[count] = IoSlice::new(rest);
                count += 1;
            }
            let queued = wanted;
            if all_chunks && more_written < more.len() {
                slices[count] = IoSlice::new(&more[more_written..]);
                wanted += more.len() - more_written;
                count += 1;
            }
            if count == 0 {
                return (Written::All, more_written);
            }
            let sent = match send(socket, &slices[..count], fds) {
                Ok(sent) => sent,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return (Written::Blocked, more_written),
                Err(Errno::TOOMANYREFS) => return (Written::TooManyFds, more_written),
                Err(_) => return (Written::Closed, more_written),
            };
            self.advance(sent.min(queued), &mut paid);
            more_written += sent.saturating_sub(queued);
            // A short write means that the socket is full; what follows a boundary may still fit.
            if sent < wanted {
                return (Written::Blocked, more_written);
            }
        }
    }

    fn advance(&mut self, mut sent: usize, paid: &mut impl FnMut(SessionId, usize, usize)) {
        self.load.bytes -= sent;
        while sent > 0 {
            let Some(chunk) = self.chunks.front_mut() else {
                return;
            };
            let part = sent.min(chunk.rest().len());
            sent -= part;
            chunk.start += part;
            let fds = std::mem::take(&mut chunk.fds);
            self.load.fds -= fds.len();
            if let Some(payer) = chunk.charge {
                paid(payer, part, fds.len());
            }
            if chunk.rest().is_empty()
                && let Some(Chunk {
                    data: Data::Own(buffer),
                    ..
                }) = self.chunks.pop_front()
            {
                buffers::put_back(buffer);
            }
        }
    }

    /// Takes the first message out, whose descriptors cannot be sent. Returns its bytes, where they are all
    /// here.
    pub fn drop_first_message(
        &mut self,
        mut paid: impl FnMut(SessionId, usize, usize),
    ) -> Option<Vec<u8>> {
        let first = self.chunks.front()?.rest();
        let prologue = dbus_wire::frame::Prologue::parse(first.first_chunk()?).ok()?;
        let length = prologue.message_len();
        if length > self.load.bytes {
            return None;
        }
        let mut message = Vec::with_capacity(length.min(CHUNK));
        for chunk in &self.chunks {
            let rest = chunk.rest();
            message.extend_from_slice(&rest[..rest.len().min(length - message.len())]);
        }
        self.advance(length, &mut paid);
        Some(message)
    }
}

pub(super) fn send(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    fds: &Fds,
) -> Result<usize, Errno> {
    if fds.is_empty() {
        let mut none = SendAncillaryBuffer::default();
        return rustix::net::sendmsg(socket, slices, &mut none, SendFlags::NOSIGNAL);
    }
    let borrowed: Vec<BorrowedFd<'_>> = fds.as_slice().iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(socket, slices, &mut control, SendFlags::NOSIGNAL)
}

/// The kernel's limit of descriptors in one sendmsg (SCM_MAX_FD).
pub(super) const MAX_FDS: usize = 253;

/// What one recvmsg brought.
pub(super) struct Received {
    pub bytes: usize,
    /// The kernel had to drop descriptors.
    pub truncated: bool,
}

/// Reads once; descriptors are appended to `fds`, close-on-exec.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut VecDeque<std::os::fd::OwnedFd>,
) -> io::Result<Received> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [std::io::IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let truncated = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received {
        bytes: received.bytes,
        truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn what_the_socket_does_not_take_stays_in_order() {
        let (ours, mut theirs) = pair();
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        for part in 0..2_000u32 {
            let bytes = part.to_ne_bytes().repeat(500);
            queue.push(&bytes, Fds::NONE, None);
            expected.extend_from_slice(&bytes);
        }
        let mut got = vec![0; expected.len()];
        let mut read = 0;
        while read < got.len() {
            queue.write(ours.as_fd(), &[], &Fds::NONE, |_, _, _| {});
            read += theirs.read(&mut got[read..]).unwrap();
        }
        assert!(got == expected);
        assert_eq!(queue.load(), Load::default());
    }

    #[test]
    fn descriptors_start_a_write_of_their_own() {
        let (ours, theirs) = pair();
        let mut queue = Queue::default();
        queue.push(b"before", Fds::NONE, None);
        let fd = ours.try_clone().unwrap().into();
        queue.push(b"with", Fds::new(vec![fd]), None);
        queue.push(b"after", Fds::NONE, None);
        assert_eq!(
            queue.write(ours.as_fd(), b"more", &Fds::NONE, |_, _, _| {}),
            (Written::All, 4)
        );
        let mut fds = VecDeque::new();
        let mut buffer = [0; 64];
        // The kernel ends a read behind bytes that carry descriptors.
        let first = receive(theirs.as_fd(), &mut buffer, &mut fds).unwrap();
        assert_eq!(&buffer[..first.bytes], b"beforewithaftermore");
        assert_eq!(fds.len(), 1);
        assert_eq!(queue.load(), Load::default());
    }

    #[test]
    fn who_is_charged_is_paid_when_it_is_written_or_forgotten() {
        let (ours, _theirs) = pair();
        let payer = SessionId {
            index: 3,
            generation: 1,
        };
        let mut queue = Queue::default();
        let mut paid = 0;
        queue.push(b"12345", Fds::NONE, Some(payer));
        queue.write(ours.as_fd(), &[], &Fds::NONE, |who, bytes, _| {
            assert_eq!(who, payer);
            paid += bytes;
        });
        queue.push(b"678", Fds::NONE, Some(payer));
        queue.clear(|_, bytes, _| paid += bytes);
        assert_eq!(paid, 8);
    }
}
