//! What `sidebus` reads.

use sidebus::wire::{
    Frame, HEADER_LEN, MAX_DESCRIPTORS, MAX_FILE_LEN, MAX_PAYLOAD, measure, parse,
};

use crate::wire::choice;

/// What a guest sends to the broker: the same frames, and the same end, whatever the pieces; nothing is announced beyond
/// its limit; and what was understood is written as it came. The first byte says how long the pieces are.
pub fn sidebus_frames(data: &[u8]) {
    let (size, stream) = choice(data);
    let whole = collect(std::iter::once(stream));
    assert_eq!(collect(stream.chunks(usize::from(size).max(1))), whole);
}

/// The lengths of the frames in a stream, and the fault at its end.
fn collect<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<usize>, Option<String>) {
    let mut buffer: Vec<u8> = Vec::new();
    let mut lengths = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match measure(&buffer) {
                Err(error) => return (lengths, Some(error.to_string())),
                Ok(Err(needed)) => {
                    assert!(needed > buffer.len() && needed <= HEADER_LEN + MAX_PAYLOAD);
                    break;
                }
                Ok(Ok(len)) => {
                    match parse(&buffer[..len]) {
                        Err(error) => return (lengths, Some(error.to_string())),
                        Ok(frame) => understood(&frame, &buffer[..len]),
                    }
                    lengths.push(len);
                    buffer.drain(..len);
                }
            }
        }
    }
    (lengths, None)
}

fn understood(frame: &Frame<'_>, bytes: &[u8]) {
    assert_eq!(frame.to_bytes(), bytes, "{}", frame.kind());
    if let Frame::Message(head) = frame {
        assert!(head.fits() && head.message_len > 0);
        assert!(head.file_room() <= MAX_DESCRIPTORS as u64 * u64::from(MAX_FILE_LEN));
    }
}
