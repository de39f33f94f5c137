//! Looks whether all that the snapshots need is there as it was written, and says of what is not what that breaks.
//!
//! 1. The objects are listed, and the snapshots read after that (`survey`): which objects there must be, with which length and
//!    checksum. One that many snapshots name is one.
//! 2. What is missing or has another length is told by the listing, without a request for each. The rest is read and hashed, each
//!    object once.
//! 3. The snapshots that name what is wrong are read again: one that was deleted since needs nothing any more, so a job that goes on
//!    meanwhile is never a finding. Their manifests tell which tables and key groups are in a file.
//!
//! It writes nothing, so there is no crash story.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lazurite_env::remote::Key;
use lazurite_tiering::Checksum;
use serde::Serialize;

use super::{
    GcOptions, PARALLEL,
    breaks::{Broken, Scopes},
    gc::about_now,
    reading::{Unreadable, read},
    survey::{Count, JobObjects, Survey, lock},
    wanted,
};
use crate::{
    Result, SnapshotStore,
    parallel::in_parallel,
    snapshot::{
        Problem, SnapshotMetadata,
        layout::JobLayout,
        store::lengths,
        verify::{Content, PARALLEL_OBJECTS, content, len_of},
    },
};

/// What [`SnapshotStore::fsck`] looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsckOptions {
    /// Only this job's snapshots. Default: those of all jobs.
    pub job: Option<String>,
    /// Only whether everything is there with the right length: reads `_metadata` and listings and nothing else. Default: false.
    pub quick: bool,
}

/// How far [`SnapshotStore::fsck`] has come with reading objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsckProgress {
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to be read in all.
    pub bytes_total: u64,
}

/// What [`SnapshotStore::fsck`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FsckReport {
    /// Complete snapshots that could be read.
    pub snapshots: u64,
    /// The objects that they name, each once.
    pub objects: Count,
    /// Bytes that were read and compared.
    pub read_bytes: u64,
    /// What is wrong, in the order of the keys.
    pub damages: Vec<Damage>,
    /// What lies below the jobs, by name, orphans and what is unknown among it: that is no damage. Ages as
    /// [`gc`](SnapshotStore::gc) tells them without deleting.
    pub jobs: Vec<JobObjects>,
    /// Snapshots of jobs that were not asked for which cannot be read: so nobody knows what are orphans.
    pub unreadable_elsewhere: Vec<Unreadable>,
}

/// An object that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// Where it lies, or should.
    pub key: String,
    /// What is wrong with it.
    pub problem: Problem,
    /// What cannot be restored, by job and number.
    pub breaks: Vec<Broken>,
}

impl FsckReport {
    /// True where nothing is wrong. Orphans and unknown objects are nothing wrong.
    pub fn is_ok(&self) -> bool {
        self.damages.is_empty()
    }
}

/// What snapshots say that an object is.
struct Account {
    len: u64,
    checksum: Checksum,
    /// By their places in [`Named::snapshots`].
    snapshots: Vec<u32>,
}

/// What must be there.
#[derive(Default)]
struct Named {
    snapshots: Vec<(String, u64)>,
    objects: BTreeMap<String, Vec<Account>>,
}

/// What is wrong with an object by some of its accounts.
struct Suspect<'a> {
    key: &'a str,
    problem: Problem,
    accounts: Vec<&'a Account>,
}

