//! Every metric that there is: name, kind, labels, meaning. `docs/METRICS.md` is this list as a table, and a test keeps the
//! two equal to what the endpoint serves.
//!
//! A backend is told by the name of its job, in the label `backend`: Prometheus has a label `job` of its own, and renames
//! what collides with it. A label has few values: jobs of this process, kinds of stores, and words that stand in the code.
//! Counters of the `metrics` crate are whole numbers, so that times which are added up are not in seconds.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows. Several backends with the same labels add up, closed ones included.
    Counter,
    /// The state now. Several backends with the same labels add up; 0 once none is open.
    Gauge,
    /// A gauge of which the largest counts, and which stays when its backend is closed.
    Newest,
    /// Seconds, in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// The names of its labels; values are given in this order.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(crate) static $id: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        pub(super) static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    BACKENDS: Gauge "lazurite_backends" ["backend"] "Backends that are open";

    READS: Counter "lazurite_reads_total" ["backend" "tier" "activity"] "Reads of table files, below the block cache, by what served them";
    READ_BYTES: Counter "lazurite_read_bytes_total" ["backend" "tier" "activity"] "Bytes that these reads asked for";
    READ_SECONDS: Histogram "lazurite_read_seconds" ["backend" "tier" "activity"] "How long readers waited for the store (remote) and for the chunk cache (chunk)";
    LOCAL_READ_SAMPLES: Counter "lazurite_local_read_samples_total" ["backend" "activity"] "Reads of local files that were timed: the first of each thread, then one in 64";
    LOCAL_READ_SAMPLED_NANOS: Counter "lazurite_local_read_sampled_nanoseconds_total" ["backend" "activity"] "Nanoseconds that these took";
    BLOCK_CACHE_HITS: Counter "lazurite_block_cache_hits_total" ["backend"] "Blocks that the block cache had (with statistics)";
    BLOCK_CACHE_MISSES: Counter "lazurite_block_cache_misses_total" ["backend"] "Blocks that it did not have (with statistics)";
    BLOCK_CACHE_READ_BYTES: Counter "lazurite_block_cache_read_bytes_total" ["backend"] "Bytes of the blocks that it had (with statistics)";
    BLOCK_CACHE_BYTES: Gauge "lazurite_block_cache_bytes" ["backend"] "Memory that the block cache uses";
    BLOCK_CACHE_PINNED_BYTES: Gauge "lazurite_block_cache_pinned_bytes" ["backend"] "The part of it that is in use by readers now";
    BLOCK_CACHE_BUDGET_BYTES: Gauge "lazurite_block_cache_budget_bytes" ["backend"] "Memory that it may use";

    CHUNK_CACHE_HITS: Counter "lazurite_chunk_cache_hits_total" ["backend"] "Reads by users of remote files that the chunk cache on the local disk served";
    CHUNK_CACHE_MISSES: Counter "lazurite_chunk_cache_misses_total" ["backend"] "Reads by users of remote files that needed bytes which it did not have";
    CHUNK_CACHE_READ_BYTES: Counter "lazurite_chunk_cache_read_bytes_total" ["backend"] "Bytes that reads of all kinds got from it";
    CHUNK_CACHE_EVICTIONS: Counter "lazurite_chunk_cache_evictions_total" ["backend"] "Chunks that it gave up to make room";
    CHUNK_CACHE_EVICTED_BYTES: Counter "lazurite_chunk_cache_evicted_bytes_total" ["backend"] "Bytes of the disk that these took";
    CHUNK_CACHE_DROPPED: Counter "lazurite_chunk_cache_dropped_total" ["backend"] "Times that what a read brought was not kept: no room, or the disk was slower than the store";
    CHUNK_CACHE_FAILURES: Counter "lazurite_chunk_cache_disk_failures_total" ["backend"] "Operations on its disk that failed; reads went on from the store";
    CHUNK_CACHE_MISMATCHES: Counter "lazurite_chunk_cache_mismatches_total" ["backend"] "Times that pages in it did not match their checksum and were asked for again";
    CHUNK_CACHE_BYTES: Gauge "lazurite_chunk_cache_bytes" ["backend"] "What it takes of the local disk, with what downloads have reserved";
    CHUNK_CACHE_BUDGET_BYTES: Gauge "lazurite_chunk_cache_budget_bytes" ["backend"] "What it may take; not there without a limit";

    STORE_REQUESTS: Counter "lazurite_store_requests_total" ["backend" "store" "operation" "result"] "Requests to the store that have ended; what is sent again counts once";
    STORE_SECONDS: Histogram "lazurite_store_request_seconds" ["backend" "store" "operation"] "How long they took, retries included";
    STORE_RETRIES: Counter "lazurite_store_retries_total" ["store" "operation"] "Requests that were sent again after a temporary error, of the whole process";
    STORE_RECEIVED_BYTES: Counter "lazurite_store_received_bytes_total" ["backend" "store"] "Bytes of objects that came from the store";
    STORE_SENT_BYTES: Counter "lazurite_store_sent_bytes_total" ["backend" "store"] "Bytes of objects that went to the store";
    READ_REQUESTS: Counter "lazurite_read_requests_total" ["backend"] "Requests to the store for reads; several reads may share one";
    READ_REQUEST_BYTES: Counter "lazurite_read_request_bytes_total" ["backend"] "Bytes that they brought";

    CATALOG_FILES: Gauge "lazurite_catalog_files" ["backend" "residency"] "Table files that the store has, by whether the local disk has them too";
    DOWNLOAD_REQUESTS: Counter "lazurite_download_requests_total" ["backend"] "Requests to the store for the download";
    DOWNLOAD_RECEIVED_BYTES: Counter "lazurite_download_received_bytes_total" ["backend"] "Bytes that they brought";
    WARMED_CHUNKS: Counter "lazurite_warmed_chunks_total" ["backend"] "Chunks of 64 KiB that the download brought before any file, as the restored snapshot says that they are hot";
    WARMED_BYTES: Counter "lazurite_warmed_bytes_total" ["backend"] "Bytes that came for that; the download's requests and bytes have them too";
    WARMING_BYTES: Gauge "lazurite_warming_bytes" ["backend" "state"] "Bytes of hot chunks: waiting (or under way), done";
    DOWNLOAD_FILES: Gauge "lazurite_download_files" ["backend" "state"] "Files of the download: waiting (or under way), done, failed";
    DOWNLOAD_BYTES: Gauge "lazurite_download_bytes" ["backend" "state"] "Bytes of these files: waiting, done (unfinished files included)";
    DOWNLOAD_PAUSED: Gauge "lazurite_download_paused" ["backend"] "1 while the download is paused";
    DOWNLOAD_NO_SPACE: Gauge "lazurite_download_waiting_for_space" ["backend"] "1 while the download waits for space on the local disk, or in the cache; not for room in the disk budget";
    PROMOTIONS: Counter "lazurite_promotions_total" ["backend"] "Remote files that were verified and became local";
    DEMOTIONS: Counter "lazurite_demotions_total" ["backend"] "Local files that became remote again to make room";
    DEMOTED_BYTES: Counter "lazurite_demoted_bytes_total" ["backend"] "Their bytes";
    DEMOTION_FAILURES: Counter "lazurite_demotion_failures_total" ["backend"] "Times that this failed, or did not free the space at once";
    DISK_TABLE_BYTES: Gauge "lazurite_disk_table_bytes" ["backend"] "What table files take of the local disk; not there without a disk budget";
    DISK_BUDGET_BYTES: Gauge "lazurite_disk_budget_bytes" ["backend"] "What table files and chunk cache may take of it together; not there without a disk budget";
    DISK_OVER_BYTES: Gauge "lazurite_disk_over_bytes" ["backend"] "What table files take beyond that: no complete snapshot holds them yet, or they could not be demoted; not there without a disk budget";
    DISK_FREE_BYTES: Gauge "lazurite_local_disk_free_bytes" ["backend"] "What is free on the disk of the local directory";
    CLIP_FILES: Gauge "lazurite_clip_files" ["backend"] "Table files that hold state of other key groups too and are yet to be rewritten without it";
    CLIP_BYTES: Gauge "lazurite_clip_bytes" ["backend"] "Their bytes";

    SNAPSHOTS: Counter "lazurite_snapshots_total" ["backend" "result"] "Snapshots that have ended: complete, failed, aborted";
    SNAPSHOTS_RUNNING: Gauge "lazurite_snapshots_running" ["backend"] "Snapshots under way";
    SNAPSHOT_LAST_ID: Newest "lazurite_snapshot_last_id" ["backend"] "Number of the newest complete snapshot of this process";
    SNAPSHOT_LAST_TIME: Newest "lazurite_snapshot_last_timestamp_seconds" ["backend"] "When it was complete, in seconds since 1970";
    SNAPSHOT_PHASE_SECONDS: Histogram "lazurite_snapshot_phase_seconds" ["backend" "phase"] "Phases of snapshots: flush, link, copy, upload, tails, manifest, check, commit, retention";
    SNAPSHOT_FILES: Counter "lazurite_snapshot_files_total" ["backend" "source"] "Table files of complete snapshots: uploaded, reused (named where they lie), copied by the store, streamed (copied through this process)";
    SNAPSHOT_BYTES: Counter "lazurite_snapshot_bytes_total" ["backend" "source"] "Bytes of complete snapshots: uploaded (tails, manifest and metadata included), reused, copied, streamed";
    RESTORE_PHASE_SECONDS: Histogram "lazurite_restore_phase_seconds" ["backend" "phase"] "Phases of opening a backend: store, find, fetch, local, download (eager only), database";
    RESTORED_FILES: Counter "lazurite_restored_files_total" ["backend" "source"] "Table files of restored snapshots: remote, reused from the local disk";
    RESTORED_BYTES: Counter "lazurite_restored_bytes_total" ["backend" "source"] "Their bytes";

    ROCKSDB_FILES: Gauge "lazurite_rocksdb_files" ["backend" "level"] "Table files in each level";
    ROCKSDB_TABLE_BYTES: Gauge "lazurite_rocksdb_table_bytes" ["backend"] "Bytes of all table files, remote ones included";
    ROCKSDB_MEMTABLE_BYTES: Gauge "lazurite_rocksdb_memtable_bytes" ["backend"] "Memory of what is not in table files yet";
    ROCKSDB_TABLE_READER_BYTES: Gauge "lazurite_rocksdb_table_reader_bytes" ["backend"] "Memory of indexes and filters outside the block cache";
    ROCKSDB_KEYS: Gauge "lazurite_rocksdb_keys" ["backend"] "Entries, as RocksDB estimates";
    ROCKSDB_PENDING: Gauge "lazurite_rocksdb_pending_compaction_bytes" ["backend"] "Bytes that compactions have to rewrite, as RocksDB estimates";
    ROCKSDB_RUNNING: Gauge "lazurite_rocksdb_running" ["backend" "work"] "Work under way: compaction, flush";
    ROCKSDB_FLUSHES: Counter "lazurite_rocksdb_flushes_total" ["backend"] "Flushes that have ended, one for each table";
    ROCKSDB_COMPACTIONS: Counter "lazurite_rocksdb_compactions_total" ["backend" "result"] "Compactions that have ended: ok, failed";
    ROCKSDB_COMPACTION_BYTES: Counter "lazurite_rocksdb_compaction_bytes_total" ["backend" "direction"] "Bytes that compactions read and wrote: read, written";
    ROCKSDB_COMPACTION_MICROS: Counter "lazurite_rocksdb_compaction_microseconds_total" ["backend"] "Microseconds that compactions took";
    ROCKSDB_STALLS: Counter "lazurite_rocksdb_write_stalls_total" ["backend" "condition"] "Times that RocksDB slowed writes down or stopped them: delayed, stopped";
    ROCKSDB_STALL_MICROS: Counter "lazurite_rocksdb_write_stall_microseconds_total" ["backend"] "Microseconds that writers waited for that (with statistics)";
    ROCKSDB_STOPPED: Gauge "lazurite_rocksdb_write_stopped" ["backend"] "1 while writes are stopped";
    ROCKSDB_DELAYED_RATE: Gauge "lazurite_rocksdb_delayed_write_bytes_per_second" ["backend"] "What writers are slowed down to; 0: they are not";
    ROCKSDB_ERRORS: Counter "lazurite_rocksdb_background_errors_total" ["backend"] "Flushes and compactions that failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            let counts = name.ends_with("_total");
            assert_eq!(counts, metric.kind == Kind::Counter, "{name}");
            assert!(name.starts_with("lazurite_"), "{name}");
            let seconds = name.ends_with("_seconds");
            assert!(metric.kind != Kind::Histogram || seconds, "{name}");
            assert!(
                !metric.help.contains('|') && !metric.help.ends_with('.'),
                "{name}"
            );
            let twice = ALL.iter().filter(|other| other.name == name).count();
            assert_eq!(twice, 1, "{name}");
        }
    }
}
