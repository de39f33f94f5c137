//! [`TierStats`]: which tier answered how many reads.

/// Reads of table files, below RocksDB's block cache, since the backend was opened. Each number is right by itself; they
/// are not read at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TierStats {
    /// Reads of local table files.
    pub local_reads: u64,
    /// Reads that the restored tails answered: opening files, filters, indexes.
    pub tail_reads: u64,
    /// Reads that went to the store. Several may share one request.
    pub remote_reads: u64,
    /// Requests to the store for reads.
    pub remote_requests: u64,
    /// Bytes that they brought.
    pub remote_bytes: u64,
    /// Requests to the store for the download.
    pub download_requests: u64,
    /// Bytes that they brought.
    pub download_bytes: u64,
    /// Parts of 64 KiB that were brought into the cache because the restored snapshot says that they are hot.
    pub warmed_chunks: u64,
    /// Bytes that came for that; they are among `download_bytes`.
    pub warmed_bytes: u64,
    /// Reads by users that the cache on the local disk answered, without a request.
    pub cache_hits: u64,
    /// Reads by users that needed bytes which the cache did not have.
    pub cache_misses: u64,
    /// Bytes that reads of all kinds got from the cache.
    pub cache_hit_bytes: u64,
    /// Parts of files that the cache gave up to make room.
    pub cache_evictions: u64,
    /// What these took on the disk, in bytes.
    pub cache_evicted_bytes: u64,
    /// Times that what a read brought was not kept: no room could be made, or the disk was slower than the store.
    pub cache_dropped: u64,
    /// Operations of the cache on the local disk that failed. Reads went on from the store.
    pub cache_disk_failures: u64,
    /// Times that something in the cache did not match its checksum. It was dropped and asked for again.
    pub cache_mismatches: u64,
    /// What the cache takes of the local disk now, in bytes, with what downloads have reserved.
    pub cache_bytes: u64,
    /// What it may take, in bytes.
    pub cache_budget_bytes: u64,
    /// Local table files that became remote again to make room.
    pub demotions: u64,
    /// Their bytes.
    pub demoted_bytes: u64,
    /// Times that this failed, or did not free the space at once.
    pub demotion_failures: u64,
    /// What table files take of the local disk, in bytes, as last looked at; 0 without a disk budget.
    pub table_bytes: u64,
    /// What table files and cache may take of it together, in bytes; `u64::MAX` without a limit.
    pub disk_budget_bytes: u64,
    /// What table files took beyond that, in bytes: no complete snapshot holds them yet, or the disk failed to let them go.
    pub disk_over_bytes: u64,
    /// Table files that the store holds and the local disk too.
    pub local_files: u64,
    /// Table files that only the store holds.
    pub remote_files: u64,
}

impl TierStats {
    pub(crate) fn new(native_reads: u64, union: lazurite_tiering::TierStats) -> Self {
        TierStats {
            local_reads: native_reads + union.promoted_reads,
            tail_reads: union.tail_reads,
            remote_reads: union.remote_reads,
            remote_requests: union.remote_requests,
            remote_bytes: union.remote_bytes,
            download_requests: union.download_requests,
            download_bytes: union.download_bytes,
            warmed_chunks: union.warmed_chunks,
            warmed_bytes: union.warmed_bytes,
            cache_hits: union.cache_hits,
            cache_misses: union.cache_misses,
            cache_hit_bytes: union.cache_hit_bytes,
            cache_evictions: union.cache_evictions,
            cache_evicted_bytes: union.cache_evicted_bytes,
            cache_dropped: union.cache_dropped,
            cache_disk_failures: union.cache_disk_failures,
            cache_mismatches: union.cache_mismatches,
            cache_bytes: union.cache_bytes,
            cache_budget_bytes: union.cache_budget_bytes,
            demotions: union.demotions,
            demoted_bytes: union.demoted_bytes,
            demotion_failures: union.demotion_failures,
            table_bytes: union.table_bytes,
            disk_budget_bytes: union.disk_budget_bytes,
            disk_over_bytes: union.disk_over_bytes,
            local_files: union.local_files,
            remote_files: union.remote_files,
        }
    }
}
