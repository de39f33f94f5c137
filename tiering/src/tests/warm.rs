//! Hot chunks: what is told of them, and that they come before all files, once, and only where there is room.

use std::{
    sync::{Mutex, atomic::Ordering::SeqCst},
    thread,
    time::Instant,
};

use lazurite_env::{Activity, Effect, FaultEnv, FaultPlan, Op};

use super::{cache::*, *};
use crate::OpenFiles;

/// Chunks of a test's file, and of a request.
const CHUNKS: u64 = 32;
const PER_REQUEST: u64 = 4;

fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

fn options(world: &World, base: Arc<dyn Env>, budget: u64) -> UnionOptions {
    let mut options = cached_options(world, base, budget);
    options.download.chunk_bytes = (PER_REQUEST * CHUNK) as usize;
    // Of files one request after another; of chunks as many bytes as that, so that neighbours may change places.
    options.download.parallel_files = 1;
    options.download.parallel_chunks = 1;
    options
}

/// A union in which the files 12 and 13 are remote, of two megabytes each, with tails.
fn two_files(budget: u64) -> (World, MemEnv, Arc<UnionEnv>, Snapshot) {
    let (mut world, base) = (World::new(), MemEnv::new());
    // With two threads a request may come to the store long after those that were sent behind it.
    world.runtime = IoRuntime::new(1).unwrap();
    let union = UnionEnv::open(options(&world, Arc::new(base.clone()), budget)).unwrap();
    let len = (CHUNKS * CHUNK + 5000) as usize;
    let snapshot = world.snapshot(&[(12, 1, len), (13, 2, len)]);
    snapshot.restore(&union).unwrap();
    (world, base, union, snapshot)
}

fn levels(of: &[(u64, u8)]) -> Vec<u8> {
    let mut levels = vec![0; 1 + of.iter().map(|(chunk, _)| *chunk).max().unwrap() as usize];
    for (chunk, level) in of {
        levels[*chunk as usize] = *level;
    }
    levels
}

fn tell(union: &UnionEnv, of: &[(u64, Vec<u8>)]) {
    let named = of
        .iter()
        .map(|(number, levels)| (name(*number), levels.clone()));
    union.download().set_chunk_heat(named.collect());
}

/// Reads the begin of a chunk of 12, so many times.
fn read_chunk(union: &UnionEnv, bytes: &[u8], chunk: u64, times: u64, activity: Activity) {
    let (file, mut buf) = (open_12(union), vec![0; 1000]);
    for _ in 0..times {
        file.read_at(chunk * CHUNK, &mut buf, hint(activity))
            .unwrap();
        assert!(buf == bytes[(chunk * CHUNK) as usize..][..1000]);
        union.flush_cache();
    }
}

/// Starts, and waits until what is hot has come. The files wait: nothing of them is asked for before.
fn warm(union: &UnionEnv) {
    union.download().start().unwrap();
    let progress = || union.download().progress();
    wait_for(|| progress().hot_bytes_total > 0);
    wait_for(|| progress().hot_bytes_done == progress().hot_bytes_total);
}

/// What the store was asked for: the file's seed, and the first and the last chunk, that one not included.
fn asked(world: &World) -> Vec<(u64, u64, u64)> {
    let requests = world.store.take_requests().into_iter();
    let chunks = requests.map(|(of, range)| {
        let seed = (1..=2).find(|seed| key(*seed) == of).unwrap();
        (seed, range.start / CHUNK, range.end.div_ceil(CHUNK))
    });
    chunks.collect()
}

fn asked_bytes(world: &World) -> u64 {
    let requests = world.store.take_requests().into_iter();
    requests.map(|(_, range)| range.end - range.start).sum()
}

