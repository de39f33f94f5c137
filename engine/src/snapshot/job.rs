//! What the store holds of a job.

use std::{collections::BTreeSet, sync::Arc};

use lazurite_env::{IoRuntime, remote::RemoteStore};

use super::{
    layout::JobLayout,
    place::Place,
    store::{Found, is_missing, list_ids, load},
};
use crate::Result;

/// What the store holds of the job when somebody opens it.
pub(crate) struct JobFound {
    /// The numbers that anything lies under, ascending.
    pub(crate) ids: Vec<u64>,
    /// Those above the newest complete snapshot: begun, and not complete.
    pub(crate) unfinished: BTreeSet<u64>,
    /// The newest complete snapshot, and what came of reading it: damage matters only to those who ask for this one.
    pub(crate) newest: Option<(u64, Result<Found>)>,
    /// Another job has taken all of it over.
    pub(crate) claimed: bool,
}

/// Finds the newest complete snapshot. Two round trips; where there are numbers above it that never completed, one more for
/// each, and a second look.
///
/// That one is for a writer at work: it completes a number and deletes the `_metadata` of the one before, and whoever asks for
/// the higher one just before and for the lower one just after finds neither.
pub(crate) fn look_at_job(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
) -> Result<JobFound> {
    let mut listing = list_ids(store, runtime, layout)?;
    let mut before = None;
    loop {
        let (mut unfinished, mut newest) = (BTreeSet::new(), None);
        for id in listing.ids.iter().rev() {
            match load(store, runtime, &Place::Snapshot(layout.clone(), *id)) {
                Err(error) if is_missing(&error) => {
                    unfinished.insert(*id);
                }
                Err(error) if error.is_temporary() => return Err(error),
                Ok(found) if found.metadata.is_fence() => {}
                found => {
                    newest = Some((*id, found));
                    break;
                }
            }
        }
        let again = match unfinished.len() {
            0 => listing.clone(),
            _ => list_ids(store, runtime, layout)?,
        };
        // A single one that was deleted since it was listed has a successor in the new list; one of several may have it among
        // them.
        let settled = unfinished.len() < 2 || before.as_ref() == Some(&unfinished);
        if settled && again.ids.last() == listing.ids.last() {
            return Ok(JobFound {
                ids: listing.ids,
                claimed: again.claimed,
                unfinished,
                newest,
            });
        }
        before = Some(unfinished);
        listing = again;
    }
}
