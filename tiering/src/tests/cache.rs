//! The chunk cache as its users see it: what reads cost and what they leave.

use std::collections::BTreeSet;

use lazurite_env::{Activity, Effect, EnvExt, FaultEnv, FaultPlan, Op, RangeRead};

use super::*;
use crate::{TierStats, cache::Object};

pub(super) const PAGE: u64 = 1024;
pub(super) const CHUNK: u64 = 64 * 1024;

pub(super) fn hint(activity: Activity) -> ReadHint {
    ReadHint {
        activity,
        ..ReadHint::default()
    }
}

pub(super) fn cached_options(world: &World, base: Arc<dyn Env>, budget: u64) -> UnionOptions {
    let mut options = world.options(base);
    options.cache.block_reads = true;
    options.cache.budget_bytes = budget;
    options
}

pub(super) fn open_cached(world: &World, base: &MemEnv, budget: u64) -> Arc<UnionEnv> {
    UnionEnv::open(cached_options(world, Arc::new(base.clone()), budget)).unwrap()
}

pub(super) fn cache_dir() -> PathBuf {
    Path::new(ROOT).join("cache")
}

pub(super) fn cache_names(base: &dyn Env) -> Vec<String> {
    let entries = base.list(&cache_dir()).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// What the files of the cache really take.
pub(super) fn allocated(base: &dyn Env) -> u64 {
    let names = cache_names(base);
    let files = names.iter().map(|name| {
        let file = base.open_sparse(&cache_dir().join(name)).unwrap();
        file.allocated().unwrap()
    });
    files.sum()
}

/// The pages of an object of which the cache has a checksum.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub good: BTreeSet<u64>,
    /// Their bytes do not match it.
    pub bad: BTreeSet<u64>,
}

/// What the cache on `disk` keeps of an object, told by the format alone. Nothing where its files are not whole.
pub(super) fn kept(disk: &dyn Env, file: &RemoteFile) -> Kept {
    let id = Object::new(file).id;
    let read = |end: &str| {
        let path = cache_dir().join(format!("{id}.{end}"));
        let is_one = disk.stat(&path).is_ok_and(|stat| stat.links == 1);
        let bytes = is_one.then(|| disk.read_to_vec(&path, 1 << 20).unwrap());
        bytes.unwrap_or_default()
    };
    let (data, map) = (read("data"), read("map"));
    let mut kept = Kept::default();
    let whole = 4096 + 8 * file.len.div_ceil(PAGE);
    if data.len() as u64 != file.len || map.len() as u64 != whole {
        return kept;
    }
    let (header, entries) = map.split_at(4096);
    let zeros = header.iter().rev().take_while(|byte| **byte == 0).count();
    let header = &header[..header.len() - zeros];
    if crate::framed::decode("lazurite-chunk-map", 1, "", header).is_err() {
        return kept;
    }
    let pages = data.chunks(PAGE as usize).zip(entries.as_chunks::<8>().0);
    for (page, (bytes, entry)) in (0..).zip(pages) {
        let seed = id.0 as u64 ^ u64::wrapping_mul(page, 0x9e37_79b9_7f4a_7c15);
        let sum = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed).max(1);
        if u64::from_le_bytes(*entry) == sum {
            kept.good.insert(page);
        } else if *entry != [0; 8] {
            kept.bad.insert(page);
        }
    }
    kept
}

/// The ranges that the store was asked for since the last call: begin and end, sorted.
pub(super) fn requests(world: &World) -> Vec<(u64, u64)> {
    let requests = world.store.take_requests().into_iter();
    let mut ranges: Vec<_> = requests
        .map(|(_, range)| (range.start, range.end))
        .collect();
    ranges.sort_unstable();
    ranges
}

/// One remote file, 12, of `len` bytes, seed 1, without a tail.
pub(super) fn one_file(len: usize, budget: u64) -> (World, MemEnv, Arc<UnionEnv>, Bytes) {
    let (world, base) = (World::new(), MemEnv::new());
    let union = open_cached(&world, &base, budget);
    let bytes = restore_one(&world, &union, len);
    (world, base, union, bytes)
}

