//! Sockets of the invented world: two pipes of bytes, in order, with file descriptors at their bytes.
//!
//! What is written can be read at once, as with a unix socket; what differs is who is run when.

use std::collections::VecDeque;

use dbus_router::Fds;

#[derive(Debug)]
pub struct Pipe {
    data: VecDeque<u8>,
    /// Descriptors and the number of the byte that they came with.
    fds: VecDeque<(u64, Fds)>,
    read: u64,
    capacity: usize,
}

/// One connection. Each side writes the pipe with its number and reads the other.
#[derive(Debug)]
pub struct Wire {
    pipes: [Pipe; 2],
    closed: [bool; 2],
    /// The other end has taken the connection.
    pub accepted: bool,
}

/// What one end of a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub wire: usize,
    pub side: usize,
}

impl End {
    /// Of a connection that is not made yet.
    pub const NOWHERE: End = End {
        wire: usize::MAX,
        side: 0,
    };

    pub fn other(self) -> End {
        End {
            wire: self.wire,
            side: 1 - self.side,
        }
    }
}

#[derive(Default, Debug)]
pub struct Wires(Vec<Wire>);

impl Wires {
    /// A new connection; its first end.
    pub fn connect(&mut self, capacity: usize) -> End {
        let pipe = || Pipe {
            data: VecDeque::new(),
            fds: VecDeque::new(),
            read: 0,
            capacity,
        };
        self.0.push(Wire {
            pipes: [pipe(), pipe()],
            closed: [false; 2],
            accepted: false,
        });
        End {
            wire: self.0.len() - 1,
            side: 0,
        }
    }

    pub fn is_accepted(&self, end: End) -> bool {
        self.0[end.wire].accepted
    }

    pub fn at(&mut self, end: End) -> &mut Wire {
        &mut self.0[end.wire]
    }

    /// Writes as much as there is room for. None: the other end is closed.
    pub fn write(&mut self, end: End, bytes: &[u8], fds: Option<&Fds>) -> Option<usize> {
        let wire = &mut self.0[end.wire];
        if wire.closed[1 - end.side] || wire.closed[end.side] {
            return None;
        }
        let pipe = &mut wire.pipes[end.side];
        let count = bytes
            .len()
            .min(pipe.capacity.saturating_sub(pipe.data.len()));
        if let (Some(fds), true) = (fds, count > 0) {
            pipe.fds
                .push_back((pipe.read + pipe.data.len() as u64, fds.clone()));
        }
        pipe.data.extend(&bytes[..count]);
        Some(count)
    }

    /// How much can be read at once.
    pub fn readable(&self, end: End) -> usize {
        self.0[end.wire].pipes[1 - end.side].data.len()
    }

    pub fn writable(&self, end: End) -> bool {
        let pipe = &self.0[end.wire].pipes[end.side];
        pipe.data.len() < pipe.capacity
    }

    /// Whether the other end is closed and everything was read.
    pub fn has_ended(&self, end: End) -> bool {
        self.readable(end) == 0 && self.0[end.wire].closed[1 - end.side]
    }

    pub fn other_is_closed(&self, end: End) -> bool {
        self.0[end.wire].closed[1 - end.side]
    }

    pub fn read(&mut self, end: End, most: usize, into: &mut Vec<u8>, fds: &mut VecDeque<Fds>) {
        let pipe = &mut self.0[end.wire].pipes[1 - end.side];
        let count = most.min(pipe.data.len());
        let (front, back) = pipe.data.as_slices();
        let first = count.min(front.len());
        into.extend_from_slice(&front[..first]);
        into.extend_from_slice(&back[..count - first]);
        pipe.data.drain(..count);
        pipe.read += count as u64;
        while pipe.fds.front().is_some_and(|(at, _)| *at < pipe.read) {
            fds.extend(pipe.fds.pop_front().map(|(_, fds)| fds));
        }
    }

    /// What was written can still be read at the other end.
    pub fn close(&mut self, end: End) {
        let wire = &mut self.0[end.wire];
        wire.closed[end.side] = true;
        let unread = &mut wire.pipes[1 - end.side];
        unread.data.clear();
        unread.fds.clear();
    }
}
