//! Snapshots as plain RocksDB directories, opened by RocksDB alone.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use lazurite::{
    Error, ExportOptions, ExportReport, ExportWay, KeyGroupRange, LoadPolicy, ReaderOptions,
    Result, SnapshotOptions, ValueStateDescriptor,
};
use lazurite_env::{
    Effect, Env, ErrorKind, FaultPlan, Op, PosixEnv,
    remote::{CountingStore, FaultStore, MemoryStore},
};
use lazurite_tests::{
    rig::{fast_tempdir, tiny},
    tree,
};
use rocksdb::{Cache, DB, IteratorMode, Options};

use super::{
    reader::{Entries, counted, encode, job, oracle, rescaled, snapshots},
    rescale::{self, Running, write, written},
};

static LATE: ValueStateDescriptor<u32, String> = ValueStateDescriptor::new("late");

fn export(store: &CountingStore, options: ReaderOptions, out: &Path) -> Result<ExportReport> {
    lazurite::export(
        &snapshots(store),
        options,
        ExportOptions::new(out),
        &|_, _| {},
    )
}

/// How each table went.
fn ways(report: &ExportReport) -> BTreeMap<&str, ExportWay> {
    let tables = report.tables.iter();
    tables.map(|table| (&*table.name, table.way)).collect()
}

/// What stands behind the key group in a stored key, by docs/FORMAT.md.
fn parts(stored: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    fn counted(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
        assert!(bytes[0] < 0x80, "no key here is long");
        let (part, rest) = bytes[1..].split_at(bytes[0].into());
        (part.to_vec(), rest)
    }
    let (key, rest) = counted(&stored[2..]);
    let (namespace, user_key) = counted(rest);
    (key, namespace, user_key.to_vec())
}

/// What RocksDB with `options` finds in `dir`, column by column.
fn found(options: &Options, dir: &Path) -> BTreeMap<String, Entries> {
    let names = DB::list_cf(&Options::default(), dir).unwrap();
    let db = DB::open_cf_for_read_only(options, dir, &names, false).unwrap();
    let mut columns = BTreeMap::new();
    for name in names {
        let handle = db.cf_handle(&name).unwrap();
        let entries = db.iterator_cf(&handle, IteratorMode::Start).map(|entry| {
            let (key, value) = entry.unwrap();
            assert_eq!(db.get_cf(&handle, &key).unwrap().unwrap(), *value);
            (parts(&key), value.into_vec())
        });
        columns.insert(name, entries.collect::<Entries>());
    }
    assert!(columns.remove("default").unwrap().is_empty());
    columns
}

/// Nothing but what RocksDB needs.
fn check_files(dir: &Path) {
    for name in tree(dir).keys() {
        let known = ["CURRENT", "IDENTITY"].contains(&name.as_str())
            || name.starts_with("MANIFEST-")
            || name.ends_with(".sst")
            || name.ends_with(".log");
        assert!(known, "{name}");
    }
}

fn beside(out: &Path) -> PathBuf {
    PathBuf::from(format!("{}.partial", out.display()))
}

#[test]
fn a_job_of_one_backend_keeps_its_files() {
    let store = counted(MemoryStore::new());
    let model = written(&store);
    let temp = fast_tempdir();
    let out = temp.path().join("out");
    let told = Cell::new((0, 0));
    let progress = |done, total| {
        assert!(done >= told.get().0 && done <= total, "{done} of {total}");
        told.set((done, total));
    };
    let to = ExportOptions::new(&out);
    let report = lazurite::export(&snapshots(&store), job(), to, &progress).unwrap();
    assert_eq!((report.snapshot_id, &*report.operator), (1, "state"));
    assert!(
        ways(&report).values().all(|way| *way == ExportWay::Moved),
        "{report:?}"
    );
    let bytes: u64 = report.tables.iter().map(|table| table.bytes).sum();
    assert_eq!(told.get(), (bytes, bytes));
    assert!(!beside(&out).exists());
    check_files(&out);
    let objects = snapshots(&store).load("job", 1).unwrap();
    let files = tree(&out)
        .into_iter()
        .filter(|(name, _)| name.ends_with(".sst"));
    assert_eq!(
        files.count(),
        objects.files().count(),
        "each file came as it is"
    );
    let all = KeyGroupRange::all(rescale::GROUPS).unwrap();
    let columns = found(&Options::default(), &out);
    assert!(columns == oracle(&store, 1, all));
    let counts = columns["counts"]
        .iter()
        .map(|((key, ..), value)| (key.clone(), value.clone()));
    let model = model
        .iter()
        .map(|(key, value)| (encode(key), encode(value)));
    assert!(counts.eq(model.collect::<BTreeMap<_, _>>()));
}

