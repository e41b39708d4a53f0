//! Message bodies: checking them, reading them, writing them (specification: Marshaling).

use thiserror::Error;

use crate::frame::{Endian, MAX_ARRAY_LEN};
use crate::names::is_object_path_bytes;
use crate::signature::{
    Layout, SignatureError, alignment, check_bytes, check_single, first_len, fixed_size,
};

/// How deep the containers of a value may nest, variants included.
pub const MAX_VALUE_DEPTH: u8 = 64;

/// Why a body is not what its signature says. `at` is the offset of the fault in the body (or in the
/// header, for the value of a header field).
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum BodyError {
    /// The signature itself is not valid.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// A value goes beyond the end.
    #[error("a value at offset {at} goes beyond the end")]
    Truncated {
        /// Where the value begins.
        at: usize,
    },
    /// Padding with bytes that are not 0.
    #[error("the padding at offset {at} is not zero")]
    Padding {
        /// Where the padding begins.
        at: usize,
    },
    /// A boolean other than 0 and 1.
    #[error("the boolean at offset {at} is neither 0 nor 1")]
    Boolean {
        /// Where the value begins.
        at: usize,
    },
    /// A string that is not UTF-8, or has a NUL inside.
    #[error("the string at offset {at} is not UTF-8 without NUL")]
    Utf8 {
        /// Where the text begins.
        at: usize,
    },
    /// A string, path or signature without a NUL after it.
    #[error("the text at offset {at} does not end with NUL")]
    MissingNul {
        /// Where the text begins.
        at: usize,
    },
    /// An object path that is not one.
    #[error("the object path at offset {at} is not valid")]
    ObjectPath {
        /// Where the text begins.
        at: usize,
    },
    /// A value of type signature, or the signature of a variant, that is not valid.
    #[error("the signature at offset {at}: {error}")]
    SignatureValue {
        /// Where the text begins.
        at: usize,
        /// What is wrong with it.
        error: SignatureError,
    },
    /// An array longer than [`MAX_ARRAY_LEN`].
    #[error("the array at offset {at} is longer than 64 MiB")]
    ArrayTooLong {
        /// Where the length stands.
        at: usize,
    },
    /// An array whose length is not the length of its elements.
    #[error("the length of the array at offset {at} does not fit its elements")]
    ArrayLength {
        /// Where the elements begin.
        at: usize,
    },
    /// Containers nest deeper than [`MAX_VALUE_DEPTH`].
    #[error("the value at offset {at} nests more than 64 containers")]
    TooDeep {
        /// Where the value begins.
        at: usize,
    },
    /// The index of a file descriptor that does not come with the message.
    #[error("file descriptor {index} at offset {at} does not come with the message")]
    UnixFd {
        /// Where the value begins.
        at: usize,
        /// The index.
        index: u32,
    },
    /// Bytes after the last value.
    #[error("there are bytes after the last value, at offset {at}")]
    TrailingBytes {
        /// Where they begin.
        at: usize,
    },
    /// A [`Reader`] was asked for another type than the next one.
    #[error("expected type '{expected}', found {}", .found.map_or("the end".to_owned(), |c| format!("'{c}'")))]
    Type {
        /// What was asked for.
        expected: char,
        /// What comes next, if anything.
        found: Option<char>,
    },
}

/// Checks a body against its signature, as dbus-daemon promises it to receivers: every value valid,
/// padding zero, lengths exact, all bytes used. `unix_fds` is how many file descriptors come with the
/// message. Arrays of fixed-size elements take constant time, except booleans and descriptors.
///
/// # Errors
///
/// The first fault, and where it is.
pub fn check_body(
    endian: Endian,
    signature: &str,
    body: &[u8],
    unix_fds: u32,
) -> Result<(), BodyError> {
    let layout = Layout::new(signature.as_bytes())?;
    let check = Check {
        endian,
        bytes: body,
        unix_fds,
    };
    let end = check.values(&layout, 0, layout.len(), 0, 0)?;
    if end == body.len() {
        Ok(())
    } else {
        Err(BodyError::TrailingBytes { at: end })
    }
}

/// Rounds up to a power of two.
#[inline]
pub(crate) const fn align(at: usize, to: usize) -> usize {
    (at + to - 1) & !(to - 1)
}

/// Whether bytes are UTF-8 without NUL.
#[inline]
fn is_text(bytes: &[u8]) -> bool {
    // Almost all text is ASCII. `(b - 1) | b` has its high bit set for NUL and for what is not
    // ASCII, and the compiler turns this loop into vector instructions.
    let high = bytes
        .iter()
        .fold(0, |acc, &byte| acc | byte.wrapping_sub(1) | byte);
    high < 0x80 || (std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0))
}

/// Walks over values and checks them. Offsets count from the beginning of `bytes`, to which values
/// are aligned.
pub(crate) struct Check<'b> {
    pub(crate) endian: Endian,
    pub(crate) bytes: &'b [u8],
    pub(crate) unix_fds: u32,
}

