//! Local files: all of RocksDB works, and no byte goes through Rust.

use lazurite_env::{Activity, Env, PosixEnv};
use lazurite_env_rocksdb::RocksEnv;

use crate::support::{HookEnv, check, fill, open, options, wrap};

#[test]
fn a_database_lives_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let env = wrap(PosixEnv);
    let options = options(&env);
    {
        let db = open(&options, dir.path()).unwrap();
        fill(&db, 0..20_000);
        db.flush().unwrap();
        fill(&db, 20_000..25_000);
        db.flush_wal(true).unwrap();
        check(&db, 0..25_000);
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        check(&db, 0..25_000);
    }
    assert!(dir.path().join("LOG").is_file());
    let before = env.local_reads();
    assert!(before > 0);
    let db = open(&options, dir.path()).unwrap();
    check(&db, 0..25_000);
    assert!(env.local_reads() > before);
    // A checkpoint links SSTs and copies the rest.
    let copy = dir.path().join("copy");
    rocksdb::checkpoint::Checkpoint::new(&db)
        .unwrap()
        .create_checkpoint(&copy)
        .unwrap();
    check(&open(&options, &copy).unwrap(), 0..25_000);
}

#[test]
fn direct_io_and_log_recycling_work() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let env = wrap(PosixEnv);
    let mut options = options(&env);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_recycle_log_file_num(2);
    let db = open(&options, dir.path()).unwrap();
    fill(&db, 0..20_000);
    check(&db, 0..20_000);
    drop(db);
    check(&open(&options, dir.path()).unwrap(), 0..20_000);
}

#[test]
fn no_byte_of_a_local_file_goes_through_rust() {
    let dir = tempfile::tempdir().unwrap();
    let mut env = HookEnv::new(PosixEnv, |operation, path| {
        let bytes = ["open", "read", "append", "create", "sync"];
        let names = ["create dir", "sync dir"];
        assert!(
            names.contains(&operation) || !bytes.iter().any(|b| operation.starts_with(b)),
            "{operation} {path:?}"
        );
        Ok(())
    });
    env.native = true;
    assert!(env.native_path(dir.path()).is_some());
    let env = wrap(env);
    let options = options(&env);
    let db = open(&options, dir.path()).unwrap();
    fill(&db, 0..5_000);
    db.flush().unwrap();
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    check(&db, 0..5_000);
}

#[test]
fn local_reads_are_counted_by_what_they_are_for() {
    counted_by_activity(&wrap(PosixEnv));
    let env = wrap(PosixEnv);
    env.local_files().keep_releasable();
    counted_by_activity(&env);
}

fn counted_by_activity(env: &RocksEnv) {
    let dir = tempfile::tempdir().unwrap();
    let options = options(env);
    let of = |activity| {
        let all = env.local_reads_by_activity();
        all.into_iter().find(|(a, _)| *a == activity).unwrap().1
    };
    let db = open(&options, dir.path()).unwrap();
    fill(&db, 0..2_000);
    db.flush().unwrap();
    assert_eq!(of(Activity::Get).reads, 0);
    for i in 0..200 {
        db.get(crate::support::key(i)).unwrap().unwrap();
    }
    let gets = of(Activity::Get);
    assert!(gets.reads >= 200, "{gets:?}");
    assert!(gets.bytes > gets.reads * 100, "{gets:?}");
    // One in 64, by threads that made others before.
    assert!((3..=5).contains(&gets.sampled), "{gets:?}");
    assert!(gets.sampled_nanos > 0, "{gets:?}");
    assert_eq!(of(Activity::Iterate).reads, 0);
    assert_eq!(db.iterator(rocksdb::IteratorMode::Start).count(), 2_000);
    assert!(of(Activity::Iterate).reads > 0);
    assert_eq!(of(Activity::Get), gets);
    fill(&db, 0..2_000);
    db.flush().unwrap();
    assert_eq!(of(Activity::Compaction).reads, 0);
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    assert!(of(Activity::Compaction).reads > 0);
    let all = env.local_reads_by_activity();
    let sum: u64 = all.iter().map(|(_, local)| local.reads).sum();
    assert_eq!(sum, env.local_reads());
}
