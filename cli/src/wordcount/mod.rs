//! `lazurite run wordcount`: counts the words of files into keyed state that survives anything.
//!
//! One thread reads and adds up; as many subtasks as `--parallelism` says keep the counts, each those of its key groups. One
//! snapshot holds what all of them have.
//!
//! Crash story: a run may die at any moment. The next one, of any parallelism, restores the newest complete snapshot, whose user
//! metadata holds the position up to which its counts go, and reads on from there; what was counted after it is counted again.

mod count;
mod dirs;
pub mod position;
pub mod report;
mod snapshot;
pub mod source;
mod subtasks;
mod words;

use std::{path::PathBuf, sync::Arc, time::Instant};

use lazurite::{Coordinator, Restore, SnapshotStore, snapshot::SnapshotMetadata};
use lazurite_env::{
    ErrorKind, IoRuntime,
    remote::{Key, Listed, RemoteStore},
};

pub use self::subtasks::counts;
use self::{
    count::Counter,
    dirs::Directory,
    position::Position,
    report::{Restored, RunReport},
    source::{Inputs, Source},
    subtasks::{Share, Subtasks},
};
use crate::{
    Load,
    error::{Error, Result},
    link,
    output::{self, Format},
    progress,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Local directory of the state; made where it is missing. Each subtask has a directory in it.
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
    /// Subtasks that the key groups are spread over, at most as many as there are of these. A restart may have another number.
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=32768))]
    pub parallelism: u16,
    /// Takes a snapshot after this many records (lines), and one at the end. While one is under way no other begins.
    #[arg(long, value_name = "RECORDS", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub snapshot_every: u64,
    /// What happens to remote files after a restore.
    #[arg(long, value_enum, default_value_t = Load::Lazy)]
    pub load: Load,
    /// What blocks that were read from the store may take of the local disk, in MiB, over all subtasks. Default: no
    /// limit.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub cache_mib: Option<u64>,
    /// What table files and these blocks may take of the local disk together, in MiB, over all subtasks: the state may be
    /// larger. Default: no limit.
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
    let share = Share::new(args, watched)?;
    let inputs = Inputs::find(&args.paths)?;
    let runtime = IoRuntime::new(2)?;
    let store = link::open_store(&args.remote, &runtime)?;
    let opening = Instant::now();
    let snapshots = SnapshotStore::new(store.clone(), runtime.clone());
    // Whoever takes over a job stops a run that it has. A run that cannot go on leaves it alone.
    if let Some(newest) = newest(&args.job, &store, &runtime, &snapshots)? {
        Position::of(&newest, &inputs, args.key_groups)?;
    }
    let directory = Directory::open(&args.dir, &args.job)?;
    let coordinator = Arc::new(Coordinator::builder(snapshots, &args.job).open()?);
    let latest = coordinator.latest();
    let (restore, position) = match &latest {
        Some(latest) => (
            Restore::Snapshot(latest.id),
            Position::of(latest, &inputs, args.key_groups)?,
        ),
        None => (Restore::Empty, Position::start(&inputs)),
    };
    let subtasks = Subtasks::open(args, &share, &directory, &store, &runtime, restore)?;
    directory.remove_unused(args.parallelism);
    if args.load == Load::Eager {
        load(&subtasks, args, format)?;
    }
    let restored = match &latest {
        Some(latest) => Some(resume(latest.id, &subtasks, &position, opening)?),
        None => None,
    };

    let bar = progress::bytes(inputs.bytes(), "counting", format);
    let source = Source::at(inputs, position.file, position.offset)?;
    let mut counter = Counter::new(&subtasks, &coordinator, source, position);
    let ended = counter.run(
        args.snapshot_every,
        args.max_records.unwrap_or(u64::MAX),
        &bar,
    );
    bar.finish_and_clear();
    ended?;
    let (position, snapshots) = counter.finish()?;
    if let Some(path) = &args.output {
        report::write_counts(&subtasks, &position, path)?;
    }
    let report = RunReport::new(restored, &position, &snapshots, &subtasks);
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
}

/// The newest complete snapshot of `job`, `None` where none is found. Looks from the highest number on, and so at little of what runs
/// that died have left. It looks once: where another run completes one at that moment, none may be found. Then a run that cannot go on is
/// refused later, when it has taken over the job already; nothing else hangs on it.
fn newest(
    job: &str,
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    snapshots: &SnapshotStore,
) -> Result<Option<SnapshotMetadata>> {
    let (store, prefix) = (store.clone(), Key::new(job)?);
    let listed = runtime.wait(async move { store.list(Some(&prefix)).await })?;
    let number = |entry: &Listed| match entry {
        Listed::Prefix { name } => name.strip_prefix("chk-")?.parse::<u64>().ok(),
        Listed::Object { .. } => None,
    };
    let mut numbers: Vec<u64> = listed.iter().filter_map(number).collect();
    numbers.sort_unstable();
    for id in numbers.into_iter().rev() {
        match snapshots.load(job, id) {
            Err(lazurite::Error::SnapshotNotFound { .. }) => {}
            found => return Ok(Some(found?)),
        }
    }
    Ok(None)
}

/// Downloads what all subtasks have, behind a bar.
fn load(subtasks: &Subtasks, args: &Args, format: Format) -> Result<()> {
    let wait = || {
        subtasks.each(|subtask| match subtask.backend.wait_until_local() {
            // What has room is local; the rest is read from the store.
            Err(lazurite::Error::Env(error))
                if error.kind() == ErrorKind::NoSpace && args.disk_budget_mib.is_some() =>
            {
                tracing::warn!(%error, "not all of the state has room on the local disk");
                Ok(())
            }
            result => Ok(result?),
        })
    };
    progress::until_local(|| subtasks.download_progress(), wait, format)?;
    Ok(())
}

/// Reads one word of snapshot `id`, which ends the wait that a restart costs.
fn resume(id: u64, subtasks: &Subtasks, position: &Position, opening: Instant) -> Result<Restored> {
    let open = opening.elapsed();
    if let Some(word) = &position.sample
        && subtasks.get(word)?.is_none()
    {
        return Err(Error::Wrong(format!(
            "snapshot {id} lacks the word {word:?}, which was counted before it"
        )));
    }
    Ok(Restored {
        id,
        open,
        first_read: opening.elapsed(),
    })
}
