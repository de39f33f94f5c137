//! Removes what no snapshot needs: what killed processes, failed snapshots and coordinators that were replaced have left.
//!
//! # Why no snapshot loses anything
//! 1. The store's own time is read, then the objects are listed, and the snapshots of all jobs are read after that (`reading`). An
//!    object is an orphan if none of them names it and it was put longer than [`GcOptions::min_age`] before.
//! 2. A snapshot that is completed later names what the complete snapshot names that its writer began with or wrote last, and what was put
//!    within the last hours: nobody reuses an upload for longer than an hour unless a complete snapshot names it, and no snapshot
//!    takes more than twelve hours. That other one was read here, or was completed later itself, and so on down to one that was read: so none
//!    names an orphan, as long as the least age is longer than both together.
//! 3. No name is given twice, so nobody puts an orphan again but with a request that comes late. Each prefix is listed again just before its
//!    orphans go all the same: what was put since stays, and so does a number that was completed since.
//! 4. What a job has claimed is named by the claimed snapshot until one of the job's own names it. So jobs that have claimed others are read
//!    again, after these. Where no snapshot of a claimer is seen, for it may lie outside of what this store shows, the claimed job loses nothing.
//! 5. A `_metadata` that cannot be read (or a claim) may name anything: then nothing is deleted at all, whichever job it is of.
//!
//! A manifest under a number without `_metadata` is no exception: who wrote it may yet complete that number, but not after twelve hours.
//! The `_metadata` of a fence goes once a newer snapshot is complete, for that one fences as well; that of a snapshot never goes.
//!
//! # Crash story
//! Orphans are independent of one another: after a crash there are fewer, and nothing else has changed. A crash while the time is
//! read leaves `<job>/_gc-<token>`, an orphan like any other to the next run.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use lazurite_env::{
    Error as EnvError, ErrorKind,
    remote::{Key, Listed},
};
use serde::Serialize;

use super::{
    listing::{CLOCK, SHARED},
    reading::Unreadable,
    survey::{Count, JobObjects, Survey},
    wanted,
};
use crate::{
    Result, SnapshotStore,
    snapshot::layout::{JobLayout, METADATA, snapshot_id, token},
};

/// Deletions under way at once.
const PARALLEL_DELETES: usize = 32;

/// Deletions after which a prefix is listed again.
const LISTED_FOR: usize = 10_000;

/// What [`SnapshotStore::gc`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcOptions {
    /// Only this job's objects. Default: those of all jobs.
    pub job: Option<String>,
    /// What was put more recently stays, since a snapshot that is being taken may need it. By the store's clock. Default: 24 hours.
    /// With less than 13 hours, nobody may be taking a snapshot of the job: one that is under way could lose its files.
    pub min_age: Duration,
    /// Whether the orphans are deleted, or reported alone. Default: reported.
    pub delete: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            job: None,
            min_age: Duration::from_secs(24 * 60 * 60),
            delete: false,
        }
    }
}

/// What [`SnapshotStore::gc`] found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// The jobs that were looked at, by name.
    pub jobs: Vec<GcJob>,
    /// What kept it from telling orphans from what is needed; where there is any, of any job, nothing was deleted.
    pub unreadable: Vec<Unreadable>,
}

/// What was found and done of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct GcJob {
    /// What was there before.
    #[serde(flatten)]
    pub objects: JobObjects,
    /// Which of the orphans were deleted.
    pub deleted: Count,
    /// Orphans that could not be deleted.
    pub failed: Vec<FailedDeletion>,
}

/// An orphan that could not be deleted; another run will try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedDeletion {
    /// Where it lies.
    pub key: String,
    /// Why.
    pub reason: String,
}

impl GcReport {
    /// True where all that was to be done was done. Orphans are nothing wrong.
    pub fn is_ok(&self) -> bool {
        self.unreadable.is_empty() && self.jobs.iter().all(|job| job.failed.is_empty())
    }
}

