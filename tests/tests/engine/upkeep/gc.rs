//! Orphans go, and nothing else does.

use lazurite::{Coordinator, Error, SnapshotStore, upkeep::UnreadableCause};
use lazurite_tests::{GateStore, World};

use super::*;

#[test]
fn what_failed_snapshots_left_goes_and_nothing_else() {
    let stored = Stored::new();
    let whole = stored.keys();
    assert_eq!(whole, stored.needed());
    stored.fail_a_snapshot("a");
    stored.fail_a_snapshot("b");
    let token = "0123456789abcdef".repeat(2);
    stored.put(&format!("b/_gc-{token}"), b"");
    let claim = br#"{"job":"b","snapshot":"a/chk-3","created_unix_ms":0}"#;
    let claim = lazurite_tiering::framed::encode("lazurite-claim", 1, claim);
    stored.put("a/_claimed", &claim);
    stored.age_all();
    let before = stored.keys();
    let mut left = minus(&before, &whole);
    left.remove("a/_claimed");
    for part in [
        "a/shared/",
        "a/chk-4/manifest-",
        "b/shared/",
        "b/chk-2/manifest-",
        ".sst",
        ".tails",
        "_gc-",
    ] {
        assert!(
            left.iter().any(|key| key.contains(part)),
            "{part}: {left:?}"
        );
    }

    let report = stored.gc(false);
    assert!(report.is_ok());
    assert_eq!(orphans(&report), left);
    assert_eq!(stored.keys(), before, "a dry run changed something");
    let a = of(&report, "a");
    let kinds: BTreeSet<ObjectKind> = a.orphans.iter().map(|of| of.kind).collect();
    assert!(kinds.contains(&ObjectKind::TableFile) && kinds.contains(&ObjectKind::Manifest));
    assert!(a.orphans.iter().all(|of| of.age >= OLD && of.age < 2 * OLD));
    let bytes = |keys: &BTreeSet<String>, job: &str| {
        let mut count = Count::default();
        for key in keys.iter().filter(|key| key.starts_with(job)) {
            count.objects += 1;
            count.bytes += stored.get(key).len() as u64;
        }
        count
    };
    assert_eq!(a.orphan_count(), bytes(&left, "a/"));
    assert_eq!(a.referenced, bytes(&minus(&before, &left), "a/"));
    assert_eq!((a.young, a.undecided, a.unknown.len()), Default::default());
    assert_eq!(report.jobs[0].deleted, Count::default());

    // One job alone.
    let options = GcOptions {
        job: Some("b".into()),
        delete: true,
        ..GcOptions::default()
    };
    let report = stored.tools().gc(&options).unwrap();
    assert_eq!(report.jobs.len(), 1);
    assert_eq!(report.jobs[0].deleted, bytes_of(&report));
    left.retain(|key| key.starts_with("a/"));
    assert_eq!(minus(&stored.keys(), &left), {
        let mut kept = whole.clone();
        kept.insert("a/_claimed".into());
        kept
    });

    let report = stored.gc(true);
    assert_eq!(orphans(&report), left);
    assert_eq!(report.jobs[0].deleted, bytes_of(&report));
    assert_eq!(
        minus(&stored.keys(), &stored.needed()),
        ["a/_claimed".to_owned()].into()
    );
    assert_eq!(orphans(&stored.gc(true)), BTreeSet::new());
    // Who has been claimed can be restored no more, so the claim goes before that is tried.
    stored.delete("a/_claimed");
    stored.check();
}

fn bytes_of(report: &GcReport) -> Count {
    report.jobs[0].objects.orphan_count()
}

