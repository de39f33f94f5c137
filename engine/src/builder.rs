//! [`StateBackendBuilder`]: the options of a backend, checked before anything is touched.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lazurite_env::{
    Env, IoRuntime, PosixEnv,
    remote::{self, RemoteOptions, RemoteStore},
};
use lazurite_tiering::{CacheOptions, DownloadOptions};

use crate::{
    Error, Result, StateBackend,
    key_groups::KeyGroupRange,
    options::RocksDbOptions,
    snapshot::{ClaimMode, MAX_TIMEOUT, SnapshotPath, layout::is_job_name},
    table::{TableDescriptor, TableSchema},
};

/// At less, a single request of a download takes minutes.
const MIN_TRANSFER_RATE: u64 = 64 << 10;

/// A smaller cache could not hold a single part of each level.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// A smaller budget would be exceeded by every flush.
const MIN_DISK_BUDGET_BYTES: u64 = 4 << 20;

/// More is a mistake, not a wish.
const MAX_FREE_BYTES: u64 = 1 << 40;

/// When table files come from the store to the local disk after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadPolicy {
    /// Before `open` returns: reads never wait for the store.
    Eager,
    /// Behind the reads, which meanwhile go to the store for what is not there yet.
    #[default]
    Lazy,
    /// Never by themselves: each read that the block cache cannot answer goes to the store.
    OnDemand,
}

/// What happens to writes that came after the newest snapshot when the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// They are gone; a restart goes back to a snapshot, as in Flink. No write-ahead log is written, the fastest.
    #[default]
    Snapshot,
    /// They survive on the same disk: an acknowledged write is in RocksDB's write-ahead log and outlives kill -9 (not a
    /// power cut, for the log is not synced at each write). A restart on the kept directory goes on where it was.
    Wal,
}

/// Which state a backend opens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restore {
    /// The newest complete snapshot of the job; empty where there is none. With [`Durability::Wal`] and a kept
    /// directory, what that directory holds.
    #[default]
    Latest,
    /// This snapshot, whatever the local directory holds.
    Snapshot(u64),
    /// Nothing: begin empty, whatever the store and the local directory hold. Snapshot numbers go on.
    Empty,
}

/// The options of a [`StateBackend`]. Made by [`StateBackend::builder`]; every option but the remote has a default.
#[derive(Debug, Clone)]
pub struct StateBackendBuilder {
    pub(crate) dir: PathBuf,
    pub(crate) remote: Remote,
    pub(crate) remote_options: RemoteOptions,
    pub(crate) job: String,
    pub(crate) operator: String,
    pub(crate) key_groups: u16,
    pub(crate) range: Option<KeyGroupRange>,
    pub(crate) load_policy: LoadPolicy,
    pub(crate) durability: Durability,
    pub(crate) restore: Restore,
    pub(crate) initial_state: Option<(SnapshotPath, ClaimMode)>,
    pub(crate) copy_ahead: bool,
    pub(crate) rocksdb: RocksDbOptions,
    pub(crate) retained_snapshots: usize,
    pub(crate) snapshot_timeout: Duration,
    pub(crate) transfer_threads: usize,
    pub(crate) download: DownloadOptions,
    pub(crate) transfer_bytes_per_second: Option<u64>,
    pub(crate) cache: CacheOptions,
    pub(crate) runtime: Option<IoRuntime>,
    pub(crate) env: Option<Arc<dyn Env>>,
    pub(crate) tables: Vec<Result<TableSchema>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Remote {
    Missing,
    Uri(String),
    Store(Arc<dyn RemoteStore>),
}

impl StateBackendBuilder {
    pub(crate) fn new(dir: &Path) -> Self {
        StateBackendBuilder {
            dir: dir.to_owned(),
            remote: Remote::Missing,
            remote_options: RemoteOptions::default(),
            job: "default".into(),
            operator: "state".into(),
            key_groups: 128,
            range: None,
            load_policy: LoadPolicy::default(),
            durability: Durability::default(),
            restore: Restore::default(),
            initial_state: None,
            copy_ahead: true,
            rocksdb: RocksDbOptions::default(),
            retained_snapshots: 1,
            snapshot_timeout: Duration::from_secs(600),
            transfer_threads: 4,
            download: DownloadOptions::default(),
            transfer_bytes_per_second: None,
            cache: CacheOptions::default(),
            runtime: None,
            env: None,
            tables: Vec::new(),
        }
    }

