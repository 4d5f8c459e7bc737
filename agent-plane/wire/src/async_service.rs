//! Serving methods and streams over an asynchronous connection: any number of requests and streams
//! under way. Needs the feature `tokio`.
//!
//! Each stream has a sender of its own, which waits for its own credit and nobody else's. A service
//! that does not take its requests loses new ones once [`WAITING_REQUESTS`] wait: as many as the
//! kernel gives it at once, so only one that leaves requests unanswered gets there.

use std::time::Duration;

use rmpv::Value;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::async_client::AsyncClient;
use crate::client::ClientError;
use crate::error::ErrorInfo;
use crate::flow::{Asked, Outflow};
use crate::message::{Response, StreamChunk};
use crate::sealed::Sealed;

/// Requests that wait to be taken: as many as the kernel has under way for a service.
pub const WAITING_REQUESTS: usize = 64;

/// A connection that serves a namespace.
#[derive(Debug)]
pub struct AsyncService {
    client: AsyncClient,
    asked: mpsc::Receiver<Asked>,
}

impl AsyncService {
    /// Registers over `client`; `params` are those of `service.register`.
    ///
    /// # Errors
    /// As [`AsyncClient::call`].
    pub async fn register(
        client: AsyncClient,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        let asked = client.serve();
        let _: Value = client.call("service.register", params, deadline).await?;
        Ok(Self { client, asked })
    }

    /// The next request; none once the connection has ended.
    pub async fn next(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }

    /// What answers requests, also from other tasks.
    pub fn replies(&self) -> Replies {
        Replies(self.client.clone())
    }
}

/// Answers requests. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Replies(AsyncClient);

impl Replies {
    /// Answers a request.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn answer(&self, asked: &Asked, result: impl Serialize) -> Result<(), ClientError> {
        let Some(id) = asked.id.clone() else {
            return Ok(());
        };
        let response = Response {
            id,
            result: Some(result),
            error: None,
            error_info: None,
        };
        self.0.send_message(&response, None).await
    }

    /// Refuses a request.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn refuse(&self, asked: &Asked, error: ErrorInfo) -> Result<(), ClientError> {
        match asked.id.clone() {
            Some(id) => {
                self.0
                    .send_message(&Response::refuse(id, error), None)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Answers a request that opens a stream; none when its method was registered without
    /// `stream`. `result` must serialize to a map.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn open(
        &self,
        asked: &Asked,
        stream: &str,
        result: impl Serialize,
    ) -> Result<Option<AsyncOutflow>, ClientError> {
        let Some(terms) = asked.meta.stream.clone() else {
            return Ok(None);
        };
        let outflow = AsyncOutflow {
            name: terms.subscription.clone(),
            takes_descriptors: terms.descriptors,
            client: self.0.clone(),
        };
        self.0
            .flows(|flows| flows.open(Outflow::new(terms, stream)));
        self.answer(asked, result).await?;
        Ok(Some(outflow))
    }
}

/// The sending end of a stream. Dropped before its end, the stream is given up: it ends for its
/// reader when the connection does, so end it.
#[derive(Debug)]
pub struct AsyncOutflow {
    name: String,
    /// Whether payloads may be [`Sealed`].
    pub takes_descriptors: bool,
    client: AsyncClient,
}

impl AsyncOutflow {
    /// Sends all of `data`, in as many chunks as the credit makes of it; with `last` the stream
    /// ends with it. False when nobody reads it any more.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn send(&self, mut data: &[u8], last: bool) -> Result<bool, ClientError> {
        loop {
            let make = |flow: &mut Outflow| flow.next_piece(data, last);
            let Some((chunk, sent)) = self.next(make).await? else {
                return Ok(false);
            };
            self.put(&chunk).await?;
            data = &data[sent..];
            if data.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Sends a payload without copying it. False when nobody reads the stream any more.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn send_sealed(&self, sealed: &Sealed, last: bool) -> Result<bool, ClientError> {
        let make = |flow: &mut Outflow| flow.next_sealed(sealed, last);
        match self.next(make).await? {
            Some(chunk) => self.put(&chunk).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends it with an error.
    ///
    /// # Errors
    /// What broke on the way.
    pub async fn fail(&self, error: ErrorInfo) -> Result<(), ClientError> {
        let failed = |flow: &mut Outflow| Some(flow.failed(error.clone()));
        match self.next(failed).await? {
            Some(chunk) => self.put(&chunk).await,
            None => Ok(()),
        }
    }

    /// What `make` makes, once the credit allows it; none when nobody reads any more.
    async fn next<T>(
        &self,
        make: impl Fn(&mut Outflow) -> Option<T>,
    ) -> Result<Option<T>, ClientError> {
        let notices = self.client.notices();
        loop {
            let heeded = notices.notified();
            tokio::pin!(heeded);
            // Registered before the look, so that credit in between is not missed.
            heeded.as_mut().enable();
            if let Some(why) = self.client.why_ended() {
                return Err(why);
            }
            match self.client.flows(|flows| flows.get(&self.name).map(&make)) {
                None => return Ok(None),
                Some(Some(made)) => return Ok(Some(made)),
                Some(None) => heeded.await,
            }
        }
    }

    async fn put(&self, chunk: &StreamChunk) -> Result<(), ClientError> {
        if chunk.end {
            self.client.flows(|flows| flows.close(&self.name));
        }
        self.client
            .send_message(chunk, chunk.attached.clone())
            .await
    }
}
