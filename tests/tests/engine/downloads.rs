//! The download behind a restore: what comes first, how quickly, and who may change that while it runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::{
    DownloadOptions, Error, LoadPolicy, RocksDbOptions, SnapshotOptions, StateBackend,
    StateBackendBuilder,
};
use lazurite_env::remote::{DelayStore, LinkOptions};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

const FILE_BYTES: u64 = 64 << 10;
const KEYS: u64 = 3000;

fn quiet(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder.rocksdb(RocksDbOptions {
        auto_compactions: false,
        target_file_bytes: FILE_BYTES,
        level_base_bytes: 1 << 20,
        ..RocksDbOptions::default()
    })
}

/// A state in many files, none of which overlaps another. Nothing of it is in the store.
fn many_files(world: &World) -> StateBackend {
    let backend = quiet(world.builder()).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    // Two files that overlap, so that the compaction has something to do.
    for rest in 0..2 {
        fill(&table, (0..KEYS).filter(|key| key % 2 == rest), 0, 1000);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    drop(table);
    backend
}

#[test]
fn what_was_read_most_comes_back_first() {
    let world = World::new();
    let backend = many_files(&world);
    let cold = snapshot(&backend).id;
    assert!(
        world.metadata(cold).subtasks[0]
            .files
            .iter()
            .all(|f| f.heat.is_none())
    );
    let table = backend.value_state(&COUNTS).unwrap();
    // RocksDB counts one read of 1,024: some hundred are enough to tell.
    let value = Some(value(1500, 0, 1000));
    for _ in 0..300_000 {
        assert!(table.get(&1500).unwrap() == value);
    }
    let id = snapshot(&backend).id;
    let metadata = world.metadata(id);
    let hottest = metadata.files().max_by_key(|f| f.heat).unwrap().clone();
    let heat = hottest.heat.unwrap();
    assert!((100_000..1_000_000).contains(&heat), "{heat}");
    assert_eq!(
        metadata.subtasks[0]
            .files
            .iter()
            .filter(|f| f.heat.is_some())
            .count(),
        1
    );
    assert_ne!(
        metadata.subtasks[0].files[0], hottest,
        "it would come first anyway"
    );
    drop((table, backend));

    world.lose_disk();
    world.store.start_recording();
    let backend = quiet(world.builder())
        .load_policy(LoadPolicy::Eager)
        .download(DownloadOptions {
            parallel_files: 1,
            ..DownloadOptions::default()
        })
        .open()
        .unwrap();
    let mut records = world.store.take_recording();
    records.sort_by_key(|record| record.start);
    let first = records.iter().find(|r| r.key.ends_with(".sst")).unwrap();
    assert_eq!(first.key, hottest.key);

    // It is known on, also where nobody reads.
    let id = snapshot(&backend).id;
    let files = world.metadata(id).subtasks[0].files.clone();
    let same = files.iter().find(|f| f.key == hottest.key).unwrap();
    let kept = same.heat.unwrap();
    assert!(heat / 2 < kept && kept <= heat, "{kept} of {heat}");
}

#[test]
fn uploads_keep_to_the_budget_which_can_be_changed() {
    let world = World::new();
    drop(many_files(&world));
    let error = world
        .builder()
        .transfer_bytes_per_second(1)
        .open()
        .unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let backend = quiet(world.builder())
        .transfer_bytes_per_second(1 << 20)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for rest in 0..2 {
        fill(&table, (0..KEYS).filter(|key| key % 2 == rest), 1, 1000);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    assert!(backend.set_transfer_bytes_per_second(Some(1)).is_err());
    let before = world.store.snapshot();
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let sent = world.store.snapshot().since(&before).bytes_out;
    // Half a second, what was saved up, and what four threads have under way.
    assert!(sent < 1 << 20, "{sent}");
    backend.set_transfer_bytes_per_second(None).unwrap();
    let began = Instant::now();
    let report = pending.wait().unwrap();
    assert!(report.uploaded_bytes > 2 << 20, "{report:?}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_policy_changes_while_it_runs() {
    let world = World::new();
    let backend = many_files(&world);
    snapshot(&backend);
    drop(backend);
    world.lose_disk();
    let slow = LinkOptions {
        latency: Duration::from_millis(20),
        bytes_per_second: 0,
    };
    let store = DelayStore::new(Arc::new(world.store.clone()), slow).unwrap();
    let backend = quiet(world.builder_over(Arc::new(store)))
        .load_policy(LoadPolicy::OnDemand)
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let files = backend.tier().remote_files;
    assert!(files > 20, "{files}");
    backend.download().pause();
    backend.set_load_policy(LoadPolicy::Lazy).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while backend.tier().remote_files == files {
        assert!(Instant::now() < until, "nothing comes");
        std::thread::sleep(Duration::from_millis(1));
    }
    let progress = backend.download_progress();
    assert!(
        progress.eta.is_some() && progress.bytes_per_second > 0,
        "{progress:?}"
    );
    backend.set_load_policy(LoadPolicy::OnDemand).unwrap();
    let left = backend.tier().remote_files;
    assert!(left > 0, "the download was over too soon to tell");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.tier().remote_files, left);
    for key in (0..KEYS).step_by(100) {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, 0, 1000)));
    }
    backend.set_load_policy(LoadPolicy::Eager).unwrap();
    assert_eq!(backend.tier().remote_files, 0);
}
