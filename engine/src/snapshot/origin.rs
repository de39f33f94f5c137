//! The snapshot that a job begins with: another job's, or a savepoint.

use std::sync::Arc;

use lazurite_env::{IoRuntime, remote::RemoteStore};

use super::{
    claims::claim,
    job::look_at_job,
    place::{Path, SnapshotPath},
    store::{Found, is_missing, load},
};
use crate::{Error, Result};

/// The snapshot that the job is to begin with.
pub(crate) fn find(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    path: &SnapshotPath,
) -> Result<Found> {
    let none = || Error::InvalidOption {
        option: "initial_state",
        reason: format!("{path} is no complete snapshot in {}", store.uri()),
    };
    let found = match &path.0 {
        Path::Exactly(place) => load(store, runtime, place),
        Path::Latest(layout) => match look_at_job(store, runtime, layout)?.newest {
            Some((_, found)) => found,
            None => return Err(none()),
        },
    };
    match found {
        Ok(found) if found.metadata.is_fence() => Err(none()),
        Err(error) if is_missing(&error) => Err(none()),
        found => found,
    }
}

/// The snapshot that `job` is to begin with.
///
/// # Errors
/// [`Error::InvalidOption`] where there is none, or where it lies in the directory of the job itself.
pub(crate) fn find_for(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    path: &SnapshotPath,
    job: &str,
) -> Result<Found> {
    let found = find(store, runtime, path)?;
    if found.place.root().as_str() != job {
        return Ok(found);
    }
    Err(Error::InvalidOption {
        option: "initial_state",
        reason: format!(
            "{path} lies in the directory of the job itself; move it, or give the job another name"
        ),
    })
}

/// Claims what `found` is of for `job`; what is to be begun with then.
///
/// Who wrote it may be at work until then, and may delete an older snapshot even at that moment, for it looks for claims before it begins to delete. Its newest
/// one it never deletes: so where the newest is asked for, it is looked for again.
pub(crate) fn take(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    path: &SnapshotPath,
    found: &Found,
    job: &str,
) -> Result<Found> {
    let is_new = claim(store, runtime, &found.place, job)?;
    let again = find(store, runtime, path);
    if again.is_err() && is_new {
        // Nobody shall be locked out for nothing.
        let (store, key) = (store.clone(), found.place.claimed());
        if let Err(error) = runtime.wait(async move { store.delete(&key).await }) {
            tracing::warn!(%error, "the snapshot is gone, and its claim could not be taken back");
        }
    }
    again
}
