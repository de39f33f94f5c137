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

/// Claims what `found` is of. It may have been deleted until then, by the job that wrote it; from now on it is not.
pub(crate) fn take(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    found: &Found,
    job: &str,
) -> Result<()> {
    claim(store, runtime, &found.place, job)?;
    load(store, runtime, &found.place)?;
    Ok(())
}