impl Check<'_> {
    /// Checks values of the types from `from` to `to`, beginning at `at`; returns where they end.
    pub(crate) fn values(
        &self,
        layout: &Layout<'_>,
        from: usize,
        to: usize,
        mut at: usize,
        depth: u8,
    ) -> Result<usize, BodyError> {
        if depth > MAX_VALUE_DEPTH {
            return Err(BodyError::TooDeep { at });
        }
        let mut typ = from;
        while typ < to {
            at = self.value(layout, typ, at, depth)?;
            typ = layout.after(typ);
        }
        Ok(at)
    }

    fn value(
        &self,
        layout: &Layout<'_>,
        typ: usize,
        at: usize,
        depth: u8,
    ) -> Result<usize, BodyError> {
        match layout.code(typ) {
            b's' => self.string(at),
            b'o' => self.object_path(at),
            b'g' => self.signature(at),
            b'v' => self.variant(at, depth),
            b'a' => self.array(layout, typ + 1, at, depth),
            b'(' | b'{' => {
                let at = self.pad(at, 8)?;
                self.values(layout, typ + 1, layout.after(typ) - 1, at, depth + 1)
            }
            code => self.fixed(code, at),
        }
    }

    #[inline]
    pub(crate) fn pad(&self, at: usize, to: usize) -> Result<usize, BodyError> {
        let aligned = align(at, to);
        match self.bytes.get(at..aligned) {
            Some(padding) if padding.iter().all(|&byte| byte == 0) => Ok(aligned),
            Some(_) => Err(BodyError::Padding { at }),
            None => Err(BodyError::Truncated { at }),
        }
    }

    /// A `UINT32` after its padding; returns it and where it ends.
    #[inline]
    pub(crate) fn u32(&self, at: usize) -> Result<(u32, usize), BodyError> {
        let at = self.pad(at, 4)?;
        match self.endian.u32_at(self.bytes, at) {
            Some(value) => Ok((value, at + 4)),
            None => Err(BodyError::Truncated { at }),
        }
    }

    #[inline]
    fn fixed(&self, code: u8, at: usize) -> Result<usize, BodyError> {
        // A layout holds no other type codes than those with a size here.
        let size = fixed_size(code).unwrap_or(1);
        let at = self.pad(at, size)?;
        let end = at + size;
        let Some(value) = self.bytes.get(at..end) else {
            return Err(BodyError::Truncated { at });
        };
        match code {
            b'b' => self.booleans(value, at)?,
            b'h' => self.unix_fds(value, at)?,
            _ => {}
        }
        Ok(end)
    }

    fn booleans(&self, values: &[u8], at: usize) -> Result<(), BodyError> {
        for (n, four) in values.as_chunks::<4>().0.iter().enumerate() {
            if self.endian.u32(*four) > 1 {
                return Err(BodyError::Boolean { at: at + 4 * n });
            }
        }
        Ok(())
    }

    fn unix_fds(&self, values: &[u8], at: usize) -> Result<(), BodyError> {
        for (n, four) in values.as_chunks::<4>().0.iter().enumerate() {
            let index = self.endian.u32(*four);
            if index >= self.unix_fds {
                return Err(BodyError::UnixFd {
                    at: at + 4 * n,
                    index,
                });
            }
        }
        Ok(())
    }

    /// The text of a string or path: where it begins and ends, the NUL after it seen.
    #[inline]
    pub(crate) fn text(&self, at: usize) -> Result<(usize, usize), BodyError> {
        let (len, start) = self.u32(at)?;
        let end = start.saturating_add(len as usize);
        match self.bytes.get(end) {
            Some(0) => Ok((start, end)),
            Some(_) => Err(BodyError::MissingNul { at: start }),
            None => Err(BodyError::Truncated { at: start }),
        }
    }

    #[inline]
    fn string(&self, at: usize) -> Result<usize, BodyError> {
        let (start, end) = self.text(at)?;
        if is_text(&self.bytes[start..end]) {
            Ok(end + 1)
        } else {
            Err(BodyError::Utf8 { at: start })
        }
    }

    fn object_path(&self, at: usize) -> Result<usize, BodyError> {
        let (start, end) = self.text(at)?;
        if is_object_path_bytes(&self.bytes[start..end]) {
            Ok(end + 1)
        } else {
            Err(BodyError::ObjectPath { at: start })
        }
    }

    /// The text of a signature: where it begins and ends, the NUL after it seen, not yet checked.
    #[inline]
    fn signature_text(&self, at: usize) -> Result<(usize, usize), BodyError> {
        let Some(&len) = self.bytes.get(at) else {
            return Err(BodyError::Truncated { at });
        };
        let start = at + 1;
        let end = start + usize::from(len);
        match self.bytes.get(end) {
            Some(0) => Ok((start, end)),
            Some(_) => Err(BodyError::MissingNul { at: start }),
            None => Err(BodyError::Truncated { at: start }),
        }
    }

    fn signature(&self, at: usize) -> Result<usize, BodyError> {
        let (start, end) = self.signature_text(at)?;
        match check_bytes(&self.bytes[start..end]) {
            Ok(_) => Ok(end + 1),
            Err(error) => Err(BodyError::SignatureValue { at: start, error }),
        }
    }

    pub(crate) fn variant(&self, at: usize, depth: u8) -> Result<usize, BodyError> {
        let (start, end) = self.signature_text(at)?;
        if depth >= MAX_VALUE_DEPTH {
            return Err(BodyError::TooDeep { at });
        }
        let signature = &self.bytes[start..end];
        // What most variants hold needs no layout.
        match *signature {
            [b's'] => return self.string(end + 1),
            [code] if fixed_size(code).is_some() => return self.fixed(code, end + 1),
            _ => {}
        }
        let invalid = |error| BodyError::SignatureValue { at: start, error };
        let layout = Layout::new(signature).map_err(invalid)?;
        if layout.count() != 1 {
            return Err(invalid(SignatureError::NotSingle));
        }
        self.value(&layout, 0, end + 1, depth + 1)
    }

    /// The elements of an array: where they begin and end; the padding before them is checked, they
    /// are not.
    #[inline]
    fn elements(&self, at: usize, code: u8) -> Result<(usize, usize), BodyError> {
        let (len, after) = self.u32(at)?;
        if len > MAX_ARRAY_LEN {
            return Err(BodyError::ArrayTooLong { at: after - 4 });
        }
        let start = self.pad(after, alignment(code))?;
        let end = start + len as usize;
        if end > self.bytes.len() {
            return Err(BodyError::Truncated { at: start });
        }
        Ok((start, end))
    }

    /// `typ` is the position of the element type.
    fn array(
        &self,
        layout: &Layout<'_>,
        typ: usize,
        at: usize,
        depth: u8,
    ) -> Result<usize, BodyError> {
        let code = layout.code(typ);
        let (start, end) = self.elements(at, code)?;
        if start == end {
            return Ok(end);
        }
        if let Some(size) = fixed_size(code) {
            if !(end - start).is_multiple_of(size) {
                return Err(BodyError::ArrayLength { at: start });
            }
            match code {
                b'b' => self.booleans(&self.bytes[start..end], start)?,
                b'h' => self.unix_fds(&self.bytes[start..end], start)?,
                _ => {}
            }
            return Ok(end);
        }
        let depth = depth + 1;
        if depth > MAX_VALUE_DEPTH {
            return Err(BodyError::TooDeep { at: start });
        }
        let mut at = start;
        if code == b's' {
            while at < end {
                at = self.string(at)?;
            }
        } else {
            while at < end {
                at = self.value(layout, typ, at, depth)?;
            }
        }
        if at == end {
            Ok(end)
        } else {
            Err(BodyError::ArrayLength { at: start })
        }
    }
}

