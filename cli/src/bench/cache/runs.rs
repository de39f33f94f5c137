//! Runs: keys that are read by several threads from a snapshot on an empty disk.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lazurite::{StateBackend, TierStats};
use lazurite_env::remote::{CountingStore, Key, RemoteStore, RequestCounts};

use super::{
    Bench, Kind, WINDOWS,
    report::{Run, Window},
    whole_file::{Guards, Policy, WholeFileStore},
};
use crate::{
    bench::{
        reads::{percentile, read_one},
        scene::by_threads,
        shape,
        trace::Distribution,
    },
    error::Result,
    output::ms,
};

impl Bench<'_> {
    pub fn run(&self, kind: Kind, distribution: Distribution, keys: &[u64]) -> Result<Run> {
        self.scene.clear()?;
        let counted = self.scene.behind(self.link())?;
        let whole = match kind {
            Kind::WholeFile => Some(self.whole_files(&counted, None)?),
            Kind::ForSt => {
                let evictions = self.args.promote_limit;
                Some(self.whole_files(&counted, Some(Guards { evictions }))?)
            }
            Kind::None | Kind::Chunks => None,
        };
        let store: Arc<dyn RemoteStore> = match &whole {
            Some(whole) => Arc::new(whole.clone()),
            None => Arc::new(counted.clone()),
        };
        let backend = self
            .builder(store)
            .cache_reads(kind == Kind::Chunks)
            .cache_bytes(self.args.budget_mib << 20)
            .open()?;
        let read = self.read(&backend, keys, &counted, None)?;
        let tier = backend.tier();
        let (hits, asked, loads, evictions) = match &whole {
            Some(whole) => {
                let counts = whole.counts();
                let asked = counts.hits + counts.misses;
                (counts.hits, asked, counts.loads, counts.evictions)
            }
            None => (
                tier.cache_hits,
                tier.cache_hits + tier.cache_misses,
                0,
                tier.cache_evictions,
            ),
        };
        drop(backend);
        self.scene.clear()?;
        let counts = read.counts;
        let (all, half) = (&read.latencies, &read.warm_latencies);
        Ok(Run {
            keys: distribution.name(),
            cache: kind.name(),
            reads: all.len() as u64,
            seconds: read.took.as_secs_f64(),
            p50_ms: ms(percentile(all, 50)),
            p99_ms: ms(percentile(all, 99)),
            warm_p50_ms: ms(percentile(half, 50)),
            warm_p99_ms: ms(percentile(half, 99)),
            hit_ratio: hits as f64 / asked.max(1) as f64,
            remote_requests: counts.total(),
            remote_bytes: counts.bytes_in,
            bytes_per_read: counts.bytes_in as f64 / all.len().max(1) as f64,
            loads,
            evictions,
            cache_bytes: tier.cache_bytes,
            windows: read.windows.into_iter().map(|(window, _)| window).collect(),
        })
    }

    fn whole_files(&self, store: &CountingStore, guards: Option<Guards>) -> Result<WholeFileStore> {
        let mut files = Vec::new();
        for file in self.scene.need(&self.shape.job())?.files() {
            files.push((Key::new(&file.key)?, file.len));
        }
        let policy = Policy {
            budget_bytes: self.args.budget_mib << 20,
            accesses: self.args.promote_after,
            guards,
        };
        Ok(WholeFileStore::new(
            Arc::new(store.clone()),
            &self.scene.runtime,
            policy,
            files,
        ))
    }

    /// Reads all keys by several threads, as quickly as they come or so many a second; each value is checked.
    pub fn read(
        &self,
        backend: &StateBackend,
        keys: &[u64],
        store: &CountingStore,
        per_second: Option<u64>,
    ) -> Result<Read> {
        let values = shape::table(backend)?;
        let before = store.snapshot();
        let (next, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let windows = Mutex::new(Vec::new());
        let all = keys.len() as u64;
        let begun = Instant::now();
        let most = Duration::from_secs(self.args.max_seconds);
        let work = |_| -> Result<Vec<(u64, Duration)>> {
            let mut latencies = Vec::new();
            loop {
                let i = next.fetch_add(1, Relaxed);
                let Some(key) = keys.get(i as usize).filter(|_| begun.elapsed() < most) else {
                    return Ok(latencies);
                };
                if let Some(rate) = per_second {
                    let due = begun + Duration::from_secs_f64(i as f64 / rate as f64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                let reading = Instant::now();
                read_one(&values, *key, &self.shape)?;
                latencies.push((i, reading.elapsed()));
                let n = ended.fetch_add(1, Relaxed) + 1;
                if n * WINDOWS / all != (n - 1) * WINDOWS / all {
                    let counts = store.snapshot().since(&before);
                    let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
                    let window = Window {
                        until_ms: ms(begun.elapsed()),
                        reads: n,
                        remote_requests: counts.total(),
                        remote_bytes: counts.bytes_in,
                    };
                    windows.push((window, backend.tier()));
                }
            }
        };
        let latencies = by_threads(self.args.threads, work)?.concat();
        let took = begun.elapsed();
        let counts = store.snapshot().since(&before);
        let done = latencies.len() as u64;
        let sorted = |from: u64| {
            let chosen = latencies.iter().filter(|(i, _)| *i >= from);
            let mut chosen: Vec<_> = chosen.map(|(_, latency)| *latency).collect();
            chosen.sort_unstable();
            chosen
        };
        let mut windows = windows.into_inner().unwrap_or_else(PoisonError::into_inner);
        windows.sort_unstable_by_key(|(window, _)| window.reads);
        Ok(Read {
            took,
            counts,
            latencies: sorted(0),
            warm_latencies: sorted(done / 2),
            windows,
        })
    }
}

pub(super) struct Read {
    pub took: Duration,
    pub counts: RequestCounts,
    pub latencies: Vec<Duration>,
    pub warm_latencies: Vec<Duration>,
    /// With what the tiers had done by then.
    pub windows: Vec<(Window, TierStats)>,
}
