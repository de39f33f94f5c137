//! How often users read each live table file.

use std::{
    collections::HashMap,
    ffi::{c_char, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
};

use librocksdb_sys::rocksdb_t;

type FileReadsSink = unsafe extern "C" fn(*mut c_void, *const c_char, usize, u64);

unsafe extern "C" {
    fn lz_file_reads(db: *mut rocksdb_t, context: *mut c_void, sink: FileReadsSink) -> u8;
}

unsafe extern "C" fn collect(context: *mut c_void, name: *const c_char, len: usize, reads: u64) {
    // Unwinding must not reach C++; what cannot be noted is left out.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `context` is the map below, and C++ gives a valid slice.
        let (map, name) = unsafe {
            let map = &mut *context.cast::<HashMap<String, u64>>();
            (map, slice::from_raw_parts(name.cast::<u8>(), len))
        };
        map.insert(String::from_utf8_lossy(name).into_owned(), reads);
    }));
}

/// How often gets and iterators looked into each live table file since the database was opened, by the file's name
/// (`000012.sst`); compactions, flushes and verification are not counted. RocksDB counts one of 1,024, as 1,024, wherever
/// the file's bytes come from, its block cache included, and asking costs the reads nothing. Does no I/O.
///
/// # Safety
/// `db` is an open database of this RocksDB, and stays open until this returns.
pub unsafe fn file_reads(db: *mut rocksdb_t) -> HashMap<String, u64> {
    let mut map: HashMap<String, u64> = HashMap::new();
    // SAFETY: the caller's promise; the map outlives the call, and `collect` takes one.
    unsafe {
        lz_file_reads(db, (&raw mut map).cast(), collect);
    }
    map
}
