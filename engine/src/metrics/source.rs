//! [`Source`]: one open backend, and what it says of itself.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use lazurite_env::{
    Env,
    remote::{CountingStore, RemoteStore, RequestKind, RequestOutcome, retries},
};
use lazurite_tiering::ReadTier;

use super::{names as m, sheet::Sheet};
use crate::{RestoreReport, rocks::Db, snapshot::context::Context};

/// The parts of a backend that figures come from.
pub(crate) struct Source {
    pub(crate) db: Arc<Db>,
    pub(crate) snapshots: Arc<Context>,
    pub(crate) requests: CountingStore,
    pub(crate) restored: Option<RestoreReport>,
}

/// What belongs to no backend.
pub(super) fn process(sheet: &mut Sheet) {
    for row in retries() {
        sheet.put(&m::STORE_RETRIES, &[&row.scheme, row.operation], row.count);
    }
}

/// The kind of a store, for labels: the scheme of its URI.
pub(crate) fn kind_of(store: &dyn RemoteStore) -> &str {
    let uri = store.uri();
    uri.split_once("://").map_or("other", |(scheme, _)| scheme)
}

impl Source {
    pub(super) fn sample(&self, sheet: &mut Sheet) {
        let job = self.snapshots.layout.job().as_str();
        sheet.put(&m::BACKENDS, &[job], 1);
        self.reads(sheet, job);
        self.chunk_cache(sheet, job);
        self.store(sheet, job);
        self.files(sheet, job);
        self.disk(sheet, job);
        self.snapshots(sheet, job);
        self.rocksdb(sheet, job);
        self.work(sheet, job);
    }

    fn reads(&self, sheet: &mut Sheet, job: &str) {
        let native = self.snapshots.rocks_env.local_reads_by_activity();
        for (activity, local) in native {
            let labels = [job, ReadTier::Local.name(), activity.name()];
            sheet.put(&m::READS, &labels, local.reads);
            sheet.put(&m::READ_BYTES, &labels, local.bytes);
            let labels = [job, activity.name()];
            sheet.put(&m::LOCAL_READ_SAMPLES, &labels, local.sampled);
            sheet.put(&m::LOCAL_READ_SAMPLED_NANOS, &labels, local.sampled_nanos);
        }
        for row in self.snapshots.union.read_stats() {
            let labels = [job, row.tier.name(), row.activity.name()];
            sheet.put(&m::READS, &labels, row.reads);
            sheet.put(&m::READ_BYTES, &labels, row.bytes);
        }
        let union = self.snapshots.union.stats();
        sheet.put(&m::READ_REQUESTS, &[job], union.remote_requests);
        sheet.put(&m::READ_REQUEST_BYTES, &[job], union.remote_bytes);
        sheet.put(&m::DOWNLOAD_REQUESTS, &[job], union.download_requests);
        sheet.put(&m::DOWNLOAD_RECEIVED_BYTES, &[job], union.download_bytes);
        sheet.put(&m::WARMED_CHUNKS, &[job], union.warmed_chunks);
        sheet.put(&m::WARMED_BYTES, &[job], union.warmed_bytes);
        sheet.put(&m::CATALOG_FILES, &[job, "local"], union.local_files);
        sheet.put(&m::CATALOG_FILES, &[job, "remote"], union.remote_files);
    }

    fn chunk_cache(&self, sheet: &mut Sheet, job: &str) {
        let union = self.snapshots.union.stats();
        for (metric, value) in [
            (&m::CHUNK_CACHE_HITS, union.cache_hits),
            (&m::CHUNK_CACHE_MISSES, union.cache_misses),
            (&m::CHUNK_CACHE_READ_BYTES, union.cache_hit_bytes),
            (&m::CHUNK_CACHE_EVICTIONS, union.cache_evictions),
            (&m::CHUNK_CACHE_EVICTED_BYTES, union.cache_evicted_bytes),
            (&m::CHUNK_CACHE_DROPPED, union.cache_dropped),
            (&m::CHUNK_CACHE_FAILURES, union.cache_disk_failures),
            (&m::CHUNK_CACHE_MISMATCHES, union.cache_mismatches),
            (&m::CHUNK_CACHE_BYTES, union.cache_bytes),
        ] {
            sheet.put(metric, &[job], value);
        }
        if union.cache_budget_bytes < u64::MAX {
            let budget = union.cache_budget_bytes;
            sheet.put(&m::CHUNK_CACHE_BUDGET_BYTES, &[job], budget);
        }
    }

