//! The one round of requests of a restore, and the checks on what it brought.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

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
/// there are. `beside` are the lengths of the objects in the directory of the snapshot, `dir`.
pub(super) fn fetch(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    dir: &Key,
    beside: &HashMap<String, u64>,
    states: &[&SubtaskState],
) -> Result<Vec<Fetched>> {
    let mut wanted = Vec::new();
    for state in states {
        let manifest = &state.manifest;
        check_length(beside, &manifest.key, manifest.len)?;
        let tails = state.tails.iter().map(|t| (&t.key, t.len, t.checksum));
        for (key, len, checksum) in [(&manifest.key, manifest.len, manifest.checksum)]
            .into_iter()
            .chain(tails)
        {
            wanted.push(Wanted {
                key: Key::new(&**key)?,
                len,
                checksum,
            });
        }
    }
    let shared_objects = || {
        states.iter().flat_map(|state| {
            let files = state.files.iter().map(|f| (&f.key, f.len));
            files.chain(state.tails.iter().map(|t| (&t.key, t.len)))
        })
    };
    // The job's own directory, and those that it has claimed; a savepoint has no other.
    let mut likely: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for (key, _) in shared_objects() {
        let key = Key::new(key.as_str())?;
        if let Some(parent) = key.parent().filter(|parent| parent != dir) {
            likely
                .entry(parent)
                .or_default()
                .push(key.name().to_owned());
        }
    }
    let store = store.clone();
    let fetched = runtime.wait(async move {
        let lists = likely.iter().map(|(prefix, names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let store = &store;
            async move { Ok(lengths(prefix, store.list_likely(prefix, &names).await?)) }
        });
        try_join(
            try_join_all(wanted.into_iter().map(|wanted| get(&store, wanted))),
            try_join_all(lists),
        )
        .await
    });
    let (objects, listed) = fetched.map_err(as_damage)?;
    let present: HashMap<String, u64> = listed.into_iter().flatten().collect();
    for (key, len) in shared_objects() {
        let beside_it = beside.contains_key(key.as_str());
        check_length(if beside_it { beside } else { &present }, key, len)?;
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
