//! A pipe or socket that crosses: bytes from a local end to the other side, and back.
//!
//! Each side has said End before it closes, so that nothing that is under way is lost with the connection.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::sync::{Mutex, Notify};

use crate::kernel::WatchedFd;
use crate::transport::{FrameReader, FrameWriter, LinkError};
use crate::wire::{Frame, Shape};

/// What is read at once.
const READ: usize = 32 * 1024;

/// What a local end does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Role {
    /// Bytes come from it.
    source: bool,
    /// Bytes go to it.
    sink: bool,
}

impl Role {
    /// At the side that passes the descriptor.
    pub fn of_sender(shape: Shape) -> Role {
        Role {
            source: shape != Shape::Writes,
            sink: shape != Shape::Reads,
        }
    }

    /// At the side that recreates it.
    pub fn of_receiver(shape: Shape) -> Role {
        Role {
            source: shape != Shape::Reads,
            sink: shape != Shape::Writes,
        }
    }
}

/// The two ends of what is recreated: for the program, and for us.
pub(super) fn recreate(shape: Shape) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (theirs, ours) = match shape {
        Shape::Socket => socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?,
        Shape::Reads => rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?,
        Shape::Writes => {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            (writer, reader)
        }
    };
    // The ends of a pipe, and of a pair of sockets, have each a file description of their own.
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((theirs, ours))
}

/// Carries bytes until both directions are done.
pub(super) async fn carry(
    end: OwnedFd,
    shape: Shape,
    role: Role,
    mut reader: FrameReader,
    writer: FrameWriter,
) -> Result<(), LinkError> {
    let local = Local::new(end, shape == Shape::Socket, role)?;
    let writer = Mutex::new(writer);
    let signs = Signs::default();
    let outgoing = async {
        if role.source {
            pass(&local, &writer, &signs).await?;
        } else {
            signs.taken.notified().await;
        }
        writer.lock().await.send(&Frame::End).await
    };
    let incoming = take(&local, role, &mut reader, &writer, &signs);
    let mut outgoing = std::pin::pin!(outgoing);
    let mut incoming = std::pin::pin!(incoming);
    tokio::select! {
        result = &mut outgoing => {
            result?;
            tokio::select! {
                result = incoming => result,
                () = signs.ended.notified() => Ok(()),
            }
        }
        result = &mut incoming => {
            result?;
            outgoing.await
        }
    }
}

/// What one direction of a stream tells the other.
#[derive(Default)]
struct Signs {
    /// The other side takes no more.
    stopped: Notify,
    /// The other side has sent all.
    ended: Notify,
    /// Nothing more goes to a local end that is only written to.
    taken: Notify,
}

/// Local end to the other side, until it ends or nobody takes more.
async fn pass(local: &Local, writer: &Mutex<FrameWriter>, signs: &Signs) -> Result<(), LinkError> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let count = tokio::select! {
            count = local.read(&mut buffer) => count,
            () = signs.stopped.notified() => return Ok(()),
        };
        match count {
            // A reset of the local end is its end.
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => writer.lock().await.send(&Frame::Data(&buffer)).await?,
        }
        // Quiet streams need no memory.
        if buffer.len() < READ / 8 {
            buffer = Vec::new();
        }
    }
}

/// Other side to local end. An end that is only written to is done when the other side has ended or nobody reads it;
/// for one that is read, too, this goes on for as long as the other side could say Stop.
async fn take(
    local: &Local,
    role: Role,
    reader: &mut FrameReader,
    writer: &Mutex<FrameWriter>,
    signs: &Signs,
) -> Result<(), LinkError> {
    let mut open = role.sink;
    let mut ended = false;
    loop {
        let broken = tokio::select! {
            () = local.broken(), if open => true,
            frame = reader.next() => match frame? {
                Some(Frame::Data(bytes)) if open => local.write_all(bytes).await.is_err(),
                // Under way when we said Stop.
                Some(Frame::Data(_)) if role.sink && !ended => false,
                Some(Frame::Stop) => {
                    signs.stopped.notify_one();
                    false
                }
                Some(Frame::End) => {
                    local.end();
                    signs.ended.notify_one();
                    if !role.sink {
                        signs.stopped.notify_one();
                    }
                    (open, ended) = (false, true);
                    false
                }
                None if ended => return Ok(()),
                None => return Err(LinkError::Cut("a stream")),
                Some(other) => {
                    return Err(LinkError::Unexpected {
                        frame: other.kind(),
                        expected: "something else on this stream",
                    });
                }
            },
        };
        if broken {
            writer.lock().await.send(&Frame::Stop).await?;
            open = false;
        }
        if !role.source && !open {
            signs.taken.notify_one();
            return Ok(());
        }
    }
}

/// A pipe's end, or a socket.
struct Local {
    fd: WatchedFd,
    socket: bool,
}

impl Local {
    fn new(fd: OwnedFd, socket: bool, role: Role) -> io::Result<Local> {
        let interest = match (role.source, role.sink) {
            (true, true) => Interest::READABLE | Interest::WRITABLE | Interest::ERROR,
            (true, false) => Interest::READABLE,
            _ => Interest::WRITABLE | Interest::ERROR,
        };
        Ok(Local {
            fd: WatchedFd::new(fd, interest)?,
            socket,
        })
    }

    async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            buffer.reserve(READ);
            let space = rustix::buffer::spare_capacity(buffer);
            // The socket is the sender's too, and stays as it is.
            let result = if self.socket {
                rustix::net::recv(&self.fd, space, RecvFlags::DONTWAIT).map(|(count, _)| count)
            } else {
                rustix::io::read(&self.fd, space)
            };
            match result {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.fd.writable().await?;
            let result = if self.socket {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                rustix::net::send(&self.fd, bytes, flags)
            } else {
                rustix::io::write(&self.fd, bytes)
            };
            match result {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Waits until nobody can read what is written to a pipe. (Of a socket one learns it by writing.) Whether it can be
    /// written must not be touched here: it is told once only.
    async fn broken(&self) {
        // What cannot be watched is found out by writing.
        if self.socket || self.fd.ready(Interest::ERROR).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Nothing more is written. A pipe ends when it is closed; a socket is told, because it may still be read.
    fn end(&self) {
        if self.socket {
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
        }
    }
}
