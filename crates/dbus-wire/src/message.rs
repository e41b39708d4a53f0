//! Whole messages: building them, and holding one in one buffer.

use thiserror::Error;

use crate::body::{Body, BodyError, Reader, check_body};
use crate::frame::{Endian, FIXED_LEN, Flags, FrameError, MessageType, Prologue};
use crate::header::{Header, HeaderError, field};

/// Builds a whole message (specification: Message Format).
///
/// ```
/// use dbus_wire::{Body, Builder, Message};
/// let body = Body::new().str("org.kde.Foo").u32(0);
/// let call = Builder::method_call("/org/freedesktop/DBus", "RequestName")
///     .interface("org.freedesktop.DBus")
///     .destination("org.freedesktop.DBus")
///     .serial(2)
///     .body(&body)
///     .build();
/// assert_eq!(Message::parse(call).unwrap().header().signature, "su");
/// ```
///
/// What is given is not checked; [`Message::parse`] does. The serial is 1 if none is set.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    endian: Endian,
    kind: MessageType,
    flags: Flags,
    serial: u32,
    path: Option<&'a str>,
    interface: Option<&'a str>,
    member: Option<&'a str>,
    error_name: Option<&'a str>,
    destination: Option<&'a str>,
    sender: Option<&'a str>,
    reply_serial: Option<u32>,
    unix_fds: u32,
    content: Content<'a>,
    other_fields: Vec<(u8, Body)>,
}

