//! Snapshots: what they upload, keep, refuse and survive, and that each comes back as it was.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lazurite::{
    Codec, CodecError, Error, LoadPolicy, MapStateDescriptor, RawBytes, Restore, RocksDbOptions,
    SnapshotOptions, StateBackend, ValueState, ValueStateDescriptor,
};
use lazurite_env::remote::RequestKind;
use lazurite_tests::{COUNTS, GateStore, World, fill, snapshot, value};
use rand::{Rng, SeedableRng, rngs::StdRng};

fn open(world: &World) -> (StateBackend, ValueState<u64, Vec<u8>>) {
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    (backend, table)
}

/// Nothing lies in the store that no listed snapshot needs, and everything that one needs is there and right.
#[track_caller]
fn assert_tidy(world: &World) {
    assert_eq!(world.objects(), world.needed_objects());
    for id in world.ids() {
        let findings = world.verify(id);
        assert!(findings.is_empty(), "snapshot {id}: {findings:?}");
    }
}

#[test]
fn a_snapshot_uploads_what_is_new_and_names_the_rest() {
    let world = World::new();
    let (backend, table) = open(&world);
    fill(&table, 0..1000, 0, 100);
    let first = snapshot(&backend);
    assert_eq!(
        (first.id, first.uploaded_files, first.reused_files),
        (1, 1, 0)
    );
    assert!(
        first.uploaded_data_bytes > 100_000 && first.uploaded_bytes > first.uploaded_data_bytes,
        "{first:?}"
    );

    fill(&table, 1000..1100, 0, 100);
    let before = world.store.snapshot();
    let second = snapshot(&backend);
    let sent = world.store.snapshot().since(&before).bytes_out;
    assert_eq!(
        (second.id, second.uploaded_files, second.reused_files),
        (2, 1, 1)
    );
    assert_eq!(second.reused_bytes, first.uploaded_data_bytes);
    assert_eq!(
        second.uploaded_bytes, sent,
        "the report tells every byte that was sent"
    );

    let third = snapshot(&backend);
    assert_eq!(
        (
            third.uploaded_files,
            third.uploaded_data_bytes,
            third.reused_files
        ),
        (0, 0, 2)
    );
    assert_tidy(&world);
    assert_eq!(world.metadata(3).files.len(), 2);
}

#[test]
fn a_snapshot_of_nothing_comes_back_as_nothing() {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    assert!(backend.restored().is_none());
    let report = snapshot(&backend);
    assert_eq!((report.uploaded_files, report.reused_files), (0, 0));
    drop(backend);
    world.lose_disk();
    let (backend, table) = open(&world);
    assert_eq!(backend.restored().unwrap().files, 0);
    assert_eq!(table.iter().unwrap().count(), 0);
}

#[test]
fn exactly_the_retained_snapshots_stay() {
    for retained in 1..=3 {
        let world = World::new();
        let backend = world.builder().retained_snapshots(retained).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        for version in 1..=6 {
            fill(&table, 0..300, version, 50);
            if version % 2 == 0 {
                backend.compact().unwrap(); // so that files die
            }
            assert_eq!(snapshot(&backend).id, version);
            let expected: Vec<u64> =
                (version.saturating_sub(retained as u64 - 1).max(1)..=version).collect();
            assert_eq!(world.ids(), expected, "{retained} retained");
            assert_tidy(&world);
        }
        drop((table, backend));
        for id in world.ids() {
            world.lose_disk();
            let backend = world
                .builder()
                .restore(Restore::Snapshot(id))
                .open()
                .unwrap();
            let table = backend.value_state(&COUNTS).unwrap();
            assert_eq!(table.get(&17).unwrap(), Some(value(17, id, 50)));
        }
    }
}

#[test]
fn fewer_retained_snapshots_take_effect_after_a_restart() {
    let world = World::new();
    let backend = world.builder().retained_snapshots(5).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for version in 1..=4 {
        fill(&table, 0..100, version, 50);
        snapshot(&backend);
    }
    drop((table, backend));
    let (backend, _) = open(&world);
    assert_eq!(snapshot(&backend).id, 5);
    assert_eq!(world.ids(), [5]);
    assert_tidy(&world);
}

