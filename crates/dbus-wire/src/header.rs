//! A message's header, parsed in place (specification: Message Format, Header Fields).

use thiserror::Error;

use crate::body::{BodyError, Check, align};
use crate::frame::{Endian, FIXED_LEN, Flags, FrameError, MessageType, Prologue};
use crate::names::{is_bus_name, is_error_name, is_interface_name, is_member_name, is_object_path};
use crate::signature::{SignatureError, check_signature};

/// The path that only a library itself may use, for messages that never leave its process.
pub const LOCAL_PATH: &str = "/org/freedesktop/DBus/Local";
/// The interface that only a library itself may use.
pub const LOCAL_INTERFACE: &str = "org.freedesktop.DBus.Local";

/// The codes of the header fields that the specification has.
pub mod field {
    /// The object that a call or signal is about.
    pub const PATH: u8 = 1;
    /// The interface of a call or signal.
    pub const INTERFACE: u8 = 2;
    /// The method or signal.
    pub const MEMBER: u8 = 3;
    /// The name of the error.
    pub const ERROR_NAME: u8 = 4;
    /// The serial of the message to which this replies.
    pub const REPLY_SERIAL: u8 = 5;
    /// The name of the connection that the message is for.
    pub const DESTINATION: u8 = 6;
    /// The unique name of the sender, set by the bus.
    pub const SENDER: u8 = 7;
    /// The signature of the body; absent means empty.
    pub const SIGNATURE: u8 = 8;
    /// How many file descriptors come with the message; absent means none.
    pub const UNIX_FDS: u8 = 9;
}

/// Why a header is not valid. A bus closes the connection that sent it.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    /// The fixed part.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The slice is not exactly one header.
    #[error("a header of {expected} bytes was given as {given}")]
    Length {
        /// What the fixed part says.
        expected: usize,
        /// The length of the slice.
        given: usize,
    },
    /// A field's value is malformed.
    #[error("in the header fields: {0}")]
    Value(#[from] BodyError),
    /// A field with code 0.
    #[error("a header field has the code 0 (INVALID)")]
    InvalidField,
    /// A known field whose value has another type than the specification says.
    #[error("header field {0} has the wrong type")]
    FieldType(u8),
    /// A known field appears twice.
    #[error("header field {0} appears twice")]
    FieldTwice(u8),
    /// A field that this type of message must have is missing.
    #[error("header field {0} is missing")]
    FieldMissing(u8),
    /// The name or path in a field is not valid.
    #[error("header field {0} holds an invalid name or path")]
    InvalidName(u8),
    /// The signature is not valid.
    #[error("in the header: {0}")]
    Signature(SignatureError),
    /// The serial replied to is 0.
    #[error("the reply serial is 0")]
    ZeroReplySerial,
    /// The path or interface is reserved for messages that never leave a process.
    #[error("the path or interface is reserved for local messages")]
    Local,
}

/// How many containers are around the value of a field: the array of fields, and the struct that is the
/// field. Its variant is the third.
const FIELD_DEPTH: u8 = 2;

/// Where a field stands in the header: from its code to the end of its value. All zero: nowhere.
#[derive(Copy, Clone, Debug, Default)]
struct Place {
    /// Where the field before it ends, its padding not counted.
    before: u32,
    start: u32,
    end: u32,
}

impl Place {
    // Fields end below 64 MiB and a little.
    fn new(before: usize, start: usize, end: usize) -> Self {
        Place {
            before: before as u32,
            start: start as u32,
            end: end as u32,
        }
    }
}

/// A message's header, parsed in place.
#[derive(Copy, Clone, Debug)]
pub struct Header<'a> {
    /// The message's byte order.
    pub endian: Endian,
    /// The message's type.
    pub kind: MessageType,
    /// The message's flags, unknown ones too.
    pub flags: Flags,
    /// The message's serial.
    pub serial: u32,
    /// The length of the body.
    pub body_len: u32,
    /// The object that a call or signal is about.
    pub path: Option<&'a str>,
    /// The interface of a call or signal.
    pub interface: Option<&'a str>,
    /// The method or signal.
    pub member: Option<&'a str>,
    /// The name of an error.
    pub error_name: Option<&'a str>,
    /// The connection that the message is for.
    pub destination: Option<&'a str>,
    /// The connection that the message is from, as the bus says.
    pub sender: Option<&'a str>,
    /// The serial of the message to which this replies.
    pub reply_serial: Option<u32>,
    /// The types of the body.
    pub signature: &'a str,
    /// How many file descriptors come with the message.
    pub unix_fds: u32,
    raw: &'a [u8],
    fields_len: u32,
    /// Whether there are fields that the specification does not have.
    unknown_fields: bool,
    sender_place: Place,
    destination_place: Place,
    reply_serial_place: Place,
}

