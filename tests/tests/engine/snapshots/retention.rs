//! Which snapshots stay in the store, and which objects.

use std::sync::Arc;

use lazurite::{LoadPolicy, Restore};
use lazurite_env::{ErrorKind, FaultPlan, Op, remote::FaultStore};
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
    let old = world.metadata(1).subtasks[0].files[0].key.clone();

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
fn what_could_not_be_deleted_is_deleted_after_the_next_snapshot() {
    // The shared files, the snapshot's own manifest, and the object by which it exists.
    for (part, ids) in [
        ("shared/", vec![2]),
        ("manifest", vec![2]),
        ("_metadata", vec![1, 2]),
    ] {
        for kind in [ErrorKind::Unavailable, ErrorKind::PermissionDenied] {
            let world = World::new();
            let plan = FaultPlan::new();
            let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
            let backend = world.builder_over(Arc::new(store)).open().unwrap();
            let table = backend.value_state(&COUNTS).unwrap();
            fill(&table, 0..300, 1, 100);
            snapshot(&backend);
            let first = world.objects();
            fill(&table, 0..300, 2, 100);
            backend.compact().unwrap(); // so that the first file dies
            plan.set_filter(|op| op == Op::ObjectDelete, part);
            plan.fail_from(0, kind);
            assert_eq!(snapshot(&backend).id, 2);
            plan.disable();
            assert!(plan.injected() > 0, "{part}");
            assert_eq!(world.ids(), ids, "{part}");
            let left = first.intersection(&world.objects()).count();
            assert!(left > 0, "{part}: nothing is left to be deleted");
            for id in world.ids() {
                assert!(world.verify(id).is_empty(), "{part}, snapshot {id}");
            }
            snapshot(&backend);
            assert_eq!(world.ids(), [3], "{part}");
            assert_tidy(&world);
        }
    }
}

#[test]
fn nothing_that_an_unreadable_snapshot_may_need_is_deleted() {
    let world = World::new();
    let plan = FaultPlan::new();
    let store = || Arc::new(FaultStore::new(Arc::new(world.store.clone()), plan.clone()));
    let backend = world
        .builder_over(store())
        .retained_snapshots(3)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for version in 1..=3 {
        fill(&table, version * 100..(version + 1) * 100, version, 100);
        snapshot(&backend);
    }
    drop((table, backend));
    let effects: [lazurite_env::Effect; 4] = [
        ErrorKind::PermissionDenied.into(),
        ErrorKind::Unavailable.into(),
        ErrorKind::NotFound.into(),
        lazurite_env::Effect::Corrupt,
    ];
    let backend = world.builder_over(store()).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for effect in effects {
        // Snapshot 2 shares files with the others, which are all subsumed.
        fill(&table, 0..500, 9, 100);
        backend.compact().unwrap();
        plan.enable();
        plan.set_filter(|op| op == Op::Get, "chk-2/_metadata");
        plan.fail_from(0, effect);
        snapshot(&backend);
        assert!(plan.injected() > 0);
        plan.disable();
        assert!(world.ids().contains(&2));
        for id in world.ids() {
            let findings = world.verify(id);
            assert!(
                findings.is_empty(),
                "{effect:?}, snapshot {id}: {findings:?}"
            );
        }
    }
    let report = snapshot(&backend);
    assert_eq!(world.ids(), [report.id]);
    assert_tidy(&world);
}
