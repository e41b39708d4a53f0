//! Where one message ends and the next begins.
//!
//! The first sixteen bytes of a message tell its length. They are all that is looked at before
//! memory is taken for the rest, so every limit on lengths is checked here, in 64-bit arithmetic.

use thiserror::Error;

/// The bytes before the header fields: what [`Prologue::parse`] needs.
pub const FIXED_LEN: usize = 16;

/// The longest message, header and padding included (specification: Message Format).
pub const MAX_MESSAGE_LEN: u64 = 128 * 1024 * 1024;

/// The longest header field array (it is an array, so [`MAX_ARRAY_LEN`] holds).
pub const MAX_FIELDS_LEN: u32 = 64 * 1024 * 1024;

/// The longest array in bytes, without its length and padding (specification: Marshaling).
pub const MAX_ARRAY_LEN: u32 = 64 * 1024 * 1024;

/// The byte order of a message; each message has its own (specification: Message Format).
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash, Default)]
pub enum Endian {
    /// Least significant byte first, `l` on the wire.
    #[default]
    Little,
    /// Most significant byte first, `B` on the wire.
    Big,
}

impl Endian {
    /// The first byte of a message in this order.
    #[must_use]
    pub const fn marker(self) -> u8 {
        match self {
            Endian::Little => b'l',
            Endian::Big => b'B',
        }
    }

    /// The order that a message's first byte names.
    #[must_use]
    pub const fn from_marker(marker: u8) -> Option<Self> {
        match marker {
            b'l' => Some(Endian::Little),
            b'B' => Some(Endian::Big),
            _ => None,
        }
    }

    /// Reads a `UINT32` in this order.
    #[must_use]
    #[inline]
    pub const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Endian::Little => u32::from_le_bytes(bytes),
            Endian::Big => u32::from_be_bytes(bytes),
        }
    }

    /// Writes a `UINT32` in this order.
    #[must_use]
    #[inline]
    pub const fn u32_bytes(self, value: u32) -> [u8; 4] {
        match self {
            Endian::Little => value.to_le_bytes(),
            Endian::Big => value.to_be_bytes(),
        }
    }

    /// Reads a `UINT32` at `at`, or `None` if the slice ends before.
    #[inline]
    pub(crate) fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        let four = bytes.get(at..)?.first_chunk::<4>()?;
        Some(self.u32(*four))
    }
}

/// The flags of a message; unknown ones are kept (specification: Message Format).
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The sender wants no reply, even if the message is a method call.
    pub const NO_REPLY_EXPECTED: Flags = Flags(1);
    /// The bus must not start a program to own the destination.
    pub const NO_AUTO_START: Flags = Flags(2);
    /// The caller is ready to wait for a person to authorise the call.
    pub const ALLOW_INTERACTIVE_AUTHORIZATION: Flags = Flags(4);

    /// Whether all of `other`'s flags are set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        self.with(other)
    }
}

/// What a message is (specification: Message Format). Unknown types must be ignored, so they are no
/// error.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum MessageType {
    /// A method call, which may get a reply.
    MethodCall,
    /// A reply with what the method returns.
    MethodReturn,
    /// A reply with an error.
    Error,
    /// A signal.
    Signal,
    /// A type that this version of the protocol does not know.
    Unknown(u8),
}

impl MessageType {
    /// The type for the second byte of a message. 0 is `INVALID`, which [`Prologue::parse`] refuses.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => MessageType::MethodCall,
            2 => MessageType::MethodReturn,
            3 => MessageType::Error,
            4 => MessageType::Signal,
            other => MessageType::Unknown(other),
        }
    }

    /// The second byte of a message of this type.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            MessageType::MethodCall => 1,
            MessageType::MethodReturn => 2,
            MessageType::Error => 3,
            MessageType::Signal => 4,
            MessageType::Unknown(other) => other,
        }
    }
}

