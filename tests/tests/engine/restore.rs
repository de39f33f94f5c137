//! Snapshots and what comes back of them.

use lazurite::{LoadPolicy, SnapshotOptions, StateBackend};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

/// A world whose newest snapshot holds `files` table files of `keys` keys each, written one after another.
fn world_with(files: u64, keys: u64, len: usize) -> World {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for file in 0..files {
        fill(&table, file * keys..(file + 1) * keys, 0, len);
        backend.flush().unwrap();
    }
    let report = snapshot(&backend);
    assert!(report.uploaded_files > 0);
    world
}

fn check_all(backend: &StateBackend, keys: u64, len: usize) {
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..keys {
        assert_eq!(
            table.get(&key).unwrap(),
            Some(value(key, 0, len)),
            "key {key}"
        );
    }
}

#[test]
fn every_policy_brings_everything_back() {
    let world = world_with(3, 500, 100);
    for policy in [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand] {
        world.lose_disk();
        let backend = world.builder().load_policy(policy).open().unwrap();
        assert_eq!(backend.restored().unwrap().snapshot_id, 1);
        check_all(&backend, 1500, 100);
        assert_eq!(
            backend
                .value_state(&COUNTS)
                .unwrap()
                .iter()
                .unwrap()
                .count(),
            1500
        );
        if policy != LoadPolicy::OnDemand {
            backend.wait_until_local().unwrap();
            assert_eq!(backend.tier().remote_files, 0);
        }
        check_all(&backend, 1500, 100);
    }
}

#[test]
fn metadata_of_the_user_comes_back() {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    let options = SnapshotOptions::new()
        .metadata("source", "file.txt:17")
        .metadata("raw", vec![0xff, 0x00, 0x80]);
    backend.snapshot(options).unwrap().wait().unwrap();
    drop(backend);
    world.lose_disk();
    let backend = world.builder().open().unwrap();
    let restored = backend.restored().unwrap();
    assert_eq!(restored.user_metadata["source"], b"file.txt:17");
    assert_eq!(restored.user_metadata["raw"], [0xff, 0x00, 0x80]);
}

#[test]
fn a_table_that_outlives_its_backend_keeps_the_directory_locked() {
    let world = world_with(1, 10, 10);
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    drop(backend);
    let refused = world.builder().open().unwrap_err();
    assert!(
        matches!(refused, lazurite::Error::LocalDirectory { .. }),
        "{refused}"
    );
    drop(table);
    check_all(&world.builder().open().unwrap(), 10, 10);
}
