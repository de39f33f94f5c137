//! The background download: promotion under readers, order, switches, and what is never promoted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use lazurite_env::{ErrorKind, FaultEnv, FaultPlan, Op};

use super::*;

#[test]
fn everything_becomes_local_and_right() {
    let (world, base, union, snapshot) = four_remote();
    union.download().wait_until_local().unwrap();
    assert_eq!(union.remote_files(), 0);
    for (name, bytes) in &snapshot.contents {
        assert!(union.is_local(name));
        assert_eq!(read_file(&base, &db(name)).unwrap(), *bytes);
    }
    let progress = union.download().progress();
    assert_eq!((progress.files_total, progress.files_done), (4, 4));
    assert_eq!((progress.bytes_total, progress.bytes_done), (4006, 4006));
    assert!(progress.failed.is_empty());
    // The tails were here already.
    let bytes: u64 = world
        .store
        .take_requests()
        .iter()
        .map(|(_, range)| range.end - range.start)
        .sum();
    assert_eq!(bytes, 4006 - 4 * TAIL);
    assert_eq!(union.stats().download_bytes, bytes);
    assert_eq!(world.open(&base.crash_clone(0)).remote_files(), 0);
    assert!(
        base.list(&Path::new(ROOT).join("download"))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn low_levels_come_first() {
    let world = World::new();
    let mut options = world.options(Arc::new(MemEnv::new()));
    options.download.parallel_files = 1;
    options.download.chunk_bytes = 1 << 20;
    let union = UnionEnv::open(options).unwrap();
    // Levels are the number modulo 3.
    world
        .snapshot(&[(16, 1, 500), (14, 2, 500), (15, 3, 500), (12, 4, 500)])
        .restore(&union)
        .unwrap();
    union.download().wait_until_local().unwrap();
    let order: Vec<_> = world
        .store
        .take_requests()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(order, [4, 3, 1, 2].map(key));
}

#[test]
fn hot_files_come_first_also_those_that_are_queued_already() {
    let world = World::new();
    let mut options = world.options(Arc::new(MemEnv::new()));
    options.download.parallel_files = 1;
    options.download.chunk_bytes = 1 << 20;
    let union = UnionEnv::open(options).unwrap();
    // Levels are the number modulo 3.
    world
        .snapshot(&[(16, 1, 500), (14, 2, 500), (15, 3, 500), (12, 4, 500)])
        .restore(&union)
        .unwrap();
    let heat = |of: &[(u64, u64)]| of.iter().map(|(n, heat)| (name(*n), *heat)).collect();
    union.download().set_heat(heat(&[(14, u64::MAX), (99, 7)]));
    union.download().pause();
    union.download().start().unwrap();
    union.download().set_heat(heat(&[(14, 5), (16, u64::MAX)]));
    union.download().resume();
    union.download().wait_until_local().unwrap();
    let requests = world.store.take_requests();
    let order: Vec<_> = requests.into_iter().map(|(key, _)| key).collect();
    assert_eq!(order, [1, 2, 4, 3].map(key));
}

#[test]
fn readers_see_no_difference_while_files_are_promoted() {
    let world = World::new();
    let union = world.open(&MemEnv::new());
    let files: Vec<_> = (0..20).map(|i| (100 + i, i, 20_000 + i as usize)).collect();
    let snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..4usize {
            let (union, snapshot, done) = (&union, &snapshot, &done);
            scope.spawn(move || {
                let open = |name: &String| union.open_random(&db(name)).unwrap();
                let handles: Vec<_> = snapshot.contents.keys().map(open).collect();
                let mut round = thread;
                loop {
                    // One more pass after the end: by then every handle reads its local file.
                    let last = done.load(Ordering::SeqCst);
                    for (handle, bytes) in handles.iter().zip(snapshot.contents.values()) {
                        let offset = round * 7919 % 20_000;
                        let end = bytes.len().min(offset + 300);
                        assert_eq!(
                            read_at(&**handle, offset as u64, 300).unwrap(),
                            bytes[offset..end]
                        );
                        round += 1;
                    }
                    if last {
                        return;
                    }
                }
            });
        }
        union.download().wait_until_local().unwrap();
        done.store(true, Ordering::SeqCst);
    });
    let stats = union.stats();
    assert!(stats.promoted_reads >= 80, "{stats:?}");
    assert_eq!((stats.remote_files, stats.local_files), (0, 20));
}

#[test]
fn a_corrupt_object_is_never_promoted_and_is_reported() {
    let (world, base, union, _) = four_remote();
    world.store.damage(&key(2), 500);
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Corruption, key(2).as_str())
    );
    wait_for(|| union.remote_files() == 1);
    assert!(!union.is_local(&name(13)));
    assert!(base.stat(&db(&name(13))).is_err());
    wait_for(|| {
        base.list(&Path::new(ROOT).join("download"))
            .unwrap()
            .is_empty()
    });
    let progress = union.download().progress();
    assert_eq!((progress.files_total, progress.files_done), (4, 3));
    assert_eq!(progress.bytes_done, 4006 - 1001);
    assert_eq!(progress.failed[0].0, name(13));

    // Mended, it is tried again when it is asked for.
    world.store.insert(&key(2), content(2, 1001));
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    let progress = union.download().progress();
    assert_eq!(
        (
            progress.files_total,
            progress.files_done,
            progress.failed.len()
        ),
        (4, 4, 0)
    );
    assert_eq!((progress.bytes_total, progress.bytes_done), (4006, 4006));
}