/// Why bytes cannot be the beginning of a message. The stream has lost its framing: the only thing
/// left is to close the connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// The first byte is neither `l` nor `B`.
    #[error("the byte order is marked by {0:#04x}, which is neither 'l' nor 'B'")]
    Endian(u8),
    /// The message type is 0, `INVALID`.
    #[error("the message type is 0 (INVALID)")]
    InvalidType,
    /// The major protocol version is not 1.
    #[error("the protocol version is {0}, not 1")]
    Version(u8),
    /// The serial is 0.
    #[error("the serial is 0")]
    ZeroSerial,
    /// The header fields are longer than [`MAX_FIELDS_LEN`].
    #[error("the header fields take {0} bytes, the limit is 64 MiB")]
    FieldsTooLong(u32),
    /// The whole message would be longer than [`MAX_MESSAGE_LEN`].
    #[error("the message takes {0} bytes, the limit is 128 MiB")]
    MessageTooLong(u64),
}

/// The first sixteen bytes of a message, checked (specification: Message Format).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Prologue {
    /// The message's byte order.
    pub endian: Endian,
    /// The message's type as it is on the wire, never 0; see [`Prologue::message_type`].
    pub kind: u8,
    /// The message's flags.
    pub flags: Flags,
    /// The length of the body.
    pub body_len: u32,
    /// The serial, never 0.
    pub serial: u32,
    /// The length of the header field array, without the padding after it.
    pub fields_len: u32,
}

impl Prologue {
    /// Reads and checks the fixed part of a header.
    ///
    /// # Errors
    ///
    /// If the bytes cannot begin a message of version 1, or if the message would be too long.
    #[inline]
    pub fn parse(bytes: &[u8; FIXED_LEN]) -> Result<Prologue, FrameError> {
        let [
            marker,
            kind,
            flags,
            version,
            b0,
            b1,
            b2,
            b3,
            s0,
            s1,
            s2,
            s3,
            f0,
            f1,
            f2,
            f3,
        ] = *bytes;
        let endian = Endian::from_marker(marker).ok_or(FrameError::Endian(marker))?;
        if kind == 0 {
            return Err(FrameError::InvalidType);
        }
        if version != 1 {
            return Err(FrameError::Version(version));
        }
        let prologue = Prologue {
            endian,
            kind,
            flags: Flags(flags),
            body_len: endian.u32([b0, b1, b2, b3]),
            serial: endian.u32([s0, s1, s2, s3]),
            fields_len: endian.u32([f0, f1, f2, f3]),
        };
        if prologue.serial == 0 {
            return Err(FrameError::ZeroSerial);
        }
        if prologue.fields_len > MAX_FIELDS_LEN {
            return Err(FrameError::FieldsTooLong(prologue.fields_len));
        }
        let whole = FIXED_LEN as u64
            + u64::from(prologue.fields_len).next_multiple_of(8)
            + u64::from(prologue.body_len);
        if whole > MAX_MESSAGE_LEN {
            return Err(FrameError::MessageTooLong(whole));
        }
        Ok(prologue)
    }

    /// The length of the header: the fixed part, the fields, and the padding to eight bytes.
    #[must_use]
    #[inline]
    pub fn header_len(&self) -> usize {
        FIXED_LEN + (self.fields_len as usize).next_multiple_of(8)
    }

    /// The length of the whole message.
    #[must_use]
    #[inline]
    pub fn message_len(&self) -> usize {
        self.header_len() + self.body_len as usize
    }

    /// The message's type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        MessageType::from_byte(self.kind)
    }
}

/// What [`scan`] found at the beginning of a buffer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Scan {
    /// Call again when this many bytes are there, counted from the beginning of the slice.
    NeedBytes(usize),
    /// The slice begins with a whole header; of the body, any part may be there.
    Message(Prologue),
}