    fn store(&self, sheet: &mut Sheet, job: &str) {
        let store = kind_of(&self.requests);
        let counts = self.requests.snapshot();
        for kind in RequestKind::ALL {
            // There from the beginning, so that the first retry is seen to be one more.
            sheet.put(&m::STORE_RETRIES, &[store, kind.name()], 0);
            for outcome in RequestOutcome::ALL {
                let labels = [job, store, kind.name(), outcome.name()];
                sheet.put(&m::STORE_REQUESTS, &labels, counts.ended(kind, outcome));
            }
        }
        sheet.put(&m::STORE_RECEIVED_BYTES, &[job, store], counts.bytes_in);
        sheet.put(&m::STORE_SENT_BYTES, &[job, store], counts.bytes_out);
    }

    fn files(&self, sheet: &mut Sheet, job: &str) {
        let union = &self.snapshots.union;
        let p = union.download().progress();
        let failed = p.failed.len() as u64;
        let waiting = p.files_total.saturating_sub(p.files_done + failed);
        sheet.put(&m::DOWNLOAD_FILES, &[job, "waiting"], waiting);
        sheet.put(&m::DOWNLOAD_FILES, &[job, "done"], p.files_done);
        sheet.put(&m::DOWNLOAD_FILES, &[job, "failed"], failed);
        let waiting = p.bytes_total.saturating_sub(p.bytes_done);
        sheet.put(&m::DOWNLOAD_BYTES, &[job, "waiting"], waiting);
        sheet.put(&m::DOWNLOAD_BYTES, &[job, "done"], p.bytes_done);
        let waiting = p.hot_bytes_total.saturating_sub(p.hot_bytes_done);
        sheet.put(&m::WARMING_BYTES, &[job, "waiting"], waiting);
        sheet.put(&m::WARMING_BYTES, &[job, "done"], p.hot_bytes_done);
        sheet.put(&m::DOWNLOAD_PAUSED, &[job], p.paused.into());
        let no_space = p.no_space.is_some();
        sheet.put(&m::DOWNLOAD_NO_SPACE, &[job], no_space.into());
        sheet.put(&m::PROMOTIONS, &[job], p.files_done);
        if let Ok(free) = union.free_space(union.db_dir()) {
            sheet.put(&m::DISK_FREE_BYTES, &[job], free);
        }
    }

    fn disk(&self, sheet: &mut Sheet, job: &str) {
        let union = self.snapshots.union.stats();
        sheet.put(&m::DEMOTIONS, &[job], union.demotions);
        sheet.put(&m::DEMOTED_BYTES, &[job], union.demoted_bytes);
        sheet.put(&m::DEMOTION_FAILURES, &[job], union.demotion_failures);
        let clip = self.db.clip_progress();
        sheet.put(&m::CLIP_FILES, &[job], clip.files_left);
        sheet.put(&m::CLIP_BYTES, &[job], clip.bytes_left);
        if union.disk_budget_bytes < u64::MAX {
            sheet.put(&m::DISK_TABLE_BYTES, &[job], union.table_bytes);
            sheet.put(&m::DISK_BUDGET_BYTES, &[job], union.disk_budget_bytes);
            sheet.put(&m::DISK_OVER_BYTES, &[job], union.disk_over_bytes);
        }
    }

