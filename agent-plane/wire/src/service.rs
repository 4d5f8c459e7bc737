//! Serving methods over a blocking connection: one thread, every wait bounded.
//!
//! A program registers a namespace and is then asked, one request at a time, in the order in which
//! the kernel passes them on. A method that opens a stream is answered with [`Service::open`]; what
//! is sent then waits for credit, so a caller that reads slowly holds up whoever sends and nobody
//! else. While one of its streams waits, requests are kept, at most
//! [`crate::client::BACKLOG_MESSAGES`] of them: a service that must answer others meanwhile uses
//! [`Service::offer`], which never waits, or the asynchronous client.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rmpv::Value;
use serde::Serialize;

use crate::client::{Client, ClientError};
use crate::error::ErrorInfo;
use crate::flow::{Asked, Notice, Outflow, Outflows};
use crate::message::{Response, StreamChunk};
use crate::sealed::Sealed;

/// A connection that serves a namespace.
#[derive(Debug)]
pub struct Service {
    client: Client,
    flows: Outflows,
    waiting: VecDeque<Asked>,
}

impl Service {
    /// Registers over `client`; `params` are those of `service.register`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn register(
        mut client: Client,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        client.serve();
        let _: Value = client.call("service.register", params, deadline)?;
        Ok(Self {
            client,
            flows: Outflows::default(),
            waiting: VecDeque::new(),
        })
    }

    /// The connection, for calls of the service's own.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The next request; none when `deadline` passes first. One whose caller has given up comes
    /// all the same: its answer is for nobody.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn next(&mut self, deadline: Duration) -> Result<Option<Asked>, ClientError> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(asked) = self.waiting.pop_front() {
                return Ok(Some(asked));
            }
            if !self.pump(until)? {
                return Ok(None);
            }
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn answer(&mut self, asked: &Asked, result: impl Serialize) -> Result<(), ClientError> {
        let Some(id) = asked.id.clone() else {
            return Ok(());
        };
        let response = Response {
            id,
            result: Some(result),
            error: None,
            error_info: None,
        };
        self.client.send_frame(&response, None)
    }

    /// Refuses a request.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn refuse(&mut self, asked: &Asked, error: ErrorInfo) -> Result<(), ClientError> {
        match asked.id.clone() {
            Some(id) => self.client.send_frame(&Response::refuse(id, error), None),
            None => Ok(()),
        }
    }

    /// Answers a request that opens a stream, and gives the stream's name; none when the method
    /// was registered without `stream`. `result` must serialize to a map.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn open(
        &mut self,
        asked: &Asked,
        stream: &str,
        result: impl Serialize,
    ) -> Result<Option<String>, ClientError> {
        let Some(terms) = asked.meta.stream.clone() else {
            return Ok(None);
        };
        let name = terms.subscription.clone();
        self.flows.open(Outflow::new(terms, stream));
        self.answer(asked, result)?;
        Ok(Some(name))
    }

    /// Whether the stream's payloads may be [`Sealed`].
    pub fn takes_descriptors(&mut self, stream: &str) -> bool {
        self.flows
            .get(stream)
            .is_some_and(|flow| flow.takes_descriptors())
    }

    /// Sends all of `data`, in as many chunks as the credit makes of it; with `last` the stream
    /// ends with it. False when nobody reads the stream any more.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] when the credit did not suffice in time: then a part was sent.
    pub fn send(
        &mut self,
        stream: &str,
        mut data: &[u8],
        last: bool,
        deadline: Duration,
    ) -> Result<bool, ClientError> {
        let until = Instant::now() + deadline;
        loop {
            let Some(sent) = self.offer(stream, data, last)? else {
                return Ok(false);
            };
            match sent {
                Some(sent) if sent == data.len() => return Ok(true),
                Some(sent) => data = &data[sent..],
                None if self.pump(until)? => {}
                None => return Err(ClientError::Deadline(deadline)),
            }
        }
    }

    /// Sends one chunk of as much of `data` as the credit allows, and gives how much, without
    /// waiting: the inner none means that there is no credit, the outer that nobody reads the
    /// stream any more.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn offer(
        &mut self,
        stream: &str,
        data: &[u8],
        last: bool,
    ) -> Result<Option<Option<usize>>, ClientError> {
        let Some(flow) = self.flows.get(stream) else {
            return Ok(None);
        };
        let Some((chunk, sent)) = flow.next_piece(data, last) else {
            return Ok(Some(None));
        };
        self.put(&chunk)?;
        Ok(Some(Some(sent)))
    }

    /// Sends a payload without copying it. False when nobody reads the stream any more.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] when there was no credit in time: then nothing was sent.
    pub fn send_sealed(
        &mut self,
        stream: &str,
        sealed: &Sealed,
        last: bool,
        deadline: Duration,
    ) -> Result<bool, ClientError> {
        let until = Instant::now() + deadline;
        loop {
            let Some(flow) = self.flows.get(stream) else {
                return Ok(false);
            };
            if let Some(chunk) = flow.next_sealed(sealed, last) {
                self.put(&chunk)?;
                return Ok(true);
            }
            if !self.pump(until)? {
                return Err(ClientError::Deadline(deadline));
            }
        }
    }

    /// Says that the next `bytes` of the stream are lost.
    pub fn skip(&mut self, stream: &str, bytes: u64) {
        if let Some(flow) = self.flows.get(stream) {
            flow.skip(bytes);
        }
    }

    /// Ends a stream with an error.
    ///
    /// # Errors
    /// What broke on the way.
    pub fn fail(&mut self, stream: &str, error: ErrorInfo) -> Result<(), ClientError> {
        match self.flows.get(stream).map(|flow| flow.failed(error)) {
            Some(chunk) => self.put(&chunk),
            None => Ok(()),
        }
    }

    fn put(&mut self, chunk: &StreamChunk) -> Result<(), ClientError> {
        let descriptor = chunk.attached.as_ref().map(Sealed::descriptor);
        self.client.send_frame(chunk, descriptor)?;
        if chunk.end {
            self.flows.close(&chunk.subscription);
        }
        Ok(())
    }

    /// Takes in one request or notice; false at `until`.
    fn pump(&mut self, until: Instant) -> Result<bool, ClientError> {
        let Some(asked) = self.client.next_asked(until)? else {
            return Ok(false);
        };
        match Notice::of(&asked) {
            Some(notice) => self.flows.heed(&notice),
            None if self.waiting.len() == crate::client::BACKLOG_MESSAGES => {
                return Err(ClientError::Backlog);
            }
            None => self.waiting.push_back(asked),
        }
        Ok(true)
    }
}
