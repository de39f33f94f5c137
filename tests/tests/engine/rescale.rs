//! State that comes back for other key groups than it was written for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use lazurite::{
    Codec, CompletedSnapshot, Coordinator, CoordinatorBuilder, Error, KeyGroupRange, LoadPolicy,
    MapStateDescriptor, OnCancel, Postcard, Restore, Result, RocksDbOptions, SnapshotOptions,
    SnapshotStore, StateBackend, StateBackendBuilder, Subtask, ValueStateDescriptor,
    key_groups::{assign_to_key_group, range_for_operator},
};
use lazurite_env::{
    Effect, ErrorKind, FaultPlan, Op,
    remote::{CountingStore, FaultStore, MemoryStore},
};
use lazurite_tests::rig::{RUNTIME, fast_tempdir, tiny};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tempfile::TempDir;

const GROUPS: u16 = 32;

static COUNTS: ValueStateDescriptor<u32, String> = ValueStateDescriptor::new("counts");
static CLICKS: MapStateDescriptor<u32, u32, String> = MapStateDescriptor::new("clicks");

pub(super) type Model = BTreeMap<u32, String>;

fn group(key: u32) -> u16 {
    let mut bytes = Vec::new();
    Codec::<u32>::encode(&Postcard, &key, &mut bytes).unwrap();
    assign_to_key_group(&bytes, GROUPS)
}

fn text(key: u32, version: u32) -> String {
    format!("{version}-{key:-<60}")
}

pub(super) fn builder(
    dir: &Path,
    store: &CountingStore,
    range: KeyGroupRange,
) -> StateBackendBuilder {
    tiny(dir)
        .remote_store(Arc::new(store.clone()))
        .key_groups(GROUPS)
        .key_group_range(range)
        .load_policy(LoadPolicy::OnDemand)
        .rocksdb(options(true))
}

pub(super) fn options(auto_compactions: bool) -> RocksDbOptions {
    RocksDbOptions {
        write_buffer_bytes: 64 << 10,
        target_file_bytes: 64 << 10,
        level_base_bytes: 256 << 10,
        block_bytes: 1 << 10,
        auto_compactions,
        ..RocksDbOptions::default()
    }
}

/// Writes `keys` of the backend's range, in both tables, and removes every seventh.
pub(super) fn write(
    backend: &StateBackend,
    model: &mut Model,
    keys: std::ops::Range<u32>,
    version: u32,
) {
    let range = backend.key_group_range();
    let counts = backend.value_state(&COUNTS).unwrap();
    let clicks = backend.map_state(&CLICKS).unwrap();
    for key in keys.filter(|key| range.contains(group(*key))) {
        if key % 7 == version % 7 {
            counts.remove(&key).unwrap();
            clicks.clear(&key).unwrap();
            model.remove(&key);
        } else {
            counts.put(&key, &text(key, version)).unwrap();
            clicks.put(&key, &version, &text(key, version)).unwrap();
            model.insert(key, text(key, version));
        }
    }
}

/// All that the backend holds is what `model` has of its range: by key, by iteration, many at once.
pub(super) fn check(backend: &StateBackend, model: &Model) {
    let range = backend.key_group_range();
    let counts = backend.value_state(&COUNTS).unwrap();
    let expected: Model = model
        .iter()
        .filter(|(key, _)| range.contains(group(**key)))
        .map(|(key, value)| (*key, value.clone()))
        .collect();
    let found: Model = counts.iter().unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(found.len(), expected.len(), "of {range}");
    assert_eq!(found, expected);
    let keys: Vec<u32> = (0..4_000).filter(|k| range.contains(group(*k))).collect();
    let values = counts.multi_get(&keys).unwrap();
    let clicks = backend.map_state(&CLICKS).unwrap();
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.as_ref(), expected.get(key), "{key}");
        if key % 50 == 0 {
            assert_eq!(counts.get(key).unwrap(), value);
            let newest = clicks.entries(key).unwrap().map(|e| e.unwrap().1).last();
            assert_eq!(newest, value, "{key}");
        }
    }
    for group in range.iter().step_by(5) {
        let found = counts.iter_key_group(group).unwrap().count();
        let of_group = expected.keys().filter(|key| self::group(**key) == group);
        assert_eq!(found, of_group.count());
    }
}

fn all() -> KeyGroupRange {
    KeyGroupRange::all(GROUPS).unwrap()
}