impl SnapshotStore {
    /// Looks whether the complete snapshots are whole. Jobs may go on meanwhile.
    ///
    /// Reads every object that the snapshots name once, four at a time, as long as a full download takes, unless `options.quick`.
    /// `progress` is called from several threads after each piece of at most 8 MiB. Blocks. Takes memory for each object that there is (some 500 bytes),
    /// and for four `_metadata` and pieces.
    ///
    /// # Errors
    /// `InvalidOption`: the store holds nothing of the job. The store cannot be listed or read: that is no finding.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<FsckReport> {
        let all = self.jobs()?;
        let wanted = wanted(&all, options.job.as_deref())?;
        let named: Mutex<Named> = Mutex::default();
        let survey = Survey::take(self, &wanted, &all, &|job, metadata| {
            if wanted.iter().any(|of| of == job) && !metadata.is_fence() {
                lock(&named).take(job, metadata);
            }
        })?;
        let named = named.into_inner().unwrap_or_else(PoisonError::into_inner);
        let found = self.lengths_of(&survey, &named)?;
        let mut suspects = named.of_other_lengths(&found);
        let mut read_bytes = 0;
        if !options.quick {
            let (wrong, read) = self.read_all(&named, &found, progress)?;
            suspects.extend(wrong);
            read_bytes = read;
        }
        suspects.extend(named.contradictions());
        let mut damages = self.damages(&named, suspects)?;
        let (own, elsewhere): (Vec<_>, Vec<_>) = survey
            .unreadable
            .iter()
            .cloned()
            .partition(|of: &Unreadable| wanted.contains(&of.job));
        damages.extend(own.into_iter().map(Damage::from));
        damages.sort_unstable();
        let mut objects = Count::default();
        named.objects.values().for_each(|of| objects.add(of[0].len));
        Ok(FsckReport {
            snapshots: named.snapshots.len() as u64,
            objects,
            read_bytes,
            damages,
            jobs: survey.judge(about_now(&survey), GcOptions::default().min_age),
            unreadable_elsewhere: elsewhere,
        })
    }

    /// The lengths of all objects that are named, as the store lists them.
    fn lengths_of(&self, survey: &Survey, named: &Named) -> Result<HashMap<String, u64>> {
        let listed = survey.listings.iter().flat_map(|listing| &listing.objects);
        let listed = listed.filter(|object| named.objects.contains_key(object.key.as_str()));
        let mut found: HashMap<String, u64> = listed
            .map(|object| (object.key.to_string(), object.len))
            .collect();
        // What was put since, and what lies below other jobs.
        let missing = named.objects.keys().filter(|key| !found.contains_key(*key));
        let prefixes = missing.filter_map(|key| key.rsplit_once('/'));
        let prefixes: BTreeSet<&str> = prefixes.map(|(prefix, _)| prefix).collect();
        let prefixes: Vec<&str> = prefixes.into_iter().collect();
        let listed = in_parallel(PARALLEL, &prefixes, |prefix| {
            let (store, prefix) = (self.store.clone(), Key::new(*prefix)?);
            let entries = {
                let prefix = prefix.clone();
                self.wait(async move { store.list(Some(&prefix)).await })?
            };
            let mut lengths = lengths(&prefix, entries);
            lengths.retain(|key, _| named.objects.contains_key(key));
            Ok(lengths)
        })?;
        found.extend(listed.into_iter().flatten());
        // Asked for by name: a listing may have passed over what was put at that moment.
        let missing = named.objects.keys().filter(|key| !found.contains_key(*key));
        let asked = in_parallel(PARALLEL, &missing.collect::<Vec<_>>(), |key| {
            let len = len_of(self, &Key::new(key.as_str())?)?;
            Ok(len.map(|len| (key.to_string(), len)))
        })?;
        found.extend(asked.into_iter().flatten());
        Ok(found)
    }

    /// Reads every object that has a length that it should have.
    fn read_all<'a>(
        &self,
        named: &'a Named,
        found: &HashMap<String, u64>,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(Vec<Suspect<'a>>, u64)> {
        let readable: Vec<(&str, u64, Vec<&Account>)> = named
            .objects
            .iter()
            .filter_map(|(key, accounts)| {
                let len = *found.get(key)?;
                let fitting: Vec<&Account> = accounts.iter().filter(|of| of.len == len).collect();
                (!fitting.is_empty()).then_some((key.as_str(), len, fitting))
            })
            .collect();
        let bytes_total = readable.iter().map(|(_, len, _)| len).sum();
        let done = AtomicU64::new(0);
        let tell = |bytes: u64| {
            let bytes_done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(FsckProgress {
                bytes_done,
                bytes_total,
            });
        };
        let wrong = in_parallel(PARALLEL_OBJECTS, &readable, |(key, len, accounts)| {
            let read = content(self, &Key::new(*key)?, *len, &tell)?;
            let wrong = accounts.iter().filter_map(|of| {
                let problem = match read {
                    Content::Missing => Problem::Missing,
                    Content::OtherLength(found) => of.wrong_length(found),
                    Content::Checksum(found) if found != of.checksum => Problem::WrongChecksum {
                        expected: of.checksum,
                        found,
                    },
                    Content::Checksum(_) => return None,
                };
                Some(Suspect {
                    key,
                    problem,
                    accounts: vec![of],
                })
            });
            Ok(wrong.collect::<Vec<_>>())
        })?;
        let wrong = wrong.into_iter().flatten().collect();
        Ok((wrong, done.into_inner()))
    }

    /// What the suspects break, those left out that break nothing any more.
    fn damages(&self, named: &Named, suspects: Vec<Suspect<'_>>) -> Result<Vec<Damage>> {
        let mut by_snapshot: BTreeMap<u32, Vec<(usize, &Account)>> = BTreeMap::new();
        for (at, suspect) in suspects.iter().enumerate() {
            for account in &suspect.accounts {
                for snapshot in &account.snapshots {
                    let of = by_snapshot.entry(*snapshot).or_default();
                    of.push((at, account));
                }
            }
        }
        let by_snapshot: Vec<_> = by_snapshot.into_iter().collect();
        let broken = in_parallel(PARALLEL_OBJECTS, &by_snapshot, |(snapshot, of)| {
            let (job, id) = &named.snapshots[*snapshot as usize];
            let metadata = match read(self, &JobLayout::new(job)?, *id)? {
                Some(Ok(metadata)) => metadata,
                None => return Ok(Vec::new()),
                // It could be read before. Nobody can tell any more what of it is broken, but it still needs the object.
                Some(Err(_)) => {
                    let states = Vec::new();
                    let (job, id) = (job.clone(), *id);
                    let broken = Broken { job, id, states };
                    return Ok(of.iter().map(|(at, _)| (*at, broken.clone())).collect());
                }
            };
            let mut scopes = Scopes::new(self, &metadata);
            let mut broken = Vec::new();
            for (at, account) in of {
                let states = scopes.of(suspects[*at].key, (account.len, account.checksum))?;
                if !states.is_empty() {
                    let (job, id) = (job.clone(), *id);
                    broken.push((*at, Broken { job, id, states }));
                }
            }
            Ok(broken)
        })?;
        let mut breaks: HashMap<usize, Vec<Broken>> = HashMap::new();
        for (at, broken) in broken.into_iter().flatten() {
            breaks.entry(at).or_default().push(broken);
        }
        let damages = suspects
            .into_iter()
            .enumerate()
            .filter_map(|(at, suspect)| {
                let mut breaks = breaks.remove(&at)?;
                breaks.sort_unstable();
                breaks.dedup();
                Some(Damage {
                    key: suspect.key.to_owned(),
                    problem: suspect.problem,
                    breaks,
                })
            });
        Ok(damages.collect())
    }
}

