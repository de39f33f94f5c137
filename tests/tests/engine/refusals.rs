//! What the engine refuses: each with one clear error, and with everything left as it was.

use std::{fs, sync::Arc, time::Duration};

use lazurite::{
    Error, KeyGroupRange, LoadPolicy, MapStateDescriptor, RawBytes, Restore, RocksDbOptions,
    StateBackend, StateBackendBuilder, ValueStateDescriptor,
    snapshot::{Problem, SnapshotMetadata, UserValue},
};
use lazurite_env::ErrorKind;
use lazurite_tests::{COUNTS, GateStore, World, assert_same, damages, fill, snapshot, tree, value};
use lazurite_tiering::framed;
use rand::{Rng, SeedableRng, rngs::StdRng};

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

#[test]
fn a_snapshot_that_is_not_there() {
    let world = world();
    let missing = |error: &Error| matches!(error, Error::SnapshotNotFound { .. });
    assert_refused(
        &world,
        "never was",
        |b| b.restore(Restore::Snapshot(7)),
        missing,
    );
    assert_refused(
        &world,
        "number 0",
        |b| b.restore(Restore::Snapshot(0)),
        missing,
    );
    let old = world.damage(METADATA, |_| None);
    assert_refused(&world, "lost", |b| b.restore(Restore::Snapshot(2)), missing);
    world.heal(METADATA, &old);
    assert_opens(&world);
}

#[test]
fn every_damage_to_the_metadata_is_found() {
    let world = world();
    let old = fs::read(world.store_dir().join(METADATA)).unwrap();
    for (what, damage) in damages().into_iter().filter(|(what, _)| *what != "missing") {
        world.damage(METADATA, damage);
        assert_refused(&world, what, |b| b, is_corrupt);
        world.heal(METADATA, &old);
    }
    let local = tree(&world.dir());
    let refuse = |bytes: &[u8], what: &str| {
        world.heal(METADATA, bytes);
        let error = open_error(world.builder());
        assert!(!error.is_temporary(), "{what}: {error}");
        let listed = world.snapshots().list("job").unwrap();
        assert!(
            listed[0].1.is_ok() && listed[1].1.is_err(),
            "{what}: one corrupt snapshot hides no other"
        );
    };
    for len in (0..old.len()).step_by(old.len() / 40) {
        refuse(&old[..len], &format!("cut to {len} bytes"));
    }
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..200 {
        let bit = rng.random_range(0..old.len() * 8);
        let mut bad = old.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refuse(&bad, &format!("bit {bit} flipped"));
    }
    assert_same(&local, &tree(&world.dir()), "damaged metadata");
    world.heal(METADATA, &old);
    assert_opens(&world);
}

#[test]
fn a_newer_version_and_other_formats() {
    let world = world();
    let old = fs::read(world.store_dir().join(METADATA)).unwrap();
    let (_, body) = framed::decode("lazurite-snapshot", 1, METADATA, &old).unwrap();
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 2, body));
    let newer = |error: &Error| error.to_string().contains("newer") && !error.is_temporary();
    assert_refused(&world, "newer version", |b| b, newer);
    world.heal(
        METADATA,
        b"{\"format\":\"lazurite-snapshot\",\"version\":9,\"blake3\":\"00\"}\n?",
    );
    assert_refused(&world, "newer header", |b| b, newer);
    world.heal(METADATA, &framed::encode("lazurite-catalog", 1, body));
    assert_refused(&world, "another format", |b| b, is_corrupt);
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 1, b"{}"));
    assert_refused(&world, "empty body", |b| b, is_corrupt);
    world.heal(METADATA, body);
    assert_refused(&world, "no frame", |b| b, is_corrupt);
    world.heal(METADATA, &old);
    assert_opens(&world);
}