/// A job of one backend, with files of several levels.
pub(super) fn written(store: &CountingStore) -> Model {
    let dir = fast_tempdir();
    let backend = builder(dir.path(), store, all()).open().unwrap();
    let mut model = Model::new();
    for version in 0..6 {
        write(&backend, &mut model, 0..4_000, version);
        backend.flush().unwrap();
    }
    let snapshot = backend.snapshot(SnapshotOptions::new().metadata("position", "7"));
    snapshot.unwrap().wait().unwrap();
    model
}

#[test]
fn a_part_comes_back_without_a_look_into_any_table_file() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let model = written(&store);
    for parallelism in [2, 3, 5] {
        for index in 0..parallelism {
            let range = range_for_operator(GROUPS, parallelism, index).unwrap();
            let dir = fast_tempdir();
            store.start_recording();
            // A compaction that is due reads, as after any restore.
            let quiet = builder(dir.path(), &store, range).rocksdb(options(false));
            let backend = quiet.open().unwrap();
            let requests = store.take_recording();
            let of_tables = requests.iter().filter(|r| r.key.ends_with(".sst"));
            assert_eq!(of_tables.count(), 0, "table files were read by the open");
            let restored = backend.restored().unwrap();
            assert_eq!(restored.user_metadata["position"], b"7");
            assert!(restored.files > 0);
            check(&backend, &model);
            backend.compact().unwrap();
            check(&backend, &model);
            let refused = backend.snapshot(SnapshotOptions::new()).err().unwrap();
            assert!(matches!(refused, Error::PartOfSnapshot { .. }), "{refused}");
        }
    }
}

#[test]
fn a_part_goes_on_with_writes_and_compactions() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let mut model = written(&store);
    let range = KeyGroupRange::new(5, 20).unwrap();
    let dir = fast_tempdir();
    let backend = builder(dir.path(), &store, range).open().unwrap();
    for version in 10..14 {
        write(&backend, &mut model, 0..4_000, version);
        backend.flush().unwrap();
        check(&backend, &model);
    }
    backend.wait_until_local().unwrap();
    backend.compact().unwrap();
    check(&backend, &model);
}

#[test]
fn a_range_that_was_not_written_is_refused() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let dir = fast_tempdir();
    let range = KeyGroupRange::new(8, 15).unwrap();
    let backend = builder(dir.path(), &store, range).open().unwrap();
    write(&backend, &mut Model::new(), 0..500, 1);
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    pending.wait().unwrap();
    drop(backend);
    for (start, end) in [(7, 15), (8, 16), (0, 31), (16, 20)] {
        let range = KeyGroupRange::new(start, end).unwrap();
        let dir = fast_tempdir();
        let error = builder(dir.path(), &store, range).open().err().unwrap();
        assert!(matches!(error, Error::RangeNotCovered { .. }), "{error}");
    }
    let range = KeyGroupRange::new(9, 9).unwrap();
    let dir = fast_tempdir();
    builder(dir.path(), &store, range).open().unwrap();
}

/// The subtasks of a job that runs, each with a directory of its own, and who completes its snapshots.
struct Running {
    coordinator: Coordinator,
    backends: Vec<(StateBackend, TempDir)>,
}

impl Running {
    /// A job that goes on from its newest snapshot, on new machines.
    fn start(store: &CountingStore, parallelism: u16, policy: LoadPolicy) -> Running {
        Self::start_with(store, parallelism, policy, true)
    }

    fn start_with(
        store: &CountingStore,
        parallelism: u16,
        policy: LoadPolicy,
        auto_compactions: bool,
    ) -> Running {
        let snapshots = SnapshotStore::new(Arc::new(store.clone()), RUNTIME.clone());
        let coordinator = Coordinator::builder(snapshots, "job").open().unwrap();
        let restore = match coordinator.latest() {
            Some(latest) => Restore::Snapshot(latest.id),
            None => Restore::Empty,
        };
        let backends = (0..parallelism).map(|index| {
            let range = range_for_operator(GROUPS, parallelism, index).unwrap();
            let dir = fast_tempdir();
            let backend = builder(dir.path(), store, range)
                .rocksdb(options(auto_compactions))
                .load_policy(policy)
                .restore(restore)
                .open()
                .unwrap();
            (backend, dir)
        });
        Running {
            backends: backends.collect(),
            coordinator,
        }
    }

    fn each(&self, mut with: impl FnMut(&StateBackend)) {
        self.backends.iter().for_each(|(backend, _)| with(backend));
    }

