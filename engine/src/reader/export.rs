//! [`export()`]: the state of a snapshot as a plain RocksDB directory.
//!
//! A table that is one column family, no file of which reaches beyond the key groups that are asked for, is *moved*: its files are downloaded, each
//! compared with its checksum, and stay as they are. Any other is *rewritten*: what is read of it goes to new files, entry by entry. Its
//! files may hold what is no part of the state, so they could not be handed out.
//!
//! Crash story: see [`place`](super::place).

use std::{
    path::PathBuf,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use super::{
    ReaderOptions,
    open::{self, Opened},
    place::Place,
};
use crate::{
    Error, Result,
    key_groups::KeyGroupRange,
    rocks::plain,
    snapshot::SnapshotStore,
    table::key::{group_bounds, parse},
};

/// How often a download tells how far it is.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// Where an export goes, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    out: PathBuf,
    rewrite: bool,
}

impl ExportOptions {
    /// An export to the directory `out`, which must be empty or not be there; what is missing above it is made. It takes the disk
    /// of `out` and, beside it, `<out>.partial`.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        ExportOptions {
            out: out.into(),
            rewrite: false,
        }
    }

    /// Rewrites every table, in table files of format 5, which older versions of RocksDB read too. Default `false`: files are kept as they
    /// are where that is possible.
    pub fn rewrite(mut self, rewrite: bool) -> Self {
        self.rewrite = rewrite;
        self
    }
}

/// What an export wrote.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExportReport {
    /// The job.
    pub job: String,
    /// The snapshot.
    pub snapshot_id: u64,
    /// Whose state it is.
    pub operator: String,
    /// The key groups that were exported.
    pub key_group_range: KeyGroupRange,
    /// The tables, each now a column family of its name.
    pub tables: Vec<ExportedTable>,
    /// How long it took.
    pub elapsed: Duration,
}

/// A table that was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedTable {
    /// Its name, and the column family's.
    pub name: String,
    /// How it came there.
    pub way: ExportWay,
    /// Its table files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How a table was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportWay {
    /// Its files are those of the snapshot.
    Moved,
    /// Its entries were written to new files.
    Rewritten {
        /// How many.
        entries: u64,
    },
}

/// Writes the state that `options` ask for as a plain RocksDB directory: one column family for each table, named by the table, with exactly
/// its entries, keyed as `docs/FORMAT.md` says. Any binding of RocksDB opens it, and its tools do, with default options. `progress` is
/// told bytes that are done and bytes in all, now and then, from this thread. Blocks until all is there; complete and durable on return.
/// Nothing is written to the store, so the job may go on.
///
/// A crash or an error leaves nothing at the target: it is there as a whole or not at all.
///
/// # Errors
/// [`Error::LocalDirectory`] where the target is not empty, where another export to it runs, or where `<out>.partial` is somebody else's;
/// else as [`SnapshotReader::open`](super::SnapshotReader::open), and what the disk answered.
pub fn export(
    store: &SnapshotStore,
    options: ReaderOptions,
    to: ExportOptions,
    progress: &dyn Fn(u64, u64),
) -> Result<ExportReport> {
    let begun = Instant::now();
    let place = Place::claim(&to.out)?;
    let opened = open::open(store, &options, &place.state())?;
    let mut work = Work::plan(&opened, &to)?;
    work.rewrite(&opened, &place, progress)
        .and_then(|()| work.download(&opened, progress))
        .map_err(|error| opened.explain(error))?;
    let report = ExportReport {
        job: opened.metadata.job.clone(),
        snapshot_id: opened.metadata.id,
        operator: opened.operator.clone(),
        key_group_range: opened.range,
        tables: work.tables.iter().map(|t| t.done.clone()).collect(),
        elapsed: Duration::ZERO,
    };
    let db = opened.union.db_dir().to_owned();
    drop(opened);
    let (mut kept, mut added) = (Vec::new(), Vec::new());
    for table in work.tables {
        match table.done.way {
            ExportWay::Moved => kept.push(table.done.name),
            ExportWay::Rewritten { .. } => added.push((table.done.name, table.paths)),
        }
    }
    plain::finish_database(&db, &kept, &added)?;
    place.finish(&db)?;
    Ok(ExportReport {
        elapsed: begun.elapsed(),
        ..report
    })
}

