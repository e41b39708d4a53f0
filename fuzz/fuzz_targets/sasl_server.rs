//! See [`kapsule_fuzz::sasl_server`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::sasl_server(data));
