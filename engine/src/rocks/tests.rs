use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lazurite_env::{Effect, ErrorKind, FaultEnv, FaultPlan, Op, PosixEnv};
use rocksdb::Env;
use tempfile::TempDir;

use super::{column::Column, *};
use crate::{Error, RocksDbOptions};

fn open(path: &Path, wal: bool, columns: &[&str]) -> Arc<Db> {
    Db::open(config(path, wal, columns)).unwrap()
}

/// How tests open a database, here and in the tables above: small blocks, everything local.
pub(crate) fn config(path: &Path, wal: bool, columns: &[&str]) -> DbConfig {
    DbConfig {
        path: path.to_path_buf(),
        env: Env::new().unwrap(),
        options: RocksDbOptions {
            block_bytes: 1 << 10,
            ..Default::default()
        },
        key_groups: 128,
        wal,
        columns: columns.iter().map(|c| (c.to_string(), None)).collect(),
        create_if_missing: true,
        remote_files: Arc::new(|| 0),
        read_ahead: None,
        lock: None,
    }
}

/// The same through an Env of ours, whose faults the plan decides. Every file is opened through it.
fn open_faulty(path: &Path, plan: &Arc<FaultPlan>, remote_files: Arc<AtomicUsize>) -> Arc<Db> {
    let env = Arc::new(FaultEnv::new(Arc::new(PosixEnv), plan.clone()));
    Db::open(DbConfig {
        env: lazurite_env_rocksdb::rocksdb_env(env)
            .unwrap()
            .env()
            .clone(),
        remote_files: Arc::new(move || remote_files.load(Ordering::Relaxed)),
        read_ahead: None,
        lock: None,
        ..config(path, false, &["a"])
    })
    .unwrap()
}

fn get(column: &Column, key: &[u8]) -> Option<Vec<u8>> {
    column.get(key).unwrap().map(|value| value.to_vec())
}

#[test]
fn columns_are_created_while_the_database_is_open() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), true, &[]);
    assert!(db.column("a").is_none());
    let a = db.create_column("a").unwrap();
    a.put(b"k", b"1").unwrap();
    let same = db.create_column("a").unwrap();
    assert_eq!(get(&same, b"k").unwrap(), b"1");
    drop((db, a, same));
    assert_eq!(
        Db::stored_columns(&Env::new().unwrap(), dir.path()).unwrap(),
        ["a"]
    );
}

#[test]
fn with_a_wal_a_write_is_there_after_a_reopen() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), true, &["a"]);
    db.column("a").unwrap().put(b"k", b"1").unwrap();
    drop(db);
    assert_eq!(
        Db::stored_columns(&Env::new().unwrap(), dir.path()).unwrap(),
        ["a"]
    );
    let db = open(dir.path(), true, &["a"]);
    assert_eq!(get(&db.column("a").unwrap(), b"k").unwrap(), b"1");
}

#[test]
fn without_a_wal_a_reopen_finds_the_last_flush_of_all_columns() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), false, &["a", "b"]);
    let (a, b) = (db.column("a").unwrap(), db.column("b").unwrap());
    a.put(b"k", b"1").unwrap();
    b.put(b"k", b"1").unwrap();
    db.flush_all().unwrap();
    a.put(b"k", b"2").unwrap();
    b.put(b"k", b"2").unwrap();
    drop((db, a, b)); // closing flushes nothing
    let db = open(dir.path(), false, &["a", "b"]);
    for column in ["a", "b"] {
        assert_eq!(get(&db.column(column).unwrap(), b"k").unwrap(), b"1");
    }
}

#[test]
fn a_database_with_more_columns_than_named_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), true, &["a", "b"]));
    let error = Db::open(config(dir.path(), true, &["a"])).unwrap_err();
    assert!(
        error.to_string().contains("Column families not opened: b"),
        "{error}"
    );
}

