//! Two backends that take the same snapshot.

use std::sync::{Arc, Barrier};

use lazurite::{Error, SnapshotOptions};
use lazurite_tests::{COUNTS, fill, value};

use crate::world::{KINDS, World};

const ROUNDS: u64 = 4;

#[test]
fn of_two_writers_of_a_snapshot_one_wins_and_the_other_is_told() {
    for kind in KINDS {
        for round in 0..ROUNDS {
            let Some(world) = World::new(kind) else {
                break;
            };
            // Both begin where the first snapshot ends.
            let first = world.builder("first", world.store()).open().unwrap();
            fill(&first.value_state(&COUNTS).unwrap(), 0..100, 0, 100);
            first
                .snapshot(SnapshotOptions::new())
                .unwrap()
                .wait()
                .unwrap();
            drop(first);
            let barrier = Arc::new(Barrier::new(2));
            let backends: Vec<_> = (1..=2)
                .map(|writer: u64| {
                    let store = world.store();
                    let backend = world.builder(&writer.to_string(), store).open().unwrap();
                    let table = backend.value_state(&COUNTS).unwrap();
                    fill(&table, 0..100, writer, 100);
                    backend
                })
                .collect();
            let results: Vec<_> = std::thread::scope(|scope| {
                let racers: Vec<_> = backends
                    .iter()
                    .map(|backend| {
                        let barrier = barrier.clone();
                        scope.spawn(move || {
                            barrier.wait();
                            backend.snapshot(SnapshotOptions::new())?.wait()
                        })
                    })
                    .collect();
                racers.into_iter().map(|r| r.join().unwrap()).collect()
            });
            let winner = match (&results[0], &results[1]) {
                (Ok(report), Err(Error::SnapshotConflict { .. })) => (1, report.id),
                (Err(Error::SnapshotConflict { .. }), Ok(report)) => (2, report.id),
                _ => panic!("{kind:?}, round {round}: {results:?}"),
            };
            drop(backends);
            world.verified("job");
            let after = world.builder("after", world.store()).open().unwrap();
            assert_eq!(after.restored().unwrap().snapshot_id, winner.1);
            let table = after.value_state(&COUNTS).unwrap();
            for key in 0..100 {
                assert_eq!(table.get(&key).unwrap(), Some(value(key, winner.0, 100)));
            }
        }
    }
}
