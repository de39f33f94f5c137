//! The disk budget: what local table files and the chunk cache take of the disk, together.
//!
//! One thread, the keeper, looks a few times a second, and right after what makes files (a flush, a compaction, a promotion, a
//! complete snapshot). [`Core::balance`] is one such look:
//! 1. It adds up the table files in the db directory: those that are catalogued by what the catalog says, all others, which
//!    RocksDB writes without asking, by looking.
//! 2. While these and the cache's share (a quarter of the budget, or as much as is remote, or as the cache may take at all,
//!    where that is less) are more than the budget less a sixteenth, it demotes the coldest local file that the store holds:
//!    the one that no user has read for longest, by doublings of time; among those the deepest level first, then the largest.
//!    Where the disk itself has less free than it is to have, the cache gives way first, then files go as well; but where
//!    that gives no space back (other links, descriptors that stay open), no more go before some came or half a minute has passed.
//! 3. The cache gets what is left.
//!
//! # What is guaranteed
//! * Promotion never takes more than the budget, and never what would be demoted at once: a file that does not fit so is not
//!   brought, and shorter ones are. Neither does a restore, which leaves files remote. Neither do reads.
//! * Flushes and compactions are never refused. What they write may exceed the budget: by what they write between two looks,
//!   in so far as that is more than a sixteenth of the budget; and for as long as the store does not hold it, since such files are
//!   never demoted, or the local disk fails. `disk_over_bytes` says by how much, and a warning.
//! * No file is counted twice, whatever becomes of it meanwhile.
//! * When [`record_uploaded`](crate::UnionEnv::record_uploaded) returns, what it recorded was demoted as far as necessary.
//! * Counted are lengths, rounded up to 4 KiB. Not counted: what RocksDB preallocates for a file that it is writing, files that
//!   it has replaced and not yet closed, links that wait to be uploaded, tails, the MANIFEST, the WAL, the log.

mod keeper;

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lazurite_env::{Error, ErrorKind, Result};

use crate::{
    CacheOptions,
    catalog::{Entry, Residency},
    layout::is_table_name,
    stats::Counters,
    sync::lock,
    union::Core,
};
use keeper::Keeper;

/// One part of so many is the cache's, if so much is remote.
const CACHE_SHARE: u64 = 4;

/// One part of so many stays free for what RocksDB writes between two looks.
const SLACK: u64 = 16;

/// What file systems allocate.
const BLOCK_BYTES: u64 = 4 << 10;

/// Warnings of one kind are no closer together.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// How long no more files go for want of free space, where those that went gave none back.
const FUTILE_REST: Duration = Duration::from_secs(30);

/// A file on its way takes one part of so many more: the cache's checksums of its pages.
const MAP_SHARE: u64 = 128;

/// What of the disk is taken and may be.
#[derive(Debug)]
pub(crate) struct Disk {
    /// `u64::MAX`: none, and nothing here does anything.
    budget: AtomicU64,
    /// What the user lets the cache take at most.
    cache_budget: AtomicU64,
    /// Reads fill the cache.
    caches: bool,
    counts: Mutex<Counts>,
    over: AtomicU64,
    /// Held by who looks.
    balancing: Mutex<Look>,
    keeper: Keeper,
    warned: Mutex<Option<Instant>>,
}

/// Table files that the catalog does not count as local. Whoever makes one local holds the lock, so that it is counted once.
#[derive(Debug, Default)]
struct Counts {
    /// Files that are on their way, by name.
    promised: BTreeMap<String, u64>,
    /// Those that are being renamed into the db directory.
    landing: u64,
    /// Those that were not catalogued at the last look, by name. The ones that are now count no more.
    foreign: BTreeMap<String, u64>,
}

/// What a look leaves to the next one.
#[derive(Debug, Default)]
struct Look {
    /// Files went because so much of the disk was not free, and it still is not: since when.
    futile: Option<(u64, Instant)>,
}

