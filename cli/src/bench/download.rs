//! `lazurite bench download`: what the background download does to the reads in front of it, and what it makes of the link.
//!
//! Each round opens the same snapshot twice on an empty disk: once with nothing but the reads, once with the download
//! behind them until every file is local. A read that takes less than one request's latency did not go to the store, so
//! it is left out: as files become local there are ever more of these, and they would hide what the others wait.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use lazurite::{DownloadOptions, RocksDbOptions, StateBackend};
use serde::Serialize;

use super::{
    reads::{percentile, read_one},
    scene::{Scene, by_threads_while},
    shape::{self, Noise, Shape},
};
use crate::{
    error::{Error, Result},
    link::Link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
};

/// Bytes of a value.
const VALUE_BYTES: u64 = 1024;
/// How long a download may take.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// How often it is looked whether the download has ended.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Reads begin so long before they are counted: connections and threads are warm then.
const WARM_UP: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Table files to spread the state over.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// Threads that read, one value after another each.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// What every request waits, in milliseconds.
    #[arg(long, value_name = "L", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    latency_ms: u64,
    /// Megabits per second that all requests share.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: u64,
    /// Bytes of one request of the download, in KiB.
    #[arg(long, value_name = "K", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    request_kib: u64,
    /// Megabits per second that the download may take. Default: no limit.
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    download_mbps: Option<u64>,
    /// How long reads go on without the download, in seconds.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    alone_seconds: u64,
    /// How often both are measured, in turn; latencies of all rounds are taken together.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Where the state and its snapshot are kept for the next run. Default: ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    state_bytes: u64,
    files: usize,
    threads: u64,
    latency_ms: u64,
    bandwidth_mbps: u64,
    request_bytes: u64,
    download_mbps: Option<u64>,
    /// Reads of the store without the download.
    alone: Reads,
    /// Reads of the store beside it.
    beside: Reads,
    /// How many times longer they took beside it.
    p50_ratio: f64,
    p99_ratio: f64,
    downloads: Vec<Download>,
    /// Of all downloads together: what they brought over what the link carries in their time.
    download_share: f64,
    /// The same, with the bytes of the reads.
    link_share: f64,
}

#[derive(Debug, Serialize)]
struct Reads {
    /// All reads.
    all: usize,
    /// Those that went to the store; the latencies are theirs.
    remote: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Download {
    seconds: f64,
    bytes: u64,
    requests: u64,
    /// What reads brought meanwhile.
    read_bytes: u64,
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
    let (mut alone, mut beside, mut downloads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        alone.extend(bench.alone()?);
        let (latencies, download) = bench.beside()?;
        beside.extend(latencies);
        downloads.push(download);
    }
    let (alone, beside) = (bench.reads(alone), bench.reads(beside));
    let carried = args.bandwidth_mbps as f64 * 1e6 / 8.0;
    let share = |bytes: &dyn Fn(&Download) -> u64| {
        let seconds: f64 = downloads.iter().map(|d| d.seconds).sum();
        rounded(downloads.iter().map(bytes).sum::<u64>() as f64 / (carried * seconds))
    };
    let report = Report {
        state_bytes: shape.values() * VALUE_BYTES,
        files,
        threads: args.threads,
        latency_ms: args.latency_ms,
        bandwidth_mbps: args.bandwidth_mbps,
        request_bytes: args.request_kib << 10,
        download_mbps: args.download_mbps,
        p50_ratio: rounded(beside.p50_ms / alone.p50_ms),
        p99_ratio: rounded(beside.p99_ms / alone.p99_ms),
        download_share: share(&|d| d.bytes),
        link_share: share(&|d| d.bytes + d.read_bytes),
        alone,
        beside,
        downloads,
    };
    output::report(&report, format, Report::text)
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

struct Bench<'a> {
    args: &'a Args,
    shape: Shape,
    scene: Scene,
}

impl Bench<'_> {
    /// A backend on an empty disk, behind a link of its own, of which nothing downloads yet.
    fn open(&self) -> Result<StateBackend> {
        self.scene.clear()?;
        let link = Link {
            latency_ms: self.args.latency_ms,
            bandwidth_mbps: Some(self.args.bandwidth_mbps),
        };
        let store = link.slow_down(self.scene.store.clone())?;
        let mut builder = self.scene.builder(self.shape.job(), store);
        if let Some(mbps) = self.args.download_mbps {
            builder = builder.transfer_bytes_per_second(mbps * 1_000_000 / 8);
        }
        Ok(builder
            .download(DownloadOptions {
                chunk_bytes: (self.args.request_kib << 10) as usize,
                ..DownloadOptions::default()
            })
            .rocksdb(RocksDbOptions {
                // What it answers says nothing about the link.
                block_cache_bytes: 8 << 20,
                ..self.shape.rocksdb()
            })
            .open()?)
    }

