//! Jobs of several subtasks: chains of parallelisms, and who completes their snapshots.

use super::*;

#[test]
fn what_was_split_comes_together_as_it_was() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let mut model = written(&store);
    let files = |running: &Running| -> u64 {
        let of = |(backend, _): &(StateBackend, TempDir)| backend.restored().unwrap().files;
        running.backends.iter().map(of).sum()
    };
    // A compaction that is due would change files.
    let quiet = |parallelism| Running::start_with(&store, parallelism, LoadPolicy::OnDemand, false);
    let whole = files(&quiet(1));
    for parallelism in [2, 3, 2, 1] {
        let running = quiet(parallelism);
        running.each(|backend| check(backend, &model));
        let before = inner.keys().len();
        let done = running.snapshot();
        // Nothing is uploaded where nothing has changed.
        assert_eq!((done.uploaded_files, done.subsumed.len()), (0, 0));
        assert!(inner.keys().len() <= before + 2 * usize::from(parallelism));
    }
    assert_eq!(check_store(&inner), 0);
    let again = quiet(1);
    assert_eq!(files(&again), whole);
    again.each(|backend| check(backend, &model));
    again.each(|backend| {
        write(backend, &mut model, 0..4_000, 90);
        backend.compact().unwrap();
        check(backend, &model);
    });
}

#[test]
fn a_file_whose_tail_two_subtasks_keep_in_different_places_comes_together() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let mut model = Model::new();
    // Files of level 0, which hold all key groups.
    let running = Running::start_with(&store, 1, LoadPolicy::OnDemand, false);
    running.each(|backend| write(backend, &mut model, 0..500, 59));
    running.snapshot();
    drop(running);
    let running = Running::start_with(&store, 3, LoadPolicy::OnDemand, false);
    // What one of them writes takes in the tails that all came with. As another has none of the files any more, those of its
    // neighbours will not be one column family.
    write(&running.backends[0].0, &mut model, 0..4_000, 60);
    running.backends[1].0.compact().unwrap();
    running.snapshot();
    let places = |id: u64| {
        let snapshots = SnapshotStore::new(Arc::new(inner.clone()), RUNTIME.clone());
        let mut places: BTreeMap<String, BTreeSet<(String, u64)>> = BTreeMap::new();
        for state in snapshots.load("job", id).unwrap().subtasks {
            for file in &state.files {
                let (object, offset) = file.tail.unwrap();
                let place = (state.tails[object as usize].key.clone(), offset);
                places.entry(file.key.clone()).or_default().insert(place);
            }
        }
        places.values().map(BTreeSet::len).max()
    };
    assert_eq!(places(running.coordinator.latest().unwrap().id), Some(2));
    drop(running);
    let one = Running::start_with(&store, 1, LoadPolicy::OnDemand, false);
    one.each(|backend| write(backend, &mut model, 0..10, 61));
    let id = one.snapshot().id;
    assert_eq!(places(id), Some(1));
    drop(one);
    Running::start(&store, 1, LoadPolicy::Eager).each(|backend| check(backend, &model));
    assert_eq!(check_store(&inner), 0);
}

#[test]
fn chains_of_rescales_lose_nothing() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let inner = MemoryStore::new();
        let store = CountingStore::new(Arc::new(inner.clone()));
        let mut durable = written(&store);
        for step in 0..6 {
            let parallelism = random.random_range(1..=5);
            let policies = [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand];
            let policy = *policies.choose(&mut random).unwrap();
            let running = Running::start(&store, parallelism, policy);
            let mut model = durable.clone();
            running.each(|backend| check(backend, &model));
            for round in 0..random.random_range(0..3) {
                running.each(|backend| {
                    let version = 100 + step * 10 + round;
                    let from = random.random_range(0..4_000);
                    write(backend, &mut model, from..4_000, version);
                    match random.random_range(0..4) {
                        0 => backend.flush().unwrap(),
                        1 if policy != LoadPolicy::OnDemand => backend.compact().unwrap(),
                        _ => {}
                    }
                    check(backend, &model);
                });
            }
            match random.random_range(0..4) {
                // Some parts come, the last one never does.
                0 => {
                    let id = running.begin();
                    for (backend, _) in running.backends.iter().skip(1) {
                        let part = backend.snapshot_part(id, SnapshotOptions::new()).unwrap();
                        let done = running.coordinator.acknowledge(part.wait().unwrap());
                        assert!(done.unwrap().is_none());
                    }
                }
                _ => {
                    running.snapshot();
                    durable = model;
                }
            }
        }
        check_store(&inner);
        Running::start(&store, 1, LoadPolicy::Eager).each(|backend| check(backend, &durable));
    }
}

