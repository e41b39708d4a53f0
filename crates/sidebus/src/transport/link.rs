//! Frames over a connection.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::Socket;
use crate::wire::{self, Frame, WireError};

/// What is read at once, when there is more than a little.
const READ: usize = 64 * 1024;
/// What a quiet connection reads first.
const FIRST_READ: usize = 4 * 1024;
/// Frames are collected up to this, and then written.
const COALESCE: usize = 64 * 1024;

/// Why a connection is over.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The transport.
    #[error("the connection is broken: {0}")]
    Io(#[from] io::Error),
    /// The other side does not keep to the protocol.
    #[error("the other side does not keep to the protocol: {0}")]
    Wire(#[from] WireError),
    /// A frame that does not belong there.
    #[error("the other side does not keep to the protocol: {frame} where {expected} was expected")]
    Unexpected {
        /// What came.
        frame: &'static str,
        /// What could have come.
        expected: &'static str,
    },
    /// It closed in the middle of something.
    #[error("the other side closed the connection in the middle of {0}")]
    Cut(&'static str),
    /// It did something that the limits do not allow, although it was told them.
    #[error("the other side goes beyond a limit: {0}")]
    Limit(String),
}

/// Reads frames. Dropping a future of it loses nothing.
#[derive(Debug)]
pub struct FrameReader {
    socket: Arc<Socket>,
    buffer: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
}

/// Collects frames and writes them. Dropping a future of it loses nothing.
#[derive(Debug)]
pub struct FrameWriter {
    socket: Arc<Socket>,
    buffer: Vec<u8>,
    /// How much of it has been written.
    sent: usize,
}

/// Both directions of a connection.
pub fn link(socket: Socket) -> (FrameReader, FrameWriter) {
    let socket = Arc::new(socket);
    let reader = FrameReader {
        socket: socket.clone(),
        buffer: Vec::new(),
        start: 0,
    };
    let writer = FrameWriter {
        socket,
        buffer: Vec::new(),
        sent: 0,
    };
    (reader, writer)
}

impl FrameReader {
    /// The next frame; none when the other side has closed between two.
    pub async fn next(&mut self) -> Result<Option<Frame<'_>>, LinkError> {
        let whole = loop {
            match wire::measure(&self.buffer[self.start..])? {
                Ok(whole) => break whole,
                Err(needed) => {
                    if !self.fill(needed).await? {
                        return match self.buffer.len() - self.start {
                            0 => Ok(None),
                            _ => Err(LinkError::Cut("a frame")),
                        };
                    }
                }
            }
        };
        let frame = self.start..self.start + whole;
        self.start = frame.end;
        Ok(Some(wire::parse(&self.buffer[frame])?))
    }

    /// Whether there is a frame without waiting for the other side.
    pub fn has_next(&self) -> bool {
        matches!(wire::measure(&self.buffer[self.start..]), Ok(Ok(_)))
    }

    /// Reads more; false at the end of the stream. `needed` is the length of the frame as far as it is known.
    async fn fill(&mut self, needed: usize) -> Result<bool, LinkError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let room = if needed > FIRST_READ || self.buffer.capacity() > FIRST_READ {
            READ
        } else {
            FIRST_READ
        };
        self.buffer
            .reserve(room.max(needed) - self.buffer.len().min(needed));
        if let Some(count) = self.socket.try_read(&mut self.buffer)? {
            return Ok(count > 0);
        }
        // Quiet connections need no memory.
        if self.buffer.is_empty() {
            self.buffer = Vec::with_capacity(FIRST_READ);
        }
        Ok(self.socket.read(&mut self.buffer).await? > 0)
    }
}

impl FrameWriter {
    /// Puts a frame behind those that wait to be written.
    pub fn push(&mut self, frame: &Frame<'_>) {
        frame.write(&mut self.buffer);
    }

    /// Whether so much waits that it should be written; what is little can wait for what comes behind it.
    pub fn is_much(&self) -> bool {
        self.buffer.len() - self.sent >= COALESCE
    }

    /// Writes all that waits.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while self.sent < self.buffer.len() {
            self.sent += self.socket.write(&self.buffer[self.sent..]).await?;
        }
        self.sent = 0;
        self.buffer.clear();
        if self.buffer.capacity() > 2 * COALESCE {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Writes a frame now.
    pub async fn send(&mut self, frame: &Frame<'_>) -> Result<(), LinkError> {
        self.push(frame);
        self.flush().await
    }
}