#[test]
fn a_cursor_stays_inside_its_bounds_and_in_its_moment() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), true, &["a"]);
    let a = db.column("a").unwrap();
    let columns = Columns::one(a.clone());
    for key in ["a", "b", "c", "d"] {
        a.put(key.as_bytes(), b"old").unwrap();
    }
    let mut cursor = columns.cursor(b"b".to_vec(), b"d".to_vec()).unwrap();
    a.put(b"b", b"new").unwrap();
    a.put(b"bb", b"new").unwrap();
    db.flush_all().unwrap();
    drop((a, db)); // the cursor alone keeps the database open
    let mut seen = Vec::new();
    while let Some((key, value)) = cursor.next_where(|_| true).unwrap() {
        seen.push((key.to_vec(), value.to_vec()));
    }
    let old = |key: &[u8]| (key.to_vec(), b"old".to_vec());
    assert_eq!(seen, [old(b"b"), old(b"c")]);
    assert!(cursor.next_where(|_| true).unwrap().is_none());
}

#[test]
fn batches_and_range_deletions_happen_in_order() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), false, &["a", "b"]);
    let (a, b) = (db.column("a").unwrap(), db.column("b").unwrap());
    a.put(b"k1", b"1").unwrap();
    let mut batch = Batch::default();
    batch.put(&a, b"k2", b"2");
    batch.delete_range(&a, b"k1", b"k3");
    batch.put(&a, b"k3", b"3");
    batch.put(&b, b"k", b"4");
    batch.delete(&b, b"k");
    assert_eq!(batch.len(), 5);
    assert!(batch.size_bytes() > 0);
    db.write(batch).unwrap();
    assert_eq!(
        (get(&a, b"k1"), get(&a, b"k2"), get(&b, b"k")),
        (None, None, None)
    );
    assert_eq!(get(&a, b"k3").unwrap(), b"3");
    a.delete_range(b"k3", b"k4").unwrap();
    assert_eq!(get(&a, b"k3"), None);
}

#[test]
fn live_files_name_every_file_of_a_flushed_database() {
    let dir = TempDir::new().unwrap();
    for wal in [false, true] {
        let path = dir.path().join(format!("wal-{wal}"));
        let db = open(&path, wal, &["a", "b"]);
        db.flush_all().unwrap(); // nothing to write
        let a = db.column("a").unwrap();
        a.put(b"k1", b"1").unwrap();
        a.put(b"k2", b"2").unwrap();
        db.flush_all().unwrap();
        let paused = db.pause_file_deletions().unwrap();
        let files = db.live_files().unwrap();
        let of = |kind| {
            files
                .iter()
                .filter(move |f| f.kind == kind)
                .collect::<Vec<_>>()
        };
        let tables = of(LiveFileKind::Table);
        assert_eq!(tables.len(), 1, "{files:?}");
        let table = tables[0].table.as_ref().unwrap();
        assert_eq!(
            (table.column.as_str(), table.level, table.entries),
            ("a", 0, 2)
        );
        assert_eq!(
            (&table.smallest[..], &table.largest[..]),
            (&b"k1"[..], &b"k2"[..])
        );
        assert_eq!(
            std::fs::metadata(path.join(&tables[0].name)).unwrap().len(),
            tables[0].len
        );
        assert!(!tables[0].trim);

        let manifest = of(LiveFileKind::Manifest);
        assert_eq!(manifest.len(), 1);
        assert!(manifest[0].trim);
        let current = of(LiveFileKind::Current);
        let contents = current[0].contents.as_deref().unwrap();
        assert_eq!(contents, format!("{}\n", manifest[0].name).as_bytes());
        assert_eq!(of(LiveFileKind::Options).len(), 1);

        // While deletions are paused, a file that a compaction replaced stays.
        a.put(b"k1", b"3").unwrap();
        a.put(b"k3", b"3").unwrap(); // overlaps, so that the files are merged and not just moved
        db.flush_all().unwrap();
        a.compact().unwrap();
        let newer: Vec<_> = db
            .live_files()
            .unwrap()
            .into_iter()
            .map(|f| f.name)
            .collect();
        assert!(!newer.contains(&tables[0].name), "{newer:?}");
        assert!(path.join(&tables[0].name).exists());
        drop(paused);
    }
}

