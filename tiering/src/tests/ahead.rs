//! Reading ahead: what is asked for, how often, and what is left of it.

use std::time::Instant;

use lazurite_env::Activity;

use super::{cache::hint, *};
use crate::{ReadAhead, ScanEnd, ScanFile, ScanPlan};

/// What an iterator of RocksDB reads at once, about: no page begins there.
const STEP: usize = 15_000;

const LEN: usize = 1 << 20;

/// Files 12, 13 and so on, of a MiB each.
fn files(count: u64, cached: bool) -> (World, Arc<UnionEnv>, Snapshot) {
    let world = World::new();
    let mut options = world.options(Arc::new(MemEnv::new()));
    options.cache.block_reads = cached;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (0..count).map(|i| (12 + i, 1 + i, LEN)).collect();
    let snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    (world, union, snapshot)
}

fn scan_file(snapshot: &Snapshot, index: usize) -> ScanFile {
    let entry = &snapshot.entries[index];
    ScanFile {
        name: entry.name.clone(),
        len: entry.file.len,
        until: None,
    }
}

fn begin(union: &UnionEnv, snapshot: &Snapshot) -> ReadAhead {
    let lane = (0..snapshot.entries.len()).map(|i| scan_file(snapshot, i));
    union.read_ahead(ScanPlan {
        lanes: vec![lane.collect()],
        ..ScanPlan::default()
    })
}

fn data_bytes(snapshot: &Snapshot) -> u64 {
    let tails = snapshot.entries.iter().map(|entry| entry.tail.unwrap());
    tails.map(|tail| tail.offset).sum()
}

/// Reads up to `most` bytes of a file in order, as an iterator does, and checks them.
fn walk(union: &UnionEnv, snapshot: &Snapshot, name: &str, most: usize) -> Result<()> {
    let file = union.open_random(&db(name))?;
    let bytes = &snapshot.contents[name];
    let mut buf = vec![0; STEP];
    for at in (0..most.min(bytes.len())).step_by(STEP) {
        let n = file.read_at(at as u64, &mut buf, hint(Activity::Iterate))?;
        assert!(buf[..n] == bytes[at..(at + STEP).min(bytes.len())]);
    }
    Ok(())
}

/// Bytes that were asked for since the last call. Once no request is on its way.
fn asked(world: &World, union: &UnionEnv) -> u64 {
    let all = |union: &UnionEnv| union.stats().remote_requests;
    let mut before = all(union);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = all(union);
        if now == before {
            break;
        }
        before = now;
    }
    let requests = world.store.take_requests();
    requests.iter().map(|(_, r)| r.end - r.start).sum()
}

#[test]
fn a_walk_over_files_asks_for_every_byte_once_and_ahead() {
    for cached in [true, false] {
        let (world, union, snapshot) = files(6, cached);
        let ahead = begin(&union, &snapshot);
        for (i, name) in snapshot.contents.keys().enumerate() {
            walk(&union, &snapshot, name, LEN).unwrap();
            if i == 2 {
                // Six megabytes at most are ahead of three: all that there is.
                let own = union.stats().remote_requests;
                assert_eq!(asked(&world, &union), data_bytes(&snapshot), "{own}");
            }
        }
        // The first requests are the reader's own, each of the few that follow twice as long as all before.
        let requests = union.stats().remote_requests;
        assert_eq!(asked(&world, &union), 0, "cached: {cached}");
        assert!(requests < 60, "{requests}");
        assert_eq!(union.kept_bytes(), 0, "all was passed");
        drop(ahead);
    }
}

#[test]
fn a_walk_that_is_given_up_costs_a_few_times_what_it_read_and_keeps_nothing() {
    let (world, union, snapshot) = files(6, false);
    let ahead = begin(&union, &snapshot);
    let read = 20 * STEP;
    walk(&union, &snapshot, &name(12), read).unwrap();
    let cost = asked(&world, &union);
    assert!(cost > 2 * read as u64, "{cost}");
    assert!(cost <= 3 * read as u64 + 1024, "{cost}");
    assert!(union.kept_bytes() > 0);
    drop(ahead);
    assert_eq!(union.kept_bytes(), 0);
    // What was kept is gone: another reader asks for it again.
    let file = union.open_random(&db(&name(12))).unwrap();
    let bytes = &snapshot.contents[&name(12)];
    assert!(read_at(&*file, read as u64, 1000).unwrap() == bytes[read..read + 1000]);
    assert_eq!(asked(&world, &union), 1000);
}

#[test]
fn a_walk_asks_for_nothing_beyond_its_range() {
    let (world, union, snapshot) = files(2, false);
    let (from, until) = (200_000, 700_000);
    let mut last = scan_file(&snapshot, 1);
    last.until = Some(ScanEnd {
        bytes: until,
        slack: 5_000,
    });
    let _ahead = union.read_ahead(ScanPlan {
        lanes: vec![vec![scan_file(&snapshot, 0), last]],
        ..ScanPlan::default()
    });
    let file = union.open_random(&db(&name(12))).unwrap();
    let mut buf = vec![0; LEN - from];
    file.read_at(from as u64, &mut buf, hint(Activity::Iterate))
        .unwrap();
    walk(&union, &snapshot, &name(13), until as usize).unwrap();
    let cost = asked(&world, &union);
    let range = (LEN - from) as u64 - TAIL + until;
    assert!(cost >= range && cost <= range + STEP as u64, "{cost}");
}

