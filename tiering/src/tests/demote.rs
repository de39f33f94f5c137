//! Demotion and the disk budget: every read goes on, nothing is demoted that the store lacks, and nothing is lost or leaked
//! at any failing step or power cut.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Instant,
};

use lazurite_env::{Effect, ErrorKind, FaultEnv, FaultPlan, PosixEnv};

use super::*;
use crate::OpenFiles;

pub(super) const KIB: usize = 1 << 10;

/// Who has files open: says how long each was idle, and counts what it was asked to let go.
#[derive(Debug, Default)]
struct Watched {
    idle: Mutex<BTreeMap<PathBuf, u32>>,
    released: Mutex<Vec<PathBuf>>,
}

impl OpenFiles for Watched {
    fn release(&self, path: &Path) -> bool {
        self.released.lock().unwrap().push(path.to_owned());
        true
    }
    fn idle(&self, path: &Path) -> Option<u32> {
        self.idle.lock().unwrap().get(path).copied()
    }
    fn tick(&self) {}
    fn take_chunk_reads(&self, _: &Path, _: u32) -> Vec<u8> {
        Vec::new()
    }
}

/// A union with a disk budget.
pub(super) fn limited(world: &World, base: Arc<dyn Env>, budget: usize) -> Arc<UnionEnv> {
    let mut options = world.options(base);
    options.cache.disk_budget_bytes = budget as u64;
    options.cache.block_reads = true;
    UnionEnv::open(options).unwrap()
}

/// Writes the table `number` of `len` bytes, as RocksDB does, and uploads it.
pub(super) fn write_stored(
    world: &World,
    union: &UnionEnv,
    number: u64,
    len: usize,
) -> CatalogEntry {
    let bytes = content(number, len);
    world.store.insert(&key(number), bytes.clone());
    write_file(union, &db(&name(number)), &bytes).unwrap();
    union.sync_dir(union.db_dir()).unwrap();
    uploaded(&name(number), number, &bytes)
}

/// What table files and cache take of the disk.
fn taken(base: &dyn Env) -> u64 {
    let db = Path::new(ROOT).join("db");
    let tables = base.list(&db).unwrap().into_iter();
    let tables = tables.filter(|found| found.name.ends_with(".sst"));
    let len = |name: &str| base.stat(&db.join(name)).unwrap().len;
    tables
        .map(|found| len(&found.name).next_multiple_of(4096))
        .sum()
}

#[test]
fn a_demoted_file_is_read_on_through_old_and_new_handles() {
    let (_world, base, union, snapshot) = four_remote();
    let before = union.open_random(&db(&name(12))).unwrap();
    union.download().wait_until_local().unwrap();
    let bytes = &snapshot.contents[&name(12)][..];
    let while_local = union.open_random(&db(&name(12))).unwrap();
    assert_eq!(read_at(&*before, 0, 2000).unwrap(), bytes);
    let watched = Arc::new(Watched::default());
    union.watch_open_files(watched.clone());

    assert!(union.demote(&name(12)).unwrap());
    assert!(!union.demote(&name(12)).unwrap() && !union.demote("000077.sst").unwrap());
    assert!(!union.is_local(&name(12)) && base.stat(&db(&name(12))).is_err());
    assert_eq!(*watched.released.lock().unwrap(), [db(&name(12))]);
    assert_eq!((union.remote_files(), union.stats().demotions), (1, 1));
    let after = union.open_random(&db(&name(12))).unwrap();
    assert_eq!(
        (union.native_path(&db(&name(12))), before.native_path()),
        (None, None)
    );
    for file in [&before, &while_local, &after] {
        assert_eq!(read_at(&**file, 0, 2000).unwrap(), bytes);
    }
    // Its end is at hand without a request.
    let requests = union.stats().remote_requests;
    assert_eq!(read_at(&*after, 950, 50).unwrap(), bytes[950..]);
    assert_eq!(union.stats().remote_requests, requests);
    // And it comes back.
    union.download().wait_until_local().unwrap();
    assert!(union.is_local(&name(12)));
    for file in [&before, &while_local, &after] {
        assert_eq!(read_at(&**file, 0, 2000).unwrap(), bytes);
    }
}

