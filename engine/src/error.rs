//! The one error type of the crate.
//!
//! Every variant names what was tried and on what, says what to do, and keeps its source. [`Error::is_temporary`] tells
//! whether the same call may succeed later without anyone changing anything.
//!
//! Invariant: no message holds a credential; messages of the layers below are redacted before they get here.

use std::{path::PathBuf, time::Duration};

use lazurite_env::ErrorKind;

use crate::{codec::CodecError, key_groups::KeyGroupRange};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the engine failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or an object could not be read or written, outside RocksDB.
    #[error(transparent)]
    Env(#[from] lazurite_env::Error),

    /// RocksDB refused or failed.
    #[error("RocksDB could not {operation} {target}: {kind}: {message}; {}", advice(*.kind))]
    RocksDb {
        /// What was tried: a verb.
        operation: &'static str,
        /// The table's name, or the path of the database.
        target: String,
        /// What went wrong, by what the caller can do about it.
        kind: ErrorKind,
        /// RocksDB's own words, or those of the file that failed below it.
        message: String,
        /// The error of the file or object that failed below RocksDB, where that was the cause and is still known.
        #[source]
        cause: Option<lazurite_env::Error>,
    },

    /// A key or a value could not be turned into bytes, or bytes into a key or a value.
    #[error(
        "table {table}: cannot convert the {what}: {source}; use the codec and the types that the table was written with"
    )]
    Codec {
        /// The table.
        table: String,
        /// Which part: `key`, `value`, `user key` or `stored key`.
        what: &'static str,
        /// What the codec says.
        source: CodecError,
    },

    /// A table is declared otherwise than it was written.
    #[error(
        "table {table}: its {field} was written as {stored:?} but is declared as {declared:?}; declare it as it was \
         written, or read it with the old descriptor and write a new table"
    )]
    TableMismatch {
        /// The table.
        table: String,
        /// Which part of the declaration differs.
        field: &'static str,
        /// What is stored.
        stored: String,
        /// What the descriptor says.
        declared: String,
    },

    /// A key belongs to a key group that this backend does not own, or this reader was not opened for.
    #[error(
        "key group {key_group} is not among the key groups {range} that are open here; send the key to the backend that owns its key \
         group, or open a reader for it"
    )]
    KeyGroupOutOfRange {
        /// The key's group.
        key_group: u16,
        /// What this backend owns, or this reader holds.
        range: KeyGroupRange,
    },

    /// A write batch was made by another backend than the one that it was used with.
    #[error(
        "the write batch belongs to another backend; make it with write_batch() of the backend that writes it"
    )]
    ForeignBatch,

    /// An option, a name or a range cannot be right.
    #[error("{option}: {reason}")]
    InvalidOption {
        /// Which.
        option: &'static str,
        /// Why, and what it must be.
        reason: String,
    },

    /// The snapshot does not exist, or no longer does.
    #[error(
        "job {job} has no snapshot {id}; list the snapshots that there are, or restore the latest"
    )]
    SnapshotNotFound {
        /// The job.
        job: String,
        /// The snapshot.
        id: u64,
    },

    /// A snapshot's file is missing or its bytes are not those that were written.
    #[error(
        "snapshot file {path} is damaged: {reason}; restore another snapshot, and verify the store"
    )]
    SnapshotCorrupt {
        /// The object.
        path: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A snapshot does not hold every key group that the backend is to own.
    #[error(
        "snapshot {id} holds of operator {operator} the key groups {} but {requested} are asked for; ask for a range inside them, with \
         the same number of key groups and the operator's name of then",
        ranges(stored)
    )]
    RangeNotCovered {
        /// The snapshot.
        id: u64,
        /// The operator.
        operator: String,
        /// What it holds of it.
        stored: Vec<KeyGroupRange>,
        /// What the backend is to own.
        requested: KeyGroupRange,
    },

    /// More snapshots failed one after another than the coordinator was told to tolerate.
    #[error(
        "{failures} snapshots failed one after another; see the log for why, and restart the job from the newest complete one"
    )]
    TooManySnapshotFailures {
        /// How many.
        failures: u32,
    },

    /// A backend that holds a part of a job was asked for a snapshot of the job.
    #[error(
        "this backend holds the key groups {range} alone of what snapshot {id} holds: a snapshot of it would be one of the job \
         without the rest; have a coordinator complete one of all subtasks"
    )]
    PartOfSnapshot {
        /// The snapshot that it was restored from.
        id: u64,
        /// The key groups that it holds.
        range: KeyGroupRange,
    },

    /// The local directory cannot be used.
    #[error("local directory {}: {reason}", path.display())]
    LocalDirectory {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },

    /// Another snapshot of this backend is still being written.
    #[error("a snapshot is still being written; wait for it or abort it")]
    SnapshotInProgress,

    /// The snapshot was aborted before it was complete. What it uploaded is not part of any snapshot.
    #[error("the snapshot was aborted; take another one")]
    SnapshotAborted,

    /// The snapshot took longer than the backend's snapshot timeout.
    #[error(
        "the snapshot was not complete after {after:?}; take another one, or raise the snapshot timeout"
    )]
    SnapshotTimedOut {
        /// The timeout.
        after: Duration,
    },

    /// Another writer of the same job took the snapshot's id first, or a later one. This backend takes no more snapshots. Where
    /// that was found after the commit, the snapshot exists, but the other writer may not know of it: do not count on it.
    #[error(
        "another writer has already written snapshot {id} of this job, or a later one; make sure that one backend runs per \
         job, and open it again"
    )]
    SnapshotConflict {
        /// The id that both wanted.
        id: u64,
    },

    /// Another job has taken over what lies there.
    #[error(
        "{path} was claimed by job {by}, which owns it from then on; go on with that job, or begin another one with a snapshot of it"
    )]
    Claimed {
        /// The directory of the job, or of the savepoint.
        path: String,
        /// Who has it.
        by: String,
    },

    /// There is something where the savepoint is to be.
    #[error("the directory {path} for the savepoint is not empty; give another one")]
    SavepointExists {
        /// The directory.
        path: String,
    },

    /// The backend is closed.
    #[error("the backend is closed; open it again")]
    Closed,
}

