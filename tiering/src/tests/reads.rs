//! Reads of remote files: what they cost and what they give.

use lazurite_env::{ErrorKind, RangeRead};

use super::*;

#[test]
fn a_read_in_the_tail_makes_no_request_and_one_outside_makes_one() {
    let (world, _, union, snapshot) = four_remote();
    let bytes = &snapshot.contents[&name(12)];
    let file = union.open_random(&db(&name(12))).unwrap();
    assert_eq!(file.len().unwrap(), 1000);
    assert_eq!(read_at(&*file, 900, 100).unwrap(), bytes[900..]);
    assert_eq!(read_at(&*file, 950, 500).unwrap(), bytes[950..]);
    assert!(read_at(&*file, 1000, 5).unwrap().is_empty());
    assert!(read_at(&*file, u64::MAX, 5).unwrap().is_empty());
    assert!(world.store.take_requests().is_empty());

    assert_eq!(read_at(&*file, 10, 20).unwrap(), bytes[10..30]);
    assert_eq!(world.store.take_requests(), [(key(1), 10..30)]);
    // Over the border only what lies before it is requested.
    assert_eq!(read_at(&*file, 890, 500).unwrap(), bytes[890..]);
    assert_eq!(world.store.take_requests(), [(key(1), 890..900)]);

    let stats = union.stats();
    assert_eq!(
        (
            stats.remote_reads,
            stats.remote_requests,
            stats.remote_bytes
        ),
        (2, 2, 30)
    );
    assert_eq!((stats.remote_files, stats.local_files), (4, 0));
}

#[test]
fn reads_without_a_bundle_are_right_too() {
    let world = World::new();
    let union = world.open(&MemEnv::new());
    let mut snapshot = world.snapshot(&[(12, 1, 1000)]);
    snapshot.entries[0].tail = None;
    union.restore(snapshot.entries, Bytes::new(), "").unwrap();
    assert_eq!(
        read_file(&*union, &db(&name(12))).unwrap(),
        snapshot.contents[&name(12)]
    );
    assert_eq!(world.store.take_requests(), [(key(1), 0..1000)]);
}

#[test]
fn concurrent_reads_of_one_range_share_one_request() {
    let (world, _, union, snapshot) = four_remote();
    let bytes = &snapshot.contents[&name(12)];
    let file = union.open_random(&db(&name(12))).unwrap();
    world.store.close_gate();
    let first = file.start_read(100, 100, HINT);
    let same = file.start_read(100, 100, HINT);
    let inside = file.start_read(150, 10, HINT);
    let outside = file.start_read(150, 100, HINT);
    world.store.open_gate();
    assert_eq!(first.wait().unwrap(), bytes[100..200]);
    assert_eq!(same.wait().unwrap(), bytes[100..200]);
    assert_eq!(inside.wait().unwrap(), bytes[150..160]);
    assert_eq!(outside.wait().unwrap(), bytes[150..250]);
    let mut requests = world.store.take_requests();
    requests.sort_by_key(|(_, range)| range.start);
    assert_eq!(requests, [(key(1), 100..200), (key(1), 150..250)]);
    // Nothing is kept: the next read asks again.
    read_at(&*file, 100, 100).unwrap();
    assert_eq!(world.store.take_requests().len(), 1);
}

#[test]
fn many_threads_read_the_same_blocks() {
    let (_, _, union, snapshot) = four_remote();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (union, snapshot) = (&union, &snapshot);
            scope.spawn(move || {
                for round in 0..200 {
                    let (path, bytes) = (
                        name(12 + round % 4),
                        &snapshot.contents[&name(12 + round % 4)],
                    );
                    let file = union.open_random(&db(&path)).unwrap();
                    let offset = ((round + thread) % 9 * 100) as usize;
                    assert_eq!(
                        read_at(&*file, offset as u64, 150).unwrap(),
                        bytes[offset..bytes.len().min(offset + 150)]
                    );
                }
            });
        }
    });
}

