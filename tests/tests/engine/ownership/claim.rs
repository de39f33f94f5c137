//! `CLAIM`: the job takes over what it begins with, and deletes it when nothing needs it.

use lazurite_env::{Effect, ErrorKind, FaultPlan, Op, remote::FaultStore};

use super::*;

fn claiming(world: &World, dir: &Path, from: &str) -> StateBackendBuilder {
    world
        .builder(dir, "new")
        .initial_state(path(from), ClaimMode::Claim)
}

#[test]
fn what_is_claimed_is_named_where_it_lies_and_goes_when_nothing_needs_it() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let mut model = models[1].clone();
    let dir = fast_tempdir();
    let new = claiming(&world, dir.path(), "old/chk-2").open().unwrap();
    let files = new.restored().unwrap().files;
    check(&new, &model);
    let first = snapshot(&new);
    assert_eq!((first.uploaded_files, first.copied_files), (0, 0));
    assert_eq!(first.reused_files, files);
    // It was the oldest of one that is retained; the other snapshot of its job is none of this job's.
    assert_eq!(world.check_snapshots("old"), [1]);
    assert_eq!(world.check_snapshots("new"), [1]);
    let metadata = world.snapshots().load("new", 1).unwrap();
    assert_eq!(
        (&*metadata.claimed, &metadata.origin),
        (&["old".to_owned()][..], &Some("old/chk-2".into()))
    );

    write(&new, &mut model, 0..4_000, 20);
    new.compact().unwrap();
    check(&new, &model);
    let second = snapshot(&new);
    assert_eq!(second.reused_files, 0);
    assert_eq!(world.check_snapshots("old"), [1], "what it needs stays");
    let needed = world.snapshots().load("old", 1).unwrap();
    let needed: std::collections::BTreeSet<_> = needed.files().map(|f| f.key.clone()).collect();
    // A reader of the one that runs may yet use what its newest snapshot does not need: that one says so.
    world.gc();
    check(&new, &model);
    // Iterators and readers let go of the last files when they are closed.
    drop(new);
    let new = claiming(&world, dir.path(), "old/chk-2").open().unwrap();
    let third = snapshot(&new);
    let metadata = world.snapshots().load("new", third.id).unwrap();
    assert_eq!((metadata.claimed.len(), metadata.origin), (0, None));
    let there = world.below("old").into_keys();
    let there: Vec<_> = there.filter(|key| key.ends_with(".sst")).collect();
    assert_eq!(there, Vec::from_iter(needed));
    drop(new);
    assert_eq!(world.gc(), 0, "retention has left nothing");
    check(
        &claiming(&world, dir.path(), "old/chk-2").open().unwrap(),
        &model,
    );
}

#[test]
fn a_claimed_snapshot_counts_as_the_oldest_retained() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let mut model = models[1].clone();
    let mut dir = fast_tempdir();
    for id in 1..=3 {
        let new = claiming(&world, dir.path(), "old")
            .retained_snapshots(2)
            .open()
            .unwrap();
        check(&new, &model);
        write(&new, &mut model, 0..4_000, 20 + id);
        assert_eq!(snapshot(&new).id, u64::from(id));
        let left: &[u64] = if id == 1 { &[1, 2] } else { &[1] };
        assert_eq!(world.check_snapshots("old"), left, "after snapshot {id}");
        drop(new);
        dir = fast_tempdir(); // and a new process on another machine
    }
    assert_eq!(world.check_snapshots("new"), [2, 3]);
}

#[test]
fn who_was_claimed_can_go_on_no_more_and_nobody_else_can_claim() {
    let world = World::new();
    let (models, old, old_dir) = world.old();
    let dir = fast_tempdir();
    let new = claiming(&world, dir.path(), "old").open().unwrap();
    let before = world.below("old");
    let refused = |error: Error| {
        let text = error.to_string();
        assert!(
            matches!(error, Error::Claimed { by, .. } if by == "new"),
            "{text}"
        );
    };
    let pending = old.snapshot(SnapshotOptions::new()).unwrap();
    refused(pending.wait().err().unwrap());
    drop(old);
    let opened = world.builder(old_dir.path(), "old").open();
    refused(opened.err().unwrap());
    let coordinator = lazurite::Coordinator::builder(world.snapshots(), "old").open();
    refused(coordinator.err().unwrap());
    let other = fast_tempdir();
    let opened = world
        .builder(other.path(), "other")
        .initial_state(path("old/chk-1"), ClaimMode::Claim)
        .open();
    refused(opened.err().unwrap());
    for (key, bytes) in &before {
        assert_eq!(world.below("old").get(key), Some(bytes), "{key}");
    }
    // One's own claim is found again, and whoever only copies may.
    drop(new);
    check(
        &claiming(&world, dir.path(), "old").open().unwrap(),
        &models[1],
    );
    let opened = world
        .builder(other.path(), "other")
        .initial_state(path("old/chk-1"), ClaimMode::NoClaim)
        .open();
    check(&opened.unwrap(), &models[0]);
}