#[test]
fn a_closed_database_says_so() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), false, &["a"]);
    let a = db.column("a").unwrap();
    let columns = Columns::one(a.clone());
    a.put(b"k", b"1").unwrap();
    let mut cursor = columns.cursor(vec![0], vec![0xff]).unwrap();
    db.close();
    db.close();
    assert!(matches!(a.get(b"k").err(), Some(Error::Closed)));
    assert!(matches!(a.put(b"k", b"2"), Err(Error::Closed)));
    assert!(matches!(
        columns.multi_get(&[b"k"]).err(),
        Some(Error::Closed)
    ));
    let after_close = cursor.next_where(|_| true).err().unwrap();
    assert!(matches!(*after_close, Error::Closed));
    assert!(matches!(db.flush_all(), Err(Error::Closed)));
    assert!(matches!(db.create_column("b"), Err(Error::Closed)));
    drop((cursor, columns, a, db));
    drop(open(dir.path(), false, &["a"])); // the lock is gone
}

#[test]
fn many_keys_read_the_same_cold_as_warm() {
    let dir = TempDir::new().unwrap();
    let remote = Arc::new(AtomicUsize::new(0));
    let db = open_faulty(dir.path(), &FaultPlan::new(), remote.clone());
    let a = db.column("a").unwrap();
    let columns = Columns::one(a.clone());
    let key = |i: u32| format!("key-{i:05}").into_bytes();
    let value = |i: u32| [i.to_be_bytes().as_slice(), &[7; 60]].concat();
    for i in 0..2_000 {
        a.put(&key(i), &value(i)).unwrap();
        if i % 500 == 499 {
            db.flush_all().unwrap(); // four files
        }
    }
    for i in (0..2_000).step_by(10) {
        a.delete(&key(i)).unwrap(); // in the memtable
    }
    a.put(&key(5), b"").unwrap();
    // Far apart, so that each needs a block of its own; some twice, some removed, some never there.
    let wanted: Vec<u32> = (0..2_000)
        .step_by(7)
        .chain([5, 5, 1_999, 70, 9_999, 0])
        .collect();
    let keys: Vec<Vec<u8>> = wanted.iter().map(|i| key(*i)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let expected = |i: u32| match i {
        5 => Some(Vec::new()),
        _ if i.is_multiple_of(10) || i >= 2_000 => None,
        _ => Some(value(i)),
    };
    // Cold first, while the block cache is empty, then with all in the cache, then all local.
    for remote_files in [4, 4, 0] {
        remote.store(remote_files, Ordering::Relaxed);
        let values = columns.multi_get(&keys).unwrap();
        assert_eq!(values.len(), wanted.len());
        for (i, got) in wanted.iter().zip(values) {
            assert_eq!(got.map(|v| v.to_vec()), expected(*i), "{i}, {remote_files}");
        }
    }
    remote.store(1, Ordering::Relaxed);
    assert!(columns.multi_get(&[]).unwrap().is_empty());
    assert_eq!(columns.multi_get(&keys[..1]).unwrap().len(), 1);
}

#[test]
fn other_threads_can_use_everything() {
    fn shared<T: Send + Sync + 'static>() {}
    fn moved<T: Send + 'static>() {}
    shared::<Db>();
    shared::<Column>();
    moved::<Cursor>();
    moved::<Batch>();
}

#[test]
fn a_look_into_memory_tells_a_miss_from_an_absent_key() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), false, &["a"]);
    let a = db.column("a").unwrap();
    a.put(b"k", b"value").unwrap();
    db.flush_all().unwrap();
    let look = |key: &[u8]| {
        let found = db.db.get_pinned_cf_opt(a.handle(), key, &db.read_cached);
        found
            .map(|value| value.map(|v| v.to_vec()))
            .map_err(|e| e.kind())
    };
    assert_eq!(look(b"k"), Err(rocksdb::ErrorKind::Incomplete));
    assert_eq!(look(b"z"), Ok(None)); // outside the file's keys
    assert_eq!(get(&a, b"k").unwrap(), b"value");
    assert_eq!(look(b"k"), Ok(Some(b"value".to_vec())));
}

