//! One open database, and its column families as a whole.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use lazurite_env::FileLock;
use rocksdb::{
    Cache, ColumnFamilyDescriptor, DB, Env, Options, ReadOptions, ReadTier, WriteOptions,
};

use super::{
    ahead::{BeginReadAhead, Orders},
    batch::Batch,
    clip::Clips,
    column::Column,
    error,
    figures::Work,
    options::rocksdb_options,
    pool::Pool,
};
use crate::{
    error::{Error, Result},
    key_groups::KeyGroupRange,
    options::RocksDbOptions,
};

/// The column family that RocksDB always has. No table may have its name; it stays empty.
pub(crate) const DEFAULT_COLUMN: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

/// How to open a [`Db`].
pub(crate) struct DbConfig {
    /// The directory, as the Env sees it.
    pub path: PathBuf,
    /// Where its files are.
    pub env: Env,
    /// The user's settings; validated by [`Db::open`].
    pub options: RocksDbOptions,
    /// How many key groups the job has. Every key begins with its own, two bytes in big-endian order.
    pub key_groups: u16,
    /// `true`: every write goes through the WAL. `false`: none does. All flushes are atomic over all columns in any case.
    pub wal: bool,
    /// Column families to open; those that the database has must all be here ([`Db::stored_columns`]), others are created. With the key
    /// groups of those whose files may hold others too, which nobody ever reads.
    pub columns: Vec<(String, Option<KeyGroupRange>)>,
    /// Creates the database where there is none; else that is an error.
    pub create_if_missing: bool,
    /// How many of the database's files are not on the local disk. Asked for each `multi_get` and each iterator: must be
    /// cheap and take no lock.
    pub remote_files: Arc<dyn Fn() -> usize + Send + Sync>,
    /// Fetches ahead of iterators that walk over remote files; `None`: nothing is.
    pub read_ahead: Option<BeginReadAhead>,
    /// A lock on the directory that must be held for as long as the database is open, by whatever handle.
    pub lock: Option<Arc<dyn FileLock>>,
}

/// One open database. Shared by `Arc`; every method may be called from any thread at once.
pub(crate) struct Db {
    pub(super) db: DB,
    pub(super) read: ReadOptions,
    pub(super) read_cached: ReadOptions,
    pub(super) write: WriteOptions,
    pub(super) remote_files: Arc<dyn Fn() -> usize + Send + Sync>,
    pub(super) pool: Pool,
    pub(super) cache: Cache,
    pub(super) block_cache_capacity: usize,
    pub(super) statistics: bool,
    pub(super) work: Arc<Work>,
    pub(super) read_ahead: Option<BeginReadAhead>,
    pub(super) orders: Orders,
    /// Bytes of a data block.
    pub(super) block_bytes: u64,
    pub(super) column_options: Options,
    pub(super) clips: Clips,
    name: String,
    /// Names; also serialises creating.
    columns: Mutex<BTreeSet<String>>,
    closed: AtomicBool,
    /// Declared, and so released, after the database.
    _lock: Option<Arc<dyn FileLock>>,
}

impl Db {
    /// Opens the database. Reads the MANIFEST and, where there is one, the WAL; no table file.
    pub(crate) fn open(config: DbConfig) -> Result<Arc<Db>> {
        config.options.validate()?;
        let name = config.path.display().to_string();
        let cache = Cache::new_hyper_clock_cache(config.options.block_cache_bytes, 0);
        let work = Arc::<Work>::default();
        let (groups, env) = (config.key_groups, &config.env);
        let column_options = rocksdb_options(&config.options, groups, env, &cache, &work)
            .map_err(|message| error::from_message("open", &name, message))?;
        let mut options = column_options.clone();
        options.create_if_missing(config.create_if_missing);
        let (mut columns, mut clips) = (BTreeSet::new(), Clips::default());
        let mut descriptors = vec![ColumnFamilyDescriptor::new(
            DEFAULT_COLUMN,
            column_options.clone(),
        )];
        for (column, range) in config.columns {
            if column == DEFAULT_COLUMN || columns.contains(&column) {
                continue;
            }
            let mut options = column_options.clone();
            if let Some(range) = range {
                clips
                    .add(&column, range, &mut options)
                    .map_err(|message| error::from_message("open", &name, message))?;
            }
            descriptors.push(ColumnFamilyDescriptor::new(&column, options));
            columns.insert(column);
        }
        let db = DB::open_cf_descriptors(&options, &config.path, descriptors)
            .map_err(|e| error::map("open", &name, e))?;

        let mut read_cached = ReadOptions::default();
        read_cached.set_read_tier(ReadTier::BlockCache);
        let mut write = WriteOptions::default();
        write.disable_wal(!config.wal);
        Ok(Arc::new(Db {
            db,
            read: ReadOptions::default(),
            read_cached,
            write,
            remote_files: config.remote_files,
            pool: Pool::new("lazurite-cold-read", config.options.cold_read_threads),
            cache,
            block_cache_capacity: config.options.block_cache_bytes,
            statistics: config.options.statistics,
            work,
            read_ahead: config.read_ahead,
            orders: Orders::default(),
            block_bytes: config.options.block_bytes as u64,
            column_options,
            clips,
            name,
            columns: Mutex::new(columns),
            closed: AtomicBool::new(false),
            _lock: config.lock,
        }))
    }

