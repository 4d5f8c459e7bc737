//! Topic names, their aliases, and the patterns that subscribers give.
//!
//! A topic is segments joined by dots. In a pattern `*` stands for one segment and `>`, at the
//! end, for one or more. The canonical form is `kairo.system.<module>.<action>`; the short form
//! `kairo.<module>.<action>` is an alias of the same event.

pub use kairo_events::Pattern;

/// Most patterns in one subscription: bounds the work that an event costs a subscriber.
pub const MAX_PATTERNS: usize = 32;

/// The other names of `topic`.
pub fn aliases(topic: &str) -> Vec<String> {
    match topic.strip_prefix("kairo.system.") {
        Some(rest) if rest.contains('.') => vec![format!("kairo.{rest}")],
        _ => Vec::new(),
    }
}

/// The canonical name of a topic that may be given by its short name.
pub fn canonical(topic: &str) -> String {
    match topic.strip_prefix("kairo.") {
        Some(rest) if !rest.starts_with("system.") => format!("kairo.system.{rest}"),
        _ => topic.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_topics_have_the_short_name_as_alias() {
        assert_eq!(aliases("kairo.system.device.added"), ["kairo.device.added"]);
        assert!(aliases("kairo.system.ready").is_empty());
        for topic in crate::facts::TOPICS {
            for alias in aliases(topic.name) {
                assert_eq!(canonical(&alias), topic.name);
            }
            assert_eq!(canonical(topic.name), topic.name);
        }
        assert_eq!(canonical("app.x"), "app.x");
    }
}