#[test]
fn claims_are_handed_on() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let mut model = models[1].clone();
    for (job, from) in [("b", "old"), ("c", "b"), ("d", "c")] {
        let dir = fast_tempdir();
        let backend = world
            .builder(dir.path(), job)
            .initial_state(path(from), ClaimMode::Claim)
            .open()
            .unwrap();
        check(&backend, &model);
        write(&backend, &mut model, 0..100, 40);
        let report = snapshot(&backend);
        assert_eq!(report.copied_files, 0);
        assert!(report.uploaded_files < report.reused_files, "{report:?}");
    }
    let metadata = world.snapshots().load("d", 1).unwrap();
    assert_eq!(metadata.claimed, ["old", "b", "c"]);
    assert_eq!(world.check_snapshots("old"), [1]);
    assert!(world.check_snapshots("b").is_empty() && world.check_snapshots("c").is_empty());
    let dir = fast_tempdir();
    let backend = world.builder(dir.path(), "d").open().unwrap();
    check(&backend, &model);
    write(&backend, &mut model, 0..4_000, 41);
    backend.compact().unwrap();
    snapshot(&backend);
    snapshot(&backend);
    drop(backend);
    let left = |job: &str| {
        world
            .below(job)
            .into_keys()
            .filter(|key| key.ends_with(".sst"))
            .count()
    };
    assert_eq!((left("b"), left("c")), (0, 0));
    check(&world.builder(dir.path(), "d").open().unwrap(), &model);
    assert_eq!(world.check_snapshots("old"), [1]);
}

#[test]
fn gc_leaves_what_was_claimed_and_is_not_named_by_a_snapshot_of_the_claimer_yet() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let dir = fast_tempdir();
    let new = claiming(&world, dir.path(), "old/chk-2").open().unwrap();
    let before = world.below("old");
    assert_eq!(world.gc(), 0);
    assert_eq!(world.below("old"), before);
    snapshot(&new);
    world.gc();
    check(&new, &models[1]);
    drop(new);
    // Whoever does not see the claimer's snapshots deletes nothing, however little is named by those that are seen.
    let moved = world.below("new");
    world.delete("new");
    assert_eq!(world.gc(), 0);
    for (key, bytes) in moved {
        world.put(&key, bytes);
    }
    let again = claiming(&world, dir.path(), "old/chk-2").open().unwrap();
    check(&again, &models[1]);
    // A claim that cannot be read holds all.
    world.put("old/_claimed", b"?".as_slice().into());
    let options = GcOptions {
        min_age: std::time::Duration::ZERO,
        delete: true,
        ..GcOptions::default()
    };
    let found = world.snapshots().gc(&options).unwrap();
    assert_eq!(found.unreadable.len(), 1);
    assert!(found.jobs.iter().all(|job| job.deleted.objects == 0));
}

#[test]
fn a_request_that_fails_costs_nobody_anything() {
    let base = World::new();
    let (models, old, _dir) = base.old_of(200);
    drop(old);
    let faults = [
        Effect::Fail(ErrorKind::PermissionDenied),
        Effect::Fail(ErrorKind::Unavailable),
        Effect::FailAfter(ErrorKind::Unavailable),
    ];
    for mode in [ClaimMode::Claim, ClaimMode::NoClaim] {
        for effect in faults {
            for i in 0.. {
                let world = World::of(base.inner.fork());
                let plan = FaultPlan::new();
                plan.set_filter(|op: Op| op.is_remote(), "");
                plan.fail_nth(i, effect);
                let broken = FaultStore::new(Arc::new(world.inner.clone()), plan.clone());
                let dir = fast_tempdir();
                let mut model = models[1].clone();
                let begun = world
                    .builder(dir.path(), "new")
                    .remote_store(Arc::new(broken))
                    .initial_state(path("old/chk-2"), mode)
                    .load_policy(LoadPolicy::Eager)
                    .open();
                if let Ok(backend) = begun {
                    let mut next = model.clone();
                    for version in 50..52 {
                        write(&backend, &mut next, 0..200, version);
                        backend.compact().unwrap();
                        let pending = backend.snapshot(SnapshotOptions::new());
                        if pending.and_then(|pending| pending.wait()).is_ok() {
                            model = next.clone();
                        }
                    }
                }
                plan.disable();
                let done = plan.injected() == 0;
                let again = fast_tempdir();
                let backend = world
                    .builder(again.path(), "new")
                    .initial_state(path("old/chk-2"), mode)
                    .restore(Restore::Latest)
                    .open()
                    .unwrap_or_else(|error| panic!("{mode:?} {effect:?} {i}: {error}"));
                let found = backend.value_state(&crate::rescale::COUNTS).unwrap();
                let first = found.iter().unwrap().next().unwrap().unwrap();
                // A commit whose answer was lost may have succeeded.
                if model.get(&first.0) == Some(&first.1) {
                    check(&backend, &model);
                }
                snapshot(&backend);
                world.gc();
                world.check_snapshots("new");
                let left = world.check_snapshots("old");
                assert!(left.contains(&1), "{mode:?} {effect:?} {i}: {left:?}");
                if mode == ClaimMode::NoClaim {
                    assert_eq!(left, [1, 2]);
                }
                if done {
                    assert!(i > 20, "{i} requests are too few");
                    break;
                }
            }
        }
    }
}