#[test]
fn the_hottest_chunks_come_first_and_nothing_comes_twice() {
    let (world, base, union, snapshot) = two_files(u64::MAX);
    union.download().set_heat([(name(13), 7)].into());
    let of_12 = [(3, 3), (4, 3), (9, 1), (20, 2), (CHUNKS, 2)];
    let of_13: Vec<_> = [(0, 2), (1, 1)]
        .into_iter()
        .chain((10..16).map(|c| (c, 3)))
        .collect();
    tell(&union, &[(12, levels(&of_12)), (13, levels(&of_13))]);
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    let requests = world.store.take_requests();
    // By level, then by the heat of the file, then as they lie; neighbours together, up to a request. The last one of a file
    // ends where its tail begins.
    let ends = 5000 - TAIL;
    let hot = [
        (2, 10, 4 * CHUNK),
        (2, 14, 2 * CHUNK),
        (1, 3, 2 * CHUNK),
        (2, 0, CHUNK),
        (1, 20, CHUNK),
        (1, CHUNKS, ends),
        (2, 1, CHUNK),
        (1, 9, CHUNK),
    ];
    for (i, (seed, chunk, len)) in hot.into_iter().enumerate() {
        let wanted = (key(seed), chunk * CHUNK..chunk * CHUNK + len);
        let at = requests.iter().position(|request| *request == wanted);
        assert!(
            at.is_some_and(|at| at < 8 && at.abs_diff(i) <= 3),
            "{wanted:?}: {requests:?}"
        );
    }
    let all: u64 = snapshot
        .contents
        .values()
        .map(|bytes| bytes.len() as u64 - TAIL)
        .sum();
    let bytes: u64 = requests
        .iter()
        .map(|(_, range)| range.end - range.start)
        .sum();
    assert_eq!(bytes, all, "each byte once: {requests:?}");
    for (name, bytes) in &snapshot.contents {
        assert!(read_file(&base, &db(name)).unwrap() == *bytes);
    }
    let stats = union.stats();
    assert_eq!(
        (stats.warmed_chunks, stats.warmed_bytes),
        (13, 12 * CHUNK + ends)
    );
    assert_eq!(stats.download_bytes, all);
    let progress = union.download().progress();
    assert_eq!(
        (progress.hot_bytes_total, progress.hot_bytes_done),
        (12 * CHUNK + ends, 12 * CHUNK + ends)
    );
}

/// Two requests, where one over both of its sides would be quicker for a block or two.
#[test]
fn a_single_chunk_does_not_come_again_with_its_file() {
    let (world, base) = (World::new(), MemEnv::new());
    let mut options = options(&world, Arc::new(base.clone()), u64::MAX);
    options.download.chunk_bytes = 1 << 20;
    let union = UnionEnv::open(options).unwrap();
    let snapshot = world.snapshot(&[(12, 1, 3 << 20)]);
    snapshot.restore(&union).unwrap();
    tell(&union, &[(12, levels(&[(5, 3), (20, 3)]))]);
    union.download().wait_until_local().unwrap();
    assert_eq!(asked_bytes(&world), (3 << 20) - TAIL);
    let bytes = &snapshot.contents[&name(12)];
    assert!(read_file(&base, &db(&name(12))).unwrap() == *bytes);
}

#[test]
fn what_is_warm_is_read_without_a_request_and_what_was_read_is_not_asked_for() {
    let (world, _, union, snapshot) = two_files(u64::MAX);
    let (file, bytes) = (open_12(&union), &snapshot.contents[&name(12)]);
    // The begin of one of them was read before.
    check(&union, &*file, bytes, 5 * CHUNK..5 * CHUNK + 3000);
    assert_eq!(asked_bytes(&world), 3 * PAGE);
    tell(&union, &[(12, levels(&[(5, 3), (7, 3)]))]);
    warm(&union);
    union.download().stop();
    let mut requests = world.store.take_requests();
    requests.truncate(2);
    requests.sort_by_key(|(_, range)| range.start);
    let ranges: Vec<_> = requests.into_iter().map(|(_, range)| range).collect();
    assert_eq!(
        ranges,
        [5 * CHUNK + 3 * PAGE..6 * CHUNK, 7 * CHUNK..8 * CHUNK]
    );
    for chunk in [5, 7] {
        check(&union, &*file, bytes, chunk * CHUNK..(chunk + 1) * CHUNK);
    }
    assert!(world.store.take_requests().is_empty());
    assert_eq!(union.stats().cache_misses, 1);
}

#[test]
fn a_pause_and_a_stop_hold_for_it_and_it_goes_on() {
    let (world, _, union, _) = two_files(u64::MAX);
    let download = union.download();
    tell(&union, &[(12, levels(&[(2, 1), (5, 2), (7, 3)]))]);
    download.pause();
    download.start().unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(asked(&world).is_empty());
    assert_eq!(download.progress().hot_bytes_total, 3 * CHUNK);
    world.store.close_gate();
    download.resume();
    wait_for(|| union.stats().download_requests > 0);
    download.stop();
    world.store.open_gate();
    assert_eq!(download.progress().hot_bytes_done, 0);
    asked(&world);
    download.start().unwrap();
    download.wait_until_local().unwrap();
    let mut requests = asked(&world);
    requests[..3].sort_unstable();
    assert_eq!(
        requests[..3],
        [(1, 2, 3), (1, 5, 6), (1, 7, 8)],
        "{requests:?}"
    );
}

