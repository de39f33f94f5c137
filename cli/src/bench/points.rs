//! `lazurite bench points`: cold point reads, as many at once as there are threads or places in a batch. What bounds them is
//! the round trip (so many at once in each) and the link (so many bytes a read).

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, executor::block_on, stream};
use lazurite::RocksDbOptions;
use serde::Serialize;

use super::{
    reads::{check, percentile, read_one},
    scene::{Scene, by_threads},
    shape::{self, Noise, Shape, Values},
};
use crate::{
    error::Result,
    link::Link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
};

/// Bytes of a value.
const VALUE_BYTES: u64 = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Table files to spread it over.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// Values read in each run.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    reads: u64,
    /// Threads that read, or reads of async code that are under way at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// What every request waits, in milliseconds.
    #[arg(long, value_name = "L", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    latency_ms: u64,
    /// Megabits per second that all requests share. 0: no limit.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    bandwidth_mbps: u64,
    /// Where the state and its snapshot are kept for the next run. Default: ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// How the values are asked for.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `get`, by threads.
    Threads,
    /// `get_async`, so many at once, by one thread.
    Async,
    /// One `multi_get_async` of all of them, by one thread.
    Batch,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Threads => "get",
            Way::Async => "get_async",
            Way::Batch => "multi_get_async",
        }
    }
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    state_bytes: u64,
    files: usize,
    reads: u64,
    threads: u64,
    latency_ms: u64,
    bandwidth_mbps: u64,
    /// Requests: `threads` in each round trip.
    round_trip_limit_per_second: f64,
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Run {
    way: &'static str,
    seconds: f64,
    reads_per_second: f64,
    /// Of one read; of a batch that is all of it.
    p50_ms: f64,
    p99_ms: f64,
    requests_per_read: f64,
    bytes_per_read: f64,
    /// Requests a second, as a share of `round_trip_limit_per_second`.
    share_of_round_trip_limit: f64,
    /// Bytes a second, as a share of the link's; `None` where it has no limit.
    share_of_link: Option<f64>,
    /// The higher one of the two: of the limit that was met.
    share_of_limit: f64,
}

/// Builds the state where it is missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.files,
        value_bytes: VALUE_BYTES,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let scene = Scene::open(args.work_dir.as_ref(), None)?;
    let files = scene.ensure(&shape, format)?;
    let bench = Bench { args, shape, scene };
    let ways = [Way::Threads, Way::Async, Way::Batch];
    let report = Report {
        state_bytes: shape.values() * VALUE_BYTES,
        files,
        reads: args.reads,
        threads: args.threads,
        latency_ms: args.latency_ms,
        bandwidth_mbps: args.bandwidth_mbps,
        round_trip_limit_per_second: bench.round_trip_limit(),
        runs: ways
            .map(|way| bench.run(way))
            .into_iter()
            .collect::<Result<_>>()?,
    };
    output::report(&report, format, Report::text)
}

struct Bench<'a> {
    args: &'a Args,
    shape: Shape,
    scene: Scene,
}

