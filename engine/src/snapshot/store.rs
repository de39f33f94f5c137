//! Reads what snapshots a store holds, without a backend: the `SnapshotStore` of tools and of a restore.

use std::{collections::HashMap, sync::Arc};

use lazurite_env::{
    IoRuntime,
    remote::{Key, Listed, RemoteStore},
};

use super::{
    layout::{JobLayout, is_job_name, snapshot_id},
    metadata::SnapshotMetadata,
};
use crate::{Error, Result};

/// The snapshots in one store. Every call is one or a few requests and blocks for them; safe to call from any thread,
/// tokio workers included.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    pub(crate) store: Arc<dyn RemoteStore>,
    pub(crate) runtime: IoRuntime,
}

impl SnapshotStore {
    /// Reads the snapshots of `store` through `runtime`. No request yet.
    pub fn new(store: Arc<dyn RemoteStore>, runtime: IoRuntime) -> Self {
        SnapshotStore { store, runtime }
    }

    /// The jobs that have anything in the store, by name.
    pub fn jobs(&self) -> Result<Vec<String>> {
        let store = self.store.clone();
        let listed = self.runtime.wait(async move { store.list(None).await })?;
        let names = listed.into_iter().filter_map(|entry| match entry {
            Listed::Prefix { name } if is_job_name(&name) => Some(name),
            _ => None,
        });
        Ok(names.collect())
    }

    /// The job's complete snapshots, oldest first; each as it was read, so that one corrupt snapshot hides no other.
    pub fn list(&self, job: &str) -> Result<Vec<(u64, Result<SnapshotMetadata>)>> {
        let layout = JobLayout::new(job)?;
        let mut snapshots = Vec::new();
        for id in list_ids(&self.store, &self.runtime, &layout)? {
            match load(&self.store, &self.runtime, &layout, id) {
                // Nothing was committed under this number.
                Err(error) if is_missing(&error) => {}
                // A store that cannot be reached is not a finding about one snapshot.
                Err(error) if error.is_temporary() => return Err(error),
                result => snapshots.push((id, result)),
            }
        }
        Ok(snapshots)
    }

    /// The metadata of one snapshot, verified.
    pub fn load(&self, job: &str, id: u64) -> Result<SnapshotMetadata> {
        let layout = JobLayout::new(job)?;
        load(&self.store, &self.runtime, &layout, id).map_err(|error| match error {
            error if is_missing(&error) => Error::SnapshotNotFound {
                job: job.into(),
                id,
            },
            error => error,
        })
    }
}

/// The numbers under which the job has anything, complete or not, in growing order. One request.
pub(crate) fn list_ids(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
) -> Result<Vec<u64>> {
    let (store, job) = (store.clone(), layout.job().clone());
    let listed = runtime.wait(async move { store.list(Some(&job)).await })?;
    let mut ids: Vec<u64> = listed_ids(&listed).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The lengths of the objects in a listing of `prefix`, by key.
pub(crate) fn lengths(prefix: &Key, listed: Vec<Listed>) -> HashMap<String, u64> {
    let objects = listed.into_iter().filter_map(|entry| match entry {
        Listed::Object { name, len } => Some((format!("{prefix}/{name}"), len)),
        Listed::Prefix { .. } => None,
    });
    objects.collect()
}

/// The numbers in a listing of the job, in no order.
pub(crate) fn listed_ids(listed: &[Listed]) -> impl Iterator<Item = u64> {
    listed.iter().filter_map(|entry| match entry {
        Listed::Prefix { name } => snapshot_id(name),
        Listed::Object { .. } => None,
    })
}

/// Reads and verifies `_metadata`; a not-found error where the snapshot was never completed. One request.
pub(crate) fn load(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
    id: u64,
) -> Result<SnapshotMetadata> {
    let (store, key) = (store.clone(), layout.metadata(id));
    let bytes = runtime.wait(async move { store.get(&key).await })?;
    SnapshotMetadata::decode(layout, id, &bytes)
}

/// True where the store answered that there is no such object.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Env(error) if error.is_not_found())
}