#[test]
fn snapshots_of_a_job_that_was_claimed_keep_what_they_name_in_others() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let mut model = models[1].clone();
    // Two snapshots of `b` name the files of `old`.
    let dir = fast_tempdir();
    let b = world
        .builder(dir.path(), "b")
        .retained_snapshots(2)
        .initial_state(path("old"), ClaimMode::Claim)
        .open()
        .unwrap();
    snapshot(&b);
    write(&b, &mut model, 0..100, 40);
    snapshot(&b);
    drop(b);
    let dir = fast_tempdir();
    let new = claiming(&world, dir.path(), "b/chk-2").open().unwrap();
    write(&new, &mut model, 0..4_000, 41);
    snapshot(&new);
    new.compact().unwrap();
    snapshot(&new);
    drop(new);
    let new = world.builder(dir.path(), "new").open().unwrap();
    snapshot(&new);
    assert_eq!(world.check_snapshots("b"), [1]);
    world.gc();
    assert_eq!(world.check_snapshots("b"), [1]);
    check(&new, &model);
}

#[test]
fn a_claim_that_is_taken_back_leaves_all_there_and_copies_what_is_needed() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let dir = fast_tempdir();
    let new = claiming(&world, dir.path(), "old").retained_snapshots(5);
    let new = new.open().unwrap();
    snapshot(&new);
    drop(new);
    world.remove("old/_claimed");
    let before = world.below("old");
    let new = world.builder(dir.path(), "new").open().unwrap();
    let files = new.restored().unwrap().files;
    assert_eq!(snapshot(&new).copied_files, files);
    let mut model = models[1].clone();
    write(&new, &mut model, 0..4_000, 50);
    new.compact().unwrap();
    for _ in 0..3 {
        snapshot(&new);
    }
    assert_eq!(world.below("old"), before);
    check(&new, &model);
}

#[test]
fn a_kept_directory_claims_only_what_it_began_with() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let wal = |dir: &Path| world.builder(dir, "new").durability(Durability::Wal);
    let dir = fast_tempdir();
    let empty = wal(dir.path()).open().unwrap();
    write(&empty, &mut Model::new(), 0..10, 1);
    drop(empty);
    let opened = wal(dir.path())
        .initial_state(path("old"), ClaimMode::Claim)
        .open();
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::LocalDirectory { .. }), "{error}");
    assert!(!world.below("old").contains_key("old/_claimed"));

    let dir = fast_tempdir();
    let mut model = models[1].clone();
    for version in 60..63 {
        let open = wal(dir.path()).initial_state(path("old"), ClaimMode::Claim);
        let new = open.open().unwrap();
        check(&new, &model);
        write(&new, &mut model, 0..500, version);
        assert!(world.below("old").contains_key("old/_claimed"));
    }
    let new = wal(dir.path()).open().unwrap();
    check(&new, &model);
    drop(new);
    let open = wal(dir.path()).initial_state(path("old"), ClaimMode::Claim);
    let new = open.open().unwrap();
    let first = snapshot(&new);
    assert_eq!(first.copied_files, 0);
    assert!(first.reused_files > 0);
    drop(new);
    let elsewhere = fast_tempdir();
    check(&wal(elsewhere.path()).open().unwrap(), &model);
    assert_eq!(world.check_snapshots("old"), [1]);
}