#[derive(Copy, Clone, Debug)]
enum Content<'a> {
    Nothing,
    Body(&'a Body),
    /// The text of an error.
    Text(&'a str),
}

impl<'a> Builder<'a> {
    /// A message of any type, with no fields.
    #[must_use]
    pub fn new(kind: MessageType) -> Self {
        Builder {
            endian: Endian::Little,
            kind,
            flags: Flags::NONE,
            serial: 1,
            path: None,
            interface: None,
            member: None,
            error_name: None,
            destination: None,
            sender: None,
            reply_serial: None,
            unix_fds: 0,
            content: Content::Nothing,
            other_fields: Vec::new(),
        }
    }

    /// A method call.
    #[must_use]
    pub fn method_call(path: &'a str, member: &'a str) -> Self {
        Builder {
            path: Some(path),
            member: Some(member),
            ..Builder::new(MessageType::MethodCall)
        }
    }

    /// A signal. Nobody replies to it, and its flags say so.
    #[must_use]
    pub fn signal(path: &'a str, interface: &'a str, member: &'a str) -> Self {
        Builder {
            path: Some(path),
            interface: Some(interface),
            member: Some(member),
            flags: Flags::NO_REPLY_EXPECTED,
            ..Builder::new(MessageType::Signal)
        }
    }

    /// A reply to the call with the serial `reply_serial`.
    #[must_use]
    pub fn method_return(reply_serial: u32) -> Self {
        Builder {
            reply_serial: Some(reply_serial),
            flags: Flags::NO_REPLY_EXPECTED,
            ..Builder::new(MessageType::MethodReturn)
        }
    }

    /// An error as the reply to the call with the serial `reply_serial`; `text` is for a person.
    #[must_use]
    pub fn error(name: &'a str, reply_serial: u32, text: &'a str) -> Self {
        Builder {
            error_name: Some(name),
            reply_serial: Some(reply_serial),
            flags: Flags::NO_REPLY_EXPECTED,
            content: Content::Text(text),
            ..Builder::new(MessageType::Error)
        }
    }

    /// A reply to `call`, addressed to its sender if it has one.
    #[must_use]
    pub fn reply_to(call: &Header<'a>) -> Self {
        Builder {
            destination: call.sender,
            ..Builder::method_return(call.serial)
        }
    }

    /// An error as the reply to `call`, addressed to its sender if it has one.
    #[must_use]
    pub fn error_reply_to(call: &Header<'a>, name: &'a str, text: &'a str) -> Self {
        Builder {
            destination: call.sender,
            ..Builder::error(name, call.serial, text)
        }
    }

    /// Sets the byte order of the whole message; a body must have been written in the same.
    #[must_use]
    pub fn endian(mut self, endian: Endian) -> Self {
        self.endian = endian;
        self
    }

    /// Sets the flags, in place of those that the message's type has by itself.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// Sets the serial.
    #[must_use]
    pub fn serial(mut self, serial: u32) -> Self {
        self.serial = serial;
        self
    }

    /// Sets PATH.
    #[must_use]
    pub fn path(mut self, path: &'a str) -> Self {
        self.path = Some(path);
        self
    }

    /// Sets INTERFACE.
    #[must_use]
    pub fn interface(mut self, interface: &'a str) -> Self {
        self.interface = Some(interface);
        self
    }

    /// Sets MEMBER.
    #[must_use]
    pub fn member(mut self, member: &'a str) -> Self {
        self.member = Some(member);
        self
    }

    /// Sets DESTINATION.
    #[must_use]
    pub fn destination(mut self, destination: &'a str) -> Self {
        self.destination = Some(destination);
        self
    }

    /// Sets SENDER.
    #[must_use]
    pub fn sender(mut self, sender: &'a str) -> Self {
        self.sender = Some(sender);
        self
    }

    /// Sets REPLY_SERIAL.
    #[must_use]
    pub fn reply_serial(mut self, reply_serial: u32) -> Self {
        self.reply_serial = Some(reply_serial);
        self
    }

    /// Sets UNIX_FDS, how many file descriptors are sent with the message.
    #[must_use]
    pub fn unix_fds(mut self, count: u32) -> Self {
        self.unix_fds = count;
        self
    }

    /// Sets the body and SIGNATURE.
    #[must_use]
    pub fn body(mut self, body: &'a Body) -> Self {
        self.content = Content::Body(body);
        self
    }

    /// Adds a header field of any code, known or not; `value` holds one value. It comes after the
    /// fields that were set otherwise.
    #[must_use]
    pub fn field(mut self, code: u8, value: Body) -> Self {
        self.other_fields.push((code, value));
        self
    }

    /// The message.
    ///
    /// # Panics
    ///
    /// If a signature is longer than 255 bytes, or the body's byte order is not the message's.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let text;
        let body = match self.content {
            Content::Nothing => None,
            Content::Body(body) => Some(body),
            Content::Text(content) => {
                text = Body::with_endian(self.endian).str(content);
                Some(&text)
            }
        };
        let (signature, body) = body.map_or(("", &[][..]), |body| {
            assert!(
                body.bytes.is_empty() || body.endian() == self.endian,
                "the body is in another byte order than the message"
            );
            (body.signature.as_str(), body.bytes.as_slice())
        });

        // Longer bodies than a message can hold make a message that no parser lets pass.
        let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut out = vec![self.endian.marker(), self.kind.byte(), self.flags.0, 1];
        out.extend_from_slice(&self.endian.u32_bytes(body_len));
        out.extend_from_slice(&self.endian.u32_bytes(self.serial));
        out.extend_from_slice(&[0; 4]);
        for (code, typ, text) in [
            (field::PATH, b'o', self.path),
            (field::INTERFACE, b's', self.interface),
            (field::MEMBER, b's', self.member),
            (field::ERROR_NAME, b's', self.error_name),
        ] {
            self.text(code, typ, text, &mut out);
        }
        if let Some(reply_serial) = self.reply_serial {
            self.number(field::REPLY_SERIAL, reply_serial, &mut out);
        }
        self.text(field::DESTINATION, b's', self.destination, &mut out);
        self.text(field::SENDER, b's', self.sender, &mut out);
        if !signature.is_empty() {
            let len = u8::try_from(signature.len()).expect("a signature is at most 255 bytes");
            pad(&mut out);
            out.extend_from_slice(&[field::SIGNATURE, 1, b'g', 0, len]);
            out.extend_from_slice(signature.as_bytes());
            out.push(0);
        }
        if self.unix_fds > 0 {
            self.number(field::UNIX_FDS, self.unix_fds, &mut out);
        }
        for (code, value) in &self.other_fields {
            pad(&mut out);
            out.push(*code);
            value.append_as_variant(&mut out);
        }
        let fields_len = u32::try_from(out.len() - FIXED_LEN).unwrap_or(u32::MAX);
        out[12..16].copy_from_slice(&self.endian.u32_bytes(fields_len));
        pad(&mut out);
        out.extend_from_slice(body);
        out
    }

    fn text(&self, code: u8, typ: u8, text: Option<&str>, out: &mut Vec<u8>) {
        if let Some(text) = text {
            let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
            pad(out);
            out.extend_from_slice(&[code, 1, typ, 0]);
            out.extend_from_slice(&self.endian.u32_bytes(len));
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }

    fn number(&self, code: u8, number: u32, out: &mut Vec<u8>) {
        pad(out);
        out.extend_from_slice(&[code, 1, b'u', 0]);
        out.extend_from_slice(&self.endian.u32_bytes(number));
    }
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Why bytes are not a valid message.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum MessageError {
    /// The fixed part.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The body.
    #[error("in the body: {0}")]
    Body(#[from] BodyError),
    /// The buffer is not exactly one message.
    #[error("a message of {expected} bytes was given as {given}")]
    Length {
        /// What the fixed part says, or the length of the fixed part.
        expected: usize,
        /// The length of the buffer.
        given: usize,
    },
}

/// A whole message in one buffer, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    bytes: Vec<u8>,
    header_len: usize,
}

impl Message {
    /// Takes the bytes of exactly one message, and checks its structure, its header and its body.
    ///
    /// # Errors
    ///
    /// If it is not valid.
    pub fn parse(bytes: Vec<u8>) -> Result<Message, MessageError> {
        let given = bytes.len();
        let Some(fixed) = bytes.first_chunk::<FIXED_LEN>() else {
            return Err(MessageError::Length {
                expected: FIXED_LEN,
                given,
            });
        };
        let prologue = Prologue::parse(fixed)?;
        if given != prologue.message_len() {
            return Err(MessageError::Length {
                expected: prologue.message_len(),
                given,
            });
        }
        let (header, body) = bytes.split_at(prologue.header_len());
        let header = Header::parse(header)?;
        header.check()?;
        check_body(header.endian, header.signature, body, header.unix_fds)?;
        Ok(Message {
            header_len: prologue.header_len(),
            bytes,
        })
    }

    /// The header, parsed again.
    #[must_use]
    pub fn header(&self) -> Header<'_> {
        // `parse` let these bytes pass, and they cannot be changed since.
        Header::parse(&self.bytes[..self.header_len]).expect("checked by Message::parse")
    }

    /// The bytes of the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }

    /// A reader over the body.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        let header = self.header();
        Reader::new(header.endian, header.signature, self.body())
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes, owned.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check_body, error_names};

    #[test]
    fn replies_go_to_the_sender_of_the_call() {
        let call = Builder::method_call("/", "Ping")
            .sender(":1.7")
            .serial(99)
            .build();
        let call = Message::parse(call).unwrap();
        let reply = Message::parse(Builder::reply_to(&call.header()).build()).unwrap();
        assert_eq!(reply.header().destination, Some(":1.7"));
        assert_eq!(reply.header().reply_serial, Some(99));
        assert!(reply.header().flags.contains(Flags::NO_REPLY_EXPECTED));

        let error = Builder::error_reply_to(&call.header(), error_names::FAILED, "no").build();
        let error = Message::parse(error).unwrap();
        assert_eq!(error.header().error_name, Some(error_names::FAILED));
        assert_eq!(error.reader().str(), Ok("no"));
    }

    #[test]
    fn a_message_in_big_endian_reads_as_the_same() {
        let body = Body::with_endian(Endian::Big).u32(7).dict_sv(|d| {
            d.entry("a", |v| v.strs(["x", "yy"]))
                .entry("b", |v| v.u64(1))
                .entry("c", |v| v.variant(|v| v.struct_(|s| s.byte(1).double(0.5))));
        });
        let signal = Builder::signal("/a", "b.c", "D")
            .endian(Endian::Big)
            .body(&body)
            .field(
                200,
                Body::with_endian(Endian::Big).dict_sv(|d| {
                    d.entry("k", |v| v.u32(1));
                }),
            )
            .build();
        let signal = Message::parse(signal).unwrap();
        assert_eq!(signal.header().signature, "ua{sv}");
        assert_eq!(signal.reader().u32(), Ok(7));
        assert_eq!(check_body(Endian::Big, "ua{sv}", signal.body(), 0), Ok(()));
    }

    #[test]
    fn a_message_is_exactly_as_long_as_it_says() {
        let mut bytes = Builder::method_call("/", "M").build();
        bytes.push(0);
        assert!(matches!(
            Message::parse(bytes),
            Err(MessageError::Length { .. })
        ));
        assert!(matches!(
            Message::parse(vec![]),
            Err(MessageError::Length { .. })
        ));
    }
}
