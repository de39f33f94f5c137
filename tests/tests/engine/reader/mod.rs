//! Snapshots that are read in place.

mod beside;
mod refusals;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use lazurite::{
    Codec, Error, KeyGroupRange, LoadPolicy, MapStateDescriptor, Postcard, RawBytes, RawKey,
    ReaderOptions, Restore, Result, RocksDbOptions, SnapshotOptions, SnapshotReader, SnapshotStore,
    SnapshotTable, StateBackend, TableKind, ValueStateDescriptor,
};
use lazurite_env::remote::{CountingStore, MemoryStore, RequestKind};
use lazurite_tests::rig::{RUNTIME, fast_tempdir, tiny};

use super::rescale::{self, CLICKS, COUNTS, Running, builder, write, written};

/// A table's entries: (key, namespace, user key) and the value, as bytes.
pub(super) type Entries = BTreeMap<(Vec<u8>, Vec<u8>, Vec<u8>), Vec<u8>>;

static WORDS: ValueStateDescriptor<String, u64> = ValueStateDescriptor::new("words");
fn visits() -> MapStateDescriptor<String, Vec<u8>, String> {
    MapStateDescriptor::with_codecs("visits", Postcard, RawBytes, Postcard)
}

pub(super) fn snapshots(store: &CountingStore) -> SnapshotStore {
    SnapshotStore::new(Arc::new(store.clone()), RUNTIME.clone())
}

pub(super) fn job() -> ReaderOptions {
    ReaderOptions::new().job("job")
}

pub(super) fn encode<T>(value: &T) -> Vec<u8>
where
    Postcard: Codec<T>,
{
    let mut bytes = Vec::new();
    Postcard.encode(value, &mut bytes).unwrap();
    bytes
}

pub(super) fn counted(store: MemoryStore) -> CountingStore {
    CountingStore::new(Arc::new(store))
}

/// All of a table.
fn all(table: &SnapshotTable<'_>) -> Result<Entries> {
    let mut entries = Entries::new();
    for entry in table.entries()? {
        let entry = entry?;
        assert_eq!(entry.key_group, table.key_group(&entry.key));
        let place = (entry.key, entry.namespace, entry.user_key);
        assert!(entries.insert(place, entry.value).is_none());
    }
    Ok(entries)
}

/// What a backend with these types says that the snapshot holds, of the default namespace.
pub(super) fn oracle(
    store: &CountingStore,
    id: u64,
    range: KeyGroupRange,
) -> BTreeMap<String, Entries> {
    let dir = fast_tempdir();
    let restored = builder(dir.path(), store, range).restore(Restore::Snapshot(id));
    let backend = restored.open().unwrap();
    let (mut values, mut maps) = (Entries::new(), Entries::new());
    let mut counts = backend.value_state(&COUNTS).unwrap().iter().unwrap();
    while let Some(entry) = counts.next_entry() {
        let entry = entry.unwrap();
        let place = (entry.encoded_key().to_vec(), vec![], vec![]);
        values.insert(place, entry.encoded_value().to_vec());
    }
    let mut clicks = backend.map_state(&CLICKS).unwrap().iter().unwrap();
    while let Some(entry) = clicks.next_entry() {
        let entry = entry.unwrap();
        let user_key = entry.encoded_user_key().to_vec();
        let place = (entry.encoded_key().to_vec(), vec![], user_key);
        maps.insert(place, entry.encoded_value().to_vec());
    }
    BTreeMap::from([("counts".into(), values), ("clicks".into(), maps)])
}

/// A job that was split, came together and was split again, with writes in between: what its files hold beyond their key groups is old. Gives
/// the newest snapshot.
pub(super) fn rescaled(store: &CountingStore) -> (u64, rescale::Model) {
    let mut model = written(store);
    let mut id = 0;
    for (step, parallelism) in [2, 3, 1, 2].into_iter().enumerate() {
        let running = Running::start_with(store, parallelism, LoadPolicy::OnDemand, false);
        let version = 20 + step as u32;
        running.each(|backend| write(backend, &mut model, 0..3_000, version));
        // One has files of its own alone from now on. What its neighbour's hold of its key groups is not as it has it.
        let (last, _) = running.backends.last().unwrap();
        if parallelism > 1 {
            last.wait_until_local().unwrap();
            last.compact().unwrap();
        }
        id = running.snapshot().id;
    }
    (id, model)
}

