//! What lies in the store, and what of it the snapshots name.
//!
//! The objects are listed first and the snapshots read afterwards, so that what a snapshot names which was completed meanwhile is seen.
//! An object may be named by a snapshot of any job, so those of all jobs are read, whichever are asked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

use super::{
    listing::{Listing, ObjectKind, Stored, UnknownObject, list_job},
    reading::{Unreadable, UnreadableCause, read_job},
};
use crate::{
    Error, Result, SnapshotStore,
    snapshot::{SnapshotMetadata, claims::claimer, layout::JobLayout, place::Place},
};

/// Claims one after another that are followed to one that has snapshots. What was claimed more often is held.
const MAX_CLAIMS: usize = 8;

/// How many objects, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// How many.
    pub objects: u64,
    /// Their lengths together.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// An object that no complete snapshot names, old enough that none to come will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// Where it lies.
    pub key: String,
    /// What it is. Metadata: a fence that a newer snapshot has made superfluous.
    pub kind: ObjectKind,
    /// Its length.
    pub bytes: u64,
    /// How long it has been there, by the store's clock. Serialized as whole seconds.
    #[serde(rename = "age_s", serialize_with = "whole_seconds")]
    pub age: Duration,
}

fn whole_seconds<S: Serializer>(age: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(age.as_secs())
}

/// What lies below a job, by what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct JobObjects {
    /// The job.
    pub job: String,
    /// Needed: what a complete snapshot of any job names, every `_metadata` but those of fences that are no more needed, the
    /// marker of a claim.
    pub referenced: Count,
    /// Named by no snapshot, but so new that one to come may.
    pub young: Count,
    /// Named by no snapshot that could be read, where one could not be.
    pub undecided: Count,
    /// What can go, in the order of the keys.
    pub orphans: Vec<Orphan>,
    /// What has names that no job gives: left alone.
    pub unknown: Vec<UnknownObject>,
}

impl JobObjects {
    /// How many orphans there are, and their bytes.
    pub fn orphan_count(&self) -> Count {
        let mut count = Count::default();
        self.orphans.iter().for_each(|of| count.add(of.bytes));
        count
    }
}

/// The keys of all objects that a complete snapshot keeps from being deleted, its own `_metadata` left out.
fn names(metadata: &SnapshotMetadata) -> impl Iterator<Item = &str> {
    let objects = metadata.subtasks.iter().flat_map(|state| state.objects());
    let in_use = metadata.in_use.iter().map(String::as_str);
    objects.map(|(key, ..)| key).chain(in_use)
}

/// The objects of some jobs, and which of them the snapshots of all jobs name.
pub(super) struct Survey {
    pub(super) listings: Vec<Listing>,
    /// Of all jobs, in order.
    pub(super) unreadable: Vec<Unreadable>,
    referenced: HashSet<(usize, usize)>,
    numbers: HashMap<String, Numbers>,
    /// Jobs that were claimed, and no snapshot was seen of the claimer, nor of who claimed that one: it may have some elsewhere.
    held: HashSet<String>,
}

/// The numbers of a job under which something was committed.
#[derive(Default)]
struct Numbers {
    /// The newest snapshot; 0: none.
    newest: u64,
    fences: HashSet<u64>,
}

