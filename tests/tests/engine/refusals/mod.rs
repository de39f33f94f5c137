//! What the engine refuses: each with one clear error, and with everything left as it was.

mod metadata;
mod objects;
mod options;

use std::{fs, sync::Arc};

use lazurite::{Error, StateBackendBuilder};
use lazurite_env::ErrorKind;
use lazurite_tests::{COUNTS, World, assert_same, fill, snapshot, tree, value};

const METADATA: &str = "job/chk-2/_metadata";

/// A world with two snapshots of 600 keys in a few files, and a kept local directory.
fn world() -> World {
    let world = World::new();
    let backend = world.builder().retained_snapshots(2).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for part in 0..3 {
        fill(&table, part * 200..(part + 1) * 200, 0, 100);
        backend.flush().unwrap();
        if part > 0 {
            snapshot(&backend);
        }
    }
    world
}

fn open_error(builder: StateBackendBuilder) -> Error {
    match builder.open() {
        Ok(backend) => panic!("it was opened: {:?}", backend.restored()),
        Err(error) => error,
    }
}

/// Opening fails with an error that `fits`, on the kept directory and on an empty one, and changes neither the kept
/// directory nor the store.
#[track_caller]
fn assert_refused(
    world: &World,
    what: &str,
    builder: impl Fn(StateBackendBuilder) -> StateBackendBuilder,
    fits: impl Fn(&Error) -> bool,
) {
    let (local, store) = (tree(&world.dir()), tree(&world.store_dir()));
    let store_of = || Arc::new(world.store.clone());
    for dir in ["local", "fresh"] {
        let error = open_error(builder(world.builder_at(dir, store_of())));
        assert!(fits(&error), "{what}, {dir}: {error:?}");
        assert!(
            error.to_string().len() > 30,
            "{what}: says too little: {error}"
        );
    }
    assert_same(&local, &tree(&world.dir()), what);
    assert_same(&store, &tree(&world.store_dir()), what);
    assert!(
        !world.builder_dir("fresh").join("db/CURRENT").exists(),
        "{what}: half a database"
    );
    fs::remove_dir_all(world.builder_dir("fresh")).unwrap();
}

fn is_corrupt(error: &Error) -> bool {
    match error {
        Error::SnapshotCorrupt { .. } => true,
        Error::Env(error) => error.kind() == ErrorKind::Corruption,
        Error::RocksDb { kind, .. } => *kind == ErrorKind::Corruption,
        _ => false,
    }
}

#[track_caller]
fn assert_opens(world: &World) {
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..600 {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, 100)));
    }
}
