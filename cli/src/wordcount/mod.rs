//! `lazurite run wordcount`: counts the words of files into keyed state that survives anything.
//!
//! Crash story: a run may die at any moment. The next one restores the newest complete snapshot, whose user metadata
//! holds the position up to which its counts go, and reads on from there; what was counted after it is counted again.

mod count;
pub mod position;
pub mod report;
pub mod source;
mod words;

use std::{path::PathBuf, time::Instant};

use lazurite::{
    LoadPolicy, RestoreReport, RocksDbOptions, StateBackend, ValueState, ValueStateDescriptor,
};
use lazurite_env::{ErrorKind, IoRuntime};

use self::{
    count::Counter,
    position::Position,
    report::{Restored, RunReport},
    source::{Inputs, Source},
};
use crate::{
    Load,
    error::{Error, Result},
    link,
    output::{self, Format},
    progress,
};

/// The state: how often each word was seen.
pub type Counts = ValueState<String, u64>;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Local directory of the state; made where it is missing.
    #[arg(long)]
    pub dir: PathBuf,
    /// Where snapshots go: file:///dir, s3://bucket/prefix?endpoint=…, hdfs://host:port/dir. For demos, a file URI takes
    /// ?latency_ms=10&bandwidth_mbps=1000 and is then as slow as such a link.
    #[arg(long, value_name = "URI")]
    pub remote: String,
    /// Name of the job in the remote store; one running process per job.
    #[arg(long, default_value = "wordcount")]
    pub job: String,
    /// Key groups that the words are spread over; fixed by the job's first run.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=32768))]
    pub key_groups: u16,
    /// Takes a snapshot after this many records (lines), and one at the end. While one is under way no other begins.
    #[arg(long, value_name = "RECORDS", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub snapshot_every: u64,
    /// What happens to remote files after a restore.
    #[arg(long, value_enum, default_value_t = Load::Lazy)]
    pub load: Load,
    /// What blocks that were read from the store may take of the local disk, in MiB. Default: no limit.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub cache_mib: Option<u64>,
    /// What table files and these blocks may take of the local disk together, in MiB: the state may be larger. Default: no
    /// limit.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(4..=1 << 30))]
    pub disk_budget_mib: Option<u64>,
    /// Stops once this many records are counted, those before a restart included.
    #[arg(long, value_name = "N")]
    pub max_records: Option<u64>,
    /// Writes word<TAB>count lines here, sorted by the bytes of the word.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Files and directory trees to read. The same on every run of a job.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// Runs the job to its end. `watched`: somebody looks at its metrics.
pub fn run(args: &Args, format: Format, watched: bool) -> Result<()> {
    let inputs = Inputs::find(&args.paths)?;
    let runtime = IoRuntime::new(2)?;
    let store = link::open_store(&args.remote, &runtime)?;
    let opening = Instant::now();
    let mut builder = StateBackend::builder(&args.dir);
    if let Some(mib) = args.cache_mib {
        builder = builder.cache_bytes(mib << 20);
    }
    if let Some(mib) = args.disk_budget_mib {
        builder = builder.disk_budget_bytes(mib << 20);
    }
    let backend = builder
        .remote_store(store)
        .io_runtime(runtime)
        .job(&args.job)
        .key_groups(args.key_groups)
        .load_policy(match args.load {
            // Behind a bar, below.
            Load::Eager => LoadPolicy::OnDemand,
            load => load.into(),
        })
        .rocksdb(RocksDbOptions {
            statistics: watched,
            ..RocksDbOptions::default()
        })
        .open()?;
    if args.load == Load::Eager {
        match progress::until_local(&backend, format) {
            // What has room is local; the rest is read from the store.
            Err(Error::Engine(lazurite::Error::Env(error)))
                if error.kind() == ErrorKind::NoSpace && args.disk_budget_mib.is_some() =>
            {
                tracing::warn!(%error, "not all of the state has room on the local disk");
            }
            result => result?,
        }
    }
    let counts = counts(&backend)?;
    let restored = match backend.restored() {
        Some(report) => Some(resume(report, &inputs, &counts, opening)?),
        None => None,
    };
    let position = match &restored {
        Some((_, position)) => position.clone(),
        None => Position::start(&inputs),
    };

    let bar = progress::bytes(inputs.bytes(), "counting", format);
    let source = Source::at(inputs, position.file, position.offset)?;
    let mut counter = Counter::new(&backend, &counts, source, position);
    let ended = counter.run(
        args.snapshot_every,
        args.max_records.unwrap_or(u64::MAX),
        &bar,
    );
    bar.finish_and_clear();
    ended?;
    let (position, snapshots) = counter.finish()?;
    if let Some(path) = &args.output {
        report::write_counts(&counts, &position, path)?;
    }
    let report = RunReport::new(
        restored.map(|(r, _)| r),
        &position,
        &snapshots,
        backend.tier(),
    );
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
}

/// The table of counts.
pub fn counts(backend: &StateBackend) -> Result<Counts> {
    Ok(backend.value_state(&ValueStateDescriptor::new("counts"))?)
}

/// Takes up the position of the snapshot and reads one word, which ends the wait that a restart costs.
fn resume(
    report: &RestoreReport,
    inputs: &Inputs,
    counts: &Counts,
    opening: Instant,
) -> Result<(Restored, Position)> {
    let opened = opening.elapsed();
    let id = report.snapshot_id;
    let position = Position::decode(
        report.user_metadata.get(position::NAME).map(Vec::as_slice),
        id,
    )?;
    position.check_inputs(inputs, id)?;
    if let Some(word) = &position.sample
        && counts.get(word)?.is_none()
    {
        return Err(Error::Wrong(format!(
            "snapshot {id} lacks the word {word:?}, which was counted before it"
        )));
    }
    let restored = Restored {
        id,
        open: opened,
        first_read: opening.elapsed(),
    };
    Ok((restored, position))
}