impl<'a> Header<'a> {
    /// Parses a header; `header` is exactly [`Prologue::header_len`] bytes.
    ///
    /// This checks the structure: bounds, padding, the types of known fields, no field twice, text
    /// that is UTF-8 without NUL, and unknown fields by their signature. What is left for a bus to
    /// check is in [`Header::check`].
    ///
    /// # Errors
    ///
    /// If the structure is not valid.
    pub fn parse(header: &'a [u8]) -> Result<Self, HeaderError> {
        let Some(fixed) = header.first_chunk::<FIXED_LEN>() else {
            return Err(HeaderError::Length {
                expected: FIXED_LEN,
                given: header.len(),
            });
        };
        let prologue = Prologue::parse(fixed)?;
        if header.len() != prologue.header_len() {
            return Err(HeaderError::Length {
                expected: prologue.header_len(),
                given: header.len(),
            });
        }
        let end = FIXED_LEN + prologue.fields_len as usize;
        if header[end..].iter().any(|&byte| byte != 0) {
            return Err(BodyError::Padding { at: end }.into());
        }
        let mut parsed = Header {
            endian: prologue.endian,
            kind: prologue.message_type(),
            flags: prologue.flags,
            serial: prologue.serial,
            body_len: prologue.body_len,
            path: None,
            interface: None,
            member: None,
            error_name: None,
            destination: None,
            sender: None,
            reply_serial: None,
            signature: "",
            unix_fds: 0,
            raw: header,
            unknown_fields: false,
            fields_len: prologue.fields_len,
            sender_place: Place::default(),
            destination_place: Place::default(),
            reply_serial_place: Place::default(),
        };
        parsed.parse_fields(&header[..end])?;
        Ok(parsed)
    }

