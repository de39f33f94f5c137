//! Many threads at once, and callers that live in an async runtime.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lazurite::{
    DownloadOptions, Durability, Error, LoadPolicy, SnapshotOptions, StateBackend,
    StateBackendBuilder, ValueState,
};
use lazurite_env::remote::{DelayStore, LinkOptions, MemoryStore, RemoteStore};
use lazurite_tests::{
    COUNTS,
    model::{Model, check, write},
    rig::{fast_tempdir, tiny},
    value,
    watchdog::within,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const LIMIT: Duration = Duration::from_secs(60);

/// Keys that nobody writes once they are filled.
const STILL: u64 = 1500;
/// Keys behind them, all rewritten in one batch again and again.
const MOVING: u64 = 100;
/// Table files to begin with.
const FILES: u64 = 10;
const LEN: usize = 300;

fn slow(store: &MemoryStore, latency_ms: u64, bytes_per_second: u64) -> Arc<dyn RemoteStore> {
    let link = LinkOptions {
        latency: Duration::from_millis(latency_ms),
        bytes_per_second,
    };
    Arc::new(DelayStore::new(Arc::new(store.clone()), link).unwrap())
}

/// A store with a snapshot of [`FILES`] files: the still keys at version 0, the moving ones at version 1.
fn filled() -> MemoryStore {
    let (store, temp) = (MemoryStore::new(), fast_tempdir());
    let backend = tiny(temp.path())
        .remote_store(Arc::new(store.clone()))
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for file in 0..FILES {
        // Interleaved, so that every file holds keys of the whole range and is needed by every scan.
        for key in (file..STILL).step_by(FILES as usize) {
            table.put(&key, &value(key, 0, LEN)).unwrap();
        }
        backend.flush().unwrap();
    }
    rewrite(&backend, &table, 1);
    lazurite_tests::snapshot(&backend);
    store
}

fn rewrite(backend: &StateBackend, table: &ValueState<u64, Vec<u8>>, version: u64) {
    let mut batch = backend.write_batch();
    for key in STILL..STILL + MOVING {
        table
            .put_to(&mut batch, &key, &value(key, version, LEN))
            .unwrap();
    }
    backend.write(batch).unwrap();
}

/// Versions of the moving keys: begun before a batch is written, done after.
#[derive(Default)]
struct Versions {
    begun: AtomicU64,
    done: AtomicU64,
}

struct Reader {
    table: ValueState<u64, Vec<u8>>,
    versions: Arc<Versions>,
    rng: StdRng,
    reads: u64,
}

impl Reader {
    fn step(&mut self) {
        self.reads += 1;
        match self.rng.random_range(0..10) {
            0..5 => {
                let key = self.rng.random_range(0..STILL);
                assert_eq!(
                    self.table.get(&key).unwrap(),
                    Some(value(key, 0, LEN)),
                    "get {key}"
                );
            }
            5 | 6 => self.many(),
            7 | 8 => self.moving(),
            _ => self.scan(),
        }
    }

    fn many(&mut self) {
        let rng = &mut self.rng;
        // Some twice, some missing.
        let keys: Vec<u64> = (0..24)
            .map(|_| match rng.random_range(0..8) {
                0 => 1_000_000 + rng.random_range(0..100),
                _ => rng.random_range(0..STILL),
            })
            .collect();
        let values = self.table.multi_get(&keys).unwrap();
        assert_eq!(values.len(), keys.len());
        for (key, found) in keys.iter().zip(values) {
            let expected = (*key < STILL).then(|| value(*key, 0, LEN));
            assert_eq!(found, expected, "multi_get {key}");
        }
    }

    fn moving(&mut self) {
        let key = self.rng.random_range(STILL..STILL + MOVING);
        let least = self.versions.done.load(Ordering::SeqCst);
        let found = self.table.get(&key).unwrap().unwrap();
        let most = self.versions.begun.load(Ordering::SeqCst);
        assert!(
            (least..=most).any(|version| found == value(key, version, LEN)),
            "key {key} is of no version in {least}..={most}"
        );
    }

    fn scan(&mut self) {
        let least = self.versions.done.load(Ordering::SeqCst);
        let found: BTreeMap<u64, Vec<u8>> = self
            .table
            .iter()
            .unwrap()
            .collect::<lazurite::Result<_>>()
            .unwrap();
        let most = self.versions.begun.load(Ordering::SeqCst);
        check_scan(&found, least, most);
    }
}

/// The still keys at version 0, the moving ones all at one version of `least..=most`, and nothing else.
fn check_scan(found: &BTreeMap<u64, Vec<u8>>, least: u64, most: u64) {
    assert_eq!(found.len() as u64, STILL + MOVING);
    for key in 0..STILL {
        assert!(found[&key] == value(key, 0, LEN), "scan {key}");
    }
    let at = |version| (STILL..STILL + MOVING).all(|key| found[&key] == value(key, version, LEN));
    assert!(
        (least..=most).any(at),
        "the moving keys are not all of one version in {least}..={most}"
    );
}

/// Readers, a writer, snapshots, a compaction and a download that rests now and then, all at once.
fn storm(seed: u64, template: &MemoryStore) {
    let (store, temp) = (template.fork(), fast_tempdir());
    let mut rng = StdRng::seed_from_u64(seed);
    let backend = tiny(temp.path())
        .remote_store(slow(&store, 1, 400_000))
        .download(DownloadOptions {
            parallel_files: 2,
            chunk_bytes: 8 << 10,
            ..DownloadOptions::default()
        })
        .min_free_disk_bytes(0)
        .retained_snapshots(1 + (seed % 2) as usize)
        .open()
        .unwrap();
    assert!(backend.tier().remote_files > 0);
    let table = backend.value_state(&COUNTS).unwrap();
    let versions = Arc::new(Versions::default());
    versions.begun.store(1, Ordering::SeqCst);
    versions.done.store(1, Ordering::SeqCst);
    let stop = AtomicBool::new(false);
    let mut remote_files_seen = 0;
    std::thread::scope(|scope| {
        let _stop_on_panic = StopOnDrop(&stop);
        let readers: Vec<_> = (0..4)
            .map(|n| {
                let mut reader = Reader {
                    table: table.clone(),
                    versions: versions.clone(),
                    rng: StdRng::seed_from_u64(seed * 100 + n),
                    reads: 0,
                };
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        reader.step();
                    }
                    reader.reads
                })
            })
            .collect();
        let writer = scope.spawn(|| {
            for version in 2.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                versions.begun.store(version, Ordering::SeqCst);
                rewrite(&backend, &table, version);
                versions.done.store(version, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let compact_at = rng.random_range(0..4);
        for round in 0..4 {
            backend.download().pause();
            std::thread::sleep(Duration::from_millis(rng.random_range(0..60)));
            remote_files_seen = remote_files_seen.max(backend.tier().remote_files);
            let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
            if rng.random() {
                backend.download().resume();
            }
            if round == compact_at {
                backend.compact().unwrap();
            }
            backend.download().resume();
            if rng.random_range(0..3) == 0 {
                pending.abort();
                let result = pending.wait();
                assert!(
                    matches!(result, Ok(_) | Err(Error::SnapshotAborted)),
                    "{result:?}"
                );
            } else {
                pending.wait().unwrap();
            }
        }
        backend.wait_until_local().unwrap();
        assert_eq!(backend.tier().remote_files, 0);
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer");
        let reads: u64 = readers
            .into_iter()
            .map(|r| r.join().expect("a reader"))
            .sum();
        assert!(reads > 100, "{reads}");
    });
    assert!(
        remote_files_seen > 0,
        "nothing was remote while the readers read"
    );
    let before = versions.done.load(Ordering::SeqCst);
    lazurite_tests::snapshot(&backend);
    drop(backend);

    // Handles outlived the backend; a machine of its own gets the newest snapshot.
    assert!(matches!(table.get(&1), Err(Error::Closed)));
    drop(table);
    let fresh = fast_tempdir();
    for dir in [temp.path(), fresh.path()] {
        let backend = tiny(dir)
            .remote_store(Arc::new(store.clone()))
            .open()
            .unwrap();
        let found = backend.value_state(&COUNTS).unwrap().iter().unwrap();
        check_scan(
            &found.collect::<lazurite::Result<_>>().unwrap(),
            before,
            before,
        );
    }
}

/// So that a failed assertion ends the test rather than leave the other threads at work for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_exact_values_while_files_are_promoted_under_them() {
    let template = filled();
    for seed in 0..4 {
        within(LIMIT, &format!("storm {seed}"), || storm(seed, &template));
    }
}

