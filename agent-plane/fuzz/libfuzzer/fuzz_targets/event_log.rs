//! `kairo_fuzz::event_log` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kairo_fuzz::event_log::run(input));
