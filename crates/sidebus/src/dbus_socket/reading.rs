//! Messages that come.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dbus_wire::{Header, Prologue, Scan, scan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use super::{DbusError, MAX_FDS};
use crate::kernel::WatchedFd;

/// What is read at once, when there is more than a little.
const READ: usize = 64 * 1024;
/// What a quiet connection reads first.
const FIRST_READ: usize = 4 * 1024;
/// The longest header; those of programs have a few hundred bytes.
const MAX_HEADER: usize = 64 * 1024;
/// Descriptors that may wait for their messages.
const MOST_WAITING: usize = 2 * MAX_FDS;

/// A message whose header and descriptors are there.
#[derive(Debug)]
pub struct Incoming {
    /// The first of its bytes.
    pub prologue: Prologue,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Reads messages. Dropping a future of it loses nothing.
#[derive(Debug)]
pub struct MessageReader {
    socket: Arc<WatchedFd>,
    buffer: Vec<u8>,
    /// Where what has not been taken begins.
    start: usize,
    fds: VecDeque<OwnedFd>,
}

impl MessageReader {
    pub(super) fn new(socket: Arc<WatchedFd>) -> MessageReader {
        MessageReader {
            socket,
            buffer: Vec::new(),
            start: 0,
            fds: VecDeque::new(),
        }
    }

    /// Waits for the next message, until its header and its descriptors are there. Its bytes are then to be taken with
    /// [`MessageReader::chunk`]. None: the other side has closed.
    pub async fn next(&mut self) -> Result<Option<Incoming>, DbusError> {
        loop {
            match self.look()? {
                Look::Ready(prologue, count) => {
                    let fds = self.fds.drain(..count).collect();
                    return Ok(Some(Incoming { prologue, fds }));
                }
                Look::Needs(bytes) => {
                    if !self.fill(bytes).await? {
                        return match self.left().len() {
                            0 => Ok(None),
                            _ => Err(DbusError::Cut),
                        };
                    }
                }
            }
        }
    }

    /// Whether the next message is there whole, without waiting.
    pub fn has_next(&self) -> bool {
        match self.look() {
            Ok(Look::Ready(prologue, _)) => self.left().len() >= prologue.message_len(),
            _ => false,
        }
    }

    fn look(&self) -> Result<Look, DbusError> {
        let left = &self.buffer[self.start..];
        let prologue = match scan(left)? {
            Scan::NeedBytes(bytes) if bytes > MAX_HEADER => {
                return Err(DbusError::HeaderTooLong(bytes));
            }
            Scan::NeedBytes(bytes) => return Ok(Look::Needs(bytes)),
            Scan::Message(prologue) => prologue,
        };
        let header = Header::parse(&left[..prologue.header_len()])?;
        let count = usize::try_from(header.unix_fds).map_err(|_| DbusError::Fds)?;
        if count <= self.fds.len() {
            return Ok(Look::Ready(prologue, count));
        }
        // They come with any of the message's bytes, and not later.
        if count > MAX_FDS || left.len() >= prologue.message_len() {
            return Err(DbusError::Fds);
        }
        Ok(Look::Needs((left.len() + READ).min(prologue.message_len())))
    }

    /// The header of the message that [`MessageReader::next`] gave, before any of its bytes is taken.
    pub fn header(&self, prologue: &Prologue) -> Result<Header<'_>, DbusError> {
        let header = self.left().get(..prologue.header_len());
        Ok(Header::parse(header.ok_or(DbusError::Cut)?)?)
    }

    /// What is in the buffer.
    pub fn left(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes the next bytes of a message of which `remaining` are not taken yet: at least one, at most `most`.
    pub async fn chunk(&mut self, remaining: usize, most: usize) -> Result<&[u8], DbusError> {
        if self.left().is_empty() && !self.fill(remaining.min(READ)).await? {
            return Err(DbusError::Cut);
        }
        let taken = self.left().len().min(remaining).min(most);
        self.start += taken;
        Ok(&self.buffer[self.start - taken..self.start])
    }

    /// Whether the other side has closed, although not all that it has sent may have been read.
    pub fn is_closed(&self) -> bool {
        let mut polled = [PollFd::new(&*self.socket, PollFlags::empty())];
        let now = Timespec::default();
        matches!(poll(&mut polled, Some(&now)), Ok(1..))
            && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Waits until so many bytes are in the buffer.
    pub async fn fill_to(&mut self, count: usize) -> Result<(), DbusError> {
        while self.left().len() < count {
            if !self.fill(count).await? {
                return Err(DbusError::Cut);
            }
        }
        Ok(())
    }

    /// Takes bytes that are not to be passed on.
    pub async fn discard(&mut self, mut remaining: usize) -> Result<(), DbusError> {
        while remaining > 0 {
            remaining -= self.chunk(remaining, READ).await?.len();
        }
        Ok(())
    }

    /// Takes bytes that were looked at in [`MessageReader::left`].
    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
    }

    /// Reads more; false at the end of the stream. `needed` is how many bytes there should be in the buffer.
    pub(super) async fn fill(&mut self, needed: usize) -> Result<bool, DbusError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let room = if needed > FIRST_READ || self.buffer.capacity() > FIRST_READ {
            READ
        } else {
            FIRST_READ
        };
        self.buffer.reserve(room);
        loop {
            if let Some(count) = self.try_read()? {
                return Ok(count > 0);
            }
            // Quiet connections need no memory.
            if self.buffer.is_empty() && self.buffer.capacity() > FIRST_READ {
                self.buffer = Vec::with_capacity(FIRST_READ);
            }
            let socket = self.socket.clone();
            let mut ready = socket.readable().await?;
            match self.try_read()? {
                Some(count) => return Ok(count > 0),
                None => ready.clear_ready(),
            }
        }
    }

    fn try_read(&mut self) -> Result<Option<usize>, DbusError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let len = self.buffer.len();
        let room = self.buffer.capacity().min(len + READ);
        self.buffer.resize(room, 0);
        let result = recvmsg(
            &*self.socket,
            &mut [IoSliceMut::new(&mut self.buffer[len..])],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let count = result.as_ref().map_or(0, |message| message.bytes);
        self.buffer.truncate(len + count);
        let message = match result {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MOST_WAITING {
            return Err(DbusError::Fds);
        }
        Ok(Some(count))
    }
}

enum Look {
    /// The header is there, and this many descriptors are its.
    Ready(Prologue, usize),
    /// So many bytes should be in the buffer.
    Needs(usize),
}
