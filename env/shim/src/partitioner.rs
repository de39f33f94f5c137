//! Where compactions cut their files.

use librocksdb_sys::rocksdb_options_t;
use rocksdb::{AsRawPtr, Options};

unsafe extern "C" {
    fn lz_cut_at_key_groups(
        options: *mut rocksdb_options_t,
        key_groups: u16,
        enough_bytes: u64,
    ) -> u8;
}

/// Has compactions of the columns that are opened with `options` cut their files between key groups, which are the first two bytes of a
/// key in big-endian order: always where one of at most 16 equal parts of `key_groups` (0 is taken for 1) ends, as Flink's formula cuts
/// them, and after any key group once a file has `enough_bytes`. So a level has at most 15 files more than without it, and those that
/// half-full files make: give half of the target size.
///
/// What is moved between levels as it is is not cut, nor what goes to level 0. OPTIONS files name it with both numbers and are loadable
/// in any process that has called this once. Costs a comparison of two bytes for each entry that a compaction writes.
///
/// # Errors
/// Where memory has run out.
pub fn cut_at_key_groups(
    options: &mut Options,
    key_groups: u16,
    enough_bytes: u64,
) -> Result<(), String> {
    // SAFETY: the pointer is that of `options`, which is alive and not used by anybody else; nothing is kept of it.
    match unsafe { lz_cut_at_key_groups(options.as_raw_ptr(), key_groups, enough_bytes) } {
        1 => Ok(()),
        _ => Err("no memory for RocksDB's options".to_owned()),
    }
}
