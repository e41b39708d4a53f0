//! Numbers, texts and paths in a payload.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::WireError;

/// Reads a payload from its beginning to its end.
pub(super) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader { left: payload }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, left) = self
            .left
            .split_at_checked(count)
            .ok_or(WireError::Truncated)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, left) = self
            .left
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated)?;
        self.left = left;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn token(&mut self) -> Result<[u8; 16], WireError> {
        self.array()
    }

    pub fn boolean(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::Value("a boolean", u64::from(other))),
        }
    }

    /// Text of at most `most` bytes, without NUL.
    pub fn text(&mut self, most: usize) -> Result<&'a str, WireError> {
        let bytes = self.bytes(most)?;
        std::str::from_utf8(bytes).map_err(|_| WireError::Text)
    }

    /// A path of at most `most` bytes, without NUL.
    pub fn path(&mut self, most: usize) -> Result<PathBuf, WireError> {
        Ok(PathBuf::from(OsStr::from_bytes(self.bytes(most)?)))
    }

    fn bytes(&mut self, most: usize) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u16()?);
        if len > most {
            return Err(WireError::TooLong { len, most });
        }
        let bytes = self.take(len)?;
        if bytes.contains(&0) {
            return Err(WireError::Text);
        }
        Ok(bytes)
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), WireError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(WireError::LeftOver(left)),
        }
    }
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes text; what is longer than `most`, or has a NUL, is cut there, at the boundary of a character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, most: usize) {
    let text = text.split('\0').next().unwrap_or_default();
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_bytes(out, &text.as_bytes()[..end]);
}

/// Writes a path, which the caller has checked: it is not cut, because a part of it would be another path.
pub(super) fn put_path(out: &mut Vec<u8>, path: &Path, most: usize) {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > most || bytes.contains(&0) {
        put_bytes(out, b"");
    } else {
        put_bytes(out, bytes);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // All limits of callers are below 64 KiB.
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    put_u16(out, len);
    out.extend_from_slice(&bytes[..usize::from(len)]);
}
