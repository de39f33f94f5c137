//! The one round of requests of a restore, and the checks on what it brought.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::future::{try_join, try_join_all};
use lazurite_env::{
    Error as EnvError, ErrorKind, IoRuntime,
    remote::{Key, RemoteStore},
};
use lazurite_tiering::Checksum;

use crate::{
    Error, Result,
    snapshot::{
        layout::JobLayout,
        metadata::SubtaskState,
        store::{as_damage, lengths},
    },
};

/// What a restore needs of one state before RocksDB opens.
pub(super) struct Fetched {
    pub(super) manifest: Bytes,
    /// In the order of the state's tails.
    pub(super) tails: Vec<Bytes>,
}

struct Wanted {
    key: Key,
    len: u64,
    checksum: Checksum,
}

/// Fetches the manifests and the tails of `states`, and lists the shared objects: all at once, so in one round trip, however many
/// there are. `lengths` are those of the objects under the snapshot's number.
pub(super) fn fetch(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
    lengths: &HashMap<String, u64>,
    states: &[&SubtaskState],
) -> Result<Vec<Fetched>> {
    let mut wanted = Vec::new();
    for state in states {
        let manifest = &state.manifest;
        check_length(lengths, &manifest.key, manifest.len)?;
        let tails = state.tails.iter().map(|t| (&t.key, t.len, t.checksum));
        for (key, len, checksum) in [(&manifest.key, manifest.len, manifest.checksum)]
            .into_iter()
            .chain(tails)
        {
            wanted.push(Wanted {
                key: layout.own(key)?,
                len,
                checksum,
            });
        }
    }
    let (store, shared) = (store.clone(), layout.shared());
    let shared_objects = || {
        states.iter().flat_map(|state| {
            let files = state.files.iter().map(|f| (&f.key, f.len));
            files.chain(state.tails.iter().map(|t| (&t.key, t.len)))
        })
    };
    let names: Vec<String> = shared_objects()
        .map(|(key, _)| key.rsplit('/').next().unwrap_or(key).to_owned())
        .collect();
    let fetched = runtime.wait(async move {
        let list = async {
            if names.is_empty() {
                return Ok(Vec::new());
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            store.list_likely(&shared, &names).await
        };
        try_join(
            try_join_all(wanted.into_iter().map(|wanted| get(&store, wanted))),
            list,
        )
        .await
    });
    let (objects, listed) = fetched.map_err(as_damage)?;
    let present = self::lengths(&layout.shared(), listed);
    for (key, len) in shared_objects() {
        check_length(&present, key, len)?;
    }
    let mut objects = objects.into_iter();
    let fetched = states.iter().map(|state| Fetched {
        manifest: objects.next().unwrap_or_default(),
        tails: objects.by_ref().take(state.tails.len()).collect(),
    });
    Ok(fetched.collect())
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
