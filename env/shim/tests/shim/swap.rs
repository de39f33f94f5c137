//! A file that is open remotely becomes local underneath its readers.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use lazurite_env::PosixEnv;
use lazurite_env_rocksdb::{RocksEnv, rocksdb_env};
use rocksdb::DB;

use crate::support::{Remote, TieredEnv, check, fill, key, open, options, value, wrap};

const KEYS: u32 = 5_000;

/// A database whose SSTs are all remote.
fn remote_database(dir: &Path, direct: bool) -> (RocksEnv, DB, Vec<Arc<Remote>>) {
    {
        let env = wrap(PosixEnv);
        let db = open(&options(&env), dir).unwrap();
        fill(&db, 0..KEYS);
        db.flush().unwrap();
    }
    let tiered = TieredEnv::default();
    let files = tiered.demote_all(dir);
    let env = rocksdb_env(Arc::new(tiered)).unwrap();
    let mut options = options(&env);
    options.set_use_direct_reads(direct);
    let db = open(&options, dir).unwrap();
    (env, db, files)
}

fn rust_reads(files: &[Arc<Remote>]) -> u64 {
    files.iter().map(|file| file.reads.load(SeqCst)).sum()
}

/// Reads with four threads until `done`, and gives the number of reads.
fn read_until(db: &DB, done: &AtomicBool, swap: impl FnOnce(&AtomicU64)) -> u64 {
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let count = &count;
            scope.spawn(move || {
                let mut i = thread * 977;
                while !done.load(SeqCst) {
                    i = (i + 613) % KEYS;
                    assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i));
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        swap(&count);
    });
    count.into_inner()
}

fn wait_for(count: &AtomicU64, more: u64) {
    let goal = count.load(SeqCst) + more;
    let until = Instant::now() + Duration::from_secs(30);
    while count.load(SeqCst) < goal && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn readers_move_to_the_local_file() {
    for direct in [false, true] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (env, db, files) = remote_database(dir.path(), direct);
        let done = AtomicBool::new(false);
        assert_eq!(env.local_reads(), 0);
        read_until(&db, &done, |count| {
            wait_for(count, 1_000);
            assert!(rust_reads(&files) > 0);
            for file in &files {
                file.promote(&file.bytes);
            }
            wait_for(count, 2_000);
            done.store(true, SeqCst);
        });
        let (rust, local) = (rust_reads(&files), env.local_reads());
        assert!(local > 0);
        check(&db, 0..KEYS);
        assert_eq!(
            rust_reads(&files),
            rust,
            "a read after the swap reached Rust"
        );
        assert!(env.local_reads() > local);
    }
}

#[test]
fn a_local_file_that_cannot_be_it_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (env, db, files) = remote_database(dir.path(), false);
    for file in &files {
        // Shorter than it should be.
        file.promote(&file.bytes[1..]);
    }
    check(&db, 0..KEYS);
    let rust = rust_reads(&files);
    for file in &files {
        // Too late: this handle has seen enough.
        file.promote(&file.bytes);
    }
    check(&db, 0..KEYS);
    assert!(rust_reads(&files) > rust);
    assert_eq!(env.local_reads(), 0);
}
