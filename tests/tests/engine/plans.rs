//! What a restore will cost is told before it is done, and then costs that.

use std::sync::Arc;

use lazurite::{KeyGroupRange, LoadPolicy, SnapshotPath, SnapshotStore};
use lazurite_env::remote::{CountingStore, MemoryStore};
use lazurite_tests::rig::{RUNTIME, fast_tempdir};

use crate::rescale::{GROUPS, builder, check, options, written};

#[test]
fn a_restore_costs_what_its_plan_says() {
    let inner = MemoryStore::new();
    let store = CountingStore::new(Arc::new(inner.clone()));
    let model = written(&store);
    let snapshots = SnapshotStore::new(Arc::new(inner.clone()), RUNTIME.clone());
    let path = SnapshotPath::latest("job").unwrap();
    let whole = snapshots.plan_restore(&path, "state", None).unwrap();
    assert_eq!((whole.left_out_files, whole.beyond_files), (0, 0));
    for (start, end) in [(0, GROUPS - 1), (0, 15), (9, 9), (16, 31)] {
        let range = KeyGroupRange::new(start, end).unwrap();
        let plan = snapshots.plan_restore(&path, "state", Some(range)).unwrap();
        assert_eq!(plan.files + plan.left_out_files, whole.files);
        assert_eq!(plan.file_bytes + plan.left_out_bytes, whole.file_bytes);
        let dir = fast_tempdir();
        let before = store.snapshot();
        let backend = builder(dir.path(), &store, range)
            .load_policy(LoadPolicy::OnDemand)
            .rocksdb(options(false)) // a compaction that is due would read
            .open()
            .unwrap();
        let sent = store.snapshot().since(&before);
        assert_eq!(
            (sent.total() + 1, sent.bytes_in),
            (plan.requests, plan.bytes),
            "{range}"
        );
        let report = backend.restored().unwrap();
        assert_eq!((report.files, report.bytes), (plan.files, plan.file_bytes));
        check(&backend, &model);
    }
    let of = |start, end| {
        let range = KeyGroupRange::new(start, end).unwrap();
        snapshots.plan_restore(&path, "state", Some(range)).unwrap()
    };
    // What two halves both take is what reaches beyond either.
    let (low, high) = (of(0, 15), of(16, GROUPS - 1));
    let both = (
        low.files + high.files - whole.files,
        low.file_bytes + high.file_bytes - whole.file_bytes,
    );
    assert!(both.0 > 0);
    assert_eq!((low.beyond_files, low.beyond_bytes), both);
    assert_eq!((high.beyond_files, high.beyond_bytes), both);
    assert!(snapshots.plan_restore(&path, "other", None).is_err());
    let outside = KeyGroupRange::new(0, GROUPS).unwrap();
    assert!(
        snapshots
            .plan_restore(&path, "state", Some(outside))
            .is_err()
    );
    let none = SnapshotPath::latest("none").unwrap();
    assert!(snapshots.plan_restore(&none, "state", None).is_err());
}
