//! [`crate::follow`] for asynchronous programs. Needs the feature `tokio`.
//!
//! The same promises; [`AsyncFollowing::next`] waits without end, so bound it from outside. It may
//! be dropped half-way: nothing that arrived is lost by that.

use std::time::Duration;

use crate::async_client::{AsyncClient, AsyncSubscription};
use crate::client::{ClientError, Incoming};
use crate::endpoint::Endpoint;
use crate::follow::{ATTEMPT, Begin, FIRST_PAUSE, Followed, LONGEST_PAUSE, Place, may_resume};

/// Events of some topics, over any number of connections.
#[derive(Debug)]
pub struct AsyncFollowing {
    endpoint: Endpoint,
    place: Place,
    open: Option<AsyncSubscription>,
    pause: Duration,
}

impl AsyncFollowing {
    /// Subscribes to `topics` at `endpoint`. The first attempt has to succeed.
    ///
    /// # Errors
    /// As [`AsyncClient::connect_to`] and [`AsyncClient::call`].
    pub async fn begin(
        endpoint: Endpoint,
        topics: &[&str],
        begin: Begin,
    ) -> Result<Self, ClientError> {
        let mut following = Self {
            endpoint,
            place: Place::new(topics, begin),
            open: None,
            pause: FIRST_PAUSE,
        };
        following.subscribe().await?;
        Ok(following)
    }

    /// The next event, loss or break. Waits for the kernel for as long as it takes.
    ///
    /// # Errors
    /// What no new connection can help.
    pub async fn next(&mut self) -> Result<Followed, ClientError> {
        loop {
            let outcome = match &mut self.open {
                None => match self.subscribe().await {
                    Ok(Some(resumed)) => return Ok(resumed),
                    Ok(None) => continue,
                    Err(error) => error,
                },
                Some(subscription) => match subscription.next().await {
                    Some(Ok(Incoming::Event(event))) => match self.place.take(event) {
                        Some(followed) => return Ok(followed),
                        None => continue,
                    },
                    Some(Ok(Incoming::Chunk(_))) => continue,
                    Some(Err(error)) => error,
                    None => ClientError::Closed,
                },
            };
            self.open = None;
            // Behind a reader that was too slow, the log has what it missed.
            let slow = matches!(outcome, ClientError::Backlog);
            if !slow && !may_resume(&outcome, &self.endpoint) {
                return Err(outcome);
            }
            let pause = self.pause;
            self.pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
    }

    async fn subscribe(&mut self) -> Result<Option<Followed>, ClientError> {
        let client = AsyncClient::connect_to(&self.endpoint).await?;
        let params = self.place.params();
        let subscription = client.subscribe("event.subscribe", params, ATTEMPT).await?;
        let told = self.place.subscribed(&subscription.reply);
        self.open = Some(subscription);
        self.pause = FIRST_PAUSE;
        Ok(told)
    }
}
