//! `lazurite bench ownership`: a job begins with another's snapshot, and takes its first one. What passes through the process, and how
//! long it takes, against the upload of the same state to the same store in the same run.
//!
//! All is written below directories of the bench's own, which are removed before and after.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::{
    ClaimMode, LoadPolicy, SnapshotOptions, SnapshotPath, SnapshotReport, StateBackend,
};
use lazurite_env::{
    IoRuntime,
    remote::{CopyKind, CountingStore, RemoteStore, RequestCounts, RequestKind},
};
use serde::Serialize;

use super::{
    reads, scene,
    shape::{self, Shape},
};
use crate::{
    error::{Error, Result},
    link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
    probe,
};

const WRITER: &str = "bench-ownership-writer";
const COPIER: &str = "bench-ownership-copier";
const HASTY: &str = "bench-ownership-hasty";
const CLAIMER: &str = "bench-ownership-claimer";
const SAVEPOINT: &str = "bench-ownership-savepoint";

/// How often it is looked how many copies there are.
const LOOK: Duration = Duration::from_millis(50);
/// Copies ahead have begun by then.
const NO_COPIES: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store to measure.
    #[arg(long, value_name = "URI")]
    remote: String,
    /// Table files to spread the state over; what RocksDB makes of it is reported.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// Bytes of one value.
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    value_bytes: u64,
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// What the link to the store carries, in megabits per second, to say how long the state would take at least to be sent over it.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    link_mbps: u64,
    /// In a directory of its own in this one the state is written. Default: the system's for temporary files.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    uri: String,
    state_bytes: u64,
    files: u64,
    link_mbps: u64,
    /// What the link takes for the state's bytes alone.
    link_ms: f64,
    upload: Snapshot,
    /// The first snapshot of a job that begins with the state and leaves the original alone, taken at once: it makes all copies.
    no_claim_at_once: Snapshot,
    /// The same, once the copies are made behind the reads; and when they were, from the open on.
    no_claim: Snapshot,
    copied_ahead_ms: f64,
    /// The first snapshot of a job that takes the original over.
    claim: Snapshot,
    savepoint: Snapshot,
    /// The upload's time over that of the first snapshot; and the link's.
    upload_over_no_claim: f64,
    upload_over_no_claim_at_once: f64,
    link_over_no_claim: f64,
    link_over_no_claim_at_once: f64,
}

/// What a snapshot came to.
#[derive(Debug, Serialize)]
struct Snapshot {
    ms: f64,
    requests: u64,
    /// What came and went through this process.
    bytes: u64,
    /// As a share of the state's bytes.
    share: f64,
    uploaded_files: u64,
    reused_files: u64,
    copied_files: u64,
    streamed_files: u64,
}

/// Measures one after the other.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.files,
        value_bytes: args.value_bytes,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let parent = args.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let work_dir = parent.join(format!("lazurite-bench-ownership-{}", std::process::id()));
    let runtime = IoRuntime::new(2)?;
    let store = CountingStore::new(link::open_store(&args.remote, &runtime)?);
    let bench = Bench {
        shape,
        store,
        runtime,
        work_dir,
    };
    bench.remove()?;
    let report = bench.measure(args.link_mbps, format)?;
    bench.remove()?;
    output::report(&report, format, Report::text)
}

struct Bench {
    shape: Shape,
    store: CountingStore,
    runtime: IoRuntime,
    work_dir: PathBuf,
}

impl Bench {
    fn measure(&self, link_mbps: u64, format: Format) -> Result<Report> {
        let store = self.store();
        let before = self.store.snapshot();
        let built = shape::build(
            &self.shape,
            WRITER,
            store,
            self.runtime.clone(),
            &self.work_dir.join("build"),
            format,
        )?;
        let state_bytes = built.uploaded_data_bytes;
        let sent = self.store.snapshot().since(&before);
        let snapshot = |report: &SnapshotReport, took: Duration, sent: RequestCounts| {
            let bytes = sent.bytes_in + sent.bytes_out;
            Snapshot {
                ms: ms(took),
                requests: sent.total(),
                bytes,
                share: round(bytes as f64 / state_bytes as f64, 1e5),
                uploaded_files: report.uploaded_files,
                reused_files: report.reused_files,
                copied_files: report.copied_files,
                streamed_files: report.streamed_files,
            }
        };
        let timed = |backend: &StateBackend, options| -> Result<Snapshot> {
            let (before, begun) = (self.store.snapshot(), Instant::now());
            let report = backend.snapshot(options)?.wait()?;
            let took = begun.elapsed();
            Ok(snapshot(
                &report,
                took,
                self.store.snapshot().since(&before),
            ))
        };
        let upload = snapshot(&built, built.async_, sent);

        let hasty = self.begin(HASTY, WRITER, ClaimMode::NoClaim, false)?;
        let no_claim_at_once = timed(&hasty, SnapshotOptions::new())?;
        self.close(hasty)?;
        scene::remove(&self.store(), &self.runtime, HASTY)?;
        let (begun, before) = (Instant::now(), self.store.snapshot());
        let copier = self.begin(COPIER, WRITER, ClaimMode::NoClaim, true)?;
        if self.store.capabilities().copy != CopyKind::Streamed {
            self.await_copies(&before)?;
        }
        let copied_ahead_ms = ms(begun.elapsed());
        let no_claim = timed(&copier, SnapshotOptions::new())?;
        self.close(copier)?;
        // Nothing depends on the original any more.
        scene::remove(&self.store(), &self.runtime, WRITER)?;
        let claimer = self.begin(CLAIMER, COPIER, ClaimMode::Claim, false)?;
        let claim = timed(&claimer, SnapshotOptions::new())?;
        let savepoint = timed(&claimer, SnapshotOptions::new().savepoint(SAVEPOINT))?;
        self.close(claimer)?;

        let link_ms = state_bytes as f64 * 8e-3 / link_mbps as f64;
        Ok(Report {
            uri: self.store.uri().to_owned(),
            state_bytes,
            files: built.uploaded_files,
            link_mbps,
            link_ms: round(link_ms, 1e1),
            upload_over_no_claim: round(upload.ms / no_claim.ms, 1e1),
            upload_over_no_claim_at_once: round(upload.ms / no_claim_at_once.ms, 1e1),
            link_over_no_claim: round(link_ms / no_claim.ms, 1e1),
            link_over_no_claim_at_once: round(link_ms / no_claim_at_once.ms, 1e1),
            upload,
            no_claim_at_once,
            no_claim,
            copied_ahead_ms,
            claim,
            savepoint,
        })
    }

