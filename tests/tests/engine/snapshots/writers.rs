//! Two writers of one job: of their snapshots none is lost that was acknowledged, and none is damaged.

use std::{sync::Arc, thread};

use lazurite::{Durability, Error, Restore, SnapshotOptions, SnapshotReport, StateBackend};
use lazurite_env::{ErrorKind, FaultPlan, Op, remote::FaultStore};
use lazurite_tests::{COUNTS, GateStore, World, fill, snapshot, value};

use super::open;

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

fn try_snapshot(backend: &StateBackend) -> Result<SnapshotReport, Error> {
    backend.snapshot(SnapshotOptions::new())?.wait()
}

#[track_caller]
fn assert_conflict(outcome: Result<SnapshotReport, Error>) {
    assert!(
        matches!(outcome, Err(Error::SnapshotConflict { .. })),
        "{outcome:?}"
    );
}

#[test]
fn a_snapshot_that_completes_after_another_writer_opened_is_not_built_over() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let first = world
        .builder_at("first", Arc::new(gate.clone()))
        .open()
        .unwrap();
    fill(&first.value_state(&COUNTS).unwrap(), 0..200, 1, 100);
    gate.hold_writes("_metadata");
    let pending = first.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    // Begun and not complete: the second writer begins with nothing.
    let second = world
        .builder_at("second", Arc::new(world.store.clone()))
        .open()
        .unwrap();
    assert!(second.restored().is_none());
    fill(&second.value_state(&COUNTS).unwrap(), 0..200, 2, 100);
    gate.open();
    assert_eq!(pending.wait().unwrap().id, 1);
    // It knows nothing of what the first one holds, so it must not subsume it.
    assert_conflict(try_snapshot(&second));
    assert_conflict(try_snapshot(&second));
    assert_eq!(world.ids(), [1]);
    assert!(world.verify(1).is_empty());
    let report = snapshot(&first);
    assert_eq!(world.ids(), [report.id]);
    assert!(world.verify(report.id).is_empty());
    drop((first, second));
    let (_backend, table) = open(&world);
    assert_eq!(table.get(&9).unwrap(), Some(value(9, 1, 100)));
}

#[test]
fn a_rival_that_builds_on_the_last_snapshot_keeps_its_files() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let old = world
        .builder_at("old", Arc::new(gate.clone()))
        .open()
        .unwrap();
    let table = old.value_state(&COUNTS).unwrap();
    fill(&table, 0..500, 1, 100);
    snapshot(&old);
    // All files of snapshot 1 are replaced in snapshot 2, which waits for its last step, past its look at the store.
    fill(&table, 0..500, 2, 100);
    old.compact().unwrap();
    gate.hold_writes("_metadata");
    let pending = old.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    let new = world
        .builder_at("new", Arc::new(world.store.clone()))
        .open()
        .unwrap();
    assert_eq!(new.restored().unwrap().snapshot_id, 1);
    let new_table = new.value_state(&COUNTS).unwrap();
    fill(&new_table, 0..1, 3, 100);
    assert_eq!(snapshot(&new).id, 3);
    assert_eq!(
        world.metadata(3).subtasks[0].files.len(),
        2,
        "it refers to the old file"
    );
    gate.open();
    // It is complete now, but the new one does not know of it and may delete what it needs: that is no success.
    assert_conflict(pending.wait());
    // The old one deleted nothing, and is out.
    assert!(world.verify(3).is_empty(), "{:?}", world.verify(3));
    assert_conflict(try_snapshot(&old));
    assert!(world.verify(3).is_empty());
    drop((table, old, new_table, new));
    let (backend, table) = open(&world);
    assert_eq!(backend.restored().unwrap().snapshot_id, 3);
    assert_eq!(table.get(&0).unwrap(), Some(value(0, 3, 100)));
    assert_eq!(table.get(&9).unwrap(), Some(value(9, 1, 100)));
}

#[test]
fn a_number_that_failed_here_and_was_taken_by_another_writer_is_not_built_over() {
    let world = World::new();
    let plan = FaultPlan::new();
    let broken = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    let first = world.builder_at("first", Arc::new(broken)).open().unwrap();
    let second = world
        .builder_at("second", Arc::new(world.store.clone()))
        .open()
        .unwrap();
    fill(&first.value_state(&COUNTS).unwrap(), 0..200, 1, 100);
    fill(&second.value_state(&COUNTS).unwrap(), 0..200, 2, 100);
    plan.set_filter(|op| op == Op::PutIfAbsent, "");
    plan.fail_nth(0, ErrorKind::Unavailable);
    assert!(try_snapshot(&first).unwrap_err().is_temporary());
    plan.disable();
    assert_eq!(snapshot(&second).id, 1);
    assert_conflict(try_snapshot(&first));
    assert_eq!(world.ids(), [1]);
    assert!(world.verify(1).is_empty());
    let report = snapshot(&second);
    assert_eq!(world.ids(), [report.id]);
    assert!(world.verify(report.id).is_empty());
}

