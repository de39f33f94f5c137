//! Which snapshots of the job are in the store, and the deletion of those that newer ones subsume.
//!
//! Order and crash story: a subsumed snapshot's `_metadata` goes first, so that no list shows it as complete while its
//! files go; then its manifest; then the shared objects that nothing needs any more. A crash between leaves orphans. Fences go
//! first, then snapshots, the oldest first: whoever reads them from the newest down counts on it (`upkeep/reading.rs`).
//!
//! A shared object is deleted only if no retained snapshot names it, no file of the running database is served from it
//! ([`UnionEnv::referenced_keys`](lazurite_tiering::UnionEnv::referenced_keys)), and no later snapshot may reuse it
//! ([`Registry::needed`]). What is spared for the latter two reasons is looked at again after the next snapshot. While the
//! metadata of some snapshot cannot be read, nobody knows what it needs, and no shared object is deleted.
//!
//! A claimed snapshot that the job began with counts as the oldest of the job's own. What lies in a claimed directory may be needed by
//! other complete snapshots of the job that wrote it, which nobody claimed: they are asked before any object there is deleted. What is neither
//! the job's nor claimed is never deleted.
//!
//! A process that is killed between its manifest and its `_metadata` leaves the manifest, and with it a number that each open
//! of the job has to look under: whoever wrote it may yet complete it. The directory that wrote it knows better: where it is
//! open again, no other process writes for it. So it deletes its own, once a later snapshot of it is complete: should the
//! dead process's last request arrive that late, what it completes is no longer the newest. Those of other directories stay.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use futures::StreamExt;
use lazurite_env::remote::Key;

use super::{
    committer::Committer,
    layout::JobLayout,
    metadata::SnapshotMetadata,
    pending::Deadline,
    place::{Bounds, Place},
    store::{Under, decode, is_missing, look_for_ids, look_under},
};
use crate::{Error, Result};

/// Deletions under way at once.
const PARALLEL_DELETES: usize = 32;

/// The job's snapshots by id; the metadata of older ones is fetched when it is needed.
#[derive(Debug, Default)]
pub(crate) struct History {
    known: BTreeMap<u64, Option<Arc<SnapshotMetadata>>>,
    /// Numbers that were begun and not complete when the backend opened: another writer may yet complete one.
    unfinished: BTreeSet<u64>,
    /// The first number that this process may use.
    first: u64,
    /// Numbers that this process tried since its last complete snapshot: another writer may have one of them by now.
    attempted: BTreeSet<u64>,
    /// Objects to delete as soon as nothing in this process needs them.
    spared: HashSet<Key>,
    /// The snapshot at which another writer was found to have taken over.
    overtaken: Option<u64>,
    /// The claimed snapshot that the job began with, until it is subsumed.
    origin: Option<Place>,
}

impl History {
    /// The numbers that the job has anything under, and those of them that are known not to be complete.
    pub(crate) fn new(ids: impl IntoIterator<Item = u64>, unfinished: BTreeSet<u64>) -> Self {
        let mut history = History {
            known: ids.into_iter().map(|id| (id, None)).collect(),
            unfinished,
            ..History::default()
        };
        history.first = history.next_id();
        history
    }

    /// Notes the claimed snapshot that the job began with.
    pub(crate) fn began_with(&mut self, origin: Option<Place>) {
        self.origin = origin;
    }

    /// The claimed snapshot that the job began with, until it is subsumed.
    pub(crate) fn origin(&self) -> Option<Place> {
        self.origin.clone()
    }