pub(super) fn restore_one(world: &World, union: &UnionEnv, len: usize) -> Bytes {
    let mut snapshot = world.snapshot(&[(12, 1, len)]);
    snapshot.entries[0].tail = None;
    union.restore(snapshot.entries, Bytes::new(), "").unwrap();
    snapshot.contents[&name(12)].clone()
}

pub(super) fn open_12(union: &UnionEnv) -> Box<dyn RandomFile> {
    union.open_random(&db(&name(12))).unwrap()
}

/// Reads and checks the bytes, and waits until they are stored.
pub(super) fn check(union: &UnionEnv, file: &dyn RandomFile, bytes: &[u8], range: Range<u64>) {
    let read = read_at(file, range.start, (range.end - range.start) as usize).unwrap();
    assert!(read == bytes[range.start as usize..range.end as usize]);
    union.flush_cache();
}

fn cache_counts(stats: &TierStats) -> [u64; 4] {
    [
        stats.cache_hits,
        stats.cache_misses,
        stats.remote_requests,
        stats.cache_hit_bytes,
    ]
}

#[test]
fn a_miss_brings_its_pages_and_a_hit_nothing() {
    let (world, base, union, bytes) = one_file(300_000, u64::MAX);
    let file = open_12(&union);
    check(&union, &*file, &bytes, 5000..9000);
    assert_eq!(requests(&world), [(4096, 9216)]);
    check(&union, &*file, &bytes, 5000..9000);
    check(&union, &*file, &bytes, 4096..9216);
    assert!(requests(&world).is_empty());
    // Only what is absent is asked for, and the end of the file is a page too.
    check(&union, &*file, &bytes, 8000..12_000);
    assert_eq!(requests(&world), [(9216, 12_288)]);
    check(&union, &*file, &bytes, 299_990..300_000);
    assert_eq!(requests(&world), [(299_008, 300_000)]);
    check(&union, &*file, &bytes, 299_010..300_000);
    let stats = union.stats();
    assert_eq!(cache_counts(&stats), [3, 3, 3, 4000 + 5120 + 1216 + 990]);
    assert_eq!((stats.remote_reads, stats.cache_mismatches), (3, 0));
    assert!(allocated(&base) <= stats.cache_bytes);
    // 4096 to 12287 and the last page, their two map blocks are one, and a header.
    assert_eq!(stats.cache_bytes, 2 * 4096 + 4096 + 4096 + 4096);
}

#[test]
fn the_page_at_the_tail_is_made_of_both() {
    let (world, base) = (World::new(), MemEnv::new());
    let union = open_cached(&world, &base, u64::MAX);
    let snapshot = world.snapshot(&[(12, 1, 3000)]);
    snapshot.restore(&union).unwrap();
    let bytes = &snapshot.contents[&name(12)];
    let file = open_12(&union);
    // The tail begins at 2900.
    check(&union, &*file, bytes, 2500..2950);
    assert_eq!(requests(&world), [(2048, 2900)]);
    check(&union, &*file, bytes, 2100..3000);
    check(&union, &*file, bytes, 2060..2890);
    assert!(requests(&world).is_empty());
    assert_eq!(
        file.start_read(2500, 1000, HINT).wait().unwrap(),
        bytes[2500..]
    );
    assert_eq!(
        file.start_read(1500, 1000, HINT).wait().unwrap(),
        bytes[1500..2500]
    );
    assert_eq!(requests(&world), [(1024, 2048)]);
    // The whole file is right, tail and all.
    union.flush_cache();
    union.download().wait_until_local().unwrap();
    assert_eq!(requests(&world), [(0, 1024)]);
    assert_eq!(read_file(&base, &db(&name(12))).unwrap(), *bytes);
    assert!(cache_names(&base).is_empty());
}