/// Goes over a value without checking it: where does it end? For bodies that somebody else checks,
/// or checked before. `None` if it goes beyond the end or nests too deep; `typ` moves behind the
/// value's type.
pub(crate) fn skip_unchecked(
    endian: Endian,
    signature: &[u8],
    typ: &mut usize,
    bytes: &[u8],
    at: usize,
    depth: u8,
) -> Option<usize> {
    if depth > MAX_VALUE_DEPTH {
        return None;
    }
    let code = *signature.get(*typ)?;
    if let Some(size) = fixed_size(code) {
        *typ += 1;
        return Some(align(at, size) + size);
    }
    match code {
        b's' | b'o' => {
            *typ += 1;
            let at = align(at, 4);
            let len = endian.u32_at(bytes, at)? as usize;
            let end = (at + 5).saturating_add(len);
            (end <= bytes.len()).then_some(end)
        }
        b'g' => {
            *typ += 1;
            Some(at + 1 + usize::from(*bytes.get(at)?) + 1)
        }
        b'a' => {
            let element = *signature.get(*typ + 1)?;
            *typ += first_len(&signature[*typ..])?;
            let at = align(at, 4);
            let len = endian.u32_at(bytes, at)? as usize;
            let end = align(at + 4, alignment(element)).saturating_add(len);
            (end <= bytes.len()).then_some(end)
        }
        b'v' => {
            *typ += 1;
            let start = at + 1;
            let end = start + usize::from(*bytes.get(at)?);
            let inner = bytes.get(start..end)?;
            skip_unchecked(endian, inner, &mut 0, bytes, end + 1, depth + 1)
        }
        b'(' | b'{' => {
            *typ += 1;
            let mut at = align(at, 8);
            while !matches!(signature.get(*typ)?, b')' | b'}') {
                at = skip_unchecked(endian, signature, typ, bytes, at, depth + 1)?;
            }
            *typ += 1;
            Some(at)
        }
        _ => None,
    }
}

/// Reads the values of a body one after another, by type. It checks what it reads as [`check_body`]
/// does, so it may be used on a body that nobody has checked.
///
/// A read that fails leaves the reader where it was.
#[derive(Copy, Clone, Debug)]
pub struct Reader<'a> {
    endian: Endian,
    signature: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: u8,
}

impl<'a> Reader<'a> {
    /// A reader over a whole body.
    #[must_use]
    pub fn new(endian: Endian, signature: &'a str, body: &'a [u8]) -> Self {
        Reader {
            endian,
            signature,
            bytes: body,
            at: 0,
            depth: 0,
        }
    }