    fn parse_fields(&mut self, fields: &'a [u8]) -> Result<(), HeaderError> {
        let check = Check {
            endian: self.endian,
            bytes: fields,
            unix_fds: u32::MAX,
        };
        let texts = Texts::new(fields);
        let mut seen = 0u16;
        let mut at = FIXED_LEN;
        while at < fields.len() {
            let before = at;
            let start = align(at, 8);
            if !texts.is_zero_to(at, start) {
                return Err(BodyError::Padding { at }.into());
            }
            // The shortest field is six bytes: code, one byte of signature with its length and NUL,
            // and two bytes of value.
            let Some(&[code, type_len, typ, type_nul]) =
                fields.get(start..).and_then(|rest| rest.first_chunk::<4>())
            else {
                return Err(BodyError::Truncated { at: start }.into());
            };
            if !(field::PATH..=field::UNIX_FDS).contains(&code) {
                if code == 0 {
                    return Err(HeaderError::InvalidField);
                }
                at = check.variant(start + 1, FIELD_DEPTH)?;
                self.unknown_fields = true;
                continue;
            }
            if seen & 1 << code != 0 {
                return Err(HeaderError::FieldTwice(code));
            }
            seen |= 1 << code;
            let expected = match code {
                field::PATH => b'o',
                field::SIGNATURE => b'g',
                field::REPLY_SERIAL | field::UNIX_FDS => b'u',
                _ => b's',
            };
            if (type_len, typ, type_nul) != (1, expected, 0) {
                return Err(HeaderError::FieldType(code));
            }
            let value = start + 4;
            match expected {
                b'u' => {
                    let number = self
                        .endian
                        .u32_at(fields, value)
                        .ok_or(BodyError::Truncated { at: value })?;
                    at = value + 4;
                    if code == field::REPLY_SERIAL {
                        self.reply_serial = Some(number);
                        self.reply_serial_place = Place::new(before, start, at);
                    } else {
                        self.unix_fds = number;
                    }
                }
                b'g' => {
                    let len = *fields
                        .get(value)
                        .ok_or(BodyError::Truncated { at: value })?;
                    self.signature = texts.get(value + 1, usize::from(len))?;
                    at = value + 1 + usize::from(len) + 1;
                }
                _ => {
                    let len = self
                        .endian
                        .u32_at(fields, value)
                        .ok_or(BodyError::Truncated { at: value })?;
                    let text = Some(texts.get(value + 4, len as usize)?);
                    at = value + 4 + len as usize + 1;
                    match code {
                        field::PATH => self.path = text,
                        field::INTERFACE => self.interface = text,
                        field::MEMBER => self.member = text,
                        field::ERROR_NAME => self.error_name = text,
                        field::DESTINATION => {
                            self.destination = text;
                            self.destination_place = Place::new(before, start, at);
                        }
                        _ => {
                            self.sender = text;
                            self.sender_place = Place::new(before, start, at);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks what a bus promises beyond the structure: valid names, path and signature, the fields
    /// that the message's type requires, and nothing that is reserved for local messages.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub fn check(&self) -> Result<(), HeaderError> {
        let valid = |text: Option<&str>, rule: fn(&str) -> bool, code: u8| match text {
            Some(text) if !rule(text) => Err(HeaderError::InvalidName(code)),
            _ => Ok(()),
        };
        valid(self.path, is_object_path, field::PATH)?;
        valid(self.interface, is_interface_name, field::INTERFACE)?;
        valid(self.member, is_member_name, field::MEMBER)?;
        valid(self.error_name, is_error_name, field::ERROR_NAME)?;
        valid(self.destination, is_bus_name, field::DESTINATION)?;
        valid(self.sender, is_bus_name, field::SENDER)?;
        if self.path == Some(LOCAL_PATH) || self.interface == Some(LOCAL_INTERFACE) {
            return Err(HeaderError::Local);
        }
        if self.reply_serial == Some(0) {
            return Err(HeaderError::ZeroReplySerial);
        }
        check_signature(self.signature).map_err(HeaderError::Signature)?;
        let required = |there: bool, code: u8| {
            if there {
                Ok(())
            } else {
                Err(HeaderError::FieldMissing(code))
            }
        };
        match self.kind {
            MessageType::MethodCall => {
                required(self.path.is_some(), field::PATH)?;
                required(self.member.is_some(), field::MEMBER)
            }
            MessageType::Signal => {
                required(self.path.is_some(), field::PATH)?;
                required(self.interface.is_some(), field::INTERFACE)?;
                required(self.member.is_some(), field::MEMBER)
            }
            MessageType::Error => {
                required(self.error_name.is_some(), field::ERROR_NAME)?;
                required(self.reply_serial.is_some(), field::REPLY_SERIAL)
            }
            MessageType::MethodReturn => required(self.reply_serial.is_some(), field::REPLY_SERIAL),
            MessageType::Unknown(_) => Ok(()),
        }
    }

    /// The bytes of the header, padding included.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The length of the whole message.
    #[must_use]
    pub fn message_len(&self) -> usize {
        self.raw.len() + self.body_len as usize
    }

    /// Appends to `out` a complete header with some fields replaced. All else is kept: the byte order,
    /// the order of fields, and unknown fields, unless [`Edit::known_fields_only`] says otherwise. A
    /// field that is set anew comes last.
    ///
    /// A longer name makes a longer message, which can exceed the limit of 128 MiB by as much.
    pub fn rewrite(&self, edit: &Edit<'_>, out: &mut Vec<u8>) {
        let base = out.len();
        // Two names of at most 255 bytes, each with its code, length, NUL and padding, and a serial.
        out.reserve(self.raw.len() + 2 * 272 + 8);

        if edit.known_fields_only && self.unknown_fields {
            self.copy_known(edit, base, out);
        } else {
            self.copy_all(edit, base, out);
        }

        if let (Some(reply_serial), None) = (edit.reply_serial, self.reply_serial) {
            pad(base, out);
            out.extend_from_slice(&[field::REPLY_SERIAL, 1, b'u', 0]);
            out.extend_from_slice(&self.endian.u32_bytes(reply_serial));
        }
        for (code, change) in [
            (field::DESTINATION, edit.destination),
            (field::SENDER, edit.sender),
        ] {
            if let Change::Set(name) = change {
                pad(base, out);
                out.extend_from_slice(&[code, 1, b's', 0]);
                let len = name.len() as u32; // names are at most 255 bytes
                out.extend_from_slice(&self.endian.u32_bytes(len));
                out.extend_from_slice(name.as_bytes());
                out.push(0);
            }
        }

        let fields_len = (out.len() - base - FIXED_LEN) as u32; // little more than it was
        pad(base, out);
        let fixed = &mut out[base..base + FIXED_LEN];
        if let Some(flags) = edit.flags {
            fixed[2] = flags.0;
        }
        if let Some(body_len) = edit.body_len {
            fixed[4..8].copy_from_slice(&self.endian.u32_bytes(body_len));
        }
        if let Some(serial) = edit.serial {
            fixed[8..12].copy_from_slice(&self.endian.u32_bytes(serial));
        }
        fixed[12..16].copy_from_slice(&self.endian.u32_bytes(fields_len));
    }

    /// Copies all fields but those that `edit` changes.
    fn copy_all(&self, edit: &Edit<'_>, base: usize, out: &mut Vec<u8>) {
        let fields_end = FIXED_LEN + self.fields_len as usize;
        let dropped = |change: &Change<'_>, place: Place| match change {
            Change::Keep => None,
            _ => (place.end > 0).then_some(place),
        };
        let mut places = [
            dropped(&edit.destination, self.destination_place),
            dropped(&edit.sender, self.sender_place),
        ];
        if let [Some(a), Some(b)] = places
            && a.start > b.start
        {
            places.swap(0, 1);
        }
        let mut at = 0;
        for place in places.into_iter().flatten() {
            self.copy_run(at, place.before as usize, edit, base, out);
            at = align(place.end as usize, 8);
        }
        self.copy_run(at, fields_end, edit, base, out);
    }

    /// Copies field by field and leaves out what is not known, and what `edit` changes.
    fn copy_known(&self, edit: &Edit<'_>, base: usize, out: &mut Vec<u8>) {
        let fields_end = FIXED_LEN + self.fields_len as usize;
        out.extend_from_slice(&self.raw[..FIXED_LEN]);
        let mut at = FIXED_LEN;
        while at < fields_end {
            let start = align(at, 8);
            let (code, end) = self.field_at(start);
            let kept = match code {
                field::DESTINATION => edit.destination == Change::Keep,
                field::SENDER => edit.sender == Change::Keep,
                code => (field::PATH..=field::UNIX_FDS).contains(&code),
            };
            if kept {
                self.copy_run(start, end, edit, base, out);
            }
            at = end;
        }
    }

    /// The code of the field that begins at an offset, and where the field ends.
    fn field_at(&self, start: usize) -> (u8, usize) {
        let code = self.raw[start];
        let value = start + 4;
        let end = match code {
            field::REPLY_SERIAL | field::UNIX_FDS => value + 4,
            field::SIGNATURE => value + 1 + usize::from(self.raw[value]) + 1,
            field::PATH..=field::UNIX_FDS => {
                let len = self.endian.u32_at(self.raw, value).unwrap_or(0);
                value + 4 + len as usize + 1
            }
            _ => {
                let check = Check {
                    endian: self.endian,
                    bytes: self.raw,
                    unix_fds: u32::MAX,
                };
                // `parse` came through here, so this finds an end; if not, nothing comes after it.
                let end = check.variant(start + 1, FIELD_DEPTH);
                end.unwrap_or(self.raw.len())
            }
        };
        (code, end)
    }

    /// Copies the fields from one offset to another. Every field begins at a multiple of eight, so
    /// they move as they are; the padding after the last is left to what follows, because the
    /// array must not end with padding.
    fn copy_run(&self, from: usize, to: usize, edit: &Edit<'_>, base: usize, out: &mut Vec<u8>) {
        if from >= to {
            return;
        }
        pad(base, out);
        let start = out.len();
        out.extend_from_slice(&self.raw[from..to]);
        let place = self.reply_serial_place;
        if let Some(reply_serial) = edit.reply_serial
            && (from + 1..=to).contains(&(place.end as usize))
        {
            let end = start + place.end as usize - from;
            out[end - 4..end].copy_from_slice(&self.endian.u32_bytes(reply_serial));
        }
    }
}

/// Pads what began at `base` to eight bytes.
#[inline]
fn pad(base: usize, out: &mut Vec<u8>) {
    out.resize(base + align(out.len() - base, 8), 0);
}

/// The texts in the fields. Checking many short strings one by one is most of what parsing a header would
/// cost; almost always all fields together are UTF-8, so that is tried once.
struct Texts<'a> {
    bytes: &'a [u8],
    /// What is behind the fixed part, if it is UTF-8 as a whole.
    whole: Option<&'a str>,
}

impl<'a> Texts<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Texts {
            bytes,
            whole: std::str::from_utf8(&bytes[FIXED_LEN..]).ok(),
        }
    }

