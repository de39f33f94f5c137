//! What RocksDB says of itself: [`Figures`], asked for when somebody looks. Nothing here costs a read or a write anything,
//! but for [`RocksDbOptions::statistics`](crate::RocksDbOptions::statistics).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rocksdb::{
    properties,
    statistics::{StatsLevel, Ticker},
};

use super::db::Db;

/// RocksDB has seven levels unless it is told otherwise.
pub(crate) const LEVELS: usize = 7;

/// One look at a database, all tables together. Each number is right by itself; they are not read at one instant. What
/// RocksDB does not answer is 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub files: [u64; LEVELS],
    pub table_bytes: u64,
    pub memtable_bytes: u64,
    pub table_reader_bytes: u64,
    pub keys: u64,
    pub pending_compaction_bytes: u64,
    pub running_compactions: u64,
    pub running_flushes: u64,
    pub delayed_write_rate: u64,
    pub write_stopped: bool,
    pub background_errors: u64,
    /// Times that writes were slowed down, and stopped.
    pub delays: u64,
    pub stops: u64,
    pub block_cache_bytes: u64,
    pub block_cache_pinned_bytes: u64,
    pub block_cache_capacity: u64,
    /// Only where statistics are on.
    pub tickers: Option<Tickers>,
}

/// Counters that RocksDB keeps where it is asked to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tickers {
    pub block_cache_hits: u64,
    pub block_cache_misses: u64,
    pub block_cache_read_bytes: u64,
    pub stall_micros: u64,
}

/// Work behind the writers that has ended. RocksDB's threads add to it, through the listener.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub flushes: AtomicU64,
    pub compactions: AtomicU64,
    pub failed_compactions: AtomicU64,
    pub compaction_read_bytes: AtomicU64,
    pub compaction_written_bytes: AtomicU64,
    pub compaction_micros: AtomicU64,
}

impl Work {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}

/// What `Options` need for [`Tickers`]: the level that counts, and looks at no clock.
pub(super) fn count(options: &mut rocksdb::Options) {
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
}

impl Db {
    /// Asks RocksDB. Blocks for its mutex, and looks at every file's entry in memory; no I/O.
    pub(crate) fn figures(&self) -> Figures {
        let names: Vec<String> = self.lock_columns().iter().cloned().collect();
        let mut figures = Figures {
            block_cache_bytes: self.cache.get_usage() as u64,
            block_cache_pinned_bytes: self.cache.get_pinned_usage() as u64,
            block_cache_capacity: self.block_cache_capacity as u64,
            tickers: self.tickers(),
            running_compactions: self.property(properties::NUM_RUNNING_COMPACTIONS),
            running_flushes: self.property(properties::NUM_RUNNING_FLUSHES),
            delayed_write_rate: self.property(properties::ACTUAL_DELAYED_WRITE_RATE),
            write_stopped: self.property(properties::IS_WRITE_STOPPED) != 0,
            ..Figures::default()
        };
        for name in names {
            let Some(handle) = self.db.cf_handle(&name) else {
                continue;
            };
            let of = |property: &properties::PropName| {
                let value = self.db.property_int_value_cf(&handle, property);
                value.ok().flatten().unwrap_or(0)
            };
            for (level, files) in figures.files.iter_mut().enumerate() {
                *files += of(&properties::num_files_at_level(level));
            }
            figures.table_bytes += of(properties::LIVE_SST_FILES_SIZE);
            figures.memtable_bytes += of(properties::CUR_SIZE_ALL_MEM_TABLES);
            figures.table_reader_bytes += of(properties::ESTIMATE_TABLE_READERS_MEM);
            figures.keys += of(properties::ESTIMATE_NUM_KEYS);
            figures.pending_compaction_bytes += of(properties::ESTIMATE_PENDING_COMPACTION_BYTES);
            figures.background_errors += of(properties::BACKGROUND_ERRORS);
            let stalls = self.db.property_value_cf(&handle, STALLS);
            let stalls = stalls.ok().flatten().unwrap_or_default();
            figures.delays += stall_count(&stalls, "total-delays");
            figures.stops += stall_count(&stalls, "total-stops");
        }
        figures
    }

    /// Work that has ended since the database was opened.
    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    fn property(&self, property: &properties::PropName) -> u64 {
        let value = self.db.property_int_value(property);
        value.ok().flatten().unwrap_or(0)
    }

    fn tickers(&self) -> Option<Tickers> {
        let count = |ticker| self.column_options.get_ticker_count(ticker);
        self.statistics.then(|| Tickers {
            block_cache_hits: count(Ticker::BlockCacheHit),
            block_cache_misses: count(Ticker::BlockCacheMiss),
            block_cache_read_bytes: count(Ticker::BlockCacheBytesRead),
            stall_micros: count(Ticker::StallMicros),
        })
    }
}

const STALLS: &str = "rocksdb.cf-write-stall-stats";

/// The number after `name: ` in what RocksDB 11.8.1 prints of its write stalls; 0 where it prints something else.
fn stall_count(text: &str, name: &str) -> u64 {
    let after = text
        .split([',', '\n'])
        .find_map(|part| part.split_once(name)?.1.strip_prefix(": "));
    after.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}
