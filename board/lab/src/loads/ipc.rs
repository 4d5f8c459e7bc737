//! The load on kairod: connections that ask without pause, some of them nonsense.

use std::convert::Infallible;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use kairo_wire::{Client, Value};

use super::KERNEL_SOCKET;

/// Connections at once.
const CONNECTIONS: usize = 4;
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between attempts to connect, while kairod is away.
const AGAIN: Duration = Duration::from_millis(20);
/// Calls before the connection is thrown away and made anew.
const CALLS: usize = 200;

/// Floods.
pub fn flood() -> anyhow::Result<Infallible> {
    for _ in 1..CONNECTIONS {
        thread::spawn(ask_for_ever);
    }
    ask_for_ever()
}

fn ask_for_ever() -> ! {
    loop {
        ask();
        nonsense();
        thread::sleep(AGAIN);
    }
}

/// Asks the dearest questions there are, as fast as they are answered.
fn ask() {
    let Ok(mut client) = Client::connect_path(Path::new(KERNEL_SOCKET)) else {
        return;
    };
    for call in 0..CALLS {
        let method = ["kernel.ping", "rt.status", "kernel.introspect", "no.such"][call % 4];
        let answer: Result<Value, _> = client.call(method, (), ANSWER);
        // A refusal is an answer; anything else ends the connection.
        if answer.is_err_and(|error| error.refusal().is_none()) {
            return;
        }
    }
}

/// Bytes that are no frame.
fn nonsense() {
    if let Ok(mut stream) = UnixStream::connect(KERNEL_SOCKET) {
        let _ = stream.write_all(&[0xA5; 4096]);
    }
}
