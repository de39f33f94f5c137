//! Savepoints: the user's, whole by themselves, wherever they are moved.

use super::*;

fn savepoint(backend: &StateBackend, dir: &str) -> SnapshotReport {
    let options = SnapshotOptions::new()
        .savepoint(dir)
        .metadata("position", "9");
    backend.snapshot(options).unwrap().wait().unwrap()
}

#[test]
fn a_savepoint_is_whole_wherever_it_is_moved() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    let model = &models[1];
    let before = world.below("old");
    let report = savepoint(&old, "savepoints/monday");
    // All of it is in the store: nothing is sent but names.
    assert_eq!((report.uploaded_files, report.reused_files), (0, 0));
    assert!(report.copied_files > 10 && report.uploaded_bytes < report.copied_bytes / 10);
    assert_eq!(
        world.below("old"),
        before,
        "it is none of the job's snapshots"
    );
    snapshot(&old);
    drop(old);
    let there = world.below("savepoints/monday");
    world.delete("old");
    for (key, bytes) in &there {
        let name = key.rsplit('/').next().unwrap();
        world.put(&format!("elsewhere/{name}"), bytes.clone());
    }
    world.delete("savepoints");
    for mode in [ClaimMode::NoClaim, ClaimMode::Claim] {
        let world = World::of(world.inner.fork());
        let dir = fast_tempdir();
        let new = world
            .builder(dir.path(), "new")
            .initial_state(path("elsewhere/"), mode)
            .open()
            .unwrap();
        let restored = new.restored().unwrap();
        assert_eq!(restored.path, "elsewhere");
        assert_eq!(restored.user_metadata["position"], b"9");
        let mut model = model.clone();
        check(&new, &model);
        write(&new, &mut model, 0..4_000, 60);
        let first = snapshot(&new);
        let files = restored.files;
        match mode {
            ClaimMode::NoClaim => assert_eq!(first.copied_files, files),
            ClaimMode::Claim => assert_eq!(first.reused_files, files),
        }
        new.compact().unwrap();
        snapshot(&new);
        snapshot(&new);
        drop(new);
        let again = world.builder(dir.path(), "new").open().unwrap();
        check(&again, &model);
        snapshot(&again);
        let left = world
            .below("elsewhere")
            .into_keys()
            .filter(|key| !key.ends_with("_claimed"));
        let left: Vec<String> = left.collect();
        match mode {
            ClaimMode::NoClaim => assert_eq!(left.len(), there.len()),
            ClaimMode::Claim => assert!(left.is_empty(), "{left:?}"),
        }
    }
}

#[test]
fn what_is_new_is_uploaded_once_for_savepoint_and_snapshot() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    let mut model = models[1].clone();
    write(&old, &mut model, 0..500, 70);
    let report = savepoint(&old, "sp/a");
    assert!(report.uploaded_files > 0);
    let next = snapshot(&old);
    assert_eq!(next.uploaded_files, 0);
    // Retention has nothing to do with it.
    for version in 71..75 {
        write(&old, &mut model, 0..4_000, version);
        old.compact().unwrap();
        snapshot(&old);
    }
    let dir = fast_tempdir();
    let new = world
        .builder(dir.path(), "new")
        .initial_state(path("sp/a"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    let mut expected = models[1].clone();
    write(&old, &mut expected, 0..500, 70);
    check(&new, &expected);
}

#[test]
fn a_savepoint_of_what_is_not_yet_ones_own() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let dir = fast_tempdir();
    let new = world
        .builder(dir.path(), "new")
        .initial_state(path("old"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    let report = savepoint(&new, "sp/b");
    assert_eq!((report.uploaded_files, report.reused_files), (0, 0));
    let left = world.below("new").into_keys().collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");
    drop(new);
    world.delete("old");
    let third = fast_tempdir();
    let third = world
        .builder(third.path(), "third")
        .initial_state(path("sp/b"), ClaimMode::Claim)
        .open();
    check(&third.unwrap(), &models[1]);
}

#[test]
fn a_directory_that_cannot_be_one_is_refused() {
    let world = World::new();
    let (_models, old, _dir) = world.old();
    savepoint(&old, "sp/a");
    let before = world.below("sp");
    let again = old.snapshot(SnapshotOptions::new().savepoint("sp/a"));
    let error = again.err().unwrap();
    assert!(matches!(error, Error::SavepointExists { .. }), "{error}");
    for wrong in ["", "/", "..", "a/../b", "old/shared", "old/chk-9", "a\\b"] {
        let refused = old.snapshot(SnapshotOptions::new().savepoint(wrong));
        assert!(refused.is_err(), "{wrong}");
    }
    assert_eq!(world.below("sp"), before);
    snapshot(&old);
}

#[test]
fn metadata_that_leads_out_of_its_directory_is_refused() {
    let world = World::new();
    let (_models, old, _dir) = world.old();
    savepoint(&old, "sp/a");
    let metadata = world.below("sp/a")["sp/a/_metadata"].clone();
    let text = String::from_utf8(metadata.to_vec()).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    let name = body.lines().find_map(|line| {
        let (_, rest) = line.split_once("\"key\":\"")?;
        rest.split_once(".sst\"").map(|(name, _)| name.to_owned())
    });
    let name = name.unwrap();
    for hostile in ["../../old/shared/", "/", "x/"] {
        let body = body.replace(
            &format!("\"{name}.sst\""),
            &format!("\"{hostile}{name}.sst\""),
        );
        let bytes = lazurite_tiering::framed::encode("lazurite-snapshot", 2, body.as_bytes());
        world.put("sp/a/_metadata", bytes.into());
        let dir = fast_tempdir();
        let opened = world
            .builder(dir.path(), "new")
            .initial_state(path("sp/a"), ClaimMode::NoClaim)
            .open();
        let error = opened.err().unwrap();
        assert!(matches!(error, Error::SnapshotCorrupt { .. }), "{error}");
    }
    // Nor does a job's snapshot pass for a savepoint.
    world.put(
        "sp/b/_metadata",
        world.below("old")["old/chk-1/_metadata"].clone(),
    );
    let dir = fast_tempdir();
    let opened = world
        .builder(dir.path(), "new")
        .initial_state(path("sp/b"), ClaimMode::NoClaim)
        .open();
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::SnapshotCorrupt { .. }), "{error}");
}

#[test]
fn a_savepoint_in_the_jobs_own_directory_is_the_users_all_the_same() {
    let world = World::new();
    let (models, old, dir) = world.old();
    let refused = old.snapshot(SnapshotOptions::new().savepoint("old"));
    assert!(matches!(
        refused.err().unwrap(),
        Error::InvalidOption { .. }
    ));
    savepoint(&old, "old/savepoints/monday");
    drop((old, dir));
    for id in 1..=2 {
        world.delete(&format!("old/chk-{id}"));
    }
    world.delete("old/shared");
    let before = world.below("old");
    let dir = fast_tempdir();
    let again = world
        .builder(dir.path(), "old")
        .initial_state(path("old/savepoints/monday"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    let mut model = models[1].clone();
    check(&again, &model);
    for version in 80..83 {
        snapshot(&again);
        write(&again, &mut model, 0..4_000, version);
        again.compact().unwrap();
    }
    snapshot(&again);
    let after = world.below("old/savepoints");
    assert_eq!(after.len(), before.len());
    assert!(
        after
            .iter()
            .all(|(key, bytes)| before.get(key) == Some(bytes))
    );
    check(&again, &model);
}
