//! The chunk cache: parts of remote files on the local disk. One mechanism for block reads, resumable downloads and
//! promoted files, which are three stages of one sparse file.
//!
//! * A read that misses is rounded up to pages of 1 KiB, asks the store for those that are absent, and hands its bytes out
//!   as soon as they come; a few [writer threads](fill) store them behind it. [`read`]
//! * A download [holds](hold) a file: it fills the missing pages, the whole is verified, and the data file gets its name in
//!   the db directory.
//! * What a snapshot says is hot is brought before it is read, where there is room. [`warm`]
//! * A byte budget and free space of the file system bound what the files take. Space is reserved before it is written; cold
//!   chunks of 64 KiB are punched out. [`room`], [`heat`]
//!
//! # Invariants
//! * Every page that is given out was verified against its checksum just then. A wrong one costs a request.
//! * A failure of the local disk never fails a read: it is counted, warned about now and then, and read through.
//! * No lock is held across I/O but `map_writing` of one file, which only writers take, and `creating`, likewise.
//! * The files on the disk and their crash story: [`mod@file`]. What is in memory: [`state`].

mod file;
mod fill;
pub(crate) mod flight;
mod geometry;
mod heat;
mod hold;
mod landing;
mod load;
mod plan;
#[cfg(any(feature = "policy", test))]
pub(crate) mod policy;
mod read;
mod room;
mod state;
#[cfg(test)]
mod tests;
mod warm;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lazurite_env::{Env, Error, IoRuntime, Result, remote::RemoteStore};

use crate::{
    Checksum, RemoteFile, TransferBudget,
    catalog::Moves,
    stats::{CacheUse, Counters},
    sync::lock,
};
pub(crate) use geometry::{CHUNK_BYTES, PAGE_BYTES};
pub(crate) use heat::POINTS_MAX;
pub(crate) use hold::Hold;
pub(crate) use read::{Begun, Mode, Request, Tail};
use room::guarded;
use state::{FileState, State};
pub(crate) use warm::{Begin, Warm};

/// A file is taken into the cache if it is shorter than this.
const MAX_FILE_BYTES: u64 = 1 << 47;

/// Warnings of one kind are no closer together.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// How remote bytes are kept on the local disk before whole files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Whether reads of blocks fill the cache. Without, each goes to the store; downloads use the cache all the same, to
    /// go on where they were after a restart. Defaults to true.
    pub block_reads: bool,
    /// Bytes of the local disk that the cache may take: resident pages, in blocks of 4 KiB, their checksums, and what
    /// unfinished downloads have reserved. What a file system needs for its own records of a file is not counted. A file
    /// that does not fit is not downloaded. Defaults to no limit but `min_free_bytes`.
    pub budget_bytes: u64,
    /// Bytes of the local disk that the cache and the download leave free, for flushes and compactions; where others take
    /// them, the cache shrinks when it next stores something. Defaults to 256 MiB.
    pub min_free_bytes: u64,
    /// Remote objects of which reads keep something on the disk at a time; each takes two file descriptors while it is
    /// there. Where so many are, another takes the place of one that was not read for long, or is read through. Hot chunks are
    /// brought of half as many.
    /// Defaults to an eighth of what the process may open when this is made, and to no limit where that is not told as on
    /// Linux.
    pub open_objects: usize,
    /// Threads that store what reads brought. Defaults to 2; at least 1.
    pub writer_threads: usize,
    /// Bytes of the local disk that the local table files and the cache may take together; `u64::MAX`: no limit, the
    /// default. With a limit, local files that the store holds become remote again, the coldest first, where this or
    /// `min_free_bytes` asks for it. What is guaranteed stands at the head of `disk.rs`.
    pub disk_budget_bytes: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions {
            block_reads: true,
            budget_bytes: u64::MAX,
            min_free_bytes: 256 << 20,
            open_objects: descriptors_max() / 8,
            writer_threads: 2,
            disk_budget_bytes: u64::MAX,
        }
    }
}

/// How many files the process may have open.
fn descriptors_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(usize::MAX)
}

/// What a remote object is, in the cache and in its file names: a hash of its key, length and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectId(pub u128);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A remote object and its id, which is that of its content: the same in whichever place a copy lies.
#[derive(Debug)]
pub(crate) struct Object {
    pub id: ObjectId,
    pub file: RemoteFile,
}

impl Object {
    pub fn new(file: &RemoteFile) -> Arc<Self> {
        let identity = format!("{}\n{}", file.len, file.checksum);
        let hash = Checksum::of(identity.as_bytes());
        Arc::new(Object {
            id: ObjectId(u128::from_be_bytes(hash.to_bytes())),
            file: file.clone(),
        })
    }
}

/// A handle to the cache. Handles of table files, requests and download threads have one.
#[derive(Clone)]
pub(crate) struct Cache(Arc<Inner>);

