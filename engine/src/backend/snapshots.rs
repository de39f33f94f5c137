//! The snapshots of a backend, and its parts of snapshots of many: the synchronous part, and the thread of the other one.

use std::{
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::Instant,
};

use lazurite_env::{Error as EnvError, remote::Key};

use super::{StateBackend, lock};
use crate::{
    Error, Result,
    metrics::{self, PhaseClock},
    snapshot::{
        Capture, Deadline, Job, PendingSnapshot, SnapshotOptions, SubtaskHandle,
        commit::check_is_empty,
        context::Context,
        copies::better_uploaded,
        layout::token,
        registry::{REUSE_TIME, Uploaded},
        uploaded,
    },
};

/// Parts of snapshots that are kept in mind: those of more are not complete by now, or nobody tells.
const MAX_PARTS: usize = 16;

/// The snapshot under way.
pub(super) struct Running {
    pub(super) deadline: Deadline,
    /// Nothing is ever sent: the sender is dropped when the snapshot's thread ends.
    pub(super) ended: Receiver<()>,
}

impl Running {
    fn goes_on(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Empty)
    }
}

impl StateBackend {
    /// Takes a snapshot of everything written before this call.
    ///
    /// Blocks for the synchronous part: a flush and some links. Writes by other threads during this call may or may not
    /// be in it, each whole; hold them back where the snapshot must match a source position exactly. What is in it
    /// is durable once [`PendingSnapshot::wait`] returned.
    ///
    /// # Errors
    /// [`Error::SavepointExists`] where there is something in a savepoint's directory; [`Error::PartOfSnapshot`] where the backend was restored from a snapshot that holds more than it does; [`Error::SnapshotInProgress`] where the one before has not ended; [`Error::SnapshotConflict`] once another writer was
    /// found to have taken over the job: open a backend anew to go on from what that one wrote; what the disk or RocksDB
    /// answered.
    pub fn snapshot(&self, options: SnapshotOptions) -> Result<PendingSnapshot> {
        if let Some(id) = self.snapshots.part_of {
            return Err(Error::PartOfSnapshot {
                id,
                range: self.context.range,
            });
        }
        let mut running = lock(&self.running);
        if running.as_ref().is_some_and(Running::goes_on) {
            return Err(Error::SnapshotInProgress);
        }
        self.snapshots.committer.history().check_alone()?;
        if let Some(dir) = options.savepoint_dir(self.snapshots.layout.job())? {
            check_is_empty(&self.snapshots.snapshot_store(), &dir)?;
        }
        let figures = &self.snapshots.figures;
        figures.begun();
        let id = self.snapshots.committer.history().next_id();
        let (pending, run) = self
            .begin_snapshot(id, options, Job::run)
            .inspect_err(|error| figures.ended(Err(error)))?;
        *running = Some(run);
        Ok(pending)
    }

    /// Takes this subtask's part of the snapshot `id`, of everything written before this call. The number is that of the job's
    /// [`Coordinator`](crate::Coordinator), which is given the handle that [`PendingSnapshot::wait`] returns: all that it names is
    /// durable then, and the snapshot exists when the coordinator has completed it. Tell
    /// [`confirm_part`](Self::confirm_part) of that. Blocks as [`snapshot`](Self::snapshot) does.
    ///
    /// # Errors
    /// [`Error::SnapshotInProgress`] where the one before has not ended; what the disk or RocksDB answered.
    pub fn snapshot_part(
        &self,
        id: u64,
        options: SnapshotOptions,
    ) -> Result<PendingSnapshot<SubtaskHandle>> {
        let mut running = lock(&self.running);
        if running.as_ref().is_some_and(Running::goes_on) {
            return Err(Error::SnapshotInProgress);
        }
        let figures = &self.snapshots.figures;
        figures.begun();
        let parts = self.parts.clone();
        let run = move |job: Job, context: &Context| {
            let is_savepoint = job.savepoint.is_some();
            let handle = job.run_part(context)?;
            if is_savepoint {
                return Ok(handle);
            }
            let mut parts = lock(&parts);
            parts.insert(id, handle.state.clone());
            while parts.len() > MAX_PARTS {
                parts.pop_first();
            }
            Ok(handle)
        };
        let (pending, run) = self
            .begin_snapshot(id, options, run)
            .inspect_err(|error| figures.ended(Err(error)))?;
        *running = Some(run);
        Ok(pending)
    }

