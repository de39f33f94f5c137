//! [`StateBackend`]: what users open, write to, snapshot and close.

mod snapshots;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lazurite_env::ErrorKind;
use lazurite_env_rocksdb::{LocalFiles, RocksEnv, rocksdb_env};
use lazurite_tiering::{DownloadProgress, Downloader, OpenFiles, UnionEnv};

use self::snapshots::Running;
use crate::{
    Error, LoadPolicy, RestoreReport, Result,
    builder::{
        Durability, StateBackendBuilder, check_cache_bytes, check_disk_budget_bytes,
        check_transfer_rate,
    },
    clip::Clipper,
    directory::Directory,
    key_groups::KeyGroupRange,
    metrics::{self, PhaseClock},
    open::{Prepared, prepare, with_elapsed},
    rocks::{ClipProgress, Columns, Db, DbConfig},
    snapshot::{
        SubtaskState,
        context::{Context, Settings},
        copy_ahead::CopyAhead,
    },
    stats::TierStats,
    table::{
        MapState, MapStateDescriptor, TableContext, TableDescriptor, TableSchema, Tables,
        ValueState, ValueStateDescriptor, WriteBatch,
    },
};

/// How long after an open the link belongs to the first reads alone: a few round trips. The download, which takes seconds
/// at least, begins then.
const FIRST_READS: Duration = Duration::from_millis(100);

/// How long after an open copies ahead begin: when the first reads are over, and whoever only wanted these has ended.
const BEFORE_COPIES: Duration = Duration::from_secs(1);

/// Keyed state on the local disk and in a remote store.
///
/// Safe to share among threads (in an `Arc`) and to call from tokio workers, where its calls block as any file
/// operation does: a read that goes to the store for as long as the store takes.
///
/// Dropping it aborts a snapshot under way, stops the download, and closes the database. With [`Durability::Snapshot`]
/// what was written after the newest snapshot is gone then. Tables and iterators that outlive it answer
/// [`Error::Closed`], and keep the directory locked until they are dropped too.
pub struct StateBackend {
    // Dropped in this order: the database before the files below it, the directory's lock last.
    clipper: Option<Clipper>,
    copies: Option<CopyAhead>,
    running: Mutex<Option<Running>>,
    tables: Mutex<Tables>,
    /// The parts of snapshots that are not known to be complete, by the snapshots' numbers.
    parts: Arc<Mutex<BTreeMap<u64, SubtaskState>>>,
    context: Arc<TableContext>,
    snapshots: Arc<Context>,
    union: Arc<UnionEnv>,
    rocks_env: Arc<RocksEnv>,
    report: Option<RestoreReport>,
    metrics_id: u64,
    timeout: Duration,
    directory: Directory,
}

impl StateBackend {
    /// The options of a backend whose local directory is `dir`.
    pub fn builder(dir: impl AsRef<Path>) -> StateBackendBuilder {
        StateBackendBuilder::new(dir.as_ref())
    }

