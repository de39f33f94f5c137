//! A snapshot under way: what goes on beside it, and how it ends early.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lazurite::{Error, SnapshotOptions, ValueStateDescriptor};
use lazurite_tests::{COUNTS, GateStore, World, fill, snapshot, value};

use super::open;

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
