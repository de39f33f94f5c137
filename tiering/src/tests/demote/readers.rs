//! Readers that go on while files leave and come back.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::Instant,
};

use lazurite_env::{FaultEnv, FaultPlan, PosixEnv};

use super::*;

/// Ends the readers, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Readers of all kinds go on while files leave and come back in turn, on a real disk.
#[test]
fn readers_go_on_while_files_leave_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let mut options = world.options(Arc::new(PosixEnv));
    options.root = dir.path().to_owned();
    options.cache.block_reads = true;
    options.download.chunk_bytes = 8 * KIB;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (12..16)
        .map(|number| (number, number, 40 * KIB + number as usize))
        .collect();
    let snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    let paths: Vec<_> = snapshot
        .contents
        .keys()
        .map(|name| union.db_dir().join(name))
        .collect();
    let contents: Vec<_> = snapshot.contents.values().collect();
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (union, paths, contents, done, reads) = (&union, &paths, &contents, &done, &reads);
            scope.spawn(move || {
                let kept: Vec<_> = paths
                    .iter()
                    .map(|path| union.open_random(path).unwrap())
                    .collect();
                let mut i = thread * 7;
                while !done.load(SeqCst) {
                    i += 1;
                    let (file, at) = (i % 4, i * 997 % (40 * KIB));
                    let want = &contents[file][at..(at + 3000).min(contents[file].len())];
                    let found = match i % 3 {
                        0 => read_at(&*union.open_random(&paths[file]).unwrap(), at as u64, 3000),
                        _ => read_at(&*kept[file], at as u64, 3000),
                    };
                    assert_eq!(found.unwrap(), want, "{:?} at {at}", paths[file]);
                    assert_eq!(
                        union.stat(&paths[file]).unwrap().len,
                        contents[file].len() as u64
                    );
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        let stop = Stop(&done);
        for _ in 0..25 {
            union.download().wait_until_local().unwrap();
            let goal = reads.load(SeqCst) + 50;
            while reads.load(SeqCst) < goal {
                std::thread::yield_now();
            }
            for name in snapshot.contents.keys() {
                assert!(union.demote(name).unwrap());
            }
        }
        drop(stop);
    });
    assert_eq!(union.stats().demotions, 100);
}

/// The disk is looked at before each operation on it: neither download nor reads ever take more than the budget, of a disk
/// that gives space back only when the last handle is closed.
#[test]
fn a_download_and_reads_never_exceed_the_budget() {
    let capacity = 64 << 20;
    // Not in the budget: catalog and tails.
    let besides = 40 * 1024;
    let (world, budget) = (World::new(), 1024 * KIB as u64);
    let (base, plan) = (MemEnv::with_capacity(capacity), FaultPlan::new());
    let mut options = world.options(Arc::new(FaultEnv::new(
        Arc::new(base.clone()),
        plan.clone(),
    )));
    options.cache.block_reads = true;
    options.cache.disk_budget_bytes = budget;
    options.download.chunk_bytes = 16 * KIB;
    options.download.parallel_files = 4;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (10..60).map(|n| (n, n, 64 * KIB + n as usize)).collect();
    let snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    let paths: Vec<_> = snapshot.contents.keys().map(|name| db(name)).collect();
    let contents: Vec<_> = snapshot.contents.values().collect();
    let most = Arc::new(AtomicU64::new(0));
    let taken = move || capacity - base.free_space(Path::new(ROOT)).unwrap();
    {
        let (most, taken) = (most.clone(), taken.clone());
        plan.set_filter(
            move |_| {
                most.fetch_max(taken(), SeqCst);
                false
            },
            "",
        );
    }
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let stop = Stop(&done);
        for thread in 0..2 {
            let (union, paths, contents, done, reads) = (&union, &paths, &contents, &done, &reads);
            scope.spawn(move || {
                let mut i: usize = thread * 7;
                while !done.load(SeqCst) {
                    i += 1;
                    let (file, at) = (i * 31 % 50, i * 9_973 % (63 * KIB));
                    let found = read_at(&*union.open_random(&paths[file]).unwrap(), at as u64, 900);
                    assert!(
                        found.unwrap() == contents[file][at..at + 900],
                        "{file} at {at}"
                    );
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        let some_reads = || {
            let goal = reads.load(SeqCst) + 1_000;
            while reads.load(SeqCst) < goal && !done.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for _ in 0..4 {
            union.set_disk_budget(budget);
            union.download().start().unwrap();
            some_reads();
            // What is on its way lands yet, and goes then.
            union.set_disk_budget(budget / 2);
            union.download().stop();
            some_reads();
            union.set_disk_budget(budget / 2);
            most.store(0, SeqCst);
            some_reads();
            let most = most.load(SeqCst);
            assert!(most > 0 && most <= budget / 2 + besides, "{most}");
        }
        most.store(0, SeqCst);
        union.set_disk_budget(budget);
        union.download().start().unwrap();
        some_reads();
        let until = Instant::now() + Duration::from_secs(20);
        while union.stats().table_bytes <= budget / 2 && !done.load(SeqCst) {
            assert!(Instant::now() < until, "{:?}", union.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(stop);
    });
    let (most, stats) = (most.load(SeqCst), union.stats());
    assert!(
        most > budget / 2 && most <= budget + besides,
        "{most}: {stats:?}"
    );
    assert!(
        stats.table_bytes > budget / 2 && stats.disk_over_bytes == 0,
        "{stats:?}"
    );
    assert!(
        stats.demotions > 0 && stats.cache_evictions > 0,
        "{stats:?}"
    );
}

/// As above, on a real disk, and what is demoted is downloaded again while readers still deal with its last life here.
#[test]
fn what_is_downloaded_again_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (world, budget) = (World::new(), 1024 * KIB as u64);
    let mut options = world.options(Arc::new(PosixEnv));
    options.root = dir.path().to_owned();
    options.cache.block_reads = true;
    options.cache.disk_budget_bytes = budget;
    options.download.chunk_bytes = 16 * KIB;
    options.download.parallel_files = 4;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (10..60).map(|n| (n, n, 64 * KIB + n as usize)).collect();
    let snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    let paths: Vec<_> = snapshot
        .contents
        .keys()
        .map(|name| union.db_dir().join(name))
        .collect();
    let contents: Vec<_> = snapshot.contents.values().collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&done);
        for thread in 0..3 {
            let (union, paths, contents, done) = (&union, &paths, &contents, &done);
            scope.spawn(move || {
                let mut i: usize = thread * 7;
                while !done.load(SeqCst) {
                    i += 1;
                    let (file, at) = (i * 31 % 50, i * 9_973 % (63 * KIB));
                    let found = read_at(&*union.open_random(&paths[file]).unwrap(), at as u64, 900);
                    assert!(
                        found.unwrap() == contents[file][at..at + 900],
                        "{file} at {at}"
                    );
                }
            });
        }
        for _ in 0..12 {
            union.set_disk_budget(budget);
            union.download().start().unwrap();
            std::thread::sleep(Duration::from_millis(60));
            union.set_disk_budget(budget / 4);
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(stop);
    });
    let stats = union.stats();
    assert!(
        stats.demotions > 12 && stats.cache_mismatches == 0,
        "{stats:?}"
    );
}
