//! A program on a bus that costs little itself: one socket, blocking, with a limit to its patience.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dbus_wire::body::{Body, Reader};
use dbus_wire::frame::{Flags, MessageType, Scan, scan};
use dbus_wire::header::Header;
use dbus_wire::message::Builder;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// A subject that takes longer than this for anything hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const READ: usize = 256 * 1024;

pub type Result<T> = std::result::Result<T, String>;

fn wrong(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("{what}: hangs"),
        _ => format!("{what}: {error}"),
    }
}

pub struct Peer {
    socket: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pub fds: VecDeque<OwnedFd>,
    pub name: String,
    serial: u32,
}

/// A message, as offsets into the peer's buffer.
#[derive(Clone, Copy)]
pub struct Place {
    start: usize,
    head: usize,
    end: usize,
}

impl Peer {
    /// Connects and says Hello, step by step, as libdbus and GDBus do; some proxies know no other way.
    pub fn connect(path: &Path) -> Result<Peer> {
        let mut peer = Peer::over(UnixStream::connect(path).map_err(wrong("connecting"))?)?;
        peer.hello()?;
        Ok(peer)
    }

    /// Authenticates over a socket, and says no Hello.
    pub fn over(socket: UnixStream) -> Result<Peer> {
        socket
            .set_read_timeout(Some(PATIENCE))
            .map_err(wrong("setting a limit"))?;
        socket
            .set_write_timeout(Some(PATIENCE))
            .map_err(wrong("setting a limit"))?;
        let mut peer = Peer {
            socket,
            buffer: vec![0; READ],
            start: 0,
            end: 0,
            fds: VecDeque::new(),
            name: String::new(),
            serial: 1,
        };
        let uid = rustix::process::geteuid().as_raw();
        let hex: String = uid
            .to_string()
            .bytes()
            .map(|digit| format!("{digit:02x}"))
            .collect();
        peer.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        peer.expect_line("OK ")?;
        peer.send(b"NEGOTIATE_UNIX_FD\r\n")?;
        peer.expect_line("AGREE_UNIX_FD")?;
        peer.send(b"BEGIN\r\n")?;
        Ok(peer)
    }

    fn hello(&mut self) -> Result<()> {
        self.send(&driver_call("Hello", &Body::new(), 1))?;
        let answer = self.reply_to(1)?;
        let name = self.reader(answer).str().map_err(|it| it.to_string())?;
        self.name = name.to_owned();
        Ok(())
    }

