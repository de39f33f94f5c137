//! What reads and downloads keep on the local disk of remote files: used again, bounded, and never trusted.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use lazurite::{
    DownloadOptions, Error, LoadPolicy, RocksDbOptions, StateBackend, StateBackendBuilder,
    ValueState,
};
use lazurite_env::{
    Effect, FaultPlan, IoRuntime, Op,
    remote::{self, DelayStore, FaultStore, LinkOptions, RemoteOptions},
};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

pub(super) const KEYS: u64 = 6_000;
pub(super) const LEN: usize = 1_000;
const PAGE: u64 = 1 << 10;
/// Where the checksums of pages begin in a map.
const ENTRIES: usize = 4 << 10;

/// Files of a megabyte, and a block cache that holds next to nothing.
pub(super) fn small(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder
        .load_policy(LoadPolicy::OnDemand)
        .min_free_disk_bytes(0)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            block_cache_bytes: 64 << 10,
            target_file_bytes: 1 << 20,
            level_base_bytes: 1 << 20,
            ..RocksDbOptions::default()
        })
}

/// A lost disk, and a snapshot of 6 MB in several files.
pub(super) fn world() -> World {
    let world = World::new();
    let backend = small(world.builder()).open().unwrap();
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

#[track_caller]
fn read(table: &ValueState<u64, Vec<u8>>, step: usize) {
    for key in (0..KEYS).step_by(step) {
        assert_eq!(
            table.get(&key).unwrap(),
            Some(value(key, 0, LEN)),
            "key {key}"
        );
    }
}

/// Opens, reads every `step`-th value, and closes.
fn read_all(world: &World, step: usize) -> lazurite::TierStats {
    let backend = small(world.builder()).open().unwrap();
    read(&backend.value_state(&COUNTS).unwrap(), step);
    backend.tier()
}

fn table_bytes(world: &World) -> u64 {
    let files = world.metadata(1).subtasks[0].files.clone();
    files.iter().map(|file| file.tail_offset).sum()
}

/// The files of the cache whose names end so.
fn cached(world: &World, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.dir().join("cache")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect()
}

pub(super) fn disk_bytes(world: &World) -> u64 {
    let blocks = |path: &PathBuf| fs::metadata(path).map_or(0, |stat| stat.blocks());
    cached(world, "").iter().map(blocks).sum::<u64>() * 512
}

/// Bytes whose checksums are in the maps.
pub(super) fn resident_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir.join("cache")).unwrap();
    let maps = entries.map(|entry| entry.unwrap().path());
    let maps = maps.filter(|path| path.extension().is_some_and(|end| end == "map"));
    let pages = |path: PathBuf| {
        let map = fs::read(path).unwrap();
        let entries = map[ENTRIES..].as_chunks::<8>().0.iter();
        entries.filter(|entry| **entry != [0; 8]).count() as u64
    };
    maps.map(pages).sum::<u64>() * PAGE
}

#[test]
fn what_was_read_is_there_after_a_restart() {
    let world = world();
    let cold = read_all(&world, 1);
    assert!(
        cold.cache_misses > 0 && cold.remote_requests > 100,
        "{cold:?}"
    );
    assert!(
        cold.remote_bytes < table_bytes(&world) * 5 / 4,
        "blocks are rounded up to pages: {cold:?}"
    );
    world.store.start_recording();
    let warm = read_all(&world, 1);
    let records = world.store.take_recording();
    assert!(
        records.iter().all(|record| !record.key.ends_with(".sst")),
        "{records:#?}"
    );
    assert_eq!(
        (warm.remote_requests, warm.cache_misses),
        (0, 0),
        "{warm:?}"
    );
    assert!(warm.cache_hits >= cold.cache_misses, "{warm:?}");
    assert_eq!(warm.cache_mismatches, 0);
    // The download asks for what is missing only.
    let backend = small(world.builder()).open().unwrap();
    backend.wait_until_local().unwrap();
    assert!(
        backend.tier().download_bytes < table_bytes(&world) / 20,
        "{:?}",
        backend.tier()
    );
    assert_eq!(
        disk_bytes(&world),
        0,
        "promoted files take their bytes along"
    );
    read(&backend.value_state(&COUNTS).unwrap(), 7);
}