/// What is to be done, and how far it is.
struct Work {
    tables: Vec<Table>,
    done: u64,
    total: u64,
}

struct Table {
    /// As it will be, or as it is.
    done: ExportedTable,
    columns: Vec<String>,
    paths: Vec<PathBuf>,
}

impl Work {
    /// Which table goes which way. No I/O.
    fn plan(opened: &Opened, to: &ExportOptions) -> Result<Work> {
        let straddlers = opened.db.straddlers()?;
        let files = opened.db.live_files()?;
        let mut tables = Vec::new();
        for schema in &opened.tables.schemas {
            let columns = opened.tables.columns_of(&schema.name);
            let columns: Vec<String> = columns.map(|column| column.column.clone()).collect();
            let is_whole = columns == [schema.name.as_str()];
            let reaches_beyond = straddlers.iter().any(|file| columns.contains(&file.column));
            let way = match is_whole && !reaches_beyond && !to.rewrite {
                true => ExportWay::Moved,
                false => ExportWay::Rewritten { entries: 0 },
            };
            let own = files.iter().filter(|file| {
                let table = file.table.as_ref();
                table.is_some_and(|table| columns.contains(&table.column))
            });
            let (mut count, mut bytes) = (0, 0);
            for file in own {
                count += 1;
                bytes += file.len;
            }
            tables.push(Table {
                done: ExportedTable {
                    name: schema.name.clone(),
                    way,
                    files: count,
                    bytes,
                },
                columns,
                paths: Vec::new(),
            });
        }
        let total = tables.iter().map(|table| table.done.bytes).sum();
        Ok(Work {
            tables,
            done: 0,
            total,
        })
    }

    /// Writes the tables that cannot be moved, and takes them out of the database.
    fn rewrite(
        &mut self,
        opened: &Opened,
        place: &Place,
        progress: &dyn Fn(u64, u64),
    ) -> Result<()> {
        let (from, to) = group_bounds(opened.range);
        for table in &mut self.tables {
            let ExportWay::Rewritten { .. } = table.done.way else {
                continue;
            };
            let (bytes, done, total) = (table.done.bytes, self.done, self.total);
            let mut group = None;
            let columns = opened.columns(&table.done.name)?;
            let mut cursor = columns.cursor(from.clone(), to.clone())?;
            let name = &table.done.name;
            let written = plain::write(&mut cursor, &place.rewritten(), name, |key| {
                let of = parse(key).map(|key| key.key_group());
                if let Some(of) = of.filter(|_| of != group) {
                    group = Some(of);
                    let share = u64::from(of - opened.range.start());
                    progress(done + bytes / opened.range.len() as u64 * share, total);
                }
            })?;
            drop((cursor, columns));
            for column in &table.columns {
                opened.db.drop_column(column)?;
            }
            self.done += bytes;
            table.done = ExportedTable {
                way: ExportWay::Rewritten {
                    entries: written.entries,
                },
                files: written.paths.len() as u64,
                bytes: written.bytes,
                name: name.clone(),
            };
            table.paths = written.paths;
        }
        place.sync_rewritten()
    }

    /// Brings the files of all other tables.
    fn download(&self, opened: &Opened, progress: &dyn Fn(u64, u64)) -> Result<()> {
        let download = opened.union.download();
        let (ended, end) = channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let result = download.start().and_then(|()| download.wait_until_local());
                let _ = ended.send(result); // nobody left before
            });
            loop {
                match end.recv_timeout(TELL_EVERY) {
                    Err(RecvTimeoutError::Timeout) => {
                        progress(self.done + download.progress().bytes_done, self.total);
                    }
                    Err(RecvTimeoutError::Disconnected) => return Err(Error::Closed), // it panicked
                    Ok(result) => {
                        progress(self.total, self.total);
                        return Ok(result?);
                    }
                }
            }
        })
    }
}