    pub(crate) fn open(options: StateBackendBuilder) -> Result<Self> {
        let begun = Instant::now();
        let range = match options.range {
            Some(range) => range,
            None => KeyGroupRange::all(options.key_groups)?,
        };
        let mut phases = PhaseClock::start(&metrics::RESTORE_PHASE_SECONDS, &options.job);
        let prepared = prepare(&options, range, &mut phases)?;
        let union = prepared.union.clone();
        if options.load_policy == LoadPolicy::Eager && union.remote_files() > 0 {
            load_what_fits(&options, &union)?;
            phases.ended("download");
        }
        union.observe_reads(metrics::observe_reads(&options.job));
        let rocks_env = Arc::new(rocksdb_env(union.clone())?);
        let files = rocks_env.local_files();
        if options.has_disk_budget() {
            files.keep_releasable();
        }
        union.watch_open_files(Arc::new(NativeFiles(files)));
        let (counted, ahead) = (union.clone(), union.clone());
        let db = Db::open(DbConfig {
            path: union.db_dir().to_owned(),
            env: rocks_env.env().clone(),
            options: options.rocksdb.clone(),
            key_groups: options.key_groups,
            wal: options.durability == Durability::Wal,
            columns: columns(&rocks_env, &union, &prepared, options.key_groups)?,
            create_if_missing: true,
            remote_files: Arc::new(move || counted.remote_files()),
            read_ahead: Some(Arc::new(move |plan| ahead.read_ahead(plan))),
            lock: Some(prepared.directory.lock()),
        })?;
        phases.ended("database");
        let clipper = Clipper::start(&db, &union)?;
        if options.load_policy == LoadPolicy::Lazy && union.remote_files() > 0 {
            union.download().start_after(FIRST_READS)?;
        }
        let settings = Settings {
            staging: prepared.directory.staging(),
            writer: prepared.directory.token().to_owned(),
            operator: options.operator.clone(),
            key_groups: options.key_groups,
            range,
            retained: options.retained_snapshots,
            upload_threads: options.transfer_threads,
        };
        let snapshots = Context::new(
            prepared.store,
            prepared.runtime,
            prepared.layout,
            union.clone(),
            rocks_env.clone(),
            prepared.known,
            settings,
        );
        let snapshots = Arc::new(snapshots);
        let copies = match options.copy_ahead && prepared.copies {
            true => CopyAhead::start(&snapshots, BEFORE_COPIES)?,
            false => None,
        };
        let report = with_elapsed(prepared.report, begun);
        let metrics_id = metrics::join(metrics::Source {
            db: db.clone(),
            snapshots: snapshots.clone(),
            requests: prepared.requests,
            restored: report.clone(),
        });
        Ok(StateBackend {
            clipper,
            copies,
            running: Mutex::new(None),
            tables: Mutex::new(prepared.tables),
            parts: Arc::default(),
            context: Arc::new(TableContext {
                db,
                key_groups: options.key_groups,
                range,
            }),
            snapshots,
            union,
            rocks_env,
            report,
            metrics_id,
            timeout: options.snapshot_timeout,
            directory: prepared.directory,
        })
    }

    /// What the backend was restored from when it was opened; `None` where it began empty or went on with a kept
    /// directory.
    pub fn restored(&self) -> Option<&RestoreReport> {
        self.report.as_ref()
    }

    /// The number of key groups of the job.
    pub fn key_groups(&self) -> u16 {
        self.context.key_groups
    }

    /// The key groups that this backend owns.
    pub fn key_group_range(&self) -> KeyGroupRange {
        self.context.range
    }

    /// The tables that there are.
    pub fn tables(&self) -> Vec<TableSchema> {
        lock(&self.tables).schemas.clone()
    }

    /// Writes what is in memory to local files of level 0, of all tables at the same point in time. Snapshots do this by
    /// themselves.
    pub fn flush(&self) -> Result<()> {
        self.context.db.flush_all()
    }

    /// Compacts every table into its last level, reading and rewriting all of it, remote files included.
    pub fn compact(&self) -> Result<()> {
        let tables = lock(&self.tables).clone();
        let columns = tables
            .columns
            .iter()
            .filter_map(|column| self.context.db.column(&column.column));
        columns.into_iter().try_for_each(|column| column.compact())
    }

    /// What was read from which tier since the backend was opened.
    pub fn tier(&self) -> TierStats {
        TierStats::new(self.rocks_env.local_reads(), self.union.stats())
    }

    /// Changes what parts of remote files may take of the local disk:
    /// [`cache_bytes`](StateBackendBuilder::cache_bytes). Where they take more, the coldest go before this returns, which
    /// blocks on the local disk; what running downloads have reserved stays theirs. Holds until the backend is closed.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where it is less than 1 MiB.
    pub fn set_cache_bytes(&self, bytes: u64) -> Result<()> {
        check_cache_bytes(bytes)?;
        self.union.set_cache_budget(bytes);
        Ok(())
    }

    /// Changes what table files and cache may take of the local disk together:
    /// [`disk_budget_bytes`](StateBackendBuilder::disk_budget_bytes). Where they take more, files that snapshots hold are demoted
    /// before this returns, which blocks on the local disk. Holds until the backend is closed.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where it is less than 4 MiB, or where the backend was opened without a budget: its files were
    /// not opened so that they could go.
    pub fn set_disk_budget_bytes(&self, bytes: u64) -> Result<()> {
        check_disk_budget_bytes(bytes)?;
        if self.union.stats().disk_budget_bytes == u64::MAX {
            return Err(Error::InvalidOption {
                option: "disk_budget_bytes",
                reason: "the backend was opened without one; open it with any, however large, to change it later".into(),
            });
        }
        self.union.set_disk_budget(bytes);
        Ok(())
    }

