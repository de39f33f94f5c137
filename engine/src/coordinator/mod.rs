//! [`Coordinator`]: snapshots of a job that has several subtasks.
//!
//! pending -> complete -> subsumed. A snapshot is pending from [`begin`](Coordinator::begin), which gives it its number, until every subtask
//! has [given its part](Coordinator::acknowledge). With the last part `_metadata` is created, atomically: the snapshot is complete, and
//! what newer ones subsume is deleted. A pending snapshot is seen by nobody; one that fails leaves orphans.
//!
//! Invariants:
//! * Who takes over a job makes it known before it looks what there is: it occupies the next number with a *fence*, a `_metadata` that
//!   holds no state. From then on the one before cannot complete that number, and finds at any other one that it was overtaken. So
//!   whatever it has completed by then is what the new one begins with, and nothing else it does comes to exist unnoticed.
//! * A shared object is deleted only if no retained snapshot names it, no part of a pending snapshot does, and no subtask said with
//!   its part of the newest one that it still uses it.
//!
//! Crash story: all that is durable is in `_metadata`; a coordinator that dies is replaced by a new one. Orphans stay.

mod options;
mod pending;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lazurite_env::remote::Key;
use serde::{Deserialize, Serialize};

pub use options::{CoordinatorBuilder, OnCancel};
use pending::Pending;

use crate::{
    Error, KeyGroupRange, Result, SnapshotPath, SnapshotStore,
    snapshot::{
        ClaimMode, Deadline, SnapshotMetadata, SnapshotOptions, SubtaskHandle,
        claims::{Claims, refusal},
        commit::{check_is_empty, commit, commit_savepoint},
        committer::Committer,
        job::look_at_job,
        layout::{JobLayout, token},
        origin,
        place::Place,
        retention::{History, delete_all, retain},
        run::{unix_ms, user_values},
        store::Found,
    },
};

/// How often a take-over is tried where others take over at the same time.
const TAKE_OVERS: usize = 5;

/// A subtask of an operator: its key groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subtask {
    /// The operator.
    pub operator: String,
    /// The key groups.
    pub key_group_range: KeyGroupRange,
}

impl fmt::Display for Subtask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operator, self.key_group_range)
    }
}

/// Completes the snapshots of a job of several subtasks: one `_metadata` for all of them, or none.
///
/// Safe to share among threads. It has no thread and no clock of its own: whoever embeds it asks whether a snapshot [is
/// due](Self::is_due), [begins](Self::begin) it, sends its number to the subtasks, which take [their
/// part](crate::StateBackend::snapshot_part), and gives it [their handles](Self::acknowledge).
pub struct Coordinator {
    options: CoordinatorBuilder,
    committer: Committer,
    /// Held while a snapshot is completed: one at a time. Locked before the committer's history, and that before `state`.
    commits: Mutex<()>,
    state: Mutex<State>,
    /// What the job begins with, where it had no snapshot of its own.
    initial: Option<(Place, Arc<SnapshotMetadata>)>,
}

struct State {
    pending: BTreeMap<u64, Pending>,
    /// The newest complete snapshot of the job's own.
    latest: Option<Arc<SnapshotMetadata>>,
    /// What the subtasks still used at their last part.
    in_use: HashSet<Key>,
    failures: u32,
    last_begin: Option<Instant>,
    last_end: Option<Instant>,
}

/// A snapshot that was completed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompletedSnapshot {
    /// Its number: tell it to the subtasks ([`confirm_part`](crate::StateBackend::confirm_part)).
    pub id: u64,
    /// From its begin to its completion.
    pub elapsed: Duration,
    /// Bytes that all subtasks sent, `_metadata` included.
    pub uploaded_bytes: u64,
    /// Table files that all subtasks sent.
    pub uploaded_files: u64,
    /// Table files that were in the store already, where the snapshot names them.
    pub reused_files: u64,
    /// Table files that were copied inside the store, without a byte over the link.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Table files that were copied by reading and writing them, since the store cannot copy.
    pub streamed_files: u64,
    /// Their bytes, and those of their tails.
    pub streamed_bytes: u64,
    /// Snapshots that were pending and are given up, since this one is newer.
    pub subsumed: Vec<u64>,
}