/// What of the disk is taken, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskUse {
    pub budget: u64,
    pub tables: u64,
    pub over: u64,
}

/// Room for a file that is on its way. Gives it back when it is dropped, but for a file that has landed.
pub(crate) struct Admitted<'a> {
    disk: &'a Disk,
    name: String,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        lock(&self.disk.counts).promised.remove(&self.name);
    }
}

/// A file that is being renamed into the db directory. Dropped without [`landed`](Self::landed), it was not.
pub(crate) struct Landing<'a> {
    core: &'a Core,
    len: u64,
}

impl Landing<'_> {
    /// `entry` is in the db directory.
    pub fn landed(mut self, entry: &Entry) {
        let mut counts = lock(&self.core.disk.counts);
        self.core.catalog.set_residency(entry, Residency::Local);
        counts.landing -= std::mem::take(&mut self.len);
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if self.len > 0 {
            lock(&self.core.disk.counts).landing -= self.len;
        }
    }
}

fn on_disk(len: u64) -> u64 {
    len.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(len)
}

impl Disk {
    pub fn new(options: &CacheOptions) -> Self {
        Disk {
            budget: AtomicU64::new(options.disk_budget_bytes),
            cache_budget: AtomicU64::new(options.budget_bytes),
            caches: options.block_reads,
            counts: Mutex::default(),
            over: AtomicU64::new(0),
            balancing: Mutex::default(),
            keeper: Keeper::default(),
            warned: Mutex::default(),
        }
    }

    pub fn is_limited(&self) -> bool {
        self.budget.load(Relaxed) != u64::MAX
    }

    /// Has the keeper look now.
    pub fn prod(&self) {
        if self.is_limited() {
            self.keeper.prod();
        }
    }

    /// What is aimed at.
    fn usable(&self) -> u64 {
        let budget = self.budget.load(Relaxed);
        budget - budget / SLACK
    }

    /// By how much `tables` bytes of table files, of which `remote` others are not here, are too many.
    fn excess(&self, tables: u64, remote: u64) -> u64 {
        let most = match self.caches {
            true => self.cache_budget.load(Relaxed),
            false => 0,
        };
        let share = (self.budget.load(Relaxed) / CACHE_SHARE).min(remote);
        let needed = tables.saturating_add(share.min(most));
        needed.saturating_sub(self.usable())
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
        self.count(&lock(&self.disk.counts))
    }

    fn count(&self, counts: &Counts) -> (u64, u64) {
        let (local, remote) = self.catalog.bytes(on_disk, &counts.foreign);
        let landing = counts.landing;
        (local + landing, remote.saturating_sub(landing))
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

    /// Counts `entry`, which is about to be renamed into the db directory, among the local files, and no more among those
    /// that are on their way.
    pub fn land(&self, entry: &Entry) -> Landing<'_> {
        let len = match self.disk.is_limited() {
            true => on_disk(entry.file().len),
            false => 0,
        };
        {
            let mut counts = lock(&self.disk.counts);
            counts.promised.remove(entry.name());
            counts.landing += len;
        }
        let landing = Landing { core: self, len };
        self.cap_cache();
        landing
    }

