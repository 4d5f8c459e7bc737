//! `kairo_fuzz::patterns` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kairo_fuzz::patterns::run(input));
