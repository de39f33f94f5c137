//! What things cost, in requests and bytes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::{LoadPolicy, RocksDbOptions, StateBackend, StateBackendBuilder};
use lazurite_env::remote::{
    CountingStore, DelayStore, LinkOptions, RequestRecord, sequential_round_trips,
};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

/// No compaction by itself, and a block cache that no test fills.
fn quiet(builder: StateBackendBuilder, target_file_bytes: u64) -> StateBackendBuilder {
    builder
        .load_policy(LoadPolicy::OnDemand)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            block_cache_bytes: 64 << 20,
            target_file_bytes,
            level_base_bytes: target_file_bytes.max(1 << 20),
            ..RocksDbOptions::default()
        })
}

const SMALL: u64 = 64 << 10;
const KEYS: u64 = 6000;

/// A lost disk and a snapshot of [`KEYS`] keys in more than 64 files, none of which overlaps another.
fn many_files() -> World {
    let world = World::new();
    let backend = quiet(world.builder(), SMALL).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    // Two files that overlap, so that the compaction has something to do.
    for rest in 0..2 {
        fill(&table, (0..KEYS).filter(|key| key % 2 == rest), 0, 1000);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    world
}

fn tables_of(records: &[RequestRecord]) -> Vec<&str> {
    records
        .iter()
        .map(|r| r.key.as_str())
        .filter(|key| key.ends_with(".sst"))
        .collect()
}

/// 64 keys, each in another file.
fn one_key_a_file(world: &World) -> Vec<u64> {
    let backend = quiet(world.builder(), SMALL).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let mut keys = BTreeMap::new();
    for key in 0..KEYS {
        world.store.start_recording();
        table.get(&key).unwrap().unwrap();
        let records = world.store.take_recording();
        for file in tables_of(&records) {
            keys.entry(file.to_owned()).or_insert(key);
        }
        if keys.len() == 64 {
            break;
        }
    }
    drop((table, backend));
    world.lose_disk();
    assert_eq!(keys.len(), 64, "the state is in too few files");
    keys.into_values().collect()
}

#[test]
fn a_cold_get_is_one_request_and_a_cold_multi_get_one_for_each_file() {
    let world = many_files();
    let keys = one_key_a_file(&world);
    let expected: Vec<_> = keys.iter().map(|key| Some(value(*key, 0, 1000))).collect();

    let backend = quiet(world.builder(), SMALL).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for (key, expected) in keys.iter().zip(&expected) {
        let before = world.store.snapshot().total();
        assert_eq!(table.get(key).unwrap(), *expected);
        assert_eq!(world.store.snapshot().total(), before + 1, "key {key}");
    }
    let before = world.store.snapshot().total();
    assert_eq!(table.get(&u64::MAX).unwrap(), None);
    assert!(
        world.store.snapshot().total() <= before + 1,
        "one file may hold it, and its filter says no"
    );
    drop((table, backend));
    world.lose_disk();

    let latency = Duration::from_millis(100);
    let link = LinkOptions {
        latency,
        bytes_per_second: 0,
    };
    let slow = DelayStore::new(Arc::new(world.store.clone()), link).unwrap();
    let backend = quiet(world.builder_over(Arc::new(slow)), SMALL)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let before = world.store.snapshot().total();
    let begun = Instant::now();
    let found = table.multi_get(&keys).unwrap();
    let took = begun.elapsed();
    assert_eq!(found, expected);
    assert_eq!(world.store.snapshot().total() - before, 64);
    println!("multi_get of 64 keys in 64 cold files: {took:?} at {latency:?}");
    assert!(took < 3 * latency, "{took:?}");
}

#[test]
fn a_cold_scan_reads_each_file_in_a_few_large_requests() {
    let world = World::new();
    let backend = quiet(world.builder(), 4 << 20).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for rest in 0..2 {
        fill(&table, (0..8000).filter(|key| key % 2 == rest), 0, 1000);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    snapshot(&backend);
    let files = world.metadata(1).subtasks[0].files.len();
    let bytes = world.metadata(1).data_bytes();
    assert!(files > 1);
    drop((table, backend));
    world.lose_disk();
    let backend = quiet(world.builder(), 4 << 20).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let before = world.store.snapshot();
    assert_eq!(table.iter().unwrap().count(), 8000);
    let cost = world.store.snapshot().since(&before);
    println!(
        "a cold scan of {bytes} bytes in {files} files: {} requests, {} bytes",
        cost.total(),
        cost.bytes_in
    );
    assert!(cost.bytes_in < bytes + bytes / 10, "{cost:?}");
    // Blocks are 16 KiB: about 500 of them.
    assert!(cost.total() < bytes / (64 << 10), "{cost:?}");
}

#[test]
fn opening_costs_the_same_for_few_and_for_many_files() {
    let cost = |files: u64| {
        let world = World::new();
        let backend = quiet(world.builder(), SMALL).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        for file in 0..files {
            fill(&table, file * 10..(file + 1) * 10, 0, 100);
            backend.flush().unwrap();
        }
        snapshot(&backend);
        assert_eq!(world.metadata(1).subtasks[0].files.len() as u64, files);
        drop((table, backend));
        world.lose_disk();
        world.store.start_recording();
        let backend = quiet(world.builder(), SMALL).open().unwrap();
        let records = world.store.take_recording();
        assert!(tables_of(&records).is_empty(), "{records:#?}");
        drop(backend);
        records.len()
    };
    let (few, many) = (cost(5), cost(60));
    assert_eq!(few, many);
    assert!(few <= 6, "{few} requests");
}

fn only_changed(backend: &StateBackend, version: u64) -> u64 {
    // 1 % of the values, spread over all.
    let keys: Vec<u64> = (0..65536).filter(|key| key % 100 == version).collect();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in &keys {
        table.put(key, &value(*key, version, 1024)).unwrap();
    }
    keys.len() as u64 * 1024
}

#[test]
fn an_incremental_snapshot_uploads_what_changed_and_little_more() {
    let world = World::new();
    let backend = quiet(world.builder(), 64 << 20).open().unwrap();
    fill(&backend.value_state(&COUNTS).unwrap(), 0..65536, 0, 1024);
    let first = snapshot(&backend);
    assert!(first.uploaded_data_bytes > 64 << 20);
    for version in 1..=3 {
        let changed = only_changed(&backend, version);
        let report = snapshot(&backend);
        let metadata = world.metadata(report.id);
        let frame = report.uploaded_bytes - report.uploaded_data_bytes;
        let tails: Vec<u64> = metadata.subtasks[0].tails.iter().map(|t| t.len).collect();
        println!(
            "changed {changed}: uploaded {} = {:.3} x: table files {}, the rest {frame} (manifest {}, all tails {tails:?})",
            report.uploaded_bytes,
            report.uploaded_bytes as f64 / changed as f64,
            report.uploaded_data_bytes,
            metadata.subtasks[0].manifest.len,
        );
        assert!(report.uploaded_bytes as f64 <= 1.1 * changed as f64);
    }
    let report = snapshot(&backend);
    assert_eq!((report.uploaded_files, report.uploaded_data_bytes), (0, 0));
    assert!(report.uploaded_bytes < 64 << 10, "{report:?}");
}

#[test]
fn a_first_read_is_four_round_trips_and_each_further_one_another() {
    let world = World::new();
    let backend = quiet(world.builder(), SMALL).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for file in 0..4 {
        fill(&table, file * 500..(file + 1) * 500, 0, 200);
        backend.flush().unwrap();
    }
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    // With latency, so that what is asked for at once also shows as such on a busy machine.
    let link = LinkOptions {
        latency: Duration::from_millis(30),
        bytes_per_second: 0,
    };
    let slow = DelayStore::new(Arc::new(world.store.clone()), link).unwrap();
    let counted = CountingStore::new(Arc::new(slow));
    counted.start_recording();
    let builder = world.builder_over(Arc::new(counted.clone()));
    let backend = quiet(builder, SMALL).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    table.get(&7).unwrap().unwrap();
    let records = counted.take_recording();
    assert!(sequential_round_trips(&records) <= 4, "{records:#?}");
    assert_eq!(tables_of(&records).len(), 1, "{records:#?}");
    let before = counted.snapshot().total();
    table.get(&1700).unwrap().unwrap();
    assert_eq!(counted.snapshot().total(), before + 1);
}