    /// The remote store, by URI: `file:///path`, `s3://bucket/prefix?endpoint=…&region=…`, `hdfs://host:port/prefix`,
    /// `memory://`. Credentials come from the usual environment variables and files, never from the URI.
    pub fn remote(mut self, uri: impl Into<String>) -> Self {
        self.remote = Remote::Uri(uri.into());
        self
    }

    /// The remote store, opened already; wrap it to count, delay or break requests.
    pub fn remote_store(mut self, store: Arc<dyn RemoteStore>) -> Self {
        self.remote = Remote::Store(store);
        self
    }

    /// The operator that the backend is a subtask of: 1 to 128 characters of `A-Z a-z 0-9 . _ -`. A snapshot of a job may hold the
    /// states of several; a restore takes those of its own. Defaults to `state`.
    pub fn operator(mut self, operator: impl Into<String>) -> Self {
        self.operator = operator.into();
        self
    }

    /// Time-outs, retries and limits for a store given by URI.
    pub fn remote_options(mut self, options: RemoteOptions) -> Self {
        self.remote_options = options;
        self
    }

    /// The job: the name under which its snapshots lie in the store. 1 to 128 characters of `A-Z a-z 0-9 . _ -`, not
    /// beginning with a dot. Default `default`.
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.job = job.into();
        self
    }

    /// The number of key groups that the keys of the job are spread over, for its whole life: 1 to 32768. Default 128,
    /// as Flink's smallest maximum parallelism.
    pub fn key_groups(mut self, key_groups: u16) -> Self {
        self.key_groups = key_groups;
        self
    }

    /// The key groups that this backend owns. Default: all.
    pub fn key_group_range(mut self, range: KeyGroupRange) -> Self {
        self.range = Some(range);
        self
    }

    /// When table files come to the local disk after a restore. Default [`LoadPolicy::Lazy`].
    pub fn load_policy(mut self, policy: LoadPolicy) -> Self {
        self.load_policy = policy;
        self
    }

    /// What happens to the writes after the newest snapshot in a crash. Default [`Durability::Snapshot`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The state to open with. Default [`Restore::Latest`].
    pub fn restore(mut self, restore: Restore) -> Self {
        self.restore = restore;
        self
    }

    /// What the job begins with where it has no complete snapshot of its own: one of another job, or a savepoint, in the same store; and whose that
    /// is from then on. With [`Restore::Latest`] alone, and nothing once the job has a snapshot, so a restart asks for the same. Flink's
    /// `execution.state-recovery.path` and `claim-mode`. The coordinator of several subtasks is given the same, and they what it
    /// [found](crate::Coordinator::initial_path): one of them that took the newest by itself could take another one.
    ///
    /// With [`ClaimMode::Claim`], [`open`](Self::open) claims it; from then on its job can be opened no more. Stop who writes it before: what deletions
    /// it has begun at that moment go on, and may take away any snapshot but its newest.
    pub fn initial_state(mut self, path: SnapshotPath, mode: ClaimMode) -> Self {
        self.initial_state = Some((path, mode));
        self
    }

    /// Whether the copies that the first snapshot after [`ClaimMode::NoClaim`] needs begin behind the reads, a second after the open, where the store makes them by
    /// itself: that snapshot finds them made then. Without, it makes them all, and as long as it is not taken, nothing is written to the store. Default `true`.
    pub fn copy_ahead(mut self, on: bool) -> Self {
        self.copy_ahead = on;
        self
    }

    /// Memory, files and compactions of RocksDB.
    pub fn rocksdb(mut self, options: RocksDbOptions) -> Self {
        self.rocksdb = options;
        self
    }

    /// How many complete snapshots stay in the store, at least 1; older ones are deleted after each new one. Default 1,
    /// as Flink's `execution.checkpointing.num-retained`.
    pub fn retained_snapshots(mut self, count: usize) -> Self {
        self.retained_snapshots = count;
        self
    }

    /// The time after which a snapshot that is not complete is given up, at most 12 hours. Default 10 minutes, as Flink's
    /// `execution.checkpointing.timeout`.
    pub fn snapshot_timeout(mut self, timeout: Duration) -> Self {
        self.snapshot_timeout = timeout;
        self
    }

    /// Files uploaded at once by a snapshot, 1 to 64. Default 4, as Flink's
    /// `state.backend.rocksdb.checkpoint.transfer.thread.num`.
    pub fn transfer_threads(mut self, threads: usize) -> Self {
        self.transfer_threads = threads;
        self
    }

