//! Reads what the snapshots of a job name while the job goes on.
//!
//! What must come of it: all that a snapshot names which is completed later is named by one that was read, or was uploaded lately. A
//! snapshot names what the complete snapshot names that its writer began with or wrote last, and what was uploaded lately. That one is
//! not always the newest: a job may be rolled back to any of its snapshots. So every snapshot must be read that was complete when the reading
//! ended, but for those that were completed meanwhile from one that was read.
//!
//! The newest is looked for from the highest number down, one by one. A writer that completes a snapshot meanwhile deletes older ones, the
//! oldest first (`retention`); so where one is found, none above it was complete when the job was listed and has been deleted since.
//! Where none is found at all, the job is listed and looked at again, until nothing changes any more.
//!
//! An older one that is gone when it is to be read was subsumed: a newer snapshot was completed first, which may have begun with it and
//! be the only one left that names its files. So after the older ones the numbers above the newest are listed again, and those under which
//! nothing was read so far are read, the lowest first: what is gone then was subsumed by one above, which is read next, or is new in the
//! next listing. It ends when nothing is found and the listing has stayed as it was. A claim counts as such a change: the snapshot that
//! was claimed was complete before it, so it is looked for once more.

use std::collections::BTreeSet;

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
        store::{Listing, is_missing, list_ids, load},
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
    /// The snapshot; 0 where it is the claim of the job, `_claimed`.
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

/// What takes the snapshots as they are read, each once, and the fences, some twice, from several threads.
pub(super) type Each<'a> = &'a (dyn Fn(&str, Result<SnapshotMetadata, Unreadable>) + Sync);

/// Gives every complete snapshot and fence of the job, or what keeps it from being read, to `each`. True where another job has claimed this one:
/// the snapshot that it began with was read then, or it has one of its own that names the same.
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
                in_parallel(PARALLEL_READS, &rest, |id| read_one(of, &layout, *id, each))?;
                return read_newer(of, &layout, id, each);
            }
        }
        let again = list()?;
        looks = if again == listing { looks + 1 } else { 0 };
        if looks >= listing.ids.len().min(LOOKS - 1) {
            return Ok(again.claimed);
        }
        listing = again;
    }
}

/// Reads what was completed above `newest` since that was found to be the newest. The same as of [`read_job`].
fn read_newer(of: &SnapshotStore, layout: &JobLayout, newest: u64, each: Each<'_>) -> Result<bool> {
    let list = || list_ids(&of.store, &of.runtime, layout);
    let mut read = BTreeSet::new();
    let mut listing = list()?;
    loop {
        let mut is_settled = true;
        for id in listing.ids.iter().filter(|id| **id > newest) {
            if !read.contains(id) && read_one(of, layout, *id, each)? != Under::Nothing {
                read.insert(*id);
                is_settled = false;
            }
        }
        let again = list()?;
        let above = |of: &Listing| {
            of.ids
                .iter()
                .copied()
                .filter(|id| *id > newest)
                .collect::<Vec<_>>()
        };
        is_settled &= above(&again) == above(&listing) && again.claimed == listing.claimed;
        if is_settled {
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
