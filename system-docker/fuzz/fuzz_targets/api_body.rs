//! Bodies and queries of the API, up to where something would be made: refused or understood, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| system_docker::fuzzing::request(data));
