//! Telling the Env which files an iterator is going to read, so that their bytes are on their way before it comes to them.
//!
//! RocksDB reads ahead within one file, from 8 KiB on in each, and opens a file of a level when the last is exhausted: over
//! a network that is a round trip for every few kilobytes and every file. Its MANIFEST knows which files follow; here it is
//! asked, once a walk has turned out to be longer than [`LONG_WALK_BYTES`], by another thread than the iterator's.

use std::{
    cmp,
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
};

use lazurite_tiering::{ReadAhead, ScanEnd, ScanFile, ScanPlace, ScanPlan};
use rocksdb::Range;

use super::{column::Column, db::Db};

/// A walk over so many bytes of keys and values is a long one: two blocks. Shorter ones cost what RocksDB reads for them.
const LONG_WALK_BYTES: usize = 32 << 10;

/// Tells which number changes whenever the files of a column may have.
const VERSION: &str = "rocksdb.current-super-version-number";

/// Begins to fetch what a plan says.
pub(super) type BeginReadAhead = Arc<dyn Fn(ScanPlan) -> ReadAhead + Send + Sync>;

/// How far an iterator is, and what is fetched ahead of it.
pub(super) struct Walk {
    bytes: usize,
    upper: Vec<u8>,
    job: Option<Arc<Job>>,
}

impl Walk {
    /// A walk that ends before `upper`.
    pub(super) fn new(upper: Vec<u8>) -> Walk {
        Walk {
            bytes: 0,
            upper,
            job: None,
        }
    }

    /// The iterator is at the entry of `key`.
    #[inline]
    pub(super) fn at(&mut self, column: &Column, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        if self.bytes >= LONG_WALK_BYTES && self.job.is_none() {
            self.begin(column, key);
        }
    }

    #[cold]
    fn begin(&mut self, column: &Column, here: &[u8]) {
        let job = Arc::new(Job::default());
        self.job = Some(job.clone());
        if column.db().read_ahead.is_none() {
            return;
        }
        // Nothing of the database is held before this runs: it may be closed before.
        let (db, name) = (Arc::downgrade(column.db()), column.name().to_owned());
        let (here, upper, bytes) = (here.to_vec(), self.upper.clone(), self.bytes);
        // RocksDB reads on the thread that moves the iterator: this one.
        let at = ScanPlace::take_last();
        column.db().pool.submit(Box::new(move || {
            let Some(turn) = Turn::begin(&job) else {
                return;
            };
            let plan = |lanes| ScanPlan {
                lanes,
                read_bytes: bytes as u64,
                at,
            };
            turn.end(read_ahead(&db, &name, &here, &upper, plan));
        }));
    }
}

impl Drop for Walk {
    /// Waits for the job where it is at work: afterwards nothing of the database is held any more.
    fn drop(&mut self) {
        let Some(job) = &self.job else { return };
        let mut stage = job.lock();
        while matches!(*stage, Stage::Running) {
            stage = job
                .changed
                .wait(stage)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let stage = std::mem::replace(&mut *stage, Stage::Ended);
        drop(stage);
    }
}

/// The making of a plan by another thread.
#[derive(Default)]
struct Job {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Default)]
enum Stage {
    #[default]
    Queued,
    Running,
    /// Bytes are fetched while this is kept.
    Ready {
        _ahead: ReadAhead,
    },
    /// The walk has ended, or nothing is to be fetched.
    Ended,
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        // Only ever replaced as a whole.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.lock() = stage;
        self.changed.notify_all();
    }
}

/// A job that is running, until this is dropped.
struct Turn<'a>(&'a Job);

impl Turn<'_> {
    /// `None` where the walk has ended before.
    fn begin(job: &Job) -> Option<Turn<'_>> {
        let mut stage = job.lock();
        if matches!(*stage, Stage::Ended) {
            return None;
        }
        *stage = Stage::Running;
        Some(Turn(job))
    }

    fn end(self, ahead: Option<ReadAhead>) {
        if let Some(ahead) = ahead {
            self.0.set(Stage::Ready { _ahead: ahead });
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if matches!(*self.0.lock(), Stage::Running) {
            self.0.set(Stage::Ended);
        }
    }
}