/// A backend with I/O threads of its own, as users have it, over a slow link.
fn own_threads(dir: &Path, store: &MemoryStore) -> StateBackendBuilder {
    StateBackend::builder(dir)
        .job("job")
        .remote_store(slow(store, 2, 2_000_000))
        .min_free_disk_bytes(0)
}

fn use_all_of(backend: &StateBackend, salt: u64) {
    let table = backend.value_state(&COUNTS).unwrap();
    for key in (salt..STILL).step_by(97) {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, LEN)));
    }
    let keys: Vec<u64> = (0..64).map(|n| (n * 31 + salt) % STILL).collect();
    for (key, found) in keys.iter().zip(table.multi_get(&keys).unwrap()) {
        assert_eq!(found, Some(value(*key, 0, LEN)));
    }
    let key = 1_000_000 + salt;
    table.put(&key, &value(key, 7, LEN)).unwrap();
    assert_eq!(table.get(&key).unwrap(), Some(value(key, 7, LEN)));
    assert!(table.iter().unwrap().count() as u64 > STILL);
    match backend.snapshot(SnapshotOptions::new()) {
        Ok(pending) => drop(pending.wait().unwrap()),
        Err(Error::SnapshotInProgress) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn workers_of_a_multi_thread_runtime_may_call_everything() {
    let store = filled();
    for policy in [LoadPolicy::OnDemand, LoadPolicy::Lazy, LoadPolicy::Eager] {
        let (store, temp) = (store.fork(), fast_tempdir());
        within(LIMIT, "calls from tokio workers", || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let dir = temp.path().to_owned();
            runtime.block_on(async move {
                let opened = tokio::spawn(async move {
                    own_threads(&dir, &store)
                        .load_policy(policy)
                        .open()
                        .unwrap()
                });
                let backend = Arc::new(opened.await.unwrap());
                let tasks: Vec<_> = (0..6)
                    .map(|salt| {
                        let backend = backend.clone();
                        tokio::spawn(async move { use_all_of(&backend, salt) })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                // The last handle, and with it the I/O threads, goes on a worker.
                tokio::spawn(async move {
                    backend.wait_until_local().unwrap();
                    drop(Arc::into_inner(backend).unwrap());
                })
                .await
                .unwrap();
            });
        });
    }
}

#[test]
fn a_current_thread_runtime_may_call_everything() {
    let (store, temp) = (filled(), fast_tempdir());
    within(LIMIT, "calls from a current-thread runtime", || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let backend = own_threads(temp.path(), &store).open().unwrap();
            use_all_of(&backend, 3);
            backend.wait_until_local().unwrap();
            drop(backend);
            // Again, dropped in the midst of the download and of a snapshot.
            std::fs::remove_dir_all(temp.path()).unwrap();
            let backend = own_threads(temp.path(), &store).open().unwrap();
            let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
            drop(backend);
            let result = pending.wait();
            assert!(
                matches!(result, Ok(_) | Err(Error::SnapshotAborted)),
                "{result:?}"
            );
        });
    });
}

