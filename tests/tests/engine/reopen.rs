//! Directories that are opened again after they went back to an older snapshot, or after their own records were damaged.

use std::{fs, sync::Arc};

use lazurite::{
    Durability, Error, LoadPolicy, Restore, RocksDbOptions, SnapshotReport, StateBackend,
    StateBackendBuilder,
};
use lazurite_tests::{COUNTS, World, assert_same, fill, snapshot, tree, value};

/// A kept log, and files that stay as they are.
fn quiet(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder
        .durability(Durability::Wal)
        .load_policy(LoadPolicy::OnDemand)
        .retained_snapshots(3)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            ..RocksDbOptions::default()
        })
}

#[track_caller]
fn check(backend: &StateBackend, keys: u64) {
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..keys {
        assert_eq!(
            table.get(&key).unwrap(),
            Some(value(key, 0, 100)),
            "key {key}"
        );
    }
    assert_eq!(table.iter().unwrap().count() as u64, keys);
}

/// A job whose snapshots 1 (three files, 600 keys) and 2 share no file, and a directory that was restored from 1, has written
/// 100 keys more into its log and died.
fn returned(local: bool) -> World {
    let world = World::new();
    let backend = quiet(world.builder()).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for part in 0..3 {
        fill(&table, part * 200..(part + 1) * 200, 0, 100);
        backend.flush().unwrap();
    }
    snapshot(&backend);
    fill(&table, 0..600, 1, 100);
    backend.compact().unwrap();
    snapshot(&backend);
    let (first, second) = (world.metadata(1), world.metadata(2));
    let shared = |key: &String| second.files().any(|file| file.key == *key);
    assert!(!first.files().any(|file| shared(&file.key)));
    drop((table, backend));
    world.lose_disk();
    let backend = quiet(world.builder())
        .restore(Restore::Snapshot(1))
        .open()
        .unwrap();
    if local {
        backend.wait_until_local().unwrap();
    }
    fill(&backend.value_state(&COUNTS).unwrap(), 600..700, 0, 100);
    world
}

/// Opens the directory again, takes a snapshot at once, and restores that elsewhere.
#[track_caller]
fn assert_snapshot_works(world: &World) -> SnapshotReport {
    let backend = quiet(world.builder()).open().unwrap();
    assert!(backend.restored().is_none(), "it goes on in place");
    let report = snapshot(&backend);
    check(&backend, 700);
    drop(backend);
    assert!(world.verify(report.id).is_empty());
    let metadata = world.metadata(report.id);
    assert!(
        metadata.subtasks[0]
            .files
            .iter()
            .all(|file| file.tail.is_some())
    );
    let elsewhere = world.builder_at("elsewhere", Arc::new(world.store.clone()));
    let backend = quiet(elsewhere).open().unwrap();
    assert_eq!(backend.restored().unwrap().snapshot_id, report.id);
    check(&backend, 700);
    report
}

#[test]
fn a_log_over_an_older_snapshot_takes_the_next_one_while_its_files_are_remote() {
    let report = assert_snapshot_works(&returned(false));
    assert_eq!((report.uploaded_files, report.reused_files), (1, 3));
}

#[test]
fn a_log_over_an_older_snapshot_uploads_none_of_its_downloaded_files_again() {
    let report = assert_snapshot_works(&returned(true));
    assert_eq!((report.uploaded_files, report.reused_files), (1, 3));
}

#[test]
fn a_file_that_the_store_has_lost_is_uploaded_again() {
    let world = returned(true);
    let lost = world.metadata(1).subtasks[0].files[1].key.clone();
    world.damage(&lost, |_| None);
    let report = assert_snapshot_works(&world);
    assert_eq!((report.uploaded_files, report.reused_files), (2, 2));
}

#[test]
fn a_damaged_catalog_costs_nothing_before_the_snapshot_was_found_whole() {
    for durability in [Durability::Snapshot, Durability::Wal] {
        let world = World::new();
        let open = |restore| {
            quiet(world.builder())
                .durability(durability)
                .restore(restore)
                .open()
        };
        let backend = open(Restore::Latest).unwrap();
        fill(&backend.value_state(&COUNTS).unwrap(), 0..100, 0, 100);
        snapshot(&backend);
        drop(backend);
        let path = world.dir().join("CATALOG");
        let mut catalog = fs::read(&path).unwrap();
        let middle = catalog.len() / 2;
        catalog[middle] ^= 4;
        fs::write(&path, catalog).unwrap();
        let local = tree(&world.dir());
        let metadata = world.metadata(1);
        for key in [
            "job/chk-1/_metadata",
            &metadata.subtasks[0].manifest.key,
            &metadata.subtasks[0].tails[0].key,
            &metadata.subtasks[0].files[0].key,
        ] {
            let old = world.damage(key, |bytes| Some(bytes[1..].to_vec()));
            let error = open(Restore::Snapshot(1)).unwrap_err();
            assert!(matches!(error, Error::SnapshotCorrupt { .. }), "{error:?}");
            assert_same(&local, &tree(&world.dir()), key);
            world.heal(key, &old);
        }
        let other = open(Restore::Snapshot(2)).unwrap_err();
        assert!(matches!(other, Error::SnapshotNotFound { .. }), "{other:?}");
        let half = quiet(world.builder())
            .durability(durability)
            .restore(Restore::Snapshot(1))
            .key_groups(64)
            .open()
            .unwrap_err();
        assert!(matches!(half, Error::InvalidOption { .. }), "{half:?}");
        assert_same(&local, &tree(&world.dir()), "options that do not fit");
        // A log that is to go on is never thrown away.
        if durability == Durability::Wal {
            let error = open(Restore::Latest).unwrap_err();
            assert!(!error.is_temporary() && error.to_string().contains("CATALOG"));
            assert_same(&local, &tree(&world.dir()), "a log");
        }
        let backend = open(Restore::Snapshot(1)).unwrap();
        assert_eq!(backend.restored().unwrap().reused_files, 0);
        check(&backend, 100);
    }
}
