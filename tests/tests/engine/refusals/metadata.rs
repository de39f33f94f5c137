//! Metadata that is missing, damaged, of another version, or made to do harm.

use std::fs;

use lazurite::{
    Error, Restore,
    snapshot::{SnapshotMetadata, UserValue},
};
use lazurite_tests::{assert_same, damages, tree};
use lazurite_tiering::framed;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{METADATA, assert_opens, assert_refused, is_corrupt, open_error, world};

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
    let (_, body) = framed::decode("lazurite-snapshot", 2, METADATA, &old).unwrap();
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 3, body));
    let newer = |error: &Error| error.to_string().contains("newer") && !error.is_temporary();
    assert_refused(&world, "newer version", |b| b, newer);
    world.heal(
        METADATA,
        b"{\"format\":\"lazurite-snapshot\",\"version\":9,\"blake3\":\"00\"}\n?",
    );
    assert_refused(&world, "newer header", |b| b, newer);
    world.heal(METADATA, &framed::encode("lazurite-catalog", 1, body));
    assert_refused(&world, "another format", |b| b, is_corrupt);
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 1, body));
    assert_refused(&world, "an older version", |b| b, is_corrupt);
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 2, b"{}"));
    assert_refused(&world, "empty body", |b| b, is_corrupt);
    world.heal(METADATA, body);
    assert_refused(&world, "no frame", |b| b, is_corrupt);
    world.heal(METADATA, &old);
    assert_opens(&world);
}

#[test]
fn metadata_that_points_elsewhere() {
    type Craft = fn(&mut SnapshotMetadata);
    let crafts: Vec<(&str, Craft)> = vec![
        ("file up", |m| {
            m.subtasks[0].files[0].name = "../../x.sst".into()
        }),
        ("file below", |m| {
            m.subtasks[0].files[0].name = "a/000001.sst".into()
        }),
        ("absolute file", |m| {
            m.subtasks[0].files[0].name = "/tmp/000001.sst".into()
        }),
        ("small file", |m| {
            m.subtasks[0].files[0].name = "CURRENT".into()
        }),
        ("no name", |m| m.subtasks[0].files[0].name = String::new()),
        ("nul", |m| {
            m.subtasks[0].files[0].name = "000001\0.sst".into()
        }),
        ("twice", |m| {
            m.subtasks[0].files[0].name = m.subtasks[0].files[1].name.clone()
        }),
        ("absolute key", |m| {
            m.subtasks[0].files[0].key = "/etc/passwd".into()
        }),
        ("another job", |m| {
            m.subtasks[0].files[0].key = m.subtasks[0].files[0].key.replacen("job", "other", 1)
        }),
        ("key up", |m| {
            m.subtasks[0].files[0].key = "job/../other/shared/x.sst".into()
        }),
        ("job itself", |m| m.subtasks[0].files[0].key = "job".into()),
        ("tails elsewhere", |m| {
            m.subtasks[0].tails[0].key = "other/shared/x.tails".into()
        }),
        ("tails absolute", |m| {
            m.subtasks[0].tails[0].key = "/job/shared/x".into()
        }),
        ("manifest elsewhere", |m| {
            m.subtasks[0].manifest.key = "other/chk-2/manifest-0".into()
        }),
        ("part up", |m| {
            m.subtasks[0].manifest.parts[0].0 = "../CURRENT".into()
        }),
        ("part hidden", |m| {
            m.subtasks[0].manifest.parts[0].0 = ".CURRENT".into()
        }),
        ("part LOCK", |m| {
            m.subtasks[0].manifest.parts[0].0 = "LOCK".into()
        }),
        ("part table", |m| {
            m.subtasks[0].manifest.parts[0].0 = "000009.sst".into()
        }),
        ("part lengths", |m| m.subtasks[0].manifest.parts[0].1 += 1),
        ("part overflow", |m| {
            m.subtasks[0].manifest.parts[0].1 = u64::MAX
        }),
        ("no parts", |m| m.subtasks[0].manifest.parts.clear()),
        ("tail outside", |m| {
            m.subtasks[0].files[0].tail = Some((0, u64::MAX))
        }),
        ("tail of no object", |m| {
            m.subtasks[0].files[0].tail = Some((99, 0))
        }),
        ("tail before", |m| m.subtasks[0].files[0].tail_offset = 0),
        ("tail beyond", |m| {
            m.subtasks[0].files[0].tail_offset = u64::MAX
        }),
        ("long file", |m| m.subtasks[0].files[0].len = u64::MAX),
        ("long files", |m| {
            m.subtasks[0]
                .files
                .iter_mut()
                .for_each(|f| f.len = u64::MAX)
        }),
        ("long tails", |m| m.subtasks[0].tails[0].len = u64::MAX),
        ("another id", |m| m.id = 3),
        ("another name", |m| m.job = "other".into()),
        ("other checksum", |m| {
            m.subtasks[0].manifest.checksum = m.subtasks[0].tails[0].checksum
        }),
        ("bad hex", |m| {
            m.user_metadata
                .insert("x".into(), UserValue::Hex("zz".into()));
        }),
        ("bad table", |m| {
            m.subtasks[0].tables[0].name = "../x".into()
        }),
        ("default table", |m| {
            m.subtasks[0].tables[0].name = "default".into()
        }),
        ("table twice", |m| {
            let state = &mut m.subtasks[0];
            state.tables.push(state.tables[0].clone());
        }),
    ];
    let world = world();
    let old = fs::read(world.store_dir().join(METADATA)).unwrap();
    let sound = world.metadata(2);
    for (what, craft) in crafts {
        let mut metadata = sound.clone();
        craft(&mut metadata);
        let body = serde_json::to_vec(&metadata).unwrap();
        world.heal(METADATA, &framed::encode("lazurite-snapshot", 2, &body));
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
    let last = metadata.subtasks[0].manifest.parts.len() - 1;
    let name = metadata.subtasks[0].manifest.parts[0].0.clone();
    metadata.subtasks[0].manifest.parts[0].0 =
        std::mem::replace(&mut metadata.subtasks[0].manifest.parts[last].0, name);
    let body = serde_json::to_vec(&metadata).unwrap();
    world.heal(METADATA, &framed::encode("lazurite-snapshot", 2, &body));
    assert!(is_corrupt(&open_error(world.builder())));
    world.heal(METADATA, &old);
    assert_opens(&world);
    for extra in ["{\"x\":1,", "{\"id\":2,"] {
        let body = serde_json::to_string(&sound)
            .unwrap()
            .replacen('{', extra, 1);
        world.heal(
            METADATA,
            &framed::encode("lazurite-snapshot", 2, body.as_bytes()),
        );
        assert_refused(&world, extra, |b| b, is_corrupt);
    }
    world.heal(METADATA, &old);
    assert_opens(&world);
}
