//! Everything the event log can refuse or fail with, in one family.
//!
//! An error is cloned to every caller of the group that it hit, so it owns its texts. Each names
//! the thing, the value and, where there is one, what to do.

use crate::event::Expected;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The queue to the writer is full. Nothing was changed; try again later.
    #[error("{events} events ({bytes} bytes) wait for the disk already; try again later")]
    Full {
        /// Events that wait.
        events: usize,
        /// Their size.
        bytes: usize,
    },
    /// The stream is at another version than the caller expects. Nothing was changed.
    #[error("stream {stream:?} is at version {actual}, and {expected} was expected; read it anew")]
    VersionConflict {
        /// The stream.
        stream: String,
        /// What the caller expected.
        expected: Expected,
        /// The version of its last event; 0 when it has none.
        actual: u64,
    },
    /// An event with this id and other content is in the log. Nothing was changed.
    #[error("event id {id:?} belongs to event {seq}, which has other content; use a new id")]
    IdConflict {
        /// The id.
        id: String,
        /// The event that has it.
        seq: u64,
    },
    /// The event or the request breaks a rule.
    #[error("{what} {detail}")]
    Invalid {
        /// The part that is wrong.
        what: &'static str,
        /// How, and what is right.
        detail: String,
    },
    /// A fixed amount of something is used up.
    #[error("the log has {limit} {what} already; {fix}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
        /// What to do.
        fix: &'static str,
    },
    /// Nobody registered this consumer.
    #[error("there is no consumer {name:?}; register it first")]
    UnknownConsumer {
        /// The name asked for.
        name: String,
    },
    /// A consumer has not acknowledged what a compaction would replace.
    #[error("consumer {consumer:?} has acknowledged up to {cursor} only, compaction needs {to}")]
    Unacknowledged {
        /// The consumer.
        consumer: String,
        /// What it has acknowledged.
        cursor: u64,
        /// What is needed.
        to: u64,
    },
    /// The disk, or the limit of the file, is reached. Nothing was changed.
    #[error("no space for the event log: {detail}; free space on its file system")]
    DiskFull {
        /// What SQLite said.
        detail: String,
    },
    /// The file is damaged. Opening it anew salvages what can be read.
    #[error("the event log is damaged: {detail}; opening it anew salvages it")]
    Corrupt {
        /// What SQLite said.
        detail: String,
    },
    /// The file was made by a later version.
    #[error("the event log has schema {found}, this version knows {known}; update kairod")]
    TooNew {
        /// Its schema.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
    /// The operating system failed.
    #[error("the event log cannot be used: {detail}")]
    Io {
        /// What it said.
        detail: String,
    },
    /// The numbers that were reserved while the disk worked are used up.
    #[error("no event number is left that is safe to use; the log must become writable first")]
    NoNumbers,
    /// The log is being closed.
    #[error("the event log is closed")]
    Closed,
    /// A bug in this crate or in a caller's own rows.
    #[error("internal error of the event log: {detail}")]
    Internal {
        /// What SQLite said.
        detail: String,
    },
}

impl StoreError {
    /// An [`StoreError::Invalid`].
    pub(crate) fn invalid(what: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::Invalid { what, detail }
    }

    /// Whether nothing more can be done in the transaction that it happened in, other than a
    /// refusal of one event.
    pub(crate) fn ends_the_transaction(&self) -> bool {
        matches!(
            self,
            Self::DiskFull { .. } | Self::Corrupt { .. } | Self::Io { .. } | Self::Internal { .. }
        )
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { detail },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { detail },
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
                | ErrorCode::OutOfMemory,
            ) => Self::Io { detail },
            // A row of a type that the schema excludes can only come from a damaged page.
            None if is_of_a_row(&error) => Self::Corrupt { detail },
            _ => Self::Internal { detail },
        }
    }
}

fn is_of_a_row(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        let detail = error.to_string();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { detail }
            }
            _ => Self::Io { detail },
        }
    }
}
