//! `kernel.traces`: the spans that kairod keeps, in pages.

use kairo_observe::context::TraceId;
use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::reasons::Reason;
use crate::router::{Call, Method, Permission};
use crate::spans::page::Page;

/// Spans in a page, if the caller does not say, and at most.
const USUAL_LIMIT: usize = 200;
const MAX_LIMIT: usize = 1000;

pub fn methods() -> Vec<Method> {
    vec![Method::new(
        "kernel.traces",
        Permission::Admin,
        "Reads the spans that are kept in memory: what was done for whom, in which trace.",
        async |call, params| traces(&call, &params),
    )]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TracesParams {
    /// Only spans behind this number: `next` of the page before. From the oldest if absent.
    #[serde(default)]
    after: u64,
    /// Only this trace: 32 lower-case hexadecimal digits.
    trace_id: Option<String>,
    /// Most spans in the page: 200 if absent, at most 1000.
    limit: Option<usize>,
}

fn traces(call: &Call, params: &TracesParams) -> Result<Page, ErrorInfo> {
    let wrong = |text: String| Err(Reason::invalid().error(text));
    let trace = match params.trace_id.as_deref().map(TraceId::parse) {
        None => None,
        Some(Some(trace)) => Some(trace),
        Some(None) => {
            return wrong("`trace_id` must be 32 lower-case hexadecimal digits, not all 0".into());
        }
    };
    let limit = params.limit.unwrap_or(USUAL_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return wrong(format!("`limit` is {limit}, allowed is 1 to {MAX_LIMIT}"));
    }
    Ok(call.daemon.tracer.page(params.after, trace, limit))
}
