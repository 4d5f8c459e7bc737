//! What the table promises of itself, and that nothing is refused past it.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn every_row_is_named_once_within_its_code_and_ends_the_search() {
    let mut seen = BTreeSet::new();
    for row in ROWS {
        assert!(seen.insert((row.code.name(), row.name)), "{}", row.name);
        for sentence in [row.meaning, row.remedy] {
            assert!(sentence.ends_with('.'), "{}: {sentence}", row.name);
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(row.name.bytes().all(plain), "{}", row.name);
    }
    for code in ErrorCode::ALL {
        assert!(ROWS.iter().any(|row| row.code == *code), "{code}");
    }
}

#[test]
fn an_error_is_what_its_row_says() {
    let reason = Reason::StaleEpoch {
        device: "arm".into(),
        epoch: 7,
        epoch_in_force: None,
        cause: Some("released".into()),
    };
    let error = reason.error("epoch 7 is stale");
    assert_eq!(error.code, ErrorCode::Conflict);
    assert_eq!(error.reason_name(), "stale_epoch");
    assert!(!error.retryable);
    assert!(error.detail("epoch_in_force").is_none());
    assert_eq!(error.detail("epoch").and_then(Value::as_u64), Some(7));
    let schema = reason.row().details_schema();
    assert_eq!(
        schema["required"],
        serde_json::json!(["reason", "device", "epoch"])
    );
    assert_eq!(schema["properties"]["reason"]["const"], "stale_epoch");
    assert!(Reason::RtAway.error_retried("away", 500).retryable);
}

/// The files under `directory`.
fn sources(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_error_is_made_past_the_table() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&own) {
        if path.starts_with(own.join("reasons")) || path == own.join("reasons.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (index, line) in text.lines().enumerate() {
            for past in ["ErrorInfo::new(", "ErrorInfo {", ".reason(\""] {
                let place = format!("{}:{}", path.display(), index + 1);
                let declares = line.contains("struct") || line.contains("->");
                assert!(
                    !line.contains(past) || declares,
                    "{place}: `{past}`: add a row to reasons/table.rs and make the error from it"
                );
            }
        }
    }
}
