//! Power cuts and kills: the local disk is a [`MemEnv`], of which a copy is taken before every single operation, as a
//! machine that died there and then would have left it. From each copy, and the store as it was at that instant, a
//! backend must come back with exactly the state that it promised.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use lazurite::{
    Durability, LoadPolicy, SnapshotOptions, SnapshotStore, StateBackend, StateBackendBuilder,
};
use lazurite_env::{FaultEnv, FaultPlan, MemEnv, Op, remote::MemoryStore};
use lazurite_tests::{
    model::{Model, check, contents, write},
    rig::{LEN, RUNTIME, fast_tempdir, tiny},
    watchdog::within,
};

const LIMIT: Duration = Duration::from_secs(60);

/// What a machine left that died.
struct Wreck {
    /// The operation before which it died.
    number: u64,
    op: Op,
    seed: u64,
    disk: MemEnv,
    store: MemoryStore,
    /// States that were acknowledged then.
    acknowledged: u64,
}

/// A machine whose disk and store are copied before each operation.
struct Machine {
    disk: MemEnv,
    plan: Arc<FaultPlan>,
    store: MemoryStore,
    dir: PathBuf,
    acknowledged: Arc<AtomicU64>,
}

impl Machine {
    /// Sends a copy before each operation. `seed` says which power cut an operation gets.
    fn new(dir: &Path, wrecks: Sender<Wreck>, seed: fn(u64) -> u64) -> Self {
        let (disk, store) = (MemEnv::new(), MemoryStore::new());
        let acknowledged = Arc::new(AtomicU64::new(0));
        let plan = FaultPlan::new();
        let (seen, number) = (
            (disk.clone(), store.clone(), acknowledged.clone()),
            AtomicU64::new(0),
        );
        // The plan asks this before each operation, and injects nothing. It holds the plan's lock, so the copies come
        // one at a time, in order.
        plan.set_filter(
            move |op| {
                let (disk, store, acknowledged) = &seen;
                let number = number.fetch_add(1, Ordering::Relaxed);
                let seed = seed(number);
                // The counter first, the store next, the disk last: what was acknowledged then must be in both.
                let acknowledged = acknowledged.load(Ordering::SeqCst);
                let (store, disk) = (store.fork(), disk.crash_clone(seed));
                let wreck = Wreck {
                    number,
                    op,
                    seed,
                    disk,
                    store,
                    acknowledged,
                };
                // Never waits: the checks need threads that RocksDB shares among all databases of a process, this one
                // among them. The receiver is gone where a check failed: the test ends.
                let _ = wrecks.send(wreck);
                false
            },
            "",
        );
        Machine {
            disk,
            plan,
            store,
            dir: dir.to_owned(),
            acknowledged,
        }
    }

    fn builder(&self) -> StateBackendBuilder {
        tiny(&self.dir)
            .env(Arc::new(FaultEnv::new(
                Arc::new(self.disk.clone()),
                self.plan.clone(),
            )))
            .remote_store(Arc::new(self.store.clone()))
    }
}

impl Wreck {
    fn builder(&self, dir: &Path) -> StateBackendBuilder {
        tiny(dir)
            .env(Arc::new(self.disk.clone()))
            .remote_store(Arc::new(self.store.clone()))
    }
}

/// Checks every wreck on a thread of its own and gives their number.
fn inspect(
    wrecks: Receiver<Wreck>,
    check: impl Fn(&Wreck) + Send + 'static,
) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut inspected = 0;
        for wreck in wrecks {
            let Wreck {
                number, op, seed, ..
            } = wreck;
            let what = format!("after a power cut before operation {number}, {op}, seed {seed}");
            let _report = Report(&what);
            within(LIMIT, &what, || check(&wreck));
            inspected += 1;
        }
        inspected
    })
}

struct Report<'a>(&'a str);

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("*** {}", self.0);
        }
    }
}

/// The models of snapshots by their numbers, known before the snapshot can exist.
type Models = Arc<Mutex<BTreeMap<u64, Model>>>;