    /// Changes what downloads and uploads may take of the link:
    /// [`transfer_bytes_per_second`](StateBackendBuilder::transfer_bytes_per_second); `None`: no limit. Requests that are on
    /// their way go on as they are. Holds until the backend is closed.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where it is less than 64 KiB.
    pub fn set_transfer_bytes_per_second(&self, bytes: Option<u64>) -> Result<()> {
        check_transfer_rate(bytes)?;
        self.union.transfer_budget().set(bytes);
        Ok(())
    }

    /// Changes when table files come from the store, from now on.
    ///
    /// * [`LoadPolicy::Lazy`]: the download begins, or goes on where it was, behind the reads.
    /// * [`LoadPolicy::OnDemand`]: it ends; this waits for its threads, no longer than for a local write. What came of
    ///   unfinished files stays in the cache, and what is local stays local.
    /// * [`LoadPolicy::Eager`]: as lazy, and this blocks until every file is local.
    ///
    /// Ends a pause. Holds until the backend is closed.
    ///
    /// # Errors
    /// As [`wait_until_local`](Self::wait_until_local); the policy is changed all the same.
    pub fn set_load_policy(&self, policy: LoadPolicy) -> Result<()> {
        let download = self.union.download();
        match policy {
            LoadPolicy::OnDemand => download.stop(),
            LoadPolicy::Lazy | LoadPolicy::Eager => download.start()?,
        }
        download.resume();
        match policy {
            LoadPolicy::Eager => self.wait_until_local(),
            LoadPolicy::Lazy | LoadPolicy::OnDemand => Ok(()),
        }
    }

    /// How far the download of remote files is. Cheap.
    pub fn download_progress(&self) -> DownloadProgress {
        self.union.download().progress()
    }

    /// The download of remote files: start it under [`LoadPolicy::OnDemand`], pause it, resume it.
    pub fn download(&self) -> &Downloader {
        self.union.download()
    }

    /// How much is left to clip: files that hold state of other key groups too, since the backend was restored for fewer than they were
    /// written for. Once every file is local, they are rewritten without it, one at a time and behind everything else; never under
    /// [`LoadPolicy::OnDemand`] with remote files, and not while a disk budget keeps files remote. Cheap.
    pub fn clip_progress(&self) -> ClipProgress {
        self.context.db.clip_progress()
    }

    /// Blocks until every file is on the local disk; starts the download where it has not been.
    ///
    /// # Errors
    /// The first file that cannot be had, by reason of the store or of the disk.
    pub fn wait_until_local(&self) -> Result<()> {
        self.union.download().start()?;
        Ok(self.union.download().wait_until_local()?)
    }

    /// The table with one value per key that `descriptor` declares, created where it is new.
    ///
    /// # Errors
    /// [`Error::TableMismatch`] where it was written with other types or codecs; what the disk answered.
    pub fn value_state<K, V>(
        &self,
        descriptor: &ValueStateDescriptor<K, V>,
    ) -> Result<ValueState<K, V>> {
        let columns = self.open_table(&descriptor.schema()?)?;
        Ok(ValueState::new(self.context.clone(), columns, descriptor))
    }

    /// The table with a map per key that `descriptor` declares, created where it is new.
    ///
    /// # Errors
    /// As for [`value_state`](Self::value_state).
    pub fn map_state<K, UK, UV>(
        &self,
        descriptor: &MapStateDescriptor<K, UK, UV>,
    ) -> Result<MapState<K, UK, UV>> {
        let columns = self.open_table(&descriptor.schema()?)?;
        Ok(MapState::new(self.context.clone(), columns, descriptor))
    }

    /// An empty batch of writes to any tables of this backend, for [`write`](Self::write).
    pub fn write_batch(&self) -> WriteBatch {
        WriteBatch::new(self.context.db.clone())
    }

