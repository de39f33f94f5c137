//! Which snapshots of the job are in the store, and the deletion of those that newer ones subsume.
//!
//! Order and crash story: a subsumed snapshot's `_metadata` goes first, so that no list shows it as complete while its
//! files go; then its manifest; then the shared objects that nothing needs any more. A crash between leaves orphans.
//!
//! A shared object is deleted only if no retained snapshot names it, no file of the running database is served from it
//! ([`UnionEnv::referenced_keys`](lazurite_tiering::UnionEnv::referenced_keys)), and no later snapshot may reuse it
//! ([`Registry::needed`]). What is spared for the latter two reasons is looked at again after the next snapshot.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::StreamExt;
use lazurite_env::remote::Key;

use super::{
    context::Context,
    metadata::SnapshotMetadata,
    store::{is_missing, load},
};
use crate::{Error, Result};

/// Deletions under way at once.
const PARALLEL_DELETES: usize = 32;

/// The job's snapshots by id; the metadata of older ones is fetched when it is needed.
#[derive(Debug, Default)]
pub(crate) struct History {
    known: BTreeMap<u64, Option<Arc<SnapshotMetadata>>>,
    /// Objects to delete as soon as nothing in this process needs them.
    spared: HashSet<Key>,
    /// The snapshot at which another writer was found to have taken over.
    overtaken: Option<u64>,
}

impl History {
    pub(crate) fn new(ids: impl IntoIterator<Item = u64>) -> Self {
        History {
            known: ids.into_iter().map(|id| (id, None)).collect(),
            spared: HashSet::new(),
            overtaken: None,
        }
    }

    /// The id after every one that was ever seen, complete or not.
    pub(crate) fn next_id(&self) -> u64 {
        self.known.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// Notes that `id` may be in the store, though its commit was not confirmed.
    pub(crate) fn attempted(&mut self, id: u64) {
        self.known.entry(id).or_insert(None);
    }

    /// Notes that another writer has taken over. From then on nothing is written or deleted: what this process knows of
    /// the store is no longer so, and the other relies on what it would delete.
    pub(crate) fn overtaken(&mut self, id: u64) {
        self.overtaken.get_or_insert(id);
    }

    /// `SnapshotConflict` where another writer has taken over.
    pub(crate) fn check_alone(&self) -> Result<()> {
        match self.overtaken {
            Some(id) => Err(Error::SnapshotConflict { id }),
            None => Ok(()),
        }
    }

    pub(crate) fn completed(&mut self, metadata: Arc<SnapshotMetadata>) {
        self.known.insert(metadata.id, Some(metadata));
    }
}

/// Deletes what the newest `context.retained` snapshots do not need. Called after each commit.
pub(crate) fn retain(context: &Context) -> Result<()> {
    let mut history = context.history();
    let ids: Vec<u64> = history.known.keys().copied().collect();
    for id in ids {
        if history.known.get(&id).is_some_and(Option::is_none) {
            match load(&context.store, &context.runtime, &context.layout, id) {
                Ok(metadata) => history.completed(Arc::new(metadata)),
                // Never completed: its objects are orphans.
                Err(error) if is_missing(&error) => {
                    if history
                        .known
                        .last_key_value()
                        .is_some_and(|(last, _)| *last != id)
                    {
                        history.known.remove(&id);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    let complete: Vec<Arc<SnapshotMetadata>> = history.known.values().flatten().cloned().collect();
    let (subsumed, retained) = complete.split_at(complete.len().saturating_sub(context.retained));
    let mut candidates = std::mem::take(&mut history.spared);
    candidates.extend(context.registry().take_dropped());
    for metadata in subsumed {
        delete(
            context,
            HashSet::from([context.layout.metadata(metadata.id)]),
        )?;
        candidates.extend(metadata.objects(&context.layout)?);
        history.known.remove(&metadata.id);
    }
    for metadata in retained {
        for key in metadata.objects(&context.layout)? {
            candidates.remove(&key);
        }
    }
    let mut needed = context.union.referenced_keys();
    needed.extend(context.registry().needed());
    let (spared, unneeded) = candidates.into_iter().partition(|key| needed.contains(key));
    history.spared = spared;
    delete(context, unneeded)
}

/// Deletes objects; those that remain after an error are orphans, as after a crash.
fn delete(context: &Context, keys: HashSet<Key>) -> Result<()> {
    let store = context.store.clone();
    let deleted = context.runtime.wait(async move {
        let results = futures::stream::iter(keys)
            .map(|key| {
                let store = store.clone();
                async move { store.delete(&key).await }
            })
            .buffer_unordered(PARALLEL_DELETES)
            .collect::<Vec<_>>()
            .await;
        results
            .into_iter()
            .collect::<lazurite_env::Result<Vec<()>>>()
    });
    deleted?;
    Ok(())
}
