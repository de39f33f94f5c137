//! Reads from async code: they wait without a thread of the caller's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};
use lazurite::{
    Error, KeyGroupRange, LoadPolicy, MapStateDescriptor, RocksDbOptions, StateBackend,
};
use lazurite_env::{
    ErrorKind, FaultPlan, Op,
    remote::{DelayStore, FaultStore, LinkOptions, RemoteStore},
};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

const KEYS: u64 = 6000;
static CLICKS: MapStateDescriptor<u64, u64, u64> = MapStateDescriptor::new("clicks");

fn open(world: &World, store: Arc<dyn RemoteStore>) -> StateBackend {
    try_open(world, store).unwrap()
}

fn try_open(world: &World, store: Arc<dyn RemoteStore>) -> Result<StateBackend, Error> {
    let options = RocksDbOptions {
        auto_compactions: false,
        ..RocksDbOptions::default()
    };
    let builder = world.builder_over(store).load_policy(LoadPolicy::OnDemand);
    builder.rocksdb(options).open()
}

/// A lost disk and a snapshot of [`KEYS`] values and a map.
fn written() -> World {
    let world = World::new();
    let backend = open(&world, Arc::new(world.store.clone()));
    fill(&backend.value_state(&COUNTS).unwrap(), 0..KEYS, 0, 1000);
    let clicks = backend.map_state(&CLICKS).unwrap();
    clicks.put(&1, &2, &3).unwrap();
    snapshot(&backend);
    drop((clicks, backend));
    world.lose_disk();
    world
}

/// A runtime with one thread: what blocks it, blocks everything.
fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap().block_on(work)
}

#[test]
fn cold_reads_wait_side_by_side_and_block_no_worker() {
    let world = written();
    let latency = Duration::from_millis(100);
    let link = LinkOptions {
        latency,
        bytes_per_second: 0,
    };
    let slow = DelayStore::new(Arc::new(world.store.clone()), link).unwrap();
    let backend = open(&world, Arc::new(slow));
    let (table, clicks) = (
        backend.value_state(&COUNTS).unwrap(),
        backend.map_state(&CLICKS).unwrap(),
    );
    // Each in another block.
    let keys: Vec<u64> = (0..64).map(|i| i * (KEYS / 64)).collect();
    let expected: Vec<_> = keys.iter().map(|key| Some(value(*key, 0, 1000))).collect();
    let (took, ticks) = on_one_thread(async {
        let begun = Instant::now();
        let ticking = async {
            for ticks in 0.. {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if begun.elapsed() >= latency {
                    return ticks;
                }
            }
            0
        };
        let reads = async {
            let (single, batch) = keys.split_at(32);
            let single = try_join_all(single.iter().map(|key| table.get_async(key)));
            let batch = table.multi_get_async(batch);
            let (single, batch) = futures::try_join!(single, batch).unwrap();
            assert_eq!([single, batch].concat(), expected);
            begun.elapsed()
        };
        futures::join!(reads, ticking)
    });
    println!("64 cold reads on one thread: {took:?} at {latency:?}");
    assert!(took < 3 * latency, "{took:?}");
    assert!(ticks >= 5, "the thread was blocked: {ticks} ticks");
    on_one_thread(async {
        assert_eq!(clicks.get_async(&1, &2).await.unwrap(), Some(3));
        assert_eq!(clicks.get_async(&1, &3).await.unwrap(), None);
        assert_eq!(table.get_async(&u64::MAX).await.unwrap(), None);
        // What was read is in memory, which costs no request.
        let before = world.store.snapshot().total();
        let again = join_all(keys.iter().map(|key| table.get_async(key))).await;
        assert!(again.into_iter().map(Result::unwrap).eq(expected.clone()));
        assert_eq!(world.store.snapshot().total(), before);
    });
}