/// 64 keys, each in a block of its own, in one file, and the database opened again with nothing in memory.
fn cold(path: &Path, plan: &Arc<FaultPlan>, remote_files: usize) -> (Arc<Db>, Vec<Vec<u8>>) {
    let keys: Vec<Vec<u8>> = (0..64)
        .map(|i| format!("key-{i:02}").into_bytes())
        .collect();
    let write = open(path, false, &["a"]);
    let a = write.column("a").unwrap();
    for (i, key) in keys.iter().enumerate() {
        let noise: Vec<u8> = (0..2_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ i as u8)
            .collect();
        a.put(key, &noise).unwrap();
    }
    write.flush_all().unwrap();
    drop((a, write));
    let db = open_faulty(path, plan, Arc::new(AtomicUsize::new(remote_files)));
    // Opens the file: what is measured after it is data blocks.
    db.column("a").unwrap().get(b"key-00").unwrap().unwrap();
    (db, keys)
}

#[test]
fn cold_keys_are_read_at_the_same_time() {
    const ROUND_TRIP: Duration = Duration::from_millis(50);
    let dir = TempDir::new().unwrap();
    let plan = FaultPlan::new();
    let (db, keys) = cold(dir.path(), &plan, 1);
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    plan.set_filter(|op| op == Op::Read, ".sst");
    plan.fail_from(0, Effect::Delay(ROUND_TRIP));
    let a = db.column("a").unwrap();
    let columns = Columns::one(a.clone());
    let started = Instant::now();
    let values = columns.multi_get(&keys).unwrap();
    let elapsed = started.elapsed();
    assert!(
        values
            .iter()
            .all(|value| value.as_ref().is_some_and(|v| v.len() == 2_000))
    );
    assert!(plan.injected() >= 32, "{} reads", plan.injected());
    assert!(elapsed >= ROUND_TRIP);
    assert!(
        elapsed < ROUND_TRIP * 8,
        "{elapsed:?} for {} reads",
        plan.injected()
    );
}

