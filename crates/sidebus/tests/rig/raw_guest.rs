//! A program in the guest that speaks to the broker's port by itself, as an attacker would.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use dbus_wire::{Body, Builder, Message};
use sidebus::wire::{
    self, ClientOpening, ControlOpening, Descriptor, Frame, MAX_PAYLOAD, MessageHead, Open,
    Purpose, Token,
};
use testbed::{Deadline, Received};

/// One connection to the broker.
pub struct RawGuest {
    pub stream: UnixStream,
    buffer: Vec<u8>,
    serial: u32,
}

/// What has become of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// The broker has closed it.
    Closed,
    /// The broker said no, with this text, and has closed it or will.
    Refused(String),
}

impl RawGuest {
    /// Connects, and says nothing.
    pub fn connect(port: &Path) -> RawGuest {
        let stream = UnixStream::connect(port).expect("the broker listens");
        stream
            .set_read_timeout(Some(testbed::deadline::LIMIT))
            .expect("a socket");
        stream
            .set_write_timeout(Some(testbed::deadline::LIMIT))
            .expect("a socket");
        RawGuest {
            stream,
            buffer: Vec::new(),
            serial: 0,
        }
    }

    /// A control connection, and the token it gets.
    pub fn control(port: &Path) -> (RawGuest, Token) {
        let mut guest = Self::connect(port);
        guest.send(&Frame::Open(Open::new(Purpose::Control(ControlOpening {
            resume: Token::default(),
            agent: "hostile".to_owned(),
            host_name: "guest".to_owned(),
        }))));
        let token = guest.welcome();
        (guest, token)
    }

    /// A client's connection, and the token it gets.
    pub fn client(port: &Path, session: Token) -> (RawGuest, Token) {
        let mut guest = Self::connect(port);
        guest.open_client(session);
        let token = guest.welcome();
        (guest, token)
    }

    /// Says that it is a client's connection.
    pub fn open_client(&mut self, session: Token) {
        self.send(&Frame::Open(Open::new(Purpose::Client(ClientOpening {
            session,
            uid: 1000,
            pid: 77,
            app_id: "org.example.Hostile".to_owned(),
            documents: "/run/sidebus/documents".into(),
            unix_fds: true,
        }))));
    }

    /// Whether the broker takes the connection.
    pub fn is_welcome(&mut self) -> bool {
        self.frame_of(|frame| matches!(frame, Frame::Welcome(_))) == Some(true)
    }

    /// A client that has said Hello, and its name.
    pub fn on_the_bus(port: &Path, session: Token) -> (RawGuest, String) {
        let (mut guest, _) = Self::client(port, session);
        let hello = guest.call_driver("Hello", &Body::new());
        let name = hello.strings()[0].to_owned();
        (guest, name)
    }

    pub fn send(&mut self, frame: &Frame<'_>) {
        self.stream
            .write_all(&frame.to_bytes())
            .expect("the broker takes it");
    }

