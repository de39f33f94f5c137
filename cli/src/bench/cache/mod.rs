//! `lazurite bench cache`: point reads of remote state that is larger than what the local disk may take, against two
//! baselines in the same run: whole files, fetched at the sixth access, and no cache.
//!
//! All of them read the same keys, through the same engine, of the same snapshot, over the same simulated link, with the
//! same small block cache. At last the process that reads by chunks is [killed](restart), and another one goes on.

mod kept;
mod restart;
mod whole_file;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lazurite::{LoadPolicy, RocksDbOptions, SnapshotStore, StateBackend};
use lazurite_env::{
    IoRuntime,
    remote::{CountingStore, Key, RemoteStore, RequestCounts},
};
use serde::Serialize;
use whole_file::{Guards, Policy, WholeFileStore};

use super::{
    reads::{percentile, read_one},
    shape::{self, Shape},
    trace::Distribution,
};
use crate::{
    error::{Error, Result},
    link::{self, Link},
    output::{self, Format, Table, human_bytes, human_ms, ms},
    probe,
};

/// Bytes of a value.
const VALUE_BYTES: u64 = 1024;
/// Parts of a run that are reported one by one.
const WINDOWS: u64 = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the state in MiB, in files of 64 MiB.
    #[arg(long, value_name = "M", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    state_mib: u64,
    /// What a cache may take, in MiB.
    #[arg(long, value_name = "M", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    budget_mib: u64,
    /// Values read in each run.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(100..))]
    reads: u64,
    /// Threads that read, one value after another each.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// RocksDB's block cache, in MiB: what it answers costs none of them anything.
    #[arg(long, value_name = "M", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    block_cache_mib: u64,
    /// What every request waits, in milliseconds.
    #[arg(long, value_name = "L", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: u64,
    /// Megabits per second that all requests share.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: u64,
    /// A run ends after so many seconds, whether or not all values were read.
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    max_seconds: u64,
    /// Whole-file baselines: accesses until a file is fetched.
    #[arg(long, value_name = "N", default_value_t = 6)]
    promote_after: u32,
    /// With ForSt's guards: evictions after which a file is never fetched again.
    #[arg(long, value_name = "N", default_value_t = 3)]
    promote_limit: u32,
    /// Where the state and its snapshot are kept for the next run. Default: ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// To be the process that is killed.
    #[arg(long, hide = true)]
    killed: bool,
}

/// Who keeps what of remote files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    /// Fetched at so many accesses; the least recently used one goes.
    WholeFile,
    /// The same with ForSt's guards against fetching too much.
    ForSt,
    Chunks,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::None => "no cache",
            Kind::WholeFile => "whole files",
            Kind::ForSt => "whole files, guarded",
            Kind::Chunks => "chunks",
        }
    }
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    state_bytes: u64,
    files: usize,
    budget_bytes: u64,
    block_cache_bytes: u64,
    reads: u64,
    threads: u64,
    latency_ms: u64,
    bandwidth_mbps: u64,
    promote_after: u32,
    promote_limit: u32,
    runs: Vec<Run>,
    restart: restart::Report,
    /// How many times more bytes a read cost with whole files than with chunks, for keys by Zipf.
    zipf_bytes_whole_files_over_chunks: f64,
    /// The same with ForSt's guards.
    zipf_bytes_guarded_whole_files_over_chunks: f64,
    /// How many times longer a read took without a cache than with chunks, for uniform keys.
    uniform_time_no_cache_over_chunks: f64,
}

#[derive(Debug, Serialize)]
struct Run {
    keys: &'static str,
    cache: &'static str,
    /// Fewer than were asked for where the time was up.
    reads: u64,
    seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the second half of the reads.
    warm_p50_ms: f64,
    warm_p99_ms: f64,
    /// Reads of files that the cache answered, of all that came to it.
    hit_ratio: f64,
    remote_requests: u64,
    remote_bytes: u64,
    bytes_per_read: f64,
    /// Whole files fetched.
    loads: u64,
    evictions: u64,
    /// What the cache took when the reads ended.
    cache_bytes: u64,
    windows: Vec<Window>,
}

