//! The one round of requests of a restore, and the checks on what it brought.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{try_join_all, try_join3};
use lazurite_env::{
    Error as EnvError, ErrorKind, IoRuntime,
    remote::{Key, Listed, RemoteStore},
};
use lazurite_tiering::Checksum;

use crate::{
    Error, Result,
    snapshot::{SnapshotMetadata, layout::JobLayout, store::lengths},
};

/// What a restore needs of the store before RocksDB opens.
pub(super) struct Fetched {
    pub(super) manifest: Bytes,
    /// In the order of the metadata's tails.
    pub(super) tails: Vec<Bytes>,
}

struct Wanted {
    key: Key,
    len: u64,
    checksum: Checksum,
}

/// Fetches the manifest and the tails, and lists the shared objects: all at once, so in one round trip (and one more
/// for each further page of a long listing).
pub(super) fn fetch(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
    metadata: &SnapshotMetadata,
) -> Result<Fetched> {
    let wanted = |key: &str, len, checksum| -> Result<Wanted> {
        Ok(Wanted {
            key: layout.own(key)?,
            len,
            checksum,
        })
    };
    let manifest = &metadata.manifest;
    let manifest = wanted(&manifest.key, manifest.len, manifest.checksum)?;
    let tails = metadata
        .tails
        .iter()
        .map(|t| wanted(&t.key, t.len, t.checksum))
        .collect::<Result<Vec<_>>>()?;
    let (store, shared) = (store.clone(), layout.shared());
    let no_files = metadata.files.is_empty();
    let fetched = runtime.wait(async move {
        let list = async {
            if no_files {
                Ok(Vec::new())
            } else {
                store.list(Some(&shared)).await
            }
        };
        try_join3(
            get(&store, manifest),
            try_join_all(tails.into_iter().map(|t| get(&store, t))),
            list,
        )
        .await
    });
    let (manifest, tails, listed) = fetched.map_err(as_damage)?;
    check_files(layout, metadata, listed)?;
    Ok(Fetched { manifest, tails })
}

/// One object, its length and checksum verified.
async fn get(store: &Arc<dyn RemoteStore>, wanted: Wanted) -> lazurite_env::Result<Bytes> {
    let bytes = store.get(&wanted.key).await?;
    if bytes.len() as u64 != wanted.len {
        return Err(EnvError::new(
            ErrorKind::Corruption,
            "read",
            wanted.key.as_str(),
            format!(
                "it has {} bytes, the snapshot wrote {}",
                bytes.len(),
                wanted.len
            ),
        ));
    }
    let found = Checksum::of(&bytes);
    if found != wanted.checksum {
        return Err(EnvError::new(
            ErrorKind::Corruption,
            "read",
            wanted.key.as_str(),
            format!(
                "its checksum is {found}, the snapshot wrote {}",
                wanted.checksum
            ),
        ));
    }
    Ok(bytes)
}

/// A missing or corrupt object of a complete snapshot is damage to that snapshot.
fn as_damage(error: EnvError) -> Error {
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

/// Refuses a snapshot of which a table file is missing or has another length.
fn check_files(layout: &JobLayout, metadata: &SnapshotMetadata, listed: Vec<Listed>) -> Result<()> {
    let present = lengths(&layout.shared(), listed);
    for file in &metadata.files {
        let reason = match present.get(&file.key) {
            Some(len) if *len == file.len => continue,
            Some(len) => format!("it has {len} bytes, the snapshot wrote {}", file.len),
            None => "it is missing".to_owned(),
        };
        return Err(Error::SnapshotCorrupt {
            path: file.key.clone(),
            reason,
        });
    }
    Ok(())
}
