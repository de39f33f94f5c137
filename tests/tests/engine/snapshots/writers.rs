//! Two writers of one job: of their snapshots none is lost that was acknowledged, and none is damaged.

use std::{sync::Arc, thread};

use lazurite::{Error, SnapshotOptions};
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
