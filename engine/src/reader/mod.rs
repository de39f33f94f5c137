//! Reading a snapshot where it lies: what tools need that know neither the program that wrote it nor its types, and programs that want to look
//! into the state of another one.
//!
//! [`SnapshotReader`] restores as a backend does, so only metadata and the ends of table files come at first, and then the blocks that reads
//! ask for. It has no part of what writes: no number of a snapshot is taken, no lock, no fence, and nothing is written to the store. So
//! it may run beside the job. Keys and values are bytes here, as the tables' codecs wrote them.
//!
//! Invariant: nothing in this module asks the store to write or to delete.
//!
//! Crash story: what it writes locally is in a temporary directory of its own, which goes when it is dropped, and stays where the process is
//! killed. That of [`export()`] is told in `place`.

mod export;
mod open;
mod place;
mod table;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use lazurite_env::Error as EnvError;
use tempfile::TempDir;

pub use export::{ExportOptions, ExportReport, ExportWay, ExportedTable, export};
use open::Opened;
pub use table::{RawEntries, RawEntry, RawKey, SnapshotTable};

#[cfg(doc)]
use crate::Error;
use crate::{
    Result,
    key_groups::KeyGroupRange,
    snapshot::{SnapshotStore, metadata::user_bytes},
    stats::TierStats,
    table::TableSchema,
};

/// What to read: by default the newest complete snapshot of the job `default`, of its only operator, as many key groups as it has.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    job: String,
    snapshot: Option<u64>,
    savepoint: Option<String>,
    operator: Option<String>,
    range: Option<KeyGroupRange>,
    temp_dir: Option<PathBuf>,
    block_cache_bytes: usize,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        ReaderOptions {
            job: "default".into(),
            snapshot: None,
            savepoint: None,
            operator: None,
            range: None,
            temp_dir: None,
            block_cache_bytes: 64 << 20,
        }
    }
}

impl ReaderOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The job. Default `default`.
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.job = job.into();
        self
    }

    /// The number of the snapshot. Default: the newest complete one.
    pub fn snapshot(mut self, id: u64) -> Self {
        self.snapshot = Some(id);
        self
    }

    /// The savepoint in this directory of the store, whichever job and snapshot are named.
    pub fn savepoint(mut self, dir: impl Into<String>) -> Self {
        self.savepoint = Some(dir.into());
        self
    }

    /// Whose state it is. Default: that of the only operator which the snapshot has; where it has several, opening fails and names them.
    pub fn operator(mut self, operator: impl Into<String>) -> Self {
        self.operator = Some(operator.into());
        self
    }

    /// The key groups to read. Default: from the first to the last one that the snapshot has of the operator; where some between them are
    /// missing, opening fails and names those that there are.
    pub fn key_group_range(mut self, range: KeyGroupRange) -> Self {
        self.range = Some(range);
        self
    }

    /// Where a reader keeps what it needs on a local disk: the metadata, and the ends of the table files. Default: the system's directory
    /// for temporary files. An export takes none: it works beside its target.
    pub fn temp_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.temp_dir = Some(dir.into());
        self
    }

    /// Bytes of memory for blocks that were read. Default 64 MiB. What was read is kept nowhere else.
    pub fn block_cache_bytes(mut self, bytes: usize) -> Self {
        self.block_cache_bytes = bytes;
        self
    }
}

