//! What users may set of RocksDB: few fields, each with its unit in its name.
//!
//! The defaults are Flink's or RocksDB's where those hold for state that is partly remote, and say so; where they do not
//! hold, the reason stands beside the field.

use crate::error::{Error, Result};

/// How SST blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Snappy, which Flink uses.
    Snappy,
    /// LZ4: the same speed class as Snappy, decompresses faster.
    #[default]
    Lz4,
    /// Zstandard: smaller, slower to write.
    Zstd,
}

/// RocksDB's settings, the same for every table of a backend. Set what you need and leave the rest:
/// `RocksDbOptions { block_cache_bytes: 1 << 30, ..Default::default() }`.
#[derive(Debug, Clone, PartialEq)]
pub struct RocksDbOptions {
    /// Bytes of uncompressed data blocks kept in memory, for all tables together. Default 256 MiB: a block of a remote file
    /// costs a request to read again, so more than RocksDB's 32 MiB.
    pub block_cache_bytes: usize,
    /// Bytes of one write buffer (memtable) of a table; when it is full it becomes a file. Default 64 MiB, as in Flink and
    /// RocksDB. At least 64 KiB.
    pub write_buffer_bytes: usize,
    /// Write buffers that a table may have before writers wait for the flush. Default 2, as in Flink and RocksDB. At least 2.
    pub write_buffers: usize,
    /// Bytes of a data block before compression: the unit of a read. Default 16 KiB (RocksDB: 4 KiB): a cold read costs one
    /// request whatever its size, and larger blocks keep the index that every snapshot carries small. 1 KiB to 4 MiB.
    pub block_bytes: usize,
    /// Bytes of an SST file in the first sorted level. Default 64 MiB, as in Flink and RocksDB. At least 64 KiB.
    pub target_file_bytes: u64,
    /// Bytes of the first sorted level. Default 256 MiB, as in Flink and RocksDB. At least `target_file_bytes`.
    pub level_base_bytes: u64,
    /// Bits per key of the Bloom filter, 0 for none. Default 10 (about 1 % false positives), Flink's value once filters are
    /// on; here they are always on, since a false positive on a remote file costs a request. At most 32.
    pub bloom_bits_per_key: u32,
    /// Splits index and filters into blocks that are cached and evicted like data, so that memory no longer grows with the
    /// state; a read may then need one block more. Default `false`, as in Flink.
    pub partitioned_index: bool,
    /// Compression of all levels but the last. Default LZ4 (Flink: Snappy).
    pub compression: Compression,
    /// Compression of the last level, which holds about 90 % of the data; `None`: the same as the others. Default `None`.
    pub bottommost_compression: Option<Compression>,
    /// Threads that flush and compact. Default 4 (Flink and RocksDB: 2): flushes stand in the synchronous part of a snapshot.
    /// 1 to 1024.
    pub background_jobs: usize,
    /// Compacts by itself, as the shape of the tree asks for it. Default `true`. Without, files pile up and reads slow down until
    /// [`StateBackend::compact`](crate::StateBackend::compact) is called: for bulk loads and measurements.
    pub auto_compactions: bool,
    /// Threads that read remote blocks for a `multi_get`, started when first needed. A cold batch of n keys takes about
    /// n / `cold_read_threads` round trips. Default 64. 1 to 1024.
    pub cold_read_threads: usize,
    /// Has RocksDB count the hits and misses of its block cache and the time that writers stall, for
    /// [`metrics`](crate::metrics). Costs a get from the block cache about 4 %. Default `false`.
    pub statistics: bool,
}

impl Default for RocksDbOptions {
    fn default() -> Self {
        RocksDbOptions {
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 64 << 20,
            write_buffers: 2,
            block_bytes: 16 << 10,
            target_file_bytes: 64 << 20,
            level_base_bytes: 256 << 20,
            bloom_bits_per_key: 10,
            partitioned_index: false,
            compression: Compression::Lz4,
            bottommost_compression: None,
            background_jobs: 4,
            auto_compactions: true,
            cold_read_threads: 64,
            statistics: false,
        }
    }
}

impl RocksDbOptions {
    /// Checks every field against the limits in its description.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] names the first field that is out of its limits, and the limits.
    pub fn validate(&self) -> Result<()> {
        const MAX_BYTES: u64 = 1 << 40; // 1 TiB: beyond it is a mistake, not a wish
        within(
            "block_cache_bytes",
            self.block_cache_bytes as u64,
            0,
            MAX_BYTES,
        )?;
        within(
            "write_buffer_bytes",
            self.write_buffer_bytes as u64,
            64 << 10,
            MAX_BYTES,
        )?;
        within("write_buffers", self.write_buffers as u64, 2, 1024)?;
        within("block_bytes", self.block_bytes as u64, 1 << 10, 4 << 20)?;
        within(
            "target_file_bytes",
            self.target_file_bytes,
            64 << 10,
            MAX_BYTES,
        )?;
        within(
            "level_base_bytes",
            self.level_base_bytes,
            self.target_file_bytes,
            MAX_BYTES,
        )?;
        within("bloom_bits_per_key", self.bloom_bits_per_key.into(), 0, 32)?;
        within("background_jobs", self.background_jobs as u64, 1, 1024)?;
        within("cold_read_threads", self.cold_read_threads as u64, 1, 1024)
    }
}

fn within(option: &'static str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option,
        reason: format!("{value} is not in {min}..={max}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_limits_are_checked() {
        RocksDbOptions::default().validate().unwrap();
        let wrong = [
            RocksDbOptions {
                write_buffers: 1,
                ..Default::default()
            },
            RocksDbOptions {
                block_bytes: 0,
                ..Default::default()
            },
            RocksDbOptions {
                level_base_bytes: 1 << 20,
                ..Default::default()
            },
            RocksDbOptions {
                cold_read_threads: 0,
                ..Default::default()
            },
        ];
        for options in wrong {
            assert!(
                matches!(options.validate(), Err(Error::InvalidOption { .. })),
                "{options:?}"
            );
        }
    }
}
