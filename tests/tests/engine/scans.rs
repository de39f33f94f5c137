//! Iterators over remote files: what they cost, and that they give what is there whatever happens beside them.

use std::{sync::Arc, time::Duration};

use lazurite::{LoadPolicy, MapStateDescriptor, RocksDbOptions, StateBackend, StateBackendBuilder};
use lazurite_env::{
    Effect, ErrorKind, FaultPlan, Op,
    remote::{CountingStore, DelayStore, FaultStore, LinkOptions, sequential_round_trips},
};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

const KEYS: u64 = 16_000;
const LEN: usize = 1000;
const BLOCK: u64 = 16 << 10;

static MAPS: MapStateDescriptor<u64, u64, Vec<u8>> = MapStateDescriptor::new("maps");

fn options(builder: StateBackendBuilder, file_bytes: u64) -> StateBackendBuilder {
    builder
        .load_policy(LoadPolicy::OnDemand)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            target_file_bytes: file_bytes,
            level_base_bytes: file_bytes.max(1 << 20),
            ..RocksDbOptions::default()
        })
}

/// A lost disk, and a snapshot of 16 MB in files of about `file_bytes`.
fn world(file_bytes: u64) -> World {
    let world = World::new();
    let backend = options(world.builder(), file_bytes).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for rest in 0..2 {
        fill(&table, (0..KEYS).filter(|key| key % 2 == rest), 0, LEN);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    world
}

/// Bytes of data blocks in the files of the newest snapshot.
fn data_bytes(world: &World) -> u64 {
    let files = world.metadata(1).subtasks[0].files.clone();
    files.iter().map(|file| file.tail_offset).sum()
}

/// A store behind a link, counted behind it, so that what is asked for at once shows as such.
fn slow(world: &World) -> CountingStore {
    let link = LinkOptions {
        latency: Duration::from_millis(20),
        bytes_per_second: 0,
    };
    let slow = DelayStore::new(Arc::new(world.store.clone()), link).unwrap();
    CountingStore::new(Arc::new(slow))
}

/// Waits until no request is on its way any more.
fn settle(store: &CountingStore) {
    let mut before = store.snapshot();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = store.snapshot();
        if now == before {
            return;
        }
        before = now;
    }
}

fn count(backend: &StateBackend) -> u64 {
    let table = backend.value_state(&COUNTS).unwrap();
    let mut entries = 0;
    for entry in table.iter().unwrap() {
        let (key, found) = entry.unwrap();
        assert!(found == value(key, 0, LEN), "key {key}");
        entries += 1;
    }
    entries
}

#[test]
fn a_full_scan_fetches_its_range_in_few_round_trips_over_few_files_and_many() {
    for file_bytes in [64 << 20, 256 << 10] {
        let world = world(file_bytes);
        let store = slow(&world);
        let backend = options(world.builder_over(Arc::new(store.clone())), file_bytes);
        let backend = backend.open().unwrap();
        let before = store.snapshot();
        store.start_recording();
        assert_eq!(count(&backend), KEYS);
        settle(&store);
        let records = store.take_recording();
        let cost = store.snapshot().since(&before);
        let (files, data) = (
            world.metadata(1).subtasks[0].files.len(),
            data_bytes(&world),
        );
        let round_trips = sequential_round_trips(&records);
        println!(
            "{data} bytes in {files} files: {} bytes, {} requests, {round_trips} round trips",
            cost.bytes_in,
            cost.total()
        );
        assert!(cost.bytes_in as f64 <= 1.05 * data as f64, "{cost:?}");
        // Without readahead 130 of one file and 300 of 64. The window is 8 MiB, the state two of them.
        assert!(round_trips <= 30, "{round_trips} for {files} files");
    }
}

#[test]
fn a_scan_of_a_key_group_fetches_no_more_than_its_range() {
    let world = World::new();
    let few_groups = |world: &World| options(world.builder(), 64 << 20).key_groups(4);
    let backend = few_groups(&world).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..KEYS, 0, LEN);
    backend.compact().unwrap();
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    let backend = few_groups(&world).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let before = world.store.snapshot();
    let entries = table.iter_key_group(1).unwrap().count() as u64;
    settle(&world.store);
    let cost = world.store.snapshot().since(&before);
    let range = data_bytes(&world) * entries / KEYS;
    assert!(entries > 3000);
    // A block at either end, and two that the index cannot tell from the range's.
    assert!(cost.bytes_in <= range + 4 * BLOCK, "{cost:?} for {range}");
}