#[test]
fn an_error_below_rocksdb_comes_back_typed_and_passes() {
    let dir = TempDir::new().unwrap();
    let plan = FaultPlan::new();
    let (db, keys) = cold(dir.path(), &plan, 1);
    let a = db.column("a").unwrap();
    let columns = Columns::one(a.clone());
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    plan.set_filter(|op| op == Op::Read, ".sst");
    plan.fail_from(0, ErrorKind::Unavailable);
    let mut cursor = columns
        .cursor(b"key-30".to_vec(), b"key-40".to_vec())
        .unwrap();
    let errors = [
        a.get(keys[40]).err().unwrap(),
        columns.multi_get(&keys).err().unwrap(),
        *cursor.next_where(|_| true).err().unwrap(),
    ];
    for error in errors {
        let Error::RocksDb {
            target,
            kind,
            message,
            cause,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!((target.as_str(), *kind), ("a", ErrorKind::Unavailable));
        assert!(
            cause
                .as_ref()
                .is_some_and(|cause| cause.path().ends_with(".sst")),
            "{error:?}"
        );
        assert!(!message.contains("lazurite-cause"), "{message}");
        assert!(error.is_temporary());
    }
    assert!(
        cursor.next_where(|_| true).is_err(),
        "an error is not an end"
    );
    plan.disable();
    assert_eq!(columns.multi_get(&keys).unwrap().len(), 64);
}

#[test]
fn opening_needs_no_table_file() {
    let dir = TempDir::new().unwrap();
    let (db, keys) = cold(dir.path(), &FaultPlan::new(), 0);
    drop(db);
    let plan = FaultPlan::new();
    plan.set_filter(|op| matches!(op, Op::Read | Op::OpenRandom), ".sst");
    plan.fail_from(0, ErrorKind::Unavailable);
    let db = open_faulty(dir.path(), &plan, Arc::default());
    plan.disable();
    let a = db.column("a").unwrap();
    assert!(a.get(&keys[1]).unwrap().is_some());
    // The files are opened behind the open; what failed there stops writes until RocksDB has tried again by itself.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = a.put(b"x", b"y").and_then(|()| db.flush_all()) {
        assert!(error.is_temporary() && Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn figures_are_what_rocksdb_holds_and_did() {
    let dir = TempDir::new().unwrap();
    let mut config = config(dir.path(), false, &["a", "b"]);
    config.options.statistics = true;
    let db = Db::open(config).unwrap();
    let (a, b) = (db.column("a").unwrap(), db.column("b").unwrap());
    for round in 0..2 {
        for i in 0..100u32 {
            a.put(&i.to_be_bytes(), &[round; 100]).unwrap();
        }
        b.put(b"k", b"v").unwrap();
        assert!(db.figures().memtable_bytes > 10_000);
        db.flush_all().unwrap();
    }
    let before = db.figures();
    assert_eq!(before.files[0], 4);
    assert_eq!(before.files[1..].iter().sum::<u64>(), 0);
    assert!(before.table_bytes > 4_000, "{before:?}");
    assert!(before.table_reader_bytes > 0, "{before:?}");
    assert_eq!(before.block_cache_capacity, 256 << 20);
    assert_eq!(db.work().flushes.load(Ordering::Relaxed), 4);
    a.compact().unwrap();
    let after = db.figures();
    assert_eq!(after.files[0], 2);
    assert_eq!(after.files.iter().sum::<u64>(), 3);
    assert_eq!(after.keys, 100 + 2);
    let work = db.work();
    assert_eq!(work.compactions.load(Ordering::Relaxed), 1);
    assert_eq!(work.failed_compactions.load(Ordering::Relaxed), 0);
    assert!(work.compaction_read_bytes.load(Ordering::Relaxed) > 0);
    assert!(work.compaction_written_bytes.load(Ordering::Relaxed) > 0);
    for _ in 0..3 {
        get(&a, &7u32.to_be_bytes()).unwrap();
    }
    let (read, unread) = (db.figures().tickers.unwrap(), after.tickers.unwrap());
    let misses = read.block_cache_misses - unread.block_cache_misses;
    let hits = read.block_cache_hits - unread.block_cache_hits;
    assert_eq!((misses, hits), (1, 2));
    assert!(read.block_cache_read_bytes > unread.block_cache_read_bytes);
    assert!(db.figures().block_cache_bytes > 1_000);
}

#[test]
fn without_statistics_there_are_no_tickers() {
    let dir = TempDir::new().unwrap();
    let db = open(dir.path(), false, &["a"]);
    assert!(db.figures().tickers.is_none());
}

#[test]
fn writes_that_outrun_the_flushes_are_counted_as_stopped() {
    let dir = TempDir::new().unwrap();
    let mut config = config(dir.path(), false, &["a"]);
    config.options.write_buffer_bytes = 64 << 10;
    let db = Db::open(config).unwrap();
    let a = db.column("a").unwrap();
    assert_eq!((db.figures().delays, db.figures().stops), (0, 0));
    let until = Instant::now() + Duration::from_secs(60);
    let mut key = 0u32;
    while db.figures().stops == 0 {
        assert!(Instant::now() < until, "no stop: {:?}", db.figures());
        for _ in 0..2_000 {
            key += 1;
            a.put(&key.to_be_bytes(), &[0; 1000]).unwrap();
        }
    }
}