    /// Makes sure that `entry` would not be demoted as soon as it is local. `None`: it would be if all that are on their way
    /// come; they have the room now, and may give it back.
    ///
    /// # Errors
    /// `NoSpace` where it would in any case, as would every longer file.
    pub fn admit(&self, entry: &Entry) -> Result<Option<Admitted<'_>>> {
        let disk = &self.disk;
        let name = entry.name().to_owned();
        if !disk.is_limited() {
            return Ok(Some(Admitted { disk, name }));
        }
        let len = entry.file().len;
        let len = on_disk(len) + on_disk(len / MAP_SHARE) + BLOCK_BYTES;
        let mut counts = lock(&disk.counts);
        let (tables, remote) = self.count(&counts);
        let excess = |more: u64| disk.excess(tables + more, remote.saturating_sub(more));
        if excess(len) > 0 {
            let budget = disk.budget.load(Relaxed);
            let why = format!(
                "the disk budget of {budget} bytes leaves no room for {len} bytes more beside {tables} bytes of local table files \
                 and the cache's share: raise it, or go on reading remotely"
            );
            return Err(Error::new(ErrorKind::NoSpace, "download", name, why));
        }
        if excess(counts.promised.values().sum::<u64>() + len) > 0 {
            return Ok(None);
        }
        counts.promised.insert(name.clone(), len);
        Ok(Some(Admitted { disk, name }))
    }

    /// One look, and what has to be done. Blocks on the local disk; makes no request.
    pub fn balance(&self) {
        let disk = &self.disk;
        if !disk.is_limited() {
            return;
        }
        let mut look = lock(&disk.balancing);
        match self.foreign_files() {
            Ok(foreign) => lock(&disk.counts).foreign = foreign,
            Err(error) => tracing::debug!(%error, "the db directory cannot be looked at"),
        }
        let mut short = self.missing_bytes();
        if short > 0 {
            // What of the cache can go goes first: nothing has to be written for it.
            self.cache.keep_promises();
            short = self.missing_bytes();
        }
        let rests = |(then, at): (u64, Instant)| short >= then && at.elapsed() < FUTILE_REST;
        if look.futile.is_some_and(rests) {
            self.demote_coldest(0);
        } else {
            let freed = self.demote_coldest(short);
            let left = if freed > 0 { self.missing_bytes() } else { 0 };
            // Others may take some meanwhile.
            let futile = left > 0 && left.saturating_add(freed / 2) > short;
            look.futile = futile.then(|| (left, Instant::now()));
        }
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
                "the disk budget is exceeded by table files that no complete snapshot holds yet, or whose demotion failed: take a \
                 snapshot, or raise it"
            );
        }
    }

    /// How much of what is to be free on the disk is not.
    fn missing_bytes(&self) -> u64 {
        let free = self.base.free_space(&self.layout.root);
        free.map_or(0, |free| self.cache.min_free_bytes().saturating_sub(free))
    }

    /// Demotes while there is too much, and until `short` bytes were freed; how many it should have freed.
    fn demote_coldest(&self, short: u64) -> u64 {
        let (mut tables, mut remote) = self.table_bytes();
        let (mut freed, mut savable) = (0, true);
        let enough =
            |tables, remote, freed| self.disk.excess(tables, remote) == 0 && freed >= short;
        if enough(tables, remote, freed) {
            return 0;
        }
        for entry in self.coldest_first() {
            if self.disk.keeper.is_stopped() {
                break;
            }
            // Where the catalog cannot be written, as on a full disk, those can go that it names already.
            if !savable && !entry.is_durable() {
                continue;
            }
            match self.demote(&entry) {
                Ok(true) => {
                    let len = on_disk(entry.file().len);
                    (tables, remote) = (tables.saturating_sub(len), remote + len);
                    freed += len;
                }
                Ok(false) => {}
                Err(error) => {
                    savable &= entry.is_durable();
                    Counters::add(&self.counters.demotion_failures, 1);
                    if self.disk.may_warn() {
                        tracing::warn!(%error, "a local file could not be demoted");
                    }
                }
            }
            if enough(tables, remote, freed) {
                break;
            }
        }
        freed
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

    /// The table files that are not catalogued, and what they take: RocksDB wrote them since the last snapshot.
    fn foreign_files(&self) -> Result<BTreeMap<String, u64>> {
        let mut files = BTreeMap::new();
        for found in self.base.list(&self.layout.db)? {
            if is_table_name(&found.name) && !self.catalog.contains(&found.name) {
                match self.base.stat(&self.layout.db.join(&found.name)) {
                    Ok(stat) => {
                        files.insert(found.name, on_disk(stat.len));
                    }
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(files)
    }
}