#[test]
fn a_file_that_is_still_read_from_the_store_is_not_deleted() {
    let world = World::new();
    let (backend, table) = open(&world);
    fill(&table, 0..2000, 1, 100);
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    let backend = world
        .builder()
        .load_policy(LoadPolicy::OnDemand)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let old = world.metadata(1).files[0].key.clone();

    let reader = table.iter().unwrap(); // holds the old files
    fill(&table, 0..2000, 2, 100);
    backend.compact().unwrap();
    snapshot(&backend);
    assert_eq!(world.ids(), [2]);
    assert!(!world.needed_objects().contains(&old));
    assert!(world.objects().contains(&old), "{old} is still served");
    let mut seen = 0;
    for entry in reader {
        let (key, bytes) = entry.unwrap();
        assert_eq!(bytes, value(key, 1, 100));
        seen += 1;
    }
    assert_eq!(seen, 2000);

    // The iterator is gone: the snapshot after next at the latest takes the file away.
    fill(&table, 0..1, 3, 100);
    snapshot(&backend);
    fill(&table, 0..1, 4, 100);
    snapshot(&backend);
    assert_tidy(&world);
}

#[test]
fn an_aborted_snapshot_leaves_the_one_before_and_its_uploads_are_reused() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = world.builder_over(Arc::new(gate.clone())).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..500, 1, 100);
    snapshot(&backend);
    fill(&table, 0..500, 2, 100);
    // The table file goes up, the manifest waits.
    gate.hold_writes("manifest");
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    pending.abort();
    gate.open();
    let error = pending.wait().unwrap_err();
    assert!(matches!(error, Error::SnapshotAborted), "{error}");
    assert_eq!(world.ids(), [1]);
    assert!(world.verify(1).is_empty());

    let before = world.store.snapshot();
    let report = snapshot(&backend);
    assert_eq!(
        (report.uploaded_files, report.reused_files),
        (0, 2),
        "{report:?}"
    );
    let sent = world.store.snapshot().since(&before).bytes_out;
    assert!(sent < 50_000, "{sent} bytes");
    assert!(world.verify(report.id).is_empty());
    drop((table, backend));
    world.lose_disk();
    let (_backend, table) = open(&world);
    assert_eq!(table.get(&5).unwrap(), Some(value(5, 2, 100)));
}

#[test]
fn a_dropped_backend_aborts_its_snapshot() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = world.builder_over(Arc::new(gate.clone())).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..100, 1, 100);
    snapshot(&backend);
    fill(&table, 0..100, 2, 100);
    gate.hold_writes("manifest");
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    let begun = Instant::now();
    let opener = {
        let gate = gate.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            gate.open();
        })
    };
    drop((table, backend));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(matches!(pending.wait(), Err(Error::SnapshotAborted)));
    opener.join().unwrap();
    assert_eq!(world.ids(), [1]);
    let (_backend, table) = open(&world);
    assert_eq!(table.get(&5).unwrap(), Some(value(5, 1, 100)));
}

#[test]
fn a_store_that_hangs_ends_in_a_timeout() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = world.builder_over(Arc::new(gate.clone())).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..100, 0, 100);
    snapshot(&backend);
    for (version, part) in (1..).zip([".sst", ".tails", "manifest", "_metadata"]) {
        fill(&table, 0..100, version, 100);
        gate.hold_writes(part);
        let begun = Instant::now();
        let options = SnapshotOptions::new().timeout(Duration::from_millis(150));
        let pending = backend.snapshot(options).unwrap();
        let error = pending.wait().unwrap_err();
        assert!(
            matches!(error, Error::SnapshotTimedOut { .. }),
            "{part}: {error}"
        );
        assert!(error.is_temporary());
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{part}: {:?}",
            begun.elapsed()
        );
        gate.open();
        assert!(world.ids().len() <= 2, "{part}");
        for id in world.ids() {
            assert!(world.verify(id).is_empty(), "{part}");
        }
        let report = snapshot(&backend);
        assert_eq!(world.ids(), [report.id], "{part}");
        assert!(world.verify(report.id).is_empty());
    }
}