#[test]
fn state_of_many_subtasks_is_rewritten_where_it_must_be() {
    let store = counted(MemoryStore::new());
    let (_, mut model) = rescaled(&store);
    let running = Running::start_with(&store, 2, LoadPolicy::OnDemand, false);
    running.each(|backend| {
        let late = backend.value_state(&LATE).unwrap();
        let range = backend.key_group_range();
        for key in 0..2_000u32 {
            // Each subtask has its own: another's is refused.
            let _ = late.put(&key, &format!("{key} of {range}"));
        }
        write(backend, &mut model, 0..50, 60);
    });
    let id = running.snapshot().id;
    let temp = fast_tempdir();
    let all = KeyGroupRange::all(rescale::GROUPS).unwrap();
    for (start, end) in [(0, 31), (3, 17), (0, 8)] {
        let range = KeyGroupRange::new(start, end).unwrap();
        let out = temp.path().join(range.to_string());
        let report = export(&store, job().key_group_range(range), &out).unwrap();
        let ways = ways(&report);
        assert!(
            matches!(ways["counts"], ExportWay::Rewritten { .. }),
            "{report:?}"
        );
        let columns = found(&Options::default(), &out);
        let expected = oracle(&store, id, range);
        for name in ["counts", "clicks"] {
            assert!(columns[name] == expected[name], "{name} of {range}");
        }
        let late: BTreeSet<_> = columns["late"]
            .keys()
            .map(|(key, ..)| key.clone())
            .collect();
        if range == all {
            assert_eq!(
                ways["late"],
                ExportWay::Moved,
                "its files are of one subtask each"
            );
            assert_eq!(late, (0..2_000u32).map(|key| encode(&key)).collect());
            assert_eq!(columns["counts"].len(), model.len());
        }
        assert_eq!(columns.len(), 3);
        check_files(&out);
    }
}

#[test]
fn an_export_can_be_written_and_has_no_options_of_its_own() {
    let store = counted(MemoryStore::new());
    let (id, _) = rescaled(&store);
    let temp = fast_tempdir();
    let all = KeyGroupRange::all(rescale::GROUPS).unwrap();
    for rewrite in [false, true] {
        let out = temp.path().join(format!("out-{rewrite}"));
        let to = ExportOptions::new(&out).rewrite(rewrite);
        lazurite::export(&snapshots(&store), job(), to, &|_, _| {}).unwrap();
        let names = DB::list_cf(&Options::default(), &out).unwrap();
        {
            let db = DB::open_cf(&Options::default(), &out, &names).unwrap();
            let counts = db.cf_handle("counts").unwrap();
            db.compact_range_cf(&counts, None::<&[u8]>, None::<&[u8]>);
            db.put_cf(&counts, b"\x00\x1f\x01k\x00", b"new").unwrap();
        }
        let mut expected = oracle(&store, id, all);
        let counts = expected.get_mut("counts").unwrap();
        counts.insert((b"k".to_vec(), vec![], vec![]), b"new".to_vec());
        // The options that RocksDB wrote meanwhile name nothing that only an engine knows.
        let cache = Cache::new_lru_cache(1 << 20);
        let env = rocksdb::Env::new().unwrap();
        let (options, columns) = Options::load_latest(&out, env, false, cache).unwrap();
        assert_eq!(columns.len(), 3);
        assert!(found(&options, &out) == expected);
    }
}

