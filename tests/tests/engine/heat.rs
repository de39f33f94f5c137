//! What was hot in a snapshot is warm soon after its restore, wherever it was read.

use std::time::{Duration, Instant};

use lazurite::{
    DownloadOptions, LoadPolicy, RocksDbOptions, StateBackend, StateBackendBuilder, ValueState,
};
use lazurite_env::remote::RequestRecord;
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

const KEYS: u64 = 12_000;
const LEN: usize = 1_000;
const CHUNK: u64 = 64 << 10;
/// Less than the one file has, so that it stays remote, and only chunks of it come.
const BUDGET: u64 = 8 << 20;
/// Fewer blocks than these keys lie in, so that a get reads the file.
const BLOCK_CACHE: usize = 64 << 10;

/// Keys that are read often: pairs that are a chunk apart, scattered over the file, for the last seven bits of a key lead its order. They
/// are 17, so that no two rounds are sampled alike.
fn hot_keys() -> impl Iterator<Item = u64> {
    (0..17).map(|i| 1_000 + 23 * (i / 2) + (64 << 7) * (i % 2))
}

fn builder(world: &World) -> StateBackendBuilder {
    world
        .builder()
        .key_groups(1) // no file is cut
        .min_free_disk_bytes(0)
        .download(DownloadOptions {
            parallel_files: 1,
            first_backoff: Duration::from_secs(60),
            ..DownloadOptions::default()
        })
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            block_cache_bytes: BLOCK_CACHE,
            target_file_bytes: 64 << 20,
            ..RocksDbOptions::default()
        })
}

/// State in one file of 12 MB, all local, not in the store yet.
fn one_file(world: &World) -> (StateBackend, ValueState<u64, Vec<u8>>) {
    let backend = builder(world).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for rest in 0..2 {
        fill(&table, (0..KEYS).filter(|key| key % 2 == rest), 0, LEN);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    (backend, table)
}

#[track_caller]
fn read(table: &ValueState<u64, Vec<u8>>, keys: impl Iterator<Item = u64>) {
    for key in keys {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, LEN)));
    }
}

/// The hot keys, so often.
fn heat_up(table: &ValueState<u64, Vec<u8>>, rounds: usize) {
    for _ in 0..rounds {
        read(table, hot_keys());
    }
}

/// The levels of the one file's chunks, as FORMAT.md says that they are written.
fn levels(world: &World, id: u64) -> Vec<u8> {
    let files = world.metadata(id).subtasks[0].files.clone();
    assert_eq!(files.len(), 1);
    let Some(text) = &files[0].hot else {
        return Vec::new();
    };
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = text
        .bytes()
        .map(|digit| digits.bytes().position(|d| d == digit).unwrap());
    digits
        .flat_map(|value| [0, 2, 4].map(|shift| (value >> shift) as u8 & 3))
        .collect()
}

fn hot_chunks(levels: &[u8]) -> Vec<u64> {
    let chunks = (0..).zip(levels).filter(|(_, level)| **level > 0);
    chunks.map(|(chunk, _)| chunk).collect()
}

fn wait_until_warm(backend: &StateBackend) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let progress = backend.download_progress();
        if progress.hot_bytes_total > 0 && progress.hot_bytes_done == progress.hot_bytes_total {
            return;
        }
        assert!(Instant::now() < until, "{progress:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn of_tables(mut records: Vec<RequestRecord>) -> Vec<RequestRecord> {
    records.retain(|record| record.key.ends_with(".sst"));
    records
}

#[test]
fn hot_chunks_are_warm_after_each_restore_of_a_chain() {
    let world = World::new();
    let (backend, table) = one_file(&world);
    let cold = snapshot(&backend).id;
    assert!(levels(&world, cold).is_empty());
    heat_up(&table, 400);
    let mut id = snapshot(&backend).id;
    let hot = levels(&world, id);
    let chunks = hot_chunks(&hot);
    assert!((10..=34).contains(&chunks.len()), "{hot:?}");
    drop((table, backend));

    // Read often from the chunk cache, then hardly at all.
    for (round, reads) in [400, 0, 0].into_iter().enumerate() {
        world.lose_disk();
        world.store.start_recording();
        let lazy = builder(&world).disk_budget_bytes(BUDGET);
        let backend = lazy.open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        wait_until_warm(&backend);
        let records = of_tables(world.store.take_recording());
        let bytes: u64 = records.iter().map(|record| record.bytes).sum();
        assert_eq!(
            bytes,
            chunks.len() as u64 * CHUNK,
            "round {round}: {records:?}"
        );
        assert!(
            records.len() < chunks.len(),
            "neighbours share a request: {records:?}"
        );
        let tier = backend.tier();
        assert_eq!(
            (tier.warmed_chunks, tier.warmed_bytes),
            (chunks.len() as u64, bytes)
        );
        assert_eq!(
            (tier.remote_files, tier.remote_requests),
            (1, 0),
            "{tier:?}"
        );
        // All of these are there; others are not.
        let mut cold = (100..KEYS).step_by(997);
        assert!(cold.any(|key| {
            read(&table, key..key + 1);
            backend.tier().remote_requests == 1
        }));
        heat_up(&table, 1 + reads);
        assert_eq!(backend.tier().remote_requests, 1, "round {round}");
        id = snapshot(&backend).id;
        let now = hot_chunks(&levels(&world, id));
        assert_eq!(now, chunks, "round {round}");
    }

    // Where all comes anyway, its bytes come once.
    world.lose_disk();
    let before = world.store.snapshot();
    let backend = builder(&world).open().unwrap();
    let opened = world.store.snapshot();
    world.store.start_recording();
    backend.wait_until_local().unwrap();
    let file = world.metadata(id).subtasks[0].files.remove(0);
    let mut records = of_tables(world.store.take_recording());
    let bytes: u64 = records.iter().map(|record| record.bytes).sum();
    assert_eq!(bytes, file.tail_offset, "{records:?}");
    records.sort_by_key(|record| record.start);
    assert!(records[0].bytes < 1 << 20, "{:?}", records[0]);
    assert_eq!(backend.tier().warmed_chunks, chunks.len() as u64);
    // Nothing more until reads are served: lists and gets, as without heat.
    let requests = opened.since(&before).total();
    assert!(requests <= 7, "{requests}");
    read(&backend.value_state(&COUNTS).unwrap(), (0..KEYS).step_by(7));
}

