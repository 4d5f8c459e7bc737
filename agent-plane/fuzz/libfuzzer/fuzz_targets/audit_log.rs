//! `kairo_fuzz::audit_log` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kairo_fuzz::audit_log::run(input));