#[test]
fn a_slow_store_ends_in_a_timeout_of_the_backend() {
    let world = World::new();
    let slow = lazurite_env::remote::DelayStore::new(
        Arc::new(world.store.clone()),
        lazurite_env::remote::LinkOptions {
            latency: Duration::from_millis(60),
            bytes_per_second: 0,
        },
    )
    .unwrap();
    let backend = world
        .builder_over(Arc::new(slow))
        .snapshot_timeout(Duration::from_millis(100))
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..100, 1, 100);
    let error = backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap_err();
    assert!(matches!(error, Error::SnapshotTimedOut { .. }), "{error}");
    assert!(world.ids().is_empty());
    let options = SnapshotOptions::new().timeout(Duration::from_secs(20));
    backend.snapshot(options).unwrap().wait().unwrap();
    assert_eq!(world.ids().len(), 1);
}

#[test]
fn one_snapshot_at_a_time_and_writes_go_on_beside_it() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = world.builder_over(Arc::new(gate.clone())).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..1000, 1, 100);
    gate.hold_writes(".sst");
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    assert!(!pending.is_finished());
    let error = backend.snapshot(SnapshotOptions::new()).unwrap_err();
    assert!(
        matches!(error, Error::SnapshotInProgress) && error.is_temporary(),
        "{error}"
    );

    // Writes, deletes, new tables, flushes and compactions, all while the captured files wait.
    fill(&table, 0..500, 2, 100);
    (500..600).for_each(|key| table.remove(&key).unwrap());
    let late = ValueStateDescriptor::<u64, u64>::new("late");
    backend.value_state(&late).unwrap().put(&1, &1).unwrap();
    backend.flush().unwrap();
    backend.compact().unwrap();
    assert_eq!(table.get(&3).unwrap(), Some(value(3, 2, 100)));
    assert!(world.ids().is_empty());

    gate.open();
    assert_eq!(pending.wait().unwrap().id, 1);
    drop((table, backend));
    world.lose_disk();
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..1000 {
        assert_eq!(
            table.get(&key).unwrap(),
            Some(value(key, 1, 100)),
            "key {key}"
        );
    }
    assert_eq!(backend.tables().len(), 1, "the later table is not in it");
    assert_eq!(backend.value_state(&late).unwrap().get(&1).unwrap(), None);
}

