//! Counters of what the tiers did: [`TierStats`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::reads::ReadCounters;

/// What the tiers did since the [`UnionEnv`](crate::UnionEnv) was opened. Each number is right by itself; they are not
/// read at one instant.
///
/// Reads of files that were local when they were opened do not come through here and are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierStats {
    /// Reads that needed bytes of a remote object. Several reads may share one request.
    pub remote_reads: u64,
    /// Requests sent to the remote store on behalf of reads.
    pub remote_requests: u64,
    /// Bytes that those requests brought.
    pub remote_bytes: u64,
    /// Reads of remote files that the tail bundle served, without a request.
    pub tail_reads: u64,
    /// Reads through handles opened while the file was remote, served by the local file after its promotion.
    pub promoted_reads: u64,
    /// Requests sent to the remote store by the background download.
    pub download_requests: u64,
    /// Bytes that the background download brought.
    pub download_bytes: u64,
    /// Catalogued files that are remote now.
    pub remote_files: u64,
    /// Catalogued files that are local now.
    pub local_files: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub remote_reads: AtomicU64,
    pub remote_requests: AtomicU64,
    pub remote_bytes: AtomicU64,
    pub tail_reads: AtomicU64,
    pub promoted_reads: AtomicU64,
    pub download_requests: AtomicU64,
    pub download_bytes: AtomicU64,
    pub reads: ReadCounters,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// All counters; the two numbers of files are left 0.
    pub fn read(&self) -> TierStats {
        TierStats {
            remote_reads: self.remote_reads.load(Relaxed),
            remote_requests: self.remote_requests.load(Relaxed),
            remote_bytes: self.remote_bytes.load(Relaxed),
            tail_reads: self.tail_reads.load(Relaxed),
            promoted_reads: self.promoted_reads.load(Relaxed),
            download_requests: self.download_requests.load(Relaxed),
            download_bytes: self.download_bytes.load(Relaxed),
            remote_files: 0,
            local_files: 0,
        }
    }
}