    fn expect_line(&mut self, begin: &str) -> Result<()> {
        loop {
            let bytes = &self.buffer[self.start..self.end];
            if let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
                self.start += end + 2;
                return match line.starts_with(begin) {
                    true => Ok(()),
                    false => Err(format!("authentication: {line}")),
                };
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.buffer.len() - self.end < READ / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut self.buffer[self.end..])];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let read = rustix::net::recvmsg(&self.socket, &mut slices, &mut control, flags)
            .map_err(|errno| wrong("reading")(errno.into()))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.fds.extend(rights);
            }
        }
        if read.bytes == 0 {
            return Err("the connection was closed".to_owned());
        }
        self.end += read.bytes;
        Ok(())
    }

    /// The next message that is here already.
    pub fn next_here(&mut self) -> Result<Option<Place>> {
        let bytes = &self.buffer[self.start..self.end];
        let Ok(Scan::Message(prologue)) = scan(bytes) else {
            return Ok(None);
        };
        if bytes.len() < prologue.message_len() {
            // Room for all of it, so that a large one is not moved again and again.
            let wanted = self.start + prologue.message_len() + READ;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            return Ok(None);
        }
        let place = Place {
            start: self.start,
            head: self.start + prologue.header_len(),
            end: self.start + prologue.message_len(),
        };
        self.start = place.end;
        Ok(Some(place))
    }

    /// The next message.
    pub fn next(&mut self) -> Result<Place> {
        loop {
            if let Some(place) = self.next_here()? {
                return Ok(place);
            }
            self.read()?;
        }
    }

    pub fn header(&self, place: Place) -> Header<'_> {
        Header::parse(&self.buffer[place.start..place.head]).expect("a bus sends what it checked")
    }

    pub fn body(&self, place: Place) -> &[u8] {
        &self.buffer[place.head..place.end]
    }

    fn reader(&self, place: Place) -> Reader<'_> {
        let header = self.header(place);
        Reader::new(header.endian, header.signature, self.body(place))
    }

    /// Waits for the reply to a call; an error is one here, too.
    pub fn reply_to(&mut self, serial: u32) -> Result<Place> {
        loop {
            let place = self.next()?;
            let header = self.header(place);
            if header.reply_serial != Some(serial) {
                continue;
            }
            return match header.kind {
                MessageType::MethodReturn => Ok(place),
                _ => Err(format!(
                    "an error came back: {}",
                    header.error_name.unwrap_or("?")
                )),
            };
        }
    }

    pub fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket.write_all(bytes).map_err(wrong("writing"))
    }

    /// Sends one message with a descriptor.
    pub fn send_fd(&mut self, bytes: &[u8], fd: &OwnedFd) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let slices = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL)
            .map_err(|errno| wrong("writing")(errno.into()))?;
        self.send(&bytes[sent..])
    }

    /// Calls the driver and waits.
    pub fn driver(&mut self, member: &str, body: &Body) -> Result<()> {
        let serial = self.next_serial();
        self.send(&driver_call(member, body, serial))?;
        self.reply_to(serial).map(drop)
    }
}

fn driver_call(member: &str, body: &Body, serial: u32) -> Vec<u8> {
    Builder::method_call("/org/freedesktop/DBus", member)
        .interface("org.freedesktop.DBus")
        .destination("org.freedesktop.DBus")
        .serial(serial)
        .body(body)
        .build()
}

/// A call of the echo service.
pub fn echo_call(destination: &str, member: &str, serial: u32, body: &Body, fds: u32) -> Vec<u8> {
    Builder::method_call("/org/example/Echo", member)
        .interface("org.example.Echo")
        .destination(destination)
        .serial(serial)
        .unix_fds(fds)
        .body(body)
        .build()
}

/// Answers calls with their own bodies until its connection ends; as many at once as have come.
pub fn serve_echo(mut peer: Peer) {
    let mut out = Vec::new();
    let null = std::fs::File::open("/dev/null").map(OwnedFd::from);
    loop {
        let Ok(place) = peer.next() else { return };
        let mut place = Some(place);
        while let Some(it) = place {
            let serial = peer.next_serial();
            let header = peer.header(it);
            let with_fd = header.member == Some("EchoWithFd");
            let wanted = header.kind == MessageType::MethodCall
                && !header.flags.contains(Flags::NO_REPLY_EXPECTED);
            if wanted {
                let body =
                    Body::from_parts(header.endian, header.signature, peer.body(it).to_vec());
                let reply = Builder::method_return(header.serial)
                    .destination(header.sender.unwrap_or_default())
                    .serial(serial)
                    .unix_fds(u32::from(with_fd))
                    .body(&body)
                    .build();
                if with_fd {
                    let Ok(null) = &null else { return };
                    if peer
                        .send(&out)
                        .and_then(|()| peer.send_fd(&reply, null))
                        .is_err()
                    {
                        return;
                    }
                    out.clear();
                } else {
                    out.extend_from_slice(&reply);
                }
            }
            peer.fds.clear();
            if out.len() > READ {
                if peer.send(&out).is_err() {
                    return;
                }
                out.clear();
            }
            match peer.next_here() {
                Ok(next) => place = next,
                Err(_) => return,
            }
        }
        if peer.send(&out).is_err() {
            return;
        }
        out.clear();
    }
}
