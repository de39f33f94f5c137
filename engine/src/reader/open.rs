//! From a snapshot in the store to a database that reads it in place.

use std::{collections::HashMap, path::Path, sync::Arc};

use lazurite_env::{ErrorKind, PosixEnv};
use lazurite_env_rocksdb::{RocksEnv, rocksdb_env};
use lazurite_tiering::{CacheOptions, DownloadOptions, UnionEnv, UnionOptions};

use super::ReaderOptions;
use crate::{
    Error, Result,
    key_groups::KeyGroupRange,
    options::RocksDbOptions,
    restore::{self, Wanted},
    rocks::{Columns, Db, DbConfig},
    snapshot::{
        SnapshotMetadata, SnapshotPath, SnapshotStore, SubtaskState,
        job::look_at_job,
        layout::JobLayout,
        origin,
        place::Place,
        store::{Found, is_missing, load},
    },
    stats::TierStats,
    table::{TableSchema, Tables},
};

/// How often the newest snapshot is looked for again, where a job at work deletes those that were found.
const TRIES: u32 = 10;

/// A snapshot, opened in a local directory.
pub(super) struct Opened {
    // Dropped in this order: the database before the files below it.
    pub(super) db: Arc<Db>,
    rocks_env: Arc<RocksEnv>,
    pub(super) union: Arc<UnionEnv>,
    pub(super) tables: Tables,
    pub(super) metadata: SnapshotMetadata,
    pub(super) place: Place,
    pub(super) operator: String,
    pub(super) key_groups: u16,
    pub(super) range: KeyGroupRange,
    store: SnapshotStore,
}

/// Opens the snapshot that `options` ask for in the empty directory `root`.
pub(super) fn open(store: &SnapshotStore, options: &ReaderOptions, root: &Path) -> Result<Opened> {
    let mut tries = 0;
    loop {
        tries += 1;
        let found = find(store, options)?;
        let (job, id) = (found.metadata.job.clone(), found.metadata.id);
        let place = found.place.clone();
        let error = match open_found(store, options, found, root) {
            Err(error) => error,
            opened => return opened,
        };
        if !is_gone(store, &place, &error) {
            return Err(error);
        }
        // The job deleted it meanwhile, for there is a newer one.
        let is_named = options.snapshot.is_some() || options.savepoint.is_some();
        if is_named || tries == TRIES {
            return Err(Error::SnapshotNotFound { job, id });
        }
    }
}

/// The snapshot that the options ask for.
fn find(store: &SnapshotStore, options: &ReaderOptions) -> Result<Found> {
    if let Some(dir) = &options.savepoint {
        return origin::find(&store.store, &store.runtime, &SnapshotPath::savepoint(dir)?);
    }
    let job = &options.job;
    let layout = JobLayout::new(job)?;
    let Some(id) = options.snapshot else {
        let newest = look_at_job(&store.store, &store.runtime, &layout)?.newest;
        let (_, found) = newest.ok_or_else(|| Error::InvalidOption {
            option: "job",
            reason: format!(
                "{job} has no complete snapshot in this store; list those that there are"
            ),
        })?;
        return found;
    };
    let missing = || Error::SnapshotNotFound {
        job: job.clone(),
        id,
    };
    match load(&store.store, &store.runtime, &Place::Snapshot(layout, id)) {
        Ok(found) if found.metadata.is_fence() => Err(missing()),
        Err(error) if is_missing(&error) => Err(missing()),
        found => found,
    }
}

/// True where `error` may come of the snapshot's having been deleted, and it has been: a job deletes `_metadata` before what it names. One request
/// or two, and none where the error is another.
fn is_gone(store: &SnapshotStore, place: &Place, error: &Error) -> bool {
    let may_be = match error {
        Error::SnapshotCorrupt { .. } => true,
        Error::Env(error) => error.is_not_found(),
        Error::RocksDb { kind, .. } => *kind == ErrorKind::NotFound,
        _ => false,
    };
    may_be
        && load(&store.store, &store.runtime, place)
            .err()
            .is_some_and(|error| is_missing(&error))
}