#[test]
fn what_the_store_is_not_known_to_hold_is_never_demoted() {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let facts = write_stored(&world, &union, 50, 600);
    assert!(!union.demote(&name(50)).unwrap(), "not catalogued");
    union.record_uploaded(&[facts]).unwrap();
    drop(union);
    // Another process may have deleted the object meanwhile.
    let union = world.open(&base);
    assert!(union.is_local(&name(50)) && !union.demote(&name(50)).unwrap());
    union.confirm_stored(&name(50));
    assert!(union.demote(&name(50)).unwrap());
    // The tail of a file that no bundle holds is in a file of its own, also after a restart.
    for union in [union, world.open(&base)] {
        let requests = union.stats().remote_requests;
        let file = union.open_random(&db(&name(50))).unwrap();
        assert_eq!(read_at(&*file, 500, 100).unwrap(), content(50, 600)[500..]);
        assert_eq!(union.stats().remote_requests, requests);
        assert_eq!(read_at(&*file, 0, 600).unwrap(), content(50, 600));
        drop(union);
    }
    // Damaged, it costs a request; without its table it goes.
    let own = Path::new(ROOT).join("tails/000050.sst.tail");
    write_file(&base, &own, &[7; 100]).unwrap();
    let union = world.open(&base);
    let file = union.open_random(&db(&name(50))).unwrap();
    assert_eq!(read_at(&*file, 500, 100).unwrap(), content(50, 600)[500..]);
    union.delete(&db(&name(50))).unwrap();
    assert!(base.stat(&own).is_err());
}

#[test]
fn a_demoted_file_can_be_renamed_linked_and_deleted() {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let facts = write_stored(&world, &union, 50, 600);
    union.record_uploaded(&[facts]).unwrap();
    assert!(union.demote(&name(50)).unwrap());
    union.link(&db(&name(50)), &db(&name(60))).unwrap();
    union.rename(&db(&name(50)), &db(&name(70))).unwrap();
    union.sync_dir(union.db_dir()).unwrap();
    let tails = Path::new(ROOT).join("tails");
    for union in [union, world.open(&base)] {
        assert_eq!(listed(&union), [name(60), name(70)]);
        for number in [60, 70] {
            let file = union.open_random(&db(&name(number))).unwrap();
            let requests = union.stats().remote_requests;
            assert_eq!(read_at(&*file, 500, 100).unwrap(), content(50, 600)[500..]);
            assert_eq!(union.stats().remote_requests, requests, "{number}");
            assert_eq!(read_at(&*file, 0, 600).unwrap(), content(50, 600));
        }
    }
    let union = world.open(&base);
    assert_eq!(base.list(&tails).unwrap().len(), 2);
    union.delete(&db(&name(60))).unwrap();
    assert_eq!(
        read_file(&*union, &db(&name(70))).unwrap(),
        content(50, 600)
    );
    union.delete(&db(&name(70))).unwrap();
    assert!(base.list(&tails).unwrap().is_empty());
}

