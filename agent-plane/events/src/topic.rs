//! Topics and the patterns that mean them.
//!
//! A topic is segments joined by dots. In a pattern `*` stands for one segment and `>`, at the
//! end, for one or more. Matching allocates nothing; its work is bounded by the topic's length.

/// Longest topic or pattern, bytes.
pub const MAX_TOPIC_BYTES: usize = 128;

/// A checked pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<String>,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty, or too long.
    #[error("a topic pattern has 1 to {MAX_TOPIC_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// A segment is empty or has other characters.
    #[error(
        "{0:?} in a topic pattern: a segment is `*`, `>` at the end, or letters, digits, `_`, `-`"
    )]
    Segment(String),
}

fn is_name(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !segment.is_empty() && segment.bytes().all(plain)
}

/// Whether `text` is a topic: no wildcards.
pub fn is_topic(text: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&text.len()) && text.split('.').all(is_name)
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > MAX_TOPIC_BYTES {
            return Err(PatternError::Length(text.len()));
        }
        let segments: Vec<String> = text.split('.').map(str::to_string).collect();
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            if !(is_name(segment) || segment == "*" || (segment == ">" && last)) {
                return Err(PatternError::Segment(segment.clone()));
            }
        }
        Ok(Self { segments })
    }

    /// Whether `topic` is meant.
    pub fn matches(&self, topic: &str) -> bool {
        let mut parts = topic.split('.');
        for segment in &self.segments {
            let part = parts.next();
            match (segment.as_str(), part) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (name, Some(part)) if name == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// Whether a topic or one of its other names is meant by one of `patterns`.
    pub fn any_matches(patterns: &[Self], topic: &str, aliases: &[String]) -> bool {
        let mut names = std::iter::once(topic).chain(aliases.iter().map(String::as_str));
        names.any(|name| patterns.iter().any(|pattern| pattern.matches(name)))
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.segments.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(topic)
    }

    #[test]
    fn a_star_is_one_segment_and_a_tail_is_one_or_more() {
        assert!(matches("kairo.*.added", "kairo.device.added"));
        assert!(!matches("kairo.*", "kairo.device.added"));
        assert!(matches("kairo.>", "kairo.device.added"));
        assert!(!matches("kairo.>", "kairo"));
        assert!(matches(">", "kairo"));
        assert!(!matches("kairo.device", "kairo.device.added"));
        assert!(!matches("kairo.device.added.x", "kairo.device.added"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a..b", "a.>.b", "a b", "a.**", &"x".repeat(129)] {
            assert!(Pattern::parse(text).is_err(), "{text}");
            assert!(!is_topic(text), "{text}");
        }
        assert!(is_topic("a.b-c.d_e") && !is_topic("a.*") && !is_topic("a.>"));
    }

    #[test]
    fn a_pattern_is_written_as_it_was_read() {
        for text in ["a.*.b", ">", "kairo.>"] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
    }
}