/// One backend's words and visits at two versions, as snapshots 1 and 2. Gives what they hold.
fn two_versions(store: &CountingStore, dir: &Path) -> Vec<[Entries; 2]> {
    let backend = tiny(dir).remote_store(Arc::new(store.clone()));
    let backend = backend.retained_snapshots(2).open().unwrap();
    let (words, visits) = (
        backend.value_state(&WORDS).unwrap(),
        backend.map_state(&visits()).unwrap(),
    );
    let (mut values, mut maps) = (Entries::new(), Entries::new());
    let mut versions = Vec::new();
    for version in 1..=2u64 {
        for n in 0..300u64 {
            let key = format!("word-{}", n * version);
            let namespace: &[u8] = if n % 5 == 0 { b"window" } else { b"" };
            words.in_namespace(namespace).put(&key, &n).unwrap();
            let place = (encode(&key), namespace.to_vec(), vec![]);
            values.insert(place, encode(&n));
            for user_key in [&b"a"[..], b"\xff\xff", b""] {
                let value = format!("{n} at {version}");
                let visits = visits.in_namespace(namespace);
                visits.put(&key, &user_key.to_vec(), &value).unwrap();
                let place = (encode(&key), namespace.to_vec(), user_key.to_vec());
                maps.insert(place, encode(&value));
            }
        }
        let gone = "word-7".to_string();
        words.remove(&gone).unwrap();
        values.remove(&(encode(&gone), vec![], vec![]));
        visits.clear(&gone).unwrap();
        maps.retain(|(key, namespace, _), _| *key != encode(&gone) || !namespace.is_empty());
        let pending = backend.snapshot(SnapshotOptions::new().metadata("at", "x"));
        assert_eq!(pending.unwrap().wait().unwrap().id, version);
        versions.push([values.clone(), maps.clone()]);
    }
    versions
}

#[test]
fn every_entry_is_there_and_no_other() {
    let store = counted(MemoryStore::new());
    let dir = fast_tempdir();
    let versions = two_versions(&store, dir.path());
    for (id, [words, visits]) in [(1, &versions[0]), (2, &versions[1])] {
        let reader = SnapshotReader::open(&snapshots(&store), job().snapshot(id)).unwrap();
        assert_eq!((reader.snapshot_id(), reader.operator()), (id, "state"));
        assert_eq!((reader.job(), reader.key_groups()), ("job", 128));
        assert_eq!(reader.user_metadata().unwrap()["at"], b"x");
        let tables = reader.tables();
        assert_eq!(tables.len(), 2);
        assert_eq!(tables[1].kind, TableKind::Map);
        for (name, expected) in [("words", words), ("visits", visits)] {
            let table = reader.table(name).unwrap();
            assert!(all(&table).unwrap() == *expected, "{name} of {id}");
            for ((key, namespace, user_key), value) in expected {
                let at = RawKey {
                    key,
                    namespace,
                    user_key,
                };
                assert_eq!(table.get(at).unwrap().as_ref(), Some(value));
            }
            let missing = encode(&"word-7".to_string());
            let missing = RawKey {
                key: &missing,
                ..RawKey::default()
            };
            assert_eq!(table.get(missing).unwrap(), None);
            let key = encode(&"word-10".to_string());
            let of_key = table.entries_of(&key).unwrap();
            let of_key: Vec<_> = of_key
                .map(|entry| entry.map(|e| (e.key, e.namespace, e.user_key)).unwrap())
                .collect();
            let own = expected.keys().filter(|(own, ..)| *own == key).cloned();
            assert_eq!(of_key, own.collect::<Vec<_>>());
            let of_groups = (0..128).map(|group| table.entries_of_group(group).unwrap().count());
            assert_eq!(of_groups.sum::<usize>(), expected.len());
        }
    }
    let newest = SnapshotReader::open(&snapshots(&store), job()).unwrap();
    assert_eq!(newest.snapshot_id(), 2);
}

#[test]
fn many_subtasks_are_read_as_one() {
    let store = counted(MemoryStore::new());
    let (id, model) = rescaled(&store);
    let everything = KeyGroupRange::all(rescale::GROUPS).unwrap();
    for range in [None, Some((3, 17)), Some((30, 31))] {
        let (mut options, mut expected) = (job(), everything);
        if let Some((start, end)) = range {
            expected = KeyGroupRange::new(start, end).unwrap();
            options = options.key_group_range(expected);
        }
        let reader = SnapshotReader::open(&snapshots(&store), options).unwrap();
        assert_eq!(reader.snapshot_id(), id);
        assert_eq!(reader.key_group_range(), expected);
        for (name, entries) in oracle(&store, id, expected) {
            let found = all(&reader.table(&name).unwrap()).unwrap();
            assert!(found == entries, "{name} of {expected}");
            assert!(!found.is_empty());
        }
        if range.is_none() {
            let found = all(&reader.table("counts").unwrap()).unwrap();
            let model = model
                .iter()
                .map(|(key, value)| (encode(key), encode(value)));
            let found = found.into_iter().map(|((key, ..), value)| (key, value));
            assert_eq!(
                found.collect::<BTreeMap<_, _>>(),
                model.collect::<BTreeMap<_, _>>()
            );
        }
    }
}

