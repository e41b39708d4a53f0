//! See [`kapsule_fuzz::match_rule`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::match_rule(data));
