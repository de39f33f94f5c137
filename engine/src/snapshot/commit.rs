//! The last step of a snapshot: `_metadata`, created by the store's one atomic operation.
//!
//! Before it the snapshot does not exist; after it, it is complete. Of two writers that race for one id exactly one
//! wins. When the answer is lost (a time-out, or a retry that meets its own first attempt), the object is read back: no two
//! attempts have the same bytes, since `_metadata` names its manifest, so they tell our commit from another's.

use bytes::Bytes;
use lazurite_env::{ErrorKind, remote::Key};

use super::{
    committer::Committer, metadata::SnapshotMetadata, pending::Deadline, place::Place,
    store::SnapshotStore,
};
use crate::{Error, Result};

/// Commits at `place`. `SnapshotConflict` where another writer has it. After any other error the snapshot may exist or not; the
/// caller must not use its number again. An abort does not stop it: it would leave that open.
pub(crate) fn commit(
    committer: &Committer,
    place: &Place,
    metadata: &SnapshotMetadata,
    deadline: &Deadline,
) -> Result<u64> {
    deadline.check()?;
    let bytes = Bytes::from(metadata.encode(place)?);
    let len = bytes.len() as u64;
    let key = place.metadata();
    let (store, put_key, put_bytes) = (committer.store.clone(), key.clone(), bytes.clone());
    let until = deadline.clone();
    let put = committer.runtime.wait(async move {
        Ok(until
            .in_time(store.put_if_absent(&put_key, put_bytes))
            .await)
    })?;
    let error = match put {
        Ok(()) => return Ok(len),
        Err(Error::Env(error)) => error,
        Err(timed_out) => return Err(timed_out),
    };
    // Only where the answer was lost may the object be ours and durable. Any other error, of a sync that failed say, stands,
    // even if the object can be read: it may be gone after a power cut.
    if !error.is_temporary() && error.kind() != ErrorKind::AlreadyExists {
        return Err(error.into());
    }
    let (store, until) = (committer.store.clone(), deadline.clone());
    // No more is read than could be our own.
    let read = async move {
        match store.len(&key).await? {
            found if found == len => Ok(Some(store.get_range(&key, 0..len).await?)),
            _ => Ok(None),
        }
    };
    let read = committer
        .runtime
        .wait(async move { Ok(until.in_time(read).await) })?;
    let read = match read {
        Err(Error::Env(read)) => Err(read),
        other => Ok(other?),
    };
    match read {
        Ok(Some(found)) if found == bytes => Ok(len),
        Ok(_) => Err(Error::SnapshotConflict { id: metadata.id }),
        Err(read) if read.is_not_found() => Err(error.into()),
        Err(read) => {
            tracing::warn!(error = %read, id = metadata.id, "whether the snapshot was committed is not known");
            let kind = if error.kind() == ErrorKind::AlreadyExists {
                read
            } else {
                error
            };
            Err(kind.into())
        }
    }
}

/// Commits a savepoint in `dir`.
///
/// # Errors
/// As [`commit`]; `SavepointExists` where there is another one.
pub(crate) fn commit_savepoint(
    committer: &Committer,
    dir: &Key,
    metadata: &SnapshotMetadata,
    deadline: &Deadline,
) -> Result<u64> {
    let place = Place::Savepoint(dir.clone());
    commit(committer, &place, metadata, deadline).map_err(|error| match error {
        Error::SnapshotConflict { .. } => Error::SavepointExists {
            path: dir.to_string(),
        },
        error => error,
    })
}

/// Refuses a directory in which there is anything. One request.
pub(crate) fn check_is_empty(store: &SnapshotStore, dir: &Key) -> Result<()> {
    let (of, prefix) = (store.store.clone(), dir.clone());
    let listed = store
        .runtime
        .wait(async move { of.list(Some(&prefix)).await })?;
    if listed.is_empty() {
        return Ok(());
    }
    Err(Error::SavepointExists {
        path: dir.to_string(),
    })
}
