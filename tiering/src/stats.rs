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
    /// Chunks of 64 KiB that were brought into the chunk cache because a snapshot says that they are hot.
    pub warmed_chunks: u64,
    /// Bytes that came for that; they are among `download_bytes`.
    pub warmed_bytes: u64,
    /// Reads by users of remote files that the chunk cache served, without a request.
    pub cache_hits: u64,
    /// Reads by users of remote files that needed bytes which the chunk cache did not have.
    pub cache_misses: u64,
    /// Bytes that reads of all kinds got from the chunk cache.
    pub cache_hit_bytes: u64,
    /// Chunks that the cache gave up to make room.
    pub cache_evictions: u64,
    /// What these took on the disk, in bytes.
    pub cache_evicted_bytes: u64,
    /// Times that bytes which a read brought were not stored: no room could be made, or the writers were behind.
    pub cache_dropped: u64,
    /// Operations of the chunk cache on the local disk that failed. Reads went on from the remote store.
    pub cache_disk_failures: u64,
    /// Times that pages in the cache did not match their checksum. They were dropped and asked for again.
    pub cache_mismatches: u64,
    /// What the chunk cache takes of the local disk now, in bytes, with what downloads have reserved.
    pub cache_bytes: u64,
    /// What it may take, in bytes.
    pub cache_budget_bytes: u64,
    /// Local files that became remote again to make room.
    pub demotions: u64,
    /// Their bytes.
    pub demoted_bytes: u64,
    /// Times that a demotion failed, or did not free the space at once.
    pub demotion_failures: u64,
    /// What table files take of the local disk, in bytes, those that the store does not hold included; looked at a few times
    /// a second where there is a disk budget, else 0.
    pub table_bytes: u64,
    /// What table files and cache may take of the local disk together, in bytes; `u64::MAX` without a limit.
    pub disk_budget_bytes: u64,
    /// What table files took beyond that when they were last looked at, in bytes: the store is not known to hold them yet, or
    /// they could not be demoted.
    pub disk_over_bytes: u64,
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
    pub warmed_chunks: AtomicU64,
    pub warmed_bytes: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
    pub cache_hit_bytes: AtomicU64,
    pub cache_evictions: AtomicU64,
    pub cache_evicted_bytes: AtomicU64,
    pub cache_dropped: AtomicU64,
    pub cache_disk_failures: AtomicU64,
    pub cache_mismatches: AtomicU64,
    pub demotions: AtomicU64,
    pub demoted_bytes: AtomicU64,
    pub demotion_failures: AtomicU64,
    pub reads: ReadCounters,
}

/// What the chunk cache takes of the local disk and may take, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheUse {
    pub bytes: u64,
    pub budget: u64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// Bytes that reads and downloads brought.
    pub fn bytes_in(&self) -> u64 {
        self.remote_bytes.load(Relaxed) + self.download_bytes.load(Relaxed)
    }

    /// All counters; the numbers of files and what the cache takes are left 0.
    pub fn read(&self) -> TierStats {
        TierStats {
            remote_reads: self.remote_reads.load(Relaxed),
            remote_requests: self.remote_requests.load(Relaxed),
            remote_bytes: self.remote_bytes.load(Relaxed),
            tail_reads: self.tail_reads.load(Relaxed),
            promoted_reads: self.promoted_reads.load(Relaxed),
            download_requests: self.download_requests.load(Relaxed),
            download_bytes: self.download_bytes.load(Relaxed),
            warmed_chunks: self.warmed_chunks.load(Relaxed),
            warmed_bytes: self.warmed_bytes.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            cache_misses: self.cache_misses.load(Relaxed),
            cache_hit_bytes: self.cache_hit_bytes.load(Relaxed),
            cache_evictions: self.cache_evictions.load(Relaxed),
            cache_evicted_bytes: self.cache_evicted_bytes.load(Relaxed),
            cache_dropped: self.cache_dropped.load(Relaxed),
            cache_disk_failures: self.cache_disk_failures.load(Relaxed),
            cache_mismatches: self.cache_mismatches.load(Relaxed),
            demotions: self.demotions.load(Relaxed),
            demoted_bytes: self.demoted_bytes.load(Relaxed),
            demotion_failures: self.demotion_failures.load(Relaxed),
            ..TierStats::default()
        }
    }
}
