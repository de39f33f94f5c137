//! A batch over several tables is never half there: not after a power cut, and not in a snapshot, with a log or without.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use lazurite::{
    Durability, RocksDbOptions, StateBackend, StateBackendBuilder, ValueStateDescriptor,
};
use lazurite_env::{Effect, Env, EnvExt, FaultEnv, FaultPlan, MemEnv, Op, remote::MemoryStore};
use lazurite_tests::{
    COUNTS,
    model::{MIRROR, Model, contents, write},
    rig::{LEN, fast_tempdir, tiny},
    snapshot, value,
};

const BOTH: [Durability; 2] = [Durability::Snapshot, Durability::Wal];

fn builder(dir: &Path, disk: Arc<dyn Env>, store: &MemoryStore) -> StateBackendBuilder {
    tiny(dir).env(disk).remote_store(Arc::new(store.clone()))
}

/// What becomes of a log that was not synced.
type Loss = fn(&MemEnv, &Path);

fn removed(disk: &MemEnv, log: &Path) {
    disk.delete(log).unwrap();
}

fn emptied(disk: &MemEnv, log: &Path) {
    disk.write_atomic(log, b"").unwrap();
}

fn halved(disk: &MemEnv, log: &Path) {
    let bytes = disk.read_to_vec(log, 1 << 20).unwrap();
    disk.write_atomic(log, &bytes[..bytes.len() / 2]).unwrap();
}

fn lose_logs(disk: &MemEnv, dir: &Path, loss: Loss) {
    let db = dir.join("db");
    for entry in disk.list(&db).unwrap() {
        if entry.name.ends_with(".log") {
            loss(disk, &db.join(entry.name));
        }
    }
}

/// The machine dies at each operation of a flush of two tables, and with it what the log held.
#[test]
fn a_power_cut_in_a_flush_that_takes_the_log_leaves_no_half_batch() {
    let temp = fast_tempdir();
    let dir = temp.path().join("local");
    let (disk, store, plan) = (MemEnv::new(), MemoryStore::new(), FaultPlan::new());
    let wrecks: Arc<Mutex<Vec<(Op, MemEnv)>>> = Arc::default();
    let broken = FaultEnv::new(Arc::new(disk.clone()), plan.clone());
    let backend = builder(&dir, Arc::new(broken), &store)
        .durability(Durability::Wal)
        .open()
        .unwrap();
    let mut states = vec![Model::new()];
    let mut model = Model::new();
    write(&backend, &mut model, 0..20, [], 1, LEN).unwrap();
    states.push(model.clone());
    backend.flush().unwrap();
    for version in 2..5 {
        write(&backend, &mut model, 10..30, [version], version, LEN).unwrap();
        states.push(model.clone());
    }
    let (seen, sink) = (disk.clone(), wrecks.clone());
    plan.set_filter(
        move |op| {
            sink.lock().unwrap().push((op, seen.crash_clone(1)));
            false
        },
        "",
    );
    backend.flush().unwrap();
    plan.disable();
    drop(backend);
    let wrecks = std::mem::take(&mut *wrecks.lock().unwrap());
    assert!(wrecks.len() > 20, "{}", wrecks.len());
    let losses: [Loss; 3] = [removed, emptied, halved];
    for (number, (op, wreck)) in wrecks.iter().enumerate() {
        for loss in losses {
            let disk = wreck.crash_clone(1);
            lose_logs(&disk, &dir, loss);
            let backend = builder(&dir, Arc::new(disk), &store)
                .durability(Durability::Wal)
                .open()
                .unwrap();
            // Fails where the two tables differ.
            let found = contents(&backend).unwrap();
            assert!(
                states[1..].contains(&found),
                "cut before operation {number}, {op}: {} entries",
                found.len()
            );
        }
    }
}

