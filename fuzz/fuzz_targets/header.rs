//! See [`kapsule_fuzz::header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::header(data));
