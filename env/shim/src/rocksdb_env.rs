//! [`RocksEnv`]: the `rocksdb::Env`, and [`LocalFiles`]: what is open in it on the local disk.

use std::{
    ffi::{c_char, c_void},
    fmt,
    path::Path,
    ptr,
    sync::Arc,
};

use lazurite_env::{Activity, Env, Error, ErrorKind, Result};
use librocksdb_sys::rocksdb_env_t;

use crate::{
    abi::{Sink, Slice},
    env::EnvHandle,
};

/// `lz_local_files`, owned by C++ code and freed here.
#[repr(C)]
struct Raw {
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
    fn lz_rocksdb_env_create(env: *mut c_void, files: *mut *mut Raw) -> *mut rocksdb_env_t;
    fn lz_local_files_reads(files: *const Raw, sums: *mut LocalReads);
    fn lz_local_files_keep_releasable(files: *const Raw);
    fn lz_local_files_release(files: *const Raw, path: Slice) -> u8;
    fn lz_local_files_idle(files: *const Raw, path: Slice) -> u32;
    fn lz_local_files_tick(files: *const Raw);
    fn lz_local_files_take_heat(
        files: *const Raw,
        path: Slice,
        halvings: u32,
        context: *mut c_void,
        sink: Sink,
    ) -> u8;
    fn lz_local_files_free(files: *mut Raw);
}

/// A `rocksdb::Env` over a [`lazurite_env::Env`]. Give it to `rocksdb::Options::set_env`, which keeps a count of its
/// own: this value may be dropped before the database is closed. Safe to use from any thread.
///
/// The Arc of the Env is released when the last count, of databases and files too, is gone.
pub struct RocksEnv {
    env: rocksdb::Env,
    files: LocalFiles,
}

/// The files that RocksDB has open on the local disk, by one [`RocksEnv`]. Cheap to clone; holds neither the Env nor a
/// database. Any thread may call it, but none from inside a read.
#[derive(Clone)]
pub struct LocalFiles(Arc<Owned>);

struct Owned(*mut Raw);

// SAFETY: what the pointer leads to is a set of atomics and a map under a mutex; it is freed by the last owner.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: it is freed here only.
        unsafe { lz_local_files_free(self.0) }
    }
}

/// Makes a `rocksdb::Env` of `env`. Does no I/O.
///
/// Background threads are those of RocksDB's default Env, shared by the process. Fails only where memory runs out.
pub fn rocksdb_env(env: Arc<dyn Env>) -> Result<RocksEnv> {
    let mut files = ptr::null_mut();
    let handle = Box::into_raw(Box::new(EnvHandle(env)));
    // SAFETY: C++ takes the handle whatever happens, and writes `files` where it gives an Env.
    let raw = unsafe { lz_rocksdb_env_create(handle.cast(), &mut files) };
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
        files: LocalFiles(Arc::new(Owned(files))),
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

    /// What is open on the local disk.
    pub fn local_files(&self) -> LocalFiles {
        self.files.clone()
    }

    fn sums(&self) -> [LocalReads; ACTIVITIES] {
        let mut sums = [LocalReads::default(); ACTIVITIES];
        // SAFETY: the pointer is valid for as long as `files` lives; the call writes `ACTIVITIES` sums, for which there is
        // room.
        unsafe { lz_local_files_reads(self.files.0.0, sums.as_mut_ptr()) };
        sums
    }
}

impl LocalFiles {
    /// Files that are opened from now on, and read neither directly nor by mmap, can be [released](Self::release), also where
    /// they are remote at first. A read of such a file on the local disk costs one atomic operation more.
    pub fn keep_releasable(&self) {
        // SAFETY: the pointer is valid for as long as `self` lives.
        unsafe { lz_local_files_keep_releasable(self.0.0) }
    }

    /// Has every open file of `path` read through its Env from now on, and closes what it has open on the local disk, so
    /// that the space of an unlinked file is free on return. Reads under way end where they began: this waits for them.
    ///
    /// The Env must already open `path` as a file that is not local, with the same content.
    ///
    /// `false`: something stays open. The Env could not open the file, and it is read on the local disk as before; or a
    /// reader did not end within a second, and its descriptor is closed at a later call or [tick](Self::tick). No read fails
    /// in either case. Files that cannot be released (see [`keep_releasable`](Self::keep_releasable)) are not known here:
    /// they stay open, and nothing is said of them.
    pub fn release(&self, path: &Path) -> bool {
        // SAFETY: as above; the path is borrowed for the call.
        unsafe { lz_local_files_release(self.0.0, Slice::of(path)) != 0 }
    }

    /// Moves the clock of [`idle`](Self::idle) on by one tick, and closes what [`release`](Self::release) could not, where its
    /// readers have ended since. Blocks for two milliseconds at most.
    pub fn tick(&self) {
        // SAFETY: as above.
        unsafe { lz_local_files_tick(self.0.0) }
    }

    /// Ticks since `path` was opened on the local disk, or last read there for a user (not a compaction, say); `None` where
    /// no [releasable](Self::keep_releasable) file of that path is open.
    pub fn idle(&self, path: &Path) -> Option<u32> {
        // SAFETY: as above; the path is borrowed for the call.
        let idle = unsafe { lz_local_files_idle(self.0.0, Slice::of(path)) };
        (idle != u32::MAX).then_some(idle)
    }

    /// How often gets of users were noted in each chunk of 64 KiB of the file `path` while it was open on the local disk, by
    /// chunk; at most 255. Those reads are noted that are [timed](LocalReads::sampled); iterators, compactions, opening and
    /// verification never, nor reads that RocksDB's block cache answers. Afterwards each count is halved `halvings` times.
    ///
    /// Empty where nothing was noted, or the file is longer than 4 GiB. Takes a short lock that no read takes.
    pub fn take_chunk_heat(&self, path: &Path, halvings: u32) -> Vec<u8> {
        let mut counts: Vec<u8> = Vec::new();
        // SAFETY: as above; the vector outlives the call, and `collect` takes one. Where memory runs out it stays empty.
        unsafe {
            let context = (&raw mut counts).cast();
            lz_local_files_take_heat(self.0.0, Slice::of(path), halvings, context, collect);
        }
        counts
    }
}

unsafe extern "C" fn collect(context: *mut c_void, data: *const c_char, len: usize, _: u8) -> u8 {
    // SAFETY: `context` is the vector of `take_chunk_heat`, and C++ gives a valid slice.
    unsafe {
        let (counts, bytes) = (&mut *context.cast::<Vec<u8>>(), data.cast::<u8>());
        // Empty, perhaps: a slice is made of a pointer that is not null all the same.
        if len == 0 || counts.try_reserve_exact(len).is_err() {
            return u8::from(len == 0);
        }
        counts.extend_from_slice(std::slice::from_raw_parts(bytes, len));
    }
    1
}

impl fmt::Debug for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalFiles")
    }
}

impl fmt::Debug for RocksEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksEnv")
            .field("local_reads", &self.local_reads())
            .finish_non_exhaustive()
    }
}