#[test]
fn dropping_a_backend_ends_its_snapshot() {
    let (store, temp) = (MemoryStore::new(), fast_tempdir());
    // 100 ms a request, so that the snapshot cannot be complete when the backend goes.
    let open = || {
        tiny(temp.path())
            .remote_store(slow(&store, 100, 0))
            .open()
            .unwrap()
    };
    within(LIMIT, "dropping with a snapshot under way", || {
        let backend = open();
        let mut model = Model::new();
        write(&backend, &mut model, 0..50, [], 1, LEN).unwrap();
        lazurite_tests::snapshot(&backend);
        let kept = model.clone();
        write(&backend, &mut model, 0..80, [], 2, LEN).unwrap();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        let refused = backend.snapshot(SnapshotOptions::new());
        assert!(
            matches!(refused, Err(Error::SnapshotInProgress)),
            "{refused:?}"
        );
        let begun = Instant::now();
        drop(backend);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(matches!(pending.wait(), Err(Error::SnapshotAborted)));
        let backend = open();
        assert_eq!(backend.restored().unwrap().snapshot_id, 1);
        check(&backend, &kept).unwrap();
        // A handle that nobody waits for does not keep the backend either.
        drop(backend.snapshot(SnapshotOptions::new()).unwrap());
        drop(backend);
        check(&open(), &kept).unwrap();
    });
}

#[test]
fn handles_that_outlive_the_backend_say_so() {
    for durability in [Durability::Snapshot, Durability::Wal] {
        let (store, temp) = (filled(), fast_tempdir());
        let open = || {
            tiny(temp.path())
                .durability(durability)
                .remote_store(slow(&store, 1, 1_000_000))
                .open()
        };
        within(LIMIT, "handles that outlive", || {
            let backend = open().unwrap();
            let table = backend.value_state(&COUNTS).unwrap();
            let mut iterator = table.iter().unwrap();
            assert!(iterator.next().unwrap().is_ok());
            let mut batch = backend.write_batch();
            table.put_to(&mut batch, &1, &vec![1]).unwrap();
            drop(backend);
            assert!(matches!(table.get(&1), Err(Error::Closed)));
            assert!(matches!(table.put(&1, &vec![1]), Err(Error::Closed)));
            assert!(matches!(table.remove(&1), Err(Error::Closed)));
            assert!(matches!(table.contains(&1), Err(Error::Closed)));
            assert!(matches!(table.multi_get(&[1, 2]), Err(Error::Closed)));
            assert!(matches!(table.iter(), Err(Error::Closed)));
            assert!(matches!(table.iter_key_group(3), Err(Error::Closed)));
            // An iterator ends, by an error or by its end, and gives nothing wrong on the way.
            for entry in &mut iterator {
                let Ok((key, found)) = entry else { break };
                let version = u64::from(key >= STILL);
                assert_eq!(found, value(key, version, LEN));
            }
            // The files are in use for as long as the handles live: refused, and nothing is harmed.
            if let Err(error) = open() {
                assert!(!error.to_string().is_empty());
                eprintln!("while a handle lives: {error}");
            }
            drop((iterator, batch, table));
            let backend = open().unwrap();
            let found = backend.value_state(&COUNTS).unwrap().iter().unwrap();
            check_scan(&found.collect::<lazurite::Result<_>>().unwrap(), 1, 1);
            backend.wait_until_local().unwrap();
        });
    }
}