/// A state of many files, half of them in level 0.
fn many_files(store: &CountingStore) -> u64 {
    let dir = fast_tempdir();
    let backend = tiny(dir.path())
        .remote_store(Arc::new(store.clone()))
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            block_bytes: 1 << 10,
            ..RocksDbOptions::default()
        })
        .open()
        .unwrap();
    let counts = backend.value_state(&COUNTS).unwrap();
    let clicks = backend.map_state(&CLICKS).unwrap();
    for file in 0..60u32 {
        for n in 0..200 {
            let key = file * 1_000 + n;
            counts.put(&key, &format!("{key:->200}")).unwrap();
            clicks.put(&key, &n, &format!("{key:->200}")).unwrap();
            clicks.put(&7_007, &key, &format!("{key:->20}")).unwrap();
        }
        backend.flush().unwrap();
    }
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    let report = pending.wait().unwrap();
    assert!(report.uploaded_files >= 120, "{report:?}");
    report.uploaded_bytes
}

#[test]
fn only_what_is_needed_comes() {
    let store = counted(MemoryStore::new());
    let bytes = many_files(&store);
    let before = store.snapshot();
    store.start_recording();
    let reader = SnapshotReader::open(&snapshots(&store), job()).unwrap();
    let opened = store.snapshot().since(&before);
    let requests = store.take_recording();
    assert!(
        requests.iter().all(|r| !r.key.ends_with(".sst")),
        "{requests:?}"
    );
    assert!(opened.total() <= 8, "{opened:?}");
    for (key, there) in [(31_005u32, true), (59_199, true), (999_999, false)] {
        let encoded = encode(&key);
        let at = RawKey {
            key: &encoded,
            ..RawKey::default()
        };
        let before = store.snapshot();
        let value = reader.table("counts").unwrap().get(at).unwrap();
        assert_eq!(value.is_some(), there);
        let cost = store.snapshot().since(&before);
        assert_eq!(cost.of(RequestKind::GetRange), cost.total());
        // A filter may be wrong about a file now and then: one in a hundred, of sixty.
        assert!(cost.total() <= 3, "{cost:?}");
        assert!(cost.bytes_in * 50 < bytes, "{cost:?} of {bytes}");
    }
    let before = store.snapshot();
    let clicks = reader.table("clicks").unwrap();
    assert_eq!(clicks.entries_of(&encode(&31_005u32)).unwrap().count(), 1);
    let cost = store.snapshot().since(&before);
    assert!(cost.bytes_in * 10 < bytes, "{cost:?} of {bytes}");
    let other = clicks.entries_of(&encode(&7_007u32)).unwrap();
    assert_eq!(other.count(), 60 * 200);
    assert!(reader.tier().remote_requests > 0);
}

#[test]
fn nothing_is_written_to_the_store_and_nothing_is_left() {
    let inner = MemoryStore::new();
    let store = counted(inner.clone());
    rescaled(&store);
    let (keys, before) = (inner.keys(), store.snapshot());
    let temp = fast_tempdir();
    let options = job().temp_dir(temp.path());
    let reader = SnapshotReader::open(&snapshots(&store), options).unwrap();
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    all(&reader.table("counts").unwrap()).unwrap();
    let mut half_read = reader.table("clicks").unwrap().entries().unwrap();
    half_read.next().unwrap().unwrap();
    drop(half_read);
    drop(reader);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    let out = temp.path().join("out");
    lazurite::export(
        &snapshots(&store),
        job(),
        lazurite::ExportOptions::new(&out),
        &|_, _| {},
    )
    .unwrap();
    let requests = store.snapshot().since(&before);
    let reads = [
        RequestKind::Get,
        RequestKind::GetRange,
        RequestKind::Len,
        RequestKind::List,
    ];
    let reads: u64 = reads.into_iter().map(|kind| requests.of(kind)).sum();
    assert_eq!((requests.total(), requests.bytes_out), (reads, 0));
    assert_eq!(inner.keys(), keys);
}
