//! The disk budget at its edges: what is counted, who waits for whom, and what a disk that is full or fails does to it.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::Instant,
};

use lazurite_env::{Effect, EnvExt, ErrorKind, FaultEnv, FaultPlan, Op};

use super::{
    demote::{KIB, limited, write_stored},
    *,
};
use crate::OpenFiles;

const FILE: usize = 64 * KIB;

fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A union with a disk budget that brings so many files at a time, each by one request, and in which nobody may sleep.
fn hasty(world: &World, base: Arc<dyn Env>, budget: usize, parallel: usize) -> UnionOptions {
    let mut options = world.options(base);
    options.cache.disk_budget_bytes = budget as u64;
    options.cache.block_reads = true;
    options.download.parallel_files = parallel;
    options.download.chunk_bytes = 1 << 20;
    options.download.first_backoff = Duration::from_secs(60);
    options
}

/// Six local files that the store holds.
fn six_stored(world: &World, union: &UnionEnv) -> Vec<CatalogEntry> {
    let numbers = 10..16;
    numbers
        .map(|number| write_stored(world, union, number, FILE))
        .collect()
}

/// Leaves `free` bytes of the disk; what took the others.
fn fill_up(base: &MemEnv, free: u64) -> PathBuf {
    let there = base.free_space(Path::new(ROOT)).unwrap();
    let path = Path::new(ROOT).join(format!("junk-{there}"));
    let mut junk = base.create(&path).unwrap();
    junk.append(&vec![1; (there - free) as usize]).unwrap();
    junk.close().unwrap();
    assert_eq!(base.free_space(Path::new(ROOT)).unwrap(), free);
    path
}

#[test]
fn what_has_room_is_here_when_the_wait_for_it_ends() {
    let (world, base) = (World::new(), MemEnv::new());
    let union = UnionEnv::open(hasty(&world, Arc::new(base), 512 * KIB, 8)).unwrap();
    let files: Vec<_> = (10..22).map(|number| (number, number, FILE)).collect();
    world.snapshot(&files).restore(&union).unwrap();
    world.store.close_gate();
    let waiting = thread::spawn({
        let union = union.clone();
        move || union.download().wait_until_local()
    });
    wait_for(|| !world.store.take_requests().is_empty());
    thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished(), "some are under way");
    world.store.open_gate();
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    // A sixteenth stays free, and a quarter is the cache's.
    let stats = union.stats();
    assert_eq!((stats.local_files, stats.demotions), (5, 0), "{stats:?}");
    let progress = union.download().progress();
    assert!(progress.no_room.is_some() && progress.no_space.is_none());
    assert_eq!((progress.files_total, progress.files_done), (12, 5));
    union.download().stop();
    let progress = union.download().progress();
    assert!(progress.no_room.is_none());
    assert_eq!((progress.files_total, progress.files_done), (5, 5));
    assert_eq!(progress.bytes_total, 5 * FILE as u64);
    // With room the others come.
    union.set_disk_budget(2 << 20);
    union.download().wait_until_local().unwrap();
    assert_eq!(union.download().progress().files_done, 12);
}

#[test]
fn a_file_for_which_there_is_no_room_lets_shorter_ones_pass() {
    let (world, base) = (World::new(), MemEnv::new());
    let union = UnionEnv::open(hasty(&world, Arc::new(base), 512 * KIB, 2)).unwrap();
    let mut files: Vec<_> = (10..13).map(|number| (number, number, 6 * FILE)).collect();
    files.extend((13..17).map(|number| (number, number, FILE)));
    world.snapshot(&files).restore(&union).unwrap();
    let hot = (10..13).map(|number| (name(number), 5));
    union.download().set_heat(hot.collect());
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!((13..17).all(|number| union.is_local(&name(number))));
    assert_eq!(union.stats().local_files, 4);
    // Those that are gone are not asked for again.
    for number in 10..12 {
        union.delete(&db(&name(number))).unwrap();
    }
    union.set_disk_budget(2 << 20);
    union.download().wait_until_local().unwrap();
    let progress = union.download().progress();
    assert_eq!((progress.files_total, progress.files_done), (5, 5));
    assert!(progress.no_room.is_none());
}

#[test]
fn what_was_put_aside_has_its_turn_again_by_itself() {
    let (world, base) = (World::new(), MemEnv::new());
    // The wait is 128 ms.
    let union = limited(&world, Arc::new(base), 512 * KIB);
    let files: Vec<_> = (10..22).map(|number| (number, number, FILE)).collect();
    world.snapshot(&files).restore(&union).unwrap();
    union.download().wait_until_local().unwrap_err();
    union.set_disk_budget(2 << 20);
    wait_for(|| union.remote_files() == 0);
}