#[test]
fn the_coordinator_before_completes_nothing_any_more() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let model = written(&store);
    for parts_before in [0, 1] {
        let old = Running::start(&store, 2, LoadPolicy::OnDemand);
        let id = old.begin();
        let mut handles: Vec<_> = old
            .backends
            .iter()
            .map(|(backend, _)| backend.snapshot_part(id, SnapshotOptions::new()).unwrap())
            .map(|part| part.wait().unwrap())
            .collect();
        for handle in handles.drain(..parts_before) {
            assert!(old.coordinator.acknowledge(handle).unwrap().is_none());
        }
        let new = Running::start(&store, 3, LoadPolicy::OnDemand);
        for handle in handles {
            match old.coordinator.acknowledge(handle) {
                Ok(done) => assert!(done.is_none()),
                Err(error) => assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}"),
            }
        }
        assert!(matches!(
            old.try_snapshot(),
            Err(Error::SnapshotConflict { .. })
        ));
        new.snapshot();
        new.each(|backend| check(backend, &model));
    }
    Running::start(&store, 1, LoadPolicy::Eager).each(|backend| check(backend, &model));
}

#[test]
fn a_request_that_fails_leaves_the_snapshot_before_or_the_whole_new_one() {
    let base = MemoryStore::new();
    let old = written(&CountingStore::new(Arc::new(base.clone())));
    let faults = [
        Effect::Fail(ErrorKind::PermissionDenied),
        Effect::Fail(ErrorKind::Unavailable),
        Effect::FailAfter(ErrorKind::Unavailable),
    ];
    let (mut failed, mut completed) = (0, 0);
    for effect in faults {
        for i in 0.. {
            let inner = base.fork();
            let plan = FaultPlan::new();
            plan.disable();
            let broken = FaultStore::new(Arc::new(inner.clone()), plan.clone());
            let broken = CountingStore::new(Arc::new(broken));
            let running = Running::start(&broken, 2, LoadPolicy::OnDemand);
            let before = running.coordinator.latest().unwrap().id;
            let mut new = old.clone();
            running.each(|backend| write(backend, &mut new, 0..300, 50));
            plan.set_filter(|op: Op| op.is_remote(), "");
            plan.fail_nth(i, effect);
            plan.enable();
            let result = running.try_snapshot();
            plan.disable();
            let injected = plan.injected() > 0;
            assert!(injected || result.is_ok(), "{result:?}");
            drop(running);
            let store = CountingStore::new(Arc::new(inner.clone()));
            let again = Running::start(&store, 3, LoadPolicy::Eager);
            let is_new = again.coordinator.latest().unwrap().id > before;
            assert!(
                is_new || result.is_err(),
                "fault {i}: what was acknowledged is gone"
            );
            let model = if is_new { &new } else { &old };
            again.each(|backend| check(backend, model));
            again.snapshot();
            check_store(&inner);
            failed += u32::from(result.is_err());
            completed += u32::from(is_new);
            if !injected {
                assert!(i > 5, "{i} requests are too few for a snapshot");
                break;
            }
        }
    }
    assert!(
        failed > 5 && completed > 0,
        "{failed} failed, {completed} completed"
    );
}

