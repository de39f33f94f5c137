//! What a snapshot does not have.

use super::*;

#[test]
fn what_is_not_there_is_refused() {
    let store = counted(MemoryStore::new());
    let open = |options| SnapshotReader::open(&snapshots(&store), options).unwrap_err();
    let invalid = |error: Error, of: &str| {
        let Error::InvalidOption { option, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(option, of);
    };
    invalid(open(job()), "job");
    invalid(open(job().job("../up")), "job");
    let dir = fast_tempdir();
    let range = KeyGroupRange::new(8, 15).unwrap();
    let backend = builder(dir.path(), &store, range).open().unwrap();
    write(&backend, &mut rescale::Model::new(), 0..500, 1);
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    pending.wait().unwrap();
    assert!(matches!(
        open(job().snapshot(2)),
        Error::SnapshotNotFound { id: 2, .. }
    ));
    invalid(open(job().operator("other")), "operator");
    let wider = KeyGroupRange::new(8, 16).unwrap();
    let error = open(job().key_group_range(wider));
    assert!(matches!(error, Error::RangeNotCovered { .. }), "{error}");
    // What there is of it is read by default.
    let reader = SnapshotReader::open(&snapshots(&store), job()).unwrap();
    assert_eq!(reader.key_group_range(), range);
    invalid(reader.table("count").unwrap_err(), "table");
    let counts = reader.table("counts").unwrap();
    let foreign = (0..).map(|n: u32| encode(&n));
    let foreign = foreign
        .into_iter()
        .find(|key| counts.key_group(key) == 16)
        .unwrap();
    let at = RawKey {
        key: &foreign,
        ..RawKey::default()
    };
    let error = counts.get(at).unwrap_err();
    assert!(
        matches!(error, Error::KeyGroupOutOfRange { key_group: 16, .. }),
        "{error}"
    );
    let mapped = RawKey {
        user_key: b"x",
        ..at
    };
    invalid(counts.get(mapped).unwrap_err(), "user key");
    assert!(counts.entries_of_group(16).is_err());
}

#[test]
fn gaps_in_what_a_snapshot_has_are_refused() {
    let inner = MemoryStore::new();
    let store = counted(inner.clone());
    let running = Running::start(&store, 3, LoadPolicy::OnDemand);
    let mut model = rescale::Model::new();
    running.each(|backend| write(backend, &mut model, 0..500, 1));
    let ranges: Vec<KeyGroupRange> = running
        .backends
        .iter()
        .map(|(backend, _): &(StateBackend, _)| backend.key_group_range())
        .collect();
    drop(running);
    // Two of three subtasks complete one between them.
    let running = Running::start(&store, 3, LoadPolicy::OnDemand);
    running.each(|backend| write(backend, &mut model, 0..500, 1));
    let mut running = running;
    running.backends.remove(1);
    let id = running.snapshot().id;
    let error = SnapshotReader::open(&snapshots(&store), job()).unwrap_err();
    let Error::RangeNotCovered { id: of, stored, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((*of, stored), (id, &vec![ranges[0], ranges[2]]));
    for range in [ranges[0], ranges[2]] {
        let options = job().key_group_range(range);
        let reader = SnapshotReader::open(&snapshots(&store), options).unwrap();
        assert!(reader.table("counts").unwrap().entries().unwrap().count() > 50);
    }
}