#[test]
fn the_coldest_files_go_first_and_no_more_than_necessary() {
    let world = World::new();
    let base = MemEnv::new();
    let union = limited(&world, Arc::new(base.clone()), 1024 * KIB);
    let watched = Arc::new(Watched::default());
    union.watch_open_files(watched.clone());
    let mut files: Vec<_> = (10..20)
        .map(|number| write_stored(&world, &union, number, 64 * KIB))
        .collect();
    for (facts, idle) in files.iter().zip([9, 900, 0, 3, 600, 2, 1000, 1, 5, 0]) {
        let idle = (db(&facts.name), idle);
        watched.idle.lock().unwrap().extend([idle]);
    }
    files[4].level = 6;
    union.record_uploaded(&files).unwrap();
    assert_eq!(union.stats().demotions, 0, "640 KiB fit");
    // 500 KiB of which a sixteenth stays free; the cache has a share of what is remote, 125 KiB at most.
    union.set_disk_budget(500 * KIB as u64);
    let gone = watched.released.lock().unwrap().clone();
    let gone: Vec<_> = gone
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    assert_eq!(
        gone,
        [14, 11, 16, 10, 18].map(name),
        "by doublings of age, and the deepest first in one"
    );
    let stats = union.stats();
    assert_eq!(stats.demotions, gone.len() as u64);
    assert!(
        stats.table_bytes <= (469 - 125) * 1024 && stats.table_bytes > (469 - 125 - 64) * 1024,
        "{stats:?}"
    );
    assert_eq!(stats.table_bytes, taken(&base));
    assert_eq!(
        stats.cache_budget_bytes,
        500 * 1024 - 500 * 64 - stats.table_bytes
    );
    for facts in &files {
        assert_eq!(
            Checksum::of(&read_file(&*union, &db(&facts.name)).unwrap()),
            facts.file.checksum
        );
    }
    // Nothing comes that would go at once: this ends, and says why.
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(union.stats().demotions, gone.len() as u64, "no thrash");
    assert!(taken(&base) <= stats.table_bytes);
    // With room they come.
    union.set_disk_budget(2048 * KIB as u64);
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(union.stats().remote_files, 0);
}

