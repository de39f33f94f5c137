//! `lazurite bench cold-start`: open and first read on a machine whose local disk is empty, lazy and eager in one run.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use super::{
    reads::{self, Timeline, Window},
    scene::Scene,
    shape::{self, Shape},
};
use crate::{
    Load,
    error::Result,
    link::Link,
    output::{self, Format, Table, human_bytes, human_ms},
    probe::{self, ColdStart, Figures, Started},
};

/// How long reads go on where not everything ever becomes local.
const ON_DEMAND_READS: Duration = Duration::from_secs(10);
/// How long a download may take.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Table files to spread the state over; what RocksDB makes of it is reported.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// Bytes of one value.
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    value_bytes: u64,
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// What every request waits, in milliseconds. Default 10, or none with --remote.
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: Option<u64>,
    /// Megabits per second that all requests share. Default 1000, or unlimited with --remote.
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: Option<u64>,
    /// Measures only this policy. Default: lazy, then eager.
    #[arg(long, value_enum)]
    policy: Option<Load>,
    /// Where the snapshot is. Default: a directory in --work-dir.
    #[arg(long, value_name = "URI")]
    remote: Option<String>,
    /// Where the state and, without --remote, its snapshot are kept for the next run. Default:
    /// ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

impl Args {
    fn link(&self) -> Option<Link> {
        match (&self.remote, self.latency_ms, self.bandwidth_mbps) {
            (Some(_), None, None) => None,
            (Some(_), latency, bandwidth_mbps) => Some(Link {
                latency_ms: latency.unwrap_or(0),
                bandwidth_mbps,
            }),
            (None, latency, bandwidth) => Some(Link {
                latency_ms: latency.unwrap_or(10),
                bandwidth_mbps: Some(bandwidth.unwrap_or(1000)),
            }),
        }
    }
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    job: String,
    state_bytes: u64,
    value_bytes: u64,
    /// As RocksDB laid the state out.
    files: usize,
    latency_ms: Option<u64>,
    bandwidth_mbps: Option<u64>,
    runs: Vec<Run>,
    /// How many times longer eager took than lazy until the first read; only where both were measured.
    eager_over_lazy: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Run {
    policy: &'static str,
    #[serde(flatten)]
    figures: Figures,
    /// When the last file became local; `None` where not all did.
    local_ms: Option<f64>,
    windows: Vec<Window>,
}

/// Builds the state where it is missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.files,
        value_bytes: args.value_bytes,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let scene = Scene::open(args.work_dir.as_ref(), args.remote.as_ref())?;
    let files = scene.ensure(&shape, format)?;
    let link = args.link();
    let policies = match args.policy {
        Some(policy) => vec![policy],
        None => vec![Load::Lazy, Load::Eager],
    };
    let mut runs = Vec::new();
    for load in policies {
        let store = match &link {
            // Anew for each run: what is still under way on the old one is no concern of the next.
            Some(link) => link.slow_down(scene.store.clone())?,
            None => scene.store.clone(),
        };
        let cold_start = ColdStart {
            store,
            runtime: &scene.runtime,
            dir: &scene.dir,
            job: &shape.job(),
            load,
            rocksdb: shape.rocksdb(),
            part: None,
        };
        runs.push(measure(cold_start, load, &shape)?);
        scene.clear()?;
    }
    let report = Report {
        job: shape.job(),
        state_bytes: shape.values() * shape.value_bytes,
        value_bytes: shape.value_bytes,
        files,
        latency_ms: link.map(|l| l.latency_ms),
        bandwidth_mbps: link.and_then(|l| l.bandwidth_mbps),
        eager_over_lazy: eager_over_lazy(&runs),
        runs,
    };
    output::report(&report, format, Report::text)
}

fn measure(cold_start: ColdStart, load: Load, shape: &Shape) -> Result<Run> {
    // In the middle: a key whose file is none of the first to be downloaded.
    let key = shape.values() / 2;
    let Started {
        backend,
        figures,
        begun,
    } = cold_start.run(|backend| reads::read_one(&shape::table(backend)?, key, shape))?;
    let values = shape::table(&backend)?;
    let give_up = match load {
        Load::OnDemand => begun.elapsed() + ON_DEMAND_READS,
        Load::Lazy | Load::Eager => begun.elapsed() + DOWNLOAD_TIMEOUT,
    };
    let Timeline { windows, local_ms } = reads::run(&backend, &values, shape, begun, give_up)?;
    Ok(Run {
        policy: name(load),
        figures,
        local_ms,
        windows,
    })
}

fn name(load: Load) -> &'static str {
    match load {
        Load::Lazy => "lazy",
        Load::Eager => "eager",
        Load::OnDemand => "on-demand",
    }
}

fn eager_over_lazy(runs: &[Run]) -> Option<f64> {
    let of = |policy| {
        runs.iter()
            .find(|r| r.policy == policy)
            .map(|r| r.figures.first_read_ms)
    };
    Some(probe::times(of("eager")?, of("lazy")?))
}

impl Report {
    fn text(&self) -> String {
        let link = match (self.latency_ms, self.bandwidth_mbps) {
            (None, _) => "as the store is".to_owned(),
            (Some(ms), None) => format!("{ms} ms a request"),
            (Some(ms), Some(mbps)) => format!("{ms} ms a request, {mbps} Mbit/s"),
        };
        let mut text = format!(
            "{} in {} files, {link}\n\n",
            human_bytes(self.state_bytes),
            self.files
        );
        let mut table = Table::new([
            "policy",
            "open",
            "first read",
            "requests",
            "round trips",
            "bytes",
            "SST requests before open",
            "all local",
        ]);
        for run in &self.runs {
            let f = &run.figures;
            table.row([
                run.policy.to_owned(),
                human_ms(f.open_ms),
                human_ms(f.first_read_ms),
                f.requests_before_first_read.to_string(),
                f.sequential_round_trips_before_first_read.to_string(),
                human_bytes(f.bytes_before_first_read),
                f.sst_requests_before_open.to_string(),
                run.local_ms.map_or("-".to_owned(), human_ms),
            ]);
        }
        text += &table.text();
        text += "\n(requests, round trips and bytes: until the first read has ended)\n";
        if let Some(times) = self.eager_over_lazy {
            text += &format!("\nuntil the first read, eager takes {times} times as long as lazy\n");
        }
        for run in &self.runs {
            text += &format!(
                "\nrandom reads, {}\n{}\n",
                run.policy,
                windows_text(&run.windows)
            );
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn windows_text(windows: &[Window]) -> String {
    let mut table = Table::new(["since open", "until", "reads", "p50", "p99", "files local"]);
    for w in windows {
        table.row([
            human_ms(w.from_ms),
            human_ms(w.to_ms),
            w.reads.to_string(),
            human_ms(w.p50_ms),
            human_ms(w.p99_ms),
            format!("{}/{}", w.local_files, w.files),
        ]);
    }
    table.text()
}