    fn snapshots(&self, sheet: &mut Sheet, job: &str) {
        let figures = &self.snapshots.figures;
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        for (result, counter) in [
            ("complete", &figures.complete),
            ("failed", &figures.failed),
            ("aborted", &figures.aborted),
        ] {
            sheet.put(&m::SNAPSHOTS, &[job, result], of(counter));
        }
        sheet.put(&m::SNAPSHOTS_RUNNING, &[job], of(&figures.running));
        if of(&figures.complete) > 0 {
            sheet.put(&m::SNAPSHOT_LAST_ID, &[job], of(&figures.last_id));
            sheet.put(&m::SNAPSHOT_LAST_TIME, &[job], of(&figures.last_unix_s));
        }
        for (source, files, bytes) in [
            ("uploaded", &figures.uploaded_files, &figures.uploaded_bytes),
            ("reused", &figures.reused_files, &figures.reused_bytes),
            ("copied", &figures.copied_files, &figures.copied_bytes),
            ("streamed", &figures.streamed_files, &figures.streamed_bytes),
        ] {
            sheet.put(&m::SNAPSHOT_FILES, &[job, source], of(files));
            sheet.put(&m::SNAPSHOT_BYTES, &[job, source], of(bytes));
        }
        if let Some(r) = &self.restored {
            let (remote, reused) = ([job, "remote"], [job, "reused"]);
            sheet.put(&m::RESTORED_FILES, &remote, r.files - r.reused_files);
            sheet.put(&m::RESTORED_FILES, &reused, r.reused_files);
            sheet.put(&m::RESTORED_BYTES, &remote, r.bytes - r.reused_bytes);
            sheet.put(&m::RESTORED_BYTES, &reused, r.reused_bytes);
        }
    }

    fn rocksdb(&self, sheet: &mut Sheet, job: &str) {
        let f = self.db.figures();
        for (level, files) in f.files.iter().enumerate() {
            sheet.put(&m::ROCKSDB_FILES, &[job, &level.to_string()], *files);
        }
        for (metric, value) in [
            (&m::BLOCK_CACHE_BYTES, f.block_cache_bytes),
            (&m::BLOCK_CACHE_PINNED_BYTES, f.block_cache_pinned_bytes),
            (&m::BLOCK_CACHE_BUDGET_BYTES, f.block_cache_capacity),
            (&m::ROCKSDB_TABLE_BYTES, f.table_bytes),
            (&m::ROCKSDB_MEMTABLE_BYTES, f.memtable_bytes),
            (&m::ROCKSDB_TABLE_READER_BYTES, f.table_reader_bytes),
            (&m::ROCKSDB_KEYS, f.keys),
            (&m::ROCKSDB_PENDING, f.pending_compaction_bytes),
            (&m::ROCKSDB_STOPPED, f.write_stopped.into()),
            (&m::ROCKSDB_DELAYED_RATE, f.delayed_write_rate),
            (&m::ROCKSDB_ERRORS, f.background_errors),
        ] {
            sheet.put(metric, &[job], value);
        }
        let running = [
            ("compaction", f.running_compactions),
            ("flush", f.running_flushes),
        ];
        for (work, count) in running {
            sheet.put(&m::ROCKSDB_RUNNING, &[job, work], count);
        }
        sheet.put(&m::ROCKSDB_STALLS, &[job, "delayed"], f.delays);
        sheet.put(&m::ROCKSDB_STALLS, &[job, "stopped"], f.stops);
        if let Some(t) = f.tickers {
            sheet.put(&m::BLOCK_CACHE_HITS, &[job], t.block_cache_hits);
            sheet.put(&m::BLOCK_CACHE_MISSES, &[job], t.block_cache_misses);
            sheet.put(&m::BLOCK_CACHE_READ_BYTES, &[job], t.block_cache_read_bytes);
            sheet.put(&m::ROCKSDB_STALL_MICROS, &[job], t.stall_micros);
        }
    }

    fn work(&self, sheet: &mut Sheet, job: &str) {
        let work = self.db.work();
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        sheet.put(&m::ROCKSDB_FLUSHES, &[job], of(&work.flushes));
        let compactions = [
            ("ok", &work.compactions),
            ("failed", &work.failed_compactions),
        ];
        for (result, count) in compactions {
            sheet.put(&m::ROCKSDB_COMPACTIONS, &[job, result], of(count));
        }
        let bytes = [
            ("read", &work.compaction_read_bytes),
            ("written", &work.compaction_written_bytes),
        ];
        for (direction, bytes) in bytes {
            sheet.put(&m::ROCKSDB_COMPACTION_BYTES, &[job, direction], of(bytes));
        }
        let micros = of(&work.compaction_micros);
        sheet.put(&m::ROCKSDB_COMPACTION_MICROS, &[job], micros);
    }
}