impl Coordinator {
    /// The options of a coordinator of `job` in `store`.
    pub fn builder(store: SnapshotStore, job: &str) -> CoordinatorBuilder {
        CoordinatorBuilder::new(store, job)
    }

    fn take_over(options: CoordinatorBuilder) -> Result<Coordinator> {
        let layout = JobLayout::new(&options.job)?;
        let SnapshotStore { store, runtime } = &options.store;
        let writer = token();
        let committer = |history, claimed| {
            Committer::new(
                store.clone(),
                runtime.clone(),
                layout.clone(),
                claimed,
                writer.clone(),
                options.retained,
                history,
            )
        };
        let deadline = Deadline::new(options.timeout);
        'again: for _ in 0..TAKE_OVERS {
            let before = look_at_job(store, runtime, &layout)?;
            if before.claimed {
                return Err(refusal(store, runtime, &Place::Snapshot(layout, 1)));
            }
            let fence = SnapshotMetadata {
                job: options.job.clone(),
                id: before.ids.last().map_or(1, |id| id + 1),
                writer: writer.clone(),
                created_unix_ms: unix_ms(),
                user_metadata: BTreeMap::new(),
                claimed: Vec::new(),
                origin: None,
                in_use: Vec::new(),
                savepoint: false,
                subtasks: Vec::new(),
            };
            let fencing = committer(History::default(), Vec::new());
            let put = |fence: &SnapshotMetadata| {
                commit(&fencing, &fencing.place(fence.id), fence, &deadline)
            };
            match put(&fence) {
                Ok(_) => {}
                Err(Error::SnapshotConflict { .. }) => continue,
                Err(error) => return Err(error),
            }
            // What the one before completed while it did not see the fence is found now; later it completes nothing.
            let job = look_at_job(store, runtime, &layout)?;
            if job.ids.last() != Some(&fence.id) {
                continue; // somebody took over from this one
            }
            // Nor shall a number below the fence that was begun and never completed be completed by a request that is still on its way.
            let mut fences = vec![fence.clone()];
            for id in &job.unfinished {
                let below = SnapshotMetadata {
                    id: *id,
                    ..fence.clone()
                };
                match put(&below) {
                    Ok(_) => fences.push(below),
                    Err(Error::SnapshotConflict { .. }) => continue 'again,
                    Err(error) => return Err(error),
                }
            }
            let Beginning {
                claims,
                latest,
                initial,
            } = Beginning::of(&options, job.newest)?;
            let mut history = History::new(job.ids, Default::default());
            latest.iter().cloned().for_each(|of| history.completed(of));
            for fence in fences {
                history.completed(Arc::new(fence));
            }
            history.began_with(claims.origin);
            return Ok(Coordinator {
                committer: committer(history, claims.dirs),
                options,
                initial,
                commits: Mutex::new(()),
                state: Mutex::new(State {
                    pending: BTreeMap::new(),
                    latest,
                    in_use: HashSet::new(),
                    failures: 0,
                    last_begin: None,
                    last_end: None,
                }),
            });
        }
        Err(Error::SnapshotConflict { id: 0 })
    }

    /// The snapshot that the job [begins with](CoordinatorBuilder::initial_state), another's or a savepoint: `None` where it had one of its own, or was given none.
    pub fn initial(&self) -> Option<Arc<SnapshotMetadata>> {
        self.initial.as_ref().map(|(_, metadata)| metadata.clone())
    }

    /// Where [that one](Self::initial) lies: what every subtask is to be given as its
    /// [`initial_state`](crate::StateBackendBuilder::initial_state), so that all begin with the same.
    pub fn initial_path(&self) -> Option<SnapshotPath> {
        self.initial
            .as_ref()
            .map(|(place, _)| SnapshotPath::at(place.clone()))
    }

    /// The newest complete snapshot of the job's own: what the subtasks are to restore, by its number.
    pub fn latest(&self) -> Option<Arc<SnapshotMetadata>> {
        self.lock().latest.clone()
    }

    /// The snapshots under way, with those whose part is missing.
    pub fn pending(&self) -> BTreeMap<u64, Vec<Subtask>> {
        let state = self.lock();
        let pending = state.pending.iter();
        pending
            .map(|(id, pending)| (*id, pending.missing().cloned().collect()))
            .collect()
    }

    /// True where a snapshot should begin now: interval and pause have passed, and there is room for one more. Gives up, as a side effect,
    /// what has timed out.
    pub fn is_due(&self) -> bool {
        let mut state = self.lock();
        self.give_up_late(&mut state);
        let passed = |since: Option<Instant>, long: Duration| {
            since.is_none_or(|since| since.elapsed() >= long)
        };
        state.pending.len() < self.options.max_concurrent
            && passed(state.last_begin, self.options.interval)
            && passed(state.last_end, self.options.min_pause)
    }

    /// Begins a snapshot, of which a part of each of `subtasks` is expected, and gives it its number. Nothing is written. Waits while another is being
    /// completed. The subtasks are given the same options for a [savepoint](SnapshotOptions::savepoint). Numbers are the coordinator's: whatever of an earlier one's is still on its way to a subtask or back is to be dropped.
    ///
    /// # Errors
    /// [`Error::SnapshotInProgress`] where as many as may be are under way; [`Error::SnapshotConflict`] once another coordinator was found
    /// to have taken over; [`Error::TooManySnapshotFailures`] after as many as are not tolerated; [`Error::InvalidOption`] for subtasks that
    /// share key groups, or none;
    /// [`Error::SavepointExists`] where there is something in a savepoint's directory.
    pub fn begin(&self, subtasks: &[Subtask], options: SnapshotOptions) -> Result<u64> {
        let timeout = options.timeout.unwrap_or(self.options.timeout);
        let savepoint = options.savepoint_dir(self.committer.layout.job())?;
        if let Some(dir) = &savepoint {
            check_is_empty(&self.options.store, dir)?;
        }
        let deadline = Deadline::new(timeout);
        let pending = Pending::new(subtasks, options.user_metadata, savepoint, deadline)?;
        let mut history = self.committer.history();
        history.check_alone()?;
        let mut state = self.lock();
        self.give_up_late(&mut state);
        self.check_failures(&state)?;
        if state.pending.len() >= self.options.max_concurrent {
            return Err(Error::SnapshotInProgress);
        }
        let id = history.next_id();
        history.attempted(id);
        state.last_begin = Some(pending.begun);
        state.pending.insert(id, pending);
        Ok(id)
    }

    /// Takes a subtask's part. With the last one the snapshot is completed, which blocks for a few requests: it is what this returns then.
    /// A part of the newest complete snapshot, given once more, is nothing.
    ///
    /// # Errors
    /// [`Error::SnapshotAborted`] where the snapshot is not under way (any more): the part is of no use. [`Error::InvalidOption`] for a part of
    /// somebody who is not expected. What completing failed with: the snapshot has failed then, and
    /// [`SnapshotConflict`](Error::SnapshotConflict) says that another coordinator has taken over.
    pub fn acknowledge(&self, handle: SubtaskHandle) -> Result<Option<CompletedSnapshot>> {
        let id = handle.snapshot_id;
        let bounds = &self.committer.bounds;
        let (dropped, is_whole) = {
            let mut state = self.lock();
            self.give_up_late(&mut state);
            if state.latest.as_ref().is_some_and(|latest| latest.id == id) {
                return Ok(None); // the answer to the last part was lost
            }
            let pending = state.pending.get_mut(&id).ok_or(Error::SnapshotAborted)?;
            handle.check(bounds, pending.savepoint.as_ref())?;
            let dropped = handle.dropped()?;
            pending.take(handle)?;
            (dropped, pending.is_whole())
        };
        self.committer.spare(dropped);
        if !is_whole {
            return Ok(None);
        }
        // Another one may be completed at this moment, and subsume this one.
        let _commit = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = self.lock().pending.remove(&id) else {
            return Err(Error::SnapshotAborted);
        };
        let result = self.complete(id, &pending);
        let mut state = self.lock();
        state.last_end = Some(Instant::now());
        match result {
            Ok(completed) => {
                state.failures = 0;
                Ok(Some(completed))
            }
            Err(error) => {
                state.failures += 1;
                Err(error)
            }
        }
    }

    /// Gives up a snapshot: a subtask could not take its part, or somebody wants it so. It counts as failed. Nothing where it is not under
    /// way.
    ///
    /// # Errors
    /// [`Error::TooManySnapshotFailures`] where this was one too many.
    pub fn decline(&self, id: u64, reason: &str) -> Result<()> {
        let given_up = self.lock().pending.remove(&id);
        if let Some(pending) = given_up {
            tracing::warn!(id, reason, "snapshot declined");
            self.committer.spare(pending.manifests());
            let mut state = self.lock();
            state.failures += 1;
            state.last_end = Some(Instant::now());
        }
        self.check_failures(&self.lock())
    }

    /// Ends the job: gives up what is under way and, with [`OnCancel::Delete`], deletes its snapshots. Blocks for that.
    ///
    /// # Errors
    /// [`Error::SnapshotConflict`] where another coordinator has taken over: the snapshots are its own. What the store answered; try again.
    pub fn cancel(&self) -> Result<()> {
        self.lock().pending.clear();
        if self.options.on_cancel == OnCancel::Keep {
            return Ok(());
        }
        let _commit = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        delete_all(&self.committer, &Deadline::new(self.options.timeout))?;
        self.lock().latest = None;
        Ok(())
    }

    /// Creates `_metadata`, and deletes what it subsumes.
    fn complete(&self, id: u64, pending: &Pending) -> Result<CompletedSnapshot> {
        let span = tracing::info_span!("complete", id);
        let _entered = span.enter();
        let mut subtasks: Vec<_> = pending.parts().map(|part| part.state.clone()).collect();
        subtasks.sort_by(|a, b| {
            let key = |of: &crate::snapshot::SubtaskState| of.key_group_range.start();
            (&a.operator, key(a)).cmp(&(&b.operator, key(b)))
        });
        let in_use = pending.in_use();
        let (claimed, origin) = match pending.savepoint {
            Some(_) => Default::default(),
            None => self.committer.claims(&subtasks, &in_use),
        };
        let metadata = Arc::new(SnapshotMetadata {
            job: self.options.job.clone(),
            id,
            writer: self.committer.writer.clone(),
            created_unix_ms: unix_ms(),
            user_metadata: user_values(&pending.user_metadata),
            claimed,
            origin,
            in_use,
            savepoint: pending.savepoint.is_some(),
            subtasks,
        });
        let deadline = &pending.deadline;
        let mut subsumed = Vec::new();
        let bytes = match &pending.savepoint {
            Some(dir) => commit_savepoint(&self.committer, dir, &metadata, deadline)?,
            None => {
                let bytes = self.commit(&metadata, deadline)?;
                subsumed = self.completed(&metadata, pending)?;
                self.retain(id, deadline)?;
                bytes
            }
        };
        let sum = |of: fn(&SubtaskHandle) -> u64| {
            let parts = pending.parts().map(of);
            parts.fold(0, u64::saturating_add) // they come from other processes
        };
        Ok(CompletedSnapshot {
            id,
            elapsed: pending.begun.elapsed(),
            uploaded_bytes: sum(|part| part.report.uploaded_bytes).saturating_add(bytes),
            uploaded_files: sum(|part| part.report.uploaded_files),
            reused_files: sum(|part| part.report.reused_files),
            copied_files: sum(|part| part.report.copied_files),
            streamed_files: sum(|part| part.report.streamed_files),
            copied_bytes: sum(|part| part.report.copied_bytes),
            streamed_bytes: sum(|part| part.report.streamed_bytes),
            subsumed,
        })
    }

    /// Creates `_metadata` of a snapshot of the job's own; its length.
    fn commit(&self, metadata: &Arc<SnapshotMetadata>, deadline: &Deadline) -> Result<u64> {
        let id = metadata.id;
        self.committer.refuse_overtaken(id, deadline)?;
        let place = self.committer.place(id);
        let bytes = commit(&self.committer, &place, metadata, deadline).inspect_err(|error| {
            if matches!(error, Error::SnapshotConflict { .. }) {
                self.committer.history().overtaken(id);
            }
        })?;
        self.committer.history().completed(metadata.clone());
        Ok(bytes)
    }

    /// Deletes what snapshot `id` subsumes. The only error is that the job is somebody else's.
    fn retain(&self, id: u64, deadline: &Deadline) -> Result<()> {
        match retain(&self.committer, id, deadline, || self.needed()) {
            Err(error @ (Error::SnapshotConflict { .. } | Error::Claimed { .. })) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "subsumed snapshots were not deleted; the next snapshot tries again");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Notes that a snapshot is complete, and gives up older ones.
    fn completed(&self, metadata: &Arc<SnapshotMetadata>, pending: &Pending) -> Result<Vec<u64>> {
        let mut in_use = HashSet::new();
        for part in pending.parts() {
            in_use.extend(part.needed()?);
        }
        let mut state = self.lock();
        state.latest = Some(metadata.clone());
        state.in_use = in_use;
        // A savepoint is none of the job's snapshots, so no newer one makes it needless.
        let is_older = |id: &u64, of: &mut Pending| *id < metadata.id && of.savepoint.is_none();
        let older: BTreeMap<u64, Pending> = state.pending.extract_if(.., is_older).collect();
        drop(state);
        for pending in older.values() {
            self.committer.spare(pending.manifests());
        }
        Ok(older.into_keys().collect())
    }

    /// Objects that no retained snapshot may name, and that must stay all the same.
    fn needed(&self) -> HashSet<Key> {
        let state = self.lock();
        let mut needed = state.in_use.clone();
        for part in state.pending.values().flat_map(Pending::parts) {
            // It was checked when it came.
            needed.extend(part.needed().unwrap_or_default());
        }
        needed
    }

    fn give_up_late(&self, state: &mut State) {
        let before = state.pending.len();
        state.pending.retain(|id, pending| {
            let in_time = pending.deadline.check().is_ok();
            if !in_time {
                let missing: Vec<String> = pending.missing().map(Subtask::to_string).collect();
                tracing::warn!(id, ?missing, "snapshot timed out");
            }
            in_time
        });
        let late = (before - state.pending.len()) as u32;
        if late > 0 {
            state.failures += late;
            state.last_end = Some(Instant::now());
        }
    }

    fn check_failures(&self, state: &State) -> Result<()> {
        if state.failures > self.options.tolerable_failures {
            return Err(Error::TooManySnapshotFailures {
                failures: state.failures,
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Never held across a request or while another lock is waited for, and each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a job goes on from.
#[derive(Default)]
struct Beginning {
    claims: Claims,
    latest: Option<Arc<SnapshotMetadata>>,
    initial: Option<(Place, Arc<SnapshotMetadata>)>,
}

impl Beginning {
    /// By `newest`, the job's newest complete snapshot; where there is none, by what it was told to begin with.
    fn of(options: &CoordinatorBuilder, newest: Option<(u64, Result<Found>)>) -> Result<Self> {
        let SnapshotStore { store, runtime } = &options.store;
        if let Some((_, found)) = newest {
            let found = found?;
            let mut claims = Claims::of(Some(&found), None)?;
            claims.keep_own(store, runtime, &options.job)?;
            return Ok(Beginning {
                claims,
                latest: Some(Arc::new(found.metadata)),
                initial: None,
            });
        }
        let Some((path, mode)) = &options.initial_state else {
            return Ok(Beginning::default());
        };
        let mut found = origin::find_for(store, runtime, path, &options.job)?;
        if *mode == ClaimMode::Claim {
            found = origin::take(store, runtime, path, &found, &options.job)?;
        }
        Ok(Beginning {
            claims: Claims::of(Some(&found), Some(*mode))?,
            latest: None,
            initial: Some((found.place, Arc::new(found.metadata))),
        })
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("job", &self.options.job)
            .field("pending", &self.lock().pending.len())
            .finish_non_exhaustive()
    }
}
