//! The tails objects of snapshots: few, whole, and read again from wherever the bytes are.

use std::{fs, sync::Arc};

use lazurite::{Durability, LoadPolicy, RocksDbOptions, SnapshotOptions, StateBackendBuilder};
use lazurite_tests::{COUNTS, GateStore, World, fill, snapshot, value};

/// A kept log, no compaction by itself, and every file left where it is.
fn quiet(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder
        .durability(Durability::Wal)
        .load_policy(LoadPolicy::OnDemand)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            ..RocksDbOptions::default()
        })
}

/// The newest snapshot is whole, and a restore to an empty directory has keys `0..keys`.
#[track_caller]
fn assert_comes_back(world: &World, keys: u64) {
    let id = *world.ids().last().unwrap();
    assert!(world.verify(id).is_empty());
    let fresh = world.builder_at("fresh", Arc::new(world.store.clone()));
    let backend = quiet(fresh).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..keys {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, 100)));
    }
    drop((table, backend));
    fs::remove_dir_all(world.builder_dir("fresh")).unwrap();
}

#[test]
fn they_stay_few_over_many_restarts() {
    let world = World::new();
    for round in 0..16 {
        let backend = quiet(world.builder()).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        fill(&table, round * 50..(round + 1) * 50, 0, 100);
        let report = snapshot(&backend);
        let metadata = world.metadata(report.id);
        assert_eq!(metadata.subtasks[0].files.len() as u64, round + 1);
        assert!(
            metadata.subtasks[0].tails.len() <= 8,
            "{:#?}",
            metadata.subtasks[0].tails
        );
        assert!(
            metadata.subtasks[0]
                .files
                .iter()
                .all(|file| file.tail.is_some())
        );
    }
    assert_comes_back(&world, 16 * 50);
}

#[test]
fn those_of_remote_files_are_packed_again_without_the_local_ones() {
    let world = World::new();
    let backend = quiet(world.builder()).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..50, 0, 100);
    snapshot(&backend);
    drop((table, backend));
    world.lose_disk();
    drop(quiet(world.builder()).open().unwrap());
    for entry in fs::read_dir(world.dir().join("tails")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let backend = quiet(world.builder()).open().unwrap();
    assert_eq!(backend.tier().remote_files, 1);
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 50..120, 0, 100);
    let metadata = world.metadata(snapshot(&backend).id);
    assert_eq!(
        (
            metadata.subtasks[0].files.len(),
            metadata.subtasks[0].tails.len()
        ),
        (2, 1)
    );
    drop((table, backend));
    assert_comes_back(&world, 120);
}

#[test]
fn those_of_files_that_are_gone_meanwhile_come_from_the_store() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = quiet(world.builder_over(Arc::new(gate.clone())))
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..50, 0, 100);
    snapshot(&backend);
    let old = world.metadata(1).subtasks[0].files[0].name.clone();
    fill(&table, 50..120, 0, 100);
    gate.hold_writes(".sst");
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    backend.compact().unwrap();
    assert!(!world.dir().join("db").join(old).exists());
    gate.open();
    let metadata = world.metadata(pending.wait().unwrap().id);
    assert_eq!(
        (
            metadata.subtasks[0].files.len(),
            metadata.subtasks[0].tails.len()
        ),
        (2, 1)
    );
    drop((table, backend));
    assert_comes_back(&world, 120);
}
