//! A scripted kernel: for what a real one would never send, or only by chance.
//!
//! It serves one connection: reads the requests that the script expects, sends what it says, and at
//! the end reads on until the client goes. `kernel.hello`, which a client may send or not, is
//! answered beside the script.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use kairo_wire::frame::{FrameKind, HEADER_BYTES, header};
use kairo_wire::message::Message;
use kairo_wire::{Decoder, Limits, Request, Value as Wire};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pattern::{Bindings, matches};
use crate::support::PATIENCE;
use crate::wire_json::{from_hex, shown, wire};

/// A running peer.
pub struct Peer {
    directory: TempDir,
    ended: Receiver<Result<(), String>>,
}

impl Peer {
    /// Listens, and plays `script` to whoever connects first.
    pub fn start(script: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("kernel.sock")).unwrap();
        let (tell, ended) = channel();
        let script = script.to_vec();
        std::thread::spawn(move || {
            let played = listener
                .accept()
                .map_err(|error| error.to_string())
                .and_then(|(stream, _)| Play::new(stream).script(&script));
            // Nobody listens when the case has failed already.
            let _ = tell.send(played);
        });
        Self { directory, ended }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        Path::new(self.directory.path()).join("kernel.sock")
    }

    /// Waits for the end of the script, once the client has gone.
    pub fn finish(self) -> Result<(), String> {
        let ended = self.ended.recv_timeout(PATIENCE);
        ended.map_err(|_| "the peer's script did not end".to_string())?
    }
}

struct Play {
    stream: UnixStream,
    decoder: Decoder,
    ids: Vec<Wire>,
}

impl Play {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            decoder: Decoder::default(),
            ids: Vec::new(),
        }
    }

    fn script(&mut self, script: &[Value]) -> Result<(), String> {
        for act in script {
            for wanted in act["expect"].as_array().into_iter().flatten() {
                let cancels = wanted["method"] == "kernel.cancel";
                let request = self.request(cancels)?;
                let request = request.ok_or("the client went before the script's end")?;
                matches(wanted, &request, &mut Bindings::new())
                    .map_err(|why| format!("the request that came: {why}"))?;
            }
            for frame in act["send"].as_array().into_iter().flatten() {
                let bytes = bytes(frame, &self.ids);
                // A client may rightly close in the middle of what is wrong with it.
                let _ = self.stream.write_all(&bytes);
            }
            if act["close"] == true {
                return Ok(());
            }
        }
        while self.request(false)?.is_some() {}
        Ok(())
    }

    /// The next request as JSON, its id kept; none at the end. A client may tell that it gave a
    /// call up; that is passed over unless `cancels`.
    fn request(&mut self, cancels: bool) -> Result<Option<Value>, String> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let next = self
                .decoder
                .next_frame()
                .map_err(|error| error.to_string())?;
            if let Some(frame) = next {
                let request = Request::<Wire>::decode(&frame.payload, &Limits::default())
                    .map_err(|error| error.to_string())?;
                let id = Wire::Map(vec![]);
                let whole: Wire = rmp_serde::from_slice(&frame.payload).unwrap();
                let found = whole.as_map().and_then(|entries| {
                    let id = entries.iter().find(|(key, _)| key.as_str() == Some("id"));
                    id.map(|(_, id)| id.clone())
                });
                if request.method == "kernel.hello" {
                    self.hello(&found.unwrap_or(id));
                    continue;
                }
                if request.method == "kernel.cancel" && !cancels {
                    continue;
                }
                self.ids.push(found.unwrap_or(id));
                return Ok(Some(shown(&whole)));
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.feed(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(format!("the client says nothing: {error}")),
            }
        }
    }

    fn hello(&mut self, id: &Wire) {
        let result = json!({"features": ["cancel", "credit"]});
        let answer = json!({"response": {"id": {"$id": 0}, "result": result}});
        let _ = self
            .stream
            .write_all(&bytes(&answer, std::slice::from_ref(id)));
    }
}

/// The bytes of a frame as a script writes it.
pub fn bytes(frame: &Value, ids: &[Wire]) -> Vec<u8> {
    if let Some(hex) = frame["hex"].as_str() {
        return from_hex(hex);
    }
    let kinds = [
        ("request", FrameKind::Request),
        ("response", FrameKind::Response),
        ("event", FrameKind::Event),
        ("chunk", FrameKind::StreamChunk),
    ];
    let (name, kind) = kinds
        .into_iter()
        .find(|(name, _)| frame.get(name).is_some())
        .unwrap_or_else(|| panic!("no frame is {frame}"));
    let payload = match frame[name].get("$payload").and_then(Value::as_str) {
        Some(hex) => from_hex(hex),
        None => rmp_serde::to_vec(&wire(&frame[name], ids)).unwrap(),
    };
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&header(kind, length));
    bytes.extend_from_slice(&payload);
    bytes
}
