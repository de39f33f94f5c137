//! What reads brought is warm again after a kill: counts, not times.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use lazurite::{StateBackend, StateBackendBuilder, TierStats};
use lazurite_env::{
    IoRuntime,
    remote::{self, RemoteOptions},
};
use lazurite_tests::{COUNTS, World, value};

use super::cache::{KEYS, LEN, disk_bytes, resident_bytes, small, world};

const CHILD: &str = "LAZURITE_WARM_CHILD";
/// Reads before the kill, and of each count that is compared.
const READS: u64 = 4_000;
const WINDOW: u64 = 1_000;

/// The `i`-th key that is read: four of five times one of fifty.
fn key(i: u64) -> u64 {
    let noise = |seed: u64| {
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 20
    };
    let (which, hot) = (noise(i + 1), !noise(i + 1_000_003).is_multiple_of(5));
    match hot {
        true => which % 50,
        false => which % KEYS,
    }
}

/// Reads a part of the sequence and checks it: reads of files that the cache answered, and that it did not.
fn read(backend: &StateBackend, reads: std::ops::Range<u64>) -> (u64, u64, TierStats) {
    let table = backend.value_state(&COUNTS).unwrap();
    let before = backend.tier();
    for i in reads {
        let key = key(i);
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, LEN)));
    }
    let after = backend.tier();
    let hits = after.cache_hits - before.cache_hits;
    (hits, after.cache_misses - before.cache_misses, after)
}

fn limited(builder: StateBackendBuilder, limit: u64) -> StateBackendBuilder {
    small(builder).cache_bytes(limit)
}

/// The process that is killed: reads, tells, and reads on. Does nothing as a test of its own.
#[test]
fn child_that_reads_until_it_is_killed() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let (limit, root) = task.split_once(' ').unwrap();
    let root = Path::new(root);
    let runtime = IoRuntime::new(2).unwrap();
    let uri = format!("file://{}", root.join("store").display());
    let store = remote::open(&uri, &RemoteOptions::default(), &runtime).unwrap();
    let builder = StateBackend::builder(root.join("local"))
        .job("job")
        .io_runtime(runtime)
        .remote_store(store);
    let backend = limited(builder, limit.parse().unwrap()).open().unwrap();
    read(&backend, 0..READS - WINDOW);
    let (hits, misses, _) = read(&backend, READS - WINDOW..READS);
    println!("told {hits} {misses}");
    loop {
        read(&backend, 0..READS);
    }
}

/// Has a process read, and kills it: hits and misses of its last reads.
fn read_and_die(world: &World, limit: u64) -> (u64, u64) {
    let root = world.dir().parent().unwrap().to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "warm::child_that_reads_until_it_is_killed"])
        .arg("--nocapture")
        .env(CHILD, format!("{limit} {}", root.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.find_map(|line| {
        let (_, told) = line
            .unwrap()
            .rsplit_once("told ")
            .map(|(a, b)| (a.len(), b.to_owned()))?;
        let (hits, misses) = told.split_once(' ')?;
        Some((hits.parse().unwrap(), misses.parse().unwrap()))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    told.expect("it reads all of them")
}

#[test]
fn after_a_kill_the_cache_answers_as_before_and_brings_nothing_again() {
    // One that holds all, and one that holds what is read often and little more.
    for limit in [64 << 20, 2 << 20] {
        let world = world();
        let (hits, misses) = read_and_die(&world, limit);
        let kept = resident_bytes(&world.dir());
        let backend = limited(world.builder(), limit).open().unwrap();
        assert_eq!(backend.tier().remote_requests, 0);
        let (hits_after, misses_after, tier) = read(&backend, READS..READS + WINDOW);
        let share = |hits: u64, misses: u64| hits as f64 / (hits + misses) as f64;
        let (before, after) = (share(hits, misses), share(hits_after, misses_after));
        println!("limit {limit}: hits {before:.3} before, {after:.3} after");
        assert!(
            before > 0.5 && after >= before * 0.95,
            "{limit}: {before} {after}"
        );
        assert_eq!(tier.cache_mismatches, 0, "{tier:?}");
        assert!(tier.cache_bytes <= limit && disk_bytes(&world) <= limit);
        drop(backend);
        if limit == 64 << 20 {
            // Whatever came is new: none of it was there.
            let grown = resident_bytes(&world.dir()) - kept;
            assert!(
                tier.remote_bytes <= grown,
                "{} of {grown}",
                tier.remote_bytes
            );
            assert_eq!(tier.cache_evictions, 0);
        }
    }
}
