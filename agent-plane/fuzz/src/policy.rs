//! Any text is a policy, or an error with a line that the text has.

use std::path::Path;

use kairod::Policy;

/// Longest input that is worth the time, bytes: the file's own limit is checked before it is read.
const MAX_BYTES: usize = 8 * 1024;

/// Reads the input as a policy file.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(&input[..input.len().min(MAX_BYTES)]) else {
        return;
    };
    let Err(error) = Policy::parse(text, Path::new("policy.toml")) else {
        return;
    };
    let said = error.to_string();
    let place = said.strip_prefix("policy.toml:").unwrap();
    let (line, words) = place.split_once(": ").unwrap();
    let line: usize = line.parse().unwrap();
    assert!((1..=text.lines().count() + 1).contains(&line), "{said}");
    assert!(!words.trim().is_empty(), "{said}");
}
