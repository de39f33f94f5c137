//! [`StateBackend`]: what users open, write to, snapshot and close.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, TryRecvError, channel},
    },
    time::{Duration, Instant},
};

use lazurite_env::{Error as EnvError, ErrorKind};
use lazurite_env_rocksdb::{LocalFiles, RocksEnv, rocksdb_env};
use lazurite_tiering::{DownloadProgress, Downloader, OpenFiles, UnionEnv};

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
        Capture, Deadline, Job, PendingSnapshot, SnapshotOptions, SubtaskHandle, SubtaskState,
        commit::check_is_empty,
        context::{Context, Settings},
        copies::better_uploaded,
        layout::token,
        registry::{REUSE_TIME, Uploaded},
        uploaded,
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

/// Parts of snapshots that are kept in mind: those of more are not complete by now, or nobody tells.
const MAX_PARTS: usize = 16;

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

/// The snapshot under way.
struct Running {
    deadline: Deadline,
    /// Nothing is ever sent: the sender is dropped when the snapshot's thread ends.
    ended: Receiver<()>,
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
        let report = with_elapsed(prepared.report, begun);
        let metrics_id = metrics::join(metrics::Source {
            db: db.clone(),
            snapshots: snapshots.clone(),
            requests: prepared.requests,
            restored: report.clone(),
        });
        Ok(StateBackend {
            clipper,
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

    /// Takes a snapshot of everything written before this call.
    ///
    /// Blocks for the synchronous part: a flush and some links. Writes by other threads during this call may or may not
    /// be in it, each whole; hold them back where the snapshot must match a source position exactly. What is in it
    /// is durable once [`PendingSnapshot::wait`] returned.
    ///
    /// # Errors
    /// [`Error::SavepointExists`] where there is something in a savepoint's directory; [`Error::PartOfSnapshot`] where the backend was restored from a snapshot that holds more than it does; [`Error::SnapshotInProgress`] where the one before has not ended; [`Error::SnapshotConflict`] once another writer was
    /// found to have taken over the job: open a backend anew to go on from what that one wrote; what the disk or RocksDB
    /// answered.
    pub fn snapshot(&self, options: SnapshotOptions) -> Result<PendingSnapshot> {
        if let Some(id) = self.snapshots.part_of {
            return Err(Error::PartOfSnapshot {
                id,
                range: self.context.range,
            });
        }
        let mut running = lock(&self.running);
        if running.as_ref().is_some_and(Running::goes_on) {
            return Err(Error::SnapshotInProgress);
        }
        self.snapshots.committer.history().check_alone()?;
        if let Some(dir) = options.savepoint_dir()? {
            check_is_empty(&self.snapshots.snapshot_store(), &dir)?;
        }
        let figures = &self.snapshots.figures;
        figures.begun();
        let id = self.snapshots.committer.history().next_id();
        let (pending, run) = self
            .begin_snapshot(id, options, Job::run)
            .inspect_err(|error| figures.ended(Err(error)))?;
        *running = Some(run);
        Ok(pending)
    }

    /// Takes this subtask's part of the snapshot `id`, of everything written before this call. The number is that of the job's
    /// [`Coordinator`](crate::Coordinator), which is given the handle that [`PendingSnapshot::wait`] returns: all that it names is
    /// durable then, and the snapshot exists when the coordinator has completed it. Tell
    /// [`confirm_part`](Self::confirm_part) of that. Blocks as [`snapshot`](Self::snapshot) does.
    ///
    /// # Errors
    /// [`Error::SnapshotInProgress`] where the one before has not ended; what the disk or RocksDB answered.
    pub fn snapshot_part(
        &self,
        id: u64,
        options: SnapshotOptions,
    ) -> Result<PendingSnapshot<SubtaskHandle>> {
        let mut running = lock(&self.running);
        if running.as_ref().is_some_and(Running::goes_on) {
            return Err(Error::SnapshotInProgress);
        }
        let figures = &self.snapshots.figures;
        figures.begun();
        let parts = self.parts.clone();
        let run = move |job: Job, context: &Context| {
            let is_savepoint = job.savepoint.is_some();
            let handle = job.run_part(context)?;
            if is_savepoint {
                return Ok(handle);
            }
            let mut parts = lock(&parts);
            parts.insert(id, handle.state.clone());
            while parts.len() > MAX_PARTS {
                parts.pop_first();
            }
            Ok(handle)
        };
        let (pending, run) = self
            .begin_snapshot(id, options, run)
            .inspect_err(|error| figures.ended(Err(error)))?;
        *running = Some(run);
        Ok(pending)
    }

    /// Tells the backend that the snapshot `id`, of which it gave a part, is complete: local files that it holds are reused by a restart on
    /// this directory from now on, and may be demoted. Nothing where it gave none. Blocks for a small local write.
    ///
    /// # Errors
    /// What the disk answered; the snapshot is complete all the same.
    pub fn confirm_part(&self, id: u64) -> Result<()> {
        let state = {
            let mut parts = lock(&self.parts);
            let later = parts.split_off(&(id + 1));
            std::mem::replace(&mut *parts, later).remove(&id)
        };
        if let Some(state) = state {
            let entries = uploaded(state.files.iter())?;
            self.snapshots.registry().completed(&state);
            self.union.catalogue_uploaded(&entries)?;
            self.union.record_uploaded(&entries)?;
        }
        Ok(())
    }

    /// The synchronous part, and the thread of the other one.
    fn begin_snapshot<T: Send + 'static>(
        &self,
        id: u64,
        options: SnapshotOptions,
        run: impl FnOnce(Job, &Context) -> Result<T> + Send + 'static,
    ) -> Result<(PendingSnapshot<T>, Running)> {
        let begun = Instant::now();
        let deadline = Deadline::new(options.timeout.unwrap_or(self.timeout));
        let staging = self.snapshots.staging.join(format!("chk-{id}-{}", token()));
        let mut phases = PhaseClock::start(
            &metrics::SNAPSHOT_PHASE_SECONDS,
            self.snapshots.layout.job().as_str(),
        );
        let savepoint = options.savepoint_dir()?;
        let context = self.snapshots.clone();
        // A file that the store has elsewhere is copied there, if that costs no more than to send it.
        let is_staged = |known: &Uploaded, name: &str| {
            !context.committer.bounds.hold(&known.key) && better_uploaded(&context, name)
        };
        let mut registry = self.snapshots.registry();
        registry.expire(REUSE_TIME);
        let mut capture = Capture::take(
            &self.context.db,
            &self.union,
            &mut registry,
            &is_staged,
            staging,
            &mut phases,
        )?;
        drop(registry);
        {
            let mut heat = self.snapshots.heat();
            heat.look(Instant::now(), &self.context.db.file_reads()?);
            capture.note_heat(&heat);
            self.union.download().set_heat(heat.all());
        }
        let job = Job {
            id,
            db: self.context.db.clone(),
            capture,
            tables: lock(&self.tables).clone(),
            options,
            deadline: deadline.clone(),
            savepoint,
            sync: begun.elapsed(),
            phases,
        };
        let (alive, ended) = channel();
        let thread = std::thread::Builder::new()
            .name("lazurite-snapshot".into())
            .spawn(move || {
                // Dropped in the other order: who waits for the end may give the directory to another, so nothing of this one
                // is held any more by then.
                let _alive: std::sync::mpsc::Sender<()> = alive;
                let context = context;
                run(job, &context)
            })
            .map_err(|e| EnvError::from_io("start", "the snapshot's thread", e))?;
        let running = Running {
            deadline: deadline.clone(),
            ended,
        };
        Ok((PendingSnapshot::new(id, deadline, thread), running))
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

impl Running {
    fn goes_on(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Empty)
    }
}

impl Drop for StateBackend {
    fn drop(&mut self) {
        if let Some(running) = lock(&self.running).take() {
            running.deadline.abort();
            // Ends when the thread drops its sender: at the latest after the request that is under way.
            let _ = running.ended.recv();
        }
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
