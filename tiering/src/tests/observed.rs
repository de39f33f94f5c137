//! Reads are counted by what served them and what they were for, and waits for the store are told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use lazurite_env::{Activity, RangeRead};

use super::*;
use crate::{ReadObserver, ReadTier};

fn hint(activity: Activity) -> ReadHint {
    ReadHint { activity, ..HINT }
}

/// The rows that are not empty.
fn rows(union: &UnionEnv) -> Vec<(ReadTier, Activity, u64, u64)> {
    let rows = union.read_stats().into_iter();
    rows.filter(|row| row.reads > 0)
        .map(|row| (row.tier, row.activity, row.reads, row.bytes))
        .collect()
}

#[test]
fn each_read_is_counted_where_it_belongs() {
    let (_, _, union, _) = four_remote();
    let file = union.open_random(&db(&name(12))).unwrap();
    let mut buf = [0; 100];
    file.read_at(950, &mut buf, hint(Activity::Open)).unwrap(); // 50 bytes of the tail
    file.read_at(0, &mut buf, hint(Activity::Get)).unwrap();
    file.read_at(890, &mut buf[..20], hint(Activity::Get))
        .unwrap(); // over the border
    let pending = file.start_read(200, 30, hint(Activity::Iterate));
    pending.wait().unwrap();
    let (mut one, mut two) = ([0; 10], [0; 10]);
    let mut reads = [(300, &mut one), (995, &mut two)].map(|(offset, buf)| RangeRead {
        offset,
        buf,
        result: Ok(0),
    });
    file.read_many(&mut reads, hint(Activity::MultiGet));
    assert_eq!(
        rows(&union),
        [
            (ReadTier::Tail, Activity::MultiGet, 1, 5),
            (ReadTier::Tail, Activity::Open, 1, 50),
            (ReadTier::Remote, Activity::Get, 2, 120),
            (ReadTier::Remote, Activity::MultiGet, 1, 10),
            (ReadTier::Remote, Activity::Iterate, 1, 30),
        ]
    );
    union.download().wait_until_local().unwrap();
    file.read_at(0, &mut buf, hint(Activity::Get)).unwrap();
    file.start_read(0, 7, hint(Activity::Get)).wait().unwrap();
    let local = rows(&union)[0];
    assert_eq!(local, (ReadTier::Local, Activity::Get, 2, 107));
}

#[test]
fn a_reader_that_waits_for_the_store_is_told_of_and_no_other() {
    let (world, _, union, _) = four_remote();
    let told: Arc<Mutex<Vec<(ReadTier, Activity, Duration)>>> = Arc::default();
    let told_of = || std::mem::take(&mut *told.lock().unwrap());
    let listener = told.clone();
    let observer: ReadObserver = Arc::new(move |tier, activity, took| {
        listener.lock().unwrap().push((tier, activity, took));
    });
    union.observe_reads(observer);
    let file = union.open_random(&db(&name(12))).unwrap();
    let mut buf = [0; 10];
    file.read_at(950, &mut buf, hint(Activity::Get)).unwrap();
    assert!(told_of().is_empty());
    file.read_at(0, &mut buf, hint(Activity::Get)).unwrap();
    let (tier, activity, _) = told_of()[0];
    assert_eq!((tier, activity), (ReadTier::Remote, Activity::Get));
    // What was asked for ahead costs only what its reader still waits.
    world.store.close_gate();
    let ahead = file.start_read(100, 10, hint(Activity::Iterate));
    std::thread::sleep(Duration::from_millis(200));
    assert!(told_of().is_empty());
    world.store.open_gate();
    std::thread::sleep(Duration::from_millis(100));
    ahead.wait().unwrap();
    let (_, activity, took) = told_of()[0];
    assert_eq!(activity, Activity::Iterate);
    assert!(took < Duration::from_millis(150), "{took:?}");
}

#[test]
fn a_read_that_the_chunk_cache_serves_is_its_own() {
    let (world, _, union, bytes) = super::cache::one_file(100_000, 1 << 20);
    let told: Arc<Mutex<Vec<ReadTier>>> = Arc::default();
    let listener = told.clone();
    union.observe_reads(Arc::new(move |tier, _, _| {
        listener.lock().unwrap().push(tier);
    }));
    let file = union.open_random(&db(&name(12))).unwrap();
    let mut buf = [0; 100];
    // What a request brought is stored behind the reader.
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while union.stats().cache_hits == 0 {
        assert!(std::time::Instant::now() < until, "it is not kept");
        file.read_at(5000, &mut buf, hint(Activity::Get)).unwrap();
        assert_eq!(buf, bytes[5000..5100]);
    }
    let told = std::mem::take(&mut *told.lock().unwrap());
    let reads = told.len() as u64;
    let remote = reads - 1;
    assert_eq!(
        rows(&union),
        [
            (ReadTier::Chunk, Activity::Get, 1, 100),
            (ReadTier::Remote, Activity::Get, remote, 100 * remote),
        ]
    );
    assert_eq!(told.last(), Some(&ReadTier::Chunk));
    assert_eq!(world.store.take_requests().len(), 1);
}
