//! W3C trace context, level 1: the `traceparent` that travels with a request.
//!
//! Parsing allocates nothing and accepts what the recommendation accepts: version 00 exactly, later
//! versions by their first four fields, lower-case hexadecimal only, no identifier of zeros. What
//! is invalid is ignored by whoever gets it, and a new trace begins; that is for the caller to do.
//! `tracestate` is not carried: nothing here has a vendor's state to keep.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// Length of a `traceparent` of version 00, bytes.
pub const TRACEPARENT_BYTES: usize = 55;
/// The flag that says: whoever sent this records the trace.
const SAMPLED: u8 = 1;
/// The flags that are passed on: sampled, and level 2's "the trace id is random".
const KNOWN_FLAGS: u8 = 0b11;

/// A trace: everything that one cause led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

/// A span: one thing that was done in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl TraceId {
    /// The trace with this name; none unless it is 32 lower-case hexadecimal digits, not all zero.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
        NonZeroU128::new(hexadecimal(digits)?).map(Self)
    }
}

/// Where in which trace something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that caused it.
    pub span_id: SpanId,
    flags: u8,
}

impl Context {
    /// The context that a `traceparent` gives; none when it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let fields: &[u8; TRACEPARENT_BYTES] = bytes.first_chunk()?;
        let version = hexadecimal(fields.get(..2)?)?;
        let ends_well = match version {
            0 => bytes.len() == TRACEPARENT_BYTES,
            0xff => false,
            _ => matches!(bytes.get(TRACEPARENT_BYTES), None | Some(b'-')),
        };
        let separated = [2, 35, 52].iter().all(|at| fields.get(*at) == Some(&b'-'));
        if !ends_well || !separated {
            return None;
        }
        let trace_id = NonZeroU128::new(hexadecimal(fields.get(3..35)?)?)?;
        let span_id = u64::try_from(hexadecimal(fields.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hexadecimal(fields.get(53..55)?)?).ok()?;
        Some(Self {
            trace_id: TraceId(trace_id),
            span_id: SpanId(NonZeroU64::new(span_id)?),
            flags: flags & KNOWN_FLAGS,
        })
    }

    /// The first context of a new, sampled trace; none when the kernel gives no random numbers.
    pub fn begin() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self {
            trace_id: TraceId(NonZeroU128::new(u128::from_ne_bytes(bytes))?),
            span_id: new_span_id()?,
            flags: SAMPLED,
        })
    }

    /// A new span in the same trace; none when the kernel gives no random numbers.
    pub fn child(&self) -> Option<Self> {
        Some(Self {
            span_id: new_span_id()?,
            ..*self
        })
    }

    /// The same, with the word to whoever comes next that it is not recorded here.
    #[must_use]
    pub const fn unsampled(self) -> Self {
        Self {
            flags: self.flags & !SAMPLED,
            ..self
        }
    }

    /// Whether the trace is to be recorded.
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for Context {
    /// The `traceparent`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(formatter, "00-{trace_id}-{span_id}-{flags:02x}")
    }
}

fn new_span_id() -> Option<SpanId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    NonZeroU64::new(u64::from_ne_bytes(bytes)).map(SpanId)
}

/// The number that lower-case hexadecimal digits, at most 32 of them, stand for.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_traceparent_is_read_and_written_alike() {
        let context = Context::parse(GOOD).unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert!(context.is_sampled());
        let unsampled = Context::parse(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!unsampled.is_sampled());
        let child = context.child().unwrap();
        assert_eq!(child.trace_id, context.trace_id);
        assert_ne!(child.span_id, context.span_id);
        assert!(child.is_sampled());
    }

    #[test]
    fn what_the_recommendation_calls_invalid_is_none() {
        let zeros = "0".repeat(32);
        for wrong in [
            "",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}x"),
            &GOOD.replace("00-0a", "ff-0a"),
            &GOOD.replace("00-0a", "0g-0a"),
            &GOOD.to_uppercase(),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &GOOD.replace("b7ad6b7169203331", &zeros[..16]),
            &GOOD.replace("-01", "-0x"),
            &GOOD.replace("-b7", "_b7"),
            &GOOD.replace("319c", "31é"),
        ] {
            assert_eq!(Context::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_later_version_is_read_by_its_first_fields() {
        let later = GOOD.replace("00-0a", "01-0a");
        for text in [later.clone(), format!("{later}-what-comes-then")] {
            assert_eq!(Context::parse(&text).unwrap().to_string(), GOOD);
        }
        assert_eq!(Context::parse(&format!("{later}.")), None);
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let context = Context::parse(&GOOD.replace("-01", "-ff")).unwrap();
        assert!(context.to_string().ends_with("-03"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,80}") {
            if let Some(context) = Context::parse(&text) {
                prop_assert_eq!(Context::parse(&context.to_string()), Some(context));
            }
        }
    }
}
