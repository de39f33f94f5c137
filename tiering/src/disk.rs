//! The disk budget: what local table files and the chunk cache take of the disk, together.
//!
//! One thread, the keeper, looks a few times a second, and right after what makes files (a flush, a compaction, a promotion, a
//! complete snapshot). [`Core::balance`] is one such look:
//! 1. It adds up the table files in the db directory: those that are catalogued by what the catalog says, all others, which
//!    RocksDB writes without asking, by looking.
//! 2. While these and the cache's share (a quarter of the budget, or as much as is remote where that is less) are more than
//!    the budget less a sixteenth, it demotes the coldest local file that the store holds: the one that no user has read for
//!    longest, by doublings of time; among those the deepest level first, then the largest.
//! 3. The cache gets what is left.
//!
//! # What is guaranteed
//! * Promotion never takes more than the budget, and never what would be demoted at once: a file that does not fit so is not
//!   brought, and the download waits. Neither does a restore, which leaves files remote. Neither do reads.
//! * Flushes and compactions are never refused. What they write may exceed the budget: by what they write between two looks,
//!   in so far as that is more than a sixteenth of the budget; and for as long as the store does not hold it, since such files are
//!   never demoted. `disk_over_bytes` says by how much, and a warning.
//! * When [`record_uploaded`](crate::UnionEnv::record_uploaded) returns, what it recorded was demoted as far as necessary.
//! * Counted are lengths, rounded up to 4 KiB. Not counted: what RocksDB preallocates for a file that it is writing, files that
//!   it has replaced and not yet closed, links that wait to be uploaded, tails, the MANIFEST, the WAL, the log.

use std::{
    cmp::Reverse,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lazurite_env::{Error, ErrorKind, Result};

use crate::{catalog::Entry, layout::is_table_name, stats::Counters, sync::lock, union::Core};

/// One part of so many is the cache's, if so much is remote.
const CACHE_SHARE: u64 = 4;

/// One part of so many stays free for what RocksDB writes between two looks.
const SLACK: u64 = 16;

/// What file systems allocate.
const BLOCK_BYTES: u64 = 4 << 10;

/// How often the keeper looks, and the tick of [`OpenFiles`](crate::OpenFiles).
const TICK: Duration = Duration::from_millis(250);

/// Looks take at most one part of so many of the time.
const REST: u32 = 10;

/// Warnings of one kind are no closer together.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// What of the disk is taken and may be.
#[derive(Debug)]
pub(crate) struct Disk {
    /// `u64::MAX`: none, and nothing here does anything.
    budget: AtomicU64,
    /// What the user lets the cache take at most.
    cache_budget: AtomicU64,
    /// Table files that are not catalogued, at the last look.
    foreign: AtomicU64,
    over: AtomicU64,
    /// Files that are on their way.
    promised: Mutex<u64>,
    /// Files that are being renamed into the db directory. Counted as local.
    landing: AtomicU64,
    /// Held by who looks.
    balancing: Mutex<()>,
    keeper: Mutex<Keeper>,
    told: Condvar,
    warned: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Keeper {
    prodded: bool,
    stopped: bool,
    thread: Option<JoinHandle<()>>,
}

/// What of the disk is taken, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskUse {
    pub budget: u64,
    pub tables: u64,
    pub over: u64,
}

/// Room for a file that is on its way. Gives it back when it is dropped: the file is counted as local then, or not at all.
pub(crate) struct Admitted<'a> {
    disk: &'a Disk,
    len: u64,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.len > 0 {
            *lock(&self.disk.promised) -= self.len;
        }
    }
}

/// A file that is being renamed into the db directory. Dropped once it is counted there, or not renamed.
pub(crate) struct Landing<'a> {
    disk: &'a Disk,
    len: u64,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.disk.landing.fetch_sub(self.len, Relaxed);
    }
}

fn on_disk(len: u64) -> u64 {
    len.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(len)
}

impl Disk {
    pub fn new(budget: u64, cache_budget: u64) -> Self {
        Disk {
            budget: AtomicU64::new(budget),
            cache_budget: AtomicU64::new(cache_budget),
            foreign: AtomicU64::new(0),
            over: AtomicU64::new(0),
            promised: Mutex::default(),
            landing: AtomicU64::new(0),
            balancing: Mutex::default(),
            keeper: Mutex::default(),
            told: Condvar::new(),
            warned: Mutex::default(),
        }
    }

    pub fn is_limited(&self) -> bool {
        self.budget.load(Relaxed) != u64::MAX
    }

    /// Has the keeper look now.
    pub fn prod(&self) {
        if self.is_limited() {
            lock(&self.keeper).prodded = true;
            self.told.notify_all();
        }
    }