#[test]
fn gaps_of_one_read_are_one_request_where_they_are_near() {
    let (world, _, union, bytes) = one_file(300_000, u64::MAX);
    let file = open_12(&union);
    for page in [2, 3, 40, 41, 42, 43, 44, 45, 46] {
        check(&union, &*file, &bytes, page * PAGE..page * PAGE + 10);
    }
    requests(&world);
    check(&union, &*file, &bytes, 0..60 * PAGE);
    let asked = requests(&world);
    assert_eq!(asked, [(0, 40 * PAGE), (47 * PAGE, 60 * PAGE)]);
    check(&union, &*file, &bytes, 0..60 * PAGE);
    assert!(requests(&world).is_empty());
}

#[test]
fn readers_share_pages_that_are_on_their_way_and_those_not_yet_stored() {
    let (world, base) = (World::new(), MemEnv::new());
    let plan = FaultPlan::new();
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    let union = UnionEnv::open(cached_options(&world, Arc::new(env), u64::MAX)).unwrap();
    let bytes = restore_one(&world, &union, 300_000);
    let file = open_12(&union);
    world.store.close_gate();
    let first = file.start_read(10 * PAGE, 4 * PAGE as usize, HINT);
    let inside = file.start_read(11 * PAGE + 5, 100, HINT);
    let over = file.start_read(12 * PAGE, 4 * PAGE as usize, HINT);
    plan.set_filter(|op| op == Op::WriteAt, "");
    plan.fail_from(0, Effect::Delay(Duration::from_millis(100)));
    world.store.open_gate();
    let at = |page: u64| page as usize * PAGE as usize;
    assert_eq!(first.wait().unwrap(), bytes[at(10)..at(14)]);
    assert_eq!(inside.wait().unwrap(), bytes[at(11) + 5..at(11) + 105]);
    assert_eq!(over.wait().unwrap(), bytes[at(12)..at(16)]);
    // Nothing is stored yet, and nothing is asked for again.
    assert_eq!(
        read_at(&*file, 10 * PAGE, 6 * PAGE as usize).unwrap(),
        bytes[at(10)..at(16)]
    );
    let asked = requests(&world);
    assert_eq!(asked, [(10 * PAGE, 14 * PAGE), (14 * PAGE, 16 * PAGE)]);
    union.flush_cache();
    check(&union, &*file, &bytes, 10 * PAGE..16 * PAGE);
    assert!(requests(&world).is_empty());
}

#[test]
fn read_many_takes_each_page_from_where_it_is() {
    let (world, _, union, bytes) = one_file(1_000_000, u64::MAX);
    let file = open_12(&union);
    check(&union, &*file, &bytes, 200_000..210_000);
    requests(&world);
    let wanted = [
        (199_000, 3000),
        (0, 10),
        (205_000, 100),
        (500_000, 100),
        (500_050, 5000),
    ];
    let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|&(_, len)| vec![0; len]).collect();
    let ranges = wanted.iter().zip(&mut buffers);
    let mut reads: Vec<RangeRead<'_>> = ranges
        .map(|(&(offset, _), buf)| RangeRead {
            offset,
            buf,
            result: Ok(0),
        })
        .collect();
    file.read_many(&mut reads, HINT);
    for (read, &(offset, len)) in reads.iter().zip(&wanted) {
        assert_eq!(*read.result.as_ref().unwrap(), len);
        assert!(*read.buf == bytes[offset as usize..offset as usize + len]);
    }
    let asked = requests(&world);
    assert_eq!(asked, [(0, 1024), (198_656, 199_680), (499_712, 505_856)]);
}