/// The files of a column, in the order in which iterators read them.
#[derive(Default)]
struct Order {
    runs: Vec<Vec<File>>,
}

struct File {
    name: String,
    len: u64,
    smallest: Vec<u8>,
    largest: Vec<u8>,
}

/// The last [`Order`] of each column, with the version that it is of.
#[derive(Default)]
pub(super) struct Orders(Mutex<HashMap<String, (u64, Arc<Order>)>>);

impl Orders {
    /// The files of `column` now. Held while they are listed, so that walks that begin together list them once.
    fn get(&self, column: &Column) -> Option<Arc<Order>> {
        let db = &column.db().db;
        // Asked first: a list that is newer than its number is made again, never the other way round.
        let version = db.property_int_value_cf(column.handle(), VERSION).ok()??;
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, order)) = orders.get(column.name())
            && *of == version
        {
            return Some(order.clone());
        }
        let order = Arc::new(Order::list(column)?);
        orders.insert(column.name().to_owned(), (version, order.clone()));
        Some(order)
    }
}

impl Order {
    fn list(column: &Column) -> Option<Order> {
        let files = column.db().db.live_files().ok()?;
        let mut levels: HashMap<i32, Vec<File>> = HashMap::new();
        let mut order = Order::default();
        for file in files {
            if file.column_family_name != column.name() {
                continue;
            }
            let (Some(smallest), Some(largest)) = (file.start_key, file.end_key) else {
                continue;
            };
            let ours = File {
                name: file.name.trim_start_matches('/').to_owned(),
                len: file.size as u64,
                smallest,
                largest,
            };
            if file.level == 0 {
                order.runs.push(vec![ours]);
            } else {
                levels.entry(file.level).or_default().push(ours);
            }
        }
        for mut files in levels.into_values() {
            files.sort_unstable_by(|a, b| a.smallest.cmp(&b.smallest));
            order.runs.push(files);
        }
        Some(order)
    }
}

/// Begins to fetch ahead of an iterator over `column` that is at `here` and ends before `upper`. `None` where the database
/// is gone.
fn read_ahead(
    db: &Weak<Db>,
    column: &str,
    here: &[u8],
    upper: &[u8],
    plan: impl FnOnce(Vec<Vec<ScanFile>>) -> ScanPlan,
) -> Option<ReadAhead> {
    let column = db.upgrade()?.column(column)?;
    let begin = column.db().read_ahead.as_ref()?;
    Some(begin(plan(lanes(&column, here, upper)?)))
}

/// The files that an iterator at `here` is going to read before `upper`.
fn lanes(column: &Column, here: &[u8], upper: &[u8]) -> Option<Vec<Vec<ScanFile>>> {
    let db = column.db();
    let order = db.orders.get(column)?;
    let mut lanes = Vec::new();
    for run in &order.runs {
        let from = run.partition_point(|file| *file.largest < *here);
        let until = run.partition_point(|file| *file.smallest < *upper);
        let files = &run[from..cmp::max(from, until)];
        let mut lane: Vec<ScanFile> = files.iter().map(scan_file).collect();
        if let (Some(last), Some(file)) = (lane.last_mut(), files.last())
            && *file.largest >= *upper
        {
            // Of all files in this range. Those that are not this lane's make it read beyond, by the window at most.
            let range = Range::new(&file.smallest, upper);
            let sizes = db.db.get_approximate_sizes_cf(column.handle(), &[range]);
            last.until = sizes.first().map(|bytes| ScanEnd {
                bytes: *bytes,
                slack: db.block_bytes,
            });
        }
        if !lane.is_empty() {
            lanes.push(lane);
        }
    }
    Some(lanes)
}

fn scan_file(file: &File) -> ScanFile {
    ScanFile {
        name: file.name.clone(),
        len: file.len,
        until: None,
    }
}
