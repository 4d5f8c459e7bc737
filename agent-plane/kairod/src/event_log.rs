//! The event log behind the bus: opened beside the event loop, watched, opened anew.
//!
//! Opening, salvaging and closing block on the disk and run on helper threads. Without a log kairod
//! serves on: what needs one is refused with `no_store`, and it is tried again. What an earlier
//! kairod left (keys, and what it had open) is read with it, before this one writes anything.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kairo_events::{Kept, LogReader, Options, Store, StoreError, projection};
use kairo_wire::ErrorInfo;
use tokio::sync::{oneshot, watch};

use crate::daemon::Daemon;
use crate::idempotency::KEPT_FOR;
use crate::left_behind::Left;
use crate::reasons::Reason;

/// Name of the file in the state directory.
const FILE_NAME: &str = "events.db";
/// How long to wait before another attempt to open it.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// The log takes at most this share of its file system, and never more than the default.
const SHARE_OF_DISK: u64 = 8;

/// A log that is open.
#[derive(Debug)]
pub struct OpenLog {
    /// It.
    pub store: Store,
    /// The newest number that is in it, after each commit.
    pub committed: watch::Receiver<u64>,
}

/// What opening found.
#[derive(Debug)]
pub struct Found {
    /// The log.
    pub log: OpenLog,
    /// What it says of itself.
    pub report: kairo_events::OpenReport,
    /// What never ended.
    pub left: Left,
    /// Keys of requests that must not be done again.
    pub keys: Vec<Kept>,
}

/// Opens the log of a state directory. Blocks.
fn open(directory: &Path) -> Result<Found, StoreError> {
    let path = directory.join(FILE_NAME);
    let (sender, committed) = watch::channel(0);
    let mut options = Options {
        projections: projection::built_in(),
        on_commit: Some(Arc::new(move |head| {
            sender.send_replace(head);
        })),
        ..Options::default()
    };
    if let Ok(disk) = nix::sys::statvfs::statvfs(directory) {
        let bytes = disk.blocks() * disk.fragment_size();
        let limits = &mut options.limits;
        limits.max_bytes = limits.max_bytes.min(bytes / SHARE_OF_DISK);
        limits.held_bytes = limits.max_bytes / 2;
    }
    let (store, report) = Store::open(&path, options)?;
    Ok(Found {
        left: Left::read(&LogReader::open(&path)?, store.boot())?,
        keys: store.take_over_keys(KEPT_FOR)?.wait()?,
        log: OpenLog { store, committed },
        report,
    })
}

/// Keeps the bus supplied with a log. `first` is told when the first attempt is over.
pub async fn keep(daemon: Rc<Daemon>, directory: PathBuf, first: oneshot::Sender<()>) {
    let mut first = Some(first);
    let bus = Rc::clone(&daemon.bus);
    loop {
        let from = directory.clone();
        let opened = tokio::task::spawn_blocking(move || open(&from)).await;
        let opened = opened.unwrap_or_else(|error| {
            let detail = error.to_string();
            Err(StoreError::Internal { detail })
        });
        let is_open = opened.is_ok();
        match opened {
            Ok(found) => daemon.attach_log(found),
            Err(error) => bus.say_absent(&error.to_string()),
        }
        if let Some(first) = first.take() {
            // Nobody waits any more when it took too long.
            let _ = first.send(());
        }
        if !is_open {
            tokio::time::sleep(TRY_AGAIN).await;
            continue;
        }
        bus.broken.notified().await;
        if let Some(log) = bus.detach() {
            close(log).await;
        }
    }
}

/// Closes a log that is damaged, on a helper thread. Requests that hold it let go first.
async fn close(log: Rc<OpenLog>) {
    let mut log = log;
    for _ in 0..100 {
        match Rc::try_unwrap(log) {
            Ok(open) => {
                let closed = tokio::task::spawn_blocking(move || drop(open)).await;
                drop(closed);
                return;
            }
            Err(shared) => log = shared,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The public refusal for what the log says.
pub fn refusal(error: &StoreError) -> ErrorInfo {
    let text = error.to_string();
    let reason = match error {
        StoreError::Full { .. } => return Reason::QueueFull.error_retried(text, 10),
        StoreError::VersionConflict { actual, .. } => Reason::StreamVersion { actual: *actual },
        StoreError::IdConflict { seq, .. } => Reason::EventId { seq: *seq },
        StoreError::Invalid { what, .. } => Reason::InvalidValue {
            method: None,
            part: Some((*what).to_string()),
        },
        StoreError::Limit { what, .. } => Reason::Events {
            what: (*what).to_string(),
        },
        StoreError::UnknownConsumer { .. } => Reason::UnknownConsumer,
        StoreError::Unacknowledged { .. } => Reason::Unacknowledged,
        StoreError::Internal { .. } => Reason::Internal,
        _ => {
            let cause = match error {
                StoreError::DiskFull { .. } => "disk_full",
                StoreError::Corrupt { .. } => "damaged",
                StoreError::TooNew { .. } => "later_version",
                StoreError::NoNumbers => "no_numbers",
                StoreError::Closed => "closed",
                _ => "io",
            };
            let cause = Some(cause.to_string());
            return Reason::NoStore { cause }.error_retried(text, 1000);
        }
    };
    reason.error(text)
}
