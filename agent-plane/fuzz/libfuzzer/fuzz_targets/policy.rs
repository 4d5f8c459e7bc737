//! `kairo_fuzz::policy` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kairo_fuzz::policy::run(input));
