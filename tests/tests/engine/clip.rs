//! What a restored part has of other key groups goes, once everything is local.

use std::{
    path::Path,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use lazurite::{KeyGroupRange, LoadPolicy, StateBackend};
use lazurite_env::remote::{CountingStore, MemoryStore};
use lazurite_tests::rig::fast_tempdir;

use super::rescale::{builder, check, options, write, written};

fn range() -> KeyGroupRange {
    KeyGroupRange::new(5, 20).unwrap()
}

fn open(dir: &Path, store: &CountingStore, policy: LoadPolicy) -> StateBackend {
    let builder = builder(dir, store, range()).load_policy(policy);
    // No compaction does the work meanwhile.
    builder.rocksdb(options(false)).open().unwrap()
}

fn table_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    files
        .map(|file| file.unwrap())
        .filter(|file| file.path().extension().is_some_and(|e| e == "sst"))
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

fn until_clipped(backend: &StateBackend, mut meanwhile: impl FnMut()) {
    let begun = Instant::now();
    while backend.clip_progress().files_left > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        meanwhile();
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_part_is_clipped_behind_its_reads() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let model = written(&store);
    let dir = fast_tempdir();
    let backend = open(dir.path(), &store, LoadPolicy::OnDemand);
    let left = backend.clip_progress();
    assert!(left.files_left > 0 && left.bytes_left > 0, "{left:?}");
    check(&backend, &model);
    backend.wait_until_local().unwrap();
    let before = table_bytes(dir.path());
    until_clipped(&backend, || check(&backend, &model));
    assert_eq!(backend.clip_progress().bytes_left, 0);
    check(&backend, &model);
    let after = table_bytes(dir.path());
    assert!(after < before, "{before} bytes became {after}");
    backend.compact().unwrap();
    check(&backend, &model);
    assert_eq!(backend.clip_progress().files_left, 0);
}

#[test]
fn a_part_is_written_while_it_is_clipped() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let mut model = written(&store);
    let dir = fast_tempdir();
    let builder = builder(dir.path(), &store, range()).load_policy(LoadPolicy::Lazy);
    let backend = builder.open().unwrap();
    let mut version = 10;
    until_clipped(&backend, || {
        write(&backend, &mut model, 0..4_000, version);
        backend.flush().unwrap();
        version += 1;
    });
    check(&backend, &model);
    backend.compact().unwrap();
    check(&backend, &model);
}

#[test]
fn nothing_is_fetched_to_be_clipped() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let model = written(&store);
    let dir = fast_tempdir();
    let backend = open(dir.path(), &store, LoadPolicy::OnDemand);
    let left = backend.clip_progress();
    store.start_recording();
    sleep(Duration::from_millis(800));
    let requests = store.take_recording();
    let of_tables = requests.iter().filter(|r| r.key.ends_with(".sst"));
    assert_eq!(of_tables.count(), 0);
    assert_eq!(backend.clip_progress(), left);
    check(&backend, &model);
}

#[test]
fn a_backend_closes_while_it_is_clipped() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let model = written(&store);
    for millis in [0, 150, 200, 210, 250] {
        let dir = fast_tempdir();
        let backend = open(dir.path(), &store, LoadPolicy::Eager);
        sleep(Duration::from_millis(millis));
        drop(backend);
        let backend = open(dir.path(), &store, LoadPolicy::Eager);
        check(&backend, &model);
    }
}

#[test]
fn a_backend_of_its_own_key_groups_has_nothing_to_clip() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let dir = fast_tempdir();
    let backend = builder(dir.path(), &store, range()).open().unwrap();
    write(&backend, &mut Default::default(), 0..4_000, 1);
    backend.flush().unwrap();
    backend.compact().unwrap();
    assert_eq!(backend.clip_progress().files_left, 0);
}
