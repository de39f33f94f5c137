//! `lazurite bench rescale`: a job comes back with another parallelism, again and again, without a compaction in between; each time
//! against a restore of the key groups that were written, and once against downloading and rewriting keys.

use std::{path::PathBuf, sync::Arc, time::Instant};

use lazurite::{
    Coordinator, Error as EngineError, KeyGroupRange, LoadPolicy, Restore, SnapshotOptions,
    SnapshotStore, StateBackend, Subtask, key_groups::range_for_operator,
};
use lazurite_env::remote::MemoryStore;
use serde::Serialize;
use tempfile::TempDir;

use super::{
    reads,
    scene::Scene,
    shape::{self, Shape},
};
use crate::{
    Load,
    error::{Error, Result},
    link::Link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
    probe::{self, ColdStart, Figures, Started},
};

/// Of the bench's table, as of any that does not say otherwise.
const KEY_GROUPS: u16 = 128;
/// The operator of a backend that does not say otherwise.
const OPERATOR: &str = "state";
/// Writes at once of the baseline.
const BATCH: usize = 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Table files to spread the state over; what RocksDB makes of it is reported.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// Bytes of one value.
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    value_bytes: u64,
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// The parallelisms that the job, written by one subtask, comes back with, one after another.
    #[arg(long, value_name = "P", value_delimiter = ',', default_values_t = [2, 3, 2, 1, 4, 1], value_parser = clap::value_parser!(u16).range(1..=128))]
    chain: Vec<u16>,
    /// Leaves out what downloading and rewriting keys takes.
    #[arg(long)]
    no_baseline: bool,
    /// What every request waits, in milliseconds.
    #[arg(long, value_name = "L", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: u64,
    /// Megabits per second that all requests share.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: u64,
    /// Where the snapshots are. Default: a directory in --work-dir.
    #[arg(long, value_name = "URI")]
    remote: Option<String>,
    /// Where the state and, without --remote, its snapshots are kept for the next run. Default: ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    job: String,
    state_bytes: u64,
    files: usize,
    latency_ms: u64,
    bandwidth_mbps: u64,
    /// A lazy restore of the key groups that were written.
    same_range: Figures,
    steps: Vec<Step>,
    /// Half of the state, by downloading all of it and writing the keys of that half anew.
    rewrite_ms: Option<f64>,
    /// That, over the slowest first read of the first step.
    rewrite_over_first_step: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Step {
    from: u16,
    to: u16,
    subtasks: Vec<SubtaskRun>,
    /// The slowest of them, over the restore of the same key groups.
    first_read_over_same_range: f64,
    snapshot: Snapshot,
}

#[derive(Debug, Serialize)]
struct SubtaskRun {
    first_key_group: u16,
    last_key_group: u16,
    #[serde(flatten)]
    figures: Figures,
    files: u64,
    /// What it downloads until all of its state is local, over the bytes of all files.
    share: f64,
}

/// The first snapshot after a restore, nothing having changed.
#[derive(Debug, Serialize)]
struct Snapshot {
    ms: f64,
    uploaded_files: u64,
    uploaded_bytes: u64,
}

/// Builds the state where it is missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.files,
        value_bytes: args.value_bytes,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let bench = Bench {
        scene: Scene::open(args.work_dir.as_ref(), args.remote.as_ref())?,
        link: Link {
            latency_ms: args.latency_ms,
            bandwidth_mbps: Some(args.bandwidth_mbps),
        },
        // Not that of other benches: its snapshots become those of several subtasks.
        job: format!("rescale-{}", shape.job()),
        shape,
    };
    let report = bench.measure(args, format)?;
    output::report(&report, format, Report::text)
}

struct Bench {
    scene: Scene,
    link: Link,
    job: String,
    shape: Shape,
}