#[test]
fn a_short_walk_costs_its_blocks() {
    let world = World::new();
    let backend = options(world.builder(), 64 << 20).open().unwrap();
    let maps = backend.map_state(&MAPS).unwrap();
    for key in 0..2000 {
        for entry in 0..8 {
            maps.put(&key, &entry, &value(key, entry, 500)).unwrap();
        }
    }
    backend.compact().unwrap();
    snapshot(&backend);
    drop((maps, backend));
    world.lose_disk();
    let backend = options(world.builder(), 64 << 20).open().unwrap();
    let maps = backend.map_state(&MAPS).unwrap();
    for key in (0..2000).step_by(100) {
        let before = world.store.snapshot();
        assert_eq!(maps.entries(&key).unwrap().count(), 8);
        settle(&world.store);
        let cost = world.store.snapshot().since(&before);
        // 4 KB in one block or two.
        assert!(cost.bytes_in <= 2 * BLOCK + 4096, "{cost:?}");
    }
    let before = world.store.snapshot();
    assert_eq!(maps.iter().unwrap().take(10).count(), 10);
    settle(&world.store);
    let cost = world.store.snapshot().since(&before);
    assert!(cost.bytes_in <= BLOCK + 1024, "{cost:?}");
}

#[test]
fn a_scan_that_is_given_up_stops_fetching_and_holds_nothing() {
    let world = world(256 << 10);
    let store = slow(&world);
    for read in [33, 100, 1000, 4000] {
        let builder = world.builder_over(Arc::new(store.clone()));
        let backend = options(builder, 256 << 10).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        let before = store.snapshot();
        let mut iter = table.iter().unwrap();
        for _ in 0..read {
            iter.next().unwrap().unwrap();
        }
        drop(iter);
        settle(&store);
        let cost = store.snapshot().since(&before);
        // What was read, what RocksDB reads ahead of it, and twice both.
        let read = read as u64 * (LEN as u64 + 30);
        assert!(
            cost.bytes_in <= 3 * (2 * read + 2 * BLOCK) + (64 << 10),
            "{cost:?} for {read}"
        );
        drop((table, backend));
        world.lose_disk();
    }
    // Given up at any moment, the directory is free at once.
    let world = &world;
    for read in (30..60).chain([200; 10]) {
        let backend = options(world.builder(), 256 << 10).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        assert_eq!(table.iter().unwrap().take(read).count(), read);
    }
}

#[test]
fn scans_give_the_state_while_files_become_local_and_requests_fail() {
    let world = world(256 << 10);
    let expected: Vec<u64> = {
        let backend = options(world.builder(), 256 << 10).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        let keys = table.iter().unwrap().map(|entry| entry.unwrap().0);
        keys.collect()
    };
    assert_eq!(expected.len() as u64, KEYS);
    world.lose_disk();
    let effects = [
        Effect::Corrupt,
        Effect::Short,
        Effect::Fail(ErrorKind::Unavailable),
    ];
    // How many requests a scan makes depends on how soon the files are local: one early fault is certain, those of the
    // dice are not.
    let rounds = effects
        .iter()
        .flat_map(|effect| [(effect, true), (effect, false)]);
    for (seed, (effect, early)) in rounds.enumerate() {
        let plan = FaultPlan::new();
        plan.disable();
        plan.set_filter(|op| op == Op::GetRange, ".sst");
        if early {
            plan.fail_nth(1, *effect);
        } else {
            plan.probability(0.02, seed as u64, *effect);
        }
        let link = LinkOptions {
            latency: Duration::from_millis(2),
            bytes_per_second: 50_000_000,
        };
        let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
        let store = DelayStore::new(Arc::new(store), link).unwrap();
        let backend = options(world.builder_over(Arc::new(store)), 256 << 10)
            .load_policy(LoadPolicy::Lazy)
            .open()
            .unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        plan.enable();
        // Gives how far it came.
        let scan = || {
            let mut iter = table.iter().unwrap();
            for (i, key) in expected.iter().enumerate() {
                match iter.next() {
                    Some(Ok((found, bytes))) => {
                        assert_eq!(found, *key);
                        assert!(bytes == value(*key, 0, LEN), "key {key}");
                    }
                    Some(Err(_)) => return i,
                    None => panic!("the scan ends after {i} entries"),
                }
            }
            assert!(iter.next().is_none());
            expected.len()
        };
        let reached: Vec<usize> = std::thread::scope(|scope| {
            let scans: Vec<_> = (0..3).map(|_| scope.spawn(scan)).collect();
            let reached = scans.into_iter().map(|scan| scan.join().unwrap());
            reached.collect()
        });
        println!(
            "{effect:?}: {} faults in {} requests, came to {reached:?}",
            plan.injected(),
            plan.seen()
        );
        assert!(plan.injected() > 0 || !early);
        plan.disable();
        assert_eq!(scan(), expected.len());
        drop((table, backend));
        world.lose_disk();
    }
}

#[test]
fn gets_beside_a_scan_are_answered_and_right() {
    let world = world(1 << 20);
    let store = slow(&world);
    let backend = options(world.builder_over(Arc::new(store)), 1 << 20);
    let backend = backend.open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    std::thread::scope(|scope| {
        let scan = scope.spawn(|| count(&backend));
        for key in (0..KEYS).step_by(997) {
            assert!(table.get(&key).unwrap() == Some(value(key, 0, LEN)));
        }
        assert_eq!(scan.join().unwrap(), KEYS);
    });
}