#[test]
fn what_is_young_stays() {
    let stored = Stored::new();
    stored.fail_a_snapshot("a");
    let before = stored.keys();
    let left = minus(&before, &stored.needed());
    let report = stored.gc(true);
    assert_eq!(orphans(&report), BTreeSet::new());
    assert_eq!(of(&report, "a").young.objects, left.len() as u64);
    assert_eq!(stored.keys(), before);
    // Each by its own age.
    let (old, young): (Vec<_>, Vec<_>) = left.iter().partition(|key| key.ends_with(".sst"));
    for key in &old {
        stored.store.age(key, OLD);
    }
    let almost = OLD - Duration::from_secs(3700);
    for key in &young {
        stored.store.age(key, almost);
    }
    let report = stored.gc(true);
    assert_eq!(orphans(&report), old.into_iter().cloned().collect());
    assert_eq!(
        minus(&stored.keys(), &stored.needed()),
        young.into_iter().cloned().collect()
    );
    stored.check();
}

/// A snapshot whose last part never came, and fences of coordinators.
#[test]
fn what_coordinators_left_goes_when_it_is_superfluous() {
    let mut stored = Stored::default();
    stored.job("a", 1);
    let fence = |stored: &Stored| {
        let coordinator = Coordinator::builder(stored.tools(), "a").retained_snapshots(4);
        let before = stored.keys();
        coordinator.open().unwrap();
        let fence = minus(&stored.keys(), &before);
        assert_eq!(fence.len(), 1, "{fence:?}");
        fence.into_iter().next().unwrap()
    };
    let low = fence(&stored);
    assert_eq!(low, "a/chk-2/_metadata");
    let bytes = stored.get(&low);
    stored.age_all();
    assert_eq!(orphans(&stored.gc(true)), BTreeSet::new(), "it fences");

    // The snapshot above it deletes it; here its deletion failed.
    let dir = fast_tempdir();
    let backend = stored.backend(dir.path(), "a").open().unwrap();
    let mut model = stored.snapshots[0].2.clone();
    write(&backend, &mut model, 0..9, [], 5, LEN).unwrap();
    let id = backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap()
        .id;
    drop(backend);
    stored.snapshots.push(("a", id, model));
    stored.put(&low, &bytes);
    let high = fence(&stored);

    // A part without the others.
    let dir = fast_tempdir();
    let range = KeyGroupRange::new(0, 63).unwrap();
    let backend = stored
        .backend(dir.path(), "a")
        .key_group_range(range)
        .open()
        .unwrap();
    write_some(&backend);
    let part = backend.snapshot_part(9, SnapshotOptions::new()).unwrap();
    part.wait().unwrap();
    drop(backend);
    stored.age_all();
    let mut kept = stored.needed();
    kept.insert(high);
    let left = minus(&stored.keys(), &kept);
    assert!(left.contains(&low) && left.iter().any(|key| key.starts_with("a/chk-9/manifest-")));
    assert!(left.iter().any(|key| key.ends_with(".sst")));
    assert_eq!(orphans(&stored.gc(true)), left);
    assert_eq!(stored.keys(), kept);
    stored.check();
}

fn write_some(backend: &StateBackend) {
    let counts = backend.value_state(&lazurite_tests::COUNTS).unwrap();
    let written = (0..200).filter(|key| counts.put(key, &vec![1; 50]).is_ok());
    assert!(written.count() > 20);
}

/// Nobody knows what a snapshot needs that cannot be read, whichever job it is of.
#[test]
fn nothing_goes_while_a_snapshot_cannot_be_read() {
    let stored = Stored::new();
    stored.fail_a_snapshot("a");
    stored.age_all();
    let (key, before) = ("b/chk-1/_metadata", stored.keys());
    let whole = stored.get(key);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let newer = String::from_utf8(whole.clone()).unwrap();
    let newer = newer
        .replacen("\"version\":2", "\"version\":99", 1)
        .into_bytes();
    for (bytes, cause) in [
        (flipped, UnreadableCause::Corrupt),
        (whole[..20].to_vec(), UnreadableCause::Corrupt),
        (Vec::new(), UnreadableCause::Corrupt),
        (newer, UnreadableCause::Newer),
    ] {
        stored.put(key, &bytes);
        stored.store.age(key, OLD);
        for job in [None, Some("a".to_owned())] {
            let options = GcOptions {
                job,
                delete: true,
                ..GcOptions::default()
            };
            let report = stored.tools().gc(&options).unwrap();
            assert!(!report.is_ok());
            let [unreadable] = &report.unreadable[..] else {
                panic!("{report:?}")
            };
            assert_eq!((&*unreadable.job, unreadable.id), ("b", 1));
            assert_eq!((&*unreadable.key, unreadable.cause), (key, cause));
            assert_eq!(orphans(&report), BTreeSet::new());
            assert!(of(&report, "a").undecided.objects > 2);
            assert_eq!(stored.keys(), before);
        }
    }
    stored.put(key, &whole);
    assert!(stored.gc(true).is_ok());
    assert_eq!(stored.keys(), stored.needed());
    stored.check();
}