fn snapshot(machine: &Machine, models: &Models, backend: &StateBackend, model: &Model) {
    let next = machine.acknowledged.load(Ordering::SeqCst) + 1;
    models.lock().unwrap().insert(next, model.clone());
    let report = backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(report.id, next);
    machine.acknowledged.store(next, Ordering::SeqCst);
}

/// A life with everything in it: snapshots, a restart on the kept directory, its loss, a lazy restore, a compaction.
fn life(machine: &Machine, models: &Models, len: usize) {
    let mut model = Model::new();
    let backend = machine.builder().open().unwrap();
    write(&backend, &mut model, 0..60, [], 1, len).unwrap();
    backend.flush().unwrap();
    write(&backend, &mut model, 40..100, [3], 2, len).unwrap();
    snapshot(machine, models, &backend, &model);
    write(&backend, &mut model, 90..130, [7, 8], 3, len).unwrap();
    snapshot(machine, models, &backend, &model);
    let kept = model.clone();
    // Not flushed: a fourth file would set off a compaction, which is free to delete files that the snapshot needs.
    write(&backend, &mut model, 0..20, [], 4, len).unwrap();
    drop(backend);

    // A restart goes back to the snapshot, and keeps the files.
    model = kept;
    let backend = machine.builder().open().unwrap();
    let report = backend.restored().unwrap();
    assert_eq!((report.snapshot_id, report.reused_files), (2, report.files));
    check(&backend, &model).unwrap();
    write(&backend, &mut model, 120..140, [], 5, len).unwrap();
    snapshot(machine, models, &backend, &model);
    backend.compact().unwrap();
    snapshot(machine, models, &backend, &model);
    drop(backend);

    // A restore of everything, read while it comes.
    let other = Machine {
        dir: machine.dir.with_extension("other"),
        disk: machine.disk.clone(),
        plan: machine.plan.clone(),
        store: machine.store.clone(),
        acknowledged: machine.acknowledged.clone(),
    };
    let backend = other.builder().open().unwrap();
    check(&backend, &model).unwrap();
    backend.wait_until_local().unwrap();
    check(&backend, &model).unwrap();
    write(&backend, &mut model, 135..150, [1], 6, len).unwrap();
    snapshot(&other, models, &backend, &model);
}

/// What a wreck must come back with under [`Durability::Snapshot`]: the newest snapshot that its store holds, exactly.
fn comes_back(wreck: &Wreck, dir: &Path, models: &Models) {
    let store = SnapshotStore::new(Arc::new(wreck.store.clone()), RUNTIME.clone());
    let mut newest = 0;
    for (id, metadata) in store.list("job").unwrap() {
        let findings = store.verify(&metadata.unwrap(), &|_| {}).unwrap();
        assert!(findings.is_empty(), "snapshot {id}: {findings:?}");
        newest = id;
    }
    assert!(
        newest >= wreck.acknowledged,
        "snapshot {} is gone",
        wreck.acknowledged
    );
    let model = models
        .lock()
        .unwrap()
        .get(&newest)
        .cloned()
        .unwrap_or_default();
    // The policies in turn, so that each meets each kind of damage.
    let policy = match wreck.number % 3 {
        0 => LoadPolicy::Eager,
        1 => LoadPolicy::Lazy,
        _ => LoadPolicy::OnDemand,
    };
    let backend = wreck.builder(dir).load_policy(policy).open().unwrap();
    assert_eq!(backend.restored().map_or(0, |r| r.snapshot_id), newest);
    check(&backend, &model).unwrap();
    backend.wait_until_local().unwrap();
    check(&backend, &model).unwrap();
    if wreck.number.is_multiple_of(8) {
        let mut model = model;
        write(&backend, &mut model, 10..15, [], 9, LEN).unwrap();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        pending.wait().unwrap();
        drop(backend);
        let backend = wreck.builder(dir).open().unwrap();
        check(&backend, &model).unwrap();
    }
}