#[test]
fn read_many_merges_neighbours_and_asks_for_the_rest_at_once() {
    let world = World::new();
    let union = world.open(&MemEnv::new());
    let snapshot = world.snapshot(&[(12, 1, 100_000)]);
    snapshot.restore(&union).unwrap();
    let bytes = &snapshot.contents[&name(12)];
    let file = union.open_random(&db(&name(12))).unwrap();
    let wanted = [
        (50_000, 10),
        (100, 50),
        (99_950, 100),
        (0, 50),
        (99_890, 20),
        (99_999, 1),
        (200_000, 9),
    ];
    let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|&(_, len)| vec![0; len]).collect();
    let mut reads: Vec<RangeRead<'_>> = wanted
        .iter()
        .zip(&mut buffers)
        .map(|(&(offset, _), buf)| RangeRead {
            offset,
            buf,
            result: Ok(0),
        })
        .collect();
    file.read_many(&mut reads, HINT);
    let lengths: Vec<_> = reads.into_iter().map(|read| read.result.unwrap()).collect();
    assert_eq!(lengths, [10, 50, 50, 50, 20, 1, 0]);
    for (((offset, _), buf), len) in wanted.iter().zip(&buffers).zip(lengths) {
        let offset = (*offset).min(100_000) as usize;
        assert_eq!(buf[..len], bytes[offset..offset + len]);
    }
    let mut requests = world.store.take_requests();
    requests.sort_by_key(|(_, range)| range.start);
    assert_eq!(
        requests,
        [
            (key(1), 0..150),
            (key(1), 50_000..50_010),
            (key(1), 99_890..99_900)
        ]
    );
}

#[test]
fn read_many_gives_each_range_its_own_error() {
    let world = World::new();
    let union = world.open(&MemEnv::new());
    let snapshot = world.snapshot(&[(12, 1, 100_000)]);
    snapshot.restore(&union).unwrap();
    let file = union.open_random(&db(&name(12))).unwrap();
    world
        .store
        .outage
        .store(1, std::sync::atomic::Ordering::SeqCst);
    let (mut one, mut two, mut tail) = ([0; 10], [0; 10], [0; 10]);
    let mut reads =
        [(0, &mut one), (50_000, &mut two), (99_950, &mut tail)].map(|(offset, buf)| RangeRead {
            offset,
            buf,
            result: Ok(0),
        });
    file.read_many(&mut reads, HINT);
    let failed = reads.iter().filter(|read| read.result.is_err()).count();
    assert_eq!(failed, 1);
    assert!(reads[2].result.is_ok());
}

#[test]
fn start_read_returns_before_the_bytes_came_and_reads_over_the_border() {
    let (world, _, union, snapshot) = four_remote();
    let bytes = &snapshot.contents[&name(13)];
    let file = union.open_random(&db(&name(13))).unwrap();
    world.store.close_gate();
    let body = file.start_read(0, 10, HINT);
    let border = file.start_read(890, 500, HINT);
    let tail = file.start_read(950, 500, HINT);
    assert_eq!(tail.wait().unwrap(), bytes[950..]);
    assert!(file.start_read(5000, 10, HINT).wait().unwrap().is_empty());
    world.store.open_gate();
    assert_eq!(body.wait().unwrap(), bytes[..10]);
    assert_eq!(border.wait().unwrap(), bytes[890..]);
}

#[test]
fn short_failed_and_panicking_requests_are_errors_and_heal() {
    let (world, _, union, snapshot) = four_remote();
    let file = union.open_random(&db(&name(12))).unwrap();
    let kind = || read_at(&*file, 0, 10).unwrap_err().kind();
    world
        .store
        .short
        .store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(kind(), ErrorKind::Corruption);
    world
        .store
        .short
        .store(0, std::sync::atomic::Ordering::SeqCst);
    world
        .store
        .outage
        .store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(kind(), ErrorKind::Unavailable);
    crate::sync::lock(&world.store.poisoned).insert(key(1));
    assert_eq!(kind(), ErrorKind::Panicked);
    crate::sync::lock(&world.store.poisoned).clear();
    assert_eq!(
        read_at(&*file, 0, 10).unwrap(),
        snapshot.contents[&name(12)][..10]
    );
}

#[test]
fn sequential_reads_and_skips() {
    let world = World::new();
    let union = world.open(&MemEnv::new());
    let snapshot = world.snapshot(&[(12, 1, 3_500_000)]);
    snapshot.restore(&union).unwrap();
    let bytes = &snapshot.contents[&name(12)];
    let mut file = union.open_sequential(&db(&name(12))).unwrap();
    let mut buf = vec![0; 1_500_000];
    assert_eq!(file.read(&mut buf[..10]).unwrap(), 10);
    assert_eq!(buf[..10], bytes[..10]);
    file.skip(90).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 1_500_000);
    assert_eq!(buf, bytes[100..1_500_100]);
    file.skip(1_900_000).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 99_900);
    assert_eq!(buf[..99_900], bytes[3_400_100..]);
    assert_eq!(file.read(&mut buf).unwrap(), 0);
    file.skip(u64::MAX).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 0);

    // A failed piece is asked for again.
    let mut file = union.open_sequential(&db(&name(12))).unwrap();
    world
        .store
        .outage
        .store(1, std::sync::atomic::Ordering::SeqCst);
    assert!(file.read(&mut buf).is_err());
    assert_eq!(file.read(&mut buf).unwrap(), 1_500_000);
    assert_eq!(buf, bytes[..1_500_000]);
}
