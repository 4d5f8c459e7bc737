//! A service that serves streams, in a thread of its own.

use std::thread::JoinHandle;

use kairo_wire::{Client, Service};
use serde_json::json;

use super::{PATIENCE, System};

/// The registration of `camera.frames`, `camera.secret`, `camera.one` and `camera.echo`.
pub fn registration() -> serde_json::Value {
    let method = |name: &str, stream: bool, permission: &str| {
        json!({
            "name": name, "summary": "Serves.", "permission": permission, "stream": stream,
            "params": {"type": "object", "additionalProperties": false,
                       "properties": {"count": {"type": "integer"}}},
            "result": {"type": "object"},
        })
    };
    let echo = json!({
        "name": "echo", "summary": "Gives back.", "permission": "observe",
        "params": {"type": "object"}, "result": {"type": "object"},
    });
    let methods = json!([
        method("frames", true, "observe"),
        method("secret", true, "actuate"),
        method("one", false, "observe"),
        echo,
    ]);
    json!({"namespace": "camera", "timeout_ms": 10_000, "methods": methods})
}

/// A connection that has registered `camera`, with these features.
pub fn register(system: &System, features: &[&str]) -> Service {
    let mut client: Client = system.confined("service", "camera");
    let granted = client.negotiate(features, PATIENCE).unwrap();
    assert_eq!(granted.len(), features.len());
    Service::register(client, registration(), PATIENCE).unwrap()
}

/// Runs `serve` with a registered service.
pub fn start<T: Send + 'static>(
    system: &System,
    features: &[&str],
    serve: impl FnOnce(Service) -> T + Send + 'static,
) -> JoinHandle<T> {
    let service = register(system, features);
    std::thread::spawn(move || serve(service))
}
