//! What a snapshot sends, and what it only names.

use lazurite::{LoadPolicy, RocksDbOptions};
use lazurite_env::remote::RequestKind;
use lazurite_tests::{World, fill, snapshot};

use super::{assert_tidy, open};

#[test]
fn a_snapshot_uploads_what_is_new_and_names_the_rest() {
    let world = World::new();
    let (backend, table) = open(&world);
    fill(&table, 0..1000, 0, 100);
    let first = snapshot(&backend);
    assert_eq!(
        (first.id, first.uploaded_files, first.reused_files),
        (1, 1, 0)
    );
    assert!(
        first.uploaded_data_bytes > 100_000 && first.uploaded_bytes > first.uploaded_data_bytes,
        "{first:?}"
    );

    fill(&table, 1000..1100, 0, 100);
    let before = world.store.snapshot();
    let second = snapshot(&backend);
    let sent = world.store.snapshot().since(&before).bytes_out;
    assert_eq!(
        (second.id, second.uploaded_files, second.reused_files),
        (2, 1, 1)
    );
    assert_eq!(second.reused_bytes, first.uploaded_data_bytes);
    assert_eq!(
        second.uploaded_bytes, sent,
        "the report tells every byte that was sent"
    );

    let third = snapshot(&backend);
    assert_eq!(
        (
            third.uploaded_files,
            third.uploaded_data_bytes,
            third.reused_files
        ),
        (0, 0, 2)
    );
    assert_tidy(&world);
    assert_eq!(world.metadata(3).subtasks[0].files.len(), 2);
}

#[test]
fn a_snapshot_of_nothing_comes_back_as_nothing() {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    assert!(backend.restored().is_none());
    let report = snapshot(&backend);
    assert_eq!((report.uploaded_files, report.reused_files), (0, 0));
    drop(backend);
    world.lose_disk();
    let (backend, table) = open(&world);
    assert_eq!(backend.restored().unwrap().files, 0);
    assert_eq!(table.iter().unwrap().count(), 0);
}

#[test]
fn a_snapshot_right_after_a_restore_uploads_no_table_file() {
    for policy in [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand] {
        let world = World::new();
        let (backend, table) = open(&world);
        for version in 0..4 {
            fill(&table, version * 300..(version + 1) * 300, version, 100);
            backend.flush().unwrap();
        }
        snapshot(&backend);
        let files = world.metadata(1).subtasks[0].files.clone();
        drop((table, backend));
        world.lose_disk();
        let options = RocksDbOptions {
            auto_compactions: false,
            ..RocksDbOptions::default()
        };
        let backend = world
            .builder()
            .load_policy(policy)
            .rocksdb(options)
            .open()
            .unwrap();
        world.store.start_recording();
        let report = snapshot(&backend);
        assert_eq!(report.uploaded_files, 0, "{policy:?}");
        assert_eq!(report.reused_files as usize, files.len());
        let sent = world
            .store
            .take_recording()
            .into_iter()
            .filter(|r| r.op == RequestKind::Put);
        let sent: Vec<String> = sent.map(|r| r.key).collect();
        assert!(sent.iter().all(|key| !key.ends_with(".sst")), "{sent:?}");
        assert_eq!(world.metadata(2).subtasks[0].files, files, "{policy:?}");
        assert_tidy(&world);
    }
}