    /// The column families of the database at `path`, the default one left out. Reads its MANIFEST.
    pub(crate) fn stored_columns(env: &Env, path: &Path) -> Result<Vec<String>> {
        let mut options = Options::default();
        options.set_env(env);
        let mut columns = DB::list_cf(&options, path)
            .map_err(|e| error::map("list the tables of", &path.display().to_string(), e))?;
        columns.retain(|column| column != DEFAULT_COLUMN);
        Ok(columns)
    }

    /// The column family `name`, if it is there. Takes a lock: keep the result.
    pub(crate) fn column(self: &Arc<Self>, name: &str) -> Option<Column> {
        Column::find(self, name)
    }

    /// The column family `name`, created where it is missing: durable on return.
    pub(crate) fn create_column(self: &Arc<Self>, name: &str) -> Result<Column> {
        self.check_open()?;
        let mut columns = self.lock_columns();
        if !columns.contains(name) {
            self.db
                .create_cf(name, &self.column_options)
                .map_err(|e| error::map("create", name, e))?;
            columns.insert(name.to_string());
        }
        Column::find(self, name).ok_or(Error::Closed)
    }

    /// Drops the column family `name`, its files with it once nobody uses them: drop every [`Column`] of it before.
    pub(crate) fn drop_column(&self, name: &str) -> Result<()> {
        self.check_open()?;
        let mut columns = self.lock_columns();
        self.db
            .drop_cf(name)
            .map_err(|e| error::map("drop", name, e))?;
        columns.remove(name);
        Ok(())
    }

    /// Writes a batch, all of it or nothing. Without a WAL it is in memory on return, with one it survives a crash of the
    /// process.
    pub(crate) fn write(&self, batch: Batch) -> Result<()> {
        self.check_open()?;
        self.db
            .write_opt(batch.batch, &self.write)
            .map_err(|e| error::map("write to", &self.name, e))
    }

    /// Stops deleting files until the guard is dropped, so that the files that [`Db::live_files`] names stay where they are.
    pub(crate) fn pause_file_deletions(self: &Arc<Self>) -> Result<DeletionsPaused> {
        self.check_open()?;
        self.db
            .disable_file_deletions()
            .map_err(|e| error::map("pause file deletions of", &self.name, e))?;
        Ok(DeletionsPaused(self.clone()))
    }

    /// Stops flushes and compactions and waits for those that run; every later operation is [`Error::Closed`]. The files
    /// are closed once the last handle (column, iterator, guard) is dropped. Does not flush.
    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.db.cancel_all_background_work(true);
        }
    }

    /// The path, for errors.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// True where some file of the database is not on the local disk.
    pub(super) fn has_remote_files(&self) -> bool {
        (self.remote_files)() > 0
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn check_open(&self) -> Result<()> {
        if self.is_open() {
            return Ok(());
        }
        Err(Error::Closed)
    }

    pub(super) fn lock_columns(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set of names is right after any panic: each change of it is one call.
        self.columns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({})", self.name)
    }
}

/// While it lives, RocksDB deletes no file of the database. Guards may overlap.
#[derive(Debug)]
pub(crate) struct DeletionsPaused(Arc<Db>);

impl Drop for DeletionsPaused {
    fn drop(&mut self) {
        if let Err(error) = self.0.db.enable_file_deletions() {
            // Files pile up until the next open, which deletes them; nothing is lost.
            tracing::warn!(db = self.0.name, %error, "RocksDB did not resume file deletions");
        }
    }
}
