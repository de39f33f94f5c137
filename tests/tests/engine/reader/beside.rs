//! Readers of a job that goes on.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::*;

#[test]
fn a_job_at_work_is_read_beside() {
    let store = counted(MemoryStore::new());
    let dir = fast_tempdir();
    let backend = tiny(dir.path())
        .remote_store(Arc::new(store.clone()))
        .open()
        .unwrap();
    let counts = backend.value_state(&COUNTS).unwrap();
    let put = |version: u32| {
        for key in 0..500u32 {
            counts.put(&key, &format!("{version}-{key}")).unwrap();
        }
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        assert_eq!(pending.wait().unwrap().id, u64::from(version));
    };
    put(1);
    let done = AtomicBool::new(false);
    let (read, gone) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut read, mut gone) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let found = SnapshotReader::open(&snapshots(&store), job()).and_then(|reader| {
                    let entries = all(&reader.table("counts")?)?;
                    Ok((reader.snapshot_id(), entries))
                });
                match found {
                    Ok((id, entries)) => {
                        assert_eq!(entries.len(), 500);
                        let of_one = |((key, ..), value): (&(Vec<u8>, _, _), &Vec<u8>)| {
                            let key: u32 = Postcard.decode(key).unwrap();
                            *value == encode(&format!("{id}-{key}"))
                        };
                        assert!(entries.iter().all(of_one), "not all is of {id}");
                        read += 1;
                    }
                    // Only one is retained.
                    Err(Error::SnapshotNotFound { .. }) => gone += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (read, gone)
        });
        for version in 2..=120 {
            put(version);
            thread::sleep(Duration::from_millis(u64::from(version) % 40));
        }
        done.store(true, Ordering::Relaxed);
        reading.join().unwrap()
    });
    println!("{read} snapshots were read, {gone} were gone meanwhile");
    assert!(read > 5 && gone > 0);
}

#[test]
fn a_snapshot_that_goes_while_it_is_read_is_said_to_be_gone() {
    let store = counted(MemoryStore::new());
    let dir = fast_tempdir();
    let backend = tiny(dir.path())
        .remote_store(Arc::new(store.clone()))
        .open()
        .unwrap();
    let counts = backend.value_state(&COUNTS).unwrap();
    let snapshot = |version: u32| {
        (0..500u32).for_each(|key| counts.put(&key, &format!("{version}-{key}")).unwrap());
        backend.flush().unwrap();
        backend.compact().unwrap();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        pending.wait().unwrap();
    };
    snapshot(1);
    let reader = SnapshotReader::open(&snapshots(&store), job()).unwrap();
    snapshot(2);
    let table = reader.table("counts").unwrap();
    let key = encode(&7u32);
    let at = RawKey {
        key: &key,
        ..RawKey::default()
    };
    for error in [table.get(at).unwrap_err(), all(&table).unwrap_err()] {
        assert!(
            matches!(error, Error::SnapshotNotFound { id: 1, .. }),
            "{error}"
        );
    }
    let mut entries = table.entries().unwrap();
    assert!(entries.next().unwrap().is_err());
    assert!(entries.next().is_none(), "it has ended");
    let gone = SnapshotReader::open(&snapshots(&store), job().snapshot(1)).unwrap_err();
    assert!(
        matches!(gone, Error::SnapshotNotFound { id: 1, .. }),
        "{gone}"
    );
}
