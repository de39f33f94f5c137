//! The last step of a snapshot: `_metadata`, created by the store's one atomic operation.
//!
//! Before it the snapshot does not exist; after it, it is complete. Of two writers that race for one id exactly one
//! wins. When the answer is lost (a time-out, or a retry that meets its own first attempt), the object is read back:
//! `_metadata` names its writer, so it tells our commit from another's.

use bytes::Bytes;
use lazurite_env::ErrorKind;

use super::{context::Context, metadata::SnapshotMetadata};
use crate::{Error, Result};

/// Commits. `SnapshotConflict` where another writer has this id; any other error leaves it open whether the snapshot
/// exists only where the error is temporary, and says so.
pub(crate) fn commit(context: &Context, metadata: &SnapshotMetadata) -> Result<u64> {
    let bytes = Bytes::from(metadata.encode()?);
    let len = bytes.len() as u64;
    let key = context.layout.metadata(metadata.id);
    let (store, put_key, put_bytes) = (context.store.clone(), key.clone(), bytes.clone());
    let put = context
        .runtime
        .wait(async move { store.put_if_absent(&put_key, put_bytes).await });
    let Err(error) = put else { return Ok(len) };
    let store = context.store.clone();
    match context.runtime.wait(async move { store.get(&key).await }) {
        Ok(found) if found == bytes => Ok(len),
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