/// A snapshot that is read where it lies.
///
/// Opening it takes a few requests, whatever the size of the state; then each block that the block cache does not have is one ranged read, and a
/// walk reads ahead. Nothing is ever written to the store. Safe to share among threads; what blocks is as for
/// [`ValueState`](crate::ValueState).
///
/// The job may go on meanwhile. Where it deletes the snapshot (see
/// [`retained_snapshots`](crate::StateBackendBuilder::retained_snapshots)), reads fail with [`Error::SnapshotNotFound`] from then on: open
/// another reader.
///
/// ```
/// # use lazurite::{SnapshotOptions, StateBackend, ValueStateDescriptor};
/// use lazurite::{Codec, Postcard, RawKey, ReaderOptions, SnapshotReader, SnapshotStore};
/// # use lazurite_env::{IoRuntime, remote::{MemoryStore, RemoteStore}};
/// # use std::sync::Arc;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (dir, runtime) = (tempfile::tempdir()?, IoRuntime::new(2)?);
/// # let store: Arc<dyn RemoteStore> = Arc::new(MemoryStore::new());
/// # let backend = StateBackend::builder(dir.path()).remote_store(store.clone()).open()?;
/// # let counts = backend.value_state(&ValueStateDescriptor::<String, u64>::new("counts"))?;
/// # counts.put(&"lazy".into(), &7)?;
/// # backend.snapshot(SnapshotOptions::new())?.wait()?;
/// let reader = SnapshotReader::open(&SnapshotStore::new(store, runtime), ReaderOptions::new())?;
/// let counts = reader.table("counts")?;
/// assert_eq!(counts.schema().value_type, "u64");
///
/// let mut key = Vec::new();
/// Codec::<String>::encode(&Postcard, &"lazy".into(), &mut key)?;
/// let value = counts.get(RawKey { key: &key, ..RawKey::default() })?.unwrap();
/// assert_eq!(Codec::<u64>::decode(&Postcard, &value)?, 7);
///
/// for entry in counts.entries()? {
///     let word: String = Postcard.decode(&entry?.key)?;
///     println!("{word}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct SnapshotReader {
    // Dropped before the directory in which its files are.
    opened: Opened,
    _temp: TempDir,
}

impl SnapshotReader {
    /// Opens the snapshot that `options` ask for. Blocks for about four round trips, whatever the size of the state, and for small local writes.
    ///
    /// # Errors
    /// [`Error::SnapshotNotFound`] where there is no such snapshot, or the job deleted it meanwhile; [`Error::InvalidOption`] where the job
    /// has none at all, or the operator is not one of it; [`Error::RangeNotCovered`] where it lacks key groups that are asked for;
    /// [`Error::SnapshotCorrupt`] where an object is damaged; what the store or the disk answered.
    pub fn open(store: &SnapshotStore, options: ReaderOptions) -> Result<Self> {
        let parent = match &options.temp_dir {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir(),
        };
        let temp = tempfile::Builder::new()
            .prefix("lazurite-reader-")
            .tempdir_in(&parent)
            .map_err(|e| EnvError::from_io("create a directory in", parent, e))?;
        Ok(SnapshotReader {
            opened: open::open(store, &options, temp.path())?,
            _temp: temp,
        })
    }

    /// The job.
    pub fn job(&self) -> &str {
        &self.opened.metadata.job
    }

    /// The snapshot's number.
    pub fn snapshot_id(&self) -> u64 {
        self.opened.metadata.id
    }

    /// When it was taken, in milliseconds since 1970-01-01 UTC, by the writer's clock.
    pub fn created_unix_ms(&self) -> u64 {
        self.opened.metadata.created_unix_ms
    }

    /// What the user gave with the snapshot, by name.
    ///
    /// # Errors
    /// [`Error::SnapshotCorrupt`] where it is not as it was written.
    pub fn user_metadata(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let metadata = &self.opened.metadata;
        user_bytes(
            &metadata.user_metadata,
            self.opened.place.metadata().as_str(),
        )
    }

    /// Whose state it is.
    pub fn operator(&self) -> &str {
        &self.opened.operator
    }

    /// The number of key groups of the job.
    pub fn key_groups(&self) -> u16 {
        self.opened.key_groups
    }

    /// The key groups that can be read.
    pub fn key_group_range(&self) -> KeyGroupRange {
        self.opened.range
    }

    /// The tables, with the names of their types and the ids of their codecs.
    pub fn tables(&self) -> &[TableSchema] {
        &self.opened.tables.schemas
    }

    /// A table.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where there is none of this name; it names those that there are.
    pub fn table(&self, name: &str) -> Result<SnapshotTable<'_>> {
        let schema = self.opened.schema(name)?;
        Ok(SnapshotTable {
            reader: self,
            schema,
            columns: self.opened.columns(name)?,
        })
    }

    /// What was read from where since it was opened: `remote_requests` and `remote_bytes` are those of blocks.
    pub fn tier(&self) -> TierStats {
        self.opened.tier()
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("job", &self.job())
            .field("snapshot", &self.snapshot_id())
            .field("operator", &self.operator())
            .field("key_groups", &self.key_group_range())
            .finish_non_exhaustive()
    }
}
