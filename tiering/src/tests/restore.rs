//! Restore, reuse, reopening, and what is refused.

use lazurite_env::{EnvExt, ErrorKind, TraceEnv};

use super::*;
use crate::Reuse;

#[test]
fn the_catalog_survives_reopening() {
    let (world, base, union, snapshot) = four_remote();
    union.download().wait_until_local().unwrap();
    drop(union);
    base.delete(&db(&name(14))).unwrap();
    write_file(&base, &db(&name(15)), b"cut").unwrap();
    write_file(
        &base,
        &Path::new(ROOT).join("download/000012.sst.part"),
        b"left",
    )
    .unwrap();
    write_file(&base, &Path::new(ROOT).join("tails/old"), b"left").unwrap();
    world.store.take_requests();
    let union = world.open(&base);
    assert_eq!(listed(&union), [12, 13, 14, 15].map(name));
    let local = [12, 13, 14, 15].map(|number| union.is_local(&name(number)));
    assert_eq!(local, [true, true, false, false]);
    assert_eq!(union.remote_files(), 2);
    // The tail came back from the bundle on the disk.
    let file = union.open_random(&db(&name(14))).unwrap();
    assert_eq!(
        read_at(&*file, 902, 100).unwrap(),
        snapshot.contents[&name(14)][902..]
    );
    assert!(world.store.take_requests().is_empty());
    for (name, bytes) in &snapshot.contents {
        assert_eq!(read_file(&*union, &db(name)).unwrap(), *bytes);
        let facts = snapshot.entries.iter().find(|entry| &entry.name == name);
        assert_eq!(union.get(name).as_ref(), facts);
    }
    assert!(
        base.list(&Path::new(ROOT).join("download"))
            .unwrap()
            .is_empty()
    );
    assert_eq!(base.list(&Path::new(ROOT).join("tails")).unwrap().len(), 1);
}

#[test]
fn restore_keeps_local_files_of_the_same_object_only() {
    let (world, base, union, _) = four_remote();
    union.download().wait_until_local().unwrap();
    write_file(&*union, &db(&name(60)), &content(60, 1000)).unwrap();
    write_file(&*union, &db(&name(61)), &content(61, 1000)).unwrap();
    // 12 as it is, 13 another content of the same length, 60 a name that was never catalogued, 15 not at all.
    let next = world.snapshot(&[(12, 1, 1000), (13, 20, 1001), (60, 21, 1000), (70, 22, 10)]);
    let reuse = next.restore(&union).unwrap();
    assert_eq!(
        reuse,
        Reuse {
            files: 1,
            bytes: 1000
        }
    );
    assert_eq!(listed(&union), [12, 13, 60, 70].map(name));
    assert_eq!(base.list(union.db_dir()).unwrap().len(), 1);
    assert_eq!(union.remote_files(), 3);
    for union in [union, world.open(&base.crash_clone(0))] {
        for (name, bytes) in &next.contents {
            assert_eq!(read_file(&*union, &db(name)).unwrap(), *bytes);
        }
        assert_eq!(union.referenced_keys().len(), 4);
    }
}

#[test]
fn restoring_the_same_snapshot_again_keeps_everything() {
    let (_, _, union, snapshot) = four_remote();
    union.download().wait_until_local().unwrap();
    let reuse = snapshot.restore(&union).unwrap();
    assert_eq!((reuse.files, union.remote_files()), (4, 0));
}

#[test]
fn restore_to_nothing() {
    let (world, base, union, _) = four_remote();
    union.restore(Vec::new(), Bytes::new(), "ignored").unwrap();
    assert!(listed(&union).is_empty() && union.referenced_keys().is_empty());
    assert!(
        base.list(&Path::new(ROOT).join("tails"))
            .unwrap()
            .is_empty()
    );
    assert!(listed(&world.open(&base.crash_clone(1))).is_empty());
}

#[test]
fn hostile_metadata_is_refused_and_changes_nothing() {
    let (world, _, union, snapshot) = four_remote();
    let refused = |change: &dyn Fn(&mut Snapshot), bundle: &str| {
        let mut bad = world.snapshot(&[(80, 30, 1000), (81, 31, 1000)]);
        change(&mut bad);
        let error = union
            .restore(bad.entries, bad.tails.into(), bundle)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert_eq!(listed(&union), [12, 13, 14, 15].map(name));
    };
    for bad in [
        "../000080.sst",
        "/etc/000080.sst",
        "80.sst",
        "000080.sst/..",
        "CURRENT",
        "",
        "000080.sst\0",
    ] {
        refused(&|snapshot| snapshot.entries[0].name = bad.into(), "bundle");
    }
    refused(&|snapshot| snapshot.entries[1].name = name(80), "bundle");
    let tail = |offset, bundle_offset| {
        Some(TailSpec {
            offset,
            bundle_offset: Some(bundle_offset),
            checksum: Checksum::of(b""),
        })
    };
    for bad in [
        tail(1001, 0),
        tail(u64::MAX, 0),
        tail(900, 101),
        tail(900, u64::MAX),
        tail(0, 0),
    ] {
        refused(&|snapshot| snapshot.entries[0].tail = bad, "bundle");
    }
    for bad in ["", "..", "../bundle", "a/b", "/abs", "a\0"] {
        refused(&|_| (), bad);
    }
    assert_eq!(
        read_file(&*union, &db(&name(12))).unwrap(),
        snapshot.contents[&name(12)]
    );
}

