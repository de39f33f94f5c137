//! `NO_CLAIM`: the original is left alone, and nothing depends on it after the first snapshot.

use super::*;

#[test]
fn the_first_snapshot_copies_and_nothing_depends_on_the_original_any_more() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let before = world.below("old");
    let mut model = models[1].clone();
    let dir = fast_tempdir();
    let new = world
        .builder(dir.path(), "new")
        .initial_state(path("old"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    let restored = new.restored().unwrap();
    assert_eq!((restored.snapshot_id, &*restored.path), (2, "old/chk-2"));
    let files = restored.files;
    check(&new, &model);
    write(&new, &mut model, 0..300, 20);
    let sent = world.store.snapshot();
    let first = snapshot(&new);
    let sent = world.store.snapshot().since(&sent);
    assert_eq!(
        (first.id, first.copied_files, first.reused_files),
        (1, files, 0)
    );
    assert_eq!((first.streamed_files, first.streamed_bytes), (0, 0));
    assert!(first.uploaded_files < files / 2, "{first:?}");
    assert_eq!(sent.bytes_out, first.uploaded_bytes);
    assert_eq!(world.below("old"), before, "the original is never touched");

    // Even files that were opened before go on without it.
    world.delete("old");
    check(&new, &model);
    write(&new, &mut model, 0..4_000, 21);
    new.compact().unwrap();
    let second = snapshot(&new);
    assert_eq!(second.copied_files, 0);
    check(&new, &model);
    drop(new);
    let again = world
        .builder(dir.path(), "new")
        .initial_state(path("old"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    assert_eq!(again.restored().unwrap().path, "new/chk-2");
    check(&again, &model);
    assert_eq!(world.check_snapshots("new"), [2]);
}

#[test]
fn what_goes_before_the_first_snapshot_is_not_deleted_either() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let before = world.below("old");
    let mut model = models[0].clone();
    let dir = fast_tempdir();
    let new = world
        .builder(dir.path(), "new")
        .initial_state(path("old/chk-1"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    check(&new, &model);
    write(&new, &mut model, 0..4_000, 20);
    new.compact().unwrap();
    for _ in 0..3 {
        write(&new, &mut model, 0..100, 21);
        snapshot(&new);
    }
    assert_eq!(world.below("old"), before);
    assert_eq!(world.check_snapshots("old"), [1, 2]);
    check(&new, &model);
}

#[test]
fn where_the_store_cannot_copy_files_that_are_here_are_uploaded_and_others_streamed() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    for (policy, local) in [(LoadPolicy::Eager, true), (LoadPolicy::OnDemand, false)] {
        let world = World::of(world.inner.fork());
        let dir = fast_tempdir();
        let new = world
            .builder(dir.path(), "new")
            .remote_store(Arc::new(Streaming(world.inner.clone())))
            .load_policy(policy)
            .initial_state(path("old"), ClaimMode::NoClaim)
            .open()
            .unwrap();
        let files = new.restored().unwrap().files;
        let first = snapshot(&new);
        let uploaded = if local { files } else { 0 };
        assert_eq!(first.uploaded_files, uploaded);
        assert_eq!(first.streamed_files, files - uploaded);
        assert_eq!((first.copied_files, first.reused_files), (0, 0));
        world.delete("old");
        check(&new, &models[1]);
        assert_eq!(world.check_snapshots("new"), [1]);
    }
}

#[test]
fn a_restart_before_the_first_snapshot_begins_again_and_after_it_does_not() {
    let world = World::new();
    let (models, _old, _dir) = world.old();
    let dir = fast_tempdir();
    let open = || {
        world
            .builder(dir.path(), "new")
            .initial_state(path("old/chk-1"), ClaimMode::NoClaim)
            .open()
            .unwrap()
    };
    let mut model = models[0].clone();
    let new = open();
    write(&new, &mut model.clone(), 0..500, 30);
    drop(new);
    let new = open();
    check(&new, &model);
    write(&new, &mut model, 0..500, 31);
    snapshot(&new);
    drop(new);
    check(&open(), &model);
}

#[test]
fn what_is_not_there_is_an_error() {
    let world = World::new();
    let (_models, _old, _dir) = world.old();
    for missing in ["old/chk-7", "none", "savepoints/none"] {
        let dir = fast_tempdir();
        let opened = world
            .builder(dir.path(), "new")
            .initial_state(path(missing), ClaimMode::Claim)
            .open();
        let error = opened.err().unwrap();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    assert!(world.below("new").is_empty());
    assert!(
        !world
            .inner
            .keys()
            .iter()
            .any(|key| key.ends_with("_claimed"))
    );
}

#[test]
fn copies_are_made_before_the_first_snapshot_asks_for_them() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let dir = fast_tempdir();
    let begin = || {
        world
            .builder(dir.path(), "new")
            .copy_ahead(true)
            .initial_state(path("old"), ClaimMode::NoClaim)
            .open()
            .unwrap()
    };
    let copies = || world.store.snapshot().of(RequestKind::Copy);
    drop(begin());
    assert_eq!(copies(), 0, "whoever ends at once has written nothing");
    let new = begin();
    let files = new.restored().unwrap().files;
    let begun = std::time::Instant::now();
    while copies() < files || world.below("new").len() as u64 <= files {
        assert!(begun.elapsed().as_secs() < 60, "{} of {files}", copies());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = copies();
    let first = snapshot(&new);
    assert_eq!(copies(), before, "there is nothing left to copy");
    assert_eq!((first.copied_files, first.reused_files), (files, 0));
    let second = snapshot(&new);
    assert_eq!((second.copied_files, second.reused_files), (0, files));
    world.delete("old");
    check(&new, &models[1]);
    drop(new);
    check(&begin(), &models[1]);
    assert_eq!(world.gc(), 0, "no copy was made in vain");
}