    /// The id after every one that was ever seen, complete or not.
    pub(crate) fn next_id(&self) -> u64 {
        self.known.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// Notes that `id` may be in the store, though its commit was not confirmed.
    pub(crate) fn attempted(&mut self, id: u64) {
        self.known.entry(id).or_insert(None);
        self.attempted.insert(id);
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

    /// Numbers that were begun and are not known to be complete; true for those that this process began.
    pub(crate) fn unfinished(&self) -> BTreeMap<u64, bool> {
        let others = self.unfinished.iter().map(|id| (*id, false));
        others
            .chain(self.attempted.iter().map(|id| (*id, true)))
            .collect()
    }

    /// The complete snapshots that are known, and fences, oldest first.
    pub(crate) fn complete(&self) -> Vec<Arc<SnapshotMetadata>> {
        self.known.values().flatten().cloned().collect()
    }

    /// The newest snapshot that is known to be complete, or fence; 0 where there is none.
    fn newest(&self) -> u64 {
        let mut known = self.known.iter().rev();
        known
            .find(|(_, metadata)| metadata.is_some())
            .map_or(0, |(id, _)| *id)
    }

    /// True of a number that this process tried since its last complete snapshot.
    pub(crate) fn is_own(&self, id: u64) -> bool {
        self.attempted.contains(&id)
    }

    /// Notes objects to delete as soon as nothing needs them.
    pub(crate) fn spare(&mut self, keys: HashSet<Key>) {
        self.spared.extend(keys);
    }

    /// The numbers below `id` of which it is not known what is under them.
    fn unknown_before(&self, id: u64) -> Vec<u64> {
        let before = self.known.range(..id);
        before
            .filter(|(_, metadata)| metadata.is_none())
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn completed(&mut self, metadata: Arc<SnapshotMetadata>) {
        self.attempted.retain(|id| *id > metadata.id);
        self.known.insert(metadata.id, Some(metadata));
    }
}

/// Deletes what the newest `committer.retained` snapshots do not need, and what is not in `needed`: what is in use, or may be referred to by
/// the next one. Called after the commit of `id`.
///
/// Ends when the snapshot is aborted or its time is up, as when the backend is dropped. What could not be deleted then, or
/// because of an error, is tried again after the next snapshot, while this process lives.
pub(crate) fn retain(
    committer: &Committer,
    id: u64,
    deadline: &Deadline,
    needed: impl FnOnce() -> HashSet<Key>,
) -> Result<()> {
    let look = look_for_ids(committer.store.clone(), committer.layout.clone());
    let listing = deadline.wait(&committer.runtime, look)?;
    committer.refuse_claimed(&listing)?;
    // Another writer builds on what would be deleted here.
    committer.refuse_later(id, &listing.ids, deadline)?;
    let mut history = committer.history();
    history.check_alone()?;
    // Whoever completes an earlier number from now on finds this one after its commit, and fails.
    history.unfinished.clear();
    let all_known = learn(committer, &mut history, id, deadline)?;
    let complete = history.complete();
    // A fence below a complete snapshot has done its work.
    let (fences, complete): (Vec<_>, Vec<_>) = complete.into_iter().partition(|of| of.is_fence());
    let (subsumed, retained) = complete.split_at(complete.len().saturating_sub(committer.retained));
    let subsumed: Vec<_> = fences
        .iter()
        .filter(|of| of.id < id)
        .chain(subsumed)
        .collect();
    for metadata in subsumed {
        delete(
            committer,
            &HashSet::from([committer.layout.metadata(metadata.id)]),
            deadline,
        )?;
        history.spared.extend(metadata.objects_and_in_use()?);
        history.known.remove(&metadata.id);
    }
    let origin = match history.origin() {
        Some(place) => look_at_origin(committer, &place, deadline)?,
        None => None,
    };
    let is_subsumed = retained.len() >= committer.retained;
    if is_subsumed && let Some(place) = history.origin() {
        if let Some(metadata) = &origin {
            delete(committer, &HashSet::from([place.metadata()]), deadline)?;
            history.spared.extend(metadata.objects_and_in_use()?);
        }
        history.origin = None;
    }
    if !all_known {
        return Ok(());
    }
    let mut needed = needed();
    for metadata in retained {
        needed.extend(metadata.objects()?);
    }
    if !is_subsumed && let Some(metadata) = &origin {
        needed.extend(metadata.objects()?);
    }
    let mut unneeded: HashSet<Key> = history.spared.difference(&needed).cloned().collect();
    spare_what_others_need(committer, &mut unneeded, deadline)?;
    delete(committer, &unneeded, deadline)?;
    // What is not the job's to delete is of no interest.
    history
        .spared
        .retain(|key| !unneeded.contains(key) && committer.bounds.hold(key));
    Ok(())
}

/// The claimed snapshot that the job began with; `None` where it is gone, or damaged: what it needs is not known then and is left to `gc`.
fn look_at_origin(
    committer: &Committer,
    place: &Place,
    deadline: &Deadline,
) -> Result<Option<SnapshotMetadata>> {
    let look = look_under(committer.store.clone(), place.clone());
    match deadline
        .wait(&committer.runtime, look)
        .and_then(|under| decode(place, under))
    {
        Ok(found) => Ok(Some(found.metadata)),
        Err(error) if error.is_temporary() || matches!(error, Error::SnapshotAborted) => Err(error),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => {
            tracing::warn!(%error, %place, "the claimed snapshot cannot be read; what it needs is not deleted");
            Ok(None)
        }
    }
}

/// Takes out of `unneeded` what complete snapshots need of jobs that were claimed: those of their snapshots that nobody began with are whole
/// and stay so. They may name what lies in any of these directories, for a job that was claimed may have claimed others. Costs a request for each of them, and two for
/// each of their snapshots, where `unneeded` holds anything that was claimed.
fn spare_what_others_need(
    committer: &Committer,
    unneeded: &mut HashSet<Key>,
    deadline: &Deadline,
) -> Result<()> {
    unneeded.retain(|key| committer.bounds.hold(key));
    let own = Bounds::new(committer.layout.job(), &[]);
    for root in &committer.claimed {
        if unneeded.iter().all(|key| own.hold(key)) {
            return Ok(());
        }
        // A savepoint's directory has nobody else in it.
        let Ok(layout) = JobLayout::new(root.as_str()) else {
            continue;
        };
        let look = look_for_ids(committer.store.clone(), layout.clone());
        for id in deadline.wait(&committer.runtime, look)?.ids {
            let place = Place::Snapshot(layout.clone(), id);
            let look = look_under(committer.store.clone(), place.clone());
            match deadline
                .wait(&committer.runtime, look)
                .and_then(|under| decode(&place, under))
            {
                Ok(found) => {
                    let theirs = found.metadata.objects()?;
                    unneeded.retain(|key| !theirs.contains(key));
                }
                Err(error) if is_missing(&error) => {}
                Err(error) if error.is_temporary() || matches!(error, Error::SnapshotAborted) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, %place, "a snapshot cannot be read; nothing that was claimed is deleted while it is in the store");
                    unneeded.retain(|key| own.hold(key));
                }
            }
        }
    }
    Ok(())
}

/// Deletes all snapshots of the job and what they need, the newest first, so that none is shown whose files go.
///
/// # Errors
/// `SnapshotConflict` where another writer has taken over: it builds on them. What could not be read or deleted.
pub(crate) fn delete_all(committer: &Committer, deadline: &Deadline) -> Result<()> {
    let look = look_for_ids(committer.store.clone(), committer.layout.clone());
    let listing = deadline.wait(&committer.runtime, look)?;
    committer.refuse_claimed(&listing)?;
    let newest = committer.history().newest();
    committer.refuse_later(newest, &listing.ids, deadline)?;
    let mut history = committer.history();
    history.check_alone()?;
    for id in listing.ids {
        history.known.entry(id).or_insert(None);
    }
    if !learn(committer, &mut history, u64::MAX, deadline)? {
        return Err(Error::SnapshotCorrupt {
            path: committer.layout.job().to_string(),
            reason: "the metadata of a snapshot cannot be read, so it is not known what it needs"
                .into(),
        });
    }
    for metadata in history.complete().into_iter().rev() {
        let of_snapshot = HashSet::from([committer.layout.metadata(metadata.id)]);
        delete(committer, &of_snapshot, deadline)?;
        let objects = metadata.objects_and_in_use()?;
        history.spared.extend(objects);
        history.known.remove(&metadata.id);
    }
    if let Some(place) = history.origin() {
        if let Some(metadata) = look_at_origin(committer, &place, deadline)? {
            delete(committer, &HashSet::from([place.metadata()]), deadline)?;
            history.spared.extend(metadata.objects_and_in_use()?);
        }
        history.origin = None;
    }
    // Should this fail, the next call tries again; after a crash what is left is orphans.
    let mut objects = history.spared.clone();
    spare_what_others_need(committer, &mut objects, deadline)?;
    delete(committer, &objects, deadline)?;
    history.spared.clear();
    Ok(())
}

/// Reads the metadata of the snapshots before `id` that are not known yet, and forgets the numbers that came to nothing.
/// False where one cannot be read: it is not known then what it needs, and it is asked for again after the next snapshot.
fn learn(
    committer: &Committer,
    history: &mut History,
    id: u64,
    deadline: &Deadline,
) -> Result<bool> {
    let mut all_known = true;
    for unknown in history.unknown_before(id) {
        let place = committer.place(unknown);
        let look = look_under(committer.store.clone(), place.clone());
        let under = deadline.wait(&committer.runtime, look);
        let own = own_manifests(committer, unknown, &under);
        match under.and_then(|under| decode(&place, under)) {
            Ok(found) => history.completed(Arc::new(found.metadata)),
            // Never completed: its objects are orphans.
            Err(error) if is_missing(&error) => {
                history.known.remove(&unknown);
                if unknown < history.first {
                    history.spared.extend(own);
                }
            }
            Err(error) if error.is_temporary() || matches!(error, Error::SnapshotAborted) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, id = unknown, "a snapshot cannot be read; no shared object is deleted while it is in the store");
                all_known = false;
            }
        }
    }
    Ok(all_known)
}

/// The manifests under `id` that this directory wrote.
fn own_manifests(committer: &Committer, id: u64, under: &Result<Under>) -> Vec<Key> {
    let (layout, writer) = (&committer.layout, &committer.writer);
    let keys = under.iter().flat_map(|under| under.lengths.keys());
    keys.filter(|key| layout.is_manifest_of(key, id, writer))
        .filter_map(|key| Key::new(key.as_str()).ok())
        .collect()
}

/// Deletes objects, all that can be; an error where one could not.
fn delete(committer: &Committer, keys: &HashSet<Key>, deadline: &Deadline) -> Result<()> {
    let (store, keys) = (committer.store.clone(), keys.clone());
    let delete = async move {
        let results = futures::stream::iter(keys)
            .map(|key| {
                let store = store.clone();
                async move { store.delete(&key).await }
            })
            .buffer_unordered(PARALLEL_DELETES)
            .collect::<Vec<_>>()
            .await;
        results.into_iter().collect::<lazurite_env::Result<()>>()
    };
    deadline.wait(&committer.runtime, delete)
}