#[test]
fn files_that_the_store_lacks_exceed_the_budget_and_are_told() {
    let world = World::new();
    let base = MemEnv::new();
    let union = limited(&world, Arc::new(base.clone()), 256 * KIB);
    let files: Vec<_> = (10..16)
        .map(|number| write_stored(&world, &union, number, 64 * KIB))
        .collect();
    let until = Instant::now() + Duration::from_secs(20);
    while union.stats().disk_over_bytes != 128 * 1024 {
        assert!(Instant::now() < until, "{:?}", union.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        (union.stats().demotions, union.stats().cache_budget_bytes),
        (0, 0)
    );
    assert_eq!(taken(&base), 384 * 1024);
    union.record_uploaded(&files).unwrap();
    let stats = union.stats();
    assert_eq!(stats.disk_over_bytes, 0, "{stats:?}");
    assert!(
        stats.table_bytes + stats.cache_budget_bytes <= 240 * 1024,
        "{stats:?}"
    );
    assert!(
        stats.cache_budget_bytes >= 64 * 1024,
        "the cache has its share: {stats:?}"
    );
}

#[test]
fn a_full_disk_demotes_too() {
    let world = World::new();
    let base = MemEnv::with_capacity(1000 * KIB as u64);
    let mut options = world.options(Arc::new(base.clone()));
    options.cache.disk_budget_bytes = 1 << 40;
    options.cache.min_free_bytes = 700 * KIB as u64;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (10..16)
        .map(|number| write_stored(&world, &union, number, 64 * KIB))
        .collect();
    union.record_uploaded(&files).unwrap();
    // 384 KiB are there, 84 too many.
    assert_eq!(union.stats().demotions, 2, "{:?}", union.stats());
}

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

/// Whatever of the disk fails while room is made: reads go on, and the next look makes up for it.
#[test]
fn a_disk_that_fails_while_room_is_made_fails_no_read() {
    for i in 0.. {
        let world = World::new();
        let (base, plan) = (MemEnv::new(), FaultPlan::new());
        let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
        let union = limited(&world, Arc::new(env), 1024 * KIB);
        let files: Vec<_> = (10..16)
            .map(|number| write_stored(&world, &union, number, 64 * KIB))
            .collect();
        union.record_uploaded(&files).unwrap();
        plan.fail_nth(i, Effect::Fail(ErrorKind::Io));
        union.set_disk_budget(256 * KIB as u64);
        let injected = plan.injected() > 0;
        plan.disable();
        for (number, facts) in (10..).zip(&files) {
            assert_eq!(
                read_file(&*union, &db(&facts.name)).unwrap(),
                content(number, 64 * KIB),
                "{i}"
            );
        }
        union.set_disk_budget(256 * KIB as u64);
        assert!(taken(&base) <= 240 * 1024, "{i}: {:?}", union.stats());
        if !injected {
            assert!(i > 10);
            break;
        }
    }
}

/// A machine with 12 promoted from a bundle, 13 uploaded by a snapshot, both local.
fn machine(plan: &Arc<FaultPlan>) -> (World, MemEnv, Arc<UnionEnv>) {
    let world = World::new();
    let base = MemEnv::new();
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    let union = world.try_open(Arc::new(env)).unwrap();
    world.snapshot(&[(12, 12, 1000)]).restore(&union).unwrap();
    union.download().wait_until_local().unwrap();
    let facts = write_stored(&world, &union, 13, 1100);
    union.record_uploaded(&[facts]).unwrap();
    (world, base, union)
}

/// Both tables read as they should, wherever they are, and where they are is what the disk says.
fn check(world: &World, union: &UnionEnv, base: &MemEnv, fresh: bool, what: &str) {
    assert_eq!(listed(union), [name(12), name(13)], "{what}");
    for (number, len) in [(12, 1000), (13, 1100)] {
        let path = db(&name(number));
        assert_eq!(
            read_file(union, &path).unwrap(),
            content(number, len),
            "{what}: {number}"
        );
        let there = base.stat(&path).is_ok();
        assert!(union.is_local(&name(number)) <= there, "{what}: {number}");
        assert!(
            !fresh || union.is_local(&name(number)) == there,
            "{what}: {number}"
        );
        let referenced = union.referenced_keys();
        assert!(referenced.contains(&key(number)), "{what}: {number}");
    }
    let _ = world;
}

#[test]
fn every_step_of_a_demotion_may_fail_or_be_the_last() {
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
    ] {
        for dead in [false, true] {
            for i in 0.. {
                let plan = FaultPlan::new();
                let (world, base, union) = machine(&plan);
                let handles = [12, 13].map(|number| union.open_random(&db(&name(number))).unwrap());
                match dead {
                    true => plan.fail_from(i, effect),
                    false => plan.fail_nth(i, effect),
                }
                let results = [12, 13].map(|number| union.demote(&name(number)));
                let injected = plan.injected() > 0;
                let what = format!("{effect:?} at {i}, dead: {dead}: {results:?}");
                plan.disable();
                check(&world, &union, &base, false, &what);
                for (handle, (number, len)) in handles.iter().zip([(12, 1000), (13, 1100)]) {
                    assert_eq!(
                        read_at(&**handle, 0, len).unwrap(),
                        content(number, len),
                        "{what}"
                    );
                }
                // Killed here, or cut off from power: what was there before, or what should be there after.
                drop(union);
                for seed in (1..8).chain([0]) {
                    let disk = if seed == 0 {
                        base.clone()
                    } else {
                        base.crash_clone(seed)
                    };
                    let reopened = world.open(&disk);
                    check(
                        &world,
                        &reopened,
                        &disk,
                        true,
                        &format!("{what}, seed {seed}"),
                    );
                    // Nothing that is whole here comes again, and nothing is left over.
                    let bytes = reopened.stats().download_bytes;
                    let remote: u64 = [(12, 1000), (13, 1100)]
                        .iter()
                        .filter(|(number, _)| !reopened.is_local(&name(*number)))
                        .map(|(_, len)| *len)
                        .sum();
                    reopened.download().wait_until_local().unwrap();
                    assert!(reopened.stats().download_bytes - bytes <= remote, "{what}");
                    for number in [12, 13] {
                        reopened.delete(&db(&name(number))).unwrap();
                    }
                    reopened.sync_dir(reopened.db_dir()).unwrap();
                    drop(reopened);
                    let empty = world.open(&disk);
                    let left = |dir: &str| disk.list(&Path::new(ROOT).join(dir)).unwrap();
                    assert!(left("cache").is_empty() && left("db").is_empty(), "{what}");
                    assert!(
                        left("tails").iter().all(|found| found.name == "bundle-1"),
                        "{what}"
                    );
                    drop(empty);
                }
                if !injected {
                    assert!(results.iter().all(|result| matches!(result, Ok(true))) && i > 0);
                    break;
                }
            }
        }
    }
}