    /// The types that are not read yet.
    #[must_use]
    pub fn signature_left(&self) -> &'a str {
        self.signature
    }

    /// The offset in the body of what is read next, before its padding.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Whether all types and all bytes have been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.signature.is_empty() && self.at == self.bytes.len()
    }

    fn check(&self) -> Check<'a> {
        // How many descriptors came with the message is for whoever holds them to compare.
        Check {
            endian: self.endian,
            bytes: self.bytes,
            unix_fds: u32::MAX,
        }
    }

    fn expect(&self, code: u8) -> Result<(), BodyError> {
        match self.signature.as_bytes().first() {
            Some(&found) if found == code => Ok(()),
            found => Err(BodyError::Type {
                expected: code as char,
                found: found.map(|&found| found as char),
            }),
        }
    }

    /// Goes on behind a value that ends at `end` and whose type took `len` bytes.
    fn advance(&mut self, len: usize, end: usize) {
        self.signature = self.signature.get(len..).unwrap_or("");
        self.at = end;
    }

    fn fixed<const N: usize>(&mut self, code: u8) -> Result<[u8; N], BodyError> {
        self.expect(code)?;
        let check = self.check();
        let at = check.pad(self.at, N)?;
        let mut bytes = *self
            .bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or(BodyError::Truncated { at })?;
        if self.endian == Endian::Big {
            bytes.reverse();
        }
        self.advance(1, at + N);
        Ok(bytes)
    }

    /// Reads a `BYTE`.
    ///
    /// # Errors
    ///
    /// If the next type is another, or the value does not fit or is not valid; as for all readings.
    pub fn byte(&mut self) -> Result<u8, BodyError> {
        self.fixed::<1>(b'y').map(|[byte]| byte)
    }

    /// Reads a `BOOLEAN`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn boolean(&mut self) -> Result<bool, BodyError> {
        let before = *self;
        match u32::from_le_bytes(self.fixed(b'b')?) {
            0 => Ok(false),
            1 => Ok(true),
            _ => {
                let at = self.at - 4;
                *self = before;
                Err(BodyError::Boolean { at })
            }
        }
    }

    /// Reads an `INT16`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn i16(&mut self) -> Result<i16, BodyError> {
        self.fixed(b'n').map(i16::from_le_bytes)
    }

    /// Reads a `UINT16`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn u16(&mut self) -> Result<u16, BodyError> {
        self.fixed(b'q').map(u16::from_le_bytes)
    }

    /// Reads an `INT32`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn i32(&mut self) -> Result<i32, BodyError> {
        self.fixed(b'i').map(i32::from_le_bytes)
    }

    /// Reads a `UINT32`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn u32(&mut self) -> Result<u32, BodyError> {
        self.fixed(b'u').map(u32::from_le_bytes)
    }

    /// Reads an `INT64`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn i64(&mut self) -> Result<i64, BodyError> {
        self.fixed(b'x').map(i64::from_le_bytes)
    }

    /// Reads a `UINT64`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn u64(&mut self) -> Result<u64, BodyError> {
        self.fixed(b't').map(u64::from_le_bytes)
    }

    /// Reads a `DOUBLE`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn double(&mut self) -> Result<f64, BodyError> {
        self.fixed(b'd').map(f64::from_le_bytes)
    }

    /// Reads a `UNIX_FD`: an index into the descriptors that come with the message. Errors as for
    /// [`Reader::byte`]; whether the index is in range is not known here.
    #[allow(clippy::missing_errors_doc)]
    pub fn unix_fd(&mut self) -> Result<u32, BodyError> {
        let before = *self;
        let index = u32::from_le_bytes(self.fixed(b'h')?);
        // The one index that no message can have, as it cannot have that many descriptors.
        if index == u32::MAX {
            let at = self.at - 4;
            *self = before;
            return Err(BodyError::UnixFd { at, index });
        }
        Ok(index)
    }

    /// Reads a `STRING`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn str(&mut self) -> Result<&'a str, BodyError> {
        self.expect(b's')?;
        let (start, end) = self.check().text(self.at)?;
        let text = utf8(self.bytes, start, end)?;
        self.advance(1, end + 1);
        Ok(text)
    }

    /// Reads an `OBJECT_PATH`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn object_path(&mut self) -> Result<&'a str, BodyError> {
        self.expect(b'o')?;
        let (start, end) = self.check().text(self.at)?;
        let bytes = &self.bytes[start..end];
        match std::str::from_utf8(bytes) {
            Ok(path) if is_object_path_bytes(bytes) => {
                self.advance(1, end + 1);
                Ok(path)
            }
            _ => Err(BodyError::ObjectPath { at: start }),
        }
    }

    /// Reads a `SIGNATURE`. Errors as for [`Reader::byte`].
    #[allow(clippy::missing_errors_doc)]
    pub fn signature(&mut self) -> Result<&'a str, BodyError> {
        self.expect(b'g')?;
        let (start, end) = self.check().signature_text(self.at)?;
        check_bytes(&self.bytes[start..end])
            .map_err(|error| BodyError::SignatureValue { at: start, error })?;
        let text = utf8(self.bytes, start, end)?;
        self.advance(1, end + 1);
        Ok(text)
    }

    /// Reads a `VARIANT`: returns a reader over its value.
    ///
    /// # Errors
    ///
    /// As for [`Reader::byte`]; the value is checked here, too.
    pub fn variant(&mut self) -> Result<Reader<'a>, BodyError> {
        self.expect(b'v')?;
        let check = self.check();
        let (start, end) = check.signature_text(self.at)?;
        let value_end = check.variant(self.at, self.depth)?;
        let inner = Reader {
            signature: utf8(self.bytes, start, end)?,
            bytes: &self.bytes[..value_end],
            at: end + 1,
            depth: self.depth + 1,
            ..*self
        };
        self.advance(1, value_end);
        Ok(inner)
    }

    /// Reads an `ARRAY`: calls `each` with a reader for every element. What `each` leaves of an
    /// element is skipped.
    ///
    /// # Errors
    ///
    /// As for [`Reader::byte`], and the errors of `each`.
    pub fn array<F>(&mut self, mut each: F) -> Result<(), BodyError>
    where
        F: FnMut(&mut Reader<'a>) -> Result<(), BodyError>,
    {
        self.expect(b'a')?;
        let len = first_len(self.signature.as_bytes())
            .ok_or(BodyError::Signature(SignatureError::MissingElement))?;
        let element = &self.signature[1..len];
        let code = element.as_bytes()[0]; // a complete type has at least one code
        let (start, end) = self.check().elements(self.at, code)?;
        let fixed = fixed_size(code);
        if fixed.is_some_and(|size| !(end - start).is_multiple_of(size)) {
            return Err(BodyError::ArrayLength { at: start });
        }
        if start < end && fixed.is_none() && self.depth >= MAX_VALUE_DEPTH {
            return Err(BodyError::TooDeep { at: start });
        }
        let mut inner = Reader {
            bytes: &self.bytes[..end],
            at: start,
            depth: self.depth + 1,
            ..*self
        };
        while inner.at < end {
            inner.signature = element;
            each(&mut inner)?;
            inner.skip_all()?;
        }
        self.advance(len, end);
        Ok(())
    }

    /// Reads an array of bytes at once.
    ///
    /// # Errors
    ///
    /// As for [`Reader::byte`].
    pub fn bytes(&mut self) -> Result<&'a [u8], BodyError> {
        self.expect(b'a')?;
        match self.signature.as_bytes().get(1) {
            Some(b'y') => {}
            found => {
                return Err(BodyError::Type {
                    expected: 'y',
                    found: found.map(|&found| found as char),
                });
            }
        }
        let (start, end) = self.check().elements(self.at, b'y')?;
        self.advance(2, end);
        Ok(&self.bytes[start..end])
    }

    /// Reads an array of strings at once.
    ///
    /// # Errors
    ///
    /// As for [`Reader::byte`].
    pub fn strs(&mut self) -> Result<Vec<&'a str>, BodyError> {
        let mut strs = Vec::new();
        self.array(|element| {
            strs.push(element.str()?);
            Ok(())
        })?;
        Ok(strs)
    }

    /// Reads a `STRUCT` or a `DICT_ENTRY`: calls `fields` with a reader for what is inside. Fields
    /// that it leaves are skipped.
    ///
    /// # Errors
    ///
    /// As for [`Reader::byte`], and the errors of `fields`.
    pub fn struct_<T, F>(&mut self, fields: F) -> Result<T, BodyError>
    where
        F: FnOnce(&mut Reader<'a>) -> Result<T, BodyError>,
    {
        if !self.signature.starts_with('{') {
            self.expect(b'(')?;
        }
        let len = first_len(self.signature.as_bytes())
            .ok_or(BodyError::Signature(SignatureError::Unbalanced))?;
        let start = self.check().pad(self.at, 8)?;
        if self.depth >= MAX_VALUE_DEPTH {
            return Err(BodyError::TooDeep { at: start });
        }
        // A complete type that begins with a bracket ends with one.
        let signature = &self.signature[1..len - 1];
        // Values without a size would make an endless array.
        if signature.is_empty() {
            return Err(BodyError::Signature(SignatureError::EmptyStruct));
        }
        let mut inner = Reader {
            signature,
            at: start,
            depth: self.depth + 1,
            ..*self
        };
        let value = fields(&mut inner)?;
        inner.skip_all()?;
        self.advance(len, inner.at);
        Ok(value)
    }

    /// Skips one value of any type.
    ///
    /// # Errors
    ///
    /// If it does not fit or is not valid, or if there is none.
    pub fn skip(&mut self) -> Result<(), BodyError> {
        let len = first_len(self.signature.as_bytes())
            .ok_or(BodyError::Signature(SignatureError::NotSingle))?;
        // Behind an array, a dict entry may stand alone.
        let signature = &self.signature.as_bytes()[..len];
        let end = if let Some(inner) = signature.strip_prefix(b"{") {
            let inner = inner.strip_suffix(b"}").unwrap_or(inner);
            let at = self.check().pad(self.at, 8)?;
            let layout = Layout::new(inner)?;
            self.check()
                .values(&layout, 0, layout.len(), at, self.depth + 1)?
        } else {
            let layout = Layout::new(signature)?;
            self.check()
                .values(&layout, 0, layout.len(), self.at, self.depth)?
        };
        self.advance(len, end);
        Ok(())
    }

    fn skip_all(&mut self) -> Result<(), BodyError> {
        while !self.signature.is_empty() {
            self.skip()?;
        }
        Ok(())
    }
}

