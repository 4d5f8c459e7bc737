//! Closes the sockets of peers, on threads that do nothing else.
//!
//! What a peer has sent and nobody has read lies in its socket and goes with it, descriptors too.
//! When one of those is the last of its file, the thread that closes the socket does whatever
//! closing that takes: a network socket that lingers, a serial line that drains, block it for as
//! long as the peer likes. So no thread that serves others closes a peer's socket.
//!
//! Ordinary threads only; nothing here blocks the caller. At most [`THREADS_MAX`] close at a time.
//! When all of them are stuck and [`WAITING_MAX`] wait, nobody new is let in
//! ([`Undertaker::has_room`]), so no more waits than that and what was let in before.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kairo_link::control::ControlSocket;

/// Threads that close.
const THREADS_MAX: usize = 8;
/// Sockets that may wait for them: two turns of the listener.
const WAITING_MAX: usize = 16;
/// Closing takes next to nothing, and all of it is locked memory.
const STACK_BYTES: usize = 64 * 1024;

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Undertaker(Arc<Shared>);

/// A peer's socket, which goes to the undertaker when it is dropped.
#[derive(Debug)]
pub struct Peer {
    /// None once it is dropped.
    socket: Option<ControlSocket>,
    undertaker: Undertaker,
}

#[derive(Debug, Default)]
struct Shared {
    /// Locked for a push or a pop, never while a socket closes.
    waiting: Mutex<VecDeque<ControlSocket>>,
    threads: AtomicUsize,
}

impl Undertaker {
    /// The same socket, to be closed here.
    pub(super) fn will_close(&self, socket: ControlSocket) -> Peer {
        Peer {
            socket: Some(socket),
            undertaker: self.clone(),
        }
    }

    /// Closes `socket`, now or when a thread is free.
    fn take(&self, socket: ControlSocket) {
        self.0.queue().push_back(socket);
        self.turn();
    }

    /// Whether more can be left to it.
    pub(super) fn has_room(&self) -> bool {
        self.0.queue().len() < WAITING_MAX
    }

    /// Sees to it that what waits is closed as soon as there is a thread. To be called every turn:
    /// a thread that finds nothing more to do ends.
    pub(super) fn turn(&self) {
        if self.0.queue().is_empty() {
            return;
        }
        // Pairs with the subtraction in `Shared::close_all`.
        if self.0.threads.fetch_add(1, Ordering::AcqRel) >= THREADS_MAX {
            self.0.threads.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let shared = Arc::clone(&self.0);
        let builder = std::thread::Builder::new().name("undertaker".into());
        let thread = builder.stack_size(STACK_BYTES);
        if thread.spawn(move || shared.close_all()).is_err() {
            // The socket waits for the next turn.
            self.0.threads.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Deref for Peer {
    type Target = ControlSocket;

    fn deref(&self) -> &ControlSocket {
        self.socket.as_ref().expect("only a drop takes it")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.undertaker.take(socket);
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<ControlSocket>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_all(&self) {
        loop {
            let socket = self.queue().pop_front();
            match socket {
                Some(socket) => drop(socket),
                None => break,
            }
        }
        self.threads.fetch_sub(1, Ordering::AcqRel);
    }
}
