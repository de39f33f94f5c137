//! State that comes back for other key groups than it was written for.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use lazurite::{
    Codec, Error, KeyGroupRange, LoadPolicy, MapStateDescriptor, Postcard, RocksDbOptions,
    SnapshotOptions, StateBackend, StateBackendBuilder, ValueStateDescriptor,
    key_groups::{assign_to_key_group, range_for_operator},
};
use lazurite_env::remote::{CountingStore, MemoryStore};
use lazurite_tests::rig::{fast_tempdir, tiny};

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
    let found: Model = counts.iter().unwrap().map(Result::unwrap).collect();
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