    /// Tells the backend that the snapshot `id`, of which it gave a part, is complete: local files that it holds are reused by a restart on
    /// this directory from now on, and may be demoted; and where the job began with another's snapshot, its own copies are read. Every completed part
    /// must be confirmed: what is not within an hour is uploaded, or copied, once more, and a state that was another's is read from there until then. Nothing where it gave none. Blocks for a small local write.
    ///
    /// # Errors
    /// What the disk answered; the snapshot is complete all the same.
    pub fn confirm_part(&self, id: u64) -> Result<()> {
        let state = {
            let mut parts = lock(&self.parts);
            let later = parts.split_off(&id.saturating_add(1));
            std::mem::replace(&mut *parts, later).remove(&id)
        };
        if let Some(state) = state {
            let mut entries = uploaded(state.files.iter())?;
            {
                // What a later part has put elsewhere is read there.
                let registry = self.snapshots.registry();
                let is_current = |name: &str, key: &Key| {
                    registry.get(name).is_none_or(|known| known.key == *key)
                };
                entries.retain(|entry| is_current(&entry.name, &entry.file.key));
            }
            self.snapshots.registry().completed(&state);
            self.union.catalogue_uploaded(&entries)?;
            self.union.record_uploaded(&entries)?;
        }
        Ok(())
    }

    /// The synchronous part, and the thread of the other one.
    fn begin_snapshot<T: Send + 'static>(
        &self,
        id: u64,
        options: SnapshotOptions,
        run: impl FnOnce(Job, &Context) -> Result<T> + Send + 'static,
    ) -> Result<(PendingSnapshot<T>, Running)> {
        let begun = Instant::now();
        let deadline = Deadline::new(options.timeout.unwrap_or(self.timeout));
        let staging = self.snapshots.staging.join(format!("chk-{id}-{}", token()));
        let mut phases = PhaseClock::start(
            &metrics::SNAPSHOT_PHASE_SECONDS,
            self.snapshots.layout.job().as_str(),
        );
        let savepoint = options.savepoint_dir(self.snapshots.layout.job())?;
        let context = self.snapshots.clone();
        // A file that the store has elsewhere is copied there, if that costs no more than to send it.
        let is_staged = |known: &Uploaded, name: &str| {
            !context.committer.bounds.hold(&known.key) && better_uploaded(&context, name)
        };
        let mut registry = self.snapshots.registry();
        registry.expire(REUSE_TIME);
        let mut capture = Capture::take(
            &self.context.db,
            &self.union,
            &mut registry,
            &is_staged,
            staging,
            &mut phases,
        )?;
        drop(registry);
        {
            let mut heat = self.snapshots.heat();
            heat.look(Instant::now(), &self.context.db.file_reads()?);
            capture.note_heat(&heat);
            self.union.download().set_heat(heat.all());
        }
        let job = Job {
            id,
            db: self.context.db.clone(),
            capture,
            tables: lock(&self.tables).clone(),
            options,
            deadline: deadline.clone(),
            savepoint,
            sync: begun.elapsed(),
            phases,
        };
        let (alive, ended) = channel();
        let thread = std::thread::Builder::new()
            .name("lazurite-snapshot".into())
            .spawn(move || {
                // Dropped in the other order: who waits for the end may give the directory to another, so nothing of this one
                // is held any more by then.
                let _alive: std::sync::mpsc::Sender<()> = alive;
                let context = context;
                run(job, &context)
            })
            .map_err(|e| EnvError::from_io("start", "the snapshot's thread", e))?;
        let running = Running {
            deadline: deadline.clone(),
            ended,
        };
        Ok((PendingSnapshot::new(id, deadline, thread), running))
    }
}