    /// Writes a batch: all of it or, after an error or a crash, nothing.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`] where another backend made it; what RocksDB answered.
    pub fn write(&self, batch: WriteBatch) -> Result<()> {
        if !batch.is_of(&self.context.db) {
            return Err(Error::ForeignBatch);
        }
        batch.commit()
    }

    /// The columns of a table, created where it is new, refused where it is stored otherwise.
    fn open_table(&self, declared: &TableSchema) -> Result<Columns> {
        let mut tables = lock(&self.tables);
        match tables.schema(&declared.name) {
            Some(stored) => declared.check_compatible(stored)?,
            None => {
                // The schema is durable before the column: after a crash between the two, the table is there and empty.
                let mut next = tables.clone();
                next.add(declared.clone(), self.context.range);
                self.directory.write_tables(&next)?;
                *tables = next;
            }
        }
        let columns = tables
            .columns_of(&declared.name)
            .map(|column| {
                let start = column.key_group_range.start();
                Ok((start, self.context.db.create_column(&column.column)?))
            })
            .collect::<Result<Vec<_>>>()?;
        Columns::new(columns).ok_or(Error::Closed) // it has one
    }
}

/// RocksDB's open files, as the union asks for them.
#[derive(Debug)]
struct NativeFiles(LocalFiles);

impl OpenFiles for NativeFiles {
    fn release(&self, path: &Path) -> bool {
        self.0.release(path)
    }

    fn idle(&self, path: &Path) -> Option<u32> {
        self.0.idle(path)
    }

    fn tick(&self) {
        self.0.tick();
    }

    fn take_chunk_reads(&self, path: &Path, halvings: u32) -> Vec<u8> {
        self.0.take_chunk_heat(path, halvings)
    }
}

/// The download of [`LoadPolicy::Eager`]. What a disk budget has no room for stays remote.
fn load_what_fits(options: &StateBackendBuilder, union: &UnionEnv) -> Result<()> {
    union.download().start()?;
    match union.download().wait_until_local() {
        Err(error) if error.kind() == ErrorKind::NoSpace && options.has_disk_budget() => {
            tracing::warn!(%error, "not all of the state has room here; the rest is read from the store");
            Ok(())
        }
        result => Ok(result?),
    }
}

/// The columns to open: those of the tables, with their key groups where these are not all `key_groups`. A kept directory may have more,
/// created by a process that died, so its MANIFEST is asked; after a restore the metadata knows them all, since a table is recorded
/// before its column is created.
fn columns(
    env: &RocksEnv,
    union: &UnionEnv,
    prepared: &Prepared,
    key_groups: u16,
) -> Result<Vec<(String, Option<KeyGroupRange>)>> {
    let all = KeyGroupRange::all(key_groups)?;
    let mut columns: Vec<_> = prepared
        .tables
        .columns
        .iter()
        .map(|column| {
            let range = column.key_group_range;
            (column.column.clone(), (range != all).then_some(range))
        })
        .collect();
    if prepared.kept {
        // Those that are there already stay as they are.
        let stored = Db::stored_columns(env.env(), union.db_dir())?;
        columns.extend(stored.into_iter().map(|column| (column, None)));
    }
    Ok(columns)
}

impl Drop for StateBackend {
    fn drop(&mut self) {
        // Either may wait for the other's turn.
        if let Some(copies) = &self.copies {
            copies.stop();
        }
        if let Some(running) = lock(&self.running).take() {
            running.deadline.abort();
            // Ends when the thread drops its sender: at the latest after the request that is under way.
            let _ = running.ended.recv();
        }
        self.copies = None;
        self.union.download().stop();
        self.union.stop_demotions();
        metrics::leave(self.metrics_id);
        if let Some(clipper) = &self.clipper {
            clipper.stop();
        }
        self.context.db.close();
        self.clipper = None; // it has nothing of the directory any more
    }
}

impl fmt::Debug for StateBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateBackend")
            .field("job", &self.snapshots.layout.job())
            .field("key_groups", &self.context.range)
            .field("tables", &lock(&self.tables).schemas.len())
            .finish_non_exhaustive()
    }
}

/// None of these locks is held across a panic that could leave its content half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
