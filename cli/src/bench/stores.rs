//! `lazurite bench stores`: what a snapshot and a restore cost on each of some stores, measured one after another in one run.
//!
//! Each store is written to under a job of its own, which is removed before and after.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lazurite_env::IoRuntime;
use serde::Serialize;

use super::{
    reads, scene,
    shape::{self, Noise, Shape},
};
use crate::{
    Load,
    error::Result,
    link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
    probe::{self, ColdStart, Figures},
};

const JOB: &str = "bench-stores";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A store to measure; give it once for each.
    #[arg(long = "remote", value_name = "URI", required = true)]
    remotes: Vec<String>,
    /// Table files to spread the state over; what RocksDB makes of it is reported.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// Bytes of one value.
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    value_bytes: u64,
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Cold reads to measure, each of another value.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    reads: u64,
    /// What the link to the stores carries, in megabits per second, to say which share of it was used.
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    link_mbps: Option<u64>,
    /// In a directory of its own in this one the state is written. Default: the system's for temporary files.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    state_bytes: u64,
    value_bytes: u64,
    link_mbps: Option<u64>,
    stores: Vec<StoreReport>,
}

#[derive(Debug, Serialize)]
struct StoreReport {
    uri: String,
    files: u64,
    snapshot: Transfer,
    /// With nothing downloaded behind it, so that the reads stay cold.
    lazy: Figures,
    cold_reads: ColdReads,
    download: Transfer,
    eager: Figures,
    /// How many times longer eager took than lazy until the first read.
    eager_over_lazy: f64,
}

/// Bytes that went over the link.
#[derive(Debug, Serialize)]
struct Transfer {
    bytes: u64,
    ms: f64,
    mib_per_second: f64,
    /// Of what the link carries.
    link_share: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ColdReads {
    reads: u64,
    requests: u64,
    bytes: u64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Measures one store after the other.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.files,
        value_bytes: args.value_bytes,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let parent = args.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let work_dir = parent.join(format!("lazurite-bench-stores-{}", std::process::id()));
    let runtime = IoRuntime::new(2)?;
    let mut stores = Vec::new();
    for uri in &args.remotes {
        stores.push(measure(args, &shape, uri, &runtime, &work_dir, format)?);
    }
    probe::remove_dir(&work_dir)?;
    let report = Report {
        state_bytes: shape.values() * shape.value_bytes,
        value_bytes: shape.value_bytes,
        link_mbps: args.link_mbps,
        stores,
    };
    output::report(&report, format, Report::text)
}

fn measure(
    args: &Args,
    shape: &Shape,
    uri: &str,
    runtime: &IoRuntime,
    work_dir: &Path,
    format: Format,
) -> Result<StoreReport> {
    let store = link::open_store(uri, runtime)?;
    let transfer = |bytes, took| Transfer::new(bytes, took, args.link_mbps);
    scene::remove(&store, runtime, JOB)?;
    let built = shape::build(
        shape,
        JOB,
        store.clone(),
        runtime.clone(),
        &work_dir.join("build"),
        format,
    )?;
    let dir = work_dir.join("local");
    let start = |load| {
        ColdStart {
            store: store.clone(),
            runtime,
            dir: &dir,
            job: JOB,
            load,
            rocksdb: shape.rocksdb(),
            part: None,
        }
        .run(|backend| reads::read_one(&shape::table(backend)?, shape.values() / 2, shape))
    };

    let lazy = start(Load::OnDemand)?;
    let cold_reads = cold_reads(&lazy.backend, shape, args.reads)?;
    drop(lazy.backend);

    let downloading = start(Load::OnDemand)?;
    let begun = Instant::now();
    downloading.backend.wait_until_local()?;
    let took = begun.elapsed();
    let tier = downloading.backend.tier();
    drop(downloading.backend);

    let eager = start(Load::Eager)?.figures;
    probe::remove_dir(&dir)?;
    scene::remove(&store, runtime, JOB)?;
    Ok(StoreReport {
        uri: store.uri().to_owned(),
        files: built.uploaded_files,
        snapshot: transfer(built.uploaded_bytes, built.async_),
        lazy: lazy.figures,
        cold_reads,
        download: transfer(tier.download_bytes, took),
        eager,
        eager_over_lazy: probe::times(eager.first_read_ms, lazy.figures.first_read_ms),
    })
}

/// Reads as many values at random, one after another, and checks each.
fn cold_reads(backend: &lazurite::StateBackend, shape: &Shape, reads: u64) -> Result<ColdReads> {
    let values = shape::table(backend)?;
    let mut keys = Noise::new(1);
    let before = backend.tier();
    let mut latencies = Vec::new();
    for _ in 0..reads {
        let key = keys.next() % shape.values();
        let reading = Instant::now();
        reads::read_one(&values, key, shape)?;
        latencies.push(reading.elapsed());
    }
    let after = backend.tier();
    latencies.sort_unstable();
    Ok(ColdReads {
        reads,
        requests: after.remote_requests - before.remote_requests,
        bytes: after.remote_bytes - before.remote_bytes,
        p50_ms: ms(reads::percentile(&latencies, 50)),
        p99_ms: ms(reads::percentile(&latencies, 99)),
    })
}

impl Transfer {
    fn new(bytes: u64, took: Duration, link_mbps: Option<u64>) -> Self {
        let seconds = took.as_secs_f64().max(1e-6);
        let round = |x: f64| (x * 1e3).round() / 1e3;
        Transfer {
            bytes,
            ms: ms(took),
            mib_per_second: round(bytes as f64 / seconds / f64::from(1 << 20)),
            link_share: link_mbps.map(|mbps| round(bytes as f64 * 8e-6 / seconds / mbps as f64)),
        }
    }

    fn text(&self) -> String {
        let share = self
            .link_share
            .map(|share| format!(", {:.0} % of the link", share * 100.0));
        format!(
            "{:.1} MiB/s{}",
            self.mib_per_second,
            share.unwrap_or_default()
        )
    }
}

impl Report {
    fn text(&self) -> String {
        let mut figures = Table::new([
            "store",
            "lazy first read",
            "requests",
            "eager first read",
            "eager/lazy",
            "cold get p50",
            "p99",
            "requests a get",
        ]);
        let mut transfers = Table::new(["store", "snapshot upload", "background download"]);
        for s in &self.stores {
            figures.row([
                s.uri.clone(),
                human_ms(s.lazy.first_read_ms),
                s.lazy.requests_before_first_read.to_string(),
                human_ms(s.eager.first_read_ms),
                s.eager_over_lazy.to_string(),
                human_ms(s.cold_reads.p50_ms),
                human_ms(s.cold_reads.p99_ms),
                format!(
                    "{:.2}",
                    s.cold_reads.requests as f64 / s.cold_reads.reads as f64
                ),
            ]);
            transfers.row([s.uri.clone(), s.snapshot.text(), s.download.text()]);
        }
        let files = self.stores.first().map_or(0, |s| s.files);
        format!(
            "{} in {files} files\n\n{}\n\n{}",
            human_bytes(self.state_bytes),
            figures.text(),
            transfers.text()
        )
    }
}