fn power_cuts(name: &'static str, seed: fn(u64) -> u64) {
    let temp = fast_tempdir();
    let dir = temp.path().join("local");
    let (sender, receiver) = channel();
    let models = Models::default();
    let machine = Machine::new(&dir, sender, seed);
    let known = models.clone();
    let other = dir.with_extension("other");
    let inspector = inspect(receiver, move |wreck| {
        // Both directories of the life are on the disk; either must come back.
        let dir = if wreck.number.is_multiple_of(2) {
            &dir
        } else {
            &other
        };
        comes_back(wreck, dir, &known);
    });
    life(&machine, &models, LEN);
    drop(machine);
    let inspected = inspector.join().expect("every wreck came back");
    println!("{name}: {inspected} power cuts");
    assert!(inspected > 500, "{inspected}");
}

#[test]
fn everything_that_was_not_synced_is_lost() {
    power_cuts("seed 0", |_| 0);
}

#[test]
fn everything_is_left_as_by_a_kill() {
    power_cuts("seed 1", |_| 1);
}

#[test]
fn anything_that_was_not_synced_may_be_lost() {
    power_cuts("seeds", |number| number + 2);
}

/// Every write of a life with a log, as the state that it led to; state 0 is the empty one.
fn logged_life(machine: &Machine, states: &Mutex<Vec<Model>>) {
    let builder = || machine.builder().durability(Durability::Wal);
    let mut model = Model::new();
    let mut backend = builder().open().unwrap();
    for step in 0..24u64 {
        let mut next = model.clone();
        let (keys, removed) = (step * 5..step * 5 + 12, [step * 3]);
        for key in keys.clone() {
            next.insert(key, lazurite_tests::value(key, step, LEN));
        }
        next.remove(&removed[0]);
        states.lock().unwrap().push(next);
        write(&backend, &mut model, keys, removed, step, LEN).unwrap();
        machine.acknowledged.fetch_add(1, Ordering::SeqCst);
        match step {
            3 | 17 => backend.flush().unwrap(),
            7 | 14 => {
                let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
                pending.wait().unwrap();
            }
            10 | 20 => {
                drop(backend);
                backend = builder().open().unwrap();
                assert!(backend.restored().is_none(), "it goes on in place");
                check(&backend, &model).unwrap();
            }
            _ => {}
        }
    }
    backend.compact().unwrap();
    check(&backend, &model).unwrap();
}

/// Runs a logged life; each wreck must open in place and hold the state of some number between what `least` says and
/// one more than was acknowledged: the write under way may be there or not.
fn logged(name: &'static str, seed: fn(u64) -> u64, least: fn(&Wreck) -> u64) {
    let temp = fast_tempdir();
    let dir = temp.path().join("local");
    let (sender, receiver) = channel();
    let machine = Machine::new(&dir, sender, seed);
    let states = Arc::new(Mutex::new(vec![Model::new()]));
    let known = states.clone();
    let inspector = inspect(receiver, move |wreck| {
        let backend = wreck
            .builder(&dir)
            .durability(Durability::Wal)
            .open()
            .unwrap();
        let found = contents(&backend).unwrap();
        let states = known.lock().unwrap().clone();
        let range = least(wreck)..=wreck.acknowledged + 1;
        let held = range
            .clone()
            .any(|number| states.get(number as usize) == Some(&found));
        let which = states.iter().position(|state| *state == found);
        assert!(
            held,
            "it holds state {which:?}, and should hold one of {range:?}"
        );
        check(&backend, &found).unwrap();
        let mut model = found;
        write(&backend, &mut model, 1..4, [], 77, LEN).unwrap();
        drop(backend);
        let backend = wreck
            .builder(&dir)
            .durability(Durability::Wal)
            .open()
            .unwrap();
        check(&backend, &model).unwrap();
    });
    logged_life(&machine, &states);
    drop(machine);
    let inspected = inspector.join().expect("every wreck came back");
    println!("{name}: {inspected} cuts");
    assert!(inspected > 200, "{inspected}");
}

#[test]
fn a_log_keeps_every_acknowledged_write_over_a_kill() {
    logged("log, kill", |_| 1, |wreck| wreck.acknowledged);
}

#[test]
fn a_log_holds_a_prefix_of_the_writes_after_a_power_cut() {
    logged("log, power cut", |number| number + 2, |_| 0);
}

#[test]
fn a_log_holds_what_was_synced_after_the_worst_power_cut() {
    logged("log, everything lost", |_| 0, |_| 0);
}