/// Looks at buffered bytes that begin with a message. It keeps no state: call it again with the same
/// bytes and more, however they were split on their way.
///
/// # Errors
///
/// As soon as the first sixteen bytes are there and cannot begin a message.
#[inline]
pub fn scan(bytes: &[u8]) -> Result<Scan, FrameError> {
    let Some(fixed) = bytes.first_chunk::<FIXED_LEN>() else {
        return Ok(Scan::NeedBytes(FIXED_LEN));
    };
    let prologue = Prologue::parse(fixed)?;
    let header_len = prologue.header_len();
    if bytes.len() < header_len {
        return Ok(Scan::NeedBytes(header_len));
    }
    Ok(Scan::Message(prologue))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(endian: Endian, body_len: u32, serial: u32, fields_len: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = endian.marker();
        bytes[1] = 1;
        bytes[3] = 1;
        bytes[4..8].copy_from_slice(&endian.u32_bytes(body_len));
        bytes[8..12].copy_from_slice(&endian.u32_bytes(serial));
        bytes[12..16].copy_from_slice(&endian.u32_bytes(fields_len));
        bytes
    }

    #[test]
    fn both_byte_orders_are_read() {
        for endian in [Endian::Little, Endian::Big] {
            let p = Prologue::parse(&fixed(endian, 10, 7, 13)).unwrap();
            assert_eq!(
                (p.endian, p.body_len, p.serial, p.fields_len),
                (endian, 10, 7, 13)
            );
            assert_eq!((p.header_len(), p.message_len()), (32, 42));
        }
    }

    #[test]
    fn what_cannot_begin_a_message_is_refused() {
        let good = fixed(Endian::Little, 0, 1, 0);
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Prologue::parse(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b'b'), FrameError::Endian(b'b'));
        assert_eq!(with(1, 0), FrameError::InvalidType);
        assert_eq!(with(3, 2), FrameError::Version(2));
        assert_eq!(with(3, 0), FrameError::Version(0));
        assert_eq!(with(8, 0), FrameError::ZeroSerial);
    }

    #[test]
    fn lengths_are_limited_without_overflow() {
        let err = |body, fields| Prologue::parse(&fixed(Endian::Big, body, 1, fields)).unwrap_err();
        assert_eq!(
            err(0, MAX_FIELDS_LEN + 1),
            FrameError::FieldsTooLong(MAX_FIELDS_LEN + 1)
        );
        assert_eq!(err(0, u32::MAX), FrameError::FieldsTooLong(u32::MAX));
        assert_eq!(
            err(u32::MAX, 0),
            FrameError::MessageTooLong(16 + u64::from(u32::MAX))
        );
        let longest = u32::try_from(MAX_MESSAGE_LEN).unwrap() - 16;
        assert!(Prologue::parse(&fixed(Endian::Big, longest, 1, 0)).is_ok());
        assert_eq!(
            err(longest + 1, 0),
            FrameError::MessageTooLong(MAX_MESSAGE_LEN + 1)
        );
        // The padding after the fields counts too.
        assert!(Prologue::parse(&fixed(Endian::Big, longest - 8, 1, 8)).is_ok());
        assert_eq!(
            err(longest - 8, 9),
            FrameError::MessageTooLong(MAX_MESSAGE_LEN + 8)
        );
    }

    #[test]
    fn unknown_types_and_flags_are_kept() {
        let mut bytes = fixed(Endian::Little, 0, 1, 0);
        bytes[1] = 77;
        bytes[2] = 0xf0;
        let p = Prologue::parse(&bytes).unwrap();
        assert_eq!(p.message_type(), MessageType::Unknown(77));
        assert_eq!(p.message_type().byte(), 77);
        assert_eq!(p.flags, Flags(0xf0));
    }

    #[test]
    fn scan_asks_for_the_fixed_part_then_for_the_header() {
        let mut bytes = fixed(Endian::Little, 100, 1, 9).to_vec();
        for n in 0..16 {
            assert_eq!(scan(&bytes[..n]), Ok(Scan::NeedBytes(16)));
        }
        bytes.resize(32, 0);
        for n in 16..32 {
            assert_eq!(scan(&bytes[..n]), Ok(Scan::NeedBytes(32)));
        }
        assert!(matches!(scan(&bytes), Ok(Scan::Message(p)) if p.message_len() == 132));
    }
}