#[test]
fn an_outage_is_waited_for_and_no_byte_is_taken_for_granted() {
    let (world, base, union, snapshot) = two_files(u64::MAX);
    tell(&union, &[(12, levels(&[(2, 1), (5, 2)]))]);
    world.store.outage.store(4, SeqCst);
    warm(&union);
    union.download().wait_until_local().unwrap();
    // Six, of which four failed, and the rest of both files.
    assert_eq!(union.stats().warmed_bytes, 2 * CHUNK);
    let bytes = &snapshot.contents[&name(12)];
    assert!(read_file(&base, &db(&name(12))).unwrap() == *bytes);

    // One that is damaged in the store: its pages are as they came, the whole is not.
    let (world, _, union, _) = two_files(u64::MAX);
    tell(&union, &[(12, levels(&[(2, 3)]))]);
    world.store.damage(&key(1), 2 * CHUNK as usize);
    union.download().wait_until_local().unwrap_err();
    assert_eq!(union.download().progress().failed[0].0, name(12));
}

#[test]
fn an_object_that_stays_away_holds_up_no_other() {
    let (world, _, union, _) = two_files(u64::MAX);
    let download = union.download();
    download.set_heat([(name(13), 7)].into());
    tell(&union, &[(12, levels(&[(3, 3), (9, 1)]))]);
    world.store.away.lock().unwrap().insert(key(1));
    download.start().unwrap();
    wait_for(|| union.is_local(&name(13)));
    let progress = download.progress();
    assert_eq!(
        (union.stats().warmed_chunks, progress.hot_bytes_total),
        (0, 0)
    );
    world.store.away.lock().unwrap().clear();
    download.wait_until_local().unwrap();
}

#[test]
fn what_is_told_while_it_runs_is_for_the_next_start() {
    let (_world, _, union, _) = two_files(u64::MAX);
    let download = union.download();
    download.pause();
    download.start().unwrap();
    tell(&union, &[(12, levels(&[(5, 3)]))]);
    download.start().unwrap();
    assert_eq!(download.progress().hot_bytes_total, 0);
    download.stop();
    download.resume();
    download.wait_until_local().unwrap();
    assert_eq!(download.progress().hot_bytes_done, CHUNK);
}

#[test]
fn a_download_that_comes_to_nothing_leaves_the_heat() {
    // Too little for either file.
    let (_world, _, union, snapshot) = two_files(1 << 20);
    let bytes = &snapshot.contents[&name(12)];
    read_chunk(&union, bytes, 4, 9, Activity::Get);
    assert_eq!(union.take_chunk_heat(&name(12), 0), [0, 0, 0, 0, 3]);
    tell(&union, &[(12, levels(&[(7, 3)]))]);
    union.download().start().unwrap();
    wait_for(|| union.download().progress().no_space.is_some());
    union.download().stop();
    let heat = union.take_chunk_heat(&name(12), 0);
    assert_eq!(heat, [0, 0, 0, 0, 3, 0, 0, 2]);
}

#[test]
fn it_stops_where_the_cache_is_full_and_evicts_nothing() {
    // Half of the budget is what may be warmed: two chunks and their map blocks, beside what a read left.
    let budget = 2 * (3 * CHUNK + 2 * 4096 + 4096);
    let (world, base, union, snapshot) = two_files(budget);
    let bytes = &snapshot.contents[&name(13)];
    let file = union.open_random(&db(&name(13))).unwrap();
    check(&union, &*file, bytes, 0..1000);
    asked(&world);
    tell(&union, &[(12, levels(&[(0, 1), (5, 2), (7, 3), (11, 3)]))]);
    let before = union.stats().cache_bytes;
    union.download().start().unwrap();
    wait_for(|| union.download().progress().no_space.is_some());
    union.download().stop();
    let mut requests = asked(&world);
    requests.sort_unstable();
    assert_eq!(requests, [(1, 7, 8), (1, 11, 12)]);
    let stats = union.stats();
    assert!(stats.cache_bytes <= budget / 2 && stats.cache_bytes > before);
    assert!(allocated(&base) <= stats.cache_bytes);
    assert_eq!(stats.cache_evictions, 0);
    let progress = union.download().progress();
    assert_eq!(
        (progress.hot_bytes_total, progress.hot_bytes_done),
        (2 * CHUNK, 2 * CHUNK)
    );
    check(&union, &*file, bytes, 0..1000);
    assert!(asked(&world).is_empty());
}