    /// Bytes that are no frame, perhaps. That the broker has closed meanwhile is no failure.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ),
                "{error}"
            );
        }
    }

    /// Sends a call, with what stands for its descriptors; gives back its serial.
    pub fn send_call(&mut self, to: Method<'_>, body: &Body, descriptors: Vec<Descriptor>) -> u32 {
        self.serial += 1;
        let message = Builder::method_call(to.path, to.member)
            .destination(to.destination)
            .interface(to.interface)
            .serial(self.serial)
            .unix_fds(u32::try_from(descriptors.len()).expect("a few"))
            .body(body)
            .build();
        self.send(&Frame::Message(MessageHead {
            message_len: u32::try_from(message.len()).expect("a small message"),
            descriptors,
        }));
        for part in message.chunks(MAX_PAYLOAD) {
            self.send(&Frame::Data(part));
        }
        self.serial
    }

    /// The same, with a connection that may not take it; whether it did.
    pub fn try_send_call(&mut self, to: Method<'_>, body: &Body) -> bool {
        self.serial += 1;
        let message = Builder::method_call(to.path, to.member)
            .destination(to.destination)
            .interface(to.interface)
            .serial(self.serial)
            .body(body)
            .build();
        let mut bytes = Vec::new();
        Frame::Message(MessageHead {
            message_len: u32::try_from(message.len()).expect("a small message"),
            descriptors: Vec::new(),
        })
        .write(&mut bytes);
        Frame::Data(&message).write(&mut bytes);
        self.stream.write_all(&bytes).is_ok()
    }

    /// Calls, and waits for the reply; passes over everything else.
    pub fn call(&mut self, to: Method<'_>, body: &Body) -> Received {
        let serial = self.send_call(to, body, Vec::new());
        self.reply_to(serial)
    }

    /// Calls the bus itself.
    pub fn call_driver(&mut self, member: &str, body: &Body) -> Received {
        let driver = Method {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
        };
        self.call(driver, body)
    }

    /// The reply to the call with this serial.
    pub fn reply_to(&mut self, serial: u32) -> Received {
        loop {
            let message = self.message();
            if message.header().reply_serial == Some(serial) {
                return message;
            }
        }
    }

    /// The next message.
    pub fn message(&mut self) -> Received {
        self.message_or_end()
            .expect("the broker has closed the connection")
    }

    /// The next message; None: the broker has closed.
    pub fn message_or_end(&mut self) -> Option<Received> {
        let mut bytes = Vec::new();
        let mut expected = None;
        loop {
            match self.frame()? {
                OwnedFrame::Head(len) => expected = Some(len),
                OwnedFrame::Data(part) => bytes.extend(part),
                OwnedFrame::Other => {}
                OwnedFrame::Refused(text) => panic!("refused: {text}"),
            }
            if expected == Some(bytes.len()) {
                return Some(Received {
                    message: Message::parse(bytes).expect("the broker sends whole messages"),
                    fds: Vec::new(),
                });
            }
        }
    }

    fn welcome(&mut self) -> Token {
        match self.frame_of(|frame| match frame {
            Frame::Welcome(welcome) => Some(welcome.token),
            _ => None,
        }) {
            Some(Some(token)) => token,
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// Reads on until the broker closes or refuses.
    pub fn fate(&mut self) -> Fate {
        loop {
            match self.frame() {
                None => return Fate::Closed,
                Some(OwnedFrame::Refused(text)) => return Fate::Refused(text),
                Some(_) => {}
            }
        }
    }

    fn frame(&mut self) -> Option<OwnedFrame> {
        self.frame_of(|frame| match frame {
            Frame::Message(head) => OwnedFrame::Head(head.message_len as usize),
            Frame::Data(bytes) => OwnedFrame::Data(bytes.to_vec()),
            Frame::Refused(refused) => OwnedFrame::Refused(refused.text),
            _ => OwnedFrame::Other,
        })
    }

    /// One frame; None: the broker has closed.
    fn frame_of<T>(&mut self, of: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        let deadline = Deadline::usual();
        loop {
            let needed = match wire::measure(&self.buffer).expect("the broker sends frames") {
                Ok(whole) => {
                    let frame = wire::parse(&self.buffer[..whole]).expect("a frame");
                    let result = of(frame);
                    self.buffer.drain(..whole);
                    return Some(result);
                }
                Err(needed) => needed,
            };
            assert!(!deadline.left().is_zero(), "the broker sends nothing");
            let mut part = vec![0; needed - self.buffer.len()];
            match self.stream.read(&mut part) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the broker sends nothing: {error}"),
            }
        }
    }
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Method<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

impl<'a> Method<'a> {
    /// A method of the portals.
    pub fn of_portal(interface: &'a str, member: &'a str) -> Method<'a> {
        Method {
            destination: "org.freedesktop.portal.Desktop",
            path: "/org/freedesktop/portal/desktop",
            interface,
            member,
        }
    }
}

enum OwnedFrame {
    Head(usize),
    Data(Vec<u8>),
    Refused(String),
    Other,
}