impl Account {
    fn wrong_length(&self, found: u64) -> Problem {
        Problem::WrongLength {
            expected: self.len,
            found,
        }
    }
}

impl Named {
    fn take(&mut self, job: &str, metadata: &SnapshotMetadata) {
        let at = self.snapshots.len() as u32; // a number of objects in a listing
        self.snapshots.push((job.to_owned(), metadata.id));
        let objects = metadata.subtasks.iter().flat_map(|state| state.objects());
        for (key, len, checksum) in objects {
            let accounts = match self.objects.get_mut(key) {
                Some(accounts) => accounts,
                None => self.objects.entry(key.to_owned()).or_default(),
            };
            let same = |of: &&mut Account| (of.len, of.checksum) == (len, checksum);
            match accounts.iter_mut().find(same) {
                // Two states of a snapshot name it.
                Some(account) if account.snapshots.last() == Some(&at) => {}
                Some(account) => account.snapshots.push(at),
                None => accounts.push(Account {
                    len,
                    checksum,
                    snapshots: vec![at],
                }),
            }
        }
    }

    /// What is missing or has another length.
    fn of_other_lengths(&self, found: &HashMap<String, u64>) -> Vec<Suspect<'_>> {
        let mut suspects = Vec::new();
        for (key, accounts) in &self.objects {
            match found.get(key) {
                None => {
                    let (problem, accounts) = (Problem::Missing, accounts.iter().collect());
                    suspects.push(Suspect {
                        key,
                        problem,
                        accounts,
                    });
                }
                Some(found) => {
                    let wrong = accounts.iter().filter(|of| of.len != *found);
                    suspects.extend(wrong.map(|of| Suspect {
                        key,
                        problem: of.wrong_length(*found),
                        accounts: vec![of],
                    }));
                }
            }
        }
        suspects
    }

    /// Objects that are one thing to some snapshots and another to others.
    fn contradictions(&self) -> impl Iterator<Item = Suspect<'_>> {
        let several = self.objects.iter().filter(|(_, of)| of.len() > 1);
        several.map(|(key, accounts)| {
            let mut contents: Vec<_> = accounts.iter().map(|of| (of.len, of.checksum)).collect();
            contents.sort_unstable();
            Suspect {
                key,
                problem: Problem::Contradiction { contents },
                accounts: accounts.iter().collect(),
            }
        })
    }
}
