//! Reads of files that were remote when they were opened: by what served them, and what they were for.
//!
//! Counting is two relaxed additions. Waiting for the store or for the chunk cache is also told to an
//! observer, where there is one.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lazurite_env::Activity;

/// What served a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadTier {
    /// The local file, after its promotion, by way of this crate. Reads that RocksDB makes by itself are not counted here.
    Local,
    /// The tail bundle, in memory.
    Tail,
    /// The chunk cache on the local disk.
    Chunk,
    /// The remote store, at least in part.
    Remote,
}

const TIERS: usize = 4;
const ACTIVITIES: usize = Activity::ALL.len();

impl ReadTier {
    /// Every tier.
    pub const ALL: [ReadTier; TIERS] = [
        ReadTier::Local,
        ReadTier::Tail,
        ReadTier::Chunk,
        ReadTier::Remote,
    ];

    /// A word for it, as figures and their labels use.
    pub fn name(self) -> &'static str {
        match self {
            ReadTier::Local => "local",
            ReadTier::Tail => "tail",
            ReadTier::Chunk => "chunk",
            ReadTier::Remote => "remote",
        }
    }
}

/// Reads that one tier served for one activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadStats {
    /// What served them.
    pub tier: ReadTier,
    /// What they were for.
    pub activity: Activity,
    /// How many, since the union was opened.
    pub reads: u64,
    /// Bytes that were asked for. Bytes that requests brought beside them are in
    /// [`TierStats::remote_bytes`](crate::TierStats::remote_bytes).
    pub bytes: u64,
}

/// Told how long a reader waited for bytes that are not in memory, by the reading thread; must be quick.
pub type ReadObserver = Arc<dyn Fn(ReadTier, Activity, Duration) + Send + Sync>;

#[derive(Default)]
pub(crate) struct ReadCounters {
    counters: [[Pair; ACTIVITIES]; TIERS],
    observer: OnceLock<ReadObserver>,
}

#[derive(Default)]
struct Pair {
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl fmt::Debug for ReadCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stats()).finish()
    }
}

impl ReadCounters {
    pub fn count(&self, tier: ReadTier, activity: Activity, bytes: u64) {
        let pair = &self.counters[tier as usize][activity as usize];
        pair.reads.fetch_add(1, Relaxed);
        pair.bytes.fetch_add(bytes, Relaxed);
    }

    /// Runs `wait`, which waits for the bytes of a read, and tells how long it took.
    pub fn waiting<T>(&self, tier: ReadTier, activity: Activity, wait: impl FnOnce() -> T) -> T {
        let Some(observer) = self.observer.get() else {
            return wait();
        };
        let begun = Instant::now();
        let result = wait();
        observer(tier, activity, begun.elapsed());
        result
    }

    /// The first observer stays.
    pub fn observe(&self, observer: ReadObserver) {
        let _ = self.observer.set(observer);
    }

    pub fn stats(&self) -> impl Iterator<Item = ReadStats> + '_ {
        ReadTier::ALL.into_iter().flat_map(move |tier| {
            Activity::ALL.into_iter().map(move |activity| {
                let pair = &self.counters[tier as usize][activity as usize];
                ReadStats {
                    tier,
                    activity,
                    reads: pair.reads.load(Relaxed),
                    bytes: pair.bytes.load(Relaxed),
                }
            })
        })
    }
}
