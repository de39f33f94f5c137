//! [`Figures`]: what the snapshots of a backend came to, for [`metrics`](crate::metrics).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::pending::SnapshotReport;
use crate::{Error, Result};

/// Sums since the backend was opened. Any thread may look.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) running: AtomicU64,
    pub(crate) complete: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) aborted: AtomicU64,
    pub(crate) last_id: AtomicU64,
    pub(crate) last_unix_s: AtomicU64,
    pub(crate) uploaded_files: AtomicU64,
    pub(crate) uploaded_bytes: AtomicU64,
    pub(crate) reused_files: AtomicU64,
    pub(crate) reused_bytes: AtomicU64,
    pub(crate) copied_files: AtomicU64,
    pub(crate) copied_bytes: AtomicU64,
    pub(crate) streamed_files: AtomicU64,
    pub(crate) streamed_bytes: AtomicU64,
}

impl Figures {
    pub(crate) fn begun(&self) {
        self.running.fetch_add(1, Relaxed);
    }

    /// Adds the outcome of a snapshot that was begun.
    pub(crate) fn ended(&self, result: Result<&SnapshotReport, &Error>) {
        match result {
            Ok(report) => {
                self.last_id.store(report.id, Relaxed);
                self.last_unix_s
                    .store(super::run::unix_ms() / 1000, Relaxed);
                for (sum, n) in [
                    (&self.uploaded_files, report.uploaded_files),
                    (&self.uploaded_bytes, report.uploaded_bytes),
                    (&self.reused_files, report.reused_files),
                    (&self.reused_bytes, report.reused_bytes),
                    (&self.copied_files, report.copied_files),
                    (&self.copied_bytes, report.copied_bytes),
                    (&self.streamed_files, report.streamed_files),
                    (&self.streamed_bytes, report.streamed_bytes),
                    (&self.complete, 1),
                ] {
                    sum.fetch_add(n, Relaxed);
                }
            }
            Err(Error::SnapshotAborted) => _ = self.aborted.fetch_add(1, Relaxed),
            Err(_) => _ = self.failed.fetch_add(1, Relaxed),
        }
        self.running.fetch_sub(1, Relaxed);
    }
}