    fn store(&self) -> Arc<dyn RemoteStore> {
        Arc::new(self.store.clone())
    }

    fn dir(&self) -> PathBuf {
        self.work_dir.join("local")
    }

    /// Waits until no copy has been made for as long as several take.
    fn await_copies(&self, before: &RequestCounts) -> Result<()> {
        let copies = || self.store.snapshot().since(before).of(RequestKind::Copy);
        let (begun, mut seen, mut quiet) = (Instant::now(), 0, 0);
        while seen == 0 || quiet < 10 {
            if seen == 0 && begun.elapsed() > NO_COPIES {
                return Err(Error::Wrong("no copies are made ahead".into()));
            }
            std::thread::sleep(LOOK);
            quiet = if copies() == seen { quiet + 1 } else { 0 };
            seen = copies();
        }
        Ok(())
    }

    /// A job on an empty disk that begins with another's newest snapshot, and reads one value of it.
    fn begin(&self, job: &str, from: &str, mode: ClaimMode, ahead: bool) -> Result<StateBackend> {
        let backend = StateBackend::builder(self.dir())
            .remote_store(self.store())
            .io_runtime(self.runtime.clone())
            .job(job)
            .load_policy(LoadPolicy::OnDemand)
            .rocksdb(self.shape.rocksdb())
            .initial_state(SnapshotPath::latest(from)?, mode)
            .copy_ahead(ahead)
            .open()?;
        reads::read_one(
            &shape::table(&backend)?,
            self.shape.values() / 2,
            &self.shape,
        )?;
        Ok(backend)
    }

    /// Reads a value once more, and clears the disk.
    fn close(&self, backend: StateBackend) -> Result<()> {
        reads::read_one(
            &shape::table(&backend)?,
            self.shape.values() / 3,
            &self.shape,
        )?;
        drop(backend);
        probe::remove_dir(&self.dir())
    }

    fn remove(&self) -> Result<()> {
        for dir in [WRITER, HASTY, COPIER, CLAIMER, SAVEPOINT] {
            scene::remove(&self.store(), &self.runtime, dir)?;
        }
        probe::remove_dir(&self.work_dir)
    }
}

fn round(x: f64, by: f64) -> f64 {
    (x * by).round() / by
}

impl Report {
    fn text(&self) -> String {
        let mut table = Table::new([
            "snapshot",
            "time",
            "requests",
            "through this process",
            "of the state",
            "uploaded",
            "named",
            "copied",
            "streamed",
        ]);
        for (name, s) in [
            ("upload", &self.upload),
            ("first after NO_CLAIM, at once", &self.no_claim_at_once),
            ("first after NO_CLAIM, later", &self.no_claim),
            ("first after CLAIM", &self.claim),
            ("savepoint", &self.savepoint),
        ] {
            table.row([
                name.to_owned(),
                human_ms(s.ms),
                s.requests.to_string(),
                human_bytes(s.bytes),
                format!("{:.3} %", s.share * 100.0),
                s.uploaded_files.to_string(),
                s.reused_files.to_string(),
                s.copied_files.to_string(),
                s.streamed_files.to_string(),
            ]);
        }
        format!(
            "{} in {} files in {}\n\n{}\n\nfirst after NO_CLAIM, against {} Mbit/s alone ({}) and the upload: {} and {} times as fast at once, {} and {} times later; \
             copies were made {} after the open",
            human_bytes(self.state_bytes),
            self.files,
            self.uri,
            table.text(),
            self.link_mbps,
            human_ms(self.link_ms),
            self.link_over_no_claim_at_once,
            self.upload_over_no_claim_at_once,
            self.link_over_no_claim,
            self.upload_over_no_claim,
            human_ms(self.copied_ahead_ms),
        )
    }
}