/// RocksDB flushes by itself when one table fills its memory: the other one must go with it.
#[test]
fn a_power_cut_after_a_flush_of_the_larger_table_that_takes_the_log_leaves_no_half_batch() {
    const BATCHES: u64 = 40;
    let temp = fast_tempdir();
    let dir = temp.path().join("local");
    let (disk, store, plan) = (MemEnv::new(), MemoryStore::new(), FaultPlan::new());
    let options = RocksDbOptions {
        write_buffer_bytes: 128 << 10,
        auto_compactions: false,
        ..RocksDbOptions::default()
    };
    let open = |disk: Arc<dyn Env>| {
        let builder = builder(&dir, disk, &store).durability(Durability::Wal);
        builder.rocksdb(options.clone()).open().unwrap()
    };
    let wrecks: Arc<Mutex<Vec<(Op, MemEnv)>>> = Arc::default();
    let backend = open(Arc::new(FaultEnv::new(
        Arc::new(disk.clone()),
        plan.clone(),
    )));
    let (large, small) = (
        backend.value_state(&COUNTS).unwrap(),
        backend.value_state(&MIRROR).unwrap(),
    );
    let (seen, sink) = (disk.clone(), wrecks.clone());
    plan.set_filter(
        move |op| {
            if matches!(op, Op::Create | Op::Sync | Op::SyncDir | Op::Close) {
                sink.lock().unwrap().push((op, seen.crash_clone(1)));
            }
            false
        },
        "",
    );
    for key in 0..BATCHES {
        let mut batch = backend.write_batch();
        large
            .put_to(&mut batch, &key, &value(key, 1, 16 << 10))
            .unwrap();
        small.put_to(&mut batch, &key, &value(key, 1, 8)).unwrap();
        backend.write(batch).unwrap();
    }
    drop((large, small, backend));
    plan.disable();
    let wrecks = std::mem::take(&mut *wrecks.lock().unwrap());
    let mut most = 0;
    for (number, (op, disk)) in wrecks.into_iter().enumerate() {
        lose_logs(&disk, &dir, removed);
        let backend = open(Arc::new(disk));
        let keys = |table: &ValueStateDescriptor<u64, Vec<u8>>| -> BTreeSet<u64> {
            let entries = backend.value_state(table).unwrap().iter().unwrap();
            entries.map(|entry| entry.unwrap().0).collect()
        };
        let (large, small) = (keys(&COUNTS), keys(&MIRROR));
        assert_eq!(large, small, "cut before operation {number}, {op}");
        assert_eq!(large, (0..large.len() as u64).collect());
        most = most.max(large.len());
    }
    assert!(most > 8, "no flush but the last was seen: {most} keys");
}

/// Writers go on while a snapshot flushes slowly.
#[test]
fn a_snapshot_beside_writers_holds_whole_batches() {
    for durability in BOTH {
        let (temp, store, plan) = (fast_tempdir(), MemoryStore::new(), FaultPlan::new());
        let broken = FaultEnv::new(Arc::new(MemEnv::new()), plan.clone());
        let backend = builder(&temp.path().join("local"), Arc::new(broken), &store)
            .durability(durability)
            .open()
            .unwrap();
        write(&backend, &mut Model::new(), 0..5, [], 0, LEN).unwrap();
        plan.set_filter(|op| op == Op::Sync, ".sst");
        plan.fail_from(0, Effect::Delay(Duration::from_millis(20)));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| write_on(&backend, &stop));
            let _stop = StopOnDrop(&stop);
            for _ in 0..3 {
                let report = snapshot(&backend);
                let restored = builder(&temp.path().join("other"), Arc::new(MemEnv::new()), &store)
                    .open()
                    .unwrap();
                assert_eq!(restored.restored().unwrap().snapshot_id, report.id);
                // Fails where the two tables differ.
                let found = contents(&restored).unwrap();
                assert_eq!(found.len(), 5);
            }
        });
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn write_on(backend: &StateBackend, stop: &AtomicBool) {
    for version in 1.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        write(backend, &mut Model::new(), 0..5, [], version, LEN).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
}
