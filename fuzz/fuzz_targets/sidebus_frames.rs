//! See [`kapsule_fuzz::sidebus_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::sidebus_frames(data));
