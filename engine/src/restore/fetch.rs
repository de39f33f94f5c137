//! The one round of requests of a restore, and the checks on what it brought.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::future::{try_join_all, try_join3};
use lazurite_env::{
    Error as EnvError, ErrorKind, IoRuntime,
    remote::{Key, RemoteStore},
};
use lazurite_tiering::Checksum;

use crate::{
    Error, Result,
    snapshot::{
        layout::JobLayout,
        store::{Found, as_damage, lengths},
    },
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

/// Fetches the manifest and the tails, and lists the shared objects: all at once, so in one round trip, however many there are.
pub(super) fn fetch(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
    found: &Found,
) -> Result<Fetched> {
    let metadata = &found.metadata;
    let wanted = |key: &str, len, checksum| -> Result<Wanted> {
        Ok(Wanted {
            key: layout.own(key)?,
            len,
            checksum,
        })
    };
    let manifest = &metadata.manifest;
    check_length(&found.lengths, &manifest.key, manifest.len)?;
    let manifest = wanted(&manifest.key, manifest.len, manifest.checksum)?;
    let tails = metadata
        .tails
        .iter()
        .map(|t| wanted(&t.key, t.len, t.checksum))
        .collect::<Result<Vec<_>>>()?;
    let (store, shared) = (store.clone(), layout.shared());
    let keys = metadata.files.iter().map(|file| &file.key);
    let names: Vec<String> = keys
        .chain(metadata.tails.iter().map(|tails| &tails.key))
        .map(|key| key.rsplit('/').next().unwrap_or(key).to_owned())
        .collect();
    let fetched = runtime.wait(async move {
        let list = async {
            if names.is_empty() {
                return Ok(Vec::new());
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            store.list_likely(&shared, &names).await
        };
        try_join3(
            get(&store, manifest),
            try_join_all(tails.into_iter().map(|t| get(&store, t))),
            list,
        )
        .await
    });
    let (manifest, tails, listed) = fetched.map_err(as_damage)?;
    let present = lengths(&layout.shared(), listed);
    let files = metadata.files.iter().map(|f| (&f.key, f.len));
    let tails_objects = metadata.tails.iter().map(|t| (&t.key, t.len));
    for (key, len) in files.chain(tails_objects) {
        check_length(&present, key, len)?;
    }
    Ok(Fetched { manifest, tails })
}

/// One object, its checksum verified. Of a longer object no more is read than the snapshot wrote.
async fn get(store: &Arc<dyn RemoteStore>, wanted: Wanted) -> lazurite_env::Result<Bytes> {
    let bytes = store.get_range(&wanted.key, 0..wanted.len).await?;
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

/// Refuses a snapshot of which an object is missing or has another length.
fn check_length(present: &HashMap<String, u64>, key: &str, len: u64) -> Result<()> {
    let reason = match present.get(key) {
        Some(found) if *found == len => return Ok(()),
        Some(found) => format!("it has {found} bytes, the snapshot wrote {len}"),
        None => "it is missing".to_owned(),
    };
    Err(Error::SnapshotCorrupt {
        path: key.to_owned(),
        reason,
    })
}
