//! Files without a native path: the whole database through Rust.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use lazurite_env::{Env, ErrorKind, MemEnv, PosixEnv};
use rocksdb::{DB, ReadOptions};

use crate::support::{
    HookEnv, PLACE, TieredEnv, check, error, fill, is_sst, key, open, options, value, wrap,
};

#[test]
fn a_database_lives_in_memory_and_leaves_the_disk_alone() {
    let memory = MemEnv::new();
    let dir = Path::new(PLACE);
    let env = wrap(memory.clone());
    let options = options(&env);
    {
        let db = open(&options, dir).unwrap();
        fill(&db, 0..20_000);
        db.flush().unwrap();
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        check(&db, 0..20_000);
        // In the log only; the sync of a log from another place than its appends must be allowed.
        fill(&db, 20_000..21_000);
        db.flush_wal(true).unwrap();
    }
    let db = open(&options, dir).unwrap();
    check(&db, 0..21_000);
    rocksdb::checkpoint::Checkpoint::new(&db)
        .unwrap()
        .create_checkpoint("/usr/lib")
        .unwrap();
    drop(db);
    check(&open(&options, "/usr/lib").unwrap(), 0..21_000);
    assert!(memory.stat(&dir.join("LOG")).unwrap().len > 0);
    for name in ["LOG", "CURRENT", "lib/CURRENT"] {
        assert!(!Path::new(PLACE).join(name).exists());
    }
    assert_eq!(env.local_reads(), 0);
    DB::destroy(&options, dir).unwrap();
    let left = memory.list(dir).unwrap();
    assert_eq!(left.len(), 1, "only the copy: {left:?}");
}

#[test]
fn options_for_local_disks_do_no_harm() {
    let dir = Path::new(PLACE);
    let env = wrap(MemEnv::new());
    let mut options = options(&env);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_recycle_log_file_num(2);
    options.set_bytes_per_sync(4096);
    options.set_wal_bytes_per_sync(4096);
    let db = open(&options, dir).unwrap();
    fill(&db, 0..20_000);
    check(&db, 0..20_000);
    drop(db);
    check(&open(&options, dir).unwrap(), 0..20_000);
}

#[test]
fn batches_and_iterators_use_the_parallel_calls() {
    let many = Arc::new(AtomicU64::new(0));
    let started = Arc::new(AtomicU64::new(0));
    let counts = (many.clone(), started.clone());
    let env = wrap(HookEnv::new(MemEnv::new(), move |operation, path| {
        match operation {
            "read many" if is_sst(path) => counts.0.fetch_add(1, SeqCst),
            "start read" if is_sst(path) => counts.1.fetch_add(1, SeqCst),
            _ => 0,
        };
        Ok(())
    }));
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..20_000);
    db.flush().unwrap();
    check(&db, 0..20_000);
    assert!(many.load(SeqCst) > 0, "MultiGet made no batch");
    assert!(started.load(SeqCst) > 0, "the iterator did not read ahead");

    // Reads that are under way when the iterator jumps or ends are abandoned.
    for start in (0..20_000).step_by(501) {
        let mut read = ReadOptions::default();
        read.set_async_io(true);
        let mut iterator = db.raw_iterator_opt(read);
        for i in [start, 19_999 - start, start / 2] {
            iterator.seek(key(i));
            assert_eq!(iterator.value(), Some(&*value(i)));
            iterator.next();
            iterator.status().unwrap();
        }
    }
}

#[test]
fn a_failed_read_ahead_is_no_wrong_answer() {
    let reads = AtomicU64::new(0);
    let env = wrap(HookEnv::new(MemEnv::new(), move |operation, path| {
        let fails = operation == "start read" && reads.fetch_add(1, SeqCst) % 3 == 1;
        if fails {
            return Err(error(ErrorKind::Unavailable, operation, path));
        }
        Ok(())
    }));
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..20_000);
    db.flush().unwrap();
    // The iterator reads again what it could not read ahead.
    check(&db, 0..20_000);
}

#[test]
fn a_listed_file_need_not_be_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = wrap(PosixEnv);
    {
        let db = open(&options(&fresh), dir.path()).unwrap();
        fill(&db, 0..20_000);
        db.flush().unwrap();
    }
    let tiered = Arc::new(TieredEnv::default());
    let files = tiered.demote_all(dir.path());
    assert!(!files.is_empty());
    let env = lazurite_env_rocksdb::rocksdb_env(tiered.clone()).unwrap();
    {
        let db = open(&options(&env), dir.path()).unwrap();
        check(&db, 0..20_000);
        // Compaction reads the remote files, writes local ones, and deletes the remote ones.
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        check(&db, 0..20_000);
    }
    let db = open(&options(&env), dir.path()).unwrap();
    check(&db, 0..20_000);
}