#[test]
fn it_leaves_free_what_is_to_stay_free_and_keeps_within_the_disk_budget() {
    let world = World::new();
    for disk in [false, true] {
        let base = MemEnv::with_capacity(8 << 20);
        let mut options = options(&world, Arc::new(base.clone()), u64::MAX);
        if disk {
            // A quarter of it: two chunks, and not three.
            options.cache.disk_budget_bytes = 4 * (2 * CHUNK + 8 * 4096);
        } else {
            options.cache.min_free_bytes = (8 << 20) - 200_000;
        }
        let union = UnionEnv::open(options).unwrap();
        let len = (CHUNKS * CHUNK) as usize;
        world.snapshot(&[(12, 1, len)]).restore(&union).unwrap();
        tell(&union, &[(12, levels(&[(2, 3), (5, 3), (9, 3), (11, 3)]))]);
        union.download().start().unwrap();
        wait_for(|| {
            let progress = union.download().progress();
            progress.no_space.or(progress.no_room).is_some()
        });
        union.download().stop();
        let mut requests = asked(&world);
        requests.sort_unstable();
        assert_eq!(requests, [(1, 2, 3), (1, 5, 6)], "disk budget: {disk}");
        assert_eq!(union.stats().cache_evictions, 0);
    }
}

#[test]
fn absurd_heat_does_no_harm() {
    let (world, base, union, snapshot) = two_files(u64::MAX);
    let absurd = vec![u8::MAX; 1 << 20];
    tell(
        &union,
        &[
            (12, absurd),
            (13, Vec::new()),
            (99, vec![3]),
            (u64::MAX, vec![1]),
        ],
    );
    union.download().wait_until_local().unwrap();
    let all: u64 = snapshot
        .contents
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum();
    assert_eq!(asked_bytes(&world), all - 2 * TAIL);
    // No more than a quarter of all.
    let warmed = union.stats().warmed_bytes;
    assert!(warmed > all / 8 && warmed <= all / 4, "{warmed} of {all}");
    for (name, bytes) in &snapshot.contents {
        assert!(read_file(&base, &db(name)).unwrap() == *bytes);
    }
    // It was told once; files that are remote again are not warmed.
    assert_eq!(union.download().progress().hot_bytes_done, warmed);
    let again = world.snapshot(&[(22, 1, 100_000)]);
    again.restore(&union).unwrap();
    assert_eq!(union.download().progress().hot_bytes_total, 0);
}

#[test]
fn files_that_one_request_brings_and_a_cache_that_is_off_are_not_warmed() {
    let world = World::new();
    let small = (PER_REQUEST * CHUNK) as usize;
    for reads in [true, false] {
        let mut options = options(&world, Arc::new(MemEnv::new()), u64::MAX);
        options.cache.block_reads = reads;
        let union = UnionEnv::open(options).unwrap();
        let len = if reads { small } else { 8 * small };
        let snapshot = world.snapshot(&[(12, 1, len), (13, 2, 8 * small)]);
        snapshot.restore(&union).unwrap();
        union.download().set_heat([(name(12), 7)].into());
        tell(&union, &[(12, vec![0, 3, 3])]);
        union.download().wait_until_local().unwrap();
        let requests = asked(&world);
        assert_eq!(requests[0], (1, 0, PER_REQUEST), "{requests:?}");
        assert_eq!(union.stats().warmed_bytes, 0);
        assert_eq!(union.download().progress().hot_bytes_total, 0);
    }
}

#[test]
fn nobody_takes_a_file_while_a_chunk_is_on_its_way() {
    let (world, base) = (World::new(), MemEnv::new());
    let mut options = options(&world, Arc::new(base.clone()), u64::MAX);
    options.download.parallel_files = 4;
    let union = UnionEnv::open(options).unwrap();
    let len = (CHUNKS * CHUNK) as usize;
    let snapshot = world.snapshot(&[(12, 1, len), (13, 2, len)]);
    snapshot.restore(&union).unwrap();
    tell(&union, &[(12, levels(&[(7, 3)]))]);
    world.store.close_gate();
    union.download().start().unwrap();
    wait_for(|| union.stats().download_requests > 0);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(union.stats().download_requests, 1);
    world.store.open_gate();
    union.download().wait_until_local().unwrap();
    assert_eq!(asked_bytes(&world), 2 * (len as u64 - TAIL));
}