#[test]
fn damage_to_any_object_is_refused_and_verify_names_it() {
    let world = world();
    let metadata = world.metadata(2);
    let objects = [
        (metadata.files[1].key.clone(), false),
        (metadata.tails[0].key.clone(), true),
        (metadata.manifest.key.clone(), true),
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
    let file = world.metadata(2).files[1].clone();
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
    let file = world.metadata(2).files[0].clone();
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
fn tables_of_other_types_and_codecs() {
    let world = world();
    let mismatch = |error: &Error| matches!(error, Error::TableMismatch { .. });
    let other_value = ValueStateDescriptor::<u64, String>::new("counts");
    let other_key = ValueStateDescriptor::<u32, Vec<u8>>::new("counts");
    let other_codec =
        ValueStateDescriptor::<u64, Vec<u8>>::with_codecs("counts", lazurite::Postcard, RawBytes);
    let other_kind = MapStateDescriptor::<u64, u64, Vec<u8>>::new("counts");
    assert_refused(&world, "value type", |b| b.table(&other_value), mismatch);
    assert_refused(&world, "key type", |b| b.table(&other_key), mismatch);
    assert_refused(&world, "codec", |b| b.table(&other_codec), mismatch);
    assert_refused(&world, "kind", |b| b.table(&other_kind), mismatch);
    assert_refused(
        &world,
        "second",
        |b| b.table(&COUNTS).table(&other_value),
        mismatch,
    );
    // Undeclared, they are found out when they are asked for, and the backend goes on.
    let backend = world.builder().open().unwrap();
    assert!(mismatch(&backend.value_state(&other_value).unwrap_err()));
    assert!(mismatch(&backend.value_state(&other_key).unwrap_err()));
    assert!(mismatch(&backend.value_state(&other_codec).unwrap_err()));
    assert!(mismatch(&backend.map_state(&other_kind).unwrap_err()));
    drop(backend);
    assert_opens(&world);
}

#[test]
fn key_groups_that_were_not_written() {
    let world = world();
    let range = |start, end| KeyGroupRange::new(start, end).unwrap();
    assert_refused(
        &world,
        "key groups",
        |b| b.key_groups(64),
        |e| matches!(e, Error::InvalidOption { .. }),
    );
    let part = |b: StateBackendBuilder| b.key_group_range(range(0, 63));
    assert_refused(&world, "a part", part, |e| {
        matches!(e, Error::RangeNotCovered { .. })
    });
    drop(world);

    // A snapshot of the lower half has neither all nor the upper one.
    let world = World::new();
    let backend = world
        .builder()
        .key_group_range(range(0, 63))
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let written = (0..600)
        .filter(|key| table.put(key, &vec![1]).is_ok())
        .count();
    assert!((200..400).contains(&written));
    snapshot(&backend);
    drop((table, backend));
    let not_covered = |e: &Error| matches!(e, Error::RangeNotCovered { .. });
    assert_refused(&world, "all", |b| b, not_covered);
    assert_refused(
        &world,
        "upper",
        |b| b.key_group_range(range(64, 127)),
        not_covered,
    );
    let backend = world
        .builder()
        .key_group_range(range(0, 63))
        .open()
        .unwrap();
    assert_eq!(
        backend
            .value_state(&COUNTS)
            .unwrap()
            .iter()
            .unwrap()
            .count(),
        written
    );
}

#[test]
fn metadata_that_points_elsewhere() {
    type Craft = fn(&mut SnapshotMetadata);
    let crafts: Vec<(&str, Craft)> = vec![
        ("file up", |m| m.files[0].name = "../../x.sst".into()),
        ("file below", |m| m.files[0].name = "a/000001.sst".into()),
        ("absolute file", |m| {
            m.files[0].name = "/tmp/000001.sst".into()
        }),
        ("small file", |m| m.files[0].name = "CURRENT".into()),
        ("no name", |m| m.files[0].name = String::new()),
        ("nul", |m| m.files[0].name = "000001\0.sst".into()),
        ("twice", |m| m.files[0].name = m.files[1].name.clone()),
        ("absolute key", |m| m.files[0].key = "/etc/passwd".into()),
        ("another job", |m| {
            m.files[0].key = m.files[0].key.replacen("job", "other", 1)
        }),
        ("key up", |m| {
            m.files[0].key = "job/../other/shared/x.sst".into()
        }),
        ("job itself", |m| m.files[0].key = "job".into()),
        ("tails elsewhere", |m| {
            m.tails[0].key = "other/shared/x.tails".into()
        }),
        ("tails absolute", |m| {
            m.tails[0].key = "/job/shared/x".into()
        }),
        ("manifest elsewhere", |m| {
            m.manifest.key = "other/chk-2/manifest-0".into()
        }),
        ("part up", |m| m.manifest.parts[0].0 = "../CURRENT".into()),
        ("part hidden", |m| m.manifest.parts[0].0 = ".CURRENT".into()),
        ("part LOCK", |m| m.manifest.parts[0].0 = "LOCK".into()),
        ("part table", |m| {
            m.manifest.parts[0].0 = "000009.sst".into()
        }),
        ("part lengths", |m| m.manifest.parts[0].1 += 1),
        ("part overflow", |m| m.manifest.parts[0].1 = u64::MAX),
        ("no parts", |m| m.manifest.parts.clear()),
        ("tail outside", |m| m.files[0].tail = Some((0, u64::MAX))),
        ("tail of no object", |m| m.files[0].tail = Some((99, 0))),
        ("tail before", |m| m.files[0].tail_offset = 0),
        ("tail beyond", |m| m.files[0].tail_offset = u64::MAX),
        ("long file", |m| m.files[0].len = u64::MAX),
        ("long files", |m| {
            m.files.iter_mut().for_each(|f| f.len = u64::MAX)
        }),
        ("long tails", |m| m.tails[0].len = u64::MAX),
        ("another id", |m| m.id = 3),
        ("another name", |m| m.job = "other".into()),
        ("other checksum", |m| {
            m.manifest.checksum = m.tails[0].checksum
        }),
        ("bad hex", |m| {
            m.user_metadata
                .insert("x".into(), UserValue::Hex("zz".into()));
        }),
        ("bad table", |m| m.tables[0].name = "../x".into()),
        ("default table", |m| m.tables[0].name = "default".into()),
        ("table twice", |m| m.tables.push(m.tables[0].clone())),
    ];
    let world = world();
    let old = fs::read(world.store_dir().join(METADATA)).unwrap();
    let sound = world.metadata(2);
    for (what, craft) in crafts {
        let mut metadata = sound.clone();
        craft(&mut metadata);
        let body = serde_json::to_vec(&metadata).unwrap();
        world.heal(METADATA, &framed::encode("lazurite-snapshot", 1, &body));
        assert_refused(
            &world,
            what,
            |b| b,
            |error| is_corrupt(error) && error.to_string().contains("job/"),
        );
        world.heal(METADATA, &old);
    }
    // Content that is not what its name says, all checksums right: only RocksDB can tell. The next restore makes it good.
    let mut metadata = sound.clone();
    let last = metadata.manifest.parts.len() - 1;
    let name = metadata.manifest.parts[0].0.clone();
    metadata.manifest.parts[0].0 = std::mem::replace(&mut metadata.manifest.parts[last].0, name);
    let body = serde_json::to_vec(&metadata).unwrap();
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 1, &body));
    assert!(is_corrupt(&open_error(world.builder())));
    world.heal(METADATA, &old);
    assert_opens(&world);
    for extra in ["{\"x\":1,", "{\"id\":2,"] {
        let body = serde_json::to_string(&sound)
            .unwrap()
            .replacen('{', extra, 1);
        world.heal(
            METADATA,
            &framed::encode("lazurite-snapshot", 1, body.as_bytes()),
        );
        assert_refused(&world, extra, |b| b, is_corrupt);
    }
    world.heal(METADATA, &old);
    assert_opens(&world);
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

#[test]
fn options_that_cannot_be_right() {
    type Change = fn(StateBackendBuilder) -> StateBackendBuilder;
    let wrong: Vec<(&str, Change)> = vec![
        ("empty job", |b| b.job("")),
        ("job with a slash", |b| b.job("a/b")),
        ("job above", |b| b.job("..")),
        ("long job", |b| b.job("x".repeat(129))),
        ("no key groups", |b| b.key_groups(0)),
        ("too many key groups", |b| b.key_groups(32769)),
        ("range outside", |b| {
            b.key_groups(16)
                .key_group_range(KeyGroupRange::new(0, 16).unwrap())
        }),
        ("retained", |b| b.retained_snapshots(0)),
        ("threads", |b| b.transfer_threads(0)),
        ("many threads", |b| b.transfer_threads(65)),
        ("timeout", |b| b.snapshot_timeout(Duration::ZERO)),
        ("table name", |b| {
            b.table(&ValueStateDescriptor::<u64, u64>::new("a/b"))
        }),
        ("default table", |b| {
            b.table(&ValueStateDescriptor::<u64, u64>::new("default"))
        }),
        ("block", |b| {
            b.rocksdb(RocksDbOptions {
                block_bytes: 1,
                ..Default::default()
            })
        }),
        ("buffers", |b| {
            b.rocksdb(RocksDbOptions {
                write_buffers: 0,
                ..Default::default()
            })
        }),
        ("jobs", |b| {
            b.rocksdb(RocksDbOptions {
                background_jobs: 0,
                ..Default::default()
            })
        }),
        ("bloom", |b| {
            b.rocksdb(RocksDbOptions {
                bloom_bits_per_key: 99,
                ..Default::default()
            })
        }),
    ];
    let world = World::new();
    for (what, change) in wrong {
        let error = open_error(change(world.builder()));
        assert!(
            matches!(error, Error::InvalidOption { .. }),
            "{what}: {error:?}"
        );
        assert!(!world.dir().exists(), "{what}: something was touched");
        assert_eq!(world.store.snapshot().total(), 0, "{what}");
    }
    let error = open_error(StateBackend::builder(world.dir()));
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                option: "remote",
                ..
            }
        ),
        "{error:?}"
    );
    for uri in ["", "nonsense", "ftp://x/y", "file://relative"] {
        let error = open_error(StateBackend::builder(world.dir()).remote(uri));
        assert!(!error.is_temporary(), "{uri}: {error:?}");
    }
    // The longest timeout that can be written is taken for what it is.
    let backend = world
        .builder()
        .snapshot_timeout(Duration::MAX)
        .open()
        .unwrap();
    snapshot(&backend);
}