impl Bench {
    fn measure(&self, args: &Args, format: Format) -> Result<Report> {
        let mut from = 1;
        match self.scene.newest(&self.job)? {
            Some(newest) => from = newest.subtasks.len() as u16,
            None => {
                let (store, runtime) = (self.scene.store.clone(), self.scene.runtime.clone());
                let dir = self.scene.build_dir();
                shape::build(&self.shape, &self.job, store, runtime, &dir, format)?;
            }
        }
        if from != 1 {
            self.step(from, 1, None)?; // where an earlier run was interrupted
        }
        let newest = self.scene.need(&self.job)?;
        let same = self.start(None)?.0;
        let mut steps: Vec<Step> = Vec::new();
        for &to in &args.chain {
            let from = steps.last().map_or(1, |step| step.to);
            steps.push(self.step(from, to, Some(same.first_read_ms))?);
        }
        if steps.last().is_some_and(|step| step.to != 1) {
            self.step(0, 1, None)?; // the next run begins with one
        }
        let rewrite_ms = match args.no_baseline {
            true => None,
            false => Some(self.rewrite()?),
        };
        let first = steps.first().map(Step::first_read_ms);
        Ok(Report {
            job: self.job.clone(),
            state_bytes: newest.data_bytes(),
            files: newest.files().count(),
            latency_ms: self.link.latency_ms,
            bandwidth_mbps: args.bandwidth_mbps,
            same_range: same,
            steps,
            rewrite_over_first_step: rewrite_ms
                .zip(first)
                .map(|(rewrite, first)| probe::times(rewrite, first)),
            rewrite_ms,
        })
    }

    /// The job comes back with parallelism `to`, and takes a snapshot.
    fn step(&self, from: u16, to: u16, same_ms: Option<f64>) -> Result<Step> {
        let snapshots = SnapshotStore::new(
            self.link.slow_down(self.scene.store.clone())?,
            self.scene.runtime.clone(),
        );
        let coordinator = Coordinator::builder(snapshots, &self.job).open()?;
        let latest = coordinator
            .latest()
            .ok_or_else(|| Error::Wrong("the snapshot is gone".into()))?;
        let (mut runs, mut backends) = (Vec::new(), Vec::new());
        for index in 0..to {
            let range = range_for_operator(KEY_GROUPS, to, index)?;
            let (figures, backend, dir) = self.start(Some((range, latest.id)))?;
            let restored = backend.restored();
            let (files, bytes) = restored.map_or((0, 0), |of| (of.files, of.bytes));
            runs.push(SubtaskRun {
                first_key_group: range.start(),
                last_key_group: range.end(),
                figures,
                files,
                share: bytes as f64 / latest.data_bytes() as f64,
            });
            backends.push((backend, dir));
        }
        let slowest = runs
            .iter()
            .map(|run| run.figures.first_read_ms)
            .fold(0.0, f64::max);
        Ok(Step {
            from,
            to,
            subtasks: runs,
            first_read_over_same_range: same_ms.map_or(0.0, |same| slowest / same),
            snapshot: snapshot(&coordinator, &backends)?,
        })
    }

    /// A lazy restore up to the first read, of all or of a part; nothing is downloaded behind it.
    fn start(
        &self,
        part: Option<(KeyGroupRange, u64)>,
    ) -> Result<(Figures, StateBackend, TempDir)> {
        let dir = tempfile::tempdir_in(self.scene.work_dir())
            .map_err(Error::file("make", self.scene.work_dir()))?;
        let cold_start = ColdStart {
            store: self.link.slow_down(self.scene.store.clone())?,
            runtime: &self.scene.runtime,
            dir: &dir.path().join("state"),
            job: &self.job,
            load: Load::OnDemand,
            rocksdb: lazurite::RocksDbOptions {
                auto_compactions: false,
                ..self.shape.rocksdb()
            },
            part,
        };
        let Started {
            backend, figures, ..
        } = cold_start.run(|backend| {
            let values = shape::table(backend)?;
            // In the middle of all keys, the first one that is the subtask's.
            for key in self.shape.values() / 2..self.shape.values() {
                match reads::read_one(&values, key, &self.shape) {
                    Err(Error::Engine(EngineError::KeyGroupOutOfRange { .. })) => {}
                    read => return read,
                }
            }
            Err(Error::Wrong("no key is the subtask's".into()))
        })?;
        Ok((figures, backend, dir))
    }

