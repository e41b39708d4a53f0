//! Buffers for what a socket did not take, kept for the next time it does not.
//!
//! Somebody who reads more slowly than another writes makes the router wait with some 100 KiB again and again. From the
//! allocator they would be new pages each time, which cost as much as the copying.

use std::cell::RefCell;

/// What a buffer holds (bytes).
pub(super) const SIZE: usize = 64 * 1024;
/// How many are kept for all connections together.
const MOST: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with these bytes in it, which are at most [`SIZE`]. For few of them it is only as large as they are.
pub(super) fn with(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() < SIZE / 2 {
        return bytes.to_vec();
    }
    let spare = SPARE.with_borrow_mut(Vec::pop);
    let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(SIZE));
    buffer.extend_from_slice(bytes);
    buffer
}

/// A buffer is not needed any more.
pub(super) fn put_back(mut buffer: Vec<u8>) {
    if buffer.capacity() != SIZE {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST {
            buffer.clear();
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_used_again_and_a_small_one_is_as_small_as_its_bytes() {
        let large = with(&[1; SIZE]);
        let place = large.as_ptr();
        put_back(large);
        let again = with(&[2; SIZE - 1]);
        assert_eq!((again.as_ptr(), again.len()), (place, SIZE - 1));
        assert!(again.iter().all(|&byte| byte == 2));
        let small = with(&[3; 10]);
        assert!(small.capacity() < 100);
        put_back(small);
        assert!(SPARE.with_borrow(Vec::is_empty));
    }

    #[test]
    fn only_a_few_are_kept() {
        let many: Vec<Vec<u8>> = (0..20).map(|_| with(&[0; SIZE])).collect();
        many.into_iter().for_each(put_back);
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
    }
}