struct Inner {
    base: Arc<dyn Env>,
    dir: PathBuf,
    store: Arc<dyn RemoteStore>,
    moves: Arc<Moves>,
    runtime: IoRuntime,
    counters: Arc<Counters>,
    /// Told what reads bring.
    budget: Arc<TransferBudget>,
    options: CacheOptions,
    /// Block reads are stored. Switched off for good where the disk turns out not to be able to.
    active: AtomicBool,
    state: Mutex<State>,
    /// Told whenever a write or a punch ended.
    changed: Condvar,
    /// Held while files are created, deleted or promoted, so that none of these meets another.
    creating: Mutex<()>,
    /// Held while a download reserves its room: of two that take each other's chunks, neither would have it.
    holding: Mutex<()>,
    queue: fill::Queue,
    warned: Mutex<Option<Instant>>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("dir", &self.0.dir)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// What a cache is made of.
pub(crate) struct Parts {
    pub base: Arc<dyn Env>,
    /// Its directory, which is there.
    pub dir: PathBuf,
    pub store: Arc<dyn RemoteStore>,
    pub moves: Arc<Moves>,
    pub runtime: IoRuntime,
    pub counters: Arc<Counters>,
    pub budget: Arc<TransferBudget>,
    pub options: CacheOptions,
}

impl Cache {
    /// A cache of what its directory holds of the objects `wanted`; all else there is removed. No request is made.
    pub fn open(parts: Parts, wanted: &[RemoteFile]) -> Result<Self> {
        let options = parts.options;
        let cache = Cache(Arc::new(Inner {
            base: parts.base,
            dir: parts.dir,
            store: parts.store,
            moves: parts.moves,
            runtime: parts.runtime,
            counters: parts.counters,
            budget: parts.budget,
            options,
            active: AtomicBool::new(options.block_reads),
            state: Mutex::default(),
            changed: Condvar::new(),
            creating: Mutex::new(()),
            holding: Mutex::new(()),
            queue: fill::Queue::default(),
            warned: Mutex::new(None),
        }));
        cache.state().set_budget(options.budget_bytes);
        cache.load(wanted);
        cache.set_budget(options.budget_bytes);
        if options.block_reads {
            cache.start_writers().inspect_err(|_| cache.close())?;
        }
        Ok(cache)
    }

    /// What is left free of the local disk, in bytes.
    pub fn min_free_bytes(&self) -> u64 {
        self.0.options.min_free_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.0
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_active(&self) -> bool {
        self.0.active.load(Ordering::Relaxed)
    }

    /// Changes the budget; where it is less than before, cold chunks go before this returns. Blocks on the local disk.
    pub fn set_budget(&self, bytes: u64) {
        self.state().set_budget(bytes);
        // Makes room for nothing: what is over the budget goes.
        let _ = self.reserve(0, 0);
    }

    /// Lets nothing more in beyond `bytes`, and evicts nothing yet.
    pub fn lower_budget(&self, bytes: u64) {
        let mut state = self.state();
        if bytes < state.budget {
            state.set_budget(bytes);
        }
    }

    /// What the cache takes and may take.
    pub fn usage(&self) -> CacheUse {
        let state = self.state();
        CacheUse {
            bytes: state.used(),
            budget: state.budget,
        }
    }

    /// Makes so much of the disk free as is to stay free and what is reserved beyond that; `false` where it cannot.
    pub fn keep_promises(&self) -> bool {
        self.reserve(0, self.0.options.min_free_bytes).is_ok()
    }

    /// True where files of the object are here.
    pub fn has_bytes(&self, object: ObjectId) -> bool {
        let state = self.state();
        state.files.get(&object).is_some_and(|f| f.file.is_some())
    }

    /// True where the object was asked for.
    pub fn knows(&self, object: ObjectId) -> bool {
        self.state().files.contains_key(&object)
    }

    /// Forgets an object and deletes its files. Its readers go on, from the store.
    pub fn retire(&self, object: ObjectId) {
        self.retire_if(object, |_| true);
    }

    /// The same, for whoever saw something of this life of the object: a later one is not meant.
    fn retire_life(&self, object: ObjectId, number: u64) {
        self.retire_if(object, |file| file.number == number);
    }

    /// The same, unless it `is_wanted` now; asked only where something is known of it.
    pub fn retire_unless(&self, object: ObjectId, is_wanted: impl FnOnce() -> bool) {
        if self.knows(object) {
            self.retire_if(object, |_| !is_wanted());
        }
    }

    /// The same, where `condition` holds now.
    fn retire_if(&self, object: ObjectId, condition: impl FnOnce(&FileState) -> bool) {
        let _creating = lock(&self.0.creating);
        let retired = {
            let mut state = self.state();
            let open = !state.closed;
            let meant = state.files.get(&object).is_some_and(condition);
            meant
                .then(|| state.retire(object))
                .flatten()
                .filter(|_| open)
        };
        self.0.changed.notify_all();
        if retired.is_some_and(|state| state.file.is_some()) {
            self.delete_files(object, true);
        }
    }

    /// Forgets every object that is not one of `wanted`.
    pub fn retain(&self, wanted: &[RemoteFile]) {
        let wanted: std::collections::HashSet<_> =
            wanted.iter().map(|file| Object::new(file).id).collect();
        let gone: Vec<_> = {
            let state = self.state();
            let ids = state.files.keys();
            ids.filter(|id| !wanted.contains(id)).copied().collect()
        };
        for object in gone {
            self.retire(object);
        }
    }

    /// Deletes the files of an object; what cannot be deleted is left for the next open.
    fn delete_files(&self, object: ObjectId, data_too: bool) {
        let (data, map) = file::paths(&self.0.dir, object);
        for path in data_too.then_some(data).iter().chain([&map]) {
            match guarded(|| self.0.base.delete(path)) {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(path = %path.display(), %error, "a file of the cache stays until the next open");
                }
                _ => {}
            }
        }
    }

    /// Counts a failure of the local disk, and warns about it now and then.
    fn disk_failed(&self, error: &Error) {
        Counters::add(&self.0.counters.cache_disk_failures, 1);
        let mut warned = lock(&self.0.warned);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(%error, "the local cache fails: reads go on from the remote store");
        }
    }
}

impl State {
    fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
        self.heat.set_capacity(bytes);
    }
}