/// What had been done when a tenth of the reads had ended: sums since the begin.
#[derive(Debug, Clone, Copy, Serialize)]
struct Window {
    until_ms: f64,
    reads: u64,
    remote_requests: u64,
    remote_bytes: u64,
}

/// Builds the state where it is missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.state_mib.div_ceil(64),
        value_bytes: VALUE_BYTES,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let work_dir = super::work_dir(args.work_dir.as_ref())?;
    let runtime = IoRuntime::new(2)?;
    let uri = link::file_uri(&work_dir.join("remote"))?;
    let store = link::open_store(&uri, &runtime)?;
    let files = shape::ensure(&shape, &store, &runtime, &work_dir.join("build"), format)?;
    let bench = Bench {
        args,
        shape,
        dir: work_dir.join("local"),
        runtime,
        store,
    };
    if args.killed {
        return restart::be_killed(&bench);
    }
    let mut runs = Vec::new();
    for distribution in [Distribution::Zipf, Distribution::Uniform] {
        let keys = distribution.trace(shape.values(), args.reads);
        for kind in [Kind::None, Kind::WholeFile, Kind::ForSt, Kind::Chunks] {
            runs.push(bench.run(kind, distribution, &keys)?);
        }
    }
    let ratio = |from: &dyn Fn(&Run) -> f64, keys, over: Kind| {
        let of = |kind: Kind| {
            let run = runs
                .iter()
                .find(|run| run.keys == keys && run.cache == kind.name());
            run.map_or(0.0, from)
        };
        let chunks = of(Kind::Chunks).max(f64::MIN_POSITIVE);
        (of(over) / chunks * 100.0).round() / 100.0
    };
    let zipf = Distribution::Zipf.name();
    let bytes: &dyn Fn(&Run) -> f64 = &|run| run.bytes_per_read;
    let time: &dyn Fn(&Run) -> f64 = &|run| run.seconds / run.reads.max(1) as f64;
    let report = Report {
        state_bytes: shape.values() * VALUE_BYTES,
        files,
        budget_bytes: args.budget_mib << 20,
        block_cache_bytes: args.block_cache_mib << 20,
        reads: args.reads,
        threads: args.threads,
        latency_ms: args.latency_ms,
        bandwidth_mbps: args.bandwidth_mbps,
        promote_after: args.promote_after,
        promote_limit: args.promote_limit,
        zipf_bytes_whole_files_over_chunks: ratio(bytes, zipf, Kind::WholeFile),
        zipf_bytes_guarded_whole_files_over_chunks: ratio(bytes, zipf, Kind::ForSt),
        uniform_time_no_cache_over_chunks: ratio(time, Distribution::Uniform.name(), Kind::None),
        restart: restart::run(&bench)?,
        runs,
    };
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
}

struct Bench<'a> {
    args: &'a Args,
    shape: Shape,
    dir: PathBuf,
    runtime: IoRuntime,
    store: Arc<dyn RemoteStore>,
}