impl Bench<'_> {
    fn round_trip_limit(&self) -> f64 {
        self.args.threads as f64 * 1e3 / self.args.latency_ms as f64
    }

    /// Opens on an empty disk, reads, and forgets it all.
    fn run(&self, way: Way) -> Result<Run> {
        self.scene.clear()?;
        let bandwidth_mbps = Some(self.args.bandwidth_mbps).filter(|mbps| *mbps > 0);
        let link = Link {
            latency_ms: self.args.latency_ms,
            bandwidth_mbps,
        };
        let counted = self.scene.behind(link)?;
        let backend = self
            .scene
            .builder(self.shape.job(), Arc::new(counted.clone()))
            .rocksdb(RocksDbOptions {
                cold_read_threads: self.args.threads as usize,
                ..self.shape.rocksdb()
            })
            .open()?;
        let values = shape::table(&backend)?;
        let mut noise = Noise::new(1);
        let keys: Vec<u64> = (0..self.args.reads)
            .map(|_| noise.next() % self.shape.values())
            .collect();
        let before = counted.snapshot();
        let begun = Instant::now();
        let mut latencies = match way {
            Way::Threads => self.by_threads(&values, &keys)?,
            Way::Async => self.by_futures(&values, &keys)?,
            Way::Batch => self.by_batch(&values, &keys)?,
        };
        let seconds = begun.elapsed().as_secs_f64();
        let counts = counted.snapshot().since(&before);
        drop((values, backend));
        self.scene.clear()?;
        latencies.sort_unstable();
        let reads = keys.len() as f64;
        let (requests, bytes) = (counts.total() as f64, counts.bytes_in as f64);
        let of_round_trips = requests / seconds / self.round_trip_limit();
        let of_link = bandwidth_mbps.map(|mbps| bytes / seconds / (mbps as f64 * 1e6 / 8.0));
        Ok(Run {
            way: way.name(),
            seconds,
            reads_per_second: reads / seconds,
            p50_ms: ms(percentile(&latencies, 50)),
            p99_ms: ms(percentile(&latencies, 99)),
            requests_per_read: requests / reads,
            bytes_per_read: bytes / reads,
            share_of_round_trip_limit: of_round_trips,
            share_of_link: of_link,
            share_of_limit: of_link.map_or(of_round_trips, |link| link.max(of_round_trips)),
        })
    }

    fn by_threads(&self, values: &Values, keys: &[u64]) -> Result<Vec<Duration>> {
        let next = AtomicU64::new(0);
        let work = |_| -> Result<Vec<Duration>> {
            let mut latencies = Vec::new();
            while let Some(key) = keys.get(next.fetch_add(1, Relaxed) as usize) {
                let reading = Instant::now();
                read_one(values, *key, &self.shape)?;
                latencies.push(reading.elapsed());
            }
            Ok(latencies)
        };
        Ok(by_threads(self.args.threads, work)?.concat())
    }

    fn by_futures(&self, values: &Values, keys: &[u64]) -> Result<Vec<Duration>> {
        let reads = stream::iter(keys).map(|key| async move {
            let reading = Instant::now();
            let found = values.get_async(key).await?;
            check(*key, found.as_deref(), &self.shape)?;
            Ok(reading.elapsed())
        });
        block_on(
            reads
                .buffer_unordered(self.args.threads as usize)
                .try_collect(),
        )
    }

    fn by_batch(&self, values: &Values, keys: &[u64]) -> Result<Vec<Duration>> {
        let reading = Instant::now();
        let found = block_on(values.multi_get_async(keys))?;
        for (key, value) in keys.iter().zip(&found) {
            check(*key, value.as_deref(), &self.shape)?;
        }
        Ok(vec![reading.elapsed()])
    }
}

impl Report {
    fn text(&self) -> String {
        let text = format!(
            "{} in {} files; {} reads, {} at once; {} ms a request, {}\n\n",
            human_bytes(self.state_bytes),
            self.files,
            self.reads,
            self.threads,
            self.latency_ms,
            match self.bandwidth_mbps {
                0 => "no limit of bandwidth".to_owned(),
                mbps => format!("{mbps} Mbit/s"),
            },
        );
        let mut table = Table::new([
            "by",
            "reads/s",
            "p50",
            "p99",
            "requests a read",
            "bytes a read",
            "of the round trips' limit",
            "of the link",
        ]);
        for run in &self.runs {
            table.row([
                run.way.to_owned(),
                format!("{:.0}", run.reads_per_second),
                human_ms(run.p50_ms),
                human_ms(run.p99_ms),
                format!("{:.3}", run.requests_per_read),
                human_bytes(run.bytes_per_read as u64),
                format!("{:.1} %", run.share_of_round_trip_limit * 100.0),
                run.share_of_link
                    .map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
            ]);
        }
        text + &table.text()
    }
}
