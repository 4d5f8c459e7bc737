//! Asking for a right: what waits for an operator's decision, and what was refused lately.
//!
//! A request is in the name of who asks, as the kernel knows it, and of nobody else. It waits at
//! most [`KEPT_FOR`], then it counts as refused. Asking again for the same changes nothing: while
//! it waits it is the same request, and for [`REFUSED_FOR`] after a refusal it is refused again,
//! with the operator's words. So a user's programs can make [`MAX_OF_ONE_USER`] entries and events
//! in that time, however often and over however many connections they ask. Nothing is kept over a
//! restart: whoever still wants it asks again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Right, Subject};
use crate::topics::Pattern;

/// How long a request waits for a decision.
pub const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// How long a refusal answers the same request.
pub const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Requests of one user that may wait: an operator is to be able to read them.
pub const MAX_OF_ONE_USER: usize = 8;
/// Requests that may wait.
pub const MAX_PENDING: usize = 64;
/// Refusals that are remembered.
const MAX_REFUSED: usize = 64;

/// One request that waits.
#[derive(Debug)]
pub struct Request {
    /// Its number, never given again while kairod runs.
    pub id: u64,
    /// Who asks.
    pub subject: Subject,
    /// For what.
    pub right: Right,
    /// To what.
    pub target: Pattern,
    /// Why, in the asker's words.
    pub reason: String,
    /// For how long, s; none for good.
    pub ttl_s: Option<u64>,
    /// When it counts as refused.
    pub ends: Instant,
    /// What sees to that.
    pub timer: Option<AbortHandle>,
}

impl Request {
    fn is(&self, subject: &Subject, right: Right, target: &Pattern) -> bool {
        self.subject == *subject && self.right == right && self.target == *target
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

#[derive(Debug)]
struct Refused {
    request: Request,
    why: String,
    until: Instant,
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The user has too many waiting, or all have.
    TooMany,
    /// It was refused a moment ago, with these words.
    Refused {
        /// The number that it had.
        request: u64,
        /// The operator's words.
        why: String,
    },
}

/// What waits, the oldest first, and what was refused.
#[derive(Debug, Default)]
pub struct Requests {
    pending: VecDeque<Request>,
    refused: VecDeque<Refused>,
    given: u64,
}

impl Requests {
    /// What waits, the oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &Request> {
        self.pending.iter()
    }

    /// Takes a request; gives its number, and whether it is a new one.
    ///
    /// # Errors
    /// There are too many, or it was refused a moment ago.
    pub fn ask(
        &mut self,
        subject: &Subject,
        right: Right,
        target: Pattern,
        reason: String,
        ttl_s: Option<u64>,
    ) -> Result<(u64, bool), Trouble> {
        let now = Instant::now();
        self.refused.retain(|refused| refused.until > now);
        let mut pending = self.pending.iter();
        if let Some(same) = pending.find(|one| one.is(subject, right, &target)) {
            return Ok((same.id, false));
        }
        let mut refused = self.refused.iter();
        if let Some(same) = refused.find(|one| one.request.is(subject, right, &target)) {
            return Err(Trouble::Refused {
                request: same.request.id,
                why: same.why.clone(),
            });
        }
        let own = |one: &&Request| one.subject.uid == subject.uid;
        let of_user = self.pending.iter().filter(own).count();
        if of_user >= MAX_OF_ONE_USER || self.pending.len() >= MAX_PENDING {
            return Err(Trouble::TooMany);
        }
        self.given += 1;
        self.pending.push_back(Request {
            id: self.given,
            subject: subject.clone(),
            right,
            target,
            reason,
            ttl_s,
            ends: now + KEPT_FOR,
            timer: None,
        });
        Ok((self.given, true))
    }

    /// Says what ends a request that nobody decides.
    pub fn set_timer(&mut self, id: u64, timer: AbortHandle) {
        match self.pending.iter_mut().find(|one| one.id == id) {
            Some(request) => request.timer = Some(timer),
            None => timer.abort(),
        }
    }

    /// The request of that number.
    pub fn find(&self, id: u64) -> Option<&Request> {
        self.pending.iter().find(|one| one.id == id)
    }

    /// Takes a request that was granted.
    pub fn take(&mut self, id: u64) -> Option<Request> {
        let at = self.pending.iter().position(|one| one.id == id)?;
        self.pending.remove(at)
    }

    /// Puts back a request that was taken to be granted, and was not; one whose time is over is
    /// gone.
    pub fn put_back(&mut self, request: Request) {
        if request.ends > Instant::now() {
            self.pending.push_front(request);
        }
    }

    /// Refuses a request. False if there is none of that number.
    pub fn refuse(&mut self, id: u64, why: &str) -> bool {
        let Some(request) = self.take(id) else {
            return false;
        };
        if self.refused.len() >= MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back(Refused {
            request,
            why: why.into(),
            until: Instant::now() + REFUSED_FOR,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Class;

    fn agent(uid: u32) -> Subject {
        Subject {
            class: Class::Agent,
            name: None,
            uid,
        }
    }

    fn ask(requests: &mut Requests, uid: u32, target: &str) -> Result<(u64, bool), Trouble> {
        let target = Pattern::parse(target).unwrap();
        requests.ask(
            &agent(uid),
            Right::DeviceClaim,
            target,
            "to move".into(),
            None,
        )
    }

    #[test]
    fn asking_again_is_the_same_request_and_a_refusal_stands() {
        let mut requests = Requests::default();
        assert_eq!(ask(&mut requests, 7, "arm"), Ok((1, true)));
        assert_eq!(ask(&mut requests, 7, "arm"), Ok((1, false)));
        assert_eq!(ask(&mut requests, 8, "arm"), Ok((2, true)));
        assert!(requests.refuse(1, "not now"));
        assert!(!requests.refuse(1, "not now"));
        let why = "not now".to_string();
        let refused = Err(Trouble::Refused { request: 1, why });
        assert_eq!(ask(&mut requests, 7, "arm"), refused);
        assert!(requests.take(2).is_some());
    }

    #[test]
    fn a_user_has_few_requests_and_takes_nothing_from_others() {
        let mut requests = Requests::default();
        for number in 0..MAX_OF_ONE_USER {
            assert!(ask(&mut requests, 7, &format!("arm{number}")).is_ok());
        }
        assert_eq!(ask(&mut requests, 7, "more"), Err(Trouble::TooMany));
        assert!(ask(&mut requests, 8, "more").is_ok());
        let users = 9..;
        let taken = users.map_while(|uid| ask(&mut requests, uid, "arm").ok());
        assert_eq!(taken.count(), MAX_PENDING - MAX_OF_ONE_USER - 1);
    }
}
