//! Patterns mean the same to the matcher and to the plainest description of them.

use kairo_events::Pattern;
use kairo_events::topic::{MAX_TOPIC_BYTES, is_topic};

/// Reads a line as a pattern and the rest as a topic.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (pattern, topic) = text.split_once('\n').unwrap_or((text, text));
    let parsed = Pattern::parse(pattern);
    if is_topic(pattern) {
        assert!(parsed.is_ok(), "{pattern:?} is a topic and no pattern");
    }
    let Ok(parsed) = parsed else { return };
    assert!(pattern.len() <= MAX_TOPIC_BYTES);
    assert_eq!(parsed.to_string(), pattern);
    let wanted: Vec<&str> = pattern.split('.').collect();
    let found: Vec<&str> = topic.split('.').collect();
    assert_eq!(
        parsed.matches(topic),
        means(&wanted, &found),
        "{pattern:?} and {topic:?}"
    );
}

/// Whether `wanted` means `found`, segment by segment.
fn means(wanted: &[&str], found: &[&str]) -> bool {
    match (wanted, found) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        (["*", wanted @ ..], [_, found @ ..]) => means(wanted, found),
        ([one, wanted @ ..], [other, found @ ..]) => one == other && means(wanted, found),
        _ => false,
    }
}