#[test]
fn a_missing_object_and_a_panicking_store_are_failures() {
    let (world, _, union, _) = four_remote();
    world
        .runtime
        .wait({
            let store = world.store.clone();
            async move { lazurite_env::remote::RemoteStore::delete(&*store, &key(1)).await }
        })
        .unwrap();
    crate::sync::lock(&world.store.poisoned).insert(key(3));
    union.download().start().unwrap();
    wait_for(|| union.download().progress().failed.len() == 2);
    let kind = |at: &str| {
        let failed = union.download().progress().failed;
        failed.iter().find(|(name, _)| name == at).unwrap().1.kind()
    };
    assert_eq!(kind(&name(12)), ErrorKind::NotFound);
    assert_eq!(kind(&name(14)), ErrorKind::Panicked);
    wait_for(|| union.remote_files() == 2);
}

#[test]
fn an_outage_is_waited_for() {
    let (world, _, union, _) = four_remote();
    world.store.outage.store(12, Ordering::SeqCst);
    union.download().wait_until_local().unwrap();
    assert_eq!(union.download().progress().bytes_done, 4006);
}

#[test]
fn a_full_disk_is_reported_and_reads_go_on() {
    let world = World::new();
    // The disk gives blocks of 4 KiB, and a file on its way needs two more than its bytes.
    let base = MemEnv::with_capacity(30_000);
    let union = world.open(&base);
    let snapshot = world.snapshot(&[(12, 1, 2000), (13, 2, 2000), (14, 3, 20_000)]);
    snapshot.restore(&union).unwrap();
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    wait_for(|| union.remote_files() == 1);
    assert_eq!(
        read_file(&*union, &db(&name(14))).unwrap(),
        snapshot.contents[&name(14)]
    );
    union.delete(&db(&name(14))).unwrap();
    union.download().wait_until_local().unwrap();
}

