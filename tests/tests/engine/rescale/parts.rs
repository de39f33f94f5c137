//! One backend comes back with a part of what one wrote.

use super::*;

#[test]
fn a_part_comes_back_without_a_look_into_any_table_file() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let model = written(&store);
    for parallelism in [2, 3, 5] {
        for index in 0..parallelism {
            let range = range_for_operator(GROUPS, parallelism, index).unwrap();
            let dir = fast_tempdir();
            store.start_recording();
            // A compaction that is due reads, as after any restore.
            let quiet = builder(dir.path(), &store, range).rocksdb(options(false));
            let backend = quiet.open().unwrap();
            let requests = store.take_recording();
            let of_tables = requests.iter().filter(|r| r.key.ends_with(".sst"));
            assert_eq!(of_tables.count(), 0, "table files were read by the open");
            let restored = backend.restored().unwrap();
            assert_eq!(restored.user_metadata["position"], b"7");
            assert!(restored.files > 0);
            check(&backend, &model);
            backend.compact().unwrap();
            check(&backend, &model);
            let refused = backend.snapshot(SnapshotOptions::new()).err().unwrap();
            assert!(matches!(refused, Error::PartOfSnapshot { .. }), "{refused}");
        }
    }
}

#[test]
fn a_part_goes_on_with_writes_and_compactions() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let mut model = written(&store);
    let range = KeyGroupRange::new(5, 20).unwrap();
    let dir = fast_tempdir();
    let backend = builder(dir.path(), &store, range).open().unwrap();
    for version in 10..14 {
        write(&backend, &mut model, 0..4_000, version);
        backend.flush().unwrap();
        check(&backend, &model);
    }
    backend.wait_until_local().unwrap();
    backend.compact().unwrap();
    check(&backend, &model);
}

#[test]
fn a_range_that_was_not_written_is_refused() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let dir = fast_tempdir();
    let range = KeyGroupRange::new(8, 15).unwrap();
    let backend = builder(dir.path(), &store, range).open().unwrap();
    write(&backend, &mut Model::new(), 0..500, 1);
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    pending.wait().unwrap();
    drop(backend);
    for (start, end) in [(7, 15), (8, 16), (0, 31), (16, 20)] {
        let range = KeyGroupRange::new(start, end).unwrap();
        let dir = fast_tempdir();
        let error = builder(dir.path(), &store, range).open().err().unwrap();
        assert!(matches!(error, Error::RangeNotCovered { .. }), "{error}");
    }
    let range = KeyGroupRange::new(9, 9).unwrap();
    let dir = fast_tempdir();
    builder(dir.path(), &store, range).open().unwrap();
}

#[test]
fn a_request_that_fails_while_parts_come_back_costs_nothing() {
    let base = MemoryStore::new();
    let store = CountingStore::new(Arc::new(base.clone()));
    written(&store);
    let mut model = Model::new();
    // Two states, so that three parts are composed.
    let two = Running::start(&store, 2, LoadPolicy::OnDemand);
    two.each(|backend| {
        let counts = backend.value_state(&COUNTS).unwrap();
        model.extend(counts.iter().unwrap().map(|entry| entry.unwrap()));
        write(backend, &mut model, 0..900, 61);
    });
    two.snapshot();
    drop(two);
    let faults = [
        Effect::Fail(ErrorKind::PermissionDenied),
        Effect::Fail(ErrorKind::Unavailable),
        Effect::Fail(ErrorKind::NotFound),
        Effect::Short,
        Effect::Corrupt,
    ];
    let mut failed = 0;
    for effect in faults {
        for i in 0.. {
            let inner = base.fork();
            let keys = inner.keys();
            let plan = FaultPlan::new();
            plan.set_filter(|op: Op| op.is_remote(), "");
            plan.fail_nth(i, effect);
            let broken = FaultStore::new(Arc::new(inner.clone()), plan.clone());
            let broken = CountingStore::new(Arc::new(broken));
            let dir = fast_tempdir();
            let range = range_for_operator(GROUPS, 3, 1).unwrap();
            let open = || {
                builder(dir.path(), &broken, range)
                    .rocksdb(options(false))
                    .open()
            };
            let opened = open();
            let injected = plan.injected() > 0;
            plan.disable();
            assert_eq!(inner.keys(), keys, "a restore writes nothing");
            if let Ok(backend) = &opened {
                check(backend, &model);
            }
            failed += u32::from(opened.is_err());
            drop(opened);
            check(&open().unwrap(), &model);
            if !injected {
                assert!(i >= 3, "{i} requests are too few");
                break;
            }
        }
    }
    assert!(failed > 15, "{failed}");
}
