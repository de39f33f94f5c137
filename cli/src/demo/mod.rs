//! `lazurite demo`: a job counts words, is killed, loses its local disk, and comes back, eager against lazy.
//!
//! The remote tier is a directory behind a simulated link. Everything happens in one directory, which goes away at the
//! end unless the user named it.

mod place;
mod report;
mod text;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lazurite::{RocksDbOptions, StateBackend, snapshot::SnapshotStore};
use lazurite_env::{IoRuntime, remote::RemoteStore};

use self::{
    place::Place,
    report::{Comparison, Report},
    text::Text,
};
use crate::{
    Load,
    bench::{
        reads,
        shape::{self, Shape},
    },
    error::{Error, Result},
    link::{self, Link},
    output::{self, Format, human_bytes, human_ms},
    probe::{self, ColdStart, Figures},
    wordcount::{
        self,
        position::{self, Position},
    },
};

const LINK: Link = Link {
    latency_ms: 10,
    bandwidth_mbps: Some(1000),
};
const JOB: &str = "wordcount";
/// The job takes about this many snapshots on its way.
const SNAPSHOTS: u64 = 8;
/// It is killed once this many are complete.
const SNAPSHOTS_BEFORE_KILL: u64 = 3;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Works in this directory and leaves everything there. Default: a new one that is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Takes at most this much text, in MiB.
    #[arg(long, value_name = "M", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    text_mib: u64,
    /// Size of a second, larger state to come back with, in MiB; 0 leaves it out.
    #[arg(long, value_name = "M", default_value_t = 512, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    state_mib: u64,
    /// Files and directory trees with text. Default: the sources that cargo has fetched (*.rs, *.md, *.txt, *.c, *.cc, *.h).
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Tells the story.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let place = Place::new(args.dir.as_deref())?;
    let story = Story {
        place: &place,
        format,
    };
    let text = story.gather(args)?;
    let killed_after = story.run_and_kill(&text)?;
    let runtime = IoRuntime::new(2)?;
    let store = link::open_store(&link::file_uri(&place.remote())?, &runtime)?;
    let (restored_from, bytes, position) = newest(&store, &runtime)?;
    story.say(&format!(
        "Killed after {}. The local disk is gone; snapshot {restored_from} has {} of {} records, {} of state.",
        human_ms(output::ms(killed_after)),
        position.records,
        text.records,
        human_bytes(bytes)
    ))?;
    story.say("Coming back from it on an empty disk, eager and lazy ...")?;
    let sample = position.sample.clone().unwrap_or_default();
    let words_state = story.compare(
        &store,
        &runtime,
        JOB,
        RocksDbOptions::default(),
        |backend| match wordcount::counts(backend)?.get(&sample)? {
            Some(_) => Ok(()),
            None => Err(Error::Wrong(format!("the word {sample:?} is lost"))),
        },
    )?;
    story.say("Letting the job go on, lazily, to its end ...")?;
    story.finish(&text)?;
    let larger_state = story.larger(args.state_mib, &store, &runtime)?;
    let report = Report {
        text_bytes: text.bytes,
        records: text.records,
        words: text.words,
        distinct: text.counts.len() as u64,
        latency_ms: LINK.latency_ms,
        bandwidth_mbps: LINK.bandwidth_mbps,
        killed_after_ms: output::ms(killed_after),
        restored_from,
        restored_records: position.records,
        counts_exact: true,
        words_state,
        larger_state,
    };
    match format {
        Format::Json => output::json(&report),
        Format::Text => output::line(&report.text()),
    }
}

/// The newest complete snapshot: its number, its bytes, and how far the job had come.
fn newest(store: &Arc<dyn RemoteStore>, runtime: &IoRuntime) -> Result<(u64, u64, Position)> {
    let snapshots = SnapshotStore::new(store.clone(), runtime.clone()).list(JOB)?;
    let (id, metadata) = snapshots.into_iter().next_back().ok_or_else(|| {
        Error::Wrong(
            "the job was killed before its first snapshot was complete: give it more text".into(),
        )
    })?;
    let metadata = metadata?;
    let value = metadata
        .user_metadata
        .get(position::NAME)
        .and_then(|value| value.bytes());
    Ok((
        id,
        metadata.data_bytes(),
        Position::decode(value.as_deref(), id)?,
    ))
}

struct Story<'a> {
    place: &'a Place,
    format: Format,
}

