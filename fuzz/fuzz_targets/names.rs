//! See [`kapsule_fuzz::names`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::names(data));
