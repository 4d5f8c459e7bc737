//! The reader thread: reads for programs that must not wait for the disk.
//!
//! One read after the other, each bounded by its page; at most [`MAX_READS`] wait. The file is
//! opened when the first read comes, and anew after a failure.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::error::StoreError;
use crate::reader::LogReader;

/// Reads that may wait.
pub const MAX_READS: usize = 256;

/// A read, or the reason why there is no reader.
pub(crate) type Read = Box<dyn FnOnce(Result<&mut LogReader, StoreError>) + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Read>,
    closed: bool,
}

/// What waits for the reader thread.
#[derive(Default)]
pub(crate) struct ReadQueue {
    state: Mutex<State>,
    filled: Condvar,
}

impl std::fmt::Debug for ReadQueue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ReadQueue")
    }
}

impl ReadQueue {
    pub fn push(&self, read: Read) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if state.waiting.len() >= MAX_READS {
            return Err(StoreError::Full {
                events: state.waiting.len(),
                bytes: 0,
            });
        }
        state.waiting.push_back(read);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// What waits is dropped, which tells its callers.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.filled.notify_one();
    }

    /// The thread's work.
    pub fn serve(&self, path: &Path) {
        let mut reader: Option<LogReader> = None;
        loop {
            let read = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    if state.closed {
                        return;
                    }
                    if let Some(read) = state.waiting.pop_front() {
                        break read;
                    }
                    let woken = self.filled.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            };
            match reader.as_mut() {
                Some(reader) => read(Ok(reader)),
                None => match LogReader::open(path) {
                    Ok(opened) => read(Ok(reader.insert(opened))),
                    Err(error) => read(Err(error)),
                },
            }
        }
    }
}
