//! State that comes back for other key groups than it was written for.

mod jobs;
mod parts;

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

pub(super) const GROUPS: u16 = 32;

pub(super) static COUNTS: ValueStateDescriptor<u32, String> = ValueStateDescriptor::new("counts");
pub(super) static CLICKS: MapStateDescriptor<u32, u32, String> = MapStateDescriptor::new("clicks");

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

pub(super) fn all() -> KeyGroupRange {
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

/// The subtasks of a job that runs, each with a directory of its own, and who completes its snapshots.
pub(super) struct Running {
    coordinator: Coordinator,
    pub(super) backends: Vec<(StateBackend, TempDir)>,
}

impl Running {
    /// A job that goes on from its newest snapshot, on new machines.
    pub(super) fn start(store: &CountingStore, parallelism: u16, policy: LoadPolicy) -> Running {
        Self::start_with(store, parallelism, policy, true)
    }

    pub(super) fn start_with(
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

    pub(super) fn each(&self, mut with: impl FnMut(&StateBackend)) {
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

    pub(super) fn snapshot(&self) -> CompletedSnapshot {
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

fn coordinator(store: &CountingStore) -> CoordinatorBuilder {
    let snapshots = SnapshotStore::new(Arc::new(store.clone()), RUNTIME.clone());
    Coordinator::builder(snapshots, "job")
        .max_concurrent_snapshots(2)
        .tolerable_failures(9)
        .retained_snapshots(2)
}