#[test]
fn pause_resume_and_stop() {
    let (world, base, union, _) = four_remote();
    let download = union.download();
    download.pause();
    download.start().unwrap();
    thread::sleep(Duration::from_millis(30));
    assert!(world.store.take_requests().is_empty() && download.progress().paused);
    download.resume();
    download.wait_until_local().unwrap();

    // Stopped while the store does not answer.
    let snapshot = world.snapshot(&[(22, 5, 1000), (23, 6, 1000)]);
    snapshot.restore(&union).unwrap();
    world.store.close_gate();
    download.start().unwrap();
    wait_for(|| world.store.take_requests().len() > 1);
    let waiting = thread::spawn({
        let union = union.clone();
        move || union.download().wait_until_local().unwrap_err().kind()
    });
    thread::sleep(Duration::from_millis(30));
    let begin = Instant::now();
    download.stop();
    assert!(begin.elapsed() < Duration::from_secs(2));
    // On a busy machine it may not have begun to wait before.
    while !waiting.is_finished() {
        download.stop();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(waiting.join().unwrap(), ErrorKind::Unavailable);
    assert!(
        base.list(&Path::new(ROOT).join("download"))
            .unwrap()
            .is_empty()
    );
    // Another stop and a drop are quick too, and a start goes on.
    download.stop();
    download.start().unwrap();
    world.store.open_gate();
    download.wait_until_local().unwrap();
    let progress = download.progress();
    assert_eq!((progress.files_total, progress.files_done), (2, 2));
}

#[test]
fn dropping_the_union_ends_the_download_and_open_files_stay_readable() {
    let (world, _, union, snapshot) = four_remote();
    let file = union.open_random(&db(&name(12))).unwrap();
    world.store.close_gate();
    union.download().start().unwrap();
    drop(union);
    world.store.open_gate();
    assert_eq!(
        read_at(&*file, 0, 2000).unwrap(),
        snapshot.contents[&name(12)]
    );
}

#[test]
fn a_file_that_is_deleted_on_its_way_does_not_come_back() {
    for round in 0..60 {
        let (world, base, union, _) = four_remote();
        union.download().start().unwrap();
        if round % 3 == 0 {
            world.store.close_gate();
            wait_for(|| !world.store.take_requests().is_empty() || union.remote_files() == 0);
        }
        thread::sleep(Duration::from_micros(round * 20));
        for number in 12..16 {
            union.delete(&db(&name(number))).unwrap();
        }
        world.store.open_gate();
        union.download().wait_until_local().unwrap();
        union.download().stop();
        assert!(
            base.list(union.db_dir()).unwrap().is_empty(),
            "round {round}"
        );
        assert!(listed(&union).is_empty());
        let progress = union.download().progress();
        assert_eq!(progress.files_total, progress.files_done);
        assert_eq!(progress.bytes_total, progress.bytes_done);
    }
}

#[test]
fn each_local_failure_is_survived_and_nothing_wrong_becomes_local() {
    for effect in [
        lazurite_env::Effect::Fail(ErrorKind::Io),
        lazurite_env::Effect::FailAfter(ErrorKind::Io),
    ] {
        for i in 0.. {
            let world = World::new();
            let (base, plan) = (MemEnv::new(), FaultPlan::new());
            let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
            let union = world.try_open(Arc::new(env)).unwrap();
            let snapshot = world.snapshot(&[(12, 1, 1000)]);
            snapshot.restore(&union).unwrap();
            plan.set_filter(|op| op != Op::Delete, "");
            plan.fail_nth(i, effect);
            // One failure is less than the attempts that each file has.
            union.download().wait_until_local().unwrap();
            assert_eq!(
                read_file(&base, &db(&name(12))).unwrap(),
                snapshot.contents[&name(12)]
            );
            if plan.injected() == 0 {
                assert!(i > 5);
                break;
            }
        }
    }
}

pub(super) fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A union whose download brings each file of the tests by one request.
fn one_request_a_file(world: &World, base: Arc<dyn Env>) -> Arc<UnionEnv> {
    let mut options = world.options(base);
    options.download.chunk_bytes = 1 << 20;
    UnionEnv::open(options).unwrap()
}

#[test]
fn a_file_of_one_request_leaves_nothing_in_the_cache_and_is_verified_all_the_same() {
    let world = World::new();
    let (base, plan) = (MemEnv::new(), FaultPlan::new());
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    // Nothing may be made or read where the cache is.
    plan.set_filter(|op| matches!(op, Op::OpenSparse), "cache");
    plan.fail_nth(0, lazurite_env::Effect::Fail(ErrorKind::Io));
    let union = one_request_a_file(&world, Arc::new(env));
    let snapshot = world.snapshot(&[(12, 1, 5000), (13, 2, 200_000), (14, 3, 1)]);
    world.store.damage(&key(2), 150_000);
    snapshot.restore(&union).unwrap();
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    wait_for(|| union.remote_files() == 1);
    assert!(!union.is_local(&name(13)));
    world.store.insert(&key(2), content(2, 200_000));
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(plan.injected(), 0);
    for (name, bytes) in &snapshot.contents {
        assert_eq!(read_file(&base, &db(name)).unwrap(), *bytes);
    }
    let stats = union.stats();
    assert_eq!((stats.cache_bytes, stats.cache_disk_failures), (0, 0));
}

#[test]
fn a_file_of_one_request_keeps_to_the_budget() {
    let world = World::new();
    let mut options = world.options(Arc::new(MemEnv::new()));
    options.download.chunk_bytes = 1 << 20;
    options.cache.budget_bytes = 100_000;
    let union = UnionEnv::open(options).unwrap();
    let snapshot = world.snapshot(&[(12, 1, 90_000), (13, 2, 200_000), (14, 3, 90_000)]);
    snapshot.restore(&union).unwrap();
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    union.set_cache_budget(u64::MAX);
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(union.stats().cache_bytes, 0);
}

#[test]
fn progress_tells_how_long_the_rest_takes() {
    let (world, _, union, _) = four_remote();
    let download = union.download();
    assert_eq!(download.progress().bytes_per_second, 0);
    world.store.close_gate();
    download.start().unwrap();
    wait_for(|| download.progress().bytes_total == 4006);
    assert_eq!(download.progress().eta, None);
    world.store.open_gate();
    download.wait_until_local().unwrap();
    let progress = download.progress();
    assert!(progress.bytes_per_second > 0);
    assert_eq!(progress.eta, Some(Duration::ZERO));
    download.pause();
    assert_eq!(download.progress().eta, None);
}

#[test]
fn the_download_keeps_to_its_rate_which_can_be_changed() {
    let world = World::new();
    let mut options = world.options(Arc::new(MemEnv::new()));
    options.transfer_bytes_per_second = Some(1_000_000);
    options.download.chunk_bytes = 20_000;
    let union = UnionEnv::open(options).unwrap();
    world
        .snapshot(&[(12, 1, 200_000), (13, 2, 20_000_000)])
        .restore(&union)
        .unwrap();
    let begin = Instant::now();
    union.download().start().unwrap();
    wait_for(|| union.stats().download_bytes >= 400_000);
    // What was saved up and requests under way apart.
    assert!(
        begin.elapsed() > Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
    union.transfer_budget().set(None);
    union.download().wait_until_local().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn reads_wait_for_no_budget() {
    let world = World::new();
    let mut options = world.options(Arc::new(MemEnv::new()));
    options.transfer_bytes_per_second = Some(10);
    let union = UnionEnv::open(options).unwrap();
    let snapshot = world.snapshot(&[(12, 1, 200_000)]);
    snapshot.restore(&union).unwrap();
    let begin = Instant::now();
    union.download().start().unwrap();
    let bytes = read_file(&*union, &db(&name(12))).unwrap();
    assert_eq!(bytes, snapshot.contents[&name(12)]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Nor does a stop wait for a transfer that does.
    union.download().stop();
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(union.stats().download_bytes < 100_000);
}
