//! What is served is right.

use std::time::{Duration, Instant};

use lazurite::{LoadPolicy, RocksDbOptions, SnapshotOptions, StateBackendBuilder};
use lazurite_env::remote::{RequestKind, RequestOutcome};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

use crate::exposition::{ENDPOINT, Scrape, scrape};

const KEYS: u64 = 2_000;

/// More than any job here takes.
const DISK_BUDGET: u64 = 1 << 40;

fn quiet(builder: StateBackendBuilder, job: &str) -> StateBackendBuilder {
    let _ = *ENDPOINT;
    builder
        .job(job)
        .cache_bytes(64 << 20)
        .disk_budget_bytes(DISK_BUDGET)
        .load_policy(LoadPolicy::OnDemand)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            block_cache_bytes: 64 << 20,
            statistics: true,
            ..RocksDbOptions::default()
        })
}

/// A job with every figure at work: two snapshots, a compaction, a lost disk, a restore, remote reads, a download.
pub fn life(job: &str) -> World {
    let world = World::new();
    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for version in 0..2 {
        fill(&table, 0..KEYS, version, 100);
        snapshot(&backend);
    }
    backend.compact().unwrap();
    drop((table, backend));
    world.lose_disk();
    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..KEYS {
        assert_eq!(table.get(&key).unwrap().unwrap(), value(key, 1, 100));
    }
    drop((table, backend));
    // The same blocks from the chunk cache, and the rest of their files from the store.
    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    table.get(&0).unwrap().unwrap();
    backend.wait_until_local().unwrap();
    drop((table, backend));
    world.lose_disk();
    let eager = quiet(world.builder(), job).load_policy(LoadPolicy::Eager);
    drop(eager.open().unwrap());
    world
}

#[test]
fn a_cold_restore_and_its_reads_are_in_the_figures() {
    let job = "cold";
    let world = World::new();
    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..KEYS, 0, 100);
    let report = snapshot(&backend);
    let s = scrape();
    let of = |name: &str, labels: &[(&str, &str)]| {
        s.value(name, &[&[("backend", job)], labels].concat())
    };
    assert_eq!(
        of("lazurite_snapshots_total", &[("result", "complete")]),
        1.0
    );
    assert_eq!(of("lazurite_snapshot_last_id", &[]), 1.0);
    let uploaded = &[("source", "uploaded")];
    assert_eq!(
        of("lazurite_snapshot_bytes_total", uploaded),
        report.uploaded_bytes as f64
    );
    assert_eq!(of("lazurite_snapshot_files_total", uploaded), 1.0);
    assert_eq!(of("lazurite_rocksdb_files", &[("level", "0")]), 1.0);
    assert_eq!(of("lazurite_rocksdb_keys", &[]), KEYS as f64);
    assert_eq!(of("lazurite_rocksdb_flushes_total", &[]), 1.0);
    assert_eq!(of("lazurite_catalog_files", &[("residency", "local")]), 1.0);
    assert_eq!(of("lazurite_backends", &[]), 1.0);
    assert!(of("lazurite_local_disk_free_bytes", &[]) > 0.0);
    for phase in [
        "flush",
        "link",
        "upload",
        "tails",
        "manifest",
        "check",
        "commit",
        "retention",
    ] {
        let labels = &[("phase", phase)];
        assert_eq!(
            of("lazurite_snapshot_phase_seconds_count", labels),
            1.0,
            "{phase}"
        );
    }
    drop((table, backend));
    world.lose_disk();

    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let s = scrape();
    let of = |name: &str, labels: &[(&str, &str)]| {
        s.value(name, &[&[("backend", job)], labels].concat())
    };
    assert_eq!(
        of("lazurite_catalog_files", &[("residency", "remote")]),
        1.0
    );
    assert_eq!(
        of("lazurite_restored_files_total", &[("source", "remote")]),
        1.0
    );
    let remote_gets = [("tier", "remote"), ("activity", "get")];
    assert_eq!(of("lazurite_reads_total", &remote_gets), 0.0);
    // The first of all keys, twice: one block, which the cache then has.
    for _ in 0..2 {
        table.get(&0).unwrap().unwrap();
    }
    let t = scrape();
    let of = |name: &str, labels: &[(&str, &str)]| {
        t.value(name, &[&[("backend", job)], labels].concat())
    };
    assert_eq!(of("lazurite_reads_total", &remote_gets), 1.0);
    assert_eq!(of("lazurite_read_seconds_count", &remote_gets), 1.0);
    assert_eq!(of("lazurite_read_requests_total", &[]), 1.0);
    let grew = |name: &str| t.value(name, &[("backend", job)]) - s.value(name, &[("backend", job)]);
    assert_eq!(grew("lazurite_block_cache_hits_total"), 1.0);
    assert_eq!(grew("lazurite_block_cache_misses_total"), 1.0);
    for phase in ["store", "find", "fetch", "local", "database"] {
        let count = of("lazurite_restore_phase_seconds_count", &[("phase", phase)]);
        assert_eq!(count, if phase == "fetch" { 1.0 } else { 2.0 }, "{phase}");
    }

    // What a read brought is kept behind it.
    let until = Instant::now() + Duration::from_secs(30);
    while scrape().value("lazurite_chunk_cache_bytes", &[("backend", job)]) == 0.0 {
        assert!(Instant::now() < until, "nothing is kept");
    }
    drop((table, backend));

    // Kept on the disk: no request, and a hit.
    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    table.get(&0).unwrap().unwrap();
    let t = scrape();
    let of = |name: &str, labels: &[(&str, &str)]| {
        t.value(name, &[&[("backend", job)], labels].concat())
    };
    let chunk_gets = [("tier", "chunk"), ("activity", "get")];
    assert_eq!(of("lazurite_reads_total", &chunk_gets), 1.0);
    assert_eq!(of("lazurite_read_seconds_count", &chunk_gets), 1.0);
    assert_eq!(of("lazurite_reads_total", &remote_gets), 1.0);
    assert_eq!(of("lazurite_chunk_cache_hits_total", &[]), 1.0);
    assert_eq!(of("lazurite_chunk_cache_misses_total", &[]), 1.0);
    assert!(of("lazurite_chunk_cache_read_bytes_total", &[]) > 1_000.0);
    assert!(of("lazurite_chunk_cache_bytes", &[]) > 1_000.0);
    assert_eq!(
        of("lazurite_chunk_cache_budget_bytes", &[]),
        f64::from(64 << 20)
    );

    backend.wait_until_local().unwrap();
    table.get(&(KEYS - 1)).unwrap().unwrap();
    let u = scrape();
    let local_gets = [("backend", job), ("tier", "local"), ("activity", "get")];
    assert_eq!(u.value("lazurite_reads_total", &local_gets), 1.0);
    assert_eq!(
        u.value("lazurite_promotions_total", &[("backend", job)]),
        1.0
    );
    let done = [("backend", job), ("state", "done")];
    assert_eq!(u.value("lazurite_download_files", &done), 1.0);
    requests_are_those_of_the_store(&world, job, &u);
}

