//! What RocksDB wrote, read and written again.

use super::*;

/// A database with all that a MANIFEST tells of: files in several levels, overlapping in level 0, deleted, of a column
/// family that was dropped, and records of several opens.
fn store() -> Store {
    let mut store = Store::create(&["a", "b"], (0, 20));
    store.churn(1, 600);
    let mut store = store.reopen();
    store.db.create_column("empty").unwrap();
    store.db.create_column("gone").unwrap();
    store.models.insert("gone".into(), Model::new());
    store.churn(2, 300);
    store.db.db.drop_cf("gone").unwrap();
    store.models.remove("gone");
    store.models.insert("empty".into(), Model::new());
    store
}

fn manifest_of(dir: &Path) -> Manifest {
    let current = fs::read_to_string(dir.join("CURRENT")).unwrap();
    let bytes = fs::read(dir.join(current.trim_end())).unwrap();
    Manifest::decode("m", &bytes).unwrap()
}

#[test]
fn a_manifest_says_what_rocksdb_says() {
    let mut store = store();
    store.churn(3, 200);
    for name in ["a", "b"] {
        for n in 0..3 {
            store.put(name, key(n, 0), b"overlaps");
            store.put(name, key(20 - n, 0), b"overlaps");
            store.db.flush_all().unwrap();
        }
    }
    let manifest = store.snapshot().manifest;
    let mut expected = Vec::new();
    let mut levels = HashSet::new();
    for file in store.db.live_files().unwrap() {
        if let Some(table) = file.table {
            levels.insert(table.level);
            let keys = (table.smallest, table.largest);
            expected.push((table.column, table.level, file.name, file.len, keys));
        }
    }
    let mut found = Vec::new();
    for column in &manifest.columns {
        assert_eq!(column.comparator, BYTEWISE);
        let upper = column.files.iter().filter(|file| file.level == 0);
        let epochs: Vec<u64> = upper.map(|file| file.epoch).collect();
        assert!(epochs.is_sorted_by(|a, b| a > b), "{epochs:?}");
        for file in &column.files {
            let keys = (
                user_key(&file.smallest).to_vec(),
                user_key(&file.largest).to_vec(),
            );
            let name = format!("{:06}.sst", file.number);
            found.push((column.name.clone(), file.level, name, file.len, keys));
            assert!(file.largest_seqno <= manifest.last_sequence);
            assert!(file.epoch > 0 && file.custom.iter().any(|(field, _)| *field == 12)); // its unique id
        }
    }
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert!(levels.len() > 1 && expected.len() > 8, "{expected:?}");
    let names: Vec<&str> = manifest.columns.iter().map(|c| &c.name[..]).collect();
    assert_eq!(names, ["default", "a", "b", "empty"]);
    assert_eq!(manifest.max_column_family, 4); // that of the one that is gone
    assert!(manifest.db_id.is_some());
}

#[test]
fn what_is_encoded_opens_and_holds_everything() {
    let store = store();
    let snapshot = store.snapshot();
    let encoded = snapshot.manifest.encode().unwrap();
    assert_eq!(Manifest::decode("m", &encoded).unwrap(), snapshot.manifest);
    for wal in [false, true] {
        let dir = snapshot.place(&encoded);
        let copy = Store::open(dir, snapshot.models.clone(), (0, 20), wal);
        copy.verify();
        let mut copy = copy.exercise(10);
        assert!(copy.snapshot().manifest.last_sequence > snapshot.manifest.last_sequence);
        if wal {
            copy.put("a", key(1, 1), b"only in the log");
            copy.reopen().verify();
        }
    }
    store.verify();
}

#[test]
fn rocksdb_keeps_every_field_of_what_is_encoded() {
    let snapshot = store().snapshot();
    let dir = snapshot.place(&snapshot.manifest.encode().unwrap());
    let number = snapshot.manifest.next_file_number - 1;
    drop(open(dir.path(), false, &[]));
    let written = manifest_of(dir.path());
    assert!(!dir.path().join(format!("MANIFEST-{number:06}")).exists());
    assert!(written.next_file_number > snapshot.manifest.next_file_number);
    assert_eq!(
        written,
        Manifest {
            next_file_number: written.next_file_number,
            ..snapshot.manifest
        }
    );
}

#[test]
fn a_log_that_lies_about_is_not_played_into_what_is_encoded() {
    let mut store = Store::create(&["a"], (0, 9));
    store.churn(1, 100);
    let snapshot = store.snapshot();
    let dir = snapshot.place(&snapshot.manifest.encode().unwrap());
    // A log of another database, whose number is one of those that the snapshot has used.
    let other = TempDir::new().unwrap();
    let db = open(other.path(), true, &["a"]);
    db.column("a").unwrap().put(&key(1, 1), b"foreign").unwrap();
    drop(db);
    for entry in fs::read_dir(other.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|e| e == "log") {
            fs::copy(entry.path(), dir.path().join("000004.log")).unwrap();
        }
    }
    assert!(dir.path().join("000004.log").exists());
    Store::open(dir, snapshot.models, (0, 9), true).verify();
}

#[test]
fn records_longer_than_a_block_go_both_ways() {
    let mut store = Store::create(&["a"], (0, 9));
    let long = |n: u16| [begin(n % 10), vec![n as u8; 2_000 + usize::from(n)]].concat();
    for n in 0..30 {
        store.put("a", long(n), b"first");
        store.put("a", long(n + 100), b"second");
        store.db.flush_all().unwrap();
    }
    let store = store.reopen(); // writes the MANIFEST afresh
    let snapshot = store.snapshot();
    assert!(snapshot.bytes.len() > 100_000, "{}", snapshot.bytes.len());
    let encoded = snapshot.manifest.encode().unwrap();
    assert_eq!(Manifest::decode("m", &encoded).unwrap(), snapshot.manifest);
    let dir = snapshot.place(&encoded);
    Store::open(dir, snapshot.models, (0, 9), false).exercise(20);
}

#[test]
fn records_of_every_length_around_the_end_of_a_block_go_both_ways() {
    for len in (32_700..32_800).chain(65_400..65_600) {
        let records = [vec![1; len], Vec::new(), vec![2; 100], vec![3; len]];
        let mut log = Vec::new();
        for record in &records {
            log::append(&mut log, record);
        }
        let mut reader = log::Records::new(&log);
        for record in &records {
            assert_eq!(*reader.next().unwrap().unwrap().bytes, **record, "{len}");
        }
        assert!(reader.next().unwrap().is_none());
    }
}