#[test]
fn of_two_writers_of_one_snapshot_exactly_one_wins() {
    for round in 0..5 {
        let world = World::new();
        let mut opened = Vec::new();
        for name in ["a", "b"] {
            let gate = GateStore::new(Arc::new(world.store.clone()));
            let backend = world
                .builder_at(name, Arc::new(gate.clone()))
                .open()
                .unwrap();
            opened.push((name, gate, backend));
        }
        let mut waiting = Vec::new();
        for (name, gate, backend) in opened {
            let table = backend.value_state(&COUNTS).unwrap();
            fill(&table, 0..200, u64::from(name == "b"), 100);
            gate.hold_writes("_metadata");
            let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
            gate.wait_until_held();
            waiting.push((backend, gate, pending));
        }
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = waiting
                .into_iter()
                .map(|(backend, gate, pending)| {
                    scope.spawn(move || {
                        gate.open();
                        (pending.wait(), backend)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let won: Vec<bool> = outcomes
            .iter()
            .map(|(outcome, _)| outcome.is_ok())
            .collect();
        assert_eq!(
            won.iter().filter(|w| **w).count(),
            1,
            "round {round}: {won:?}"
        );
        let (loser, winner) = if won[0] { (1, 0) } else { (0, 1) };
        let error = outcomes[loser].0.as_ref().unwrap_err();
        assert!(
            matches!(error, Error::SnapshotConflict { id: 1 }),
            "{error}"
        );
        assert_eq!(world.ids(), [1]);
        assert!(world.verify(1).is_empty());

        // The loser stays out: a second try takes nothing from the winner, who goes on.
        let again = outcomes[loser]
            .1
            .snapshot(SnapshotOptions::new())
            .and_then(|pending| pending.wait());
        assert!(
            matches!(again, Err(Error::SnapshotConflict { .. })),
            "{again:?}"
        );
        assert!(world.verify(1).is_empty());
        let next = snapshot(&outcomes[winner].1);
        assert!(world.verify(next.id).is_empty());
        drop(outcomes);
        let (_backend, table) = open(&world);
        assert_eq!(table.get(&9).unwrap(), Some(value(9, winner as u64, 100)));
    }
}

#[test]
fn a_writer_that_was_overtaken_damages_nothing() {
    let world = World::new();
    let store = || Arc::new(world.store.clone());
    let old = world.builder_at("old", store()).open().unwrap();
    let old_table = old.value_state(&COUNTS).unwrap();
    fill(&old_table, 0..500, 1, 100);
    snapshot(&old);
    // Another machine takes over; the number that the old one will try is taken and gone again.
    let new = world.builder_at("new", store()).open().unwrap();
    let new_table = new.value_state(&COUNTS).unwrap();
    for key in 0..3 {
        fill(&new_table, key..key + 1, 2, 100);
        snapshot(&new);
    }
    assert_eq!(world.ids(), [4]);
    assert!(world.verify(4).is_empty());
    // The old one wakes up, and all of its files have been replaced.
    fill(&old_table, 0..500, 3, 100);
    old.compact().unwrap();
    for _ in 0..5 {
        let outcome = old
            .snapshot(SnapshotOptions::new())
            .and_then(|pending| pending.wait());
        assert!(
            matches!(outcome, Err(Error::SnapshotConflict { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(world.ids(), [4]);
    assert!(world.verify(4).is_empty());
    fill(&new_table, 7..8, 2, 100);
    let report = snapshot(&new);
    assert_eq!(world.ids(), [report.id]);
    assert!(world.verify(report.id).is_empty());
}

#[test]
fn an_older_snapshot_comes_back_by_its_number() {
    let world = World::new();
    let backend = world.builder().retained_snapshots(4).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for version in 1..=4 {
        fill(&table, 0..100 * version, version, 60);
        snapshot(&backend);
    }
    drop((table, backend));
    for (id, lose) in [(2, true), (4, false), (1, false), (3, true)] {
        if lose {
            world.lose_disk();
        }
        let backend = world
            .builder()
            .retained_snapshots(4)
            .restore(Restore::Snapshot(id))
            .open()
            .unwrap();
        assert_eq!(backend.restored().unwrap().snapshot_id, id);
        let table = backend.value_state(&COUNTS).unwrap();
        assert_eq!(table.iter().unwrap().count() as u64, 100 * id);
        assert_eq!(table.get(&99).unwrap(), Some(value(99, id, 60)));
    }
    // What comes after a return to an older one has the next number, and is the newest.
    let backend = world
        .builder()
        .retained_snapshots(9)
        .restore(Restore::Snapshot(2))
        .open()
        .unwrap();
    backend
        .value_state(&COUNTS)
        .unwrap()
        .put(&5000, &vec![1])
        .unwrap();
    assert_eq!(snapshot(&backend).id, 5);
    drop(backend);
    let (backend, table) = open(&world);
    assert_eq!(backend.restored().unwrap().snapshot_id, 5);
    assert_eq!(table.iter().unwrap().count(), 201);
}

#[test]
fn restore_empty_begins_anew_and_numbers_go_on() {
    let world = World::new();
    let (backend, table) = open(&world);
    fill(&table, 0..100, 1, 50);
    snapshot(&backend);
    drop((table, backend));
    for lose in [false, true] {
        if lose {
            world.lose_disk();
        }
        let backend = world.builder().restore(Restore::Empty).open().unwrap();
        assert!(backend.restored().is_none());
        assert!(backend.tables().is_empty());
        let other = ValueStateDescriptor::<String, String>::new("counts"); // not the old table's types
        assert_eq!(
            backend.value_state(&other).unwrap().iter().unwrap().count(),
            0
        );
        assert_eq!(world.ids(), [1], "nothing is deleted by opening");
    }
    let backend = world.builder().restore(Restore::Empty).open().unwrap();
    backend
        .value_state(&COUNTS)
        .unwrap()
        .put(&1, &vec![9])
        .unwrap();
    assert_eq!(snapshot(&backend).id, 2);
    assert_eq!(world.ids(), [2]);
    assert_tidy(&world);
    drop(backend);
    let (_backend, table) = open(&world);
    assert_eq!(table.iter().unwrap().count(), 1);
}

/// Writes numbers as decimal text.
struct Decimal;

impl Codec<u64> for Decimal {
    fn id(&self) -> &str {
        "decimal-1"
    }

    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.to_string().as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
        std::str::from_utf8(bytes)
            .map_err(CodecError::new)?
            .parse()
            .map_err(CodecError::new)
    }
}

#[test]
fn tables_of_every_kind_come_back() {
    static VISITS: MapStateDescriptor<String, u32, (String, bool)> =
        MapStateDescriptor::new("visits");
    let own = || ValueStateDescriptor::<u64, u64>::with_codecs("own", Decimal, Decimal);
    let raw = || {
        MapStateDescriptor::<u64, Vec<u8>, Vec<u8>>::with_codecs("raw", Decimal, RawBytes, RawBytes)
    };
    let world = World::new();
    let (backend, counts) = open(&world);
    let visits = backend.map_state(&VISITS).unwrap();
    let (numbers, bytes) = (
        backend.value_state(&own()).unwrap(),
        backend.map_state(&raw()).unwrap(),
    );
    for key in 0..200u64 {
        counts.put(&key, &value(key, 0, 20)).unwrap();
        counts.in_namespace(b"w1").put(&key, &vec![1]).unwrap();
        counts.in_namespace([0, 255]).put(&key, &vec![2]).unwrap();
        numbers.put(&key, &(key * key)).unwrap();
        for sub in 0..3u32 {
            visits
                .put(
                    &format!("user-{key}"),
                    &sub,
                    &(format!("page {sub}"), sub == 1),
                )
                .unwrap();
        }
        bytes
            .put(&key, &vec![0xff; key as usize % 5], &vec![key as u8])
            .unwrap();
        bytes.put(&key, &vec![0xff, 0xff, 0], &vec![]).unwrap();
    }
    visits.clear(&"user-7".into()).unwrap();
    visits
        .in_namespace("other")
        .put(&"user-7".into(), &9, &("x".into(), false))
        .unwrap();
    counts.remove(&8).unwrap();
    snapshot(&backend);
    drop((counts, visits, numbers, bytes, backend));
    world.lose_disk();

    let backend = world
        .builder()
        .table(&COUNTS)
        .table(&VISITS)
        .table(&own())
        .table(&raw())
        .open()
        .unwrap();
    assert_eq!(backend.tables().len(), 4);
    let (counts, visits) = (
        backend.value_state(&COUNTS).unwrap(),
        backend.map_state(&VISITS).unwrap(),
    );
    let (numbers, bytes) = (
        backend.value_state(&own()).unwrap(),
        backend.map_state(&raw()).unwrap(),
    );
    for key in 0..200u64 {
        assert_eq!(
            counts.get(&key).unwrap(),
            (key != 8).then(|| value(key, 0, 20))
        );
        assert_eq!(counts.in_namespace(b"w1").get(&key).unwrap(), Some(vec![1]));
        assert_eq!(
            counts.in_namespace([0, 255]).get(&key).unwrap(),
            Some(vec![2])
        );
        assert_eq!(numbers.get(&key).unwrap(), Some(key * key));
        let entries: Result<Vec<_>, _> = visits.entries(&format!("user-{key}")).unwrap().collect();
        assert_eq!(entries.unwrap().len(), if key == 7 { 0 } else { 3 });
        assert_eq!(
            bytes.get(&key, &vec![0xff; key as usize % 5]).unwrap(),
            Some(vec![key as u8])
        );
        assert_eq!(bytes.get(&key, &vec![0xff, 0xff, 0]).unwrap(), Some(vec![]));
    }
    assert_eq!(visits.iter().unwrap().count(), 199 * 3);
    assert_eq!(visits.in_namespace("other").iter().unwrap().count(), 1);
    assert_eq!(counts.in_namespace(b"w1").iter().unwrap().count(), 200);
}

#[test]
fn a_snapshot_right_after_a_restore_uploads_no_table_file() {
    for policy in [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand] {
        let world = World::new();
        let (backend, table) = open(&world);
        for version in 0..4 {
            fill(&table, version * 300..(version + 1) * 300, version, 100);
            backend.flush().unwrap();
        }
        snapshot(&backend);
        let files = world.metadata(1).files;
        drop((table, backend));
        world.lose_disk();
        let options = RocksDbOptions {
            auto_compactions: false,
            ..RocksDbOptions::default()
        };
        let backend = world
            .builder()
            .load_policy(policy)
            .rocksdb(options)
            .open()
            .unwrap();
        world.store.start_recording();
        let report = snapshot(&backend);
        assert_eq!(report.uploaded_files, 0, "{policy:?}");
        assert_eq!(report.reused_files as usize, files.len());
        let sent = world
            .store
            .take_recording()
            .into_iter()
            .filter(|r| r.op == RequestKind::Put);
        let sent: Vec<String> = sent.map(|r| r.key).collect();
        assert!(sent.iter().all(|key| !key.ends_with(".sst")), "{sent:?}");
        assert_eq!(world.metadata(2).files, files, "{policy:?}");
        assert_tidy(&world);
    }
}

#[test]
fn random_chains_of_snapshots_and_restores_agree_with_a_model() {
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World::new();
        let retained = rng.random_range(1..=4);
        let mut current: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut kept: BTreeMap<u64, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
        let builder = |policy| {
            world
                .builder()
                .load_policy(policy)
                .retained_snapshots(retained)
        };
        let mut backend = builder(LoadPolicy::Lazy).open().unwrap();
        for step in 0..20 {
            let table = backend.value_state(&COUNTS).unwrap();
            for _ in 0..rng.random_range(0..300) {
                let key = rng.random_range(0..400);
                if rng.random_bool(0.2) {
                    table.remove(&key).unwrap();
                    current.remove(&key);
                } else {
                    let bytes = value(key, rng.random(), rng.random_range(0..200));
                    table.put(&key, &bytes).unwrap();
                    current.insert(key, bytes);
                }
            }
            match rng.random_range(0..4) {
                0 => backend.compact().unwrap(),
                1 => backend.flush().unwrap(),
                _ => {}
            }
            let found: Result<BTreeMap<_, _>, _> = table.iter().unwrap().collect();
            assert_eq!(found.unwrap(), current, "seed {seed}, step {step}");
            if rng.random_bool(0.7) {
                let id = snapshot(&backend).id;
                kept.insert(id, current.clone());
                while kept.len() > retained {
                    kept.pop_first();
                }
                assert_eq!(
                    world.ids(),
                    kept.keys().copied().collect::<Vec<_>>(),
                    "seed {seed}, step {step}"
                );
            }
            if rng.random_bool(0.5) {
                drop((table, backend));
                if rng.random_bool(0.5) {
                    world.lose_disk();
                }
                let policy = [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand]
                    [rng.random_range(0..3)];
                let older = kept.keys().copied().nth(rng.random_range(0..retained));
                let restore = match older {
                    Some(id) if rng.random_bool(0.5) => Restore::Snapshot(id),
                    _ => Restore::Latest,
                };
                current = match restore {
                    Restore::Snapshot(id) => kept[&id].clone(),
                    _ => kept
                        .last_key_value()
                        .map(|(_, state)| state.clone())
                        .unwrap_or_default(),
                };
                backend = builder(policy).restore(restore).open().unwrap();
            }
        }
        for id in world.ids() {
            assert!(world.verify(id).is_empty(), "seed {seed}, snapshot {id}");
        }
    }
}