#[test]
fn every_flipped_bit_of_the_catalog_is_found_and_can_be_discarded() {
    let (world, base, union, snapshot) = four_remote();
    drop(union);
    let path = Path::new(ROOT).join("CATALOG");
    let bytes = base.read_to_vec(&path, 1 << 20).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        write_file(&base, &path, &bad).unwrap();
        let error = world.try_open(Arc::new(base.clone())).unwrap_err();
        assert_eq!(error.path(), path.to_str().unwrap(), "bit {bit}");
    }
    UnionEnv::discard_local(&base, Path::new(ROOT)).unwrap();
    assert!(base.list(Path::new(ROOT)).unwrap().is_empty());
    UnionEnv::discard_local(&base, Path::new(ROOT)).unwrap();
    UnionEnv::discard_local(&base, Path::new("/never/was")).unwrap();
    let union = world.open(&base);
    assert!(listed(&union).is_empty());
    snapshot.restore(&union).unwrap();
    assert_eq!(
        read_file(&*union, &db(&name(12))).unwrap(),
        snapshot.contents[&name(12)]
    );
}

#[test]
fn a_damaged_bundle_costs_requests_and_nothing_else() {
    let (world, base, union, snapshot) = four_remote();
    drop(union);
    let path = Path::new(ROOT).join("tails/bundle-1");
    let mut bytes = base.read_to_vec(&path, 1 << 20).unwrap();
    bytes[5] ^= 1;
    write_file(&base, &path, &bytes).unwrap();
    let union = world.open(&base);
    for (name, bytes) in &snapshot.contents {
        assert_eq!(read_file(&*union, &db(name)).unwrap(), *bytes);
    }
    assert_eq!(world.store.take_requests().len(), 4);
    // Restoring the same snapshot writes it again.
    snapshot.restore(&union).unwrap();
    drop(union);
    world.open(&base).open_random(&db(&name(12))).unwrap();
    assert_ne!(base.read_to_vec(&path, 1 << 20).unwrap(), *bytes);
}

#[test]
fn a_real_disk_answers_native_paths_after_promotion() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let mut options = world.options(Arc::new(lazurite_env::PosixEnv));
    options.root = dir.path().join("state");
    let union = UnionEnv::open(options).unwrap();
    let snapshot = world.snapshot(&[(12, 1, 1000)]);
    snapshot.restore(&union).unwrap();
    let path = union.db_dir().join(name(12));
    let file = union.open_random(&path).unwrap();
    assert_eq!((file.native_path(), union.native_path(&path)), (None, None));
    union.download().wait_until_local().unwrap();
    let native = file.native_path().unwrap();
    assert_eq!(
        std::fs::read(&native).unwrap(),
        snapshot.contents[&name(12)]
    );
    assert_eq!(union.native_path(&path), Some(native));
    // Deleted while it is open: the handle falls back to the object.
    union.delete(&path).unwrap();
    assert_eq!(file.native_path(), None);
    assert_eq!(
        read_at(&*file, 0, 2000).unwrap(),
        snapshot.contents[&name(12)]
    );
}

#[test]
fn a_catalog_with_hostile_names_is_refused_though_its_checksum_is_right() {
    let (world, base, union, _) = four_remote();
    drop(union);
    let path = Path::new(ROOT).join("CATALOG");
    let good = base.read_to_vec(&path, 1 << 20).unwrap();
    let (version, body) = crate::framed::decode("lazurite-catalog", 1, "", &good).unwrap();
    let body = std::str::from_utf8(body).unwrap();
    let changes = [
        ("000012.sst", "../012.sst"),
        ("000013.sst", "000012.sst"),
        ("job/shared/1.sst", "job/../../x"),
        ("bundle-1", "../bundle"),
        (
            "\"bundle_offset\":0",
            "\"bundle_offset\":18446744073709551615",
        ),
        ("\"files\"", "\"other\""),
    ];
    for (from, to) in changes {
        assert!(body.contains(from), "{body}");
        let bad = crate::framed::encode(
            "lazurite-catalog",
            version,
            body.replace(from, to).as_bytes(),
        );
        write_file(&base, &path, &bad).unwrap();
        let error = world.try_open(Arc::new(base.clone())).unwrap_err();
        assert_eq!(
            (error.kind(), error.path()),
            (ErrorKind::Corruption, path.to_str().unwrap())
        );
    }
}

#[test]
fn opening_and_listing_look_at_no_file_that_is_not_there() {
    let world = World::new();
    let base = MemEnv::new();
    let files: Vec<_> = (0..1000).map(|i| (100 + i, i, 200)).collect();
    world.snapshot(&files).restore(&world.open(&base)).unwrap();
    let traced = Arc::new(TraceEnv::new(Arc::new(base)));
    let union = world.try_open(traced.clone()).unwrap();
    for name in listed(&union) {
        union.stat(&db(&name)).unwrap();
        let file = union.open_random(&db(&name)).unwrap();
        read_at(&*file, 100, 100).unwrap();
    }
    let events = traced.take();
    assert!(
        events.len() < 40,
        "{} operations on the local disk",
        events.len()
    );
    assert!(world.store.take_requests().is_empty());
}

#[test]
fn a_restore_forgets_the_failures_of_the_last_one() {
    let (world, _, union, snapshot) = four_remote();
    world.store.damage(&key(2), 0);
    union.download().wait_until_local().unwrap_err();
    world
        .store
        .insert(&key(2), snapshot.contents[&name(13)].clone());
    snapshot.restore(&union).unwrap();
    union.download().wait_until_local().unwrap();
    assert!(union.download().progress().failed.is_empty());
}
