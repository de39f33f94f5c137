//! [`Committer`]: who completes the snapshots of a job, one at a time: a job's only backend, or a coordinator.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lazurite_env::{
    IoRuntime,
    remote::{Key, RemoteStore},
};

use super::{
    claims::refusal,
    layout::JobLayout,
    metadata::SubtaskState,
    pending::Deadline,
    place::{Bounds, Place},
    retention::History,
    store::{Listing, decode, look_for_ids, look_under},
};
use crate::{Error, Result};

/// What it takes to complete a job's snapshots, and to delete those that newer ones subsume.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) store: Arc<dyn RemoteStore>,
    pub(crate) runtime: IoRuntime,
    pub(crate) layout: JobLayout,
    /// The directories that the job has claimed: what lies there is its own to delete.
    pub(crate) claimed: Vec<Key>,
    /// Where all that lies which is the job's own.
    pub(crate) bounds: Bounds,
    /// The random token by which a commit is known as one's own.
    pub(crate) writer: String,
    pub(crate) retained: usize,
    history: Mutex<History>,
}

impl Committer {
    pub(crate) fn new(
        store: Arc<dyn RemoteStore>,
        runtime: IoRuntime,
        layout: JobLayout,
        claimed: Vec<Key>,
        writer: String,
        retained: usize,
        history: History,
    ) -> Self {
        Committer {
            store,
            runtime,
            bounds: layout.bounds(&claimed),
            claimed,
            layout,
            writer,
            retained,
            history: Mutex::new(history),
        }
    }

    /// Held across requests where only the one snapshot under way asks for it.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        // Each change of it is one call that cannot panic half-way.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses where another writer has taken over: where the job has a later snapshot than `own`, begun or complete, or an earlier one
    /// complete that was not when this writer began, or that has a number which failed here.
    ///
    /// Two writers cannot miss each other: each makes its own number visible (by a manifest, or a fence) before it looks here, and
    /// looks again after its commit, before it deletes anything or reports success ([`retain`](super::retention::retain)). So of two
    /// that overlap, the one with the higher number sees the other's commit here, or the other sees the higher number there, and fails.
    pub(crate) fn refuse_overtaken(&self, own: u64, deadline: &Deadline) -> Result<()> {
        let look = look_for_ids(self.store.clone(), self.layout.clone());
        let listing = deadline.wait(&self.runtime, look)?;
        self.refuse_claimed(&listing)?;
        let ids = listing.ids;
        let unfinished = self.history().unfinished();
        for id in ids.iter().filter(|id| **id < own) {
            if let Some(begun_here) = unfinished.get(id)
                && self.is_anothers(*id, *begun_here, deadline)?
            {
                return Err(self.overtaken(own));
            }
        }
        self.refuse_later(own, &ids, deadline)
    }

    /// Refuses where one of `ids` is a later snapshot than `own`, begun or complete, of another writer.
    pub(crate) fn refuse_later(&self, own: u64, ids: &[u64], deadline: &Deadline) -> Result<()> {
        for id in ids.iter().filter(|id| **id > own) {
            // A number that was given out here may have been taken by another all the same.
            let begun_here = self.history().is_own(*id);
            if !begun_here || self.is_anothers(*id, begun_here, deadline)? {
                return Err(self.overtaken(own));
            }
        }
        Ok(())
    }

    /// True where `id` is complete, and not by this writer.
    fn is_anothers(&self, id: u64, begun_here: bool, deadline: &Deadline) -> Result<bool> {
        let place = self.place(id);
        let look = look_under(self.store.clone(), place.clone());
        let under = deadline.wait(&self.runtime, look)?;
        match under.metadata {
            None => Ok(false),
            // A commit of this writer whose answer was lost is no other's.
            Some(_) if begun_here => Ok(decode(&place, under)?.metadata.writer != self.writer),
            Some(_) => Ok(true),
        }
    }

    /// Refuses where another job has taken this one over: all of it is that one's now.
    pub(crate) fn refuse_claimed(&self, listing: &Listing) -> Result<()> {
        if !listing.claimed {
            return Ok(());
        }
        Err(refusal(&self.store, &self.runtime, &self.place(1)))
    }

    /// Where snapshot `id` of the job lies.
    pub(crate) fn place(&self, id: u64) -> Place {
        Place::Snapshot(self.layout.clone(), id)
    }

    /// What a snapshot of `states` is to say of what the job has claimed: the directories that it names objects of, there or as `in_use`, and
    /// the snapshot that it began with.
    pub(crate) fn claims(
        &self,
        states: &[SubtaskState],
        in_use: &[String],
    ) -> (Vec<String>, Option<String>) {
        let origin = self.history().origin();
        let named = |root: &&Key| {
            let bounds = Bounds::of(root);
            let inside = |key: &str| Key::new(key).is_ok_and(|key| bounds.hold(&key));
            let keys = states.iter().flat_map(SubtaskState::objects);
            let mut keys = keys
                .map(|(key, ..)| key)
                .chain(in_use.iter().map(String::as_str));
            keys.any(inside)
                || origin
                    .as_ref()
                    .is_some_and(|origin| origin.root() == **root)
        };
        let claimed = self.claimed.iter().filter(named);
        let claimed = claimed.map(Key::to_string).collect();
        (claimed, origin.map(|origin| origin.to_string()))
    }

    fn overtaken(&self, own: u64) -> Error {
        self.history().overtaken(own);
        Error::SnapshotConflict { id: own }
    }

    /// Notes objects that were of use and are not any more: deleted as soon as no retained snapshot needs them.
    pub(crate) fn spare(&self, keys: impl IntoIterator<Item = Key>) {
        self.history()
            .spare(keys.into_iter().collect::<HashSet<_>>());
    }
}
