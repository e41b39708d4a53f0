//! See [`kapsule_fuzz::sasl_client`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kapsule_fuzz::sasl_client(data));
