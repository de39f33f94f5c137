//! Many threads at one cache: readers, budgets, downloads, deletions, a store that lies now and then.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::Instant,
};

use lazurite_env::{Activity, RangeRead};

use super::{cache::*, *};

const FILES: u64 = 6;
const LEN: usize = 1_500_000;

/// Steps of a sequence that is the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        xxhash_rust::xxh3::xxh3_64_with_seed(&self.0.to_le_bytes(), 99) % n
    }
}

fn read_some(union: &UnionEnv, contents: &[Bytes], dice: &mut Dice) {
    let number = dice.below(FILES);
    let Ok(file) = union.open_random(&union.db_dir().join(name(12 + number))) else {
        return;
    };
    let bytes = &contents[number as usize];
    for _ in 0..20 {
        // Some places are hot.
        let places = if dice.below(3) == 0 {
            LEN as u64
        } else {
            100_000
        };
        let at = dice.below(places) as usize;
        let len = [100, 5000, 16_000, 300_000][dice.below(4) as usize];
        let expected = &bytes[at.min(LEN)..(at + len).min(LEN)];
        let activity = match dice.below(20) {
            0 => Activity::Compaction,
            1 => Activity::Reread,
            2 => Activity::Iterate,
            _ => Activity::Get,
        };
        match dice.below(3) {
            0 => {
                let read = file.start_read(at as u64, len, hint(activity));
                assert!(read.wait().unwrap() == expected);
            }
            1 => {
                let mut buf = vec![0; len];
                let n = file.read_at(at as u64, &mut buf, hint(activity)).unwrap();
                assert!(buf[..n] == *expected);
            }
            _ => {
                let (mut one, mut two) = (vec![0; 500], vec![0; len]);
                let range = |offset: usize, buf| RangeRead {
                    offset: offset as u64,
                    buf,
                    result: Ok(0),
                };
                let mut reads = [range(at + 1000, &mut one), range(at, &mut two)];
                file.read_many(&mut reads, hint(activity));
                let n = *reads[1].result.as_ref().unwrap();
                assert!(two[..n] == *expected);
            }
        }
    }
}

fn stress(base: Arc<dyn Env>, root: &Path, time: Duration) {
    let world = World::new();
    let mut options = cached_options(&world, base.clone(), 4 << 20);
    options.root = root.to_owned();
    options.download.chunk_bytes = 100_000;
    let union = UnionEnv::open(options.clone()).unwrap();
    let files: Vec<_> = (0..FILES).map(|i| (12 + i, 1 + i, LEN)).collect();
    let snapshot = world.snapshot(&files);
    let contents: Vec<Bytes> = snapshot.contents.values().cloned().collect();
    snapshot.restore(&union).unwrap();
    let (done, most, rounds) = (
        AtomicBool::new(false),
        AtomicU64::new(4 << 20),
        AtomicU64::new(0),
    );
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (union, contents, done, rounds) = (&union, &contents, &done, &rounds);
            scope.spawn(move || {
                let mut dice = Dice(thread << 32);
                while !done.load(SeqCst) {
                    read_some(union, contents, &mut dice);
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        // Budgets.
        scope.spawn(|| {
            let mut dice = Dice(7 << 40);
            while !done.load(SeqCst) {
                let budget = [0, 100_000, 1 << 20, 4 << 20][dice.below(4) as usize];
                most.fetch_max(budget, SeqCst);
                union.set_cache_budget(budget);
                for _ in 0..10 {
                    assert!(union.stats().cache_bytes <= most.load(SeqCst));
                    thread::sleep(Duration::from_millis(1));
                }
            }
            union.set_cache_budget(4 << 20);
        });
        // Downloads, deletions, and all remote again.
        let end = Instant::now() + time;
        let mut dice = Dice(8 << 40);
        while Instant::now() < end {
            union.download().start().unwrap();
            thread::sleep(Duration::from_millis(dice.below(30)));
            if dice.below(4) == 0 {
                let _ = union.delete(&union.db_dir().join(name(12 + dice.below(FILES))));
            }
            union.download().stop();
            snapshot.restore(&union).unwrap();
            if dice.below(3) == 0 {
                union.restore(Vec::new(), Bytes::new(), "").unwrap();
                snapshot.restore(&union).unwrap();
            }
        }
        done.store(true, SeqCst);
    });
    assert!(rounds.load(SeqCst) > 20);
    union.flush_cache();
    let stats = union.stats();
    assert_eq!(stats.cache_disk_failures, 0, "{stats:?}");
    assert!(
        stats.cache_evictions > 0 && stats.cache_hits > 0,
        "{stats:?}"
    );
    // A page that a reader finds changed under it is gone, or was written anew: neither counts as damage.
    assert_eq!(stats.cache_mismatches, 0, "{stats:?}");
    union.set_cache_budget(64 << 20);
    union.download().wait_until_local().unwrap();
    assert_eq!(union.stats().cache_bytes, 0);
    assert!(base.list(&root.join("cache")).unwrap().is_empty());
    for (i, bytes) in contents.iter().enumerate() {
        let path = union.db_dir().join(name(12 + i as u64));
        assert!(read_file(&*base, &path).unwrap() == *bytes);
    }
}

#[test]
fn in_memory() {
    let time = Duration::from_secs(2);
    stress(Arc::new(MemEnv::new()), Path::new(ROOT), time);
}

#[test]
fn on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    stress(
        Arc::new(lazurite_env::PosixEnv),
        &root,
        Duration::from_secs(2),
    );
}
