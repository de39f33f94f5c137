//! [`RocksEnv`]: the `rocksdb::Env` and the counters of its local reads.

use std::{ffi::c_void, fmt, ptr, sync::Arc};

use lazurite_env::{Activity, Env, Error, ErrorKind, Result};
use librocksdb_sys::rocksdb_env_t;

use crate::env::EnvHandle;

/// `lz_counters`, owned by C++ code and freed here.
#[repr(C)]
struct Counters {
    _opaque: [u8; 0],
}

/// `LZ_ACTIVITIES`.
const ACTIVITIES: usize = 16;

const _: () = assert!(Activity::ALL.len() <= ACTIVITIES);

/// Reads that RocksDB made from local files for one activity; `lz_local_reads`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalReads {
    /// How many; each range of a batch counts.
    pub reads: u64,
    /// Bytes that were asked for.
    pub bytes: u64,
    /// Calls that were timed: the first of each thread, and then one in 64.
    pub sampled: u64,
    /// Nanoseconds that these took together.
    pub sampled_nanos: u64,
}

unsafe extern "C" {
    fn lz_rocksdb_env_create(env: *mut c_void, counters: *mut *mut Counters) -> *mut rocksdb_env_t;
    fn lz_counters_local_reads(counters: *const Counters, sums: *mut LocalReads);
    fn lz_counters_free(counters: *mut Counters);
}

/// A `rocksdb::Env` over a [`lazurite_env::Env`]. Give it to `rocksdb::Options::set_env`, which keeps a count of its
/// own: this value may be dropped before the database is closed. Safe to use from any thread.
///
/// The Arc of the Env is released when the last count, of databases and files too, is gone.
pub struct RocksEnv {
    env: rocksdb::Env,
    counters: *mut Counters,
}

// SAFETY: the pointer is not aliased mutably before Drop, and what it points to is a set of atomics.
unsafe impl Send for RocksEnv {}
// SAFETY: as above; C++ only loads the atomics.
unsafe impl Sync for RocksEnv {}

/// Makes a `rocksdb::Env` of `env`. Does no I/O.
///
/// Background threads are those of RocksDB's default Env, shared by the process. Fails only where memory runs out.
pub fn rocksdb_env(env: Arc<dyn Env>) -> Result<RocksEnv> {
    let mut counters = ptr::null_mut();
    let handle = Box::into_raw(Box::new(EnvHandle(env)));
    // SAFETY: C++ takes the handle whatever happens, and writes `counters` where it gives an Env.
    let raw = unsafe { lz_rocksdb_env_create(handle.cast(), &mut counters) };
    if raw.is_null() {
        return Err(Error::new(
            ErrorKind::Io,
            "create",
            "RocksDB Env",
            "out of memory",
        ));
    }
    Ok(RocksEnv {
        // SAFETY: `raw` is the struct that RocksDB's C API frees, and nobody else holds it.
        env: unsafe { rocksdb::Env::from_raw(raw) },
        counters,
    })
}

impl RocksEnv {
    /// The Env for RocksDB's options. A clone is another count of the same Env.
    pub fn env(&self) -> &rocksdb::Env {
        &self.env
    }

    /// Reads that RocksDB made from local files since this Env was created, files that were swapped to the local disk
    /// included; each range of a batch counts. Does not block; reads made meanwhile may be missing.
    pub fn local_reads(&self) -> u64 {
        self.sums().iter().map(|sum| sum.reads).sum()
    }

    /// The same, by what the reads were for.
    pub fn local_reads_by_activity(&self) -> [(Activity, LocalReads); Activity::ALL.len()] {
        let sums = self.sums();
        Activity::ALL.map(|activity| (activity, sums[activity as usize]))
    }

    fn sums(&self) -> [LocalReads; ACTIVITIES] {
        let mut sums = [LocalReads::default(); ACTIVITIES];
        // SAFETY: `counters` lives until Drop; the call writes `ACTIVITIES` sums, for which there is room.
        unsafe { lz_counters_local_reads(self.counters, sums.as_mut_ptr()) };
        sums
    }
}

impl Drop for RocksEnv {
    fn drop(&mut self) {
        // SAFETY: it is freed here only.
        unsafe { lz_counters_free(self.counters) }
    }
}

impl fmt::Debug for RocksEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksEnv")
            .field("local_reads", &self.local_reads())
            .finish_non_exhaustive()
    }
}