#[test]
fn other_reads_and_readers_that_go_back_ask_for_nothing_ahead() {
    let (world, union, snapshot) = files(2, true);
    let _ahead = begin(&union, &snapshot);
    let file = union.open_random(&db(&name(12))).unwrap();
    let mut buf = vec![0; STEP];
    for activity in [Activity::Get, Activity::Compaction, Activity::Unknown] {
        let at = activity as u64 * 100_000;
        file.read_at(at, &mut buf, hint(activity)).unwrap();
    }
    let pages = 16 << 10;
    assert!(asked(&world, &union) <= 3 * pages);
    assert_eq!(union.kept_bytes(), 0);
    // Downwards: the first place may be followed, the others are not.
    for at in (0..10).rev() {
        let at = 500_000 + at * STEP as u64;
        file.read_at(at, &mut buf, hint(Activity::Iterate)).unwrap();
    }
    let cost = asked(&world, &union);
    assert!(cost < 10 * pages, "{cost}");
}

#[test]
fn all_scans_together_keep_a_bounded_number_of_bytes() {
    let world = World::new();
    let union = world.open(&MemEnv::new());
    let snapshot = world.snapshot(&[(12, 1, 32 << 20)]);
    snapshot.restore(&union).unwrap();
    let scans: Vec<_> = (0..12).map(|_| begin(&union, &snapshot)).collect();
    let file = union.open_random(&db(&name(12))).unwrap();
    let mut buf = vec![0; 16 << 20];
    // One read moves all of them.
    file.read_at(0, &mut buf, hint(Activity::Iterate)).unwrap();
    let kept = union.kept_bytes();
    assert!(kept > 56 << 20 && kept <= 64 << 20, "{kept}");
    // They wait for the same bytes.
    assert_eq!(asked(&world, &union), (16 << 20) + (8 << 20));
    drop(scans);
    assert_eq!(union.kept_bytes(), 0);
}

#[test]
fn requests_ahead_that_fail_are_made_again_by_the_reader() {
    let (world, union, snapshot) = files(2, false);
    let ahead = begin(&union, &snapshot);
    walk(&union, &snapshot, &name(12), 10 * STEP).unwrap();
    asked(&world, &union);
    let bytes = &snapshot.contents[&name(12)];
    let file = union.open_random(&db(&name(12))).unwrap();
    // The next read passes what is there; what it has asked for ahead breaks.
    world.store.close_gate();
    world
        .store
        .outage
        .store(100, std::sync::atomic::Ordering::SeqCst);
    let pending = file.start_read(30 * STEP as u64 - 1, 1, hint(Activity::Iterate));
    world.store.open_gate();
    let _ = pending.wait();
    asked(&world, &union);
    world
        .store
        .outage
        .store(0, std::sync::atomic::Ordering::SeqCst);
    let at = 30 * STEP;
    let mut buf = vec![0; 100_000];
    file.read_at(at as u64, &mut buf, hint(Activity::Iterate))
        .unwrap();
    assert!(buf == bytes[at..at + 100_000]);
    assert!(asked(&world, &union) >= 100_000);
    drop(ahead);
    assert_eq!(union.kept_bytes(), 0);
}

/// What is read for the first time is not hot, though it was stored before it was read.
#[test]
fn a_scan_does_not_push_out_what_is_hot() {
    let world = World::new();
    let base: Arc<dyn Env> = Arc::new(MemEnv::new());
    let options = super::cache::cached_options(&world, base, 8 << 20);
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (0..31).map(|i| (12 + i, 1 + i, LEN)).collect();
    let mut snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    let hot = union.open_random(&db(&name(42))).unwrap();
    let read_hot = || {
        for at in (0..8).map(|i| i * 32_768) {
            read_at(&*hot, at, 32_768).unwrap();
            union.flush_cache();
        }
    };
    (0..3).for_each(|_| read_hot());
    snapshot.entries.pop();
    snapshot.contents.pop_last();
    let ahead = begin(&union, &snapshot);
    for name in snapshot.contents.keys() {
        let file = union.open_random(&db(name)).unwrap();
        let mut buf = vec![0; STEP];
        for at in (0..LEN).step_by(STEP) {
            file.read_at(at as u64, &mut buf, hint(Activity::Iterate))
                .unwrap();
            union.flush_cache();
        }
    }
    drop(ahead);
    asked(&world, &union);
    let before = union.stats();
    assert!(before.cache_evictions > 50, "{before:?}");
    read_hot();
    assert_eq!(union.stats().cache_misses, before.cache_misses);
}

#[test]
fn files_that_become_local_or_go_while_they_are_scanned() {
    let (_world, union, snapshot) = files(8, true);
    let ahead = begin(&union, &snapshot);
    let names: Vec<_> = snapshot.contents.keys().collect();
    walk(&union, &snapshot, names[0], LEN).unwrap();
    union.download().start().unwrap();
    let begun = Instant::now();
    for (i, name) in names[1..].iter().enumerate() {
        if i == 3 {
            // An iterator has its files open; they may be deleted all the same.
            let file = union.open_random(&db(names[7])).unwrap();
            union.delete(&db(names[7])).unwrap();
            let bytes = &snapshot.contents[names[7]];
            assert!(read_at(&*file, 0, STEP).unwrap() == bytes[..STEP]);
        }
        if i < 6 {
            walk(&union, &snapshot, name, LEN).unwrap();
        }
    }
    union.download().wait_until_local().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60));
    for name in &names[..7] {
        walk(&union, &snapshot, name, LEN).unwrap();
    }
    drop(ahead);
    assert_eq!(union.kept_bytes(), 0);
}
