//! A download beside reads: what these brought does not come again.

use super::{
    cache::{CHUNK, PAGE, cached_options, check, one_file, open_12, requests},
    download::wait_for,
    *,
};

const BLOCK: u64 = 20 * PAGE;

fn bytes_of(requests: &[(u64, u64)]) -> u64 {
    requests.iter().map(|(begin, end)| end - begin).sum()
}

#[test]
fn blocks_that_reads_brought_are_left_out_one_by_one() {
    let len = 16 * CHUNK;
    let (world, base, union, bytes) = one_file(len as usize, u64::MAX);
    let file = open_12(&union);
    let blocks: Vec<u64> = (0..10).map(|i| 3 * PAGE + i * 90 * PAGE).collect();
    for start in &blocks {
        check(&union, &*file, &bytes, *start..*start + BLOCK);
    }
    // Too small to be worth a request of its own.
    check(&union, &*file, &bytes, 1000 * PAGE..1010 * PAGE);
    assert_eq!(
        bytes_of(&requests(&world)),
        10 * BLOCK + 10 * PAGE,
        "what was read"
    );
    drop((file, union));

    let mut options = cached_options(&world, Arc::new(base), u64::MAX);
    options.download.chunk_bytes = 4 * CHUNK as usize;
    let union = UnionEnv::open(options).unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(read_file(&*union, &db(&name(12))).unwrap(), bytes);
    let asked = requests(&world);
    assert_eq!(bytes_of(&asked), len - 10 * BLOCK, "{asked:?}");
    // No more than one for each of them, beside those that there would have been.
    assert!(asked.len() <= 10 + 4 + 1, "{asked:?}");
}

#[test]
fn what_reads_bring_during_the_download_is_left_out_too() {
    let len = 16 * CHUNK;
    let (world, base, union, bytes) = one_file(len as usize, u64::MAX);
    drop(union);
    let mut options = cached_options(&world, Arc::new(base), u64::MAX);
    options.download.chunk_bytes = CHUNK as usize;
    options.download.parallel_chunks = 1;
    let union = UnionEnv::open(options).unwrap();
    world.store.close_gate();
    union.download().start().unwrap();
    wait_for(|| union.stats().download_requests == 1);
    // The first request waits, and one more at most is planned when it has come.
    union.download().pause();
    world.store.open_gate();
    let file = open_12(&union);
    check(&union, &*file, &bytes, 8 * CHUNK..9 * CHUNK);
    union.download().resume();
    union.download().wait_until_local().unwrap();
    let asked = requests(&world);
    assert_eq!(bytes_of(&asked), len, "{asked:?}");
}
