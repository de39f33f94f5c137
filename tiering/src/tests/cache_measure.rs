//! What the chunk cache costs and saves, on the disk of the temporary directory and a store without latency:
//! `cargo test --release -p lazurite-tiering -- --ignored --nocapture cache_measure`

use std::{thread, time::Instant};

use lazurite_env::{Activity, PosixEnv};

use super::{cache::*, *};

const FILES: u64 = 8;
const LEN: usize = 32 << 20;
const BLOCK: u64 = 16 << 10;
const BLOCKS: u64 = FILES * (LEN as u64 / BLOCK - 1);
const READS: u64 = 60_000;

struct Bench {
    _dir: tempfile::TempDir,
    world: World,
    options: UnionOptions,
    union: Arc<UnionEnv>,
}

impl Bench {
    fn new(block_reads: bool, budget: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new();
        let mut options = cached_options(&world, Arc::new(PosixEnv), budget);
        options.root = dir.path().join("state");
        options.cache.block_reads = block_reads;
        options.cache.min_free_bytes = 1 << 20;
        options.download.chunk_bytes = 4 << 20;
        let union = UnionEnv::open(options.clone()).unwrap();
        let files: Vec<_> = (0..FILES).map(|i| (12 + i, 1 + i, LEN)).collect();
        world.snapshot(&files).restore(&union).unwrap();
        Bench {
            _dir: dir,
            world,
            options,
            union,
        }
    }

    fn open(&self) -> Vec<Box<dyn RandomFile>> {
        let path = |i| self.union.db_dir().join(name(12 + i));
        (0..FILES)
            .map(|i| self.union.open_random(&path(i)).unwrap())
            .collect()
    }

    /// Reads blocks at odd places, as those of a table are, and says how long one took.
    fn read(&self, threads: u64, blocks: impl Fn(u64) -> u64 + Sync) -> Duration {
        let files = self.open();
        let begin = Instant::now();
        thread::scope(|scope| {
            for thread in 0..threads {
                let (files, blocks) = (&files, &blocks);
                scope.spawn(move || {
                    let mut buf = vec![0; BLOCK as usize];
                    for i in (thread..READS).step_by(threads as usize) {
                        let block = blocks(i);
                        let at = block / FILES * BLOCK + 777;
                        let file = &files[(block % FILES) as usize];
                        file.read_at(at, &mut buf, hint(Activity::Get)).unwrap();
                    }
                });
            }
        });
        let time = begin.elapsed();
        self.union.flush_cache();
        time / READS as u32
    }

    fn report(&self, what: &str, each: Duration) {
        let stats = self.union.stats();
        println!(
            "{what}: {each:?} a read; hits {} misses {}, {} requests of {} MiB, {} evictions, {} dropped, {} MiB used",
            stats.cache_hits,
            stats.cache_misses,
            stats.remote_requests,
            stats.remote_bytes >> 20,
            stats.cache_evictions,
            stats.cache_dropped,
            stats.cache_bytes >> 20,
        );
    }
}

fn uniform(i: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) % BLOCKS
}

/// Zipf(0.99) by the inverse of its cumulated weights; ranks are spread over the files.
fn zipf() -> impl Fn(u64) -> u64 + Sync {
    let mut sums = Vec::with_capacity(BLOCKS as usize);
    let mut sum = 0.0;
    for rank in 1..=BLOCKS {
        sum += (rank as f64).powf(-0.99);
        sums.push(sum);
    }
    move |i| {
        let dice =
            uniform(i.wrapping_mul(31)) as f64 + uniform(i ^ (1 << 40)) as f64 / BLOCKS as f64;
        let at = dice / BLOCKS as f64 * sum;
        let rank = sums.partition_point(|sum| *sum < at) as u64;
        rank.wrapping_mul(7919 * 613) % BLOCKS
    }
}

#[test]
#[ignore = "measures, and checks nothing"]
fn measure() {
    let zipf = zipf();
    for threads in [1, 4] {
        println!("{threads} threads");
        for (name, block_reads, budget) in [
            ("no cache", false, u64::MAX),
            ("budget 32 MiB of 256", true, 32 << 20),
            ("no limit", true, u64::MAX),
        ] {
            let bench = Bench::new(block_reads, budget);
            bench.report(&format!("uniform, {name}"), bench.read(threads, uniform));
            if budget == u64::MAX && block_reads {
                bench.report(&format!("again, {name}"), bench.read(threads, uniform));
                let begin = Instant::now();
                drop(bench.union);
                println!("closed in {:?}", begin.elapsed());
                let begin = Instant::now();
                let union = UnionEnv::open(bench.options).unwrap();
                println!("reopened in {:?}", begin.elapsed());
                drop(union);
            }
            let bench = Bench::new(block_reads, budget);
            bench.report(&format!("zipf, {name}"), bench.read(threads, &zipf));
            drop(bench.world);
        }
    }
    let bench = Bench::new(true, u64::MAX);
    let begin = Instant::now();
    bench.union.download().wait_until_local().unwrap();
    println!("download of 256 MiB: {:?}", begin.elapsed());
}
