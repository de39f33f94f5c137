//! Objects that are missing or damaged, and a store that is down.

use std::{fs, sync::Arc};

use lazurite::{Error, LoadPolicy, Restore, snapshot::Problem};
use lazurite_env::ErrorKind;
use lazurite_tests::{COUNTS, GateStore, assert_same, damages, snapshot, tree, value};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{assert_opens, assert_refused, is_corrupt, open_error, world};

#[test]
fn damage_to_any_object_is_refused_and_verify_names_it() {
    let world = world();
    let metadata = world.metadata(2);
    let objects = [
        (metadata.subtasks[0].files[1].key.clone(), false),
        (metadata.subtasks[0].tails[0].key.clone(), true),
        (metadata.subtasks[0].manifest.key.clone(), true),
    ];
    for (key, read_at_open) in objects {
        let len = fs::metadata(world.store_dir().join(&key)).unwrap().len();
        for (what, damage) in damages() {
            let what = format!("{key} {what}");
            let old = world.damage(&key, damage);
            let findings = world.verify(2);
            assert_eq!(findings.len(), 1, "{what}: {findings:?}");
            assert_eq!(findings[0].key, key);
            let same_length = match &findings[0].problem {
                Problem::Missing => {
                    assert!(what.ends_with("missing"));
                    false
                }
                Problem::WrongLength { expected, found } => {
                    assert!(*expected == len && *found != len, "{what}");
                    false
                }
                Problem::WrongChecksum { .. } => {
                    assert!(
                        what.ends_with("flipped") || what.ends_with("zeroed"),
                        "{what}"
                    );
                    true
                }
                other => panic!("{what}: {other:?}"),
            };
            if read_at_open || !same_length {
                let names_it =
                    |error: &Error| is_corrupt(error) && error.to_string().contains(&key);
                assert_refused(&world, &what, |b| b, names_it);
            }
            world.heal(&key, &old);
            assert!(world.verify(2).is_empty());
        }
    }
    assert_opens(&world);
}

#[test]
fn flipped_bytes_of_a_table_file_are_never_served() {
    let world = world();
    let file = world.metadata(2).subtasks[0].files[1].clone();
    let mut rng = StdRng::seed_from_u64(8);
    for round in 0..12 {
        let old = world.damage(&file.key, |mut bytes| {
            // Somewhere in the data: the tail is read from its own object.
            let at = rng.random_range(0..file.tail_offset as usize);
            bytes[at] ^= 1 << rng.random_range(0..8);
            Some(bytes)
        });
        world.lose_disk();
        let backend = world
            .builder()
            .load_policy(LoadPolicy::OnDemand)
            .open()
            .unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        let mut failed = 0;
        for key in 0..600 {
            match table.get(&key) {
                Ok(found) => {
                    assert_eq!(found, Some(value(key, 0, 100)), "round {round}, key {key}")
                }
                Err(error) => {
                    assert!(is_corrupt(&error), "round {round}: {error:?}");
                    failed += 1;
                }
            }
        }
        assert!(
            (1..=200).contains(&failed),
            "round {round}: {failed} reads failed"
        );
        let keys: Vec<u64> = (0..600).collect();
        assert!(is_corrupt(&table.multi_get(&keys).unwrap_err()));
        assert!(
            table
                .iter()
                .unwrap()
                .any(|entry| entry.is_err_and(|error| is_corrupt(&error)))
        );
        let error = backend.wait_until_local().unwrap_err();
        assert!(
            is_corrupt(&error) && error.to_string().contains(&file.key),
            "{error:?}"
        );
        assert_eq!(
            backend.tier().remote_files,
            1,
            "the others are local, this one is not"
        );
        assert!(!world.dir().join("db").join(&file.name).exists());
        drop((table, backend));

        world.lose_disk();
        let error = open_error(world.builder().load_policy(LoadPolicy::Eager));
        assert!(is_corrupt(&error), "{error:?}");
        world.heal(&file.key, &old);
    }
    assert_opens(&world);
}

#[test]
fn a_file_that_vanishes_after_open_is_an_error_until_it_is_back() {
    let world = world();
    world.lose_disk();
    let backend = world
        .builder()
        .load_policy(LoadPolicy::OnDemand)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let file = world.metadata(2).subtasks[0].files[0].clone();
    let old = world.damage(&file.key, |_| None);
    let failed = (0..600).filter(|key| table.get(key).is_err()).count();
    assert!((1..=200).contains(&failed), "{failed}");
    world.heal(&file.key, &old);
    for key in 0..600 {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, 100)));
    }
    backend.wait_until_local().unwrap();
}

#[test]
fn a_store_that_is_down() {
    let world = world();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    gate.shut();
    let local = tree(&world.dir());
    for restore in [Restore::Latest, Restore::Snapshot(1), Restore::Empty] {
        let error = open_error(world.builder_over(Arc::new(gate.clone())).restore(restore));
        assert!(error.is_temporary(), "{restore:?}: {error:?}");
    }
    assert_same(&local, &tree(&world.dir()), "the store is down");
    gate.open();
    // It denies the manifest alone: not temporary, not damage, and nothing is changed either.
    gate.refuse(Some("manifest"));
    let error = open_error(world.builder_over(Arc::new(gate.clone())));
    assert!(
        matches!(&error, Error::Env(e) if e.kind() == ErrorKind::PermissionDenied),
        "{error:?}"
    );
    assert_same(&local, &tree(&world.dir()), "the manifest is denied");
    gate.refuse(None);

    // Down while the backend runs: what is cold fails as temporary, and is there again with the store.
    world.lose_disk();
    let builder = world
        .builder_over(Arc::new(gate.clone()))
        .load_policy(LoadPolicy::OnDemand);
    let backend = builder.open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    gate.shut();
    let error = table.get(&3).unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
    let pending = backend.snapshot(Default::default()).unwrap();
    assert!(pending.wait().unwrap_err().is_temporary());
    gate.open();
    assert_eq!(table.get(&3).unwrap(), Some(value(3, 0, 100)));
    snapshot(&backend);
}
