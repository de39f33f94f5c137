//! [`CoordinatorBuilder`]: the options of a coordinator.

use std::time::Duration;

use super::Coordinator;
use crate::{ClaimMode, Error, Result, SnapshotPath, SnapshotStore, builder::check_timeout};

/// What becomes of a job's snapshots when it is [cancelled](Coordinator::cancel): Flink's externalized checkpoint retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCancel {
    /// They stay: Flink's `RETAIN_ON_CANCELLATION`.
    #[default]
    Keep,
    /// They are deleted: Flink's `DELETE_ON_CANCELLATION`.
    Delete,
}

/// The options of a [`Coordinator`]; all but store and job have a default.
#[derive(Debug, Clone)]
pub struct CoordinatorBuilder {
    pub(super) store: SnapshotStore,
    pub(super) job: String,
    pub(super) interval: Duration,
    pub(super) min_pause: Duration,
    pub(super) timeout: Duration,
    pub(super) max_concurrent: usize,
    pub(super) tolerable_failures: u32,
    pub(super) retained: usize,
    pub(super) on_cancel: OnCancel,
    pub(super) initial_state: Option<(SnapshotPath, ClaimMode)>,
}

impl CoordinatorBuilder {
    pub(super) fn new(store: SnapshotStore, job: &str) -> Self {
        CoordinatorBuilder {
            store,
            job: job.to_owned(),
            interval: Duration::from_secs(60),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            max_concurrent: 1,
            tolerable_failures: 0,
            retained: 1,
            on_cancel: OnCancel::default(),
            initial_state: None,
        }
    }

    /// How long after the begin of a snapshot the next one is [due](Coordinator::is_due): Flink's
    /// `execution.checkpointing.interval`. Defaults to a minute.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long after the end of a snapshot the next one is due at the earliest: Flink's `execution.checkpointing.min-pause`. Defaults to
    /// 0.
    pub fn min_pause(mut self, pause: Duration) -> Self {
        self.min_pause = pause;
        self
    }

    /// A snapshot that is not complete so long after its begin has failed: Flink's `execution.checkpointing.timeout`. Defaults to 10 minutes, as
    /// there; at most 12 hours.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many snapshots may be under way at once: Flink's `execution.checkpointing.max-concurrent-checkpoints`. Defaults to 1, as there.
    pub fn max_concurrent_snapshots(mut self, snapshots: usize) -> Self {
        self.max_concurrent = snapshots;
        self
    }

    /// How many snapshots one after another may fail before the coordinator [says so](Error::TooManySnapshotFailures): Flink's
    /// `execution.checkpointing.tolerable-failed-checkpoints`. Defaults to 0, as there: the first one is too many.
    pub fn tolerable_failures(mut self, failures: u32) -> Self {
        self.tolerable_failures = failures;
        self
    }

    /// How many complete snapshots are kept: Flink's `execution.checkpointing.num-retained`. Defaults to 1, as there.
    pub fn retained_snapshots(mut self, snapshots: usize) -> Self {
        self.retained = snapshots;
        self
    }

    /// What becomes of the snapshots when the job is cancelled. Defaults to [`OnCancel::Keep`].
    pub fn on_cancel(mut self, what: OnCancel) -> Self {
        self.on_cancel = what;
        self
    }

    /// What the job begins with where it has no complete snapshot of its own: see
    /// [`StateBackendBuilder::initial_state`](crate::StateBackendBuilder::initial_state), which the subtasks are given alike.
    pub fn initial_state(mut self, path: SnapshotPath, mode: ClaimMode) -> Self {
        self.initial_state = Some((path, mode));
        self
    }

    /// Takes over the job: from now on no other coordinator and no backend that was there before completes a snapshot of it. A few
    /// requests, for which it blocks.
    ///
    /// # Errors
    /// [`Error::InvalidOption`]; [`Error::SnapshotCorrupt`] where the newest complete snapshot is damaged; [`Error::SnapshotConflict`]
    /// where others keep taking over at the same time; what the store answered.
    pub fn open(self) -> Result<Coordinator> {
        let refuse = |option, reason: &str| {
            Err(Error::InvalidOption {
                option,
                reason: reason.to_owned(),
            })
        };
        if self.retained == 0 {
            return refuse("retained_snapshots", "at least 1 snapshot must be retained");
        }
        if self.max_concurrent == 0 {
            return refuse(
                "max_concurrent_snapshots",
                "at least 1 must be allowed to be under way",
            );
        }
        check_timeout("timeout", self.timeout)?;
        Coordinator::take_over(self)
    }
}
