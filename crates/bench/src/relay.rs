//! The blind relay: the floor for any process between a client and a bus. One epoll loop, recvmsg, sendmsg,
//! descriptors; it looks at nothing.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

struct End {
    socket: Rc<OwnedFd>,
    other: Rc<OwnedFd>,
    /// What the other side's socket did not take.
    rest: Vec<u8>,
}

/// Serves until it is killed.
pub fn serve(listen: &Path, target: &Path) -> std::io::Result<()> {
    let listener = UnixListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |fd: BorrowedFd<'_>, flags| {
        epoll::add(&epoll, fd, EventData::new_u64(fd.as_raw_fd() as u64), flags)
    };
    watch(listener.as_fd(), EventFlags::IN)?;
    let mut ends: HashMap<u64, End> = HashMap::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut events: Vec<epoll::Event> = Vec::with_capacity(4096);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            let (fd, flags) = (event.data.u64(), event.flags);
            if fd == listener.as_raw_fd() as u64 {
                while let Ok((client, _)) = listener.accept() {
                    let bus = UnixStream::connect(target)?;
                    client.set_nonblocking(true)?;
                    bus.set_nonblocking(true)?;
                    let (client, bus) =
                        (Rc::new(OwnedFd::from(client)), Rc::new(OwnedFd::from(bus)));
                    for (socket, other) in [(&client, &bus), (&bus, &client)] {
                        watch(socket.as_fd(), EventFlags::IN)?;
                        let end = End {
                            socket: socket.clone(),
                            other: other.clone(),
                            rest: Vec::new(),
                        };
                        ends.insert(socket.as_raw_fd() as u64, end);
                    }
                }
                continue;
            }
            let Some(end) = ends.get_mut(&fd) else {
                continue;
            };
            let other = end.other.as_raw_fd() as u64;
            if flags.contains(EventFlags::OUT) {
                // This socket takes bytes again: what its other side had left over goes first.
                if let Some(feeder) = ends.get_mut(&other) {
                    pass(feeder, &[], &[]);
                    watch_for(&epoll, &ends, fd);
                    watch_for(&epoll, &ends, other);
                }
            }
            let Some(end) = ends.get_mut(&fd) else {
                continue;
            };
            if flags.intersects(EventFlags::IN | EventFlags::HUP) && end.rest.is_empty() {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut slices = [IoSliceMut::new(&mut buffer)];
                let how = RecvFlags::CMSG_CLOEXEC;
                let read = match rustix::net::recvmsg(&*end.socket, &mut slices, &mut control, how)
                {
                    Ok(read) => read.bytes,
                    Err(Errno::AGAIN | Errno::INTR) => continue,
                    Err(_) => 0,
                };
                let mut fds: Vec<OwnedFd> = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                if read == 0 {
                    ends.remove(&other);
                    ends.remove(&fd);
                    continue;
                }
                pass(end, &buffer[..read], &fds);
                if !end.rest.is_empty() {
                    watch_for(&epoll, &ends, fd);
                    watch_for(&epoll, &ends, other);
                }
            }
        }
    }
}

/// Writes what is left over, and then `bytes`, to the other side. What it does not take is left over.
fn pass(end: &mut End, bytes: &[u8], fds: &[OwnedFd]) {
    let was_full = !end.rest.is_empty();
    end.rest
        .extend_from_slice(if was_full { bytes } else { &[] });
    let data: &[u8] = if was_full { &end.rest } else { bytes };
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut sent = 0;
    while sent < data.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !borrowed.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        let slices = [IoSlice::new(&data[sent..])];
        match rustix::net::sendmsg(&*end.other, &slices, &mut control, SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            // Its reader has gone, and so will the connection.
            Err(errno) if errno != Errno::AGAIN => sent = data.len(),
            Err(_) => break,
        }
    }
    if was_full || sent < data.len() {
        end.rest = data[sent..].to_vec();
    }
}

/// Reads an end while it has nothing left over; waits for room where its other end has.
fn watch_for(epoll: &OwnedFd, ends: &HashMap<u64, End>, fd: u64) {
    let Some(end) = ends.get(&fd) else { return };
    let mut flags = EventFlags::empty();
    if end.rest.is_empty() {
        flags |= EventFlags::IN;
    }
    if ends
        .get(&(end.other.as_raw_fd() as u64))
        .is_some_and(|other| !other.rest.is_empty())
    {
        flags |= EventFlags::OUT;
    }
    let _ = epoll::modify(epoll, &*end.socket, EventData::new_u64(fd), flags);
}