    /// What is aimed at.
    fn usable(&self) -> u64 {
        let budget = self.budget.load(Relaxed);
        budget - budget / SLACK
    }

    /// By how much `tables` bytes of table files, of which `remote` others are not here, are too many.
    fn excess(&self, tables: u64, remote: u64) -> u64 {
        let share = (self.budget.load(Relaxed) / CACHE_SHARE).min(remote);
        tables.saturating_add(share).saturating_sub(self.usable())
    }

    /// Waits for the next look; false where the keeper must end.
    fn wait(&self, at_least: Duration, tick: Instant) -> bool {
        let earliest = Instant::now() + at_least;
        let mut keeper = lock(&self.keeper);
        loop {
            let now = Instant::now();
            if keeper.stopped || (now >= earliest && (keeper.prodded || now >= tick)) {
                keeper.prodded = false;
                return !keeper.stopped;
            }
            let until = if keeper.prodded {
                earliest
            } else {
                tick.max(earliest)
            };
            let woken = self
                .told
                .wait_timeout(keeper, until.saturating_duration_since(now));
            keeper = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// True where it is time for another warning.
    fn may_warn(&self) -> bool {
        let mut warned = lock(&self.warned);
        let due = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if due {
            *warned = Some(Instant::now());
        }
        due
    }
}

impl Core {
    /// Starts the keeper where there is a budget.
    pub fn start_keeper(self: &Arc<Self>) -> Result<()> {
        if !self.disk.is_limited() {
            return Ok(());
        }
        let core = self.clone();
        let thread = std::thread::Builder::new()
            .name("lazurite-disk".into())
            .spawn(move || core.keep())
            .map_err(|e| Error::from_io("start", "disk budget thread", e))?;
        lock(&self.disk.keeper).thread = Some(thread);
        Ok(())
    }

    /// Ends the keeper and waits for it, which takes no longer than one demotion.
    pub fn stop_keeper(&self) {
        let thread = {
            let mut keeper = lock(&self.disk.keeper);
            keeper.stopped = true;
            keeper.thread.take()
        };
        self.disk.told.notify_all();
        if let Some(thread) = thread {
            // It has nothing to report.
            let _ = thread.join();
        }
    }

    fn keep(&self) {
        let (mut rest, mut tick) = (Duration::ZERO, Instant::now());
        while self.disk.wait(rest, tick) {
            let begun = Instant::now();
            if begun >= tick {
                tick = begun + TICK;
                if let Some(open) = self.open_files.get() {
                    open.tick();
                }
            }
            self.balance();
            rest = (begun.elapsed() * REST).min(TICK * REST);
        }
    }

    /// Changes the budget, and keeps it. Nothing where there was none.
    pub fn set_disk_budget(&self, bytes: u64) {
        if self.disk.is_limited() {
            self.disk.budget.store(bytes.min(u64::MAX - 1), Relaxed);
            self.balance();
        }
    }

    /// Changes what the cache may take at most.
    pub fn set_cache_budget(&self, bytes: u64) {
        self.disk.cache_budget.store(bytes, Relaxed);
        self.cache.set_budget(self.cache_limit());
    }

    pub fn disk_use(&self) -> DiskUse {
        let limited = self.disk.is_limited();
        DiskUse {
            budget: self.disk.budget.load(Relaxed),
            tables: if limited { self.table_bytes().0 } else { 0 },
            over: self.disk.over.load(Relaxed),
        }
    }

    /// What table files take here, and what those take that are remote.
    fn table_bytes(&self) -> (u64, u64) {
        let (local, remote) = self.catalog.bytes(on_disk);
        let others = self.disk.foreign.load(Relaxed) + self.disk.landing.load(Relaxed);
        (local + others, remote)
    }

    /// What the cache may take now.
    fn cache_limit(&self) -> u64 {
        let asked = self.disk.cache_budget.load(Relaxed);
        if !self.disk.is_limited() {
            return asked;
        }
        let (tables, _) = self.table_bytes();
        asked.min(self.disk.usable().saturating_sub(tables))
    }

    /// What the cache may take with what is warmed: files that are to come need the rest.
    pub fn warm_limit(&self) -> u64 {
        let limit = self.cache_limit() / 2;
        if !self.disk.is_limited() {
            return limit;
        }
        limit.min(self.disk.budget.load(Relaxed) / CACHE_SHARE)
    }

    /// Lets the cache take no more than it may, as table files have become more. Evicts nothing yet.
    pub fn cap_cache(&self) {
        if self.disk.is_limited() {
            self.cache.lower_budget(self.cache_limit());
            self.disk.prod();
        }
    }

    /// Counts `entry`, which is about to be renamed into the db directory, among the local files.
    pub fn land(&self, entry: &Entry) -> Landing<'_> {
        let len = on_disk(entry.file().len);
        self.disk.landing.fetch_add(len, Relaxed);
        let landing = Landing {
            disk: &self.disk,
            len,
        };
        self.cap_cache();
        landing
    }

    /// Makes sure that `entry` would not be demoted as soon as it is local.
    ///
    /// # Errors
    /// `NoSpace` where it would.
    pub fn admit(&self, entry: &Entry) -> Result<Admitted<'_>> {
        let disk = &self.disk;
        if !disk.is_limited() {
            return Ok(Admitted { disk, len: 0 });
        }
        let len = on_disk(entry.file().len);
        let mut promised = lock(&disk.promised);
        let (tables, remote) = self.table_bytes();
        let excess = disk.excess(
            tables + *promised + len,
            remote.saturating_sub(*promised + len),
        );
        if excess > 0 {
            let budget = disk.budget.load(Relaxed);
            let why = format!(
                "the disk budget of {budget} bytes leaves no room for {len} bytes more beside {tables} bytes of local table files \
                 and the cache's share: raise it, or go on reading remotely"
            );
            return Err(Error::new(
                ErrorKind::NoSpace,
                "download",
                entry.name(),
                why,
            ));
        }
        *promised += len;
        Ok(Admitted { disk, len })
    }