#[test]
fn a_disk_that_fails_ends_it_and_not_the_download() {
    let world = World::new();
    let plan = FaultPlan::new();
    let env = FaultEnv::new(Arc::new(MemEnv::new()), plan.clone());
    let union = UnionEnv::open(options(&world, Arc::new(env), u64::MAX)).unwrap();
    world.snapshot(&[(12, 1, 2 << 20)]).restore(&union).unwrap();
    tell(&union, &[(12, levels(&[(2, 3), (5, 3)]))]);
    plan.set_filter(|op| op == Op::WriteAt, "cache");
    plan.fail_nth(1, Effect::Fail(lazurite_env::ErrorKind::Io));
    union.download().wait_until_local().unwrap();
    assert!(plan.injected() > 0);
    assert_eq!(union.stats().cache_bytes, 0);
}

/// Tells what users read of local files, and how far that was cooled down.
#[derive(Debug, Default)]
struct Told {
    reads: Vec<u8>,
    halvings: Mutex<Vec<(PathBuf, u32)>>,
}

impl OpenFiles for Told {
    fn release(&self, _: &Path) -> bool {
        true
    }
    fn idle(&self, _: &Path) -> Option<u32> {
        None
    }
    fn tick(&self) {}
    fn take_chunk_reads(&self, path: &Path, halvings: u32) -> Vec<u8> {
        self.halvings
            .lock()
            .unwrap()
            .push((path.to_owned(), halvings));
        self.reads.clone()
    }
}

#[test]
fn heat_of_local_and_of_remote_reads_is_joined_and_cools_down() {
    let (_world, _, union, snapshot) = two_files(u64::MAX);
    assert!(union.take_chunk_heat(&name(12), 0).is_empty());
    let bytes = &snapshot.contents[&name(12)];
    let read = |chunk, times, activity| read_chunk(&union, bytes, chunk, times, activity);
    // The first one brings it; what is read again is hot.
    read(1, 1, Activity::Get);
    read(2, 2, Activity::MultiGet);
    read(4, 9, Activity::Get);
    read(6, 9, Activity::Compaction);
    assert_eq!(union.take_chunk_heat(&name(12), 0), [0, 0, 1, 0, 3]);
    let told = Arc::new(Told {
        reads: vec![0, 1, 0, 4, 2, 0, 8, 1, 0],
        ..Told::default()
    });
    union.watch_open_files(told.clone());
    // One that was seen is chance.
    assert_eq!(union.take_chunk_heat(&name(12), 1), [0, 0, 1, 2, 3, 0, 3]);
    assert_eq!(*told.halvings.lock().unwrap(), [(db(&name(12)), 1)]);
    // One of which only the cache told has cooled.
    let cooled = [0, 0, 0, 2, 1, 0, 3];
    assert_eq!(union.take_chunk_heat(&name(12), 9), cooled);
    assert_eq!(union.take_chunk_heat("000099.sst", 0), cooled);
}

#[test]
fn scans_of_remote_files_leave_no_heat() {
    let (_world, _, union, snapshot) = two_files(u64::MAX);
    let bytes = &snapshot.contents[&name(12)];
    for chunk in 0..CHUNKS {
        read_chunk(&union, bytes, chunk, 4, Activity::Iterate);
    }
    assert!(union.take_chunk_heat(&name(12), 0).is_empty());
    // One get more makes none as hot as if all had been gets.
    read_chunk(&union, bytes, 3, 1, Activity::Get);
    assert_eq!(union.take_chunk_heat(&name(12), 0), [0, 0, 0, 1]);
    read_chunk(&union, bytes, 3, 1, Activity::MultiGet);
    assert_eq!(union.take_chunk_heat(&name(12), 0), [0, 0, 0, 2]);
}

#[test]
fn a_file_that_is_read_all_over_has_no_hot_chunks() {
    let (_world, _, union, _) = two_files(u64::MAX);
    // On average 15: what is hot is read twice as often.
    let reads = [10, 12, 19, 3, 5, 0, 15, 14, 10, 10].repeat(3);
    let told = |reads: Vec<u8>| {
        Arc::new(Told {
            reads,
            ..Told::default()
        })
    };
    union.watch_open_files(told([reads, vec![20, 30, 60, 120]].concat()));
    let heat = union.take_chunk_heat(&name(12), 0);
    assert_eq!(heat[..30], [0; 30]);
    assert_eq!(heat[30..], [0, 1, 2, 3][..]);
}