    /// Bytes per second that the download after a restore and the uploads of snapshots may take, together. What reads
    /// bring from the store counts too but never waits: transfers get what reads leave. At least 64 KiB; can be changed at
    /// run time by [`StateBackend::set_transfer_bytes_per_second`].
    ///
    /// Default: no limit. Downloads then keep no more on their way than fills the link, so that reads hardly wait behind
    /// them; set a limit where the link is shared with others. A snapshot whose upload takes longer than
    /// [`snapshot_timeout`](Self::snapshot_timeout) at this rate fails.
    pub fn transfer_bytes_per_second(mut self, bytes: u64) -> Self {
        self.transfer_bytes_per_second = Some(bytes);
        self
    }

    /// How many files, and how much of each, are downloaded at once after a restore.
    pub fn download(mut self, options: DownloadOptions) -> Self {
        self.download = options;
        self
    }

    /// Bytes of the local disk that parts of remote files may take: what reads brought, and files whose download has not
    /// ended. At least 1 MiB; can be changed at run time by [`StateBackend::set_cache_bytes`]. A file that is longer is not
    /// downloaded, but read in parts for ever. Files that are local as a whole do not count.
    ///
    /// Default: no limit but [`min_free_disk_bytes`](Self::min_free_disk_bytes), as ForSt's `cache.size-based-limit`.
    /// Under [`LoadPolicy::Lazy`] and [`LoadPolicy::Eager`] the whole state comes to the disk anyway, so a smaller cache would
    /// only have the same bytes come twice.
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache.budget_bytes = bytes;
        self
    }

    /// Bytes of the local disk that the cache and the download leave free, for flushes, compactions, and others. Where less
    /// is free, cold parts of the cache go; where that is not enough, reads go to the store and the download waits. At most
    /// 1 TiB. Default 256 MiB, as ForSt's `cache.reserve-size`.
    pub fn min_free_disk_bytes(mut self, bytes: u64) -> Self {
        self.cache.min_free_bytes = bytes;
        self
    }

    /// Bytes of the local disk that table files and the cache may take together, at least 4 MiB. Default: no limit.
    ///
    /// With a limit the state may be larger than the disk: where it asks for it, or
    /// [`min_free_disk_bytes`](Self::min_free_disk_bytes) does, local files that a complete snapshot holds become remote again,
    /// the coldest first, under their readers; the download brings no file that would have to go at once. Files that no
    /// snapshot holds yet never go, and writes are never refused: by these the limit may be exceeded until the next snapshot is
    /// complete, which [`TierStats::disk_over_bytes`](crate::TierStats) tells. `docs/OPERATIONS.md` has what is guaranteed.
    ///
    /// Can be changed at run time, where there was one when the backend was opened: [`StateBackend::set_disk_budget_bytes`].
    /// A read of a local file costs one atomic operation more with a limit. Not with RocksDB's direct reads.
    pub fn disk_budget_bytes(mut self, bytes: u64) -> Self {
        self.cache.disk_budget_bytes = bytes;
        self
    }

    /// Whether what reads bring from the store is kept on the local disk. Default `true`. Without, every read that the block
    /// cache cannot answer goes to the store until its file is local; downloads go on after a restart all the same.
    pub fn cache_reads(mut self, on: bool) -> Self {
        self.cache.block_reads = on;
        self
    }

    /// The threads that carry out remote requests, shared with other backends. Default: two of this backend's own.
    pub fn io_runtime(mut self, runtime: IoRuntime) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The files of the local disk. Default [`PosixEnv`]; another one serves tests, and costs a detour through Rust at
    /// each read that RocksDB otherwise makes by itself.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = Some(env);
        self
    }

    /// Declares a table, so that `open` refuses a snapshot that holds it with other types or codecs, before anything
    /// local is changed. Tables that are not declared are checked when they are first asked for.
    pub fn table(mut self, descriptor: &impl TableDescriptor) -> Self {
        self.tables.push(descriptor.schema());
        self
    }

    /// Opens the backend; see [`StateBackend`]. Blocks for a few requests, and for the whole download where the policy
    /// is [`LoadPolicy::Eager`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] before anything is touched; what the store, the disk or the snapshot has wrong
    /// otherwise. After an error the same directory can be opened again.
    pub fn open(self) -> Result<StateBackend> {
        self.check()?;
        StateBackend::open(self)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |option, reason: String| Err(Error::InvalidOption { option, reason });
        if !is_job_name(&self.job) {
            return refuse(
                "job",
                format!(
                    "{:?} is not a job name: use 1 to 128 characters of A-Z a-z 0-9 . _ -, the first not a dot",
                    self.job
                ),
            );
        }
        let all = KeyGroupRange::all(self.key_groups)?;
        if let Some(range) = self.range.filter(|range| range.end() > all.end()) {
            return refuse("key_group_range", format!("{range} is not inside {all}"));
        }
        let is_part = self.range.is_some_and(|range| range != all);
        if let Some((path, _)) = self
            .initial_state
            .as_ref()
            .filter(|(path, _)| is_part && path.is_latest())
        {
            return refuse(
                "initial_state",
                format!(
                    "the newest snapshot of {path} may be another one for each subtask; give all of them the one that Coordinator::initial_path tells"
                ),
            );
        }
        if self.retained_snapshots == 0 {
            return refuse(
                "retained_snapshots",
                "at least 1 snapshot must be retained".into(),
            );
        }
        if !(1..=64).contains(&self.transfer_threads) {
            return refuse(
                "transfer_threads",
                format!("{} is not in 1 to 64", self.transfer_threads),
            );
        }
        check_timeout("snapshot_timeout", self.snapshot_timeout)?;
        check_cache_bytes(self.cache.budget_bytes)?;
        check_disk_budget_bytes(self.cache.disk_budget_bytes)?;
        check_transfer_rate(self.transfer_bytes_per_second)?;
        if self.cache.min_free_bytes > MAX_FREE_BYTES {
            return refuse(
                "min_free_disk_bytes",
                format!(
                    "{} is not in 0..={MAX_FREE_BYTES}: nothing would ever come to the disk",
                    self.cache.min_free_bytes
                ),
            );
        }
        if matches!(self.remote, Remote::Missing) {
            return refuse(
                "remote",
                "give the store for snapshots, for example file:///var/lib/app/snapshots or s3://bucket/prefix".into(),
            );
        }
        self.declared()?;
        self.rocksdb.validate()
    }

    /// The tables that were declared.
    pub(crate) fn declared(&self) -> Result<Vec<TableSchema>> {
        self.tables.iter().cloned().collect()
    }

    pub(crate) fn has_disk_budget(&self) -> bool {
        self.cache.disk_budget_bytes != u64::MAX
    }

    pub(crate) fn open_store(&self, runtime: &IoRuntime) -> Result<Arc<dyn RemoteStore>> {
        match &self.remote {
            Remote::Store(store) => Ok(store.clone()),
            Remote::Uri(uri) => Ok(remote::open(uri, &self.remote_options, runtime)?),
            Remote::Missing => Err(Error::InvalidOption {
                option: "remote",
                reason: "no store is given".into(),
            }),
        }
    }

    pub(crate) fn local_env(&self) -> Arc<dyn Env> {
        self.env.clone().unwrap_or_else(|| Arc::new(PosixEnv))
    }
}

