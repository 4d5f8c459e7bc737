//! One entry: who did what to what, why, and how it ended.
//!
//! Whatever a caller fills in, an entry that enters the log is bounded: texts are redacted first
//! and then cut, so that no half of a secret survives a cut. Any thread.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest texts an entry keeps, in bytes, without the mark of a cut.
pub mod limits {
    /// Names: class, method, target, codes, ids.
    pub const NAME_BYTES_MAX: usize = 256;
    /// Sentences: reasons and details.
    pub const TEXT_BYTES_MAX: usize = 2048;
}

/// Finds secrets in a text: the text to keep instead, or none to keep it as it is.
pub type Redactor = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// An entry of the audit log. Empty texts mean unknown or not applicable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What of the act this is.
    pub phase: Phase,
    /// Who acts, as the kernel knows it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub who: Who,
    /// The method or act, such as `device.claim`.
    pub act: String,
    /// What it is done to, such as a device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Anything else worth keeping, such as the parameters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// Why it was allowed, refused or done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub why: Why,
    /// Number of the attempt that this is the outcome of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// How it ended; none for an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What of an act an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is about to be done.
    Attempt,
    /// It is done, or failed.
    Outcome,
    /// It was refused before it began.
    Denied,
    /// Something worth knowing that nobody asked for.
    #[default]
    Note,
}

impl Phase {
    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Outcome => "outcome",
            Self::Denied => "denied",
            Self::Note => "note",
        }
    }
}

/// Who acts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// Identity class: operator, agent, skill, driver, service, kernel.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub class: String,
    /// Name within the class.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// User id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Name of the process or path of its program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// Number of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
}

/// Why something was allowed, refused or done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// A sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The rule or grant that decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// What it belongs to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation: String,
    /// What caused it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub causation: String,
}

/// How an act ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// As asked.
    Ok,
    /// Not done, or not wholly.
    Error {
        /// Stable code, such as `E_BUSY`.
        code: String,
        /// A sentence.
        reason: String,
    },
}

impl Entry {
    /// A note by the log itself.
    pub(crate) fn own_note(act: &str, reason: String) -> Self {
        Self {
            who: Who {
                class: "kernel".to_owned(),
                name: "audit".to_owned(),
                ..Who::default()
            },
            act: act.to_owned(),
            why: Why {
                reason,
                ..Why::default()
            },
            ..Self::default()
        }
    }

    /// The entry as the log keeps it: redacted, then cut.
    pub(crate) fn bounded(mut self, redactor: Option<&Redactor>) -> Self {
        let name = limits::NAME_BYTES_MAX;
        let text = limits::TEXT_BYTES_MAX;
        let outcome = match &mut self.outcome {
            Some(Outcome::Error { code, reason }) => [Some((code, name)), Some((reason, text))],
            Some(Outcome::Ok) | None => [None, None],
        };
        let fixed = [
            (&mut self.who.class, name),
            (&mut self.who.name, name),
            (&mut self.who.process, name),
            (&mut self.act, name),
            (&mut self.target, name),
            (&mut self.details, text),
            (&mut self.why.reason, text),
            (&mut self.why.rule, name),
            (&mut self.why.correlation, name),
            (&mut self.why.causation, name),
        ];
        for (value, bytes_max) in fixed.into_iter().chain(outcome.into_iter().flatten()) {
            if let Some(kept) = redactor.and_then(|redact| redact(value)) {
                *value = kept;
            }
            cut(value, bytes_max);
        }
        self
    }
}

/// Cuts a text at a character and says so.
fn cut(text: &mut String, bytes_max: usize) {
    if text.len() <= bytes_max {
        return;
    }
    let whole = text.len();
    let kept = text.floor_char_boundary(bytes_max);
    text.truncate(kept);
    text.push_str(&format!(" [cut: {kept} of {whole} bytes]"));
    text.shrink_to_fit();
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_at_the_cut_leaves_no_half_of_itself() {
        let secret = "sk-0123456789";
        let redactor: Redactor = Arc::new(|text| {
            text.contains("sk-0123456789")
                .then(|| text.replace("sk-0123456789", "[secret]"))
        });
        for before in limits::TEXT_BYTES_MAX - secret.len()..=limits::TEXT_BYTES_MAX {
            let entry = Entry {
                details: format!("{}{secret}", "x".repeat(before)),
                ..Entry::default()
            };
            let kept = entry.bounded(Some(&redactor)).details;
            assert!(!kept.contains("sk-"), "{kept}");
        }
    }

    #[test]
    fn a_huge_text_is_cut_between_characters_and_says_so() {
        let entry = Entry {
            act: "ä".repeat(1 << 20),
            outcome: Some(Outcome::Error {
                code: "E".repeat(1000),
                reason: "é".repeat(5001),
            }),
            ..Entry::default()
        };
        let kept = entry.bounded(None);
        assert!(
            kept.act.ends_with("ä [cut: 256 of 2097152 bytes]"),
            "{}",
            kept.act
        );
        let Some(Outcome::Error { code, reason }) = kept.outcome else {
            panic!("{kept:?}");
        };
        assert!(code.len() < 300 && reason.ends_with(" [cut: 2048 of 10002 bytes]"));
    }
}
