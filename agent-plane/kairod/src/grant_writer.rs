//! Keeps the grants on a thread of its own, because a disk may take seconds, or for ever.
//!
//! One writer, in order. It has its own list of what is to be kept and is told of changes only, so
//! what the file says follows from what was answered: a grant is in the file before it is answered
//! and in force, and one that could not be written is not in the file later either. A revocation
//! is in force before the writer hears of it; if it cannot be written it is tried again until it
//! is, because after a restart it would otherwise have ended.
//!
//! What waits for the writer is bounded by the grants there may be: each is added once and taken
//! away once.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::grant_file::GrantFile;
use crate::permission::grant::Grant;

/// How long until the writer tries again to write down what ended.
const RETRY: Duration = Duration::from_secs(5);

/// Whether a change was written; if not, why.
type Kept = Result<(), String>;

/// What changes.
#[derive(Debug)]
enum Change {
    Given(Box<Grant>),
    Ended(Vec<u64>),
}

#[derive(Debug)]
struct Order {
    change: Change,
    tell: oneshot::Sender<Kept>,
}

/// The way to the thread. It ends when this is dropped and all is written.
#[derive(Debug)]
pub struct GrantWriter {
    orders: Sender<Order>,
}

impl GrantWriter {
    /// Starts the thread, which knows that `kept` is in the file, and `next` the number after all.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(file: GrantFile, kept: Vec<Grant>, next: u64) -> std::io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let thread = std::thread::Builder::new().name("grants".into());
        thread.spawn(move || write(&file, kept, next, &received))?;
        Ok(Self { orders })
    }

    /// Has `grant` written; the answer comes when it is on the disk.
    pub fn given(&self, grant: Grant) -> oneshot::Receiver<Kept> {
        self.order(Change::Given(Box::new(grant)))
    }

    /// Has the grants of these numbers taken out of the file.
    pub fn ended(&self, ids: Vec<u64>) -> oneshot::Receiver<Kept> {
        self.order(Change::Ended(ids))
    }

    fn order(&self, change: Change) -> oneshot::Receiver<Kept> {
        let (tell, told) = oneshot::channel();
        // A writer that is gone drops the sender, which is an answer too.
        let _ = self.orders.send(Order { change, tell });
        told
    }
}

fn write(file: &GrantFile, mut kept: Vec<Grant>, mut next: u64, orders: &Receiver<Order>) {
    let mut is_behind = false;
    loop {
        let wait = if is_behind { RETRY } else { Duration::MAX };
        let mut batch = match orders.recv_timeout(wait) {
            Ok(order) => vec![order],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        batch.extend(orders.try_iter());
        let mut wanted = kept.clone();
        for order in &batch {
            match &order.change {
                Change::Given(grant) => {
                    next = next.max(grant.id + 1);
                    wanted.push(Grant::clone(grant));
                }
                Change::Ended(ids) => {
                    wanted.retain(|grant| !ids.contains(&grant.id));
                    // Never to be in the file again, whether it can be written now or not.
                    kept.retain(|grant| !ids.contains(&grant.id));
                    is_behind = true;
                }
            }
        }
        let written = file.keep(&wanted, next).map_err(|error| error.to_string());
        match &written {
            Ok(()) => (kept, is_behind) = (wanted, false),
            Err(error) if is_behind => {
                tracing::error!("grants that ended are not written: {error}")
            }
            // The file may be half-way to what was refused: it is written again as it was.
            Err(_) => is_behind = true,
        }
        for order in batch {
            // Whoever asked may have gone.
            let _ = order.tell.send(written.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::grant::{Ends, origin};
    use crate::permission::{Class, DeviceLimits, Right, Rule, Who};
    use crate::topics::Pattern;

    fn grant(id: u64) -> Grant {
        Grant {
            id,
            rule: Rule {
                origin: origin(id),
                who: Who {
                    class: Some(Class::Agent),
                    ..Who::default()
                },
                right: Right::DeviceRead,
                target: Pattern::parse("arm").unwrap(),
                limits: DeviceLimits::default(),
            },
            ends: Some(Ends {
                wall_s: 99,
                boot_s: Some(9),
            }),
            granted_by: "operator".into(),
            reason: "a test".into(),
        }
    }

    fn ids(directory: &std::path::Path) -> (Vec<u64>, u64) {
        let (grants, next) = GrantFile::in_directory(directory).load().unwrap();
        (grants.iter().map(|grant| grant.id).collect(), next)
    }

    #[test]
    fn a_grant_that_was_refused_is_not_in_the_file_later_and_an_ended_one_not_either() {
        let directory = tempfile::tempdir().unwrap();
        let file = || GrantFile::in_directory(directory.path());
        let writer = GrantWriter::start(file(), Vec::new(), 1).unwrap();
        let ended = |told: oneshot::Receiver<Kept>| told.blocking_recv().unwrap();
        assert_eq!(ended(writer.given(grant(1))), Ok(()));
        assert_eq!(ended(writer.given(grant(2))), Ok(()));
        // In the way of the file that is written first.
        let obstacle = directory.path().join("grants.json.new");
        std::fs::create_dir(&obstacle).unwrap();
        assert!(ended(writer.given(grant(3))).is_err());
        assert!(ended(writer.ended(vec![1])).is_err());
        assert_eq!(ids(directory.path()), (vec![1, 2], 3));
        std::fs::remove_dir(&obstacle).unwrap();
        assert_eq!(ended(writer.given(grant(4))), Ok(()));
        assert_eq!(ids(directory.path()), (vec![2, 4], 5));
    }
}