#[test]
fn the_disk_budget_and_demotions_are_in_the_figures() {
    let job = "budget";
    let world = World::new();
    let backend = quiet(world.builder(), job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    // Eight files of a megabyte.
    for part in 0..8 {
        fill(&table, part * 1_000..(part + 1) * 1_000, 0, 1_000);
        snapshot(&backend);
    }
    let s = scrape();
    let of = |scrape: &Scrape, name: &str| scrape.value(name, &[("backend", job)]) as u64;
    assert_eq!(of(&s, "lazurite_disk_budget_bytes"), DISK_BUDGET);
    assert!(of(&s, "lazurite_disk_table_bytes") > 8_000_000);
    assert_eq!(of(&s, "lazurite_demotions_total"), 0);
    backend.set_disk_budget_bytes(4 << 20).unwrap();
    let s = scrape();
    let tier = backend.tier();
    assert!(tier.demotions >= 4, "{tier:?}");
    assert_eq!(of(&s, "lazurite_disk_budget_bytes"), 4 << 20);
    assert!(of(&s, "lazurite_disk_table_bytes") <= 4 << 20);
    assert_eq!(of(&s, "lazurite_demotions_total"), tier.demotions);
    assert_eq!(of(&s, "lazurite_demoted_bytes_total"), tier.demoted_bytes);
    assert_eq!(of(&s, "lazurite_demotion_failures_total"), 0);
    assert_eq!(of(&s, "lazurite_disk_over_bytes"), 0);
}

/// The store counts by itself what passes it.
fn requests_are_those_of_the_store(world: &World, job: &str, scrape: &Scrape) {
    let counts = world.store.snapshot();
    for kind in RequestKind::ALL {
        for outcome in RequestOutcome::ALL {
            let labels = [
                ("backend", job),
                ("store", "file"),
                ("operation", kind.name()),
                ("result", outcome.name()),
            ];
            let served = scrape.value("lazurite_store_requests_total", &labels);
            assert_eq!(served, counts.ended(kind, outcome) as f64, "{labels:?}");
        }
        let labels = [("backend", job), ("operation", kind.name())];
        if counts.of(kind) > 0 {
            let timed = scrape.value("lazurite_store_request_seconds_count", &labels);
            assert_eq!(timed, counts.of(kind) as f64, "{labels:?}");
        }
    }
    let sent = scrape.value("lazurite_store_sent_bytes_total", &[("backend", job)]);
    assert_eq!(sent, counts.bytes_out as f64);
    let received = scrape.value("lazurite_store_received_bytes_total", &[("backend", job)]);
    assert_eq!(received, counts.bytes_in as f64);
}

#[test]
fn counters_never_fall_and_gauges_of_a_closed_backend_are_0() {
    let job = "closed";
    let world = World::new();
    let open = || quiet(world.builder(), job).open().unwrap();
    let counters = ["lazurite_snapshots_total", "lazurite_store_requests_total"];
    let mut before = [0.0; 2];
    for round in 1..=3u64 {
        let backend = open();
        fill(&backend.value_state(&COUNTS).unwrap(), 0..10, round, 10);
        snapshot(&backend);
        let running = scrape();
        assert_eq!(running.value("lazurite_backends", &[("backend", job)]), 1.0);
        assert!(running.value("lazurite_block_cache_budget_bytes", &[("backend", job)]) > 0.0);
        drop(backend);
        let closed = scrape();
        for (name, before) in counters.iter().zip(&mut before) {
            let sums = [&running, &closed].map(|s| s.sum(name, &[("backend", job)]));
            assert!(
                *before < sums[0] && sums[0] <= sums[1],
                "{name}: {before} {sums:?}"
            );
            *before = sums[1];
        }
        let complete = [("backend", job), ("result", "complete")];
        let complete = closed.value("lazurite_snapshots_total", &complete);
        assert_eq!(complete, round as f64);
        assert_eq!(closed.value("lazurite_backends", &[("backend", job)]), 0.0);
        assert_eq!(
            closed.value("lazurite_block_cache_budget_bytes", &[("backend", job)]),
            0.0
        );
        // When it was is still true.
        assert_eq!(
            closed.value("lazurite_snapshot_last_id", &[("backend", job)]),
            round as f64
        );
        assert!(
            closed.value(
                "lazurite_snapshot_last_timestamp_seconds",
                &[("backend", job)]
            ) > 1e9
        );
    }
}

#[test]
fn failed_and_aborted_snapshots_are_counted() {
    let job = "unlucky";
    let world = World::new();
    let gate = lazurite_tests::GateStore::new(std::sync::Arc::new(world.store.clone()));
    let builder = world.builder_over(std::sync::Arc::new(gate.clone()));
    let backend = quiet(builder, job).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..10, 0, 10);
    gate.hold_writes("");
    let held = backend.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    let running = [("backend", job)];
    assert_eq!(scrape().value("lazurite_snapshots_running", &running), 1.0);
    held.abort();
    held.wait().unwrap_err();
    let late = SnapshotOptions::new().timeout(Duration::from_millis(20));
    backend.snapshot(late).unwrap().wait().unwrap_err();
    gate.open();
    let s = scrape();
    let of = |result| {
        s.value(
            "lazurite_snapshots_total",
            &[("backend", job), ("result", result)],
        )
    };
    assert_eq!(
        [of("complete"), of("failed"), of("aborted")],
        [0.0, 1.0, 1.0]
    );
    assert_eq!(s.value("lazurite_snapshots_running", &running), 0.0);
    // That of the aborted snapshot was under way; the other may have been late before its first.
    let abandoned = [("backend", job), ("result", "abandoned")];
    assert!(s.sum("lazurite_store_requests_total", &abandoned) >= 1.0);
}

#[test]
fn a_scrape_beside_backends_that_open_and_close_keeps_none_open() {
    let world = World::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                scrape();
            }
        });
        // The directory's lock is free as soon as a backend was dropped, or the next open is refused.
        for round in 0..40 {
            let opened = quiet(world.builder(), "busy").open();
            if opened.is_err() {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            let backend = opened.unwrap_or_else(|error| panic!("round {round}: {error}"));
            fill(&backend.value_state(&COUNTS).unwrap(), 0..10, round, 10);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
