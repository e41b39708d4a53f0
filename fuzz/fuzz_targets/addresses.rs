//! See [`kapsule_fuzz::addresses`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::addresses(data));