#[test]
fn a_file_that_has_landed_takes_no_more_room_than_it_does() {
    let world = World::new();
    let (base, plan) = (MemEnv::new(), FaultPlan::new());
    let env = FaultEnv::new(Arc::new(base), plan.clone());
    let mut options = hasty(&world, Arc::new(env), 224 * KIB, 2);
    options.download.chunk_bytes = 16 * KIB;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (10..13).map(|number| (number, number, FILE)).collect();
    world.snapshot(&files).restore(&union).unwrap();
    // The first one is being made durable when the last one asks.
    let (delay, begun) = (Duration::from_secs(2), Instant::now());
    plan.set_filter(|op| op == Op::SyncDir, "db");
    plan.fail_nth(0, Effect::Delay(delay));
    union.download().start().unwrap();
    wait_for(|| union.remote_files() == 0);
    assert_eq!(plan.injected(), 1);
    assert!(begun.elapsed() < delay, "{:?}", begun.elapsed());
    assert_eq!(union.stats().demotions, 0);
}

#[test]
fn what_is_catalogued_is_counted_once() {
    let world = World::new();
    let (base, plan) = (MemEnv::new(), FaultPlan::new());
    let env = FaultEnv::new(Arc::new(base), plan.clone());
    let union = limited(&world, Arc::new(env), 1024 * KIB);
    let files = six_stored(&world, &union);
    let bytes = 6 * FILE as u64;
    wait_for(|| union.stats().table_bytes == bytes);
    // Looked at whenever the disk is asked for something.
    let most = Arc::new(AtomicU64::new(0));
    plan.set_filter(
        {
            let (most, union) = (most.clone(), Arc::downgrade(&union));
            move |_| {
                if let Some(union) = union.upgrade() {
                    most.fetch_max(union.stats().table_bytes, SeqCst);
                }
                false
            }
        },
        "",
    );
    union.record_uploaded(&files).unwrap();
    plan.set_filter(|_| false, "");
    assert_eq!(most.load(SeqCst), bytes);
}

#[test]
fn the_cache_has_no_share_that_it_may_not_use() {
    for (block_reads, cache_bytes) in [(false, u64::MAX), (true, 16 << 10)] {
        let world = World::new();
        let mut options = world.options(Arc::new(MemEnv::new()));
        options.cache.disk_budget_bytes = 500 << 10;
        options.cache.block_reads = block_reads;
        options.cache.budget_bytes = cache_bytes;
        let union = UnionEnv::open(options).unwrap();
        let files: Vec<_> = (10..20)
            .map(|number| write_stored(&world, &union, number, FILE))
            .collect();
        union.record_uploaded(&files).unwrap();
        // 468 KiB hold seven.
        assert_eq!(union.stats().demotions, 3, "{:?}", union.stats());
    }
}

/// A union that is to leave 700 KiB of the disk free.
fn careful(world: &World, base: &MemEnv) -> Arc<UnionEnv> {
    let mut options = world.options(Arc::new(base.clone()));
    options.cache.disk_budget_bytes = 1 << 40;
    options.cache.min_free_bytes = 700 << 10;
    options.cache.block_reads = true;
    UnionEnv::open(options).unwrap()
}

