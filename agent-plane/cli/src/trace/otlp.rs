//! Spans as OTLP has them in JSON (opentelemetry-proto, `ExportTraceServiceRequest`).
//!
//! The JSON mapping of OTLP departs from protobuf's in two places, and this follows it: trace and
//! span ids are hexadecimal, enumerations are numbers. 64-bit numbers are texts.

use serde_json::{Value, json};

use crate::terminal::{items, text};

/// What one request to a collector says of these spans.
pub fn request(spans: &[Value], host: &str) -> Value {
    // Each program is a resource of its own.
    let processes = ["kairod", "kairo-rt"];
    let resources: Vec<Value> = processes
        .iter()
        .filter_map(|process| {
            let own = spans.iter().filter(|span| span["process"] == *process);
            let own: Vec<Value> = own.map(one).collect();
            (!own.is_empty()).then(|| resource(process, host, &own))
        })
        .collect();
    json!({ "resourceSpans": resources })
}

fn resource(process: &str, host: &str, spans: &[Value]) -> Value {
    json!({
        "resource": {"attributes": [
            attribute("service.name", &process.into()),
            attribute("service.namespace", &"kairo".into()),
            attribute("host.name", &host.into()),
        ]},
        "scopeSpans": [{
            "scope": {"name": "kairo", "version": env!("CARGO_PKG_VERSION")},
            "spans": spans,
        }],
    })
}

fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(number) => json!({"intValue": number.to_string()}),
        other => json!({"stringValue": text(other)}),
    };
    json!({"key": name, "value": value})
}

fn one(span: &Value) -> Value {
    let start = span["start_unix_ns"].as_u64().unwrap_or(0);
    let end = start.saturating_add(span["duration_ns"].as_u64().unwrap_or(0));
    // SpanKind: 1 internal, 2 server, 3 client, 4 producer.
    let kind = match span["kind"].as_str() {
        Some("server") => 2,
        Some("client") => 3,
        Some("producer") => 4,
        _ => 1,
    };
    // StatusCode: 1 ok, 2 error.
    let outcome = text(&span["outcome"]);
    let status = match outcome.as_str() {
        "ok" => json!({"code": 1}),
        code => json!({"code": 2, "message": format!("{code} {}", text(&span["message"]))}),
    };
    let mut attributes: Vec<Value> = span["attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| attribute(&format!("kairo.{name}"), value))
        .collect();
    if kind == 2 {
        attributes.push(attribute("rpc.system", &"kairo".into()));
        attributes.push(attribute("rpc.method", &span["name"]));
    }
    let mut shown = json!({
        "traceId": span["trace_id"], "spanId": span["span_id"], "name": span["name"],
        "kind": kind, "startTimeUnixNano": start.to_string(), "endTimeUnixNano": end.to_string(),
        "attributes": attributes, "status": status,
    });
    if !span["parent_span_id"].is_null() {
        shown["parentSpanId"] = span["parent_span_id"].clone();
    }
    shown
}

/// Spans that a collector took the request of and refused all the same.
pub fn rejected(answer: &Value) -> u64 {
    let count = &answer["partialSuccess"]["rejectedSpans"];
    let as_text = count.as_str().and_then(|count| count.parse().ok());
    count.as_u64().or(as_text).unwrap_or(0)
}

/// The spans of a page.
pub fn of_page(page: &Value) -> Vec<Value> {
    items(&page["spans"]).to_vec()
}
