//! A cold start, measured: opens a backend on an empty local directory and counts every request up to the first read.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::{KeyGroupRange, LoadPolicy, Restore, RocksDbOptions, StateBackend};
use lazurite_env::{
    IoRuntime,
    remote::{CountingStore, RemoteStore, sequential_round_trips},
};
use serde::Serialize;

use crate::{
    Load,
    error::{Error, Result},
    output::ms,
};

/// What is opened.
pub struct ColdStart<'a> {
    pub store: Arc<dyn RemoteStore>,
    pub runtime: &'a IoRuntime,
    /// Removed first, if it is there.
    pub dir: &'a Path,
    pub job: &'a str,
    pub load: Load,
    pub rocksdb: RocksDbOptions,
    /// The key groups of the subtask, and the snapshot that it comes back from; `None`: all of them, and the newest.
    pub part: Option<(KeyGroupRange, u64)>,
}

/// What it took. Field names are the JSON document's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// From the call of open to its return.
    pub open_ms: f64,
    /// From the call of open to the end of the first read.
    pub first_read_ms: f64,
    /// Requests begun by then, those of the download behind included.
    pub requests_before_first_read: u64,
    /// The longest chain of them in which each began after the one before had ended.
    pub sequential_round_trips_before_first_read: u64,
    /// Bytes that they brought by then.
    pub bytes_before_first_read: u64,
    /// Requests for a table file begun before open returned.
    pub sst_requests_before_open: u64,
}

/// A backend after its first read, the figures up to there, and when its opening began.
pub struct Started {
    pub backend: StateBackend,
    pub figures: Figures,
    pub begun: Instant,
}

impl ColdStart<'_> {
    /// Opens, reads once by `first_read`, and counts. Fails where there was no snapshot to come back from.
    pub fn run(self, first_read: impl FnOnce(&StateBackend) -> Result<()>) -> Result<Started> {
        remove_dir(self.dir)?;
        let store = Arc::new(CountingStore::new(self.store));
        store.start_recording();
        let mut builder = StateBackend::builder(self.dir)
            .remote_store(store.clone())
            .io_runtime(self.runtime.clone())
            .job(self.job)
            .load_policy(LoadPolicy::from(self.load))
            .rocksdb(self.rocksdb);
        if let Some((range, id)) = self.part {
            builder = builder
                .key_group_range(range)
                .restore(Restore::Snapshot(id));
        }
        let begun = Instant::now();
        let backend = builder.open()?;
        let open = begun.elapsed();
        let begun_by_open = store.snapshot().total();
        first_read(&backend)?;
        let first = begun.elapsed();
        let counts = store.snapshot();
        let ended = store.take_recording();
        if backend.restored().is_none() {
            return Err(Error::Wrong(format!(
                "job {} has no snapshot to come back from",
                self.job
            )));
        }
        // A restore has waited for all its requests when open returns: whatever else was begun by then was for a table file.
        let for_restore = ended
            .iter()
            .filter(|r| r.end <= open && !r.key.ends_with(".sst"))
            .count() as u64;
        let figures = Figures {
            open_ms: ms(open),
            first_read_ms: ms(first),
            requests_before_first_read: counts.total(),
            sequential_round_trips_before_first_read: sequential_round_trips(&ended) as u64,
            bytes_before_first_read: counts.bytes_in,
            sst_requests_before_open: begun_by_open.saturating_sub(for_restore),
        };
        Ok(Started {
            backend,
            figures,
            begun,
        })
    }
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", dir)(e)),
        _ => Ok(()),
    }
}

/// How many times longer `eager` took than `lazy`.
pub fn times(eager_ms: f64, lazy_ms: f64) -> f64 {
    let lazy = lazy_ms.max(Duration::from_micros(1).as_secs_f64() * 1e3);
    (eager_ms / lazy * 10.0).round() / 10.0
}
