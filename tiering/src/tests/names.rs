//! Listing, stat, delete, rename, link, create, and what stays referenced.

use std::collections::HashSet;

use lazurite_env::{EnvExt, ErrorKind, FaultEnv, FaultPlan, FileKind};

use super::*;

fn keys(seeds: &[u64]) -> HashSet<Key> {
    seeds.iter().map(|&seed| key(seed)).collect()
}

#[test]
fn listing_and_stat_show_remote_files() {
    let (world, base, union, _) = four_remote();
    write_file(&*union, &db("CURRENT"), b"MANIFEST-000001\n").unwrap();
    write_file(&*union, &db("000099.sst"), b"new").unwrap();
    assert_eq!(listed(&union), [12, 13, 14, 15, 99].map(name));
    assert_eq!(base.list(union.db_dir()).unwrap().len(), 2);
    let stat = union.stat(&db(&name(13))).unwrap();
    assert_eq!((stat.kind, stat.len, stat.links), (FileKind::File, 1001, 1));
    assert!(union.exists(&db(&name(13))).unwrap());
    assert_eq!(union.native_path(&db(&name(13))), None);
    assert_eq!(
        union.stat(&db("000098.sst")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(world.store.take_requests().is_empty());
}

#[test]
fn delete_is_durable_after_the_directory_is_synced() {
    let (world, base, union, snapshot) = four_remote();
    let open = union.open_random(&db(&name(12))).unwrap();
    union.delete(&db(&name(12))).unwrap();
    assert_eq!(
        union.delete(&db(&name(12))).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        union.open_random(&db(&name(12))).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(listed(&union), [13, 14, 15].map(name));
    assert_eq!(union.remote_files(), 3);
    // Not durable yet: a crash would bring it back, so its object must stay.
    assert_eq!(union.referenced_keys(), keys(&[1, 2, 3, 4]));
    assert_eq!(
        listed(&world.open(&base.crash_clone(0))),
        [12, 13, 14, 15].map(name)
    );
    union.sync_dir(union.db_dir()).unwrap();
    assert_eq!(
        listed(&world.open(&base.crash_clone(0))),
        [13, 14, 15].map(name)
    );
    // The handle reads on, and keeps its object.
    assert_eq!(union.referenced_keys(), keys(&[1, 2, 3, 4]));
    assert_eq!(
        read_at(&*open, 0, 2000).unwrap(),
        snapshot.contents[&name(12)]
    );
    drop(open);
    assert_eq!(union.referenced_keys(), keys(&[2, 3, 4]));
}

#[test]
fn deleting_a_local_catalogued_file_removes_both() {
    let (_, base, union, _) = four_remote();
    union.download().wait_until_local().unwrap();
    assert_eq!(base.list(union.db_dir()).unwrap().len(), 4);
    union.delete(&db(&name(12))).unwrap();
    assert_eq!(base.list(union.db_dir()).unwrap().len(), 3);
    assert_eq!(listed(&union), [13, 14, 15].map(name));
    assert!(union.get(&name(12)).is_none());
}

#[test]
fn rename_of_a_remote_and_of_a_local_file() {
    let (world, base, union, snapshot) = four_remote();
    let check = |union: &UnionEnv, from: u64, to: u64| {
        assert_eq!(
            read_file(union, &db(&name(to))).unwrap(),
            snapshot.contents[&name(from)]
        );
        assert!(!union.exists(&db(&name(from))).unwrap());
    };
    union.rename(&db(&name(12)), &db(&name(20))).unwrap();
    assert_eq!(listed(&union), [13, 14, 15, 20].map(name));
    check(&union, 12, 20);
    // Over another remote one, and over a file that is only local.
    union.rename(&db(&name(20)), &db(&name(13))).unwrap();
    assert_eq!(listed(&union), [13, 14, 15].map(name));
    check(&union, 12, 13);
    write_file(&*union, &db(&name(30)), b"local").unwrap();
    union.rename(&db(&name(13)), &db(&name(30))).unwrap();
    check(&union, 12, 30);
    assert_eq!(union.remote_files(), 3);
    union.sync_dir(union.db_dir()).unwrap();
    check(&world.open(&base.crash_clone(0)), 12, 30);

    union.download().wait_until_local().unwrap();
    union.rename(&db(&name(30)), &db(&name(31))).unwrap();
    check(&union, 12, 31);
    union
        .rename(&db(&name(31)), &Path::new(ROOT).join("out"))
        .unwrap();
    assert_eq!(
        read_file(&base, &Path::new(ROOT).join("out")).unwrap(),
        snapshot.contents[&name(12)]
    );
    assert_eq!(listed(&union), [14, 15].map(name));
}

#[test]
fn a_rename_that_is_done_again_leaves_no_old_name() {
    let (world, base, plan) = (World::new(), MemEnv::new(), FaultPlan::new());
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    let union = world.try_open(Arc::new(env)).unwrap();
    let snapshot = world.snapshot(&[(12, 1, 1000)]);
    snapshot.restore(&union).unwrap();
    union.download().wait_until_local().unwrap();
    let (from, to) = (db(&name(12)), db(&name(20)));
    // Both names are there, and the catalog cannot be saved.
    plan.set_filter(|_| true, "CATALOG");
    plan.fail_from(0, ErrorKind::Io);
    union.rename(&from, &to).unwrap_err();
    assert!(plan.injected() > 0);
    plan.pass();
    union.rename(&from, &to).unwrap();
    assert!(!base.exists(&from).unwrap());
    assert_eq!(listed(&union), [name(20)]);
    let bytes = &snapshot.contents[&name(12)];
    assert!(read_file(&*union, &to).unwrap() == *bytes);
}

#[test]
fn a_remote_file_gets_no_name_outside_of_the_db_directory() {
    let (_, _, union, snapshot) = four_remote();
    let out = Path::new(ROOT).join("out.sst");
    let refused = union.link(&db(&name(12)), &out).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let told = refused.to_string();
    assert!(
        told.contains("000012.sst") && told.contains("take a snapshot"),
        "{told}"
    );
    assert_eq!(
        union.rename(&db(&name(12)), &out).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    let exists = union.link(&db(&name(12)), &db(&name(13))).unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::AlreadyExists);
    union.link(&db(&name(12)), &db(&name(40))).unwrap();
    union.delete(&db(&name(12))).unwrap();
    assert_eq!(
        read_file(&*union, &db(&name(40))).unwrap(),
        snapshot.contents[&name(12)]
    );
    assert_eq!(union.remote_files(), 4);

    union.download().wait_until_local().unwrap();
    union.link(&db(&name(40)), &out).unwrap();
    assert_eq!(
        read_file(&*union, &out).unwrap(),
        snapshot.contents[&name(12)]
    );
    assert_eq!(
        union.open_append(&db(&name(40))).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn creating_a_catalogued_name_lets_go_of_its_object_first() {
    let (world, base, union, _) = four_remote();
    let mut file = union.create(&db(&name(12))).unwrap();
    // The same length as the object, and not synced: the reopened union must not take it for the object.
    file.append(&content(9, 1000)).unwrap();
    for seed in 0..4 {
        let reopened = world.open(&base.crash_clone(seed));
        assert!(reopened.get(&name(12)).is_none(), "seed {seed}");
    }
    assert_eq!(union.remote_files(), 3);
}

#[test]
fn uploaded_files_are_catalogued_durably() {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let bytes = content(7, 500);
    world.store.insert(&key(7), bytes.clone());
    write_file(&*union, &db(&name(50)), &bytes).unwrap();
    let upload = |number, len: usize| uploaded(&name(number), 7, &bytes[..len]);
    // One that was deleted meanwhile is left out.
    union
        .record_uploaded(&[upload(50, 500), upload(51, 500)])
        .unwrap();
    assert!(union.is_local(&name(50)) && union.get(&name(51)).is_none());
    assert_eq!(union.remote_files(), 0);
    assert_eq!(union.get(&name(50)).unwrap().file.key, key(7));
    union.record_uploaded(&[upload(50, 500)]).unwrap();
    assert!(union.record_uploaded(&[upload(50, 400)]).is_err());
    assert!(
        union
            .record_uploaded(&[uploaded("../x", 7, &bytes)])
            .is_err()
    );
    // The name of the local file was never synced: it is lost, and remote.
    let reopened = world.open(&base.crash_clone(0));
    assert_eq!(
        (reopened.remote_files(), listed(&reopened)),
        (1, vec![name(50)])
    );
    assert_eq!(read_file(&*reopened, &db(&name(50))).unwrap(), bytes);
}

#[test]
fn other_paths_pass_through() {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let path = db("MANIFEST-000004");
    write_file(&*union, &path, b"abc").unwrap();
    union.open_append(&path).unwrap().append(b"def").unwrap();
    union.link(&path, &db("copy")).unwrap();
    union.rename(&db("copy"), &db("moved")).unwrap();
    assert_eq!(union.read_to_vec(&db("moved"), 100).unwrap(), b"abcdef");
    union.delete(&path).unwrap();
    let lock = union.lock(&db("LOCK")).unwrap();
    assert_eq!(
        union.lock(&db("LOCK")).unwrap_err().kind(),
        ErrorKind::Locked
    );
    drop(lock);
    union.create_dir(&db("sub")).unwrap();
    union.delete_dir(&db("sub")).unwrap();
    assert!(union.free_space(&db("")).unwrap() > 0);
}
