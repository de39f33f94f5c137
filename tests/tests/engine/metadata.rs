//! What a snapshot says of itself: checked against what it consists of, before anything local changes.

use std::{fs, sync::Arc};

use lazurite::{Error, snapshot::SnapshotMetadata};
use lazurite_tests::{COUNTS, World, assert_same, fill, snapshot, tree, value};
use lazurite_tiering::framed;

const METADATA: &str = "job/chk-1/_metadata";

/// A world whose job has one snapshot of 600 keys in three files, and the directory that wrote it.
fn world() -> World {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for part in 0..3 {
        fill(&table, part * 200..(part + 1) * 200, 0, 100);
        backend.flush().unwrap();
    }
    snapshot(&backend);
    world
}

/// Opening fails as `SnapshotCorrupt`, on the kept directory and on an empty one, for a reason that has `why` in it; no local
/// file changes.
#[track_caller]
fn assert_corrupt(world: &World, what: &str, why: &str) {
    let local = tree(&world.dir());
    for dir in ["local", "fresh"] {
        let builder = world.builder_at(dir, Arc::new(world.store.clone()));
        match builder.open() {
            Err(Error::SnapshotCorrupt { reason, .. }) => {
                assert!(reason.contains(why), "{what}, {dir}: {reason}");
            }
            Err(error) => panic!("{what}, {dir}: {error:?}"),
            Ok(_) => panic!("{what}, {dir}: it was opened"),
        }
    }
    assert_same(&local, &tree(&world.dir()), what);
    fs::remove_dir_all(world.builder_dir("fresh")).unwrap();
}

/// Replaces the metadata of snapshot 1 by what `craft` makes of it, its checksum made right again.
fn craft(world: &World, craft: impl Fn(&mut SnapshotMetadata)) -> Vec<u8> {
    let mut metadata = world.metadata(1);
    craft(&mut metadata);
    let body = serde_json::to_vec(&metadata).unwrap();
    let framed = framed::encode("lazurite-snapshot", 2, &body);
    world.damage(METADATA, |_| Some(framed))
}

#[track_caller]
fn assert_opens(world: &World) {
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..600 {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, 100)));
    }
}

/// Makes an object sparse and `len` bytes long; what it held stays at its beginning. Gives that.
fn stretch(world: &World, key: &str, len: u64) -> Vec<u8> {
    let old = world.damage(key, Some);
    let path = world.store_dir().join(key);
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
    old
}

#[test]
fn metadata_that_is_longer_than_any_is_refused_by_its_length() {
    let world = world();
    let old = stretch(&world, METADATA, (256 << 20) + 1);
    assert_corrupt(&world, "too long", "at most");
    let listed = world.snapshots().list("job").unwrap();
    let error = listed[0].1.as_ref().unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
    world.heal(METADATA, &old);
    assert_opens(&world);
}

#[test]
fn no_more_is_read_of_an_object_than_the_snapshot_wrote() {
    let world = world();
    let metadata = world.metadata(1);
    for key in [
        &metadata.subtasks[0].manifest.key,
        &metadata.subtasks[0].tails[0].key,
    ] {
        let old = stretch(&world, key, 1 << 30);
        let before = world.store.snapshot();
        assert_corrupt(&world, key, "it has 1073741824 bytes");
        let read = world.store.snapshot().since(&before).bytes_in;
        assert!(read < 1 << 20, "{key}: {read} bytes were read");
        world.heal(key, &old);
    }
    assert_opens(&world);
}

#[test]
fn a_file_is_never_opened_with_the_tail_of_another() {
    let world = world();
    let old = craft(&world, |m| {
        let first = m.subtasks[0].files[0].tail;
        m.subtasks[0].files[0].tail = m.subtasks[0].files[1].tail;
        m.subtasks[0].files[1].tail = first;
    });
    assert_corrupt(&world, "tails swapped", "is not the tail of");
    world.heal(METADATA, &old);
    assert_opens(&world);
}

#[test]
fn metadata_that_the_catalog_would_refuse_is_refused_before_anything_local_changes() {
    type Craft = fn(&mut SnapshotMetadata);
    let crafts: [(&str, Craft); 11] = [
        ("is not the name", |m| {
            m.subtasks[0].files[0].name = "0000012.sst".into()
        }),
        ("is not the name", |m| {
            m.subtasks[0].files[0].name = "99999999999999999999.sst".into()
        }),
        ("twice", |m| {
            m.subtasks[0].files[0].name = m.subtasks[0].files[1].name.clone()
        }),
        ("with two", |m| {
            m.subtasks[0].files[0].key = m.subtasks[0].files[1].key.clone()
        }),
        ("two things", |m| {
            m.subtasks[0].files[0].key = m.subtasks[0].manifest.key.clone()
        }),
        ("twice", |m| {
            let state = &mut m.subtasks[0];
            state.tails.push(state.tails[0].clone());
        }),
        ("twice", |m| {
            m.subtasks[0].manifest.key = m.subtasks[0].tails[0].key.clone()
        }),
        ("twice", |m| {
            m.subtasks[0].manifest.parts.push(("CURRENT".into(), 0))
        }),
        ("overflow", |m| {
            for file in &mut m.subtasks[0].files {
                (file.len, file.tail_offset) = (1 << 63, 1 << 63);
            }
        }),
        ("overflow", |m| {
            for name in ["a", "b"] {
                let mut tails = m.subtasks[0].tails[0].clone();
                tails.key = format!("job/shared/{name}.tails");
                tails.len = 1 << 63;
                m.subtasks[0].tails.push(tails);
            }
        }),
        ("more tails than bytes", |m| {
            let mut again = m.subtasks[0].files[0].clone();
            again.name = "900000.sst".into();
            again.key = "job/shared/again.sst".into();
            m.subtasks[0].files.push(again);
        }),
    ];
    let world = world();
    for (index, (why, change)) in crafts.into_iter().enumerate() {
        let old = craft(&world, change);
        assert_corrupt(&world, &format!("craft {index}"), why);
        world.heal(METADATA, &old);
    }
    assert_opens(&world);
}