#[test]
fn without_it_nothing_is_kept() {
    let world = world();
    let backend = small(world.builder()).cache_reads(false).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    read(&table, 20);
    let before = backend.tier();
    read(&table, 20);
    let after = backend.tier();
    assert!(after.remote_requests > before.remote_requests + 200);
    assert_eq!((after.cache_hits, after.cache_bytes), (0, 0));
    assert_eq!(disk_bytes(&world), 0);
}

#[test]
fn its_bytes_have_a_limit_that_changes_at_run_time() {
    let world = world();
    let limit = 1 << 20;
    let backend = small(world.builder()).cache_bytes(limit).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for _ in 0..2 {
        read(&table, 1);
        let tier = backend.tier();
        assert!(tier.cache_bytes <= limit, "{tier:?}");
        assert!(disk_bytes(&world) <= limit, "{}", disk_bytes(&world));
    }
    let tier = backend.tier();
    assert_eq!(tier.cache_budget_bytes, limit);
    assert!(
        tier.cache_evictions > 0 && tier.cache_evicted_bytes > 4 << 20,
        "{tier:?}"
    );
    backend.set_cache_bytes(64 << 20).unwrap();
    read(&table, 1);
    read(&table, 1);
    let tier = backend.tier();
    assert!(tier.cache_bytes > 5 << 20, "{tier:?}");
    let error = backend.set_cache_bytes(limit - 1).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::InvalidOption {
                option: "cache_bytes",
                ..
            }
        ),
        "{error:?}"
    );
    backend.set_cache_bytes(limit).unwrap();
    assert!(backend.tier().cache_bytes <= limit);
    assert!(disk_bytes(&world) <= limit, "{}", disk_bytes(&world));
    read(&table, 3);
}

/// Changes one bit in each 512 bytes of a file from `first` on.
fn rot(path: &Path, first: usize) {
    let bytes = fs::read(path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for at in (first..bytes.len()).step_by(512) {
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
    }
}

#[test]
fn rot_costs_requests_and_is_never_seen() {
    let damages: [(&str, usize); 3] = [(".data", 0), (".map", ENTRIES), (".map", 0)];
    for (end, first) in damages {
        let world = world();
        read_all(&world, 2);
        // Found at the open, or while it is open.
        for open in [false, true] {
            let early = open.then(|| small(world.builder()).open().unwrap());
            for path in cached(&world, end) {
                rot(&path, first);
            }
            let backend = early.unwrap_or_else(|| small(world.builder()).open().unwrap());
            let table = backend.value_state(&COUNTS).unwrap();
            read(&table, 2);
            let tier = backend.tier();
            assert_eq!(tier.cache_disk_failures, 0, "{end} {open}: {tier:?}");
            let dropped_as_a_whole = first == 0 && end == ".map" && !open;
            assert!(
                tier.cache_mismatches > 0 || dropped_as_a_whole,
                "{end} {open}: {tier:?}"
            );
            assert!(tier.remote_requests > 0, "{end} {open}: {tier:?}");
            drop((table, backend));
            let healed = read_all(&world, 2);
            // A header that was damaged behind an open file is found by the next open.
            let header = first == 0 && end == ".map" && open;
            assert!(
                healed.remote_requests == 0 || header,
                "{end} {open}: {healed:?}"
            );
        }
    }
}

/// Its page is in the cache with a checksum of its own, so only RocksDB's checksum of the block can tell.
#[test]
fn a_block_that_came_wrong_from_the_store_is_asked_for_again() {
    let world = world();
    let plan = FaultPlan::new();
    plan.set_filter(|op| op == Op::GetRange, ".sst");
    plan.fail_nth(0, Effect::Corrupt);
    plan.disable();
    let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    let backend = small(world.builder_over(Arc::new(store))).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    plan.enable();
    for key in (0..KEYS).step_by(500) {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, LEN)));
    }
    assert_eq!(plan.injected(), 1);
    plan.disable();
    // A batch, and an iterator.
    plan.set_filter(|op| op == Op::GetRange, ".sst");
    plan.fail_nth(3, Effect::Corrupt);
    plan.enable();
    let keys: Vec<u64> = (100..KEYS).step_by(500).collect();
    for (key, found) in keys.iter().zip(table.multi_get(&keys).unwrap()) {
        assert_eq!(found, Some(value(*key, 0, LEN)));
    }
    assert_eq!(plan.injected(), 1);
    plan.fail_nth(5, Effect::Corrupt);
    for entry in table.iter().unwrap() {
        let (key, found) = entry.unwrap();
        assert_eq!(found, value(key, 0, LEN));
    }
    assert_eq!(plan.injected(), 1);
    plan.disable();
    drop((table, backend));
    // What was kept is right. A block that was asked for again is not kept where a writer was still at it.
    let warm = read_all(&world, 500);
    assert!(warm.remote_requests <= 3, "{warm:?}");
    assert_eq!(warm.cache_mismatches, 0, "{warm:?}");
}