#[test]
fn an_open_that_meets_a_writer_at_work_gets_its_newest_snapshot() {
    let world = World::new();
    let writer = world
        .builder_at("writer", Arc::new(world.store.clone()))
        .open()
        .unwrap();
    let table = writer.value_state(&COUNTS).unwrap();
    fill(&table, 0..200, 1, 100);
    assert_eq!(snapshot(&writer).id, 1);
    // It has listed number 1, and reads it only after that has gone.
    let gate = GateStore::new(Arc::new(world.store.clone()));
    gate.hold_reads("chk-1/_metadata");
    let builder = world.builder_at("reader", Arc::new(gate.clone()));
    let reader = thread::spawn(move || builder.open());
    gate.wait_until_held();
    fill(&table, 0..200, 2, 100);
    assert_eq!(snapshot(&writer).id, 2);
    assert_eq!(world.ids(), [2]);
    gate.open();
    let reader = reader.join().unwrap().unwrap();
    assert_eq!(reader.restored().map(|report| report.snapshot_id), Some(2));
    let table = reader.value_state(&COUNTS).unwrap();
    assert_eq!(table.get(&9).unwrap(), Some(value(9, 2, 100)));
}

#[test]
fn an_older_restore_does_not_build_over_a_snapshot_that_was_under_way() {
    for restore in [Restore::Snapshot(1), Restore::Empty] {
        let world = World::new();
        let gate = GateStore::new(Arc::new(world.store.clone()));
        let first = world
            .builder_at("first", Arc::new(gate.clone()))
            .retained_snapshots(2)
            .open()
            .unwrap();
        let table = first.value_state(&COUNTS).unwrap();
        fill(&table, 0..200, 1, 100);
        snapshot(&first);
        fill(&table, 0..200, 2, 100);
        gate.hold_writes("_metadata");
        let pending = first.snapshot(SnapshotOptions::new()).unwrap();
        gate.wait_until_held();
        let second = world
            .builder_at("second", Arc::new(world.store.clone()))
            .restore(restore)
            .open()
            .unwrap();
        gate.open();
        assert_eq!(pending.wait().unwrap().id, 2);
        fill(&second.value_state(&COUNTS).unwrap(), 0..200, 3, 100);
        assert_conflict(try_snapshot(&second));
        assert_eq!(world.ids(), [1, 2], "{restore:?}");
        assert!(world.verify(2).is_empty());
    }
}

#[test]
fn a_log_does_not_go_on_over_a_snapshot_that_was_under_way_when_it_began() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let first = world
        .builder_at("first", Arc::new(gate.clone()))
        .open()
        .unwrap();
    let table = first.value_state(&COUNTS).unwrap();
    fill(&table, 0..200, 1, 100);
    snapshot(&first);
    fill(&table, 0..200, 2, 100);
    gate.hold_writes("_metadata");
    let pending = first.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    let second = || {
        world
            .builder_at("second", Arc::new(world.store.clone()))
            .durability(Durability::Wal)
            .open()
    };
    let opened = second().unwrap();
    assert_eq!(opened.restored().unwrap().snapshot_id, 1);
    gate.open();
    assert_eq!(pending.wait().unwrap().id, 2);
    drop(opened);
    let error = second().unwrap_err();
    assert!(matches!(error, Error::LocalDirectory { .. }), "{error}");
    assert_eq!(world.ids(), [2]);
    assert!(world.verify(2).is_empty());
}

#[test]
fn a_snapshot_that_is_committed_during_a_look_is_found() {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    fill(&backend.value_state(&COUNTS).unwrap(), 0..200, 1, 100);
    snapshot(&backend);
    drop(backend);
    world.lose_disk();
    let plan = FaultPlan::new();
    let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    // It was not there yet when it was read, and was when it was listed.
    plan.set_filter(|op| op == Op::Get, "_metadata");
    plan.fail_nth(0, ErrorKind::NotFound);
    let backend = world.builder_over(Arc::new(store)).open().unwrap();
    assert_eq!(plan.injected(), 1);
    assert_eq!(backend.restored().map(|report| report.snapshot_id), Some(1));
}