#[test]
fn an_older_snapshot_and_an_empty_table() {
    let store = counted(MemoryStore::new());
    let dir = fast_tempdir();
    let backend = tiny(dir.path()).remote_store(Arc::new(store.clone()));
    let backend = backend.retained_snapshots(2).open().unwrap();
    let late = backend.value_state(&LATE).unwrap();
    for version in ["old", "new"] {
        backend.value_state(&rescale::COUNTS).unwrap();
        late.put(&1, &version.to_string()).unwrap();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        pending.wait().unwrap();
    }
    let temp = fast_tempdir();
    for (id, version) in [(1, "old"), (2, "new")] {
        let out = temp.path().join(version);
        std::fs::create_dir(&out).unwrap(); // an empty one is as good
        let report = export(&store, job().snapshot(id), &out).unwrap();
        assert_eq!(report.snapshot_id, id);
        let columns = found(&Options::default(), &out);
        assert_eq!(columns["counts"].len(), 0);
        let value = encode(&version.to_string());
        assert_eq!(columns["late"].values().collect::<Vec<_>>(), [&value]);
    }
}

#[test]
fn what_is_there_is_left_alone() {
    let store = counted(MemoryStore::new());
    written(&store);
    let temp = fast_tempdir();
    let out = temp.path().join("out");
    let refused = |why: &str| {
        let before = tree(temp.path());
        let error = export(&store, job(), &out).unwrap_err();
        assert!(matches!(error, Error::LocalDirectory { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(tree(temp.path()), before);
    };
    std::fs::write(&out, "a file").unwrap();
    refused("it is a file");
    std::fs::remove_file(&out).unwrap();
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "").unwrap();
    refused("not empty");
    std::fs::remove_dir_all(&out).unwrap();
    std::fs::create_dir(beside(&out)).unwrap();
    std::fs::write(beside(&out).join("mine"), "").unwrap();
    refused("not what an export has left");
    std::fs::remove_file(beside(&out).join("mine")).unwrap();
    let other = PosixEnv
        .lock(&beside(&out).join("LAZURITE-EXPORT"))
        .unwrap();
    refused("another export");
    drop(other);
    // What one that was killed has left goes.
    std::fs::create_dir_all(beside(&out).join("state/db")).unwrap();
    std::fs::write(beside(&out).join("state/db/CURRENT"), "MANIFEST-000001\n").unwrap();
    std::fs::create_dir_all(beside(&out).join("rewritten")).unwrap();
    std::fs::write(beside(&out).join("rewritten/counts-0.sst"), "x").unwrap();
    export(&store, job(), &out).unwrap();
    assert!(!beside(&out).exists());
    refused("not empty");
    let below = temp.path().join("missing/out");
    export(&store, job(), &below).unwrap();
    check_files(&below);
}

#[test]
fn a_store_that_fails_leaves_nothing() {
    let inner = MemoryStore::new();
    let (id, _) = rescaled(&counted(inner.clone()));
    let plan = FaultPlan::new();
    let broken = FaultStore::new(Arc::new(inner.clone()), plan.clone());
    let store = CountingStore::new(Arc::new(broken));
    let all = KeyGroupRange::all(rescale::GROUPS).unwrap();
    let temp = fast_tempdir();
    let (mut failed, mut i) = (0, 0);
    loop {
        let out = temp.path().join(format!("out-{i}"));
        // All requests from the i-th on are denied, or answered with other bytes.
        plan.set_filter(|op: Op| op.is_remote(), "");
        match (i + 1) % 16 {
            1.. => plan.fail_from(i, Effect::Fail(ErrorKind::PermissionDenied)),
            0 => plan.fail_from(i, Effect::Corrupt),
        }
        plan.enable();
        let result = export(&store, job().snapshot(id), &out);
        plan.disable();
        let injected = plan.injected() > 0;
        assert!(!beside(&out).exists());
        match result {
            Err(error) => {
                assert!(injected, "{error}");
                assert!(!out.exists(), "{error}");
                failed += 1;
            }
            Ok(_) => {
                assert!(
                    found(&Options::default(), &out) == oracle(&counted(inner.clone()), id, all)
                );
                if !injected {
                    break;
                }
            }
        }
        i += 1;
    }
    println!("{failed} exports of {i} failed");
    assert!(failed > 5);
}
