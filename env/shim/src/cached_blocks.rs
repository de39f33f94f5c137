//! Which blocks of table files are in RocksDB's block cache.

use std::{
    ffi::{c_char, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
};

use librocksdb_sys::rocksdb_t;

/// Bytes of a unique id.
const ID_LEN: usize = 24;

/// A data block in the block cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CachedBlock {
    /// The index of its file among those that were asked for.
    pub file: usize,
    /// Where in the file it begins, in bytes, rounded down to four.
    pub offset: u64,
    /// What it takes of memory, in bytes: as much as of the file, or more where that is compressed.
    pub memory: u64,
}

type CachedBlockSink = unsafe extern "C" fn(*mut c_void, usize, u64, u64);

unsafe extern "C" {
    fn lz_cached_blocks(
        db: *mut rocksdb_t,
        unique_ids: *const c_char,
        count: usize,
        context: *mut c_void,
        sink: CachedBlockSink,
    ) -> u8;
}

unsafe extern "C" fn pass_on<F: FnMut(CachedBlock)>(
    context: *mut c_void,
    file: usize,
    offset: u64,
    memory: u64,
) {
    // Unwinding must not reach C++; what cannot be told is left out.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `context` is the closure below, and the thread that lent it is the one that is told.
        let tell = unsafe { &mut *context.cast::<F>() };
        tell(CachedBlock {
            file,
            offset,
            memory,
        });
    }));
}

/// Tells of each data block that the database's block cache holds now, of the files with these unique ids (as
/// [`SstInfo`](crate::SstInfo) has them; what is no id has no block). In no order. Walks over the whole cache, a part of it locked at a
/// time at most and without an effect on what it keeps: some milliseconds for each 100,000 blocks. No I/O.
///
/// # Safety
/// `db` is an open database of this RocksDB, and stays open until this returns. `tell` reads nothing from a database.
pub unsafe fn cached_blocks<F>(db: *mut rocksdb_t, unique_ids: &[&str], mut tell: F)
where
    F: FnMut(CachedBlock),
{
    let mut bytes = Vec::with_capacity(unique_ids.len() * ID_LEN);
    for id in unique_ids {
        // One that is none is that of no file: all zeros.
        bytes.extend(parse(id).unwrap_or_default());
    }
    // SAFETY: the caller's promise; there are as many ids as the count says, and `pass_on` takes the closure, which outlives
    // the call.
    unsafe {
        let (ids, count) = (bytes.as_ptr().cast(), unique_ids.len());
        lz_cached_blocks(db, ids, count, (&raw mut tell).cast(), pass_on::<F>);
    }
}

fn parse(id: &str) -> Option<[u8; ID_LEN]> {
    let (mut bytes, digits) = ([0; ID_LEN], id.as_bytes());
    if digits.len() != 2 * ID_LEN {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |of: u8| char::from(of).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}
