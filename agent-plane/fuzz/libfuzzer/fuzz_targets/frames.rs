//! `kairo_fuzz::frames` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kairo_fuzz::frames::run(input));