#[test]
fn compaction_and_verification_use_what_is_there_and_leave_no_trace() {
    let (world, base, union, bytes) = one_file(300_000, u64::MAX);
    let file = open_12(&union);
    let mut buf = vec![0; 10_000];
    for activity in [Activity::Compaction, Activity::Verify] {
        let n = file.read_at(100, &mut buf, hint(activity)).unwrap();
        assert!(n == 10_000 && buf == bytes[100..10_100]);
        assert_eq!(requests(&world), [(100, 10_100)]);
    }
    union.flush_cache();
    assert!(cache_names(&base).is_empty());
    check(&union, &*file, &bytes, 4096..8192);
    requests(&world);
    file.read_at(100, &mut buf, hint(Activity::Compaction))
        .unwrap();
    assert!(buf == bytes[100..10_100]);
    let asked = requests(&world);
    // What is there lies between two gaps and is small.
    assert_eq!(asked, [(100, 10_100)]);
    let mut sequential = union.open_sequential(&db(&name(12))).unwrap();
    let mut whole = vec![0; 300_000];
    assert_eq!(sequential.read(&mut whole).unwrap(), 300_000);
    assert!(whole == bytes);
    union.flush_cache();
    assert_eq!(union.stats().cache_bytes, 3 * 4096);
}

#[test]
fn a_reread_asks_the_store_and_keeps_the_new_bytes() {
    let (world, _, union, bytes) = one_file(300_000, u64::MAX);
    let file = open_12(&union);
    // A store that lies: the page is kept with wrong bytes, whose checksum is theirs.
    world.store.damage(&key(1), 5000);
    let wrong = read_at(&*file, 4096, 1024).unwrap();
    assert_ne!(wrong, bytes[4096..5120]);
    union.flush_cache();
    assert_eq!(read_at(&*file, 4096, 1024).unwrap(), wrong);
    world.store.insert(&key(1), bytes.clone());
    requests(&world);
    let mut buf = [0; 1024];
    file.read_at(4096, &mut buf, hint(Activity::Reread))
        .unwrap();
    assert_eq!(buf, bytes[4096..5120]);
    assert_eq!(requests(&world), [(4096, 5120)]);
    union.flush_cache();
    check(&union, &*file, &bytes, 4096..5120);
    assert!(requests(&world).is_empty());

    // What is on its way is not trusted either.
    world.store.damage(&key(1), 70_000);
    world.store.close_gate();
    let early = file.start_read(69_632, 1024, HINT);
    world.store.open_gate();
    assert_ne!(early.wait().unwrap(), bytes[69_632..70_656]);
    world.store.insert(&key(1), bytes.clone());
    file.read_at(69_632, &mut buf, hint(Activity::Reread))
        .unwrap();
    assert_eq!(buf, bytes[69_632..70_656]);
    union.flush_cache();
    check(&union, &*file, &bytes, 69_632..70_656);
}

#[test]
fn a_reread_does_not_join_what_is_on_its_way() {
    let (world, _, union, bytes) = one_file(300_000, u64::MAX);
    let file = open_12(&union);
    world.store.close_gate();
    let early = file.start_read(0, 1000, HINT);
    let again = file.start_read(0, 1000, hint(Activity::Reread));
    let later = file.start_read(0, 1000, HINT);
    world.store.open_gate();
    for read in [early, again, later] {
        assert_eq!(read.wait().unwrap(), bytes[..1000]);
    }
    assert_eq!(requests(&world), [(0, 1024), (0, 1024)]);
}

#[test]
fn a_file_deleted_under_its_readers_leaves_nothing_in_the_cache() {
    for round in 0..200u64 {
        let (world, base, union, bytes) = one_file(100_000, u64::MAX);
        let file = open_12(&union);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (file, bytes) = (&file, &bytes);
                scope.spawn(move || {
                    for at in 0..20 {
                        let at = (at * 7 + thread) * 700;
                        let read = read_at(&**file, at, 900).unwrap();
                        assert!(read == bytes[at as usize..at as usize + 900]);
                    }
                });
            }
            std::thread::sleep(Duration::from_micros(round * 2));
            union.delete(&db(&name(12))).unwrap();
        });
        union.flush_cache();
        assert!(cache_names(&base).is_empty(), "round {round}");
        assert_eq!(union.stats().cache_bytes, 0, "round {round}");
        drop(world);
    }
}