fn utf8(bytes: &[u8], start: usize, end: usize) -> Result<&str, BodyError> {
    match std::str::from_utf8(&bytes[start..end]) {
        Ok(text) if !text.as_bytes().contains(&0) => Ok(text),
        _ => Err(BodyError::Utf8 { at: start }),
    }
}

/// A body that is being written: its signature grows with its values.
///
/// ```
/// use dbus_wire::Body;
/// let body = Body::new().str("org.kde.Foo").u32(4).dict_sv(|d| {
///     d.entry("Count", |v| v.u32(5)).entry("Names", |v| v.strs(["a", "b"]));
/// });
/// assert_eq!(body.signature, "sua{sv}");
/// ```
///
/// Values are not checked here: text without NUL, paths that are paths, and lengths within the
/// limits are the caller's to give; [`check_body`] checks a whole body.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Body {
    /// The types of the values.
    pub signature: String,
    /// The values, marshaled.
    pub bytes: Vec<u8>,
    endian: Endian,
}

impl Body {
    /// An empty body, little-endian.
    #[must_use]
    pub fn new() -> Self {
        Body::default()
    }

    /// An empty body in the given byte order.
    #[must_use]
    pub fn with_endian(endian: Endian) -> Self {
        Body {
            endian,
            ..Body::default()
        }
    }

    /// A body that is marshaled already.
    #[must_use]
    pub fn from_parts(endian: Endian, signature: impl Into<String>, bytes: Vec<u8>) -> Self {
        Body {
            signature: signature.into(),
            bytes,
            endian,
        }
    }

