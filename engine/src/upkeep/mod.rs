//! What an operator does for a store while jobs write to it: find and remove what nobody needs
//! ([`SnapshotStore::gc`](crate::SnapshotStore::gc)), and find what is damaged ([`SnapshotStore::fsck`](crate::SnapshotStore::fsck)).
//!
//! `listing` is what lies there, `reading` what the snapshots name, `survey` both together. Neither command needs a lock, a
//! backend, or that anybody stops: why that is safe stands in `gc`. Nothing outside of `<job>/shared`, `<job>/chk-<n>` and the
//! markers beside these is ever touched; what has a name that no job gives is reported and left.

mod breaks;
mod fsck;
mod gc;
mod listing;
mod reading;
mod survey;

pub use breaks::{Broken, BrokenState, BrokenTable};
pub use fsck::{Damage, FsckOptions, FsckProgress, FsckReport};
pub use gc::{FailedDeletion, GcJob, GcOptions, GcReport};
pub use listing::{ObjectKind, UnknownObject};
pub use reading::{Unreadable, UnreadableCause};
pub use survey::{Count, JobObjects, Orphan};

use crate::{Error, Result, SnapshotStore};

/// The jobs to look at: the one asked for, or all.
fn wanted(all: &[String], asked: Option<&str>) -> Result<Vec<String>> {
    match asked {
        None => Ok(all.to_vec()),
        Some(job) if all.iter().any(|of| of == job) => Ok(vec![job.to_owned()]),
        Some(job) => Err(Error::InvalidOption {
            option: "job",
            reason: format!("the store holds nothing of a job {job:?}"),
        }),
    }
}

/// A `_metadata` that says what `metadata` does, for errors and findings.
fn metadata_key(job: &str, id: u64) -> String {
    format!("{job}/chk-{id}/_metadata")
}

/// Requests of one kind under way at once.
const PARALLEL: usize = 16;

impl SnapshotStore {
    /// Waits for `work` on the I/O threads.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = lazurite_env::Result<T>> + Send + 'static,
    ) -> Result<T> {
        Ok(self.runtime.wait(work)?)
    }
}
