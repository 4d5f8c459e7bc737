//! Logs of every released format verify, open, and go on in this version.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kairo_audit::{Body, Entry, Log, Options, VerifyOptions, read, verify};

/// Written by `examples/fixture.rs` when the format was released.
const RELEASED: &[&str] = &["v1"];

/// Copies a log with the modes that it had: the repository keeps none.
fn copy(from: &Path, to: &Path) {
    let private = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(to).unwrap();
    private(to, 0o700);
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            private(&target, 0o600);
        }
    }
}

fn targets(path: &Path) -> Vec<String> {
    let page = read(path, 0, usize::MAX).unwrap();
    let entries = page
        .records
        .into_iter()
        .filter_map(|record| match record.record {
            Body::Entry(entry) if !entry.target.is_empty() => Some(entry.target),
            _ => None,
        });
    entries.collect()
}

#[test]
fn a_log_of_every_released_format_verifies_and_goes_on() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for version in RELEASED {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("audit");
        copy(&fixtures.join(version), &path);
        let intact = |what: &str| {
            let report = verify(&path, &VerifyOptions::default()).unwrap();
            assert!(
                report.is_intact(),
                "{version} {what}: {:?}",
                report.findings
            );
        };
        intact("as it was released");
        let expected = ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"];
        assert_eq!(targets(&path), expected.map(|name| format!("arm-{name}")));
        let (log, report) = Log::open(&path, Options::default()).unwrap();
        assert!(!report.is_new && report.quarantined.is_none(), "{report:?}");
        let entry = Entry {
            act: "permission.revoke".to_owned(),
            target: "arm-later".to_owned(),
            ..Entry::default()
        };
        log.append_and_wait(entry).unwrap();
        drop(log);
        intact("with more behind it");
        assert_eq!(targets(&path).len(), 7);
    }
}