    /// What it takes without: the files of the state are downloaded, and the keys of one half of the key groups written to a new
    /// database.
    fn rewrite(&self) -> Result<f64> {
        let dir = tempfile::tempdir_in(self.scene.work_dir())
            .map_err(Error::file("make", self.scene.work_dir()))?;
        let half = range_for_operator(KEY_GROUPS, 2, 0)?;
        let begun = Instant::now();
        let whole = StateBackend::builder(dir.path().join("whole"))
            .remote_store(self.link.slow_down(self.scene.store.clone())?)
            .io_runtime(self.scene.runtime.clone())
            .job(&self.job)
            .load_policy(LoadPolicy::Eager)
            .rocksdb(self.shape.rocksdb())
            .open()?;
        let part = StateBackend::builder(dir.path().join("part"))
            .remote_store(Arc::new(MemoryStore::new()))
            .io_runtime(self.scene.runtime.clone())
            .key_group_range(half)
            .restore(Restore::Empty)
            .rocksdb(self.shape.rocksdb())
            .open()?;
        let (from, to) = (shape::table(&whole)?, shape::table(&part)?);
        let mut batch = part.write_batch();
        for group in half.iter() {
            for entry in from.iter_key_group(group)? {
                let (key, value) = entry?;
                to.put_to(&mut batch, &key, &value)?;
                if batch.len() >= BATCH {
                    part.write(std::mem::replace(&mut batch, part.write_batch()))?;
                }
            }
        }
        part.write(batch)?;
        Ok(ms(begun.elapsed()))
    }
}

fn snapshot(coordinator: &Coordinator, backends: &[(StateBackend, TempDir)]) -> Result<Snapshot> {
    let begun = Instant::now();
    let subtasks: Vec<Subtask> = backends
        .iter()
        .map(|(backend, _)| Subtask {
            operator: OPERATOR.into(),
            key_group_range: backend.key_group_range(),
        })
        .collect();
    let id = coordinator.begin(&subtasks, SnapshotOptions::new())?;
    let parts = backends
        .iter()
        .map(|(backend, _)| Ok(backend.snapshot_part(id, SnapshotOptions::new())?))
        .collect::<Result<Vec<_>>>()?;
    let mut done = None;
    for part in parts {
        done = coordinator.acknowledge(part.wait()?)?;
    }
    let done = done.ok_or_else(|| Error::Wrong("the snapshot is not complete".into()))?;
    Ok(Snapshot {
        ms: ms(begun.elapsed()),
        uploaded_files: done.uploaded_files,
        uploaded_bytes: done.uploaded_bytes,
    })
}

impl Step {
    fn first_read_ms(&self) -> f64 {
        let of = self.subtasks.iter().map(|run| run.figures.first_read_ms);
        of.fold(0.0, f64::max)
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} in {} files, {} ms a request, {} Mbit/s\nthe same key groups: first read after {}\n\n",
            human_bytes(self.state_bytes),
            self.files,
            self.latency_ms,
            self.bandwidth_mbps,
            human_ms(self.same_range.first_read_ms)
        );
        let mut table = Table::new([
            "subtasks",
            "first read",
            "over same",
            "requests",
            "round trips",
            "SST requests before open",
            "largest share",
            "snapshot",
            "files sent",
            "bytes sent",
        ]);
        for step in &self.steps {
            let of = |of: fn(&Figures) -> u64| {
                let runs = step.subtasks.iter().map(|run| of(&run.figures));
                runs.max().unwrap_or(0).to_string()
            };
            let share = step
                .subtasks
                .iter()
                .map(|run| run.share)
                .fold(0.0, f64::max);
            table.row([
                format!("{} to {}", step.from, step.to),
                human_ms(step.first_read_ms()),
                format!("{:.2}", step.first_read_over_same_range),
                of(|f| f.requests_before_first_read),
                of(|f| f.sequential_round_trips_before_first_read),
                of(|f| f.sst_requests_before_open),
                format!("{share:.2}"),
                human_ms(step.snapshot.ms),
                step.snapshot.uploaded_files.to_string(),
                human_bytes(step.snapshot.uploaded_bytes),
            ]);
        }
        text += &table.text();
        if let (Some(took), Some(times)) = (self.rewrite_ms, self.rewrite_over_first_step) {
            text += &format!(
                "\ndownloading all and rewriting the keys of one half takes {}, {times} times as long as the first step until its first read",
                human_ms(took)
            );
        }
        text
    }
}