const CHILD: &str = "LAZURITE_CACHE_CHILD";

/// The process that is killed: downloads over a slow link, and tells how far it is. Does nothing as a test of its own.
#[test]
fn child_that_downloads_until_it_is_killed() {
    let Ok(root) = std::env::var(CHILD) else {
        return;
    };
    let root = Path::new(&root);
    let runtime = IoRuntime::new(2).unwrap();
    let uri = format!("file://{}", root.join("store").display());
    let store = remote::open(&uri, &RemoteOptions::default(), &runtime).unwrap();
    let link = LinkOptions {
        latency: Duration::from_millis(1),
        bytes_per_second: 4_000_000,
    };
    let slow = DelayStore::new(store, link).unwrap();
    let builder = StateBackend::builder(root.join("local"))
        .job("job")
        .io_runtime(runtime)
        .remote_store(Arc::new(slow));
    let backend = small(builder)
        .load_policy(LoadPolicy::Lazy)
        .download(DownloadOptions {
            chunk_bytes: 64 << 10,
            ..DownloadOptions::default()
        })
        .open()
        .unwrap();
    loop {
        println!("done {}", backend.download_progress().bytes_done);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Blocks that reads brought would be another matter: where they lie between missing ranges, all is asked for in one request.
#[test]
fn a_download_goes_on_where_it_was_killed() {
    let world = world();
    let root = world.dir().parent().unwrap().to_owned();
    let all = table_bytes(&world);
    for share in [10, 40, 80] {
        let _ = fs::remove_dir_all(world.dir());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::child_that_downloads_until_it_is_killed"])
            .arg("--nocapture")
            .env(CHILD, &root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let far = lines.any(|line| {
            let line = line.unwrap();
            let done = line
                .strip_prefix("done ")
                .and_then(|n| n.parse::<u64>().ok());
            done.is_some_and(|done| done >= all * share / 100)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(far, "it ended by itself");

        let local: u64 = {
            let files = world.metadata(1).subtasks[0].files.clone();
            let path = |name: &str| world.dir().join("db").join(name);
            let local = files.iter().filter(|file| path(&file.name).exists());
            local.map(|file| file.tail_offset).sum()
        };
        let there = local + resident_bytes(&world.dir());
        assert!(there >= all * share / 100, "{there} of {all}");
        let before = world.store.snapshot();
        let backend = small(world.builder()).open().unwrap();
        let opened = world.store.snapshot();
        backend.wait_until_local().unwrap();
        let tier = backend.tier();
        let files = world.metadata(1).subtasks[0].files.len() as u64;
        println!(
            "killed at {there} of {all} bytes: {} came with the open, {} more",
            opened.since(&before).bytes_in,
            tier.download_bytes
        );
        // A page that holds the end of the data and the begin of the tail is counted as a whole in what was there.
        assert!(
            tier.download_bytes + there <= all + files * PAGE,
            "{there} of {all} were there, {} came",
            tier.download_bytes
        );
        assert_eq!(tier.cache_mismatches, 0);
        read(&backend.value_state(&COUNTS).unwrap(), 1);
    }
}