    fn begin(&self) -> u64 {
        self.try_begin().unwrap()
    }

    fn try_begin(&self) -> Result<u64> {
        let subtasks: Vec<Subtask> = self
            .backends
            .iter()
            .map(|(backend, _)| Subtask {
                operator: "state".into(),
                key_group_range: backend.key_group_range(),
            })
            .collect();
        self.coordinator.begin(&subtasks, SnapshotOptions::new())
    }

    fn try_snapshot(&self) -> Result<()> {
        let id = self.try_begin()?;
        for (backend, _) in &self.backends {
            let part = backend.snapshot_part(id, SnapshotOptions::new())?.wait()?;
            self.coordinator.acknowledge(part)?;
        }
        Ok(())
    }

    fn snapshot(&self) -> CompletedSnapshot {
        let id = self.begin();
        let mut done = None;
        for (backend, _) in &self.backends {
            assert!(done.is_none());
            let part = backend.snapshot_part(id, SnapshotOptions::new()).unwrap();
            let handle = serde_json::to_string(&part.wait().unwrap()).unwrap();
            let handle = serde_json::from_str(&handle).unwrap();
            done = self.coordinator.acknowledge(handle).unwrap();
        }
        self.each(|backend| backend.confirm_part(id).unwrap());
        let done = done.unwrap();
        assert_eq!(done.id, id);
        done
    }
}

/// The complete snapshots are whole. Gives how many objects there are that none of them needs.
fn check_store(store: &MemoryStore) -> usize {
    let snapshots = SnapshotStore::new(Arc::new(store.clone()), RUNTIME.clone());
    let mut needed = BTreeSet::new();
    for (id, metadata) in snapshots.list("job").unwrap() {
        let metadata = metadata.unwrap();
        assert_eq!(snapshots.verify(&metadata, &|_| ()).unwrap().len(), 0);
        needed.insert(format!("job/chk-{id}/_metadata"));
        for state in &metadata.subtasks {
            needed.insert(state.manifest.key.clone());
            needed.extend(state.tails.iter().map(|t| t.key.clone()));
            needed.extend(state.files.iter().map(|f| f.key.clone()));
        }
    }
    let there: BTreeSet<String> = store.keys().iter().map(ToString::to_string).collect();
    assert!(needed.is_subset(&there));
    // Fences are no orphans.
    let orphans = there.difference(&needed);
    orphans.filter(|key| !key.ends_with("/_metadata")).count()
}

#[test]
fn what_was_split_comes_together_as_it_was() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let mut model = written(&store);
    let files = |running: &Running| -> u64 {
        let of = |(backend, _): &(StateBackend, TempDir)| backend.restored().unwrap().files;
        running.backends.iter().map(of).sum()
    };
    // A compaction that is due would change files.
    let quiet = |parallelism| Running::start_with(&store, parallelism, LoadPolicy::OnDemand, false);
    let whole = files(&quiet(1));
    for parallelism in [2, 3, 2, 1] {
        let running = quiet(parallelism);
        running.each(|backend| check(backend, &model));
        let before = inner.keys().len();
        let done = running.snapshot();
        // Nothing is uploaded where nothing has changed.
        assert_eq!((done.uploaded_files, done.subsumed.len()), (0, 0));
        assert!(inner.keys().len() <= before + 2 * usize::from(parallelism));
    }
    assert_eq!(check_store(&inner), 0);
    let again = quiet(1);
    assert_eq!(files(&again), whole);
    again.each(|backend| check(backend, &model));
    again.each(|backend| {
        write(backend, &mut model, 0..4_000, 90);
        backend.compact().unwrap();
        check(backend, &model);
    });
}

