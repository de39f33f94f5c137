//! Jobs of several subtasks that begin with what others wrote, and their savepoints.

use lazurite::{CompletedSnapshot, Coordinator, Subtask, key_groups::range_for_operator};
use tempfile::TempDir;

use super::*;
use crate::rescale::GROUPS;

struct Job {
    coordinator: Coordinator,
    backends: Vec<(StateBackend, TempDir)>,
}

impl Job {
    fn start(world: &World, job: &str, parallelism: u16, from: Option<(&str, ClaimMode)>) -> Job {
        let mut coordinator = Coordinator::builder(world.snapshots(), job);
        if let Some((from, mode)) = from {
            coordinator = coordinator.initial_state(path(from), mode);
        }
        let coordinator = coordinator.open().unwrap();
        assert!(coordinator.latest().is_none() || coordinator.initial().is_none());
        let restore = match coordinator.latest() {
            Some(latest) => Restore::Snapshot(latest.id),
            None => Restore::Latest,
        };
        let backends = (0..parallelism).map(|index| {
            let dir = fast_tempdir();
            let range = range_for_operator(GROUPS, parallelism, index).unwrap();
            let mut backend = world.builder(dir.path(), job).key_group_range(range);
            if let (Some(path), Some((_, mode))) = (coordinator.initial_path(), from) {
                backend = backend.initial_state(path, mode);
            }
            (backend.restore(restore).open().unwrap(), dir)
        });
        Job {
            backends: backends.collect(),
            coordinator,
        }
    }

    fn each(&self, mut with: impl FnMut(&StateBackend)) {
        self.backends.iter().for_each(|(backend, _)| with(backend));
    }

    fn snapshot(&self, options: SnapshotOptions) -> CompletedSnapshot {
        let subtasks = self.backends.iter().map(|(backend, _)| Subtask {
            operator: "state".into(),
            key_group_range: backend.key_group_range(),
        });
        let subtasks: Vec<Subtask> = subtasks.collect();
        let id = self.coordinator.begin(&subtasks, options.clone()).unwrap();
        let mut done = None;
        for (backend, _) in &self.backends {
            let part = backend.snapshot_part(id, options.clone()).unwrap();
            done = self.coordinator.acknowledge(part.wait().unwrap()).unwrap();
        }
        self.each(|backend| backend.confirm_part(id).unwrap());
        done.unwrap()
    }
}

#[test]
fn a_job_of_three_begins_with_a_savepoint_of_two() {
    let world = World::new();
    let (models, old, _dir) = world.old();
    drop(old);
    let mut model = models[1].clone();
    let two = Job::start(&world, "two", 2, Some(("old", ClaimMode::NoClaim)));
    two.each(|backend| check(backend, &model));
    let first = two.snapshot(SnapshotOptions::new());
    assert_eq!((first.uploaded_files, first.reused_files), (0, 0));
    assert!(first.copied_files > 10);
    world.delete("old");
    two.each(|backend| write(backend, &mut model, 0..900, 80));
    let done = two.snapshot(SnapshotOptions::new().savepoint("sp/two"));
    assert!(done.uploaded_files > 0 && done.copied_files > 10 && done.subsumed.is_empty());
    assert_eq!(two.coordinator.latest().unwrap().id, first.id);
    let next = two.snapshot(SnapshotOptions::new());
    assert_eq!(next.uploaded_files, 0, "the savepoint has sent them");
    drop(two);
    world.delete("two");
    let before = world.below("sp");
    for mode in [ClaimMode::NoClaim, ClaimMode::Claim] {
        let world = World::of(world.inner.fork());
        let mut model = model.clone();
        let from = Some(("sp/two", mode));
        let three = Job::start(&world, "three", 3, from);
        three.each(|backend| check(backend, &model));
        let first = three.snapshot(SnapshotOptions::new());
        assert_eq!(first.uploaded_files, 0);
        match mode {
            ClaimMode::NoClaim => assert_eq!(first.reused_files, 0),
            ClaimMode::Claim => assert_eq!(first.copied_files, 0),
        }
        drop(three);
        // A rescale of what was claimed, or copied, by others than those who did.
        let two = Job::start(&world, "three", 2, from);
        two.each(|backend| {
            check(backend, &model);
            write(backend, &mut model, 0..4_000, 81);
            backend.compact().unwrap();
        });
        two.snapshot(SnapshotOptions::new());
        drop(two);
        let one = Job::start(&world, "three", 1, from);
        one.each(|backend| check(backend, &model));
        one.snapshot(SnapshotOptions::new());
        world.check_snapshots("three");
        let left = world.below("sp");
        match mode {
            ClaimMode::NoClaim => assert_eq!(left, before),
            ClaimMode::Claim => {
                let left: Vec<_> = left.into_keys().collect();
                assert_eq!(left, ["sp/two/_claimed"]);
            }
        }
    }
}

#[test]
fn a_subtask_that_was_told_otherwise_is_refused() {
    let world = World::new();
    let (_models, old, _dir) = world.old();
    drop(old);
    let mut job = Job::start(&world, "new", 1, Some(("old", ClaimMode::Claim)));
    // This coordinator knows nothing of a claim.
    job.coordinator = Coordinator::builder(world.snapshots(), "new")
        .open()
        .unwrap();
    let (backend, _) = &job.backends[0];
    let subtask = Subtask {
        operator: "state".into(),
        key_group_range: backend.key_group_range(),
    };
    let id = job
        .coordinator
        .begin(&[subtask], SnapshotOptions::new())
        .unwrap();
    let part = backend.snapshot_part(id, SnapshotOptions::new()).unwrap();
    let error = job
        .coordinator
        .acknowledge(part.wait().unwrap())
        .err()
        .unwrap();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}

#[test]
fn subtasks_do_not_look_for_the_newest_each_by_itself() {
    let world = World::new();
    let (_models, old, _dir) = world.old();
    drop(old);
    let dir = fast_tempdir();
    let range = range_for_operator(GROUPS, 2, 0).unwrap();
    let opened = world
        .builder(dir.path(), "new")
        .key_group_range(range)
        .initial_state(path("old"), ClaimMode::NoClaim)
        .open();
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let coordinator = Coordinator::builder(world.snapshots(), "new")
        .initial_state(path("old"), ClaimMode::NoClaim)
        .open()
        .unwrap();
    assert_eq!(coordinator.initial_path().unwrap().to_string(), "old/chk-2");
}