impl Story<'_> {
    fn say(&self, line: &str) -> Result<()> {
        match self.format {
            Format::Text => output::line(line),
            Format::Json => Ok(()),
        }
    }

    fn gather(&self, args: &Args) -> Result<Text> {
        let text = Text::gather(
            &args.paths,
            args.text_mib << 20,
            &self.place.text(),
            self.format,
        )?;
        self.say(&format!(
            "{} of text: {} lines, {} words, {} of them different (counted once in plain memory, to compare with).",
            human_bytes(text.bytes),
            text.records,
            text.words,
            text.counts.len()
        ))?;
        Ok(text)
    }

    /// Starts the job as a process of its own and kills it in the middle; removes its local disk.
    fn run_and_kill(&self, text: &Text) -> Result<Duration> {
        self.say(&format!(
            "Counting them into keyed state; snapshots go to a store {} ms and {} Mbit/s away ...",
            LINK.latency_ms,
            LINK.bandwidth_mbps.unwrap_or_default()
        ))?;
        let begun = Instant::now();
        let mut job = Job(self
            .job(text)?
            .spawn()
            .map_err(Error::file("start", "the job"))?);
        let mut seen = 0;
        let mut last = None;
        while seen < SNAPSHOTS_BEFORE_KILL {
            if let Some(status) = job
                .0
                .try_wait()
                .map_err(Error::file("wait for", "the job"))?
            {
                return Err(Error::Wrong(format!(
                    "the job ended by itself ({status}) before it could be killed: see above, or give it more text"
                )));
            }
            let newest = self.newest_complete();
            if newest > last {
                last = newest;
                seen += 1;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // Into the next stretch of counting, which is lost.
        thread::sleep(Duration::from_millis(200));
        drop(job);
        let killed_after = begun.elapsed();
        probe::remove_dir(&self.place.state())?;
        Ok(killed_after)
    }

    /// The command that runs the job to its end.
    fn job(&self, text: &Text) -> Result<Command> {
        let program = std::env::current_exe().map_err(Error::file("find", "this program"))?;
        let mut job = Command::new(program);
        job.args([
            "--format",
            "json",
            "run",
            "wordcount",
            "--job",
            JOB,
            "--dir",
        ])
        .arg(self.place.state())
        .arg("--remote")
        .arg(format!(
            "{}?{}",
            link::file_uri(&self.place.remote())?,
            LINK.query()
        ))
        .arg("--snapshot-every")
        .arg((text.records / SNAPSHOTS).max(1).to_string())
        .arg("--output")
        .arg(self.place.output())
        .arg(self.place.text())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
        Ok(job)
    }

    /// The newest complete snapshot, looked up on the directory itself: costs the job's link nothing.
    fn newest_complete(&self) -> Option<u64> {
        let entries = fs::read_dir(self.place.remote().join(JOB)).ok()?;
        // Beside the `_metadata` by which a run takes over the job there is nothing.
        let complete = entries.flatten().filter(|e| {
            let files = e.path().read_dir().map_or(0, Iterator::count);
            files > 1 && e.path().join("_metadata").exists()
        });
        complete
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("chk-")?.parse().ok())
            .max()
    }

    /// Comes back with the newest snapshot of `job`, eager and lazy, each on an empty disk.
    fn compare(
        &self,
        store: &Arc<dyn RemoteStore>,
        runtime: &IoRuntime,
        job: &str,
        rocksdb: RocksDbOptions,
        first_read: impl Fn(&StateBackend) -> Result<()>,
    ) -> Result<Comparison> {
        let dir = self.place.state();
        let cold_start = |load| -> Result<((u64, u64), Figures)> {
            let cold_start = ColdStart {
                store: LINK.slow_down(store.clone())?,
                runtime,
                dir: &dir,
                job,
                load,
                rocksdb: rocksdb.clone(),
                part: None,
            };
            let started = cold_start.run(&first_read)?;
            let bytes = started.backend.restored().map_or(0, |report| report.bytes);
            let files = started.backend.restored().map_or(0, |report| report.files);
            drop(started.backend);
            probe::remove_dir(&dir)?;
            Ok(((bytes, files), started.figures))
        };
        let ((bytes, files), eager) = cold_start(Load::Eager)?;
        let (_, lazy) = cold_start(Load::Lazy)?;
        Ok(Comparison::new(bytes, files as usize, eager, lazy))
    }

    /// The same with more state than the text at hand has words for; `None` for none.
    fn larger(
        &self,
        state_mib: u64,
        store: &Arc<dyn RemoteStore>,
        runtime: &IoRuntime,
    ) -> Result<Option<Comparison>> {
        if state_mib == 0 {
            return Ok(None);
        }
        let shape = Shape {
            files: state_mib.saturating_mul(2).min(1000),
            value_bytes: 1024,
            state_mib,
        };
        self.say(&format!(
            "Building {state_mib} MiB of state, and coming back with it in the same two ways ..."
        ))?;
        shape::ensure(&shape, store, runtime, &self.place.build(), self.format)?;
        let comparison =
            self.compare(store, runtime, &shape.job(), shape.rocksdb(), |backend| {
                reads::read_one(&shape::table(backend)?, shape.values() / 2, &shape)
            })?;
        self.say("")?;
        Ok(Some(comparison))
    }

    /// Runs the job to its end and compares its counts with those of plain memory.
    fn finish(&self, text: &Text) -> Result<()> {
        let status = self
            .job(text)?
            .status()
            .map_err(Error::file("start", "the job"))?;
        if !status.success() {
            return Err(Error::Wrong(format!(
                "the job failed after its restart: {status}"
            )));
        }
        text.compare(&self.place.output())?;
        self.say("Its counts are exactly those of a run that nothing interrupted.")
    }
}

/// A child process that is killed (kill -9) when this is dropped.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        // Neither fails unless the child is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
