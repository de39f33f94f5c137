//! One snapshot of all subtasks, which a coordinator completes when each has given its part.
//!
//! The parts' synchronous work is done when [`begin`] returns; a thread waits for the rest while counting goes on. Where a part
//! fails, the snapshot is declined and does not exist: the one before is what a restart finds.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lazurite::{Coordinator, PendingSnapshot, SnapshotOptions, SubtaskHandle};

use super::subtasks::Subtasks;
use crate::error::{Error, Result};

/// What a complete snapshot cost, over all subtasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number.
    pub id: u64,
    /// How long counting stood still: flushes and links.
    pub sync: Duration,
    /// The uploads behind it, and the commit.
    pub async_: Duration,
    pub uploaded_bytes: u64,
    pub reused_bytes: u64,
    pub uploaded_files: u64,
    pub reused_files: u64,
}

/// A snapshot that is under way.
#[derive(Debug)]
pub struct Pending {
    thread: JoinHandle<Result<Snapshot>>,
}

/// Begins a snapshot of everything that is written to `subtasks`, which nobody writes to meanwhile.
pub fn begin(
    coordinator: &Arc<Coordinator>,
    subtasks: &Subtasks,
    options: SnapshotOptions,
) -> Result<Pending> {
    let begun = Instant::now();
    let id = coordinator.begin(&subtasks.members(), options)?;
    let parts = subtasks
        .each(|subtask| {
            let part = subtask.backend.snapshot_part(id, SnapshotOptions::new());
            Ok(part?)
        })
        .inspect_err(|error| decline(coordinator, id, error))?;
    let sync = begun.elapsed();
    let coordinator = coordinator.clone();
    let thread = thread::Builder::new()
        .name("complete".into())
        .spawn(move || {
            complete(&coordinator, id, parts, sync)
                .inspect_err(|error| decline(&coordinator, id, error))
        })
        .map_err(Error::file("start", "a thread"))?;
    Ok(Pending { thread })
}

impl Pending {
    /// True where [`wait`](Self::wait) would not block.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Blocks until the snapshot exists, and tells `subtasks` that it does.
    pub fn wait(self, subtasks: &Subtasks) -> Result<Snapshot> {
        let snapshot = self
            .thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let confirmed = subtasks.each(|subtask| Ok(subtask.backend.confirm_part(snapshot.id)?));
        if let Err(error) = confirmed {
            let error = error.chain();
            tracing::warn!(%error, "a restart will not know all of the local files that it could use");
        }
        Ok(snapshot)
    }
}

fn complete(
    coordinator: &Coordinator,
    id: u64,
    parts: Vec<PendingSnapshot<SubtaskHandle>>,
    sync: Duration,
) -> Result<Snapshot> {
    let begun = Instant::now();
    let (mut completed, mut reused_bytes) = (None, 0);
    let mut parts = parts.into_iter();
    let given = parts.by_ref().try_for_each(|part| -> Result<()> {
        let handle = part.wait()?;
        reused_bytes += handle.report.reused_bytes;
        completed = coordinator.acknowledge(handle)?;
        Ok(())
    });
    if given.is_err() {
        parts.for_each(|part| part.abort());
    }
    given?;
    let completed =
        completed.ok_or_else(|| Error::Wrong(format!("snapshot {id} is not complete")))?;
    Ok(Snapshot {
        id,
        sync,
        async_: begun.elapsed(),
        uploaded_bytes: completed.uploaded_bytes,
        reused_bytes,
        uploaded_files: completed.uploaded_files,
        reused_files: completed.reused_files,
    })
}

/// Gives up a snapshot, of which nothing is left then where it was not complete.
fn decline(coordinator: &Coordinator, id: u64, error: &Error) {
    // What it answers is that too many have failed. The run ends with the first, and with the reason of it.
    let _ = coordinator.decline(id, &error.chain());
}