    /// The byte order in which the body is written.
    #[must_use]
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// Reads the body from its beginning.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self.endian, &self.signature, &self.bytes)
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(align(self.bytes.len(), to), 0);
    }

    fn fixed<const N: usize>(mut self, code: char, mut little: [u8; N]) -> Self {
        self.pad(N);
        if self.endian == Endian::Big {
            little.reverse();
        }
        self.bytes.extend_from_slice(&little);
        self.signature.push(code);
        self
    }

    fn text(mut self, code: char, text: &str) -> Self {
        self.pad(4);
        // Longer text than a message can hold makes a body that no check lets pass.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&self.endian.u32_bytes(len));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.signature.push(code);
        self
    }

    /// Appends a `BYTE`.
    #[must_use]
    pub fn byte(self, value: u8) -> Self {
        self.fixed('y', [value])
    }

    /// Appends a `BOOLEAN`.
    #[must_use]
    pub fn boolean(self, value: bool) -> Self {
        self.fixed('b', u32::from(value).to_le_bytes())
    }

    /// Appends an `INT16`.
    #[must_use]
    pub fn i16(self, value: i16) -> Self {
        self.fixed('n', value.to_le_bytes())
    }

    /// Appends a `UINT16`.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.fixed('q', value.to_le_bytes())
    }

    /// Appends an `INT32`.
    #[must_use]
    pub fn i32(self, value: i32) -> Self {
        self.fixed('i', value.to_le_bytes())
    }

    /// Appends a `UINT32`.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.fixed('u', value.to_le_bytes())
    }

    /// Appends an `INT64`.
    #[must_use]
    pub fn i64(self, value: i64) -> Self {
        self.fixed('x', value.to_le_bytes())
    }

    /// Appends a `UINT64`.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.fixed('t', value.to_le_bytes())
    }

    /// Appends a `DOUBLE`.
    #[must_use]
    pub fn double(self, value: f64) -> Self {
        self.fixed('d', value.to_le_bytes())
    }

    /// Appends a `UNIX_FD`: the index of a descriptor that is sent with the message.
    #[must_use]
    pub fn unix_fd(self, index: u32) -> Self {
        self.fixed('h', index.to_le_bytes())
    }

    /// Appends a `STRING`.
    #[must_use]
    pub fn str(self, value: &str) -> Self {
        self.text('s', value)
    }

    /// Appends an `OBJECT_PATH`.
    #[must_use]
    pub fn object_path(self, value: &str) -> Self {
        self.text('o', value)
    }

    /// Appends a `SIGNATURE`.
    ///
    /// # Panics
    ///
    /// If it is longer than 255 bytes.
    #[must_use]
    pub fn signature(mut self, value: &str) -> Self {
        self.signature_text(value);
        self.signature.push('g');
        self
    }

    fn signature_text(&mut self, value: &str) {
        let len = u8::try_from(value.len()).expect("a signature is at most 255 bytes");
        self.bytes.push(len);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    /// Runs `write` on the same buffer with a signature of its own, and returns that signature.
    fn inner(&mut self, write: impl FnOnce(Body) -> Body) -> String {
        let len = self.bytes.len();
        let inner = write(Body {
            signature: String::new(),
            bytes: std::mem::take(&mut self.bytes),
            endian: self.endian,
        });
        assert!(
            inner.bytes.len() >= len && inner.endian == self.endian,
            "the closure returns the body that it was given; see Body::append for another"
        );
        self.bytes = inner.bytes;
        inner.signature
    }

    /// Appends a `VARIANT` with the one value that `write` writes.
    ///
    /// # Panics
    ///
    /// If `write` writes no value or several.
    #[must_use]
    pub fn variant(mut self, write: impl FnOnce(Body) -> Body) -> Self {
        // The signature stands before the value and is known after it. Most are one byte long;
        // a value that was written behind room for one byte is moved if its signature is longer.
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[1, 0, 0]);
        let written_at = self.bytes.len();
        let signature = self.inner(write);
        if let Err(error) = check_single(&signature) {
            panic!("a variant holds one complete type, not '{signature}': {error}");
        }
        if let [code] = signature.as_bytes() {
            self.bytes[start + 1] = *code;
        } else {
            let value = self.bytes.split_off(written_at);
            self.bytes.truncate(start);
            self.signature_text(&signature);
            let mut relocation = Relocation {
                from: &value,
                from_offset: written_at,
                at: written_at,
                endian: self.endian,
                to: &mut self.bytes,
            };
            relocation.values(signature.as_bytes());
        }
        self.signature.push('v');
        self
    }

    /// Appends all values of another body.
    ///
    /// # Panics
    ///
    /// If it is in another byte order, or its bytes are not what its signature says.
    #[must_use]
    pub fn append(mut self, other: &Body) -> Self {
        assert!(
            self.endian == other.endian,
            "both bodies are in the same byte order"
        );
        Relocation {
            from: &other.bytes,
            from_offset: 0,
            at: 0,
            endian: self.endian,
            to: &mut self.bytes,
        }
        .values(other.signature.as_bytes());
        self.signature.push_str(&other.signature);
        self
    }

    /// Appends this body's one value to `out` as the value of a variant.
    pub(crate) fn append_as_variant(&self, out: &mut Vec<u8>) {
        let mut variant = Body {
            bytes: std::mem::take(out),
            ..Body::with_endian(self.endian)
        };
        variant.signature_text(&self.signature);
        *out = variant.append(self).bytes;
    }

    /// Appends an `ARRAY`; `write` writes any number of elements of the type `element`.
    ///
    /// # Panics
    ///
    /// If `write` writes values of another type.
    #[must_use]
    pub fn array(mut self, element: &str, write: impl FnOnce(Body) -> Body) -> Self {
        self.pad(4);
        let len_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.pad(element.bytes().next().map_or(1, alignment));
        let start = self.bytes.len();
        let written = self.inner(write);
        let mut rest = written.as_str();
        while !rest.is_empty() {
            rest = rest
                .strip_prefix(element)
                .filter(|_| !element.is_empty())
                .unwrap_or_else(|| panic!("an array of '{element}' got '{written}'"));
        }
        self.set_len(len_at, start);
        self.signature.push('a');
        self.signature.push_str(element);
        self
    }

    fn set_len(&mut self, len_at: usize, start: usize) {
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[len_at..len_at + 4].copy_from_slice(&self.endian.u32_bytes(len));
    }

    /// Appends a `STRUCT` with the fields that `write` writes.
    #[must_use]
    pub fn struct_(mut self, write: impl FnOnce(Body) -> Body) -> Self {
        self.pad(8);
        let fields = self.inner(write);
        self.signature.push('(');
        self.signature.push_str(&fields);
        self.signature.push(')');
        self
    }

    /// Appends a `DICT_ENTRY` with the key and value that `write` writes; only as the element of an
    /// array.
    #[must_use]
    pub fn dict_entry(mut self, write: impl FnOnce(Body) -> Body) -> Self {
        self.pad(8);
        let fields = self.inner(write);
        self.signature.push('{');
        self.signature.push_str(&fields);
        self.signature.push('}');
        self
    }

    /// Appends an array of strings.
    #[must_use]
    pub fn strs<S: AsRef<str>>(mut self, values: impl IntoIterator<Item = S>) -> Self {
        self.pad(4);
        let len_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let start = self.bytes.len();
        for value in values {
            let value = value.as_ref();
            self.pad(4);
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            self.bytes.extend_from_slice(&self.endian.u32_bytes(len));
            self.bytes.extend_from_slice(value.as_bytes());
            self.bytes.push(0);
        }
        self.set_len(len_at, start);
        self.signature.push_str("as");
        self
    }

    /// Appends an array of bytes.
    #[must_use]
    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.pad(4);
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&self.endian.u32_bytes(len));
        self.bytes.extend_from_slice(value);
        self.signature.push_str("ay");
        self
    }

    /// Appends an `a{sv}` with the entries that `write` adds.
    #[must_use]
    pub fn dict_sv(self, write: impl FnOnce(&mut Dict)) -> Self {
        self.array("{sv}", |body| {
            let mut dict = Dict { body };
            write(&mut dict);
            dict.body
        })
    }
}