#[test]
fn chains_of_rescales_lose_nothing() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let inner = MemoryStore::new();
        let store = CountingStore::new(Arc::new(inner.clone()));
        let mut durable = written(&store);
        for step in 0..6 {
            let parallelism = random.random_range(1..=5);
            let policies = [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand];
            let policy = *policies.choose(&mut random).unwrap();
            let running = Running::start(&store, parallelism, policy);
            let mut model = durable.clone();
            running.each(|backend| check(backend, &model));
            for round in 0..random.random_range(0..3) {
                running.each(|backend| {
                    let version = 100 + step * 10 + round;
                    let from = random.random_range(0..4_000);
                    write(backend, &mut model, from..4_000, version);
                    match random.random_range(0..4) {
                        0 => backend.flush().unwrap(),
                        1 if policy != LoadPolicy::OnDemand => backend.compact().unwrap(),
                        _ => {}
                    }
                    check(backend, &model);
                });
            }
            match random.random_range(0..4) {
                // Some parts come, the last one never does.
                0 => {
                    let id = running.begin();
                    for (backend, _) in running.backends.iter().skip(1) {
                        let part = backend.snapshot_part(id, SnapshotOptions::new()).unwrap();
                        let done = running.coordinator.acknowledge(part.wait().unwrap());
                        assert!(done.unwrap().is_none());
                    }
                }
                _ => {
                    running.snapshot();
                    durable = model;
                }
            }
        }
        check_store(&inner);
        Running::start(&store, 1, LoadPolicy::Eager).each(|backend| check(backend, &durable));
    }
}

#[test]
fn the_coordinator_before_completes_nothing_any_more() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let model = written(&store);
    for parts_before in [0, 1] {
        let old = Running::start(&store, 2, LoadPolicy::OnDemand);
        let id = old.begin();
        let mut handles: Vec<_> = old
            .backends
            .iter()
            .map(|(backend, _)| backend.snapshot_part(id, SnapshotOptions::new()).unwrap())
            .map(|part| part.wait().unwrap())
            .collect();
        for handle in handles.drain(..parts_before) {
            assert!(old.coordinator.acknowledge(handle).unwrap().is_none());
        }
        let new = Running::start(&store, 3, LoadPolicy::OnDemand);
        for handle in handles {
            match old.coordinator.acknowledge(handle) {
                Ok(done) => assert!(done.is_none()),
                Err(error) => assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}"),
            }
        }
        assert!(matches!(
            old.try_snapshot(),
            Err(Error::SnapshotConflict { .. })
        ));
        new.snapshot();
        new.each(|backend| check(backend, &model));
    }
    Running::start(&store, 1, LoadPolicy::Eager).each(|backend| check(backend, &model));
}

#[test]
fn a_request_that_fails_leaves_the_snapshot_before_or_the_whole_new_one() {
    let base = MemoryStore::new();
    let old = written(&CountingStore::new(Arc::new(base.clone())));
    let faults = [
        Effect::Fail(ErrorKind::PermissionDenied),
        Effect::Fail(ErrorKind::Unavailable),
        Effect::FailAfter(ErrorKind::Unavailable),
    ];
    let (mut failed, mut completed) = (0, 0);
    for effect in faults {
        for i in 0.. {
            let inner = base.fork();
            let plan = FaultPlan::new();
            plan.disable();
            let broken = FaultStore::new(Arc::new(inner.clone()), plan.clone());
            let broken = CountingStore::new(Arc::new(broken));
            let running = Running::start(&broken, 2, LoadPolicy::OnDemand);
            let before = running.coordinator.latest().unwrap().id;
            let mut new = old.clone();
            running.each(|backend| write(backend, &mut new, 0..300, 50));
            plan.set_filter(|op: Op| op.is_remote(), "");
            plan.fail_nth(i, effect);
            plan.enable();
            let result = running.try_snapshot();
            plan.disable();
            let injected = plan.injected() > 0;
            assert!(injected || result.is_ok(), "{result:?}");
            drop(running);
            let store = CountingStore::new(Arc::new(inner.clone()));
            let again = Running::start(&store, 3, LoadPolicy::Eager);
            let is_new = again.coordinator.latest().unwrap().id > before;
            assert!(
                is_new || result.is_err(),
                "fault {i}: what was acknowledged is gone"
            );
            let model = if is_new { &new } else { &old };
            again.each(|backend| check(backend, model));
            again.snapshot();
            check_store(&inner);
            failed += u32::from(result.is_err());
            completed += u32::from(is_new);
            if !injected {
                assert!(i > 5, "{i} requests are too few for a snapshot");
                break;
            }
        }
    }
    assert!(
        failed > 5 && completed > 0,
        "{failed} failed, {completed} completed"
    );
}

fn coordinator(store: &CountingStore) -> CoordinatorBuilder {
    let snapshots = SnapshotStore::new(Arc::new(store.clone()), RUNTIME.clone());
    Coordinator::builder(snapshots, "job")
        .max_concurrent_snapshots(2)
        .tolerable_failures(9)
        .retained_snapshots(2)
}

