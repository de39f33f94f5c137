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
            local_files: union.local_files,
            remote_files: union.remote_files,
        }
    }
}