impl Error {
    /// True where the same call may succeed later without anyone changing anything: a timeout, an unreachable store.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Env(error) => error.is_temporary(),
            Error::RocksDb { kind, .. } => kind.is_temporary(),
            Error::SnapshotInProgress | Error::SnapshotTimedOut { .. } => true,
            _ => false,
        }
    }
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::TimedOut | ErrorKind::Unavailable => "try again",
        ErrorKind::NoSpace => "free some disk space and open the backend again",
        ErrorKind::PermissionDenied => "check the permissions of the directory and of the store",
        ErrorKind::Locked => "stop the other process that has it open",
        ErrorKind::NotFound | ErrorKind::Corruption => {
            "restore a snapshot into an empty directory, and check the disk and the store"
        }
        ErrorKind::InvalidInput | ErrorKind::Unsupported => {
            "check the options and the version that wrote the state"
        }
        _ => "see the cause, and open the backend again once it is gone",
    }
}

/// `0..=63, 64..=127`, or `none`.
fn ranges(ranges: &[KeyGroupRange]) -> String {
    match ranges {
        [] => "none".to_owned(),
        _ => {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            ranges.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_happened_and_what_to_do() {
        let error = Error::RocksDb {
            operation: "flush",
            target: "counts".into(),
            kind: ErrorKind::NoSpace,
            message: "While appending to file".into(),
            cause: None,
        };
        assert_eq!(
            error.to_string(),
            "RocksDB could not flush counts: no space left: While appending to file; free some disk space and open the \
             backend again"
        );
        assert!(!error.is_temporary());
    }

    #[test]
    fn what_is_temporary_below_is_temporary_here() {
        let below = lazurite_env::Error::new(ErrorKind::Unavailable, "read", "s3://b/k", "");
        let error = Error::RocksDb {
            operation: "read",
            target: "counts".into(),
            kind: below.kind(),
            message: below.to_string(),
            cause: Some(below.clone()),
        };
        assert!(error.is_temporary());
        assert!(Error::from(below).is_temporary());
        assert!(std::error::Error::source(&error).is_some());
        assert!(!Error::Closed.is_temporary());
    }
}