impl Survey {
    /// Lists `wanted` and then reads the snapshots of `all` jobs; each that can be read is given to `each`, with its job, once, from
    /// several threads.
    pub(super) fn take(
        of: &SnapshotStore,
        wanted: &[String],
        all: &[String],
        each: &(dyn Fn(&str, &SnapshotMetadata) + Sync),
    ) -> Result<Survey> {
        let listings = wanted.iter().map(|job| list_job(of, job));
        let listings: Vec<Listing> = listings.collect::<Result<_>>()?;
        let mut places: HashMap<&str, (usize, usize)> = HashMap::new();
        for (job, listing) in listings.iter().enumerate() {
            let keys = listing.objects.iter().map(|object| object.key.as_str());
            places.extend(keys.enumerate().map(|(at, key)| (key, (job, at))));
        }
        let flags: Vec<Vec<AtomicBool>> = listings
            .iter()
            .map(|listing| {
                listing
                    .objects
                    .iter()
                    .map(|_| AtomicBool::new(false))
                    .collect()
            })
            .collect();
        let numbers: Mutex<HashMap<String, Numbers>> = Mutex::default();
        let unreadable: Mutex<BTreeSet<Unreadable>> = Mutex::default();
        let read = |job: &str, is_first: bool| {
            read_job(of, job, &|job, read| match read {
                Ok(metadata) => {
                    for (job, at) in names(&metadata).filter_map(|key| places.get(key)) {
                        flags[*job][*at].store(true, Ordering::Relaxed);
                    }
                    lock(&numbers)
                        .entry(job.to_owned())
                        .or_default()
                        .take(&metadata);
                    if is_first {
                        each(job, &metadata);
                    }
                }
                Err(error) => _ = lock(&unreadable).insert(error),
            })
        };
        let mut claims = Claims::default();
        for job in all {
            if read(job, true)? {
                claims.note(of, job, &mut lock(&unreadable))?;
            }
        }
        // What a claimed snapshot named is named by its claimer's before it goes, so whoever is read after it has it; a claimer may be claimed in
        // its turn. One round without a new claim is enough: all but the last claimer of a chain were claimed before it, so they completed and
        // deleted nothing any more. The snapshot that the last one began with was complete when its claim was seen, and `read_job` had read
        // it then, or it had gone because the last one had its own. That one was read again in this round. Claims stay, and each job is
        // claimed once, so this ends.
        loop {
            let before = claims.by.clone();
            for claimer in claims.claimers() {
                if read(&claimer, false)? {
                    claims.note(of, &claimer, &mut lock(&unreadable))?;
                }
            }
            if claims.by == before {
                break;
            }
        }
        let held = claims.held(&lock(&numbers));
        let flags = flags.iter().enumerate().flat_map(|(job, flags)| {
            let set = flags.iter().enumerate();
            set.filter(|(_, flag)| flag.load(Ordering::Relaxed))
                .map(move |(at, _)| (job, at))
        });
        let referenced = flags.collect();
        let unreadable = unreadable
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(Survey {
            listings,
            held,
            unreadable: unreadable.into_iter().collect(),
            referenced,
            numbers: numbers.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// What is to become of each object, by the store's clock `now`.
    pub(super) fn judge(&self, now: SystemTime, min_age: Duration) -> Vec<JobObjects> {
        let jobs = self.listings.iter().enumerate();
        jobs.map(|(job, listing)| {
            let mut judged = JobObjects {
                job: listing.job.clone(),
                unknown: listing.unknown.clone(),
                ..JobObjects::default()
            };
            let is_undecided = !self.unreadable.is_empty() || self.held.contains(&listing.job);
            for (at, object) in listing.objects.iter().enumerate() {
                let age = object
                    .modified
                    .map(|of| now.duration_since(of).unwrap_or_default());
                if self.referenced.contains(&(job, at)) || self.is_kept(&listing.job, object) {
                    judged.referenced.add(object.len);
                    continue;
                }
                match age.filter(|age| *age >= min_age) {
                    None => judged.young.add(object.len),
                    Some(_) if is_undecided => judged.undecided.add(object.len),
                    Some(age) => judged.orphans.push(Orphan {
                        key: object.key.to_string(),
                        kind: object.kind,
                        bytes: object.len,
                        age,
                    }),
                }
            }
            judged.orphans.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            judged.unknown.sort_unstable();
            judged
        })
        .collect()
    }

    /// True of what stays though no snapshot names it.
    fn is_kept(&self, job: &str, object: &Stored) -> bool {
        match object.kind {
            ObjectKind::Claim => true,
            ObjectKind::Metadata => {
                // The fences above the newest snapshot fence.
                let numbers = self.numbers.get(job);
                !numbers.is_some_and(|of| of.fences.contains(&object.id) && object.id < of.newest)
            }
            _ => false,
        }
    }

    /// When the newest of the listed objects was put.
    pub(super) fn newest(&self) -> Option<SystemTime> {
        let objects = self.listings.iter().flat_map(|listing| &listing.objects);
        objects.filter_map(|object| object.modified).max()
    }
}

/// Which jobs were claimed, and by which.
#[derive(Default)]
struct Claims {
    by: BTreeMap<String, String>,
}

impl Claims {
    /// Looks who has claimed `job`. A claim that cannot be read is as bad as such a snapshot: what is needed of the job is not known.
    fn note(
        &mut self,
        of: &SnapshotStore,
        job: &str,
        unreadable: &mut BTreeSet<Unreadable>,
    ) -> Result<()> {
        let place = Place::Snapshot(JobLayout::new(job)?, 1);
        match claimer(&of.store, &of.runtime, &place) {
            Ok(by) => self.by.extend(by.map(|by| (job.to_owned(), by))),
            Err(error @ Error::SnapshotCorrupt { .. }) => {
                unreadable.insert(Unreadable {
                    job: job.to_owned(),
                    id: 0,
                    key: place.claimed().to_string(),
                    cause: UnreadableCause::Corrupt,
                    reason: error.to_string(),
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn claimers(&self) -> BTreeSet<String> {
        self.by.values().cloned().collect()
    }

    fn held(&self, numbers: &HashMap<String, Numbers>) -> HashSet<String> {
        let has_some = |by: &str| numbers.get(by).is_some_and(|of| of.newest > 0);
        // The claimer's own may have gone to another one since.
        let last = |job: &str| {
            let mut by = self.by.get(job);
            for _ in 0..MAX_CLAIMS {
                match by {
                    Some(claimer) if !has_some(claimer) => by = self.by.get(claimer),
                    _ => break,
                }
            }
            by.is_some_and(|by| has_some(by))
        };
        let jobs = self.by.keys();
        jobs.filter(|job| !last(job)).cloned().collect()
    }
}

impl Numbers {
    fn take(&mut self, metadata: &SnapshotMetadata) {
        if metadata.is_fence() {
            self.fences.insert(metadata.id);
        } else {
            self.newest = self.newest.max(metadata.id);
        }
    }
}

/// Nothing panics half-way through a change of what these guard.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
