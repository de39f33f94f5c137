//! State that is larger than what the local disk may hold of it: within the budget at every snapshot, and right always.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use lazurite::{
    Durability, Error, LoadPolicy, RocksDbOptions, StateBackend, StateBackendBuilder, ValueState,
};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

pub(super) const BUDGET: u64 = 4 << 20;
pub(super) const LEN: usize = 1_000;
/// 16 MiB of values: four times the budget.
const KEYS: u64 = 4 * BUDGET / LEN as u64;

fn builder(world: &World) -> StateBackendBuilder {
    limited(world.builder())
}

pub(super) fn limited(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder
        .min_free_disk_bytes(0)
        .disk_budget_bytes(BUDGET)
        .rocksdb(RocksDbOptions {
            // Compactions are asked for, so that none is under way when the disk is looked at.
            auto_compactions: false,
            block_cache_bytes: 64 << 10,
            target_file_bytes: 512 << 10,
            level_base_bytes: 1 << 20,
            ..RocksDbOptions::default()
        })
}

/// What is on the disk of table files and cache, as the file system counts it.
fn disk_bytes(world: &World) -> u64 {
    let blocks = |dir: &str, end: &str| -> u64 {
        let entries = fs::read_dir(world.dir().join(dir)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let ours = paths.filter(|path| path.to_str().unwrap().ends_with(end));
        // One that was just deleted takes nothing.
        ours.map(|path| fs::metadata(path).map_or(0, |stat| stat.blocks() * 512))
            .sum()
    };
    blocks("db", ".sst") + blocks("cache", "")
}

/// Table files below `dir` that have no name any more, but are open: their space is not free.
fn held_open(dir: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let paths = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    paths
        .filter(|path| path.starts_with(dir) && path.to_str().unwrap().ends_with(".sst (deleted)"))
        .count()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn check_within(world: &World, backend: &StateBackend, budget: u64) {
    let (disk, tier) = (disk_bytes(world), backend.tier());
    assert!(disk <= budget, "{disk} bytes on the disk: {tier:?}");
    assert_eq!(tier.disk_over_bytes, 0, "{tier:?}");
    let dir = world.dir().canonicalize().unwrap();
    wait_for("demoted files stay open", || held_open(&dir) == 0);
}

type Model = BTreeMap<u64, u64>;

#[track_caller]
fn check_gets(table: &ValueState<u64, Vec<u8>>, model: &Model, step: usize) {
    for key in (0..KEYS).step_by(step) {
        let expected = model.get(&key).map(|version| value(key, *version, LEN));
        assert_eq!(table.get(&key).unwrap(), expected, "key {key}");
    }
}

#[track_caller]
fn check_all(table: &ValueState<u64, Vec<u8>>, model: &Model) {
    let mut found = BTreeMap::new();
    for entry in table.iter().unwrap() {
        let (key, bytes) = entry.unwrap();
        found.insert(key, bytes);
    }
    assert_eq!(found.len(), model.len());
    for (key, version) in model {
        assert_eq!(found[key], value(*key, *version, LEN), "key {key}");
    }
    let keys: Vec<u64> = (0..KEYS).step_by(97).collect();
    for (key, found) in keys.iter().zip(table.multi_get(&keys).unwrap()) {
        let expected = model.get(key).map(|version| value(*key, *version, LEN));
        assert_eq!(found, expected, "key {key}");
    }
}

#[test]
fn state_of_four_times_the_budget() {
    let world = World::new();
    let backend = builder(&world).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let mut model = Model::new();
    // Nine parts, the last of them over the first, with deletions; a third of the budget each.
    for part in 0..16u64 {
        let keys = (0..KEYS).filter(|key| key % 12 == part % 12);
        fill(&table, keys.clone(), part, LEN);
        model.extend(keys.clone().map(|key| (key, part)));
        for key in keys.filter(|key| key % 5 == 0) {
            table.remove(&key).unwrap();
            model.remove(&key);
        }
        backend.flush().unwrap();
        check_gets(&table, &model, 131);
        if part == 9 {
            backend.compact().unwrap();
        }
        snapshot(&backend);
        check_within(&world, &backend, BUDGET);
        check_gets(&table, &model, 61);
        backend.flush().unwrap();
        check_within(&world, &backend, BUDGET);
    }
    check_all(&table, &model);
    let tier = backend.tier();
    assert!(
        tier.demotions > 10 && tier.demotion_failures == 0,
        "{tier:?}"
    );
    assert!(
        tier.remote_files > tier.local_files && tier.cache_hits > 0,
        "{tier:?}"
    );
    // All of it is written anew, from the store: more than the budget, until a snapshot holds it.
    backend.compact().unwrap();
    check_all(&table, &model);
    wait_for("it is told", || backend.tier().disk_over_bytes > 4 << 20);
    snapshot(&backend);
    check_within(&world, &backend, BUDGET);
    check_all(&table, &model);
    drop((table, backend));

    // On another machine, whatever the policy.
    for policy in [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand] {
        world.lose_disk();
        let backend = builder(&world).load_policy(policy).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        check_within(&world, &backend, BUDGET);
        check_gets(&table, &model, 7);
        check_within(&world, &backend, BUDGET);
        let much = || backend.tier().table_bytes > 2 << 20;
        match policy {
            // It waited for what fits.
            LoadPolicy::Eager => assert!(much(), "{:?}", backend.tier()),
            LoadPolicy::Lazy => wait_for("what fits is brought", much),
            LoadPolicy::OnDemand => {}
        }
        check_all(&table, &model);
        check_within(&world, &backend, BUDGET);
        assert_eq!(backend.tier().demotions, 0, "what came did not have to go");
        assert!(backend.tier().remote_files > 0);
    }
}

#[test]
fn a_kept_directory_goes_on_with_what_was_demoted() {
    let world = World::new();
    let open = || builder(&world).durability(Durability::Wal).open().unwrap();
    let backend = open();
    let table = backend.value_state(&COUNTS).unwrap();
    for part in 0..4 {
        fill(&table, (0..KEYS).filter(|key| key % 4 == part), part, LEN);
        backend.flush().unwrap();
        snapshot(&backend);
    }
    let before = backend.tier();
    assert!(before.demotions > 0);
    fill(&table, 0..10, 9, LEN);
    drop((table, backend));
    world.store.start_recording();
    let backend = open();
    let table = backend.value_state(&COUNTS).unwrap();
    let mut model: Model = (0..KEYS).map(|key| (key, key % 4)).collect();
    model.extend((0..10).map(|key| (key, 9)));
    // Open tables need their ends, which are here.
    wait_for("tables are opened", || backend.tier().tail_reads > 0);
    let gets = world.store.take_recording();
    assert!(
        gets.iter().all(|record| !record.key.ends_with(".sst")),
        "{gets:#?}"
    );
    assert_eq!(backend.tier().local_files, before.local_files);
    check_all(&table, &model);
    // The store is known to hold them, so they may go.
    let files = backend.tier().local_files;
    backend.set_disk_budget_bytes(BUDGET * 100).unwrap();
    backend.wait_until_local().unwrap();
    assert!(backend.tier().local_files > files);
    backend.set_disk_budget_bytes(BUDGET).unwrap();
    snapshot(&backend);
    check_within(&world, &backend, BUDGET);
    assert!(backend.tier().demotions > 0);
    check_all(&table, &model);
}

/// Ends the readers, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// RocksDB's own handles are swapped both ways under its readers, again and again.
#[test]
fn readers_go_on_while_the_budget_comes_and_goes() {
    let world = World::new();
    let backend = builder(&world)
        .disk_budget_bytes(BUDGET * 100)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for part in 0..2 {
        fill(&table, (0..KEYS).filter(|key| key % 2 == part), part, LEN);
        backend.flush().unwrap();
    }
    snapshot(&backend);
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (table, done, reads) = (&table, &done, &reads);
            scope.spawn(move || {
                let mut key = thread * 1_000;
                while !done.load(SeqCst) {
                    key = (key + 7_919) % KEYS;
                    let expected = value(key, key % 2, LEN);
                    assert_eq!(table.get(&key).unwrap(), Some(expected), "key {key}");
                    if key % 64 == 0 {
                        let group = table
                            .iter()
                            .unwrap()
                            .take(20)
                            .collect::<Result<Vec<_>, _>>();
                        for (key, bytes) in group.unwrap() {
                            assert_eq!(bytes, value(key, key % 2, LEN), "key {key}");
                        }
                    }
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        let stop = Stop(&done);
        let some_reads = || {
            let goal = reads.load(SeqCst) + 300;
            wait_for("readers go on", || reads.load(SeqCst) >= goal);
        };
        for _ in 0..8 {
            some_reads();
            backend.set_disk_budget_bytes(BUDGET).unwrap();
            check_within(&world, &backend, BUDGET);
            some_reads();
            backend.set_disk_budget_bytes(BUDGET * 100).unwrap();
            backend.wait_until_local().unwrap();
        }
        drop(stop);
    });
    let tier = backend.tier();
    assert!(
        tier.demotions > 8 && tier.demotion_failures == 0,
        "{tier:?}"
    );
    assert!(tier.local_reads > 0 && tier.remote_reads > 0, "{tier:?}");
}

#[test]
fn a_budget_that_cannot_be_is_refused() {
    let world = World::new();
    let refused = |result: lazurite::Result<()>| {
        let error = result.unwrap_err();
        assert!(
            matches!(
                &error,
                Error::InvalidOption {
                    option: "disk_budget_bytes",
                    ..
                }
            ),
            "{error:?}"
        );
    };
    refused(builder(&world).disk_budget_bytes(1000).open().map(drop));
    let backend = world.builder().open().unwrap();
    assert_eq!(backend.tier().disk_budget_bytes, u64::MAX);
    refused(backend.set_disk_budget_bytes(BUDGET));
    drop(backend);
    let backend = builder(&world).open().unwrap();
    refused(backend.set_disk_budget_bytes(1000));
    backend.set_disk_budget_bytes(BUDGET * 2).unwrap();
    assert_eq!(backend.tier().disk_budget_bytes, BUDGET * 2);
}
