//! Why something is refused: the one table of reasons, and the errors made from it.
//!
//! A row of [`table`] says everything about a reason: its code, its name in `details.reason`, what
//! else `details` holds, whether the same request can succeed later, and what to do. An error of
//! kairod is made from a row and from nothing else ([`Reason::error`]; a test reads the sources),
//! `kernel.introspect` prints the rows, and the reference and the conformance suite are held
//! against them. What a service answers to its callers is the service's own.

mod table;

use kairo_wire::{ErrorCode, ErrorInfo, Value};
use serde::Serialize;

pub use table::{ROWS, Reason};

/// A row of the table, without what one error says.
#[derive(Debug)]
pub struct Row {
    /// The stable code.
    pub code: ErrorCode,
    /// `details.reason`; unique within its code.
    pub name: &'static str,
    /// What it means, one sentence.
    pub meaning: &'static str,
    /// Whether the same request can succeed later without anything being changed.
    pub retryable: bool,
    /// What to do, one sentence.
    pub remedy: &'static str,
    /// Makes the JSON Schema of what `details` holds beside `reason`.
    details: fn() -> schemars::Schema,
}

impl Row {
    /// JSON Schema of the whole `details`.
    pub fn details_schema(&self) -> serde_json::Value {
        let mut schema: serde_json::Value = (self.details)().into();
        let reason = serde_json::json!({"type": "string", "const": self.name});
        schema["properties"]["reason"] = reason;
        let mut required = vec![serde_json::Value::from("reason")];
        if let Some(others) = schema["required"].as_array() {
            required.extend(others.iter().cloned());
        }
        schema["required"] = required.into();
        // What no row names is not there.
        schema["additionalProperties"] = false.into();
        schema
    }
}

impl Reason {
    /// A parameter makes no sense, and there is no more to say to a program.
    pub const fn invalid() -> Self {
        Self::InvalidValue {
            method: None,
            part: None,
        }
    }

    /// The error, with a text for people: what failed, the value, the likely cause, what to do.
    pub fn error(&self, text: impl Into<String>) -> ErrorInfo {
        let row = self.row();
        ErrorInfo {
            code: row.code.clone(),
            message: text.into(),
            details: Value::Map(self.details()),
            retryable: row.retryable,
            retry_after_ms: None,
        }
    }

    /// The error, and after how many milliseconds to try again.
    pub fn error_retried(&self, text: impl Into<String>, after_ms: u64) -> ErrorInfo {
        let mut error = self.error(text);
        debug_assert!(error.retryable, "{self:?} is not worth a retry");
        error.retry_after_ms = Some(after_ms);
        error
    }
}

/// An amount in `details`: whole where the parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A whole one.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(whole) => whole.fmt(formatter),
            Self::Real(real) => real.fmt(formatter),
        }
    }
}

/// Adds a fact to `details`; one that is absent is left out.
fn add<T: Serialize>(details: &mut Vec<(Value, Value)>, key: &str, fact: &T) {
    let bytes = rmp_serde::to_vec_named(fact).unwrap_or_default();
    match rmpv::decode::read_value(&mut bytes.as_slice()) {
        Ok(Value::Nil) | Err(_) => {}
        Ok(value) => details.push((key.into(), value)),
    }
}

/// Declares the reasons once: the variant, what `details` holds, and the row.
macro_rules! reasons {
    ($(
        $(#[doc = $meaning:literal])+
        $variant:ident $({ $($(#[doc = $about:literal])* $field:ident: $kind:ty),+ $(,)? })?
            = $code:ident $name:literal, $retry:ident, $remedy:literal;
    )+) => {
        /// Why something is refused, with the facts of the one refusal.
        #[derive(Clone, Debug)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $variant $({ $($(#[doc = $about])* $field: $kind),+ })?,)+
        }

        /// Every row, by code and name in the order of the table.
        pub static ROWS: &[$crate::reasons::Row] = &[$(
            $crate::reasons::Row {
                code: kairo_wire::ErrorCode::$code,
                name: $name,
                meaning: concat!($($meaning),+).trim_ascii(),
                retryable: $crate::reasons::retryable!($retry),
                remedy: $remedy,
                details: {
                    #[derive(serde::Serialize, schemars::JsonSchema)]
                    #[schemars(rename = $name)]
                    struct Details { $($($(#[doc = $about])* $field: $kind,)+)? }
                    || schemars::schema_for!(Details)
                },
            },
        )+];

        #[derive(Clone, Copy)]
        enum Place { $($variant,)+ }

        impl Reason {
            /// Its row.
            pub fn row(&self) -> &'static $crate::reasons::Row {
                let place = match self { $(Self::$variant { .. } => Place::$variant,)+ };
                &ROWS[place as usize]
            }

            /// What `details` holds.
            pub(super) fn details(&self) -> Vec<(kairo_wire::Value, kairo_wire::Value)> {
                match self {$(
                    Self::$variant { $($($field),+)? } => {
                        #[allow(unused_mut)]
                        let mut details = vec![("reason".into(), $name.into())];
                        $($($crate::reasons::add(&mut details, stringify!($field), $field);)+)?
                        details
                    }
                )+}
            }
        }
    };
}
use reasons;

/// Whether the same request can succeed later.
macro_rules! retryable {
    (never) => {
        false
    };
    (later) => {
        true
    };
}
use retryable;

#[cfg(test)]
mod tests;
