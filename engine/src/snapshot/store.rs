//! Reads what snapshots a store holds, without a backend: the `SnapshotStore` of tools and of a restore.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::future::try_join;
use lazurite_env::{
    Error as EnvError, ErrorKind, IoRuntime,
    remote::{Key, Listed, RemoteStore},
};

use super::{
    layout::{JobLayout, is_job_name, snapshot_id},
    metadata::{MAX_METADATA_BYTES, SnapshotMetadata},
    place::{CLAIMED, Place},
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
        for id in list_ids(&self.store, &self.runtime, &layout)?.ids {
            let place = Place::Snapshot(layout.clone(), id);
            match load(&self.store, &self.runtime, &place) {
                // Nothing was committed under this number.
                Err(error) if is_missing(&error) => {}
                // A store that cannot be reached is not a finding about one snapshot.
                Err(error) if error.is_temporary() => return Err(error),
                Ok(found) if found.metadata.is_fence() => {}
                result => snapshots.push((id, result.map(|found| found.metadata))),
            }
        }
        Ok(snapshots)
    }

    /// The metadata of one snapshot, verified.
    pub fn load(&self, job: &str, id: u64) -> Result<SnapshotMetadata> {
        let layout = JobLayout::new(job)?;
        let missing = || Error::SnapshotNotFound {
            job: job.into(),
            id,
        };
        match load(&self.store, &self.runtime, &Place::Snapshot(layout, id)) {
            Ok(found) if found.metadata.is_fence() => Err(missing()),
            Ok(found) => Ok(found.metadata),
            Err(error) if is_missing(&error) => Err(missing()),
            Err(error) => Err(error),
        }
    }
}

/// What a listing of a job's directory tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The numbers under which there is anything, complete or not, in growing order.
    pub(crate) ids: Vec<u64>,
    /// Another job has taken all of it over.
    pub(crate) claimed: bool,
}

/// Lists the job's directory. One request.
pub(crate) fn list_ids(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
) -> Result<Listing> {
    Ok(runtime.wait(look_for_ids(store.clone(), layout.clone()))?)
}

/// Lists the job's directory. One request.
pub(crate) async fn look_for_ids(
    store: Arc<dyn RemoteStore>,
    layout: JobLayout,
) -> lazurite_env::Result<Listing> {
    let listed = store.list(Some(layout.job())).await?;
    let mut ids: Vec<u64> = listed_ids(&listed).collect();
    ids.sort_unstable();
    let claimed = listed.iter().any(|entry| match entry {
        Listed::Object { name, .. } => name == CLAIMED,
        Listed::Prefix { .. } => false,
    });
    Ok(Listing { ids, claimed })
}

/// The lengths of the objects in a listing of `prefix`, by key.
pub(crate) fn lengths(prefix: &Key, listed: Vec<Listed>) -> HashMap<String, u64> {
    let objects = listed.into_iter().filter_map(|entry| match entry {
        Listed::Object { name, len, .. } => Some((format!("{prefix}/{name}"), len)),
        Listed::Prefix { .. } => None,
    });
    objects.collect()
}

/// The numbers in a listing of the job, in no order.
fn listed_ids(listed: &[Listed]) -> impl Iterator<Item = u64> {
    listed.iter().filter_map(|entry| match entry {
        Listed::Prefix { name } => snapshot_id(name),
        Listed::Object { .. } => None,
    })
}

/// What lies beside a snapshot's `_metadata`.
pub(crate) struct Under {
    /// `_metadata`, not verified; `None` where the snapshot was never completed.
    pub(crate) metadata: Option<Bytes>,
    /// The lengths of the objects, by key.
    pub(crate) lengths: HashMap<String, u64>,
}

/// Reads what lies at `place`: a listing and `_metadata`, at once, so in one round trip. `_metadata` is taken to be missing
/// only where a listing after that does not show it; where the first one does, it is asked for once more.
///
/// # Errors
/// `Unavailable` where the store lists `_metadata` and denies it.
/// `Corruption` where the listing shows a `_metadata` that is longer than any: it is not read then, or given up.
pub(crate) async fn look_under(
    store: Arc<dyn RemoteStore>,
    place: Place,
) -> lazurite_env::Result<Under> {
    let (prefix, key) = (place.dir(), place.metadata());
    let too_long = |len: u64| {
        (len > MAX_METADATA_BYTES).then(|| {
            EnvError::new(
                ErrorKind::Corruption,
                "read",
                key.as_str(),
                format!("it has {len} bytes, a snapshot's has at most {MAX_METADATA_BYTES}"),
            )
        })
    };
    let list = async {
        let lengths = lengths(&prefix, store.list(Some(&prefix)).await?);
        match lengths.get(key.as_str()).and_then(|len| too_long(*len)) {
            Some(error) => Err(error), // Drops the read below.
            None => Ok(lengths),
        }
    };
    let get = async {
        match store.get(&key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    let (mut lengths, mut metadata) = try_join(list, get).await?;
    if metadata.is_none() && lengths.contains_key(key.as_str()) {
        // Committed in between, deleted in between, or denied.
        metadata = match store.get(&key).await {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        if metadata.is_none() {
            lengths = self::lengths(&prefix, store.list(Some(&prefix)).await?);
        }
    }
    if metadata.is_none() && lengths.contains_key(key.as_str()) {
        // One that denies for a moment what it has must not turn a complete snapshot into one that never was: an older one
        // would be restored, or files go that it needs.
        return Err(EnvError::new(
            ErrorKind::Unavailable,
            "get",
            key.as_str(),
            "the store lists this object, but says that it is not there; try again",
        ));
    }
    match metadata.as_ref().and_then(|b| too_long(b.len() as u64)) {
        Some(error) => Err(error),
        None => Ok(Under { metadata, lengths }),
    }
}

/// A complete snapshot.
pub(crate) struct Found {
    /// Verified.
    pub(crate) metadata: SnapshotMetadata,
    /// Where it lies.
    pub(crate) place: Place,
    /// The lengths of the objects beside it, by key.
    pub(crate) lengths: HashMap<String, u64>,
}

/// Reads and verifies `_metadata`; a not-found error where the snapshot was never completed. Two requests at once.
pub(crate) fn load(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    place: &Place,
) -> Result<Found> {
    let under = runtime.wait(look_under(store.clone(), place.clone()));
    decode(place, under.map_err(as_damage)?)
}

/// Verifies what was found at `place`; a not-found error where the snapshot was never completed.
pub(crate) fn decode(place: &Place, under: Under) -> Result<Found> {
    let Under { metadata, lengths } = under;
    let Some(bytes) = metadata else {
        let key = place.metadata();
        return Err(EnvError::new(ErrorKind::NotFound, "get", key.as_str(), "").into());
    };
    Ok(Found {
        metadata: SnapshotMetadata::decode(place, &bytes)?,
        place: place.clone(),
        lengths,
    })
}

/// A missing or corrupt object of a complete snapshot is damage to that snapshot.
pub(crate) fn as_damage(error: EnvError) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Corruption => Error::SnapshotCorrupt {
            path: error.path().to_owned(),
            reason: match error.message() {
                "" => error.kind().to_string(),
                message => message.to_owned(),
            },
        },
        _ => error.into(),
    }
}

/// True where the store answered that there is no such object.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Env(error) if error.is_not_found())
}