/// Refuses a time in which no snapshot can end, or that is longer than what is uploaded for it is sure to stay.
pub(crate) fn check_timeout(option: &'static str, timeout: Duration) -> Result<()> {
    if !timeout.is_zero() && timeout <= MAX_TIMEOUT {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option,
        reason: format!("{timeout:?} is not longer than 0 and at most {MAX_TIMEOUT:?}"),
    })
}

/// Refuses a budget in which nothing could be moved.
pub(crate) fn check_disk_budget_bytes(bytes: u64) -> Result<()> {
    if bytes >= MIN_DISK_BUDGET_BYTES {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "disk_budget_bytes",
        reason: format!(
            "{bytes} is less than {MIN_DISK_BUDGET_BYTES}: files that are being written alone take more"
        ),
    })
}

/// Refuses a cache that could hold nothing.
pub(crate) fn check_cache_bytes(bytes: u64) -> Result<()> {
    if bytes >= MIN_CACHE_BYTES {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "cache_bytes",
        reason: format!(
            "{bytes} is less than {MIN_CACHE_BYTES}: no file could be downloaded; to keep nothing of reads, use cache_reads(false)"
        ),
    })
}

/// Refuses a rate at which nothing would ever end.
pub(crate) fn check_transfer_rate(bytes_per_second: Option<u64>) -> Result<()> {
    match bytes_per_second {
        Some(rate) if rate < MIN_TRANSFER_RATE => Err(Error::InvalidOption {
            option: "transfer_bytes_per_second",
            reason: format!(
                "{rate} is less than {MIN_TRANSFER_RATE}; to download nothing, use LoadPolicy::OnDemand"
            ),
        }),
        _ => Ok(()),
    }
}