    /// Text of `len` bytes, with the NUL behind it and none inside.
    #[inline]
    fn get(&self, start: usize, len: usize) -> Result<&'a str, HeaderError> {
        let end = start.saturating_add(len);
        match self.bytes.get(end) {
            Some(0) => {}
            Some(_) => return Err(BodyError::MissingNul { at: start }.into()),
            None => return Err(BodyError::Truncated { at: start }.into()),
        }
        let text = match self.whole {
            Some(whole) => whole.get(start - FIXED_LEN..end - FIXED_LEN),
            None => std::str::from_utf8(&self.bytes[start..end]).ok(),
        };
        match text {
            Some(text) if !self.has_nul(start, end) => Ok(text),
            _ => Err(BodyError::Utf8 { at: start }.into()),
        }
    }

    /// Eight bytes as a number whose lowest byte comes first. There are always eight bytes before what
    /// is looked at here: the fixed part.
    #[inline]
    fn word(&self, at: usize) -> u64 {
        let word = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    }

    #[inline]
    fn has_nul(&self, start: usize, end: usize) -> bool {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        // The high bit of a byte is set if it is 0; of bytes after it perhaps too.
        let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
        let mut at = start;
        while at + 8 <= end {
            if zeros(self.word(at)) != 0 {
                return true;
            }
            at += 8;
        }
        // The last word also has bytes before the text, which are made to be no NUL.
        let before = 8 - (end - at);
        before < 8 && zeros(self.word(end - 8) | ((1 << (8 * before)) - 1)) != 0
    }

    /// Whether the bytes from `at` to `start`, at most seven, are 0.
    #[inline]
    fn is_zero_to(&self, at: usize, start: usize) -> bool {
        let count = start - at;
        count == 0 || self.word(start - 8) >> (64 - 8 * count) == 0
    }
}