#[test]
fn a_number_that_was_given_out_may_be_taken_by_who_takes_over() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let model = written(&store);
    let mut old = Running::start(&store, 2, LoadPolicy::OnDemand);
    old.coordinator = coordinator(&store).open().unwrap();
    let before = old.coordinator.latest().unwrap().id;
    let (first, _second) = (old.begin(), old.begin());
    let mut handles = Vec::new();
    for (backend, _) in &old.backends {
        let part = backend
            .snapshot_part(first, SnapshotOptions::new())
            .unwrap();
        handles.push(part.wait().unwrap());
    }
    // It finds the manifests of the first, and nothing of the second.
    let new = coordinator(&store).open().unwrap();
    assert_eq!(new.latest().unwrap().id, before);
    let last = handles.pop().unwrap();
    for handle in handles {
        assert!(old.coordinator.acknowledge(handle).unwrap().is_none());
    }
    let error = old.coordinator.acknowledge(last).err().unwrap();
    assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}");
    let error = old.try_begin().err().unwrap();
    assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}");
    assert_eq!(
        check_store(&inner),
        2,
        "the manifests of what came to nothing"
    );
    let again = Running::start(&store, 1, LoadPolicy::Eager);
    assert_eq!(again.coordinator.latest().unwrap().id, before);
    again.each(|backend| check(backend, &model));
}

#[test]
fn a_repeated_answer_is_nothing_and_a_late_one_is_refused() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    written(&store);
    let mut running = Running::start(&store, 1, LoadPolicy::OnDemand);
    running.coordinator = coordinator(&store).open().unwrap();
    let (backend, _) = &running.backends[0];
    let part = |id| {
        let part = backend.snapshot_part(id, SnapshotOptions::new());
        part.unwrap().wait().unwrap()
    };
    let (first, second) = (running.begin(), running.begin());
    let error = running.try_begin().err().unwrap();
    assert!(matches!(error, Error::SnapshotInProgress), "{error}");
    let (one, two) = (part(first), part(second));
    let done = running.coordinator.acknowledge(two.clone()).unwrap();
    assert_eq!(done.unwrap().subsumed, [first]);
    assert!(running.coordinator.acknowledge(two).unwrap().is_none());
    let error = running.coordinator.acknowledge(one).err().unwrap();
    assert!(matches!(error, Error::SnapshotAborted), "{error}");
    let third = running.begin();
    running.coordinator.decline(third, "a test").unwrap();
    assert!(running.coordinator.pending().is_empty());
}

#[test]
fn who_cancels_deletes_all_unless_it_is_anothers() {
    for what in [OnCancel::Keep, OnCancel::Delete] {
        let inner = MemoryStore::new();
        let store = CountingStore::new(Arc::new(inner.clone()));
        let mut model = written(&store);
        let mut old = Running::start(&store, 2, LoadPolicy::OnDemand);
        old.coordinator = coordinator(&store).on_cancel(what).open().unwrap();
        for version in 30..33 {
            old.each(|backend| write(backend, &mut model, 0..500, version));
            old.snapshot();
        }
        assert_eq!(check_store(&inner), 0, "two are retained, and no more");
        let new = coordinator(&store).on_cancel(what).open().unwrap();
        let before = inner.keys().len();
        let cancelled = old.coordinator.cancel();
        assert_eq!(inner.keys().len(), before);
        match what {
            OnCancel::Keep => cancelled.unwrap(),
            OnCancel::Delete => {
                let error = cancelled.err().unwrap();
                assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}");
            }
        }
        new.cancel().unwrap();
        let left = inner.keys().len();
        assert_eq!(left, if what == OnCancel::Keep { before } else { 0 });
    }
}

#[test]
fn a_snapshot_begins_while_another_is_completed() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    written(&store);
    let mut running = Running::start(&store, 1, LoadPolicy::OnDemand);
    running.coordinator = coordinator(&store).open().unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    lazurite_tests::watchdog::within(std::time::Duration::from_secs(60), "beginning", || {
        std::thread::scope(|scope| {
            let begin = scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::SeqCst) {
                    if let Ok(id) = running.try_begin() {
                        running.coordinator.decline(id, "a test").ok();
                        running.coordinator.is_due();
                    }
                }
            });
            let (mut complete, mut tries) = (0, 0);
            while complete < 10 && tries < 1_000 {
                tries += 1;
                complete += u32::from(running.try_snapshot().is_ok());
            }
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            begin.join().unwrap();
            assert!(complete > 0, "none of {tries}");
        });
    });
}