#[test]
fn a_future_can_be_spawned_and_given_up() {
    let world = written();
    let backend = open(&world, Arc::new(world.store.clone()));
    let table = backend.value_state(&COUNTS).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let read = runtime.spawn(table.get_async(&7));
    assert_eq!(
        runtime.block_on(read).unwrap().unwrap(),
        Some(value(7, 0, 1000))
    );
    let before = world.store.snapshot().total();
    drop(table.get_async(&5000));
    assert_eq!(
        world.store.snapshot().total(),
        before,
        "it was never polled"
    );
    // Given up half way: the reads that were begun end, and then the directory is free.
    let begun = runtime.spawn(table.multi_get_async(&(0..100).collect::<Vec<_>>()));
    begun.abort();
    drop((table, backend));
    let deadline = Instant::now() + Duration::from_secs(30);
    let again = loop {
        match try_open(&world, Arc::new(world.store.clone())) {
            Ok(backend) => break backend,
            Err(Error::LocalDirectory { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(again.restored().is_some());
}

#[test]
fn prefetched_values_are_read_from_memory() {
    let world = written();
    let plan = FaultPlan::new();
    plan.set_filter(|op| op == Op::GetRange, ".sst");
    let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    let backend = open(&world, Arc::new(store));
    let table = backend.value_state(&COUNTS).unwrap();
    let keys: Vec<u64> = (0..64).map(|i| i * (KEYS / 64)).collect();
    table.prefetch(&keys).unwrap();
    // No more requests than blocks: who reads a block that is being brought waits for it.
    let values = table.multi_get(&keys).unwrap();
    let expected = keys.iter().map(|key| Some(value(*key, 0, 1000)));
    assert!(values.into_iter().eq(expected));
    assert!(plan.seen() <= 64, "{}", plan.seen());
    // Nothing is asked for again.
    let before = plan.seen();
    table.prefetch(&keys).unwrap();
    table.multi_get(&keys).unwrap();
    assert_eq!(plan.seen(), before);

    // What cannot be brought is an error of the read.
    plan.fail_from(0, ErrorKind::Unavailable);
    table.prefetch(&[50]).unwrap();
    assert!(table.get(&50).unwrap_err().is_temporary());
    plan.disable();
    assert_eq!(table.get(&50).unwrap(), Some(value(50, 0, 1000)));
    drop(backend);
    assert!(matches!(table.prefetch(&keys), Err(Error::Closed)));
}

#[test]
fn nothing_is_prefetched_without_a_remote_file() {
    let world = written();
    let backend = open(&world, Arc::new(world.store.clone()));
    let table = backend.value_state(&COUNTS).unwrap();
    backend.wait_until_local().unwrap();
    let before = world.store.snapshot().total();
    table.prefetch(&(0..KEYS).collect::<Vec<_>>()).unwrap();
    let other = World::new();
    let few = KeyGroupRange::new(0, 3).unwrap();
    let few = other.builder().key_group_range(few).open().unwrap();
    let half = few.value_state(&COUNTS).unwrap();
    let refused = (0..100).filter(|key| {
        let result = half.prefetch([key]);
        matches!(result, Err(Error::KeyGroupOutOfRange { .. }))
    });
    assert!(refused.count() > 50);
    assert_eq!(world.store.snapshot().total(), before);
}

#[test]
fn errors_come_when_it_is_awaited() {
    let world = written();
    let plan = FaultPlan::new();
    let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    let backend = open(&world, Arc::new(store));
    let table = backend.value_state(&COUNTS).unwrap();
    plan.set_filter(|op| op == Op::GetRange, ".sst");
    plan.fail_from(0, ErrorKind::Unavailable);
    let error = on_one_thread(table.get_async(&9)).unwrap_err();
    assert!(error.is_temporary(), "{error}");
    let error = on_one_thread(table.multi_get_async(&[9, 2000])).unwrap_err();
    assert!(error.is_temporary(), "{error}");
    plan.disable();
    assert_eq!(
        on_one_thread(table.get_async(&9)).unwrap(),
        Some(value(9, 0, 1000))
    );
    let late = table.get_async(&9);
    drop(backend);
    assert!(matches!(on_one_thread(late), Err(Error::Closed)));

    let other = World::new();
    let half = other
        .builder()
        .key_group_range(KeyGroupRange::new(0, 3).unwrap())
        .open()
        .unwrap();
    let table = half.value_state(&COUNTS).unwrap();
    let refused = (0..100).map(|key| on_one_thread(table.get_async(&key)));
    assert!(
        refused
            .filter_map(Result::err)
            .all(|error| matches!(error, Error::KeyGroupOutOfRange { .. }))
    );
}
