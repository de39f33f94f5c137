//! `lazurite restore --plan`: what a restore would read, copy and cost, before it is done.

use std::time::{Duration, Instant};

use lazurite::{KeyGroupRange, RestoreEstimate, RestorePlan, SnapshotPath, SnapshotStore};
use lazurite_env::IoRuntime;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
    state::parse_range,
};

/// Requests of which the quickest tells the latency.
const TRIES: usize = 3;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Says what a restore would read, copy and cost, and does nothing. A restore itself is a matter of opening a backend: `lazurite run`, or
    /// the library.
    #[arg(long, required = true)]
    plan: bool,
    /// The store: file:///dir, s3://bucket/prefix?endpoint=…, hdfs://host:port/dir.
    #[arg(long, value_name = "URI")]
    remote: String,
    /// The job whose newest snapshot would be restored.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "wordcount",
        conflicts_with = "from"
    )]
    job: String,
    /// Another snapshot than that: JOB/chk-N, or the directory of a savepoint, DIR/.
    #[arg(long, value_name = "PATH")]
    from: Option<SnapshotPath>,
    /// The operator whose state would come back.
    #[arg(long, default_value = "state")]
    operator: String,
    /// The key groups that would come back, first and last. Default: all that the snapshot holds.
    #[arg(long, value_name = "A-B", value_parser = parse_range)]
    range: Option<KeyGroupRange>,
    /// What a request waits, in milliseconds. Default: measured.
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: Option<u64>,
    /// Megabits per second of the link to the store.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: u64,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    plan: RestorePlan,
    latency_ms: f64,
    bandwidth_mbps: u64,
    estimated_first_read_ms: f64,
    estimated_all_local_ms: f64,
    estimated_no_claim_copies_ms: f64,
}

/// Plans, and prints.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let runtime = IoRuntime::new(2)?;
    let store = SnapshotStore::new(link::open_store(&args.remote, &runtime)?, runtime);
    let path = match &args.from {
        Some(path) => path.clone(),
        None => SnapshotPath::latest(&args.job)?,
    };
    let plan = store.plan_restore(&path, &args.operator, args.range)?;
    let latency = match args.latency_ms {
        Some(ms) => Duration::from_millis(ms),
        None => measured(&store)?,
    };
    let estimate: RestoreEstimate = plan.estimate(latency, args.bandwidth_mbps * 1_000_000 / 8);
    let report = Report {
        plan,
        latency_ms: ms(latency),
        bandwidth_mbps: args.bandwidth_mbps,
        estimated_first_read_ms: ms(estimate.first_read),
        estimated_all_local_ms: ms(estimate.all_local),
        estimated_no_claim_copies_ms: ms(estimate.no_claim_copies),
    };
    output::report(&report, format, Report::text)
}

/// What the quickest of some listings took.
fn measured(store: &SnapshotStore) -> Result<Duration> {
    let mut quickest = Duration::MAX;
    for _ in 0..TRIES {
        let begun = Instant::now();
        store.jobs().map_err(Error::Engine)?;
        quickest = quickest.min(begun.elapsed());
    }
    Ok(quickest)
}

impl Report {
    fn text(&self) -> String {
        let p = &self.plan;
        let mut table = Table::new(["", "files", "bytes", "estimated"]);
        let mut row = |what: &str, files: Option<u64>, bytes: u64, ms: Option<f64>| {
            table.row([
                what.to_owned(),
                files.map_or(String::new(), |files| files.to_string()),
                human_bytes(bytes),
                ms.map_or(String::new(), human_ms),
            ]);
        };
        row(
            "until the first read",
            None,
            p.bytes,
            Some(self.estimated_first_read_ms),
        );
        row(
            "downloaded behind the reads",
            Some(p.files),
            p.file_bytes,
            Some(self.estimated_all_local_ms),
        );
        row(
            "of these with other key groups too",
            Some(p.beyond_files),
            p.beyond_bytes,
            None,
        );
        row(
            "not needed for these key groups",
            Some(p.left_out_files),
            p.left_out_bytes,
            None,
        );
        row(
            "copied in the store by another job that does not claim it",
            Some(p.copies),
            p.copy_bytes,
            Some(self.estimated_no_claim_copies_ms),
        );
        format!(
            "{}, operator {}: key groups {} of {} from {} subtasks, {} tables in {} column families\n{} requests until the first read, {} \
             after one another; {} a request, {} Mbit/s\n\n{}",
            p.snapshot,
            p.operator,
            p.key_group_range,
            p.key_groups,
            p.subtasks,
            p.tables,
            p.columns,
            p.requests,
            p.round_trips,
            human_ms(self.latency_ms),
            self.bandwidth_mbps,
            table.text(),
        )
    }
}