#[test]
fn files_that_give_no_space_back_are_not_followed_by_others() {
    let world = World::new();
    let base = MemEnv::with_capacity(1000 << 10);
    let union = careful(&world, &base);
    let files = six_stored(&world, &union);
    let link = |facts: &CatalogEntry| Path::new(ROOT).join(format!("link-{}", facts.name));
    for facts in &files {
        base.link(&db(&facts.name), &link(facts)).unwrap();
    }
    union.record_uploaded(&files).unwrap();
    assert_eq!(union.stats().demotions, 2, "84 KiB are wanted");
    for _ in 0..5 {
        union.set_disk_budget(1 << 40);
        thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(union.stats().demotions, 2, "{:?}", union.stats());
    // Where some came, more may.
    let gone = files.iter().find(|facts| !union.is_local(&facts.name));
    base.delete(&link(gone.unwrap())).unwrap();
    union.set_disk_budget(1 << 40);
    assert_eq!(union.stats().demotions, 3, "{:?}", union.stats());
}

#[test]
fn a_short_disk_takes_from_the_cache_before_files_go() {
    let world = World::new();
    let base = MemEnv::with_capacity(4 << 20);
    let union = careful(&world, &base);
    let snapshot = world.snapshot(&[(20, 20, 10 * FILE)]);
    snapshot.restore(&union).unwrap();
    let files = six_stored(&world, &union);
    union.record_uploaded(&files).unwrap();
    let bytes = read_file(&*union, &db(&name(20))).unwrap();
    assert_eq!(bytes, snapshot.contents[&name(20)]);
    union.flush_cache();
    let before = union.stats().cache_bytes;
    assert!(before >= 9 * FILE as u64);
    fill_up(&base, 600 << 10);
    union.set_disk_budget(1 << 40);
    let stats = union.stats();
    assert_eq!(stats.demotions, 0, "{stats:?}");
    assert!(stats.cache_bytes <= before - (100 << 10), "{stats:?}");
    assert!(base.free_space(Path::new(ROOT)).unwrap() >= 700 << 10);
}

#[test]
fn a_disk_without_a_free_byte_hinders_no_demotion() {
    let world = World::new();
    let base = MemEnv::with_capacity(1000 << 10);
    let union = world.open(&base);
    let files = six_stored(&world, &union);
    union.record_uploaded(&files).unwrap();
    // The catalog is another than the one on the disk, and cannot be written.
    union.delete(&db(&name(15))).unwrap();
    fill_up(&base, 0);
    assert!(union.demote(&name(10)).unwrap());
    assert!(base.free_space(Path::new(ROOT)).unwrap() > 0);
    let junk = fill_up(&base, 0);
    // One that was never saved has to be.
    union.link(&db(&name(11)), &db(&name(21))).unwrap();
    let error = union.demote(&name(21)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    for (number, seed) in [(10, 10), (11, 11), (21, 11)] {
        let bytes = read_file(&*union, &db(&name(number))).unwrap();
        assert_eq!(bytes, content(seed, FILE), "{number}");
    }
    base.delete(&junk).unwrap();
    assert!(union.demote(&name(21)).unwrap());
    drop(union);
    let union = world.open(&base);
    for (number, seed) in [(10, 10), (11, 11), (21, 11)] {
        let bytes = read_file(&*union, &db(&name(number))).unwrap();
        assert_eq!(bytes, content(seed, FILE), "{number}");
    }
    assert!(!base.exists(&db(&name(10))).unwrap());
}

#[test]
fn a_panic_of_the_disk_does_not_end_the_budget() {
    let world = World::new();
    let (base, plan) = (MemEnv::new(), FaultPlan::new());
    let env = FaultEnv::new(Arc::new(base), plan.clone());
    let union = limited(&world, Arc::new(env), 256 * KIB);
    let looks = |op: Op| op == Op::List && thread::current().name() == Some("lazurite-disk");
    plan.set_filter(move |op| looks(op) && panic!("a disk"), "db");
    wait_for(|| union.stats().demotion_failures > 0);
    plan.set_filter(|_| false, "");
    let _files = six_stored(&world, &union);
    wait_for(|| union.stats().disk_over_bytes == 128 << 10);
}

/// Takes its time to let a file go, and counts.
#[derive(Debug, Default)]
struct Slow(AtomicU64);

impl OpenFiles for Slow {
    fn release(&self, _: &Path) -> bool {
        self.0.fetch_add(1, SeqCst);
        thread::sleep(Duration::from_millis(50));
        true
    }
    fn idle(&self, _: &Path) -> Option<u32> {
        None
    }
    fn tick(&self) {}

    fn take_chunk_reads(&self, _: &Path, _: u32) -> Vec<u8> {
        Vec::new()
    }
}

#[test]
fn an_end_waits_for_one_demotion_only() {
    let world = World::new();
    let union = limited(&world, Arc::new(MemEnv::new()), 4096 * KIB);
    let slow = Arc::new(Slow::default());
    union.watch_open_files(slow.clone());
    let files: Vec<_> = (10..40)
        .map(|number| write_stored(&world, &union, number, FILE))
        .collect();
    union.record_uploaded(&files).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| union.set_disk_budget(256 << 10));
        wait_for(|| slow.0.load(SeqCst) > 0);
        union.stop_demotions();
    });
    let released = slow.0.load(SeqCst);
    assert!(released < 10, "{released}");
    union.set_disk_budget(128 << 10);
    assert_eq!(slow.0.load(SeqCst), released, "the end is one");
    assert!(union.demote(&name(39)).unwrap() || !union.is_local(&name(39)));
}