#[test]
fn a_number_that_was_given_out_may_be_taken_by_who_takes_over() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let model = written(&store);
    // A compaction that is due would leave more than manifests behind.
    let mut old = Running::start_with(&store, 2, LoadPolicy::OnDemand, false);
    old.coordinator = coordinator(&store).open().unwrap();
    let before = old.coordinator.latest().unwrap().id;
    let (first, _second) = (old.begin(), old.begin());
    let mut handles = Vec::new();
    for (backend, _) in &old.backends {
        let part = backend
            .snapshot_part(first, SnapshotOptions::new())
            .unwrap();
        handles.push(part.wait().unwrap());
    }
    // It finds the manifests of the first, and nothing of the second.
    let new = coordinator(&store).open().unwrap();
    assert_eq!(new.latest().unwrap().id, before);
    let last = handles.pop().unwrap();
    for handle in handles {
        assert!(old.coordinator.acknowledge(handle).unwrap().is_none());
    }
    let error = old.coordinator.acknowledge(last).err().unwrap();
    assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}");
    let error = old.try_begin().err().unwrap();
    assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}");
    assert_eq!(
        check_store(&inner),
        2,
        "the manifests of what came to nothing"
    );
    let again = Running::start(&store, 1, LoadPolicy::Eager);
    assert_eq!(again.coordinator.latest().unwrap().id, before);
    again.each(|backend| check(backend, &model));
}

#[test]
fn a_repeated_answer_is_nothing_and_a_late_one_is_refused() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    written(&store);
    let mut running = Running::start(&store, 1, LoadPolicy::OnDemand);
    running.coordinator = coordinator(&store).open().unwrap();
    let (backend, _) = &running.backends[0];
    let part = |id| {
        let part = backend.snapshot_part(id, SnapshotOptions::new());
        part.unwrap().wait().unwrap()
    };
    let (first, second) = (running.begin(), running.begin());
    let error = running.try_begin().err().unwrap();
    assert!(matches!(error, Error::SnapshotInProgress), "{error}");
    let (one, two) = (part(first), part(second));
    let done = running.coordinator.acknowledge(two.clone()).unwrap();
    assert_eq!(done.unwrap().subsumed, [first]);
    assert!(running.coordinator.acknowledge(two).unwrap().is_none());
    let error = running.coordinator.acknowledge(one).err().unwrap();
    assert!(matches!(error, Error::SnapshotAborted), "{error}");
    let third = running.begin();
    running.coordinator.decline(third, "a test").unwrap();
    assert!(running.coordinator.pending().is_empty());
}

#[test]
fn who_cancels_deletes_all_unless_it_is_anothers() {
    for what in [OnCancel::Keep, OnCancel::Delete] {
        let inner = MemoryStore::new();
        let store = CountingStore::new(Arc::new(inner.clone()));
        let mut model = written(&store);
        let mut old = Running::start(&store, 2, LoadPolicy::OnDemand);
        old.coordinator = coordinator(&store).on_cancel(what).open().unwrap();
        for version in 30..33 {
            old.each(|backend| write(backend, &mut model, 0..500, version));
            old.snapshot();
        }
        assert_eq!(check_store(&inner), 0, "two are retained, and no more");
        let new = coordinator(&store).on_cancel(what).open().unwrap();
        let before = inner.keys().len();
        let cancelled = old.coordinator.cancel();
        assert_eq!(inner.keys().len(), before);
        match what {
            OnCancel::Keep => cancelled.unwrap(),
            OnCancel::Delete => {
                let error = cancelled.err().unwrap();
                assert!(matches!(error, Error::SnapshotConflict { .. }), "{error}");
            }
        }
        new.cancel().unwrap();
        let left = inner.keys().len();
        assert_eq!(left, if what == OnCancel::Keep { before } else { 0 });
    }
}

#[test]
fn a_snapshot_begins_while_another_is_completed() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    written(&store);
    let mut running = Running::start(&store, 1, LoadPolicy::OnDemand);
    running.coordinator = coordinator(&store)
        .tolerable_failures(u32::MAX)
        .open()
        .unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    lazurite_tests::watchdog::within(std::time::Duration::from_secs(60), "beginning", || {
        std::thread::scope(|scope| {
            let begin = scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::SeqCst) {
                    if let Ok(id) = running.try_begin() {
                        running.coordinator.decline(id, "a test").ok();
                        running.coordinator.is_due();
                    }
                }
            });
            let (mut complete, mut tries) = (0, 0);
            while complete < 10 && tries < 1_000 {
                tries += 1;
                complete += u32::from(running.try_snapshot().is_ok());
            }
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            begin.join().unwrap();
            assert!(complete > 0, "none of {tries}");
        });
    });
}
