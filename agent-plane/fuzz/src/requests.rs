//! Any parameters, to every method, from every class, over a real connection: one answer each, and
//! never that kairod itself is at fault.
//!
//! The daemon runs in this process, without a real-time plane and without a state directory, so
//! that one input takes less than a millisecond.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use kairo_wire::frame::header;
use kairo_wire::message::Message;
use kairo_wire::{Decoder, ErrorCode, FrameKind, Limits, Response};
use kairod::{Daemon, Policy, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

/// The classes; an operator's connection that asked for nothing is the first.
const CLASSES: [&str; 5] = ["operator", "agent", "skill", "driver", "service"];
/// Inputs after which a new daemon begins: what it keeps is bounded, and full it refuses much.
const INPUTS_A_DAEMON: u32 = 2000;
/// Watchdog of one input.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    runtime: Runtime,
    tasks: LocalSet,
    daemon: Rc<Daemon>,
    inputs: u32,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// The first byte is the class, the second the method, the rest the parameters.
pub fn run(input: &[u8]) {
    let [class, method, params @ ..] = input else {
        return;
    };
    WORLD.with_borrow_mut(|world| {
        if world
            .as_ref()
            .is_none_or(|world| world.inputs >= INPUTS_A_DAEMON)
        {
            *world = Some(World::new());
        }
        let world = world.as_mut().unwrap();
        world.inputs += 1;
        let class = CLASSES[usize::from(*class) % CLASSES.len()];
        let methods = world.daemon.router.methods();
        let method = methods[usize::from(*method) % methods.len()].name;
        world.ask(class, method, params);
    });
}

impl World {
    fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            runtime: runtime.enable_all().build().unwrap(),
            tasks: LocalSet::new(),
            daemon: Rc::new(Daemon::new(
                Policy::default(),
                Settings::default(),
                std::path::Path::new("/"),
                None,
            )),
            inputs: 0,
        }
    }

    fn ask(&self, class: &str, method: &str, params: &[u8]) {
        let mut sent = Vec::new();
        let mut expected = 1;
        if class != CLASSES[0] {
            let class = rmp_serde::to_vec_named(&Map::from([("class", class)])).unwrap();
            sent.extend(request(1, "kernel.confine", &class));
            expected = 2;
        }
        sent.extend(request(2, method, params));
        let daemon = Rc::clone(&self.daemon);
        let asking = async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let served = tokio::task::spawn_local(kairod::serve(daemon, theirs));
            let responses = exchange(ours, &sent, expected).await;
            // It ended with its peer, and not by a panic.
            tokio::time::timeout(PATIENCE, served)
                .await
                .unwrap()
                .unwrap();
            responses
        };
        let responses = self.tasks.block_on(&self.runtime, asking);
        for response in responses {
            if let Err(error) = response.into_result() {
                assert_ne!(error.code, ErrorCode::Internal, "{class} {method}: {error}");
                assert!(!error.message.is_empty(), "{class} {method}");
            }
        }
    }
}

type Map<'a> = std::collections::BTreeMap<&'a str, &'a str>;

/// A request whose parameters are any bytes, and which takes no longer than a moment.
fn request(id: u8, method: &str, params: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x84, 0xa2, b'i', b'd', id, 0xa6];
    payload.extend_from_slice(b"method");
    payload.extend(rmp_serde::to_vec(method).unwrap());
    payload.push(0xa4);
    payload.extend_from_slice(b"meta");
    payload.push(0x81);
    payload.extend(rmp_serde::to_vec("deadline_ms").unwrap());
    payload.push(50);
    payload.push(0xa6);
    payload.extend_from_slice(b"params");
    payload.extend_from_slice(params);
    let mut frame = header(FrameKind::Request, payload.len() as u32).to_vec();
    frame.extend(payload);
    frame
}

/// Sends, and reads until so many responses came or the connection ended.
async fn exchange(mut stream: UnixStream, sent: &[u8], expected: usize) -> Vec<Response> {
    stream.write_all(sent).await.unwrap();
    let mut decoder = Decoder::new(Limits::default());
    let mut buffer = vec![0; 64 * 1024];
    let mut responses = Vec::new();
    while responses.len() < expected {
        let reading = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
        // A connection that is closed on us is an answer too: to what is no message.
        let Ok(count @ 1..) = reading.await.expect("no answer") else {
            return responses;
        };
        decoder.feed(&buffer[..count]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            if frame.kind == FrameKind::Response {
                let response = Response::decode(&frame.payload, &Limits::default());
                responses.push(response.expect("a response that is none"));
            }
        }
    }
    responses
}
