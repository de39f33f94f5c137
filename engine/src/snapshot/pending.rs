//! A snapshot under way: its handle, its deadline, and the thread that carries it out.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lazurite_env::{IoRuntime, remote::Key};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{moment::Moment, place::savepoint_dir};
use crate::{Error, Result};

/// No snapshot takes longer: what it has uploaded by then, and no complete snapshot names, may be removed by `gc` at an age of a day.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(12 * 3600);

/// What a snapshot is to hold beside the tables.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    pub(crate) user_metadata: BTreeMap<String, Vec<u8>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) savepoint: Option<String>,
}

impl SnapshotOptions {
    /// No user metadata, and the backend's own timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `value` under `name` in the snapshot: a source position, say. A restore gives it back.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.user_metadata.insert(name.into(), value.into());
        self
    }

    /// Makes it a savepoint in the directory `dir` of the job's store, from the store's root; there must be nothing yet. It is the user's: it lies
    /// there with all that it needs, can be copied or moved as a directory, and no job deletes it. What the store has is copied
    /// inside the store, not uploaded again. A savepoint is none of the job's snapshots: it subsumes none, and no restart finds it by itself;
    /// a job begins with it by [`initial_state`](crate::StateBackendBuilder::initial_state).
    pub fn savepoint(mut self, dir: impl Into<String>) -> Self {
        self.savepoint = Some(dir.into());
        self
    }

    /// The savepoint's directory, checked: none that `job` itself has.
    pub(crate) fn savepoint_dir(&self, job: &Key) -> Result<Option<Key>> {
        let dir = self.savepoint.as_deref().map(savepoint_dir).transpose()?;
        match dir {
            Some(dir) if dir == *job => Err(Error::InvalidOption {
                option: "savepoint",
                reason: format!("{dir} is the job's own directory; give another one"),
            }),
            dir => Ok(dir),
        }
    }

    /// Gives up when the snapshot is not complete `timeout` after it was begun: at most 12 hours. Defaults to the backend's
    /// [`snapshot_timeout`](crate::StateBackendBuilder::snapshot_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// What a completed snapshot cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// The snapshot's number.
    pub id: u64,
    /// The synchronous part, in which the caller waited: flush and links.
    pub sync: Duration,
    /// The asynchronous part: uploads and commit.
    pub async_: Duration,
    /// Bytes sent: table files, tails, manifest and metadata; not those of streamed copies.
    pub uploaded_bytes: u64,
    /// Table files sent.
    pub uploaded_files: u64,
    /// Bytes of table files sent, a part of `uploaded_bytes`.
    pub uploaded_data_bytes: u64,
    /// Bytes of table files that were in the store already, where the snapshot names them.
    pub reused_bytes: u64,
    /// Table files that were in the store already, where the snapshot names them.
    pub reused_files: u64,
    /// Table files that were copied inside the store, without a byte over the link.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Table files that were copied by reading and writing them, since the store cannot copy.
    pub streamed_files: u64,
    /// Their bytes and those of their tails, each read once and written once.
    pub streamed_bytes: u64,
}

/// The moment by which a snapshot must be complete, and the wish to give it up.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    aborted: Arc<watch::Sender<bool>>,
    begun: Moment,
    end: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(crate) fn new(timeout: Duration) -> Self {
        Deadline {
            aborted: Arc::new(watch::Sender::new(false)),
            begun: Moment::now(),
            end: Instant::now() + timeout.min(MAX_TIMEOUT),
            timeout: timeout.min(MAX_TIMEOUT),
        }
    }

    /// An error once the snapshot was aborted or its time is up.
    pub(crate) fn check(&self) -> Result<()> {
        if *self.aborted.borrow() {
            Err(Error::SnapshotAborted)
        } else if Instant::now() >= self.end || self.begun.age() >= MAX_TIMEOUT {
            Err(self.timed_out())
        } else {
            Ok(())
        }
    }

    /// The outcome of `request`, given up at once where the snapshot is: a store may hang.
    pub(crate) async fn within<T>(
        &self,
        request: impl Future<Output = lazurite_env::Result<T>>,
    ) -> Result<T> {
        self.check()?;
        let mut aborted = self.aborted.subscribe();
        tokio::select! {
            // The sender is `self`'s, so this ends only by an abort.
            _ = aborted.wait_for(|aborted| *aborted) => Err(Error::SnapshotAborted),
            result = self.in_time(request) => result,
        }
    }

    /// As [`within`](Self::within), but an abort does not stop it.
    pub(crate) async fn in_time<T>(
        &self,
        request: impl Future<Output = lazurite_env::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout_at(self.end.into(), request).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Blocks for [`within`](Self::within).
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        runtime: &IoRuntime,
        request: impl Future<Output = lazurite_env::Result<T>> + Send + 'static,
    ) -> Result<T> {
        let deadline = self.clone();
        runtime.wait(async move { Ok(deadline.within(request).await) })?
    }

    pub(crate) fn abort(&self) {
        self.aborted.send_replace(true);
    }

    fn timed_out(&self) -> Error {
        Error::SnapshotTimedOut {
            after: self.timeout,
        }
    }
}

/// A snapshot whose synchronous part is over, or a subtask's part of one. Writes go on while it uploads.
///
/// Dropping the handle lets the snapshot go on by itself; its outcome is then only logged. Dropping the backend aborts it.
#[must_use = "the snapshot is complete only once `wait` returned"]
pub struct PendingSnapshot<T = SnapshotReport> {
    id: u64,
    deadline: Deadline,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T> PendingSnapshot<T> {
    pub(crate) fn new(id: u64, deadline: Deadline, thread: JoinHandle<Result<T>>) -> Self {
        PendingSnapshot {
            id,
            deadline,
            thread: Some(thread),
        }
    }

    /// The snapshot's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// True once the snapshot completed or failed, so that [`wait`](Self::wait) would not block.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Blocks until the snapshot is complete: durable in the store, and what a restore finds as the newest. Of a subtask's part: until
    /// all that it is made of is durable in the store.
    ///
    /// # Errors
    /// [`Error::SnapshotAborted`], [`Error::SnapshotTimedOut`], [`Error::SnapshotConflict`] where another writer of the
    /// job has taken over, or what the store or the disk answered. The earlier snapshots are whole in any case, and
    /// the next snapshot reuses what was uploaded.
    ///
    /// After an error in its last step, the commit, this snapshot may exist all the same: its time ran out, or the answer was
    /// lost, or another writer was found just after it. A later restore may then begin with it, as if it had succeeded.
    pub fn wait(mut self) -> Result<T> {
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Err(Error::Closed)),
            None => Err(Error::Closed),
        }
    }

    /// Asks for the snapshot to be given up; returns at once. A commit that is already under way may still succeed:
    /// [`wait`](Self::wait) tells.
    pub fn abort(&self) {
        self.deadline.abort();
    }
}

impl<T> fmt::Debug for PendingSnapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingSnapshot")
            .field("id", &self.id)
            .field("finished", &self.is_finished())
            .finish()
    }
}