impl Bench<'_> {
    fn run(&self, kind: Kind, distribution: Distribution, keys: &[u64]) -> Result<Run> {
        probe::remove_dir(&self.dir)?;
        let link = Link {
            latency_ms: self.args.latency_ms,
            bandwidth_mbps: Some(self.args.bandwidth_mbps),
        };
        // Anew for each run: what is still under way on the old one is no concern of the next.
        let counted = CountingStore::new(link.slow_down(self.store.clone())?);
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
        let backend = StateBackend::builder(&self.dir)
            .remote_store(store)
            .io_runtime(self.runtime.clone())
            .job(self.shape.job())
            .load_policy(LoadPolicy::OnDemand)
            .cache_reads(kind == Kind::Chunks)
            .cache_bytes(self.args.budget_mib << 20)
            .rocksdb(RocksDbOptions {
                block_cache_bytes: (self.args.block_cache_mib << 20) as usize,
                ..self.shape.rocksdb()
            })
            .open()?;
        let read = self.read(&backend, keys, &counted)?;
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
        probe::remove_dir(&self.dir)?;
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
            windows: read.windows,
        })
    }

    fn whole_files(&self, store: &CountingStore, guards: Option<Guards>) -> Result<WholeFileStore> {
        let snapshots = SnapshotStore::new(self.store.clone(), self.runtime.clone());
        let Some((_, metadata)) = snapshots.list(&self.shape.job())?.pop() else {
            return Err(Error::Wrong("the snapshot is gone".into()));
        };
        let mut files = Vec::new();
        for file in metadata?.files {
            files.push((Key::new(file.key)?, file.len));
        }
        let policy = Policy {
            budget_bytes: self.args.budget_mib << 20,
            accesses: self.args.promote_after,
            guards,
        };
        Ok(WholeFileStore::new(
            Arc::new(store.clone()),
            &self.runtime,
            policy,
            files,
        ))
    }

    /// Reads all keys by several threads; each value is checked.
    fn read(&self, backend: &StateBackend, keys: &[u64], store: &CountingStore) -> Result<Read> {
        let values = shape::table(backend)?;
        let before = store.snapshot();
        let (next, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let windows = Mutex::new(Vec::new());
        let all = keys.len() as u64;
        let begun = Instant::now();
        let most = Duration::from_secs(self.args.max_seconds);
        let work = || -> Result<Vec<(u64, Duration)>> {
            let mut latencies = Vec::new();
            loop {
                let i = next.fetch_add(1, Relaxed);
                let Some(key) = keys.get(i as usize).filter(|_| begun.elapsed() < most) else {
                    return Ok(latencies);
                };
                let reading = Instant::now();
                read_one(&values, *key, &self.shape)?;
                latencies.push((i, reading.elapsed()));
                let n = ended.fetch_add(1, Relaxed) + 1;
                if n * WINDOWS / all != (n - 1) * WINDOWS / all {
                    let counts = store.snapshot().since(&before);
                    let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
                    windows.push(Window {
                        until_ms: ms(begun.elapsed()),
                        reads: n,
                        remote_requests: counts.total(),
                        remote_bytes: counts.bytes_in,
                    });
                }
            }
        };
        let latencies = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.args.threads).map(|_| scope.spawn(work)).collect();
            let results = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect::<Result<Vec<_>>>()
        })?
        .concat();
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
        windows.sort_unstable_by_key(|window| window.reads);
        Ok(Read {
            took,
            counts,
            latencies: sorted(0),
            warm_latencies: sorted(done / 2),
            windows,
        })
    }
}

struct Read {
    took: Duration,
    counts: RequestCounts,
    latencies: Vec<Duration>,
    warm_latencies: Vec<Duration>,
    windows: Vec<Window>,
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} in {} files, {} for a cache; {} reads by {} threads, {} ms a request, {} Mbit/s\n\n",
            human_bytes(self.state_bytes),
            self.files,
            human_bytes(self.budget_bytes),
            self.reads,
            self.threads,
            self.latency_ms,
            self.bandwidth_mbps,
        );
        let mut table = Table::new([
            "keys",
            "cache",
            "reads",
            "time",
            "p50",
            "p99",
            "warm p50",
            "warm p99",
            "hits",
            "requests",
            "bytes",
            "bytes a read",
        ]);
        for run in &self.runs {
            table.row([
                run.keys.to_owned(),
                run.cache.to_owned(),
                run.reads.to_string(),
                human_ms(run.seconds * 1e3),
                human_ms(run.p50_ms),
                human_ms(run.p99_ms),
                human_ms(run.warm_p50_ms),
                human_ms(run.warm_p99_ms),
                format!("{:.1} %", run.hit_ratio * 100.0),
                run.remote_requests.to_string(),
                human_bytes(run.remote_bytes),
                human_bytes(run.bytes_per_read as u64),
            ]);
        }
        text += &table.text();
        text += &format!(
            "\n\na read by Zipf costs {} times the bytes of chunks with whole files, {} times with guarded ones; a uniform one takes {} times as long without a cache",
            self.zipf_bytes_whole_files_over_chunks,
            self.zipf_bytes_guarded_whole_files_over_chunks,
            self.uniform_time_no_cache_over_chunks,
        );
        text += "\n";
        text += &self.restart.text();
        text
    }
}
