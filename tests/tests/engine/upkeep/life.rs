//! Upkeep while jobs go on, and while the store fails.

use std::sync::atomic::{AtomicBool, Ordering};

use lazurite_tests::GateStore;

use super::*;

/// Whatever fails, at whichever request, no snapshot loses anything, and a later run does the rest.
#[test]
fn a_run_that_fails_is_made_good_by_the_next() {
    let prepared = Stored::new();
    prepared.fail_a_snapshot("a");
    prepared.fail_a_snapshot("b");
    prepared.age_all();
    let needed = prepared.needed();
    let faults = [
        Effect::Fail(ErrorKind::PermissionDenied),
        Effect::Fail(ErrorKind::Unavailable),
        Effect::Fail(ErrorKind::NotFound),
        Effect::FailAfter(ErrorKind::Unavailable),
        Effect::Short,
        Effect::Corrupt,
    ];
    let mut failed = 0;
    for effect in faults {
        for (from, i) in (0..).flat_map(|i| [(false, i), (true, i)]) {
            let store = prepared.store.fork();
            let plan = FaultPlan::new();
            plan.set_filter(|op| op.is_remote(), "");
            match from {
                false => plan.fail_nth(i, effect),
                true => plan.fail_from(i, effect),
            }
            let faulty = FaultStore::new(Arc::new(store.clone()), plan.clone());
            let broken = SnapshotStore::new(Arc::new(faulty), RUNTIME.clone());
            let options = GcOptions {
                delete: true,
                ..GcOptions::default()
            };
            let outcome = broken.gc(&options);
            let what = format!("{effect:?} from {i}: {outcome:?}");
            let keys: BTreeSet<String> = store.keys().into_iter().collect();
            assert!(needed.is_subset(&keys), "{what}");
            failed += u64::from(!outcome.as_ref().is_ok_and(GcReport::is_ok));
            for key in &keys {
                store.age(key, OLD);
            }
            assert!(tools(&store).gc(&options).unwrap().is_ok());
            let keys: BTreeSet<String> = store.keys().into_iter().collect();
            assert_eq!(keys, needed, "{what}");
            if plan.injected() == 0 {
                assert!(outcome.unwrap().is_ok());
                break;
            }
        }
    }
    assert!(failed > 100, "{failed}");
}

/// The only snapshot that there was goes while it is looked for: the next one has what it named.
#[test]
fn a_snapshot_that_is_subsumed_while_it_is_read_has_a_successor() {
    let mut stored = Stored::default();
    let dir = fast_tempdir();
    let backend = stored.backend(dir.path(), "a").retained_snapshots(1);
    let backend = backend.open().unwrap();
    let mut model = Model::new();
    write(&backend, &mut model, 0..60, [], 1, LEN).unwrap();
    let take = || backend.snapshot(SnapshotOptions::new()).unwrap().wait();
    assert_eq!(take().unwrap().id, 1);
    let gate = GateStore::new(Arc::new(stored.store.clone()));
    gate.hold_reads("a/chk-1/_metadata");
    let report = std::thread::scope(|scope| {
        let gc = scope.spawn(|| {
            let tools = SnapshotStore::new(Arc::new(gate.clone()), RUNTIME.clone());
            let options = GcOptions {
                min_age: Duration::ZERO,
                delete: true,
                ..GcOptions::default()
            };
            tools.gc(&options).unwrap()
        });
        gate.wait_until_held();
        write(&backend, &mut model, 50..70, [], 2, LEN).unwrap();
        assert_eq!(take().unwrap().id, 2);
        gate.open();
        gc.join().unwrap()
    });
    let shared = objects(&stored.metadata("a", 2));
    assert!(orphans(&report).is_disjoint(&shared), "{report:?}");
    assert!(stored.needed().is_subset(&stored.keys()));
    stored.snapshots.push(("a", 2, model));
    stored.check();
}

