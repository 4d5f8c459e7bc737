//! The Python package's codec against this one: checked-in vectors, ten thousand random values both
//! ways, ten thousand damaged payloads; and the package's own tests.
//!
//! Where there is no python3 the halves that need it are left out, and that is said;
//! `cargo xtask test` makes sure that it is there.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kairo_wire::Value;
use kairo_wire::scan::{self, MAX_DEPTH, ScanError};
use serde_json::json;

/// Where the vectors are, from this crate.
const VECTORS: &str = "../conformance/msgpack-vectors.jsonl";
/// Values and payloads checked in.
const CHECKED_IN: usize = 300;
/// Values and payloads of the live comparison.
const LIVE: usize = 10_000;
/// The scan's limits in vectors: few values, so that the limit is met.
const VALUES: usize = 80;

/// A small generator of numbers (SplitMix64): vectors must be the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number of any size, so that every form on the wire is met.
    fn sized(&mut self) -> u64 {
        let shift = self.below(64);
        self.next() >> shift
    }

    fn text(&mut self) -> String {
        const LETTERS: [char; 6] = ['a', 'Z', '_', 'é', '☃', '🤖'];
        let length = match self.below(40) {
            0 => 300,
            1 => 40,
            few => few % 8,
        };
        (0..length)
            .map(|_| LETTERS[self.below(LETTERS.len() as u64) as usize])
            .collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        let kinds = if depth == 0 { 8 } else { 10 };
        match self.below(kinds) {
            0 => Value::Nil,
            1 => Value::Boolean(self.below(2) == 1),
            2 => Value::from(self.sized()),
            3 => Value::from(-((self.sized() >> 1) as i64) - 1),
            4 => {
                let number = f64::from_bits(self.next());
                // Which NaN it is, is no part of the protocol.
                Value::F64(if number.is_nan() { f64::NAN } else { number })
            }
            5 => Value::F64(self.below(2000) as f64 / 16.0 - 60.0),
            6 => Value::from(self.text()),
            7 => {
                let length = if self.below(30) == 0 {
                    300
                } else {
                    self.below(9)
                };
                Value::Binary((0..length).map(|_| self.next() as u8).collect())
            }
            8 => {
                let length = if self.below(30) == 0 {
                    20
                } else {
                    self.below(5)
                };
                Value::Array((0..length).map(|_| self.value(depth - 1)).collect())
            }
            _ => {
                let length = if self.below(30) == 0 {
                    20
                } else {
                    self.below(5)
                };
                let entry = |number| {
                    // A number makes the key its own.
                    let key = Value::from(format!("{}{number}", self.text()));
                    (key, self.value(depth - 1))
                };
                Value::Map((0..length).map(entry).collect())
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value as JSON that loses nothing: floats by their bits, binary data tagged.
fn tagged(value: &Value) -> serde_json::Value {
    match value {
        Value::F64(number) => json!({"$f64": format!("{:016x}", number.to_bits())}),
        Value::Binary(bytes) => json!({"$bin": hex(bytes)}),
        Value::Array(items) => items.iter().map(tagged).collect(),
        Value::Map(entries) => {
            let entries = entries.iter();
            let entries =
                entries.map(|(key, value)| (key.as_str().unwrap().to_string(), tagged(value)));
            serde_json::Value::Object(entries.collect())
        }
        plain => serde_json::to_value(plain).unwrap(),
    }
}

/// The name that both sides have for what the scan found.
fn verdict(payload: &[u8]) -> &'static str {
    match scan::check(payload, MAX_DEPTH, VALUES) {
        Ok(()) => "ok",
        Err(ScanError::Truncated { .. }) => "truncated",
        Err(ScanError::Length { .. }) => "length",
        Err(ScanError::Depth { .. }) => "depth",
        Err(ScanError::Values { .. }) => "values",
        Err(ScanError::Utf8 { .. }) => "utf8",
        Err(ScanError::Marker { .. }) => "marker",
        Err(ScanError::Trailing { .. }) => "trailing",
    }
}

/// A payload that is random, or a value's with a few bytes changed, cut, or nested too deeply.
fn damaged(random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => (0..random.below(40)).map(|_| random.next() as u8).collect(),
        1 => {
            let levels = 60 + random.below(10) as usize;
            let mut bytes = vec![0x91; levels];
            bytes.push(0xc0);
            bytes
        }
        _ => {
            let mut bytes = rmp_serde::to_vec(&random.value(3)).unwrap();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            if random.below(3) == 0 {
                let kept = random.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(kept);
            }
            bytes
        }
    }
}

/// One vector a line: values, then payloads with the scan's verdict.
fn vectors(seed: u64, count: usize) -> String {
    let mut random = Random(seed);
    let mut lines = String::new();
    for _ in 0..count {
        let value = random.value(3);
        let bytes = rmp_serde::to_vec(&value).unwrap();
        lines += &json!({"hex": hex(&bytes), "value": tagged(&value)}).to_string();
        lines.push('\n');
    }
    for _ in 0..count {
        let bytes = damaged(&mut random);
        lines += &json!({"hex": hex(&bytes), "verdict": verdict(&bytes)}).to_string();
        lines.push('\n');
    }
    lines
}

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python")
}