/// What was put again since it was listed is in use again.
#[test]
fn an_orphan_that_is_put_again_meanwhile_stays() {
    let stored = Stored::new();
    stored.fail_a_snapshot("a");
    stored.age_all();
    let left = minus(&stored.keys(), &stored.needed());
    let again = left.iter().find(|key| key.ends_with(".sst")).unwrap();
    let bytes = stored.get(again);
    let gate = GateStore::new(Arc::new(stored.store.clone()));
    gate.hold_reads("_metadata");
    let report = std::thread::scope(|scope| {
        let gc = scope.spawn(|| {
            let tools = SnapshotStore::new(Arc::new(gate.clone()), RUNTIME.clone());
            let options = GcOptions {
                delete: true,
                ..GcOptions::default()
            };
            tools.gc(&options).unwrap()
        });
        gate.wait_until_held();
        stored.put(again, &bytes);
        gate.open();
        gc.join().unwrap()
    });
    assert_eq!(orphans(&report), left);
    assert_eq!(
        minus(&stored.keys(), &stored.needed()),
        [again.clone()].into()
    );
    assert_eq!(report.jobs[0].deleted.objects, left.len() as u64 - 1);
}

#[test]
fn a_job_that_is_not_there_is_refused() {
    let stored = Stored::new();
    let options = GcOptions {
        job: Some("c".into()),
        delete: true,
        ..GcOptions::default()
    };
    let refused = stored.tools().gc(&options).unwrap_err();
    assert!(matches!(
        refused,
        Error::InvalidOption { option: "job", .. }
    ));
    let before = stored.keys();
    assert_eq!(before, stored.needed());
    let empty = Stored::default();
    assert_eq!(empty.gc(true).jobs, []);
    assert_eq!(empty.keys().len(), 0);
}

/// The same on files, whose copies are links.
#[test]
fn orphans_among_files_go() {
    let world = World::new();
    let plan = FaultPlan::new();
    plan.set_filter(|op| op == Op::PutIfAbsent, "chk-2");
    plan.fail_nth(0, Effect::Fail(ErrorKind::PermissionDenied));
    let store = FaultStore::new(Arc::new(world.store.clone()), plan);
    let backend = world.builder_over(Arc::new(store)).open().unwrap();
    let counts = backend.value_state(&lazurite_tests::COUNTS).unwrap();
    lazurite_tests::fill(&counts, 0..100, 1, 50);
    lazurite_tests::snapshot(&backend);
    lazurite_tests::fill(&counts, 0..100, 2, 50);
    let failed = backend.snapshot(SnapshotOptions::new()).unwrap();
    failed.wait().unwrap_err();
    drop(backend);
    let left = minus(&world.objects(), &world.needed_objects());
    assert!(left.len() >= 2);
    let tools = world.snapshots();
    let mut options = GcOptions {
        delete: true,
        ..GcOptions::default()
    };
    let report = tools.gc(&options).unwrap();
    assert_eq!(of(&report, "job").young.objects, left.len() as u64);
    options.min_age = Duration::ZERO;
    assert_eq!(orphans(&tools.gc(&options).unwrap()), left);
    assert_eq!(world.objects(), world.needed_objects());
    assert!(world.verify(1).is_empty());
}