/// An `a{sv}` that is being written, see [`Body::dict_sv`].
#[derive(Debug)]
pub struct Dict {
    body: Body,
}

impl Dict {
    /// Adds an entry with the one value that `write` writes.
    ///
    /// # Panics
    ///
    /// If `write` writes no value or several.
    pub fn entry(&mut self, key: &str, write: impl FnOnce(Body) -> Body) -> &mut Self {
        let body = std::mem::take(&mut self.body);
        self.body = body.dict_entry(|entry| entry.str(key).variant(write));
        self
    }
}

/// Copies values that were marshaled here to another offset, where their padding is another.
struct Relocation<'f, 't> {
    from: &'f [u8],
    /// The offset of `from` in the body for which it was marshaled.
    from_offset: usize,
    at: usize,
    endian: Endian,
    to: &'t mut Vec<u8>,
}

impl Relocation<'_, '_> {
    fn values(&mut self, mut signature: &[u8]) {
        while let Some(len) = first_len(signature) {
            let (first, rest) = signature.split_at(len);
            self.value(first);
            signature = rest;
        }
    }

    fn pad(&mut self, to: usize) {
        self.at = align(self.at, to);
        self.to.resize(align(self.to.len(), to), 0);
    }

    fn copy(&mut self, len: usize) {
        let start = self.at - self.from_offset;
        self.to.extend_from_slice(&self.from[start..start + len]);
        self.at += len;
    }

    fn u32(&self) -> usize {
        let at = self.at - self.from_offset;
        // Written here, so it is there.
        self.endian.u32_at(self.from, at).expect("a length") as usize
    }