/// A job that was rolled back completes what names files of an older snapshot alone, and deletes that one before it is read.
#[test]
fn what_a_rolled_back_job_names_again_stays() {
    for is_listed in [false, true] {
        let mut stored = Stored::default();
        let first = first_of_three(&mut stored);
        let dir = fast_tempdir();
        let commit = GateStore::new(Arc::new(stored.store.clone()));
        let backend = stored
            .backend(dir.path(), "a")
            .retained_snapshots(3)
            .remote_store(Arc::new(commit.clone()))
            .restore(Restore::Snapshot(1))
            .open()
            .unwrap();
        stored.age_all();
        let take = || backend.snapshot(SnapshotOptions::new()).unwrap();
        let under_way = is_listed.then(|| {
            commit.hold_writes("a/chk-4/_metadata");
            let pending = take();
            commit.wait_until_held();
            pending
        });
        let reads = GateStore::new(Arc::new(stored.store.clone()));
        reads.hold_reads("a/chk-1/_metadata");
        let report = std::thread::scope(|scope| {
            let gc = scope.spawn(|| {
                let tools = SnapshotStore::new(Arc::new(reads.clone()), RUNTIME.clone());
                let options = GcOptions {
                    delete: true,
                    ..GcOptions::default()
                };
                tools.gc(&options).unwrap()
            });
            reads.wait_until_held();
            commit.open();
            let pending = under_way.unwrap_or_else(take);
            assert_eq!(pending.wait().unwrap().id, 4);
            while stored.tools().load("a", 1).is_ok() {
                std::thread::yield_now();
            }
            reads.open();
            gc.join().unwrap()
        });
        drop(backend);
        let again = objects(&stored.metadata("a", 4));
        assert!(
            again.intersection(&first).count() > 0,
            "it uses the old files"
        );
        assert!(orphans(&report).is_disjoint(&again), "{report:?}");
        assert!(stored.needed().is_subset(&stored.keys()));
        let model = stored.snapshots[0].2.clone();
        stored.snapshots = vec![("a", 4, model)];
        stored.check();
    }
}

/// Three snapshots of a job, the first of which has its files for itself: these are returned.
fn first_of_three(stored: &mut Stored) -> BTreeSet<String> {
    let dir = fast_tempdir();
    let backend = stored.backend(dir.path(), "a").retained_snapshots(3);
    let backend = backend.open().unwrap();
    let mut model = Model::new();
    for id in 1..=3 {
        write(&backend, &mut model, 0..60, [], id, LEN).unwrap();
        backend.flush().unwrap();
        backend.compact().unwrap();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        assert_eq!(pending.wait().unwrap().id, id);
        stored.snapshots.push(("a", id, model.clone()));
    }
    let [first, second, third] = [1, 2, 3].map(|id| objects(&stored.metadata("a", id)));
    let first = minus(&minus(&first, &second), &third);
    assert!(first.iter().any(|key| key.ends_with(".sst")), "{first:?}");
    first
}

/// A job that takes snapshots as fast as it can, with what it fails to complete, while its orphans are removed.
#[test]
fn a_job_that_goes_on_loses_nothing() {
    let guard = Duration::from_millis(1500);
    let stored = Stored::default();
    let ended = AtomicBool::new(false);
    let mut removed = 0;
    let (newest, models) = std::thread::scope(|scope| {
        let end = End(&ended);
        let writer = scope.spawn(|| {
            let dir = fast_tempdir();
            let backend = stored.backend(dir.path(), "a").retained_snapshots(2);
            let backend = backend.open().unwrap();
            let (mut model, mut models) = (Model::new(), Vec::new());
            let mut version = 0;
            while !ended.load(Ordering::Relaxed) {
                version += 1;
                let from = version * 7 % 80;
                write(
                    &backend,
                    &mut model,
                    from..from + 15,
                    [version % 50],
                    version,
                    LEN,
                )
                .unwrap();
                if version % 5 == 0 {
                    backend.compact().unwrap();
                }
                let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
                let report = pending.wait().unwrap();
                models.push((report.id, model.clone()));
                if version % 4 == 0 {
                    // Another process dies just before its snapshot is complete.
                    let token = format!("{version:032x}");
                    stored.put(&format!("a/shared/{token}.tails"), b"left");
                }
            }
            check(&backend, &model).unwrap();
            (model, models)
        });
        let options = GcOptions {
            min_age: guard,
            delete: true,
            ..GcOptions::default()
        };
        let until = std::time::Instant::now() + Duration::from_secs(6);
        while std::time::Instant::now() < until {
            match stored.tools().gc(&options) {
                Ok(report) => {
                    assert!(report.is_ok(), "{report:?}");
                    removed += report.jobs.iter().map(|of| of.deleted.objects).sum::<u64>();
                }
                // The job has put nothing yet, or deleted what was being looked at.
                Err(error) => assert!(error.is_temporary(), "{error}"),
            }
            let report = stored.tools().fsck(&Default::default(), &|_| ());
            match report {
                Ok(report) => assert_eq!(report.damages, [], "a job that goes on is no damage"),
                Err(error) => assert!(error.is_temporary(), "{error}"),
            }
        }
        drop(end);
        writer.join().unwrap()
    });
    assert!(
        models.len() > 10 && removed > 3,
        "{} {removed}",
        models.len()
    );
    let mut stored = stored;
    stored.snapshots = models
        .into_iter()
        .rev()
        .take(2)
        .map(|(id, model)| ("a", id, model))
        .collect();
    assert_eq!(stored.snapshots[0].2, newest);
    stored.check();
    stored.age_all();
    stored.gc(true);
    assert_eq!(stored.keys(), stored.needed());
    stored.check();
}

/// Ends the writer, also where a check fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
