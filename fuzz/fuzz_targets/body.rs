//! See [`kapsule_fuzz::body`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::body(data));
