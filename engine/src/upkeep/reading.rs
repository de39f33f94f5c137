//! Reads what the snapshots of a job name while the job goes on.
//!
//! What must come of it: whoever looks afterwards for a snapshot of the job finds one that was read here, or one that was completed
//! since. A newer one that was completed since names what the one before it names and what was uploaded lately, and so on down to
//! one that was complete when the job was listed: so it is enough that the newest of these is read, and whatever else stays.
//!
//! It is looked for from the highest number down, one by one. A writer that completes a snapshot meanwhile deletes older ones, the
//! oldest first (`retention`); so where one is found, none above it was complete when the job was listed and has been deleted since.
//! Where none is found at all, the job is listed and looked at again, until nothing changes any more.

use serde::Serialize;

use lazurite_env::ErrorKind;

use super::metadata_key;
use crate::{
    Error, Result, SnapshotStore,
    parallel::in_parallel,
    snapshot::{
        SnapshotMetadata,
        layout::JobLayout,
        place::Place,
        store::{is_missing, list_ids, load},
    },
};

/// `_metadata` objects in memory at once.
const PARALLEL_READS: usize = 4;

/// How often a job without any complete snapshot is looked at anew, at the least.
const LOOKS: usize = 3;

/// A `_metadata` that cannot be read: what its snapshot needs is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unreadable {
    /// The job.
    pub job: String,
    /// The snapshot.
    pub id: u64,
    /// The object.
    pub key: String,
    /// What is the matter.
    pub cause: UnreadableCause,
    /// In words.
    pub reason: String,
}

/// Why a `_metadata` cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnreadableCause {
    /// Its bytes are not those that were written.
    Corrupt,
    /// A newer version of this program wrote it.
    Newer,
    /// The permissions do not allow it.
    Denied,
}

/// What takes the snapshots as they are read, each once, and the fences, from several threads.
pub(super) type Each<'a> = &'a (dyn Fn(&str, Result<SnapshotMetadata, Unreadable>) + Sync);

/// Gives every complete snapshot and fence of the job, or what keeps it from being read, to `each`. True where another job has claimed this one,
/// as it was when the last of them had been read.
///
/// # Errors
/// Where the store cannot be read: then it is not known whether it was all.
pub(super) fn read_job(of: &SnapshotStore, job: &str, each: Each<'_>) -> Result<bool> {
    let layout = JobLayout::new(job)?;
    let list = || list_ids(&of.store, &of.runtime, &layout);
    let mut listing = list()?;
    let mut looks = 0;
    loop {
        let mut rest = listing.ids.clone();
        while let Some(id) = rest.pop() {
            if read_one(of, &layout, id, each)? == Under::Snapshot {
                let older: Vec<u64> = rest;
                in_parallel(PARALLEL_READS, &older, |id| {
                    read_one(of, &layout, *id, each)
                })?;
                return Ok(list()?.claimed);
            }
        }
        let again = list()?;
        looks = if again.ids == listing.ids {
            looks + 1
        } else {
            0
        };
        if looks >= listing.ids.len().min(LOOKS - 1) {
            return Ok(again.claimed);
        }
        listing = again;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Under {
    Nothing,
    Fence,
    Snapshot,
}

fn read_one(of: &SnapshotStore, layout: &JobLayout, id: u64, each: Each<'_>) -> Result<Under> {
    let job = layout.job().as_str();
    match read(of, layout, id)? {
        None => Ok(Under::Nothing),
        Some(read) => {
            let under = match &read {
                Ok(metadata) if metadata.is_fence() => Under::Fence,
                _ => Under::Snapshot,
            };
            each(job, read);
            Ok(under)
        }
    }
}

/// What was committed under `id`; `None` where nothing was, or no longer is.
pub(super) fn read(
    of: &SnapshotStore,
    layout: &JobLayout,
    id: u64,
) -> Result<Option<Result<SnapshotMetadata, Unreadable>>> {
    let error = match load(&of.store, &of.runtime, &Place::Snapshot(layout.clone(), id)) {
        Ok(found) => return Ok(Some(Ok(found.metadata))),
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => error,
    };
    let cause = match &error {
        Error::SnapshotCorrupt { .. } => UnreadableCause::Corrupt,
        Error::Env(error) => match error.kind() {
            ErrorKind::Corruption => UnreadableCause::Corrupt,
            ErrorKind::Unsupported => UnreadableCause::Newer,
            ErrorKind::PermissionDenied => UnreadableCause::Denied,
            _ => return Err(Error::Env(error.clone())),
        },
        _ => return Err(error),
    };
    let job = layout.job().to_string();
    Ok(Some(Err(Unreadable {
        key: metadata_key(&job, id),
        job,
        id,
        cause,
        reason: error.to_string(),
    })))
}