#[test]
fn only_a_lazy_restore_warms() {
    let world = World::new();
    let (backend, table) = one_file(&world);
    heat_up(&table, 400);
    let hot = levels(&world, snapshot(&backend).id);
    drop((table, backend));
    world.lose_disk();
    let on_demand = builder(&world).load_policy(LoadPolicy::OnDemand);
    let backend = on_demand.open().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(backend.tier().download_requests, 0);
    // What was hot stays that, though nobody has read it here.
    assert!(hot.iter().any(|level| *level > 0));
    assert_eq!(levels(&world, snapshot(&backend).id), hot);
    // From then on it does.
    backend.set_load_policy(LoadPolicy::Lazy).unwrap();
    backend.wait_until_local().unwrap();
    assert!(backend.tier().warmed_chunks > 0);
    drop(backend);
    world.lose_disk();
    let eager = builder(&world)
        .load_policy(LoadPolicy::Eager)
        .open()
        .unwrap();
    assert_eq!(eager.tier().warmed_chunks, 0);
}

/// What the block cache answers never comes to a file.
#[test]
fn what_the_block_cache_holds_is_hot() {
    let cached = |builder: StateBackendBuilder| {
        builder.rocksdb(RocksDbOptions {
            auto_compactions: false,
            block_cache_bytes: 32 << 20,
            target_file_bytes: 64 << 20,
            ..RocksDbOptions::default()
        })
    };
    let world = World::new();
    let (backend, table) = one_file(&world);
    snapshot(&backend);
    drop((table, backend));
    let backend = cached(builder(&world)).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    heat_up(&table, 3);
    let id = snapshot(&backend).id;
    let chunks = hot_chunks(&levels(&world, id));
    assert!((10..=34).contains(&chunks.len()), "{chunks:?}");
    // A scan fills it with what nobody asked for.
    assert_eq!(table.iter().unwrap().count() as u64, KEYS);
    let id = snapshot(&backend).id;
    assert_eq!(hot_chunks(&levels(&world, id)), chunks);
    drop((table, backend));
    world.lose_disk();
    let backend = cached(builder(&world))
        .disk_budget_bytes(BUDGET)
        .open()
        .unwrap();
    wait_until_warm(&backend);
    let table = backend.value_state(&COUNTS).unwrap();
    heat_up(&table, 1);
    assert_eq!(backend.tier().remote_requests, 0);
}

#[test]
fn scans_and_snapshots_leave_no_heat() {
    let world = World::new();
    let (backend, table) = one_file(&world);
    snapshot(&backend);
    for _ in 0..5 {
        assert_eq!(table.iter().unwrap().count() as u64, KEYS);
    }
    let id = snapshot(&backend).id;
    assert_eq!(levels(&world, id), [0u8; 0]);
}

#[test]
fn scans_of_remote_files_leave_no_heat() {
    let world = World::new();
    let (backend, table) = one_file(&world);
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    let backend = builder(&world)
        .load_policy(LoadPolicy::OnDemand)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let scan = || assert_eq!(table.iter().unwrap().count() as u64, KEYS);
    scan();
    // It is stored behind them.
    let until = Instant::now() + Duration::from_secs(20);
    while backend.tier().cache_bytes < KEYS * LEN as u64 && Instant::now() < until {
        scan();
    }
    let before = backend.tier().remote_requests;
    (0..4).for_each(|_| scan());
    assert_eq!(backend.tier().remote_requests, before);
    let id = snapshot(&backend).id;
    assert_eq!(levels(&world, id), [0u8; 0]);
    // Gets heat a chunk here as they do of a local file.
    heat_up(&table, 3);
    let id = snapshot(&backend).id;
    assert!(!hot_chunks(&levels(&world, id)).is_empty());
}