fn open_found(
    store: &SnapshotStore,
    options: &ReaderOptions,
    found: Found,
    root: &Path,
) -> Result<Opened> {
    let (operator, own) = operator_of(&found.metadata, options.operator.as_deref())?;
    let key_groups = own.first().map_or(1, |state| state.key_groups);
    let ranges = own.iter().map(|state| state.key_group_range);
    let hull = ranges.reduce(|hull, range| hull.hull(range));
    let range = match options.range.or(hull) {
        Some(range) => range,
        None => KeyGroupRange::all(key_groups)?,
    };
    let wanted = Wanted {
        operator: &operator,
        key_groups,
        range,
    };
    let (remote, runtime) = (&store.store, &store.runtime);
    let plan = restore::plan(remote, runtime, &found, wanted, &HashMap::new())?;
    let tables = plan.tables.clone();
    let union = UnionEnv::open(UnionOptions {
        base: Arc::new(PosixEnv),
        root: root.to_owned(),
        store: remote.clone(),
        runtime: runtime.clone(),
        download: DownloadOptions::default(),
        cache: CacheOptions {
            // A walk over all of the state must not fill the disk.
            block_reads: false,
            ..CacheOptions::default()
        },
        transfer_bytes_per_second: None,
    })?;
    plan.apply(&union)?;
    let rocks_env = Arc::new(rocksdb_env(union.clone())?);
    let (counted, ahead) = (union.clone(), union.clone());
    let all = KeyGroupRange::all(key_groups)?;
    let columns = tables.columns.iter().map(|column| {
        let range = column.key_group_range;
        (column.column.clone(), (range != all).then_some(range))
    });
    let db = Db::open(DbConfig {
        path: union.db_dir().to_owned(),
        env: rocks_env.env().clone(),
        options: RocksDbOptions {
            block_cache_bytes: options.block_cache_bytes,
            auto_compactions: false, // one would read what nobody asked for
            ..RocksDbOptions::default()
        },
        key_groups,
        wal: false,
        columns: columns.collect(),
        create_if_missing: false,
        remote_files: Arc::new(move || counted.remote_files()),
        read_ahead: Some(Arc::new(move |plan| ahead.read_ahead(plan))),
        lock: None,
    })?;
    Ok(Opened {
        db,
        rocks_env,
        union,
        tables,
        metadata: found.metadata,
        place: found.place,
        operator,
        key_groups,
        range,
        store: store.clone(),
    })
}

/// The operator that is asked for, or the only one; and its states.
fn operator_of<'a>(
    metadata: &'a SnapshotMetadata,
    asked: Option<&str>,
) -> Result<(String, Vec<&'a SubtaskState>)> {
    let mut operators: Vec<&str> = metadata.subtasks.iter().map(|s| &*s.operator).collect();
    operators.sort_unstable();
    operators.dedup();
    let refuse = |what: String| Error::InvalidOption {
        option: "operator",
        reason: format!(
            "snapshot {} of job {} {what} {}",
            metadata.id,
            metadata.job,
            operators.join(", ")
        ),
    };
    let operator = match (asked, &operators[..]) {
        (Some(asked), there) if there.contains(&asked) => asked,
        (Some(asked), _) => return Err(refuse(format!("has none named {asked:?}, but"))),
        (None, [only]) => only,
        (None, _) => return Err(refuse("has several; name one of".into())),
    };
    let own = metadata.subtasks.iter();
    let own = own.filter(|state| state.operator == operator).collect();
    Ok((operator.to_owned(), own))
}

impl Opened {
    /// The declaration of a table.
    pub(super) fn schema(&self, table: &str) -> Result<&TableSchema> {
        self.tables.schema(table).ok_or_else(|| {
            let names = self.tables.schemas.iter().map(|schema| &*schema.name);
            let names: Vec<&str> = names.collect();
            Error::InvalidOption {
                option: "table",
                reason: format!(
                    "snapshot {} of operator {} has no table {table:?}; it has: {}",
                    self.metadata.id,
                    self.operator,
                    names.join(", ")
                ),
            }
        })
    }

    /// The columns of a table that there is.
    pub(super) fn columns(&self, table: &str) -> Result<Columns> {
        let columns = self.tables.columns_of(table).map(|column| {
            let handle = self.db.column(&column.column).ok_or(Error::Closed)?; // it was opened
            Ok((column.key_group_range.start(), handle))
        });
        Columns::new(columns.collect::<Result<_>>()?).ok_or(Error::Closed) // it has one
    }

    pub(super) fn tier(&self) -> TierStats {
        TierStats::new(self.rocks_env.local_reads(), self.union.stats())
    }

    /// What an error of a read means: where the job has deleted the snapshot, that.
    pub(super) fn explain(&self, error: Error) -> Error {
        let (job, id) = (&self.metadata.job, self.metadata.id);
        match is_gone(&self.store, &self.place, &error) {
            true => Error::SnapshotNotFound {
                job: job.clone(),
                id,
            },
            false => error,
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.union.download().stop();
        self.union.stop_demotions();
        self.db.close();
    }
}