/// `python3` with the package on its path; none, and said so, where there is no python3.
fn python() -> Option<Command> {
    let found = Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no python3 here; `cargo xtask test` installs it");
        return None;
    }
    let mut python = Command::new("python3");
    python
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", package().join("src"))
        .current_dir(package());
    Some(python)
}

/// Runs `tests/vectors.py` over `lines` and gives what it printed.
fn checked(mode: &str, lines: &str) -> Option<String> {
    let mut child = python()?
        .arg("tests/vectors.py")
        .arg(mode)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines = lines.to_string();
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    writing.join().unwrap().unwrap();
    Some(printed)
}

/// A seed that differs from run to run, printed so that a failure can be had again.
fn seed() -> u64 {
    let given = std::env::var("KAIRO_SEED").ok();
    let seed = given.map_or_else(
        || u64::from(std::process::id()) << 20 | 4711,
        |text| text.parse().expect("KAIRO_SEED is a number"),
    );
    println!("KAIRO_SEED={seed}");
    seed
}

#[test]
fn the_checked_in_vectors_are_what_this_codec_makes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(VECTORS);
    let made = vectors(1, CHECKED_IN);
    if std::env::var_os("KAIRO_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    // Not as texts: the order of keys is not what is agreed on.
    let parsed = |lines: &str| -> Vec<serde_json::Value> {
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    assert!(
        parsed(&kept) == parsed(&made),
        "{} differs; after a wanted change run once with KAIRO_BLESS=1",
        path.display()
    );
}

#[test]
fn ten_thousand_values_and_damaged_payloads_mean_the_same_to_python() {
    let lines = vectors(seed(), LIVE);
    if let Some(printed) = checked("check", &lines) {
        assert_eq!(printed.trim(), format!("{} checked", 2 * LIVE));
    }
}

#[test]
fn ten_thousand_values_that_python_encodes_mean_the_same_here() {
    let Some(printed) = checked("make", &format!("{} {LIVE}\n", seed())) else {
        return;
    };
    let mut seen = 0;
    for line in printed.lines() {
        let vector: serde_json::Value = serde_json::from_str(line).unwrap();
        let digits = vector["hex"].as_str().unwrap().as_bytes();
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        scan::check(&bytes, MAX_DEPTH, 65_536).unwrap();
        let value: Value = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(tagged(&value), vector["value"], "{line}");
        assert_eq!(rmp_serde::to_vec(&value).unwrap(), bytes, "{line}");
        seen += 1;
    }
    assert_eq!(seen, LIVE);
}

#[test]
fn the_packages_own_tests_pass() {
    let Some(mut python) = python() else { return };
    let output = python
        .args([
            "-X", "dev", "-m", "unittest", "discover", "-s", "tests", "-v",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ran = said.lines().filter(|line| line.ends_with("ok")).count();
    assert!(ran > 20, "only {ran} tests ran:\n{said}");
}