/// What [`Header::rewrite`] does with a field.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Change<'a> {
    /// Leaves it as it is.
    #[default]
    Keep,
    /// Takes it out if it is there.
    Remove,
    /// Puts this in its place, or adds it.
    Set(&'a str),
}

/// What [`Header::rewrite`] replaces.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Edit<'a> {
    /// The SENDER field.
    pub sender: Change<'a>,
    /// The DESTINATION field.
    pub destination: Change<'a>,
    /// The message's serial.
    pub serial: Option<u32>,
    /// The REPLY_SERIAL field; added if it is not there.
    pub reply_serial: Option<u32>,
    /// The flags.
    pub flags: Option<Flags>,
    /// The length of the body, for a body that is replaced as well.
    pub body_len: Option<u32>,
    /// Leaves out the fields that the specification does not have. A bus that has the feature
    /// `HeaderFiltering` promises that to its clients (specification: Message Bus Messages, property
    /// `Features`).
    pub known_fields_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, Builder};

    fn call(endian: Endian) -> Vec<u8> {
        Builder::method_call("/org/kde/foo", "Do")
            .endian(endian)
            .interface("org.kde.Foo")
            .destination("org.kde.foo")
            .serial(7)
            .body(&Body::with_endian(endian).str("x"))
            .build()
    }

    fn header_of(message: &[u8]) -> &[u8] {
        let prologue = Prologue::parse(message.first_chunk().unwrap()).unwrap();
        &message[..prologue.header_len()]
    }

    #[test]
    fn fields_are_read_in_both_byte_orders() {
        for endian in [Endian::Little, Endian::Big] {
            let message = call(endian);
            let header = Header::parse(header_of(&message)).unwrap();
            header.check().unwrap();
            assert_eq!(header.endian, endian);
            assert_eq!(header.kind, MessageType::MethodCall);
            assert_eq!(header.path, Some("/org/kde/foo"));
            assert_eq!(header.interface, Some("org.kde.Foo"));
            assert_eq!(header.member, Some("Do"));
            assert_eq!(header.destination, Some("org.kde.foo"));
            assert_eq!(header.sender, None);
            assert_eq!(header.signature, "s");
            assert_eq!((header.serial, header.unix_fds), (7, 0));
            assert_eq!(header.message_len(), message.len());
        }
    }

    #[test]
    fn a_rewrite_sets_removes_and_keeps() {
        for endian in [Endian::Little, Endian::Big] {
            let message = call(endian);
            let header = Header::parse(header_of(&message)).unwrap();
            let edit = Edit {
                sender: Change::Set(":1.42"),
                destination: Change::Remove,
                serial: Some(9),
                reply_serial: Some(3),
                flags: Some(Flags::NO_AUTO_START),
                ..Edit::default()
            };
            let mut out = vec![1, 2, 3];
            header.rewrite(&edit, &mut out);
            let new = Header::parse(&out[3..]).unwrap();
            assert_eq!(new.sender, Some(":1.42"));
            assert_eq!(new.destination, None);
            assert_eq!((new.serial, new.reply_serial), (9, Some(3)));
            assert_eq!(new.flags, Flags::NO_AUTO_START);
            assert_eq!(new.path, header.path);
            assert_eq!(new.signature, header.signature);
            assert_eq!(new.body_len, header.body_len);
            // And once more, with all of it there to be replaced.
            let mut again = Vec::new();
            let edit = Edit {
                sender: Change::Remove,
                reply_serial: Some(4),
                ..Edit::default()
            };
            new.rewrite(&edit, &mut again);
            let last = Header::parse(&again).unwrap();
            assert_eq!((last.sender, last.reply_serial), (None, Some(4)));
            assert_eq!(last.interface, header.interface);
        }
    }

    #[test]
    fn a_rewrite_that_changes_nothing_gives_the_same_bytes() {
        let message = call(Endian::Big);
        let header = Header::parse(header_of(&message)).unwrap();
        let mut out = Vec::new();
        header.rewrite(&Edit::default(), &mut out);
        assert_eq!(out, header.raw());
    }

    #[test]
    fn unknown_fields_are_left_out_if_that_is_wanted() {
        for endian in [Endian::Little, Endian::Big] {
            let unknown = || Body::with_endian(endian).strs(["x"]);
            let message = Builder::new(MessageType::Signal)
                .endian(endian)
                .field(77, unknown())
                .field(field::MEMBER, Body::with_endian(endian).str("M"))
                .field(78, unknown())
                .field(field::SENDER, Body::with_endian(endian).str(":1.1"))
                .field(field::REPLY_SERIAL, Body::with_endian(endian).u32(5))
                .field(79, unknown())
                .build();
            let header = Header::parse(header_of(&message)).unwrap();
            let edit = Edit {
                known_fields_only: true,
                sender: Change::Set(":1.2"),
                reply_serial: Some(6),
                ..Edit::default()
            };
            let mut out = Vec::new();
            header.rewrite(&edit, &mut out);
            let expected = Builder::new(MessageType::Signal)
                .endian(endian)
                .member("M")
                .reply_serial(6)
                .sender(":1.2")
                .build();
            assert_eq!(out, expected);
        }
    }

    fn with(fields: &[(u8, Body)]) -> Result<(), HeaderError> {
        let mut builder = Builder::method_call("/", "M");
        for (code, value) in fields {
            builder = builder.field(*code, value.clone());
        }
        Header::parse(header_of(&builder.build())).and_then(|header| header.check())
    }

    #[test]
    fn unknown_fields_are_no_error_if_their_values_are_valid() {
        let value = Body::new().dict_sv(|d| {
            d.entry("k", |v| v.boolean(true));
        });
        assert_eq!(with(&[(10, value.clone()), (255, value.clone())]), Ok(()));
        // An unknown field may come twice: only who knows it can say what that means.
        assert_eq!(with(&[(10, value.clone()), (10, value)]), Ok(()));
        let bad = Body::from_parts(Endian::Little, "b", vec![2, 0, 0, 0]);
        assert!(matches!(
            with(&[(10, bad)]),
            Err(HeaderError::Value(BodyError::Boolean { .. }))
        ));
    }

    #[test]
    fn known_fields_come_once_and_with_their_type() {
        let text = || Body::new().str("a.b");
        assert_eq!(with(&[(0, text())]), Err(HeaderError::InvalidField));
        assert_eq!(
            with(&[(field::DESTINATION, text()), (field::DESTINATION, text())]),
            Err(HeaderError::FieldTwice(field::DESTINATION))
        );
        for code in 4..=9 {
            let byte = Body::new().byte(1);
            assert_eq!(with(&[(code, byte)]), Err(HeaderError::FieldType(code)));
        }
    }

    #[test]
    fn names_are_checked_by_check_and_not_by_parse() {
        let message = Builder::method_call("no/path", "no member").build();
        let header = Header::parse(header_of(&message)).unwrap();
        assert_eq!(header.path, Some("no/path"));
        assert_eq!(header.check(), Err(HeaderError::InvalidName(field::PATH)));
    }

    #[test]
    fn text_is_utf8_without_nul() {
        for bad in ["a\0b", "\0"] {
            let result = with(&[(field::DESTINATION, Body::new().str(bad))]);
            assert!(matches!(
                result,
                Err(HeaderError::Value(BodyError::Utf8 { .. }))
            ));
        }
        let mut message = Builder::method_call("/", "Mxyz").build();
        let at = message.windows(4).position(|four| four == b"Mxyz").unwrap();
        message[at + 1] = 0xff;
        assert!(matches!(
            Header::parse(header_of(&message)),
            Err(HeaderError::Value(BodyError::Utf8 { .. }))
        ));
    }

    #[test]
    fn padding_is_zero_and_the_array_does_not_end_with_it() {
        let message = Builder::method_call("/", "Mx").build();
        let header = header_of(&message);
        assert_eq!(header.len() % 8, 0);
        let last = header.len() - 1;
        let mut dirty = header.to_vec();
        dirty[last] = 1;
        assert!(matches!(
            Header::parse(&dirty),
            Err(HeaderError::Value(BodyError::Padding { .. }))
        ));
        let mut padded = header.to_vec();
        padded[12] = (header.len() - FIXED_LEN) as u8;
        assert!(matches!(
            Header::parse(&padded),
            Err(HeaderError::Value(BodyError::Truncated { .. }))
        ));
    }

    #[test]
    fn a_header_is_given_whole() {
        let message = call(Endian::Little);
        let header = header_of(&message);
        for len in 0..header.len() {
            assert!(matches!(
                Header::parse(&header[..len]),
                Err(HeaderError::Length { .. })
            ));
        }
        assert!(matches!(
            Header::parse(&message),
            Err(HeaderError::Length { .. })
        ));
    }

    #[test]
    fn each_type_of_message_has_its_fields() {
        let check = |builder: Builder<'_>| {
            let bytes = builder.build();
            Header::parse(header_of(&bytes)).unwrap().check()
        };
        use MessageType::{Error, MethodCall, MethodReturn, Signal, Unknown};
        let missing = |code: u8| Err(HeaderError::FieldMissing(code));
        assert_eq!(check(Builder::new(MethodCall).member("M")), missing(1));
        assert_eq!(check(Builder::new(MethodCall).path("/")), missing(3));
        assert_eq!(
            check(Builder::new(Signal).path("/").member("M")),
            missing(2)
        );
        assert_eq!(check(Builder::new(MethodReturn)), missing(5));
        assert_eq!(check(Builder::new(Error).reply_serial(1)), missing(4));
        assert_eq!(
            check(Builder::error("a.b", 0, "")),
            Err(HeaderError::ZeroReplySerial)
        );
        assert_eq!(check(Builder::new(Unknown(9))), Ok(()));
        assert_eq!(
            check(Builder::method_call(LOCAL_PATH, "M")),
            Err(HeaderError::Local)
        );
        let local = Builder::method_call("/", "M").interface(LOCAL_INTERFACE);
        assert_eq!(check(local), Err(HeaderError::Local));
    }
}
