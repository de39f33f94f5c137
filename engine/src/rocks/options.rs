//! RocksDB's own options, made from [`RocksDbOptions`].
//!
//! What is set here and is not the user's to choose follows from state being partly remote: an open must read no table
//! file, a key must be found with one block, and a flush must be the same point in time for all tables.

use std::{ffi::c_uchar, sync::Arc};

use rocksdb::{
    AsRawPtr, BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, Env, LogLevel,
    Options,
};

use super::{
    events,
    figures::{self, Work},
};
use crate::options::{Compression, RocksDbOptions};

/// The format of SST files: the newest that RocksDB 11.8.1 writes. Its checksums also tell a block of the right file from
/// the same bytes in the wrong place.
const TABLE_FORMAT_VERSION: i32 = 7;

/// Options of the database and of every column in it. Its keys begin with one of `key_groups`. What it does behind the writers is added
/// to `work`. Fails where memory has run out.
pub(super) fn rocksdb_options(
    options: &RocksDbOptions,
    key_groups: u16,
    env: &Env,
    cache: &Cache,
    work: &Arc<Work>,
) -> Result<Options, String> {
    let mut o = Options::default();
    o.set_env(env);
    o.create_missing_column_families(true);

    // Opening reads no table file: not for statistics, and the files are opened behind the open. That needs every file to
    // stay open. Errors of these files show up at their first read.
    o.set_max_open_files(-1);
    o.set_skip_stats_update_on_db_open(true);
    set_unwrapped(&o);
    events::listen(&o, work);
    if options.statistics {
        figures::count(&mut o);
    }

    // Tables are flushed together: without a WAL a crash, and with one a snapshot, which leaves the WAL out, would else hold
    // them at different points in time, and half of a batch.
    o.set_atomic_flush(true);
    o.set_max_background_jobs(count(options.background_jobs));
    o.set_disable_auto_compactions(!options.auto_compactions);
    // Every snapshot carries the MANIFEST: rewrite it once it outgrows its content, not at RocksDB's 1 GiB.
    o.set_max_manifest_file_size(1 << 20);
    o.set_log_level(LogLevel::Info);
    o.set_max_log_file_size(25 << 20); // both as in Flink
    o.set_keep_log_file_num(4);
    o.set_stats_dump_period_sec(0);
    o.set_stats_persist_period_sec(0);

    o.set_write_buffer_size(options.write_buffer_bytes);
    o.set_max_write_buffer_number(count(options.write_buffers));
    o.set_target_file_size_base(options.target_file_bytes);
    // Files end with key groups, so that few reach beyond what a restore takes of them.
    lazurite_env_rocksdb::cut_at_key_groups(&mut o, key_groups, options.target_file_bytes / 2)?;
    o.set_max_bytes_for_level_base(options.level_base_bytes);
    o.set_level_compaction_dynamic_level_bytes(true); // bounds the space that stale versions take
    o.set_compression_type(compression(options.compression));
    if let Some(bottommost) = options.bottommost_compression {
        o.set_bottommost_compression_type(compression(bottommost));
    }
    o.set_block_based_table_factory(&table_options(options, cache));
    Ok(o)
}

fn table_options(options: &RocksDbOptions, cache: &Cache) -> BlockBasedOptions {
    let mut t = BlockBasedOptions::default();
    t.set_format_version(TABLE_FORMAT_VERSION);
    t.set_block_cache(cache);
    t.set_block_size(options.block_bytes);
    // Fewer full keys in the index: it is part of what each snapshot carries and each restore holds in memory.
    t.set_index_block_restart_interval(16);
    t.set_whole_key_filtering(true);
    if options.bloom_bits_per_key > 0 {
        t.set_bloom_filter(options.bloom_bits_per_key.into(), false);
    }
    if options.partitioned_index {
        t.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        t.set_partition_filters(true);
        t.set_cache_index_and_filter_blocks(true);
        t.set_cache_index_and_filter_blocks_with_high_priority(true);
        t.set_pin_top_level_index_and_filter(true);
    }
    t
}

/// What the crate does not wrap.
fn set_unwrapped(options: &Options) {
    // SAFETY: the pointer is that of `options`, which is alive; both functions store a bool in it and keep nothing.
    unsafe {
        let raw = options.as_raw_ptr();
        librocksdb_sys::rocksdb_options_set_open_files_async(raw, c_uchar::from(true));
        // Without a WAL, closing would flush what no snapshot will ever hold; with one, the WAL has it.
        librocksdb_sys::rocksdb_options_set_avoid_flush_during_shutdown(raw, c_uchar::from(true));
    }
}

fn compression(compression: Compression) -> DBCompressionType {
    match compression {
        Compression::None => DBCompressionType::None,
        Compression::Snappy => DBCompressionType::Snappy,
        Compression::Lz4 => DBCompressionType::Lz4,
        Compression::Zstd => DBCompressionType::Zstd,
    }
}

/// `RocksDbOptions::validate` keeps every count at 1024 or less.
fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
