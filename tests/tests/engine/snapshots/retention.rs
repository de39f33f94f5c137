//! Which snapshots stay in the store, and which objects.

use lazurite::{LoadPolicy, Restore};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

use super::{assert_tidy, open};

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