    fn alone(&self) -> Result<Vec<Duration>> {
        let backend = self.open()?;
        let for_how_long = WARM_UP + Duration::from_secs(self.args.alone_seconds);
        let begun = Instant::now();
        let latencies = self.read_while(&backend, || Ok(begun.elapsed() < for_how_long))?;
        drop(backend);
        self.scene.clear()?;
        Ok(latencies)
    }

    fn beside(&self) -> Result<(Vec<Duration>, Download)> {
        let backend = self.open()?;
        let begun = Instant::now();
        let mut started: Option<(Instant, lazurite::TierStats)> = None;
        let mut download = None;
        let latencies = self.read_while(&backend, || {
            match started {
                None if begun.elapsed() < WARM_UP => {}
                None => {
                    started = Some((Instant::now(), backend.tier()));
                    backend.download().start()?;
                }
                Some((at, before)) => {
                    let tier = backend.tier();
                    if tier.remote_files == 0 {
                        download = Some(Download {
                            seconds: at.elapsed().as_secs_f64(),
                            bytes: tier.download_bytes,
                            requests: tier.download_requests,
                            read_bytes: tier.remote_bytes - before.remote_bytes,
                        });
                        return Ok(false);
                    }
                    if at.elapsed() > DOWNLOAD_TIMEOUT {
                        return Err(Error::Wrong("the download does not end".into()));
                    }
                }
            }
            Ok(true)
        })?;
        drop(backend);
        self.scene.clear()?;
        let download = download.ok_or_else(|| Error::Wrong("nothing was downloaded".into()))?;
        Ok((latencies, download))
    }

    /// Reads values at random while `go_on` says so; each is checked. Gives the latencies, those of the warm-up left out.
    fn read_while(
        &self,
        backend: &StateBackend,
        mut go_on: impl FnMut() -> Result<bool>,
    ) -> Result<Vec<Duration>> {
        let values = shape::table(backend)?;
        let begun = Instant::now();
        let done = AtomicBool::new(false);
        let work = |thread: u64| -> Result<Vec<Duration>> {
            let mut keys = Noise::new(thread << 32);
            let mut latencies = Vec::new();
            while !done.load(Relaxed) {
                let key = keys.next() % self.shape.values();
                let reading = Instant::now();
                read_one(&values, key, &self.shape)?;
                if begun.elapsed() > WARM_UP {
                    latencies.push(reading.elapsed());
                }
            }
            Ok(latencies)
        };
        let latencies = by_threads_while(self.args.threads, work, || {
            let asked = loop {
                std::thread::sleep(ASK_EVERY);
                match go_on() {
                    Ok(true) => {}
                    ended => break ended,
                }
            };
            done.store(true, Relaxed);
            asked.map(|_| ())
        })?;
        Ok(latencies.concat())
    }

    fn reads(&self, latencies: Vec<Duration>) -> Reads {
        let all = latencies.len();
        let mut remote = latencies;
        remote.retain(|latency| *latency >= Duration::from_millis(self.args.latency_ms));
        remote.sort_unstable();
        Reads {
            all,
            remote: remote.len(),
            p50_ms: ms(percentile(&remote, 50)),
            p90_ms: ms(percentile(&remote, 90)),
            p99_ms: ms(percentile(&remote, 99)),
            max_ms: ms(percentile(&remote, 100)),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} in {} files; {} threads read, {} ms a request, {} Mbit/s\n\n",
            human_bytes(self.state_bytes),
            self.files,
            self.threads,
            self.latency_ms,
            self.bandwidth_mbps,
        );
        let mut table = Table::new([
            "reads",
            "all",
            "of the store",
            "p50",
            "p90",
            "p99",
            "longest",
        ]);
        for (name, reads) in [("alone", &self.alone), ("beside", &self.beside)] {
            table.row([
                name.to_owned(),
                reads.all.to_string(),
                reads.remote.to_string(),
                human_ms(reads.p50_ms),
                human_ms(reads.p90_ms),
                human_ms(reads.p99_ms),
                human_ms(reads.max_ms),
            ]);
        }
        text += &table.text();
        text += &format!(
            "\n\nbeside the download a read of the store takes {} times as long (p99: {} times)\n",
            self.p50_ratio, self.p99_ratio,
        );
        for download in &self.downloads {
            text += &format!(
                "download: {} in {}, {} requests; reads brought {} meanwhile\n",
                human_bytes(download.bytes),
                human_ms(download.seconds * 1e3),
                download.requests,
                human_bytes(download.read_bytes),
            );
        }
        text += &format!(
            "the download has {:.1} % of the link, with the reads {:.1} %",
            self.download_share * 100.0,
            self.link_share * 100.0,
        );
        text
    }
}