    fn value(&mut self, typ: &[u8]) {
        let code = typ[0]; // a complete type
        self.pad(alignment(code));
        match code {
            b's' | b'o' => self.copy(4 + self.u32() + 1),
            b'g' => self.copy(usize::from(self.from[self.at - self.from_offset]) + 2),
            b'v' => {
                let start = self.at - self.from_offset + 1;
                let len = usize::from(self.from[start - 1]);
                let signature = self.from[start..start + len].to_vec();
                self.copy(len + 2);
                self.values(&signature);
            }
            b'a' => {
                let element = &typ[1..];
                let len = self.u32();
                let len_at = self.to.len();
                self.copy(4);
                self.pad(alignment(element[0]));
                let (start, end) = (self.to.len(), self.at + len);
                if fixed_size(element[0]).is_some() {
                    self.copy(len);
                }
                while self.at < end {
                    self.value(element);
                }
                let len = u32::try_from(self.to.len() - start).unwrap_or(u32::MAX);
                self.to[len_at..len_at + 4].copy_from_slice(&self.endian.u32_bytes(len));
            }
            b'(' | b'{' => self.values(&typ[1..typ.len() - 1]),
            _ => self.copy(fixed_size(code).unwrap_or(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(signature: &str, bytes: &[u8]) -> Result<(), BodyError> {
        check_body(Endian::Little, signature, bytes, 0)
    }

    #[test]
    fn faults_are_found_where_they_are() {
        use BodyError::*;
        assert_eq!(check("b", &[2, 0, 0, 0]), Err(Boolean { at: 0 }));
        assert_eq!(
            check("yb", &[1, 0, 0, 0, 2, 0, 0, 0]),
            Err(Boolean { at: 4 })
        );
        assert_eq!(
            check("yu", &[1, 0, 9, 0, 1, 0, 0, 0]),
            Err(Padding { at: 1 })
        );
        assert_eq!(check("u", &[1, 0, 0]), Err(Truncated { at: 0 }));
        assert_eq!(
            check("s", &[1, 0, 0, 0, b'a', 1]),
            Err(MissingNul { at: 4 })
        );
        assert_eq!(check("s", &[1, 0, 0, 0, 0xff, 0]), Err(Utf8 { at: 4 }));
        assert_eq!(check("s", &[2, 0, 0, 0, b'a', 0, 0]), Err(Utf8 { at: 4 }));
        assert_eq!(check("s", &[0xff; 8]), Err(Truncated { at: 4 }));
        assert_eq!(
            check("o", &[1, 0, 0, 0, b'a', 0]),
            Err(ObjectPath { at: 4 })
        );
        assert_eq!(
            check("g", &[1, b'a', 0]),
            Err(SignatureValue {
                at: 1,
                error: SignatureError::MissingElement
            })
        );
        assert_eq!(
            check("v", &[2, b'y', b'y', 0, 1, 1]),
            Err(SignatureValue {
                at: 1,
                error: SignatureError::NotSingle
            })
        );
        assert_eq!(
            check("au", &[5, 0, 0, 0, 1, 0, 0, 0, 1]),
            Err(ArrayLength { at: 4 })
        );
        assert_eq!(
            check("a(y)", &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
            Ok(())
        );
        assert_eq!(
            check("ah", &[4, 0, 0, 0, 7, 0, 0, 0]),
            Err(UnixFd { at: 4, index: 7 })
        );
        assert_eq!(check("y", &[1, 0]), Err(TrailingBytes { at: 1 }));
        assert_eq!(check("", &[1]), Err(TrailingBytes { at: 0 }));
        assert_eq!(check("", &[]), Ok(()));
        assert_eq!(
            check("a", &[]),
            Err(Signature(SignatureError::MissingElement))
        );
    }

    #[test]
    fn a_string_that_ends_behind_its_array_is_refused() {
        let body = Body::new().strs(["abc"]);
        let mut bytes = body.bytes;
        bytes[0] -= 1;
        assert_eq!(check("as", &bytes), Err(BodyError::ArrayLength { at: 4 }));
    }

    #[test]
    fn variants_nest_64_deep() {
        let mut body = Body::new().byte(1);
        for _ in 0..64 {
            body = Body::new().variant(|v| v.append(&body));
        }
        assert_eq!(check("v", &body.bytes), Ok(()));
        let mut reader = body.reader();
        for _ in 0..64 {
            reader = reader.variant().unwrap();
        }
        assert_eq!(reader.byte(), Ok(1));
        body = Body::new().variant(|v| v.append(&body));
        assert!(matches!(
            check("v", &body.bytes),
            Err(BodyError::TooDeep { .. })
        ));
        assert!(matches!(
            body.reader().variant(),
            Err(BodyError::TooDeep { .. })
        ));
    }

    #[test]
    fn a_reading_that_fails_leaves_the_reader_where_it_was() {
        let body = Body::new().u32(2).str("x");
        let mut reader = body.reader();
        assert_eq!(
            reader.str(),
            Err(BodyError::Type {
                expected: 's',
                found: Some('u')
            })
        );
        assert_eq!(reader.u32(), Ok(2));
        assert_eq!(reader.str(), Ok("x"));
        assert_eq!(
            reader.byte(),
            Err(BodyError::Type {
                expected: 'y',
                found: None
            })
        );
        let mut reader = Reader::new(Endian::Little, "b", &[2, 0, 0, 0]);
        assert_eq!(reader.boolean(), Err(BodyError::Boolean { at: 0 }));
        assert_eq!((reader.signature_left(), reader.position()), ("b", 0));
    }

    #[test]
    fn what_a_closure_leaves_is_skipped() {
        let body = Body::new()
            .array("(us)", |a| {
                a.struct_(|s| s.u32(1).str("a"))
                    .struct_(|s| s.u32(2).str("b"))
            })
            .struct_(|s| s.str("c").variant(|v| v.u64(9)))
            .byte(7);
        let mut reader = body.reader();
        let mut numbers = Vec::new();
        reader
            .array(|element| element.struct_(|s| s.u32().map(|n| numbers.push(n))))
            .unwrap();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(reader.struct_(|s| s.str()), Ok("c"));
        assert_eq!(reader.byte(), Ok(7));
        assert!(reader.is_done());
    }

    #[test]
    fn a_value_behind_a_long_signature_is_where_it_should_be() {
        // The value of the variant begins at an offset that its signature's length decides.
        for endian in [Endian::Little, Endian::Big] {
            let body = Body::with_endian(endian).variant(|v| {
                v.dict_sv(|d| {
                    d.entry("k", |v| v.array("t", |a| a.u64(1).u64(2)))
                        .entry("l", |v| v.struct_(|s| s.byte(1).strs(["x"])));
                })
            });
            assert_eq!(check_body(endian, "v", &body.bytes, 0), Ok(()));
            let mut value = body.reader().variant().unwrap();
            let mut keys = Vec::new();
            value
                .array(|entry| entry.struct_(|e| e.str().map(|key| keys.push(key))))
                .unwrap();
            assert_eq!(keys, ["k", "l"]);
        }
    }

    #[test]
    fn a_reader_copes_with_a_signature_that_nobody_has_checked() {
        for bad in [
            "a\u{7a4}", "a", "a)", "(", "(\u{e4})", ")", "{", "a{", "z", "{sv}", "a{sv",
        ] {
            let mut reader = Reader::new(Endian::Little, bad, &[1, 0, 0, 0, 0, 0, 0, 0, 1]);
            let _ = reader.array(|element| element.skip());
            let _ = reader.array(|element| element.struct_(|_| Ok(())));
            let _ = reader.struct_(|fields| fields.skip());
            let _ = reader.skip();
        }
    }

    #[test]
    #[should_panic(expected = "one complete type")]
    fn a_variant_of_two_values_is_a_mistake() {
        let _ = Body::new().variant(|v| v.byte(1).byte(2));
    }

    #[test]
    #[should_panic(expected = "an array of 's'")]
    fn an_array_of_mixed_types_is_a_mistake() {
        let _ = Body::new().array("s", |a| a.str("x").u32(1));
    }
}
