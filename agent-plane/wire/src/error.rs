//! The stable error codes of the protocol, and what travels beside them.
//!
//! Programs decide by [`ErrorCode`] and, where one code has several causes, by
//! `details["reason"]`; both are part of the protocol's contract. `message` is for people and may
//! change.

use rmpv::Value;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text that may serve as a request id.
pub const MAX_ID_BYTES: usize = 128;

/// Declares the codes once: variant, wire name, and whether a retry can help by default.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What went wrong, as a stable name.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant,)+
            /// A code that this version of the crate does not know, from a newer peer.
            Unrecognized(String),
        }

        impl ErrorCode {
            /// Every code this version knows.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)+];

            /// The name on the wire.
            pub fn name(&self) -> &str {
                match self { $(Self::$variant => $name,)+ Self::Unrecognized(name) => name }
            }

            /// What it means, for people.
            pub fn meaning(&self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                    Self::Unrecognized(_) => "A code of a later version.",
                }
            }

            /// The code of that name.
            pub fn from_name(name: &str) -> Self {
                match name { $($name => Self::$variant,)+ _ => Self::Unrecognized(name.into()) }
            }
        }
    };
}

codes! {
    /// The message is not a request of this protocol.
    InvalidRequest = "E_INVALID_REQUEST",
    /// A parameter is missing, unknown, or of the wrong type or shape.
    InvalidParams = "E_INVALID_PARAMS",
    /// The thing named does not exist.
    NotFound = "E_NOT_FOUND",
    /// The caller may not do this.
    PermissionDenied = "E_PERMISSION_DENIED",
    /// Somebody else has it; `details.holder` says who.
    Busy = "E_BUSY",
    /// Not done in time. Whether it will still happen is said by the message.
    Timeout = "E_TIMEOUT",
    /// A value or an amount is outside what is allowed.
    Limit = "E_LIMIT",
    /// Known, and not offered here.
    Unsupported = "E_UNSUPPORTED",
    /// Withdrawn by the caller or by a shutdown.
    Canceled = "E_CANCELED",
    /// The state has moved on, or forbids it.
    Conflict = "E_CONFLICT",
    /// Something it needs is away: the real-time plane, the bus.
    Unavailable = "E_UNAVAILABLE",
    /// A bug of the system, not of the caller.
    Internal = "E_INTERNAL",
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self::from_name(&name))
    }
}

/// An error as it travels in a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ErrorInfo {
    /// The stable code.
    pub code: ErrorCode,
    /// What failed, the value, the likely cause, what to do. For people.
    pub message: String,
    /// Facts for programs; a map, empty if there is nothing to say.
    #[serde(default = "empty_map")]
    pub details: Value,
    /// Whether the same request can succeed later without anything being changed.
    #[serde(default)]
    pub retryable: bool,
    /// When to try again, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

fn empty_map() -> Value {
    Value::Map(Vec::new())
}

impl ErrorInfo {
    /// An error without details that a retry does not help.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: empty_map(),
            retryable: false,
            retry_after_ms: None,
        }
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Value::Map(entries) = &mut self.details {
            entries.push((key.into(), value.into()));
        }
        self
    }

    /// Adds the stable cause within the code: `details["reason"]`.
    #[must_use]
    pub fn reason(self, reason: &str) -> Self {
        self.with("reason", reason)
    }

    /// Marks it as worth retrying, after so many milliseconds if that is known.
    #[must_use]
    pub fn retry(mut self, after_ms: Option<u64>) -> Self {
        self.retryable = true;
        self.retry_after_ms = after_ms;
        self
    }

    /// The fact of that name in the details.
    pub fn detail(&self, key: &str) -> Option<&Value> {
        let entries = self.details.as_map()?;
        entries
            .iter()
            .find(|(name, _)| name.as_str() == Some(key))
            .map(|(_, value)| value)
    }

    /// `details["reason"]`, or an empty text.
    pub fn reason_name(&self) -> &str {
        self.detail("reason")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_keeps_its_name_both_ways() {
        for code in ErrorCode::ALL {
            assert!(code.name().starts_with("E_"));
            assert_eq!(&ErrorCode::from_name(code.name()), code);
        }
        let newer = ErrorCode::from_name("E_FROM_THE_FUTURE");
        assert_eq!(newer.name(), "E_FROM_THE_FUTURE");
    }

    #[test]
    fn details_and_retry_survive_the_trip() {
        let error = ErrorInfo::new(ErrorCode::Limit, "too far")
            .reason("position_limit")
            .with("max_rad", 1.5)
            .retry(Some(20));
        let bytes = rmp_serde::to_vec_named(&error).unwrap();
        let back: ErrorInfo = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(back, error);
        assert_eq!(back.reason_name(), "position_limit");
        assert_eq!(back.to_string(), "too far (E_LIMIT)");
    }
}
