//! `lazurite bench cache`: point reads of remote state that is larger than what the local disk may take, against two
//! baselines in the same run: whole files, fetched at the sixth access, and no cache.
//!
//! All of them read the same keys, through the same engine, of the same snapshot, over the same simulated link, with the
//! same small block cache. Keys by Zipf are read twice: once scattered over all files, where whole files are at their worst,
//! and once [side by side](Bench::in_file_order), where they are at their best.
//!
//! And the first reads after a restore on a lost disk, with and without what the snapshot says of what is hot. At last the
//! process that reads by chunks is [killed](restart), and another one goes on.

mod kept;
mod report;
mod restart;
mod restore;
mod runs;
mod whole_file;

use std::{path::PathBuf, sync::Arc};

use lazurite::{RocksDbOptions, StateBackendBuilder};
use lazurite_env::remote::RemoteStore;
use report::{Report, Run};

use super::{
    scene::Scene,
    shape::{self, Shape},
    trace::Distribution,
};
use crate::{
    error::{Error, Result},
    link::Link,
    output::{self, Format},
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
    /// Values read before the snapshot that the restores with heat begin from.
    #[arg(long, value_name = "N", default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(100..))]
    heat_reads: u64,
    /// Values read after each restore.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(100..))]
    first_reads: u64,
    /// How many of these a second: what a job reads does not depend on how quickly it could.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    first_reads_per_second: u64,
    /// Measures only the first reads after a restore.
    #[arg(long)]
    restore_only: bool,
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

/// Builds the state where it is missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.state_mib.div_ceil(64),
        value_bytes: VALUE_BYTES,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let scene = Scene::open(args.work_dir.as_ref(), None)?;
    let files = scene.ensure(&shape, format)?;
    let bench = Bench { args, shape, scene };
    if args.killed {
        return restart::be_killed(&bench);
    }
    let mut runs = Vec::new();
    let distributions: &[Distribution] = match args.restore_only {
        true => &[],
        false => &[
            Distribution::Zipf,
            Distribution::Clustered,
            Distribution::Uniform,
        ],
    };
    for &distribution in distributions {
        let mut keys = distribution.trace(shape.values(), args.reads);
        if distribution == Distribution::Clustered {
            let order = bench.in_file_order()?;
            keys.iter_mut().for_each(|key| *key = order[*key as usize]);
        }
        for kind in [Kind::None, Kind::WholeFile, Kind::ForSt, Kind::Chunks] {
            runs.push(bench.run(kind, distribution, &keys)?);
        }
    }
    let restores = bench.restores()?;
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
    let [zipf, clustered] = [Distribution::Zipf, Distribution::Clustered].map(Distribution::name);
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
        clustered_bytes_whole_files_over_chunks: ratio(bytes, clustered, Kind::WholeFile),
        clustered_bytes_guarded_whole_files_over_chunks: ratio(bytes, clustered, Kind::ForSt),
        clustered_time_whole_files_over_chunks: ratio(time, clustered, Kind::WholeFile),
        uniform_time_no_cache_over_chunks: ratio(time, Distribution::Uniform.name(), Kind::None),
        restart: match args.restore_only {
            true => None,
            false => Some(restart::run(&bench)?),
        },
        runs,
        restores,
    };
    output::report(&report, format, Report::text)
}

struct Bench<'a> {
    args: &'a Args,
    shape: Shape,
    scene: Scene,
}

impl Bench<'_> {
    fn link(&self) -> Link {
        Link {
            latency_ms: self.args.latency_ms,
            bandwidth_mbps: Some(self.args.bandwidth_mbps),
        }
    }

    /// All keys, as they lie one after another in the files: by key group first, so not as they count.
    fn in_file_order(&self) -> Result<Vec<u64>> {
        self.scene.clear()?;
        let builder = self.builder(self.scene.store.clone());
        let backend = builder.cache_reads(false).open()?;
        let mut entries = shape::table(&backend)?.iter()?;
        let mut keys = Vec::with_capacity(self.shape.values() as usize);
        while let Some(entry) = entries.next_entry() {
            keys.push(entry?.key()?);
        }
        drop((entries, backend));
        self.scene.clear()?;
        if keys.len() as u64 != self.shape.values() {
            return Err(Error::Wrong(format!("{} values were found", keys.len())));
        }
        Ok(keys)
    }

    /// With the small block cache that all have.
    fn builder(&self, store: Arc<dyn RemoteStore>) -> StateBackendBuilder {
        let builder = self.scene.builder(self.shape.job(), store);
        builder.rocksdb(RocksDbOptions {
            block_cache_bytes: (self.args.block_cache_mib << 20) as usize,
            ..self.shape.rocksdb()
        })
    }
}