    /// One look, and what has to be done. Blocks on the local disk; makes no request.
    pub fn balance(&self) {
        let disk = &self.disk;
        if !disk.is_limited() {
            return;
        }
        let _balancing = lock(&disk.balancing);
        match self.foreign_bytes() {
            Ok(foreign) => disk.foreign.store(foreign, Relaxed),
            Err(error) => tracing::debug!(%error, "the db directory cannot be looked at"),
        }
        let keep_free = self.cache.min_free_bytes();
        let short = match self.base.free_space(&self.layout.root) {
            Ok(free) => keep_free.saturating_sub(free),
            Err(_) => 0,
        };
        self.demote_coldest(short);
        let limit = self.cache_limit();
        if limit != self.cache.usage().budget {
            self.cache.set_budget(limit);
        }
        let (tables, _) = self.table_bytes();
        let budget = disk.budget.load(Relaxed);
        let over = tables.saturating_sub(budget);
        disk.over.store(over, Relaxed);
        if over > 0 && disk.may_warn() {
            tracing::warn!(
                over,
                tables,
                budget,
                "the disk budget is exceeded by table files that the store does not hold yet: take a snapshot, or raise it"
            );
        }
    }

    /// Demotes while there is too much, and until `short` bytes were freed.
    fn demote_coldest(&self, short: u64) {
        let (mut tables, mut remote) = self.table_bytes();
        let mut freed = 0;
        let enough =
            |tables, remote, freed| self.disk.excess(tables, remote) == 0 && freed >= short;
        if enough(tables, remote, freed) {
            return;
        }
        for entry in self.coldest_first() {
            match self.demote(&entry) {
                Ok(true) => {
                    let len = on_disk(entry.file().len);
                    (tables, remote) = (tables.saturating_sub(len), remote + len);
                    freed += len;
                }
                Ok(false) => {}
                Err(error) => {
                    Counters::add(&self.counters.demotion_failures, 1);
                    if self.disk.may_warn() {
                        tracing::warn!(%error, "a local file could not be demoted");
                    }
                }
            }
            if enough(tables, remote, freed) {
                return;
            }
        }
    }

    /// The local files that the store holds.
    fn coldest_first(&self) -> Vec<Arc<Entry>> {
        let open = self.open_files.get();
        let mut entries = self.catalog.local_entries();
        entries.retain(|entry| entry.is_stored());
        entries.sort_by_cached_key(|entry| {
            let path = self.layout.db.join(entry.name());
            let idle = open.and_then(|open| open.idle(&path));
            // By doublings: seconds make no difference to what was last read an hour ago.
            let age = u32::BITS - idle.unwrap_or(u32::MAX).leading_zeros();
            Reverse((age, entry.facts.level, entry.file().len))
        });
        entries
    }

    /// What table files take that are not catalogued: RocksDB wrote them since the last snapshot.
    fn foreign_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for found in self.base.list(&self.layout.db)? {
            if is_table_name(&found.name) && !self.catalog.contains(&found.name) {
                match self.base.stat(&self.layout.db.join(&found.name)) {
                    Ok(stat) => bytes += on_disk(stat.len),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(bytes)
    }
}