impl SnapshotStore {
    /// Finds what no complete snapshot needs and, where `options` say so, deletes it. Jobs may go on meanwhile; so may another run.
    ///
    /// Without deleting it writes nothing, and tells ages by this machine's clock, or by the newest object where that is later. To
    /// delete it puts a small object below the first job that has put something, and removes it again, to see the store's clock. Blocks, for a list of each number
    /// of each job, a list of the shared objects (a request for each 1,000), two requests for each snapshot of the store, and one for
    /// each deletion. Takes memory for each object that there is (some 300 bytes), and for four `_metadata`.
    ///
    /// # Errors
    /// `InvalidOption`: the store holds nothing of the job. The store cannot be listed or read, or tells no times: nothing was
    /// deleted then. A deletion that fails is no error, but [in the report](GcJob::failed), as is a snapshot that
    /// [cannot be read](GcReport::unreadable).
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        let all = self.jobs()?;
        let wanted = wanted(&all, options.job.as_deref())?;
        let (mut now, mut delete) = (None, options.delete);
        if delete {
            match self.place_of_clock(&wanted)? {
                Some(layout) => now = Some(self.time(&layout)?),
                None => delete = false, // there is nothing of a job
            }
        }
        let survey = Survey::take(self, &wanted, &all, &|_, _| ())?;
        let now = now.unwrap_or_else(|| about_now(&survey));
        let mut jobs = Vec::new();
        for objects in survey.judge(now, options.min_age) {
            let mut job = GcJob {
                objects,
                ..GcJob::default()
            };
            if delete {
                self.remove(&survey, &mut job);
            }
            jobs.push(job);
        }
        Ok(GcReport {
            jobs,
            unreadable: survey.unreadable,
        })
    }

    /// A job that has put something: what else has such a name is somebody else's, or a snapshot that lies on its own, and nothing is put
    /// there.
    fn place_of_clock(&self, jobs: &[String]) -> Result<Option<JobLayout>> {
        for job in jobs {
            let layout = JobLayout::new(job)?;
            let (store, key) = (self.store.clone(), layout.job().clone());
            let listed = self.wait(async move { store.list(Some(&key)).await })?;
            let is_metadata =
                |of: &Listed| matches!(of, Listed::Object { name, .. } if name == METADATA);
            let is_jobs = |of: &Listed| match of {
                Listed::Prefix { name } => name == SHARED || snapshot_id(name).is_some(),
                Listed::Object { .. } => false,
            };
            if listed.iter().any(is_jobs) && !listed.iter().any(is_metadata) {
                return Ok(Some(layout));
            }
        }
        Ok(None)
    }

    /// The store's time, as it tells it for an object that is put now below the job.
    fn time(&self, layout: &JobLayout) -> Result<SystemTime> {
        let name = format!("{CLOCK}{}", token());
        let key = layout.job().join(&name)?;
        let (store, layout) = (self.store.clone(), layout.clone());
        self.wait(async move {
            let looked = async {
                store.put(&key, Bytes::new()).await?;
                store.list(Some(layout.job())).await
            }
            .await;
            // Also where the answer to the put was lost.
            let deleted = store.delete(&key).await;
            let listed = looked?;
            deleted?;
            let own = listed.into_iter().find_map(|entry| match entry {
                Listed::Object {
                    name: of, modified, ..
                } if of == name => Some(modified),
                _ => None,
            });
            let error = |kind, message| EnvError::new(kind, "list", key.as_str(), message);
            match own {
                Some(Some(time)) => Ok(time),
                Some(None) => Err(error(
                    ErrorKind::Unsupported,
                    "this store does not tell when an object was put, so nothing can be told to be old; delete nothing here",
                )),
                None => Err(error(
                    ErrorKind::Unavailable,
                    "the store does not list what was just put; try again",
                )),
            }
        })
    }

    /// Deletes the orphans of a job, as far as they are still what was listed.
    fn remove(&self, survey: &Survey, job: &mut GcJob) {
        let listing = survey.listings.iter().find(|of| of.job == job.objects.job);
        let Some(listing) = listing else { return };
        let listed: HashMap<&str, _> = listing
            .objects
            .iter()
            .map(|object| (object.key.as_str(), object))
            .collect();
        let mut prefixes: BTreeMap<&str, Vec<&super::Orphan>> = BTreeMap::new();
        for orphan in &job.objects.orphans {
            let prefix = orphan.key.rsplit_once('/').map_or("", |(prefix, _)| prefix);
            prefixes.entry(prefix).or_default().push(orphan);
        }
        let chunks = prefixes
            .iter()
            .flat_map(|(prefix, orphans)| orphans.chunks(LISTED_FOR).map(move |of| (*prefix, of)));
        for (prefix, orphans) in chunks {
            let metadata = format!("{prefix}/{METADATA}");
            let had_metadata = listed.contains_key(&*metadata);
            let failed = |reason: &crate::Error| {
                let reason = reason.to_string();
                orphans.iter().map(move |orphan| FailedDeletion {
                    key: orphan.key.clone(),
                    reason: reason.clone(),
                })
            };
            let now = match self.times_in(prefix) {
                Ok(now) => now,
                Err(error) => {
                    job.failed.extend(failed(&error));
                    continue;
                }
            };
            if !had_metadata && now.contains_key(METADATA) {
                continue; // completed since: the next run sees what it names
            }
            let keys = orphans.iter().filter_map(|orphan| {
                let object = listed.get(orphan.key.as_str())?;
                let name = orphan.key.strip_prefix(prefix)?.strip_prefix('/')?;
                let is_same = now.get(name) == Some(&object.modified);
                is_same.then(|| (object.key.clone(), object.len))
            });
            match self.delete_all(keys.collect()) {
                Ok(results) => results
                    .into_iter()
                    .for_each(|(key, len, result)| match result {
                        Ok(()) => job.deleted.add(len),
                        Err(error) => job.failed.push(FailedDeletion {
                            key: key.to_string(),
                            reason: error.to_string(),
                        }),
                    }),
                Err(error) => job.failed.extend(failed(&error)),
            }
        }
    }

    /// When the objects directly below `prefix` were put, by name.
    fn times_in(&self, prefix: &str) -> Result<HashMap<String, Option<SystemTime>>> {
        let (store, prefix) = (self.store.clone(), Key::new(prefix)?);
        let listed = self.wait(async move { store.list(Some(&prefix)).await })?;
        let times = listed.into_iter().filter_map(|entry| match entry {
            Listed::Object { name, modified, .. } => Some((name, modified)),
            Listed::Prefix { .. } => None,
        });
        Ok(times.collect())
    }

    fn delete_all(
        &self,
        keys: Vec<(Key, u64)>,
    ) -> Result<Vec<(Key, u64, lazurite_env::Result<()>)>> {
        let store = self.store.clone();
        self.wait(async move {
            let results = stream::iter(keys)
                .map(|(key, len)| {
                    let store = store.clone();
                    async move {
                        let result = store.delete(&key).await;
                        (key, len, result)
                    }
                })
                .buffer_unordered(PARALLEL_DELETES);
            Ok(results.collect().await)
        })
    }
}

/// A time for reports: this machine's, or the store's where its newest object shows that to be later.
pub(super) fn about_now(survey: &Survey) -> SystemTime {
    let here = SystemTime::now();
    survey.newest().map_or(here, |newest| newest.max(here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_longer_than_a_snapshot_may_take() {
        let longest = Duration::from_secs(13 * 60 * 60);
        assert!(GcOptions::default().min_age > longest);
        assert!(!GcOptions::default().delete);
    }
}
